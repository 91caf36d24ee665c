//! What only etcd does: members that are dead, frozen or without a quorum, and users.

use std::time::Duration;

use etcd_client::{Permission, PermissionType};
use regent_dcs::clock::BootClock;
use regent_dcs::etcd::{EtcdConfig, EtcdStore, EtcdTls, EtcdUser};
use regent_dcs::{Change, Revision, Store, StoreError, Txn, WatchError};

use crate::cluster::{self, Cluster};

const TIMEOUT: Duration = Duration::from_secs(2);

fn put(key: &str) -> Txn {
    Txn::new().then(Change::put(key, "x"))
}

/// A dead member is left once and not asked again; a frozen one costs half a timeout, once, and
/// no transaction an unknown outcome unless it froze within the last half second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_dead_and_frozen_members_for_good() {
    let Some(program) = cluster::program("leaves_dead_and_frozen_members_for_good") else { return };
    let cluster = Cluster::start(program, 3).await;
    let clock = BootClock::kernel().unwrap();
    let victim = (cluster.leader().await + 1) % 3;
    cluster.freeze(victim);
    let store = cluster.store(victim);
    let begun = clock.now();
    store.txn(put("/a"), TIMEOUT).await.unwrap();
    let first = clock.now().since(begun);
    assert!(first < TIMEOUT, "the first call took {first:?}");
    let begun = clock.now();
    for _ in 0..20 {
        store.txn(put("/a"), TIMEOUT).await.unwrap();
    }
    let twenty = clock.now().since(begun);
    assert!(twenty < Duration::from_secs(2), "twenty more took {twenty:?}");
    println!("nearest member frozen: first call {first:?}, then {:?} each", twenty / 20);
    cluster.thaw(victim);

    cluster.kill(victim);
    let store = cluster.store(victim);
    let begun = clock.now();
    store.txn(put("/a"), TIMEOUT).await.unwrap();
    let first = clock.now().since(begun);
    assert!(first < Duration::from_secs(1), "the first call took {first:?}");
    println!("nearest member dead: first call {first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn says_what_may_have_happened() {
    let Some(program) = cluster::program("says_what_may_have_happened") else { return };
    let cluster = Cluster::start(program, 3).await;
    let clock = BootClock::kernel().unwrap();
    let leader = cluster.leader().await;
    let store = cluster.store(leader);
    // Just heard from, then frozen, and no other member to settle it quickly.
    store.txn(put("/a"), TIMEOUT).await.unwrap();
    for index in 0..3 {
        cluster.freeze(index);
    }
    let begun = clock.now();
    let outcome = store.txn(put("/a"), TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::Unknown { .. })), "fresh and frozen: {outcome:?}");
    let outcome = store.txn(put("/a"), TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::NotDone { .. })), "silent: {outcome:?}");
    let outcome = store.get("/a", TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::NotDone { .. })), "a read: {outcome:?}");
    let took = clock.now().since(begun);
    assert!(took < TIMEOUT * 3 + Duration::from_secs(1), "three timeouts took {took:?}");
    for index in 0..3 {
        cluster.thaw(index);
    }

    // No quorum: the one that is left knows no leader and says so.
    let left = cluster.leader().await;
    for index in (0..3).filter(|index| *index != left) {
        cluster.kill(index);
    }
    let store = cluster.store(left);
    let give_up = clock.now().plus(Duration::from_secs(10));
    loop {
        let outcome = store.txn(put("/a"), TIMEOUT).await;
        match outcome {
            Err(StoreError::NotDone { .. }) => break,
            // Until it has noticed itself.
            Err(StoreError::Unknown { .. }) if clock.now() < give_up => {}
            other => panic!("without a quorum: {other:?}"),
        }
    }
    let outcome = store.get("/a", TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::NotDone { .. })), "a read: {outcome:?}");

    cluster.kill(left);
    let begun = clock.now();
    let outcome = store.txn(put("/a"), TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::NotDone { .. })), "nobody there: {outcome:?}");
    assert!(clock.now().since(begun) < TIMEOUT + Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_member_does_not_hold_a_watch() {
    let Some(program) = cluster::program("a_frozen_member_does_not_hold_a_watch") else { return };
    let cluster = Cluster::start(program, 3).await;
    let clock = BootClock::kernel().unwrap();
    let victim = (cluster.leader().await + 1) % 3;
    let store = cluster.store(victim);
    let mut watch = store.watch("/a", Revision(0), TIMEOUT).await.unwrap();
    store.txn(put("/a/1"), TIMEOUT).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 1);
    cluster.freeze(victim);
    let begun = clock.now();
    let ended = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(ended, Err(WatchError::Failed(_))), "{ended:?}");
    println!("a frozen member's watch ended after {:?}", clock.now().since(begun));
    // The next watch is on another member.
    let mut watch = store.watch("/a", Revision(0), TIMEOUT).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 1);
}

