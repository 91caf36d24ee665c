//! How this node's fence stands, put together for whoever tells it: member record, site report,
//! `/patroni` and `/metrics`.

use std::time::Duration;

use regent_proto::record::{ReportedFence, Unknown};
use regent_proto::time::{BootTime, Deadline};

use super::publish::Picture;
use crate::config::Config;
use crate::decide::guardian::WatchdogState;
use crate::decide::margins::{self, CallBounds};
use crate::decide::view::Process;
use crate::fence::Deadlines;

/// Round trips of renewals, as they were at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundTrips {
    /// Of the leader key's lease.
    pub site: Option<Duration>,
    /// Of the primary lease.
    pub primary: Option<Duration>,
}

impl RoundTrips {
    /// The last ones.
    #[must_use]
    pub fn last(deadlines: &Deadlines) -> Self {
        let measured = deadlines.measured();
        Self { site: measured.site_round_trip.last(), primary: measured.primary_round_trip.last() }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Rounded up: what was measured is never 0, which means that it was not.
fn millis_up(span: Duration) -> u64 {
    u64::try_from(span.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// `None` where nothing was ever measured.
fn measured(span: Duration) -> Option<u64> {
    (!span.is_zero()).then(|| millis(span))
}

/// The fence at `now`, with these rights.
#[must_use]
pub fn fence(
    config: &Config,
    picture: &Picture,
    writing: Deadline,
    round_trips: RoundTrips,
    now: BootTime,
) -> ReportedFence {
    let guardian = &picture.view.guardian;
    let watchdog = match guardian.watchdog.state {
        WatchdogState::Off => "off".to_owned(),
        WatchdogState::Armed => "armed".to_owned(),
        WatchdogState::Failed => format!("failed: {}", guardian.watchdog.problem),
        WatchdogState::Disarmed => "disarmed".to_owned(),
    };
    let mut fence = ReportedFence {
        deadline_left_ms: millis(writing.left(now)),
        site_round_trip_ms: round_trips.site.map(millis_up),
        primary_round_trip_ms: round_trips.primary.map(millis_up),
        worst_stop_ms: measured(guardian.worst_stop),
        stop_budget_ms: millis(config.regent.stop_budget.0),
        worst_kill_ms: measured(guardian.worst_kill),
        kill_budget_ms: millis(config.regent.kill_budget.0),
        guardian: guardian.alive,
        guardian_lacks: if guardian.alive { guardian.rights.lacking() } else { Vec::new() },
        worst_wake_ms: measured(guardian.worst_wake),
        watchdog,
        frozen: guardian.frozen,
        suspended: picture.suspended,
        thin: Vec::new(),
        attention: picture.attention.clone(),
        unknown: Unknown::new(),
    };
    let runs = picture.view.postgres.process != Process::Stopped;
    fence.thin = margins::thin(&fence, call_bounds(config, picture), runs, guardian.hung);
    fence
}

fn call_bounds(config: &Config, picture: &Picture) -> CallBounds {
    let federation = picture.view.federation.as_ref();
    let primary = federation.and_then(|federation| federation.primary.as_ref());
    let primary = primary.map(|primary| config.primary_timing(primary.value.ttl_max));
    CallBounds {
        site_ms: millis(config.site_timing(&picture.dynamic).call_timeout),
        primary_ms: primary.map(|timing| millis(timing.call_timeout)),
    }
}
