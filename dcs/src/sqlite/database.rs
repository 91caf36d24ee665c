//! The tables and what each call does to them, inside transactions.
//!
//! Runs on a worker's thread. Every transaction begins with the [`Books`], and every one that
//! writes ends the leases that are due before it does anything else, so no call ever sees a key
//! that outlived its lease.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regent_proto::time::BootTime;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

use super::bell::{self, Clapper};
use super::file::{self, FileIdentity};
use super::leases;
use super::worker::Permit;
use crate::clock::BootClock;
use crate::limits::prefix_end;
use crate::{
    Change, Entry, GrantedLease, LeaseId, Renewal, Revision, Snapshot, StoreError, Txn, TxnOutcome,
};

/// Revisions that the change log keeps for late watchers. A watcher that is further behind reads
/// all again, which costs it less than this many changes would.
pub(super) const CHANGES_KEPT: u64 = 10_000;
/// A compaction on every commit would be wasteful: the log grows by this much in between.
const CHANGES_SLACK: u64 = 2_000;
/// Own commits between two checkpoints of the WAL. At some five pages a commit this stays far below
/// SQLite's own automatic checkpoint, which would run within somebody's COMMIT.
const COMMITS_PER_CHECKPOINT: u32 = 200;
/// What upkeep may wait for the write lock: it can come next time.
const UPKEEP_PATIENCE: Duration = Duration::from_millis(100);
/// Between two tries for the write lock. Another's commit takes about a millisecond.
const BUSY_PAUSE: Duration = Duration::from_micros(250);

/// Why work on the database gave no result. The worker makes a [`StoreError`] of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Refused(String),
    NotDone(String),
    Unknown(String),
}

impl Fault {
    pub(super) fn into_error(self, store: &str, action: &str, waited: Duration) -> StoreError {
        let store = store.to_owned();
        let action = action.to_owned();
        match self {
            Self::Refused(problem) => StoreError::Refused { store, action, problem },
            Self::NotDone(problem) => StoreError::NotDone { store, action, problem },
            Self::Unknown(problem) => StoreError::Unknown { store, action, waited, problem },
        }
    }

    /// Of anything that failed before COMMIT began.
    fn before_commit(error: rusqlite::Error) -> Self {
        let passing = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DiskFull
                    | ErrorCode::OutOfMemory
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::OperationAborted
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::SchemaChanged
            )
        );
        if Self::is_busy(&error) {
            Self::NotDone("other processes held the write lock all the time".to_owned())
        } else if passing {
            Self::NotDone(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }

    /// Of anything that failed while the file was opened.
    pub(super) fn from_open(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Refused(format!(
                "the file is not a store of Regent, or it is damaged ({error})"
            )),
            _ => Self::before_commit(error),
        }
    }

    pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }
}

/// The one row of `meta`, and the earliest lease expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) revision: Revision,
    /// Changes up to here are forgotten.
    pub(super) compacted: Revision,
    /// The boot that all lease expiries are counted in.
    pub(super) boot: String,
    pub(super) next_expiry: Option<BootTime>,
}

impl Books {
    fn read(transaction: &Transaction<'_>) -> rusqlite::Result<Self> {
        transaction
            .prepare_cached(
                "SELECT revision, compacted, boot, (SELECT min(expires) FROM lease) FROM meta",
            )?
            .query_row([], |row| {
                Ok(Self {
                    revision: revision(row, 0)?,
                    compacted: revision(row, 1)?,
                    boot: row.get(2)?,
                    next_expiry: row
                        .get::<_, Option<i64>>(3)?
                        .map(|nanos| BootTime::from_nanos(unsigned(nanos))),
                })
            })
    }

    /// Whether leases have to be looked after before anything can be read.
    pub(super) fn lease_work_due(&self, clock: &BootClock) -> bool {
        self.next_expiry.is_some_and(|next| self.boot != clock.boot() || next <= clock.now())
    }
}

/// A connection to the store's file.
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    identity: FileIdentity,
    clock: BootClock,
    /// For deadlines, also when leases are judged by a clock of the tests.
    kernel_clock: BootClock,
    /// Until when the busy handler keeps trying, nanoseconds of the kernel's boot clock.
    patience_ends: Arc<AtomicU64>,
    clapper: Clapper,
    commits: u32,
    last_seen: Option<Books>,
}

