//! Checks of the servers: same database, compatible history, room, reach, and protection.

use std::collections::BTreeSet;

use regent_proto::name::SiteName;
use regent_proto::record::{Reach, Report};
use regent_proto::timeline::Following;
use regent_proto::topology::Size;

use super::super::tree;
use super::{Finding, Preflight, lag_bytes, unknown};

/// Settings in which a standby must not be smaller than the primary whose WAL it replays
/// (PostgreSQL manual, "Hot Standby: Administrator's Overview").
const SETTINGS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

pub(super) fn system_identifier_equal(at: &Preflight<'_>) -> Finding {
    let wanted = "the same system identifier in both sites";
    let (from, to) = match at.both(wanted) {
        Ok(both) => both,
        Err(unknown) => return unknown,
    };
    let shown = |report: &Report| {
        report.system_identifier.map_or_else(|| "unknown".to_owned(), |id| id.to_string())
    };
    let saw = format!("{} {}, {} {}", from.site, shown(from), to.site, shown(to));
    let recorded = at.primary.value.system_identifier;
    let equal = from.system_identifier.is_some()
        && from.system_identifier == to.system_identifier
        && recorded.is_none_or(|id| Some(id) == from.system_identifier);
    if equal {
        Finding::pass(saw, wanted)
    } else {
        let next = format!("{} holds another database: make it anew from {}", to.site, from.site);
        Finding::block(saw, wanted, next)
    }
}

pub(super) fn timeline_compatible(at: &Preflight<'_>) -> Finding {
    let wanted = format!("{}'s history lies on {}'s", at.to(), at.from());
    let (from, to) = match at.both(&wanted) {
        Ok(both) => both,
        Err(unknown) => return unknown,
    };
    let next = format!("wait until {} streams; else rewind or rebuild it", at.to());
    let (Some(upstream), Some(own), Some(end)) = (&from.ancestry, &to.ancestry, to.position) else {
        let missing = if from.ancestry.is_none() { at.from() } else { at.to() };
        return Finding::block(format!("{missing} does not report its history"), wanted, next);
    };
    let saw = format!(
        "{} on timeline {}, {} on timeline {} at {end}",
        at.from(),
        upstream.timeline,
        at.to(),
        own.timeline
    );
    if at.from() == at.to() {
        return Finding::pass(saw, wanted);
    }
    let other = "pg_rewind cannot see that";
    match own.following(end, upstream) {
        Following::Streams => Finding::pass(saw, wanted),
        Following::Rewinds => Finding::block(saw, wanted, next),
        Following::Copies => {
            Finding::block(format!("{saw}, of another promotion ({other})"), wanted, next)
        }
        Following::Unknown => {
            let saw = format!("{saw}; whether that is the same history cannot be told");
            let next = format!("wait until {} streams and has read the promotion's id", at.to());
            Finding::block(saw, wanted, next)
        }
    }
}

pub(super) fn lag(at: &Preflight<'_>) -> Finding {
    let limit = at.topology.value.topology.policy.switchover_max_lag;
    let wanted = format!("at most {}", String::from(limit));
    if let Err(unknown) = at.both(&wanted) {
        return unknown;
    }
    let next = format!(
        "wait until {} has caught up, or raise policy.switchover_max_lag in the topology",
        at.to()
    );
    match lag_bytes(at.view, at.from(), at.to()) {
        Some(bytes) if bytes <= limit.0 => {
            Finding::pass(format!("{} lags {}", at.to(), rounded(bytes)), wanted)
        }
        Some(bytes) => Finding::block(format!("{} lags {}", at.to(), rounded(bytes)), wanted, next),
        None => Finding::block(format!("the lag of {} is not known", at.to()), wanted, next),
    }
}

/// A size that a person can read at a glance.
pub(in crate::decide) fn rounded(bytes: u64) -> String {
    let unit = [1u64 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 10 * unit);
    String::from(Size(unit.map_or(bytes, |unit| bytes / unit * unit)))
}

pub(super) fn settings_sufficient(at: &Preflight<'_>) -> Finding {
    let wanted = format!("{}'s settings at least {}'s", at.to(), at.from());
    let (from, to) = match at.both(&wanted) {
        Ok(both) => both,
        Err(unknown) => return unknown,
    };
    let mut short = Vec::new();
    for name in SETTINGS {
        match (from.settings.get(name), to.settings.get(name)) {
            (Some(have), Some(get)) if get >= have => {}
            (Some(have), Some(get)) => short.push(format!("{name} {get} instead of {have}")),
            (None, _) => short.push(format!("{name} not reported by {}", at.from())),
            (_, None) => short.push(format!("{name} not reported by {}", at.to())),
        }
    }
    if short.is_empty() {
        Finding::pass(format!("{} settings compared", SETTINGS.len()), wanted)
    } else {
        let next = format!("raise them in the configuration of {} and restart it", at.to());
        Finding::block(short.join(", "), wanted, next)
    }
}

