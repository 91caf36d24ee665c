//! Taking the leader key: what was decided, on the picture it was decided on, and nothing else (I3).

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::site::SiteStore;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::MemoryStore;
use regent_dcs::{Change, Compare, LeaseId, Store as _, Txn};
use regent_proto::keys::{SiteKey, SiteKeys};

const T: Duration = Duration::from_secs(1);

/// A site whose `sync` was read at the revision returned, and a lease.
async fn site() -> (SiteStore, Option<u64>, LeaseId) {
    let store = MemoryStore::new(BootClock::kernel().expect("a boot id"));
    let scope = "eu".parse().expect("a scope");
    let keys = SiteKeys::new("/service", &scope);
    let sync = store
        .txn(Txn::new().then(Change::put(keys.key(SiteKey::Sync), "{}")), T)
        .await
        .expect("a store");
    let lease = store.grant(Duration::from_secs(60), T).await.expect("a lease").id;
    let revision = sync.applied().map(|revision| revision.0);
    let me = "eu1".parse().expect("a name");
    (SiteStore { store: Arc::new(store), keys, me }, revision, lease)
}

#[tokio::test]
async fn a_key_that_is_gone_is_not_retaken_but_raced_for() {
    let (site, sync, lease) = site().await;
    let taken = site.acquire_leader(lease, Some(7), (None, sync), T).await;
    assert_eq!(taken, Ok(None), "the key of a former life is gone: nobody tested this node");
    let taken = site.acquire_leader(lease, None, (None, sync), T).await;
    assert!(matches!(taken, Ok(Some(_))), "{taken:?}");
}

#[tokio::test]
async fn the_key_of_a_former_life_is_bound_anew() {
    let (site, sync, lease) = site().await;
    let first = site.acquire_leader(lease, None, (None, sync), T).await.expect("a store");
    let former = first.map(|revision| revision.0);
    assert!(matches!(site.acquire_leader(lease, former, (None, sync), T).await, Ok(Some(_))));
}

#[tokio::test]
async fn nobody_takes_the_key_on_an_old_picture_of_sync() {
    let (site, sync, lease) = site().await;
    let key = site.keys.key(SiteKey::Sync);
    let put = Txn::new().then(Change::put(key, "{\"leader\": \"eu2\"}"));
    site.store.txn(put, T).await.expect("a store");
    let taken = site.acquire_leader(lease, None, (None, sync), T).await;
    assert_eq!(taken, Ok(None), "the record may name others by now");
    let absent = Compare::Absent { key: site.keys.key(SiteKey::Leader) };
    let found = site.store.txn(Txn::new().when(absent), T).await.expect("a store");
    assert!(found.applied().is_some(), "no key was made");
}

/// hazards.md row 8: whoever slept and decides late finds that another one leads.
#[tokio::test]
async fn nobody_takes_the_key_that_another_has() {
    let (site, sync, lease) = site().await;
    let taken = site.acquire_leader(lease, None, (None, sync), T).await.expect("a store");
    let revision = taken.expect("it was free").0;
    let late = SiteStore { me: "eu2".parse().expect("a name"), ..site.clone() };
    let own = late.store.grant(Duration::from_secs(60), T).await.expect("a lease").id;
    for former in [None, Some(revision)] {
        let taken = late.acquire_leader(own, former, (None, sync), T).await;
        assert_eq!(taken, Ok(None), "{former:?}");
    }
    let key = late.keys.key(SiteKey::Leader);
    let entry = late.store.get(&key, T).await.expect("a store").expect("there");
    assert_eq!((entry.value.as_ref(), entry.lease), (&b"eu1"[..], Some(lease)));
}
