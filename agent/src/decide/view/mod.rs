//! What a decision sees: values with their age, gathered by `observe`, never judged there.
//!
//! Missing is a value. Ages are spans on the boot clock up to `View::now`.

mod federation;
mod memory;
mod postgres;
mod remote;
mod requests;
mod site;
mod tags;

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, PromotionId};
use regent_proto::time::BootTime;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::failsafe::site::PromisedLeader;

pub use super::guardian::{GuardianRights, GuardianView, WatchdogState, WatchdogView};
pub use federation::{DiskEpoch, FederationView, PrimaryTenure, TenureView};
pub use memory::{FailedJob, Memory, Policy, PrePromote};
pub use postgres::{
    ConfigurationView, Control, ControlState, DataDirectory, Follow, Origin, PostgresView, Process,
    Receiver, Sender, Slot, Status, WalStatus, senders_by_name,
};
pub use remote::{RemoteFound, RemoteView};
pub use requests::{
    Answer, Ask, NodeRole, Reinitialize, Request, RequestsView, Restart, ScheduledRestart,
    ServerVersion, Stage, Task, UnderWay,
};
pub use site::{
    Due, FailoverRequest, FailsafeRecord, Initialize, LeaderKey, Member, PromiseRecord,
    PublishedSlots, Schedule, SiteView, SyncView,
};
pub use tags::Tags;

/// Everything a decision may look at.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The boot clock.
    pub now: BootTime,
    /// The site DCS; `None` until it was read once.
    pub site: Option<SiteView>,
    /// The global quorum; `None` where the cluster belongs to no federation.
    pub federation: Option<FederationView>,
    /// The cluster that `standby_cluster` makes this one follow; `None` without the section, and in a
    /// federation, whose records say whom a site follows.
    pub remote: Option<RemoteView>,
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
    /// What people asked of this node.
    pub requests: RequestsView,
}

/// A value with the store revision it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Modification revision of its key.
    pub revision: u64,
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
    /// When the last promise ends, or ended, that the site gave under `primary`'s epoch.
    pub last_promise_ends: Option<BootTime>,
}

impl FailsafeView {
    /// As Patroni shows it: this node goes on by the members' word, or has given its own.
    #[must_use]
    pub fn active(&self) -> bool {
        self.stands || self.promised.is_some()
    }
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
    /// `pre_promote`.
    PrePromote,
    /// Copying logical slots from the leader.
    CopySlots,
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
    /// Tag `failover_priority`.
    pub failover_priority: i64,
    /// How long before it answered it had looked at its position; `None` where it does not say, or has
    /// not read to the end of its WAL yet.
    pub age: Option<Duration>,
    /// Its history; a Patroni member tells none.
    pub ancestry: Option<Ancestry>,
    /// It has no copy of the database, or only a part of one.
    pub without_data: bool,
}

impl PeerAnswer {
    /// Whether it says what it has: a server that starts, or replays still, has more than it tells. Its data
    /// may be the only ones with what was acknowledged.
    #[must_use]
    pub fn tells_what_it_has(&self) -> bool {
        self.without_data || self.age.is_some() && self.position.get() > 0
    }

    /// The promotion that began its timeline, where it knows.
    #[must_use]
    pub fn promotion(&self) -> Option<&PromotionId> {
        self.ancestry.as_ref().and_then(|ancestry| ancestry.promotion.as_ref())
    }

    /// Another promotion began its timeline, which has the number of this one by chance: their
    /// positions say nothing about each other (I14).
    #[must_use]
    pub fn is_foreign(&self, mine: &Ancestry) -> bool {
        let both = self.promotion().zip(mine.promotion.as_ref());
        self.timeline == Some(mine.timeline) && both.is_some_and(|(theirs, ours)| theirs != ours)
    }
}
