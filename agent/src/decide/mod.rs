//! Judgement of the agent: a pure function from a view to actions and the reason for them.
//!
//! Architecture invariant: no I/O, no clock, no randomness, no logging, no async; imports only
//! `regent_proto` and itself. A new state must break the build, not fall into a wildcard.
//! Keeps I2, I6, I12, I13, I14, I16, I25 to I27 and I29 as far as they are kept yet
//! (docs/safety.md); the rules cited are protocol.md's.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod demote;
pub mod epoch;
pub mod failsafe;
mod follow;
pub mod freeze;
pub mod guardian;
mod handover;
mod lead;
pub mod margins;
pub mod paused;
pub mod preconditions;
mod race;
mod rejoin;
pub mod renewal;
mod steady;
pub mod synchronous;
#[cfg(test)]
pub(crate) mod tests;
pub mod view;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::name::{NodeName, OperationId, SystemIdentifier};
use regent_proto::record::SeenEpoch;
use regent_proto::time::BootTime;
use regent_proto::timeline::HistoryPoint;

use epoch::EpochUnknown;
use preconditions::Precondition;
use view::{
    DataDirectory, FailedJob, Follow, Initialize, JobKind, LeaderKey, Memory, Policy, Process,
    SiteView, View,
};

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

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create `initialize`, empty: this node bootstraps the cluster.
    ClaimInitialize,
    /// Write the identity into `initialize`.
    RecordInitialize(SystemIdentifier),
    /// Take the leader key: create it, or bind the one in our name to our lease.
    AcquireLeader,
    /// Give the leader key up.
    ReleaseLeader,
    /// Write `sync`, comparing the revision that was read.
    WriteSync {
        /// Who is synchronous.
        standbys: BTreeSet<NodeName>,
        /// Revision of the record that was read.
        revision: Option<u64>,
    },
    /// Empty `sync`: a standby site has no synchronous standby.
    ClearSync {
        /// Revision of the record that was read.
        revision: u64,
    },
    /// Write the mark of a handover under the leader key.
    WriteMark {
        /// The operation.
        operation: OperationId,
        /// Revision of `primary` that asked for it.
        primary_revision: u64,
    },
    /// Persist an epoch: on disk, then in the site DCS; and remove an outlived mark with it.
    EnterEpoch {
        /// The epoch with its federation and holder.
        seen: SeenEpoch,
        /// Revision of `regent/epoch` that was read; `None` where it does not exist.
        revision: Option<u64>,
        /// Revision of the mark that falls.
        clear_mark: Option<u64>,
    },
    /// Persist on disk an epoch that the site has seen.
    KeepEpoch(SeenEpoch),
    /// Acquire the primary lease (protocol.md section 2, *acquire*).
    AcquirePrimary {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of `lease` that was read.
        lease_revision: Option<u64>,
        /// The epoch that is acquired.
        epoch: Epoch,
    },
    /// End the tenure: from its confirmation on, the deadline is 0 and nothing raises it.
    EndTenure,
    /// Post the token (*token*).
    PostToken {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The shutdown checkpoint's end.
        end: HistoryPoint,
        /// Identity of the database.
        system_identifier: SystemIdentifier,
    },
    /// Take primacy (*take*).
    Take {
        /// Revision of `primary` that was read.
        primary_revision: u64,
    },
    /// Give a handover up (*roll-back*).
    RollBack {
        /// Revision of `primary` that was read.
        primary_revision: u64,
    },
    /// Write the identity of the database into `primary`.
    RecordIdentity {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The identity.
        system_identifier: SystemIdentifier,
    },
    /// Make the running standby follow somebody else.
    Follow(Follow),
    /// Set `synchronous_standby_names`.
    SetSynchronousNames(String),
    /// Promote the running standby.
    Promote,
    /// Write who began the present timeline into WAL and beside it.
    NamePromotion,
    /// Add a promotion to the history of the present epoch in the quorum.
    RecordPromotion {
        /// Revision of the history record that was read.
        history_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The timeline, its begin, and its promotion.
        promotion: HistoryPoint,
    },
    /// Make and drop physical slots.
    Slots {
        /// Missing ones.
        create: BTreeSet<String>,
        /// Ones that no node needs any more.
        drop: BTreeSet<String>,
    },
    /// Ask the guardian to arm the watchdog; its page says what came of it.
    ArmWatchdog,
    /// Start a job.
    Run(Job),
    /// Ask the other members for their state.
    AskPeers,
    /// Stop the agent: a person must look.
    Exit(String),
}

