//! Time as safety decisions see it: the boot clock, deadlines, and the lease arithmetic.
//!
//! Types only; nothing here reads a clock. `BootTime` is CLOCK_BOOTTIME (it counts suspend and is
//! not stepped), so a deadline is the same instant for every process of one boot. Wall-clock
//! stamps ([`WallTime`]) exist for people and decide about no right (I11).
//! The arithmetic is in [`lease`] and [`watchdog`] (hazards.md section 3); keeps I7 and I21.

pub mod lease;
pub mod watchdog;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use lease::{LeaseTiming, TimingError};
pub use watchdog::{WatchdogRefused, WatchdogTiming};

/// An instant on this machine's boot clock, nanoseconds since boot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootTime(u64);

impl BootTime {
    /// An instant from nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Later by `span`; saturates.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Earlier by `span`; stops at boot.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The instant after which nothing may be acknowledged.
///
/// It is only ever raised: by a renewal that the store acknowledged, anchored at the instant
/// *before* that request was sent (I9; protocol.md rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Deadline(BootTime);

impl Deadline {
    /// No right at all: the deadline of whoever never held, or has ended, a tenure.
    pub const NEVER: Self = Self(BootTime(0));

    /// The deadline that a request sent at `sent` gives once it was acknowledged.
    #[must_use]
    pub fn granted(sent: BootTime, timing: &LeaseTiming) -> Self {
        Self(sent.plus(timing.ttl).minus(timing.epsilon()))
    }

    /// A deadline passed on by another process of this boot.
    #[must_use]
    pub const fn at(instant: BootTime) -> Self {
        Self(instant)
    }

    /// The instant itself.
    #[must_use]
    pub const fn instant(self) -> BootTime {
        self.0
    }

    /// The earlier of two: a writer is bound by its site key *and* by the primary lease.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }

    /// The later of two deadlines of the same tenure.
    #[must_use]
    pub fn raised(self, other: Self) -> Self {
        self.max(other)
    }

    /// Whether `now` is before the deadline.
    #[must_use]
    pub fn lies_ahead(self, now: BootTime) -> bool {
        now < self.0
    }

    /// What is left at `now`.
    #[must_use]
    pub fn left(self, now: BootTime) -> Duration {
        self.0.since(now)
    }
}

/// Milliseconds since the Unix epoch, for people: shown, and compared with nothing but a time that a
/// person has given.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = std::time::UNIX_EPOCH + Duration::from_millis(self.0);
        write!(f, "{}", humantime::format_rfc3339_millis(instant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_raises_never() {
        assert!(!Deadline::NEVER.lies_ahead(BootTime::from_nanos(0)));
    }

    #[test]
    fn the_earlier_binds_and_the_later_is_a_renewal() {
        let [a, b] = [3, 5].map(|nanos| Deadline::at(BootTime::from_nanos(nanos)));
        assert_eq!((a.earlier(b), b.raised(a)), (a, b));
        assert_eq!(b.left(BootTime::from_nanos(2)), Duration::from_nanos(3));
        assert_eq!(a.left(BootTime::from_nanos(4)), Duration::ZERO);
    }
}
