//! Why a decision is what it is, also the one to do nothing: the log line, the metric label, what tests
//! expect.

use std::fmt;

use regent_proto::name::NodeName;

use super::epoch::EpochUnknown;
use super::manual::Manual;
use super::preconditions::Precondition;
use super::promotion::Held;
use super::view::JobKind;

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
    /// The leader key carries our name, but is another agent's.
    TwinLeads,
    /// Somebody deleted the leader key of this node, which writes: it is made again.
    LeaderDeleted,
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
    /// `primary` is fenced for this site, which may not take it yet.
    AwaitingPromotion(Held),
    /// Takes primacy without a token.
    PromotingSite,
    /// Writes are fenced, or a promotion of another site is under way.
    Fenced,
    /// An outlived mark falls.
    ClearingMark,
    /// First steps after a bootstrap.
    FinishingBootstrap,
    /// Keeps record and list in step.
    Synchronous,
    /// Somebody changed `synchronous_standby_names`.
    ListChanged,
    /// Makes, drops and moves slots.
    Slots,
    /// Checkpoint asked for by a switchover, or owed after a promotion.
    Checkpoint,
    /// The cluster is paused.
    Paused(PausedAs),
    /// Copies logical slots from the leader.
    CopyingSlots,
    /// The leader's server has had its time to come up: another member is to lead.
    StartOverdue,
    /// Writes down which history it is about to open.
    RecordingOpening,
    /// A person asked for a switchover inside the site.
    Manual(Manual),
    /// Puts a changed configuration in force.
    Reloading,
    /// Its WAL was written with higher settings than it has: starts again with these.
    RaisingParameters,
    /// It cannot come back by itself, and may not be copied over.
    NotCopied(Stranded),
    /// A person asked for it: what is done just now.
    Requested(&'static str),
    /// Asks `pre_promote`.
    PrePromoting,
    /// The site DCS knows no cluster, but this node, or another member, does: makes no second one.
    KeysGone,
}

/// Why a node cannot come back under its upstream but by a new copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranded {
    /// `use_pg_rewind` is off.
    RewindOff,
    /// The server did not write what `pg_rewind` needs.
    RewindImpossible,
    /// A rewind failed, or changed nothing.
    RewindFailed,
    /// The same timeline number of another promotion.
    OtherPromotion,
    /// Whether it is on its upstream's history cannot be told.
    PromotionUnknown,
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RewindOff => {
                "its history left the upstream's, and postgresql.use_pg_rewind is off"
            }
            Self::RewindImpossible => {
                "its history left the upstream's, and pg_rewind needs full_page_writes, and \
                 wal_log_hints or data checksums, which it ran without"
            }
            Self::RewindFailed => "its history left the upstream's, and its rewind failed",
            Self::OtherPromotion => {
                "its timeline has the upstream's number, but is of another promotion, which \
                 pg_rewind cannot see"
            }
            Self::PromotionUnknown => "it cannot be told whether its timeline is the upstream's",
        })
    }
}

/// What would let it be copied anew.
fn allowed_by(why: Stranded) -> &'static str {
    match why {
        Stranded::RewindFailed => "remove_data_directory_on_rewind_failure",
        Stranded::RewindOff
        | Stranded::RewindImpossible
        | Stranded::OtherPromotion
        | Stranded::PromotionUnknown => "remove_data_directory_on_diverged_timelines",
    }
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

const TWIN_LEADS: &str = "another agent of this name holds the leader key: it is left alone until its lease ends; \
     give one of the two another name";
const LIST_CHANGED: &str = "synchronous_standby_names was changed behind the agent, and commits were not waited for as \
     `sync` says: putting it back";
