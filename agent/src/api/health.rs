//! Which code a health check gets (spec/patroni-compat.md 2.2).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use regent_guardian::page::Guard;
use regent_proto::time::BootTime;

use crate::act::publish::{self, Picture};
use crate::config::Config;
use crate::decide::upstream;
use crate::decide::view::{JobKind, Process};
use crate::fence::Deadlines;
use crate::fence::guard::lead;
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
    /// As `synchronous`, while commits wait for a quorum.
    quorum: bool,
    lag_bytes: Option<u64>,
    noloadbalance: bool,
    tags: BTreeMap<String, String>,
    fresh: bool,
    paused: bool,
    /// Paused without a fence, and the DCS does not answer: Patroni then goes by the role alone.
    unfenced: bool,
}

/// What a primary needs to answer as one, each at the instant of the answer (I17). Stricter than
/// Patroni, which says 200 as soon as it holds the key, also while still promoting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
struct Writing {
    /// PostgreSQL answers, and is not in recovery.
    open: bool,
    /// It is being stopped.
    stopping: bool,
    /// Its processes are frozen until a renewal is acknowledged.
    frozen: bool,
    /// The fence has not begun: more is left until the deadline than rung 1 begins before it.
    before_fence: bool,
    /// The last round of the agent is not too old to say anything.
    fresh: bool,
}

impl Writing {
    fn is_possible(self) -> bool {
        self.is_by_role() && !self.frozen && self.before_fence
    }

    /// By its role alone, whatever its rights.
    fn is_by_role(self) -> bool {
        self.open && !self.stopping && self.fresh
    }
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
        let standby_site = upstream::is_standby_site(view);
        let optime = site.and_then(|site| site.optime);
        let fresh = now.since(view.now) <= picture.dynamic.ttl * if in_recovery { 2 } else { 1 };
        let running = view.postgres.process == Process::Running;
        let page = deadlines.page();
        let writing = Writing {
            open: running && status.is_some_and(|status| !status.in_recovery),
            // The page knows it before the next round does.
            stopping: view.job == Some(JobKind::Stop) || page.guard() == Guard::PlannedStop,
            frozen: page.frozen(),
            before_fence: before_fence(deadlines, config.regent.stop_budget.0, now),
            fresh,
        };
        // As decisions see it: only outside a federation does a pause take the fence away.
        let alone = picture.dynamic.pause && view.federation.is_none();
        // Of the picture, which `fresh` keeps young: were its own age counted, a loop that hangs would
        // look like a silent DCS.
        let silent = site.is_none_or(|site| site.age > picture.dynamic.ttl);
        Self {
            leads: named && deadlines.site().lies_ahead(now),
            writable: writing.is_possible(),
            paused: picture.dynamic.pause,
            unfenced: alone && silent && writing.is_by_role(),
            standby_site,
            running,
            replica: publish::role(picture, &config.name) == "replica",
            streaming: status.is_some_and(|status| status.receiver.is_some()),
            synchronous: publish::of_sync(picture, &config.name) == Some("sync_standby"),
            quorum: publish::of_sync(picture, &config.name) == Some("quorum_standby"),
            lag_bytes: status.zip(optime).map(|(s, optime)| optime.bytes_since(s.replayed)),
            fresh,
            noloadbalance: config.tagged.noloadbalance,
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
        self.unfenced || self.is_primary()
    }

    /// The federation's writable primary at this instant, whatever a pause allows.
    pub(super) fn is_primary(&self) -> bool {
        self.leads && !self.standby_site && self.writable
    }

    /// Reads may go here: it follows, as a replica or as the leader of a standby site.
    pub(super) fn reads(&self) -> bool {
        let follows = self.replica || self.standby_leader();
        follows && self.runs() && !self.noloadbalance
    }

    fn standby_leader(&self) -> bool {
        self.leads && self.standby_site && self.runs() && !self.writable
    }

    /// Patroni asks PostgreSQL at the request. A round that is too old says nothing of it any more.
    fn runs(&self) -> bool {
        self.running && self.fresh
    }

