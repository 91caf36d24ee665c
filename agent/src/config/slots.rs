//! What the dynamic configuration says of slots, read: `slots`, `ignore_slots`, `member_slots_ttl`,
//! `slot_wal_budget` and `postgresql.use_slots` (spec/patroni-compat.md section 4).
//!
//! A section that cannot be read stays as it is in force; one slot of it that is not valid is said, and
//! left out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::decide::slots::{ClusterType, Kind, Matcher, Permanent, Rules};

/// The names that Patroni takes for permanent slots.
const PERMANENT: [&str; 3] = ["slots", "permanent_slots", "permanent_replication_slots"];

/// The most characters of a value that a message shows.
const SHOWN: usize = 60;

/// Reads a document; what is wrong with it is added to `problems`, and where that is what stays in force
/// to `kept`.
pub(super) fn read(
    document: &Value,
    in_force: &Rules,
    (problems, kept): (&mut Vec<String>, &mut Vec<Vec<String>>),
) -> Rules {
    let mut keeps = |path: &[&str]| kept.push(path.iter().map(|key| (*key).to_owned()).collect());
    let default = Rules::default();
    let given = |key: &str| document.get(key).filter(|value| !value.is_null());
    let use_slots = document.get("postgresql").and_then(|section| section.get("use_slots"));
    let use_slots = match use_slots.filter(|value| !value.is_null()) {
        None => default.use_slots,
        Some(value) => truth(value).unwrap_or_else(|| {
            refuse(problems, "postgresql.use_slots", value, "on or off");
            keeps(&["postgresql", "use_slots"]);
            in_force.use_slots
        }),
    };
    let member_ttl = match given("member_slots_ttl") {
        None => default.member_ttl,
        Some(value) => span(value).unwrap_or_else(|| {
            let wanted = "a time as in 30min, or seconds; 0 lets a slot go with its member";
            refuse(problems, "member_slots_ttl", value, wanted);
            keeps(&["member_slots_ttl"]);
            in_force.member_ttl
        }),
    };
    let wal_budget = match given("slot_wal_budget") {
        None => default.wal_budget,
        Some(value) => match bytes(value) {
            Some(bytes) => Some(bytes),
            None => {
                refuse(problems, "slot_wal_budget", value, "a size as in 10GB, or bytes");
                keeps(&["slot_wal_budget"]);
                in_force.wal_budget
            }
        },
    };
    let permanent = match PERMANENT.into_iter().find_map(|key| Some((key, given(key)?))) {
        None => BTreeMap::new(),
        Some((key, value)) => match value.as_object() {
            Some(slots) => slots
                .iter()
                .filter_map(|(name, value)| {
                    permanent(&format!("{key}.{name}"), (name, value), problems)
                })
                .collect(),
            None => {
                refuse(problems, key, value, "NAME: {type: …} pairs");
                // What is in force may have come by another name.
                PERMANENT.into_iter().for_each(|key| keeps(&[key]));
                in_force.permanent.clone()
            }
        },
    };
    let ignored = match given("ignore_slots") {
        None => Vec::new(),
        Some(value) => {
            let matchers: Option<Option<Vec<Matcher>>> =
                value.as_array().map(|list| list.iter().map(matcher).collect());
            matchers.flatten().unwrap_or_else(|| {
                let wanted = "a list of {name, type, database, plugin}";
                refuse(problems, "ignore_slots", value, wanted);
                keeps(&["ignore_slots"]);
                in_force.ignored.clone()
            })
        }
    };
    Rules { use_slots, member_ttl, permanent, ignored, wal_budget }
}

fn refuse(problems: &mut Vec<String>, key: &str, value: &Value, wanted: &str) {
    let value: String = value.to_string().chars().take(SHOWN).collect();
    problems.push(format!("{key}: {value} is not valid: want {wanted}"));
}

