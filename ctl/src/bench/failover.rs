//! `regentctl bench failover`: one site of three nodes, synchronous, under Regent and, where it is
//! installed, under Patroni, in one run, on one machine, with one etcd and one client for each.
//!
//! Each is made from nothing, idles while its cost is taken, and is stopped; both are made from nothing some
//! times more; then what happens to one happens to the other, in turns: a switchover, the death of the
//! primary's postmaster, of its whole node, of the node that commits wait for. Patroni takes no key that
//! lives less than 20 s: both have that, and at the end Regent's node dies at 5 s as well.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::exit::{Ending, Failure};
use crate::lab::{Lab, Options, Prepared, programs};
use crate::load::table;
use crate::render::Output;
use crate::report::Case;
use crate::screen::span;
use crate::verbs::site::{client, reason};
use crate::{clock, environment};

use super::idle::{Cost, cost, requests};
use super::system::System;
use super::{Side, figures, judge_cases, or_interrupted};

/// The site; its agents run without the federation that a topology needs.
const SITE: &str = "
federation: bench
primary: regent
sites:
  - name: regent
    kind: data
    dcs: etcd
    synchronous: true
    nodes:
      - name: regent-1
      - name: regent-2
      - name: regent-3
quorum:
  store: embedded
  voters: [regent]
policy:
  site_ttl: 5s
  primary_ttl: 15s
";
/// How often each is made from nothing.
const BOOTSTRAPS: u32 = 3;
/// Long enough for a new TTL to be in every lease, and for what a start has left to do.
const SETTLES: Duration = Duration::from_secs(5);
/// Longest wait for etcd's metrics.
const ANSWER: Duration = Duration::from_secs(10);

/// What happens to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Switchover,
    Postmaster,
    Node,
    Standby,
}

impl Event {
    const ALL: [Self; 4] = [Self::Switchover, Self::Postmaster, Self::Node, Self::Standby];

    fn name(self) -> &'static str {
        match self {
            Self::Switchover => "site-switchover",
            Self::Postmaster => "postmaster-killed",
            Self::Node => "node-crash",
            Self::Standby => "synchronous-standby-crash",
        }
    }

    /// The most that our median may be of Patroni's (issue 5). A crash lies anywhere between two
    /// renewals, which are up to a second of twenty apart: equal is within that.
    fn limit(self) -> f64 {
        match self {
            Self::Switchover | Self::Postmaster => 0.2,
            Self::Node => 1.05,
            Self::Standby => 0.5,
        }
    }

    async fn happen(self, system: &System, lab: &Lab) -> Result<String, Failure> {
        let now = system.whole().await?;
        match self {
            Self::Switchover => system.switch(&now).await,
            Self::Postmaster => system.kill_postmaster(&now),
            Self::Node => system.crash(lab, &now.leader).await,
            Self::Standby => system.crash(lab, &now.synchronous).await,
        }
    }
}

/// What a system costs while nothing happens.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    cost: Cost,
    /// Of its store.
    requests: f64,
}

/// A system with its client and what was measured of it, by [`Event::ALL`].
struct Contender {
    system: System,
    side: Side,
    bootstraps: Vec<Duration>,
    idle: Idle,
    gaps: [Vec<Duration>; Event::ALL.len()],
}

impl Contender {
    fn new(system: System, lab: &Lab) -> Self {
        let side = Side::new(system.name, system.ports(), lab);
        Self {
            system,
            side,
            bootstraps: Vec::new(),
            idle: Idle::default(),
            gaps: Default::default(),
        }
    }

    async fn bootstrap(&mut self, lab: &Lab, output: &Output) -> Result<(), Failure> {
        let took = self.system.bootstrap(lab).await?;
        self.bootstraps.push(took);
        let (number, name) = (self.bootstraps.len(), self.system.name);
        let took = span(clock::millis(took));
        output.progress(format!("bootstrap {number} of {BOOTSTRAPS}: {name} {took}"));
        Ok(())
    }

    /// Lets it happen once, and makes the site whole again.
    async fn meets(&mut self, event: Event, lab: &Lab) -> Result<(Duration, String), Failure> {
        self.system.whole().await?;
        let measured = self.side.measure(event.happen(&self.system, lab)).await?;
        self.system.revive(lab).await?;
        self.system.whole().await?;
        Ok(measured)
    }
}

/// Runs the comparison. Interrupted, it removes everything it made.
pub async fn run(rounds: u32, idle: Duration, report: &Path, output: &Output) -> Ending {
    or_interrupted(Box::pin(measure(rounds, idle, report, output)), output).await
}

async fn measure(rounds: u32, idle: Duration, report: &Path, output: &Output) -> Ending {
    let options = Options { dir: None, dcs: None, bare: true };
    let mut progress = |line: &str| output.progress(line);
    let mut prepared = Prepared::new(SITE, &options, &mut progress)?;
    let mut systems = vec![System::regent(&prepared)?];
    match programs::patroni() {
        Some(program) => systems.push(System::patroni(&prepared, program)?),
        None => output.progress(format!(
            "Patroni is not installed, so Regent stands alone; next: scripts/install --patroni, or \
             REGENT_TOOLS where that put it ({})",
            environment::tools().map_or("not set".to_owned(), |tools| tools.display().to_string())
        )),
    }
    // The lab itself starts the store only.
    prepared.layout.nodes.clear();
    prepared.layout.coordinators.clear();
    let lab = prepared.start().await?;
    let measured = Box::pin(all(&lab, systems, rounds, idle, output)).await;
    lab.down().await?;
    judge_cases(&measured?, report, output)
}

