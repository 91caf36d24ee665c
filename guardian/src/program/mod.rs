//! The program: prepares everything, starts or adopts the postmaster, and guards.
//!
//! One thread. What it can't do without is had in [`main`] before the postmaster runs, or before an
//! adopted one is relied upon; from then on `guard` allocates nothing and writes nowhere but into the
//! page. Two things it still opens: the processes under /proc, where a pass without a descriptor goes on
//! with what needs none ([`crate::processes::scan`]), and the watchdog's device when its agent wants it
//! later; that failing is told in the page.

mod child;
mod guard;
mod prepare;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::clock::boot_time;
use crate::launch::{Launch, Server, StartFailure};
use crate::page::{Flags, Page, Phase, WatchdogState, WatchdogWanted};
use crate::processes::DataDirectory;
use crate::processes::scan::Scanner;
use crate::tend::{self, Tended};
use crate::watchdog;

use guard::{Guardian, Postmaster};

/// Why the program did not begin, with a line for whoever started it.
struct Refusal {
    failure: StartFailure,
    line: String,
}

/// What was refused, and why.
fn refusal<E: fmt::Display>(failure: StartFailure, what: &str) -> impl FnOnce(E) -> Refusal {
    move |error| Refusal { failure, line: format!("{what}: {error}") }
}

/// Runs the program. The exit code is the postmaster's (128 + signal when one ended it), 0 for an
/// adopted one, or a [`StartFailure`].
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // A guardian that is in doubt about itself ends: its agent notices that at once.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    match prepare(arguments).and_then(run) {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            say(&refusal.line);
            ExitCode::from(refusal.failure.code())
        }
    }
}

/// One line to standard error, unless nobody reads there: a full pipe must not hold up the exit.
fn say(line: &str) {
    let mut stderr = std::io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::from(100_u8)).is_ok_and(|ready| ready > 0);
    if ready {
        // Whoever does not read it has the exit code.
        writeln!(stderr, "regent-guardian: {line}").ok();
    }
}

/// A guardian that is ready, and what it starts.
struct Ready {
    guardian: Guardian,
    server: Prepared,
    unneeded: prepare::Unneeded,
    // Held until the program ends; the kernel gives it up however that happens.
    _lock: Flock<File>,
}

enum Prepared {
    Start(child::Command),
    Adopted,
}

fn prepare(arguments: impl IntoIterator<Item = OsString>) -> Result<Ready, Refusal> {
    use StartFailure as F;
    let launch = Launch::parse(arguments).map_err(refusal(F::Usage, "arguments"))?;
    let page = inherited_page(launch.page_fd)?;
    let lock = lock(&launch.lock)?;
    let oom_score = prepare::oom_score();
    let flags = prepare::privileges();
    enter(&page, flags)?;
    let data_dir = DataDirectory::resolve(&launch.data_dir)
        .map_err(refusal(F::Open, &format!("data directory {}", launch.data_dir.display())))?;
    let scanner = Scanner::open().map_err(refusal(F::Open, "/proc"))?;
    let waits = prepare::Waits::new().map_err(refusal(F::System, "timer and signals"))?;
    let device = launch.watchdog.as_deref().and_then(watchdog::device);
    let (postmaster, server) = match &launch.server {
        Server::Start(command) => {
            let command = child::Command::new(command, oom_score);
            let command = command.map_err(refusal(F::Open, "what PostgreSQL starts with"))?;
            (None, Prepared::Start(command))
        }
        Server::Adopt { pid, start } => (Some(adopt(&page, *pid, *start)?), Prepared::Adopted),
    };
    let flags = if postmaster.is_some() { flags.with(Flags::ADOPTED) } else { flags };
    page.set_flags(flags);
    let guardian = Guardian {
        page,
        data_dir: data_dir.path().as_os_str().as_bytes().into(),
        scanner,
        waits,
        device,
        watchdog: Tended::default(),
        postmaster,
        killing: None,
    };
    Ok(Ready { guardian, server, unneeded: prepare::Unneeded::find(), _lock: lock })
}

