//! The only place of the agent that reads clocks.

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::WallTime;

/// CLOCK_BOOTTIME and CLOCK_MONOTONIC, read where the guardian reads them: both act on one deadline.
pub use regent_guardian::clock::{boot_time, monotonic};

/// The wall clock, for people: shown, and compared with nothing but a time that a person has given.
#[must_use]
pub fn wall_time() -> WallTime {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("CLOCK_REALTIME always exists");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec() / 1_000_000).unwrap_or(0);
    WallTime(seconds.saturating_mul(1000).saturating_add(millis))
}
