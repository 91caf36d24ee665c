//! What was decoded already: a picture changes with every position that a member tells, most of its
//! keys do not. Goes by the bytes, not by revisions, which a restored store counts anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_dcs::Entry;

/// A record, or what is wrong with it.
type Read<T> = Arc<Result<T, String>>;

/// Records of one kind, by key, each with the bytes that it was read from.
#[derive(Debug)]
pub struct Decoded<T>(BTreeMap<String, (Vec<u8>, Read<T>)>);

impl<T> Default for Decoded<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Decoded<T> {
    /// What the key holds, decoded at most once for each of its values.
    pub fn of(
        &mut self,
        entry: &Entry,
        decode: impl FnOnce(&Entry) -> Result<T, String>,
    ) -> Read<T> {
        match self.0.get(&entry.key) {
            Some((bytes, decoded)) if *bytes == entry.value => Arc::clone(decoded),
            Some(_) | None => {
                let decoded = Arc::new(decode(entry));
                let kept = (entry.value.clone(), Arc::clone(&decoded));
                self.0.insert(entry.key.clone(), kept);
                decoded
            }
        }
    }

    /// Forgets keys that are gone.
    pub fn keep(&mut self, entries: &BTreeMap<String, Entry>) {
        self.0.retain(|key, _| entries.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use regent_dcs::Revision;

    use super::*;

    #[test]
    fn a_value_is_decoded_once_and_another_one_anew() {
        let mut known = Decoded::default();
        let entry = |value: &str| Entry {
            key: "k".to_owned(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        };
        let mut times = 0;
        let mut read = |value: &str| {
            known.of(&entry(value), |entry| {
                times += 1;
                String::from_utf8(entry.value.clone()).map_err(|error| error.to_string())
            })
        };
        // Also under one and the same revision.
        for value in ["a", "a", "b", "a"] {
            assert_eq!(*read(value), Ok(value.to_owned()));
        }
        assert_eq!(times, 3);
    }
}
