//! A PostgreSQL under a real guardian with an emulated watchdog, and a test in place of the agent:
//! it writes the page, and notes until when the right to write lasted.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_guardian::launch::{Launch, Server};
use regent_guardian::page::{Guard, Page, WatchdogState, WatchdogWanted};
use regent_proto::time::{BootTime, Deadline};
use regent_test_sys::cgroup::Node;
use regent_test_sys::tools::{Owned, command};
use regent_test_sys::watchdog::check::{Knowledge, Right, Violation, violations};
use regent_test_sys::watchdog::{Device, Quirk, Reset};
use regent_test_sys::{Need, boot};
use regentctl::lab::owner::{Owner, base};
use regentctl::lab::programs;

use crate::program;

/// What a guarded server needs.
pub const NEEDS: &[Need] = &[Need::Root, Need::Fuse, Need::Cgroups];

/// TTL of the leader key that the test pretends to hold.
pub const TTL: Duration = Duration::from_secs(6);
/// Its ε.
pub const EPSILON: Duration = Duration::from_millis(100);
/// R: how long a reset may take.
pub const RESET: Duration = Duration::from_secs(1);
/// W: at most (TTL - R - ε) / 2.
pub const TIMEOUT: u32 = 2;
/// κ.
pub const KILL_BUDGET: Duration = Duration::from_millis(250);
/// How often the pretended agent renews.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How often the right to write is noted.
const NOTE_EVERY: Duration = Duration::from_millis(5);
/// Longest wait for what should come soon.
pub const SOON: Duration = Duration::from_secs(20);

/// What the test sees of the right to write, in order.
type Rights = Arc<Mutex<Vec<(BootTime, Right)>>>;

/// The server, its guardian, the device, and the node that the device resets.
#[derive(Debug)]
pub struct Guarded {
    /// The page that the test writes as an agent.
    pub page: Page,
    /// The watchdog.
    pub device: Device,
    /// What the watchdog resets: guardian and server.
    pub node: Node,
    /// The data directory.
    pub data: PathBuf,
    dir: tempfile::TempDir,
    guardian: Option<Owned>,
    agent: Option<Agent>,
    rights: Rights,
    owner: Owner,
    bin: PathBuf,
}

/// How a guarded server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// What is wrong with the device.
    pub quirks: &'a [Quirk],
    /// Whether the watchdog is required.
    pub wanted: WatchdogWanted,
}

impl Guarded {
    /// A new server in a directory of its own; its guardian is started by [`Guarded::launch`].
    ///
    /// # Errors
    /// Without what [`NEEDS`] names, or PostgreSQL.
    pub fn prepare(start: &Start<'_>) -> anyhow::Result<Self> {
        let owner = Owner::choose()?;
        let bin = programs::postgres(&owner)?.bin;
        let dir = tempfile::Builder::new().prefix("guarded").tempdir_in(base(&owner))?;
        owner.hand_over(dir.path())?;
        Self::at(start, dir, owner, bin, None)
    }

    /// The same with the data directory below `above`, which the owner may write to.
    ///
    /// # Errors
    /// As [`Guarded::prepare`].
    pub fn prepare_on(start: &Start<'_>, above: &Path) -> anyhow::Result<Self> {
        let owner = Owner::choose()?;
        let bin = programs::postgres(&owner)?.bin;
        let dir = tempfile::Builder::new().prefix("guarded").tempdir_in(base(&owner))?;
        owner.hand_over(dir.path())?;
        owner.hand_over(above)?;
        Self::at(start, dir, owner, bin, Some(above.join("data")))
    }

