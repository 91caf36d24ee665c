//! What a guardian does next: a pure function of its orders, the clock and the processes.
//!
//! Keeps I7 (nobody acknowledges after the deadline), I8 and I12 (the watchdog is neither pinged after
//! the deadline nor disarmed while a process lives).

use std::time::Duration;

use regent_proto::time::{BootTime, Deadline, WatchdogTiming};

use crate::page::{Because, Guard, Orders, Page, WatchdogState, WatchdogStep, WatchdogWanted};

/// Longest sleep while a deadline counts: bounds how late a changed order is seen.
pub const TICK: Duration = Duration::from_millis(20);
/// Longest sleep while nothing writable runs.
pub const IDLE_TICK: Duration = Duration::from_millis(100);
/// Between two passes of a kill.
pub const KILL_TICK: Duration = Duration::from_millis(5);
/// Between two tries to arm a watchdog that is required: whoever held the device goes, or it is mended.
pub const TRY_AGAIN: Duration = Duration::from_secs(10);
/// A watchdog is pinged so many times in its timeout.
const PINGS: u32 = 4;

/// Which processes of the data directory live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Not looked at, or /proc could not be read.
    Unknown,
    /// None, not even the postmaster.
    None,
    /// Only such as acknowledge nothing.
    Harmless,
    /// At least one that may acknowledge a write.
    Client,
}

impl Processes {
    /// Every class.
    pub const ALL: &[Self] = &[Self::Unknown, Self::None, Self::Harmless, Self::Client];
}

/// The watchdog as the guardian has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog {
    /// What the agent wants.
    pub wanted: WatchdogWanted,
    /// Whether the device is open, hence counting.
    pub open: bool,
    /// How long ago the last try to arm it failed; `None` where none did.
    pub failed: Option<Duration>,
    /// Whether the guardian before left it counting ([`still_counts`]).
    pub left: bool,
    /// When it was last pinged.
    pub last_ping: BootTime,
    /// What it granted, or is to be asked for: W.
    pub timeout: Duration,
    /// The most that the agent allows; zero where it has said nothing.
    pub longest: Duration,
}

/// What is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The clock.
    pub now: BootTime,
    /// The agent's orders.
    pub orders: Orders,
    /// Whether the postmaster lives, as its parent or through its pidfd.
    pub postmaster: bool,
    /// The processes; only looked at when [`look`] says so.
    pub processes: Processes,
    /// A kill has begun and no scan has found nothing since.
    pub killing: Option<Because>,
    /// The watchdog.
    pub watchdog: Watchdog,
}

/// What to do with the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAct {
    /// Open it and set its timeout.
    Arm,
    /// Ping it.
    Ping,
    /// Set the shorter timeout that is allowed by now, which pings it.
    Lower,
    /// Stop it by magic close.
    Disarm,
    /// It is not wanted any more after it failed: it may be tried again.
    Forget,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Kill everything, before anything else.
    pub kill: Option<Because>,
    /// With the watchdog.
    pub watchdog: Option<WatchdogAct>,
    /// Nothing is left to guard.
    pub end: bool,
    /// When to look again at the latest.
    pub wake_at: BootTime,
}

/// How closely processes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Not at all: a scan every 20 ms would cost more than all the rest.
    No,
    /// Whether there are any.
    Presence,
    /// Whether one of them can acknowledge a write.
    Kinds,
}

/// What the decision depends on. Kinds only in a planned stop, from its bound or when a ping is due,
/// to the end of its span: whatever must die by a deadline dies unseen.
#[must_use]
pub fn look(view: &View) -> Look {
    let kinds = match view.orders.guard {
        Guard::PlannedStop => {
            let ping = view.watchdog.open && view.now >= next_ping(&view.watchdog);
            ping || view.now >= kill_at(view, view.orders.bound)
        }
        Guard::Off | Guard::ByDeadline | Guard::Unknown(_) => false,
    };
    let over = due(view, Processes::None).is_some();
    if kinds && !over && view.killing.is_none() {
        Look::Kinds
    } else if !view.postmaster || view.killing.is_some() || over {
        Look::Presence
    } else {
        Look::No
    }
}

/// What to do now.
#[must_use]
pub fn decide(view: &View) -> Decision {
    let processes = seen(view);
    let nothing_left = !view.postmaster && processes == Processes::None;
    let kill = if nothing_left { None } else { view.killing.or_else(|| due(view, processes)) };
    Decision {
        kill,
        watchdog: watchdog(view, processes, nothing_left),
        end: nothing_left,
        wake_at: wake_at(view, kill.is_some()),
    }
}

/// K of a deadline.
fn kill_at(view: &View, deadline: Deadline) -> BootTime {
    deadline.instant().minus(view.orders.kill_budget)
}

/// Why everything must go now.
fn due(view: &View, processes: Processes) -> Option<Because> {
    let orders = &view.orders;
    let reached = |deadline| view.now >= kill_at(view, deadline);
    match orders.guard {
        Guard::Off => None,
        // An agent that orders what this version does not know still has its deadline.
        Guard::ByDeadline | Guard::Unknown(_) => {
            reached(orders.writing).then_some(Because::Deadline)
        }
        Guard::PlannedStop if reached(orders.stop_until.raised(orders.bound)) => {
            Some(Because::StopSpanOver)
        }
        Guard::PlannedStop => {
            let may_acknowledge = match processes {
                Processes::Client | Processes::Unknown => true,
                Processes::None | Processes::Harmless => false,
            };
            (may_acknowledge && reached(orders.bound)).then_some(Because::BackendAtBound)
        }
    }
}

