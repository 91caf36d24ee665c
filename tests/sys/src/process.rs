//! Processes as /proc shows them, read anew each time and independent of the code under test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::boot;

/// Makes this process the parent of its descendants' orphans, which PID 1 may be slow to reap:
/// PostgreSQL does not start while a zombie has the number in its lock file.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> anyhow::Result<()> {
    prctl::set_child_subreaper(true).context("become a subreaper")
}

/// Reaps these children and orphans of ours once they have ended; those that have not are left.
/// Never all children: others belong to a `std::process::Child` that waits for them.
pub fn reap(pids: impl IntoIterator<Item = Pid>) {
    for pid in pids {
        // Neither a child of ours (ECHILD) nor ended: nothing to reap.
        waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
    }
}

/// The end of a child, at most after `limit`.
///
/// # Errors
/// When it is no child of ours or does not end.
pub fn ended(pid: Pid, limit: Duration) -> anyhow::Result<WaitStatus> {
    boot::until(limit, || match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
        other => Some(other),
    })
    .with_context(|| format!("process {pid} did not end within {limit:?}"))?
    .with_context(|| format!("wait for process {pid}"))
}

/// A process as `/proc/PID/stat` shows it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`...
    pub state: char,
    /// Its parent.
    pub parent: Pid,
    /// When it started, in clock ticks since boot: with the number it names the process.
    pub started: u64,
}

/// The state of a process; `None` when it is gone.
#[must_use]
pub fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

/// Whether a process exists and is no zombie.
#[must_use]
pub fn lives(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// Its title, as ps(1) shows it.
#[must_use]
pub fn title(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// All processes but this one.
#[must_use]
pub fn all() -> BTreeSet<Pid> {
    let own = nix::unistd::getpid();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| *pid != own)
        .collect()
}

/// Living processes whose working directory is `dir` or lies below it: PostgreSQL's stand in
/// their data directory. `dir` is taken as it is, absolute and without symbolic links: looking at
/// it would hang where it hangs.
#[must_use]
pub fn living_in(dir: &Path) -> BTreeSet<Pid> {
    let stands = |pid: &Pid| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| without_deleted(&cwd).starts_with(dir))
    };
    all().into_iter().filter(stands).filter(|pid| lives(*pid)).collect()
}

fn without_deleted(link: &Path) -> PathBuf {
    PathBuf::from(link.to_string_lossy().trim_end_matches(" (deleted)"))
}

/// A process and everything below it, itself first.
#[must_use]
pub fn family(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let everyone: Vec<(Pid, Pid)> =
        all().into_iter().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(everyone.iter().filter(|(_, above)| *above == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// Kills processes with SIGKILL and waits until none of them lives; how many there were.
///
/// # Errors
/// When one still lives after `limit`: in uninterruptible sleep, say.
pub fn kill_all(pids: &BTreeSet<Pid>, limit: Duration) -> anyhow::Result<usize> {
    for pid in pids {
        // Gone in between is what was wanted.
        kill(*pid, Signal::SIGKILL).ok();
    }
    let left = || pids.iter().filter(|pid| lives(**pid)).copied().collect::<Vec<_>>();
    boot::until(limit, || left().is_empty().then_some(())).with_context(|| {
        let shown: Vec<String> =
            left().iter().map(|pid| format!("{pid} {}", title(*pid))).collect();
        format!("killed, and alive after {limit:?}: {}", shown.join(", "))
    })?;
    Ok(pids.len())
}

/// Processes under SIGSTOP; dropping it sends SIGCONT to those that live.
#[derive(Debug)]
pub struct Stopped(Vec<(Pid, u64)>);

impl Stopped {
    /// Stops processes, and returns when the kernel shows each of them as stopped or gone. One in
    /// uninterruptible sleep stops when that ends, and is not waited for.
    ///
    /// # Errors
    /// When one can't be signalled, or runs on.
    pub fn these(pids: impl IntoIterator<Item = Pid>) -> anyhow::Result<Self> {
        let pids: Vec<Pid> = pids.into_iter().collect();
        // Whoever stops in the middle of a transaction of the embedded store holds up everybody who
        // shares that file: another fault, of a store that is for one machine.
        boot::until(Duration::from_secs(5), || {
            let stopped = Self::at_once(&pids);
            let holds = stopped.is_ok() && pids.iter().any(|pid| holds_a_file(*pid));
            if holds { None } else { Some(stopped) }
        })
        .context("the processes hold a lock on a file whenever they are stopped")?
    }

    fn at_once(pids: &[Pid]) -> anyhow::Result<Self> {
        let pids = pids.iter().copied().filter_map(|pid| Some((pid, stat(pid)?.started)));
        let stopped = Self(pids.collect());
        for (pid, _) in &stopped.0 {
            match kill(*pid, Signal::SIGSTOP) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("stop process {pid}")),
            }
        }
        for (pid, _) in &stopped.0 {
            let still = || stat(*pid).is_none_or(|stat| "TtDZX".contains(stat.state)).then_some(());
            boot::until(Duration::from_secs(5), still)
                .with_context(|| format!("process {pid} was sent SIGSTOP and runs on"))?;
        }
        Ok(stopped)
    }

    /// The processes.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.0.iter().map(|(pid, _)| *pid).collect()
    }

    /// Lets them go on.
    pub fn go_on(self) {
        drop(self);
    }
}

