//! What a decision sees: values with their age, gathered by `observe`, never judged there.
//!
//! Missing is a value. Ages are spans on the boot clock up to `View::now`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::failsafe::site::PromisedLeader;

use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, OperationId, SiteName, SystemIdentifier, Tenure};
use regent_proto::record::{
    Assignment, EpochHistory, Lease, Mark, Primary, Promise, Report, SeenEpoch,
};
use regent_proto::time::{BootTime, Deadline};
use regent_proto::timeline::{Ancestry, TimelineId};

pub use super::guardian::{GuardianRights, GuardianView, WatchdogState, WatchdogView};

/// Everything a decision may look at.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The boot clock.
    pub now: BootTime,
    /// The site DCS; `None` until it was read once.
    pub site: Option<SiteView>,
    /// The global quorum; `None` where the cluster belongs to no federation.
    pub federation: Option<FederationView>,
    /// This node's PostgreSQL.
    pub postgres: PostgresView,
    /// What the renewal thread holds.
    pub tenure: TenureView,
    /// The long act on the server or its data directory that runs, if any.
    pub job: Option<JobKind>,
    /// A checkpoint runs beside everything else.
    pub checkpoint_runs: bool,
    /// The job that ended since the last decision.
    pub finished: Option<FinishedJob>,
    /// Answers of the other members, once asked.
    pub peers: Option<PeersView>,
    /// What failsafe binds this node to.
    pub failsafe: FailsafeView,
    /// The guardian of this node's server.
    pub guardian: GuardianView,
}

/// A value with the store revision it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Modification revision of its key.
    pub revision: u64,
}

/// The site DCS, from one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteView {
    /// Time since the store last answered.
    pub age: Duration,
    /// The leader key.
    pub leader: Option<LeaderKey>,
    /// Time since this process first saw the leader key gone; zero while it is there.
    pub leaderless: Duration,
    /// `initialize`.
    pub initialize: Initialize,
    /// Members that published themselves, without those whose record cannot be read.
    pub members: BTreeMap<NodeName, Arc<Member>>,
    /// `sync`.
    pub sync: SyncView,
    /// WAL position that the last leader published.
    pub optime: Option<Lsn>,
    /// The leader's history, as it published it in its own member record.
    pub ancestry: Option<Ancestry>,
    /// A `failover` request, with the revision of its key.
    pub failover: Option<At<FailoverRequest>>,
    /// The mark of a handover.
    pub mark: Option<At<Mark>>,
    /// Revision of a mark that cannot be read.
    pub unreadable_mark: Option<u64>,
    /// Highest epoch the site has seen.
    pub seen_epoch: Option<At<SeenEpoch>>,
    /// Revision of a `regent/epoch` that cannot be read.
    pub unreadable_epoch: Option<u64>,
    /// `failsafe`.
    pub failsafe: FailsafeRecord,
    /// What the site has promised to the primary site.
    pub promise: PromiseRecord,
}

/// `failsafe`: who may take the leader key, since its holder asks them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailsafeRecord {
    /// There is none.
    Absent,
    /// Nobody knows what it says.
    Unreadable {
        /// Its revision.
        revision: u64,
    },
    /// REST addresses by member.
    Read {
        /// The members.
        members: BTreeMap<NodeName, String>,
        /// Its revision.
        revision: u64,
    },
}

impl FailsafeRecord {
    /// Its revision, `None` when it does not exist.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Unreadable { revision } | Self::Read { revision, .. } => Some(*revision),
        }
    }
}

/// `regent/promise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromiseRecord {
    /// There is none.
    Absent,
    /// Nobody knows what it says.
    Unreadable {
        /// Its revision.
        revision: u64,
    },
    /// The last one that was given.
    Read(At<Promise>),
}

/// What failsafe binds this node to, and what it goes on by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailsafeView {
    /// The member that this node has promised the leader key to.
    pub promised: Option<PromisedLeader>,
    /// The site's deadline rests on the members' word alone.
    pub stands: bool,
    /// Until when the site's own promises forbid a take with the token that stands, or a promotion.
    pub takes_not_before: Option<BootTime>,
}

