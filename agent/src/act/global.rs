//! Transactions on the global quorum that a site's leader makes: protocol.md section 2, rows
//! *acquire*, *token*, *take*, *promote*, *roll-back*, and the identity of a new database.
//!
//! What each compares and puts stands in [`regent_proto::transactions`]; here it is sent. An unknown
//! outcome is returned as such: the next decision reads.

use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{Change, Compare, Revision, Store, StoreError, Txn};
use regent_proto::edges::NoEdge;
use regent_proto::epoch::Epoch;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, SiteName, SystemIdentifier};
use regent_proto::promotion::Loss;
use regent_proto::record::{EpochHistory, Lease, Primary, Record as _, Token, Unknown, VERSION};
use regent_proto::time::{LeaseTiming, WallTime};
use regent_proto::timeline::HistoryPoint;
use regent_proto::transactions::{self, Read, Taker, Transaction, Unchanged};

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
fn new_lease(store: &GlobalStore, epoch: Epoch, ttl: Duration) -> Result<Lease, GlobalError> {
    let tenure = store.ids.tenure().ok_or(GlobalError::NoRandomness)?;
    let request = store.ids.request_id().ok_or(GlobalError::NoRandomness)?;
    Ok(Lease {
        version: VERSION,
        site: store.site.clone(),
        node: store.me.clone(),
        tenure,
        epoch,
        counter: 0,
        request,
        ttl,
        released: false,
        unknown: Unknown::new(),
    })
}

/// A transaction as the store takes it.
pub(crate) fn txn(keys: &GlobalKeys, transaction: &Transaction) -> Txn {
    let compare = |unchanged: &Unchanged| {
        let key = keys.of(&unchanged.record);
        match unchanged.revision {
            Some(revision) => Compare::Modified { key, revision: Revision(revision) },
            None => Compare::Absent { key },
        }
    };
    let Transaction { name: _, compares, primary, lease, history } = transaction;
    let primary = primary.as_ref().map(|record| Change::put(keys.primary(), record.encode()));
    let lease = lease.as_ref().map(|record| Change::put(keys.lease(), record.encode()));
    let history =
        history.as_ref().map(|record| Change::put(keys.history(record.epoch), record.encode()));
    Txn {
        compares: compares.iter().map(compare).collect(),
        changes: primary.into_iter().chain(lease).chain(history).collect(),
    }
}

fn read(primary: &Primary, primary_revision: u64, lease_revision: Option<u64>) -> Read<'_> {
    Read { primary, primary_revision, lease_revision }
}

impl GlobalStore {
    async fn send(
        &self,
        transaction: &Transaction,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let outcome = self.store.txn(txn(&self.keys, transaction), timeout).await?;
        outcome.applied().ok_or(GlobalError::Conflict { transaction: transaction.name })
    }

    /// A transaction that puts a new tenure.
    async fn begin(
        &self,
        read: &Read<'_>,
        transaction: Transaction,
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let record = transaction.lease.clone().expect("acquire, take and promote put a new tenure");
        let sent = self.clock.now();
        let revision = self.send(&transaction, timing.call_timeout).await?;
        let primary_revision = match &transaction.primary {
            Some(_) => revision,
            None => Revision(read.primary_revision),
        };
        let primary = transaction.primary_after(read);
        Ok(Adopted {
            record,
            lease_revision: revision,
            primary_revision,
            sent,
            timing,
            electorate: primary.electorate.clone(),
            span_max: primary.span_max,
        })
    }

    /// *acquire*, also take-over inside the site.
    pub async fn acquire(
        &self,
        primary: &Primary,
        (primary_revision, lease_revision): (u64, Option<u64>),
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let read = read(primary, primary_revision, lease_revision);
        let tenure = new_lease(self, primary.epoch, timing.ttl)?;
        self.begin(&read, transactions::acquire(&read, tenure), timing).await
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
        let read = read(primary, primary_revision, Some(lease_revision));
        self.send(&transactions::token(&read, lease, token)?, timeout).await
    }

    /// *take*: the point of no return.
    pub async fn take(
        &self,
        primary: &Primary,
        primary_revision: u64,
        at: WallTime,
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let read = read(primary, primary_revision, None);
        let tenure = new_lease(self, primary.epoch, timing.ttl)?;
        let taker = Taker { site: self.site.clone(), node: self.me.clone(), at };
        self.begin(&read, transactions::take(&read, tenure, taker)?, timing).await
    }

    /// *promote*: after the wait, instead of with a token.
    pub async fn promote(
        &self,
        primary: &Primary,
        primary_revision: u64,
        given_up: (HistoryPoint, Loss),
        at: WallTime,
        timing: LeaseTiming,
    ) -> Result<Adopted, GlobalError> {
        let read = read(primary, primary_revision, None);
        let tenure = new_lease(self, primary.epoch, timing.ttl)?;
        let taker = Taker { site: self.site.clone(), node: self.me.clone(), at };
        self.begin(&read, transactions::promote(&read, given_up, tenure, taker)?, timing).await
    }

    /// *roll-back* by A's leader.
    pub async fn roll_back(
        &self,
        primary: &Primary,
        primary_revision: u64,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let read = read(primary, primary_revision, None);
        self.send(&transactions::roll_back(&read)?, timeout).await
    }

    /// The holder of the lease records the identity of a database it has just made.
    pub async fn record_identity(
        &self,
        primary: &Primary,
        (primary_revision, lease_revision): (u64, u64),
        system_identifier: SystemIdentifier,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let read = read(primary, primary_revision, Some(lease_revision));
        self.send(&transactions::identity(&read, system_identifier), timeout).await
    }

    /// The holder of the lease adds a promotion to the history of its epoch.
    pub async fn record_promotion(
        &self,
        history: &EpochHistory,
        (history_revision, lease_revision): (u64, u64),
        promotion: HistoryPoint,
        timeout: Duration,
    ) -> Result<Revision, GlobalError> {
        let read = (history, history_revision);
        self.send(&transactions::promotion(read, lease_revision, promotion), timeout).await
    }

    /// Writes this site's report.
    pub async fn report(&self, value: Vec<u8>, timeout: Duration) -> Result<(), StoreError> {
        let put = Change::put(self.keys.report(&self.site), value);
        self.store.txn(Txn::new().then(put), timeout).await.map(|_| ())
    }
}
