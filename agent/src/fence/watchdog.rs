//! Rung 3 as the agent orders it: whether a watchdog is wanted, and for how long it may wait. The
//! guardian opens, sets and pings it.

use std::time::Duration;

use regent_guardian::page::{Page, WatchdogState, WatchdogStep, WatchdogWanted};
use regent_proto::time::{BootTime, Deadline, LeaseTiming, WatchdogRefused, WatchdogTiming};

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
        // Nor by what a longer lease let it want before.
        unwant(page);
        return Ok(());
    }
    let timing: WatchdogTiming = config.watchdog_timing(shortest)?;
    order(page, timing);
    page.set_watchdog_wanted(wanted);
    Ok(())
}

/// A device that was armed under longer leases is ordered down to what these bear. Never up: a longer
/// one ends the writing earlier, and waits for the next server.
pub fn lower(page: &Page, config: &Config, shortest: &LeaseTiming) {
    if page.watchdog_wanted() != WatchdogWanted::Off
        && let Ok(timing) = config.watchdog_timing(shortest)
        && u64::from(timing.timeout_s) < page.watchdog_timeout_s()
    {
        order(page, timing);
    }
}

fn order(page: &Page, timing: WatchdogTiming) {
    // What it is set to before what it may have: a guardian looks at the second, and sets the first.
    page.set_watchdog_timeout_s(u64::from(timing.timeout_s));
    page.set_watchdog_longest_s(u64::from(timing.timeout_s));
}

/// Whether a device counts, which resets this node unless it is pinged.
#[must_use]
pub fn counts(page: &Page) -> bool {
    match (page.watchdog_state(), page.watchdog_step()) {
        (WatchdogState::Armed, _) | (WatchdogState::Failed, WatchdogStep::Ping) => true,
        (
            WatchdogState::Off
            | WatchdogState::Failed
            | WatchdogState::Disarmed
            | WatchdogState::Unknown(_),
            _,
        ) => false,
    }
}

/// Whether the device, with the timeout that it has now, gets a ping for each renewal of such a lease.
/// One that does not would end a healthy primary, so a lease does not become shorter before it is
/// lowered: the old one is as safe, only slower to be another's.
#[must_use]
pub fn bears(page: &Page, lease: &LeaseTiming) -> bool {
    let sent = BootTime::default();
    let granted = Duration::from_secs(page.watchdog_granted_s());
    !counts(page) || WatchdogTiming::may_ping(granted, sent, Deadline::granted(sent, lease))
}

/// The TTL of a lease that the device bears as it is armed now; nothing less than `lease`'s.
#[must_use]
pub fn borne_ttl(page: &Page, lease: &LeaseTiming) -> Duration {
    if bears(page, lease) {
        return lease.ttl;
    }
    let granted = Duration::from_secs(page.watchdog_granted_s());
    let bare = granted * 2 + WatchdogTiming::RESET;
    // ε grows with the TTL, much more slowly than this does.
    let longer = LeaseTiming { ttl: bare * 2, ..lease.clone() };
    Duration::from_secs((bare + longer.epsilon()).as_secs() + 1).max(lease.ttl)
}

