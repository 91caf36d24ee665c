//! The program as scripts see it: exit codes, JSON, endpoints in order, start-up time. Against a
//! coordinator of our own making that answers what each case needs.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use regent_proto::wire::regent_server::{Regent, RegentServer};
use regent_proto::wire::{
    ApplyTopologyRequest, ApplyTopologyResponse, CancelOperationRequest, Check,
    ExecuteFenceRequest, ExecutePromotionRequest, ExecuteSwitchoverRequest, Federation,
    GetFederationRequest, GetOperationRequest, ListFederationsRequest, ListFederationsResponse,
    ListOperationsRequest, ListOperationsResponse, Operation, OperationStep, Plan,
    PlanFenceRequest, PlanPromotionRequest, PlanSwitchoverRequest, Topology,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers by the target site's name: `blocked`, `stale`, `rolled-back`, anything else succeeds.
#[derive(Debug)]
struct Stub;

fn plan(to: &str) -> Plan {
    let blocked = to == "blocked";
    let check = Check {
        name: "lag".into(),
        verdict: if blocked { "block" } else { "pass" }.into(),
        saw: "1 GB".into(),
        wanted: "less than 16 MB".into(),
        next: "regentctl status".into(),
    };
    let hash = format!("hash-of-{to}");
    Plan {
        kind: "switchover".into(),
        from: "eu".into(),
        to: to.into(),
        epoch: 1,
        checks: vec![check],
        steps: vec![],
        hash,
        blocked,
    }
}

fn fence(site: &str) -> Plan {
    Plan { kind: "fence".into(), from: site.into(), to: String::new(), ..plan(site) }
}

/// Its hash is of all that was asked for.
fn promotion(asked: &PlanPromotionRequest) -> Plan {
    let blocked = asked.accept_loss.is_none();
    let verdict = if blocked { "block" } else { "pass" }.to_owned();
    let check = Check { name: "loss-accepted".into(), verdict, ..Check::default() };
    let hash = format!("{:?} {}", asked.accept_loss, asked.end_lease);
    Plan { kind: "promotion".into(), checks: vec![check], hash, blocked, ..plan(&asked.to) }
}

fn operation(to: &str) -> Operation {
    let outcome = if to == "rolled-back" { "rolled-back" } else { "succeeded" };
    let step = OperationStep { name: "done".into(), entered_at_ms: 1_250, note: String::new() };
    Operation {
        id: format!("op-{to}"),
        kind: "switchover".into(),
        from: "eu".into(),
        to: to.into(),
        requested_at_ms: 1_000,
        steps: vec![step],
        outcome: outcome.into(),
        ended_at_ms: Some(1_300),
        outage_ms: Some(70),
        ..Operation::default()
    }
}

#[tonic::async_trait]
impl Regent for Stub {
    async fn list_federations(
        &self,
        _: Request<ListFederationsRequest>,
    ) -> Answer<ListFederationsResponse> {
        Ok(Response::new(ListFederationsResponse { names: vec!["f".into()] }))
    }

    async fn get_federation(&self, request: Request<GetFederationRequest>) -> Answer<Federation> {
        let name = request.into_inner().federation;
        if name == "nowhere" {
            return Err(Status::not_found("no federation nowhere; this one serves f"));
        }
        Ok(Response::new(Federation { name: "f".into(), safe: true, ..Federation::default() }))
    }

    type WatchFederationStream = Flow<Federation>;

    async fn watch_federation(
        &self,
        _: Request<GetFederationRequest>,
    ) -> Answer<Self::WatchFederationStream> {
        // One picture, and then nothing happens any more.
        let picture = Federation { name: "f".into(), safe: true, ..Federation::default() };
        let stream = futures::stream::iter([Ok(picture)]).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn plan_switchover(&self, request: Request<PlanSwitchoverRequest>) -> Answer<Plan> {
        Ok(Response::new(plan(&request.into_inner().to)))
    }

    async fn execute_switchover(
        &self,
        request: Request<ExecuteSwitchoverRequest>,
    ) -> Answer<Operation> {
        let request = request.into_inner();
        if request.to == "stale" {
            return Err(Status::aborted("the plan is stale: epoch 2 instead of 1"));
        }
        if request.plan_hash != plan(&request.to).hash {
            return Err(Status::internal("not the plan that was shown"));
        }
        Ok(Response::new(Operation { outcome: "running".into(), ..operation(&request.to) }))
    }

    async fn plan_fence(&self, request: Request<PlanFenceRequest>) -> Answer<Plan> {
        Ok(Response::new(fence(&request.into_inner().site)))
    }

    async fn execute_fence(&self, request: Request<ExecuteFenceRequest>) -> Answer<Operation> {
        let request = request.into_inner();
        if request.plan_hash != fence(&request.site).hash {
            return Err(Status::internal("not the plan that was shown"));
        }
        let kind = if request.lift { "unfence" } else { "fence" };
        let (from, to) = (request.site, String::new());
        Ok(Response::new(Operation { kind: kind.into(), from, to, ..operation("") }))
    }

    async fn plan_promotion(&self, request: Request<PlanPromotionRequest>) -> Answer<Plan> {
        Ok(Response::new(promotion(&request.into_inner())))
    }

    async fn execute_promotion(
        &self,
        request: Request<ExecutePromotionRequest>,
    ) -> Answer<Operation> {
        let request = request.into_inner();
        let planned = PlanPromotionRequest {
            federation: request.federation,
            to: request.to.clone(),
            accept_loss: request.accept_loss,
            end_lease: request.end_lease,
        };
        if request.plan_hash != promotion(&planned).hash {
            return Err(Status::internal("not the plan that was shown"));
        }
        let outcome = "running".into();
        Ok(Response::new(Operation { kind: "promotion".into(), outcome, ..operation(&request.to) }))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        Ok(Response::new(operation(request.into_inner().id.trim_start_matches("op-"))))
    }

    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        Ok(Response::new(ListOperationsResponse { operations: vec![operation("us")] }))
    }

    type WatchOperationStream = Flow<Operation>;

    async fn watch_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let ended = operation(request.into_inner().id.trim_start_matches("op-"));
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(ended)]))))
    }

    async fn cancel_operation(&self, _: Request<CancelOperationRequest>) -> Answer<Operation> {
        Err(Status::failed_precondition("the operation is in take: it can no longer be cancelled"))
    }

    async fn apply_topology(
        &self,
        request: Request<ApplyTopologyRequest>,
    ) -> Answer<ApplyTopologyResponse> {
        let applied = !request.into_inner().dry_run;
        let changes = vec!["policy.site_ttl: 30s → 5s".to_owned()];
        Ok(Response::new(ApplyTopologyResponse { changes, warnings: vec![], applied }))
    }

    async fn get_topology(&self, _: Request<GetFederationRequest>) -> Answer<Topology> {
        Err(Status::unavailable("the quorum cannot be reached"))
    }
}

