//! A federation on this machine: real agents, real PostgreSQL, real stores, on loopback.
//!
//! [`Lab::up`] starts a topology and waits until it is ready; the handle kills and starts single
//! processes and asks for addresses; [`Lab::down`], and in any case dropping the handle, removes
//! every process, port, shared-memory segment and file. The processes belong to an owner process
//! of their own ([`supervise`]), which cleans up even when the holder of the handle is killed.

pub mod config;
pub mod control;
pub mod layout;
pub mod owner;
pub mod ports;
pub mod process;
pub mod programs;
pub mod ready;
pub mod supervise;
pub mod sweep;
pub mod verbs;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::topology::{StoreKind, Topology};

use crate::clock;
use crate::coordinators::Coordinators;
use crate::exit::Failure;

use config::Secrets;
use control::{Answer, ProcessState, Request};
use layout::{Ground, NodePlace};
use owner::Owner;

pub use layout::Layout;

/// How long the owner process may take for an ordinary request.
const ASK: Duration = Duration::from_secs(5);
/// How long it may take to end everything.
const END: Duration = Duration::from_secs(25);
/// How long it may take to listen.
const LISTEN: Duration = Duration::from_secs(10);
/// Labs without a directory of their own lie in the temporary directory under this name.
const PREFIX: &str = "regent-";

/// How to start a lab.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A directory that does not exist yet; without it a new one in the temporary directory.
    pub dir: Option<PathBuf>,
    /// Use this store everywhere, whatever the topology says.
    pub dcs: Option<StoreKind>,
    /// Only start the processes: no federation is created, nothing is waited for.
    pub bare: bool,
}

/// A lab whose files are written and whose processes are not started yet: here a test can change
/// what they will read. Dropping it removes the files.
#[derive(Debug)]
pub struct Prepared {
    /// Where everything will be. [`Prepared::start`] starts what stands here.
    pub layout: Layout,
    secrets: Secrets,
    topology: Topology,
    owner: Owner,
    started: bool,
}

