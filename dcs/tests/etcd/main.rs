//! The etcd store against a real cluster of three members: the conformance suite, at rest and with
//! each kind of trouble in the middle of every case, and what only etcd can do to us.

#![cfg(test)]

mod cluster;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cluster::Cluster;
use regent_dcs::clock::BootClock;
use regent_dcs::conformance::{self, CASES, Expectations, Failure, Harness};
use regent_dcs::{Store, StoreError};
use tokio::sync::watch;

const AT_REST: Expectations = Expectations {
    disturbed: false,
    timeout: Duration::from_secs(5),
    patience: Duration::from_secs(20),
    ttl: Duration::from_secs(1),
    // etcd looks for expired leases twice a second, and then it has to agree on it.
    expiry_late_by: Duration::from_secs(3),
    wake_up: Duration::from_millis(100),
};

const DISTURBED: Expectations = Expectations {
    disturbed: true,
    timeout: Duration::from_secs(2),
    patience: Duration::from_secs(40),
    // An election starts every lease anew.
    expiry_late_by: Duration::from_secs(15),
    ..AT_REST
};

/// How long a disturbance lasts: longer than an election.
const DISTURBANCE: Duration = Duration::from_secs(2);

/// A cluster under test. Stores take turns in which member is nearest to them.
struct Etcd<'a> {
    cluster: &'a Cluster,
    opened: AtomicUsize,
    expectations: Expectations,
    /// Cases that are in their middle.
    midway: watch::Sender<usize>,
    /// Whether the disturbance has begun.
    begun: watch::Sender<bool>,
}

impl<'a> Etcd<'a> {
    fn new(cluster: &'a Cluster, expectations: Expectations) -> Self {
        Self {
            cluster,
            opened: AtomicUsize::new(0),
            expectations,
            midway: watch::Sender::new(0),
            begun: watch::Sender::new(!expectations.disturbed),
        }
    }

    /// Waits until every case is in its middle, then begins.
    async fn when_all_are_midway(&self) {
        let mut midway = self.midway.subscribe();
        let all = midway.wait_for(|count| *count >= CASES.len());
        let arrived = tokio::time::timeout(DISTURBED.patience, all).await;
        assert!(arrived.is_ok(), "only {} cases came to their middle", *self.midway.borrow());
    }
}

#[async_trait]
impl Harness for Etcd<'_> {
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        let nearest = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(self.cluster.store(nearest % self.cluster.size())))
    }

    async fn compact(&self) -> Result<(), Failure> {
        self.cluster.compact().await;
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        self.expectations
    }

    async fn midway(&self) {
        self.midway.send_modify(|count| *count += 1);
        let mut begun = self.begun.subscribe();
        // Bounded by the other side, which gives up with a message.
        drop(begun.wait_for(|begun| *begun).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_conforms() {
    let Some(program) = cluster::program("etcd_conforms") else { return };
    let cluster = Cluster::start(program, 3).await;
    let clock = BootClock::kernel().unwrap();
    let harness = Etcd::new(&cluster, AT_REST);
    let begun = clock.now();
    let failures = conformance::run(&harness).await;
    println!("{} cases at rest: {:?}", CASES.len(), clock.now().since(begun));
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Runs all cases with the disturbance in the middle of each.
async fn disturbed(
    name: &str,
    disturb: impl AsyncFnOnce(&Cluster) -> usize,
    heal: impl AsyncFnOnce(&Cluster, usize),
) {
    let Some(program) = cluster::program(name) else { return };
    let cluster = Cluster::start(program, 3).await;
    let clock = BootClock::kernel().unwrap();
    let harness = Etcd::new(&cluster, DISTURBED);
    let begun = clock.now();
    let trouble = async {
        harness.when_all_are_midway().await;
        let victim = disturb(&cluster).await;
        harness.begun.send_replace(true);
        tokio::time::sleep(DISTURBANCE).await;
        heal(&cluster, victim).await;
    };
    let (failures, ()) = tokio::join!(conformance::run_together(&harness), trouble);
    println!("{} cases, {name}: {:?}", CASES.len(), clock.now().since(begun));
    assert!(failures.is_empty(), "{name}: {failures:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_the_leader_is_killed() {
    let disturb = async |cluster: &Cluster| {
        let leader = cluster.leader().await;
        cluster.kill(leader);
        leader
    };
    let heal = async |cluster: &Cluster, victim| cluster.restart(victim).await;
    disturbed("leader killed", disturb, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_a_follower_is_killed() {
    let disturb = async |cluster: &Cluster| {
        let victim = (cluster.leader().await + 1) % cluster.size();
        cluster.kill(victim);
        victim
    };
    let heal = async |cluster: &Cluster, victim| cluster.restart(victim).await;
    disturbed("follower killed", disturb, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_the_leader_is_frozen() {
    let disturb = async |cluster: &Cluster| {
        let leader = cluster.leader().await;
        cluster.freeze(leader);
        leader
    };
    let heal = async |cluster: &Cluster, victim| cluster.thaw(victim);
    disturbed("leader frozen", disturb, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_a_follower_is_frozen() {
    let disturb = async |cluster: &Cluster| {
        let victim = (cluster.leader().await + 1) % cluster.size();
        cluster.freeze(victim);
        victim
    };
    let heal = async |cluster: &Cluster, victim| cluster.thaw(victim);
    disturbed("follower frozen", disturb, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_the_leader_moves() {
    let disturb = async |cluster: &Cluster| {
        cluster.move_leader().await;
        0
    };
    // And once more while the cases go on.
    let heal = async |cluster: &Cluster, _| cluster.move_leader().await;
    disturbed("leader moved", disturb, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_while_it_is_compacted() {
    let disturb = async |cluster: &Cluster| {
        cluster.compact().await;
        0
    };
    let heal = async |cluster: &Cluster, _| cluster.compact().await;
    disturbed("compacted", disturb, heal).await;
}
