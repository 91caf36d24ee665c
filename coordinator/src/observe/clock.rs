//! The wall clock, for people. The boot clock is [`regent_dcs::clock::BootClock`].

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::WallTime;

/// Milliseconds since the Unix epoch: shown, never compared.
#[must_use]
pub fn wall_time() -> WallTime {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("CLOCK_REALTIME always exists");
    let since = std::time::Duration::from(now);
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
