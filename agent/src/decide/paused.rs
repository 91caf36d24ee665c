//! Pause (I18): what is still done while Patroni's `pause` is set, and whether the fence stands.
//!
//! A cluster of no federation pauses as in Patroni (spec/patroni-compat.md 3.13): nothing is started,
//! stopped, promoted, copied or failed over; a primary keeps its key, and goes on without it; slots are
//! made and moved, and none is dropped; the
//! fence is off, and everything says NOT FENCED. In a federation a site's pause stops that site's
//! automation only: rights end as ever, and deadlines, guard and guardian stay (design.md section 3).

use super::view::{
    DataDirectory, Initialize, JobKind, LeaderKey, Policy, Process, SiteView, Status, View,
};
use super::{Action, Choice, Judge, LOOK_AGAIN, PausedAs, Reason, upstream};

/// Whether the fence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Armed whenever something may write.
    Stands,
    /// Off, by order of whoever paused the cluster.
    Suspended,
}

/// Only a pause takes the fence away, and never in a federation.
#[must_use]
pub fn fence(policy: &Policy, view: &View) -> Fence {
    match (policy.paused, &view.federation) {
        (true, None) => Fence::Suspended,
        (true, Some(_)) | (false, _) => Fence::Stands,
    }
}

impl Judge<'_> {
    /// A paused cluster of no federation.
    pub(super) fn paused(&mut self, site: &SiteView) -> Choice {
        let held = site.leader.as_ref().is_some_and(|leader| {
            leader.name == self.policy.me && leader.bound_to_my_lease && !leader.unreadable
        });
        if let Some(foreign) = self.refuse_foreign_data(site) {
            // Said, and given no right; a person has paused, so nothing is stopped.
            let actions = if held { vec![Action::ReleaseLeader] } else { Vec::new() };
            return Choice::act(foreign.reason, actions);
        }
        if let Some(choice) = self.start_by_request(site, held) {
            return choice;
        }
        let choice = self.paused_as(site);
        // Nothing is started or stopped by it, so it goes on, as in Patroni.
        if choice.actions.is_empty() { self.reload().unwrap_or(choice) } else { choice }
    }

    fn paused_as(&mut self, site: &SiteView) -> Choice {
        let writable = self.writable();
        match &site.leader {
            Some(leader) if leader.unreadable => Choice::wait(Reason::LeaderUnreadable),
            Some(leader) if leader.name == self.policy.me && !leader.bound_to_my_lease => {
                self.take_back(leader, writable)
            }
            Some(leader) if leader.name == self.policy.me => self.keep_leading(site),
            Some(_) if writable => Choice::wait(Reason::Paused(PausedAs::PrimaryBesideTheLeader)),
            Some(_) => self.paused_secondary(site),
            None => self.take_free_key(site),
        }
    }

    /// Its slots are moved on, or it would keep WAL for as long as the pause lasts; none is dropped, and
    /// nothing stops for a copy.
    fn paused_secondary(&mut self, site: &SiteView) -> Choice {
        let secondary = Choice::wait(Reason::Paused(PausedAs::Secondary));
        let Some(status) = &self.view.postgres.status else { return secondary };
        match self.keep_slots(site, status) {
            Some(choice) => Choice { reason: secondary.reason, ..choice },
            None => secondary,
        }
    }

    /// The key carries our name, from a former life of this process, or from a twin.
    fn take_back(&self, leader: &LeaderKey, writable: bool) -> Choice {
        if let Some(choice) = self.key_moves() {
            return choice;
        }
        if leader.twin {
            let beside = Reason::Paused(PausedAs::PrimaryBesideTheLeader);
            return Choice::wait(if writable { beside } else { Reason::TwinLeads });
        }
        match (writable, self.view.tenure.has_lease) {
            (true, true) => Choice::act(Reason::RetakingLeader, vec![Action::AcquireLeader]),
            (true, false) => Choice::wait(Reason::AwaitingRenewal),
            (false, _) => Choice::wait(Reason::Paused(PausedAs::Secondary)),
        }
    }

    /// A running primary takes a free key: the first one wins (spec 3.4, row 4).
    fn take_free_key(&self, site: &SiteView) -> Choice {
        let open = self.view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        let own_cluster = match (&site.initialize, &self.view.postgres.data) {
            (Initialize::Absent, DataDirectory::Cluster(_)) => true,
            (Initialize::Done(id), DataDirectory::Cluster(own)) => *id == own.system_identifier,
            (
                Initialize::Absent
                | Initialize::Done(_)
                | Initialize::Running
                | Initialize::Unreadable,
                DataDirectory::Cluster(_)
                | DataDirectory::Empty
                | DataDirectory::Incomplete
                | DataDirectory::Unreadable(_),
            ) => false,
        };
        if open && own_cluster && self.view.tenure.has_lease {
            return Choice::act(
                Reason::Paused(PausedAs::TakingFreeKey),
                vec![Action::AcquireLeader],
            );
        }
        Choice::wait(Reason::Paused(PausedAs::NoLeader))
    }

    /// The key is ours: kept by a primary, also by one that a switchover has stopped, and given up by
    /// anything else.
    fn keep_leading(&mut self, site: &SiteView) -> Choice {
        let not_primary =
            Choice::act(Reason::Paused(PausedAs::NoPrimaryAnyMore), vec![Action::ReleaseLeader]);
        match (self.view.postgres.process, &self.view.postgres.status) {
            // Nobody can have opened since, nor can anybody now; after the pause it opens again.
            (Process::Stopped, _) if self.is_switched_off(site) => {
                Choice::wait(Reason::Paused(PausedAs::Leader))
            }
            // The key of a standby cluster goes to nobody, as in Patroni (spec 3.3): none could take it.
            (_, status)
                if upstream::is_standby_site(self.view)
                    && status.as_ref().is_none_or(|status| status.in_recovery) =>
            {
                match status {
                    Some(status) => self.paused_standby_leader(site, status),
                    None => Choice::wait(Reason::Paused(PausedAs::Leader)),
                }
            }
            (Process::Stopped, _) => not_primary,
            (Process::Starting, _) | (Process::Running, None) => {
                Choice::wait(Reason::AwaitingServer)
            }
            // A promotion that was asked for before the pause is under way.
            (Process::Running, Some(status))
                if status.in_recovery && self.memory.promoting_since.is_some() =>
            {
                Choice::wait_for(Reason::Promoting, LOOK_AGAIN)
            }
            (Process::Running, Some(status)) if status.in_recovery => not_primary,
            (Process::Running, Some(status)) => self.paused_primary(site, status),
        }
    }

    /// It goes on following; what its members' slots keep moves on, and none is dropped.
    fn paused_standby_leader(&mut self, site: &SiteView, status: &Status) -> Choice {
        let leader = Choice::wait(Reason::Paused(PausedAs::Leader));
        match self.keep_slots(site, status) {
            Some(choice) => Choice { reason: leader.reason, ..choice },
            None => leader,
        }
    }

    /// What its clients and standbys rest on is kept up: identity, synchronous record and list, its
    /// timeline's name, new slots. No slot is dropped, and no checkpoint made.
    fn paused_primary(&mut self, site: &SiteView, status: &Status) -> Choice {
        self.memory.promoting_since = None;
        if let Some(choice) = self.record_identity(site, None) {
            return choice;
        }
        if let Some(choice) = self.keep_synchronous(site, status) {
            return choice;
        }
        if let Some(choice) = self.name_promotion(status) {
            return choice;
        }
        // Nobody could open: a request to switch over ends.
        self.keep_slots(site, status)
            .or_else(|| self.manual_as_leader(site, status))
            .unwrap_or_else(|| self.leads_on(site, status, Reason::Paused(PausedAs::Leader)))
    }

    /// In a federation: the site's own automation stops, nothing that ends or moves a right does.
    pub(super) fn without_automation(&self, choice: Choice) -> Choice {
        let automatic = choice.actions.iter().any(|action| match action {
            Action::AcquireLeader => {
                // Binding the key that stands in our name keeps a right; taking a free one is a
                // failover.
                self.view.site.as_ref().is_none_or(|site| site.leader.is_none())
            }
            Action::Run(job) => match job.kind() {
                JobKind::Stop
                | JobKind::Checkpoint
                | JobKind::CreateUsers
                | JobKind::PrePromote => false,
                // A person asked for the start.
                JobKind::Start => !self.starts_by_request(),
                JobKind::Initdb | JobKind::Clone | JobKind::Rewind | JobKind::CopySlots => true,
            },
            Action::ClaimInitialize
            | Action::AbandonInitialize
            | Action::AskPeers
            | Action::AskCandidates(_)
            | Action::Exit(_) => true,
            Action::RecordInitialize(_)
            | Action::ReleaseLeader
            | Action::WriteSync { .. }
            | Action::WritePromotions { .. }
            | Action::ClearSync { .. }
            | Action::WriteMark { .. }
            | Action::EnterEpoch { .. }
            | Action::KeepEpoch(_)
            | Action::AcquirePrimary { .. }
            | Action::EndTenure
            | Action::PostToken { .. }
            | Action::Take { .. }
            | Action::PromoteSite { .. }
            | Action::RollBack { .. }
            | Action::RecordIdentity { .. }
            | Action::NamePromotion
            | Action::RecordPromotion { .. }
            | Action::Follow(_)
            | Action::SetSynchronousNames(_)
            | Action::ArmWatchdog
            | Action::RenewNow
            | Action::Promote
            | Action::Answer { .. }
            | Action::CancelJob
            | Action::Slots(_)
            | Action::ClearFailover { .. }
            | Action::Reload => false,
        });
        if automatic { Choice::wait(Reason::Paused(PausedAs::Automation)) } else { choice }
    }
}
