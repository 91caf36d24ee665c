//! Which code a health check gets (spec/patroni-compat.md 2.2).

use std::collections::BTreeMap;

use axum::http::StatusCode;

use crate::act::publish::{self, Picture};
use crate::config::Config;
use crate::decide::view::Process;
use crate::fence::Deadlines;
use crate::observe::clock::boot_time;

/// What the codes depend on, at the instant of the request.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact of a health check")]
pub(super) struct Facts {
    leads: bool,
    writable: bool,
    standby_site: bool,
    running: bool,
    replica: bool,
    streaming: bool,
    synchronous: bool,
    lag_bytes: Option<u64>,
    noloadbalance: bool,
    tags: BTreeMap<String, String>,
    fresh: bool,
}

impl Facts {
    pub(super) fn new(picture: &Picture, config: &Config, deadlines: &Deadlines) -> Self {
        let view = &picture.view;
        let now = boot_time();
        let status = view.postgres.status.as_ref();
        let in_recovery = status.is_none_or(|status| status.in_recovery);
        let site = view.site.as_ref();
        let named = site
            .and_then(|site| site.leader.as_ref())
            .is_some_and(|leader| leader.name == config.name && leader.bound_to_my_lease);
        let standby_site = publish::is_standby_site(view);
        let optime = site.and_then(|site| site.optime);
        Self {
            leads: named && deadlines.site().lies_ahead(now),
            writable: !in_recovery
                && deadlines.held().lies_ahead(now)
                && !deadlines.page().frozen(),
            standby_site,
            running: view.postgres.process == Process::Running,
            replica: publish::role(picture, &config.name) == "replica",
            streaming: status.is_some_and(|status| status.receiver.is_some()),
            synchronous: site.is_some_and(|site| site.sync.standbys.contains(&config.name)),
            lag_bytes: status.zip(optime).map(|(s, optime)| optime.bytes_since(s.replayed)),
            fresh: now.since(view.now) <= picture.dynamic.ttl * if in_recovery { 2 } else { 1 },
            noloadbalance: config.tag("noloadbalance"),
            tags: config
                .tags
                .iter()
                .map(|(name, value)| {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (name.clone(), text)
                })
                .collect(),
        }
    }

    fn primary(&self) -> bool {
        // Stricter than Patroni, which says 200 while still promoting: writable *now*.
        self.leads && !self.standby_site && self.writable
    }

    fn standby_leader(&self) -> bool {
        self.leads && self.standby_site && self.running && !self.writable
    }

    fn replica(&self, query: &BTreeMap<String, String>) -> bool {
        let lagging = query
            .get("lag")
            .and_then(|text| bytes(text))
            .is_some_and(|most| self.lag_bytes.is_none_or(|lag| lag > most));
        self.replica && self.running && !self.noloadbalance && !lagging
    }

    fn tags_match(&self, query: &BTreeMap<String, String>) -> bool {
        query.iter().filter_map(|(name, value)| Some((name.strip_prefix("tag_")?, value))).all(
            |(name, value)| {
                self.tags.get(name).is_some_and(|tag| tag == value || tag == &value.to_lowercase())
            },
        )
    }

    /// The code for a path; first match wins, as in Patroni.
    pub(super) fn health(&self, path: &str, query: &BTreeMap<String, String>) -> StatusCode {
        let path = path.to_lowercase();
        let has = |word: &str| path.contains(word);
        let leader = || self.primary() || self.standby_leader();
        let (ok, tags_count) = if has("standby_leader") || has("standby-leader") {
            (self.standby_leader(), false)
        } else if has("leader") {
            (leader(), false)
        } else if path.is_empty() || has("master") || has("primary") || has("read-write") {
            (self.primary(), false)
        } else if has("replica") {
            (self.replica(query), true)
        } else if has("read-only") && !has("sync") && !has("quorum") {
            (leader() || self.replica(query), true)
        } else if has("health") {
            (self.running, true)
        } else if has("read-only-sync") {
            (leader() || (self.synchronous && self.replica(query)), true)
        } else if path == "async" || path == "asynchronous" {
            (!self.synchronous && self.replica(query), true)
        } else if path == "sync" || path == "synchronous" {
            (self.synchronous && self.replica(query), true)
        } else {
            (false, false)
        };
        code(ok && (!tags_count || self.tags_match(query)))
    }

