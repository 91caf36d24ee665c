//! The only place of this crate that reads clocks; everything else takes times as arguments.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regent_proto::time::WallTime;

/// Monotonic time, for spans.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge of the program reads the clock here")]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time, to show to people.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge of the program reads the clock here")]
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime(millis(since))
}

/// Whole milliseconds.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
