//! A quorum that does not answer: what the renewal thread does then for the primary deadline.
//!
//! The leader of every other site of the electorate is asked for a promise (protocol.md rule 11).
//! The electorate is that of `primary` at the very revision which renewals compare, so it can't be
//! short: whoever adds to it changes that revision.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::name::SiteName;
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use tokio::sync::mpsc;

use super::primary_lease::{Held, PrimaryLoop};
use super::renewal::{PrimaryCommand, Woken};
use super::rounds::Finished;
use crate::decide::failsafe::quorum;
use crate::decide::renewal::PromiseUse;

impl PrimaryLoop {
    /// Waits for a command or the next renewal, whichever is first; rounds end meanwhile.
    pub(super) async fn wait(
        &mut self,
        due: BootTime,
        commands: &mut mpsc::Receiver<PrimaryCommand>,
    ) -> Woken<PrimaryCommand> {
        loop {
            tokio::select! {
                biased;
                finished = self.rounds.next() => self.promised(&finished),
                command = commands.recv() => {
                    return command.map_or(Woken::Gone, Woken::Command);
                }
                () = self.deadlines.primary_hurry.notified() => return Woken::Due,
                () = self.side.clock.reach(due) => return Woken::Due,
            }
        }
    }

    fn may_use_promises(&self, held: &Held, now: BootTime) -> bool {
        let Some(failsafe) = &self.side.failsafe else { return false };
        let using = PromiseUse {
            ended: held.ended,
            refused: held.refused,
            open: failsafe.targets.borrow().open.as_ref() == Some(&held.record.tenure),
            ahead: held.deadline.lies_ahead(now),
        };
        using.allowed()
    }

    /// Asks the leader of every other site of the electorate, with all the time that is left
    /// before the fence begins.
    pub(super) fn ask_for_promises(&mut self) {
        let (Some(held), Some(failsafe)) = (&self.held, &self.side.failsafe) else { return };
        let now = self.side.clock.now();
        let bound = held.timing.fence_at(held.deadline).since(now);
        if !self.may_use_promises(held, now) || bound.is_zero() {
            return;
        }
        let request = regent_proto::promise::PromiseRequest {
            site: self.side.site.clone(),
            node: held.record.node.clone(),
            tenure: held.record.tenure.clone(),
            epoch: held.record.epoch,
            span_ms: u64::try_from(held.span_max.as_millis()).unwrap_or(u64::MAX),
        };
        let mut urls = failsafe.targets.borrow().urls.clone();
        urls.retain(|site, _| *site != self.side.site && held.electorate.contains(site));
        let ask = &failsafe.ask;
        self.rounds.begin(now, &failsafe.spawn, || ask(request, urls, bound));
    }

    /// Rule 11: D = s + min(span) − ε, when every other site of the electorate has promised.
    fn promised(&mut self, finished: &Finished<BTreeMap<SiteName, Option<Duration>>>) {
        let now = self.side.clock.now();
        let Some(held) = &self.held else { return };
        if !held.silent || !self.may_use_promises(held, now) {
            return;
        }
        let answers = &finished.answers;
        let least = quorum::complete(&held.electorate, &self.side.site, held.span_max, answers);
        let Some(span) = least else {
            return tracing::warn!(?answers, "failsafe: not every site of the electorate promised");
        };
        let Some(held) = &mut self.held else { return };
        let timing = LeaseTiming { ttl: span, ..held.timing.clone() };
        let before = held.deadline > held.renewed;
        held.deadline = held.deadline.raised(Deadline::granted(finished.sent, &timing));
        self.deadlines.set_primary(held.deadline);
        self.deadlines.primary_acknowledged(finished.sent);
        if !before {
            tracing::warn!("failsafe: the quorum does not answer, every site promised: going on");
        }
        self.tell();
    }
}
