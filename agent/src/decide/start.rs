//! A leader whose server does not come up: how long it has, and who could lead in its place
//! (spec/patroni-compat.md 3.8 and 3.9, `primary_start_timeout`).
//!
//! The leader key is given up only where another member can take it; alone, a node goes on trying.
//! Whoever gave it up stays out of the race for a TTL, so that a server that comes up and falls again
//! does not take the key with it each time.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::timeline::{Ancestry, Following};

use super::race::ANSWERS_FRESH;
use super::standing::Last;
use super::view::{
    Control, ControlState, DataDirectory, FailedJob, Initialize, JobKind, PeerAnswer, PeersView,
    Process, SiteView, Stage,
};
use super::{Action, Choice, Job, Judge, Reason, Unfit, quorum};

/// What a server that was found starting, or was stopped in order and is to open again, may need for
/// its first answer, whatever the timeout.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How old the picture of the site may be by which a leader makes room. It is read anew every five
/// seconds: an older one means that the store does not answer, and then nobody could take the key.
const PICTURE_FRESH: Duration = Duration::from_secs(6);
/// A server that falls sooner after it came up goes on with the time that it had.
const STEADY: Duration = Duration::from_secs(30);

/// In which way a leader's server is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    /// It ended without an order to.
    Died,
    /// It was stopped in order.
    Stopped,
    /// It runs, and does not answer yet.
    ComesUp,
}

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
        // What a person had stopped did not fall: it has its time anew.
        let asked = self.memory.reopens
            && self.memory.request.as_ref().is_some_and(|r| r.stage == Stage::Stopping);
        if steady || asked || !leads || self.policy.paused {
            self.memory.start_since = None;
            self.memory.successors_asked = None;
        }
    }

    /// Not later than when the start has had its time; which of its times counts is seen then.
    pub(super) fn before_overdue(&self, wake_in: Duration) -> Duration {
        let Some(since) = self.memory.start_since else { return wake_in };
        let waited = self.view.now.since(since);
        let timeout = self.policy.primary_start_timeout;
        let longer = timeout.max(FIRST_ANSWER);
        let left = [timeout, longer, longer.max(self.policy.ttl)].map(|t| t.saturating_sub(waited));
        left.into_iter().filter(|left| !left.is_zero()).fold(wake_in, Duration::min)
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
        let how = match (stopped, control.state) {
            (false, _) => Down::ComesUp,
            // One that stopped in recovery may be to start with what its WAL asks for.
            (true, ControlState::ShutDown | ControlState::ShutDownInRecovery) => Down::Stopped,
            (true, ControlState::InRecovery | ControlState::InProduction) => Down::Died,
        };
        if self.view.now.since(since) < self.may_take(how) || site.age > PICTURE_FRESH {
            return None;
        }
        let successors = self.successors(site);
        if successors.is_empty() {
            return None;
        }
        let Some(peers) = self.answers_since(None) else {
            return self.ask_successors(stopped);
        };
        self.memory.successors_asked = None;
        if !self.can_take_over(site, &successors, peers, control) {
            return None;
        }
        if !stopped {
            let actions = vec![Action::EndTenure, Action::Run(Job::Stop)];
            return Some(Choice::act(Reason::StartOverdue, actions));
        }
        self.memory.stands_back_until = Some(self.view.now.plus(self.policy.ttl));
        Some(Choice::act(Reason::StartOverdue, vec![Action::ReleaseLeader]))
    }

    /// How long the server may take.
    fn may_take(&self, how: Down) -> Duration {
        let timeout = self.policy.primary_start_timeout;
        match how {
            Down::Died => timeout,
            Down::Stopped => timeout.max(FIRST_ANSWER),
            Down::ComesUp if self.memory.start_unanswered => timeout.max(FIRST_ANSWER),
            // This process did not start it, so it may have been open for long and only be slow to
            // answer: an agent that was started again is no reason to end it.
            Down::ComesUp => timeout.max(FIRST_ANSWER).max(self.policy.ttl),
        }
    }

    /// Asks the others, and asks again only once their answers are in, or late. Meanwhile what is on
    /// its way up goes on, and what is down is not started.
    fn ask_successors(&mut self, stopped: bool) -> Option<Choice> {
        let now = self.view.now;
        let waits = |failed: &FailedJob| failed.job == JobKind::Start && now < failed.retry_at;
        // The reason that it would wait for without the question: none comes and goes with it.
        let reason = if !stopped {
            Reason::AwaitingServer
        } else if self.memory.failed.as_ref().is_some_and(waits) {
            Reason::Backoff(JobKind::Start)
        } else {
            Reason::StartOverdue
        };
        let Some(asked) = self.memory.successors_asked else {
            self.memory.successors_asked = Some(now);
            return Some(Choice::act(reason, vec![Action::AskPeers]));
        };
        let left = ANSWERS_FRESH.saturating_sub(now.since(asked));
        if left.is_zero() {
            // No word of any answer, not even that there is none: it goes on alone, and asks again.
            self.memory.successors_asked = None;
            return None;
        }
        stopped.then(|| Choice::wait_for(reason, left))
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
        let unknown = site.sync.unreadable || site.sync.leader.is_none();
        if unknown && self.policy.synchronous_mode && self.primary_site() {
            // Nobody is known to have what this node acknowledged (I3): missing is not "anybody".
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

    /// Whether one of them says what lets it win the race.
    fn can_take_over(
        &self,
        site: &SiteView,
        successors: &BTreeSet<&NodeName>,
        peers: &PeersView,
        control: &Control,
    ) -> bool {
        let bars_all = peers.answers.values().any(|answer| answer.primary);
        let own = self.own_history(site, control);
        let able = peers.answers.iter().any(|(name, answer)| {
            successors.contains(name)
                && self.could_lead(site, name, answer)
                && self.continues(answer, own)
                && self.gets_votes(site, (name, answer), peers)
        });
        able && !bars_all
    }

    /// Whether enough of `sync` would vote for it once this node, which is not up, has given the key up.
    /// Of when they looked does not matter yet: they go on looking. Of a Patroni member nobody here
    /// knows what it counts.
    fn gets_votes(
        &self,
        site: &SiteView,
        (name, answer): (&NodeName, &PeerAnswer),
        peers: &PeersView,
    ) -> bool {
        if !self.synchronous_rule_applies(site) || site.sync.quorum == 0 {
            return true;
        }
        answer.ancestry.as_ref().is_some_and(|told| {
            let its = (told, answer.position);
            let last = Last::of(site);
            let (votes, needed) =
                quorum::votes(&site.sync, name, its, Some(peers), last, Duration::MAX);
            votes >= needed
        })
    }

    /// What this node opened with, where it wrote that down: after a promotion pg_control has the
    /// timeline of before until the next checkpoint.
    fn own_history<'s>(&self, site: &'s SiteView, control: &'s Control) -> &'s Ancestry {
        let record = site.promotions.as_ref().map(|at| &at.value);
        let opened = record.filter(|record| record.node == self.policy.me);
        let opened = opened.map(|record| &record.ancestry);
        opened.filter(|told| told.timeline > control.ancestry.timeline).unwrap_or(&control.ancestry)
    }

    /// Whether it goes on from this node's history, and has what this site's primacy demands. What a
    /// Patroni member, which tells no ancestry, has of a floor nobody knows.
    fn continues(&self, answer: &PeerAnswer, own: &Ancestry) -> bool {
        let Some(told) = &answer.ancestry else {
            let primary = self.view.federation.as_ref().and_then(|f| f.primary.as_ref());
            let floor = primary.is_some_and(|primary| primary.value.floor.is_some());
            return !(self.holds_primacy() && floor);
        };
        match told.following(answer.position, own) {
            // Where an id is missing the race goes by numbers.
            Following::Streams | Following::Unknown => true,
            Following::Rewinds | Following::Copies => false,
        }
    }
}