/// A coordinator on a port of its own, for as long as this lives.
struct Coordinator {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Coordinator {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let serving = tonic::transport::Server::builder()
            .add_service(RegentServer::new(Stub))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(serving);
        Self { address, _runtime: runtime }
    }

    /// Runs regentctl against it; a dead endpoint comes first.
    fn ask(&self, arguments: &[&str]) -> Output {
        let endpoints = format!("127.0.0.1:1,{}", self.address);
        run(&[&["--endpoint", &endpoints], arguments].concat())
    }
}

#[expect(clippy::disallowed_methods, reason = "this test is about the program as a process")]
fn program(arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_regentctl"));
    program
        .args(arguments)
        .env_remove("REGENT_ENDPOINTS")
        .env_remove("REGENT_LAB")
        .env_remove("REGENT_FEDERATION")
        .stdin(Stdio::null());
    program
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("regentctl starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_switchover_ends_with_the_code_of_its_outcome() {
    let coordinator = Coordinator::start();
    let switch = |to: &str| coordinator.ask(&["switchover", "--yes", "--to", to]);
    let done = switch("us");
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let last = "succeeded (writes stood still for 70 ms, 300 ms in all)\n";
    assert!(stdout(&done).ends_with(last), "{}", stdout(&done));
    let blocked = switch("blocked");
    assert_eq!(code(&blocked), 3);
    assert!(stderr(&blocked).contains("lag: 1 GB, wanted less than 16 MB"), "{}", stderr(&blocked));
    assert_eq!(stdout(&blocked), "", "no plan: only the refusal is printed");
    let stale = switch("stale");
    assert_eq!(code(&stale), 3);
    assert!(stderr(&stale).contains("the plan is stale"), "{}", stderr(&stale));
    assert_eq!(code(&switch("rolled-back")), 4);
}

#[test]
fn a_fence_wants_its_reason_and_a_yes() {
    let coordinator = Coordinator::start();
    let silent = coordinator.ask(&["fence", "eu", "--yes"]);
    assert_eq!(code(&silent), 2, "{}", stderr(&silent));
    assert!(stderr(&silent).contains("--reason"), "{}", stderr(&silent));
    let asked = coordinator.ask(&["fence", "eu", "--reason", "a drill"]);
    assert_eq!(code(&asked), 2, "{}", stderr(&asked));
    let blocked = coordinator.ask(&["fence", "blocked", "--reason", "a drill", "--yes"]);
    assert_eq!(code(&blocked), 3, "{}", stderr(&blocked));
    for (verb, reason) in [("fence", "a drill"), ("unfence", "")] {
        let done = coordinator.ask(&[verb, "eu", "--reason", reason, "--yes"]);
        assert_eq!(code(&done), 0, "{}", stderr(&done));
        assert!(stdout(&done).contains("succeeded"), "{}", stdout(&done));
    }
}

#[test]
fn a_promotion_wants_its_reason_its_loss_and_a_yes() {
    let coordinator = Coordinator::start();
    let promote = |more: &[&str]| coordinator.ask(&[&["promote", "us"], more].concat());
    let loss = ["--accept-loss-age", "90s", "--accept-loss-bytes", "16MB", "--without", "ap"];
    let silent = promote(&[&loss[..], &["--yes"]].concat());
    assert_eq!(code(&silent), 2, "{}", stderr(&silent));
    assert!(stderr(&silent).contains("--reason"), "{}", stderr(&silent));
    let nothing = promote(&["--reason", "eu is dark", "--yes"]);
    assert_eq!(code(&nothing), 3, "{}", stderr(&nothing));
    assert!(stderr(&nothing).contains("loss-accepted"), "{}", stderr(&nothing));
    let unsure = promote(&[&loss[..], &["--reason", "eu is dark"]].concat());
    assert_eq!(code(&unsure), 2, "{}", stderr(&unsure));
    assert_eq!(code(&promote(&[&loss[..], &["--dry-run"]].concat())), 0);
    let done = promote(&[&loss[..], &["--reason", "eu is dark", "--yes"]].concat());
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(stdout(&done).contains("succeeded"), "{}", stdout(&done));
}

#[test]
fn nothing_is_executed_without_a_yes() {
    let coordinator = Coordinator::start();
    let asked = coordinator.ask(&["switchover", "--to", "us"]);
    assert_eq!(code(&asked), 2);
    assert!(stderr(&asked).contains("--yes"), "{}", stderr(&asked));
    let dry = coordinator.ask(&["switchover", "--to", "us", "--dry-run"]);
    assert_eq!(code(&dry), 0);
    assert!(stdout(&dry).ends_with("dry run: nothing was changed\n"), "{}", stdout(&dry));
}

#[test]
fn programs_get_json_also_of_failures() {
    let coordinator = Coordinator::start();
    let parse = |output: &Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
    };
    let status = coordinator.ask(&["-o", "json", "status"]);
    assert_eq!(parse(&status)["safe"], true);
    let plan = coordinator.ask(&["-o", "json", "switchover", "--to", "us", "--dry-run"]);
    assert_eq!(parse(&plan)["hash"], "hash-of-us");
    let list = coordinator.ask(&["-o", "json", "operation", "list"]);
    assert_eq!(parse(&list)[0]["outage_ms"], 70);
    let refused = coordinator.ask(&["-o", "json", "operation", "cancel", "op-us"]);
    assert_eq!(code(&refused), 3);
    assert_eq!(parse(&refused)["exit"], 3);
    let wrong = coordinator.ask(&["-o", "json", "--federation", "nowhere", "status"]);
    assert_eq!(code(&wrong), 3);
    let lost = coordinator.ask(&["topology", "show"]);
    assert_eq!(code(&lost), 5, "the coordinator has no quorum: {}", stderr(&lost));
}

