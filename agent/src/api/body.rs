//! The bodies of `/patroni`, `/cluster` and `/history` (spec/patroni-compat.md 2.3, 2.4).

use regent_proto::lsn::Lsn;
use serde_json::{Value, json};

use crate::act::publish::{self, PATRONI_VERSION, Picture};
use crate::config::Config;
use crate::decide::slots::{Told, kept};
use crate::decide::upstream;
use crate::decide::view::{DataDirectory, Member, SiteView, Status, WatchdogState};
use crate::observe::clock::boot_time;

/// `GET /patroni`, and the body of every health check.
pub(super) fn patroni(config: &Config, picture: &Picture) -> Value {
    let view = &picture.view;
    let mut body = json!({
        "state": publish::state(view),
        "role": publish::role(picture, &config.name),
        "patroni": {
            "version": PATRONI_VERSION, "scope": config.scope.as_str(), "name": config.name.as_str(),
        },
    });
    if let Some(started) = &picture.extra.started {
        body["postmaster_start_time"] = json!(started.replace('T', " "));
    }
    if let Some(status) = &view.postgres.status {
        body["server_version"] = json!(status.server_version);
        body["timeline"] = json!(status.ancestry.timeline.0);
        body["xlog"] = if status.in_recovery {
            json!({
                "received_location": status.end.get(), "replayed_location": status.replayed.get(),
                "replayed_timestamp": picture.extra.replayed_at, "paused": picture.extra.replay_paused,
            })
        } else {
            json!({"location": status.end.get()})
        };
        if let Some(state) = publish::replication_state(status) {
            body["replication_state"] = json!(state);
        }
    }
    if !picture.extra.replication.is_empty() {
        body["replication"] = json!(picture.extra.replication);
    }
    if let DataDirectory::Cluster(control) = &view.postgres.data {
        body["database_system_identifier"] = json!(control.system_identifier.to_string());
    }
    if let Some(site) = &view.site {
        if let Some(flag) = publish::of_sync(picture, &config.name) {
            body[flag] = json!(true);
        }
        if site.leader.is_none() {
            body["cluster_unlocked"] = json!(true);
        }
    }
    if let Some(reason) = publish::pending_restart_reason(view) {
        body["pending_restart"] = json!(true);
        body["pending_restart_reason"] = reason;
    }
    let watchdog = &view.guardian.watchdog;
    if watchdog.required && watchdog.state == WatchdogState::Failed {
        body["watchdog_failed"] = json!(true);
    }
    if picture.dynamic.pause {
        body["pause"] = json!(true);
    }
    let tags = publish::tags(config, picture);
    if !tags.is_empty() {
        body["tags"] = json!(tags);
    }
    if let Some(scheduled) = &picture.scheduled_restart {
        body["scheduled_restart"] = publish::scheduled_restart(scheduled);
    }
    // Ours, beside Patroni's fields: why the node does what it does.
    let mut regent = json!({"version": env!("CARGO_PKG_VERSION"), "reason": picture.reason});
    if let Some(status) = &view.postgres.status {
        // Whoever races for the leader key compares histories by it.
        regent["ancestry"] = json!(status.ancestry);
    }
    if !picture.warnings.is_empty() {
        regent["warnings"] = json!(picture.warnings);
    }
    if picture.suspended {
        regent["fence"] = json!(publish::NOT_FENCED);
    }
    if let Some(progress) = &picture.progress {
        regent["progress"] = json!(progress);
    }
    // A voter's position counts as of then. Rounded up, or it would count too early.
    if let Some(asked) = picture.extra.end_asked {
        let age = u64::try_from(boot_time().since(asked).as_millis()).unwrap_or(u64::MAX);
        regent["end_asked_ms_ago"] = json!(age.saturating_add(1));
    }
    if let Some(status) = view.postgres.status.as_ref().filter(|s| !s.slots.is_empty()) {
        regent["slots"] = slots(status, &picture.slots);
    }
    if !picture.slots.warnings.is_empty() {
        let warnings = picture.slots.warnings.iter();
        regent["slot_warnings"] =
            warnings.map(|(slot, what)| json!({"slot": slot, "warning": what})).collect();
    }
    if let Some(federation) = &view.federation {
        regent["site"] = json!(federation.site.as_str());
        if let Some(primary) = &federation.primary {
            regent["epoch"] = json!(primary.value.epoch);
            regent["primary_site"] = json!(primary.value.holder.as_str());
        }
    }
    if picture.view.failsafe.active() {
        body["failsafe_mode_is_active"] = json!(true);
    }
    body["regent"] = regent;
    body
}

