//! Rung 3 as the agent orders it: whether a watchdog is wanted, and for how long it may wait. The
//! guardian opens, sets and pings it.

use regent_guardian::page::{Page, WatchdogWanted};
use regent_proto::time::{LeaseTiming, WatchdogRefused, WatchdogTiming};

use crate::config::Config;
use crate::config::watchdog::WatchdogMode;

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