/// A long act with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// `initdb` into the data directory.
    Initdb,
    /// `pg_basebackup`, removing what is left of an earlier copy.
    Clone(Follow),
    /// Start in recovery.
    StartStandby(Follow),
    /// Start writable; only after the whole order of opening (rule 8).
    StartPrimary {
        /// `synchronous_standby_names` from the first commit on.
        synchronous: String,
    },
    /// Stop: end sessions, fast shutdown, kill what is left after the budget.
    Stop,
    /// `pg_rewind` against this server.
    Rewind(Follow),
    /// Checkpoint (primary) or restartpoint (standby).
    Checkpoint,
    /// Create the replication and rewind users.
    CreateUsers,
}

impl Job {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Initdb => JobKind::Initdb,
            Self::Clone(_) => JobKind::Clone,
            Self::StartStandby(_) | Self::StartPrimary { .. } => JobKind::Start,
            Self::Stop => JobKind::Stop,
            Self::Rewind(_) => JobKind::Rewind,
            Self::Checkpoint => JobKind::Checkpoint,
            Self::CreateUsers => JobKind::CreateUsers,
        }
    }
}

/// Why: the log line, the metric label, what tests expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The site DCS has not answered yet.
    NoStore,
    /// A job runs.
    Busy(JobKind),
    /// A job failed and is not tried again yet.
    Backoff(JobKind),
    /// The data directory belongs to another database.
    ForeignData(String),
    /// The data directory cannot be read.
    UnreadableData(String),
    /// The leader key cannot be read.
    LeaderUnreadable,
    /// The leader key is ours but no renewal was acknowledged yet.
    AwaitingRenewal,
    /// The global quorum does not say who is primary: fenced.
    PrimacyUnknown,
    /// The quorum shows an older epoch than this node or its site has seen: fenced.
    EpochOlder,
    /// What this node or its site has seen of epochs is not known: fenced.
    EpochUnknown(EpochUnknown),
    /// Nobody has made the cluster yet and this node does.
    Bootstrap,
    /// Somebody else makes the cluster.
    AwaitingBootstrap,
    /// There is nothing to copy from yet.
    AwaitingSource,
    /// A copy is made.
    Cloning,
    /// The leader key is free and this node takes it.
    RaceWon,
    /// The leader key is free and this node asks the others.
    AskingPeers,
    /// The leader key is free and somebody else should have it.
    NotCandidate(Unfit),
    /// Our old leader key is bound to the new lease.
    RetakingLeader,
    /// This node writes without being allowed to: it is stopped.
    StoppingWriter,
    /// Leads, and writes.
    Leading,
    /// Every step of opening is done, and yet something stands against it.
    NotReady(Vec<Precondition>),
    /// Goes on by its members' word; its leader key is made anew.
    Failsafe,
    /// Acquires the primary lease.
    AcquiringPrimary,
    /// Persists the epoch before opening.
    EnteringEpoch,
    /// Sets record and list before opening.
    SynchronousBeforeOpening,
    /// Promotes.
    Promoting,
    /// Waits for the guardian to arm the watchdog.
    ArmingWatchdog,
    /// Starts the server.
    Starting,
    /// The server does not answer yet.
    AwaitingServer,
    /// Its WAL does not contain the floor.
    LacksFloor,
    /// Leads a standby site.
    LeadingStandby,
    /// Follows another node or site.
    Following,
    /// Turns to another upstream.
    Turning,
    /// Its history left the upstream's: rewinds.
    Rewinding,
    /// A rewind failed: copies anew.
    Recloning,
    /// The same timeline number of another promotion: copies anew.
    OtherPromotion,
    /// Who began its timeline cannot be told any more: does not follow.
    PromotionUnknown,
    /// Writes the id of its own promotion.
    NamingPromotion,
    /// The upstream's history is not known yet.
    AwaitingHistory,
    /// Handover: marks the site.
    Marking,
    /// Handover: stops.
    StoppingForHandover,
    /// Handover: posts the token.
    PostingToken,
    /// Handover: stopped, waits for the other site to take.
    AwaitingTake,
    /// Handover: gives up.
    RollingBack,
    /// Token seen: waits for the WAL up to it.
    AwaitingToken,
    /// Token seen: waits for its own nodes to confirm.
    AwaitingConfirmation,
    /// The site's own promise to the other site has to end first.
    AwaitingPromise,
    /// Takes primacy.
    Taking,
    /// Writes are fenced, or a promotion of another site is under way.
    Fenced,
    /// An outlived mark falls.
    ClearingMark,
    /// First steps after a bootstrap.
    FinishingBootstrap,
    /// Keeps record and list in step.
    Synchronous,
    /// Makes and drops slots.
    Slots,
    /// Checkpoint asked for by a switchover, or owed after a promotion.
    Checkpoint,
    /// The cluster is paused.
    Paused(PausedAs),
}

