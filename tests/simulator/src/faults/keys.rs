//! Keys that a person deletes, and the epoch that one accepts after all of a site are gone (runbook
//! *the epoch is unknown*).

use regent_agent::decide::view::DiskEpoch;
use regent_proto::keys::SiteKey;
use regent_proto::record::{Record as _, SeenEpoch, Unknown, VERSION};

use super::{Fault, Kind};
use crate::event::Event;
use crate::time::SEC;
use crate::world::World;

/// Keys that are deleted one by one, beside members and operations.
const SINGLE: [&str; 6] = ["leader", "status", "history", "initialize", "config", "sync"];

impl World {
    pub(super) fn delete_key(&mut self, store: usize) {
        let keys: Vec<String> = self.stores[store]
            .keys()
            .filter(|key| {
                let last = key.rsplit('/').next().unwrap_or_default();
                key.contains("/members/") || key.contains("/operations/") || SINGLE.contains(&last)
            })
            .cloned()
            .collect();
        if let Some(key) = self.chance.pick(&keys).cloned() {
            self.explain(usize::MAX, "FAULT", || format!("deletes {key}"));
            self.stores[store].delete(&key);
            self.store_changed(store);
        }
    }

    /// And mends by a person who looks at the epochs.
    pub(super) fn delete_all_keys(&mut self, store: usize) {
        let keys: Vec<String> = self.stores[store].keys().cloned().collect();
        self.explain(usize::MAX, "FAULT", || format!("deletes {}", keys.join(" ")));
        for key in keys {
            self.stores[store].delete(&key);
        }
        self.store_changed(store);
    }

    /// `regent-agent --accept-epoch`: what a site of a federation knew of the epoch is gone, and nothing but a
    /// person says that the quorum's is not older.
    pub(super) fn accept_epoch(&mut self, store: usize) {
        let site = self.sites.iter().position(|site| site.store == store);
        let Some((site, (_, primary))) = site.zip(self.checks.primary.as_ref()) else { return };
        let Some(key) = self.site_key(site, SiteKey::Epoch) else { return };
        if self.stores[store].entry(&key).is_some() {
            return;
        }
        if self.stores[store].down || self.stores[store].read_only {
            let again = Fault { at: 0, span: 0, kind: Kind::DeleteAllKeys(store) };
            return self.schedule(10 * SEC, Event::Mend(Box::new(again)));
        }
        let more = self.sites[site].nodes.iter().any(|n| match &self.nodes[*n].epoch {
            DiskEpoch::Seen(seen) => seen.epoch > primary.epoch,
            DiskEpoch::Absent | DiskEpoch::Unreadable(_) => false,
        });
        if more {
            let what = format!("site {site} has seen more than epoch {}", primary.epoch);
            return self.broken("I2", what);
        }
        let seen = SeenEpoch {
            version: VERSION,
            federation: primary.federation,
            epoch: primary.epoch,
            holder: primary.holder.clone(),
            unknown: Unknown::new(),
        };
        self.explain(usize::MAX, "epoch", || {
            format!("site {site}: {} is accepted by hand", seen.epoch)
        });
        self.stores[store].put(&key, seen.encode());
        self.store_changed(store);
    }
}
