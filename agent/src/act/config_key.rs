//! The site's `config` key, as its leader keeps it: a configuration that is missing, or that nobody can
//! read, is put back as it is in force. It is the operators', and what they last said counts (I13), but for
//! one section: in a federation `standby_cluster` is output (design.md section 4).

use std::time::Duration;

use regent_proto::name::NodeName;
use serde_json::{Value, json};

use super::publish::Picture;
use super::site::{Held, SiteStore};
use crate::config::standby_cluster;
use crate::decide::upstream::{self, Shown};
use crate::decide::view::View;
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

/// What the section says, for Patroni's tools: whom this site's leader follows, and by which slot.
fn section(view: &View, me: &NodeName) -> Option<Value> {
    Some(match upstream::shown(view)? {
        Shown::Nobody => Value::Null,
        Shown::Nodes(nodes) => {
            let hosts: Vec<&str> = nodes.iter().map(|(host, _)| host.as_str()).collect();
            let ports: Vec<String> = nodes.iter().map(|(_, port)| port.to_string()).collect();
            json!({
                "host": hosts.join(","), "port": ports.join(","), "primary_slot_name": me.slot(),
            })
        }
    })
}

/// Never read as intent: what somebody else has put there is put back. `before` is what stood there last,
/// as this leader wrote it or found it right.
pub(super) async fn show_upstream(
    site: &SiteStore,
    picture: &Picture,
    held: Held,
    before: &mut Option<Value>,
    timeout: Duration,
) {
    let wanted = section(&picture.view, &site.me).filter(|_| picture.config == ConfigKey::Read);
    let Some(wanted) = wanted else { return };
    let there = picture.dynamic.document.get(standby_cluster::KEY).unwrap_or(&Value::Null);
    // Of a section that cannot be read the document shows the one before.
    let unreadable =
        picture.dynamic.problems.iter().any(|problem| problem.starts_with(standby_cluster::KEY));
    if *there == wanted && !unreadable {
        *before = Some(wanted);
        return;
    }
    let by_hand = before.as_ref() == Some(&wanted);
    match site.put_in_config(held, (standby_cluster::KEY, &wanted), timeout).await {
        Ok(Some(_)) if by_hand => tracing::warn!(
            node = %site.me,
            "standby_cluster was changed by hand and is put back: in a federation its records say \
             whom a site follows; use `regentctl switchover`"
        ),
        Ok(Some(_)) => {
            tracing::info!(node = %site.me, section = %wanted, "standby_cluster shows whom this site follows");
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "publishing standby_cluster"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;
    use crate::act::failsafe::record::Keeper;
    use crate::act::fence_report::RoundTrips;
    use crate::act::postgres::salvage::tests::config;
    use crate::act::publish::{Publisher, member};
    use crate::config::dynamic::Dynamic;
    use crate::decide::parameters::Difference;
    use crate::decide::tests::world::{World, name};
    use crate::decide::view::FederationView;
    use crate::fence::rounds::SharedLeader;
    use crate::observe::clock::boot_time;
    use crate::observe::mirror;
    use crate::observe::postgres::Extra;
    use crate::observe::site::SiteObserver;
    use regent_dcs::clock::BootClock;
    use regent_dcs::memory::MemoryStore;
    use regent_dcs::{Change, LeaseId, Store as _, Txn};
    use regent_proto::keys::{SiteKey, SiteKeys};
    use regent_proto::time::{Deadline, WallTime};

    const CALL: Duration = Duration::from_secs(1);
    const KEY: &str = "/service/a/config";

    /// `a1`, with the leader key of its site, and what it tells there.
    struct Leader {
        store: MemoryStore,
        publisher: Publisher,
        observer: SiteObserver,
        lease: LeaseId,
        dynamic: Dynamic,
        federation: Option<FederationView>,
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
            let observer = SiteObserver::new(keys, name("a1"));
            Self { store, publisher, observer, lease, dynamic, federation: None }
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
            view.federation.clone_from(&self.federation);
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

    #[tokio::test]
    async fn in_a_federation_the_section_shows_whom_the_site_follows_and_an_edit_is_put_back() {
        let mut leader = Leader::new().await;
        leader.round(true).await;
        let of = |section: Value| {
            let mut document = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1, "theirs": [1]});
            if !section.is_null() {
                document[standby_cluster::KEY] = section;
            }
            document
        };
        let theirs = of(json!({"host": "elsewhere"}));
        leader.put(&theirs.to_string()).await;
        leader.round(true).await;
        assert_eq!(leader.there().await.as_ref(), Some(&theirs), "without one it is theirs");
        let mut world = World::new();
        world.held_by_b();
        leader.federation.clone_from(&world.view.federation);
        leader.round(false).await;
        assert_eq!(leader.there().await.as_ref(), Some(&theirs), "the leader alone writes");
        let nodes = &world.federation().reports.values().next().expect("of b").nodes;
        let node = nodes.first().expect("a node of b");
        let shown = of(json!({
            "host": node.host, "port": node.port.to_string(), "primary_slot_name": "a1",
        }));
        leader.round(true).await;
        assert_eq!(leader.there().await.as_ref(), Some(&shown));
        for section in [json!(null), json!(7), json!({"host": "elsewhere"}), json!({})] {
            leader.put(&of(section.clone()).to_string()).await;
            leader.round(true).await;
            assert_eq!(leader.there().await.as_ref(), Some(&shown), "{section}");
        }
        // Nobody knows.
        leader.federation.as_mut().expect("there").primary = None;
        leader.round(true).await;
        assert_eq!(leader.there().await.as_ref(), Some(&shown));
        leader.federation = World::new().view.federation;
        leader.round(true).await;
        assert_eq!(leader.there().await, Some(of(json!(null))), "it holds primacy");
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
