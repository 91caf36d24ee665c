//! Virtual time: nanoseconds of a time line that no process of the world can read. What a process
//! reads is its node's boot clock, which runs a little wrong.

use std::time::Duration;

use regent_proto::time::BootTime;

/// A point of, or a span on, the world's time line.
pub type Nanos = u64;

/// One microsecond.
pub const US: Nanos = 1_000;
/// One millisecond.
pub const MS: Nanos = 1_000_000;
/// One second.
pub const SEC: Nanos = 1_000_000_000;
/// One minute.
pub const MIN: Nanos = 60 * SEC;

/// A duration in nanoseconds.
#[must_use]
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A node's boot clock: counts suspends, is never stepped, runs at a rate of its own.
#[derive(Debug, Clone)]
pub struct Clock {
    world: Nanos,
    boot: Nanos,
    /// Parts per million too fast.
    ppm: i64,
    /// Nanoseconds for which the monotonic clock stood still.
    pub suspended: Nanos,
    /// Milliseconds by which the wall clock was stepped.
    pub wall_step: i64,
}

impl Clock {
    /// Booted long ago.
    #[must_use]
    pub fn new(boot: Nanos, ppm: i64) -> Self {
        Self { world: 0, boot, ppm, suspended: 0, wall_step: 0 }
    }

    /// The boot clock.
    #[must_use]
    pub fn boot(&self, now: Nanos) -> BootTime {
        let passed = i128::from(now - self.world);
        let shown = i128::from(self.boot) + passed + passed * i128::from(self.ppm) / 1_000_000;
        BootTime::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    /// The monotonic clock.
    #[must_use]
    pub fn monotonic(&self, now: Nanos) -> u64 {
        self.boot(now).nanos().saturating_sub(self.suspended)
    }

    /// The earliest point of the time line at which the boot clock shows `at`.
    #[must_use]
    pub fn when(&self, at: BootTime) -> Nanos {
        let left = i128::from(at.nanos()) - i128::from(self.boot);
        if left <= 0 {
            return self.world;
        }
        let span = left * 1_000_000 / (1_000_000 + i128::from(self.ppm)) + 1;
        self.world.saturating_add(u64::try_from(span).unwrap_or(u64::MAX / 4))
    }

    /// From now on another rate.
    pub fn set_rate(&mut self, now: Nanos, ppm: i64) {
        self.boot = self.boot(now).nanos();
        self.world = now;
        self.ppm = ppm;
    }
}