/// What a node of a paused cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedAs {
    /// Leads, and writes.
    Leader,
    /// Follows, or is stopped, under somebody else's key.
    Secondary,
    /// Writes although another has the key.
    PrimaryBesideTheLeader,
    /// Has the key and is no primary: gives it up.
    NoPrimaryAnyMore,
    /// Writes, and takes the free key.
    TakingFreeKey,
    /// Nobody has the key, and it is not for this node to take it.
    NoLeader,
    /// In a federation: what would be done is this site's automation.
    Automation,
}

impl fmt::Display for PausedAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "no action. The leader with the lock",
            Self::Secondary => "no action. A secondary",
            Self::PrimaryBesideTheLeader => {
                "no action. It runs as a primary, but another member has the lock"
            }
            Self::NoPrimaryAnyMore => "released the lock: PostgreSQL is not running as a primary",
            Self::TakingFreeKey => "taking the free lock: PostgreSQL is running as a primary",
            Self::NoLeader => "no action. Nobody has the lock",
            Self::Automation => "no action. This site's automation is off",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NoStore => "waiting for the site DCS",
            Self::Busy(kind) => return write!(f, "waiting for {kind:?} to end"),
            Self::Backoff(kind) => return write!(f, "waiting before {kind:?} is tried again"),
            Self::EpochOlder => {
                "the site has seen a newer epoch than the quorum shows, or another federation: \
                 stays fenced; look with `regent-agent CONFIG --show-epoch`"
            }
            Self::NotReady(unmet) => {
                let unmet: Vec<String> = unmet.iter().map(ToString::to_string).collect();
                return write!(f, "may not open: {}", unmet.join("; "));
            }
            Self::EpochUnknown(why) => return write!(f, "stays fenced: {why}"),
            Self::ForeignData(text) | Self::UnreadableData(text) => text,
            Self::LeaderUnreadable => "the leader key cannot be read: nothing is changed",
            Self::AwaitingRenewal => "holding the leader key, waiting for its first renewal",
            Self::PrimacyUnknown => "the global quorum does not say who is primary: stays fenced",
            Self::Bootstrap => "bootstrapping a new cluster",
            Self::AwaitingBootstrap => "another node bootstraps the cluster",
            Self::AwaitingSource => "waiting for a server to copy from",
            Self::Cloning => "copying a replica",
            Self::RaceWon => "the leader key is free and this node is the healthiest",
            Self::AskingPeers => "the leader key is free, asking the other members",
            Self::NotCandidate(why) => return write!(f, "not a candidate: {why}"),
            Self::RetakingLeader => "binding its own leader key to its new lease",
            Self::StoppingWriter => "this node may not write: stopping PostgreSQL",
            Self::Leading => "the leader with the lock",
            Self::Failsafe => "failsafe: goes on by its members' word, making its leader key anew",
            Self::AcquiringPrimary => "acquiring the primary lease",
            Self::EnteringEpoch => "persisting the epoch",
            Self::SynchronousBeforeOpening => "setting the synchronous list before opening",
            Self::Promoting => "promoting",
            Self::ArmingWatchdog => "waiting for the guardian to arm the watchdog",
            Self::Starting => "starting PostgreSQL",
            Self::AwaitingServer => "waiting for PostgreSQL to answer",
            Self::LacksFloor => "its WAL does not contain the floor: may not lead",
            Self::LeadingStandby => "the standby leader with the lock",
            Self::Following => "a secondary, following",
            Self::Turning => "turning to another upstream",
            Self::Rewinding => "its history left the upstream's: rewinding",
            Self::Recloning => "the rewind failed: copying anew",
            Self::OtherPromotion => {
                "its timeline has the upstream's number, but is of another promotion, which \
                 pg_rewind cannot see: copying anew"
            }
            Self::PromotionUnknown => {
                "it cannot be told whether its timeline is the upstream's: not following"
            }
            Self::NamingPromotion => "writing the promotion's id",
            Self::AwaitingHistory => "waiting for the upstream's history",
            Self::Marking => "handover: marking the site",
            Self::StoppingForHandover => "handover: stopping PostgreSQL",
            Self::PostingToken => "handover: posting the token",
            Self::AwaitingTake => "handover: stopped, waiting for the other site to take",
            Self::RollingBack => "handover: rolling back",
            Self::AwaitingToken => "token seen: waiting for the WAL up to it",
            Self::AwaitingConfirmation => "token seen: waiting for a synchronous standby",
            Self::AwaitingPromise => "waiting for this site's own promise to end",
            Self::Taking => "taking primacy",
            Self::Fenced => "fenced",
            Self::ClearingMark => "removing an outlived mark",
            Self::FinishingBootstrap => "finishing the bootstrap",
            Self::Synchronous => "adjusting the synchronous standbys",
            Self::Slots => "adjusting replication slots",
            Self::Checkpoint => "checkpointing",
            Self::Paused(how) => return write!(f, "PAUSE: {how}"),
        };
        f.write_str(text)
    }
}

