//! The dynamic configuration: the site DCS's `config` key (spec/patroni-compat.md section 4).
//!
//! It outlives binaries, so unknown keys are kept in the DCS and passed over here; a value that
//! cannot be read leaves the one in force as it is and is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use super::standby_cluster::{self, StandbyCluster};
use crate::decide::slots::Rules;
use crate::decide::view::Policy;
use crate::observe::site::ConfigKey;

/// Top-level keys that are read.
pub(super) const READ: &[&str] = &[
    "ttl",
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_failover",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_node_count",
    "failsafe_mode",
    "pause",
    "postgresql",
    "member_slots_ttl",
    "slots",
    "permanent_slots",
    "permanent_replication_slots",
    "ignore_slots",
    "slot_wal_budget",
    "check_timeline",
    "maximum_lag_on_syncnode",
    "primary_start_timeout",
    "master_start_timeout",
    "max_timelines_history",
    "standby_cluster",
];

/// Patroni's keys that this version does not use yet.
pub(super) const NOT_YET: &[&str] = &["primary_stop_timeout", "master_stop_timeout"];

/// The values that decisions use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Patroni's switches, each independent")]
pub struct Dynamic {
    /// TTL of the leader key.
    pub ttl: Duration,
    /// The loop's period when nothing wakes it.
    pub loop_wait: Duration,
    /// The longest wait for one store operation.
    pub retry_timeout: Duration,
    /// A replica further behind than this does not lead, in bytes.
    pub maximum_lag_on_failover: u64,
    /// Commits wait for a synchronous standby.
    pub synchronous_mode: bool,
    /// Commits wait also when there is none.
    pub synchronous_mode_strict: bool,
    /// How many are waited for.
    pub synchronous_node_count: usize,
    /// A leader that lost the DCS goes on while every member agrees.
    pub failsafe_mode: bool,
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.parameters`.
    pub parameters: BTreeMap<String, String>,
    /// `postgresql.pg_hba`.
    pub pg_hba: Vec<String>,
    /// `pause`.
    pub pause: bool,
    /// `synchronous_mode: quorum`; then `synchronous_mode` is true as well.
    pub synchronous_quorum: bool,
    /// What is to be done with slots.
    pub slots: Rules,
    /// A node on an older timeline than the last leader's does not lead.
    pub check_timeline: bool,
    /// A replica further behind than this is not synchronous, in bytes; `None`: no limit.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// How long a leader's server may take to come up while another member could lead.
    pub primary_start_timeout: Duration,
    /// What is wrong with values that could not be read; what was in force before stays.
    pub problems: Vec<String>,
    /// `postgresql.pg_ident`.
    pub pg_ident: Vec<String>,
    /// `postgresql.recovery_conf`.
    pub recovery_conf: BTreeMap<String, String>,
    /// `postgresql.remove_data_directory_on_rewind_failure`, where it is given.
    pub remove_on_rewind_failure: Option<bool>,
    /// `postgresql.remove_data_directory_on_diverged_timelines`, where it is given.
    pub remove_on_diverged_timelines: Option<bool>,
    /// The whole document that is in force, unknown keys included: what could not be read of it is as
    /// it was before. Kept on disk, and put back where the key is lost. Null before there is one.
    pub document: Arc<serde_json::Value>,
    /// How many lines of `history` are kept; 0: all.
    pub max_timelines_history: usize,
    /// `standby_cluster`. Of a site in a federation it says nothing.
    pub standby_cluster: Option<StandbyCluster>,
}

/// Least TTL. Patroni's floor is 20 s; below it every member must be Regent, whose renewal has its
/// own thread (design.md section 3).
const TTL_FLOOR: Duration = Duration::from_secs(1);

impl Default for Dynamic {
    /// Patroni's defaults (spec/patroni-compat.md section 4).
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            maximum_lag_on_failover: 1 << 20,
            synchronous_mode: false,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            failsafe_mode: false,
            use_pg_rewind: false,
            parameters: BTreeMap::new(),
            pg_hba: Vec::new(),
            pause: false,
            synchronous_quorum: false,
            slots: Rules::default(),
            check_timeline: false,
            maximum_lag_on_syncnode: None,
            primary_start_timeout: Duration::from_secs(300),
            problems: Vec::new(),
            pg_ident: Vec::new(),
            recovery_conf: BTreeMap::new(),
            remove_on_rewind_failure: None,
            remove_on_diverged_timelines: None,
            document: Arc::new(serde_json::Value::Null),
            max_timelines_history: 0,
            standby_cluster: None,
        }
    }
}

/// The most characters of a value that a message shows.
const SHOWN: usize = 60;

/// Reads one document, collecting what is wrong with it.
pub(super) struct Reader<'a> {
    pub(super) document: &'a serde_json::Value,
    problems: Vec<String>,
    /// Keys of the values that stay as they are, from the top.
    pub(super) kept: Vec<Vec<String>>,
}

impl Reader<'_> {
    pub(super) fn refuse<T>(
        &mut self,
        key: &str,
        value: &serde_json::Value,
        wanted: &str,
        kept: T,
    ) -> T {
        let value: String = value.to_string().chars().take(SHOWN).collect();
        self.problems.push(format!("{key}: {value} is not valid: want {wanted}"));
        self.kept.push(key.split('.').map(str::to_owned).collect());
        kept
    }

    fn seconds(&mut self, key: &str, default: Duration, in_force: Duration) -> Duration {
        let Some(value) = self.document.get(key) else { return default };
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        match number.filter(|n| n.is_finite() && (0.1..=86_400.0).contains(n)) {
            Some(number) => Duration::from_secs_f64(number),
            None => self.refuse(key, value, "seconds as a number, from 0.1 to 86400", in_force),
        }
    }

    /// The first of a key and its older name that is there; zero means not at all.
    fn seconds_or_none(
        &mut self,
        keys: [&str; 2],
        default: Duration,
        in_force: Duration,
    ) -> Duration {
        let document = self.document;
        let given = keys
            .into_iter()
            .find_map(|key| Some((key, document.get(key).filter(|value| !value.is_null())?)));
        let Some((key, value)) = given else { return default };
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        match number.filter(|n| n.is_finite() && (0.0..=86_400.0).contains(n)) {
            Some(number) => Duration::from_secs_f64(number),
            None => {
                // What is in force may have come by the other name.
                self.kept.extend(keys.map(|key| vec![key.to_owned()]));
                self.refuse(key, value, "seconds as a number, from 0 to 86400", in_force)
            }
        }
    }

    fn count(&mut self, key: &str, default: u64, in_force: u64) -> u64 {
        match self.document.get(key) {
            None => default,
            Some(value) => match value.as_u64() {
                Some(number) => number,
                None => self.refuse(key, value, "a whole number", in_force),
            },
        }
    }

    /// Bytes; zero and less, Patroni's -1 among it, are no limit.
    fn limit(&mut self, key: &str, in_force: Option<u64>) -> Option<u64> {
        let value = self.document.get(key).filter(|value| !value.is_null())?;
        match value.as_i64().or_else(|| value.as_str()?.parse().ok()) {
            Some(limit) => u64::try_from(limit).ok().filter(|limit| *limit > 0),
            None => self.refuse(key, value, "a whole number of bytes, or -1", in_force),
        }
    }

    /// Whether commits wait, and whether for a quorum.
    fn synchronous_mode(&mut self, in_force: &Dynamic) -> (bool, bool) {
        let document = self.document;
        match document.get("synchronous_mode") {
            Some(serde_json::Value::String(word)) if word.to_lowercase() == "quorum" => {
                (true, true)
            }
            value => {
                let before = self.problems.len();
                let on = self.truth("synchronous_mode", value, in_force.synchronous_mode);
                // What cannot be read keeps the whole mode.
                (on, in_force.synchronous_quorum && self.problems.len() > before)
            }
        }
    }

    /// A boolean, or the words PostgreSQL takes for one.
    pub(super) fn truth(
        &mut self,
        key: &str,
        value: Option<&serde_json::Value>,
        in_force: bool,
    ) -> bool {
        let Some(value) = value.filter(|value| !value.is_null()) else { return false };
        let word = match value {
            serde_json::Value::Bool(on) => return *on,
            serde_json::Value::String(text) => text.to_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "on" | "true" | "yes" | "1" => true,
            "off" | "false" | "no" | "0" => false,
            _ => self.refuse(key, value, "on or off", in_force),
        }
    }
}

impl Dynamic {
    /// What decisions go by, of this and of the file. The simulator's nodes ask here, too.
    #[must_use]
    pub fn policy(&self, config: &Config, read: ConfigKey) -> Policy {
        Policy {
            me: config.name.clone(),
            nofailover: config.tagged.nofailover,
            // An idle loop comes round often enough not to count as one that hangs.
            loop_wait: self.loop_wait.min(Duration::from_secs(10)).min(self.ttl / 2),
            maximum_lag_on_failover: self.maximum_lag_on_failover,
            synchronous_mode: self.synchronous_mode,
            mode_is_the_sites: read == ConfigKey::Read
                && !self.problems.iter().any(|problem| problem.starts_with("synchronous_mode:")),
            synchronous_mode_strict: self.synchronous_mode_strict,
            synchronous_node_count: self.synchronous_node_count,
            use_pg_rewind: self.use_pg_rewind,
            may_bootstrap: config.bootstrap.dcs.is_some() || config.federation.is_some(),
            paused: self.pause,
            synchronous_quorum: self.synchronous_quorum,
            own_standby_names: self.own_standby_names(config),
            slots: self.slots.clone(),
            failover_priority: config.tagged.failover_priority,
            check_timeline: self.check_timeline,
            maximum_lag_on_syncnode: self.maximum_lag_on_syncnode,
            primary_start_timeout: self.primary_start_timeout,
            ttl: self.ttl,
            // Patroni's default in a site by itself; a site that comes back to its federation is
            // rebuilt where it can't rewind (design.md section 4, ADR 34).
            remove_on_rewind_failure: self
                .remove_on_rewind_failure
                .unwrap_or(config.federation.is_some()),
            remove_on_diverged_timelines: self
                .remove_on_diverged_timelines
                .unwrap_or(config.federation.is_some()),
            pre_promote: config.postgres.pre_promote.as_ref().map(|_| self.ttl),
            clones_without_leader: config.methods.needs_no_leader(),
            replicatefrom: config.tagged.replicatefrom.clone(),
            nostream: config.tagged.nostream,
        }
    }

    /// With another one's timings, in the document as well: they count together or not at all.
    #[must_use]
    pub fn with_timings_of(mut self, other: &Self) -> Self {
        (self.ttl, self.loop_wait) = (other.ttl, other.loop_wait);
        self.retry_timeout = other.retry_timeout;
        if let Some(document) = Arc::make_mut(&mut self.document).as_object_mut() {
            for key in ["ttl", "loop_wait", "retry_timeout"] {
                match other.document.get(key) {
                    Some(value) => drop(document.insert(key.to_owned(), value.clone())),
                    None => drop(document.shift_remove(key)),
                }
            }
        }
        self
    }

    /// `synchronous_standby_names` among the user's own parameters; the file's before the DCS's.
    fn own_standby_names(&self, config: &Config) -> String {
        let name = "synchronous_standby_names";
        let own = match config.postgres.parameters.get(name) {
            Some(of_the_file) => of_the_file.clone(),
            None => self.parameters.get(name).cloned(),
        };
        own.unwrap_or_default()
    }

    /// Reads a document. A key that is missing has Patroni's default; one that cannot be read
    /// keeps the value in force, so that a slip of the hand changes nothing (I21).
    #[must_use]
    pub fn read(document: &serde_json::Value, in_force: &Self) -> Self {
        let default = Self::default();
        let mut reader = Reader { document, problems: Vec::new(), kept: Vec::new() };
        let mut timing = (
            reader.seconds("ttl", default.ttl, in_force.ttl).max(TTL_FLOOR),
            reader.seconds("loop_wait", default.loop_wait, in_force.loop_wait),
            reader.seconds("retry_timeout", default.retry_timeout, in_force.retry_timeout),
        );
        if !reader.problems.is_empty() {
            // They are checked against each other: all of them or none.
            timing = (in_force.ttl, in_force.loop_wait, in_force.retry_timeout);
            let keys = ["ttl", "loop_wait", "retry_timeout"];
            reader.kept = keys.iter().map(|key| vec![(*key).to_owned()]).collect();
        }
        let (ttl, loop_wait, retry_timeout) = timing;
        let maximum_lag_on_failover = reader.count(
            "maximum_lag_on_failover",
            default.maximum_lag_on_failover,
            in_force.maximum_lag_on_failover,
        );
        let nodes_in_force = u64::try_from(in_force.synchronous_node_count).unwrap_or(1);
        let nodes = reader.count("synchronous_node_count", 1, nodes_in_force);
        let kept_in_force = u64::try_from(in_force.max_timelines_history).unwrap_or(0);
        let kept = reader.count("max_timelines_history", 0, kept_in_force);
        let (synchronous_mode, synchronous_quorum) = reader.synchronous_mode(in_force);
        let strict = document.get("synchronous_mode_strict");
        let synchronous_mode_strict =
            reader.truth("synchronous_mode_strict", strict, in_force.synchronous_mode_strict);
        let pause = reader.truth("pause", document.get("pause"), in_force.pause);
        let failsafe = document.get("failsafe_mode");
        let failsafe_mode = reader.truth("failsafe_mode", failsafe, in_force.failsafe_mode);
        let check_timeline =
            reader.truth("check_timeline", document.get("check_timeline"), in_force.check_timeline);
        let maximum_lag_on_syncnode =
            reader.limit("maximum_lag_on_syncnode", in_force.maximum_lag_on_syncnode);
        let primary_start_timeout = reader.seconds_or_none(
            ["primary_start_timeout", "master_start_timeout"],
            default.primary_start_timeout,
            in_force.primary_start_timeout,
        );
        let postgresql = document.get("postgresql");
        let inside = |key: &str| postgresql.and_then(|p| p.get(key));
        let use_pg_rewind = reader.truth(
            "postgresql.use_pg_rewind",
            inside("use_pg_rewind"),
            in_force.use_pg_rewind,
        );
        if postgresql.is_some_and(|section| !section.is_object()) {
            reader.problems.push("postgresql: want an object".to_owned());
            reader.kept.push(vec!["postgresql".to_owned()]);
        }
        let readable = postgresql.is_none_or(serde_json::Value::is_object);
        let part = |key: &str| match inside(key) {
            Some(value) if !value.is_null() => Part::There(value.clone()),
            Some(_) | None if readable => Part::Missing,
            Some(_) | None => Part::Unreadable,
        };
        let parameters = match part("parameters") {
            Part::There(value) => reader.parameters(&value, &in_force.parameters),
            Part::Missing => BTreeMap::new(),
            Part::Unreadable => in_force.parameters.clone(),
        };
        let pg_hba = match part("pg_hba") {
            Part::There(value) => lines(&value).unwrap_or_else(|| {
                let kept = in_force.pg_hba.clone();
                reader.refuse("postgresql.pg_hba", &value, "a list of lines", kept)
            }),
            Part::Missing => Vec::new(),
            Part::Unreadable => in_force.pg_hba.clone(),
        };
        let slots =
            super::slots::read(document, &in_force.slots, (&mut reader.problems, &mut reader.kept));
        let rest = reader.rest_of_postgresql(in_force);
        let standby_cluster = standby_cluster::read(&mut reader, in_force);
        let document = Arc::new(reader.document(&in_force.document));
        Self {
            ttl,
            loop_wait,
            retry_timeout,
            maximum_lag_on_failover,
            synchronous_mode,
            synchronous_mode_strict,
            synchronous_node_count: usize::try_from(nodes.max(1)).unwrap_or(1),
            failsafe_mode,
            use_pg_rewind: if readable { use_pg_rewind } else { in_force.use_pg_rewind },
            parameters,
            pg_hba,
            pause,
            synchronous_quorum,
            slots,
            check_timeline,
            maximum_lag_on_syncnode,
            primary_start_timeout,
            problems: reader.problems,
            pg_ident: rest.pg_ident,
            recovery_conf: rest.recovery_conf,
            remove_on_rewind_failure: rest.remove_on_rewind_failure,
            remove_on_diverged_timelines: rest.remove_on_diverged_timelines,
            document,
            max_timelines_history: usize::try_from(kept).unwrap_or(0),
            standby_cluster,
        }
    }
}

/// A part of the section `postgresql`.
enum Part {
    There(serde_json::Value),
    Missing,
    /// The section itself is unreadable.
    Unreadable,
}

pub(super) fn parameters(value: &serde_json::Value) -> Option<BTreeMap<String, String>> {
    let named = value.as_object()?.iter();
    let parameters = named
        .filter_map(|(name, value)| {
            let text = match value {
                serde_json::Value::Null => return None,
                serde_json::Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some((name.clone(), text))
        })
        .collect();
    Some(parameters)
}

pub(super) fn lines(value: &serde_json::Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|line| line.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_that_cannot_be_read_stay_as_they_are_and_are_said() {
        let document = serde_json::json!({"ttl": "soon", "loop_wait": 1, "synchronous_mode": "on",
            "postgresql": {"parameters": {"fsync": true, "work_mem": "4MB", "x": null}}});
        let in_force =
            Dynamic { ttl: Duration::from_secs(5), synchronous_mode: true, ..Dynamic::default() };
        let dynamic = Dynamic::read(&document, &in_force);
        assert_eq!(dynamic.ttl, Duration::from_secs(5), "a slip changes nothing");
        for garbage in [serde_json::json!({}), serde_json::json!(3), serde_json::json!("perhaps")] {
            let kept = Dynamic::read(&serde_json::json!({"synchronous_mode": garbage}), &in_force);
            assert!(kept.synchronous_mode && kept.problems.len() == 1, "{kept:?}");
            assert!(!kept.synchronous_quorum, "{kept:?}");
            let quorum = Dynamic { synchronous_quorum: true, ..in_force.clone() };
            let kept = Dynamic::read(&serde_json::json!({"synchronous_mode": garbage}), &quorum);
            assert!(kept.synchronous_mode && kept.synchronous_quorum, "{kept:?}");
        }
        for (word, mode, quorum) in [
            ("quorum", true, true),
            ("Quorum", true, true),
            ("on", true, false),
            ("off", false, false),
        ] {
            let document = serde_json::json!({"synchronous_mode": word});
            let in_force = Dynamic { synchronous_quorum: true, ..in_force.clone() };
            let read = Dynamic::read(&document, &in_force);
            assert!(read.problems.is_empty(), "{read:?}");
            assert_eq!((read.synchronous_mode, read.synchronous_quorum), (mode, quorum), "{word}");
        }
        for section in [serde_json::json!({"parameters": "x"}), serde_json::json!({"pg_hba": [1]})]
        {
            let (parameters, pg_hba) = ([("a".into(), "b".into())].into(), vec!["local".into()]);
            let in_force = Dynamic { parameters, pg_hba, ..Dynamic::default() };
            let kept = Dynamic::read(&serde_json::json!({"postgresql": section}), &in_force);
            assert_eq!(kept.problems.len(), 1, "{kept:?}");
            assert!(kept.parameters == in_force.parameters || kept.pg_hba == in_force.pg_hba);
        }
        assert_eq!(dynamic.loop_wait, in_force.loop_wait, "the timings change together or not");
        assert!(dynamic.synchronous_mode);
        assert_eq!(dynamic.problems.len(), 1);
        assert_eq!(dynamic.parameters.len(), 2);
        assert_eq!(dynamic.parameters["fsync"], "on");
    }

    #[test]
    fn a_limit_of_zero_or_less_is_none() {
        let in_force = Dynamic { maximum_lag_on_syncnode: Some(7), ..Dynamic::default() };
        for (given, limit, problems) in [
            (serde_json::json!(-1), None, 0),
            (serde_json::json!(0), None, 0),
            (serde_json::json!(null), None, 0),
            (serde_json::json!("1048576"), Some(1 << 20), 0),
            (serde_json::json!(1.5), Some(7), 1),
        ] {
            let document = serde_json::json!({"maximum_lag_on_syncnode": given});
            let read = Dynamic::read(&document, &in_force);
            assert_eq!((read.maximum_lag_on_syncnode, read.problems.len()), (limit, problems));
        }
        assert_eq!(Dynamic::read(&serde_json::json!({}), &in_force).maximum_lag_on_syncnode, None);
    }

    #[test]
    fn a_start_timeout_may_be_zero_and_has_an_older_name() {
        use serde_json::json;
        let seconds = Duration::from_secs;
        let in_force = Dynamic { primary_start_timeout: seconds(7), ..Dynamic::default() };
        for (document, timeout, problems) in [
            (json!({}), seconds(300), 0),
            (json!({"primary_start_timeout": 0}), Duration::ZERO, 0),
            (json!({"primary_start_timeout": "60"}), seconds(60), 0),
            (json!({"primary_start_timeout": 0.5}), Duration::from_millis(500), 0),
            (json!({"master_start_timeout": 10}), seconds(10), 0),
            (json!({"master_start_timeout": 10, "primary_start_timeout": 20}), seconds(20), 0),
            (json!({"master_start_timeout": 10, "primary_start_timeout": null}), seconds(10), 0),
            (json!({"primary_start_timeout": null}), seconds(300), 0),
            (json!({"primary_start_timeout": -1}), seconds(7), 1),
            (json!({"primary_start_timeout": 86_401}), seconds(7), 1),
            (json!({"primary_start_timeout": "soon"}), seconds(7), 1),
            (json!({"primary_start_timeout": "NaN"}), seconds(7), 1),
            (json!({"master_start_timeout": []}), seconds(7), 1),
        ] {
            let read = Dynamic::read(&document, &in_force);
            let found = (read.primary_start_timeout, read.problems.len());
            assert_eq!(found, (timeout, problems), "{document}");
        }
        // Whatever is refused, what is kept on disk says what is in force, under its own name.
        for names in [
            ["primary_start_timeout", "master_start_timeout"],
            ["master_start_timeout", "primary_start_timeout"],
        ] {
            let first = Dynamic::read(&json!({names[0]: 20}), &Dynamic::default());
            for wrong in names {
                let kept = Dynamic::read(&json!({wrong: "soon"}), &first);
                assert_eq!(kept.primary_start_timeout, seconds(20), "{wrong}");
                assert_eq!(kept.document, first.document, "{wrong}");
            }
        }
    }

    #[test]
    fn check_timeline_is_off_until_it_is_turned_on() {
        use serde_json::json;
        let in_force = Dynamic { check_timeline: true, ..Dynamic::default() };
        for (document, on, problems) in [
            (json!({}), false, 0),
            (json!({"check_timeline": true}), true, 0),
            (json!({"check_timeline": "on"}), true, 0),
            (json!({"check_timeline": false}), false, 0),
            (json!({"check_timeline": "perhaps"}), true, 1),
        ] {
            let read = Dynamic::read(&document, &in_force);
            assert_eq!((read.check_timeline, read.problems.len()), (on, problems), "{document}");
        }
    }

    #[test]
    fn a_parameter_of_the_agents_out_of_its_range_stays_as_it_is() {
        let read = |value: serde_json::Value, in_force: &Dynamic| {
            let section = serde_json::json!({"parameters": {"max_connections": value}});
            Dynamic::read(&serde_json::json!({"postgresql": section}), in_force)
        };
        let first = read(serde_json::json!(200), &Dynamic::default());
        assert!(first.problems.is_empty(), "{:?}", first.problems);
        for bad in [serde_json::json!(10), serde_json::json!("many"), serde_json::json!(-1)] {
            let next = read(bad.clone(), &first);
            assert_eq!(next.parameters, first.parameters, "{bad}");
            let said = &next.problems[0];
            assert!(said.starts_with("postgresql.parameters.max_connections: "), "{said}");
            assert!(said.contains("from 25 to"), "{said}");
            assert_eq!(next.document, first.document, "what is kept is what is in force");
        }
        let none = read(serde_json::json!(10), &Dynamic::default());
        assert!(none.parameters.is_empty(), "its default");
        let section = serde_json::json!({"postgresql": {"parameters": {"a b": 1, "c.d": 2}}});
        let named = Dynamic::read(&section, &Dynamic::default());
        assert_eq!(named.parameters.into_keys().collect::<Vec<_>>(), ["c.d"]);
    }

    #[test]
    fn the_document_in_force_has_what_was_kept_and_every_unknown_key() {
        let first = serde_json::json!({"ttl": 30, "theirs": 1, "synchronous_mode": true,
            "postgresql": {"use_pg_rewind": true, "pg_hba": ["local all all trust"]}});
        let before = Dynamic::read(&first, &Dynamic::default());
        assert_eq!(*before.document, first, "and in its order");
        let next = serde_json::json!({"ttl": "soon", "loop_wait": 5, "theirs": 2,
            "synchronous_mode": 7, "postgresql": {"use_pg_rewind": false, "pg_hba": "all"}});
        let after = Dynamic::read(&next, &before);
        assert_eq!(after.problems.len(), 3, "{:?}", after.problems);
        let wanted = serde_json::json!({"ttl": 30, "theirs": 2, "synchronous_mode": true,
            "postgresql": {"use_pg_rewind": false, "pg_hba": ["local all all trust"]}});
        assert_eq!(*after.document, wanted);
        let again = Dynamic::read(&after.document, &Dynamic::default());
        assert!(again.synchronous_mode && again.problems.is_empty() && !again.use_pg_rewind);
        let section = Dynamic::read(&serde_json::json!({"postgresql": 3}), &before);
        assert_eq!(section.document["postgresql"], first["postgresql"]);
        // A slot that nobody wants any more is dropped one day.
        let slots = serde_json::json!({"permanent_slots": {"a": {"type": "physical"}},
            "member_slots_ttl": "1h", "ignore_slots": [{"name": "b"}]});
        let before = Dynamic::read(&slots, &Dynamic::default());
        let garbage = serde_json::json!({"slots": 3, "member_slots_ttl": [], "ignore_slots": "b"});
        let after = Dynamic::read(&garbage, &before);
        assert_eq!((&after.slots, after.problems.len()), (&before.slots, 3));
        assert_eq!(after.document, before.document);
    }

    #[test]
    fn recovery_is_configured_without_a_target_and_the_switches_may_be_left_open() {
        let read = |section: serde_json::Value| {
            Dynamic::read(&serde_json::json!({"postgresql": section}), &Dynamic::default())
        };
        let restores = read(serde_json::json!({"recovery_conf": {"restore_command": "cp %f %p",
            "recovery_target_timeline": "latest", "standby_mode": true}}));
        let names: Vec<String> = restores.recovery_conf.into_keys().collect();
        assert_eq!(names, ["restore_command"]);
        for target in ["recovery_target_time", "Recovery_Target_Action", "primary_conninfo"] {
            let refused = read(serde_json::json!({"recovery_conf": {target: "x"}}));
            assert_eq!(refused.problems.len(), 1, "{target}");
            assert!(refused.recovery_conf.is_empty());
        }
        let secret = "restore --password s3cret";
        let command = serde_json::json!({"restore_command": secret, "primary_conninfo": secret});
        for (given, shown) in [(command, "primary_conninfo"), (serde_json::json!(secret), "a text")]
        {
            let said = &read(serde_json::json!({"recovery_conf": given})).problems[0];
            assert!(said.contains(shown) && !said.contains("s3cret"), "{said}");
        }
        let open = read(serde_json::json!({"pg_ident": ["m s p"]}));
        assert_eq!((open.remove_on_rewind_failure, open.pg_ident.len()), (None, 1));
        let said = read(serde_json::json!({"remove_data_directory_on_rewind_failure": "off",
            "remove_data_directory_on_diverged_timelines": true}));
        assert_eq!(said.remove_on_rewind_failure, Some(false));
        assert_eq!(said.remove_on_diverged_timelines, Some(true));
    }

    proptest! {
        #[test]
        fn any_document_is_read(text in ".{0,80}") {
            let value = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
            let dynamic = Dynamic::read(&value, &Dynamic::default());
            prop_assert!(dynamic.ttl >= TTL_FLOOR);
        }
    }
}
