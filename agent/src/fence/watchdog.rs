//! Rung 3 as the agent orders it: whether a watchdog is wanted, and for how long it may wait. The
//! guardian opens, sets and pings it.

use std::time::Duration;

use regent_guardian::page::{Page, WatchdogState, WatchdogWanted};
use regent_proto::time::{LeaseTiming, WatchdogRefused, WatchdogTiming};

use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::config::watchdog::WatchdogMode;
use crate::decide::view::View;

/// Timing of the shorter of the leases that let this node write.
#[must_use]
pub fn shortest_lease(config: &Config, dynamic: &Dynamic, view: &View) -> LeaseTiming {
    let site = config.site_timing(dynamic);
    let federation = view.federation.as_ref();
    let primary = federation.and_then(|federation| federation.primary.as_ref());
    match primary.map(|primary| config.primary_timing(primary.value.ttl_max)) {
        Some(primary) if primary.ttl < site.ttl => primary,
        Some(_) | None => site,
    }
}

/// Whether a server of this node is to have one under this timing, and how.
#[must_use]
pub fn mode(config: &Config, shortest: &LeaseTiming) -> WatchdogWanted {
    match (config.watchdog.mode, config.watchdog_timing(shortest)) {
        (WatchdogMode::Off, _) | (WatchdogMode::Automatic, Err(_)) => WatchdogWanted::Off,
        (WatchdogMode::Automatic, Ok(_)) => WatchdogWanted::Automatic,
        // A timing that it does not fit is refused elsewhere; not to be led without.
        (WatchdogMode::Required, _) => WatchdogWanted::Required,
    }
}

/// Asks the guardian to arm it. The device is refused when it grants a longer W.
pub fn want(page: &Page, config: &Config, shortest: &LeaseTiming) -> Result<(), WatchdogRefused> {
    let wanted = mode(config, shortest);
    if wanted == WatchdogWanted::Off {
        return Ok(());
    }
    let timing: WatchdogTiming = config.watchdog_timing(shortest)?;
    page.set_watchdog_timeout_s(u64::from(timing.timeout_s));
    page.set_watchdog_longest_s(u64::from(timing.timeout_s));
    page.set_watchdog_wanted(wanted);
    Ok(())
}

/// For a server that starts in recovery: nothing that may write runs, so nothing needs a reset.
pub fn unwant(page: &Page) {
    page.set_watchdog_wanted(WatchdogWanted::Off);
}

/// Whether an armed device, pinged freely until the guard was armed, fires before the deadline even
/// if nobody pings it again.
#[must_use]
pub fn fires_in_time(page: &Page) -> bool {
    let granted = Duration::from_secs(page.watchdog_granted_s());
    page.watchdog_state() != WatchdogState::Armed
        || WatchdogTiming::may_ping(granted, page.watchdog_last_ping(), page.writing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use regent_guardian::page::Side;
    use regent_proto::time::{BootTime, Deadline};

    #[test]
    fn a_device_pinged_too_late_for_the_deadline_is_seen() {
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let at = |seconds: u64| BootTime::from_nanos(seconds * 1_000_000_000);
        page.set_site_deadline(Deadline::at(at(20)));
        assert!(fires_in_time(&page), "no device");
        page.set_watchdog_granted_s(5);
        page.set_watchdog_state(WatchdogState::Armed);
        // 2 W + R = 11.
        for (pinged, in_time) in [(1, true), (9, true), (10, false), (15, false)] {
            page.set_watchdog_last_ping(at(pinged));
            assert_eq!(fires_in_time(&page), in_time, "pinged at {pinged}");
        }
    }
}