    /// Whether the last round is younger than the TTL, or twice that on a standby, as in Patroni.
    pub(super) fn liveness(&self) -> StatusCode {
        code(self.fresh)
    }

    pub(super) fn readiness(&self, query: &BTreeMap<String, String>) -> StatusCode {
        if self.leads {
            return code(self.running);
        }
        let most = query.get("lag").and_then(|text| bytes(text)).unwrap_or(1 << 20);
        let near = self.lag_bytes.is_some_and(|lag| lag <= most);
        code(self.running && self.streaming && near)
    }
}

fn code(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `16MB` and the like; a bad value is "unlimited", as in Patroni.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) =
        [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)]
            .into_iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
            .unwrap_or((text, 1));
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Facts {
        Facts {
            leads: false,
            writable: false,
            standby_site: false,
            running: true,
            replica: false,
            streaming: false,
            synchronous: false,
            lag_bytes: Some(0),
            noloadbalance: false,
            tags: BTreeMap::from([("zone".to_owned(), "b".to_owned())]),
            fresh: true,
        }
    }

    fn ok(facts: &Facts, path: &str, query: &[(&str, &str)]) -> bool {
        let query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        facts.health(path, &query) == StatusCode::OK
    }

    #[test]
    fn each_role_answers_on_its_own_paths() {
        let primary = Facts { leads: true, writable: true, ..nothing() };
        let leader = Facts { leads: true, standby_site: true, ..nothing() };
        let replica = Facts { replica: true, streaming: true, ..nothing() };
        let synchronous = Facts { synchronous: true, ..replica.clone() };
        for (path, by_primary, by_leader, by_replica, by_synchronous) in [
            ("", true, false, false, false),
            ("primary", true, false, false, false),
            ("master", true, false, false, false),
            ("read-write", true, false, false, false),
            ("leader", true, true, false, false),
            ("standby-leader", false, true, false, false),
            ("standby_leader", false, true, false, false),
            ("replica", false, false, true, true),
            ("read-only", true, true, true, true),
            ("health", true, true, true, true),
            ("sync", false, false, false, true),
            ("async", false, false, true, false),
            ("read-only-sync", true, true, false, true),
            ("nonsense", false, false, false, false),
        ] {
            let wanted = [by_primary, by_leader, by_replica, by_synchronous];
            let seen = [&primary, &leader, &replica, &synchronous].map(|f| ok(f, path, &[]));
            assert_eq!(seen, wanted, "/{path}");
        }
    }

    #[test]
    fn primary_needs_the_key_the_right_site_and_a_deadline_ahead() {
        // `writable` already contains the writing deadline, read at the instant of the request.
        let primary = Facts { leads: true, writable: true, ..nothing() };
        for not in [
            Facts { leads: false, ..primary.clone() },
            Facts { writable: false, ..primary.clone() },
            Facts { standby_site: true, ..primary.clone() },
        ] {
            assert!(!ok(&not, "primary", &[]), "{not:?}");
        }
        assert!(ok(&primary, "primary", &[("tag_zone", "a")]), "tags do not count for a primary");
    }

    #[test]
    fn a_replica_is_filtered_by_lag_and_tags() {
        let replica = Facts { replica: true, lag_bytes: Some(2 << 20), ..nothing() };
        assert!(ok(&replica, "replica", &[("lag", "2MB")]));
        assert!(!ok(&replica, "replica", &[("lag", "1MB")]));
        assert!(
            ok(&replica, "replica", &[("lag", "soon")]),
            "a bad value is no limit, as in Patroni"
        );
        assert!(!ok(&Facts { lag_bytes: None, ..replica.clone() }, "replica", &[("lag", "1GB")]));
        assert!(ok(&replica, "replica", &[("tag_zone", "b")]));
        assert!(!ok(&replica, "replica", &[("tag_zone", "a")]));
        assert!(!ok(&Facts { noloadbalance: true, ..replica }, "replica", &[]));
    }
}
