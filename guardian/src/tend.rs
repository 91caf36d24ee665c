//! Rung 3: what a decision about the watchdog does to the device and to the page, over any device: the
//! kernel's, or the simulator's model of one.

use std::time::Duration;

use regent_proto::time::BootTime;

use crate::decide::{self, View, WatchdogAct};
use crate::page::{Page, WatchdogState, WatchdogStep, WatchdogWanted};

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
        let timeout = page.watchdog_timeout_s();
        let longest = match page.watchdog_longest_s() {
            0 => timeout,
            longest => longest,
        };
        Self {
            timeout: Duration::from_secs(timeout),
            longest: Duration::from_secs(longest),
            without_magic_close: page.watchdog_wanted() == WatchdogWanted::Automatic,
        }
    }

    /// Whether what a device granted will do.
    ///
    /// # Errors
    /// With what will not.
    pub fn accept(&self, granted: Duration, magic_close: bool) -> Result<(), Failure> {
        let refused = |step| Err(Failure { step, errno: 0, granted });
        if granted.is_zero() {
            return refused(WatchdogStep::SetTimeout);
        }
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

/// The watchdog as the guardian has it: the device, while it is open.
#[derive(Debug)]
pub struct Tended<D>(Option<D>);

impl<D> Default for Tended<D> {
    fn default() -> Self {
        Self(None)
    }
}

impl<D: Device> Tended<D> {
    /// Whether it is open, hence counting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// For the next decision.
    #[must_use]
    pub fn seen(&self, page: &Page) -> decide::Watchdog {
        decide::Watchdog {
            wanted: page.watchdog_wanted(),
            open: self.0.is_some(),
            failed: page.watchdog_state() == WatchdogState::Failed,
            last_ping: page.watchdog_last_ping(),
            timeout: self
                .0
                .as_ref()
                .map_or_else(|| Duration::from_secs(page.watchdog_timeout_s()), D::granted),
        }
    }

    /// Does what was decided on this view.
    pub fn tend(
        &mut self,
        page: &Page,
        (view, act): (&View, Option<WatchdogAct>),
        now: impl Fn() -> BootTime,
        open: impl FnOnce(&Terms) -> Result<D, Failure>,
    ) {
        match act {
            None => {}
            Some(WatchdogAct::Arm) => {
                self.arm(page, now, open);
            }
            Some(WatchdogAct::Ping) => self.ping(page, view, now),
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
                let step = if device.magic_close() {
                    WatchdogStep::None
                } else {
                    WatchdogStep::NoMagicClose
                };
                page.set_watchdog_granted_s(device.granted().as_secs());
                page.set_watchdog_last_ping(now());
                page.set_watchdog_errno(0);
                page.set_watchdog_step(step);
                page.set_watchdog_state(WatchdogState::Armed);
                self.0 = Some(device);
                true
            }
            Err(failure) => {
                page.set_watchdog_granted_s(failure.granted.as_secs());
                failed(page, failure);
                false
            }
        }
    }

    fn ping(&self, page: &Page, view: &View, now: impl Fn() -> BootTime) {
        let Some(device) = &self.0 else { return };
        // The kill before may have taken its time.
        if !decide::may_ping(&View { now: now(), orders: page.orders(), ..*view }) {
            return;
        }
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
        let Some(device) = self.0.take() else { return };
        match device.disarm() {
            Ok(()) => page.set_watchdog_state(WatchdogState::Disarmed),
            Err(failure) => failed(page, failure),
        }
    }
}

fn failed(page: &Page, failure: Failure) {
    page.set_watchdog_errno(failure.errno);
    page.set_watchdog_step(failure.step);
    page.set_watchdog_state(WatchdogState::Failed);
}
