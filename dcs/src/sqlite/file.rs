//! The file itself: made with the right mode, recognised, given its tables.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::bell;
use super::database::Fault;

/// Marks the file as ours (`RGnt`), for `file(1)` and for ourselves.
const APPLICATION_ID: i32 = 0x5247_6e74;
/// Raised with every change of the tables that an older Regent can't read.
const SCHEMA_VERSION: i32 = 1;
/// Values and bells are nobody else's business: the file holds what agents trust.
const MODE: u32 = 0o600;
/// For several processes that make the same file at once.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

/// Keys are BLOBs so that they sort, and prefixes end, by bytes. `change.value` is NULL for a
/// deletion. The first revision is 1, as in etcd, so 0 is "before everything".
const SCHEMA: &str = "
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 1, 1, '');
CREATE TABLE entry (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    lease INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_lease ON entry (lease) WHERE lease IS NOT NULL;
CREATE TABLE change (
    revision INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB,
    created INTEGER NOT NULL,
    lease INTEGER,
    PRIMARY KEY (revision, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE lease (
    id INTEGER PRIMARY KEY,
    ttl INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
";

/// Which file a path leads to, to notice that it was replaced under an open store: SQLite would go
/// on writing into the unlinked one, and two processes would each have a store of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Makes sure that the file and its bell exist with the right mode.
pub(super) fn create(path: &Path) -> Result<(), Fault> {
    create_private(path).map_err(|error| Fault::Refused(format!("create: {error}")))?;
    let bell = bell::path(path);
    create_private(&bell)
        .map_err(|error| Fault::Refused(format!("create {}: {error}", bell.display())))?;
    let metadata = fs::metadata(path)
        .map_err(|error| Fault::NotDone(format!("read the file's mode: {error}")))?;
    if !metadata.is_file() {
        return Err(Fault::Refused("this is not a regular file".to_owned()));
    }
    let mode = metadata.mode();
    if mode & 0o077 != 0 {
        return Err(Fault::Refused(format!(
            "the file has mode {:03o}, so other users could read or change it; \
             make it 600 or remove it",
            mode & 0o777,
        )));
    }
    Ok(())
}

/// An empty file with our mode, unless there is one.
///
/// It is made beside its place and linked there: the file must never be opened in place by anything
/// but SQLite, because closing any descriptor of a file drops all POSIX locks that this process
/// holds on it, SQLite's too.
fn create_private(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let nonce = getrandom::u64().map_err(io::Error::other)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{nonce:016x}"));
    let beside = PathBuf::from(beside);
    drop(OpenOptions::new().write(true).create_new(true).mode(MODE).open(&beside)?);
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A connection to the file, which is recognised as ours or, when empty, made ours.
pub(super) fn connect(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(Fault::from_open)?;
    connection.busy_timeout(OPEN_PATIENCE).map_err(Fault::from_open)?;
    let found = {
        // Several questions about one state: another process may be giving the file its tables.
        let state = connection.unchecked_transaction().map_err(Fault::from_open)?;
        identify(&state)?
    };
    if found == Found::Empty {
        initialise(&mut connection)?;
    }
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA trusted_schema = OFF;
             PRAGMA wal_autocheckpoint = 4000;
             PRAGMA journal_size_limit = 16777216;",
        )
        .map_err(Fault::from_open)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Empty,
    Ours,
}

fn identify(connection: &Connection) -> Result<Found, Fault> {
    let pragma = |name: &str| -> Result<i32, Fault> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(Fault::from_open)
    };
    let application = pragma("application_id")?;
    let version = pragma("user_version")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(Fault::from_open)?;
    match (application, version, tables) {
        (0, 0, 0) => Ok(Found::Empty),
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(Found::Ours),
        (APPLICATION_ID, version, _) => Err(Fault::Refused(format!(
            "the file has schema version {version}, this Regent knows {SCHEMA_VERSION}; \
             it was made by another version of Regent",
        ))),
        (application, _, _) => Err(Fault::Refused(format!(
            "the file is another program's SQLite database (application id {application:#x}, \
             {tables} tables)",
        ))),
    }
}

fn initialise(connection: &mut Connection) -> Result<(), Fault> {
    set_wal_mode(connection)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(Fault::from_open)?;
    // Another process may have been faster; only under the write lock is the answer final.
    if identify(&transaction)? == Found::Ours {
        return Ok(());
    }
    transaction
        .execute_batch(SCHEMA)
        .and_then(|()| transaction.pragma_update(None, "application_id", APPLICATION_ID))
        .and_then(|()| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
        .and_then(|()| transaction.commit())
        .map_err(Fault::from_open)
}

/// The mode stays in the file. Changing it needs the file for oneself, and SQLite answers "busy" at
/// once when two try (it could deadlock), so this repeats.
fn set_wal_mode(connection: &Connection) -> Result<(), Fault> {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    loop {
        let answer: Result<String, rusqlite::Error> =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match answer {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Fault::Refused(format!(
                    "the file system can't do SQLite's WAL mode (it stays in {mode} mode)"
                )));
            }
            Err(error) if Fault::is_busy(&error) && waited < OPEN_PATIENCE => {
                // Opening is a blocking call anyway; an early wake-up only tries sooner.
                std::thread::park_timeout(PAUSE);
                waited += PAUSE;
            }
            Err(error) => return Err(Fault::from_open(error)),
        }
    }
}
