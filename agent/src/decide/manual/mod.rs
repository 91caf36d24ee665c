//! A switchover or failover inside the site that a person asks for: Patroni's `failover` key
//! (spec/patroni-compat.md 3.6).
//!
//! The leader asks the candidates, checkpoints, stops its server in order, and gives the key up only
//! to a candidate that has confirmed the end of the shutdown checkpoint (I12; hazards.md rows 45 and
//! 46). Where none has within a bound, it opens its server again under the same key: nothing is lost,
//! and the request ends. In the race that follows the request only chooses between nodes that may
//! lead anyway (I16); each of them still tests for itself whether it may. Whoever has the key and is
//! not open yet ends the request before anything else. The leader of a standby site stops nothing.

mod candidates;
mod words;

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::BootTime;

use super::quorum::Voting;
use super::view::{
    At, Control, ControlState, DataDirectory, Due, FailedJob, FailoverRequest, JobKind, SiteView,
    Status,
};
use super::{Action, Choice, Job, Judge, Reason, synchronous};

pub(super) use candidates::may_be_chosen;
use candidates::{has_all, streaming};
pub use words::{Dropped, Manual};

/// The longest that the checkpoint before the stop may take. Nothing is interrupted by it.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(300);
/// How long the stopped leader waits for a candidate to confirm its WAL, before it opens again.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(2);
/// How soon a candidate that has not confirmed yet is asked again.
const CONFIRMS_AGAIN: Duration = Duration::from_millis(50);

/// A switchover inside the site that this process, as its leader, has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switching {
    /// Revision of the `failover` key that asks for it.
    pub revision: u64,
    /// Revision of the leader key under which it was begun.
    pub leader_revision: u64,
    /// Who streamed from this server when it was told to stop: what they have is of its history, which
    /// the number of a timeline alone does not tell (I14).
    pub streamed: BTreeSet<NodeName>,
    /// How far it is.
    pub step: SwitchingStep,
}

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchingStep {
    /// The checkpoint runs.
    Checkpointing {
        /// Since when.
        since: BootTime,
    },
    /// The server was told to stop.
    Stopping,
    /// It has stopped; the candidates are asked.
    Stopped {
        /// Since when.
        since: BootTime,
    },
    /// The leader key was given up.
    Released {
        /// Since when.
        since: BootTime,
    },
    /// The server opens again, and the request ends.
    GivenUp(Dropped),
}

/// When a request is to be acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Later(Duration),
    Now,
    Missed,
}

fn is_scheduled(request: &FailoverRequest) -> bool {
    request.scheduled.is_some()
}

