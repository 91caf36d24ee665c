//! The site's `config` key, as its leader keeps it: a configuration that is missing, or that nobody can
//! read, is put back as it is in force. It is the operators', and what they last said counts (I13).

use std::time::Duration;

use serde_json::Value;

use super::publish::Picture;
use super::site::{Held, SiteStore};
use crate::observe::site::ConfigKey;

/// Never over one that can be read, and only as the leader. The next picture shows what came of it.
pub(super) async fn put_back(site: &SiteStore, picture: &Picture, held: Held, timeout: Duration) {
    let read = match picture.config {
        ConfigKey::Read => return,
        ConfigKey::Absent => None,
        ConfigKey::Unreadable { revision } => Some(revision),
    };
    let document = match &*picture.dynamic.document {
        document @ Value::Object(_) => document.to_string(),
        _ => "{}".to_owned(),
    };
    match site.put_config_back(held, document.into_bytes(), read, timeout).await {
        Ok(Some(_)) => {
            tracing::info!(node = %site.me, "the dynamic configuration was written as it is in force");
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "publishing the configuration"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use regent_dcs::clock::BootClock;
    use regent_dcs::memory::MemoryStore;
    use regent_dcs::{Change, LeaseId, Store as _, Txn};
    use regent_proto::keys::{SiteKey, SiteKeys};
    use regent_proto::time::{Deadline, WallTime};
    use serde_json::json;

    use super::*;
    use crate::act::failsafe::record::Keeper;
    use crate::act::fence_report::RoundTrips;
    use crate::act::postgres::salvage::tests::config;
    use crate::act::publish::{Publisher, member};
    use crate::config::dynamic::Dynamic;
    use crate::decide::parameters::Difference;
    use crate::decide::tests::world::{World, name};
    use crate::decide::view::View;
    use crate::fence::rounds::SharedLeader;
    use crate::observe::clock::boot_time;
    use crate::observe::mirror;
    use crate::observe::postgres::Extra;
    use crate::observe::site::SiteObserver;

    const CALL: Duration = Duration::from_secs(1);
    const KEY: &str = "/service/a/config";

    /// `a1`, with the leader key of its site, and what it tells there.
    struct Leader {
        store: MemoryStore,
        publisher: Publisher,
        observer: SiteObserver,
        lease: LeaseId,
        dynamic: Dynamic,
    }

    fn picture(view: View, dynamic: Dynamic, config: ConfigKey) -> Picture {
        Picture {
            view,
            extra: Extra::default(),
            dynamic,
            lease: None,
            checkpointed_for: None,
            opened: None,
            reaches: BTreeMap::new(),
            warnings: Vec::new(),
            unreadable: BTreeSet::new(),
            reason: String::new(),
            attention: Vec::new(),
            progress: None,
            suspended: false,
            writing: Deadline::NEVER,
            round_trips: RoundTrips::default(),
            at: WallTime(0),
            dcs_seen: WallTime(0),
            fences: BTreeMap::new(),
            restarts: BTreeMap::new(),
            config,
            scheduled_restart: None,
            withdraws: false,
            slots: crate::decide::slots::Told::default(),
            refuses: false,
        }
    }

    impl Leader {
        async fn new() -> Self {
            let clock = BootClock::kernel().expect("a boot id");
            let store = MemoryStore::new(clock.clone());
            let keys = SiteKeys::new("/service", &name("a"));
            let lease = store.grant(CALL * 30, CALL).await.expect("well").id;
            let put = Change::put_leased(keys.key(SiteKey::Leader), "a1", lease);
            store.txn(Txn::new().then(put), CALL).await.expect("well");
            let shared = Arc::new(store.clone());
            let site = SiteStore { store: shared, keys: keys.clone(), me: name("a1") };
            let config = Arc::new(config(std::path::Path::new("/nowhere")));
            let dynamic = config.first_dynamic();
            let keeper = Keeper::new(SharedLeader::default(), clock);
            let publisher = Publisher::new(config, (site, None), keeper);
            Self { store, publisher, observer: SiteObserver::new(keys, name("a1")), lease, dynamic }
        }

        /// Sees what is there, takes it in, and tells.
        async fn round(&mut self, mine: bool) {
            let found = self.store.range("/service/a/", CALL).await.expect("well");
            let entries = found.entries.into_iter().map(|entry| (entry.key.clone(), entry));
            let seen = mirror::Picture {
                entries: entries.collect(),
                revision: found.revision,
                answered: Some(boot_time()),
            };
            let lease = mine.then_some(self.lease);
            let read = self.observer.read(&seen, lease, boot_time(), &self.dynamic);
            let (site, dynamic) = read.expect("it has answered");
            self.dynamic = dynamic.unwrap_or_else(|| self.dynamic.clone());
            let mut view = World::new().view;
            view.federation = None;
            view.site = Some(site);
            let told = picture(view, self.dynamic.clone(), self.observer.config());
            self.publisher.publish(&told).await;
        }

        async fn put(&self, value: &str) {
            let put = Change::put(KEY, value.as_bytes());
            self.store.txn(Txn::new().then(put), CALL).await.expect("well");
        }

        async fn delete(&self) {
            self.store.txn(Txn::new().then(Change::delete(KEY)), CALL).await.expect("well");
        }

        async fn there(&self) -> Option<Value> {
            let entry = self.store.get(KEY, CALL).await.expect("well")?;
            serde_json::from_slice(&entry.value).ok()
        }
    }

    #[tokio::test]
    async fn a_lost_configuration_is_put_back_as_it_was_in_force_and_by_the_leader_only() {
        let mut leader = Leader::new().await;
        leader.round(false).await;
        assert_eq!(leader.there().await, None, "the key is not ours");
        leader.round(true).await;
        let first = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1});
        assert_eq!(leader.there().await, Some(first), "bootstrap.dcs");
        let theirs = json!({"ttl": 6, "loop_wait": 1, "retry_timeout": 1, "synchronous_mode": true,
            "theirs": [1]});
        leader.put(&theirs.to_string()).await;
        leader.round(true).await;
        assert_eq!(leader.there().await.as_ref(), Some(&theirs), "never over what can be read");
        for time in 0..2 {
            leader.delete().await;
            leader.round(false).await;
            assert_eq!(leader.there().await, None);
            leader.round(true).await;
            assert_eq!(leader.there().await.as_ref(), Some(&theirs), "{time}");
        }
        for garbage in ["", "{\"ttl\":", "[1]", "7"] {
            leader.put(garbage).await;
            leader.round(true).await;
            assert_eq!(leader.there().await.as_ref(), Some(&theirs), "{garbage:?}");
        }
        // What cannot be read of an object is the operators' to mend.
        let slip = json!({"ttl": 6, "loop_wait": 1, "retry_timeout": 1, "synchronous_mode": 7});
        leader.put(&slip.to_string()).await;
        leader.round(true).await;
        assert_eq!(leader.there().await, Some(slip));
        leader.delete().await;
        leader.round(true).await;
        let back = leader.there().await.expect("back");
        assert_eq!(back["synchronous_mode"], json!(true), "what stayed in force comes back");
    }

    #[test]
    fn what_waits_for_a_restart_is_told_in_patronis_form() {
        let config = config(std::path::Path::new("/nowhere"));
        let mut told = picture(World::new().view, config.first_dynamic(), ConfigKey::Read);
        assert_eq!(member(&config, &told).get("pending_restart"), None);
        let difference = Difference { old: "100".to_owned(), new: "200".to_owned() };
        told.view.postgres.configuration.pending_restart =
            [("max_connections".to_owned(), difference)].into();
        let record = member(&config, &told);
        assert_eq!(record["pending_restart"], json!(true));
        let reason = json!({"max_connections": {"old_value": "100", "new_value": "200"}});
        assert_eq!(record["pending_restart_reason"], reason);
    }
}
