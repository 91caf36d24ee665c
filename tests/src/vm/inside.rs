//! What runs in the virtual machine: a PostgreSQL under a real guardian with the real device, a
//! thread in place of the agent, and a client that commits in a loop.
//!
//! Everything is told as one line on the console, because the machine ends without a farewell.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_guardian::launch::{Launch, Server};
use regent_guardian::page::{Guard, Page, WatchdogState, WatchdogWanted};
use regent_proto::time::Deadline;
use regent_test_sys::boot;
use regent_test_sys::tools::{Owned, command};

use super::{EPSILON, Fault, HEALTHY, TIMEOUT, TTL};
use crate::say;

/// Who PostgreSQL runs as; the image's data directory is theirs.
pub const USER: u32 = 1000;
/// Where the image has everything.
pub const PLACE: &str = "/regent";
const RENEW_EVERY: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_millis(50);
/// Emulated instructions are slow.
const SOON: Duration = Duration::from_secs(120);

fn as_user(program: impl Into<PathBuf>) -> Command {
    let mut command = command(program.into());
    command.uid(USER).gid(USER).current_dir(PLACE);
    command.env_clear().env("PATH", "/bin").env("LC_ALL", "C").env("HOME", PLACE);
    command
}

fn psql(bin: &Path) -> Command {
    let mut psql = as_user(bin.join("psql"));
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", PLACE, "-d", "postgres"]);
    psql.stderr(Stdio::null());
    psql
}

/// Leads for [`HEALTHY`], lets the fault happen, and tells what it sees until the machine ends.
///
/// # Errors
/// When it can't lead, or when nothing has ended the machine for three times the TTL.
pub fn run(bin: &Path, device: &Path, fault: Fault) -> anyhow::Result<()> {
    let data = Path::new(PLACE).join("data");
    let page = Page::create().context("make the page")?;
    page.set_kill_budget(Duration::from_millis(500));
    page.set_watchdog_wanted(WatchdogWanted::Required);
    page.set_watchdog_timeout_s(TIMEOUT.as_secs());
    let mut server: Vec<std::ffi::OsString> = vec![bin.join("postgres").into()];
    server.extend(["-D".into(), data.clone().into(), "-k".into(), PLACE.into()]);
    server.extend(["-c", "listen_addresses="].map(Into::into));
    let launch = Launch {
        page_fd: 0,
        data_dir: data,
        lock: Path::new(PLACE).join("guardian.lock"),
        watchdog: Some(device.to_owned()),
        server: Server::Start(server),
    };
    let mut guardian = as_user(Path::new(PLACE).join("regent-guardian"));
    guardian.args(launch.arguments()).stdin(Stdio::from(page.fd().try_clone_to_owned()?));
    let mut guardian = Owned(guardian.spawn().context("start the guardian")?);
    let pid = Pid::from_raw(i32::try_from(guardian.0.id())?);
    let renews = Arc::new(AtomicBool::new(true));
    {
        // In place of the agent: it renews until the fault, which ends both.
        let (page, renews) = (page.clone(), Arc::clone(&renews));
        std::thread::spawn(move || {
            while renews.load(Ordering::SeqCst) {
                page.set_site_deadline(Deadline::at(boot::now().plus(TTL).minus(EPSILON)));
                if page.guard() == Guard::Off {
                    page.set_guard(Guard::ByDeadline);
                }
                boot::pause(RENEW_EVERY);
            }
        });
    }
    let answers = || {
        let asked = psql(bin).args(["-c", "CREATE TABLE t (n int)"]).status();
        asked.is_ok_and(|status| status.success()).then_some(())
    };
    let mut early = None;
    let up = boot::until(SOON, || {
        early = guardian.0.try_wait().ok().flatten();
        answers().or(early.map(drop))
    });
    ensure!(early.is_none(), "the guardian has ended: {early:?}");
    up.context("PostgreSQL does not answer")?;
    ensure!(page.watchdog_state() == WatchdogState::Armed, "the watchdog is not armed");
    let acknowledged = client(bin.to_owned());
    let more = || (acknowledged.load(Ordering::SeqCst) > 0).then_some(());
    boot::until(SOON, more).context("nothing is acknowledged")?;
    let begun = boot::now();
    tell("leads", &page, &acknowledged);
    while boot::now().since(begun) < HEALTHY {
        ensure!(guardian.0.try_wait()?.is_none(), "the guardian has ended");
        tell("healthy", &page, &acknowledged);
        boot::pause(TELL_EVERY);
    }
    renews.store(false, Ordering::SeqCst);
    match fault {
        Fault::GuardianStopped => kill(pid, Signal::SIGSTOP)?,
        Fault::GuardianKilled => kill(pid, Signal::SIGKILL)?,
        Fault::Nothing => return Ok(()),
    }
    let faulty = boot::now();
    tell("faulty", &page, &acknowledged);
    while boot::now().since(faulty) < TTL * 3 {
        tell("lives", &page, &acknowledged);
        boot::pause(TELL_EVERY);
    }
    anyhow::bail!("nothing has reset this machine")
}

/// Commits in a loop, each with a process of its own; how many were acknowledged.
fn client(bin: PathBuf) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        loop {
            let done = psql(&bin).args(["-c", "INSERT INTO t VALUES (1)"]).status();
            if done.is_ok_and(|status| status.success()) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    count
}

/// `VM WORD NOW PINGED DEADLINE ACKNOWLEDGED`, times in milliseconds of this machine's boot clock.
fn tell(word: &str, page: &Page, acknowledged: &AtomicU64) {
    let millis = |at: regent_proto::time::BootTime| at.nanos() / 1_000_000;
    say(format!(
        "VM {word} {} {} {} {}",
        millis(boot::now()),
        millis(page.watchdog_last_ping()),
        millis(page.writing().instant()),
        acknowledged.load(Ordering::SeqCst)
    ));
}
