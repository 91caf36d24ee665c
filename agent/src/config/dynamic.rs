//! The dynamic configuration: the site DCS's `config` key (spec/patroni-compat.md section 4).
//!
//! It outlives binaries, so unknown keys are kept in the DCS and passed over here; a value that
//! cannot be read falls back to Patroni's default and is reported.

use std::collections::BTreeMap;
use std::time::Duration;

/// Top-level keys that are read.
pub(super) const READ: &[&str] = &[
    "ttl",
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_failover",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_node_count",
    "postgresql",
];

/// Patroni's keys that this version does not use yet.
pub(super) const NOT_YET: &[&str] = &[
    "pause",
    "maximum_lag_on_syncnode",
    "max_timelines_history",
    "primary_start_timeout",
    "master_start_timeout",
    "primary_stop_timeout",
    "master_stop_timeout",
    "check_timeline",
    "failsafe_mode",
    "member_slots_ttl",
    "slots",
    "permanent_slots",
    "permanent_replication_slots",
    "ignore_slots",
    "standby_cluster",
];

/// The values that decisions use.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.parameters`.
    pub parameters: BTreeMap<String, String>,
    /// `postgresql.pg_hba`.
    pub pg_hba: Vec<String>,
    /// Values that could not be read, with the default used instead.
    pub problems: Vec<String>,
}

/// Least TTL. Patroni's floor is 20 s; below it every member must be Regent, whose renewal has its
/// own thread (design.md section 3).
const TTL_FLOOR: Duration = Duration::from_secs(1);

impl Dynamic {
    /// Reads a document; anything that is not an object gives Patroni's defaults.
    #[must_use]
    pub fn from_json(document: &serde_json::Value) -> Self {
        let mut problems = Vec::new();
        let mut seconds = |key: &str, default: u64| {
            let value = document.get(key);
            match value.map(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok())) {
                None => Duration::from_secs(default),
                Some(Some(number)) if number.is_finite() && (0.1..=86_400.0).contains(&number) => {
                    Duration::from_secs_f64(number)
                }
                Some(_) => {
                    problems.push(format!("{key}: want seconds as a number, using {default}"));
                    Duration::from_secs(default)
                }
            }
        };
        let ttl = seconds("ttl", 30).max(TTL_FLOOR);
        let loop_wait = seconds("loop_wait", 10);
        let retry_timeout = seconds("retry_timeout", 10);
        let mut count = |key: &str, default: u64| match document.get(key) {
            None => default,
            Some(value) => value.as_u64().unwrap_or_else(|| {
                problems.push(format!("{key}: want a whole number, using {default}"));
                default
            }),
        };
        let maximum_lag_on_failover = count("maximum_lag_on_failover", 1 << 20);
        let nodes = count("synchronous_node_count", 1);
        let synchronous_mode = match document.get("synchronous_mode") {
            Some(value) if value == "quorum" => {
                problems.push("synchronous_mode: quorum is not built yet, using on".to_owned());
                true
            }
            value => truth(value),
        };
        let postgresql = document.get("postgresql");
        let inside = |key: &str| postgresql.and_then(|p| p.get(key));
        Self {
            ttl,
            loop_wait,
            retry_timeout,
            maximum_lag_on_failover,
            synchronous_mode,
            synchronous_mode_strict: truth(document.get("synchronous_mode_strict")),
            synchronous_node_count: usize::try_from(nodes.max(1)).unwrap_or(1),
            use_pg_rewind: truth(inside("use_pg_rewind")),
            parameters: inside("parameters").map(parameters).unwrap_or_default(),
            pg_hba: inside("pg_hba").map(lines).unwrap_or_default(),
            problems,
        }
    }
}

/// Patroni's idea of true: a boolean, or the words PostgreSQL takes.
fn truth(value: Option<&serde_json::Value>) -> bool {
    match value {
        Some(serde_json::Value::Bool(on)) => *on,
        Some(serde_json::Value::String(text)) => {
            matches!(text.to_lowercase().as_str(), "on" | "true" | "yes" | "1")
        }
        Some(_) | None => false,
    }
}

fn parameters(value: &serde_json::Value) -> BTreeMap<String, String> {
    let Some(map) = value.as_object() else { return BTreeMap::new() };
    map.iter()
        .filter_map(|(name, value)| {
            let text = match value {
                serde_json::Value::Null => return None,
                serde_json::Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some((name.clone(), text))
        })
        .collect()
}

fn lines(value: &serde_json::Value) -> Vec<String> {
    let lines = value.as_array().into_iter().flatten();
    lines.filter_map(|line| line.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_that_cannot_be_read_fall_back_and_are_said() {
        let document = serde_json::json!({"ttl": "soon", "loop_wait": 1, "synchronous_mode": "on",
            "postgresql": {"parameters": {"fsync": true, "work_mem": "4MB", "x": null}}});
        let dynamic = Dynamic::from_json(&document);
        assert_eq!(dynamic.ttl, Duration::from_secs(30));
        assert_eq!(dynamic.loop_wait, Duration::from_secs(1));
        assert!(dynamic.synchronous_mode);
        assert_eq!(dynamic.problems.len(), 1);
        assert_eq!(dynamic.parameters.len(), 2);
        assert_eq!(dynamic.parameters["fsync"], "on");
    }

    proptest! {
        #[test]
        fn any_document_is_read(text in ".{0,80}") {
            let value = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
            let dynamic = Dynamic::from_json(&value);
            prop_assert!(dynamic.ttl >= TTL_FLOOR);
        }
    }
}