impl FailsafeView {
    /// As Patroni shows it: this node goes on by the members' word, or has given its own.
    #[must_use]
    pub fn active(&self) -> bool {
        self.stands || self.promised.is_some()
    }
}

/// The leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    /// Who.
    pub name: NodeName,
    /// Its value is no member's name: somebody has it, nobody knows who.
    pub unreadable: bool,
    /// Whether it is bound to the lease that this process renews.
    pub bound_to_my_lease: bool,
    /// Its revision.
    pub revision: u64,
}

/// `initialize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initialize {
    /// Nobody has begun.
    Absent,
    /// Somebody runs a bootstrap.
    Running,
    /// Done.
    Done(SystemIdentifier),
    /// Neither empty nor an identifier.
    Unreadable,
}

/// A member's record, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// PostgreSQL's host.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// REST address.
    pub api_url: String,
    /// Where it answers for its site while it leads, with failsafe of the quorum.
    pub promise_url: Option<String>,
    /// Patroni's state word.
    pub state: String,
    /// Patroni's role word.
    pub role: String,
    /// It receives WAL.
    pub streaming: bool,
    /// Present timeline.
    pub timeline: Option<TimelineId>,
    /// WAL end.
    pub position: Option<Lsn>,
    /// Tag `nofailover`, or a failover priority of zero.
    pub nofailover: bool,
    /// Tag `nosync`.
    pub nosync: bool,
}

/// A switchover or failover request inside the site (Patroni's `failover` key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRequest {
    /// Who should give up.
    pub leader: Option<NodeName>,
    /// Who should lead.
    pub candidate: Option<NodeName>,
}

/// `sync`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncView {
    /// Revision of the key, `None` when it does not exist.
    pub revision: Option<u64>,
    /// Who wrote it as leader.
    pub leader: Option<NodeName>,
    /// Whose confirmation commits wait for.
    pub standbys: BTreeSet<NodeName>,
    /// There is a record, but nobody knows what it says.
    pub unreadable: bool,
}

/// The global quorum's records of this federation, from one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct FederationView {
    /// This site.
    pub site: SiteName,
    /// Time since the quorum last answered; `None` before its first answer.
    pub age: Option<Duration>,
    /// `primary`.
    pub primary: Option<At<Primary>>,
    /// Time since this process first saw this revision of `primary`.
    pub primary_age: Duration,
    /// `lease`.
    pub lease: Option<At<Lease>>,
    /// Its revision, also where it cannot be read.
    pub lease_revision: Option<u64>,
    /// How the present epoch began; there is none of a federation's first one.
    pub history: Option<At<EpochHistory>>,
    /// This site's assignment.
    pub assignment: Option<Assignment>,
    /// Everybody's reports.
    pub reports: BTreeMap<SiteName, Arc<Report>>,
    /// Highest epoch on this node's disk.
    pub disk_epoch: DiskEpoch,
}

/// The epoch file beside the data directory (rung 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskEpoch {
    /// There is none: this node has not seen an epoch yet.
    Absent,
    /// There is one, but nobody knows what it says: unknown, so fenced.
    Unreadable(String),
    /// What this node has seen.
    Seen(SeenEpoch),
}

/// What the renewal thread holds for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenureView {
    /// It has a store lease of its own.
    pub has_lease: bool,
    /// Deadline of the site's leader key; NEVER while it is not held.
    pub site: Deadline,
    /// The primary lease, while this process holds it.
    pub primary: Option<PrimaryTenure>,
}

/// A held primary lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryTenure {
    /// The tenure.
    pub tenure: Tenure,
    /// The epoch it was acquired under.
    pub epoch: Epoch,
    /// Until when it lets write.
    pub deadline: Deadline,
    /// Revision of `lease` that it stands at.
    pub lease_revision: u64,
    /// The deadline rests on the other sites' promises, not on an acknowledged renewal.
    pub by_promise: bool,
}

