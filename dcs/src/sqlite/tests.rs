//! What only the store's inside can show; what every store must do is in [`crate::conformance`].

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use rusqlite::Connection;

use super::*;
use crate::{Change, Event};

const T: Duration = Duration::from_secs(5);

fn new_store() -> (tempfile::TempDir, PathBuf, SqliteStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    (directory, path, store)
}

/// A commit as another process makes it that dies before it rings the bell.
fn commit_without_bell(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "BEGIN IMMEDIATE;
             UPDATE meta SET revision = revision + 1;
             INSERT INTO entry SELECT CAST('/silent' AS BLOB), CAST('x' AS BLOB), revision, revision, NULL FROM meta;
             INSERT INTO change SELECT revision, CAST('/silent' AS BLOB), CAST('x' AS BLOB), revision, NULL FROM meta;
             COMMIT;",
        )
        .unwrap();
}

#[tokio::test]
async fn commit_of_a_writer_that_died_before_the_bell_is_seen() {
    let (_directory, path, store) = new_store();
    let clock = BootClock::kernel().unwrap();
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    // One look, so that the watch really sleeps when the silent commit comes.
    let nothing = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
    assert!(nothing.is_err());
    let begun = clock.now();
    commit_without_bell(&path);
    let events = watch.next().await.unwrap();
    let took = clock.now().since(begun);
    assert!(matches!(&events[..], [Event::Put(entry)] if entry.key == "/silent"), "{events:?}");
    assert!(took < watch::RECHECK + Duration::from_millis(500), "seen only after {took:?}");
}

#[tokio::test]
async fn commit_without_bell_is_not_lost_to_a_later_one() {
    let (_directory, path, store) = new_store();
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    commit_without_bell(&path);
    store.txn(Txn::new().then(Change::put("/loud", "x")), T).await.unwrap();
    let mut keys = Vec::new();
    while keys.len() < 2 {
        keys.extend(watch.next().await.unwrap().iter().map(|e| e.key().to_owned()));
    }
    assert_eq!(keys, ["/silent", "/loud"]);
}

#[tokio::test]
async fn look_that_was_dropped_is_made_again() {
    let (_directory, path, store) = new_store();
    let clock = BootClock::kernel().unwrap();
    let mut watch = watch::SqliteWatch::open(store.clone(), "/", Revision(0), T).await.unwrap();
    let writer = SqliteStore::open(&path).unwrap();
    for turn in 0..20_u8 {
        writer.txn(Txn::new().then(Change::put("/a", [turn])), T).await.unwrap();
        watch.has_rung().await;
        // Mostly dropped while the other thread reads the log; on a busy machine it may be done.
        if watch.next().now_or_never().is_some() {
            continue;
        }
        let begun = clock.now();
        assert_eq!(watch.next().await.unwrap().len(), 1);
        let took = clock.now().since(begun);
        assert!(took < watch::RECHECK / 2, "the bell was forgotten: {took:?}");
    }
}

#[tokio::test]
async fn write_that_waits_for_the_lock_is_not_done_in_time() {
    let (_directory, path, store) = new_store();
    let clock = BootClock::kernel().unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE meta SET revision = revision").unwrap();
    let begun = clock.now();
    let timeout = Duration::from_millis(200);
    let outcome = store.txn(Txn::new().then(Change::put("/a", "x")), timeout).await;
    let took = clock.now().since(begun);
    assert!(matches!(outcome, Err(StoreError::NotDone { .. })), "{outcome:?}");
    assert!(took < timeout + Duration::from_millis(500), "took {took:?}");
    // Readers don't wait for writers.
    let begun = clock.now();
    assert_eq!(store.get("/a", T).await, Ok(None));
    assert!(clock.now().since(begun) < timeout);
    // What was called off stays called off.
    other.execute_batch("ROLLBACK").unwrap();
    store.txn(Txn::new().then(Change::put("/b", "x")), T).await.unwrap();
    assert_eq!(store.get("/a", T).await, Ok(None));
}

#[tokio::test]
async fn dropped_call_that_had_not_begun_is_called_off() {
    let (_directory, path, store) = new_store();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE meta SET revision = revision").unwrap();
    let put = store.txn(Txn::new().then(Change::put("/a", "x")), T);
    assert!(tokio::time::timeout(Duration::from_millis(50), put).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    // The next call waits behind it on the same thread.
    store.txn(Txn::new().then(Change::put("/b", "x")), T).await.unwrap();
    assert_eq!(store.get("/a", T).await, Ok(None));
}

#[tokio::test]
async fn change_log_is_compacted_by_itself() {
    let (_directory, path, store) = new_store();
    for turn in 0..10_u8 {
        store.txn(Txn::new().then(Change::put("/a", [turn])), T).await.unwrap();
    }
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("UPDATE meta SET revision = 20000").unwrap();
    store.txn(Txn::new().then(Change::put("/a", "x")), T).await.unwrap();
    // The compaction comes after the answer and before the next call.
    store.txn(Txn::new().then(Change::put("/a", "y")), T).await.unwrap();
    let left: i64 =
        connection.query_row("SELECT count(*) FROM change", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 2);
    let ended = store.watch("/a", Revision(5), T).await.map(drop);
    assert_eq!(ended, Err(WatchError::Compacted { oldest: Revision(20_001 - 10_000) }));
    assert_eq!(store.get("/a", T).await.unwrap().unwrap().value, b"y"[..]);
}

#[tokio::test]
async fn watch_ahead_of_the_store_is_told_to_read_again() {
    let (_directory, _path, store) = new_store();
    let ended = store.watch("/", Revision(1000), T).await.map(drop);
    assert!(matches!(ended, Err(WatchError::Compacted { .. })), "{ended:?}");
}

#[tokio::test]
async fn watch_of_many_changes_comes_in_parts_without_splitting_a_revision() {
    let (_directory, _path, store) = new_store();
    for turn in 0..20_u32 {
        let changes = (0..50).map(|i| Change::put(format!("/{i:02}"), turn.to_string())).collect();
        store.txn(Txn { compares: Vec::new(), changes }, T).await.unwrap();
    }
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    let (mut seen, mut parts) = (0, 0);
    while seen < 20 * 50 {
        let events = watch.next().await.unwrap();
        assert_eq!(events.len() % 50, 0, "a revision was split");
        seen += events.len();
        parts += 1;
    }
    assert!(parts > 1);
}

/// The figures of the switchover's path. Debug builds on a busy machine have to pass too, so the
/// bounds are far above what is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_take_milliseconds() {
    let (_directory, path, store) = new_store();
    let other = SqliteStore::open(&path).unwrap();
    let clock = BootClock::kernel().unwrap();
    let mut watch = other.watch("/", Revision(0), T).await.unwrap();
    let (mut put, mut seen, mut get) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..300_u32 {
        let begun = clock.now();
        store.txn(Txn::new().then(Change::put("/a", turn.to_string())), T).await.unwrap();
        put.push(clock.now().since(begun));
        assert_eq!(watch.next().await.unwrap().len(), 1);
        seen.push(clock.now().since(begun));
        let begun = clock.now();
        other.get("/a", T).await.unwrap();
        get.push(clock.now().since(begun));
    }
    for (what, times) in [("txn", &mut put), ("txn until seen", &mut seen), ("get", &mut get)] {
        times.sort();
        println!("{what}: median {:?}, p95 {:?}, max {:?}", times[150], times[285], times[299]);
        assert!(times[150] < Duration::from_millis(20), "{what}: {:?}", times[150]);
    }
}
