//! The leader key is free: who takes it (Patroni's healthiest-node test, spec/patroni-compat.md
//! 3.4). First comes what is not safe, then who is ahead, then who is preferred: preference only
//! orders nodes that are already safe (I16). The store decides between equals.

use std::time::Duration;

use regent_proto::name::NodeName;

use super::candidate::{Candidate, lacks_epoch};
use super::remembered::{self, when_keys_are_gone};
use super::standing::{self, Last, Newer, Standing, Wal};
use super::view::{
    ControlState, DataDirectory, Follow, Initialize, PeerAnswer, PeersView, PrePromote, Process,
    SiteView, Status,
};
use super::{Action, Choice, Job, Judge, LOOK_AGAIN, Reason, Unfit, quorum, upstream};

/// Answers of the other members older than this are asked for again.
pub(super) const ANSWERS_FRESH: Duration = Duration::from_millis(1500);
/// How soon a node that is no candidate looks again.
const RACE_AGAIN: Duration = Duration::from_millis(300);
/// How long a free key is left to an equal that is preferred: it takes it within a second, or never.
const PREFERENCE_HOLDS: Duration = Duration::from_secs(5);

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
        if let Some(choice) = self.stands_back(site) {
            return choice;
        }
        if !self.view.tenure.has_lease {
            return Choice::wait(Reason::AwaitingRenewal);
        }
        if let Some(choice) = self.makes_room(site) {
            return choice;
        }
        if self.made_a_second_one(site) {
            return Choice::wait(Reason::KeysGone);
        }
        match self.view.postgres.process {
            Process::Stopped => match &site.initialize {
                // The node that made, or copied, the first data of this cluster leads it. Where a
                // watchdog is required it is armed before, and only the guardian of a server that runs
                // can do that: so it starts in recovery, and races as any other.
                Initialize::Running
                    if control.state != ControlState::InProduction
                        && when_keys_are_gone(site, &self.memory).is_none()
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
        if site.leaderless < self.policy.ttl
            && let Some(unfit) = self.lacks_word(site, None)
        {
            return Choice::wait_for(Reason::NotCandidate(unfit), RACE_AGAIN);
        }
        let others = !remembered::asked(&self.policy.me, site, &self.memory).is_empty();
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
        let Some(unfit) = self.in_the_way(site, status, peers) else {
            return Choice::act(Reason::RaceWon, vec![Action::AcquireLeader]);
        };
        // Who answered may have looked before the leader was gone, and has again since.
        let asks = matches!(unfit, Unfit::TooFewVotes { .. }) && peers.age >= RACE_AGAIN;
        let actions = asks.then_some(Action::AskPeers).into_iter().collect();
        Choice { actions, reason: Reason::NotCandidate(unfit), wake_in: Some(RACE_AGAIN) }
    }

    /// Who should have the key instead of this node, or bars it from everybody.
    fn in_the_way(&self, site: &SiteView, status: &Status, peers: &PeersView) -> Option<Unfit> {
        if let Some((name, _)) = peers.answers.iter().find(|(_, answer)| answer.primary) {
            return Some(Unfit::PrimaryAlive(name.clone()));
        }
        if let Some(unfit) = self.lacks_word(site, Some(peers)) {
            return Some(unfit);
        }
        let synchronous = self.synchronous_rule_applies(site);
        // A voter that a leader kept may still be on the timeline of one that died before it. Where
        // nobody can tell whose counts the votes do: the two give each other none.
        let by_votes = synchronous && (self.policy.synchronous_quorum || site.sync.quorum > 0);
        let mine = self.own_wal(status);
        let rivals: Vec<(&NodeName, i64, Standing)> = peers
            .answers
            .iter()
            .filter(|(name, answer)| self.could_lead(site, name, answer))
            .map(|(name, answer)| {
                let theirs = Candidate::of(name, answer).wal;
                let standing = standing::compare(mine, theirs, Last::of(site));
                (name, answer, standing)
            })
            .filter(|(_, answer, standing)| {
                let undecidable = *standing == Standing::Diverged(Newer::Undecidable);
                !(by_votes && undecidable && answer.is_foreign(&status.ancestry))
            })
            .map(|(name, answer, standing)| (name, answer.failover_priority, standing))
            .collect();
        // What the leader of before has more than its synchronous standbys, or than any of them that
        // has the votes, it never acknowledged: neither a tail on this history nor one that has parted
        // from it.
        let passed_over = |name: &NodeName| synchronous && site.sync.leader.as_ref() == Some(name);
        let waited_for: Vec<_> = rivals.iter().filter(|(name, ..)| !passed_over(name)).collect();
        let parted = waited_for.iter().find_map(|(name, _, standing)| match standing {
            Standing::Diverged(Newer::Theirs) => Some(Unfit::NewerHistory((*name).clone())),
            Standing::Diverged(Newer::Undecidable) => Some(Unfit::HistoriesPart((*name).clone())),
            Standing::Diverged(Newer::Mine)
            | Standing::Behind
            | Standing::Equal
            | Standing::Ahead => None,
        });
        let ahead = || {
            let (name, ..) =
                waited_for.iter().find(|(_, _, standing)| *standing == Standing::Ahead)?;
            Some(Unfit::Behind((*name).clone()))
        };
        let former = if synchronous { &site.sync.leader } else { &self.memory.last_leader };
        let preferred = || {
            let (name, ..) = rivals.iter().find(|(name, priority, standing)| {
                *standing == Standing::Equal
                    && *priority > self.policy.failover_priority
                    // Whom a person asked for goes before whom the tags prefer.
                    && !self.is_wanted(site)
                    && former.as_ref() != Some(*name)
                    && site.leaderless < PREFERENCE_HOLDS
            })?;
            Some(Unfit::Preferred((*name).clone()))
        };
        let lacks = || self.lacks_votes(site, status, Some(peers));
        // A person has chosen this node whatever others have, be it on another history; what was
        // acknowledged is with whoever has the votes, whomever a person wants.
        let has_other_wal = parted.or_else(ahead).filter(|_| !self.is_wanted_though_behind(site));
        let unsafe_to_take = has_other_wal.or_else(lacks);
        unsafe_to_take.or_else(|| self.other_is_wanted(site, peers)).or_else(preferred)
    }

    /// Whether a member that answered may take the key at all: only one that may is in the way.
    pub(super) fn could_lead(&self, site: &SiteView, name: &NodeName, answer: &PeerAnswer) -> bool {
        let candidate = Candidate::of(name, answer);
        answer.position.get() > 0 && self.disqualified(site, candidate).is_none()
    }

    fn own_wal<'s>(&'s self, status: &'s Status) -> Wal<'s> {
        Wal {
            name: &self.policy.me,
            end: status.end,
            timeline: Some(status.ancestry.timeline),
            ancestry: Some(&status.ancestry),
        }
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
        let (me, last) = (&self.policy.me, Last::of(site));
        let (votes, needed) = quorum::votes(&site.sync, me, mine, peers, last, site.leaderless);
        (self.synchronous_rule_applies(site) && votes < needed)
            .then_some(Unfit::TooFewVotes { votes, needed })
    }

    /// `sync` restricts who may lead while this site is, or is to be, writable. A standby site's
    /// record is of its last time as primary.
    pub(super) fn synchronous_rule_applies(&self, site: &SiteView) -> bool {
        // The floor is what the record guarded until the record is written anew by an opening
        // leader; before that a node of the site that holds the floor may lead (rule 10).
        // Only the site's own word that the mode is off frees from a record: what this node goes by
        // while `config` is lost may be older than the record (I4).
        let bound = self.policy.synchronous_mode || !self.policy.mode_is_the_sites;
        self.primary_site() && bound && site.sync.leader.is_some()
    }

    /// This site is, or is to be, writable, as far as is known.
    pub(super) fn primary_site(&self) -> bool {
        !upstream::is_standby_site(self.view)
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
        if matches!(self.memory.pre_promote, PrePromote::Refused(_)) {
            return Some(Unfit::PrePromoteRefused);
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
        if lacks_epoch(self.view) {
            return Some(Unfit::EpochUnreadable);
        }
        let own = Candidate { wal: self.own_wal(status), nofailover: self.policy.nofailover };
        // A person chose it, and knows what it has. The lag is what is looked at last.
        let waived = |unfit: &Unfit| *unfit == Unfit::Lagging && self.is_wanted(site);
        self.disqualified(site, own).filter(|unfit| !waived(unfit))
    }
}
