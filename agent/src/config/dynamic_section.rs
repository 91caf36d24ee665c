//! The section `postgresql` of the dynamic configuration, and the document that is in force once what
//! could not be read of it is left as it was.

use std::collections::BTreeMap;

use super::dynamic::{Dynamic, Reader, lines, parameters};
use crate::decide::parameters::{accepts, is_agents, is_name};

impl Reader<'_> {
    /// Each parameter that the agent owns in its range; one that is not stays as it is in force, or
    /// is left to its default.
    pub(super) fn parameters(
        &mut self,
        value: &serde_json::Value,
        in_force: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let Some(mut read) = parameters(value) else {
            let kept = in_force.clone();
            return self.refuse("postgresql.parameters", value, "NAME: VALUE pairs", kept);
        };
        let refused: Vec<(String, serde_json::Value, String)> = read
            .iter()
            .filter_map(|(name, text)| {
                let wanted = if is_name(name) {
                    accepts(&name.to_ascii_lowercase(), text).err()?
                } else {
                    "a parameter's name".to_owned()
                };
                Some((name.clone(), value.get(name).cloned().unwrap_or_default(), wanted))
            })
            .collect();
        for (name, value, wanted) in refused {
            self.refuse(&format!("postgresql.parameters.{name}"), &value, &wanted, ());
            match in_force.get(&name) {
                Some(kept) => drop(read.insert(name, kept.clone())),
                None => drop(read.remove(&name)),
            }
        }
        read
    }

    /// Settings of recovery, without those by which a standby would end it on its own.
    fn recovery_conf(
        &mut self,
        value: &serde_json::Value,
        in_force: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let wanted =
            "NAME: VALUE pairs of recovery, without targets and what the agent sets itself";
        // Patroni's files may have these from before PostgreSQL 12.
        let old = |name: &str| matches!(name, "standby_mode" | "trigger_file");
        let read: Option<BTreeMap<String, String>> = parameters(value).map(|read| {
            let read = read.into_iter().map(|(name, text)| (name.to_ascii_lowercase(), text));
            read.filter(|(name, _)| !old(name) && name != "recovery_target_timeline").collect()
        });
        let wrong: Option<Vec<String>> = read.as_ref().map(|read| {
            read.keys().filter(|name| !is_name(name) || is_agents(name)).cloned().collect()
        });
        // Names only: a command of recovery may have a password in it, and this is logged.
        let shown = match &wrong {
            Some(names) if names.is_empty() => return read.unwrap_or_default(),
            Some(names) => serde_json::json!(names),
            None => serde_json::json!(kind(value)),
        };
        self.refuse("postgresql.recovery_conf", &shown, wanted, in_force.clone())
    }

    /// A switch that may be left to a default of ours.
    fn choice(&mut self, key: &str, in_force: Option<bool>) -> Option<bool> {
        let document = self.document;
        let value = document.get("postgresql")?.get(key).filter(|value| !value.is_null())?;
        Some(self.truth(&format!("postgresql.{key}"), Some(value), in_force.unwrap_or(false)))
    }

    /// What else is read of the section `postgresql`.
    pub(super) fn rest_of_postgresql(&mut self, in_force: &Dynamic) -> Rest {
        let section = self.document.get("postgresql");
        if section.is_some_and(|section| !section.is_object()) {
            return Rest {
                pg_ident: in_force.pg_ident.clone(),
                recovery_conf: in_force.recovery_conf.clone(),
                remove_on_rewind_failure: in_force.remove_on_rewind_failure,
                remove_on_diverged_timelines: in_force.remove_on_diverged_timelines,
            };
        }
        let there = |key: &str| section?.get(key).filter(|value| !value.is_null());
        let pg_ident = there("pg_ident").map_or_else(Vec::new, |value| {
            lines(value).unwrap_or_else(|| {
                let kept = in_force.pg_ident.clone();
                self.refuse("postgresql.pg_ident", value, "a list of lines", kept)
            })
        });
        let recovery_conf = there("recovery_conf")
            .map_or_else(BTreeMap::new, |value| self.recovery_conf(value, &in_force.recovery_conf));
        Rest {
            pg_ident,
            recovery_conf,
            remove_on_rewind_failure: self.choice(
                "remove_data_directory_on_rewind_failure",
                in_force.remove_on_rewind_failure,
            ),
            remove_on_diverged_timelines: self.choice(
                "remove_data_directory_on_diverged_timelines",
                in_force.remove_on_diverged_timelines,
            ),
        }
    }

    /// The document in force: this one, with what stays as it is in its place.
    pub(super) fn document(&self, in_force: &serde_json::Value) -> serde_json::Value {
        let mut document = self.document.clone();
        for path in &self.kept {
            let old = path.iter().try_fold(in_force, |value, key| value.get(key.as_str())).cloned();
            put(&mut document, path, old);
        }
        document
    }
}

/// What a value is, where it must not be shown.
fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "nothing",
        serde_json::Value::Bool(_) => "true or false",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a text",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}

/// Keys of the section `postgresql` that are read by themselves.
pub(super) struct Rest {
    pub(super) pg_ident: Vec<String>,
    pub(super) recovery_conf: BTreeMap<String, String>,
    pub(super) remove_on_rewind_failure: Option<bool>,
    pub(super) remove_on_diverged_timelines: Option<bool>,
}

/// Puts a value where it was, or takes it away.
fn put(document: &mut serde_json::Value, path: &[String], value: Option<serde_json::Value>) {
    let Some((key, rest)) = path.split_first() else { return };
    let Some(object) = document.as_object_mut() else { return };
    match (rest.is_empty(), value) {
        (true, Some(value)) => drop(object.insert(key.clone(), value)),
        (true, None) => drop(object.shift_remove(key)),
        (false, value) => {
            if let Some(inner) = object.get_mut(key) {
                put(inner, rest, value);
            }
        }
    }
}
