//! The distributed configuration store: one small contract over etcd v3 and an embedded SQLite
//! file (Consul follows).
//!
//! Nothing above this contract knows which store it is. It promises:
//! * **Linearizable** reads and transactions. A transaction compares keys and then puts or deletes
//!   all or nothing; every change has a store-wide, strictly growing [`Revision`].
//! * **Leases**: a key put with a lease goes when the lease is revoked or expires. Expiry is never
//!   earlier than the granted TTL after the last acknowledged renewal was *sent*; how much later is
//!   the store's affair.
//! * **Watches** deliver every change of a prefix after a revision, in order, without gap, or end
//!   with [`WatchError::Compacted`], after which the caller reads again.
//! * **Bounded waits**: every call takes a timeout; errors say what may have happened
//!   ([`StoreError`]).
//!
//! [`conformance`] holds every implementation, the faulty in-memory one included, to this.

pub mod clock;
pub mod conformance;
mod error;
pub mod etcd;
pub mod limits;
pub mod memory;
pub mod sqlite;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::StoreError;

/// A store-wide counter: the modification revision of a key, or the revision of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A lease in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    /// Its identity.
    pub id: LeaseId,
    /// The TTL granted, which may be more than was asked (etcd rounds 1 s up to 2 s).
    pub ttl: Duration,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value. Mirrors, events and observers share it.
    pub value: Bytes,
    /// Revision at which the key came to be (again).
    pub created: Revision,
    /// Revision of the last put.
    pub modified: Revision,
    /// The lease it goes with.
    pub lease: Option<LeaseId>,
}

/// All keys of a prefix at one revision, in key order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The store's revision at which this was read; watch from here.
    pub revision: Revision,
    /// The keys.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last put at exactly this revision.
    Modified {
        /// The key.
        key: String,
        /// The revision.
        revision: Revision,
    },
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists with exactly this value (Patroni's condition for releasing `leader`).
    Value {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
}

impl Compare {
    /// The key has this revision, or does not exist when there is none: "as I read it".
    #[must_use]
    pub fn as_read(key: impl Into<String>, entry: Option<&Entry>) -> Self {
        match entry {
            Some(entry) => Self::Modified { key: key.into(), revision: entry.modified },
            None => Self::Absent { key: key.into() },
        }
    }

    /// Whether it holds for what the key now has.
    #[must_use]
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match self {
            Self::Modified { revision, .. } => entry.is_some_and(|e| e.modified == *revision),
            Self::Absent { .. } => entry.is_none(),
            Self::Value { value, .. } => entry.is_some_and(|e| e.value == *value),
        }
    }

    /// The key compared.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Modified { key, .. } | Self::Absent { key } | Self::Value { key, .. } => key,
        }
    }
}

/// A change that a transaction makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write a key, bound to a lease or to none.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease.
        lease: Option<LeaseId>,
    },
    /// Remove a key; nothing happens when it is not there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// A put without a lease.
    #[must_use]
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// A put bound to a lease.
    #[must_use]
    pub fn put_leased(key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// A removal.
    #[must_use]
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Compares, then changes: all of them or none. No key may be changed twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Applied together when they do.
    pub changes: Vec<Change>,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// With one more change.
    #[must_use]
    pub fn then(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Applied: every key put now has this modification revision.
    Applied {
        /// The revision.
        revision: Revision,
    },
    /// A compare did not hold; nothing was changed.
    Conflict {
        /// What the compared keys held instead, `None` for absent, in the order of the compares.
        found: Vec<Option<Entry>>,
    },
}

impl TxnOutcome {
    /// The revision, when applied.
    #[must_use]
    pub fn applied(&self) -> Option<Revision> {
        match self {
            Self::Applied { revision } => Some(*revision),
            Self::Conflict { .. } => None,
        }
    }
}

/// Answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives, with this TTL from the sending of the request.
    Renewed {
        /// The TTL granted.
        ttl: Duration,
    },
    /// The store does not know the lease (any more).
    Lost,
}

/// One change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was put.
    Put(Entry),
    /// A key was deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When it happened.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes after the asked revision are gone: read a snapshot and watch from there.
    #[error("changes before revision {oldest} are compacted: read again")]
    Compacted {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },
    /// The store, or the way to it, failed: read a snapshot when it is back.
    #[error("the watch ended: {0}")]
    Failed(StoreError),
}

/// A running watch. Dropping it ends it.
#[async_trait]
pub trait Watch: Send {
    /// The next changes, in order, never empty. Waits without bound: a watch is a wake-up, not a
    /// source of truth about liveness; whoever needs a bound wraps it in a timeout (it is safe to
    /// drop the future). After an error the watch is dead.
    async fn next(&mut self) -> Result<Vec<Event>, WatchError>;
}

/// A store. Implementations are cheap to share behind an `Arc`.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// For messages: the kind of store and where it is.
    fn name(&self) -> String;

    /// One key, linearizable.
    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError>;

    /// All keys that begin with `prefix`, linearizable, at one revision.
    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError>;

    /// A transaction. An empty list of compares always holds.
    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError>;

    /// A new lease.
    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError>;

    /// Renews a lease. The caller reads its clock *before* the call.
    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError>;

    /// Ends a lease and deletes its keys; a lease the store does not know is a success.
    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError>;

    /// Watches `prefix` for every change after revision `after`.
    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError>;
}