/// This node's PostgreSQL.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresView {
    /// The data directory.
    pub data: DataDirectory,
    /// The server process.
    pub process: Process,
    /// What the server says of itself; `None` when it does not answer.
    pub status: Option<Status>,
    /// Whom the configuration on disk makes it follow.
    pub follows: Option<Follow>,
    /// `standby.signal` is there.
    pub standby_signal: bool,
    /// Replication and rewind users are known to exist.
    pub users_exist: bool,
}

/// The data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// Missing or empty.
    Empty,
    /// A copy or an `initdb` was interrupted: the agent's own marker stands in it.
    Incomplete,
    /// A cluster.
    Cluster(Control),
    /// Something that cannot be read as a cluster.
    Unreadable(String),
}

/// pg_control, and the local end of WAL where it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Identity.
    pub system_identifier: SystemIdentifier,
    /// How the server stopped, or that it did not.
    pub state: ControlState,
    /// History of the timeline in pg_control.
    pub ancestry: Ancestry,
    /// End of the shutdown checkpoint (clean primary), or the least recovery end (standby).
    pub end: Lsn,
}

/// How the server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlState {
    /// As a primary, cleanly: `end` is the end of its shutdown checkpoint.
    ShutDown,
    /// As a standby, cleanly.
    ShutDownInRecovery,
    /// It runs, or crashed, as a standby.
    InRecovery,
    /// It runs, or crashed, as a primary.
    InProduction,
}

/// The server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// None.
    Stopped,
    /// There is one, but it does not take connections.
    Starting,
    /// It answers.
    Running,
}

/// What a running server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// In recovery, so not writable.
    pub in_recovery: bool,
    /// Its history.
    pub ancestry: Ancestry,
    /// Its WAL was looked through for the id of the present timeline, where that began, and it is
    /// not there.
    pub name_sought: bool,
    /// Timeline of the last checkpoint in pg_control: what `pg_rewind` of others goes by.
    pub control_timeline: TimelineId,
    /// End of WAL: inserted and flushed (primary), or flushed or replayed (standby).
    pub end: Lsn,
    /// Replayed (standby), or `end` (primary).
    pub replayed: Lsn,
    /// WAL senders by application name.
    pub senders: BTreeMap<String, Sender>,
    /// The WAL receiver, while it streams.
    pub receiver: Option<Receiver>,
    /// `synchronous_standby_names` as the server has it.
    pub synchronous_standby_names: String,
    /// Slots.
    pub slots: BTreeMap<String, Slot>,
    /// Configuration that decides about switchovers.
    pub settings: Arc<BTreeMap<String, i64>>,
    /// Senders and slots that are still free.
    pub free_slots: i64,
    /// Free WAL senders.
    pub free_senders: i64,
    /// Version number.
    pub server_version: u32,
}

impl Status {
    /// It writes on a timeline that a promotion began and whose id is missing.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        !self.in_recovery && self.ancestry.timeline.0 > 1 && self.ancestry.promotion.is_none()
    }
}

/// One WAL sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// It is past catch-up.
    pub streaming: bool,
    /// The server counts it as synchronous.
    pub synchronous: bool,
    /// What the standby has flushed.
    pub flushed: Lsn,
}

/// The WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Host it is connected to.
    pub host: String,
    /// Port it is connected to.
    pub port: u16,
    /// Timeline it receives.
    pub timeline: TimelineId,
}

/// One replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Somebody uses it.
    pub active: bool,
    /// Physical.
    pub physical: bool,
}

/// Whom a standby follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Follow {
    /// Nobody: it stays in recovery and waits.
    Nobody,
    /// A member of the same site.
    Member {
        /// Who.
        name: NodeName,
        /// Host and port.
        address: (String, u16),
    },
    /// Another site: all its nodes, its leader first.
    Site {
        /// Which.
        site: SiteName,
        /// Hosts and ports.
        addresses: Vec<(String, u16)>,
    },
}

