//! Transactions on the global quorum that a site's leader makes: protocol.md section 2, rows
//! *acquire*, *token*, *take*, *roll-back*, and the identity of a new database.
//!
//! Each compares every record that the decision read. An unknown outcome is returned as such: the
//! next decision reads.

use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{Change, Compare, Revision, Store, StoreError, Txn};
use regent_proto::edges::NoEdge;
use regent_proto::epoch::Epoch;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, RequestId, SiteName, SystemIdentifier, Tenure};
use regent_proto::record::{
    EpochHistory, Lease, Primary, PrimaryState, Record as _, Token, Unknown, VERSION,
};
use regent_proto::time::{LeaseTiming, WallTime};
use regent_proto::timeline::HistoryPoint;

use super::random::Ids;
use crate::fence::renewal::Adopted;

/// The global quorum of one agent.
#[derive(Debug, Clone)]
pub struct GlobalStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The federation's keys.
    pub keys: GlobalKeys,
    /// This site.
    pub site: SiteName,
    /// This member.
    pub me: NodeName,
    /// The clock that deadlines count by.
    pub clock: BootClock,
    /// Where tenures and requests get their names.
    pub ids: Ids,
}

/// A clean stop, as a token tells it.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// End of the shutdown checkpoint.
    pub end: HistoryPoint,
    /// Identity of the database.
    pub system_identifier: SystemIdentifier,
    /// When the clients were cut, for people.
    pub at: WallTime,
}

/// Why a transaction could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GlobalError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else was faster: read again.
    #[error("{transaction}: a record it compares has changed; reading again")]
    Conflict {
        /// Which transaction.
        transaction: &'static str,
    },
    /// No randomness.
    #[error("the kernel gave no random bytes; nothing was sent")]
    NoRandomness,
    /// The record is not in the state that the decision saw.
    #[error(transparent)]
    State(#[from] NoEdge),
}

/// The lease record of a new tenure.
fn new_lease(
    store: &GlobalStore,
    epoch: Epoch,
    ttl: Duration,
) -> Result<(Lease, RequestId, Tenure), GlobalError> {
    let tenure = store.ids.tenure().ok_or(GlobalError::NoRandomness)?;
    let request = store.ids.request_id().ok_or(GlobalError::NoRandomness)?;
    let lease = Lease {
        version: VERSION,
        site: store.site.clone(),
        node: store.me.clone(),
        tenure: tenure.clone(),
        epoch,
        counter: 0,
        request: request.clone(),
        ttl,
        released: false,
        unknown: Unknown::new(),
    };
    Ok((lease, request, tenure))
}

impl GlobalStore {
    fn at(&self, key: String, revision: u64) -> Compare {
        debug_assert!(key.starts_with(self.keys.prefix()), "keys of this federation only");
        Compare::Modified { key, revision: Revision(revision) }
    }

    async fn txn(
        &self,
        transaction: &'static str,
        txn: Txn,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let outcome = self.store.txn(txn, timeout).await?;
        outcome.applied().ok_or(GlobalError::Conflict { transaction })
    }

    /// *acquire*, also take-over inside the site.
    pub async fn acquire(
        &self,
        primary: &Primary,
        (primary_revision, lease_revision): (u64, Option<u64>),
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let (record, ..) = new_lease(self, primary.epoch, timing.ttl)?;
        let lease = match lease_revision {
            Some(revision) => self.at(self.keys.lease(), revision),
            None => Compare::Absent { key: self.keys.lease() },
        };
        let txn = Txn::new()
            .when(self.at(self.keys.primary(), primary_revision))
            .when(lease)
            .then(Change::put(self.keys.lease(), record.encode()));
        let sent = self.clock.now();
        let revision = self.txn("acquire", txn, timing.call_timeout).await?;
        Ok(Adopted {
            record,
            lease_revision: revision,
            primary_revision: Revision(primary_revision),
            sent,
            timing,
            electorate: primary.electorate.clone(),
            span_max: primary.span_max,
        })
    }

