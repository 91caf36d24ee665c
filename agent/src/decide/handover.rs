//! A switchover as its two leaders see it: A marks, stops and posts the token; B takes
//! (protocol.md section 2, rules 5, 6, 9 and 10). Needs no coordinator from the handover on.

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{Primary, Token};
use regent_proto::timeline::{Containment, HistoryPoint};

use super::view::{
    At, ControlState, DataDirectory, FederationView, Follow, Process, SiteView, Status,
};
use super::{Action, Choice, Job, Judge, LOOK_AGAIN, Reason, rejoin, synchronous};

/// How long A, stopped, waits for B's take before it starts in recovery to serve B a missing tail.
const TAKE_AT_ONCE: Duration = Duration::from_millis(300);

impl Judge<'_> {
    /// A's leader, `primary` says handover.
    pub(super) fn hand_over(
        &mut self,
        site: &SiteView,
        federation: &FederationView,
        primary: &At<Primary>,
        (to, operation): (&SiteName, &OperationId),
    ) -> Choice {
        let roll_back = Choice::act(
            Reason::RollingBack,
            vec![Action::RollBack { primary_revision: primary.revision }],
        );
        if site.unreadable_mark.is_some() {
            let held = self.view.tenure.primary.as_ref();
            let ended = !held.is_some_and(|held| held.deadline.lies_ahead(self.view.now));
            // Before the tenure has ended this costs nothing; afterwards the server stops first.
            return if ended && self.writable() {
                Choice::act(Reason::StoppingWriter, vec![Action::Run(Job::Stop)])
            } else {
                roll_back
            };
        }
        let Some(mark) = &site.mark else {
            let opened = self
                .view
                .tenure
                .primary
                .as_ref()
                .is_some_and(|held| held.epoch == primary.value.epoch);
            let unnamed = self.view.postgres.status.as_ref().is_some_and(Status::is_unnamed);
            let may_take = primary.value.electorate.contains(to);
            if !opened || !self.writable() || unnamed || !may_take {
                // B could not tell a token without the promotion's id from another history's. Or:
                // A's next leader: the one that was asked is gone (rule 10). Or: B has left the
                // electorate since, and would take nothing.
                return roll_back;
            }
            self.memory.marked = Some(primary.revision);
            // Ending the tenure comes first: no answer to an earlier request may raise D once the
            // mark stands (rule 5).
            return Choice::act(
                Reason::Marking,
                vec![
                    Action::EndTenure,
                    Action::WriteMark {
                        operation: operation.clone(),
                        primary_revision: primary.revision,
                    },
                    Action::Run(Job::Stop),
                ],
            );
        };
        let mine = mark.value.primary_revision == primary.revision
            && self.memory.marked == Some(primary.revision);
        if !mine {
            return if self.writable() {
                Choice::act(Reason::StoppingWriter, vec![Action::Run(Job::Stop)])
            } else {
                roll_back
            };
        }
        match (&self.view.postgres.data, self.view.postgres.process) {
            (_, Process::Starting | Process::Running) => {
                Choice::act(Reason::StoppingForHandover, vec![Action::Run(Job::Stop)])
            }
            (DataDirectory::Cluster(control), Process::Stopped)
                if control.state == ControlState::ShutDown =>
            {
                let Some(lease) = own_lease(federation, self) else { return roll_back };
                let end = HistoryPoint {
                    timeline: control.ancestry.timeline,
                    position: control.end,
                    promotion: control.ancestry.promotion.clone(),
                };
                Choice::act(
                    Reason::PostingToken,
                    vec![Action::PostToken {
                        primary_revision: primary.revision,
                        lease_revision: lease,
                        end,
                        system_identifier: control.system_identifier,
                    }],
                )
            }
            (
                DataDirectory::Cluster(_)
                | DataDirectory::Empty
                | DataDirectory::Incomplete
                | DataDirectory::Unreadable(_),
                Process::Stopped,
            ) => roll_back,
        }
    }

    /// A's leader after the token: in recovery, serving WAL, until B has taken or the span is over
    /// on this process's own clock.
    pub(super) fn await_take(
        &self,
        federation: &FederationView,
        primary: &At<Primary>,
        (to, span): (&SiteName, Duration),
    ) -> Choice {
        if self.writable() {
            return Choice::act(Reason::StoppingWriter, vec![Action::Run(Job::Stop)]);
        }
        if federation.primary_age >= span {
            return Choice::act(
                Reason::RollingBack,
                vec![Action::RollBack { primary_revision: primary.revision }],
            );
        }
        match self.view.postgres.process {
            // A take that follows at once finds this machine free, and this server then starts
            // under the new primary; one that does not may lack a tail that only we can serve.
            Process::Stopped if federation.primary_age < TAKE_AT_ONCE => Choice::wait_for(
                Reason::AwaitingTake,
                TAKE_AT_ONCE.saturating_sub(federation.primary_age),
            ),
            Process::Stopped => {
                let follow = rejoin::site_addresses(federation, to);
                Choice::act(
                    Reason::AwaitingTake,
                    vec![Action::Run(Job::StartStandby(follow.unwrap_or(Follow::Nobody)))],
                )
            }
            Process::Starting | Process::Running => {
                Choice::wait_for(Reason::AwaitingTake, span.saturating_sub(federation.primary_age))
            }
        }
    }

    /// B's leader, the token stands: takes when its history ends exactly there and as many of its
    /// own nodes as its synchronous mode asks for have confirmed it.
    pub(super) fn take(
        &mut self,
        site: &SiteView,
        primary: &At<Primary>,
        (to, token): (&SiteName, &Token),
        status: &Status,
    ) -> Choice {
        // Whoever takes must be able to open: guardian and watchdog first, as before the leader key.
        // Where they fail, A takes its primacy back at the end of the span.
        if let Some(choice) = self.unguarded() {
            return choice;
        }
        // The token's own timeline and promotion, to the byte; an id that is missing is no proof.
        let exactly = status.ancestry.timeline == token.end.timeline
            && status.end == token.end.position
            && status.ancestry.contains(status.end, &token.end) == Containment::Contained;
        // Who has left the electorate meanwhile takes nothing; A rolls back.
        let may_take = primary.value.electorate.contains(to);
        if !exactly || !self.contains_floor(status) || !may_take {
            return Choice::wait_for(Reason::AwaitingToken, LOOK_AGAIN);
        }
        if self.unconfirmed(site, status, token.end.position) {
            return Choice::wait_for(Reason::AwaitingConfirmation, LOOK_AGAIN);
        }
        if let Some(until) = self.view.failsafe.takes_not_before
            && self.view.now < until
        {
            return Choice::wait_for(Reason::AwaitingPromise, until.since(self.view.now));
        }
        Choice::act(Reason::Taking, vec![Action::Take { primary_revision: primary.revision }])
    }

    /// Fewer of its own nodes than its synchronous mode asks for have what it would open with.
    pub(super) fn unconfirmed(&self, site: &SiteView, status: &Status, end: Lsn) -> bool {
        if !self.policy.synchronous_mode {
            return false;
        }
        let running = site.members.iter().filter(|(name, member)| {
            synchronous::may_be_waited_for(self.policy, site, name, member)
                && member.state == "running"
        });
        let wanted = self.policy.synchronous_node_count.min(running.count());
        self.confirmed(site, status, end).len() < wanted
    }
}

/// Revision of `lease` where it is still of this process's tenure.
fn own_lease(federation: &FederationView, judge: &Judge<'_>) -> Option<u64> {
    let held = judge.view.tenure.primary.as_ref()?;
    let lease = federation.lease.as_ref()?;
    (lease.value.tenure == held.tenure).then_some(lease.revision)
}
