//! Finding and killing every process of a data directory.
//!
//! Killing the postmaster or its process group is not a fence: every child has a session of its
//! own and goes on acknowledging until it notices (hazards.md 3.5, measured). So: every process
//! whose parent is the postmaster or the guardian (a subreaper adopts orphans), or that is a
//! PostgreSQL working in the data directory; the postmaster last; and again until a scan finds none.
//!
//! [`scan`] is the core, without allocation and without any file outside /proc, so that a guardian
//! can use it while every disk hangs. The functions here are for callers that may allocate.

pub mod scan;
pub mod title;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use scan::{Family, Process, Scanner};
use title::Kind;

use crate::decide::Processes;

/// A data directory whose true path is known: looking for its processes touches no file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDirectory(PathBuf);

impl DataDirectory {
    /// Resolves symlinks once: /proc shows true paths. Do it while the disk answers.
    ///
    /// # Errors
    /// When it does not exist or can't be reached.
    pub fn resolve(path: &Path) -> io::Result<Self> {
        path.canonicalize().map(Self)
    }

    /// The true path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its processes, without zombies; children of `postmaster` are of it wherever they work.
    ///
    /// # Errors
    /// When /proc can't be read: then nothing is known, which is not "none".
    pub fn processes(&self, postmaster: Option<i32>) -> io::Result<Vec<i32>> {
        let family = Family { data_dir: self.0.as_os_str().as_bytes(), postmaster, reaper: None };
        let mut found = Vec::new();
        Scanner::open()?.scan(&family, |member| found.push(member.pid))?;
        Ok(found)
    }

    /// Whether any lives, and whether one of them can acknowledge a write.
    #[must_use]
    pub fn look(&self, postmaster: Option<i32>) -> Processes {
        let family = Family { data_dir: self.0.as_os_str().as_bytes(), postmaster, reaper: None };
        Scanner::open().map_or(Processes::Unknown, |mut scanner| look(&mut scanner, &family))
    }

    /// Kills everything of the data directory; true once a scan finds nothing.
    #[must_use]
    pub fn kill_all(&self, postmaster: Option<i32>) -> bool {
        let family = Family { data_dir: self.0.as_os_str().as_bytes(), postmaster, reaper: None };
        match Scanner::open() {
            Ok(mut scanner) => kill_family(&mut scanner, &family) == Some(0),
            Err(_) => {
                kill_blindly(&family);
                false
            }
        }
    }
}

/// Processes of a data directory, without zombies. Resolves its path anew, which waits for its disk:
/// a fence uses [`DataDirectory`].
///
/// # Errors
/// When /proc can't be listed: then nothing is known, which is not "none".
pub fn of_data_directory(data_dir: &Path, postmaster: Option<i32>) -> io::Result<Vec<i32>> {
    resolved(data_dir).processes(postmaster)
}

/// Kills everything of the data directory; true once a scan finds nothing. Resolves its path anew,
/// which waits for its disk: a fence uses [`DataDirectory`].
#[must_use]
pub fn kill_all(data_dir: &Path, postmaster: Option<i32>) -> bool {
    resolved(data_dir).kill_all(postmaster)
}

/// A directory that can't be resolved may have gone while its processes live on.
fn resolved(data_dir: &Path) -> DataDirectory {
    DataDirectory::resolve(data_dir).unwrap_or_else(|_| DataDirectory(data_dir.to_owned()))
}

/// Start time of a process in clock ticks since boot: with the number it identifies it.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    process(pid).map(|process| process.start)
}

/// Whether the process lives and is no zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    process(pid).is_some_and(|process| !process.is_dead())
}

fn process(pid: i32) -> Option<Process> {
    Scanner::open().ok()?.process(pid).ok()?
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: i32, signal: Signal) {
    // ESRCH is the aim; EPERM cannot be, all processes are of one user. Numbers below 1 would
    // mean whole groups (kill(2)).
    if pid > 0 {
        kill(Pid::from_raw(pid), signal).ok();
    }
}

/// Which processes of the family live. No allocation.
pub fn look(scanner: &mut Scanner, family: &Family<'_>) -> Processes {
    let mut seen = Processes::None;
    let scanned = scanner.scan_kinds(family, |_, kind| {
        seen = match (seen, kind) {
            (_, Kind::Client) | (Processes::Client, Kind::Harmless) => Processes::Client,
            (Processes::Unknown | Processes::None | Processes::Harmless, Kind::Harmless) => {
                Processes::Harmless
            }
        };
    });
    if scanned.is_ok() { seen } else { Processes::Unknown }
}

/// One pass: SIGKILL to all of the family, the postmaster last. How many were found, or `None` when
/// not everything of /proc could be read; then all that are known were killed. No allocation.
pub fn kill_family(scanner: &mut Scanner, family: &Family<'_>) -> Option<usize> {
    let mut found = 0;
    let scanned = scanner.scan(family, |member| {
        found += 1;
        if Some(member.pid) != family.postmaster {
            signal(member.pid, Signal::SIGKILL);
        }
    });
    kill_blindly(family);
    scanned.ok().map(|()| found)
}

fn kill_blindly(family: &Family<'_>) {
    if let Some(postmaster) = family.postmaster {
        signal(postmaster, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> i32 {
        i32::try_from(std::process::id()).expect("small")
    }

    #[test]
    fn a_process_is_known_by_number_and_start_time() {
        assert!(alive(own()) && start_time(own()).is_some_and(|start| start > 0));
        assert!(!alive(i32::MAX) && start_time(i32::MAX).is_none() && start_time(-1).is_none());
    }

    #[test]
    fn whoever_works_in_a_directory_without_being_a_server_is_left_alone() {
        let here = std::env::current_dir().expect("a directory");
        let found = of_data_directory(&here, None).expect("/proc");
        assert!(!found.contains(&own()), "{found:?}");
    }

    #[test]
    fn children_of_the_postmaster_are_of_it_wherever_they_work() {
        let parent =
            Scanner::open().expect("/proc").process(own()).expect("read").expect("me").parent;
        let dir = tempfile::tempdir().expect("a directory");
        let found = of_data_directory(dir.path(), Some(parent)).expect("/proc");
        assert!(found.contains(&own()), "{found:?}");
        assert!(!of_data_directory(dir.path(), None).expect("/proc").contains(&own()));
    }
}