    fn replica(&self, query: &BTreeMap<String, String>) -> bool {
        self.replica && self.runs() && !self.noloadbalance && !lags(query, self.lag_bytes)
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
            (self.runs(), true)
        } else if has("read-only-sync") {
            (leader() || (self.synchronous && self.replica(query)), true)
        } else if has("read-only-quorum") {
            (leader() || (self.quorum && self.replica(query)), true)
        } else if path == "quorum" {
            (self.quorum && self.replica(query), true)
        } else if path == "async" || path == "asynchronous" {
            (!self.synchronous && !self.quorum && self.replica(query), true)
        } else if path == "sync" || path == "synchronous" {
            (self.synchronous && self.replica(query), true)
        } else {
            (false, false)
        };
        code(ok && (!tags_count || self.tags_match(query)))
    }

    /// Whether the last round is younger than the TTL, or twice that on a standby, as in Patroni.
    pub(super) fn liveness(&self) -> StatusCode {
        code(self.fresh || self.paused)
    }

    pub(super) fn readiness(&self, query: &BTreeMap<String, String>) -> StatusCode {
        if self.leads {
            return code(self.runs());
        }
        let most = query.get("lag").and_then(|text| bytes(text)).unwrap_or(1 << 20);
        let near = self.lag_bytes.is_some_and(|lag| lag <= most);
        code(self.runs() && self.streaming && near)
    }
}

/// Whether rung 1 has not begun for what this life holds; beside a watchdog it begins earlier.
fn before_fence(deadlines: &Deadlines, stop_budget: Duration, now: BootTime) -> bool {
    now < deadlines.held().instant().minus(lead(deadlines.page(), stop_budget))
}

/// Whether it is further behind than `?lag` allows; whose lag is not known is.
pub(super) fn lags(query: &BTreeMap<String, String>, lag_bytes: Option<u64>) -> bool {
    let most = query.get("lag").and_then(|text| bytes(text));
    most.is_some_and(|most| lag_bytes.is_none_or(|lag| lag > most))
}