#[tokio::test]
async fn configurations_that_can_not_work_are_refused() {
    let tls = EtcdTls { ca: "/nowhere/ca.pem".into(), ..EtcdTls::default() };
    let of = |endpoints: &[&str], tls: Option<EtcdTls>| EtcdConfig {
        endpoints: endpoints.iter().map(|&e| e.to_owned()).collect(),
        user: None,
        tls,
    };
    for (config, words) in [
        (of(&[], None), "no endpoints"),
        (of(&["localhost:2379"], None), "http:// or https://"),
        (of(&["https://localhost:2379"], None), "needs a CA"),
        (of(&["http://localhost:2379"], Some(tls.clone())), "not https://"),
        (of(&["https://localhost:2379"], Some(tls)), "/nowhere/ca.pem"),
    ] {
        let error = EtcdStore::connect(config).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_see_and_change_what_they_may() {
    let Some(program) = cluster::program("users_see_and_change_what_they_may") else { return };
    let cluster = Cluster::start(program, 1).await;
    let mut client = cluster.client(0).await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("ours").await.unwrap();
    let ours = Permission::new(PermissionType::Readwrite, "/ours/").with_prefix();
    client.role_grant_permission("ours", ours).await.unwrap();
    client.user_add("agent", "hunter2", None).await.unwrap();
    client.user_grant_role("agent", "ours").await.unwrap();
    client.auth_enable().await.unwrap();

    let as_user = |name: &str, password: &str| {
        let user = EtcdUser { name: name.to_owned(), password: password.to_owned() };
        assert!(!format!("{user:?}").contains(password), "the password shows in {user:?}");
        let endpoints = vec![cluster.endpoint(0)];
        EtcdStore::connect(EtcdConfig { endpoints, user: Some(user), tls: None }).unwrap()
    };
    let agent = as_user("agent", "hunter2");
    agent.txn(put("/ours/a"), TIMEOUT).await.unwrap();
    let outcome = agent.txn(put("/others/a"), TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    let outcome = agent.get("/others/a", TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    let outcome = as_user("agent", "wrong").get("/ours/a", TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");
    let outcome = cluster.store(0).get("/ours/a", TIMEOUT).await;
    assert!(matches!(outcome, Err(StoreError::Refused { .. })), "{outcome:?}");

    // A renewal is every agent's right and needs no permission on keys.
    let lease = agent.grant(Duration::from_secs(5), TIMEOUT).await.unwrap();
    agent.renew(lease.id, TIMEOUT).await.unwrap();
    // A restarted member has forgotten all tokens; the store gets itself a new one.
    cluster.kill(0);
    cluster.restart_unasked(0);
    let give_up = BootClock::kernel().unwrap().now().plus(Duration::from_secs(20));
    while let Err(error) = agent.get("/ours/a", TIMEOUT).await {
        assert!(matches!(error, StoreError::NotDone { .. }), "{error}");
        assert!(BootClock::kernel().unwrap().now() < give_up, "{error}");
    }
    agent.txn(put("/ours/a"), TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_tls_and_names_it_when_it_fails() {
    let name = "speaks_tls_and_names_it_when_it_fails";
    let Some(program) = cluster::program(name) else { return };
    let directory = tempfile::tempdir().unwrap();
    if !cluster::make_certificates(directory.path()) {
        return cluster::skip(name, "openssl made no certificates");
    }
    let certificates = directory.path().to_owned();
    let cluster = Cluster::start_with(program, 1, Some(certificates.clone())).await;
    let store = cluster.store(0);
    let mut watch = store.watch("/a", Revision(0), TIMEOUT).await.unwrap();
    store.txn(put("/a"), TIMEOUT).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 1);

    // Without our certificate the member just hangs up.
    let tls = EtcdTls { ca: certificates.join("ca.pem"), certificate: None, key: None };
    let endpoints = vec![cluster.endpoint(0)];
    let nobody = EtcdConfig { endpoints, user: None, tls: Some(tls) };
    let nobody = EtcdStore::connect(nobody).unwrap();
    let error = nobody.get("/a", Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, StoreError::NotDone { .. }), "{error}");
    // Which of the two depends on whether its alert or its hanging up is seen first.
    let words = error.to_string();
    assert!(words.contains("TLS") || words.contains("BadCertificate"), "{words}");
}
