//! Records that cannot be read: said once each, never acted on (I9).

use std::collections::BTreeMap;

use regent_dcs::{Entry, Revision};

/// Remembers what was reported.
#[derive(Debug, Default)]
pub struct Unreadable {
    reported: BTreeMap<String, Revision>,
}

impl Unreadable {
    /// Reports a record, once per revision of its key.
    pub fn report(&mut self, entry: &Entry, problem: &str) {
        if self.reported.insert(entry.key.clone(), entry.modified) != Some(entry.modified) {
            tracing::warn!(key = %entry.key, problem, "a record cannot be read; it is ignored");
        }
    }

    /// Forgets keys that were rewritten or are gone, so that a repair ends the warning.
    pub fn keep(&mut self, entries: &BTreeMap<String, Entry>) {
        self.reported.retain(|key, revision| {
            entries.get(key).is_some_and(|entry| entry.modified == *revision)
        });
    }

    /// The keys, for warnings.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.reported.keys()
    }
}
