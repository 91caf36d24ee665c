//! Rung 3: what a decision about the watchdog does to the device and to the page, over any device: the
//! kernel's, or the simulator's model of one.

use std::time::Duration;

use regent_proto::time::BootTime;

use crate::decide::{self, View, WatchdogAct};
use crate::page::{Page, Side, WatchdogState, WatchdogStep, WatchdogWanted};

/// What is asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// W.
    pub timeout: Duration,
    /// The most that it may grant.
    pub longest: Duration,
    /// Whether a device that its process's death stops is good enough.
    pub without_magic_close: bool,
}

impl Terms {
    /// As the agent asks.
    #[must_use]
    pub fn of(page: &Page) -> Self {
        Self {
            timeout: Duration::from_secs(page.watchdog_timeout_s()),
            longest: longest(page),
            without_magic_close: page.watchdog_wanted() == WatchdogWanted::Automatic,
        }
    }

    /// Whether what a device granted will do.
    ///
    /// # Errors
    /// With what will not.
    pub fn accept(&self, granted: Duration, magic_close: bool) -> Result<(), Failure> {
        let refused = |step| Err(Failure { step, errno: 0, granted });
        if granted > self.longest {
            return refused(WatchdogStep::TooLong);
        }
        if !magic_close && !self.without_magic_close {
            return refused(WatchdogStep::NoMagicClose);
        }
        Ok(())
    }
}

/// A step that failed. `errno` is 0 where the device answered, but not what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub step: WatchdogStep,
    /// What it said.
    pub errno: i32,
    /// What it granted, where it came so far.
    pub granted: Duration,
}

/// An open device, which counts.
pub trait Device: Sized {
    /// What it granted.
    fn granted(&self) -> Duration;
    /// Whether it goes on counting when this process dies.
    fn magic_close(&self) -> bool;
    /// Sets its timeout, where that can be set, and reads what it has then: more may be granted than
    /// was asked for.
    ///
    /// # Errors
    /// When it can't be set, or does not say what it is.
    fn set(&mut self, timeout: Duration) -> Result<(), Failure>;
    /// Pings it.
    ///
    /// # Errors
    /// When it refuses.
    fn ping(&self) -> Result<(), Failure>;
    /// Stops it by magic close.
    ///
    /// # Errors
    /// When it may go on counting.
    fn disarm(self) -> Result<(), Failure>;
}

/// Two clocks that are read one after the other differ by less without a suspend.
const STOOD_STILL: Duration = Duration::from_millis(10);

/// The watchdog as the guardian has it: the device, while it is open.
#[derive(Debug)]
pub struct Tended<D> {
    device: Option<D>,
    /// When it was last tried to arm it, in vain.
    failed_at: BootTime,
}

impl<D> Default for Tended<D> {
    fn default() -> Self {
        Self { device: None, failed_at: BootTime::default() }
    }
}

