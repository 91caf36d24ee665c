//! The leader key is free: who takes it (Patroni's healthiest-node test, spec/patroni-compat.md
//! 3.4). Preference only orders nodes that are already safe (I16); the store decides between
//! equals.

use std::time::Duration;

use super::view::{
    ControlState, DataDirectory, DiskEpoch, Follow, Initialize, PeersView, Process, SiteView,
    Status,
};
use super::{Action, Choice, Job, Judge, LOOK_AGAIN, Reason, Unfit, failsafe, quorum};

/// Answers of the other members older than this are asked for again.
const ANSWERS_FRESH: Duration = Duration::from_millis(1500);
/// How soon a node that is no candidate looks again.
const RACE_AGAIN: Duration = Duration::from_millis(300);

impl Judge<'_> {
    pub(super) fn race(&mut self, site: &SiteView) -> Choice {
        if self.writable() && self.memory.by_word && self.view.tenure.site.lies_ahead(self.view.now)
        {
            // The store forgot the key in its outage. Nobody else takes it before the deadline that
            // every member agreed to; the renewal thread makes it anew, or finds another's.
            return Choice::wait_for(Reason::Failsafe, RACE_AGAIN);
        }
        if self.writable() && self.view.tenure.site.lies_ahead(self.view.now) {
            // Somebody deleted the key, and this process did not lose it: the renewal thread makes it
            // again, or finds another's and ends the right (ADR 12).
            return Choice::act(Reason::LeaderDeleted, vec![Action::RenewNow]);
        }
        if self.view.tenure.primary.as_ref().is_some_and(|held| {
            // A free leader key ends renewal (rule 2).
            held.deadline.lies_ahead(self.view.now)
        }) || self.writable()
        {
            return Choice::act(
                Reason::StoppingWriter,
                vec![Action::EndTenure, Action::Run(Job::Stop)],
            );
        }
        let control = match &self.view.postgres.data {
            DataDirectory::Empty | DataDirectory::Incomplete => return self.make_cluster(site),
            DataDirectory::Unreadable(text) => {
                return Choice::wait(Reason::UnreadableData(text.clone()));
            }
            DataDirectory::Cluster(control) => control,
        };
        if !self.view.tenure.has_lease {
            return Choice::wait(Reason::AwaitingRenewal);
        }
        match self.view.postgres.process {
            Process::Stopped => match &site.initialize {
                // The node that made, or copied, the first data of this cluster leads it. Where a
                // watchdog is required it is armed before, and only the guardian of a server that runs
                // can do that: so it starts in recovery, and races as any other.
                Initialize::Running
                    if control.state != ControlState::InProduction
                        && !self.view.guardian.watchdog.required =>
                {
                    Choice::act(Reason::RaceWon, vec![Action::AcquireLeader])
                }
                Initialize::Absent
                | Initialize::Running
                | Initialize::Done(_)
                | Initialize::Unreadable => {
                    let job = Job::StartStandby(Follow::Nobody);
                    Choice::act(Reason::Starting, vec![Action::Run(job)])
                }
            },
            Process::Starting => Choice::wait(Reason::AwaitingServer),
            Process::Running => match &self.view.postgres.status {
                None => Choice::wait(Reason::AwaitingServer),
                Some(status) => self.race_with(site, status),
            },
        }
    }

    fn race_with(&self, site: &SiteView, status: &Status) -> Choice {
        if let Some(unfit) = self.unfit_alone(site, status) {
            return Choice::wait_for(Reason::NotCandidate(unfit), RACE_AGAIN);
        }
        // The watchdog runs before the key is taken (hazards.md 3.5: it is ping 0).
        if let Some(choice) = self.unguarded() {
            return choice;
        }
        let others = site.members.keys().any(|name| *name != self.policy.me);
        let fresh = self.view.peers.as_ref().filter(|peers| {
            peers.age <= ANSWERS_FRESH && peers.age <= site.leaderless + LOOK_AGAIN
        });
        let Some(peers) = fresh else {
            return if others {
                Choice::act(Reason::AskingPeers, vec![Action::AskPeers])
            } else if let Some(unfit) = self.lacks_votes(site, status, None) {
                Choice::wait_for(Reason::NotCandidate(unfit), RACE_AGAIN)
            } else {
                Choice::act(Reason::RaceWon, vec![Action::AcquireLeader])
            };
        };
        for (name, answer) in &peers.answers {
            if answer.primary {
                let reason = Reason::NotCandidate(Unfit::PrimaryAlive(name.clone()));
                return Choice::wait_for(reason, RACE_AGAIN);
            }
            // A voter that a leader kept may still be on the timeline of one that died before it.
            let apart = self.synchronous_rule_applies(site) && answer.is_foreign(&status.ancestry);
            let ahead = !answer.nofailover
                && !apart
                && answer.timeline.is_none_or(|t| t >= status.ancestry.timeline)
                && (answer.position > status.end
                    || answer.timeline.is_some_and(|t| t > status.ancestry.timeline));
            // Only a synchronous standby may lead, so only one can be in the way.
            let eligible = !self.synchronous_rule_applies(site)
                || site.sync.standbys.contains(name)
                || site.sync.leader.as_ref() == Some(name);
            if ahead && eligible {
                let reason = Reason::NotCandidate(Unfit::Behind(name.clone()));
                return Choice::wait_for(reason, RACE_AGAIN);
            }
        }
        if let Some(unfit) = self.lacks_votes(site, status, Some(peers)) {
            // Who answered may have looked before the leader was gone, and has again since.
            let asks = (peers.age >= RACE_AGAIN).then_some(Action::AskPeers);
            let reason = Reason::NotCandidate(unfit);
            let actions = asks.into_iter().collect();
            return Choice { actions, reason, wake_in: Some(RACE_AGAIN) };
        }
        Choice::act(Reason::RaceWon, vec![Action::AcquireLeader])
    }

    /// What was acknowledged may be with members of `sync` that did not answer (I4), whatever the
    /// mode is by now: the record says how many have to.
    fn lacks_votes(
        &self,
        site: &SiteView,
        status: &Status,
        peers: Option<&PeersView>,
    ) -> Option<Unfit> {
        let mine = (&status.ancestry, status.end);
        let (votes, needed) =
            quorum::votes(&site.sync, &self.policy.me, mine, peers, site.leaderless);
        (self.synchronous_rule_applies(site) && votes < needed)
            .then_some(Unfit::TooFewVotes { votes, needed })
    }

    /// `sync` restricts who may lead while this site is, or is to be, writable. A standby site's
    /// record is of its last time as primary.
    fn synchronous_rule_applies(&self, site: &SiteView) -> bool {
        let primary_site = self.view.federation.as_ref().is_none_or(|federation| {
            federation.primary.as_ref().is_none_or(|p| p.value.holder == federation.site)
        });
        // The floor is what the record guarded until the record is written anew by an opening
        // leader; before that a node of the site that holds the floor may lead (rule 10).
        primary_site && self.policy.synchronous_mode && site.sync.leader.is_some()
    }

    fn unfit_alone(&self, site: &SiteView, status: &Status) -> Option<Unfit> {
        if self.policy.nofailover {
            return Some(Unfit::NoFailover);
        }
        if let Some(promised) = &self.view.failsafe.promised
            && self.view.now < promised.until
        {
            return Some(Unfit::Promised(promised.leader.clone()));
        }
        if failsafe::site::barred(&site.failsafe, &self.policy.me) {
            return Some(Unfit::NotInFailsafe);
        }
        if !status.in_recovery {
            return Some(Unfit::NotInRecovery);
        }
        if let Some(federation) = &self.view.federation
            && let Some(primary) = &federation.primary
            && self.has_seen_more(site, federation, &primary.value)
        {
            // Our picture of the quorum is old: who holds primacy, and so which rule applies here,
            // is not known to this node.
            return Some(Unfit::OldPicture);
        }
        if let Some(federation) = &self.view.federation
            && matches!(federation.disk_epoch, DiskEpoch::Unreadable(_))
            && federation.primary.as_ref().is_none_or(|p| p.value.holder == federation.site)
        {
            // It could lead, but never open.
            return Some(Unfit::EpochUnreadable);
        }
        if site.sync.unreadable && self.policy.synchronous_mode {
            // Unknown is not "anybody": the record may name others (I3, I9).
            return Some(Unfit::SyncUnreadable);
        }
        if self.synchronous_rule_applies(site)
            && site.sync.leader.as_ref() != Some(&self.policy.me)
            && !site.sync.standbys.contains(&self.policy.me)
        {
            return Some(Unfit::NotSynchronous);
        }
        let holder = self.view.federation.as_ref().is_some_and(|federation| {
            federation.primary.as_ref().is_some_and(|p| p.value.holder == federation.site)
        });
        if holder && !self.contains_floor(status) {
            return Some(Unfit::LacksFloor);
        }
        let lag = site.optime.map_or(0, |optime| optime.bytes_since(status.end));
        (lag > self.policy.maximum_lag_on_failover).then_some(Unfit::Lagging)
    }
}
