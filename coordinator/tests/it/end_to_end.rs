//! Whole coordinators over gRPC on the embedded store, with the agents' part played.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regent_coordinator::config::Config;
use regent_coordinator::run::Coordinator;
use regent_dcs::clock::BootClock;
use regent_dcs::sqlite::SqliteStore;
use regent_proto::wire as pb;
use regent_proto::wire::regent_client::RegentClient;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::agents::{ALL_LIVE, Conduct};
use crate::play::Play;
use crate::world::TWO_SITES;

/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    client: RegentClient<Channel>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(name: &str, quorum: &Path) -> Self {
        let yaml = format!(
            "name: {name}\nsite: eu\nlisten: 127.0.0.1:0\nfederations:\n  - name: f\n    quorum: \
             {{sqlite: {{path: {}}}}}\n",
            quorum.display()
        );
        let config = Config::parse(Path::new("test.yml"), &yaml).expect("a good configuration");
        let coordinator = Coordinator::build(&config).await.expect("it builds");
        let address = coordinator.address().expect("it listens");
        let stop = coordinator.stopper();
        let task = tokio::spawn(coordinator.run());
        let client = RegentClient::connect(format!("http://{address}")).await.expect("it answers");
        Self { client, stop, task }
    }

    async fn stop(self) {
        drop(self.client);
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    async fn picture(&mut self) -> pb::Federation {
        let asked = pb::GetFederationRequest { federation: String::new() };
        self.client.get_federation(asked).await.expect("an answer").into_inner()
    }

    /// Waits for a picture of this kind, over the stream.
    async fn until(&mut self, what: &str, holds: impl Fn(&pb::Federation) -> bool) {
        let asked = pb::GetFederationRequest { federation: "f".to_owned() };
        let mut pictures =
            self.client.watch_federation(asked).await.expect("a stream").into_inner();
        let search = async {
            while let Some(picture) = pictures.next().await {
                if holds(&picture.expect("a picture")) {
                    return;
                }
            }
            panic!("the stream ended before {what}");
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        if found.is_err() {
            panic!("never: {what}; {:#?}", self.picture().await);
        }
    }

    async fn apply(&mut self, yaml: &str, create: bool) -> Result<(), tonic::Status> {
        let asked = pb::ApplyTopologyRequest {
            yaml: yaml.to_owned(),
            dry_run: false,
            create,
            requested_by: "tester".to_owned(),
        };
        self.client.apply_topology(asked).await.map(drop)
    }

    async fn plan(&mut self, to: &str) -> pb::Plan {
        let to = to.to_owned();
        let asked =
            pb::PlanSwitchoverRequest { federation: String::new(), to, accept_unprotected: false };
        self.client.plan_switchover(asked).await.expect("a plan").into_inner()
    }

    async fn execute(&mut self, to: &str, hash: &str) -> Result<pb::Operation, tonic::Status> {
        let asked = pb::ExecuteSwitchoverRequest {
            federation: String::new(),
            to: to.to_owned(),
            plan_hash: hash.to_owned(),
            accept_unprotected: false,
            requested_by: "tester".to_owned(),
            reason: "a test".to_owned(),
        };
        self.client.execute_switchover(asked).await.map(tonic::Response::into_inner)
    }

    async fn begin(&mut self, to: &str) -> String {
        let plan = self.plan(to).await;
        self.execute(to, &plan.hash).await.expect("begun").id
    }

    /// Follows the operation to its end.
    async fn ended(&mut self, id: &str) -> pb::Operation {
        let asked = pb::GetOperationRequest { federation: String::new(), id: id.to_owned() };
        let mut states = self.client.watch_operation(asked).await.expect("a stream").into_inner();
        let end = async {
            let mut last = None;
            while let Some(state) = states.next().await {
                last = Some(state.expect("an operation"));
            }
            last.expect("at least one state")
        };
        tokio::time::timeout(PATIENCE, end).await.expect("it ends")
    }
}

fn play_on(quorum: &Path, conduct: Conduct) -> JoinHandle<()> {
    let store = SqliteStore::open(quorum).expect("the store");
    Play::begin(Arc::new(store), BootClock::kernel().expect("a boot id"), conduct)
}

/// A safe federation with one coordinator.
async fn safe(folder: &Path, conduct: Conduct) -> (Running, JoinHandle<()>) {
    let quorum = folder.join("quorum.db");
    let mut coordinator = Running::start("eu-c1", &quorum).await;
    let yaml = TWO_SITES.replace("handover_span: 10s", "handover_span: 1s");
    coordinator.apply(&yaml, true).await.expect("created");
    let play = play_on(&quorum, conduct);
    coordinator.until("the federation is safe", |picture| picture.safe).await;
    (coordinator, play)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_is_created_and_switched_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut eu, play) = safe(folder.path(), ALL_LIVE).await;
    let picture = eu.picture().await;
    assert_eq!((picture.primary_site.as_str(), picture.epoch), ("eu", 1));
    assert!(picture.loss_now.contains("us"), "{}", picture.loss_now);
    let again = eu.apply(TWO_SITES, true).await.expect_err("it exists");
    assert_eq!(again.code(), Code::FailedPrecondition);

    let plan = eu.plan("us").await;
    assert!(!plan.blocked, "{plan:#?}");
    let stale = eu.execute("us", "0123456789abcdef").await.expect_err("another hash");
    assert_eq!(stale.code(), Code::Aborted, "{stale}");
    for (to, code) in [
        ("wit", Code::FailedPrecondition),
        ("eu", Code::FailedPrecondition),
        ("nowhere", Code::FailedPrecondition),
        ("NO", Code::InvalidArgument),
    ] {
        assert_eq!(eu.execute(to, &plan.hash).await.expect_err(to).code(), code, "{to}");
    }

    let begun = eu.execute("us", &plan.hash).await.expect("begun");
    assert_eq!((begun.outcome.as_str(), begun.requested_by.as_str()), ("running", "tester"));
    let ended = eu.ended(&begun.id).await;
    assert_eq!(ended.outcome, "succeeded", "{ended:#?}");
    let steps: Vec<&str> = ended.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&"prepare"), Some(&"done")));
    eu.until("us is primary and all is safe", |p| p.safe && p.primary_site == "us").await;
    let asked = pb::ListOperationsRequest { federation: String::new(), limit: 0 };
    let listed = eu.client.list_operations(asked).await.expect("a list").into_inner();
    assert_eq!(listed.operations.len(), 1);
    let asked = pb::CancelOperationRequest {
        federation: String::new(),
        id: begun.id,
        requested_by: "tester".to_owned(),
    };
    let refused = eu.client.cancel_operation(asked).await.expect_err("it has ended");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    play.abort();
    eu.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_coordinator_goes_on_when_the_elected_one_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let waits = Conduct { checkpoints: false, ..ALL_LIVE };
    let (mut eu, play) = safe(folder.path(), waits).await;
    let quorum = folder.path().join("quorum.db");
    let mut us = Running::start("us-c1", &quorum).await;
    let id = eu.begin("us").await;
    us.until("it sees both", |picture| picture.coordinators.len() == 2).await;
    assert!(us.execute("us", "any").await.is_err(), "one operation at a time");
    eu.stop().await;
    us.until("it is elected", |picture| {
        picture.coordinators.iter().any(|c| c.name == "us-c1" && c.elected)
            && picture.coordinators.len() == 1
    })
    .await;
    play.abort();
    let play = play_on(&quorum, ALL_LIVE);
    assert_eq!(us.ended(&id).await.outcome, "succeeded");
    play.abort();
    us.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_take_costs_a_roll_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let conduct = Conduct { takes: false, ..ALL_LIVE };
    let (mut eu, play) = safe(folder.path(), conduct).await;
    let id = eu.begin("us").await;
    let ended = eu.ended(&id).await;
    assert_eq!(ended.outcome, "rolled-back", "{ended:#?}");
    assert!(ended.outcome_reason.contains("us has not taken"), "{}", ended.outcome_reason);
    eu.until("eu is primary and safe", |p| p.safe && p.primary_site == "eu").await;
    play.abort();
    eu.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_cancelled_while_it_prepares() {
    let folder = tempfile::tempdir().expect("a folder");
    let conduct = Conduct { checkpoints: false, ..ALL_LIVE };
    let (mut eu, play) = safe(folder.path(), conduct).await;
    let id = eu.begin("us").await;
    let asked = pb::CancelOperationRequest {
        federation: String::new(),
        id: id.clone(),
        requested_by: "tester".to_owned(),
    };
    // The record is written now and then while it prepares: a cancel may come too late for one
    // revision, is refused as such, and asked for again.
    for _ in 0..10 {
        match eu.client.cancel_operation(asked.clone()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    let ended = eu.ended(&id).await;
    assert_eq!(ended.outcome, "cancelled", "{ended:#?}");
    assert!(ended.outcome_reason.contains("tester"), "{}", ended.outcome_reason);
    play.abort();
    eu.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_one_clear_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let yaml = format!(
        "name: c\nsite: eu\nlisten: {address}\nfederations:\n  - name: f\n    quorum: {{sqlite: \
         {{path: {}}}}}\n",
        folder.path().join("quorum.db").display()
    );
    let config = Config::parse(Path::new("test.yml"), &yaml).expect("a good configuration");
    let Err(error) = Coordinator::build(&config).await else { panic!("two listeners") };
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
}
