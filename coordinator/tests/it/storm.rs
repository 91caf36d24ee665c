//! Coordinators whose store loses requests and answers, applies late, and cuts watches: the
//! switchover ends all the same, and once.

use std::sync::Arc;
use std::time::Duration;

use regent_coordinator::act::session;
use regent_coordinator::api::Api;
use regent_coordinator::federation;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::{Call, Fault, Faults, MemoryStore};
use regent_proto::wire as pb;
use regent_proto::wire::regent_server::Regent as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::agents::ALL_LIVE;
use crate::play::Play;
use crate::world::{self, TWO_SITES};

const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator: the same storm for the same seed.
struct Storm(u64);

impl Storm {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % 100
    }

    fn strike(&mut self, call: Call) -> Option<Fault> {
        match (call, self.next()) {
            (Call::Txn, 0..10) => Some(Fault::UnknownApplied),
            (Call::Txn, 10..20) => Some(Fault::UnknownNotApplied),
            (Call::Txn, 20..25) => Some(Fault::UnknownAppliedLater(Duration::from_millis(40))),
            (Call::Txn | Call::Range | Call::Watch, 25..35) => Some(Fault::NotDone),
            _ => None,
        }
    }
}

/// A coordinator in this process, on this store.
fn coordinator(
    name: &str,
    store: &MemoryStore,
    clock: &BootClock,
    stop: &CancellationToken,
) -> Api {
    let mut policy = world::policy();
    policy.me = name.parse().expect("a name");
    let shared: Arc<dyn regent_dcs::Store> = Arc::new(store.clone());
    let (sessions, session) = watch::channel(None);
    tokio::spawn(session::keep(
        shared.clone(),
        clock.clone(),
        sessions,
        stop.clone(),
        session::random_tenure,
    ));
    let federation = "f".parse().expect("a label");
    let (state, handle) =
        federation::build(policy.clone(), federation, shared, clock.clone(), session);
    tokio::spawn(state.run(stop.clone()));
    Api::new(policy, clock.clone(), vec![handle], stop.clone())
}

async fn picture(api: &Api) -> pb::Federation {
    let asked = pb::GetFederationRequest { federation: String::new() };
    api.get_federation(Request::new(asked)).await.expect("an answer").into_inner()
}

async fn until(api: &Api, what: &str, holds: impl Fn(&pb::Federation) -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let search = async {
        while !holds(&picture(api).await) {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, search).await.is_ok(), "never: {what}");
}

fn brew(faults: &Faults, seed: u64) {
    let mut storm = Storm(seed);
    faults.otherwise(move |call| storm.strike(call));
}

async fn one_storm(seed: u64) {
    let clock = BootClock::kernel().expect("a boot id");
    let quiet = MemoryStore::new(clock.clone());
    let stop = CancellationToken::new();
    let (first, second) = (quiet.process("eu-c1"), quiet.process("us-c1"));
    let eu = coordinator("eu-c1", &first, &clock, &stop);
    let us = coordinator("us-c1", &second, &clock, &stop);
    until(&eu, "elected", |picture| picture.coordinators.iter().any(|c| c.elected)).await;
    let asked = pb::ApplyTopologyRequest {
        yaml: TWO_SITES.to_owned(),
        create: true,
        ..pb::ApplyTopologyRequest::default()
    };
    eu.apply_topology(Request::new(asked)).await.expect("created");
    let play = Play::begin(Arc::new(quiet.clone()), clock.clone(), ALL_LIVE);
    until(&us, "safe", |picture| picture.safe).await;
    let asked =
        pb::PlanSwitchoverRequest { to: "us".to_owned(), ..pb::PlanSwitchoverRequest::default() };
    let plan = us.plan_switchover(Request::new(asked)).await.expect("a plan").into_inner();
    let asked = pb::ExecuteSwitchoverRequest {
        to: "us".to_owned(),
        plan_hash: plan.hash,
        ..pb::ExecuteSwitchoverRequest::default()
    };
    brew(first.faults(), seed);
    brew(second.faults(), seed + 1);
    // A request may be lost too; then nothing has begun, and it is asked for again.
    while us.execute_switchover(Request::new(asked.clone())).await.is_err()
        && picture(&us).await.operation.is_none()
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until(&us, "us is primary", |picture| picture.primary_site == "us").await;
    first.faults().cut_watches();
    until(&us, "the operation has ended", |picture| picture.operation.is_none()).await;
    let asked = pb::ListOperationsRequest::default();
    let listed = us.list_operations(Request::new(asked)).await.expect("a list").into_inner();
    let outcomes: Vec<&str> = listed.operations.iter().map(|o| o.outcome.as_str()).collect();
    assert_eq!(outcomes, ["succeeded"], "seed {seed}");
    assert_eq!(picture(&us).await.epoch, 2, "seed {seed}");
    play.abort();
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_in_a_storm_ends_once_and_well() {
    let storms = (1..=6).map(|seed| tokio::spawn(one_storm(seed * 1000)));
    for storm in storms.collect::<Vec<_>>() {
        storm.await.expect("it ends well");
    }
}
