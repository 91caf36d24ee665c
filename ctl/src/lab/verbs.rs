//! `regentctl lab up|down|status|kill|start`.

use std::path::{Path, PathBuf};

use regent_proto::topology::StoreKind;
use serde_json::json;

use crate::cli::{Dcs, Global, LabPlace, LabVerb};
use crate::exit::{Ending, Exit, Failure};
use crate::render::Output;
use crate::screen::{Cell, Line, Tone, cell, columns};
use crate::signals;

use super::control::ProcessState;
use super::{Lab, Layout, Options, default_dir, owner, running, supervise, sweep};

/// Runs a verb of `lab`.
pub fn run(verb: LabVerb, global: &Global, output: &Output) -> Ending {
    match verb {
        LabVerb::Supervise { dir } => supervise::run(&dir),
        LabVerb::Up { topology, dir, dcs } => crate::block_on(up(&topology, dir, dcs, output)),
        LabVerb::Down(place) => crate::block_on(down(&place, global, output)),
        LabVerb::Status(place) => crate::block_on(status(&place, global, output)),
        LabVerb::Kill { name, dir } => crate::block_on(kill(&name, dir, global, output)),
        LabVerb::Start { name, dir } => crate::block_on(start(&name, dir, global, output)),
    }
}

impl From<Dcs> for StoreKind {
    fn from(dcs: Dcs) -> Self {
        match dcs {
            Dcs::Embedded => Self::Embedded,
            Dcs::Etcd => Self::Etcd,
        }
    }
}

async fn up(file: &Path, dir: Option<PathBuf>, dcs: Option<Dcs>, output: &Output) -> Ending {
    let (text, topology, findings) = crate::topology::read(file)?;
    for finding in findings {
        output.progress(format!("warning: {finding}"));
    }
    let dir = match dir {
        Some(dir) => dir,
        None => default_dir(&topology)?,
    };
    refuse_existing(&dir)?;
    let options = Options { dir: Some(dir), dcs: dcs.map(StoreKind::from), bare: false };
    let mut progress = |line: &str| output.progress(line);
    let lab = tokio::select! {
        lab = Lab::up(&text, &options, &mut progress) => lab?,
        () = signals::interrupted() => {
            return Err(Failure::new(Exit::Interrupted, "interrupted: the lab was removed"));
        }
    };
    let layout = lab.detach().await?;
    let shown = layout.dir.display();
    output.json(&json!({
        "dir": layout.dir, "federation": layout.federation, "endpoints": layout.endpoints(),
    }));
    let mut next = vec!["status --watch".to_owned()];
    let another = topology.data_sites().find(|site| site.name != topology.primary);
    next.extend(another.map(|site| format!("switchover --to {}", site.name)));
    next.push(format!("lab status --dir {shown}"));
    next.push(format!("lab down --dir {shown}"));
    output.say(format!("federation {} runs in {shown}; next:", layout.federation));
    for arguments in next {
        output.say(format!("  {} {arguments}", crate::environment::program()));
    }
    Ok(Exit::Done)
}

fn refuse_existing(dir: &Path) -> Result<(), Failure> {
    let down = format!("regentctl lab down --dir {}", dir.display());
    if running().iter().any(|running| running == dir) {
        return Err(Failure::error(format!("a lab runs already in {}", dir.display())).next(down));
    }
    if !dir.exists() {
        return Ok(());
    }
    let problem = Failure::error(format!("{} exists already; want a new directory", dir.display()));
    Err(if Layout::file(dir).exists() { problem.next(down) } else { problem })
}

/// The directory that the arguments mean.
fn place(place: &LabPlace, global: &Global) -> Result<PathBuf, Failure> {
    let named = place.dir.as_ref().or(global.lab.as_ref());
    if let Some(dir) = named {
        return std::path::absolute(dir)
            .map_err(|e| Failure::error(format!("resolve {}: {e}", dir.display())));
    }
    match &place.topology {
        Some(file) => default_dir(&crate::topology::read(file)?.1),
        None => only(&running()),
    }
}

fn only(running: &[PathBuf]) -> Result<PathBuf, Failure> {
    match running {
        [one] => Ok(one.clone()),
        [] => {
            Err(Failure::usage("no lab runs on this machine")
                .next("regentctl lab up TOPOLOGY.yaml"))
        }
        several => {
            let list: Vec<String> = several.iter().map(|d| d.display().to_string()).collect();
            Err(Failure::usage(format!("several labs run: {}", list.join(", ")))
                .next(format!("the same command with --dir {}", list[0])))
        }
    }
}

fn by_dir(dir: Option<PathBuf>, global: &Global) -> Result<Lab, Failure> {
    let dir = place(&LabPlace { topology: None, dir }, global)?;
    Lab::open(&dir)
}