/// Why a node should not lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Tag.
    NoFailover,
    /// Not in `sync`.
    NotSynchronous,
    /// The site has seen a newer epoch than the quorum shows this node.
    OldPicture,
    /// This node's own epoch cannot be read.
    EpochUnreadable,
    /// `sync` cannot be read.
    SyncUnreadable,
    /// Too far behind what the last leader published.
    Lagging,
    /// Another member is ahead.
    Behind(NodeName),
    /// Another member runs as a primary.
    PrimaryAlive(NodeName),
    /// The floor is not in its WAL.
    LacksFloor,
    /// It has no server in recovery.
    NotInRecovery,
    /// No guardian stands beside its server.
    NoGuardian,
    /// `watchdog.mode` is `required`, and the watchdog cannot be armed.
    WatchdogFailed,
    /// It has promised the leader key to a member that goes on without the DCS.
    Promised(NodeName),
    /// The `failsafe` record does not name it: its leader goes on without asking it.
    NotInFailsafe,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFailover => f.write_str("tag nofailover"),
            Self::NotSynchronous => f.write_str("not a synchronous standby of the last leader"),
            Self::OldPicture => {
                f.write_str("the site has seen a newer epoch than the quorum shows this node")
            }
            Self::EpochUnreadable => f.write_str("the epoch on its disk cannot be read"),
            Self::SyncUnreadable => f.write_str("the `sync` record cannot be read"),
            Self::Lagging => f.write_str("further behind than maximum_lag_on_failover"),
            Self::Behind(who) => write!(f, "{who} is ahead"),
            Self::PrimaryAlive(who) => write!(f, "{who} still runs as a primary"),
            Self::LacksFloor => f.write_str("its WAL does not contain the floor"),
            Self::NoGuardian => f.write_str("no guardian stands beside PostgreSQL"),
            Self::WatchdogFailed => f.write_str("the watchdog is required and cannot be armed"),
            Self::NotInRecovery => f.write_str("PostgreSQL is not running in recovery"),
            Self::Promised(who) => write!(f, "failsafe: {who} was promised the leader key"),
            Self::NotInFailsafe => f.write_str("the `failsafe` record does not name this node"),
        }
    }
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