async fn all(
    lab: &Lab,
    systems: Vec<System>,
    rounds: u32,
    idle: Duration,
    output: &Output,
) -> Result<Vec<Case>, Failure> {
    let mut contenders = Vec::new();
    for system in systems {
        system.join(lab).await?;
        contenders.push(Contender::new(system, lab));
    }
    for contender in &mut contenders {
        contender.bootstrap(lab, output).await?;
        let name = contender.system.name;
        output.progress(format!("nothing happens to {name} for {}", span(clock::millis(idle))));
        contender.idle = idle_cost(lab, &contender.system, idle).await?;
        contender.system.stop(lab).await?;
    }
    for round in 2..=BOOTSTRAPS {
        for contender in in_turns(&mut contenders, round) {
            contender.bootstrap(lab, output).await?;
        }
    }
    for contender in &contenders {
        table::make(&contender.system.superuser(), &lab.secrets().app).await?;
    }
    for round in 1..=rounds {
        for (number, event) in Event::ALL.into_iter().enumerate() {
            for contender in in_turns(&mut contenders, round) {
                let (gap, said) = Box::pin(contender.meets(event, lab)).await?;
                contender.gaps[number].push(gap);
                let (name, event) = (contender.system.name, event.name());
                output.progress(format!("round {round} of {rounds}: {event}: {name} {said}"));
            }
        }
    }
    let mut cases = vec![compared("bootstrap", &contenders, |c| &c.bootstraps, None)];
    for (number, event) in Event::ALL.into_iter().enumerate() {
        let limit = Some(event.limit());
        cases.push(compared(event.name(), &contenders, |c| &c.gaps[number], limit));
    }
    cases.push(short_ttl(lab, &mut contenders, rounds, output).await?);
    cases.push(idle_case(&contenders, idle));
    for contender in &contenders {
        cases.push(contender.side.judged(&contender.system.superuser()).await?);
    }
    Ok(cases)
}

/// Every second round the other one comes first.
fn in_turns(contenders: &mut [Contender], round: u32) -> Vec<&mut Contender> {
    let mut order: Vec<&mut Contender> = contenders.iter_mut().collect();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

fn compared(
    name: &str,
    contenders: &[Contender],
    which: impl Fn(&Contender) -> &[Duration],
    limit: Option<f64>,
) -> Case {
    let mut spans = contenders.iter().map(which);
    let ours = spans.next().unwrap_or_default();
    figures::beside(name, ours, spans.next(), limit)
}

/// What a whole system costs while nothing happens and the other does not run.
async fn idle_cost(lab: &Lab, system: &System, idle: Duration) -> Result<Idle, Failure> {
    tokio::time::sleep(SETTLES).await;
    let pids = system.managers(lab).await?;
    let (before, asked) = (cost(&pids)?, requests_so_far(lab).await?);
    tokio::time::sleep(idle).await;
    let (after, answered) = (cost(&pids)?, requests_so_far(lab).await?);
    let cpu = after.cpu.saturating_sub(before.cpu);
    let cost = Cost { cpu, pss_kb: after.pss_kb };
    Ok(Idle { cost, requests: answered - asked })
}

/// How many requests the store was asked, by itself.
async fn requests_so_far(lab: &Lab) -> Result<f64, Failure> {
    let fail = |problem: String| Failure::error(format!("ask etcd for its metrics: {problem}"));
    let client = client()?;
    let mut all = 0.0;
    for place in &lab.layout().etcds {
        let asked = async {
            let url = format!("http://127.0.0.1:{}/metrics", place.client_port);
            client.get(url).send().await?.text().await
        };
        let text = tokio::time::timeout(ANSWER, asked)
            .await
            .map_err(|_| fail(format!("no answer within {ANSWER:?}")))?
            .map_err(|error| fail(reason(&error)))?;
        all += requests(&text).ok_or_else(|| fail("no grpc_server_msg_received_total".into()))?;
    }
    Ok(all)
}

/// Of one node, as the mean of all; the store's requests of all nodes together.
fn idle_case(contenders: &[Contender], idle: Duration) -> Case {
    let mut case = Case::new("idle");
    for contender in contenders {
        let nodes = f64::from(u32::try_from(contender.system.ports().len()).unwrap_or(u32::MAX));
        let (name, seen) = (contender.system.name, contender.idle);
        let cpu = seen.cost.cpu.as_secs_f64() * 1000.0 * 60.0 / idle.as_secs_f64() / nodes;
        let pss = f64::from(u32::try_from(seen.cost.pss_kb).unwrap_or(u32::MAX)) / nodes;
        case = case
            .figure(&format!("{name}-cpu-a-node"), cpu, "ms/min")
            .figure(&format!("{name}-pss-a-node"), pss, "kB")
            .figure(&format!("{name}-store"), seen.requests / idle.as_secs_f64(), "requests/s");
    }
    case
}

/// Our node crash where a key lives 5 s, which Patroni does not offer.
async fn short_ttl(
    lab: &Lab,
    contenders: &mut [Contender],
    rounds: u32,
    output: &Output,
) -> Result<Case, Failure> {
    let [ours, ..] = contenders else { return Err(Failure::error("nobody was measured")) };
    ours.system.patch(&json!({ "ttl": 5, "retry_timeout": 1 })).await?;
    tokio::time::sleep(SETTLES).await;
    let mut gaps = Vec::new();
    for round in 1..=rounds {
        let (gap, said) = Box::pin(ours.meets(Event::Node, lab)).await?;
        gaps.push(gap);
        output.progress(format!("round {round} of {rounds}: node crash at a TTL of 5 s: {said}"));
    }
    Ok(figures::beside("node-crash-ttl-5", &gaps, None, None))
}
