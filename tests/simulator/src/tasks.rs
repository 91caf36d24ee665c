//! The executor: runs the product's own futures, each on behalf of one process, in the order in
//! which they were woken. No threads; a paused process's tasks are not polled.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use regent_dcs::clock::{BootClock, Timepiece};
use regent_proto::time::BootTime;

use crate::event::Event;
use crate::world::{ProcessId, Sim};

/// A future of the product.
pub type Task = BoxFuture<'static, ()>;

/// Woken tasks, in order.
#[derive(Debug, Default)]
pub struct Ready(Mutex<VecDeque<usize>>);

impl Ready {
    fn push(&self, task: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }

    fn pop(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct TaskWaker {
    task: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.task);
        }
    }
}

struct Slot {
    process: ProcessId,
    future: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// All tasks of a run.
#[derive(Default)]
pub struct Tasks {
    slots: Vec<Slot>,
    ready: Arc<Ready>,
}

impl Tasks {
    /// Takes in what the last event began and ended, then polls until nothing is ready.
    pub fn settle(&mut self, sim: &Sim) {
        loop {
            let (spawned, ended, woken) = {
                let mut world = sim.world();
                (
                    std::mem::take(&mut world.spawned),
                    std::mem::take(&mut world.ended),
                    std::mem::take(&mut world.resumed),
                )
            };
            for process in ended {
                for slot in &mut self.slots {
                    if slot.process == process {
                        slot.future = None;
                    }
                }
            }
            for process in woken {
                for slot in &self.slots {
                    if slot.process == process && slot.future.is_some() {
                        Arc::clone(&slot.waker).wake();
                    }
                }
            }
            for (process, future) in spawned {
                let task = self.slots.len();
                let ready = Arc::clone(&self.ready);
                let waker = Arc::new(TaskWaker { task, queued: AtomicBool::new(true), ready });
                self.ready.push(task);
                self.slots.push(Slot { process, future: Some(future), waker });
            }
            let Some(task) = self.ready.pop() else { return };
            self.poll(sim, task);
        }
    }

    fn poll(&mut self, sim: &Sim, task: usize) {
        let Some(slot) = self.slots.get_mut(task) else { return };
        slot.waker.queued.store(false, Ordering::Relaxed);
        let process = slot.process;
        if !sim.world().runs(process) {
            // Dead, or paused: resuming wakes all its tasks.
            return;
        }
        let Some(mut future) = slot.future.take() else { return };
        let waker = Waker::from(Arc::clone(&slot.waker));
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if !done && let Some(slot) = self.slots.get_mut(task) {
            slot.future = Some(future);
        }
        sim.world().polled(process);
    }
}

/// A process's view of its node's boot clock.
#[derive(Clone)]
pub struct ProcessClock {
    sim: Sim,
    process: ProcessId,
}

impl ProcessClock {
    /// As the product takes it.
    #[must_use]
    pub fn of(sim: &Sim, process: ProcessId) -> BootClock {
        let timepiece = Self { sim: sim.clone(), process };
        BootClock::simulated("simulated", Arc::new(timepiece))
    }
}

impl Timepiece for ProcessClock {
    fn now(&self) -> BootTime {
        self.sim.world().boot(self.process)
    }

    fn reach(&self, at: BootTime) -> BoxFuture<'static, ()> {
        Box::pin(Timer { clock: self.clone(), at, armed: None })
    }
}

/// Ready once the clock shows `at`.
struct Timer {
    clock: ProcessClock,
    at: BootTime,
    armed: Option<Arc<AtomicBool>>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut world = this.clock.sim.world();
        if world.boot(this.clock.process) >= this.at {
            return Poll::Ready(());
        }
        let pending = this.armed.as_ref().is_some_and(|armed| armed.load(Ordering::Relaxed));
        if !pending {
            let armed = Arc::new(AtomicBool::new(true));
            let when = world.when(this.clock.process, this.at);
            world.schedule_at(when, Event::Wake(context.waker().clone(), Arc::clone(&armed)));
            this.armed = Some(armed);
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(armed) = &self.armed {
            armed.store(false, Ordering::Relaxed);
        }
    }
}
