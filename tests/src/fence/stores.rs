//! The site's DCS of a fence cluster: three real etcd members, outside every overload.
//!
//! They belong to the test and not to the lab, because each runs as a user of its own: so the
//! kernel's packet filter can cut one of them from the others by what it sends.

#![expect(clippy::disallowed_methods, reason = "starts etcd, which dies with this test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regentctl::lab::layout::{EtcdPlace, Layout};
use regentctl::lab::{config, programs};
use tempfile::TempDir;

use super::checker::Node;

/// Users that nobody else has: one a member, also where clusters run beside each other.
static NEXT_USER: AtomicU32 = AtomicU32::new(54_170);
/// A DCS has machines of its own: what overloads a node's processors does not concern it.
const NICE: i32 = -10;

/// One member.
#[derive(Debug)]
struct Member {
    place: EtcdPlace,
    user: u32,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Member {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

/// The members. Dropping them ends them and removes their files.
#[derive(Debug)]
pub struct Stores {
    members: Vec<Member>,
    etcd: PathBuf,
    directory: TempDir,
}

impl Stores {
    /// Starts the members laid out as the quorum of `layout`; none where that is a file.
    ///
    /// # Errors
    /// When there is no etcd, or it does not start.
    pub fn start(layout: &Layout) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("fence-etcd-").tempdir()?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open)?;
        let mut own = layout.clone();
        own.dir = directory.path().to_owned();
        own.etcds.retain(|place| place.cluster == "quorum");
        fs::create_dir(directory.path().join("stores"))?;
        let none = own.etcds.is_empty();
        let etcd = if none { PathBuf::new() } else { programs::etcd()? };
        let mut stores = Self { members: Vec::new(), etcd, directory };
        for place in &own.etcds {
            let user = NEXT_USER.fetch_add(1, Ordering::Relaxed);
            let files = stores.directory.path().join("stores").join(&place.name);
            fs::create_dir(&files)?;
            fs::set_permissions(&files, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            if nix::unistd::geteuid().is_root() {
                chown(&files, Some(user), Some(user))?;
            }
            let arguments = config::etcd(&own, place);
            stores.members.push(Member { place: place.clone(), user, arguments, child: None });
        }
        stores.start_missing()?;
        Ok(stores)
    }

    /// Starts the members that do not run.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn start_missing(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if member.child.is_some() {
                continue;
            }
            let log = self.directory.path().join(format!("{}.log", member.place.name));
            let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
            let mut command = Command::new("setpriv");
            // Its parent is the thread that runs the test.
            command.args(["--pdeathsig", "KILL"]);
            if nix::unistd::geteuid().is_root() {
                let user = member.user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            }
            command
                .arg("--")
                .arg(&self.etcd)
                .args(&member.arguments)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            let child = command.spawn().context("start etcd")?;
            let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?);
            rustix::process::setpriority_process(pid, NICE).ok();
            member.child = Some(child);
        }
        Ok(())
    }

    fn member(&self, node: Node) -> &Member {
        &self.members[node % self.members.len()]
    }

    /// Where a node's own member takes clients.
    #[must_use]
    pub fn of_node(&self, node: Node) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.member(node).place.client_port).into()
    }

    /// Where the members that are not a node's own take clients.
    #[must_use]
    pub fn of_others(&self, node: Node) -> Vec<SocketAddr> {
        let own = self.of_node(node);
        let all = self.members.iter().map(|member| member.place.client_port);
        all.map(|port| (Ipv4Addr::LOCALHOST, port).into()).filter(|other| *other != own).collect()
    }

    /// The user of a node's own member and the port where it takes clients: what tells its packets
    /// apart.
    #[must_use]
    pub fn marks(&self, node: Node) -> (u32, u16) {
        (self.member(node).user, self.member(node).place.client_port)
    }

    /// Sends every member a signal.
    pub fn signal(&self, signal: Signal) {
        for child in self.members.iter().filter_map(|member| member.child.as_ref()) {
            let pid = i32::try_from(child.id()).map(Pid::from_raw);
            pid.map_err(|_| nix::errno::Errno::ESRCH).and_then(|pid| kill(pid, signal)).ok();
        }
    }

    /// Kills every member and waits for that.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Kills a node's own member and waits for that.
    pub fn kill_own(&mut self, node: Node) {
        let own = node % self.members.len();
        self.members[own].kill();
    }

    /// What the members logged last.
    #[must_use]
    pub fn tail(&self) -> String {
        let logs = self.members.iter().map(|member| {
            let log = self.directory.path().join(format!("{}.log", member.place.name));
            regentctl::lab::process::tail(&log, 5)
        });
        logs.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.kill();
    }
}
