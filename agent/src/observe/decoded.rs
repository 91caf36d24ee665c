//! What was decoded already: a picture changes with every position that a member tells, most of its
//! keys do not. Goes by the bytes, not by revisions, which a restored store counts anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use regent_dcs::Entry;

/// A record, or what is wrong with it.
type Read<T> = Arc<Result<T, String>>;

type Known<T> = BTreeMap<String, (Bytes, Read<T>)>;

/// Records of one kind, by key, each with the bytes that it was read from. Clones are the same: several
/// observers of one store decode a value once between them.
#[derive(Debug)]
pub struct Decoded<T>(Arc<Mutex<Known<T>>>);

impl<T> Default for Decoded<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Decoded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Most often it is the very value that was decoded, which pictures share.
fn same(one: &Bytes, other: &Bytes) -> bool {
    (one.as_ptr() == other.as_ptr() && one.len() == other.len()) || one == other
}

impl<T> Decoded<T> {
    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the key holds, decoded at most once for each of its values.
    pub fn of(&self, entry: &Entry, decode: impl FnOnce(&Entry) -> Result<T, String>) -> Read<T> {
        let mut known = self.known();
        match known.get_mut(&entry.key) {
            Some((bytes, decoded)) if same(bytes, &entry.value) => Arc::clone(decoded),
            Some((bytes, decoded)) => {
                *decoded = Arc::new(decode(entry));
                bytes.clone_from(&entry.value);
                Arc::clone(decoded)
            }
            None => {
                let decoded = Arc::new(decode(entry));
                let kept = (entry.value.clone(), Arc::clone(&decoded));
                known.insert(entry.key.clone(), kept);
                decoded
            }
        }
    }

    /// Forgets keys that are gone.
    pub fn keep(&self, entries: &BTreeMap<String, Entry>) {
        self.known().retain(|key, _| entries.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use regent_dcs::Revision;

    use super::*;

    #[test]
    fn a_value_is_decoded_once_and_another_one_anew() {
        let known = Decoded::default();
        let other = known.clone();
        let entry = |value: &'static str| Entry {
            key: "k".to_owned(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        };
        let mut times = 0;
        let mut read = |known: &Decoded<String>, value| {
            known.of(&entry(value), |entry| {
                times += 1;
                String::from_utf8(entry.value.to_vec()).map_err(|error| error.to_string())
            })
        };
        // Also under one and the same revision.
        for value in ["a", "a", "b", "a"] {
            assert_eq!(*read(&known, value), Ok(value.to_owned()));
            assert_eq!(*read(&other, value), Ok(value.to_owned()));
        }
        assert_eq!(times, 3);
    }
}