    fn at(
        start: &Start<'_>,
        dir: tempfile::TempDir,
        owner: Owner,
        bin: PathBuf,
        data: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let data = data.unwrap_or_else(|| dir.path().join("data"));
        let mut initdb = run_as(&owner, bin.join("initdb"), dir.path());
        initdb.args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&data);
        ensure!(initdb.stdout(Stdio::null()).status()?.success(), "initdb {}", data.display());
        let node = Node::of([])?;
        let reset = Reset::cgroup(node.group().dir().to_owned());
        let device = dir.path().join("watchdog");
        let device = Device::with(&device, &data, reset, start.quirks.iter().copied())?;
        let page = Page::create().context("make the page")?;
        page.set_kill_budget(KILL_BUDGET);
        page.set_watchdog_wanted(start.wanted);
        page.set_watchdog_timeout_s(TIMEOUT.into());
        Ok(Self {
            page,
            device,
            node,
            data,
            dir,
            guardian: None,
            agent: None,
            rights: Arc::default(),
            owner,
            bin,
        })
    }

    /// Starts the guardian, and it the server, which is a primary from its start.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let program =
            programs::place(&program::path("regent-guardian")?, self.dir.path(), &self.owner)?;
        let socket = self.dir.path().as_os_str();
        let mut server: Vec<std::ffi::OsString> = vec![self.bin.join("postgres").into()];
        server.extend(["-D".into(), self.data.clone().into(), "-k".into(), socket.to_owned()]);
        server.extend(["-c", "listen_addresses="].map(Into::into));
        let launch = Launch {
            page_fd: 0,
            data_dir: self.data.clone(),
            lock: self.dir.path().join("guardian.lock"),
            watchdog: Some(self.device.path().to_owned()),
            server: Server::Start(server),
        };
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut guardian = run_as(&self.owner, program, self.dir.path());
        guardian
            .args(launch.arguments())
            .stdin(Stdio::from(self.page.fd().try_clone_to_owned()?))
            .stdout(log.try_clone()?)
            .stderr(log);
        let guardian = Owned(guardian.spawn().context("start the guardian")?);
        self.node.group().take_families(&[pid_of(&guardian.0)?])?;
        self.guardian = Some(guardian);
        Ok(())
    }

    /// Starts the guardian, takes the pretended leader key, opens, and waits until the server
    /// answers and the watchdog is pinged.
    ///
    /// # Errors
    /// When one of it does not happen.
    pub fn lead(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        // An agent takes no leader key before its watchdog is armed.
        let armed = || (self.page.watchdog_state() == WatchdogState::Armed).then_some(());
        boot::until(SOON, armed).with_context(|| format!("not armed: {}", self.log()))?;
        self.agent = Some(Agent::start(self.page.clone(), Arc::clone(&self.rights)));
        let answers = || self.sql("SELECT 1").status().is_ok_and(|s| s.success()).then_some(());
        boot::until(SOON, answers).with_context(|| format!("no answer: {}", self.log()))?;
        ensure!(self.sql("CREATE TABLE t (n int)").status()?.success(), "no table: {}", self.log());
        let before = self.device.trace().pings();
        boot::until(SOON, || (self.device.trace().pings() > before + 1).then_some(()))
            .with_context(|| format!("no pings: {:?}", self.device.trace().all()))?;
        Ok(())
    }

    /// The agent hangs: it renews no more. The deadline that its last renewal gave.
    ///
    /// # Panics
    /// Before [`Guarded::lead`].
    pub fn stop_agent(&self) -> Deadline {
        let agent = self.agent.as_ref().expect("it leads");
        agent.renews.store(false, Ordering::SeqCst);
        // One renewal may be under way: its length is bounded by nothing but two stores.
        boot::pause(NOTE_EVERY * 4);
        self.page.writing()
    }

    /// The guardian's process.
    ///
    /// # Errors
    /// Before it was started.
    pub fn guardian(&self) -> anyhow::Result<Pid> {
        pid_of(&self.guardian.as_ref().context("the guardian was not started")?.0)
    }

    /// The guardian's end, at most after `limit`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let guardian = self.guardian.as_mut().context("the guardian was not started")?;
        let mut ended = || guardian.0.try_wait().ok().flatten();
        boot::until(limit, &mut ended).context("the guardian lives on")
    }

    /// Sends the postmaster a signal, as the agent does.
    ///
    /// # Errors
    /// When it is not there.
    pub fn signal_postmaster(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.page.postmaster_pid());
        nix::sys::signal::kill(pid, signal).with_context(|| format!("signal the postmaster {pid}"))
    }

    /// A statement for the server.
    #[must_use]
    pub fn sql(&self, statement: &str) -> Command {
        let mut psql = run_as(&self.owner, self.bin.join("psql"), self.dir.path());
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-U", "postgres", "-h"]);
        psql.arg(self.dir.path()).args(["-c", statement]);
        psql.stdout(Stdio::null()).stderr(Stdio::null());
        psql
    }

    /// What guardian and server logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What is wrong in the device's trace, beside the right to write as it was noted.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let rights = self.rights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let leader_key = rights.iter().find(|(_, right)| *right != Right::None).map(|(at, _)| *at);
        let knowledge = Knowledge { rights, leader_key, ttl: TTL, reset: RESET, epsilon: EPSILON };
        violations(&self.device.trace().all(), &knowledge)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.agent = None;
        // Server and guardian, before the directory goes.
        self.node.kill().ok();
    }
}

fn pid_of(child: &Child) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("a process number")?))
}

fn run_as(owner: &Owner, program: PathBuf, dir: &Path) -> Command {
    let mut command = command(program);
    command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).current_dir(dir);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("HOME", dir);
    command
}

/// A thread in place of an agent: takes the leader key, opens, and renews.
#[derive(Debug)]
struct Agent {
    renews: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(page: Page, rights: Rights) -> Self {
        let renews = Arc::new(AtomicBool::new(true));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (renews, ends) = (Arc::clone(&renews), Arc::clone(&ends));
            std::thread::spawn(move || {
                let mut next = boot::now();
                while !ends.load(Ordering::SeqCst) {
                    let now = boot::now();
                    if renews.load(Ordering::SeqCst) && now >= next {
                        next = now.plus(RENEW_EVERY);
                        page.set_site_deadline(Deadline::at(now.plus(TTL).minus(EPSILON)));
                        if page.guard() == Guard::Off {
                            page.set_guard(Guard::ByDeadline);
                        }
                    }
                    note(&page, &rights);
                    boot::pause(NOTE_EVERY);
                }
            })
        };
        Self { renews, ends, thread: Some(thread) }
    }
}

fn note(page: &Page, rights: &Rights) {
    let orders = page.orders();
    let right = match orders.guard {
        Guard::Off => Right::None,
        Guard::ByDeadline | Guard::Unknown(_) => Right::Until(orders.writing),
        Guard::PlannedStop => Right::Until(orders.stop_until.raised(orders.bound)),
    };
    rights.lock().unwrap_or_else(PoisonError::into_inner).push((boot::now(), right));
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
