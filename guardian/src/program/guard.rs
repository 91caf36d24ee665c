//! The loop: wake, look, decide, act. No allocation, no log, no file but /proc and the watchdog.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use regent_proto::time::BootTime;

use super::prepare::Waits;
use crate::clock::{boot_time, monotonic};
use crate::decide::{self, Decision, Look, Processes, View};
use crate::page::{Because, Page, Phase, WatchdogStep};
use crate::processes::scan::{Family, Scanner};
use crate::processes::{self, kill_family};
use crate::tend::{Failure, Tended, Terms};
use crate::watchdog::Watchdog;

/// The postmaster, while it lives.
pub(super) enum Postmaster {
    /// Its own child.
    Child(i32),
    /// Somebody else's, known by its handle.
    Adopted { pid: i32, handle: OwnedFd },
}

impl Postmaster {
    fn pid(&self) -> i32 {
        match self {
            Self::Child(pid) | Self::Adopted { pid, .. } => *pid,
        }
    }
}

/// Everything that the loop has.
pub(super) struct Guardian {
    pub(super) page: Page,
    pub(super) data_dir: Box<[u8]>,
    pub(super) scanner: Scanner,
    pub(super) waits: Waits,
    pub(super) device: Option<CString>,
    pub(super) watchdog: Tended<Watchdog>,
    /// `None` once it has ended.
    pub(super) postmaster: Option<Postmaster>,
    /// Why it kills, and since when.
    pub(super) killing: Option<(Because, BootTime)>,
}

impl Guardian {
    /// The child runs.
    pub(super) fn started(&mut self, pid: i32) {
        // It is not reaped before this is read, so the number is its.
        let start = self.scanner.process(pid).ok().flatten().map_or(0, |process| process.start);
        self.page.set_postmaster_start(start);
        self.page.set_postmaster_pid(pid);
        self.postmaster = Some(Postmaster::Child(pid));
        self.follow();
    }

    /// Keeps open what a pass needs where nothing can be opened any more.
    pub(super) fn follow(&mut self) {
        let family = family(&self.data_dir, self.postmaster.as_ref());
        self.scanner.follow([family.postmaster, family.reaper]);
    }

    /// Guards until nothing is left; the exit code of the program.
    pub(super) fn guard(mut self) -> u8 {
        self.page.set_phase(Phase::Guarding);
        let mut before = (boot_time(), monotonic());
        loop {
            let now = boot_time();
            let clocks = (now, monotonic());
            self.watchdog.stood_still(&self.page, stood_still(before, clocks));
            before = clocks;
            self.page.set_heartbeat(now);
            self.page.set_wakes(self.page.wakes().wrapping_add(1));
            self.reap();
            let decision = self.look_and_kill(now);
            let (device, act) = (self.device.as_ref(), (&decision.1, decision.0.watchdog));
            self.watchdog.tend(&self.page, act, boot_time, |terms| open(device, terms));
            if decision.0.end {
                break;
            }
            let handle = match &self.postmaster {
                Some(Postmaster::Adopted { handle, .. }) => Some(handle),
                Some(Postmaster::Child(_)) | None => None,
            };
            let late = self.waits.sleep(decision.0.wake_at, handle, boot_time);
            if late > self.page.worst_wake() {
                self.page.set_worst_wake(late);
            }
        }
        self.page.set_phase(Phase::Ended);
        exit_code(self.page.wait_valid().then(|| self.page.wait_status()))
    }

    /// What must die by a deadline dies before anything is looked at.
    fn look_and_kill(&mut self, now: BootTime) -> (Decision, View) {
        let mut view = self.view(now);
        let look = decide::look(&view);
        let urgent = if look == Look::Kinds { None } else { decide::decide(&view).kill };
        view.processes = match (urgent, look) {
            (Some(because), _) => self.kill(now, because),
            (None, Look::No) => Processes::Unknown,
            (None, Look::Presence) => self.presence(),
            (None, Look::Kinds) => {
                let family = family(&self.data_dir, self.postmaster.as_ref());
                processes::look(&mut self.scanner, &family)
            }
        };
        let decision = decide::decide(&view);
        if let (None, Some(because)) = (urgent, decision.kill) {
            self.kill(now, because);
        }
        (decision, view)
    }