impl Prepared {
    /// Writes every file of `topology` (the file's text).
    pub fn new(
        topology_text: &str,
        options: &Options,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Self, Failure> {
        let (topology, _) =
            Topology::parse(topology_text).map_err(|e| Failure::usage(e.to_string()))?;
        let owner = Owner::choose()?;
        if owner.dropped {
            progress(&format!(
                "started as root: everything of the lab runs as user {}",
                owner.name
            ));
        }
        let (layout, secrets) = prepare(&topology, topology_text, options, &owner, progress)?;
        Ok(Self { layout, secrets, topology, owner, started: false })
    }

    /// The user that everything will run as.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Starts every process; waits for none but the lab's owner process.
    pub async fn start(mut self) -> Result<Lab, Failure> {
        let file = Layout::file(&self.layout.dir);
        let written = serde_json::to_string_pretty(&self.layout).map_err(std::io::Error::from);
        written
            .and_then(|text| std::fs::write(&file, text))
            .map_err(|e| Failure::error(format!("write {}: {e}", file.display())))?;
        let supervisor = process::start_supervisor(
            &self.layout.dir.join("bin/regentctl"),
            &self.layout.dir,
            &self.layout.log("supervise"),
            &self.owner,
        )?;
        self.started = true;
        let mut lab = Lab {
            layout: self.layout.clone(),
            secrets: self.secrets.clone(),
            topology: self.topology.clone(),
            supervisor: Some(supervisor),
        };
        lab.wait_for_supervisor().await?;
        Ok(lab)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.started {
            sweep::remove_dir(&self.layout.dir);
        }
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    secrets: Secrets,
    topology: Topology,
    /// The owner process, while this handle is what keeps the lab.
    supervisor: Option<Child>,
}

impl Lab {
    /// Starts `topology` (the file's text) and waits until it is ready. `progress` hears about
    /// everything that takes time.
    pub async fn up(
        topology_text: &str,
        options: &Options,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Self, Failure> {
        let lab = Prepared::new(topology_text, options, progress)?.start().await?;
        if !options.bare {
            ready::create(&lab, topology_text, progress).await?;
            ready::wait(&lab, progress).await?;
        }
        Ok(lab)
    }

    /// The handle of a lab that runs on its own; dropping it does not end the lab.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let layout = Layout::read(dir)?;
        let text = std::fs::read_to_string(dir.join("topology.yaml"))
            .map_err(|e| Failure::error(format!("read {}/topology.yaml: {e}", dir.display())))?;
        let (topology, _) = Topology::parse(&text).map_err(|e| Failure::error(e.to_string()))?;
        Ok(Self { secrets: Secrets::read(dir)?, layout, topology, supervisor: None })
    }

    async fn wait_for_supervisor(&mut self) -> Result<(), Failure> {
        let begun = clock::now();
        loop {
            if self.processes().await.is_ok() {
                return Ok(());
            }
            let ended = match self.supervisor.as_mut().map(Child::try_wait) {
                Some(Ok(Some(status))) => Some(status),
                Some(Ok(None) | Err(_)) | None => None,
            };
            if ended.is_some() || begun.elapsed() > LISTEN {
                let log = self.layout.log("supervise");
                return Err(Failure::error(format!(
                    "the lab's owner process does not answer: {}",
                    process::tail(&log, 5)
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The topology it runs.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The run's passwords.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The coordinators' addresses.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.layout.endpoints()
    }

    /// The coordinators, to ask.
    #[must_use]
    pub fn coordinators(&self) -> Coordinators {
        Coordinators::new(self.endpoints(), self.layout.federation.to_string())
    }

    /// An ordinary multi-host connection string for the nodes of these sites, without password.
    #[must_use]
    pub fn conninfo(&self, sites: &[SiteName]) -> String {
        let ports: Vec<String> = self
            .layout
            .nodes
            .iter()
            .filter(|node| sites.contains(&node.site))
            .map(|node| node.postgres_port.to_string())
            .collect();
        let hosts = vec!["127.0.0.1"; ports.len()];
        format!(
            "host={} port={} dbname=postgres user=postgres target_session_attrs=read-write",
            hosts.join(","),
            ports.join(",")
        )
    }

    /// The same for tokio-postgres, with the superuser's password.
    pub fn client_config(&self, sites: &[SiteName]) -> Result<tokio_postgres::Config, Failure> {
        let mut config: tokio_postgres::Config = self
            .conninfo(sites)
            .parse()
            .map_err(|e| Failure::error(format!("read the lab's connection string: {e}")))?;
        config.password(&self.secrets.superuser);
        Ok(config)
    }

    /// Names of all data sites.
    #[must_use]
    pub fn data_sites(&self) -> Vec<SiteName> {
        self.topology.data_sites().map(|site| site.name.clone()).collect()
    }

    fn node(&self, node: &NodeName) -> Result<&NodePlace, Failure> {
        self.layout.node(node.as_str()).ok_or_else(|| {
            let names = self.layout.node_names();
            Failure::usage(format!("no node {node} in this lab; nodes are {names}"))
        })
    }

    /// A node's REST address, `host:port`.
    pub fn rest(&self, node: &NodeName) -> Result<String, Failure> {
        Ok(format!("127.0.0.1:{}", self.node(node)?.rest_port))
    }

    /// A node's PostgreSQL port.
    pub fn postgres_port(&self, node: &NodeName) -> Result<u16, Failure> {
        Ok(self.node(node)?.postgres_port)
    }

    /// Every process of the lab.
    pub async fn processes(&self) -> Result<Vec<ProcessState>, Failure> {
        match control::ask(&self.layout.dir, &Request::Processes, ASK).await? {
            Answer::Processes(list) => Ok(list),
            Answer::Done(_) => Ok(Vec::new()),
            Answer::Refused(problem) => Err(Failure::error(problem)),
        }
    }

    async fn order(&self, request: Request) -> Result<usize, Failure> {
        match control::ask(&self.layout.dir, &request, ASK).await? {
            Answer::Done(count) => Ok(count),
            Answer::Processes(list) => Ok(list.len()),
            Answer::Refused(problem) => Err(Failure::error(problem)),
        }
    }

    /// The process id of a process, while it runs.
    pub async fn pid(&self, process: &str) -> Result<Option<Pid>, Failure> {
        let all = self.processes().await?;
        let found = all.into_iter().find(|state| state.name == process);
        Ok(found.and_then(|state| state.pid).map(Pid::from_raw))
    }

    /// The process id of a node's agent, while it runs.
    pub async fn agent_pid(&self, node: &NodeName) -> Result<Option<Pid>, Failure> {
        self.pid(&self.node(node)?.agent()).await
    }

    /// The process id of a node's postmaster, while it runs.
    pub fn postmaster_pid(&self, node: &NodeName) -> Result<Option<Pid>, Failure> {
        Ok(process::postmaster(&self.layout.data_dir(self.node(node)?)))
    }

    /// Sends a signal to a process by its name, as [`Lab::processes`] gives it.
    pub async fn signal(&self, process: &str, signal: Signal) -> Result<(), Failure> {
        let request = Request::Signal { process: process.to_owned(), signal: signal as i32 };
        self.order(request).await.map(drop)
    }

    /// Starts a process that does not run.
    pub async fn start(&self, process: &str) -> Result<(), Failure> {
        self.order(Request::Start { process: process.to_owned() }).await.map(drop)
    }

    /// Sends a signal to a node's agent.
    pub async fn kill_agent(&self, node: &NodeName, signal: Signal) -> Result<(), Failure> {
        self.signal(&self.node(node)?.agent(), signal).await
    }

    /// Starts a node's agent.
    pub async fn start_agent(&self, node: &NodeName) -> Result<(), Failure> {
        self.start(&self.node(node)?.agent()).await
    }

    /// Kills a node's PostgreSQL with SIGKILL, postmaster and all; how many processes there were.
    pub async fn kill_postgres(&self, node: &NodeName) -> Result<usize, Failure> {
        self.signal_postgres(node, Signal::SIGKILL).await
    }

    /// Sends a signal to every process of a node's PostgreSQL; how many there were.
    pub async fn signal_postgres(&self, node: &NodeName, signal: Signal) -> Result<usize, Failure> {
        self.order(Request::SignalPostgres { node: node.to_string(), signal: signal as i32 }).await
    }

    /// The process id of the guardian of a node's PostgreSQL, while it runs.
    pub fn guardian_pid(&self, node: &NodeName) -> Result<Option<Pid>, Failure> {
        Ok(process::guardian(&self.layout.run_dir(self.node(node)?)))
    }

    /// Sends a signal to the guardian of a node's PostgreSQL.
    pub async fn signal_guardian(&self, node: &NodeName, signal: Signal) -> Result<(), Failure> {
        let request = Request::SignalGuardian { node: node.to_string(), signal: signal as i32 };
        self.order(request).await.map(drop)
    }

    /// Kills a node's agent, guardian and PostgreSQL at once with SIGKILL.
    pub async fn kill_node(&self, node: &NodeName) -> Result<usize, Failure> {
        self.order(Request::KillNode { node: node.to_string() }).await
    }

    fn coordinator(&self, site: &SiteName) -> Result<String, Failure> {
        let found = self.layout.coordinators.iter().find(|place| place.site == *site);
        found
            .map(layout::CoordinatorPlace::process)
            .ok_or_else(|| Failure::usage(format!("no coordinator in site {site} of this lab")))
    }

    /// Kills a site's coordinator with SIGKILL.
    pub async fn kill_coordinator(&self, site: &SiteName) -> Result<(), Failure> {
        self.signal(&self.coordinator(site)?, Signal::SIGKILL).await
    }

    /// Starts a site's coordinator.
    pub async fn start_coordinator(&self, site: &SiteName) -> Result<(), Failure> {
        self.start(&self.coordinator(site)?).await
    }

    /// Lets the lab live on without this handle.
    pub async fn detach(mut self) -> Result<Layout, Failure> {
        self.order(Request::Detach).await?;
        self.supervisor = None;
        Ok(self.layout.clone())
    }

    /// Ends the lab and removes everything. What is left of one whose owner process was killed is
    /// removed too.
    pub async fn down(mut self) -> Result<(), Failure> {
        let dir = self.layout.dir.clone();
        let asked = control::ask(&dir, &Request::Down, END).await;
        let child = self.supervisor.take();
        tokio::task::spawn_blocking(move || finish(asked.is_ok(), child, &dir))
            .await
            .map_err(|e| Failure::error(format!("end the lab: {e}")))?
    }
}

/// Waits for the owner process and removes what it could not.
fn finish(ended: bool, child: Option<Child>, dir: &Path) -> Result<(), Failure> {
    let gone = child.is_none_or(|child| wait_for_end(child, if ended { LISTEN } else { END }));
    if ended && gone && !dir.exists() {
        return Ok(());
    }
    sweep::sweep(dir).map(drop)
}

/// Closes the owner process's standard input, which ends it, and waits for that.
fn wait_for_end(mut child: Child, limit: Duration) -> bool {
    drop(child.stdin.take());
    let begun = clock::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return true,
            Ok(None) if begun.elapsed() < limit => process::pause(Duration::from_millis(10)),
            Ok(None) | Err(_) => break,
        }
    }
    // It hangs: end it, the sweep does its work.
    child.kill().and_then(|()| child.wait()).ok();
    false
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(child) = self.supervisor.take() {
            // Nobody is left to tell; the directory stays visible if it could not be removed.
            finish(false, Some(child), &self.layout.dir).ok();
        }
    }
}

/// The directory that `lab up` uses for a federation when none is named.
pub fn default_dir(topology: &Topology) -> Result<PathBuf, Failure> {
    let owner = Owner::choose()?;
    Ok(owner::base(&owner).join(format!("{PREFIX}lab-{}", topology.federation)))
}

/// Directories of labs on this machine that this process may trust and that have an owner process.
#[must_use]
pub fn running() -> Vec<PathBuf> {
    let Ok(owner) = Owner::choose() else { return Vec::new() };
    let entries = std::fs::read_dir(owner::base(&owner)).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|dir| owner::is_trusted(dir))
        .filter(|dir| std::os::unix::net::UnixStream::connect(Layout::control_socket(dir)).is_ok())
        .collect();
    found.sort();
    found
}

/// Finds the programs, makes the directory and writes every file.
fn prepare(
    topology: &Topology,
    topology_text: &str,
    options: &Options,
    owner: &Owner,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(Layout, Secrets), Failure> {
    let postgres = programs::postgres(owner)?;
    if postgres.major > programs::NEWEST {
        progress(&format!(
            "PostgreSQL {} is newer than {}, the newest one Regent was tested with",
            postgres.major,
            programs::NEWEST
        ));
    }
    let mut binaries = vec![
        programs::sibling("regentctl")?,
        programs::sibling("regent-agent")?,
        programs::sibling("regent-guardian")?,
        programs::sibling("regent-coordinator")?,
    ];
    let etcd = |kind| options.dcs.unwrap_or(kind) == StoreKind::Etcd;
    if etcd(topology.quorum.store) || topology.data_sites().any(|s| s.dcs.is_some_and(etcd)) {
        binaries.push(programs::etcd()?);
    }
    let random = random_number()?;
    let dir = match &options.dir {
        Some(dir) => std::path::absolute(dir)
            .map_err(|e| Failure::error(format!("resolve {}: {e}", dir.display())))?,
        None => owner::base(owner).join(format!("{PREFIX}{:08x}", random)),
    };
    if let Some(barred) = owner.barred(&dir) {
        return Err(Failure::usage(format!(
            "user {} cannot reach {}: {} is closed to it (or is not there); want a directory that \
             this user can pass, such as one in /tmp",
            owner.name,
            dir.display(),
            barred.display()
        )));
    }
    let mut free = ports::Ports::new(u16::try_from(random & 0xFFFF).unwrap_or(0));
    let ground = Ground {
        dir: dir.clone(),
        postgres_bin: postgres.bin,
        postgres_major: postgres.major,
        dcs: options.dcs,
    };
    let mut layout = Layout::new(topology, &ground, |wish| free.take(wish))?;
    let secrets = Secrets::random()?;
    owner.make_dir(&dir)?;
    layout.port_blocks = free.release();
    let written = write_files(&layout, topology, topology_text, &secrets, owner, &binaries);
    if let Err(problem) = written {
        sweep::remove_dir(&dir);
        return Err(problem);
    }
    progress(&format!(
        "PostgreSQL {} on {} nodes in {} sites, in {}",
        layout.postgres_major,
        layout.nodes.len(),
        topology.sites.len(),
        dir.display()
    ));
    Ok((layout, secrets))
}

fn random_number() -> Result<u32, Failure> {
    getrandom::u32().map_err(|e| Failure::error(format!("draw a random number: {e}")))
}

fn write_files(
    layout: &Layout,
    topology: &Topology,
    topology_text: &str,
    secrets: &Secrets,
    owner: &Owner,
    binaries: &[PathBuf],
) -> Result<(), Failure> {
    let dir = &layout.dir;
    for name in ["bin", "config", "log", "nodes", "run", "stores"] {
        owner.make_dir(&dir.join(name))?;
    }
    for binary in binaries {
        programs::place(binary, &dir.join("bin"), owner)?;
    }
    for node in &layout.nodes {
        owner.make_dir(&layout.run_dir(node))?;
        owner.make_dir(&dir.join("nodes").join(node.name.as_str()))?;
        let text = config::agent(layout, topology, node, secrets)?;
        owner.write(&layout.config(&node.agent()), &text)?;
    }
    for place in &layout.coordinators {
        let text = config::coordinator(layout, place)?;
        owner.write(&layout.config(&place.process()), &text)?;
    }
    for place in &layout.etcds {
        owner.make_dir(&dir.join("stores").join(&place.name))?;
    }
    let json = |e: serde_json::Error| Failure::error(format!("write the lab's files: {e}"));
    owner.write(&Layout::file(dir), &serde_json::to_string_pretty(layout).map_err(json)?)?;
    owner.write(&Secrets::file(dir), &serde_json::to_string(secrets).map_err(json)?)?;
    owner.write(&dir.join("pgpass"), &secrets.pgpass())?;
    owner.write(&dir.join("topology.yaml"), topology_text)?;
    owner.write(&layout.log("supervise"), "")?;
    owner.hand_over(dir)
}
