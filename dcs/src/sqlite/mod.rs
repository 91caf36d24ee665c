//! The embedded store: one SQLite file that the processes of one machine share.
//!
//! Meant for laboratories and tests: it lives and dies with its machine. It keeps the contract in
//! full, so nothing above it can tell.
//! * Every commit is durable (`synchronous=FULL`) before anybody can see it, and all of a
//!   transaction or nothing is seen: WAL mode, one writer at a time (`BEGIN IMMEDIATE`).
//! * Every change goes into a change log under a global revision. Watching is reading that log, so
//!   a watcher can come late, be slow, or be stopped and loses nothing until the log is compacted,
//!   and then it is told.
//! * After COMMIT the writer rings the bell (`bell`): it touches `FILE.notify`, on which watchers hold
//!   an inotify watch. SQLite's own files are of no use for that: they change before the commit is
//!   visible. A writer that died before it rang costs a watcher at most a second (`watch`).
//! * Nobody runs a clock for the others. Whoever looks, reader or writer, first ends the leases
//!   that are due, in a transaction; watchers wake for that at the earliest expiry (`leases`).
//!
//! SQLite blocks, so each store has two threads with a connection each: one for writes and one for
//! reads, so that a watcher doesn't wait for another's fsync (`worker`).

mod bell;
mod database;
mod file;
mod leases;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::BootClock;
use crate::{
    Entry, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome,
    Watch, WatchError, limits,
};
use bell::Bell;
use database::{Database, Fault};
use worker::{Permit, Worker};

/// An open embedded store. Clones share its threads and connections.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    clock: BootClock,
    reader: Worker,
    writer: Worker,
    bell_path: PathBuf,
    /// Made when the first watch needs it.
    bell: OnceLock<Option<Bell>>,
}

impl SqliteStore {
    /// Opens the store in the file `path`, which is made (mode 0600) when it isn't there.
    ///
    /// Blocks for a few milliseconds, and up to five seconds when other processes are busy making
    /// the same file.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a file that is not a store of ours or is open to other users,
    /// [`StoreError::NotDone`] when the file can't be had in time.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let clock = BootClock::kernel().map_err(|error| StoreError::Refused {
            store: store_name(path),
            action: "read the boot id".to_owned(),
            problem: error.to_string(),
        })?;
        Self::open_with_clock(path, clock)
    }

    /// As [`Self::open`], with leases judged by `clock`: for tests of lease times and reboots.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_clock(path: &Path, clock: BootClock) -> Result<Self, StoreError> {
        let name: Arc<str> = store_name(path).into();
        let start = || -> Result<Self, Fault> {
            file::create(path)?;
            let writer = Database::open(path, clock.clone())?;
            let reader = Database::open(path, clock.clone())?;
            Ok(Self {
                shared: Arc::new(Shared {
                    name: name.clone(),
                    clock: clock.clone(),
                    reader: Worker::start("dcs-read", name.clone(), reader)?,
                    writer: Worker::start("dcs-write", name.clone(), writer)?,
                    bell_path: bell::path(path),
                    bell: OnceLock::new(),
                }),
            })
        };
        start().map_err(|fault| fault.into_error(&name, "open the file", Duration::ZERO))
    }

    /// Forgets all but the last `keep` revisions of the change log; returns the oldest revision
    /// that can be watched from now. The store does this itself, and keeps
    /// 10,000.
    ///
    /// # Errors
    /// As any call of the store.
    pub async fn compact(&self, keep: u64, timeout: Duration) -> Result<Revision, StoreError> {
        self.write("compact the change log".to_owned(), timeout, move |database, permit| {
            database.compact(permit, keep)
        })
        .await
    }

    async fn read<T, W>(&self, action: String, timeout: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Database, &Permit) -> Result<T, Fault> + Send + 'static,
    {
        self.shared.reader.call(action, timeout, work).await
    }

    async fn write<T, W>(&self, action: String, timeout: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Database, &Permit) -> Result<T, Fault> + Send + 'static,
    {
        self.shared.writer.call(action, timeout, work).await
    }

    fn check(&self, action: &str, checked: Result<(), String>) -> Result<(), StoreError> {
        checked.map_err(|problem| StoreError::Refused {
            store: self.shared.name.to_string(),
            action: action.to_owned(),
            problem,
        })
    }
}

fn store_name(path: &Path) -> String {
    format!("sqlite {}", path.display())
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteStore").field(&self.shared.name).finish()
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> String {
        self.shared.name.to_string()
    }

    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError> {
        let action = format!("get {key}");
        self.check(&action, limits::key(key))?;
        let key = key.to_owned();
        self.read(action, timeout, move |database, permit| database.get(permit, &key)).await
    }

    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError> {
        let action = format!("read all of {prefix}");
        let prefix = prefix.to_owned();
        self.read(action, timeout, move |database, permit| database.range(permit, &prefix)).await
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError> {
        let action = limits::describe(&txn);
        self.check(&action, limits::txn(&txn))?;
        self.write(action, timeout, move |database, permit| database.txn(permit, &txn)).await
    }

    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError> {
        let action = format!("grant a lease of {ttl:?}");
        self.check(&action, limits::ttl(ttl))?;
        self.write(action, timeout, move |database, permit| database.grant(permit, ttl)).await
    }

    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        let action = format!("renew lease {}", lease.0);
        self.write(action, timeout, move |database, permit| database.renew(permit, lease)).await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError> {
        let action = format!("revoke lease {}", lease.0);
        self.write(action, timeout, move |database, permit| database.revoke(permit, lease)).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError> {
        let watch = watch::SqliteWatch::open(self.clone(), prefix, after, timeout).await?;
        Ok(Box::new(watch))
    }
}
