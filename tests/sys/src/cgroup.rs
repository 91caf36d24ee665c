//! Control groups: a node's processes frozen, killed, starved or kept from forking as a whole.
//!
//! A group is a directory of our own; dropping it moves its members back to the root group and
//! removes it. Children inherit the group of their parent, so moving an agent moves what it starts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::Pid;

use crate::boot;
use crate::process::{family, lives};

/// Longest wait for a group to be frozen, thawed or empty.
const SETTLES: Duration = Duration::from_secs(10);

/// Where the cgroup v2 hierarchy is mounted: alone, or beside v1 controllers.
///
/// # Errors
/// When it is not, or has no `cgroup.kill`.
pub fn unified() -> anyhow::Result<PathBuf> {
    mounted(|kind, _| kind == "cgroup2").context("no cgroup v2 hierarchy is mounted")
}

/// Where a cgroup v1 controller is mounted.
///
/// # Errors
/// When it is not.
pub fn controller(name: &str) -> anyhow::Result<PathBuf> {
    mounted(|kind, options| kind == "cgroup" && options.split(',').any(|option| option == name))
        .with_context(|| format!("no cgroup v1 controller {name} is mounted"))
}

fn mounted(wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (place, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
        wanted(kind, options).then(|| PathBuf::from(place))
    })
}

/// A group of our own.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    root: PathBuf,
}

impl Group {
    fn below(root: PathBuf) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("regent-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("make the group {}", dir.display()))?;
        Ok(Self { dir, root })
    }

    /// Moves processes into the group; those that are gone are left out. Whatever they start
    /// from now on is in it as well.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take(&self, pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<()> {
        move_to(&self.dir, pids)
    }

    /// Moves processes with everything below them, also what they start while this looks.
    ///
    /// # Errors
    /// When the kernel refuses, or they start more than can be followed for 10 s.
    pub fn take_families(&self, roots: &[Pid]) -> anyhow::Result<()> {
        let outside = || {
            let members = self.members();
            let families = roots.iter().flat_map(|root| family(*root));
            families.filter(|pid| lives(*pid) && !members.contains(pid)).collect::<Vec<_>>()
        };
        let mut moved = Ok(());
        boot::until(SETTLES, || {
            let left = outside();
            moved = self.take(left.iter().copied());
            (left.is_empty() || moved.is_err()).then_some(())
        })
        .context("they start processes faster than they can be moved")?;
        moved
    }

    /// Who is in it, zombies left out.
    #[must_use]
    pub fn members(&self) -> BTreeSet<Pid> {
        let members = members(&self.dir).into_iter();
        members.filter(|pid| lives(*pid)).collect()
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let file = self.dir.join(file);
        fs::write(&file, value).with_context(|| format!("write {value} to {}", file.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Again and again: a member may be forking. One that can't leave keeps the group.
        let removed = || {
            move_to(&self.root, members(&self.dir)).ok();
            fs::remove_dir(&self.dir).ok()
        };
        boot::until(SETTLES, removed).unwrap_or_default();
    }
}

fn members(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok().map(Pid::from_raw)).collect()
}

fn move_to(dir: &Path, pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<()> {
    let file = dir.join("cgroup.procs");
    for pid in pids {
        match fs::write(&file, pid.to_string()) {
            // Gone already, or a zombie, which can't be moved.
            Err(_) if !lives(pid) => {}
            result => result.with_context(|| format!("move {pid} to {}", file.display()))?,
        }
    }
    Ok(())
}

/// A cgroup v2 group: processes that are frozen or killed together, as a paused or reset machine.
#[derive(Debug)]
pub struct Node(Group);

impl Node {
    /// A new group with these processes and what they will start.
    ///
    /// # Errors
    /// Without root, or without cgroup v2.
    pub fn of(pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<Self> {
        let group = Group::below(unified()?)?;
        group.take(pids)?;
        Ok(Self(group))
    }

    /// A new group with these processes and everything below them, now and later.
    ///
    /// # Errors
    /// As [`Node::of`].
    pub fn of_families(roots: &[Pid]) -> anyhow::Result<Self> {
        let group = Group::below(unified()?)?;
        group.take_families(roots)?;
        Ok(Self(group))
    }

    /// The group itself.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0
    }

    /// Freezes all its processes; dropping what is returned thaws them.
    ///
    /// # Errors
    /// When not all are frozen within 10 s.
    pub fn freeze(&self) -> anyhow::Result<Frozen<'_>> {
        let frozen = Frozen(self);
        self.0.set("cgroup.freeze", "1")?;
        self.settled("frozen 1")?;
        Ok(frozen)
    }

    /// Kills all its processes at once, with those that they are just starting; how many there
    /// were. They are zombies, or gone, when this returns.
    ///
    /// # Errors
    /// When one is still there after 10 s.
    pub fn kill(&self) -> anyhow::Result<usize> {
        let before = self.0.members().len();
        self.0.set("cgroup.kill", "1")?;
        match boot::until(SETTLES, || self.0.members().is_empty().then_some(())) {
            Some(()) => Ok(before),
            None => bail!("killed, and still there: {:?}", self.0.members()),
        }
    }

    fn settled(&self, wanted: &str) -> anyhow::Result<()> {
        let events = self.0.dir.join("cgroup.events");
        let look = || fs::read_to_string(&events).unwrap_or_default();
        boot::until(SETTLES, || look().lines().any(|line| line == wanted).then_some(()))
            .with_context(|| format!("waited for '{wanted}' in {}: {}", events.display(), look()))
    }
}