impl Judge<'_> {
    /// Spec 3.6.1, while the server writes. `None`: nothing to do about a request.
    pub(super) fn manual_as_leader(&mut self, site: &SiteView, status: &Status) -> Option<Choice> {
        let Some(request) = &site.failover else {
            self.memory.switching = None;
            return None;
        };
        let begun = self.memory.switching.take_if(|begun| begun.revision == request.revision);
        self.memory.switching = None;
        if self.policy.paused {
            // A schedule waits for the end of the pause, and is missed if that takes too long.
            return (!is_scheduled(&request.value)).then(|| dropped(request, Dropped::Paused));
        }
        if self.view.failsafe.stands {
            // The store is away: nobody could take the key, and the server would stay stopped.
            self.memory.switching = begun;
            return None;
        }
        match self.when(&request.value) {
            When::Later(_) => return None,
            When::Now => {}
            When::Missed if begun.is_some() => {}
            When::Missed => return Some(dropped(request, Dropped::Missed)),
        }
        if let Some(why) = self.refused(site, request, begun.as_ref()) {
            // Where the write is not done, it is tried again, and the switchover is not.
            self.memory.switching = begun;
            return Some(dropped(request, why));
        }
        if status.is_unnamed() {
            // The next leader's nodes could not tell its history from another's: the name first.
            self.memory.switching = begun;
            return None;
        }
        if let Some(begun) = &begun
            && let SwitchingStep::Checkpointing { since } = begun.step
        {
            let runs = self.view.checkpoint_runs;
            if runs && self.view.now.since(since) > CHECKPOINT_WITHIN {
                return Some(self.give_up(begun.clone(), Dropped::CheckpointSlow, Some(request)));
            }
            if runs {
                self.memory.switching = Some(begun.clone());
                return None;
            }
            match self.failed_checkpoint().map(|failed| failed.at > since) {
                None => {}
                Some(true) => {
                    // The stop would have to make it, while nobody writes.
                    let why = Dropped::CheckpointFailed;
                    return Some(self.give_up(begun.clone(), why, Some(request)));
                }
                // It failed for somebody else, before: none has been made for this request.
                Some(false) => return self.checkpoint_first(site, request),
            }
        }
        let Some(peers) = self.answers_to(request) else {
            self.memory.switching = begun;
            return Some(self.ask(site, request));
        };
        let mut streamed = self.fit(site, &request.value, peers, status);
        streamed.retain(|name| streaming(status, name).is_some());
        if streamed.is_empty() {
            self.memory.switching = begun;
            return Some(self.nobody(site, request));
        }
        if begun.is_none() {
            return self.checkpoint_first(site, request);
        }
        let stopping = begin(site, request, SwitchingStep::Stopping);
        self.memory.switching = Some(Switching { streamed, ..stopping });
        // The tenure ends first: no answer to an earlier request may raise a deadline once the next
        // leader may have its own.
        Some(Choice::act(
            Reason::Manual(Manual::Stopping),
            vec![Action::EndTenure, Action::Run(Job::Stop)],
        ))
    }

    /// `None`: one that failed a moment ago is not tried again yet, and the leader leads on meanwhile.
    fn checkpoint_first(
        &mut self,
        site: &SiteView,
        request: &At<FailoverRequest>,
    ) -> Option<Choice> {
        let (now, runs) = (self.view.now, self.view.checkpoint_runs);
        let step = SwitchingStep::Checkpointing { since: now };
        self.memory.switching = Some(begin(site, request, step));
        if !runs && self.failed_checkpoint().is_some_and(|failed| now < failed.retry_at) {
            return None;
        }
        let actions = if runs { Vec::new() } else { vec![Action::Run(Job::Checkpoint)] };
        Some(Choice::act(Reason::Manual(Manual::Checkpoint), actions))
    }

    fn failed_checkpoint(&self) -> Option<&FailedJob> {
        self.memory.failed.as_ref().filter(|failed| failed.job == JobKind::Checkpoint)
    }

    /// The same for the leader of a standby site, which stops nothing: its nodes go on receiving.
    pub(super) fn manual_as_standby_leader(
        &mut self,
        site: &SiteView,
        status: &Status,
    ) -> Option<Choice> {
        let request = site.failover.as_ref()?;
        let begun = self.memory.switching.as_ref().filter(|b| b.revision == request.revision);
        if begun.is_some() {
            // Nobody else took the key.
            return Some(dropped(request, Dropped::NoCandidate));
        }
        if self.policy.paused {
            return (!is_scheduled(&request.value)).then(|| dropped(request, Dropped::Paused));
        }
        match self.when(&request.value) {
            When::Later(left) if left > self.policy.loop_wait => return None,
            When::Later(left) => {
                return Some(Choice::wait_for(Reason::LeadingStandby, left));
            }
            When::Now => {}
            When::Missed => return Some(dropped(request, Dropped::Missed)),
        }
        if let Some(why) = self.refused(site, request, None) {
            return Some(dropped(request, why));
        }
        let Some(peers) = self.answers_to(request) else {
            return Some(self.ask(site, request));
        };
        if self.fit(site, &request.value, peers, status).is_empty() {
            return Some(self.nobody(site, request));
        }
        let step = SwitchingStep::Released { since: self.view.now };
        self.memory.switching = Some(begin(site, request, step));
        Some(Choice::act(Reason::Manual(Manual::Releasing), vec![Action::ReleaseLeader]))
    }

    /// In a standby site nothing was stopped for a request.
    pub(super) fn forget_stopped(&mut self) {
        self.memory.switching.take_if(|switching| match switching.step {
            SwitchingStep::Released { .. } => false,
            SwitchingStep::Checkpointing { .. }
            | SwitchingStep::Stopping
            | SwitchingStep::Stopped { .. }
            | SwitchingStep::GivenUp(_) => true,
        });
    }

    /// A leader waits no longer than until a schedule is due.
    pub(super) fn until_due(&self, site: &SiteView, mut choice: Choice) -> Choice {
        if let Some(request) = &site.failover
            && !self.policy.paused
            && let When::Later(left) = self.when(&request.value)
            && left <= self.policy.loop_wait
        {
            choice.wake_in = Some(choice.wake_in.map_or(left, |wake_in| wake_in.min(left)));
        }
        choice
    }

    /// What ends a request at once.
    fn refused(
        &self,
        site: &SiteView,
        request: &At<FailoverRequest>,
        begun: Option<&Switching>,
    ) -> Option<Dropped> {
        if let Some(SwitchingStep::GivenUp(why)) = begun.map(|begun| begun.step) {
            return Some(why);
        }
        if self.view.federation.as_ref().is_some_and(|federation| federation.operation_runs) {
            return Some(Dropped::OperationRuns);
        }
        if self.view.tenure.primary.as_ref().is_some_and(|held| held.by_promise) {
            // The quorum is away: the next leader could not acquire the primary lease.
            return Some(Dropped::ByPromise);
        }
        let FailoverRequest { leader, candidate, .. } = &request.value;
        if leader.as_ref().is_some_and(|leader| *leader != self.policy.me) {
            return Some(Dropped::OtherLeader);
        }
        if candidate.as_ref() == Some(&self.policy.me) {
            return Some(Dropped::LeadsAlready);
        }
        self.candidates(site, &request.value).is_empty().then_some(Dropped::NoCandidate)
    }

    fn when(&self, request: &FailoverRequest) -> When {
        let (now, loop_wait) = (self.view.now, self.policy.loop_wait);
        match request.scheduled.as_ref().map(|schedule| schedule.due) {
            None => When::Now,
            Some(Due::BeforeBoot) => When::Missed,
            Some(Due::At(due)) if due > now => When::Later(due.since(now)),
            Some(Due::At(due)) if now.since(due) > loop_wait + loop_wait / 2 => When::Missed,
            Some(Due::At(_)) => When::Now,
        }
    }

    /// The server that this process stopped for a request. `None`: there is none, or it is to be
    /// started as ever.
    pub(super) fn switched_off(&mut self, site: &SiteView, control: &Control) -> Option<Choice> {
        let mut switching = self.memory.switching.clone()?;
        let since = match switching.step {
            SwitchingStep::GivenUp(_) | SwitchingStep::Released { .. } => return None,
            SwitchingStep::Checkpointing { .. } => {
                // It ended by itself.
                self.memory.switching = None;
                return None;
            }
            SwitchingStep::Stopping => {
                switching.step = SwitchingStep::Stopped { since: self.view.now };
                self.view.now
            }
            SwitchingStep::Stopped { since } => since,
        };
        self.memory.switching = Some(switching.clone());
        let Some(request) =
            site.failover.as_ref().filter(|request| request.revision == switching.revision)
        else {
            return Some(self.give_up(switching, Dropped::Cancelled, None));
        };
        let leader_revision = site.leader.as_ref().map(|leader| leader.revision);
        if leader_revision != Some(switching.leader_revision) {
            return Some(self.give_up(switching, Dropped::KeyMoved, Some(request)));
        }
        if control.state != ControlState::ShutDown {
            return Some(self.give_up(switching, Dropped::StoppedUncleanly, Some(request)));
        }
        if self.policy.paused {
            return Some(self.give_up(switching, Dropped::Paused, Some(request)));
        }
        let waited = self.view.now.since(since);
        let peers = self.answers_since(Some(since));
        let ready: BTreeSet<NodeName> = match peers {
            None => BTreeSet::new(),
            Some(peers) => self
                .candidates(site, &request.value)
                .into_iter()
                .filter(|name| switching.streamed.contains(*name))
                .filter(|name| {
                    peers.answers.get(*name).is_some_and(|answer| has_all(answer, control))
                })
                .cloned()
                .collect(),
        };
        if !ready.is_empty() {
            return Some(self.hand_the_key_over(site, switching, &ready));
        }
        if waited >= CONFIRMS_WITHIN {
            return Some(self.give_up(switching, Dropped::NotConfirmed, Some(request)));
        }
        let left = CONFIRMS_WITHIN - waited;
        let reason = Reason::Manual(Manual::AwaitingCandidate);
        match peers.map(|peers| peers.age).filter(|age| *age < CONFIRMS_AGAIN) {
            Some(age) => Some(Choice::wait_for(reason, (CONFIRMS_AGAIN - age).min(left))),
            // No other could be chosen, and one that is away would hold up the answers of the rest.
            None => {
                let actions = vec![Action::AskCandidates(switching.streamed)];
                Some(Choice { actions, reason, wake_in: Some(left) })
            }
        }
    }

    /// The server does not start, whatever is tried. A failover by name lets the candidate lead all the
    /// same: one whom `sync` names, or without it one that is near what was last published.
    pub(super) fn not_starting(&mut self, site: &SiteView) -> Option<Choice> {
        let failed = self.memory.failed.as_ref().is_some_and(|f| f.job == JobKind::Start);
        let request = site.failover.as_ref().filter(|_| failed && !self.policy.paused)?;
        match self.when(&request.value) {
            When::Later(_) => return None,
            When::Now => {}
            When::Missed => return Some(dropped(request, Dropped::Missed)),
        }
        if let Some(why) = self.refused(site, request, None) {
            return Some(dropped(request, why));
        }
        if request.value.leader.is_some() {
            return Some(dropped(request, Dropped::NotRunning));
        }
        let Some(peers) = self.answers_to(request) else {
            return Some(self.ask(site, request));
        };
        let (synchronous, most) =
            (self.synchronous_rule_applies(site), self.policy.maximum_lag_on_failover);
        let fit = self.candidates(site, &request.value).into_iter().any(|name| {
            peers.answers.get(name).filter(|answer| may_be_chosen(answer)).is_some_and(|answer| {
                if synchronous {
                    site.sync.standbys.contains(name)
                } else {
                    site.optime.is_none_or(|optime| optime.bytes_since(answer.position) <= most)
                }
            })
        });
        if !fit {
            return Some(self.nobody(site, request));
        }
        let step = SwitchingStep::Released { since: self.view.now };
        self.memory.switching = Some(begin(site, request, step));
        Some(Choice::act(Reason::Manual(Manual::Releasing), vec![Action::ReleaseLeader]))
    }

    /// They have everything that was ever acknowledged here: nothing writes any more.
    fn hand_the_key_over(
        &mut self,
        site: &SiteView,
        mut switching: Switching,
        ready: &BTreeSet<NodeName>,
    ) -> Choice {
        if self.synchronous_rule_applies(site) && !could_win(site, ready) {
            // The server is stopped and they have flushed all of it: that is the evidence which `sync`
            // asks for (I5). Should this server open again, it waits for them as well (I4). What a quorum's
            // voters have is known of so many together only, so there they alone are left.
            let voters = match site.sync.quorum {
                0 => site.sync.standbys.union(ready).cloned().collect(),
                _ => ready.clone(),
            };
            let (memory, voting) = (&mut self.memory, Voting { voters, quorum: 0 });
            let write = synchronous::record_at_opening(self.policy, memory, site, voting);
            return Choice::act(Reason::Manual(Manual::Recording), write.into_iter().collect());
        }
        switching.step = SwitchingStep::Released { since: self.view.now };
        self.memory.switching = Some(switching);
        Choice::act(Reason::Manual(Manual::Releasing), vec![Action::ReleaseLeader])
    }

    /// The request ends, and is not begun again; a server that was stopped for it opens again, under the
    /// key that was never given up.
    fn give_up(
        &mut self,
        mut switching: Switching,
        why: Dropped,
        request: Option<&At<FailoverRequest>>,
    ) -> Choice {
        switching.step = SwitchingStep::GivenUp(why);
        self.memory.switching = Some(switching);
        match request {
            Some(request) => dropped(request, why),
            None => Choice::wait_for(Reason::Manual(Manual::Dropped(why)), Duration::ZERO),
        }
    }

    /// This process stopped the server in order, under this very key, and has held it since: nobody
    /// else can have opened, and what is there is all there is.
    pub(super) fn opens_again(&self, site: &SiteView, control: &Control) -> bool {
        let leader_revision = site.leader.as_ref().map(|leader| leader.revision);
        control.state == ControlState::ShutDown
            && self.memory.switching.as_ref().is_some_and(|switching| {
                matches!(switching.step, SwitchingStep::GivenUp(_))
                    && leader_revision == Some(switching.leader_revision)
            })
    }

    /// The server was stopped in order for a request, under this very key, and has not opened since.
    pub(super) fn is_switched_off(&self, site: &SiteView) -> bool {
        let leader_revision = site.leader.as_ref().map(|leader| leader.revision);
        let in_order = matches!(&self.view.postgres.data,
            DataDirectory::Cluster(control) if control.state == ControlState::ShutDown);
        let for_a_request = self.memory.switching.as_ref().is_some_and(|switching| {
            leader_revision == Some(switching.leader_revision)
                && match switching.step {
                    SwitchingStep::Stopping
                    | SwitchingStep::Stopped { .. }
                    | SwitchingStep::GivenUp(_) => true,
                    SwitchingStep::Checkpointing { .. } | SwitchingStep::Released { .. } => false,
                }
        });
        in_order && for_a_request
    }

    /// The leader key has just been taken, or its holder opens anew: a request has had its effect.
    pub(super) fn end_request(&mut self, site: &SiteView) -> Option<Choice> {
        self.memory.switching = None;
        let request = site.failover.as_ref()?;
        Some(dropped(request, Dropped::Outlived))
    }
}

/// Whether `sync` lets one of them lead, with the votes of those members of it that run.
fn could_win(site: &SiteView, ready: &BTreeSet<NodeName>) -> bool {
    let runs = |name: &NodeName| {
        ready.contains(name) || site.members.get(name).is_some_and(|m| m.state == "running")
    };
    let votes = site.sync.standbys.iter().filter(|name| runs(name)).count();
    ready.iter().any(|name| site.sync.standbys.contains(name)) && votes > site.sync.quorum
}

fn begin(site: &SiteView, request: &At<FailoverRequest>, step: SwitchingStep) -> Switching {
    Switching {
        revision: request.revision,
        leader_revision: site.leader.as_ref().map_or(0, |leader| leader.revision),
        streamed: BTreeSet::new(),
        step,
    }
}

fn dropped(request: &At<FailoverRequest>, why: Dropped) -> Choice {
    Choice::act(
        Reason::Manual(Manual::Dropped(why)),
        vec![Action::ClearFailover { revision: request.revision }],
    )
}
