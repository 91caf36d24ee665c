//! Records that cannot be read: said once each, never acted on (I9). And those that can, with something
//! in them that can't: said once each too, and otherwise as any.

use std::collections::BTreeMap;

use regent_dcs::{Entry, Revision};

/// Remembers what was reported.
#[derive(Debug, Default)]
pub struct Unreadable {
    reported: BTreeMap<String, Revision>,
    doubted: BTreeMap<String, Revision>,
}

impl Unreadable {
    /// Reports a record, once per revision of its key.
    pub fn report(&mut self, entry: &Entry, problem: &str) {
        if self.reported.insert(entry.key.clone(), entry.modified) != Some(entry.modified) {
            tracing::warn!(key = %entry.key, problem, "a record cannot be read; it is ignored");
        }
    }

    /// Says what is wrong inside a record that counts all the same, once per revision of its key. True
    /// when it was said just now.
    pub fn doubt(&mut self, entry: &Entry, problem: &str) -> bool {
        let new = self.doubted.insert(entry.key.clone(), entry.modified) != Some(entry.modified);
        if new {
            tracing::warn!(key = %entry.key, problem, "a part of a record is of a wrong form");
        }
        new
    }

    /// Forgets keys that were rewritten or are gone, so that a repair ends the warning.
    pub fn keep(&mut self, entries: &BTreeMap<String, Entry>) {
        let stands = |key: &String, revision: &mut Revision| {
            entries.get(key).is_some_and(|entry| entry.modified == *revision)
        };
        self.reported.retain(stands);
        self.doubted.retain(stands);
    }

    /// The keys of those that are ignored, for warnings.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.reported.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_in_doubt_is_said_once_a_revision_and_is_not_among_the_ignored() {
        let entry = |revision| Entry {
            key: "k".to_owned(),
            value: "{}".into(),
            created: Revision(1),
            modified: Revision(revision),
            lease: None,
        };
        let mut unreadable = Unreadable::default();
        assert!(unreadable.doubt(&entry(1), "a tag"));
        assert!(!unreadable.doubt(&entry(1), "a tag"));
        assert!(unreadable.doubt(&entry(2), "a tag"), "it was written anew");
        assert_eq!(unreadable.keys().count(), 0);
        unreadable.keep(&BTreeMap::new());
        assert!(unreadable.doubt(&entry(2), "a tag"), "it was gone meanwhile");
        unreadable.report(&entry(2), "no record");
        assert_eq!(unreadable.keys().count(), 1);
        unreadable.keep(&BTreeMap::from([("k".to_owned(), entry(3))]));
        assert_eq!(unreadable.keys().count(), 0);
    }
}
