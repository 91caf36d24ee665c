//! Judgement of the agent: a pure function from a view to actions and the reason for them.
//!
//! Architecture invariant: no I/O, no clock, no randomness, no logging, no async; imports only
//! `regent_proto` and itself. A new state must break the build, not fall into a wildcard.
//! Keeps I2, I6, I12, I13, I14, I16, I25 to I27 and I29 as far as they are kept yet
//! (docs/safety.md); the rules cited are protocol.md's.
//!
//! Here is the order of judgement: what people asked for (`requests`), a job that runs, a site DCS that
//! never answered, a pause, a foreign database; then `leader_key`, and by it `lead`, `follow` or `race`.

#![deny(clippy::wildcard_enum_match_arm)]

mod action;
pub mod attention;
pub mod callbacks;
mod candidate;
mod configuration;
pub mod demote;
pub mod epoch;
pub mod failsafe;
mod follow;
pub mod freeze;
pub mod guardian;
pub mod guarding;
mod handover;
mod lead;
mod leader_key;
pub mod manual;
pub mod margins;
pub mod parameters;
pub mod paused;
pub mod preconditions;
mod promotion;
pub mod quorum;
mod race;
mod reason;
mod rejoin;
pub mod remembered;
mod remote;
pub mod renewal;
mod requests;
mod retry;
pub mod salvage;
pub mod slots;
pub mod standing;
mod start;
mod steady;
pub mod synchronous;
#[cfg(test)]
pub(crate) mod tests;
pub mod upstream;
pub mod view;
mod wanted;

use std::time::Duration;

use regent_proto::time::BootTime;

pub use action::{Action, Job};
pub use candidate::refuses;
pub use manual::{Dropped, Manual};
pub use promotion::Held;
pub use reason::{PausedAs, Reason, Stranded, Unfit};

use preconditions::Precondition;
use view::{DataDirectory, Initialize, Memory, Policy, Process, SiteView, View};

/// What to do, in this order, and why. Performing stops at the first action that was not done.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Decision {
    /// What to remember.
    pub memory: Memory,
    /// What to do.
    pub actions: Vec<Action>,
    /// Look again at this instant, if nothing happens before.
    pub wake_at: BootTime,
    /// Why.
    pub reason: Reason,
}

/// A choice before it is dressed up as a [`Decision`].
struct Choice {
    actions: Vec<Action>,
    reason: Reason,
    wake_in: Option<Duration>,
}

impl Choice {
    fn act(reason: Reason, actions: Vec<Action>) -> Self {
        Self { actions, reason, wake_in: None }
    }

    fn wait(reason: Reason) -> Self {
        Self { actions: Vec::new(), reason, wake_in: None }
    }

    fn wait_for(reason: Reason, span: Duration) -> Self {
        Self { actions: Vec::new(), reason, wake_in: Some(span) }
    }

    /// The gate is closed. A watchdog whose timeout is near its most leaves enough of the deadline only in
    /// the moments after a renewal, of which nobody tells this loop; nor does anybody of a promise's end.
    fn not_ready(unmet: Vec<Precondition>, actions: Vec<Action>) -> Self {
        let wake_in = unmet.iter().any(|gate| gate.comes_unannounced()).then_some(GATE_AGAIN);
        Self { actions, reason: Reason::NotReady(unmet), wake_in }
    }
}

/// One decision in the making: the arguments, and the memory that becomes the next one.
struct Judge<'a> {
    policy: &'a Policy,
    view: &'a View,
    memory: Memory,
}

/// How soon a condition inside PostgreSQL, which tells nobody when it comes true, is looked at
/// again. Costs one query on an open connection.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// How soon a gate that opens without a word is looked at again.
const GATE_AGAIN: Duration = Duration::from_millis(100);

/// How long a starting agent waits for the site DCS before it serves reads without it.
const SERVES_READS_AFTER: Duration = Duration::from_secs(10);

/// Decides what this node does next.
pub fn decide(policy: &Policy, memory: &Memory, view: &View) -> Decision {
    let mut judge = Judge { policy, view, memory: memory.clone() };
    judge.remember_finished_job();
    judge.remember_epoch();
    judge.remember_word();
    judge.remember_leader();
    judge.remember_cluster();
    judge.remember_end_of_start();
    judge.remember_start();
    judge.remember_reopening();
    judge.remember_pre_promote();
    judge.remember_claim();
    let (answers, step) = judge.requested();
    let choice = match step {
        Some(choice) => choice,
        // An answer is no step: whoever asks without end must not keep the rest from being judged.
        None => {
            let choice = judge.judge();
            judge.without_hasty_retry(choice)
        }
    };
    judge.forget_reopening(&choice.actions);
    // Never later: a loop that does not come round counts as one that hangs (ADR 28).
    let wake_in = choice.wake_in.map_or(policy.loop_wait, |span| span.min(policy.loop_wait));
    let wake_in = judge.before_overdue(wake_in).min(judge.request_due_in());
    let wake_in = wake_in.min(judge.slots_due_in());
    Decision {
        memory: judge.memory,
        // First, for they are done even where what follows is not.
        actions: answers.into_iter().chain(choice.actions).collect(),
        wake_at: view.now.plus(wake_in),
        reason: choice.reason,
    }
}

