//! `regentctl demo`: two sites and a witness on this machine, switched over under load.
//!
//! Ends with a table of what every event cost, and a report; fails when a row is lost, duplicated
//! or reordered, or when anything did not happen.

pub mod events;
pub mod stage;
pub mod story;

use std::sync::Arc;

use serde_json::json;

use crate::cli::Demo;
use crate::environment;
use crate::exit::{Ending, Exit, Failure};
use crate::lab::{Lab, Options};
use crate::load::{Target, Writer, judge, table};
use crate::render::Output;
use crate::report::{self, Case};
use crate::screen::{Line, Tone};
use crate::signals;
use crate::topology::TWO_SITES_AND_WITNESS;

use stage::{Pulse, Stage};
use story::Story;

/// Runs the demo. Interrupted, it removes everything it made.
pub async fn run(arguments: &Demo, output: &Output) -> Ending {
    let output = if arguments.plain { output.clone().plain() } else { output.clone() };
    let stage = Stage::new(&output);
    let stop = async {
        signals::interrupted().await;
        stage.clear();
        output.progress("interrupted: removing every process and file of the demo");
    };
    tokio::select! {
        ending = play(arguments, &output, &stage) => ending,
        () = stop => Err(Failure::new(Exit::Interrupted, "interrupted")),
    }
}

async fn play(arguments: &Demo, output: &Output, stage: &Stage) -> Ending {
    stage.act("two data sites and a witness on this machine");
    let options = Options { dir: None, dcs: Some(arguments.dcs.into()), bare: false };
    let mut progress = |line: &str| stage.say(Tone::Dim, line);
    let lab = Lab::up(TWO_SITES_AND_WITNESS, &options, &mut progress).await?;
    let cases = match perform(&lab, output, stage).await {
        Ok(cases) => cases,
        Err(problem) if arguments.keep => {
            let dir = lab.detach().await?.dir;
            let down = format!("regentctl lab down --dir {}", dir.display());
            return Err(problem.next(format!("the lab was kept; {down}")));
        }
        Err(problem) => {
            lab.down().await?;
            return Err(problem);
        }
    };
    report::write(&arguments.report, &cases)?;
    output.json(&json!({ "report": arguments.report, "cases": cases }));
    stage.say(Tone::Dim, format!("report: {}", arguments.report.display()));
    finish(lab, arguments, stage).await?;
    if report::passed(&cases) { Ok(Exit::Done) } else { Err(failed(&cases)) }
}

fn failed(cases: &[Case]) -> Failure {
    let failed: Vec<String> = cases
        .iter()
        .filter(|case| case.verdict == report::Verdict::Fail)
        .map(|case| format!("{} ({})", case.name, case.reason))
        .collect();
    Failure::error(format!("the demo failed: {}", failed.join("; ")))
}

/// Everything between the federation's start and its end.
async fn perform(lab: &Lab, output: &Output, stage: &Stage) -> Result<Vec<Case>, Failure> {
    let sites = lab.data_sites();
    let superuser = lab.client_config(&sites)?;
    table::make(&superuser, &lab.secrets().app).await?;
    let ports = lab.layout().nodes.iter().map(|node| node.postgres_port).collect();
    let writer = Arc::new(Writer::start(Target { ports, password: lab.secrets().app.clone() }));
    let watch = stage.watch(lab.coordinators());
    let pulse = Arc::clone(&writer);
    let draw = stage.draw(move || Some(pulse.look(|history| Pulse::of(history, pulse.now()))));
    stage.act("a client writes numbered rows");
    stage
        .say(Tone::Dim, format!("{} user=app", lab.conninfo(&sites).replace(" user=postgres", "")));

    let mut story = Story { lab, writer: &writer, stage, output, events: Vec::new() };
    let played = story.play().await;
    let events = story.events;
    if let Err(problem) = &played {
        stage.say(Tone::Bad, format!("the story stops here: {problem}"));
    }
    drop(draw);
    drop(watch);
    stage.clear();
    let history = writer.finish().await;
    let contents = table::read(&superuser).await?;
    let judgement = judge(&history, &contents);
    let rows = events::rows(&events, &history, &judgement);
    let mut cases = events::cases(&rows, &history, &judgement);
    stage.act("what became of the rows");
    stage.lines(&events::table(&rows, &cases, &judgement));
    // An act that failed outside an event still fails the demo.
    if let Err(problem) = played
        && report::passed(&cases)
    {
        cases.push(Case::new("story").require(false, || problem.message));
    }
    Ok(cases)
}

/// Leaves it running, or removes it; says what to try next.
async fn finish(lab: Lab, arguments: &Demo, stage: &Stage) -> Result<(), Failure> {
    let program = environment::program();
    if !arguments.keep {
        lab.down().await?;
        stage.act("try next");
        stage.lines(&[
            Line::plain("  make demo KEEP=1        the same, left running"),
            Line::plain("  make demo DCS=etcd      the same, on real etcd"),
            Line::plain(format!("  {program} lab up topologies/three-sites.yaml")),
        ]);
        return Ok(());
    }
    let conninfo = lab.conninfo(&lab.data_sites());
    let layout = lab.detach().await?;
    let dir = layout.dir.display();
    let node = layout.nodes.first().map(|node| node.name.to_string()).unwrap_or_default();
    stage.act("left running; try next");
    stage.lines(&[
        Line::plain(format!("  {program} status --watch")),
        Line::plain(format!("  {program} switchover --to us")),
        Line::plain(format!("  {program} lab kill {node}      and then: lab start {node}")),
        Line::plain(format!("  {program} operation list")),
        Line::plain(format!("  PGPASSFILE={dir}/pgpass psql '{conninfo}'")),
        Line::plain(format!("  {program} lab down --dir {dir}")),
    ]);
    Ok(())
}
