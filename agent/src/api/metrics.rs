//! `GET /metrics`: Patroni's metrics by their names and types (spec/patroni-compat.md 2.7), then ours
//! with the prefix `regent_`. Text for Prometheus, from the last picture, the deadline and the round
//! trips as they are at the instant of the answer.

use std::fmt::Write as _;

use regent_proto::record::ReportedFence;

use crate::act::publish::{self, PATRONI_VERSION, Picture};
use crate::config::Config;
use crate::decide::slots::kept;
use crate::decide::view::{GuardianRights, Process, Slot};

/// Prometheus' types.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

struct Text {
    labels: String,
    text: String,
}

impl Text {
    fn sample(&mut self, kind: Kind, name: &str, help: &str, value: f64) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let labels = &self.labels;
        // Writing to a string cannot fail.
        write!(
            self.text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}\n"
        )
        .ok();
    }

    /// A gauge with a value for each slot.
    fn slots(&mut self, name: &str, help: &str, values: Vec<(String, f64)>) {
        if values.is_empty() {
            return;
        }
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge\n").ok();
        for (slot, value) in values {
            let labels = &self.labels;
            writeln!(self.text, "{name}{{{labels},slot=\"{slot}\"}} {value}").ok();
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.sample(Kind::Gauge, name, help, value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, f64::from(u8::from(value)));
    }
}

/// Patroni's states, by number (spec 2.3).
const STATES: [&str; 15] = [
    "initializing new cluster",
    "initdb failed",
    "running custom bootstrap script",
    "custom bootstrap failed",
    "creating replica",
    "running",
    "starting",
    "starting after custom bootstrap",
    "start failed",
    "restarting",
    "restart failed",
    "stopping",
    "stopped",
    "stop failed",
    "crashed",
];

