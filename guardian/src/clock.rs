//! The boot clock, which everything is judged by, and the monotonic one, which stands still with the
//! machine.

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::BootTime;

/// CLOCK_MONOTONIC in nanoseconds: stops in suspend (clock_gettime(2)).
#[must_use]
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists everywhere");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
}

/// CLOCK_BOOTTIME: counts suspend, is never stepped (clock_gettime(2)).
#[must_use]
pub fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    BootTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
