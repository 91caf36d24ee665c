//! What can go wrong with a primary, each as it happens in life: by a signal, a dead way, a frozen
//! store. A fault that alone would take the right to write from nobody (a blocked log, a stopped
//! backend) comes together with the loss of the DCS, so that the fence has to work under it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_test_sys::burn::Cpu;
use regent_test_sys::cgroup::NoForks;
use regent_test_sys::net::BlackHole;
use regent_test_sys::process::{Stopped, living_in};
use regent_test_sys::{Need, hanging, watchdog};
use rusqlite::Connection;

use super::checker::Node;
use super::cluster::{Cluster, Setting, TTL};
use super::proxy::Cut;
use super::stale::{Stale, Told};
use super::wall;

/// In seconds.
const HOUR: i64 = 3600;
/// Programs that compute, for each processor.
const OVERLOAD: usize = 4;

/// A fault of the primary of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its agent is SIGSTOPped.
    AgentStopped,
    /// Its agent is SIGKILLed.
    AgentKilled,
    /// Its guardian is SIGKILLed.
    GuardianKilled,
    /// Agent and guardian are SIGSTOPped: the watchdog's turn.
    BothStopped,
    /// Agent and guardian are SIGKILLed: the watchdog's turn.
    BothKilled,
    /// Its postmaster is SIGKILLed; the backends are not.
    PostmasterKilled,
    /// Its postmaster is SIGSTOPped, and the DCS is out of its reach.
    PostmasterStopped,
    /// One of its backends is SIGSTOPped, and the DCS is out of its reach.
    BackendStopped,
    /// Every member of the DCS is SIGKILLed.
    DcsStopped,
    /// Packets between its agent and the DCS are dropped, without a reset.
    DcsBlackHoled,
    /// Every member of the DCS is SIGSTOPped: connections stay, nobody answers.
    DcsFrozen,
    /// Its agent gets an error for every request.
    DcsErrors,
    /// Its agent's member is cut from the others and answers every read with what was
    /// ([`super::stale`]), for twice the TTL.
    DcsStale,
    /// The pipes that its agent and its server log to are full, and the DCS is out of its reach.
    LogPipeFull,
    /// The file system of its data directory stops answering, and the DCS is out of its reach.
    DataDirectoryHangs,
    /// The same, while the DCS answers: the agent's main loop hangs, and renews nothing any more.
    DirectoryAloneHangs,
    /// Nothing of it can fork, and the DCS is out of its reach.
    ForkFails,
    /// Four times as much to compute as there are processors, and its agent is SIGSTOPped.
    Overload,
    /// The same, with an agent that gets as little of them as anybody, and the DCS is out of its reach.
    OverloadDcsLost,
    /// The wall clock is stepped an hour ahead, and the DCS is out of its reach.
    ClockAhead,
    /// The wall clock is stepped an hour back, and the DCS is out of its reach.
    ClockBack,
    /// All its processes are frozen for twice the TTL, and thawed. Its service has been granted rung 0
    /// (`regent-packets`), which is frozen with it.
    NodeFrozen,
    /// In a federation: the global quorum answers nobody.
    QuorumGone,
}

