//! Patroni's `tags` read: of the own file, of a member's record, of a peer's answer (spec/patroni-compat.md
//! 5.2). One function for all of them, so that a node takes itself for what the others take it for.
//!
//! Tags that are not Patroni's are the operators' own: they stay as they are written.

use std::collections::BTreeMap;

use regent_proto::name::NodeName;
use serde_json::Value;

use crate::decide::view::Tags;

/// What was read, and what was wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What the tags mean.
    pub tags: Tags,
    /// Values of a wrong type. A switch that is neither on nor off counts as on where Patroni, which
    /// takes anything but nothing for true, would say so; a number that is none has its default.
    pub problems: Vec<String>,
    /// Pairs that contradict each other: the switch wins, as in Patroni.
    pub contradictions: Vec<String>,
}

/// Reads the tags of one member.
#[must_use]
pub fn read(written: &BTreeMap<String, Value>) -> Read {
    let mut reader = Reader { written, problems: Vec::new(), contradictions: Vec::new() };
    let (nofailover, failover_priority) = reader.pair("nofailover", "failover_priority");
    let (nosync, sync_priority) = reader.pair("nosync", "sync_priority");
    let tags = Tags {
        nofailover,
        failover_priority,
        nosync,
        sync_priority,
        replicatefrom: reader.member("replicatefrom"),
        clonefrom: reader.switch("clonefrom").unwrap_or(false),
        nostream: reader.switch("nostream").unwrap_or(false),
        noloadbalance: reader.switch("noloadbalance").unwrap_or(false),
    };
    Read { tags, problems: reader.problems, contradictions: reader.contradictions }
}

/// The tags as others are told: Patroni's in the types that it takes, for to a member of Patroni the
/// text `off` is something, and so true. Everything else as it is written.
#[must_use]
pub fn told(written: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut reader = Reader { written, problems: Vec::new(), contradictions: Vec::new() };
    let plain = |(tag, value): (&String, &Value)| {
        let plain = match tag.as_str() {
            "nofailover" | "nosync" | "clonefrom" | "nostream" | "noloadbalance" => {
                reader.switch(tag).map(Value::Bool)
            }
            "failover_priority" | "sync_priority" => reader.number(tag).map(Value::from),
            _ => None,
        };
        (tag.clone(), plain.unwrap_or_else(|| value.clone()))
    };
    written.iter().map(plain).collect()
}

/// The most characters of a value that a message shows.
const SHOWN: usize = 60;

struct Reader<'a> {
    written: &'a BTreeMap<String, Value>,
    problems: Vec<String>,
    contradictions: Vec<String>,
}

impl<'a> Reader<'a> {
    fn given(&self, tag: &str) -> Option<&'a Value> {
        self.written.get(tag).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, tag: &str, value: &Value, wanted: &str) {
        let value: String = value.to_string().chars().take(SHOWN).collect();
        self.problems.push(format!("{tag}: {value} is not valid: want {wanted}"));
    }

    /// A boolean, or the words that YAML or PostgreSQL takes for one.
    fn switch(&mut self, tag: &str) -> Option<bool> {
        let value = self.given(tag)?;
        let word = match value {
            Value::Bool(on) => return Some(*on),
            Value::String(text) => text.to_lowercase(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        };
        match word.as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => {
                self.refuse(tag, value, "true or false");
                Some(is_something(value))
            }
        }
    }

    fn number(&mut self, tag: &str) -> Option<i64> {
        let value = self.given(tag)?;
        let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
        if number.is_none() {
            self.refuse(tag, value, "a whole number");
        }
        number
    }

    fn member(&mut self, tag: &str) -> Option<NodeName> {
        let value = self.given(tag)?;
        let name = value.as_str().and_then(|text| text.parse().ok());
        if name.is_none() {
            self.refuse(tag, value, "a member's name");
        }
        name
    }

    /// A switch, and the number that says the same by being zero or less.
    fn pair(&mut self, switch: &str, number: &str) -> (bool, i64) {
        let (off, priority) = (self.switch(switch), self.number(number));
        if let (Some(off), Some(priority)) = (off, priority)
            && off == (priority > 0)
        {
            self.contradictions
                .push(format!("{switch}: {off} contradicts {number}: {priority}; {switch} counts"));
        }
        let off = off.unwrap_or_else(|| priority.is_some_and(|priority| priority <= 0));
        (off, priority.unwrap_or(1))
    }
}