impl Database {
    pub(super) fn open(path: &Path, clock: BootClock) -> Result<Self, Fault> {
        let unreadable = |error: std::io::Error| Fault::NotDone(error.to_string());
        let mut connection = file::connect(path)?;
        let kernel_clock = BootClock::kernel().map_err(unreadable)?;
        let patience_ends = Arc::new(AtomicU64::new(0));
        let (ends, now) = (patience_ends.clone(), kernel_clock.clone());
        connection
            .busy_handler(Some(move |_tries| {
                // Only this thread of ours sleeps here; an early wake-up only tries sooner.
                std::thread::park_timeout(BUSY_PAUSE);
                now.now().nanos() < ends.load(Ordering::Relaxed)
            }))
            .map_err(Fault::before_commit)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            identity: FileIdentity::of(path).map_err(unreadable)?,
            clock,
            kernel_clock,
            patience_ends,
            clapper: Clapper::open(&bell::path(path)).map_err(unreadable)?,
            commits: 0,
            last_seen: None,
        })
    }

    /// Runs `body` in a transaction that holds the write lock, and commits what it changed.
    fn write<T>(
        &mut self,
        permit: &Permit,
        body: impl FnOnce(&Transaction<'_>, &mut Books) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.begin(permit)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Fault::before_commit)?;
        let before = Books::read(&transaction).map_err(Fault::before_commit)?;
        let mut books = before.clone();
        let rows_before = transaction.total_changes();
        leases::bring_up_to_date(&transaction, &mut books, &self.clock)
            .map_err(Fault::before_commit)?;
        let answer = body(&transaction, &mut books)?;
        if books == before && transaction.total_changes() == rows_before {
            return Ok(answer);
        }
        store_books(&transaction, &books).map_err(Fault::before_commit)?;
        permit.begin_commit()?;
        transaction.commit().map_err(|error| Fault::Unknown(format!("COMMIT failed: {error}")))?;
        if books.revision != before.revision {
            self.clapper.ring();
        }
        self.commits += 1;
        self.last_seen = Some(books);
        Ok(answer)
    }

    /// Runs `body` on one state of the store, in which no lease is overdue.
    fn read<T>(
        &mut self,
        permit: &Permit,
        body: impl FnOnce(&Transaction<'_>, &Books) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        loop {
            self.begin(permit)?;
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Deferred)
                .map_err(Fault::before_commit)?;
            let books = Books::read(&transaction).map_err(Fault::before_commit)?;
            if !books.lease_work_due(&self.clock) {
                return body(&transaction, &books);
            }
            drop(transaction);
            self.write(&permit.aside(), |_, _| Ok(())).map_err(|fault| match fault {
                // The caller only wanted to read.
                Fault::Unknown(problem) => Fault::NotDone(problem),
                other => other,
            })?;
        }
    }

    fn begin(&self, permit: &Permit) -> Result<(), Fault> {
        permit.check()?;
        self.patience_ends.store(permit.deadline().nanos(), Ordering::Relaxed);
        match FileIdentity::of(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(Fault::Refused("the file was replaced since it was opened".to_owned())),
            Err(error) => Err(Fault::Refused(format!("the file is gone: {error}"))),
        }
    }

    pub(super) fn get(&mut self, permit: &Permit, key: &str) -> Result<Option<Entry>, Fault> {
        self.read(permit, |transaction, _| entry(transaction, key).map_err(Fault::before_commit))
    }

    pub(super) fn range(&mut self, permit: &Permit, prefix: &str) -> Result<Snapshot, Fault> {
        self.read(permit, |transaction, books| {
            let entries = entries(transaction, prefix).map_err(Fault::before_commit)?;
            Ok(Snapshot { revision: books.revision, entries })
        })
    }

    pub(super) fn txn(&mut self, permit: &Permit, txn: &Txn) -> Result<TxnOutcome, Fault> {
        self.write(permit, |transaction, books| {
            let found = txn
                .compares
                .iter()
                .map(|compare| entry(transaction, compare.key()))
                .collect::<rusqlite::Result<Vec<_>>>()
                .map_err(Fault::before_commit)?;
            if !txn.compares.iter().zip(&found).all(|(compare, e)| compare.holds(e.as_ref())) {
                return Ok(TxnOutcome::Conflict { found });
            }
            refuse_lost_leases(transaction, txn)?;
            let next = Revision(books.revision.0 + 1);
            for change in &txn.changes {
                if apply(transaction, change, next).map_err(Fault::before_commit)? {
                    books.revision = next;
                }
            }
            Ok(TxnOutcome::Applied { revision: books.revision })
        })
    }

    pub(super) fn grant(&mut self, permit: &Permit, ttl: Duration) -> Result<GrantedLease, Fault> {
        let clock = self.clock.clone();
        self.write(permit, |transaction, _| {
            let id = leases::grant(transaction, ttl, clock.now()).map_err(Fault::before_commit)?;
            Ok(GrantedLease { id, ttl })
        })
    }

    pub(super) fn renew(&mut self, permit: &Permit, lease: LeaseId) -> Result<Renewal, Fault> {
        let clock = self.clock.clone();
        self.write(permit, |transaction, _| {
            let renewed = leases::renew(transaction, lease, clock.now());
            match renewed.map_err(Fault::before_commit)? {
                Some(ttl) => Ok(Renewal::Renewed { ttl }),
                None => Ok(Renewal::Lost),
            }
        })
    }

    pub(super) fn revoke(&mut self, permit: &Permit, lease: LeaseId) -> Result<(), Fault> {
        self.write(permit, |transaction, books| {
            leases::end(transaction, books, lease).map_err(Fault::before_commit)
        })
    }

    /// What `body` reads from the change log; see [`super::watch`].
    pub(super) fn read_log<T>(
        &mut self,
        permit: &Permit,
        body: impl FnOnce(&Transaction<'_>, &Books) -> rusqlite::Result<T>,
    ) -> Result<T, Fault> {
        self.read(permit, |transaction, books| {
            body(transaction, books).map_err(Fault::before_commit)
        })
    }

    pub(super) fn compact(&mut self, permit: &Permit, keep: u64) -> Result<Revision, Fault> {
        self.write(permit, |transaction, books| {
            let upto = Revision(books.revision.0.saturating_sub(keep));
            if upto > books.compacted {
                transaction
                    .prepare_cached("DELETE FROM change WHERE revision <= ?1")
                    .and_then(|mut delete| delete.execute([signed(upto.0)]))
                    .map_err(Fault::before_commit)?;
                books.compacted = upto;
            }
            Ok(books.compacted)
        })
    }

    /// What can wait until the caller has its answer: compaction and the WAL's checkpoint.
    pub(super) fn upkeep(&mut self) {
        let Some(books) = self.last_seen.take() else { return };
        let log_length = books.revision.0.saturating_sub(books.compacted.0);
        if log_length > CHANGES_KEPT + CHANGES_SLACK {
            let permit = Permit::upkeep(&self.kernel_clock, UPKEEP_PATIENCE);
            if let Err(fault) = self.compact(&permit, CHANGES_KEPT) {
                tracing::debug!(?fault, "compaction of the change log put off");
            }
            self.last_seen = None;
        }
        if self.commits >= COMMITS_PER_CHECKPOINT {
            self.commits = 0;
            // PASSIVE waits for nobody and makes nobody wait.
            let done = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            if let Err(error) = done {
                tracing::debug!(%error, "checkpoint of the store's WAL put off");
            }
        }
    }
}

