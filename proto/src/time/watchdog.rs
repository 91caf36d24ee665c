//! How long a watchdog may wait before it resets the node, so that it does so before the lease of a
//! hung holder can be another's.
//!
//! W ≤ (TTL − R − ε)/2, in whole seconds, which is all that the device takes. The proof (hazards.md
//! 3.5) rests on the factor 2: a ping may be held up between the check that allows it and the write
//! itself by up to W, or the device would have fired meanwhile. So a ping is let through only while
//! `last ping + 2W + R ≤ D` ([`WatchdogTiming::may_ping`]); with the longest W that is one ping for
//! each acknowledged renewal that was sent after the last ping.

use std::time::Duration;

use super::{BootTime, Deadline, LeaseTiming};

/// What the device is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchdogTiming {
    /// W, in whole seconds.
    pub timeout_s: u32,
    /// The configured margin asked for a longer W than is safe.
    pub shortened: Option<Shortened>,
}

/// A `safety_margin` that leaves the hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortened {
    /// The margin as configured, in seconds.
    pub margin_s: i64,
    /// The W it asked for: TTL − margin.
    pub asked_s: u64,
}

/// The lease is too short for any watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "watchdog: (TTL {ttl:?} - reset {reset:?} - epsilon {epsilon:?}) / 2 is below 1s, the least a \
     watchdog device takes: want a TTL of at least {least:?}, or `watchdog: {{mode: \"off\"}}`"
)]
pub struct WatchdogRefused {
    ttl: Duration,
    reset: Duration,
    epsilon: Duration,
    least: Duration,
}

impl WatchdogTiming {
    /// R: from the end of the device's timeout to a node that executes nothing any more. Softdog
    /// resets at once; boards take up to a tick of a second.
    pub const RESET: Duration = Duration::from_secs(1);

    /// Patroni's value for "the strict one", which it takes as half the TTL.
    pub const STRICT: i64 = -1;

    /// W for the shortest lease that lets this node write, under Patroni's `safety_margin`: W is
    /// TTL − margin, but never longer than is safe; -1 means the longest safe one. Nothing configured
    /// means G, or the longest safe one where that is shorter: the longer W, the earlier an outage of
    /// the store has to end the writing ([`Self::fence_lead`]).
    pub fn of(lease: &LeaseTiming, margin_s: Option<i64>) -> Result<Self, WatchdogRefused> {
        let (ttl, epsilon) = (lease.ttl, lease.epsilon());
        let safe = ttl.saturating_sub(Self::RESET + epsilon) / 2;
        let safe_s = u32::try_from(safe.as_secs()).unwrap_or(u32::MAX);
        if safe_s == 0 {
            let least = Self::RESET + epsilon + Duration::from_secs(2);
            return Err(WatchdogRefused { ttl, reset: Self::RESET, epsilon, least });
        }
        let Some(margin_s) = margin_s else {
            let budget_s = u32::try_from(lease.stop_budget.as_secs()).unwrap_or(u32::MAX);
            return Ok(Self { timeout_s: budget_s.clamp(1, safe_s), shortened: None });
        };
        if margin_s == Self::STRICT {
            return Ok(Self { timeout_s: safe_s, shortened: None });
        }
        let margin = u64::try_from(margin_s).unwrap_or(0);
        let asked_s = ttl.as_secs().saturating_sub(margin);
        let timeout_s = u32::try_from(asked_s).unwrap_or(u32::MAX).clamp(1, safe_s);
        let shortened = (asked_s > u64::from(safe_s)).then_some(Shortened { margin_s, asked_s });
        Ok(Self { timeout_s, shortened })
    }

    /// How long before D rung 1 begins beside an armed watchdog. The last ping that [`Self::may_ping`]
    /// lets through is later than D − 2W − R, so the device fires no earlier than D − W − R; a fast
    /// shutdown that begins G/2 before that ends the writing in order, and nothing is left to reset.
    /// Never later than without a watchdog.
    #[must_use]
    pub fn fence_lead(granted: Duration, stop_budget: Duration) -> Duration {
        stop_budget.max(granted + Self::RESET + stop_budget / 2)
    }

    /// Whether a ping now, however long it is held up, lets the device fire after the deadline.
    /// `last_ping` is the clock read after the ping before this one, or the arming, had returned.
    #[must_use]
    pub fn may_ping(granted: Duration, last_ping: BootTime, writing: Deadline) -> bool {
        last_ping.plus(granted * 2).plus(Self::RESET) <= writing.instant()
    }
}

