//! Bounded waits for conditions: no test sleeps for a span that "should do".

use std::time::{Duration, Instant};

use anyhow::bail;
use regentctl::clock;

/// How often a condition that nobody announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Waits for what `look` finds. The last `Err` it gave says what was seen instead.
///
/// # Errors
/// After `limit`, with what was waited for and seen.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let begun = clock::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if begun.elapsed() > limit => {
                bail!("waited {limit:?} for {what}; saw: {seen}")
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Seconds since `begun`, for reports.
#[must_use]
pub fn seconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}
