//! `regentctl bench switchover`: what Regent adds to the write outage that PostgreSQL itself needs.
//!
//! Alternating pairs in one run, on one machine, with one client: a planned switchover of the
//! two-site topology, then a bare hand-over ([`bare`]) between two servers with the same settings.
//! [`failover`] is `bench failover`: one site beside Patroni.

pub mod bare;
pub mod failover;
pub mod figures;
pub mod idle;
pub mod system;

use std::path::Path;
use std::time::Duration;

use regent_proto::wire::Operation;
use serde_json::json;

use crate::cli::Dcs;
use crate::clock;
use crate::exit::{Ending, Exit, Failure};
use crate::lab::{Lab, Options, ready};
use crate::load::{History, Target, Writer, judge, outage, table};
use crate::render::Output;
use crate::report::{self, Case};
use crate::screen::span;
use crate::signals;
use crate::topology::TWO_SITES_AND_WITNESS;
use crate::verbs::switchover;

use bare::Bare;

/// Undisturbed writing before each event.
const CALM: Duration = Duration::from_secs(1);
/// Rows after which writes count as back.
const BACK: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the benchmark. Interrupted, it removes everything it made.
pub async fn run(pairs: u32, dcs: Dcs, report: &Path, output: &Output) -> Ending {
    or_interrupted(measure(pairs, dcs, report, output), output).await
}

/// Whatever the measurement has made is its own, and goes with it when it is dropped.
async fn or_interrupted(measurement: impl Future<Output = Ending>, output: &Output) -> Ending {
    let stop = async {
        signals::interrupted().await;
        output.progress("interrupted: removing every process and file of the benchmark");
    };
    tokio::select! {
        ending = measurement => ending,
        () = stop => Err(Failure::new(Exit::Interrupted, "interrupted")),
    }
}

async fn measure(pairs: u32, dcs: Dcs, report_file: &Path, output: &Output) -> Ending {
    let options = Options { dir: None, dcs: Some(dcs.into()), bare: false };
    let mut progress = |line: &str| output.progress(line);
    let lab = Lab::up(TWO_SITES_AND_WITNESS, &options, &mut progress).await?;
    let measured = Box::pin(all_pairs(&lab, pairs, output)).await;
    lab.down().await?;
    judge_cases(&measured?, report_file, output)
}

/// Writes the report, shows it, and fails where a case does.
fn judge_cases(cases: &[Case], report_file: &Path, output: &Output) -> Ending {
    report::write(report_file, cases)?;
    output.json(&json!({ "report": report_file, "cases": cases }));
    for case in cases {
        let figures: Vec<String> = case
            .figures
            .iter()
            .filter(|figure| !figure.name.contains("run-"))
            .map(|figure| format!("{} {:.1} {}", figure.name, figure.value, figure.unit))
            .collect();
        output.say(format!(
            "{:?}  {}: {}  {}",
            case.verdict,
            case.name,
            figures.join(", "),
            case.reason
        ));
    }
    output.say(format!("report: {}", report_file.display()));
    if report::passed(cases) {
        return Ok(Exit::Done);
    }
    let reasons: Vec<&str> =
        cases.iter().map(|c| c.reason.as_str()).filter(|r| !r.is_empty()).collect();
    Err(Failure::error(format!("the benchmark failed: {}", reasons.join("; "))))
}

/// One of the two systems with what its client did so far.
struct Side {
    name: &'static str,
    target: Target,
    history: History,
}

impl Side {
    fn new(name: &'static str, ports: Vec<u16>, lab: &Lab) -> Self {
        let target = Target { ports, password: lab.secrets().app.clone() };
        Self { name, target, history: History::default() }
    }