/// Who can be expected to acknowledge next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another node, while the fault lasts.
    Another,
    /// Whoever, once the fault is gone: until then nobody has a DCS.
    AfterHealing,
    /// Whoever, the holder too.
    Anyone,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 23] = [
        Self::AgentStopped,
        Self::AgentKilled,
        Self::GuardianKilled,
        Self::BothStopped,
        Self::BothKilled,
        Self::PostmasterKilled,
        Self::PostmasterStopped,
        Self::BackendStopped,
        Self::DcsStopped,
        Self::DcsBlackHoled,
        Self::DcsFrozen,
        Self::DcsErrors,
        Self::DcsStale,
        Self::LogPipeFull,
        Self::DataDirectoryHangs,
        Self::DirectoryAloneHangs,
        Self::ForkFails,
        Self::Overload,
        Self::OverloadDcsLost,
        Self::ClockAhead,
        Self::ClockBack,
        Self::NodeFrozen,
        Self::QuorumGone,
    ];

    /// The faults that are tried in a setting.
    #[must_use]
    pub fn of(setting: Setting) -> Vec<Self> {
        match setting {
            Setting::Site => {
                let elsewhere = [
                    Self::of(Setting::Watched),
                    Self::of(Setting::Hanging),
                    vec![Self::QuorumGone],
                ];
                let elsewhere = elsewhere.concat();
                Self::ALL.into_iter().filter(|fault| !elsewhere.contains(fault)).collect()
            }
            Setting::Watched => vec![Self::BothStopped, Self::BothKilled],
            Setting::Hanging => vec![Self::DataDirectoryHangs, Self::DirectoryAloneHangs],
            Setting::Federation => vec![Self::AgentStopped, Self::AgentKilled, Self::QuorumGone],
        }
    }

    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentStopped => "agent SIGSTOPped",
            Self::AgentKilled => "agent SIGKILLed",
            Self::GuardianKilled => "guardian SIGKILLed",
            Self::BothStopped => "agent and guardian SIGSTOPped",
            Self::BothKilled => "agent and guardian SIGKILLed",
            Self::PostmasterKilled => "postmaster SIGKILLed",
            Self::PostmasterStopped => "postmaster SIGSTOPped, DCS lost",
            Self::BackendStopped => "one backend SIGSTOPped, DCS lost",
            Self::DcsStopped => "DCS stopped",
            Self::DcsBlackHoled => "DCS black-holed",
            Self::DcsFrozen => "DCS frozen",
            Self::DcsErrors => "DCS answers errors",
            Self::DcsStale => "DCS answers stale data",
            Self::LogPipeFull => "log pipe full, DCS lost",
            Self::DataDirectoryHangs => "data directory hangs, DCS lost",
            Self::DirectoryAloneHangs => "data directory hangs",
            Self::ForkFails => "fork fails, DCS lost",
            Self::Overload => "4x overload, agent SIGSTOPped",
            Self::OverloadDcsLost => "4x overload, DCS lost",
            Self::ClockAhead => "wall clock +1 h, DCS lost",
            Self::ClockBack => "wall clock -1 h, DCS lost",
            Self::NodeFrozen => "node frozen for twice the TTL, with regent-packets",
            Self::QuorumGone => "global quorum gone",
        }
    }

    /// The shortest that it lasts, however soon somebody acknowledges.
    #[must_use]
    pub fn lasts(self) -> Duration {
        match self {
            // Long enough for a fenced node to be told, again and again, that it leads.
            Self::NodeFrozen | Self::DcsStale => TTL * 2,
            _ => Duration::ZERO,
        }
    }

    /// Who can be expected to acknowledge next.
    #[must_use]
    pub fn next(self) -> Next {
        match self {
            Self::GuardianKilled | Self::PostmasterKilled => Next::Anyone,
            Self::DcsStopped | Self::DcsFrozen | Self::QuorumGone => Next::AfterHealing,
            Self::AgentStopped
            | Self::AgentKilled
            | Self::BothStopped
            | Self::BothKilled
            | Self::PostmasterStopped
            | Self::BackendStopped
            | Self::DcsBlackHoled
            | Self::DcsErrors
            | Self::DcsStale
            | Self::LogPipeFull
            | Self::DataDirectoryHangs
            | Self::DirectoryAloneHangs
            | Self::ForkFails
            | Self::Overload
            | Self::OverloadDcsLost
            | Self::ClockAhead
            | Self::ClockBack
            | Self::NodeFrozen => Next::Another,
        }
    }

    /// What it needs of this machine.
    fn needs(self) -> Vec<Need> {
        let filter = [Need::Root, Need::Program("nft")];
        match self {
            Self::BothStopped | Self::BothKilled => watchdog::NEEDS.to_vec(),
            Self::DataDirectoryHangs | Self::DirectoryAloneHangs => {
                [hanging::NEEDS, &filter].concat()
            }
            Self::ForkFails => [&filter[..], &[Need::Controller("pids")]].concat(),
            Self::NodeFrozen => [&filter[..], &[Need::Cgroups]].concat(),
            Self::OverloadDcsLost
            | Self::ClockAhead
            | Self::ClockBack
            | Self::LogPipeFull
            | Self::PostmasterStopped
            | Self::BackendStopped
            | Self::DcsBlackHoled
            | Self::DcsStale => filter.to_vec(),
            Self::AgentStopped
            | Self::AgentKilled
            | Self::GuardianKilled
            | Self::Overload
            | Self::PostmasterKilled
            | Self::DcsStopped
            | Self::DcsFrozen
            | Self::DcsErrors
            | Self::QuorumGone => Vec::new(),
        }
    }

    /// Why it can't be tried here.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let clock = || match self {
            Self::ClockAhead | Self::ClockBack => wall::library().err(),
            _ => None,
        };
        regent_test_sys::missing(&self.needs()).or_else(clock)
    }

    /// Does it to `node`.
    ///
    /// # Errors
    /// When it can't be done.
    pub async fn inject(self, cluster: &mut Cluster, node: Node) -> anyhow::Result<Injected> {
        let mut injected = Injected { node, undo: Vec::new() };
        match self {
            Self::AgentStopped => injected.stop([cluster.agent_pid(node).await?])?,
            Self::AgentKilled => kill(cluster.agent_pid(node).await?, Signal::SIGKILL)?,
            Self::GuardianKilled => {
                kill(guardian(cluster, node)?, Signal::SIGKILL)?;
            }
            Self::BothStopped => {
                let both = [cluster.agent_pid(node).await?, guardian(cluster, node)?];
                injected.stop(both)?;
            }
            Self::BothKilled => {
                let both = [cluster.agent_pid(node).await?, guardian(cluster, node)?];
                both.into_iter().try_for_each(|pid| kill(pid, Signal::SIGKILL))?;
            }
            Self::PostmasterKilled => kill(cluster.postmaster(node)?, Signal::SIGKILL)?,
            Self::PostmasterStopped => {
                injected.stop([cluster.postmaster(node)?])?;
                injected.lose_dcs(cluster)?;
            }
            Self::BackendStopped => {
                injected.stop([backend(cluster, node)?])?;
                injected.lose_dcs(cluster)?;
            }
            Self::DcsStopped => cluster.stores.kill(),
            Self::DcsBlackHoled => injected.lose_dcs(cluster)?,
            Self::DcsFrozen => {
                cluster.stores.signal(Signal::SIGSTOP);
                injected.undo.push(Undo::Stores);
            }
            Self::DcsErrors => {
                cluster.proxies.of_node[node].turn(cluster.proxies.errors);
                injected.undo.push(Undo::Way);
            }
            Self::DcsStale => {
                // The agent's own member; the others go on without it.
                let (own, others) = (cluster.stores.of_node(node), cluster.stores.of_others(node));
                let stale = Stale::before(own, &others)?;
                cluster.proxies.of_node[node].turn(stale.address);
                let (user, port) = cluster.stores.marks(node);
                let cut = Cut::user(user, port)?;
                stale.begin();
                injected.undo.extend([Undo::Stale(stale), Undo::Way, Undo::Cut(cut)]);
            }
            Self::ForkFails => {
                let mut all = vec![cluster.agent_pid(node).await?, cluster.postmaster(node)?];
                all.extend(cluster.guardians(node));
                injected.undo.push(Undo::Forks(NoForks::of(all)?));
                injected.lose_dcs(cluster)?;
            }
            Self::Overload => {
                injected.undo.push(Undo::Overload(Cpu::overload(OVERLOAD)?));
                injected.stop([cluster.agent_pid(node).await?])?;
            }
            Self::OverloadDcsLost => {
                injected.undo.push(Undo::Overload(Cpu::overload(OVERLOAD)?));
                injected.lose_dcs(cluster)?;
            }
            Self::NodeFrozen => {
                // What is frozen holding an acknowledgement sends it before it can be killed: rung 0.
                let packets = cluster.refuse_packets(node)?;
                let mut all: Vec<Pid> =
                    living_in(&cluster.directories(node).1).into_iter().collect();
                all.push(cluster.agent_pid(node).await?);
                all.extend(cluster.guardians(node));
                all.push(packets);
                injected.undo.push(Undo::Frozen(Frozen::freeze(&all)?));
            }
            Self::LogPipeFull => {
                cluster.block_logs(node, true)?;
                injected.undo.push(Undo::Pipes);
                injected.lose_dcs(cluster)?;
            }
            Self::ClockAhead | Self::ClockBack => {
                let hour = if self == Self::ClockAhead { HOUR } else { -HOUR };
                cluster.step_wall(node, hour).await?;
                injected.undo.push(Undo::Clock);
                injected.lose_dcs(cluster)?;
            }
            Self::QuorumGone => {
                let quorum = Connection::open(cluster.quorum_file()?)?;
                quorum.busy_timeout(Duration::from_secs(10))?;
                quorum.execute_batch("BEGIN EXCLUSIVE")?;
                injected.undo.push(Undo::Quorum(quorum));
            }
            Self::DataDirectoryHangs => {
                cluster.ground.stall(node)?;
                injected.undo.push(Undo::Stall);
                injected.lose_dcs(cluster)?;
            }
            Self::DirectoryAloneHangs => {
                cluster.ground.stall(node)?;
                injected.undo.push(Undo::Stall);
            }
        }
        Ok(injected)
    }
}