impl Judge<'_> {
    /// The renewal thread hears from a store that comes back before the pictures do.
    fn remember_word(&mut self) {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let open = leader.is_none_or(|leader| {
            leader.name == self.policy.me && !leader.unreadable && !leader.bound_to_my_lease
        });
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        self.memory.by_word = self.view.failsafe.stands || (self.memory.by_word && open && ahead);
    }

    /// Whoever led last is waited for by nobody when the key is free.
    fn remember_leader(&mut self) {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        if let Some(leader) = leader.filter(|leader| !leader.unreadable) {
            self.memory.last_leader = Some(leader.name.clone());
        }
    }

    /// A claim of `initialize` is over once the key is gone, or says who was made.
    fn remember_claim(&mut self) {
        let ours = self.view.site.as_ref().is_some_and(|site| match site.initialize {
            Initialize::Running | Initialize::Unreadable => true,
            Initialize::Absent | Initialize::Done(_) => false,
        });
        self.memory.claimed_initialize &= ours;
    }

    /// The order of judgement.
    fn judge(&mut self) -> Choice {
        if let Some(job) = &self.view.job {
            return Choice::wait(Reason::Busy(job.clone()));
        }
        let Some(site) = &self.view.site else { return self.without_store() };
        self.memory.without_store_since = None;
        match (self.policy.paused, paused::fence(self.policy, self.view)) {
            (true, paused::Fence::Suspended) => self.paused(site),
            (true, paused::Fence::Stands) => {
                let choice = self.unpaused(site);
                self.without_automation(choice)
            }
            (false, _) => self.unpaused(site),
        }
    }

    /// The site DCS has not answered since this process began. Nothing can be told about rights, so
    /// nothing opens and nothing is turned; but reads are served from a server in recovery.
    fn without_store(&mut self) -> Choice {
        let since = *self.memory.without_store_since.get_or_insert(self.view.now);
        let waited = self.view.now.since(since);
        if waited < SERVES_READS_AFTER {
            return Choice::wait_for(Reason::NoStore, SERVES_READS_AFTER.saturating_sub(waited));
        }
        self.stay_fenced(Reason::NoStore)
    }

    /// A server of another database must not serve under this cluster's name (I13).
    fn refuse_foreign_data(&self, site: &SiteView) -> Option<Choice> {
        let control = match &self.view.postgres.data {
            DataDirectory::Cluster(control) => control,
            DataDirectory::Unreadable(text) => {
                return Some(Choice::wait(Reason::UnreadableData(text.clone())));
            }
            DataDirectory::Empty | DataDirectory::Incomplete => return None,
        };
        let wanted = match &site.initialize {
            Initialize::Done(wanted) => Some(("the site DCS", *wanted)),
            Initialize::Absent | Initialize::Running | Initialize::Unreadable => None,
        };
        let global = self.view.federation.as_ref().and_then(|f| f.primary.as_ref());
        let global = global.and_then(|p| p.value.system_identifier).map(|w| ("the federation", w));
        let (place, wanted) = [wanted, global]
            .into_iter()
            .flatten()
            .find(|(_, wanted)| *wanted != control.system_identifier)?;
        let text = format!(
            "the data directory has system identifier {}, but {place} has {wanted}: this is \
             another database; point postgresql.data_dir at the right one, or empty it to copy \
             the replica anew",
            control.system_identifier
        );
        // The server stops before the agent, or nobody would fence it.
        let actions = match self.view.postgres.process {
            Process::Stopped => vec![Action::Exit(text.clone())],
            Process::Starting | Process::Running => {
                vec![Action::EndTenure, Action::Run(Job::Stop)]
            }
        };
        Some(Choice::act(Reason::ForeignData(text), actions))
    }

    /// Whether the server writes, or might.
    fn writable(&self) -> bool {
        match self.view.postgres.process {
            Process::Stopped => false,
            Process::Starting => !self.view.postgres.standby_signal,
            Process::Running => self.view.postgres.may_write(),
        }
    }
}
