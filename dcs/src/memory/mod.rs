//! A store in memory, for tests: the whole contract, and faults at will.
//!
//! Not kinder than the real ones: leases expire, watches end, answers get lost, a request that its
//! sender gave up may take effect later. Without ordered faults it passes the same conformance
//! suite; with them it shows what the code above does when a store behaves as badly as the contract
//! allows.

mod faults;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use regent_proto::time::BootTime;
use tokio::sync::watch;

use crate::clock::BootClock;
use crate::{
    Entry, Event, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError, Txn,
    TxnOutcome, Watch, WatchError, limits,
};
pub use faults::{Call, Fault, Faults};
use state::State;

/// One process's access to a store in memory. Clones are the same process.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    process: Arc<str>,
    faults: Faults,
}

#[derive(Debug)]
struct Shared {
    clock: BootClock,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl MemoryStore {
    /// An empty store on this clock, with a first process.
    #[must_use]
    pub fn new(clock: BootClock) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            shared: Arc::new(Shared { clock, state: Mutex::new(State::new()), changed }),
            process: "0".into(),
            faults: Faults::none(),
        }
    }

    /// Another process of the same store, with faults of its own.
    #[must_use]
    pub fn process(&self, name: &str) -> Self {
        Self { shared: self.shared.clone(), process: name.into(), faults: Faults::none() }
    }

    /// The faults of this process's calls.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Forgets all but the last `keep` revisions of the change log.
    pub fn compact(&self, keep: u64) {
        self.with_state(|state, _| state.compact(keep));
    }

    /// Ends a lease before its time: no store may, and one that restores a backup or has its clock
    /// broken does. What is above must stay safe.
    pub fn expire_early(&self, lease: LeaseId) {
        self.with_state(|state, _| state.end_lease(lease));
    }

    /// Brings the state up to date, works on it, and wakes the watches if it changed.
    fn with_state<T>(&self, work: impl FnOnce(&mut State, BootTime) -> T) -> T {
        let now = self.shared.clock.now();
        let mut state = self.lock();
        let before = state.revision();
        state.bring_up_to_date(now);
        let result = work(&mut state, now);
        let changed = state.revision() != before;
        drop(state);
        if changed {
            self.shared.changed.send_replace(());
        }
        result
    }

    /// A test that panicked with the lock held has failed already.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, action: &str) -> Told<'_> {
        Told { process: &self.process, action: action.to_owned() }
    }

    /// Lets a read happen, or go wrong.
    async fn read<T>(
        &self,
        call: Call,
        told: Told<'_>,
        timeout: Duration,
        work: impl FnOnce(&mut State, BootTime) -> T,
    ) -> Result<T, StoreError> {
        match self.faults.strike(call) {
            None => {}
            Some(Fault::Refused) => return Err(told.refused("ordered".to_owned())),
            Some(Fault::Delayed(delay)) => {
                let in_time = self.delay(delay, timeout).await;
                in_time.then_some(()).ok_or_else(|| told.not_done())?;
            }
            Some(_) => return Err(told.not_done()),
        }
        if timeout.is_zero() {
            return Err(told.not_done());
        }
        Ok(self.with_state(work))
    }

    /// Lets a write happen, go wrong, or both.
    async fn write<T>(
        &self,
        fault: Option<Fault>,
        told: Told<'_>,
        timeout: Duration,
        work: impl FnOnce(&mut State, BootTime) -> Result<T, String>,
    ) -> Result<T, StoreError> {
        match fault {
            None => {}
            Some(Fault::Refused) => return Err(told.refused("ordered".to_owned())),
            Some(Fault::NotDone) => return Err(told.not_done()),
            Some(Fault::UnknownNotApplied | Fault::UnknownAppliedLater(_)) => {
                return Err(told.unknown(timeout));
            }
            Some(Fault::UnknownApplied) => {
                // The outcome is what the caller doesn't get to know.
                drop(self.with_state(work));
                return Err(told.unknown(timeout));
            }
            Some(Fault::Delayed(delay)) => {
                let in_time = self.delay(delay, timeout).await;
                in_time.then_some(()).ok_or_else(|| told.unknown(timeout))?;
            }
        }
        if timeout.is_zero() {
            return Err(told.not_done());
        }
        self.with_state(work).map_err(|problem| told.refused(problem))
    }

    /// Waits; whether the timeout allowed it.
    async fn delay(&self, delay: Duration, timeout: Duration) -> bool {
        self.shared.clock.reach(self.shared.clock.now().plus(delay.min(timeout))).await;
        delay < timeout
    }
}