pub(super) fn code(ok: bool) -> StatusCode {
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
    use regent_guardian::page::{Page, Side, WatchdogState};
    use regent_proto::time::Deadline;

    fn nothing() -> Facts {
        Facts {
            leads: false,
            writable: false,
            standby_site: false,
            running: true,
            replica: false,
            streaming: false,
            synchronous: false,
            quorum: false,
            lag_bytes: Some(0),
            noloadbalance: false,
            tags: BTreeMap::from([("zone".to_owned(), "b".to_owned())]),
            fresh: true,
            paused: false,
            unfenced: false,
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
        let quorum = Facts { quorum: true, ..replica.clone() };
        for (path, by_primary, by_leader, by_replica, by_synchronous, by_quorum) in [
            ("", true, false, false, false, false),
            ("primary", true, false, false, false, false),
            ("master", true, false, false, false, false),
            ("read-write", true, false, false, false, false),
            ("leader", true, true, false, false, false),
            ("standby-leader", false, true, false, false, false),
            ("standby_leader", false, true, false, false, false),
            ("replica", false, false, true, true, true),
            ("read-only", true, true, true, true, true),
            ("health", true, true, true, true, true),
            ("sync", false, false, false, true, false),
            ("quorum", false, false, false, false, true),
            ("async", false, false, true, false, false),
            ("read-only-sync", true, true, false, true, false),
            ("read-only-quorum", true, true, false, false, true),
            ("nonsense", false, false, false, false, false),
        ] {
            let wanted = [by_primary, by_leader, by_replica, by_synchronous, by_quorum];
            let all = [&primary, &leader, &replica, &synchronous, &quorum];
            let seen = all.map(|f| ok(f, path, &[]));
            assert_eq!(seen, wanted, "/{path}");
        }
    }

    #[test]
    fn no_pause_makes_a_primary_of_the_federation() {
        let unfenced = Facts { unfenced: true, paused: true, ..nothing() };
        assert!(unfenced.primary() && !unfenced.is_primary());
        let primary = Facts { leads: true, writable: true, ..nothing() };
        assert!(primary.is_primary() && !primary.reads());
        let leader = Facts { leads: true, standby_site: true, ..nothing() };
        let replica = Facts { replica: true, ..nothing() };
        for reads in [leader, replica] {
            assert!(reads.reads() && !reads.is_primary(), "{reads:?}");
            assert!(!Facts { noloadbalance: true, ..reads.clone() }.reads());
            assert!(!Facts { fresh: false, ..reads }.reads());
        }
    }

    #[test]
    fn each_of_what_a_primary_needs_alone_makes_it_no_primary() {
        let all =
            Writing { open: true, stopping: false, frozen: false, before_fence: true, fresh: true };
        assert!(all.is_possible());
        for not in [
            Writing { open: false, ..all },
            Writing { stopping: true, ..all },
            Writing { frozen: true, ..all },
            Writing { before_fence: false, ..all },
            Writing { fresh: false, ..all },
        ] {
            assert!(!not.is_possible(), "{not:?}");
        }
    }

    #[test]
    fn beside_a_watchdog_the_fence_begins_earlier_and_so_does_503() {
        let at = |millis: u64| BootTime::from_nanos(millis * 1_000_000);
        let deadlines = Deadlines::new(Page::create().expect("a page"), false);
        let budget = Duration::from_secs(5);
        deadlines.page().set_site_deadline(Deadline::at(at(30_000)));
        assert!(before_fence(&deadlines, budget, at(24_999)));
        assert!(!before_fence(&deadlines, budget, at(25_000)));
        // max(G, W + R + G/2) = 5 + 1 + 2.5 s.
        deadlines.page().enter(Side::Guardian);
        deadlines.page().set_watchdog_granted_s(5);
        deadlines.page().set_watchdog_state(WatchdogState::Armed);
        assert!(before_fence(&deadlines, budget, at(21_499)));
        assert!(!before_fence(&deadlines, budget, at(21_500)), "rung 1 stops PostgreSQL by now");
    }

    #[test]
    fn a_paused_cluster_that_lost_its_dcs_goes_by_the_role_alone() {
        let unfenced = Facts { unfenced: true, paused: true, ..nothing() };
        assert!(ok(&unfenced, "primary", &[]) && ok(&unfenced, "leader", &[]));
        assert!(!ok(&unfenced, "replica", &[]));
        // Its rights are nobody's concern, that it is open is.
        let open =
            Writing { open: true, stopping: false, frozen: true, before_fence: false, fresh: true };
        assert!(open.is_by_role() && !open.is_possible());
        for not in [
            Writing { open: false, ..open },
            Writing { stopping: true, ..open },
            Writing { fresh: false, ..open },
        ] {
            assert!(!not.is_by_role(), "{not:?}");
        }
    }

    #[test]
    fn a_round_that_is_too_old_says_of_no_server_that_it_runs() {
        let none = BTreeMap::new();
        let leader = Facts { leads: true, standby_site: true, ..nothing() };
        let replica =
            Facts { replica: true, streaming: true, synchronous: true, quorum: true, ..nothing() };
        for (facts, paths) in [
            (leader, &["leader", "standby-leader", "read-only", "health"][..]),
            (replica, &["replica", "read-only", "sync", "quorum", "read-only-sync", "health"][..]),
        ] {
            let old = Facts { fresh: false, ..facts.clone() };
            for path in paths {
                assert!(ok(&facts, path, &[]) && !ok(&old, path, &[]), "/{path}");
            }
            assert_eq!(facts.readiness(&none), StatusCode::OK);
            assert_eq!(old.readiness(&none), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(old.liveness(), StatusCode::SERVICE_UNAVAILABLE);
            let paused = Facts { paused: true, ..old };
            assert_eq!(paused.liveness(), StatusCode::OK, "as in Patroni");
        }
    }

    #[test]
    fn primary_needs_the_key_the_right_site_and_a_deadline_ahead() {
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