    /// *token*: stopped cleanly, no process left.
    pub async fn post_token(
        &self,
        primary: &Primary,
        (primary_revision, lease_revision): (u64, u64),
        lease: &Lease,
        stopped: Stopped,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let token = Token {
            from: self.site.clone(),
            epoch: primary.epoch,
            system_identifier: stopped.system_identifier,
            end: stopped.end,
            tenure: lease.tenure.clone(),
            stopping_at: stopped.at,
        };
        let next = primary.stopped(token)?;
        let released = Lease { released: true, counter: lease.counter + 1, ..lease.clone() };
        let txn = Txn::new()
            .when(self.at(self.keys.primary(), primary_revision))
            .when(self.at(self.keys.lease(), lease_revision))
            .then(Change::put(self.keys.primary(), next.encode()))
            .then(Change::put(self.keys.lease(), released.encode()));
        self.txn("token", txn, timeout).await
    }

    /// *take*: the point of no return. The new lease stands in the same transaction.
    pub async fn take(
        &self,
        primary: &Primary,
        primary_revision: u64,
        at: WallTime,
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let next = primary.taken()?;
        let epoch = next.epoch;
        let stopping_at = match &primary.state {
            PrimaryState::Token { token, .. } => Some(token.stopping_at),
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Fenced { .. } => {
                None
            }
        };
        let (record, ..) = new_lease(self, epoch, timing.ttl)?;
        let history = EpochHistory {
            version: VERSION,
            epoch,
            site: self.site.clone(),
            node: self.me.clone(),
            from: Some(primary.holder.clone()),
            operation: primary.state.operation().cloned(),
            floor: next.floor.clone(),
            at,
            stopping_at,
            lost_bytes: 0,
            promotions: Vec::new(),
            unknown: Unknown::new(),
        };
        let history_key = self.keys.history(epoch);
        let txn = Txn::new()
            .when(self.at(self.keys.primary(), primary_revision))
            .when(Compare::Absent { key: history_key.clone() })
            .then(Change::put(self.keys.primary(), next.encode()))
            .then(Change::put(self.keys.lease(), record.encode()))
            .then(Change::put(history_key, history.encode()));
        let sent = self.clock.now();
        let revision = self.txn("take", txn, timing.call_timeout).await?;
        Ok(Adopted {
            record,
            lease_revision: revision,
            primary_revision: revision,
            sent,
            timing,
            electorate: next.electorate,
            span_max: next.span_max,
        })
    }

    /// *roll-back* by A's leader: take and roll-back compare the same revision, so one wins.
    pub async fn roll_back(
        &self,
        primary: &Primary,
        primary_revision: u64,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let next = primary.rolled_back()?;
        let txn = Txn::new()
            .when(self.at(self.keys.primary(), primary_revision))
            .then(Change::put(self.keys.primary(), next.encode()));
        self.txn("roll-back", txn, timeout).await
    }

    /// The holder of the lease records the identity of a database it has just made.
    pub async fn record_identity(
        &self,
        primary: &Primary,
        (primary_revision, lease_revision): (u64, u64),
        system_identifier: SystemIdentifier,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let next = Primary { system_identifier: Some(system_identifier), ..primary.clone() };
        let txn = Txn::new()
            .when(self.at(self.keys.primary(), primary_revision))
            .when(self.at(self.keys.lease(), lease_revision))
            .then(Change::put(self.keys.primary(), next.encode()));
        self.txn("record identity", txn, timeout).await
    }

    /// The holder of the lease adds a promotion to the history of its epoch: the take comes before
    /// the promotion, and a site may fail over inside an epoch.
    pub async fn record_promotion(
        &self,
        history: &EpochHistory,
        (history_revision, lease_revision): (u64, u64),
        promotion: HistoryPoint,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let key = self.keys.history(history.epoch);
        let mut next = history.clone();
        next.promotions.push(promotion);
        let txn = Txn::new()
            .when(self.at(key.clone(), history_revision))
            .when(self.at(self.keys.lease(), lease_revision))
            .then(Change::put(key, next.encode()));
        self.txn("record promotion", txn, timeout).await
    }

    /// Writes this site's report.
    pub async fn report(&self, value: Vec<u8>, timeout: Duration) -> Result<(), StoreError> {
        let put = Change::put(self.keys.report(&self.site), value);
        self.store.txn(Txn::new().then(put), timeout).await.map(|_| ())
    }
}
