//! Finding and killing every process of a data directory.
//!
//! Killing the postmaster or its process group is not a fence: every child has a session of its
//! own and goes on acknowledging until it notices (hazards.md 3.5, measured). So: every process
//! whose parent is the postmaster or whose working directory is the data directory, then the
//! postmaster, and again until a scan finds none.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes of a data directory, without zombies.
///
/// # Errors
/// When /proc cannot be listed: then nothing is known, which is not "none".
pub fn of_data_directory(data_dir: &Path, postmaster: Option<i32>) -> std::io::Result<Vec<i32>> {
    let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let found = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let cwd: Option<PathBuf> = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
            let child = || postmaster.is_some() && parent(*pid) == postmaster;
            (cwd.as_ref() == Some(&data_dir) && is_postgres(*pid)) || child()
        })
        .filter(|pid| state(*pid) != Some('Z'))
        .collect();
    Ok(found)
}

/// An operator's shell that stands in the directory is no server process. An executable that was
/// replaced by an upgrade shows as `postgres (deleted)`.
fn is_postgres(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
        exe.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with("postgres"))
    })
}

/// Fields of /proc/PID/stat after the command, which may itself contain anything (proc(5)).
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn state(pid: i32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

fn parent(pid: i32) -> Option<i32> {
    stat_fields(pid)?.get(1)?.parse().ok()
}

/// Start time of a process in clock ticks since boot: with the number it identifies it.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Whether the process lives and is no zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: i32, signal: Signal) {
    // ESRCH is the aim; EPERM cannot be, all processes are of one user.
    kill(Pid::from_raw(pid), signal).ok();
}

/// Kills everything of the data directory; true once a scan finds nothing.
#[must_use]
pub fn kill_all(data_dir: &Path, postmaster: Option<i32>) -> bool {
    let Ok(found) = of_data_directory(data_dir, postmaster) else {
        // Blind: at least the postmaster's number is known.
        if let Some(pid) = postmaster {
            signal(pid, Signal::SIGKILL);
        }
        return false;
    };
    let (last, first): (Vec<i32>, Vec<i32>) =
        found.iter().partition(|pid| Some(**pid) == postmaster);
    for pid in first.into_iter().chain(last) {
        signal(pid, Signal::SIGKILL);
    }
    found.is_empty()
}