/// Until when what is guarded may acknowledge, `None` while nothing writable runs.
fn right(view: &View) -> Option<Deadline> {
    let orders = &view.orders;
    match orders.guard {
        Guard::Off => None,
        Guard::ByDeadline | Guard::Unknown(_) => Some(orders.writing),
        Guard::PlannedStop => Some(match seen(view) {
            // The rest of a shutdown may take its span.
            Processes::None | Processes::Harmless => orders.stop_until,
            Processes::Client | Processes::Unknown => orders.bound,
        }),
    }
}

/// Whether the watchdog may be pinged, or armed or set, which pings it.
///
/// The ping may land later than it is decided: this process can be stopped in between. It lands by
/// `last_ping + W`, or the device has fired; then it fires by `last_ping + 2 W + R` at the latest. So
/// where that lies before the end of the right to write, no pause at all lets the device come late
/// (hazards.md 3.5). That holds for a device that the guardian before left counting, too. While
/// nothing writable runs it is pinged freely.
#[must_use]
pub fn may_ping(view: &View) -> bool {
    let Some(last) = right(view) else { return true };
    let watchdog = &view.watchdog;
    let since = if watchdog.open || watchdog.left { watchdog.last_ping } else { view.now };
    let fires = since.plus(watchdog.timeout * 2 + WatchdogTiming::RESET);
    last.lies_ahead(view.now) && fires <= last.instant()
}

/// Whether a device that is armed now, and pinged by nobody, fires before the end of the right to
/// write. Enough before a server is started, and only there: a device that was armed too late, because
/// this process was stopped meanwhile, can still be closed, and the server not be started.
#[must_use]
pub fn fires_in_time(view: &View) -> bool {
    let fires = view.now.plus(view.watchdog.timeout + WatchdogTiming::RESET);
    right(view).is_none_or(|last| fires <= last.instant())
}

/// Whether a guardian that begins may arm the watchdog at once: before it starts a server, or beside
/// one that runs, which was perhaps pinged for the last time already.
#[must_use]
pub fn may_arm_first(view: &View) -> bool {
    if view.postmaster { may_ping(view) } else { fires_in_time(view) }
}

/// Whether the device that the guardian before had armed still counts: nobody has stopped it, and
/// had its time been over, this machine would not run.
#[must_use]
pub fn still_counts(page: &Page, now: BootTime) -> bool {
    // Without magic close it stopped when that guardian died.
    let armed = page.watchdog_state() == WatchdogState::Armed
        && page.watchdog_step() != WatchdogStep::NoMagicClose;
    armed && now < page.watchdog_last_ping().plus(Duration::from_secs(page.watchdog_granted_s()))
}

/// The processes, as far as they were looked at.
fn seen(view: &View) -> Processes {
    if look(view) == Look::No { Processes::Unknown } else { view.processes }
}

fn watchdog(view: &View, processes: Processes, nothing_left: bool) -> Option<WatchdogAct> {
    let watchdog = &view.watchdog;
    if watchdog.open {
        return if nothing_left && processes == Processes::None {
            Some(WatchdogAct::Disarm)
        } else {
            let ping = if too_long(watchdog) { WatchdogAct::Lower } else { WatchdogAct::Ping };
            (may_ping(view) && view.now >= next_ping(watchdog)).then_some(ping)
        };
    }
    let arm = (!nothing_left && may_ping(view)).then_some(WatchdogAct::Arm);
    match (watchdog.wanted, watchdog.failed) {
        (WatchdogWanted::Off, Some(_)) => Some(WatchdogAct::Forget),
        (WatchdogWanted::Off, None) => None,
        // This node leads nothing without it: a device that was busy or broken for a while must not
        // keep it out for good.
        (WatchdogWanted::Required, Some(ago)) => arm.filter(|_| ago >= TRY_AGAIN),
        // Tried once; the agent orders another try by not wanting it in between.
        (WatchdogWanted::Automatic | WatchdogWanted::Unknown(_), Some(_)) => None,
        (
            WatchdogWanted::Automatic | WatchdogWanted::Required | WatchdogWanted::Unknown(_),
            None,
        ) => arm,
    }
}

/// The leases became shorter since it was armed. It is never made longer: what is too long ends the
/// writing early, what is too short costs pings.
fn too_long(watchdog: &Watchdog) -> bool {
    watchdog.wanted != WatchdogWanted::Off
        && !watchdog.longest.is_zero()
        && watchdog.timeout > watchdog.longest
}

fn next_ping(watchdog: &Watchdog) -> BootTime {
    watchdog.last_ping.plus(watchdog.timeout / PINGS)
}

fn wake_at(view: &View, killing: bool) -> BootTime {
    if killing {
        return view.now.plus(KILL_TICK);
    }
    let idle = view.orders.guard == Guard::Off && view.postmaster;
    let tick = view.now.plus(if idle { IDLE_TICK } else { TICK });
    let orders = &view.orders;
    let kills = match orders.guard {
        Guard::Off => [None, None],
        Guard::ByDeadline | Guard::Unknown(_) => [Some(orders.writing), None],
        Guard::PlannedStop => [Some(orders.bound), Some(orders.stop_until)],
    };
    let kills = kills.into_iter().flatten().map(|deadline| kill_at(view, deadline));
    let ping = view.watchdog.open.then(|| next_ping(&view.watchdog));
    kills.chain(ping).filter(|at| *at > view.now).fold(tick, BootTime::min)
}

#[cfg(test)]
mod tests;
