//! The lab's owner process: `regentctl lab supervise DIR`.
//!
//! It runs as the lab's user, starts every process of the lab, and is the subreaper of all of
//! them: a PostgreSQL whose agent was killed becomes its child and is reaped, so that no zombie
//! keeps a pid file alive. It ends the lab when asked to, on SIGTERM, and, while attached, as soon
//! as whoever started it has gone, in whatever way that went. Afterwards nothing is left: no
//! process, port, shared memory or file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::clock;
use crate::exit::{Ending, Exit, Failure};

use super::control::{Answer, LONGEST, ProcessState, Request};
use super::layout::{Layout, NodePlace};
use super::{config, ports, process};

/// How long agents get to stop their PostgreSQL in order.
const AGENTS_STOP: Duration = Duration::from_secs(6);
/// How long everything else gets.
const OTHERS_STOP: Duration = Duration::from_secs(2);
/// How long killed processes may take to go.
const KILLED_GO: Duration = Duration::from_secs(5);
/// How often shared memory is looked at, and how often waits look.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const WAIT_STEP: Duration = Duration::from_millis(20);
/// How long a client may take for its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// One process of the lab.
#[derive(Debug)]
struct Process {
    argv: Vec<String>,
    pid: Option<Pid>,
    ended: Option<String>,
    killed: bool,
}

/// The owner's whole state.
#[derive(Debug)]
struct Owner {
    layout: Layout,
    processes: BTreeMap<String, Process>,
    attached: bool,
    /// Shared memory made by this lab's processes: segment and maker.
    segments: BTreeSet<(u32, Pid)>,
}

/// Runs until the lab ends.
pub fn run(dir: &Path) -> Ending {
    // Its own session: neither Ctrl-C nor a closed terminal reaches the lab past its starter.
    nix::unistd::setsid().context("begin a session of its own")?;
    nix::sys::prctl::set_child_subreaper(true).context("become subreaper")?;
    let layout = Layout::read(dir)?;
    let claims = ports::claim_all(&layout.port_blocks)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(own(layout))?;
    drop(claims);
    Ok(Exit::Done)
}

async fn own(layout: Layout) -> Result<(), Failure> {
    let socket = Layout::control_socket(&layout.dir);
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("set mode of {}", socket.display()))?;
    let processes = table(&layout);
    let mut owner = Owner { layout, processes, attached: true, segments: BTreeSet::new() };
    let mut child = signal(SignalKind::child()).context("listen for SIGCHLD")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut starter = watch_starter();
    let mut look = tokio::time::interval(LOOK_EVERY);
    owner.start_all()?;
    let asker = loop {
        tokio::select! {
            _ = child.recv() => owner.reap(),
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = starter.recv(), if owner.attached => break None,
            _ = look.tick() => owner.note_segments(),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if let Some(asker) = owner.serve(stream).await {
                    break Some(asker);
                }
            }
        }
    };
    owner.end().await;
    if let Some(mut asker) = asker {
        answer(&mut asker, &Answer::Done(0)).await;
    }
    Ok(())
}

/// Tells when standard input closes: whoever started us has gone.
fn watch_starter() -> mpsc::Receiver<()> {
    let (gone, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        // A thread of its own: it ends with the process, and nothing waits for it.
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
        gone.blocking_send(()).ok();
    });
    receiver
}

/// Every process of the lab with its command line.
fn table(layout: &Layout) -> BTreeMap<String, Process> {
    let bin = layout.dir.join("bin");
    let program = |name: &str| bin.join(name).display().to_string();
    let mut all = BTreeMap::new();
    let mut add = |name: String, argv: Vec<String>| {
        all.insert(name, Process { argv, pid: None, ended: None, killed: false });
    };
    for place in &layout.etcds {
        let mut argv = vec![program("etcd")];
        argv.extend(config::etcd(layout, place));
        add(place.name.clone(), argv);
    }
    let configured = |program: String, process: &str| {
        vec![program, layout.config(process).display().to_string()]
    };
    for place in &layout.coordinators {
        let name = place.process();
        add(name.clone(), configured(program("regent-coordinator"), &name));
    }
    for node in &layout.nodes {
        let name = node.agent();
        add(name.clone(), configured(program("regent-agent"), &name));
    }
    all
}