/// What a script takes for true.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(tags: Value) -> Read {
        read(&serde_json::from_value(tags).expect("an object"))
    }

    #[test]
    fn a_switch_and_its_number_say_the_same_and_the_switch_wins() {
        use serde_json::json;
        // Spec 3.4: default 1, <= 0 equals nofailover, nofailover wins if both are set.
        for (tags, off, priority, contradicts) in [
            (json!({}), false, 1, false),
            (json!({"nofailover": null, "failover_priority": null}), false, 1, false),
            (json!({"failover_priority": 0}), true, 0, false),
            (json!({"failover_priority": "-3"}), true, -3, false),
            (json!({"failover_priority": 7}), false, 7, false),
            (json!({"nofailover": true}), true, 1, false),
            (json!({"nofailover": "yes", "failover_priority": 2}), true, 2, true),
            (json!({"nofailover": false, "failover_priority": 0}), false, 0, true),
            (json!({"nofailover": true, "failover_priority": 0}), true, 0, false),
            (json!({"nofailover": false, "failover_priority": 2}), false, 2, false),
        ] {
            let read = of(tags.clone());
            let found = (read.tags.nofailover, read.tags.failover_priority);
            assert_eq!((found, read.contradictions.len()), ((off, priority), contradicts.into()));
            // Spec 3.5.1: nosync the same.
            let text = tags.to_string();
            let text =
                text.replace("nofailover", "nosync").replace("failover_priority", "sync_priority");
            let read = of(serde_json::from_str(&text).expect("json"));
            assert_eq!((read.tags.nosync, read.tags.sync_priority), (off, priority), "{text}");
            assert_eq!(read.problems, Vec::<String>::new());
        }
    }

    #[test]
    fn wrong_types_are_said_with_the_value_and_what_is_wanted() {
        use serde_json::json;
        let strange = of(json!({
            "nofailover": "perhaps", "failover_priority": "high", "nosync": [],
            "sync_priority": 1.5, "replicatefrom": "two words", "clonefrom": {"a": 1},
            "nostream": 2, "noloadbalance": 0, "zone": ["b"],
        }));
        let expected =
            Tags { nofailover: true, clonefrom: true, nostream: true, ..Tags::default() };
        assert_eq!(strange.tags, expected);
        assert_eq!(strange.problems.len(), 7, "{:?}", strange.problems);
        for part in ["nofailover: \"perhaps\" is not valid: want true or false", "a whole number"] {
            assert!(strange.problems.iter().any(|p| p.contains(part)), "{part}");
        }
        let named = of(json!({"replicatefrom": "eu-2", "clonefrom": true, "zone": "b"}));
        assert_eq!(named.tags.replicatefrom, "eu-2".parse().ok());
        assert!(named.tags.clonefrom && named.problems.is_empty());
    }

    #[test]
    fn others_are_told_types_that_patroni_takes() {
        use serde_json::json;
        let written = json!({"nofailover": "off", "nosync": true, "sync_priority": "3",
            "zone": "no", "replicatefrom": "a2", "clonefrom": null, "rack": 4});
        let told = told(&serde_json::from_value(written).expect("an object"));
        let wanted = json!({"nofailover": false, "nosync": true, "sync_priority": 3, "zone": "no",
            "replicatefrom": "a2", "clonefrom": null, "rack": 4});
        assert_eq!(json!(told), wanted);
        assert_eq!(of(json!(told)), of(wanted), "and it means the same");
    }

    proptest! {
        #[test]
        fn anything_is_read(tag in "[a-z_]{1,20}", text in ".{0,40}") {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let read = read(&[(tag, value)].into());
            prop_assert!(read.problems.len() <= 1);
        }
    }
}
