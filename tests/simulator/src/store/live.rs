//! A model in real time: for the conformance suite, which holds the models to what the real stores
//! promise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use regent_dcs::clock::BootClock;
use regent_dcs::{
    Entry, Event, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError, Txn,
    TxnOutcome, Watch, WatchError,
};
use tokio::sync::watch;

use super::{Answer, Kind, Request, StoreModel};
use crate::chance::Chance;

/// How often a watch looks for leases that have ended.
const LOOK: Duration = Duration::from_millis(20);

/// A model behind a handle. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Live {
    model: Arc<Mutex<(StoreModel, Chance)>>,
    clock: BootClock,
    changed: Arc<watch::Sender<()>>,
}

impl Live {
    /// An empty one.
    #[must_use]
    pub fn new(kind: Kind, clock: BootClock) -> Self {
        let model = (StoreModel::new(kind, "live", Vec::new()), Chance::new(1));
        let changed = Arc::new(watch::Sender::new(()));
        Self { model: Arc::new(Mutex::new(model)), clock, changed }
    }

    fn lock(&self) -> MutexGuard<'_, (StoreModel, Chance)> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets changes.
    pub fn compact(&self) {
        self.lock().0.compact(0);
    }

    fn ask(&self, request: &Request, timeout: Duration) -> Result<Answer, StoreError> {
        let (store, action) = (self.name(), "ask".to_owned());
        if let Some(problem) = request.refused() {
            return Err(StoreError::Refused { store, action, problem });
        }
        if timeout.is_zero() {
            let problem = "no time".to_owned();
            return Err(StoreError::NotDone { store, action, problem });
        }
        let now = self.clock.now().nanos();
        let mut locked = self.lock();
        let (model, chance) = &mut *locked;
        let answer = model.answer(request, now, chance);
        drop(locked);
        self.changed.send_replace(());
        match answer {
            Answer::Refused(problem) => Err(StoreError::Refused { store, action, problem }),
            Answer::NotDone(problem) => Err(StoreError::NotDone { store, action, problem }),
            answer => Ok(answer),
        }
    }

    fn odd(&self, answer: &Answer) -> StoreError {
        let (store, action) = (self.name(), "answer".to_owned());
        StoreError::Refused { store, action, problem: format!("{answer:?}") }
    }
}

#[async_trait]
impl Store for Live {
    fn name(&self) -> String {
        "model".to_owned()
    }

    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError> {
        match self.ask(&Request::Get(key.to_owned()), timeout)? {
            Answer::Entry(entry) => Ok(entry),
            other => Err(self.odd(&other)),
        }
    }

    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError> {
        match self.ask(&Request::Range(prefix.to_owned()), timeout)? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            other => Err(self.odd(&other)),
        }
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError> {
        match self.ask(&Request::Txn(txn), timeout)? {
            Answer::Txn(outcome) => Ok(outcome),
            other => Err(self.odd(&other)),
        }
    }

    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError> {
        match self.ask(&Request::Grant(ttl), timeout)? {
            Answer::Granted(lease) => Ok(lease),
            other => Err(self.odd(&other)),
        }
    }

    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        match self.ask(&Request::Renew(lease), timeout)? {
            Answer::Renewal(renewal) => Ok(renewal),
            other => Err(self.odd(&other)),
        }
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError> {
        self.ask(&Request::Revoke(lease), timeout).map(|_| ())
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError> {
        let request = Request::Watch(prefix.to_owned(), after);
        match self.ask(&request, timeout).map_err(WatchError::Failed)? {
            Answer::Compacted(oldest) => Err(WatchError::Compacted { oldest }),
            _ => Ok(Box::new(LiveWatch {
                store: self.clone(),
                prefix: prefix.to_owned(),
                after,
                changed: self.changed.subscribe(),
            })),
        }
    }
}

struct LiveWatch {
    store: Live,
    prefix: String,
    after: Revision,
    changed: watch::Receiver<()>,
}

#[async_trait]
impl Watch for LiveWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        loop {
            self.changed.mark_unchanged();
            {
                let now = self.store.clock.now().nanos();
                let mut locked = self.store.lock();
                locked.0.tick(now);
                let events = locked.0.changes(&self.prefix, self.after);
                let events = events.map_err(|oldest| WatchError::Compacted { oldest })?;
                self.after = locked.0.revision();
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            tokio::select! {
                changed = self.changed.changed() => drop(changed),
                () = self.store.clock.sleep(LOOK) => {}
            }
        }
    }
}