/// How long before the deadline the writing of a server that is started now would end again.
#[must_use]
pub fn lead_at_start(config: &Config, shortest: &LeaseTiming) -> Duration {
    match (mode(config, shortest), config.watchdog_timing(shortest)) {
        (WatchdogWanted::Automatic | WatchdogWanted::Required, Ok(timing)) => {
            let timeout = Duration::from_secs(timing.timeout_s.into());
            WatchdogTiming::fence_lead(timeout, shortest.stop_budget)
        }
        (
            WatchdogWanted::Off
            | WatchdogWanted::Automatic
            | WatchdogWanted::Required
            | WatchdogWanted::Unknown(_),
            _,
        ) => shortest.stop_budget,
    }
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

    /// G = 5 s, κ = 250 ms.
    fn config(watchdog: &str) -> Config {
        let text = format!(
            "
scope: eu
name: eu-1
restapi: {{listen: '127.0.0.1:8008'}}
sqlite: {{path: /tmp/eu.db}}
regent: {{run_dir: /tmp/run, stop_budget: 5s}}
watchdog: {watchdog}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: /tmp/data
  authentication:
    superuser: {{username: postgres, password: s}}
    replication: {{username: replicator, password: r}}
"
        );
        Config::parse(std::path::Path::new("agent.yml"), &text).expect("good")
    }

    fn lease(config: &Config, ttl: u64) -> LeaseTiming {
        let ttl = Duration::from_secs(ttl);
        config.site_timing(&Dynamic { ttl, ..config.first_dynamic() })
    }

    fn armed(granted: u64) -> Page {
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        page.set_watchdog_granted_s(granted);
        page.set_watchdog_state(WatchdogState::Armed);
        page
    }

    #[test]
    fn a_shorter_lease_orders_an_armed_device_down_and_a_longer_one_never_up() {
        for margin in ["{safety_margin: 5}", "{safety_margin: -1}"] {
            let config = config(margin);
            let page = armed(14);
            let ordered = || (page.watchdog_timeout_s(), page.watchdog_longest_s());
            lower(&page, &config, &lease(&config, 20));
            assert_eq!(ordered(), (0, 0), "none is wanted");
            want(&page, &config, &lease(&config, 30)).expect("long enough");
            assert_eq!(ordered(), (14, 14));
            lower(&page, &config, &lease(&config, 20));
            assert_eq!(ordered(), (9, 9));
            lower(&page, &config, &lease(&config, 30));
            assert_eq!(ordered(), (9, 9));
            want(&page, &config, &lease(&config, 30)).expect("long enough");
            assert_eq!(ordered(), (14, 14), "the next server's");
        }
    }

    /// The one that the device has counts, not the one that is ordered.
    #[test]
    fn a_lease_waits_for_a_device_that_it_does_not_bear() {
        let config = config("{safety_margin: -1}");
        let (long, short) = (lease(&config, 30), lease(&config, 20));
        let page = armed(14);
        want(&page, &config, &long).expect("long enough");
        lower(&page, &config, &short);
        assert!(bears(&page, &long) && !bears(&page, &short));
        page.set_watchdog_state(WatchdogState::Failed);
        page.set_watchdog_step(WatchdogStep::Ping);
        assert!(!bears(&page, &short), "it counts");
        page.set_watchdog_step(WatchdogStep::Open);
        assert!(bears(&page, &short), "it does not");
        page.set_watchdog_state(WatchdogState::Armed);
        page.set_watchdog_granted_s(10);
        assert!(!bears(&page, &short), "2 x 10 + 1 is more than 19.9");
        page.set_watchdog_granted_s(9);
        assert!(bears(&page, &short));
    }

    #[test]
    fn a_lease_too_short_for_any_device_wants_none() {
        let config = config("{mode: automatic, safety_margin: -1}");
        let page = Page::create().expect("a page");
        want(&page, &config, &lease(&config, 30)).expect("long enough");
        assert_eq!(page.watchdog_wanted(), WatchdogWanted::Automatic);
        want(&page, &config, &lease(&config, 3)).expect("automatic goes without");
        assert_eq!(page.watchdog_wanted(), WatchdogWanted::Off);
    }

    #[test]
    fn a_server_is_given_its_lead_before_it_is_started() {
        for (watchdog, ttl, lead) in [
            ("{mode: 'off'}", 30, 5_000),
            ("{safety_margin: -1}", 30, 17_500),
            ("{safety_margin: -1}", 20, 12_500),
            ("{safety_margin: -1}", 3, 5_000),
        ] {
            let config = config(watchdog);
            let found = lead_at_start(&config, &lease(&config, ttl));
            assert_eq!(found, Duration::from_millis(lead), "{watchdog}, TTL {ttl}");
        }
    }

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
