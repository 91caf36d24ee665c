//! This node's PostgreSQL: its data directory, its process, and what the server says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, SiteName, SystemIdentifier};
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, TimelineId};

use crate::decide::parameters::Difference;
use crate::decide::slots::readiness::Xid;

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

impl PostgresView {
    /// Whether what runs may write. One that gives no status, be it that its connections are all
    /// taken, can only be a primary without the signal file.
    #[must_use]
    pub fn may_write(&self) -> bool {
        match &self.status {
            Some(status) => !status.in_recovery,
            None => !self.standby_signal,
        }
    }
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
    /// When the last transaction that was replayed was committed, by its writer's wall clock.
    pub last_commit: Option<WallTime>,
    /// This machine's wall clock, to count a loss by and nothing else.
    pub wall: WallTime,
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
    /// `wal_level` is `logical`.
    pub wal_logical: bool,
    /// `max_slot_wal_keep_size` in bytes; `None`: no limit.
    pub slot_wal_limit: Option<u64>,
    /// How far a primary had flushed before its slots were read.
    pub slots_at: Option<Lsn>,
    /// How far a standby's upstream was, by what that said last.
    pub upstream_end: Option<Lsn>,
}

impl Status {
    /// It writes on a timeline that a promotion began and whose id is missing.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        !self.in_recovery && self.ancestry.timeline.0 > 1 && self.ancestry.promotion.is_none()
    }

    /// Who streams, and whether it is counted as synchronous.
    #[must_use]
    pub fn streams(&self) -> BTreeMap<String, bool> {
        let streaming = self.senders.iter().filter(|(_, sender)| sender.streaming);
        streaming.map(|(name, sender)| (name.clone(), sender.synchronous)).collect()
    }
}

/// One WAL sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// It is past catch-up.
    pub streaming: bool,
    /// The server counts it as synchronous.
    pub synchronous: bool,
    /// What the standby has flushed.
    pub flushed: Lsn,
}

impl Sender {
    /// Two under one name: the sender of a lost connection stays until its timeout beside the new one.
    /// What streams counts before what doesn't. Of two that stream one may be synchronous for both, and
    /// the lesser position counts: which of them is of the server that is there now nobody can tell.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        match (self.streaming, other.streaming) {
            (true, false) => self,
            (false, true) => other,
            (true, true) | (false, false) => Self {
                streaming: self.streaming,
                synchronous: self.synchronous || other.synchronous,
                flushed: self.flushed.min(other.flushed),
            },
        }
    }
}

/// Senders by name, each name once.
#[must_use]
pub fn senders_by_name(
    senders: impl IntoIterator<Item = (String, Sender)>,
) -> BTreeMap<String, Sender> {
    let mut found: BTreeMap<String, Sender> = BTreeMap::new();
    for (name, sender) in senders {
        let known = found.remove(&name);
        found.insert(name, known.map_or(sender, |known| known.beside(sender)));
    }
    found
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a slot")]
pub struct Slot {
    /// Somebody uses it.
    pub active: bool,
    /// Physical.
    pub physical: bool,
    /// The database of a logical one.
    pub database: Option<String>,
    /// Its output plugin.
    pub plugin: Option<String>,
    /// WAL is kept from here on.
    pub restart: Option<Lsn>,
    /// What the consumer of a logical one has confirmed.
    pub confirmed: Option<Lsn>,
    /// It holds rows back from vacuum.
    pub holds_xmin: bool,
    /// From which transaction on it holds the catalog back.
    pub catalog_xmin: Option<Xid>,
    /// How the server stands to its WAL.
    pub wal: WalStatus,
    /// How much may be written before its WAL may go, where there is a limit.
    pub safe_wal: Option<i64>,
    /// The server says that it can't be used any more.
    pub invalid: bool,
    /// A failover slot of PostgreSQL 17, which the server copies itself.
    pub failover: bool,
    /// Whose it is.
    pub origin: Origin,
}

impl Slot {
    /// A physical one that keeps no WAL yet.
    #[must_use]
    pub fn physical(active: bool) -> Self {
        Self { active, physical: true, ..Self::default() }
    }

    /// Its WAL is gone, or it is unusable for another reason.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.invalid || self.wal == WalStatus::Lost
    }
}

/// `wal_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WalStatus {
    /// The server does not say: the slot keeps nothing yet.
    #[default]
    Unknown,
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond it, and kept.
    Extended,
    /// It may go with the next checkpoint.
    Unreserved,
    /// It is gone.
    Lost,
}

/// Whose a slot is, for logical ones: a note beside the data directory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Made here, while this server was the primary.
    #[default]
    Own,
    /// Copied from a leader since.
    Copied,
    /// That, and found safe to use.
    Proven,
    /// Copied and not found safe, and not dropped before this server opened.
    Unsafe,
}

impl Origin {
    /// A leader's slot, as this server keeps it in recovery.
    #[must_use]
    pub fn is_copy(self) -> bool {
        match self {
            Self::Copied | Self::Proven => true,
            Self::Own | Self::Unsafe => false,
        }
    }
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
    /// A cluster of no federation.
    Remote {
        /// Hosts and ports; none: from the archive alone.
        addresses: Vec<(String, u16)>,
        /// The slot there.
        slot: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender((streaming, synchronous): (bool, bool), flushed: u64) -> Sender {
        Sender { streaming, synchronous, flushed: Lsn::new(flushed) }
    }

    #[test]
    fn senders_of_one_name_count_once_in_whichever_order_they_come() {
        let (old, new) = (sender((true, true), 100), sender((true, false), 200));
        let (lost, catching_up) = (sender((false, true), 100), sender((false, false), 50));
        for (what, two, one) in [
            ("both stream", [old, new], sender((true, true), 100)),
            ("one is lost", [lost, new], new),
            ("neither streams", [lost, catching_up], sender((false, true), 50)),
        ] {
            for order in [[0, 1], [1, 0]] {
                let named = order.map(|index| ("a2".to_owned(), two[index]));
                let found = senders_by_name(named.into_iter().chain([("a3".to_owned(), new)]));
                let once = BTreeMap::from([("a2".to_owned(), one), ("a3".to_owned(), new)]);
                assert_eq!(found, once, "{what}");
            }
        }
    }
}