/// The first pause after a job failed; doubles up to [`BACKOFF_MOST`].
const BACKOFF_LEAST: Duration = Duration::from_secs(1);
/// The longest pause between two tries of a failing job.
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// How long a starting agent waits for the site DCS before it serves reads without it.
const SERVES_READS_AFTER: Duration = Duration::from_secs(10);

/// Decides what this node does next.
pub fn decide(policy: &Policy, memory: &Memory, view: &View) -> Decision {
    let mut judge = Judge { policy, view, memory: memory.clone() };
    judge.remember_finished_job();
    judge.remember_epoch();
    judge.remember_word();
    let choice = judge.judge();
    let choice = judge.without_hasty_retry(choice);
    let wake_in = choice.wake_in.unwrap_or(policy.loop_wait);
    Decision {
        memory: judge.memory,
        actions: choice.actions,
        wake_at: view.now.plus(wake_in),
        reason: choice.reason,
    }
}

impl Judge<'_> {
    fn remember_finished_job(&mut self) {
        let Some(finished) = &self.view.finished else { return };
        if finished.problem.is_none() {
            self.memory.failed = None;
            match finished.job {
                JobKind::Clone => {
                    self.memory.rewind_failed = false;
                    self.memory.rewinds = 0;
                }
                JobKind::Checkpoint => {
                    self.memory.owes_checkpoint_since = None;
                    if let Some(operation) = self.memory.checkpointing_for.take() {
                        self.memory.checkpointed_for = Some(operation);
                    }
                }
                JobKind::Rewind => self.memory.rewinds = self.memory.rewinds.saturating_add(1),
                JobKind::Initdb | JobKind::Start | JobKind::Stop | JobKind::CreateUsers => {}
            }
            return;
        }
        if finished.job == JobKind::Rewind && !finished.untouched {
            self.memory.rewind_failed = true;
        }
        if finished.job == JobKind::Checkpoint {
            self.memory.checkpointing_for = None;
        }
        let times = match &self.memory.failed {
            Some(failed) if failed.job == finished.job => failed.times.saturating_add(1),
            Some(_) | None => 1,
        };
        let pause = BACKOFF_MOST.min(BACKOFF_LEAST * 2u32.saturating_pow(times.min(6) - 1));
        let retry_at = self.view.now.plus(pause);
        self.memory.failed = Some(FailedJob { job: finished.job.clone(), times, retry_at });
    }

    /// The renewal thread hears from a store that comes back before the pictures do.
    fn remember_word(&mut self) {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let open = leader.is_none_or(|leader| {
            leader.name == self.policy.me && !leader.unreadable && !leader.bound_to_my_lease
        });
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        self.memory.by_word = self.view.failsafe.stands || (self.memory.by_word && open && ahead);
    }

    /// A job that failed is not tried again at once. Stopping is never put off.
    fn without_hasty_retry(&self, choice: Choice) -> Choice {
        let Some(failed) = &self.memory.failed else { return choice };
        let hasty = choice.actions.iter().any(|action| match action {
            Action::Run(job) => job.kind() == failed.job && failed.job != JobKind::Stop,
            Action::ClaimInitialize
            | Action::RecordInitialize(_)
            | Action::AcquireLeader
            | Action::ReleaseLeader
            | Action::WriteSync { .. }
            | Action::ClearSync { .. }
            | Action::WriteMark { .. }
            | Action::EnterEpoch { .. }
            | Action::KeepEpoch(_)
            | Action::AcquirePrimary { .. }
            | Action::EndTenure
            | Action::PostToken { .. }
            | Action::Take { .. }
            | Action::RollBack { .. }
            | Action::RecordIdentity { .. }
            | Action::Follow(_)
            | Action::SetSynchronousNames(_)
            | Action::Promote
            | Action::NamePromotion
            | Action::RecordPromotion { .. }
            | Action::Slots { .. }
            | Action::ArmWatchdog
            | Action::AskPeers
            | Action::Exit(_) => false,
        });
        if hasty && self.view.now < failed.retry_at {
            let left = failed.retry_at.since(self.view.now);
            return Choice::wait_for(Reason::Backoff(failed.job.clone()), left);
        }
        choice
    }

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

    fn unpaused(&mut self, site: &SiteView) -> Choice {
        if let Some(choice) = self.refuse_foreign_data(site) {
            return choice;
        }
        match &site.leader {
            Some(leader) if leader.unreadable => self.leader_unreadable(),
            Some(leader) if leader.name == self.policy.me => self.hold_leader_key(site, leader),
            Some(leader) => self.follow_leader(site, leader),
            None => self.race(site),
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

    /// Nobody can take the key over and nobody renews it. A writer goes on until its deadline, and
    /// the rest stay as they are: unknown is no reason to change a role (I9).
    fn leader_unreadable(&self) -> Choice {
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        if self.writable() && !ahead {
            let actions = vec![Action::EndTenure, Action::Run(Job::Stop)];
            return Choice::act(Reason::StoppingWriter, actions);
        }
        Choice::wait(Reason::LeaderUnreadable)
    }

    /// The key carries our name under another lease, and this process's own deadline lies ahead: the
    /// renewal thread moves the key to a lease of another TTL, and the picture was quicker, or slower,
    /// than its word of it. Binding the key to the lease of before would end the right. Where the key
    /// is not ours after all, the thread ends the deadline.
    fn key_moves(&self) -> Option<Choice> {
        let ahead = self.view.tenure.site.lies_ahead(self.view.now);
        ahead.then(|| Choice::wait(Reason::AwaitingRenewal))
    }

    /// The leader key carries our name.
    fn hold_leader_key(&mut self, site: &SiteView, leader: &LeaderKey) -> Choice {
        if !leader.bound_to_my_lease {
            if let Some(choice) = self.key_moves() {
                return choice;
            }
            // A former life of this node: its right ended with it, the key is bound anew and
            // nothing is opened before the renewal is acknowledged.
            return match self.view.tenure.has_lease {
                true => Choice::act(Reason::RetakingLeader, vec![Action::AcquireLeader]),
                false => Choice::wait(Reason::AwaitingRenewal),
            };
        }
        if !self.view.tenure.site.lies_ahead(self.view.now) {
            return match &site.initialize {
                // Reads are served while the right to more is waited for.
                Initialize::Done(_) => self.stay_fenced(Reason::AwaitingRenewal),
                Initialize::Absent | Initialize::Running | Initialize::Unreadable => {
                    Choice::wait(Reason::AwaitingRenewal)
                }
            };
        }
        self.lead(site)
    }

    fn writable(&self) -> bool {
        match self.view.postgres.process {
            Process::Stopped => false,
            Process::Starting => !self.view.postgres.standby_signal,
            Process::Running => match &self.view.postgres.status {
                Some(status) => !status.in_recovery,
                // It answers nothing: without the signal file it can only be a primary.
                None => !self.view.postgres.standby_signal,
            },
        }
    }
}
