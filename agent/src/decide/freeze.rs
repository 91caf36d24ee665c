//! Clock discipline: what a jump between two clocks, or a wake that comes far too late, means for
//! an instance that may write (hazards.md 3.6).
//!
//! A deadline is an instant of the boot clock, and every deadline of this machine rests on that
//! clock having run. After a suspend, a paused virtual machine or a frozen control group it may not
//! have, or time may simply be over. So the instance is frozen (its processes stopped, nothing
//! killed) until both leases were renewed by requests *sent after* that was noticed: milliseconds on
//! a healthy node. The wall clock is not looked at, so a step of it does nothing (I11).

use std::time::Duration;

use regent_proto::time::BootTime;

/// Two clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// CLOCK_BOOTTIME: counts suspend.
    pub boot: BootTime,
    /// CLOCK_MONOTONIC, in nanoseconds: stops in suspend.
    pub monotonic: u64,
}

/// What the judgement sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockView {
    /// The clocks now.
    pub now: Reading,
    /// The clocks at the wake before.
    pub before: Reading,
    /// When this wake was due.
    pub due: BootTime,
    /// ε of the leases: how much the clocks may differ.
    pub epsilon: Duration,
    /// `regent.pause_threshold`: how late a wake may be.
    pub threshold: Duration,
    /// The instance may write: the guard is armed by a deadline.
    pub writes: bool,
    /// Something is guarded at all, be it only the end of a planned stop.
    pub guarded: bool,
    /// The instance is frozen.
    pub frozen: Option<Frozen>,
    /// When the request was sent whose acknowledgement last raised the deadline; with two leases
    /// the earlier of the two.
    pub renewed: BootTime,
}

/// A freeze that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frozen {
    /// Since when: only a renewal sent later ends it.
    pub since: BootTime,
    /// Until when it may last; then the instance is killed.
    pub until: BootTime,
}

/// What was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The boot clock ran on while the monotonic one stood, or the other way round.
    Jump(Duration),
    /// This thread woke later than it asked for.
    LateWake(Duration),
}

/// What to do with the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Nothing.
    Leave,
    /// Stop its processes and ask for both renewals at once.
    Begin(Pause),
    /// It is frozen and stays so, what was started since as well. The renewals were asked for when it
    /// began, and are tried again by themselves.
    Hold,
    /// Both were renewed after it was noticed: let it go on after this long.
    Thaw(Duration),
    /// The bound is over: kill.
    Kill,
}

/// Judges one wake.
#[must_use]
pub fn judge(view: &ClockView) -> Freeze {
    let pause = noticed(view);
    if let Some(frozen) = view.frozen {
        if let Some(pause) = pause {
            // Another one while frozen: the renewals in between prove nothing any more.
            return if view.now.boot >= frozen.until { Freeze::Kill } else { Freeze::Begin(pause) };
        }
        if !view.guarded || view.renewed >= frozen.since {
            return Freeze::Thaw(view.now.boot.since(frozen.since));
        }
        return if view.now.boot >= frozen.until { Freeze::Kill } else { Freeze::Hold };
    }
    match pause {
        Some(pause) if view.writes => Freeze::Begin(pause),
        Some(_) | None => Freeze::Leave,
    }
}

fn noticed(view: &ClockView) -> Option<Pause> {
    let boot = view.now.boot.since(view.before.boot);
    let monotonic = Duration::from_nanos(view.now.monotonic.saturating_sub(view.before.monotonic));
    let jump = boot.abs_diff(monotonic);
    if jump > view.epsilon {
        return Some(Pause::Jump(jump));
    }
    let late = view.now.boot.since(view.due);
    (late > view.threshold).then_some(Pause::LateWake(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    fn reading(boot: u64, monotonic: u64) -> Reading {
        Reading { boot: at(boot), monotonic: monotonic * 1_000_000 }
    }

    /// A wake in time, 50 ms after the one before, of an instance that writes.
    fn in_time() -> ClockView {
        ClockView {
            now: reading(10_050, 5_050),
            before: reading(10_000, 5_000),
            due: at(10_050),
            epsilon: Duration::from_millis(100),
            threshold: Duration::from_secs(1),
            writes: true,
            guarded: true,
            frozen: None,
            renewed: at(9_000),
        }
    }

    fn frozen(since: u64, until: u64) -> Option<Frozen> {
        Some(Frozen { since: at(since), until: at(until) })
    }

    #[test]
    fn each_kind_of_pause_alone_freezes_what_writes_and_nothing_else() {
        let late =
            |millis: u64| ClockView { now: reading(10_050 + millis, 5_050 + millis), ..in_time() };
        let jump = |millis: u64| ClockView { now: reading(10_050 + millis, 5_050), ..in_time() };
        let back = ClockView { now: reading(10_050, 5_151), ..in_time() };
        for (view, wanted) in [
            (in_time(), Freeze::Leave),
            (late(1_000), Freeze::Leave),
            (late(1_001), Freeze::Begin(Pause::LateWake(Duration::from_millis(1_001)))),
            (jump(100), Freeze::Leave),
            (jump(101), Freeze::Begin(Pause::Jump(Duration::from_millis(101)))),
            (back, Freeze::Begin(Pause::Jump(Duration::from_millis(101)))),
            (ClockView { writes: false, ..late(60_000) }, Freeze::Leave),
            (ClockView { writes: false, ..jump(60_000) }, Freeze::Leave),
        ] {
            assert_eq!(judge(&view), wanted, "{view:?}");
        }
    }

    #[test]
    fn only_a_renewal_sent_after_the_notice_thaws_and_the_bound_kills() {
        for (renewed, until, wanted) in [
            (10_019, 12_000, Freeze::Hold),
            (10_020, 12_000, Freeze::Thaw(Duration::from_millis(30))),
            (10_019, 10_051, Freeze::Hold),
            (10_019, 10_050, Freeze::Kill),
            // Renewed and over at once: the right is there.
            (10_020, 10_050, Freeze::Thaw(Duration::from_millis(30))),
        ] {
            let view =
                ClockView { frozen: frozen(10_020, until), renewed: at(renewed), ..in_time() };
            assert_eq!(judge(&view), wanted, "{view:?}");
        }
    }

    #[test]
    fn what_is_not_guarded_any_more_is_let_go_and_a_planned_stop_is_not() {
        let stop = ClockView { frozen: frozen(10_020, 12_000), writes: false, ..in_time() };
        assert_eq!(judge(&stop), Freeze::Hold, "its clients could acknowledge");
        let off = ClockView { guarded: false, ..stop };
        assert_eq!(judge(&off), Freeze::Thaw(Duration::from_millis(30)));
    }

    #[test]
    fn a_second_pause_asks_anew() {
        let view = ClockView {
            now: reading(13_000, 5_050),
            frozen: frozen(10_000, 14_000),
            renewed: at(10_010),
            ..in_time()
        };
        assert_eq!(judge(&view), Freeze::Begin(Pause::Jump(Duration::from_millis(2_950))));
        let over = ClockView { frozen: frozen(10_000, 13_000), ..view };
        assert_eq!(judge(&over), Freeze::Kill);
    }
}