    /// Writes, lets the event happen, and gives the largest gap around it, with words for people.
    async fn measure(
        &mut self,
        event: impl Future<Output = Result<String, Failure>>,
    ) -> Result<(Duration, String), Failure> {
        let writer = Writer::resume(self.target.clone(), self.history.sent);
        writer.wait_for(BACK, Duration::ZERO, LIMIT).await?;
        tokio::time::sleep(CALM).await;
        let from = writer.now();
        let parts = event.await?;
        writer.wait_for(BACK, writer.now(), LIMIT).await?;
        let to = writer.now();
        let history = writer.finish().await;
        let gap = outage(&history.acks, from, to).length;
        self.history.append(history);
        Ok((gap, format!("{} ({parts})", span(clock::millis(gap)))))
    }

    /// The rows' fate, as a case.
    async fn judged(&self, config: &tokio_postgres::Config) -> Result<Case, Failure> {
        let judgement = judge(&self.history, &table::read(config).await?);
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        Ok(Case::new(format!("rows-{}", self.name))
            .figure("acknowledged", count(judgement.acknowledged), "rows")
            .figure("lost", count(judgement.lost.len()), "rows")
            .figure("duplicated", count(judgement.duplicated.len()), "rows")
            .figure("reordered", count(judgement.reordered.len()), "rows")
            .require(judgement.is_clean(), || format!("{}: {judgement:?}", self.name)))
    }
}

async fn all_pairs(lab: &Lab, pairs: u32, output: &Output) -> Result<Vec<Case>, Failure> {
    output.progress("making the two bare servers");
    let mut bare = Bare::start(lab).await?;
    let superuser = lab.client_config(&lab.data_sites())?;
    table::make(&superuser, &lab.secrets().app).await?;
    table::make(&bare.superuser(), &lab.secrets().app).await?;
    let mut ours = Side::new("planned-switchover", leaders(lab).await?, lab);
    let mut theirs = Side::new("bare-hand-over", bare.ports(), lab);
    let (mut switchovers, mut hand_overs) = (Vec::new(), Vec::new());
    let sites = lab.data_sites();
    for pair in 1..=pairs {
        let target =
            sites.iter().cycle().nth(pair as usize).ok_or_else(|| Failure::error("no site"))?;
        ready::wait(lab, &mut |_| {}).await?;
        ours.target.ports = leaders(lab).await?;
        let (gap, one) = ours.measure(switch(lab, target.as_str())).await?;
        switchovers.push(gap);
        let (gap, other) = theirs.measure(bare.hand_over()).await?;
        hand_overs.push(gap);
        bare.rejoin().await?;
        output
            .progress(format!("pair {pair} of {pairs}: switchover {one}; bare hand-over {other}"));
    }
    let mut cases = figures::cases(&switchovers, &hand_overs);
    cases.push(ours.judged(&superuser).await?);
    cases.push(theirs.judged(&bare.superuser()).await?);
    Ok(cases)
}

/// The ports of the two servers between which the primary moves: each site's leader. The client
/// names only these, as it names only two of the bare servers, so that both clients walk equally
/// many hosts.
async fn leaders(lab: &Lab) -> Result<Vec<u16>, Failure> {
    let federation = lab.coordinators().federation().await?;
    let ports: Vec<u16> = federation
        .sites
        .iter()
        .filter_map(|site| lab.layout().node(&site.leader))
        .map(|node| node.postgres_port)
        .collect();
    if ports.len() == 2 {
        return Ok(ports);
    }
    Err(Failure::error(format!("{} sites have a leader, wanted 2", ports.len()))
        .next("regentctl status"))
}

async fn switch(lab: &Lab, to: &str) -> Result<String, Failure> {
    let coordinators = lab.coordinators();
    let done = switchover::carry_out(&coordinators, to, "benchmark", |_| {}, |_| {});
    match tokio::time::timeout(LIMIT, done).await {
        Ok(done) => done.map(|operation| steps(&operation)),
        Err(_) => Err(Failure::error(format!("switchover to {to} has not ended within {LIMIT:?}"))),
    }
}

/// When each step was entered, in words.
fn steps(operation: &Operation) -> String {
    let begun = operation.requested_at_ms;
    let steps = operation
        .steps
        .iter()
        .map(|step| format!("{} {} ms", step.name, step.entered_at_ms.saturating_sub(begun)));
    steps.collect::<Vec<_>>().join(", ")
}
