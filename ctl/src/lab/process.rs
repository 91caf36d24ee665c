//! Running programs and looking at processes: the one place of this crate that starts any.
//!
//! Every program started here has an owner that ends it: short ones are killed at their time
//! limit, long ones belong to the lab's owner process ([`super::supervise`]).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;

use super::owner::Owner;

/// How often a wait for a short program looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a short program did.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said on standard output.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

/// A command with nothing inherited but what every program needs. Secrets travel in files, so
/// the environment holds none and the argument list must not.
#[expect(clippy::disallowed_methods, reason = "programs are started here, with owner and limits")]
fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", directory)
        .env("LC_ALL", "C")
        .env("RUST_BACKTRACE", "1")
        // etcd 3.4 asks for this on arm64; elsewhere nobody reads it.
        .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
        .stdin(Stdio::null());
    command
}

/// Blocks for a moment. Only for waits on another process that offers nothing to wait on.
#[expect(clippy::disallowed_methods, reason = "used off the runtime only")]
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// Runs a short program to its end, or kills it at the limit. `owner`: the user to run it as.
pub fn run(
    program: &Path,
    arguments: &[&str],
    directory: &Path,
    owner: Option<&Owner>,
    limit: Duration,
) -> anyhow::Result<Finished> {
    let shown = || format!("run {}", program.display());
    let mut command = command(program, directory);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(owner) = owner.filter(|owner| owner.dropped) {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    let mut child = command.spawn().with_context(shown)?;
    // Read beside the wait, so that a full pipe can't stop the program.
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let begun = clock::now();
    let status = loop {
        if let Some(status) = child.try_wait().with_context(shown)? {
            break status;
        }
        if begun.elapsed() > limit {
            child.kill().with_context(shown)?;
            child.wait().with_context(shown)?;
            anyhow::bail!("{} did not end within {limit:?} and was killed", shown());
        }
        pause(LOOK_EVERY);
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a read error is still worth showing.
        if from.read_to_end(&mut bytes).is_err() {
            bytes.extend_from_slice(b" (unreadable)");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Starts a long program of a lab, its output appended to `log`. The caller reaps it.
pub fn start(argv: &[String], directory: &Path, log: &Path) -> anyhow::Result<Pid> {
    let (program, arguments) = argv.split_first().context("start a program: no name given")?;
    let open = |path: &Path| {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("open log {}", path.display()))
    };
    let child = command(Path::new(program), directory)
        .args(arguments)
        .stdout(open(log)?)
        .stderr(open(log)?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    pid(&child)
}

/// Starts the lab's owner process, attached by its standard input: when that closes, it ends the
/// lab (see [`super::supervise`]).
pub fn start_supervisor(
    program: &Path,
    directory: &Path,
    log: &Path,
    owner: &Owner,
) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .append(true)
        .open(log)
        .with_context(|| format!("open log {}", log.display()))?;
    let mut command = command(program, directory);
    command
        .args(["lab", "supervise"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log);
    if owner.dropped {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command.spawn().with_context(|| format!("start {}", program.display()))
}

fn pid(child: &Child) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("read process id")?))
}

/// Every process of a lab: its program lies in the lab, is one of PostgreSQL's or runs Patroni, and its
/// working directory is `dir` or lies below it. Whatever a lab starts has its directory there: agents and
/// what they run the lab's own, PostgreSQL its data directory. A person's shell that stands there
/// is not the lab's.
#[must_use]
pub fn living_in(dir: &Path) -> BTreeSet<Pid> {
    all().filter(|pid| is_in(*pid, dir) && is_labs_program(*pid, dir)).collect()
}

/// Processes whose parent is this one.
#[must_use]
pub fn children() -> BTreeSet<Pid> {
    let own = nix::unistd::getpid();
    all().filter(|pid| parent(*pid) == Some(own)).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let own = nix::unistd::getpid();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(move |pid| *pid != own)
}

/// A link of /proc; " (deleted)" is appended when its target has gone already.
fn link(pid: Pid, name: &str) -> Option<PathBuf> {
    let target = fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
    let text = target.to_string_lossy();
    Some(PathBuf::from(text.trim_end_matches(" (deleted)")))
}

fn is_in(pid: Pid, dir: &Path) -> bool {
    link(pid, "cwd").is_some_and(|cwd| cwd.starts_with(dir))
}

fn is_labs_program(pid: Pid, dir: &Path) -> bool {
    let Some(program) = link(pid, "exe") else { return false };
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned());
    // `dir` is a lab's, or that of a node in it.
    let placed = program
        .parent()
        .and_then(Path::parent)
        .is_some_and(|lab| dir == lab || dir.starts_with(lab.join("nodes")));
    let others = |name: &str| {
        name == "postgres"
            || name == "initdb"
            || name.starts_with("pg_")
            || name.starts_with("python")
    };
    placed || name.is_some_and(|name| others(&name))
}

fn parent(pid: Pid) -> Option<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Sends a signal to every process that lives in `dir`; how many there were.
pub fn signal_all(dir: &Path, signal: Signal) -> usize {
    let living = living_in(dir);
    for pid in &living {
        // Gone in between is what was wanted.
        kill(*pid, signal).ok();
    }
    living.len()
}

/// Kills every process that lives in `dir`, and every child of this one; how many there were.
pub fn kill_all(dir: &Path) -> usize {
    let mut left = living_in(dir);
    left.extend(children());
    for pid in &left {
        // Gone in between is what was wanted.
        kill(*pid, Signal::SIGKILL).ok();
    }
    left.len()
}

/// The postmaster of a data directory, as its pid file says and /proc confirms.
#[must_use]
pub fn postmaster(data_dir: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let data_dir = data_dir.canonicalize().ok()?;
    (cwd == data_dir).then_some(pid)
}

/// The guardian of a node's PostgreSQL: the link to its page in the agent's run directory names the
/// process, and /proc confirms that it is one.
#[must_use]
pub fn guardian(run_dir: &Path) -> Option<Pid> {
    let page = fs::read_link(run_dir.join("guardian.page")).ok()?;
    let pid = page.strip_prefix("/proc").ok()?.components().next()?;
    let pid = Pid::from_raw(pid.as_os_str().to_str()?.parse().ok()?);
    let name = link(pid, "exe")?.file_name()?.to_string_lossy().into_owned();
    (name == "regent-guardian").then_some(pid)
}

/// System V shared memory segments: id and the process that made each.
#[must_use]
pub fn segments() -> Vec<(u32, Pid)> {
    let Ok(table) = fs::read_to_string("/proc/sysvipc/shm") else { return Vec::new() };
    parse_segments(&table)
}

fn parse_segments(table: &str) -> Vec<(u32, Pid)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let maker = Pid::from_raw(fields.get(4)?.parse().ok()?);
            Some((fields.get(1)?.parse().ok()?, maker))
        })
        .collect()
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    /// Enough for the lines anybody reads.
    const MOST: usize = 16 * 1024;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(MOST)..]).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The directory this program lies in, or, for a test, the one above.