#[test]
fn a_usage_error_is_2_and_an_unreachable_federation_5() {
    for arguments in [
        vec!["switchover"],
        vec!["frobnicate"],
        vec!["--endpoint", "nonsense", "status"],
        vec!["topology", "validate", "/nonexistent.yaml"],
        vec!["demo", "--dcs", "zookeeper"],
        vec!["bench", "switchover", "--pairs", "0"],
    ] {
        let output = run(&arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
    let alone = run(&["--endpoint", "127.0.0.1:1", "status"]);
    assert_eq!(code(&alone), 5);
    assert!(stderr(&alone).contains("127.0.0.1:1: Connection refused"), "{}", stderr(&alone));
}

#[test]
fn no_colour_reaches_a_pipe() {
    let coordinator = Coordinator::start();
    assert!(!stdout(&coordinator.ask(&["status"])).contains('\x1b'));
}

#[test]
fn watching_ends_quietly_with_the_reader_of_its_pipe() {
    let coordinator = Coordinator::start();
    let endpoint = coordinator.address.to_string();
    for format in ["text", "json"] {
        let mut watching = program(&["--endpoint", &endpoint, "-o", format, "status", "--watch"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("regentctl starts");
        let mut pipe = BufReader::new(watching.stdout.take().expect("its output is a pipe"));
        let mut first = String::new();
        pipe.read_line(&mut first).expect("a picture comes");
        assert!(!first.is_empty());
        // Nothing happens in the federation any more, so nothing is written that could fail.
        drop(pipe);
        let (ended, waits) = mpsc::channel();
        let process = watching.id();
        std::thread::spawn(move || ended.send(watching.wait_with_output()));
        let Ok(output) = waits.recv_timeout(Duration::from_secs(20)) else {
            let process = i32::try_from(process).expect("a process id");
            let process = rustix::process::Pid::from_raw(process).expect("not 0");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).ok();
            panic!("{format}: it still watches, for nobody");
        };
        let output = output.expect("it was waited for");
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{format}");
    }
}

#[test]
fn start_up_takes_less_than_50_ms() {
    // The best of several: the claim is about the program, not about the machine's load.
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let best = (0..10)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(code(&run(&["--version"])), 0);
            begun.elapsed()
        })
        .min();
    assert!(best.is_some_and(|best| best < Duration::from_millis(50)), "{best:?}");
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("switchover"), "{shell}");
        assert!(!stdout(&output).is_empty());
    }
}
