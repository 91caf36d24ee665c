//! The boot clock, which every trace of this crate is stamped with, and bounded waits.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use regent_proto::time::BootTime;

/// How often a condition that nobody announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// CLOCK_BOOTTIME, the clock of deadlines (clock_gettime(2)).
///
/// # Panics
/// Never: the clock exists since Linux 2.6.39.
#[must_use]
pub fn now() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("it exists since Linux 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    BootTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Blocks this thread for a moment: between two looks, or for a span that is the test's subject.
#[expect(clippy::disallowed_methods, reason = "tests' own threads, off every runtime")]
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// Looks until `look` finds something, at most for `limit`.
#[must_use]
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now().plus(limit);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= end {
            return None;
        }
        pause(LOOK_EVERY);
    }
}