/// Each slot with what it keeps of WAL, and of what budget; of a permanent logical one whether its
/// consumer could go on from here.
fn slots(status: &Status, told: &Told) -> Value {
    let shown = status.slots.iter().map(|(name, slot)| {
        let mut value = json!({
            "type": if slot.physical { "physical" } else { "logical" },
            "active": slot.active,
            "retained_bytes": kept(status, slot),
            "safe_wal_size": slot.safe_wal,
            "wal_budget": told.budgets.get(name),
            "lost": slot.is_lost(),
        });
        if let Some(usable) = told.usable.get(name) {
            value["usable"] = json!(usable);
        }
        (name.clone(), value)
    });
    Value::Object(shown.collect())
}

/// `GET /cluster`.
pub(super) fn cluster(config: &Config, picture: &Picture) -> Value {
    let mut members = Vec::new();
    if let Some(site) = &picture.view.site {
        let standby_site = upstream::is_standby_site(&picture.view);
        for (name, member) in &site.members {
            let leads = site.leader.as_ref().is_some_and(|leader| leader.name == *name);
            let role = match (leads, standby_site) {
                (true, true) => "standby_leader",
                (true, false) => "leader",
                (false, _) => publish::of_sync(picture, name).unwrap_or("replica"),
            };
            let mut value = cluster_member(name.as_str(), role, member, site, leads);
            if let Some(reason) = picture.restarts.get(name) {
                value["pending_restart"] = json!(true);
                value["pending_restart_reason"] = reason.clone();
            }
            members.push(value);
        }
    }
    let mut cluster = json!({"members": members, "scope": config.scope.as_str()});
    if picture.dynamic.pause {
        cluster["pause"] = json!(true);
    }
    let request = picture.view.site.as_ref().and_then(|site| site.failover.as_ref());
    if let Some(request) = request.map(|at| &at.value)
        && let Some(schedule) = &request.scheduled
    {
        let mut scheduled = json!({"at": schedule.text});
        for (what, name) in [("from", &request.leader), ("to", &request.candidate)] {
            if let Some(name) = name {
                scheduled[what] = json!(name.as_str());
            }
        }
        cluster["scheduled_switchover"] = scheduled;
    }
    cluster
}

fn cluster_member(name: &str, role: &str, member: &Member, site: &SiteView, leads: bool) -> Value {
    let state = if member.state == "running" && member.streaming {
        "streaming"
    } else {
        member.state.as_str()
    };
    let mut value = json!({
        "name": name, "role": role, "state": state, "api_url": member.api_url,
        "host": member.host, "port": member.port,
    });
    if let Some(timeline) = member.timeline {
        value["timeline"] = json!(timeline.0);
    }
    if leads {
        return value;
    }
    match member.position {
        Some(at) => {
            let lag = site.optime.map_or(0, |optime: Lsn| optime.bytes_since(at));
            value["lsn"] = json!(at.to_string());
            value["lag"] = json!(lag);
            for name in ["receive", "replay"] {
                value[format!("{name}_lsn")] = json!(at.to_string());
                value[format!("{name}_lag")] = json!(lag);
            }
        }
        None => {
            for name in ["lsn", "lag", "receive_lsn", "receive_lag", "replay_lsn", "replay_lag"] {
                value[name] = json!("unknown");
            }
        }
    }
    value
}

/// `GET /history`.
pub(super) fn history(picture: &Picture) -> Value {
    let ancestry = picture.view.site.as_ref().and_then(|site| site.ancestry.as_ref());
    let lines = ancestry.map(|a| a.switches.as_slice()).unwrap_or_default();
    lines
        .iter()
        .map(|s| json!([s.timeline.0, s.end.get(), "no recovery target specified"]))
        .collect()
}