fn guardian(cluster: &Cluster, node: Node) -> anyhow::Result<Pid> {
    let found = cluster.guardians(node);
    ensure!(found.len() == 1, "{} guardians of node {node}: {found:?}", found.len());
    Ok(found[0])
}

/// A backend of one of our clients.
fn backend(cluster: &Cluster, node: Node) -> anyhow::Result<Pid> {
    let title = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let living = living_in(&cluster.directories(node).1);
    living
        .into_iter()
        .find(|pid| title(pid).contains("app postgres"))
        .context("no client's backend")
}

/// What was done, to be undone.
#[derive(Debug)]
pub struct Injected {
    node: Node,
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Continue(Stopped),
    Hole(BlackHole),
    Cut(Cut),
    Stale(Stale),
    Way,
    Stores,
    Stall,
    Pipes,
    Quorum(Connection),
    Clock,
    Forks(NoForks),
    Overload(Cpu),
    Frozen(Frozen),
}

impl Injected {
    fn stop(&mut self, pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<()> {
        self.undo.push(Undo::Continue(Stopped::these(pids)?));
        Ok(())
    }

    fn lose_dcs(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let port = cluster.proxies.of_node[self.node].port;
        self.undo.push(Undo::Hole(BlackHole::ports(&[port])?));
        Ok(())
    }

    /// What a member that answers from its past has told so far, where there is one.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        self.undo.iter().find_map(|undo| match undo {
            Undo::Stale(stale) => Some(stale.told()),
            _ => None,
        })
    }

    /// Undoes it; whatever was killed is started again.
    ///
    /// # Errors
    /// When something can't be started.
    pub async fn heal(self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for undo in self.undo.into_iter().rev() {
            match undo {
                // Killed by the fence meanwhile is right.
                Undo::Continue(stopped) => stopped.go_on(),
                Undo::Hole(hole) => drop(hole),
                Undo::Cut(cut) => drop(cut),
                Undo::Stale(stale) => drop(stale),
                Undo::Way => {
                    let own = cluster.stores.of_node(self.node);
                    cluster.proxies.of_node[self.node].turn(own);
                }
                Undo::Stores => cluster.stores.signal(Signal::SIGCONT),
                Undo::Stall => cluster.ground.resume(self.node),
                Undo::Pipes => cluster.block_logs(self.node, false)?,
                Undo::Clock => cluster.wall.step(self.node, 0)?,
                // Its transaction ends with it.
                Undo::Quorum(quorum) => drop(quorum),
                Undo::Forks(forks) => drop(forks),
                Undo::Overload(overload) => drop(overload),
                Undo::Frozen(frozen) => drop(frozen),
            }
        }
        cluster.start_missing().await
    }
}

/// Where cgroup v2 is mounted, also beside version 1.
fn unified() -> Option<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    places.into_iter().find(|place| place.join("cgroup.controllers").exists())
}

/// Processes frozen in a cgroup of their own. Dropping it thaws them.
#[derive(Debug)]
struct Frozen {
    group: PathBuf,
    root: PathBuf,
}

impl Frozen {
    fn freeze(pids: &[Pid]) -> anyhow::Result<Self> {
        let root = unified().context("no cgroup v2 here")?;
        let group = root.join(format!("regent-fence-{}-{}", std::process::id(), pids[0]));
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let frozen = Self { group, root };
        for pid in pids {
            // One that has ended meanwhile is none of the node's processes.
            frozen.put(&frozen.group, *pid).ok();
        }
        fs::write(frozen.group.join("cgroup.freeze"), "1")?;
        Ok(frozen)
    }

    fn put(&self, into: &Path, pid: Pid) -> std::io::Result<()> {
        fs::write(into.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fs::write(self.group.join("cgroup.freeze"), "0").ok();
        let left = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines().filter_map(|line| line.parse().ok()) {
            self.put(&self.root.clone(), Pid::from_raw(pid)).ok();
        }
        fs::remove_dir(&self.group).ok();
    }
}