impl Owner {
    fn start_all(&mut self) -> Result<(), Failure> {
        // Stores first; nothing waits for them here: the others retry, as they must in life.
        let mut names: Vec<String> = self.processes.keys().cloned().collect();
        let stores: Vec<&str> = self.layout.etcds.iter().map(|place| place.name.as_str()).collect();
        names.sort_by_key(|name| !stores.contains(&name.as_str()));
        for name in names {
            self.start(&name)?;
        }
        Ok(())
    }

    fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let known = self.known();
        let log = self.layout.log(name);
        let process = self
            .processes
            .get_mut(name)
            .with_context(|| format!("no process {name}; there are {known}"))?;
        if let Some(pid) = process.pid {
            anyhow::bail!("{name} runs already, as process {pid}");
        }
        process.pid = Some(process::start(&process.argv, &self.layout.dir, &log)?);
        process.ended = None;
        process.killed = false;
        Ok(())
    }

    /// A process that was told to end needs a moment to go: whoever starts it again means the next
    /// one. Bounded; what has not gone by then refuses the start.
    async fn wait_for_killed(&mut self, name: &str) {
        let begun = clock::now();
        let going = |owner: &Self| {
            owner.processes.get(name).is_some_and(|process| process.killed && process.pid.is_some())
        };
        while going(self) && begun.elapsed() < KILLED_GO {
            tokio::time::sleep(WAIT_STEP).await;
            self.reap();
        }
    }

    /// Names of all processes, for messages.
    fn known(&self) -> String {
        self.processes.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    /// Takes every child that ended, ours and those that came to us as orphans.
    fn reap(&mut self) {
        loop {
            let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal {signal}")),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) => continue,
                Err(_) => return,
            };
            let ours = self.processes.values_mut().find(|process| process.pid == Some(pid));
            if let Some(process) = ours {
                process.pid = None;
                process.ended = Some(ended);
            }
        }
    }

    /// Remembers shared memory of the lab's processes, to remove what a killed one leaves.
    fn note_segments(&mut self) {
        let living = process::living_in(&self.layout.dir);
        let made = process::segments().into_iter().filter(|(_, maker)| living.contains(maker));
        self.segments.extend(made);
    }

    /// Serves one request. Returns the connection when it asked for the end.
    async fn serve(&mut self, stream: UnixStream) -> Option<UnixStream> {
        let mut reader = BufReader::new(stream.take_limit());
        let mut line = String::new();
        let read = tokio::time::timeout(REQUEST_LIMIT, reader.read_line(&mut line)).await;
        let mut stream = reader.into_inner().into_inner();
        if !matches!(read, Ok(Ok(_))) {
            return None;
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Down) => return Some(stream),
            Ok(request) => {
                self.perform(request).await.unwrap_or_else(|e| Answer::Refused(format!("{e:#}")))
            }
            Err(e) => Answer::Refused(format!("request {line:?}: {e}")),
        };
        answer(&mut stream, &reply).await;
        None
    }

    async fn perform(&mut self, request: Request) -> anyhow::Result<Answer> {
        self.reap();
        match request {
            Request::Processes => Ok(Answer::Processes(self.states())),
            Request::Signal { process, signal } => {
                self.signal(&process, number(signal)?)?;
                Ok(Answer::Done(1))
            }
            Request::SignalPostgres { node, signal } => {
                let data_dir = self.data_dir(&node)?;
                self.note_segments();
                Ok(Answer::Done(process::signal_all(&data_dir, number(signal)?)))
            }
            Request::SignalGuardian { node, signal } => {
                self.signal_guardian(&node, number(signal)?)?;
                Ok(Answer::Done(1))
            }
            Request::KillNode { node } => {
                let data_dir = self.data_dir(&node)?;
                self.note_segments();
                // The agent first, or it would restart what it misses.
                let agent = self.signal(&format!("agent-{node}"), Signal::SIGKILL);
                let guardian = usize::from(self.signal_guardian(&node, Signal::SIGKILL).is_ok());
                let killed = process::signal_all(&data_dir, Signal::SIGKILL);
                if killed == 0 {
                    agent?;
                }
                Ok(Answer::Done(killed + guardian + 1))
            }
            Request::Add { process, argv } => {
                if self.processes.contains_key(&process) {
                    anyhow::bail!("there is a process {process} already");
                }
                let added = Process { argv, pid: None, ended: None, killed: false };
                self.processes.insert(process, added);
                Ok(Answer::Done(1))
            }
            Request::Start { process } => {
                self.wait_for_killed(&process).await;
                self.start(&process)?;
                Ok(Answer::Done(1))
            }
            Request::Detach => {
                self.attached = false;
                Ok(Answer::Done(0))
            }
            Request::Down => Ok(Answer::Done(0)),
        }
    }

    fn states(&self) -> Vec<ProcessState> {
        self.processes
            .iter()
            .map(|(name, process)| ProcessState {
                name: name.clone(),
                pid: process.pid.map(Pid::as_raw),
                ended: process.ended.clone(),
                killed: process.killed,
            })
            .collect()
    }

    fn node(&self, node: &str) -> anyhow::Result<&NodePlace> {
        self.layout
            .node(node)
            .with_context(|| format!("no node {node}; nodes are {}", self.layout.node_names()))
    }

    fn data_dir(&self, node: &str) -> anyhow::Result<PathBuf> {
        Ok(self.layout.data_dir(self.node(node)?))
    }

    fn signal_guardian(&self, node: &str, signal: Signal) -> anyhow::Result<()> {
        let guardian = process::guardian(&self.layout.run_dir(self.node(node)?))
            .with_context(|| format!("no guardian of {node} runs"))?;
        kill(guardian, signal).with_context(|| format!("send {signal} to the guardian of {node}"))
    }

    fn signal(&mut self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let known = self.known();
        let process = self
            .processes
            .get_mut(name)
            .with_context(|| format!("no process {name}; there are {known}"))?;
        let pid = process.pid.with_context(|| format!("{name} does not run"))?;
        process.killed = matches!(signal, Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT);
        kill(pid, signal).with_context(|| format!("send {signal} to {name}, process {pid}"))
    }

    /// Ends everything and removes everything.
    async fn end(&mut self) {
        self.note_segments();
        self.terminate(|name| name.starts_with("agent-"), AGENTS_STOP).await;
        self.terminate(|_| true, OTHERS_STOP).await;
        let begun = clock::now();
        // Also what is ours by descent only, such as a shell that PostgreSQL had started.
        while process::kill_all(&self.layout.dir) > 0 {
            self.reap();
            if begun.elapsed() > KILLED_GO {
                break;
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
        self.reap();
        remove_segments(&self.segments);
        super::sweep::remove_dir(&self.layout.dir);
    }

    /// Asks some processes to end and waits for them, for a bounded time. A stopped process
    /// is woken, or it could not hear.
    async fn terminate(&mut self, which: impl Fn(&str) -> bool, limit: Duration) {
        let names: Vec<String> =
            self.processes.keys().filter(|name| which(name)).cloned().collect();
        for name in &names {
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                // Not running is what is wanted.
                self.signal(name, signal).ok();
            }
        }
        let begun = clock::now();
        loop {
            self.reap();
            let left = names.iter().filter_map(|name| self.processes.get(name));
            if left.filter(|process| process.pid.is_some()).count() == 0 {
                return;
            }
            if begun.elapsed() > limit {
                return;
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }
}

fn number(signal: i32) -> anyhow::Result<Signal> {
    Signal::try_from(signal).with_context(|| format!("no signal has the number {signal}"))
}

trait TakeLimit {
    fn take_limit(self) -> tokio::io::Take<UnixStream>;
}

impl TakeLimit for UnixStream {
    fn take_limit(self) -> tokio::io::Take<UnixStream> {
        self.take(LONGEST)
    }
}

async fn answer(stream: &mut UnixStream, answer: &Answer) {
    let Ok(mut line) = serde_json::to_string(answer) else { return };
    line.push('\n');
    // A client that has gone needs no answer.
    stream.write_all(line.as_bytes()).await.ok();
}

/// Removes what killed servers left, if it is still theirs.
fn remove_segments(made: &BTreeSet<(u32, Pid)>) {
    for left in process::segments().into_iter().filter(|segment| made.contains(segment)) {
        super::sweep::remove_segment(left.0);
    }
}