fn store_books(transaction: &Transaction<'_>, books: &Books) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE meta SET revision = ?1, compacted = ?2, boot = ?3")?
        .execute(params![signed(books.revision.0), signed(books.compacted.0), books.boot])
        .map(drop)
}

fn refuse_lost_leases(transaction: &Transaction<'_>, txn: &Txn) -> Result<(), Fault> {
    for change in &txn.changes {
        let Change::Put { lease: Some(lease), key, .. } = change else { continue };
        if !leases::exists(transaction, *lease).map_err(Fault::before_commit)? {
            return Err(Fault::Refused(format!("lease {} for {key} is lost", lease.0)));
        }
    }
    Ok(())
}

/// Whether anything changed.
fn apply(
    transaction: &Transaction<'_>,
    change: &Change,
    revision: Revision,
) -> rusqlite::Result<bool> {
    match change {
        Change::Put { key, value, lease } => {
            let lease = lease.map(|lease| lease.0);
            let created: i64 = transaction
                .prepare_cached(
                    "INSERT INTO entry (key, value, created, modified, lease)
                     VALUES (?1, ?2, ?3, ?3, ?4)
                     ON CONFLICT (key) DO UPDATE SET
                       value = excluded.value, modified = excluded.modified, lease = excluded.lease
                     RETURNING created",
                )?
                .query_row(params![key.as_bytes(), value, signed(revision.0), lease], |row| {
                    row.get(0)
                })?;
            transaction
                .prepare_cached(
                    "INSERT INTO change (revision, key, value, created, lease)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![signed(revision.0), key.as_bytes(), value, created, lease])?;
            Ok(true)
        }
        Change::Delete { key } => delete(transaction, key.as_bytes(), revision),
    }
}

/// Removes one key, with its line in the change log; whether it was there.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    key: &[u8],
    revision: Revision,
) -> rusqlite::Result<bool> {
    let created: Option<i64> = transaction
        .prepare_cached("DELETE FROM entry WHERE key = ?1 RETURNING created")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    let Some(created) = created else { return Ok(false) };
    transaction
        .prepare_cached(
            "INSERT INTO change (revision, key, value, created, lease)
             VALUES (?1, ?2, NULL, ?3, NULL)",
        )?
        .execute(params![signed(revision.0), key, created])?;
    Ok(true)
}

fn entry(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Entry>> {
    transaction
        .prepare_cached("SELECT key, value, created, modified, lease FROM entry WHERE key = ?1")?
        .query_row([key.as_bytes()], entry_of_row)
        .optional()
}

fn entries(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<Vec<Entry>> {
    transaction
        .prepare_cached(
            "SELECT key, value, created, modified, lease FROM entry
             WHERE key >= ?1 AND key < ?2 ORDER BY key",
        )?
        .query_map(params![prefix.as_bytes(), prefix_end(prefix)], entry_of_row)?
        .collect()
}

/// From the columns key, value, created, modified, lease.
pub(super) fn entry_of_row(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row, 0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        created: revision(row, 2)?,
        modified: revision(row, 3)?,
        lease: row.get::<_, Option<i64>>(4)?.map(LeaseId),
    })
}

pub(super) fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

pub(super) fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    row.get(column).map(|number| Revision(unsigned(number)))
}

/// SQLite's integers are signed; revisions and times of ours never come near the limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
