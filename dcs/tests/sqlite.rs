//! The embedded store as a file among processes: its mode, strange files, reboots, other writers.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{Change, Compare, Event, Renewal, Revision, Store, StoreError, Txn, WatchError};
use regent_proto::time::BootTime;

const T: Duration = Duration::from_secs(5);

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Change::put(key, value))
}

fn refusal(path: &Path) -> String {
    match SqliteStore::open(path) {
        Err(error @ StoreError::Refused { .. }) => error.to_string(),
        other => panic!("{} was not refused: {other:?}", path.display()),
    }
}

#[tokio::test]
async fn files_belong_to_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    store.txn(put("/a", "x"), T).await.unwrap();
    let mut modes = BTreeMap::new();
    for file in fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        modes.insert(file.file_name().into_string().unwrap(), mode);
    }
    let names = ["store.db", "store.db-shm", "store.db-wal", "store.db.notify"];
    assert_eq!(modes, names.map(|name| (name.to_owned(), 0o600)).into());
    drop(store);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&path).contains("mode 644"));
}

#[test]
fn strange_files_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let private = |path: &Path, content: &[u8]| {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };

    private(&at("garbage"), &[b'g'; 5000]);
    assert!(refusal(&at("garbage")).contains("not a store of Regent"));
    assert_eq!(fs::read(at("garbage")).unwrap(), [b'g'; 5000]);

    private(&at("foreign"), b"");
    let foreign = rusqlite::Connection::open(at("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE t (x); PRAGMA application_id = 7").unwrap();
    drop(foreign);
    let before = fs::read(at("foreign")).unwrap();
    assert!(refusal(&at("foreign")).contains("another program's"));
    assert_eq!(fs::read(at("foreign")).unwrap(), before);

    drop(SqliteStore::open(&at("newer")).unwrap());
    let newer = rusqlite::Connection::open(at("newer")).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(newer);
    assert!(refusal(&at("newer")).contains("schema version 99"));

    assert!(refusal(&at("no/such/directory")).contains("No such file"));
    fs::create_dir(at("directory")).unwrap();
    assert!(refusal(&at("directory")).contains("not a regular file"));
}

/// An interrupted creation leaves an empty file; that is a new store, not garbage.
#[test]
fn empty_file_becomes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    SqliteStore::open(&path).unwrap();
    SqliteStore::open(&path).unwrap();
}

#[test]
fn many_can_make_the_same_store_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let path = directory.path().join(format!("store-{round}.db"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| SqliteStore::open(&path).unwrap());
            }
        });
    }
}

/// Going on would split the store: this process on the unlinked file, the others on the new one.
#[tokio::test]
async fn replaced_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    store.txn(put("/a", "x"), T).await.unwrap();
    fs::rename(&path, directory.path().join("away.db")).unwrap();
    for again in [false, true] {
        if again {
            SqliteStore::open(&path).unwrap();
        }
        let outcome = store.get("/a", T).await;
        assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
        let outcome = store.txn(put("/a", "y"), T).await;
        assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn leases_follow_the_boot_clock_and_start_anew_with_a_boot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let ttl = Duration::from_secs(10);
    let first = BootClock::manual("first boot", BootTime::from_nanos(3_600_000_000_000));
    let store = SqliteStore::open_with_clock(&path, first.clone()).unwrap();
    let lease = store.grant(ttl, T).await.unwrap().id;
    let txn = Txn::new().then(Change::put_leased("/leader", "x", lease));
    store.txn(txn, T).await.unwrap();
    first.advance(ttl - Duration::from_nanos(1));
    assert!(store.get("/leader", T).await.unwrap().is_some());
    assert_eq!(store.renew(lease, T).await, Ok(Renewal::Renewed { ttl }));
    drop(store);

    // Another boot, whose clock shows less: nobody knows how much time has passed.
    let second = BootClock::manual("second boot", BootTime::from_nanos(1));
    let store = SqliteStore::open_with_clock(&path, second.clone()).unwrap();
    let mut watch = store.watch("/leader", Revision(0), T).await.unwrap();
    assert!(matches!(&watch.next().await.unwrap()[..], [Event::Put(_)]));
    assert!(store.get("/leader", T).await.unwrap().is_some());
    second.advance(ttl - Duration::from_nanos(1));
    assert!(store.get("/leader", T).await.unwrap().is_some());
    second.advance(Duration::from_nanos(1));
    // The clock wakes the watch, and the watch ends the lease.
    assert!(matches!(&watch.next().await.unwrap()[..], [Event::Deleted { .. }]));
    assert_eq!(store.get("/leader", T).await, Ok(None));
    assert_eq!(store.renew(lease, T).await, Ok(Renewal::Lost));
}

/// A dead leader's key goes within milliseconds of its time, with nobody writing anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_sees_a_lease_end_promptly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (holder, watcher) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let clock = BootClock::kernel().unwrap();
    let mut late = Vec::new();
    for _ in 0..5 {
        let ttl = Duration::from_millis(300);
        let start = watcher.range("/", T).await.unwrap().revision;
        let mut watch = watcher.watch("/leader", start, T).await.unwrap();
        let lease = holder.grant(ttl, T).await.unwrap().id;
        let granted = clock.now();
        let txn = Txn::new().then(Change::put_leased("/leader", "x", lease));
        holder.txn(txn, T).await.unwrap();
        while !matches!(watch.next().await.unwrap().last(), Some(Event::Deleted { .. })) {}
        late.push(clock.now().since(granted).saturating_sub(ttl));
    }
    late.sort();
    println!("a lease's end is seen {:?} late (median), {:?} (worst)", late[2], late[4]);
    assert!(late[2] < Duration::from_millis(50), "{late:?}");
}