    fn view(&self, now: BootTime) -> View {
        let page = &self.page;
        View {
            now,
            orders: page.orders(),
            postmaster: self.postmaster.is_some(),
            processes: Processes::Unknown,
            killing: self.killing.map(|(because, _)| because),
            watchdog: self.watchdog.seen(page, now),
        }
    }

    fn presence(&mut self) -> Processes {
        let mut seen = Processes::None;
        let family = family(&self.data_dir, self.postmaster.as_ref());
        let scanned = self.scanner.scan(&family, |_| seen = Processes::Client);
        if scanned.is_ok() { seen } else { Processes::Unknown }
    }

    /// One pass of killing. What was found: nothing, or something that may live on.
    fn kill(&mut self, now: BootTime, because: Because) -> Processes {
        let family = family(&self.data_dir, self.postmaster.as_ref());
        let found = kill_family(&mut self.scanner, &family);
        let page = &self.page;
        if found == Some(0) {
            if let Some((_, began)) = self.killing.take() {
                let ended = boot_time();
                page.set_kill_ended(ended);
                page.set_worst_kill(page.worst_kill().max(ended.since(began)));
                page.set_phase(Phase::Guarding);
            }
            return Processes::None;
        }
        if self.killing.is_none() {
            self.killing = Some((because, now));
            page.set_kill_began(now);
            page.set_killed_because(because);
            page.set_kills(page.kills().wrapping_add(1));
            page.set_phase(Phase::Killing);
        }
        if found.is_some() { Processes::Client } else { Processes::Unknown }
    }

    /// Takes every child that has ended, orphans of PostgreSQL among them.
    fn reap(&mut self) {
        let mut status = 0;
        loop {
            // SAFETY: writes `status`; waits for nothing.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if matches!(&self.postmaster, Some(Postmaster::Child(child)) if *child == pid) {
                self.page.set_wait_status(status);
                self.page.set_wait_valid(true);
                self.postmaster = None;
            }
        }
        if matches!(&self.postmaster, Some(Postmaster::Adopted { handle, .. }) if has_ended(handle))
        {
            self.postmaster = None;
        }
    }

    /// Arms the watchdog before anything is started, or relied upon.
    pub(super) fn arm_first(&mut self) -> bool {
        let view = self.view(boot_time());
        let device = self.device.as_ref();
        self.watchdog.arm_first(&self.page, &view, boot_time, |terms| open(device, terms))
    }

    /// Stops the watchdog: nothing was started.
    pub(super) fn disarm(&mut self) {
        self.watchdog.disarm(&self.page);
    }
}

/// For how long the monotonic clock stood while the boot clock ran.
fn stood_still(before: (BootTime, u64), now: (BootTime, u64)) -> Duration {
    let ran = Duration::from_nanos(now.1.saturating_sub(before.1));
    now.0.since(before.0).saturating_sub(ran)
}

fn open(device: Option<&CString>, terms: &Terms) -> Result<Watchdog, Failure> {
    match device {
        Some(device) => Watchdog::arm(device, terms),
        None => {
            let granted = Duration::ZERO;
            Err(Failure { step: WatchdogStep::NoDevice, errno: 0, granted })
        }
    }
}

fn family<'a>(data_dir: &'a [u8], postmaster: Option<&Postmaster>) -> Family<'a> {
    let reaper = i32::try_from(std::process::id()).ok();
    Family { data_dir, postmaster: postmaster.map(Postmaster::pid), reaper }
}

fn has_ended(handle: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The postmaster's, 128 + signal where one ended it (wait(2)); 0 where it was nobody's child here.
fn exit_code(status: Option<i32>) -> u8 {
    let Some(status) = status else { return 0 };
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