impl<D: Device> Tended<D> {
    /// Whether it is open, hence counting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.device.is_some()
    }

    /// For the next decision.
    #[must_use]
    pub fn seen(&self, page: &Page, now: BootTime) -> decide::Watchdog {
        let ordered = Duration::from_secs(page.watchdog_timeout_s());
        let left = self.device.is_none() && decide::still_counts(page, now);
        let timeout = match &self.device {
            Some(device) => device.granted(),
            None if left => ordered.max(Duration::from_secs(page.watchdog_granted_s())),
            None => ordered,
        };
        decide::Watchdog {
            wanted: page.watchdog_wanted(),
            open: self.device.is_some(),
            failed: (page.watchdog_state() == WatchdogState::Failed)
                .then(|| now.since(self.failed_at)),
            left,
            last_ping: page.watchdog_last_ping(),
            timeout,
            longest: longest(page),
        }
    }

    /// The machine stood still for this long, and its device did, too: it fires so much later than its
    /// last ping would let one think, and a ping that is held up can land so much later.
    pub fn stood_still(&self, page: &Page, span: Duration) {
        if self.device.is_some() && span >= STOOD_STILL {
            page.set_watchdog_last_ping(page.watchdog_last_ping().plus(span));
        }
    }

    /// Arms it before anything is started, or relied upon, where it may be armed now; what an armed one
    /// is worth to a server that is started is judged once more by when it came to it.
    pub fn arm_first(
        &mut self,
        page: &Page,
        view: &View,
        now: impl Fn() -> BootTime,
        open: impl FnOnce(&Terms) -> Result<D, Failure>,
    ) -> bool {
        let look = |tended: &Self| {
            let now = now();
            View { now, orders: page.orders(), watchdog: tended.seen(page, now), ..*view }
        };
        if !decide::may_arm_first(&look(self)) || !self.arm(page, &now, open) {
            return false;
        }
        let in_time = view.postmaster || decide::fires_in_time(&look(self));
        if !in_time {
            self.disarm(page);
        }
        in_time
    }

    /// Does what was decided on this view.
    pub fn tend(
        &mut self,
        page: &Page,
        (view, act): (&View, Option<WatchdogAct>),
        now: impl Fn() -> BootTime,
        open: impl FnOnce(&Terms) -> Result<D, Failure>,
    ) {
        // The kill before may have taken its time.
        let may_still_ping =
            || decide::may_ping(&View { now: now(), orders: page.orders(), ..*view });
        match act {
            None => {}
            Some(WatchdogAct::Arm | WatchdogAct::Ping | WatchdogAct::Lower)
                if !may_still_ping() => {}
            Some(WatchdogAct::Arm) => {
                self.arm(page, now, open);
            }
            Some(WatchdogAct::Ping) => self.ping(page, now),
            Some(WatchdogAct::Lower) => {
                self.lower(page, &now);
                self.ping(page, now);
            }
            Some(WatchdogAct::Disarm) => self.disarm(page),
            Some(WatchdogAct::Forget) => page.set_watchdog_state(WatchdogState::Off),
        }
    }

    /// Arms it; the page says what came of it.
    pub fn arm(
        &mut self,
        page: &Page,
        now: impl Fn() -> BootTime,
        open: impl FnOnce(&Terms) -> Result<D, Failure>,
    ) -> bool {
        match open(&Terms::of(page)) {
            Ok(device) => {
                page.set_watchdog_granted_s(device.granted().as_secs());
                page.set_watchdog_last_ping(now());
                page.set_watchdog_errno(0);
                page.set_watchdog_step(step_of(&device));
                page.set_watchdog_state(WatchdogState::Armed);
                self.device = Some(device);
                true
            }
            Err(failure) => {
                self.failed_at = now();
                page.set_watchdog_granted_s(failure.granted.as_secs());
                failed(page, failure);
                false
            }
        }
    }

    /// Sets the timeout that is ordered by now. Where the device does not take it, it is pinged on
    /// with the one that it has, the page says that, and the next ping tries again.
    fn lower(&mut self, page: &Page, now: impl Fn() -> BootTime) {
        let Some(device) = &mut self.device else { return };
        match device.set(Duration::from_secs(page.watchdog_timeout_s())) {
            Ok(()) => {
                // The ping that it is counts first: nobody may see the shorter one with an older ping.
                page.set_watchdog_last_ping(now());
                page.set_watchdog_granted_s(device.granted().as_secs());
                page.set_watchdog_errno(0);
                let too_long = device.granted() > longest(page);
                let step = if too_long { WatchdogStep::TooLong } else { step_of(device) };
                page.set_watchdog_step(step);
            }
            Err(failure) => {
                page.set_watchdog_errno(failure.errno);
                page.set_watchdog_step(failure.step);
            }
        }
    }

    fn ping(&self, page: &Page, now: impl Fn() -> BootTime) {
        let Some(device) = &self.device else { return };
        match device.ping() {
            Ok(()) => {
                // Read afterwards: the next ping's bound counts from the latest this one can have been.
                page.set_watchdog_last_ping(now());
                if page.watchdog_state() == WatchdogState::Failed {
                    page.set_watchdog_errno(0);
                    page.set_watchdog_step(WatchdogStep::None);
                    page.set_watchdog_state(WatchdogState::Armed);
                }
            }
            Err(failure) => failed(page, failure),
        }
    }

    /// Stops it. Only where nothing of the data directory is left, or nothing was started.
    pub fn disarm(&mut self, page: &Page) {
        let Some(device) = self.device.take() else { return };
        match device.disarm() {
            Ok(()) => page.set_watchdog_state(WatchdogState::Disarmed),
            Err(failure) => failed(page, failure),
        }
    }
}

/// A guardian takes its words of the page; whatever an earlier one left there goes, but for a watchdog
/// that still counts: its last ping bounds the next one, and the agent stops early enough for it.
pub fn enter(page: &Page, now: BootTime) {
    let counts = decide::still_counts(page, now);
    let left = (page.watchdog_granted_s(), page.watchdog_last_ping());
    page.enter(Side::Guardian);
    page.forget(Side::Guardian);
    if counts {
        page.set_watchdog_granted_s(left.0);
        page.set_watchdog_last_ping(left.1);
        page.set_watchdog_step(WatchdogStep::None);
        page.set_watchdog_state(WatchdogState::Armed);
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
fn step_of(device: &impl Device) -> WatchdogStep {
    if device.magic_close() { WatchdogStep::None } else { WatchdogStep::NoMagicClose }
}

fn failed(page: &Page, failure: Failure) {
    page.set_watchdog_errno(failure.errno);
    page.set_watchdog_step(failure.step);
    page.set_watchdog_state(WatchdogState::Failed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that grants what it is asked for.
    struct Plain(Duration);

    impl Device for Plain {
        fn granted(&self) -> Duration {
            self.0
        }
        fn magic_close(&self) -> bool {
            true
        }
        fn set(&mut self, timeout: Duration) -> Result<(), Failure> {
            self.0 = timeout;
            Ok(())
        }
        fn ping(&self) -> Result<(), Failure> {
            Ok(())
        }
        fn disarm(self) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn what_stood_still_is_pinged_as_if_its_last_ping_had_been_later() {
        let second = Duration::from_secs(1);
        let at = |s: u32| BootTime::default().plus(second * s);
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        page.enter(Side::Agent);
        page.set_watchdog_timeout_s(5);
        let mut tended = Tended::default();
        tended.stood_still(&page, second);
        assert_eq!(page.watchdog_last_ping(), BootTime::default(), "none is open");
        assert!(tended.arm(&page, || at(100), |terms| Ok(Plain(terms.timeout))));
        tended.stood_still(&page, Duration::from_millis(9));
        assert_eq!(page.watchdog_last_ping(), at(100), "two clocks are not read at once");
        tended.stood_still(&page, second * 20);
        assert_eq!(page.watchdog_last_ping(), at(120));
    }
}