fn truth(value: &Value) -> Option<bool> {
    let word = match value {
        Value::Bool(on) => return Some(*on),
        Value::String(text) => text.to_lowercase(),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    match word.as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A number and its unit.
fn measure(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    Some((number.parse().ok()?, unit.trim()))
}

/// Seconds, or a time with PostgreSQL's units.
pub(super) fn span(value: &Value) -> Option<Duration> {
    let (number, unit) = match value {
        Value::Number(number) => (number.as_f64()?, ""),
        Value::String(text) => measure(text)?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return None,
    };
    // Ten years are for ever, and overflow nothing.
    (0.0..=315_360_000.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Bytes, or a size with PostgreSQL's units.
fn bytes(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => return number.as_u64().filter(|bytes| *bytes > 0),
        Value::String(text) => text.trim(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// What PostgreSQL takes for the name of a slot.
fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// A falsy value is a physical slot, as in Patroni; one with database and plugin is logical.
fn permanent(
    place: &str,
    (name, value): (&str, &Value),
    problems: &mut Vec<String>,
) -> Option<(String, Permanent)> {
    if !is_name(name) {
        let wanted = "lower-case letters, digits and _, at most 63";
        problems.push(format!("{place}: {name:?} is no name for a slot: want {wanted}"));
        return None;
    }
    let found = match value {
        Value::Object(fields) => of_fields(fields),
        Value::Null | Value::Bool(false) => Some(physical()),
        Value::String(text) if text.is_empty() => Some(physical()),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(physical()),
        Value::Array(items) if items.is_empty() => Some(physical()),
        Value::Bool(true) | Value::String(_) | Value::Number(_) | Value::Array(_) => None,
    };
    if found.is_none() {
        let wanted = "{type: physical}, or {type: logical, database: …, plugin: …}, with \
                      cluster_type: primary or standby and wal_budget: SIZE where wanted";
        refuse(problems, place, value, wanted);
    }
    Some((name.to_owned(), found?))
}

fn physical() -> Permanent {
    Permanent { kind: Kind::Physical, only: None, wal_budget: None }
}

fn of_fields(fields: &serde_json::Map<String, Value>) -> Option<Permanent> {
    let given = |key: &str| fields.get(key).filter(|value| !value.is_null());
    let text = |key: &str| given(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let decoded = text("database").zip(text("plugin")).map(|(database, plugin)| Kind::Logical {
        database: database.to_owned(),
        plugin: plugin.to_owned(),
    });
    let kind = match given("type").map(|kind| kind.as_str().unwrap_or_default()) {
        None => decoded.unwrap_or(Kind::Physical),
        Some("physical") => Kind::Physical,
        Some("logical") => decoded?,
        Some(_) => return None,
    };
    let only = match given("cluster_type").map(|only| only.as_str().unwrap_or_default()) {
        None => None,
        Some("primary") => Some(ClusterType::Primary),
        Some("standby") => Some(ClusterType::Standby),
        Some(_) => return None,
    };
    let wal_budget = match given("wal_budget") {
        None => None,
        Some(value) => Some(bytes(value)?),
    };
    Some(Permanent { kind, only, wal_budget })
}

fn matcher(value: &Value) -> Option<Matcher> {
    let fields = value.as_object()?;
    let text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    let physical = match text("type")?.as_deref() {
        None => None,
        Some("physical") => Some(true),
        Some("logical") => Some(false),
        Some(_) => return None,
    };
    let (name, database, plugin) = (text("name")?, text("database")?, text("plugin")?);
    Some(Matcher { name, physical, database, plugin })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(document: &Value) -> (Rules, Vec<String>) {
        let mut problems = Vec::new();
        let rules = read(document, &Rules::default(), (&mut problems, &mut Vec::new()));
        (rules, problems)
    }

    #[test]
    fn slots_are_read_as_patroni_reads_them() {
        let (rules, problems) = of(&json!({
            "member_slots_ttl": "10min",
            "slot_wal_budget": "1GB",
            "slots": {
                "backup": null, "older": false, "plain": {}, "named": {"type": "physical"},
                "cdc": {"type": "logical", "database": "app", "plugin": "pgoutput"},
                "implied": {"database": "app", "plugin": "test_decoding", "wal_budget": "64MB"},
                "there": {"type": "physical", "cluster_type": "standby"},
            },
            "ignore_slots": [{"name": "theirs"}, {"type": "logical", "plugin": "wal2json"}, {}],
            "postgresql": {"use_slots": "off"},
        }));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(rules.member_ttl, Duration::from_secs(600));
        assert_eq!(rules.wal_budget, Some(1 << 30));
        assert!(!rules.use_slots);
        let logical =
            |plugin: &str| Kind::Logical { database: "app".to_owned(), plugin: plugin.to_owned() };
        for name in ["backup", "older", "plain", "named", "there"] {
            assert_eq!(rules.permanent[name].kind, Kind::Physical, "{name}");
        }
        assert_eq!(rules.permanent["cdc"].kind, logical("pgoutput"));
        assert_eq!(rules.permanent["implied"].kind, logical("test_decoding"));
        assert_eq!(rules.permanent["implied"].wal_budget, Some(64 << 20));
        assert_eq!(rules.permanent["there"].only, Some(ClusterType::Standby));
        assert_eq!(rules.ignored.len(), 3);
        assert_eq!(rules.ignored[1].physical, Some(false));
        assert_eq!(of(&json!({})), (Rules::default(), vec![]));
    }

    #[test]
    fn what_is_not_valid_is_said_and_the_rest_stays() {
        let (rules, problems) = of(&json!({"slots": {
            "Upper": null, "yes": true, "kind": {"type": "other"}, "half": {"type": "logical"},
            "good": null,
        }}));
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(rules.permanent.keys().collect::<Vec<_>>(), ["good"]);
        let in_force = of(&json!({"slots": {"a": null}, "ignore_slots": [{"name": "b"}],
            "member_slots_ttl": 5, "slot_wal_budget": 7, "postgresql": {"use_slots": false}}));
        let mut problems = Vec::new();
        let garbage = json!({"slots": 3, "ignore_slots": {"name": "b"}, "member_slots_ttl": "soon",
            "slot_wal_budget": -1, "postgresql": {"use_slots": "perhaps"}});
        let kept = read(&garbage, &in_force.0, (&mut problems, &mut Vec::new()));
        assert_eq!((kept, problems.len()), (in_force.0, 5), "{problems:?}");
    }

    #[test]
    fn zero_lets_a_slot_go_with_its_member() {
        for zero in [json!(0), json!("0"), json!("0s")] {
            assert_eq!(of(&json!({"member_slots_ttl": zero})).0.member_ttl, Duration::ZERO);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn any_value_is_read_or_said(key in "slots|ignore_slots|member_slots_ttl|slot_wal_budget",
            text in ".{0,40}") {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let before = Rules::default();
            let mut problems = Vec::new();
            let mut paths = Vec::new();
            let after = read(&json!({key: value}), &before, (&mut problems, &mut paths));
            prop_assert!(after.permanent.keys().all(|name| is_name(name)));
            prop_assert!(after == before || problems.len() <= after.permanent.len() + 40);
        }
    }
}
