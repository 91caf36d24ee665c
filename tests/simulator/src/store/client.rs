//! A process's access to a store: requests and answers are messages that take time, get lost, and
//! arrive after their sender has given up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use regent_dcs::clock::BootClock;
use regent_dcs::{
    Entry, Event, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError, Txn,
    TxnOutcome, Watch, WatchError,
};

use super::{Answer, Request};
use crate::mutants::Mutant;
use crate::tasks::ProcessClock;
use crate::world::{ProcessId, Sim, World};

/// A request in flight.
#[derive(Debug)]
pub struct Call {
    /// Which store.
    pub store: usize,
    /// Whose.
    pub process: ProcessId,
    /// What came back.
    pub answer: Option<Answer>,
    /// Who waits.
    pub waker: Option<Waker>,
}

/// A watch that a process has open.
#[derive(Debug)]
pub struct Watching {
    /// Which store.
    pub store: usize,
    /// Whose.
    pub process: ProcessId,
    prefix: String,
    after: Revision,
    /// A delivery is on its way.
    pub pending: bool,
    buffer: Vec<Event>,
    failed: Option<WatchError>,
    waker: Option<Waker>,
}

/// One process's handle.
#[derive(Clone)]
pub struct SimStore {
    sim: Sim,
    clock: BootClock,
    process: ProcessId,
    store: usize,
    /// What mutants answer with.
    last: Arc<Mutex<Last>>,
}

/// The last good answers.
#[derive(Debug, Default)]
struct Last {
    ttl: Option<Duration>,
    bound: Option<Entry>,
    /// The lease that was granted, or renewed.
    lease: Option<LeaseId>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({}, process {})", self.store, self.process.0)
    }
}

impl SimStore {
    /// A handle of this process.
    #[must_use]
    pub fn new(sim: &Sim, process: ProcessId, store: usize) -> Self {
        let (clock, last) = (ProcessClock::of(sim, process), Arc::default());
        Self { sim: sim.clone(), clock, process, store, last }
    }

    async fn call(
        &self,
        request: Request,
        timeout: Duration,
        write: bool,
    ) -> Result<Answer, StoreError> {
        let action = match &request {
            Request::Get(_) => "get",
            Request::Range(_) => "read all",
            Request::Txn(_) => "change",
            Request::Grant(_) => "grant a lease",
            Request::Renew(_) => "renew a lease",
            Request::Revoke(_) => "end a lease",
            Request::Watch(..) => "watch",
        };
        let action = || action.to_owned();
        if let Some(problem) = request.refused() {
            return Err(StoreError::Refused { store: self.name(), action: action(), problem });
        }
        let until = self.clock.now().plus(timeout);
        let id = self.sim.world().send(self.process, self.store, request);
        let call = Answered { sim: self.sim.clone(), id, timer: self.clock_at(until) };
        let (answer, store) = (call.await, || self.name());
        let answer = match answer {
            Some(Answer::Refused(problem)) => {
                Err(StoreError::Refused { store: store(), action: action(), problem })
            }
            Some(Answer::NotDone(problem)) => {
                Err(StoreError::NotDone { store: store(), action: action(), problem })
            }
            Some(answer) => Ok(answer),
            None => {
                let (store, action, problem) = (store(), action(), "no answer came".to_owned());
                Err(if write {
                    StoreError::Unknown { store, action, waited: timeout, problem }
                } else {
                    StoreError::NotDone { store, action, problem }
                })
            }
        };
        self.sim.world().store_said(&answer);
        answer
    }

    fn mutant(&self) -> Mutant {
        self.sim.world().mutant
    }

    /// A mutant's: a key that carries the name of this node hangs on its own lease, whosever that was.
    fn by_name(&self, entry: &mut Entry) {
        let world = self.sim.world();
        let node = world.programs.get(self.process.0).and_then(|program| program.node);
        let name = node.map(|n| world.nodes[n].name.as_str().as_bytes());
        if world.mutant == Mutant::ElectedByName
            && entry.lease.is_some()
            && name.is_some_and(|name| entry.value == name)
        {
            entry.lease = self.last().lease.or(entry.lease);
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_at(&self, until: regent_proto::time::BootTime) -> BoxFuture<'static, ()> {
        let clock = self.clock.clone();
        Box::pin(async move { clock.reach(until).await })
    }

    fn odd(&self, answer: &Answer) -> StoreError {
        let (store, problem) = (self.name(), format!("it answered {answer:?}"));
        StoreError::Refused { store, action: "answer what was asked".to_owned(), problem }
    }
}

/// Ready with the answer, or with nothing when the time is up.
struct Answered {
    sim: Sim,
    id: u64,
    timer: BoxFuture<'static, ()>,
}

impl Future for Answered {
    type Output = Option<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut world = self.sim.world();
            if let Some(call) = world.calls.get_mut(&self.id) {
                if let Some(answer) = call.answer.take() {
                    return Poll::Ready(Some(answer));
                }
                call.waker = Some(context.waker().clone());
            }
        }
        self.timer.as_mut().poll(context).map(|()| None)
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.sim.world().calls.remove(&self.id);
    }
}