/// Whether a process keeps others from writing to a file: a lock of fcntl(2), which SQLite takes.
fn holds_a_file(pid: Pid) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = pid.to_string();
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"POSIX")
            && words.get(3) == Some(&"WRITE")
            && words.get(4) == Some(&pid.as_str())
    })
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (pid, started) in &self.0 {
            // Its number may have become another's.
            if stat(*pid).is_some_and(|stat| stat.started == *started) {
                kill(*pid, Signal::SIGCONT).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{Owned, command};

    fn sleeper() -> (Owned, Pid) {
        let child = Owned(command("sleep").arg("60").spawn().expect("sleep starts"));
        let pid = Pid::from_raw(child.0.id().try_into().expect("a pid"));
        (child, pid)
    }

    #[test]
    fn stopped_processes_go_on_when_dropped() {
        let (_child, pid) = sleeper();
        let stopped = Stopped::these([pid]).expect("it stops");
        assert_eq!(stat(pid).map(|stat| stat.state), Some('T'));
        stopped.go_on();
        let runs = boot::until(Duration::from_secs(5), || {
            stat(pid).filter(|stat| stat.state != 'T').map(|_| ())
        });
        assert_eq!(runs, Some(()));
    }

    #[test]
    fn a_family_is_found_with_its_children_and_theirs() {
        let line = "sleep 60 & sh -c 'sleep 60; :' & wait";
        let parent = Owned(command("sh").args(["-c", line]).spawn().expect("sh starts"));
        let pid = Pid::from_raw(parent.0.id().try_into().expect("a pid"));
        let whole = boot::until(Duration::from_secs(5), || {
            let whole = family(pid);
            let sleeping = whole.iter().filter(|pid| title(**pid) == "sleep 60").count();
            (sleeping == 2).then_some(whole)
        });
        let whole = whole.expect("both sleepers");
        assert_eq!(whole.first(), Some(&pid));
        let killed = kill_all(&whole.into_iter().skip(1).collect(), Duration::from_secs(5));
        assert_eq!(killed.expect("they die"), 3);
    }

    #[test]
    fn a_killed_process_is_not_alive_and_one_that_ends_is_waited_for() {
        let (child, pid) = sleeper();
        assert!(lives(pid));
        kill_all(&BTreeSet::from([pid]), Duration::from_secs(5)).expect("it dies");
        assert_eq!(stat(pid).map(|stat| stat.state), Some('Z'));
        let status = ended(pid, Duration::from_secs(5)).expect("it is ours");
        assert_eq!(status, WaitStatus::Signaled(pid, Signal::SIGKILL, false));
        drop(child);
    }
}
