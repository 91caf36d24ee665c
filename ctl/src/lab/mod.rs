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
pub mod prepare;
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
use regent_proto::topology::Topology;

use crate::clock;
use crate::coordinators::Coordinators;
use crate::exit::Failure;

use config::Secrets;
use control::{Answer, ProcessState, Request};
use layout::NodePlace;
use owner::Owner;

pub use layout::Layout;
pub use prepare::{Options, Prepared};

/// How long the owner process may take for an ordinary request.
const ASK: Duration = Duration::from_secs(5);
/// How long it may take to end everything.
const END: Duration = Duration::from_secs(25);
/// How long it may take to listen.
const LISTEN: Duration = Duration::from_secs(10);
/// Labs without a directory of their own lie in the temporary directory under this name.
const PREFIX: &str = "regent-";

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

    /// Lets the lab own one more process, by its program and arguments; [`Lab::start`] starts it.
    pub async fn add(&self, process: &str, argv: Vec<String>) -> Result<(), Failure> {
        self.order(Request::Add { process: process.to_owned(), argv }).await.map(drop)
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