/// A frozen node.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Node);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.0.set("cgroup.freeze", "0").ok();
        self.0.settled("frozen 0").ok();
    }
}

/// Processes that together get only a share of one CPU (cgroup v1 `cpu`).
#[derive(Debug)]
pub struct Starved(Group);

impl Starved {
    /// `percent` of one CPU for these processes and what they start, in turns of 100 ms.
    ///
    /// # Errors
    /// Without root or without the controller.
    pub fn to(percent: u32, pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<Self> {
        let group = Group::below(controller("cpu")?)?;
        group.set("cpu.cfs_period_us", "100000")?;
        group.set("cpu.cfs_quota_us", &(percent.max(1) * 1000).to_string())?;
        group.take(pids)?;
        Ok(Self(group))
    }

    /// The group itself.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0
    }
}

/// Processes that can start neither processes nor threads: fork(2) and clone(2) fail with EAGAIN
/// (cgroup v1 `pids`).
#[derive(Debug)]
pub struct NoForks(Group);

impl NoForks {
    /// Forbids it to these processes, and to no others.
    ///
    /// # Errors
    /// Without root or without the controller.
    pub fn of(pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<Self> {
        let group = Group::below(controller("pids")?)?;
        group.set("pids.max", "0")?;
        group.take(pids)?;
        Ok(Self(group))
    }

    /// How often a fork was refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let text = fs::read_to_string(self.0.dir.join("pids.events")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok());
        count.unwrap_or(0)
    }
}

/// A group whose memory is short: what is in it waits for pages to be reclaimed (cgroup v1 `memory`).
#[derive(Debug)]
pub struct Short(Group);

impl Short {
    /// A new group without members that can hold so many bytes.
    ///
    /// # Errors
    /// Without root or without the controller.
    pub fn of(bytes: u64) -> anyhow::Result<Self> {
        let group = Group::below(controller("memory")?)?;
        group.set("memory.limit_in_bytes", &bytes.to_string())?;
        Ok(Self(group))
    }

    /// The group itself.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0
    }

    /// How often its limit stood in the way, so that something had to be reclaimed first.
    #[must_use]
    pub fn reclaims(&self) -> u64 {
        let text = fs::read_to_string(self.0.dir.join("memory.failcnt")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Stat, stat, title};
    use crate::tools::{Owned, command};
    use crate::{Need, lacks};

    fn shell(line: &str) -> (Owned, Pid) {
        let child = Owned(command("sh").args(["-c", line]).spawn().expect("sh starts"));
        let pid = Pid::from_raw(child.0.id().try_into().expect("a pid"));
        (child, pid)
    }

    /// User and system ticks used (fields 14 and 15 of proc_pid_stat(5)).
    fn ticks(pid: Pid) -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, rest) = text.rsplit_once(')').expect("a name");
        rest.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().expect("ticks")).sum()
    }

    #[test]
    fn a_frozen_node_does_nothing_and_goes_on() {
        if lacks(&[Need::Root, Need::Cgroups]) {
            return;
        }
        let (_child, pid) = shell("while :; do :; done");
        let node = Node::of([pid]).expect("a group");
        let dir = node.group().dir().to_owned();
        let frozen = node.freeze().expect("it freezes");
        let before = ticks(pid);
        boot::pause(Duration::from_millis(100));
        assert_eq!(ticks(pid), before);
        drop(frozen);
        assert!(
            boot::until(Duration::from_secs(5), || (ticks(pid) > before).then_some(())).is_some()
        );
        drop(node);
        assert!(!dir.exists());
        assert!(lives(pid), "dropping a group kills nobody");
    }

    #[test]
    fn a_killed_node_loses_also_what_left_its_session() {
        if lacks(&[Need::Root, Need::Cgroups]) {
            return;
        }
        let (_child, pid) = shell("setsid sleep 60 & sleep 60; :");
        let node = Node::of_families(&[pid]).expect("a group");
        let both = || node.group().members().iter().filter(|p| title(**p) == "sleep 60").count();
        boot::until(Duration::from_secs(5), || (both() == 2).then_some(())).expect("two sleepers");
        assert_eq!(node.kill().expect("they die"), 3);
        assert!(matches!(stat(pid), Some(Stat { state: 'Z', .. })));
    }

    #[test]
    fn forks_fail_only_while_forbidden() {
        if lacks(&[Need::Root, Need::Controller("pids")]) {
            return;
        }
        let line = "while :; do if (exit 0) 2>/dev/null; then :; else sleep 0.01; fi; done";
        let (mut child, pid) = shell(line);
        let forbidden = NoForks::of([pid]).expect("a group");
        let refused = || (forbidden.refused() > 0).then_some(());
        boot::until(Duration::from_secs(5), refused).expect("a refused fork");
        drop(forbidden);
        // dash gives up at its first failed fork; what counts is that it was refused.
        child.0.kill().expect("it is ours");
    }

    #[test]
    fn a_starved_process_gets_its_share() {
        if lacks(&[Need::Root, Need::Controller("cpu")]) {
            return;
        }
        let (_child, pid) = shell("while :; do :; done");
        let _starved = Starved::to(10, [pid]).expect("a group");
        let (before, begun) = (ticks(pid), boot::now());
        boot::pause(Duration::from_millis(1000));
        // A tick is 10 ms: a tenth of a CPU is 10 of them a second.
        let used = ticks(pid) - before;
        let most = boot::now().since(begun).as_millis() / 100 + 15;
        assert!(u128::from(used) <= most, "{used} ticks, expected at most {most}");
    }
}