fn run(ready: Ready) -> Result<u8, Refusal> {
    let Ready { mut guardian, server, unneeded, _lock } = ready;
    // From here on nothing is allocated.
    guardian.page.set_flags(guardian.page.flags().with(prepare::lock_memory(&unneeded)));
    // Beside a server that runs, the loop arms it as soon as it may be.
    if guardian.page.watchdog_wanted() != WatchdogWanted::Off
        && !guardian.arm_first()
        && guardian.page.watchdog_wanted() == WatchdogWanted::Required
        && matches!(server, Prepared::Start(_))
    {
        let line = format!(
            "the required watchdog can't be armed: {}; see watchdog.device, and who else holds it (systemd's \
             RuntimeWatchdogSec)",
            not_armed(&guardian.page)
        );
        return Err(Refusal { failure: StartFailure::Watchdog, line });
    }
    let report = match server {
        Prepared::Adopted => {
            guardian.follow();
            None
        }
        Prepared::Start(command) => {
            let child = command.start();
            let (pid, report) = child.map_err(|errno| {
                guardian.disarm();
                refusal(StartFailure::Fork, "make a process for PostgreSQL")(errno)
            })?;
            guardian.started(pid);
            Some(report)
        }
    };
    let ended = guardian.guard();
    match report.and_then(|report| child::failure(&report)) {
        Some(errno) => Err(refusal(StartFailure::Exec, "run the program")(errno)),
        None => Ok(ended),
    }
}

fn not_armed(page: &Page) -> String {
    if page.watchdog_state() != WatchdogState::Failed {
        return "the deadline is too near, it would fire only after it".to_owned();
    }
    let because = match page.watchdog_errno() {
        0 => String::new(),
        errno => format!(": {}", nix::errno::Errno::from_raw(errno).desc()),
    };
    format!("{}{because}", page.watchdog_step().words())
}

fn inherited_page(number: i32) -> Result<Page, Refusal> {
    // SAFETY: only asked whether it is open; nothing owns it yet.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(refusal(StartFailure::Page, &format!("the page: descriptor {number}")))?;
    // SAFETY: it is open, it was handed to this process for this purpose, and no other part of the
    // program uses it: standard input (0) is never read.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Page::from_fd(fd).map_err(refusal(StartFailure::Page, "the page"))
}

fn lock(path: &Path) -> Result<Flock<File>, Refusal> {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    let what = format!("lock {}", path.display());
    let file = file.map_err(refusal(StartFailure::Lock, &what))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let line = format!("{what}: {errno}: another guardian guards this run directory");
        Refusal { failure: StartFailure::Lock, line }
    })
}

fn enter(page: &Page, flags: Flags) -> Result<(), Refusal> {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let start = crate::processes::start_time(pid);
    let start = start.ok_or(Refusal {
        failure: StartFailure::Open,
        line: "its own start time can't be read from /proc".to_owned(),
    })?;
    tend::enter(page, boot_time());
    page.set_flags(flags);
    page.set_guardian_start(start);
    page.set_guardian_pid(pid);
    page.set_phase(Phase::Starting);
    Ok(())
}

fn adopt(page: &Page, pid: i32, start: u64) -> Result<Postmaster, Refusal> {
    let refuse = |line| Refusal { failure: StartFailure::Adopt, line };
    let number = Pid::from_raw(pid).ok_or_else(|| refuse(format!("{pid} is no process")))?;
    let handle = pidfd_open(number, PidfdFlags::empty())
        .map_err(|errno| refuse(format!("adopt process {pid}: {errno}")))?;
    // Read after the handle was opened: it is the handle's process unless that has ended.
    match crate::processes::start_time(pid) {
        Some(seen) if seen == start => {}
        seen => {
            return Err(refuse(format!(
                "adopt process {pid}: it started at {seen:?} clock ticks, not at {start}: it is \
                 another process of the same number"
            )));
        }
    }
    page.set_postmaster_pid(pid);
    page.set_postmaster_start(start);
    Ok(Postmaster::Adopted { pid, handle })
}
