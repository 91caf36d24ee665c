//! Rung 1 of the fence: a thread that stops PostgreSQL at D − G and kills what is left at K = D − κ.
//!
//! It owns no store, no socket and no log line on its way: it reads two numbers and signals
//! processes. Armed before anything opens; disarmed only by whoever has seen the server stopped
//! (I7, I12). A hung agent takes this thread with it; the guardian will cover that.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use regent_proto::time::{BootTime, Deadline};
use tokio::sync::mpsc;

use super::{Deadlines, processes};
use crate::observe::clock::boot_time;

/// The longest the thread sleeps: bounds how late it sees a changed deadline.
const SLICE: Duration = Duration::from_millis(50);

/// What the guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The budget for stopping has begun: a fast shutdown was asked for.
    Stopping,
    /// The kill instant has come: what was left was killed.
    Killed,
}

#[derive(Debug, Default)]
struct Armed {
    on: bool,
    postmaster: Option<i32>,
    /// While a planned stop runs the tenure is over (D = 0); the D of before remains the bound by
    /// which the last backend must be gone (protocol.md rule 5).
    bound: Option<Deadline>,
    stopping: bool,
    ended: bool,
}

/// Handle of the thread.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<(Mutex<Armed>, Condvar)>,
    deadlines: Arc<Deadlines>,
}

/// What the thread needs.
#[derive(Debug, Clone)]
pub struct GuardSettings {
    /// The data directory.
    pub data_dir: PathBuf,
    /// G.
    pub stop_budget: Duration,
    /// κ.
    pub kill_budget: Duration,
}

impl Guard {
    /// Starts the thread. `events` is told what it did; a full channel is not waited for.
    pub fn start(
        settings: GuardSettings,
        deadlines: Arc<Deadlines>,
        events: mpsc::Sender<Fenced>,
    ) -> std::io::Result<Self> {
        let guard = Self { shared: Arc::default(), deadlines };
        let thread = guard.clone();
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || thread.run(&settings, &events))?;
        Ok(guard)
    }

    fn armed(&self) -> std::sync::MutexGuard<'_, Armed> {
        // A panic elsewhere must not disarm the fence: the value is plain data.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on PostgreSQL may be, or become, writable.
    pub fn arm(&self, postmaster: Option<i32>) {
        let mut armed = self.armed();
        *armed = Armed { on: true, postmaster, ..Armed::default() };
        self.shared.1.notify_all();
    }

    /// A planned stop has ended the tenure; `before` is the bound that stays.
    pub fn bound_by(&self, before: Deadline) {
        let mut armed = self.armed();
        if armed.on && armed.bound.is_none() {
            armed.bound = Some(before);
        }
        self.shared.1.notify_all();
    }

    /// Whether it watches over a server by the deadlines themselves, not only by a bound.
    #[must_use]
    pub fn watches(&self) -> bool {
        let armed = self.armed();
        armed.on && armed.bound.is_none()
    }

    /// Nothing writable runs any more.
    pub fn disarm(&self) {
        *self.armed() = Armed::default();
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.armed().ended = true;
        self.shared.1.notify_all();
    }

    fn run(&self, settings: &GuardSettings, events: &mpsc::Sender<Fenced>) {
        let mut armed = self.armed();
        while !armed.ended {
            let now = boot_time();
            let wait = if armed.on {
                let deadline = armed.bound.unwrap_or_else(|| self.deadlines.writing());
                act(&mut armed, settings, deadline, now, events)
            } else {
                SLICE * 20
            };
            let waited = self.shared.1.wait_timeout(armed, wait);
            armed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn act(
    armed: &mut Armed,
    settings: &GuardSettings,
    deadline: Deadline,
    now: BootTime,
    events: &mpsc::Sender<Fenced>,
) -> Duration {
    let stop_at = deadline.instant().minus(settings.stop_budget);
    let kill_at = deadline.instant().minus(settings.kill_budget);
    if now >= kill_at {
        let gone = processes::kill_all(&settings.data_dir, armed.postmaster);
        if gone {
            armed.on = false;
        } else {
            // Nobody listening is fine: the processes are what counts.
            events.try_send(Fenced::Killed).ok();
        }
        return Duration::from_millis(5);
    }
    if now >= stop_at && !armed.stopping && armed.bound.is_none() {
        armed.stopping = true;
        if let Some(postmaster) = armed.postmaster {
            processes::signal(postmaster, Signal::SIGINT);
        }
        events.try_send(Fenced::Stopping).ok();
    }
    if now < stop_at {
        armed.stopping = false;
        return SLICE.min(stop_at.since(now));
    }
    SLICE.min(kill_at.since(now))
}
