//! Transactions on the site DCS, with Patroni's keys, values and write conditions
//! (spec/patroni-compat.md 1.2 to 1.5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{Change, Compare, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome};
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, OperationId, SystemIdentifier};
use regent_proto::record::{Mark, Promotions, Record as _, SeenEpoch, Unknown, VERSION};
use regent_proto::timeline::Ancestry;
use serde_json::{Map, Value};

use crate::decide::view::LeaderKey;

/// The site DCS of one member.
#[derive(Debug, Clone)]
pub struct SiteStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The cluster's keys.
    pub keys: SiteKeys,
    /// This member.
    pub me: NodeName,
}

/// The leader key as this process holds it: the revision at which it was found bound to its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held(Revision);

impl Held {
    /// `None` while the key is not bound to this process's lease.
    #[must_use]
    pub fn of(leader: Option<&LeaderKey>) -> Option<Self> {
        leader.filter(|leader| leader.bound_to_my_lease).map(|l| Self(Revision(l.revision)))
    }

    /// Its revision.
    #[must_use]
    pub fn revision(self) -> Revision {
        self.0
    }
}

/// Result of a transaction here: its revision, or nothing where a condition did not hold.
pub type Written = Result<Option<Revision>, StoreError>;

impl SiteStore {
    fn key(&self, key: SiteKey) -> String {
        self.keys.key(key)
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Written {
        Ok(self.store.txn(txn, timeout).await?.applied())
    }

    /// Condition: the leader key is the very one that this process put, bound to its lease. A name
    /// proves nothing: another process may carry it.
    fn while_leading(&self, held: Held) -> Compare {
        Compare::Modified { key: self.key(SiteKey::Leader), revision: held.0 }
    }

    /// Creates `initialize`, empty; not beside a leader, whose keys were deleted and come back.
    pub async fn claim_initialize(&self, timeout: Duration) -> Written {
        let key = self.key(SiteKey::Initialize);
        let txn = Txn::new()
            .when(Compare::Absent { key: self.key(SiteKey::Leader) })
            .when(Compare::Absent { key: key.clone() })
            .then(Change::put(key, ""));
        self.txn(txn, timeout).await
    }

    /// Deletes `initialize` where it is still the very claim of this process.
    pub async fn abandon_initialize(&self, claimed: Revision, timeout: Duration) -> Written {
        let key = self.key(SiteKey::Initialize);
        let txn = Txn::new()
            .when(Compare::Modified { key: key.clone(), revision: claimed })
            .then(Change::delete(key));
        self.txn(txn, timeout).await
    }

    /// Writes the identity; unconditional where the key exists, as in Patroni, but by the leader.
    pub async fn record_initialize(
        &self,
        held: Held,
        id: SystemIdentifier,
        timeout: Duration,
    ) -> Written {
        let txn = Txn::new()
            .when(self.while_leading(held))
            .then(Change::put(self.key(SiteKey::Initialize), id.to_string()));
        self.txn(txn, timeout).await
    }

    /// Creates the leader key, or binds the one in our name, as it was read, to our lease. While
    /// `failsafe` is as it was read: whoever left it since is not asked any more. While `sync` is,
    /// too: it said that this node may lead, and an old picture of it says nothing (I3).
    pub async fn acquire_leader(
        &self,
        lease: LeaseId,
        of_a_former_life: Option<u64>,
        (failsafe, sync): (Option<u64>, Option<u64>),
        timeout: Duration,
    ) -> Written {
        let key = self.key(SiteKey::Leader);
        let put = Change::put_leased(key.clone(), self.me.as_str(), lease);
        let txn = match of_a_former_life.map(Revision) {
            None => Txn::new().when(Compare::Absent { key }),
            // Nobody tested whether this node may lead: once the key is gone, that is a race.
            Some(revision) => Txn::new()
                .when(Compare::Modified { key: key.clone(), revision })
                .when(Compare::Value { key, value: self.me.as_str().into() }),
        };
        let txn = txn
            .when(self.as_read(SiteKey::Failsafe, failsafe))
            .when(self.as_read(SiteKey::Sync, sync))
            .then(put);
        self.txn(txn, timeout).await
    }

    fn as_read(&self, key: SiteKey, revision: Option<u64>) -> Compare {
        let key = self.key(key);
        match revision {
            Some(revision) => Compare::Modified { key, revision: Revision(revision) },
            None => Compare::Absent { key },
        }
    }

    /// Writes `sync` with this member as leader: the standbys, and how many votes one of them needs
    /// beside its own.
    pub async fn write_sync(
        &self,
        held: Held,
        voting: (&BTreeSet<NodeName>, usize),
        revision: Option<u64>,
        timeout: Duration,
    ) -> Written {
        self.put_sync(held, Some(&self.me), voting, revision, timeout).await
    }

    /// Empties `sync`. It is not deleted, which Patroni does on some stores: a write of unknown outcome
    /// that compares "absent" could be applied after the next deletion.
    pub async fn clear_sync(&self, held: Held, revision: u64, timeout: Duration) -> Written {
        self.put_sync(held, None, (&BTreeSet::new(), 0), Some(revision), timeout).await
    }

    async fn put_sync(
        &self,
        held: Held,
        leader: Option<&NodeName>,
        (standbys, quorum): (&BTreeSet<NodeName>, usize),
        revision: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let names = standbys.iter().map(NodeName::as_str).collect::<Vec<_>>().join(",");
        let names = (!names.is_empty()).then_some(names);
        let leader = leader.map(NodeName::as_str);
        let value = serde_json::json!({"leader": leader, "quorum": quorum, "sync_standby": names});
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(self.as_read(SiteKey::Sync, revision))
            .then(Change::put(self.key(SiteKey::Sync), value.to_string()));
        self.txn(txn, timeout).await
    }

    /// Writes that this member is about to promote, from this history and this end of WAL.
    pub async fn write_promotions(
        &self,
        held: Held,
        ancestry: &Ancestry,
        end: Lsn,
        timeout: Duration,
    ) -> Written {
        let record = Promotions {
            version: VERSION,
            node: self.me.clone(),
            ancestry: ancestry.clone(),
            promotes_at: Some(end),
            unknown: Unknown::new(),
        };
        self.publish(held, SiteKey::Promotions, record.encode(), timeout).await
    }

    /// Empties `failover`, where it is still the request that was read.
    pub async fn clear_failover(&self, held: Held, revision: u64, timeout: Duration) -> Written {
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(self.as_read(SiteKey::Failover, Some(revision)))
            .then(Change::put(self.key(SiteKey::Failover), "{}"));
        self.txn(txn, timeout).await
    }

    /// Writes the mark of a handover under the leader key.
    pub async fn write_mark(
        &self,
        held: Held,
        operation: &OperationId,
        primary_revision: u64,
        timeout: Duration,
    ) -> Written {
        let mark = Mark {
            version: VERSION,
            operation: operation.clone(),
            primary_revision,
            node: self.me.clone(),
            unknown: Unknown::new(),
        };
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(Compare::Absent { key: self.key(SiteKey::Mark) })
            .then(Change::put(self.key(SiteKey::Mark), mark.encode()));
        self.txn(txn, timeout).await
    }

    /// Writes the highest epoch seen over the record that was read, and removes an outlived mark, by
    /// the mark's own revision and the leader key (protocol.md rule 5).
    pub async fn enter_epoch(
        &self,
        held: Held,
        seen: &SeenEpoch,
        revision: Option<u64>,
        clear_mark: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let mut txn = Txn::new()
            .when(self.while_leading(held))
            .when(self.as_read(SiteKey::Epoch, revision))
            .then(Change::put(self.key(SiteKey::Epoch), seen.encode()));
        if let Some(revision) = clear_mark {
            let key = self.key(SiteKey::Mark);
            txn = txn
                .when(Compare::Modified { key: key.clone(), revision: Revision(revision) })
                .then(Change::delete(key));
        }
        self.txn(txn, timeout).await
    }

    /// Writes a key of ours as long as we lead.
    pub async fn publish(
        &self,
        held: Held,
        key: SiteKey,
        value: Vec<u8>,
        timeout: Duration,
    ) -> Written {
        let txn = Txn::new().when(self.while_leading(held)).then(Change::put(self.key(key), value));
        self.txn(txn, timeout).await
    }

    /// Writes `config` where it is missing, or still what nobody could read, as long as we lead.
    pub async fn put_config_back(
        &self,
        held: Held,
        value: Vec<u8>,
        unreadable: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(self.as_read(SiteKey::Config, unreadable))
            .then(Change::put(self.key(SiteKey::Config), value));
        self.txn(txn, timeout).await
    }

    /// Puts one key into `config` as it stands there now, or with `null` takes it out, as long as we lead.
    /// What nobody can read is left alone.
    pub async fn put_in_config(
        &self,
        held: Held,
        (name, value): (&str, &Value),
        timeout: Duration,
    ) -> Written {
        let key = self.key(SiteKey::Config);
        let found = self.store.get(&key, timeout).await?;
        let document = found.as_ref().map(|entry| serde_json::from_slice(&entry.value));
        let before: Map<String, Value> = match document {
            Some(Ok(document)) => document,
            Some(Err(_)) | None => return Ok(None),
        };
        let mut after = before.clone();
        if value.is_null() {
            after.shift_remove(name);
        } else {
            after.insert(name.to_owned(), value.clone());
        }
        if after == before {
            return Ok(None);
        }
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(Compare::as_read(key.clone(), found.as_ref()))
            .then(Change::put(key, Value::Object(after).to_string()));
        self.txn(txn, timeout).await
    }

    /// Writes `failsafe`, where it is still as it was read.
    pub async fn write_failsafe(
        &self,
        held: Held,
        members: &BTreeMap<NodeName, String>,
        revision: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let put = Change::put(self.key(SiteKey::Failsafe), serde_json::json!(members).to_string());
        let txn = Txn::new()
            .when(self.while_leading(held))
            .when(self.as_read(SiteKey::Failsafe, revision))
            .then(put);
        self.txn(txn, timeout).await
    }

    /// Writes a promise to another site, under the leader key of this very tenure.
    pub async fn write_promise(&self, held: Held, value: Vec<u8>, timeout: Duration) -> Written {
        self.publish(held, SiteKey::Promise, value, timeout).await
    }

    /// Writes this member's record, bound to its lease.
    pub async fn publish_member(
        &self,
        value: Vec<u8>,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let put = Change::put_leased(self.keys.member(&self.me), value, lease);
        match self.store.txn(Txn::new().then(put), timeout).await? {
            TxnOutcome::Applied { .. } | TxnOutcome::Conflict { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use regent_dcs::clock::BootClock;
    use regent_dcs::memory::MemoryStore;
    use regent_proto::time::BootTime;

    use super::*;
    use crate::config::dynamic::Dynamic;
    use crate::observe::mirror::Picture;
    use crate::observe::site::SiteObserver;

    const CALL: Duration = Duration::from_secs(1);

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("names in tests are well formed")
    }

    #[tokio::test]
    async fn what_it_promotes_from_is_written_under_its_own_leader_key_only() {
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let store = SiteStore {
            store: Arc::new(memory.clone()),
            keys: SiteKeys::new("/service", &name("a")),
            me: name("a1"),
        };
        let lease = memory.grant(CALL * 30, CALL).await.expect("well").id;
        let taken = store.acquire_leader(lease, None, (None, None), CALL).await.expect("well");
        let held = taken.expect("nobody has it");
        let ancestry = Ancestry {
            timeline: regent_proto::timeline::TimelineId(1),
            promotion: None,
            switches: Vec::new(),
        };
        let at = Lsn::new(200);
        let other = Held(Revision(held.0 + 1));
        let refused = store.write_promotions(other, &ancestry, at, CALL).await.expect("well");
        assert_eq!(refused, None);
        let written = store.write_promotions(Held(held), &ancestry, at, CALL).await.expect("well");
        assert!(written.is_some());
        let found = memory.range("/service/a/", CALL).await.expect("well").entries;
        let key = store.key(SiteKey::Promotions);
        let entry = found.into_iter().find(|entry| entry.key == key).expect("written");
        let record = Promotions::decode(&entry.key, &entry.value).expect("a record");
        assert_eq!((record.node, record.ancestry), (name("a1"), ancestry));
        assert_eq!(record.promotes_at, Some(at));
    }

    /// All keys were deleted, and its leader is bringing them back.
    #[tokio::test]
    async fn nobody_claims_a_cluster_beside_a_leader() {
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let keys = SiteKeys::new("/service", &name("a"));
        let store = SiteStore { store: Arc::new(memory.clone()), keys, me: name("a1") };
        let lease = memory.grant(CALL * 30, CALL).await.expect("well").id;
        store.acquire_leader(lease, None, (None, None), CALL).await.expect("well").expect("free");
        assert_eq!(store.claim_initialize(CALL).await.expect("well"), None);
        memory.revoke(lease, CALL).await.expect("well");
        assert!(store.claim_initialize(CALL).await.expect("well").is_some());
    }

    /// Whoever left the record since is not asked by the leader, and so must not follow it.
    #[tokio::test]
    async fn the_leader_key_is_taken_only_under_the_failsafe_record_that_was_read() {
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let store = SiteStore {
            store: Arc::new(memory.clone()),
            keys: SiteKeys::new("/service", &name("a")),
            me: name("a1"),
        };
        let lease = memory.grant(CALL * 30, CALL).await.expect("well").id;
        let put = Change::put(store.key(SiteKey::Failsafe), "{}");
        let read = memory.txn(Txn::new().then(put), CALL).await.expect("well");
        let read = read.applied().expect("unconditional").0;
        for (seen, former) in [(None, None), (Some(read - 1), None)] {
            let taken =
                store.acquire_leader(lease, former, (seen, None), CALL).await.expect("well");
            assert_eq!(taken, None, "{seen:?}");
        }
        let taken =
            store.acquire_leader(lease, None, (Some(read), None), CALL).await.expect("well");
        let ours = taken.expect("nobody has it").0;
        let next = memory.grant(CALL * 30, CALL).await.expect("well").id;
        let stale = store.acquire_leader(next, Some(ours), (None, None), CALL).await.expect("well");
        assert_eq!(stale, None, "nor is one of a former life bound anew");
        let bound =
            store.acquire_leader(next, Some(ours), (Some(read), None), CALL).await.expect("well");
        assert!(bound.is_some());
    }

    /// A request that came meanwhile is another one, and only the leader ends any.
    #[tokio::test]
    async fn a_request_ends_only_as_it_was_read_and_only_by_the_leader() {
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let store = SiteStore {
            store: Arc::new(memory.clone()),
            keys: SiteKeys::new("/service", &name("a")),
            me: name("a1"),
        };
        let lease = memory.grant(CALL * 30, CALL).await.expect("well").id;
        let taken = store.acquire_leader(lease, None, (None, None), CALL).await.expect("well");
        let held = Held(taken.expect("nobody has it"));
        let key = store.key(SiteKey::Failover);
        let put = Change::put(key.clone(), r#"{"leader":"a1"}"#);
        let read = memory.txn(Txn::new().then(put), CALL).await.expect("well");
        let read = read.applied().expect("unconditional").0;
        let of_before = Held(Revision(held.0.0 - 1));
        for (held, read) in [(held, read - 1), (held, read + 1), (of_before, read)] {
            let cleared = store.clear_failover(held, read, CALL).await.expect("well");
            assert_eq!(cleared, None, "{held:?} {read}");
        }
        assert!(store.clear_failover(held, read, CALL).await.expect("well").is_some());
        let left = memory.get(&key, CALL).await.expect("well").expect("it stays");
        assert_eq!(&left.value[..], b"{}");
    }

    /// Patroni's wire, there and back: its own tools read the record, and it reads theirs.
    #[tokio::test]
    async fn sync_has_patronis_form_and_is_read_with_its_tolerance() {
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let keys = SiteKeys::new("/service", &name("a"));
        let store =
            SiteStore { store: Arc::new(memory.clone()), keys: keys.clone(), me: name("a1") };
        let lease = memory.grant(CALL * 30, CALL).await.expect("well").id;
        let taken = store.acquire_leader(lease, None, (None, None), CALL).await.expect("well");
        let held = Held(taken.expect("nobody has it"));
        let read = async || {
            let entries = memory.range("/service/a/", CALL).await.expect("well").entries;
            let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            let answered = Some(BootTime::from_nanos(1));
            let picture = Picture { entries, answered, ..Picture::default() };
            let mut observer = SiteObserver::new(keys.clone(), name("a1"));
            let now = BootTime::from_nanos(1);
            let seen = observer.read(&picture, Some(lease), now, &Dynamic::default());
            let entry = picture.entries.get(&keys.key(SiteKey::Sync));
            let text = entry.map(|entry| entry.value.clone());
            (seen.expect("it has answered").0.sync, text)
        };
        let standbys = BTreeSet::from([name("a3"), name("a2")]);
        let written = store.write_sync(held, (&standbys, 1), None, CALL).await.expect("well");
        let written = written.expect("nothing was there").0;
        let (sync, text) = read().await;
        let wanted = r#"{"leader":"a1","quorum":1,"sync_standby":"a2,a3"}"#;
        assert_eq!(text.as_deref(), Some(wanted.as_bytes()));
        assert_eq!((sync.leader, sync.standbys, sync.quorum), (Some(name("a1")), standbys, 1));
        store.clear_sync(held, written, CALL).await.expect("well").expect("as read");
        let (sync, text) = read().await;
        let wanted = r#"{"leader":null,"quorum":0,"sync_standby":null}"#;
        assert_eq!(text.as_deref(), Some(wanted.as_bytes()));
        assert!(sync.leader.is_none() && sync.standbys.is_empty() && !sync.unreadable);
        for (text, quorum) in [
            (r#"{"leader":"a1","sync_standby":"a2"}"#, Some(0)),
            (r#"{"leader":"a1","sync_standby":"a2","quorum":null}"#, Some(0)),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":"1"}"#, Some(1)),
            (r#"{"leader":null,"sync_standby":"a2,a3","quorum":1}"#, Some(0)),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":2}"#, Some(2)),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":18446744073709551615}"#, Some(3)),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":18446744073709551616}"#, None),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":"some"}"#, None),
            (r#"{"leader":"a1","sync_standby":"a2,a3","quorum":-1}"#, None),
        ] {
            let put = Change::put(keys.key(SiteKey::Sync), text);
            memory.txn(Txn::new().then(put), CALL).await.expect("well");
            let (sync, _) = read().await;
            assert_eq!((!sync.unreadable).then_some(sync.quorum), quorum, "{text}");
        }
    }
}