/// The whole answer.
pub(super) fn text(config: &Config, picture: &Picture, fence: &ReportedFence) -> String {
    // Names are checked where they are read: neither a quote nor a backslash can be in them.
    let labels = format!("scope=\"{}\",name=\"{}\"", config.scope, config.name);
    let mut out = Text { labels, text: String::new() };
    patroni(&mut out, config, picture);
    ours(&mut out, picture, fence);
    slots(&mut out, picture);
    out.text
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows floats only, as does Patroni")]
fn count(value: u64) -> f64 {
    value as f64
}

fn patroni(out: &mut Text, config: &Config, picture: &Picture) {
    let view = &picture.view;
    let status = view.postgres.status.as_ref();
    let role = publish::role(picture, &config.name);
    let site = view.site.as_ref();
    let version = PATRONI_VERSION
        .split('.')
        .filter_map(|part| part.parse::<u32>().ok())
        .fold(0, |all, part| all * 100 + part);
    let (primary, standby) = match status {
        Some(status) if status.in_recovery => (None, Some(status)),
        Some(status) => (Some(status), None),
        None => (None, None),
    };
    out.gauge("patroni_version", "Patroni semver without periods.", f64::from(version));
    let running = view.postgres.process == Process::Running;
    out.flag("patroni_postgres_running", "Value is 1 if Postgres is running.", running);
    let started = picture.extra.started.as_deref().and_then(seconds).unwrap_or(0.0);
    out.gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", started);
    out.flag("patroni_primary", "Value is 1 if this node is the leader.", role == "primary");
    let end = |status: Option<&crate::decide::view::Status>| {
        status.map_or(0.0, |status| count(status.end.get()))
    };
    out.sample(
        Kind::Counter,
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        end(primary),
    );
    let leads_standby = role == "standby_leader";
    out.flag(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader.",
        leads_standby,
    );
    out.flag("patroni_replica", "Value is 1 if this node is a replica.", role == "replica");
    let of_sync = publish::of_sync(picture, &config.name);
    let synchronous = of_sync == Some("sync_standby");
    let quorum = of_sync == Some("quorum_standby");
    out.flag("patroni_sync_standby", "Value is 1 if this node is a sync standby.", synchronous);
    out.flag("patroni_quorum_standby", "Value is 1 if this node is a quorum standby.", quorum);
    out.sample(
        Kind::Counter,
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is the leader.",
        end(standby),
    );
    out.sample(
        Kind::Counter,
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is the leader.",
        standby.map_or(0.0, |status| count(status.replayed.get())),
    );
    let replayed = picture.extra.replayed_at.as_deref().filter(|_| standby.is_some());
    out.gauge(
        "patroni_xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        replayed.and_then(seconds).unwrap_or(0.0),
    );
    let still = standby.is_some() && picture.extra.replay_paused;
    out.flag("patroni_xlog_paused", "Value is 1 if the Postgres xlog is paused.", still);
    if let Some(status) = status {
        let state = publish::replication_state(status);
        let streaming = state == Some("streaming");
        out.flag("patroni_postgres_streaming", "Value is 1 if Postgres is streaming.", streaming);
        let archive = state == Some("in archive recovery");
        out.flag(
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive.",
            archive,
        );
    }
    let server = status.map_or(0, |status| status.server_version);
    out.gauge(
        "patroni_postgres_server_version",
        "Version of Postgres (if running).",
        server.into(),
    );
    let unlocked = site.is_none_or(|site| site.leader.is_none());
    out.flag("patroni_cluster_unlocked", "Value is 1 if the cluster is unlocked.", unlocked);
    let active = picture.view.failsafe.active();
    out.flag("patroni_failsafe_mode_is_active", "Value is 1 if failsafe mode is active.", active);
    let timeline = status.map_or(0, |status| status.ancestry.timeline.0);
    out.gauge("patroni_postgres_timeline", "Postgres timeline of this node.", timeline.into());
    out.gauge(
        "patroni_dcs_last_seen",
        "Epoch timestamp when DCS was last contacted successfully.",
        count(picture.dcs_seen.0) / 1000.0,
    );
    let waits = !view.postgres.configuration.pending_restart.is_empty();
    out.flag("patroni_pending_restart", "Value is 1 if the node needs a restart.", waits);
    let paused = picture.dynamic.pause;
    out.flag("patroni_is_paused", "Value is 1 if auto failover is disabled.", paused);
    let state = publish::state(view);
    let number = STATES.iter().position(|word| *word == state);
    let number = number.and_then(|at| u32::try_from(at).ok()).map_or(-1.0, f64::from);
    let values: Vec<String> =
        STATES.iter().enumerate().map(|(at, word)| format!("{at}={word}")).collect();
    writeln!(out.text, "# Values: {}", values.join(", ")).ok();
    out.gauge("patroni_postgres_state", "Numeric representation of Postgres state.", number);
}

fn ours(out: &mut Text, picture: &Picture, fence: &ReportedFence) {
    let deadline = fence.deadline_left_ms;
    out.gauge(
        "regent_deadline_seconds",
        "Time until which this node may write; 0 without the right to.",
        seconds_of(Some(deadline)),
    );
    for (name, help, value) in [
        (
            "regent_site_round_trip_seconds",
            "Round trip of the last renewal of the leader key's lease.",
            fence.site_round_trip_ms,
        ),
        (
            "regent_primary_round_trip_seconds",
            "Round trip of the last renewal of the primary lease.",
            fence.primary_round_trip_ms,
        ),
        ("regent_stop_worst_seconds", "Longest stop of PostgreSQL.", fence.worst_stop_ms),
        (
            "regent_stop_budget_seconds",
            "G: the longest a stop may take.",
            Some(fence.stop_budget_ms),
        ),
        ("regent_kill_worst_seconds", "Longest kill of what was left.", fence.worst_kill_ms),
        ("regent_kill_budget_seconds", "What is kept for a kill.", Some(fence.kill_budget_ms)),
        (
            "regent_guardian_wake_worst_seconds",
            "Latest wake-up of the guardian after its instant.",
            fence.worst_wake_ms,
        ),
    ] {
        if let Some(value) = value {
            out.gauge(name, help, seconds_of(Some(value)));
        }
    }
    out.flag("regent_guardian_alive", "Value is 1 while a guardian lives.", fence.guardian);
    permitted(out, &picture.view.guardian.rights);
    out.sample(
        Kind::Counter,
        "regent_guardian_hung",
        "How many guardians hung, and were replaced, since the agent began.",
        count(picture.view.guardian.hung),
    );
    let armed = fence.watchdog == "armed";
    out.flag("regent_watchdog_armed", "Value is 1 while the watchdog is armed.", armed);
    let failed = fence.watchdog.starts_with("failed");
    out.flag("regent_watchdog_failed", "Value is 1 while the watchdog cannot be used.", failed);
    out.flag(
        "regent_frozen",
        "Value is 1 while PostgreSQL is frozen until its rights are renewed.",
        fence.frozen,
    );
    out.flag("regent_fence_suspended", "Value is 1 while NOT FENCED: PAUSED.", picture.suspended);
    out.gauge(
        "regent_thin_margins",
        "How many margins are thin; GET /regent/fence names them.",
        u32::try_from(fence.thin.len()).map_or(0.0, f64::from),
    );
}

/// One series a slot. Names of slots are lower-case letters, digits and `_`: nothing to escape.
fn slots(out: &mut Text, picture: &Picture) {
    let warnings = u32::try_from(picture.slots.warnings.len()).map_or(0.0, f64::from);
    out.gauge("regent_slot_warnings", "How many warnings of replication slots stand.", warnings);
    let Some(status) = &picture.view.postgres.status else { return };
    let told = &picture.slots;
    let kept = |name: &str, slot: &Slot| {
        let kept = kept(status, slot)?;
        Some((name.to_owned(), count(kept)))
    };
    let retained = status.slots.iter().filter_map(|(name, slot)| kept(name, slot));
    out.slots("regent_slot_retained_bytes", "WAL that a slot keeps.", retained.collect());
    let safe = status.slots.iter().filter_map(|(name, slot)| {
        let safe = u64::try_from(slot.safe_wal?.max(0)).ok()?;
        Some((name.clone(), count(safe)))
    });
    let help = "WAL that may be written before a slot may be lost, where there is a limit.";
    out.slots("regent_slot_safe_wal_bytes", help, safe.collect());
    let budgets = told.budgets.iter().map(|(name, budget)| (name.clone(), count(*budget)));
    out.slots("regent_slot_wal_budget_bytes", "WAL that a slot may keep.", budgets.collect());
    let lost = status.slots.iter();
    let lost = lost.map(|(name, slot)| (name.clone(), f64::from(u8::from(slot.is_lost()))));
    out.slots("regent_slot_lost", "Value is 1 if the WAL of a slot is gone.", lost.collect());
    let usable = told.usable.iter();
    let usable = usable.map(|(name, usable)| (name.clone(), f64::from(u8::from(*usable))));
    let help = "Value is 1 if a consumer could go on from a permanent logical slot of this node.";
    out.slots("regent_slot_usable", help, usable.collect());
}

/// What the system let the guardian have.
fn permitted(out: &mut Text, rights: &GuardianRights) {
    for (name, help, permitted) in [
        (
            "regent_guardian_memory_locked",
            "Value is 1 while a guardian lives whose memory is locked.",
            rights.memory_locked,
        ),
        (
            "regent_guardian_realtime",
            "Value is 1 while a guardian lives that has real-time priority.",
            rights.realtime,
        ),
        (
            "regent_guardian_oom_protected",
            "Value is 1 while a guardian lives that the out-of-memory killer spares.",
            rights.oom_protected,
        ),
    ] {
        out.flag(name, help, permitted);
    }
}

fn seconds_of(millis: Option<u64>) -> f64 {
    count(millis.unwrap_or(0)) / 1000.0
}

/// Epoch seconds of a time as PostgreSQL writes it in JSON: `2026-11-21T16:05:20.123456+01:00`.
fn seconds(text: &str) -> Option<f64> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = match offset.as_bytes().first()? {
        b'+' => 1.0,
        b'-' => -1.0,
        _ => return None,
    };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let ahead = hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0;
    let instant = humantime::parse_rfc3339(&format!("{}Z", local.replace(' ', "T"))).ok()?;
    let span = instant.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(span.as_secs_f64() - sign * ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offset() {
        for (text, wanted) in [
            ("1970-01-01T00:01:00.5+00:00", Some(60.5)),
            ("1970-01-01T01:01:00+01:00", Some(60.0)),
            ("1970-01-01 00:00:00-00:30", Some(1800.0)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }

    #[test]
    fn each_right_of_the_guardian_is_a_metric_of_its_own() {
        let mut out = Text { labels: String::new(), text: String::new() };
        permitted(&mut out, &GuardianRights { realtime: true, ..GuardianRights::default() });
        let told: Vec<&str> = out.text.lines().filter(|line| !line.starts_with('#')).collect();
        let wanted = [
            "regent_guardian_memory_locked{} 0",
            "regent_guardian_realtime{} 1",
            "regent_guardian_oom_protected{} 0",
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_sample_is_three_lines_that_prometheus_reads() {
        let mut out = Text { labels: "scope=\"a\",name=\"b\"".to_owned(), text: String::new() };
        out.flag("patroni_is_paused", "Paused.", true);
        let wanted = "# HELP patroni_is_paused Paused.\n# TYPE patroni_is_paused gauge\n\
                      patroni_is_paused{scope=\"a\",name=\"b\"} 1\n";
        assert_eq!(out.text, wanted);
    }
}