/// A long act, run as a cancellable job while decisions go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobKind {
    /// `initdb`.
    Initdb,
    /// `pg_basebackup`.
    Clone,
    /// Starting the server.
    Start,
    /// Stopping it.
    Stop,
    /// `pg_rewind`.
    Rewind,
    /// A checkpoint, spread out.
    Checkpoint,
    /// Creating users after a bootstrap.
    CreateUsers,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedJob {
    /// Which.
    pub job: JobKind,
    /// What went wrong, if anything.
    pub problem: Option<String>,
    /// It failed before it touched anything: trying again is enough.
    pub untouched: bool,
}

/// What the other members answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeersView {
    /// Time since they were asked.
    pub age: Duration,
    /// Those who answered.
    pub answers: BTreeMap<NodeName, PeerAnswer>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAnswer {
    /// It runs as a primary.
    pub primary: bool,
    /// End of its WAL.
    pub position: Lsn,
    /// Its timeline.
    pub timeline: Option<TimelineId>,
    /// It may not lead.
    pub nofailover: bool,
}

/// What does not change from round to round.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Patroni's switches, each independent")]
pub struct Policy {
    /// This member.
    pub me: NodeName,
    /// Tag `nofailover`.
    pub nofailover: bool,
    /// The loop's period.
    pub loop_wait: Duration,
    /// A replica further behind than this does not lead, in bytes.
    pub maximum_lag_on_failover: u64,
    /// `synchronous_mode`.
    pub synchronous_mode: bool,
    /// `synchronous_mode_strict`.
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`.
    pub synchronous_node_count: usize,
    /// `pg_rewind` may be used.
    pub use_pg_rewind: bool,
    /// A `bootstrap` section is there.
    pub may_bootstrap: bool,
    /// `pause`.
    pub paused: bool,
}

/// What the decider remembers from round to round; only `decide` changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The last job that failed, how often in a row, and when it may be tried again.
    pub failed: Option<FailedJob>,
    /// The synchronous list in force, and the WAL end when it came into force (I5).
    pub list_since: Option<(String, Lsn)>,
    /// The revision of `sync` that writes of this process compare which may not have been applied
    /// yet, and every name that they put there.
    pub sync_sent: Option<(Option<u64>, BTreeSet<NodeName>)>,
    /// The operation whose checkpoint was done.
    pub checkpointed_for: Option<OperationId>,
    /// The operation whose checkpoint runs.
    pub checkpointing_for: Option<OperationId>,
    /// The epoch that this process has found, or put, on disk and in the site DCS, while it leads
    /// the site without a break: what is missing there now was removed, and is not unknown to it.
    pub entered: Option<SeenEpoch>,
    /// The deadline rested on the members' word, and since then no picture has shown the leader key
    /// bound to this process's lease, or another's: a store that was away may have forgotten it.
    pub by_word: bool,
    /// The handover this process marked, by revision of `primary`.
    pub marked: Option<u64>,
    /// A rewind failed: only a new copy helps.
    pub rewind_failed: bool,
    /// Since when this process waits for the site DCS's first answer.
    pub without_store_since: Option<BootTime>,
    /// Since when it cannot be told whether this server is on its upstream's history.
    pub unknown_since: Option<BootTime>,
    /// Slots of nodes that this process has seen.
    pub slots_managed: BTreeSet<String>,
    /// Slots whose node is away, and since when.
    pub slots_missing_since: BTreeMap<String, BootTime>,
    /// Rewinds that succeeded since this node last followed: a second one would be a loop.
    pub rewinds: u32,
    /// When a restartpoint was last asked for.
    pub restartpoint_at: Option<BootTime>,
    /// When promotion was last asked for; forgotten once the server is open.
    pub promoting_since: Option<BootTime>,
    /// When this process promoted the server: since then it owes a checkpoint, which `pg_rewind` of
    /// others needs (hazards.md section 4, fact 27).
    pub owes_checkpoint_since: Option<BootTime>,
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedJob {
    /// Which.
    pub job: JobKind,
    /// How often in a row.
    pub times: u32,
    /// Not before this instant again.
    pub retry_at: BootTime,
}
