//! The dynamic configuration: the site DCS's `config` key (spec/patroni-compat.md section 4).
//!
//! It outlives binaries, so unknown keys are kept in the DCS and passed over here; a value that
//! cannot be read leaves the one in force as it is and is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Config;
use crate::decide::slots::Rules;
use crate::decide::view::Policy;

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
];

/// Patroni's keys that this version does not use yet.
pub(super) const NOT_YET: &[&str] =
    &["max_timelines_history", "primary_stop_timeout", "master_stop_timeout", "standby_cluster"];

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
    /// What is to be done with slots.
    pub slots: Rules,
    /// A node on an older timeline than the last leader's does not lead.
    pub check_timeline: bool,
    /// A replica further behind than this is not synchronous, in bytes; `None`: no limit.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// How long a leader's server may take to come up while another member could lead.
    pub primary_start_timeout: Duration,
    /// Values that could not be read, with the default used instead.
    pub problems: Vec<String>,
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
            slots: Rules::default(),
            check_timeline: false,
            maximum_lag_on_syncnode: None,
            primary_start_timeout: Duration::from_secs(300),
            problems: Vec::new(),
        }
    }
}

/// The most characters of a value that a message shows.
const SHOWN: usize = 60;

/// Reads one document, collecting what is wrong with it.
struct Reader<'a> {
    document: &'a serde_json::Value,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn refuse<T>(&mut self, key: &str, value: &serde_json::Value, wanted: &str, kept: T) -> T {
        let value: String = value.to_string().chars().take(SHOWN).collect();
        self.problems.push(format!("{key}: {value} is not valid: want {wanted}"));
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
            None => self.refuse(key, value, "seconds as a number, from 0 to 86400", in_force),
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

    /// A boolean, or the words PostgreSQL takes for one.
    fn truth(&mut self, key: &str, value: Option<&serde_json::Value>, in_force: bool) -> bool {
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
    pub fn policy(&self, config: &Config) -> Policy {
        Policy {
            me: config.name.clone(),
            nofailover: config.tagged.nofailover,
            // An idle loop comes round often enough not to count as one that hangs.
            loop_wait: self.loop_wait.min(Duration::from_secs(10)).min(self.ttl / 2),
            maximum_lag_on_failover: self.maximum_lag_on_failover,
            synchronous_mode: self.synchronous_mode,
            synchronous_mode_strict: self.synchronous_mode_strict,
            synchronous_node_count: self.synchronous_node_count,
            use_pg_rewind: self.use_pg_rewind,
            may_bootstrap: config.bootstrap.dcs.is_some() || config.federation.is_some(),
            paused: self.pause,
            slots: self.slots.clone(),
            failover_priority: config.tagged.failover_priority,
            check_timeline: self.check_timeline,
            maximum_lag_on_syncnode: self.maximum_lag_on_syncnode,
            primary_start_timeout: self.primary_start_timeout,
            ttl: self.ttl,
        }
    }

    /// Reads a document. A key that is missing has Patroni's default; one that cannot be read
    /// keeps the value in force, so that a slip of the hand changes nothing (I21).
    #[must_use]
    pub fn read(document: &serde_json::Value, in_force: &Self) -> Self {
        let default = Self::default();
        let mut reader = Reader { document, problems: Vec::new() };
        let mut timing = (
            reader.seconds("ttl", default.ttl, in_force.ttl).max(TTL_FLOOR),
            reader.seconds("loop_wait", default.loop_wait, in_force.loop_wait),
            reader.seconds("retry_timeout", default.retry_timeout, in_force.retry_timeout),
        );
        if !reader.problems.is_empty() {
            // They are checked against each other: all of them or none.
            timing = (in_force.ttl, in_force.loop_wait, in_force.retry_timeout);
        }
        let (ttl, loop_wait, retry_timeout) = timing;
        let maximum_lag_on_failover = reader.count(
            "maximum_lag_on_failover",
            default.maximum_lag_on_failover,
            in_force.maximum_lag_on_failover,
        );
        let nodes_in_force = u64::try_from(in_force.synchronous_node_count).unwrap_or(1);
        let nodes = reader.count("synchronous_node_count", 1, nodes_in_force);
        let synchronous_mode = match document.get("synchronous_mode") {
            Some(value) if value == "quorum" => {
                reader.problems.push("synchronous_mode: quorum is not built yet, using on".into());
                true
            }
            value => reader.truth("synchronous_mode", value, in_force.synchronous_mode),
        };
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
        }
        let readable = postgresql.is_none_or(serde_json::Value::is_object);
        let part = |key: &str| match inside(key) {
            Some(value) if !value.is_null() => Part::There(value.clone()),
            Some(_) | None if readable => Part::Missing,
            Some(_) | None => Part::Unreadable,
        };
        let parameters = match part("parameters") {
            Part::There(value) => parameters(&value).unwrap_or_else(|| {
                let kept = in_force.parameters.clone();
                reader.refuse("postgresql.parameters", &value, "NAME: VALUE pairs", kept)
            }),
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
        let slots = super::slots::read(document, &in_force.slots, &mut reader.problems);
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
            slots,
            check_timeline,
            maximum_lag_on_syncnode,
            primary_start_timeout,
            problems: reader.problems,
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

fn parameters(value: &serde_json::Value) -> Option<BTreeMap<String, String>> {
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

fn lines(value: &serde_json::Value) -> Option<Vec<String>> {
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

    proptest! {
        #[test]
        fn any_document_is_read(text in ".{0,80}") {
            let value = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
            let dynamic = Dynamic::read(&value, &Dynamic::default());
            prop_assert!(dynamic.ttl >= TTL_FLOOR);
        }
    }
}
