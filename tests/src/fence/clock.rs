//! The boot clock, which every stamp of this report is on.

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::BootTime;

/// CLOCK_BOOTTIME (clock_gettime(2)): the clock that deadlines are on.
#[must_use]
pub fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    BootTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
