//! What already runs of the data directory, and whose it is.
//!
//! A server that this node's agent looked after is named by the mark in the run directory, which
//! outlives the agent and the guardian: when both are gone, nothing else tells it from a server that
//! somebody else runs (Patroni, an operator). One that a guardian of another run directory guards is
//! another agent's. Backends without a postmaster are nobody's (docs/adr/0014).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use regent_guardian::launch::Launch;
use regent_guardian::processes::scan::{Family, Process, Scanner};

use super::server::Postmaster;
use crate::fence::processes::{self, DataDirectory, Instance};

/// How soon processes that were killed are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often: what a hanging disk holds does not die sooner.
const LOOKS: usize = 400;
/// First arguments of a server program that works without a postmaster.
const ALONE: [&[u8]; 3] = [b"--single", b"--boot", b"--check"];

/// A server of a former life, which nobody guards and which may write. Its processes are stopped.
#[derive(Debug)]
pub struct Frozen {
    instance: Instance,
    /// Its postmaster.
    pub postmaster: Postmaster,
}

impl Frozen {
    /// Its rights cannot be renewed: it ends.
    pub async fn end(mut self) {
        for _ in 0..LOOKS {
            if self.instance.kill_all() {
                break;
            }
            // The kernel tells nobody when the last of several processes is gone.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Stops what a former life of this agent left without a guardian, and ends backends that lost their
/// postmaster. Needs nothing but /proc and signals, so that whatever keeps an agent from starting
/// does not keep it from this. Only for whoever holds the run directory's lock.
pub async fn freeze(data_dir: &Path, run_dir: &Path) -> Option<Frozen> {
    // By its number first: the data directory's disk may hang, and its server write on elsewhere.
    let marked = marked(run_dir);
    let early = marked.and_then(|found| frozen_by_number(found.pid));
    match postmaster(data_dir).or(marked) {
        Some(found) if is_ours(run_dir, found) && !recovers(data_dir) => {
            let Ok(mut instance) = Instance::open() else {
                // Without descriptors nothing can be frozen as a whole; nothing may be let go on.
                tracing::error!(pid = found.pid, "a PostgreSQL that nobody guards: killed");
                let _ended: bool = processes::kill_all(data_dir, Some(found.pid));
                return None;
            };
            instance.set_data(DataDirectory::resolve(data_dir).ok());
            instance.set_postmaster(Some(found.pid));
            instance.freeze();
            tracing::warn!(pid = found.pid, "a PostgreSQL that nobody guards: frozen");
            Some(Frozen { instance, postmaster: found })
        }
        Some(_) => {
            // A standby, or another's.
            if let Some(mut instance) = early {
                for _ in 0..LOOKS {
                    if instance.thaw() {
                        break;
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            None
        }
        None => {
            end_orphans(data_dir).await;
            None
        }
    }
}

/// Freezes a postmaster and its children without asking any disk.
fn frozen_by_number(pid: i32) -> Option<Instance> {
    let mut instance = Instance::open().ok()?;
    instance.set_postmaster(Some(pid));
    instance.freeze();
    Some(instance)
}

/// The server that the mark in the run directory names, where it still lives.
fn marked(run_dir: &Path) -> Option<Postmaster> {
    let mark = std::fs::read_link(mark_path(run_dir)).ok()?;
    let (pid, started) = mark.to_str()?.split_once(',')?;
    let found = Postmaster { pid: pid.parse().ok()?, started: started.parse().ok()? };
    found.lives().then_some(found)
}

/// Where the server works that the mark in the run directory names, while it lives: whatever a
/// configuration that is refused says of its data directory.
#[must_use]
pub fn marked_directory(run_dir: &Path) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{}/cwd", marked(run_dir)?.pid)).ok()
}

/// A standby that may not write, as long as nobody promotes it.
fn recovers(data_dir: &Path) -> bool {
    data_dir.join("standby.signal").exists()
}

/// The living postmaster of a data directory: the one that postmaster.pid names, or, where that file
/// is gone, whoever has children there.
#[must_use]
pub fn postmaster(data_dir: &Path) -> Option<Postmaster> {
    let family = family(data_dir)?;
    let named = named(data_dir);
    let is_named = |process: &&Process| Some(process.pid) == named;
    let has_children = |process: &&Process| family.iter().any(|child| child.parent == process.pid);
    let found = family.iter().find(is_named).or_else(|| family.iter().find(has_children))?;
    Some(Postmaster { pid: found.pid, started: found.start })
}

/// The living postmaster that postmaster.pid names; where there is none, one small file is read.
#[must_use]
pub fn named_postmaster(data_dir: &Path) -> Option<Postmaster> {
    let pid = named(data_dir)?;
    // A number alone may be somebody else's by now (hazards.md row 78).
    let found = family(data_dir)?.into_iter().find(|process| process.pid == pid)?;
    Some(Postmaster { pid, started: found.start })
}

/// A single-user server stands there with a minus sign.
fn named(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn family(data_dir: &Path) -> Option<Vec<Process>> {
    let data = DataDirectory::resolve(data_dir).ok()?;
    let family =
        Family { data_dir: data.path().as_os_str().as_bytes(), postmaster: None, reaper: None };
    let mut found = Vec::new();
    Scanner::open().ok()?.scan(&family, |member| found.extend(member.stat)).ok()?;
    Some(found)
}

/// Backends whose postmaster is gone go on acknowledging whatever their clients have sent already.
async fn end_orphans(data_dir: &Path) {
    let mut said = false;
    for _ in 0..LOOKS {
        let orphans: Vec<i32> = family(data_dir)
            .unwrap_or_default()
            .iter()
            .map(|process| process.pid)
            .filter(|pid| !works_alone(&command_line(*pid)))
            .collect();
        // A postmaster that was being started has its children by now.
        if orphans.is_empty() || postmaster(data_dir).is_some() {
            return;
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(?orphans, "backends without a postmaster: killing them");
        }
        for pid in orphans {
            processes::signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn command_line(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// A single-user server, or a part of `initdb`: whoever runs it waits for its end.
fn works_alone(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).nth(1).is_some_and(|first| ALONE.contains(&first))
}

/// The guardian of another run directory that guards this data directory: its lock's path.
#[must_use]
pub fn guarded_by_another(data_dir: &Path, run_dir: &Path) -> Option<PathBuf> {
    let true_path = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (data, run) = (true_path(data_dir), true_path(run_dir));
    let guards = |pid: i32| {
        let mut words = command_line(pid)
            .split(|byte| *byte == 0)
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect::<Vec<_>>()
            .into_iter();
        let program = words.next()?;
        program.as_bytes().ends_with(b"regent-guardian").then_some(())?;
        // The terminating zero leaves an empty word.
        let launch = Launch::parse(words.filter(|word| !word.is_empty())).ok()?;
        (true_path(&launch.data_dir) == data).then_some(launch.lock)
    };
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(guards)
        .find(|lock| lock.parent().map(true_path).as_deref() != Some(run.as_path()))
}

fn mark_path(run_dir: &Path) -> PathBuf {
    run_dir.join("postmaster")
}

fn mark_of(postmaster: Postmaster) -> String {
    format!("{},{}", postmaster.pid, postmaster.started)
}

/// Notes that this agent looks after that server. A symbolic link: whole or not there.
///
/// # Errors
/// When it can't be made.
pub fn mark(run_dir: &Path, postmaster: Postmaster) -> std::io::Result<()> {
    let path = mark_path(run_dir);
    let new = path.with_extension("new");
    drop(std::fs::remove_file(&new));
    symlink(mark_of(postmaster), &new)?;
    std::fs::rename(&new, &path)
}

fn is_ours(run_dir: &Path, postmaster: Postmaster) -> bool {
    let mark = std::fs::read_link(mark_path(run_dir));
    mark.is_ok_and(|mark| mark.as_os_str() == mark_of(postmaster).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::postgres::programs::Programs;
    use std::process::{Child, Stdio};

    /// A directory with a process in it that counts as a server: a shell of that name, which waits
    /// for its input to end.
    struct Place {
        dir: tempfile::TempDir,
        server: Child,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let data = dir.path().join("data");
            std::fs::create_dir(&data).expect("a data directory");
            let program = dir.path().join("postgres");
            std::fs::copy("/bin/sh", &program).expect("a program");
            let mut command = Programs::plain(&program).into_std();
            let server = command
                .args(["-c", "read word; exit 7"])
                .current_dir(&data)
                .stdin(Stdio::piped())
                .spawn()
                .expect("a process");
            let place = Self { dir, server };
            let ready = (0..10_000).any(|_| !family(&place.data()).unwrap_or_default().is_empty());
            assert!(ready, "the process works in its directory");
            place
        }

        fn data(&self) -> PathBuf {
            self.dir.path().join("data")
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.server.id()).expect("small")
        }

        fn named(self) -> Self {
            let text = format!("{}\n{}\n", self.pid(), self.data().display());
            std::fs::write(self.data().join("postmaster.pid"), text).expect("written");
            self
        }

        fn marked(self) -> Self {
            let found = postmaster(&self.data()).expect("a postmaster");
            mark(self.dir.path(), found).expect("marked");
            self
        }

        async fn freeze(&self) -> Option<Frozen> {
            freeze(&self.data(), self.dir.path()).await
        }

        fn state(&self) -> u8 {
            let found = Scanner::open().expect("/proc").process(self.pid()).expect("read");
            found.map_or(b'Z', |process| process.state)
        }

        /// How it ends once its input does: 7 when nobody killed it.
        fn ends(mut self) -> Option<i32> {
            drop(self.server.stdin.take());
            self.server.wait().expect("waited for").code()
        }
    }

    #[tokio::test]
    async fn what_a_former_life_left_is_stopped_and_ends_with_a_failed_start() {
        let place = Place::new().named().marked();
        let frozen = place.freeze().await.expect("frozen");
        assert_eq!(frozen.postmaster.pid, place.pid());
        assert!((0..10_000).any(|_| place.state() == b'T'), "stopped");
        frozen.end().await;
        assert_eq!(place.ends(), None, "killed");
    }

    #[test]
    fn the_mark_tells_where_a_server_works_while_it_lives() {
        let place = Place::new().named();
        assert_eq!(marked_directory(place.dir.path()), None, "nobody marked it");
        let place = place.marked();
        let data = place.data().canonicalize().expect("there");
        assert_eq!(marked_directory(place.dir.path()), Some(data));
        let before = Postmaster { pid: place.pid(), started: 1 };
        mark(place.dir.path(), before).expect("marked");
        assert_eq!(marked_directory(place.dir.path()), None, "another process of that number");
        assert_eq!(place.ends(), Some(7));
    }

    #[tokio::test]
    async fn what_is_not_ours_or_does_not_write_goes_on() {
        let foreign = Place::new().named();
        assert!(foreign.freeze().await.is_none());
        assert_eq!(foreign.ends(), Some(7), "nobody marked it");

        let other = Place::new().named();
        let before = Postmaster { pid: other.pid(), started: 1 };
        mark(other.dir.path(), before).expect("marked");
        assert!(other.freeze().await.is_none());
        assert_eq!(other.ends(), Some(7), "the mark is of another process of that number");

        let standby = Place::new().named().marked();
        std::fs::write(standby.data().join("standby.signal"), "").expect("written");
        assert!(standby.freeze().await.is_none());
        assert_eq!(standby.ends(), Some(7), "it recovers");
    }

    #[tokio::test]
    async fn backends_without_a_postmaster_are_killed_whoever_ran_it() {
        let place = Place::new();
        assert!(place.freeze().await.is_none());
        assert_eq!(place.ends(), None, "killed");
        let stale = Place::new();
        std::fs::write(stale.data().join("postmaster.pid"), "1\n").expect("written");
        assert!(stale.freeze().await.is_none());
        assert_eq!(stale.ends(), None, "killed: the number is another's");
    }

    #[test]
    fn who_works_without_a_postmaster_is_known_by_the_first_argument() {
        for (line, alone) in [
            (b"/bin/postgres\0--single\0-D\0x\0".as_slice(), true),
            (b"/bin/postgres\0--boot\0", true),
            (b"/bin/postgres\0-D\0--single\0", false),
            (b"postgres: u d [local] INSERT", false),
            (b"", false),
        ] {
            assert_eq!(works_alone(line), alone, "{}", String::from_utf8_lossy(line));
        }
    }
}
