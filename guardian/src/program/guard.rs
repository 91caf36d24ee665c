//! The loop: wake, look, decide, act. No allocation, no log, no file but /proc and the watchdog.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use regent_proto::time::BootTime;

use super::prepare::Waits;
use crate::clock::boot_time;
use crate::decide::{self, Decision, Look, Processes, View, WatchdogAct};
use crate::page::{Because, Page, Phase, WatchdogState, WatchdogStep, WatchdogWanted};
use crate::processes::scan::{Family, Scanner};
use crate::processes::{self, kill_family};
use crate::watchdog::{Failure, Terms, Watchdog};

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
    pub(super) watchdog: Option<Watchdog>,
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
        loop {
            let now = boot_time();
            self.page.set_heartbeat(now);
            self.page.set_wakes(self.page.wakes().wrapping_add(1));
            self.reap();
            let decision = self.look_and_kill(now);
            self.tend(&decision.1, decision.0.watchdog);
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
        let ordered = Duration::from_secs(page.watchdog_timeout_s());
        let left = self.watchdog.is_none() && decide::still_counts(page, now);
        let timeout = match &self.watchdog {
            Some(device) => device.granted,
            None if left => ordered.max(Duration::from_secs(page.watchdog_granted_s())),
            None => ordered,
        };
        View {
            now,
            orders: page.orders(),
            postmaster: self.postmaster.is_some(),
            processes: Processes::Unknown,
            killing: self.killing.map(|(because, _)| because),
            watchdog: decide::Watchdog {
                wanted: page.watchdog_wanted(),
                open: self.watchdog.is_some(),
                failed: page.watchdog_state() == WatchdogState::Failed,
                left,
                last_ping: page.watchdog_last_ping(),
                timeout,
                longest: longest(page),
            },
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

    fn tend(&mut self, view: &View, act: Option<WatchdogAct>) {
        match act {
            None => {}
            Some(WatchdogAct::Arm | WatchdogAct::Ping | WatchdogAct::Lower)
                if !self.may_still_ping(view) => {}
            Some(WatchdogAct::Arm) => {
                self.arm();
            }
            Some(WatchdogAct::Ping) => self.ping(),
            Some(WatchdogAct::Lower) => {
                self.lower();
                self.ping();
            }
            Some(WatchdogAct::Disarm) => self.disarm(),
            Some(WatchdogAct::Forget) => self.page.set_watchdog_state(WatchdogState::Off),
        }
    }

    /// The kill before may have taken its time.
    fn may_still_ping(&self, view: &View) -> bool {
        decide::may_ping(&View { now: boot_time(), orders: self.page.orders(), ..*view })
    }

    /// Arms the watchdog before anything is started, or relied upon, where it may be armed now; what
    /// an armed one is worth to a server that is started is judged once more by when it came to it.
    pub(super) fn arm_first(&mut self) -> bool {
        if !decide::may_arm_first(&self.view(boot_time())) || !self.arm() {
            return false;
        }
        let in_time = self.postmaster.is_some() || decide::fires_in_time(&self.view(boot_time()));
        if !in_time {
            self.disarm();
        }
        in_time
    }

    /// Arms the watchdog; the page says what came of it.
    fn arm(&mut self) -> bool {
        let page = &self.page;
        let terms = Terms {
            timeout: Duration::from_secs(page.watchdog_timeout_s()),
            longest: longest(page),
            without_magic_close: page.watchdog_wanted() == WatchdogWanted::Automatic,
        };
        let armed = match &self.device {
            Some(device) => Watchdog::arm(device, &terms),
            None => {
                let granted = Duration::ZERO;
                Err(Failure { step: WatchdogStep::NoDevice, errno: 0, granted })
            }
        };
        match armed {
            Ok(device) => {
                page.set_watchdog_granted_s(device.granted.as_secs());
                page.set_watchdog_last_ping(boot_time());
                page.set_watchdog_errno(0);
                page.set_watchdog_step(step_of(&device));
                page.set_watchdog_state(WatchdogState::Armed);
                self.watchdog = Some(device);
                true
            }
            Err(failure) => {
                page.set_watchdog_granted_s(failure.granted.as_secs());
                self.watchdog_failed(failure);
                false
            }
        }
    }

    fn watchdog_failed(&self, failure: Failure) {
        self.page.set_watchdog_errno(failure.errno);
        self.page.set_watchdog_step(failure.step);
        self.page.set_watchdog_state(WatchdogState::Failed);
    }

    /// Sets the timeout that is ordered by now. Where the device does not take it, it is pinged on
    /// with the one that it has, the page says that, and the next ping tries again.
    fn lower(&mut self) {
        let Some(device) = &mut self.watchdog else { return };
        let page = &self.page;
        match device.set(Duration::from_secs(page.watchdog_timeout_s())) {
            Ok(()) => {
                // The ping that it is counts first: nobody may see the shorter one with an older ping.
                page.set_watchdog_last_ping(boot_time());
                page.set_watchdog_granted_s(device.granted.as_secs());
                page.set_watchdog_errno(0);
                let too_long = device.granted > longest(page);
                let step = if too_long { WatchdogStep::TooLong } else { step_of(device) };
                page.set_watchdog_step(step);
            }
            Err(failure) => {
                page.set_watchdog_errno(failure.errno);
                page.set_watchdog_step(failure.step);
            }
        }
    }

    fn ping(&self) {
        let Some(device) = &self.watchdog else { return };
        match device.ping() {
            Ok(()) => {
                // Read afterwards: the next ping's bound counts from the latest this one can have been.
                self.page.set_watchdog_last_ping(boot_time());
                if self.page.watchdog_state() == WatchdogState::Failed {
                    self.page.set_watchdog_errno(0);
                    self.page.set_watchdog_step(WatchdogStep::None);
                    self.page.set_watchdog_state(WatchdogState::Armed);
                }
            }
            Err(failure) => self.watchdog_failed(failure),
        }
    }

    /// Stops the watchdog. Only where nothing of the data directory is left, or nothing was started.
    pub(super) fn disarm(&mut self) {
        let Some(device) = self.watchdog.take() else { return };
        match device.disarm() {
            Ok(()) => self.page.set_watchdog_state(WatchdogState::Disarmed),
            Err(failure) => self.watchdog_failed(failure),
        }
    }
}

/// The most that a device may grant; none means what it is asked for.
fn longest(page: &Page) -> Duration {
    let longest = match page.watchdog_longest_s() {
        0 => page.watchdog_timeout_s(),
        longest => longest,
    };
    Duration::from_secs(longest)
}

/// What is told of a device that is armed.
fn step_of(device: &Watchdog) -> WatchdogStep {
    if device.magic_close { WatchdogStep::None } else { WatchdogStep::NoMagicClose }
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
