//! Time as safety decisions see it: the boot clock, deadlines, and the lease arithmetic.
//!
//! Types only; nothing here reads a clock. `BootTime` is CLOCK_BOOTTIME (it counts suspend and is
//! not stepped), so a deadline is the same instant for every process of one boot. Wall-clock
//! stamps ([`WallTime`]) exist for people and are never compared (I11).
//! The arithmetic is hazards.md section 3; keeps I7 and I21.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// The bounds of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseTiming {
    /// Granted time to live.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// Longest wait for one answer of the store.
    pub call_timeout: Duration,
    /// G: the longest a stop may take before what is left is killed.
    pub stop_budget: Duration,
    /// κ: what is reserved for the kill itself.
    pub kill_budget: Duration,
}

/// Clock rate error assumed between holder and store or taker, in parts per thousand.
const DRIFT_PER_MILLE: u32 = 1;
/// Granularity of timers and wake-ups.
const GRANULARITY: Duration = Duration::from_millis(40);
/// The least ε.
const EPSILON_FLOOR: Duration = Duration::from_millis(100);

/// Timings that do not add up, with the numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{lease}: renew_every {renew_every:?} + call_timeout {call_timeout:?} + stop_budget \
     {stop_budget:?} + epsilon {epsilon:?} = {sum:?} exceeds the TTL {ttl:?}; raise the TTL or \
     lower one of them"
)]
pub struct TimingError {
    /// Which lease.
    pub lease: &'static str,
    renew_every: Duration,
    call_timeout: Duration,
    stop_budget: Duration,
    epsilon: Duration,
    sum: Duration,
    ttl: Duration,
}

impl LeaseTiming {
    /// ε = max(0.1 s, 2ρ·TTL + g).
    #[must_use]
    pub fn epsilon(&self) -> Duration {
        EPSILON_FLOOR.max(self.ttl * 2 * DRIFT_PER_MILLE / 1000 + GRANULARITY)
    }

    /// How long a taker waits for a silent holder: TTL·(1+2ρ) + ε (protocol.md rule 4).
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.ttl + self.ttl * 2 * DRIFT_PER_MILLE / 1000 + self.epsilon()
    }

    /// When to begin the fence for a deadline.
    #[must_use]
    pub fn fence_at(&self, deadline: Deadline) -> BootTime {
        deadline.instant().minus(self.stop_budget)
    }

    /// K: when what is left must be killed.
    #[must_use]
    pub fn kill_at(&self, deadline: Deadline) -> BootTime {
        deadline.instant().minus(self.kill_budget)
    }

    /// Checks that one lost renewal does not cost the lease and that the fence fits
    /// (hazards.md 3.3: Δ + n·τ + G + ε ≤ TTL, n = 1).
    pub fn check(&self, lease: &'static str) -> Result<(), TimingError> {
        let epsilon = self.epsilon();
        let sum = self.renew_every + self.call_timeout + self.stop_budget + epsilon;
        if sum <= self.ttl {
            return Ok(());
        }
        Err(TimingError {
            lease,
            renew_every: self.renew_every,
            call_timeout: self.call_timeout,
            stop_budget: self.stop_budget,
            epsilon,
            sum,
            ttl: self.ttl,
        })
    }
}

/// Milliseconds since the Unix epoch, for people: shown, never compared.
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

    fn timing(ttl: u64) -> LeaseTiming {
        LeaseTiming {
            ttl: Duration::from_secs(ttl),
            renew_every: Duration::from_secs(1),
            call_timeout: Duration::from_secs(1),
            stop_budget: Duration::from_secs(2),
            kill_budget: Duration::from_millis(250),
        }
    }

    #[test]
    fn a_deadline_counts_from_the_sending_and_ends_before_the_waiter() {
        let timing = timing(5);
        let sent = BootTime::from_nanos(7_000_000_000);
        let deadline = Deadline::granted(sent, &timing);
        assert_eq!(deadline.instant(), sent.plus(Duration::from_millis(4900)));
        // The waiter counts from an answer that was received after the sending.
        assert!(deadline.instant() < sent.plus(timing.wait()));
    }

    #[test]
    fn timings_that_do_not_fit_are_refused_with_the_numbers() {
        assert_eq!(timing(5).check("site lease"), Ok(()));
        let error = timing(4).check("site lease").expect_err("4.1 s do not fit into 4 s");
        assert!(error.to_string().contains("exceeds the TTL 4s"), "{error}");
    }

    #[test]
    fn nothing_raises_never() {
        assert!(!Deadline::NEVER.lies_ahead(BootTime::from_nanos(0)));
    }
}
