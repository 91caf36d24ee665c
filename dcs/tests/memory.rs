//! The faults of the store in memory: each does what its name says.

#![cfg(test)]

use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::memory::{Call, Fault, MemoryStore};
use regent_dcs::{Change, Compare, Event, Renewal, Revision, Store, StoreError, Txn, WatchError};
use regent_proto::time::BootTime;

const T: Duration = Duration::from_secs(1);

fn put(key: &str) -> Txn {
    Txn::new().when(Compare::Absent { key: key.to_owned() }).then(Change::put(key, "x"))
}

fn new_store() -> (BootClock, MemoryStore, MemoryStore) {
    let clock = BootClock::manual("boot", BootTime::from_nanos(1));
    let store = MemoryStore::new(clock.clone());
    let other = store.process("other");
    (clock, store, other)
}

#[tokio::test]
async fn ordered_faults_strike_once_in_order() {
    let (_clock, store, other) = new_store();
    for fault in [Fault::Refused, Fault::NotDone, Fault::UnknownNotApplied, Fault::UnknownApplied] {
        store.faults().order(Some(Call::Txn), fault);
    }
    assert_eq!(store.get("/a", T).await, Ok(None), "another call is not struck");
    assert!(matches!(store.txn(put("/a"), T).await, Err(StoreError::Refused { .. })));
    assert!(matches!(store.txn(put("/a"), T).await, Err(StoreError::NotDone { .. })));
    assert!(matches!(store.txn(put("/a"), T).await, Err(StoreError::Unknown { .. })));
    assert_eq!(other.get("/a", T).await, Ok(None), "nothing was applied so far");
    assert!(matches!(store.txn(put("/a"), T).await, Err(StoreError::Unknown { .. })));
    assert!(other.get("/a", T).await.unwrap().is_some(), "this one was");
    store.txn(put("/b"), T).await.unwrap();
}

#[tokio::test]
async fn late_transaction_takes_effect_after_its_sender_gave_up() {
    let (clock, store, other) = new_store();
    let late = Duration::from_secs(3);
    let mut watch = other.watch("/", Revision(0), T).await.unwrap();
    store.faults().order(None, Fault::UnknownAppliedLater(late));
    assert!(matches!(store.txn(put("/a"), T).await, Err(StoreError::Unknown { .. })));
    assert_eq!(store.get("/a", T).await, Ok(None), "a read after the failure shows nothing yet");
    clock.advance(late);
    assert!(matches!(&watch.next().await.unwrap()[..], [Event::Put(_)]));
    // Its compares are made when it arrives.
    store.faults().order(None, Fault::UnknownAppliedLater(late));
    assert!(store.txn(put("/b"), T).await.is_err());
    other.txn(put("/b"), T).await.unwrap();
    let before = other.get("/b", T).await.unwrap();
    clock.advance(late);
    assert_eq!(other.get("/b", T).await.unwrap(), before);
}

#[tokio::test]
async fn cut_off_process_comes_back() {
    let (_clock, store, other) = new_store();
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    store.faults().otherwise(|_| Some(Fault::NotDone));
    store.faults().cut_watches();
    assert!(matches!(watch.next().await, Err(WatchError::Failed(_))));
    assert!(store.watch("/", Revision(0), T).await.is_err());
    assert!(store.get("/a", T).await.is_err());
    assert_eq!(other.get("/a", T).await, Ok(None));
    store.faults().otherwise(|_| None);
    assert_eq!(store.get("/a", T).await, Ok(None));
}

#[tokio::test]
async fn delay_counts_on_the_clock_of_the_store() {
    let (clock, store, _other) = new_store();
    store.faults().order(None, Fault::Delayed(T / 2));
    store.faults().order(None, Fault::Delayed(T * 2));
    let slow = async {
        store.txn(put("/a"), T).await.unwrap();
        let lost = store.txn(put("/b"), T).await;
        assert!(matches!(lost, Err(StoreError::Unknown { .. })), "{lost:?}");
    };
    let time = async {
        for _ in 0..100 {
            clock.advance(T / 10);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(slow, time);
    assert!(store.get("/a", T).await.unwrap().is_some());
    assert_eq!(store.get("/b", T).await, Ok(None));
}

#[tokio::test]
async fn lease_ends_by_the_clock_or_early_when_ordered() {
    let (clock, store, other) = new_store();
    for early in [false, true] {
        let lease = store.grant(T, T).await.unwrap().id;
        let txn = Txn::new().then(Change::put_leased("/leader", "x", lease));
        let start = store.txn(txn, T).await.unwrap().applied().unwrap();
        let mut watch = other.watch("/leader", start, T).await.unwrap();
        if early {
            store.expire_early(lease);
        } else {
            clock.advance(T - Duration::from_nanos(1));
            assert!(other.get("/leader", T).await.unwrap().is_some());
            clock.advance(Duration::from_nanos(1));
        }
        assert!(matches!(&watch.next().await.unwrap()[..], [Event::Deleted { .. }]));
        assert_eq!(store.renew(lease, T).await, Ok(Renewal::Lost));
    }
}

#[tokio::test]
async fn compaction_ends_a_watch_that_is_behind() {
    let (_clock, store, _other) = new_store();
    let mut watch = store.watch("/", Revision(0), T).await.unwrap();
    store.txn(put("/a"), T).await.unwrap();
    store.compact(0);
    assert!(matches!(watch.next().await, Err(WatchError::Compacted { .. })));
}