async fn down(arguments: &LabPlace, global: &Global, output: &Output) -> Ending {
    let dir = place(arguments, global)?;
    if !Layout::file(&dir).exists() {
        return Err(
            Failure::error(format!("no lab in {}", dir.display())).next("regentctl lab status")
        );
    }
    // Deleting trees is for labs only: ours, closed to others, with the file that makes it one.
    if !owner::is_trusted(&dir) {
        return Err(Failure::error(format!(
            "{} is not a lab of this user: want its owner to be the lab's user and mode 0700",
            dir.display()
        )));
    }
    output.progress(format!("stopping the lab in {}", dir.display()));
    match Lab::open(&dir) {
        Ok(lab) => lab.down().await?,
        Err(_) => sweep::sweep(&dir).map(drop)?,
    }
    output.json(&json!({ "removed": dir }));
    output.say(format!("removed {}", dir.display()));
    Ok(Exit::Done)
}

async fn status(arguments: &LabPlace, global: &Global, output: &Output) -> Ending {
    let lab = Lab::open(&place(arguments, global)?)?;
    let processes = lab.processes().await?;
    output.json(&json!({ "layout": lab.layout(), "processes": processes }));
    output.lines(&screen(lab.layout(), &processes));
    Ok(Exit::Done)
}

/// Processes and ports as a table.
#[must_use]
pub fn screen(layout: &Layout, processes: &[ProcessState]) -> Vec<Line> {
    let head = ["PROCESS", "PID", "LISTENS ON", "STATE"];
    let mut rows: Vec<Vec<Cell>> =
        vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
    for process in processes {
        let state = match (&process.pid, &process.ended) {
            (Some(_), _) => (Tone::Good, "running".to_owned()),
            (None, Some(ended)) => (Tone::Bad, format!("ended: {ended}")),
            (None, None) => (Tone::Bad, "not started".to_owned()),
        };
        let pid = process.pid.map(|pid| pid.to_string()).unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            cell(&process.name),
            cell(pid),
            cell(listens(layout, &process.name)),
            state,
        ]);
    }
    let mut lines = vec![
        Line::toned(Tone::Strong, format!("{} in {}", layout.federation, layout.dir.display())),
        Line::plain(format!(
            "PostgreSQL {}; endpoints {}; passwords in {}/pgpass",
            layout.postgres_major,
            layout.endpoints().join(","),
            layout.dir.display()
        )),
        Line::new(),
    ];
    lines.extend(columns(&rows));
    lines
}

fn listens(layout: &Layout, process: &str) -> String {
    let node = layout.nodes.iter().find(|node| node.agent() == process);
    let coordinator = layout.coordinators.iter().find(|place| place.process() == process);
    let etcd = layout.etcds.iter().find(|place| place.name == process);
    if let Some(node) = node {
        return format!("postgres {}, rest {}", node.postgres_port, node.rest_port);
    }
    if let Some(place) = coordinator {
        return format!("grpc {}", place.port);
    }
    etcd.map(|place| format!("clients {}, peers {}", place.client_port, place.peer_port))
        .unwrap_or_default()
}

async fn kill(name: &str, dir: Option<PathBuf>, global: &Global, output: &Output) -> Ending {
    const KILL: nix::sys::signal::Signal = nix::sys::signal::Signal::SIGKILL;
    let lab = by_dir(dir, global)?;
    let node = |name: &str| lab.layout().node(name).map(|node| node.name.clone());
    if let Some(node) = node(name) {
        let count = lab.kill_node(&node).await?;
        output.say(format!("killed {name}: its agent, guardian and PostgreSQL, {count} processes"));
    } else if let Some(node) = name.strip_prefix("guardian-").and_then(node) {
        lab.signal_guardian(&node, KILL).await?;
        output.say(format!("killed the guardian of {node}"));
    } else {
        lab.signal(name, KILL).await?;
        output.say(format!("killed {name}"));
    }
    output.json(&json!({ "killed": name }));
    Ok(Exit::Done)
}

async fn start(name: &str, dir: Option<PathBuf>, global: &Global, output: &Output) -> Ending {
    let lab = by_dir(dir, global)?;
    let process = lab.layout().node(name).map(super::layout::NodePlace::agent);
    lab.start(process.as_deref().unwrap_or(name)).await?;
    output.say(format!("started {name}"));
    output.json(&json!({ "started": name }));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::layout::tests::example;

    #[test]
    fn a_dead_process_stands_out_in_lab_status() {
        let layout = example(None, "/tmp/lab").expect("a layout");
        let processes = [
            ProcessState { name: "agent-eu-1".into(), pid: Some(17), ended: None, killed: false },
            ProcessState {
                name: "coordinator-us".into(),
                pid: None,
                ended: Some("signal SIGKILL".into()),
                killed: true,
            },
        ];
        let text: Vec<String> = screen(&layout, &processes).iter().map(Line::text).collect();
        assert_eq!(text[4], "agent-eu-1      17   postgres 20001, rest 20002  running");
        assert_eq!(
            text[5],
            "coordinator-us  -    grpc 20010                  ended: signal SIGKILL"
        );
    }

    #[test]
    fn a_directory_that_is_no_lab_is_not_reused() {
        let dir = tempfile::tempdir().expect("a directory");
        let failure = refuse_existing(dir.path()).expect_err("it exists");
        assert!(failure.message.contains("want a new directory"), "{failure}");
        assert_eq!(failure.next, None);
    }
}
