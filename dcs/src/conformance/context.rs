//! What a case is given: stores, keys of its own, and calls that hold under disturbance.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regent_proto::time::BootTime;

use super::follower::Follower;
use super::{Expectations, Failure, Harness};
use crate::clock::BootClock;
use crate::{
    Change, Compare, Entry, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError,
    Txn, TxnOutcome,
};

/// Between two tries of a call under disturbance.
const PAUSE: Duration = Duration::from_millis(20);

/// A running case.
pub struct Context<'a> {
    harness: &'a dyn Harness,
    prefix: String,
    clock: BootClock,
    marks: AtomicU64,
}

impl<'a> Context<'a> {
    pub(super) fn new(harness: &'a dyn Harness, case: &str) -> Result<Self, Failure> {
        let clock = BootClock::kernel().map_err(|error| Failure(error.to_string()))?;
        let nonce = getrandom::u64().map_err(|error| Failure(error.to_string()))?;
        let prefix = format!("/conformance/{case}-{nonce:016x}/");
        Ok(Self { harness, prefix, clock, marks: AtomicU64::new(0) })
    }

    /// A key that no other case uses.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}keys/{name}", self.prefix)
    }

    pub(super) fn expect(&self) -> Expectations {
        self.harness.expectations()
    }

    pub(super) fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// Waits until the clock shows this.
    pub(super) async fn reach(&self, at: BootTime) {
        self.clock.reach(at).await;
    }

    /// Lets the disturbance begin.
    pub(super) async fn midway(&self) {
        self.harness.midway().await;
    }

    pub(super) async fn compact(&self) -> Result<(), Failure> {
        self.harness.compact().await
    }

    pub(super) async fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        Ok(self.harness.open().await?)
    }

    pub(super) async fn open_many(&self, count: usize) -> Result<Vec<Arc<dyn Store>>, Failure> {
        let mut stores = Vec::new();
        for _ in 0..count {
            stores.push(self.open().await?);
        }
        Ok(stores)
    }

    /// Repeats a call that does no harm when made twice, as long as disturbance may excuse it.
    pub(super) async fn repeat<T, C>(&self, call: impl Fn() -> C) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, StoreError>>,
    {
        let expect = self.expect();
        let give_up = self.now().plus(expect.patience);
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error @ StoreError::Refused { .. }) => return Err(error.into()),
                Err(error) if !expect.disturbed || self.now() > give_up => {
                    return Err(error.into());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    pub(super) async fn get(&self, store: &dyn Store, key: &str) -> Result<Option<Entry>, Failure> {
        self.repeat(|| store.get(key, self.expect().timeout)).await
    }

    pub(super) async fn range(&self, store: &dyn Store, key: &str) -> Result<Snapshot, Failure> {
        self.repeat(|| store.range(key, self.expect().timeout)).await
    }

    /// A short lease, for cases about its end.
    pub(super) async fn grant(&self, store: &dyn Store) -> Result<GrantedLease, Failure> {
        let expect = self.expect();
        self.repeat(|| store.grant(expect.ttl, expect.timeout)).await
    }

    /// A lease that won't end by itself while the case runs, however busy the machine is.
    pub(super) async fn grant_long(&self, store: &dyn Store) -> Result<GrantedLease, Failure> {
        let expect = self.expect();
        self.repeat(|| store.grant(expect.ttl + 2 * expect.patience, expect.timeout)).await
    }

    pub(super) async fn renew(
        &self,
        store: &dyn Store,
        lease: LeaseId,
    ) -> Result<Renewal, Failure> {
        self.repeat(|| store.renew(lease, self.expect().timeout)).await
    }

    pub(super) async fn revoke(&self, store: &dyn Store, lease: LeaseId) -> Result<(), Failure> {
        self.repeat(|| store.revoke(lease, self.expect().timeout)).await
    }

    /// Makes a transaction exactly once, also when answers get lost.
    ///
    /// Under disturbance it carries a mark: a key that must be absent and is written with it. An
    /// unknown outcome is settled by putting something else in the mark's place: if that
    /// succeeds the transaction can't take effect any more, otherwise it has.
    pub(super) async fn txn(&self, store: &dyn Store, txn: Txn) -> Result<TxnOutcome, Failure> {
        let expect = self.expect();
        if !expect.disturbed {
            return Ok(store.txn(txn, expect.timeout).await?);
        }
        let give_up = self.now().plus(expect.patience);
        loop {
            let number = self.marks.fetch_add(1, Ordering::Relaxed);
            let mark = format!("{}marks/{number}", self.prefix);
            let marked = txn
                .clone()
                .when(Compare::Absent { key: mark.clone() })
                .then(Change::put(mark.clone(), "done"));
            let failed = match store.txn(marked, expect.timeout).await {
                Ok(TxnOutcome::Conflict { mut found }) => {
                    // The mark's own: absent, as nobody else uses it.
                    found.pop();
                    return Ok(TxnOutcome::Conflict { found });
                }
                Ok(applied @ TxnOutcome::Applied { .. }) => return Ok(applied),
                Err(error @ StoreError::Unknown { .. }) => {
                    if let Some(revision) = self.settle(store, &mark).await? {
                        return Ok(TxnOutcome::Applied { revision });
                    }
                    error
                }
                Err(error @ StoreError::NotDone { .. }) => error,
                Err(error @ StoreError::Refused { .. }) => return Err(error.into()),
            };
            if self.now() > give_up {
                return Err(failed.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The revision at which the marked transaction took effect; `None` when it never will.
    async fn settle(&self, store: &dyn Store, mark: &str) -> Result<Option<Revision>, Failure> {
        let void = || {
            let txn = Txn::new()
                .when(Compare::Absent { key: mark.to_owned() })
                .then(Change::put(mark, "void"));
            store.txn(txn, self.expect().timeout)
        };
        match self.repeat(void).await? {
            TxnOutcome::Applied { .. } => Ok(None),
            // Done, or voided by an earlier try whose answer was lost.
            TxnOutcome::Conflict { found } => match found.first() {
                Some(Some(entry)) if *entry.value == *b"done" => Ok(Some(entry.modified)),
                Some(Some(_)) => Ok(None),
                _ => Err(Failure(format!("a conflict about {mark}, which is absent"))),
            },
        }
    }

    /// A transaction that has to be applied; its revision.
    pub(super) async fn apply(&self, store: &dyn Store, txn: Txn) -> Result<Revision, Failure> {
        match self.txn(store, txn).await? {
            TxnOutcome::Applied { revision } => Ok(revision),
            TxnOutcome::Conflict { found } => {
                Err(Failure(format!("unexpected conflict, found {found:?}")))
            }
        }
    }

    pub(super) async fn put(
        &self,
        store: &dyn Store,
        key: &str,
        value: impl Into<Vec<u8>> + Send,
    ) -> Result<Revision, Failure> {
        self.apply(store, Txn::new().then(Change::put(key, value))).await
    }

    /// Watches a prefix, again and again if need be.
    pub(super) async fn follow(
        &'a self,
        store: &Arc<dyn Store>,
        prefix: &str,
        after: Revision,
    ) -> Result<Follower<'a>, Failure> {
        Follower::open(self, store.clone(), prefix, after).await
    }
}
