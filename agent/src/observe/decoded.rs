//! What was decoded already: a picture changes with every position that a member tells, most of its
//! keys do not. Goes by the bytes, not by revisions, which a restored store counts anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_dcs::Entry;

/// Records of one kind, or what is wrong with them.
#[derive(Debug)]
pub struct Decoded<T>(BTreeMap<String, (Vec<u8>, Arc<Result<T, String>>)>);

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
    ) -> Arc<Result<T, String>> {
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