#[async_trait]
impl Store for SimStore {
    fn name(&self) -> String {
        "simulated".to_owned()
    }

    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError> {
        if self.mutant() == Mutant::OpeningBeforeTheLinearizableRead
            && let Some(entry) = &self.last().bound
        {
            return Ok(Some(entry.clone()));
        }
        match self.call(Request::Get(key.to_owned()), timeout, false).await {
            Err(_) if self.mutant() == Mutant::UnknownExtends => Ok(self.last().bound.clone()),
            Err(error) => Err(error),
            Ok(Answer::Entry(mut entry)) => {
                if let Some(entry) = &mut entry {
                    self.by_name(entry);
                }
                self.last().bound = entry.clone().filter(|entry| entry.lease.is_some());
                Ok(entry)
            }
            Ok(other) => Err(self.odd(&other)),
        }
    }

    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError> {
        match self.call(Request::Range(prefix.to_owned()), timeout, false).await? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            other => Err(self.odd(&other)),
        }
    }

    async fn txn(&self, mut txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError> {
        let mutant = self.mutant();
        if mutant != Mutant::None {
            let program = self.sim.world().programs.get(self.process.0).and_then(|p| p.node);
            mutant.bend(&mut txn, program.is_none());
        }
        match self.call(Request::Txn(txn), timeout, true).await? {
            Answer::Txn(outcome) => Ok(outcome),
            other => Err(self.odd(&other)),
        }
    }

    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError> {
        match self.call(Request::Grant(ttl), timeout, true).await? {
            Answer::Granted(lease) => {
                self.last().lease = Some(lease.id);
                Ok(lease)
            }
            other => Err(self.odd(&other)),
        }
    }

    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        let sent = self.clock.now();
        match self.call(Request::Renew(lease), timeout, true).await {
            Err(error) => match self.last().ttl {
                Some(ttl) if self.mutant() == Mutant::UnknownExtends => {
                    Ok(Renewal::Renewed { ttl })
                }
                Some(_) | None => Err(error),
            },
            Ok(Answer::Renewal(Renewal::Renewed { ttl })) => {
                self.last().lease = Some(lease);
                let before = self.last().ttl.replace(ttl);
                if let Some(before) =
                    before.filter(|_| self.mutant() == Mutant::TtlOfTheFormerLease)
                {
                    self.last().ttl = Some(before.max(ttl));
                    return Ok(Renewal::Renewed { ttl: before.max(ttl) });
                }
                let late = self.clock.now().since(sent);
                // As if the deadline counted from the answer.
                let anchored = self.mutant() == Mutant::DeadlineAnchoredAtReceive;
                Ok(Renewal::Renewed { ttl: if anchored { ttl + late } else { ttl } })
            }
            Ok(Answer::Renewal(renewal)) => Ok(renewal),
            Ok(other) => Err(self.odd(&other)),
        }
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError> {
        self.call(Request::Revoke(lease), timeout, true).await.map(|_| ())
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError> {
        let request = Request::Watch(prefix.to_owned(), after);
        match self.call(request, timeout, false).await.map_err(WatchError::Failed)? {
            Answer::Compacted(oldest) => Err(WatchError::Compacted { oldest }),
            Answer::Watching(_) => {
                let watching = Watching {
                    store: self.store,
                    process: self.process,
                    prefix: prefix.to_owned(),
                    after,
                    pending: false,
                    buffer: Vec::new(),
                    failed: None,
                    waker: None,
                };
                let id = self.sim.world().open_watch(watching);
                Ok(Box::new(SimWatch { sim: self.sim.clone(), id }))
            }
            other => Err(WatchError::Failed(self.odd(&other))),
        }
    }
}

struct SimWatch {
    sim: Sim,
    id: u64,
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        self.sim.world().watches.remove(&self.id);
    }
}

struct Next<'a>(&'a SimWatch);

impl Future for Next<'_> {
    type Output = Result<Vec<Event>, WatchError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut world = self.0.sim.world();
        let Some(watching) = world.watches.get_mut(&self.0.id) else { return Poll::Pending };
        if let Some(error) = watching.failed.clone() {
            return Poll::Ready(Err(error));
        }
        if !watching.buffer.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut watching.buffer)));
        }
        watching.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[async_trait]
impl Watch for SimWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        Next(self).await
    }
}

impl World {
    /// The delivery of a watch's news arrives.
    pub(crate) fn deliver(&mut self, id: u64) {
        let Some(watching) = self.watches.get_mut(&id) else { return };
        watching.pending = false;
        let Some(store) = self.stores.get(watching.store) else { return };
        match store.changes(&watching.prefix, watching.after) {
            Ok(events) => {
                watching.after = store.revision();
                watching.buffer.extend(events);
            }
            Err(oldest) => watching.failed = Some(WatchError::Compacted { oldest }),
        }
        if (watching.failed.is_some() || !watching.buffer.is_empty())
            && let Some(waker) = watching.waker.take()
        {
            waker.wake();
        }
    }
}