impl std::fmt::Display for Shortened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "watchdog.safety_margin {} asks for a timeout of {} s, which leaves a hole: a node that \
             hangs between the renewal and the ping would be reset only after the lease has ended",
            self.margin_s, self.asked_s
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(ttl: u64) -> LeaseTiming {
        LeaseTiming {
            ttl: Duration::from_secs(ttl),
            renew_every: Duration::from_secs(1),
            call_timeout: Duration::from_secs(1),
            stop_budget: Duration::from_secs(1),
            kill_budget: Duration::from_millis(250),
        }
    }

    #[test]
    fn margins_as_patroni_writes_them() {
        for (ttl, margin, timeout, hole) in [
            (30, None, 1, false),
            (30, Some(-1), 14, false),
            // Patroni's default: W = 25.
            (30, Some(5), 14, true),
            (30, Some(15), 14, true),
            (30, Some(16), 14, false),
            (30, Some(25), 5, false),
            (30, Some(40), 1, false),
            (30, Some(0), 14, true),
            (30, Some(-7), 14, true),
            (5, None, 1, false),
        ] {
            let timing = WatchdogTiming::of(&lease(ttl), margin).expect("long enough");
            let found = (timing.timeout_s, timing.shortened.is_some());
            assert_eq!(found, (timeout, hole), "TTL {ttl}, {margin:?}");
        }
        let hole = WatchdogTiming::of(&lease(30), Some(5)).expect("long enough").shortened;
        let text = hole.expect("a hole").to_string();
        assert!(text.contains("safety_margin 5") && text.contains("25 s"), "{text}");
    }

    #[test]
    fn a_lease_too_short_for_any_device_is_refused_with_the_numbers() {
        let refused = WatchdogTiming::of(&lease(3), None).expect_err("0.95 s").to_string();
        for word in ["3s", "100ms", "3.1s", "off"] {
            assert!(refused.contains(word), "{word} in {refused}");
        }
        assert!(WatchdogTiming::of(&lease(4), Some(-1)).is_ok());
    }

    #[test]
    fn without_a_margin_the_stop_budget_is_the_timeout() {
        for (ttl, budget, timeout) in [(30, 5, 5), (30, 20, 14), (20, 5, 5), (5, 2, 1), (10, 0, 1)]
        {
            let lease = LeaseTiming { stop_budget: Duration::from_secs(budget), ..lease(ttl) };
            let found = WatchdogTiming::of(&lease, None).expect("long enough").timeout_s;
            assert_eq!(found, timeout, "TTL {ttl}, G {budget}");
        }
    }

    proptest! {
        /// Pinged every W/4 while the rule lets it, the device leaves G/2 for the stop of rung 1.
        #[test]
        fn an_orderly_stop_comes_before_the_reset(w in 1u64..20, budget in 1u64..20, d in 100u64..200) {
            let (w, budget) = (Duration::from_secs(w), Duration::from_secs(budget));
            let deadline = Deadline::at(BootTime::default().plus(Duration::from_secs(d)));
            let mut last = BootTime::default();
            while WatchdogTiming::may_ping(w, last, deadline) {
                last = last.plus(w / 4);
            }
            let fires = last.plus(w);
            let begins = deadline.instant().minus(WatchdogTiming::fence_lead(w, budget));
            prop_assert!(begins.plus(budget / 2) <= fires, "begins {begins:?}, fires {fires:?}");
        }

        /// hazards.md 3.5, with pauses anywhere: whoever pings by the rule, the device fires before
        /// the deadline that stood at the last check.
        #[test]
        fn no_pause_lets_the_device_fire_after_the_deadline(
            ttl in 4u64..90,
            margin in proptest::option::of(-2i64..90),
            checks in proptest::collection::vec((0u64..8_000, 0u64..40_000, any::<bool>()), 1..40),
        ) {
            let timing = lease(ttl);
            let watchdog = WatchdogTiming::of(&timing, margin).expect("long enough");
            let granted = Duration::from_secs(u64::from(watchdog.timeout_s));
            let start = BootTime::from_nanos(1_000_000_000_000);
            // Armed before the first renewal is sent.
            let (mut now, mut pinged) = (start, start);
            let mut deadline = Deadline::granted(start, &timing);
            for (between, pause, renewed) in checks {
                now = now.plus(Duration::from_millis(between));
                if now >= pinged.plus(granted) {
                    break;
                }
                if renewed {
                    deadline = deadline.raised(Deadline::granted(now, &timing));
                }
                if WatchdogTiming::may_ping(granted, pinged, deadline) {
                    let lands = now.plus(Duration::from_millis(pause));
                    if lands >= pinged.plus(granted) {
                        break;
                    }
                    (now, pinged) = (lands, lands);
                }
            }
            let fires = pinged.plus(granted).plus(WatchdogTiming::RESET);
            prop_assert!(fires <= deadline.instant(), "{:?} late", fires.since(deadline.instant()));
        }

        /// A holder that renews, an answer in two lost, keeps its device fed.
        #[test]
        fn a_healthy_holder_is_not_reset(ttl in 12u64..90, lost_every in 3u64..9) {
            let timing = LeaseTiming {
                renew_every: Duration::from_secs(ttl) / 6,
                call_timeout: Duration::from_secs(ttl) / 7,
                ..lease(ttl)
            };
            // The longest: a shorter one is pinged between renewals too.
            let strict = Some(WatchdogTiming::STRICT);
            let watchdog = WatchdogTiming::of(&timing, strict).expect("long enough");
            let granted = Duration::from_secs(u64::from(watchdog.timeout_s));
            let mut sent = BootTime::from_nanos(0);
            let mut pinged = sent;
            let mut deadline = Deadline::granted(sent, &timing);
            for renewal in 1..50u64 {
                let answered = sent.plus(timing.call_timeout);
                if renewal % lost_every != 0 {
                    deadline = deadline.raised(Deadline::granted(sent, &timing));
                }
                if WatchdogTiming::may_ping(granted, pinged, deadline) {
                    prop_assert!(answered < pinged.plus(granted), "reset at renewal {renewal}");
                    pinged = answered;
                }
                sent = answered.max(sent.plus(timing.renew_every));
            }
            prop_assert!(sent.since(pinged) <= granted);
        }
    }
}
