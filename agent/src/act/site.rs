//! Transactions on the site DCS, with Patroni's keys, values and write conditions
//! (spec/patroni-compat.md 1.2 to 1.5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{Change, Compare, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome};
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_proto::name::{NodeName, OperationId, SystemIdentifier};
use regent_proto::record::{Mark, Record as _, SeenEpoch, Unknown, VERSION};

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

/// Result of a transaction here: its revision, or nothing where a condition did not hold.
pub type Written = Result<Option<Revision>, StoreError>;

impl SiteStore {
    fn key(&self, key: SiteKey) -> String {
        self.keys.key(key)
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Written {
        Ok(self.store.txn(txn, timeout).await?.applied())
    }

    /// Condition: the leader key carries our name, bound to our lease at this revision.
    fn while_leader(&self) -> Compare {
        Compare::Value { key: self.key(SiteKey::Leader), value: self.me.as_str().into() }
    }

    /// Creates `initialize`, empty.
    pub async fn claim_initialize(&self, timeout: Duration) -> Written {
        let key = self.key(SiteKey::Initialize);
        let txn = Txn::new().when(Compare::Absent { key: key.clone() }).then(Change::put(key, ""));
        self.txn(txn, timeout).await
    }

    /// Writes the identity; unconditional where the key exists, as in Patroni, but by the leader.
    pub async fn record_initialize(&self, id: SystemIdentifier, timeout: Duration) -> Written {
        let txn = Txn::new()
            .when(self.while_leader())
            .then(Change::put(self.key(SiteKey::Initialize), id.to_string()));
        self.txn(txn, timeout).await
    }

    /// Creates the leader key, or binds the one in our name to our lease.
    pub async fn acquire_leader(&self, lease: LeaseId, timeout: Duration) -> Written {
        let key = self.key(SiteKey::Leader);
        let put = Change::put_leased(key.clone(), self.me.as_str(), lease);
        let create = Txn::new().when(Compare::Absent { key: key.clone() }).then(put.clone());
        if let Some(revision) = self.txn(create, timeout).await? {
            return Ok(Some(revision));
        }
        self.txn(Txn::new().when(self.while_leader()).then(put), timeout).await
    }

    /// Deletes the leader key where it is ours.
    pub async fn release_leader(&self, timeout: Duration) -> Written {
        let txn =
            Txn::new().when(self.while_leader()).then(Change::delete(self.key(SiteKey::Leader)));
        self.txn(txn, timeout).await
    }

    fn sync_as_read(&self, revision: Option<u64>) -> Compare {
        let key = self.key(SiteKey::Sync);
        match revision {
            Some(revision) => Compare::Modified { key, revision: Revision(revision) },
            None => Compare::Absent { key },
        }
    }

    /// Writes `sync` with this member as leader.
    pub async fn write_sync(
        &self,
        standbys: &BTreeSet<NodeName>,
        revision: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let names = standbys.iter().map(NodeName::as_str).collect::<Vec<_>>().join(",");
        let names = if names.is_empty() { serde_json::Value::Null } else { names.into() };
        let value = serde_json::json!({
            "leader": self.me.as_str(), "quorum": 0, "sync_standby": names});
        let txn = Txn::new()
            .when(self.while_leader())
            .when(self.sync_as_read(revision))
            .then(Change::put(self.key(SiteKey::Sync), value.to_string()));
        self.txn(txn, timeout).await
    }

    /// Empties `sync`.
    pub async fn clear_sync(&self, revision: u64, timeout: Duration) -> Written {
        let value = serde_json::json!({"leader": null, "quorum": 0, "sync_standby": null});
        let txn = Txn::new()
            .when(self.while_leader())
            .when(self.sync_as_read(Some(revision)))
            .then(Change::put(self.key(SiteKey::Sync), value.to_string()));
        self.txn(txn, timeout).await
    }

    /// Writes the mark of a handover under the leader key.
    pub async fn write_mark(
        &self,
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
            .when(self.while_leader())
            .when(Compare::Absent { key: self.key(SiteKey::Mark) })
            .then(Change::put(self.key(SiteKey::Mark), mark.encode()));
        self.txn(txn, timeout).await
    }

    /// Writes the highest epoch seen and removes an outlived mark, by the mark's own revision and
    /// the leader key (protocol.md rule 5).
    pub async fn enter_epoch(
        &self,
        seen: &SeenEpoch,
        clear_mark: Option<u64>,
        timeout: Duration,
    ) -> Written {
        let mut txn = Txn::new()
            .when(self.while_leader())
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
    pub async fn publish(&self, key: SiteKey, value: Vec<u8>, timeout: Duration) -> Written {
        let txn = Txn::new().when(self.while_leader()).then(Change::put(self.key(key), value));
        self.txn(txn, timeout).await
    }

    /// Creates a key of ours where it is missing, as long as we lead.
    pub async fn publish_new(&self, key: SiteKey, value: Vec<u8>, timeout: Duration) -> Written {
        let txn = Txn::new()
            .when(self.while_leader())
            .when(Compare::Absent { key: self.key(key) })
            .then(Change::put(self.key(key), value));
        self.txn(txn, timeout).await
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