const KEYS_GONE: &str = "the site DCS knows no cluster any more, but this node remembers one, or another member has \
     data: no second one is made; start the member that led last, or, for a new cluster indeed, stop every \
     agent and remove its DATA_DIR.regent-cluster";

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
            Self::TwinLeads => TWIN_LEADS,
            Self::LeaderDeleted => "its leader key was deleted: making it again",
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
            Self::AwaitingConfirmation => {
                "waiting for a synchronous standby before it takes primacy"
            }
            Self::AwaitingPromise => "waiting for this site's own promise to end",
            Self::Taking => "taking primacy",
            Self::AwaitingPromotion(held) => {
                return write!(f, "being promoted, not taking primacy yet: {held}");
            }
            Self::PromotingSite => "taking primacy without a token",
            Self::Fenced => "fenced",
            Self::ClearingMark => "removing an outlived mark",
            Self::FinishingBootstrap => "finishing the bootstrap",
            Self::Synchronous => "adjusting the synchronous standbys",
            Self::ListChanged => LIST_CHANGED,
            Self::Slots => "adjusting replication slots",
            Self::Checkpoint => "checkpointing",
            Self::Paused(how) => return write!(f, "PAUSE: {how}"),
            Self::CopyingSlots => "copying logical replication slots from the leader",
            Self::RecordingOpening => "writing down the history that it is about to promote",
            Self::StartOverdue => {
                "PostgreSQL has not come up within primary_start_timeout: making room for a member \
                 that can lead"
            }
            Self::Manual(what) => return what.fmt(f),
            Self::NotCopied(why) => {
                return write!(
                    f,
                    "{why}: not copied anew, which postgresql.{} in the dynamic configuration would \
                     allow; or empty its data directory by hand",
                    allowed_by(*why)
                );
            }
            Self::Reloading => "putting a changed configuration in force",
            Self::RaisingParameters => {
                "its WAL asks for higher settings than it was started with: starting it again"
            }
            Self::Requested(step) => step,
            Self::PrePromoting => "running pre_promote before the promotion",
            Self::KeysGone => KEYS_GONE,
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
    /// Too few members of `sync` answered that are not ahead: what was acknowledged may be with
    /// those who did not.
    TooFewVotes {
        /// Votes, its own among them.
        votes: usize,
        /// Votes that it needs.
        needed: usize,
    },
    /// Another member has the newer of two histories that have parted.
    NewerHistory(NodeName),
    /// Its history and another member's have parted, and nobody can tell which of them counts.
    HistoriesPart(NodeName),
    /// Another member is as far, and preferred.
    Preferred(NodeName),
    /// `check_timeline`: the last leader was on a later timeline.
    OlderTimeline,
    /// Its server did not come up while it led: others have the first turn.
    CouldNotStart,
    /// A person asked for another member, which seems fit.
    OtherWanted(NodeName),
    /// Its `pre_promote` has refused a promotion just now.
    PrePromoteRefused,
    /// The site DCS knows no cluster any more: its primary has the first turn.
    KeysGone,
    /// The site DCS knows no cluster any more, and a member that this node remembers does not
    /// answer, or not yet what it has: its server starts, or replays.
    Unheard(NodeName),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFailover => f.write_str("tag nofailover, or failover_priority 0"),
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
            Self::TooFewVotes { votes, needed } => write!(
                f,
                "{votes} of the {needed} members of `sync` that it takes have answered and are not \
                 ahead"
            ),
            Self::NewerHistory(who) => {
                write!(f, "{who} has the newer history, which parted from this")
            }
            Self::HistoriesPart(who) => write!(
                f,
                "{who} and this node have parted, and nobody can tell whose history counts: stop \
                 the one whose rows are to go"
            ),
            Self::Preferred(who) => write!(f, "{who} is as far and has a higher failover_priority"),
            Self::CouldNotStart => {
                f.write_str("its server did not come up while it led; others have the first turn")
            }
            Self::OlderTimeline => {
                f.write_str("check_timeline: the last leader's timeline is later")
            }
            Self::OtherWanted(who) => write!(f, "{who} was asked for"),
            Self::PrePromoteRefused => f.write_str("its pre_promote has refused the promotion"),
            Self::KeysGone => f.write_str(
                "the site DCS knows no cluster any more: a primary that runs has one TTL to make its \
                 leader key again",
            ),
            Self::Unheard(who) => write!(
                f,
                "the site DCS knows no cluster any more, and {who}, a member that this node \
                 remembers, does not say what it has: start it and its PostgreSQL, or choose a member \
                 with a failover by name"
            ),
        }
    }
}