/// Words for errors.
struct Told<'a> {
    process: &'a str,
    action: String,
}

impl Told<'_> {
    fn store(&self) -> String {
        format!("memory, process {}", self.process)
    }

    fn refused(&self, problem: String) -> StoreError {
        StoreError::Refused { store: self.store(), action: self.action.clone(), problem }
    }

    fn not_done(&self) -> StoreError {
        let problem = "nobody was reached".to_owned();
        StoreError::NotDone { store: self.store(), action: self.action.clone(), problem }
    }

    fn unknown(&self, waited: Duration) -> StoreError {
        let problem = "no answer came".to_owned();
        StoreError::Unknown { store: self.store(), action: self.action.clone(), waited, problem }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> String {
        self.told("").store()
    }

    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError> {
        let told = self.told(&format!("get {key}"));
        if let Err(problem) = limits::key(key) {
            return Err(told.refused(problem));
        }
        self.read(Call::Get, told, timeout, |state, _| state.get(key)).await
    }

    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError> {
        let told = self.told(&format!("read all of {prefix}"));
        self.read(Call::Range, told, timeout, |state, _| state.range(prefix)).await
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError> {
        let told = self.told(&limits::describe(&txn));
        if let Err(problem) = limits::txn(&txn) {
            return Err(told.refused(problem));
        }
        let fault = self.faults.strike(Call::Txn);
        if let Some(Fault::UnknownAppliedLater(delay)) = fault {
            self.with_state(|state, now| state.send_late(now.plus(delay), txn));
            // Watches have to wake up for it in time.
            self.shared.changed.send_replace(());
            return Err(told.unknown(timeout));
        }
        self.write(fault, told, timeout, |state, _| state.apply(&txn)).await
    }

    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError> {
        let told = self.told(&format!("grant a lease of {ttl:?}"));
        if let Err(problem) = limits::ttl(ttl) {
            return Err(told.refused(problem));
        }
        self.write(self.faults.strike(Call::Grant), told, timeout, |state, now| {
            Ok(state.grant(ttl, now))
        })
        .await
    }

    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        let told = self.told(&format!("renew lease {}", lease.0));
        self.write(self.faults.strike(Call::Renew), told, timeout, |state, now| {
            Ok(state.renew(lease, now))
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError> {
        let told = self.told(&format!("revoke lease {}", lease.0));
        let end = |state: &mut State, _| {
            state.end_lease(lease);
            Ok(())
        };
        self.write(self.faults.strike(Call::Revoke), told, timeout, end).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError> {
        let told = self.told(&format!("watch {prefix} after {after}"));
        let cut = self.faults.cuts();
        let changed = self.shared.changed.subscribe();
        let checked = self
            .read(Call::Watch, told, timeout, |state, _| state.changes(prefix, after).map(drop))
            .await
            .map_err(WatchError::Failed)?;
        checked.map_err(|oldest| WatchError::Compacted { oldest })?;
        Ok(Box::new(MemoryWatch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            after,
            changed,
            cut,
        }))
    }
}

struct MemoryWatch {
    store: MemoryStore,
    prefix: String,
    after: Revision,
    changed: watch::Receiver<()>,
    cut: watch::Receiver<u64>,
}

impl MemoryWatch {
    fn look(&mut self) -> Result<(Vec<Event>, Option<BootTime>), WatchError> {
        self.changed.mark_unchanged();
        let (events, revision, due) = self.store.with_state(|state, _| {
            let events = state.changes(&self.prefix, self.after);
            (events, state.revision(), state.next_due())
        });
        let events = events.map_err(|oldest| WatchError::Compacted { oldest })?;
        self.after = revision;
        Ok((events, due))
    }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        loop {
            // A watch of a store that is in use is never closed: the store holds the senders.
            if self.cut.has_changed().unwrap_or(true) {
                let told = self.store.told(&format!("watch {}", self.prefix));
                return Err(WatchError::Failed(told.not_done()));
            }
            let (events, due) = self.look()?;
            if !events.is_empty() {
                return Ok(events);
            }
            let clock = self.store.shared.clock.clone();
            let due = async move {
                match due {
                    Some(due) => clock.reach(due).await,
                    None => std::future::pending().await,
                }
            };
            // Whatever happened, the loop looks at everything again.
            tokio::select! {
                changed = self.changed.changed() => drop(changed),
                cut = self.cut.changed() => {
                    // Seen only by `has_changed` above, so that a dropped future forgets no cut.
                    self.cut.mark_changed();
                    drop(cut);
                }
                () = due => {}
            }
        }
    }
}
