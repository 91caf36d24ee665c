//! A thread with a connection, and the bound on every wait for it.
//!
//! The point of the bookkeeping here is the answer after a timeout: a call that ran out of time
//! *before* its COMMIT began is called off and certainly not done; only one that ran out of time
//! *within* COMMIT is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use regent_proto::time::BootTime;
use tokio::sync::{mpsc, oneshot};

use super::database::{Database, Fault};
use crate::StoreError;
use crate::clock::BootClock;

/// Calls that may wait for the thread. A caller beyond that waits for its place, within its
/// timeout; agents and coordinators have a handful of calls under way.
const QUEUE: usize = 64;
/// The thread gives up this much before its caller does, so that its exact answer arrives.
const GRACE_MAX: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce(&mut Database) + Send>;

/// Runs calls one after the other on a thread of its own, which ends with the last clone.
#[derive(Clone)]
pub(super) struct Worker {
    store: Arc<str>,
    clock: BootClock,
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    pub(super) fn start(
        thread: &str,
        store: Arc<str>,
        mut database: Database,
    ) -> Result<Self, Fault> {
        let clock = BootClock::kernel().map_err(|error| Fault::NotDone(error.to_string()))?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut database);
                    database.upkeep();
                }
            })
            .map_err(|error| Fault::NotDone(format!("start a thread: {error}")))?;
        Ok(Self { store, clock, jobs })
    }

    /// Runs `work` on the thread and waits for its answer for at most `timeout`.
    pub(super) async fn call<T, W>(
        &self,
        action: String,
        timeout: Duration,
        work: W,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Database, &Permit) -> Result<T, Fault> + Send + 'static,
    {
        let grace = GRACE_MAX.min(timeout / 10);
        let permit = Permit {
            deadline: self.clock.now().plus(timeout - grace),
            clock: self.clock.clone(),
            phase: Arc::new(AtomicU8::new(OPEN)),
        };
        let caller = CallOff(permit.phase.clone());
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            // The receiver is gone when the caller stopped waiting; nobody misses the answer.
            drop(answer.send(permit.check().and_then(|()| work(database, &permit))));
        });
        let wait = async {
            self.jobs.send(job).await.map_err(|_| thread_died())?;
            answered.await.map_err(|_| thread_died())?
        };
        let answer = match tokio::time::timeout(timeout, wait).await {
            Ok(answer) => answer,
            Err(_) if caller.call_off() => {
                Err(Fault::NotDone(format!("no answer within {timeout:?}, called off")))
            }
            Err(_) => Err(Fault::Unknown("COMMIT did not return in time".to_owned())),
        };
        answer.map_err(|fault| match fault {
            // A thread that died within COMMIT can't say how it went.
            Fault::NotDone(problem) if !caller.call_off() => {
                Fault::Unknown(problem).into_error(&self.store, &action, timeout)
            }
            fault => fault.into_error(&self.store, &action, timeout),
        })
    }
}

fn thread_died() -> Fault {
    Fault::NotDone("the store's thread is gone".to_owned())
}

const OPEN: u8 = 0;
const COMMITTING: u8 = 1;
const CALLED_OFF: u8 = 2;

/// The caller's side: calls the work off when the caller stops waiting, also by being dropped.
struct CallOff(Arc<AtomicU8>);

impl CallOff {
    /// Whether the work certainly changes nothing any more.
    fn call_off(&self) -> bool {
        match self.0.compare_exchange(OPEN, CALLED_OFF, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(phase) => phase == CALLED_OFF,
        }
    }
}

impl Drop for CallOff {
    fn drop(&mut self) {
        self.call_off();
    }
}

/// The thread's side: what the work may still do, and until when.
pub(super) struct Permit {
    deadline: BootTime,
    clock: BootClock,
    phase: Arc<AtomicU8>,
}

impl Permit {
    /// For work that no caller waits for.
    pub(super) fn upkeep(clock: &BootClock, patience: Duration) -> Self {
        let deadline = clock.now().plus(patience);
        Self { deadline, clock: clock.clone(), phase: Arc::new(AtomicU8::new(OPEN)) }
    }

    /// For a transaction that is not what the caller asked for (ending leases that are due): its
    /// COMMIT doesn't make the caller's own outcome unknown.
    pub(super) fn aside(&self) -> Self {
        Self {
            deadline: self.deadline,
            clock: self.clock.clone(),
            phase: Arc::new(AtomicU8::new(OPEN)),
        }
    }

    /// When to give up, on the kernel's boot clock.
    pub(super) fn deadline(&self) -> BootTime {
        self.deadline
    }

    /// Whether somebody still waits.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.phase.load(Ordering::Acquire) == CALLED_OFF || self.clock.now() >= self.deadline {
            return Err(Fault::NotDone("its turn came too late".to_owned()));
        }
        Ok(())
    }

    /// From here on the outcome can't be taken back.
    pub(super) fn begin_commit(&self) -> Result<(), Fault> {
        self.phase
            .compare_exchange(OPEN, COMMITTING, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|_| Fault::NotDone("its turn came too late".to_owned()))
    }
}
