//! What an operator does to a site's dynamic configuration: the `config` key, edited by hand. As with
//! `regentctl edit-config`, keys that were not meant stay, and a store that does not write is asked
//! again.

use regent_proto::keys::{SiteKey, SiteKeys};
use serde_json::{Map, Value, json};

use super::{Fault, Kind};
use crate::event::Event;
use crate::time::SEC;
use crate::world::World;

/// `ttl`, `loop_wait` and `retry_timeout`, in seconds. The last three are refused whole (I21): too
/// short for the stop, not to be read, and a slip beside values that would do.
pub(super) const TIMINGS: &[[&str; 3]] = &[
    ["10", "2", "3"],
    ["15", "10", "10"],
    ["20", "5", "10"],
    ["60", "10", "10"],
    ["90", "10", "20"],
    ["7", "10", "10"],
    ["\"soon\"", "10", "10"],
    ["60", "-1", "10"],
];

/// What each site begins with.
const FIRST: [&str; 3] = ["30", "10", "10"];

impl World {
    /// The site's key of this name.
    pub(crate) fn site_key(&self, site: usize, key: SiteKey) -> Option<String> {
        let config = &self.nodes[*self.sites[site].nodes.first()?].config;
        Some(SiteKeys::new(&config.namespace, &config.scope).key(key))
    }

    /// The dynamic configuration as the site's DCS has it.
    #[must_use]
    pub fn configuration(&self, site: usize) -> Option<Map<String, Value>> {
        let key = self.site_key(site, SiteKey::Config)?;
        let entry = self.stores[self.sites[site].store].entry(&key)?;
        serde_json::from_slice(&entry.value).ok()
    }

    /// Whether the site's DCS says that it is paused.
    #[must_use]
    pub fn paused_in_store(&self, site: usize) -> bool {
        let found = self.configuration(site);
        found.is_some_and(|config| config.get("pause") == Some(&Value::Bool(true)))
    }

    /// Edits it; false: the store does not write now.
    fn edit(&mut self, site: usize, change: impl FnOnce(&mut Map<String, Value>)) -> bool {
        let store = self.sites[site].store;
        if self.stores[store].down || self.stores[store].read_only {
            return false;
        }
        let (Some(key), Some(before)) =
            (self.site_key(site, SiteKey::Config), self.configuration(site))
        else {
            // Nothing to edit: a witness, or a cluster that is not made yet.
            return true;
        };
        let mut document = before.clone();
        change(&mut document);
        if document != before {
            let text = Value::Object(document).to_string();
            self.explain(usize::MAX, "operator", || format!("writes {key}: {text}"));
            self.stores[store].put(&key, text.into_bytes());
            self.store_changed(store);
        }
        true
    }

    /// Another timing, or the first one again.
    pub(super) fn set_timing(&mut self, site: usize, which: Option<usize>) {
        let timing = which.and_then(|which| TIMINGS.get(which)).unwrap_or(&FIRST);
        let names = ["ttl", "loop_wait", "retry_timeout"];
        self.expect_no_demotion(site);
        let written = self.edit(site, |document| {
            for (name, text) in names.iter().zip(timing) {
                let value = serde_json::from_str(text).unwrap_or(json!(text));
                document.insert((*name).to_owned(), value);
            }
        });
        if !written && which.is_none() {
            self.again(Kind::Timing(site, 0));
        }
    }

    /// Pauses a site, or ends its pause.
    pub(super) fn set_pause(&mut self, site: usize, on: bool) {
        let written = self.edit(site, |document| {
            if on {
                document.insert("pause".to_owned(), json!(true));
            } else {
                document.remove("pause");
            }
        });
        if !written && !on {
            self.again(Kind::PauseSite(site));
        }
    }

    fn again(&mut self, kind: Kind) {
        self.schedule(SEC, Event::Mend(Box::new(Fault { at: 0, span: 0, kind })));
    }
}
