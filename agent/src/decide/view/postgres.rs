//! This node's PostgreSQL: its data directory, its process, and what the server says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, SiteName, SystemIdentifier};
use regent_proto::timeline::{Ancestry, TimelineId};

use crate::decide::parameters::Difference;

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
    /// How its configuration stands to what is wanted.
    pub configuration: ConfigurationView,
    /// What makes the data directory incomplete is a rewind that broke off midway.
    pub half_rewound: bool,
}

/// How a server's configuration stands to what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigurationView {
    /// Fingerprint of what is wanted.
    pub wanted: u64,
    /// Fingerprint of what was last put into the files.
    pub in_force: u64,
    /// What waits for a restart, by name.
    pub pending_restart: BTreeMap<String, Difference>,
    /// What PostgreSQL does not take, in its own words.
    pub problems: Vec<String>,
    /// In recovery it stands still: its WAL was written with higher settings than it has.
    pub too_low: bool,
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
    /// `pg_rewind` can work with it: it wrote full pages, with hints in WAL or checksums.
    pub rewindable: bool,
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