pub fn own_directories() -> anyhow::Result<Vec<PathBuf>> {
    let own = std::env::current_exe().context("find this program's own file")?;
    Ok(own.ancestors().skip(1).take(2).map(Path::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_in_the_labs_directory_is_not_the_labs() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("its path");
        let log = dir.join("log");
        let argv = ["/bin/sleep", "30"].map(str::to_owned);
        let stranger = start(&argv, &dir, &log).expect("it starts");
        fs::create_dir(dir.join("bin")).expect("a directory");
        fs::copy("/bin/sleep", dir.join("bin/sleep")).expect("a copy");
        let own = [dir.join("bin/sleep").display().to_string(), "30".to_owned()];
        let own = start(&own, &dir, &log).expect("it starts");
        // Both have become what they are once their files say so.
        let begun = clock::now();
        while living_in(&dir) != BTreeSet::from([own]) && begun.elapsed() < Duration::from_secs(5) {
            pause(LOOK_EVERY);
        }
        assert_eq!(living_in(&dir), BTreeSet::from([own]));
        assert!(children().is_superset(&BTreeSet::from([own, stranger])));
        for pid in [own, stranger] {
            kill(pid, Signal::SIGKILL).expect("it runs");
            nix::sys::wait::waitpid(pid, None).expect("our child");
        }
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let sleep = Path::new("/bin/sleep");
        let limit = Duration::from_millis(50);
        let error = run(sleep, &["30"], Path::new("/"), None, limit).expect_err("too slow");
        assert!(error.to_string().contains("did not end within 50ms"), "{error}");
    }

    #[test]
    fn segments_are_read_with_their_makers() {
        let table = "       key      shmid perms                  size  cpid  lpid nattch\n\
                     \x20  1234567          5   600                    56  4711  4712      6\n";
        assert_eq!(parse_segments(table), [(5, Pid::from_raw(4711))]);
    }
}
