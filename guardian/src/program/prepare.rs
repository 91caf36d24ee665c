//! What a guardian asks of the system before it guards. What is not permitted is told in the page's
//! flags and is no reason to give up: a guardian without it is better than none.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::setsid;
use regent_proto::time::BootTime;

use crate::page::Flags;

/// Signals that would end or stop a program by default: only SIGKILL ends a guardian.
pub(super) const IGNORED: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];
/// Above all ordinary work, below the kernel's own threads.
const PRIORITY: libc::c_int = 50;

/// Session, orphans, priority, protection from the out-of-memory killer.
pub(super) fn privileges() -> Flags {
    let permitted = |yes: bool, flag| if yes { flag } else { Flags::default() };
    // SAFETY: no function is installed, so none can be called at a bad moment.
    let ignore = |signal| unsafe {
        sigaction(signal, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))
    };
    for signal in IGNORED {
        // All of them can be ignored (signal(7)).
        ignore(*signal).ok();
    }
    // A later agent opens the page through /proc/PID/fd. The default, unless the program file is
    // not readable.
    prctl::set_dumpable(true).ok();
    permitted(setsid().is_ok(), Flags::OWN_SESSION)
        .with(permitted(prctl::set_child_subreaper(true).is_ok(), Flags::SUBREAPER))
        .with(permitted(realtime(), Flags::REALTIME))
        .with(permitted(spared().is_ok(), Flags::OOM_PROTECTED))
}

/// What it had before it protected itself: what PostgreSQL gets.
pub(super) fn oom_score() -> Vec<u8> {
    std::fs::read("/proc/self/oom_score_adj").unwrap_or_else(|_| b"0".to_vec())
}

fn spared() -> io::Result<()> {
    OpenOptions::new().write(true).open("/proc/self/oom_score_adj")?.write_all(b"-1000")
}

fn realtime() -> bool {
    let set = |priority| {
        let wanted = libc::sched_param { sched_priority: priority };
        // SAFETY: only reads `wanted`, for this thread.
        let done = unsafe {
            libc::sched_setscheduler(
                0,
                libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
                &raw const wanted,
            )
        };
        done == 0
    };
    // Whoever has it already, from before privileges were dropped, may keep it and add the reset.
    set(PRIORITY) || inherited().is_some_and(set)
}

/// The priority of a real-time policy that this process was started with.
fn inherited() -> Option<libc::c_int> {
    // SAFETY: asks for this thread.
    let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: writes `param`, for this thread.
    let read = unsafe { libc::sched_getparam(0, &raw mut param) };
    (read == 0 && policy == libc::SCHED_FIFO).then_some(param.sched_priority)
}

/// Where code lies that a guarding guardian never runs.
pub(super) struct Unneeded([(usize, usize); 16]);

impl Unneeded {
    /// The dynamic linker, whose work is done (the program is linked to bind everything at its
    /// start), and the unwinder (a panic aborts): code that the system can read again.
    /// They are a tenth of what this process would keep in memory.
    pub(super) fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut found = [(0, 0); 16];
        let lines = maps.lines().filter_map(unneeded);
        for (place, range) in found.iter_mut().zip(lines) {
            *place = range;
        }
        Self(found)
    }
}

/// A line of /proc/PID/maps (proc(5)): "from-to rights offset device inode path".
fn unneeded(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    let name = path.rsplit('/').next()?;
    // What can only be read may have been written before ("relro"), and would be lost.
    if rights != "r-xp" || !(name.starts_with("ld-linux") || name.starts_with("libgcc_s.so")) {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    Some((from, to.checked_sub(from)?))
}

/// No page of this process that it needs waits for a disk from now on.
pub(super) fn lock_memory(unneeded: &Unneeded) -> Flags {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives unused memory back to the system; nothing points into it.
    unsafe {
        libc::malloc_trim(0)
    };
    if mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).is_err() {
        return Flags::default();
    }
    for (from, length) in unneeded.0 {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(from);
        if length > 0 {
            // SAFETY: only the lock of these pages changes.
            unsafe { libc::munlock(at, length) };
            // SAFETY: unmodified pages of a file: what is touched again is read again.
            unsafe { libc::madvise(at, length, libc::MADV_DONTNEED) };
        }
    }
    Flags::MEMORY_LOCKED
}

/// What the guardian sleeps on.
pub(super) struct Waits {
    timer: TimerFd,
    signals: SignalFd,
}

impl Waits {
    /// Blocks SIGCHLD, which is then read from a descriptor.
    pub(super) fn new() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        // A SIGCHLD that was ignored by whoever started us would let children vanish unseen.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: no function is installed.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags)?;
        // An absolute time of the boot clock: it counts suspend, and a late wake is a wake at once.
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        Ok(Self { timer, signals })
    }

    /// Sleeps until `at`, or a child ends, or `also` becomes readable. How late it is: the wake-up
    /// latency, where the timer woke it.
    pub(super) fn sleep(
        &mut self,
        at: BootTime,
        also: Option<&OwnedFd>,
        now: impl Fn() -> BootTime,
    ) -> Duration {
        let span = TimeSpec::from_duration(Duration::from_nanos(at.nanos().max(1)));
        let set = self.timer.set(Expiration::OneShot(span), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        let events = PollFlags::POLLIN;
        let second = also.map_or(self.signals.as_fd(), AsFd::as_fd);
        let mut fds = [
            PollFd::new(self.timer.as_fd(), events),
            PollFd::new(self.signals.as_fd(), events),
            PollFd::new(second, events),
        ];
        // Without a timer it looks again at once rather than never.
        let timeout = if set.is_ok() { PollTimeout::from(1_000_u16) } else { PollTimeout::ZERO };
        // EINTR or nothing ready: it looks around and sleeps again.
        poll(&mut fds, timeout).ok();
        let woken_by_timer = fds[0].any().unwrap_or(false);
        // The queue of signals holds one SIGCHLD at most; children are counted by waitpid.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        if woken_by_timer { now().since(at) } else { Duration::ZERO }
    }
}
