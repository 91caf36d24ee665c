//! The only place of the agent that reads clocks.

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::WallTime;

/// CLOCK_BOOTTIME, read where the guardian reads it: both act on one deadline.
pub use regent_guardian::clock::boot_time;

/// CLOCK_MONOTONIC in nanoseconds: stands still in suspend. Only ever compared with itself.
#[must_use]
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
}

/// The wall clock, for people: shown, and compared with nothing but a time that a person has given.
#[must_use]
pub fn wall_time() -> WallTime {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("CLOCK_REALTIME always exists");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec() / 1_000_000).unwrap_or(0);
    WallTime(seconds.saturating_mul(1000).saturating_add(millis))
}
