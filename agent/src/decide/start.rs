//! A leader whose server does not come up: how long it has, and who could lead in its place
//! (spec/patroni-compat.md 3.8 and 3.9, `primary_start_timeout`).
//!
//! The leader key is given up only where another member can take it; alone, a node goes on trying.
//! Whoever gave it up stays out of the race for a TTL, so that a server that comes up and falls again
//! does not take the key with it each time.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::name::NodeName;

use super::race::ANSWERS_FRESH;
use super::view::{ControlState, DataDirectory, Initialize, PeersView, Process, SiteView};
use super::{Action, Choice, Job, Judge, Reason, Unfit};

/// What a server that was found starting, or was stopped in order and is to open again, may need for
/// its first answer, whatever the timeout.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// A server that falls sooner after it came up goes on with the time that it had.
const STEADY: Duration = Duration::from_secs(30);

impl Judge<'_> {
    /// Since when the server answers, and since when a leader waits for that.
    pub(super) fn remember_start(&mut self) {
        let now = self.view.now;
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let leads =
            leader.is_some_and(|leader| leader.name == self.policy.me && !leader.unreadable);
        let postgres = &self.view.postgres;
        match (postgres.process, &postgres.status) {
            (Process::Stopped | Process::Starting | Process::Running, Some(_)) => {
                self.memory.answers_since = self.memory.answers_since.or(Some(now));
            }
            (Process::Stopped, None) => self.memory.answers_since = None,
            // It may only be slow, or not have begun to answer yet.
            (Process::Starting | Process::Running, None) => {}
        }
        let steady = self.memory.answers_since.is_some_and(|since| now.since(since) >= STEADY);
        if steady || !leads || self.policy.paused {
            self.memory.start_since = None;
        }
    }

    /// Not later than when the start has had its time.
    pub(super) fn before_overdue(&self, wake_in: Duration) -> Duration {
        let Some(since) = self.memory.start_since else { return wake_in };
        let waited = self.view.now.since(since);
        let left = self.policy.primary_start_timeout.saturating_sub(waited);
        if left.is_zero() { wake_in } else { wake_in.min(left) }
    }

    /// The server of this leader is down, or not up yet: once it has had its time, another member that
    /// can lead is to lead.
    pub(super) fn give_way(&mut self, site: &SiteView) -> Option<Choice> {
        let postgres = &self.view.postgres;
        let DataDirectory::Cluster(control) = &postgres.data else { return None };
        let stopped = postgres.process == Process::Stopped;
        let down = stopped || self.memory.answers_since.is_none();
        if !down || site.initialize == Initialize::Running || self.policy.paused {
            return None;
        }
        let since = *self.memory.start_since.get_or_insert(self.view.now);
        let died = stopped && control.state != ControlState::ShutDown;
        let timeout = self.policy.primary_start_timeout;
        let timeout = if died { timeout } else { timeout.max(FIRST_ANSWER) };
        if self.view.now.since(since) < timeout {
            return None;
        }
        let successors = self.successors(site);
        if successors.is_empty() {
            return None;
        }
        let Some(peers) = self.view.peers.as_ref().filter(|peers| peers.age <= ANSWERS_FRESH)
        else {
            return Some(Choice::act(Reason::StartOverdue, vec![Action::AskPeers]));
        };
        if !self.can_take_over(site, &successors, peers) {
            return None;
        }
        if !stopped {
            let actions = vec![Action::EndTenure, Action::Run(Job::Stop)];
            return Some(Choice::act(Reason::StartOverdue, actions));
        }
        self.memory.stands_back_until = Some(self.view.now.plus(self.policy.ttl));
        Some(Choice::act(Reason::StartOverdue, vec![Action::ReleaseLeader]))
    }

    /// It gave the key up a moment ago: nothing is started meanwhile either, for whose WAL is known is
    /// waited for. Where nobody else is left to take the key, it may at once.
    pub(super) fn stands_back(&self, site: &SiteView) -> Option<Choice> {
        let until = self.memory.stands_back_until?;
        if self.view.now >= until || self.successors(site).is_empty() {
            return None;
        }
        let reason = Reason::NotCandidate(Unfit::CouldNotStart);
        Some(Choice::wait_for(reason, until.since(self.view.now)))
    }

    /// Members that may lead, as far as the site DCS tells.
    fn successors<'s>(&self, site: &'s SiteView) -> BTreeSet<&'s NodeName> {
        if site.sync.unreadable && self.policy.synchronous_mode {
            return BTreeSet::new();
        }
        let restricted = self.synchronous_rule_applies(site);
        site.members
            .iter()
            .filter(|(name, member)| {
                **name != self.policy.me && member.state == "running" && !member.nofailover
            })
            .map(|(name, _)| name)
            .filter(|name| !restricted || site.sync.standbys.contains(*name))
            .collect()
    }

    /// Whether one of them says that it can.
    fn can_take_over(
        &self,
        site: &SiteView,
        successors: &BTreeSet<&NodeName>,
        peers: &PeersView,
    ) -> bool {
        let bars_all = peers.answers.values().any(|answer| answer.primary);
        let able = peers.answers.iter().any(|(name, answer)| {
            let lag = site.optime.map_or(0, |optime| optime.bytes_since(answer.position));
            successors.contains(name)
                && !answer.nofailover
                && answer.position.get() > 0
                && lag <= self.policy.maximum_lag_on_failover
        });
        able && !bars_all
    }
}