/// The name of the test that is the writer when this binary runs as a child.
const WRITER: &str = "writer_process";
/// Tells the child what to do: `PATH NAME COUNT`.
const WRITER_ORDERS: &str = "REGENT_DCS_TEST_WRITER";

/// Not a test by itself: what the children of the next one do.
#[tokio::test]
async fn writer_process() {
    #[expect(clippy::disallowed_methods, reason = "orders from the parent test")]
    let Ok(orders) = std::env::var(WRITER_ORDERS) else { return };
    let mut orders = orders.rsplitn(3, ' ');
    let count: u32 = orders.next().unwrap().parse().unwrap();
    let name = orders.next().unwrap();
    let store = SqliteStore::open(Path::new(orders.next().unwrap())).unwrap();
    let (own, shared) = (format!("/own/{name}"), "/shared".to_owned());
    for turn in 1..=count {
        loop {
            let entry = store.get(&shared, T).await.unwrap();
            let total =
                entry.as_ref().map_or(0, |e| String::from_utf8_lossy(&e.value).parse().unwrap());
            let txn = Txn::new()
                .when(Compare::as_read(shared.as_str(), entry.as_ref()))
                .then(Change::put(shared.as_str(), (total + 1_u32).to_string()))
                .then(Change::put(own.as_str(), turn.to_string()));
            if store.txn(txn, T).await.unwrap().applied().is_some() {
                break;
            }
        }
    }
}

struct Writer(Child);

impl Writer {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of these tests that runs children"
    )]
    fn start(path: &Path, name: &str, count: u32) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", WRITER])
            .env(WRITER_ORDERS, format!("{} {name} {count}", path.display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Most have ended by themselves.
        drop(self.0.kill());
        self.0.wait().unwrap();
    }
}

/// Several processes write as fast as they can, one is killed at a random moment; a watch in this
/// process sees every commit, once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_loses_no_commit_of_other_processes() {
    const EACH: u32 = 150;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    let mut writers: Vec<_> =
        ["a", "b", "c"].iter().map(|name| Writer::start(&path, name, EACH)).collect();
    let victim = Writer::start(&path, "victim", u32::MAX);
    let mut victim = Some(victim);

    let mut shared = Vec::new();
    let mut own: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut last = Revision(0);
    let finished = |own: &BTreeMap<String, Vec<u32>>| {
        ["a", "b", "c"].iter().all(|name| {
            own.get(&format!("/own/{name}")).is_some_and(|v| v.len() as u64 == u64::from(EACH))
        })
    };
    while !finished(&own) {
        let events = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        for event in events.expect("the writers stopped writing").unwrap() {
            let Event::Put(entry) = event else { panic!("{event:?}") };
            assert!(entry.modified >= last, "{entry:?} after {last}");
            last = entry.modified;
            let value = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
            match entry.key.as_str() {
                "/shared" => shared.push(value),
                _ => own.entry(entry.key).or_default().push(value),
            }
        }
        if own.get("/own/victim").is_some_and(|values| values.len() >= 20) {
            drop(victim.take());
        }
    }
    drop(victim);
    for writer in &mut writers {
        assert!(writer.0.wait().unwrap().success());
    }
    // What the victim had committed when it was killed may be seen a little later.
    let total = store.get("/shared", T).await.unwrap().unwrap();
    let total: u32 = String::from_utf8(total.value.to_vec()).unwrap().parse().unwrap();
    while shared.last() != Some(&total) {
        let events = tokio::time::timeout(Duration::from_secs(3), watch.next()).await;
        for event in events.expect("a commit was never seen").unwrap() {
            let Event::Put(entry) = event else { panic!("{event:?}") };
            let value = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
            match entry.key.as_str() {
                "/shared" => shared.push(value),
                _ => own.entry(entry.key).or_default().push(value),
            }
        }
    }
    assert_eq!(shared, (1..=total).collect::<Vec<_>>());
    for (key, values) in &own {
        let count = u32::try_from(values.len()).unwrap();
        assert_eq!(*values, (1..=count).collect::<Vec<_>>(), "{key}");
    }
    let sum: usize = own.values().map(Vec::len).sum();
    assert_eq!(sum, total as usize);
}

#[tokio::test]
async fn compact_keeps_what_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("store.db")).unwrap();
    for turn in 0..10 {
        store.txn(put("/a", &turn.to_string()), T).await.unwrap();
    }
    // Revision 1 is the empty store.
    assert_eq!(store.compact(3, T).await, Ok(Revision(8)));
    assert_eq!(store.compact(5, T).await, Ok(Revision(8)), "nothing comes back");
    let told = store.watch("/a", Revision(7), T).await.map(drop);
    assert_eq!(told, Err(WatchError::Compacted { oldest: Revision(8) }));
    let mut watch = store.watch("/a", Revision(8), T).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 3);
}
