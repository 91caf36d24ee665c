//! A site DCS that does not answer: what the renewal thread does then for the site's deadline.
//!
//! Every member that could take the leader key is asked (`failsafe_mode`); what they say is judged
//! in `decide::failsafe::site`, and nothing here waits for it.

use std::collections::BTreeMap;

use regent_dcs::StoreError;
use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline, LeaseTiming};

use super::renewal::{SiteCommand, Woken};
use super::rounds::Finished;
use super::site_lease::SiteLoop;
use crate::decide::failsafe::site::Answer;

impl SiteLoop {
    /// Waits for a command or the next renewal, whichever is first; rounds end meanwhile.
    pub(super) async fn wait(&mut self, due: BootTime) -> Woken<SiteCommand> {
        loop {
            tokio::select! {
                biased;
                finished = self.rounds.next() => self.round_ended(&finished),
                command = self.commands.recv() => {
                    return command.map_or(Woken::Gone, Woken::Command);
                }
                () = self.deadlines.site_hurry.notified() => return Woken::Due,
                () = self.side.clock.reach(due) => return Woken::Due,
            }
        }
    }

    /// The store acknowledged that the key is ours. The loop hears of it where it had no such right, or none
    /// but by the members' word: what it may do again waits for nothing else.
    pub(super) fn renewed(&mut self, sent: BootTime, granted: Deadline) {
        let awaited = self.silent || !self.deadlines.site().lies_ahead(self.side.clock.now());
        self.silent = false;
        self.deadlines.set_site(self.deadlines.site().raised(granted));
        self.deadlines.lower_carried(self.deadlines.site());
        self.deadlines.replace_carried(self.side.clock.now());
        self.deadlines.site_acknowledged(sent);
        if let Some(failsafe) = &self.side.failsafe {
            failsafe.leader.lock().renewed(granted);
        }
        if awaited {
            self.publish.send_modify(|_| {});
        }
    }

    /// The store said that the key is not ours: no answer to an earlier question brings it back.
    pub(super) fn lose(&mut self) {
        self.rounds.void();
        if let Some(failsafe) = &self.side.failsafe {
            failsafe.leader.lock().ended();
        }
        if self.deadlines.site() != Deadline::NEVER {
            self.deadlines.set_site(Deadline::NEVER);
            self.publish.send_modify(|_| {});
        }
    }

    /// Whether the members' word alone lets this node go on.
    pub(super) fn stands(&self) -> bool {
        let failsafe = self.side.failsafe.as_ref();
        failsafe.is_some_and(|failsafe| failsafe.leader.lock().stands(self.side.clock.now()))
    }

    /// A store that does not answer is what failsafe is for; one that refuses is not.
    pub(super) fn note(&mut self, error: &StoreError) {
        match error {
            StoreError::Refused { .. } => self.silent = false,
            StoreError::NotDone { .. } | StoreError::Unknown { .. } => {
                if !self.silent {
                    self.silent = true;
                    self.begin_round();
                }
            }
        }
    }

    /// Asks every member, with all the time that is left before the fence begins.
    pub(super) fn begin_round(&mut self) {
        let Some(failsafe) = &self.side.failsafe else { return };
        let now = self.side.clock.now();
        let Some(members) = failsafe.leader.lock().question(&self.side.me, now) else { return };
        let bound = self.side.timing.fence_at(self.deadlines.site()).since(now);
        if !bound.is_zero() {
            self.rounds.begin(now, &failsafe.spawn, || (failsafe.ask)(members, bound));
        }
    }

    pub(super) fn round_ended(&mut self, finished: &Finished<BTreeMap<NodeName, Answer>>) {
        let (Some(failsafe), now) = (&self.side.failsafe, self.side.clock.now()) else { return };
        let before = self.deadlines.site();
        if !self.silent || !before.lies_ahead(now) {
            return;
        }
        let ttl = self.lease.map_or(self.side.timing.ttl, |(_, ttl)| ttl);
        // The key may hang on the other lease already.
        let ttl = self.pending.map_or(ttl, |(_, _, asked)| ttl.min(asked));
        let timing = LeaseTiming { ttl, ..self.side.timing.clone() };
        let mut leader = failsafe.leader.lock();
        let stood = leader.stands(now);
        let times = (finished.sent, now);
        let Some(granted) = leader.judge(&self.side.me, times, &timing, &finished.answers) else {
            let no = finished.answers.iter().filter(|(_, a)| !matches!(a, Answer::Accepted { .. }));
            let no: Vec<String> = no.map(|(name, answer)| format!("{name}: {answer:?}")).collect();
            return tracing::warn!(answers = no.join("; "), "failsafe: not every member agrees");
        };
        drop(leader);
        self.deadlines.set_site(before.raised(granted));
        self.deadlines.site_acknowledged(finished.sent);
        if !stood {
            tracing::warn!("failsafe: the site DCS does not answer, every member agrees: going on");
            self.publish.send_modify(|_| {});
        }
    }
}