/// Sites that will stream from B.
fn future_children(at: &Preflight<'_>) -> BTreeSet<SiteName> {
    tree::children(&at.future, at.to())
}

pub(super) fn slots_free(at: &Preflight<'_>) -> Finding {
    let children = future_children(at);
    let nodes = at.topology.value.topology.sites.iter().filter(|s| children.contains(&s.name));
    let slots: Vec<String> = nodes.flat_map(|s| &s.nodes).map(|node| node.name.slot()).collect();
    let wanted = format!("room in {} for the slots of {} node(s)", at.to(), slots.len());
    let report = match at.target_report(&wanted) {
        Ok(report) => report,
        Err(unknown) => return unknown,
    };
    let new = slots.iter().filter(|slot| !report.slots.contains(*slot)).count();
    let saw = format!("{new} to be made, {} free", report.free_slots);
    if i64::try_from(new).is_ok_and(|new| new <= report.free_slots) {
        Finding::pass(saw, wanted)
    } else {
        let next = format!("raise max_replication_slots in {} and restart it", at.to());
        Finding::block(saw, wanted, next)
    }
}

pub(super) fn senders_free(at: &Preflight<'_>) -> Finding {
    let children = future_children(at);
    let streams_already = |site: &SiteName| {
        at.report(site).and_then(|report| report.streaming_from.as_ref()) == Some(at.to())
    };
    let new = children.iter().filter(|site| !streams_already(site)).count();
    let wanted = format!("free senders in {} for {new} more site(s)", at.to());
    let report = match at.target_report(&wanted) {
        Ok(report) => report,
        Err(unknown) => return unknown,
    };
    let saw = format!("{} free", report.free_senders);
    if i64::try_from(new).is_ok_and(|new| new <= report.free_senders) {
        Finding::pass(saw, wanted)
    } else {
        let next = format!("raise max_wal_senders in {} and restart it", at.to());
        Finding::block(saw, wanted, next)
    }
}

pub(super) fn reachability(at: &Preflight<'_>) -> Finding {
    let wanted = "every site reaches its future upstream with the replication role";
    let mut reached = Vec::new();
    let mut failed = Vec::new();
    let mut silent = Vec::new();
    for (site, upstream) in &at.future {
        let Some(upstream) = upstream else { continue };
        let Some(report) = at.report(site) else {
            // A silent third site does not hold up a switchover between two others; A's and B's
            // own reports are asked for elsewhere.
            silent.push(format!("{site} does not report"));
            continue;
        };
        match report.reaches.get(upstream) {
            Some(Reach::Reached { node }) => reached.push(format!("{site} reaches {node}")),
            Some(Reach::Refused { problem }) => {
                failed.push(format!("{site} does not reach {upstream}: {problem}"));
            }
            None => failed.push(format!("{site} has not tried {upstream}")),
        }
    }
    let next = "open the way and the replication role's access (pg_hba.conf) there";
    match (failed.is_empty(), silent.is_empty()) {
        (true, true) => Finding::pass(reached.join(", "), wanted),
        (true, false) => Finding::warn(silent.join(", "), wanted, next),
        (false, _) => {
            failed.extend(silent);
            Finding::block(failed.join("; "), wanted, next)
        }
    }
}

pub(super) fn rewind_possible(at: &Preflight<'_>) -> Finding {
    let from = at.from();
    let wanted = format!("{from} can be rewound should it come to that");
    let Some(report) = at.report(from) else { return unknown(from, &wanted) };
    let on = |name: &str| report.settings.get(name) == Some(&1);
    let hints = on("wal_log_hints") || on("data_checksums");
    let saw = format!(
        "{from}: use_pg_rewind {}, wal_log_hints or data checksums {}",
        if on("use_pg_rewind") { "on" } else { "off" },
        if hints { "on" } else { "off" }
    );
    if hints && on("use_pg_rewind") {
        Finding::pass(saw, wanted)
    } else {
        Finding::warn(
            saw,
            wanted,
            "a clean switchover needs no rewind; without it a diverged site is copied anew",
        )
    }
}

pub(super) fn synchronous_standby(at: &Preflight<'_>) -> Finding {
    let to = at.to();
    let wanted = format!("{to} opens with a confirmed synchronous standby");
    if !at.target.synchronous {
        return Finding::pass(format!("{to} is not synchronous in the topology"), wanted);
    }
    let report = match at.target_report(&wanted) {
        Ok(report) => report,
        Err(unknown) => return unknown,
    };
    let nodes: Vec<&str> = report.synchronous_nodes.iter().map(|node| node.as_str()).collect();
    if !nodes.is_empty() {
        Finding::pass(format!("confirmed by {}", nodes.join(", ")), wanted)
    } else if at.request.accept_unprotected {
        Finding::warn("none is confirmed", wanted, "accepted: commits wait for nobody at first")
    } else {
        let next = format!(
            "wait until a node of {to} streams from its leader, or accept that {to} opens \
             unprotected"
        );
        Finding::block("none is confirmed", wanted, next)
    }
}
