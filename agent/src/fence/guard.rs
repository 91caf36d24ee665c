//! Rung 1 of the fence: a thread that stops PostgreSQL at D − G and kills what is left at K = D − κ,
//! and that freezes it when the clocks cannot be trusted.
//!
//! It owns no store, no socket and no log line on its way: it reads the page and signals processes.
//! Armed before anything opens; disarmed only by whoever has seen the server stopped (I7, I12). A
//! hung agent takes this thread with it; that is what the guardian is for, which reads the same page.
//! The judgements are [`crate::decide::demote`] and [`crate::decide::freeze`].

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use regent_guardian::page::{self, Page, WatchdogState, WatchdogStep};
use regent_proto::time::{BootTime, Deadline, WatchdogTiming};
use tokio::sync::mpsc;

use super::Deadlines;
use super::processes::Instance;
use crate::decide::demote::{self, Demote, DemoteView, Guarded};
use crate::decide::freeze::{self, ClockView, Freeze, Frozen, Pause, Reading};
use crate::observe::clock::{boot_time, monotonic};

/// The longest the thread sleeps while it guards: bounds how late it sees a changed deadline.
const SLICE: Duration = Duration::from_millis(50);
/// How soon what was killed is looked for again.
const AGAIN: Duration = Duration::from_millis(5);

/// What the guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The budget for stopping has begun: a fast shutdown was asked for.
    Stopping,
    /// The kill instant has come: what was left was killed.
    Killed,
    /// The clocks jumped, or this process did not run: the server's processes were stopped.
    Frozen(Pause),
    /// Both leases were renewed afterwards: they go on, after this long.
    Thawed(Duration),
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact of the thread")]
struct State {
    instance: Instance,
    stopping: bool,
    killing: bool,
    frozen: Option<Frozen>,
    /// What it was frozen with was no right that anybody knew of.
    adopted: bool,
    ended: bool,
}

/// Handle of the thread.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<(Mutex<State>, Condvar)>,
    deadlines: Arc<Deadlines>,
    data_dir: PathBuf,
}

/// What the thread needs.
#[derive(Debug, Clone)]
pub struct GuardSettings {
    /// The data directory.
    pub data_dir: PathBuf,
    /// G; also the longest that the server may stay frozen.
    pub stop_budget: Duration,
    /// κ.
    pub kill_budget: Duration,
    /// How late a wake may be.
    pub pause_threshold: Duration,
    /// How much two clocks may differ between two wakes: ε.
    pub epsilon: Duration,
}

impl Guard {
    /// Starts the thread, on whatever a former life left in the page. `events` is told what it did;
    /// a full channel is not waited for.
    pub fn start(
        settings: GuardSettings,
        deadlines: Arc<Deadlines>,
        events: mpsc::Sender<Fenced>,
    ) -> std::io::Result<Self> {
        let page = deadlines.page();
        page.set_kill_budget(settings.kill_budget);
        let mut instance = Instance::default();
        if page.guard() != page::Guard::Off {
            instance.resolve(&settings.data_dir);
            instance.postmaster = Some(page.postmaster_pid()).filter(|pid| *pid > 0);
        }
        // Frozen by a life that ended before it could say more: this one asks for it again.
        let frozen = page.frozen().then(|| freeze_until(&settings, page, boot_time()));
        let state = State { instance, frozen, ..State::default() };
        let data_dir = settings.data_dir.clone();
        let guard =
            Self { shared: Arc::new((Mutex::new(state), Condvar::new())), deadlines, data_dir };
        let thread = guard.clone();
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || thread.run(&settings, &events))?;
        Ok(guard)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere must not disarm the fence: the value is plain data.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self) -> &Page {
        self.deadlines.page()
    }

    /// From now on PostgreSQL may be, or become, writable.
    pub fn arm(&self, postmaster: Option<i32>) {
        let mut state = self.state();
        state.instance.resolve(&self.data_dir);
        state.stopping = false;
        state.killing = false;
        state.instance.postmaster = postmaster;
        self.page().set_guard(page::Guard::ByDeadline);
        self.shared.1.notify_all();
    }

    /// A server that may write was found, whose rights nobody knows: it is frozen, so that it
    /// acknowledges nothing, until this life has renewed them. Where it cannot within `bound`, the
    /// server is killed.
    pub fn adopt(&self, postmaster: i32, bound: Duration) {
        {
            let mut state = self.state();
            let page = self.page();
            state.instance.resolve(&self.data_dir);
            state.instance.postmaster = Some(postmaster);
            page.set_frozen(true);
            state.instance.freeze();
            let since = boot_time();
            state.frozen = Some(Frozen { since, until: since.plus(bound) });
            // A little later than the freeze ends: rung 1 must not stop what it has just frozen.
            page.set_carried(Deadline::at(since.plus(bound * 2)));
            state.adopted = true;
        }
        self.arm(Some(postmaster));
    }

    /// The postmaster has ended: its number may become another's.
    pub fn forget_postmaster(&self) {
        self.state().instance.postmaster = None;
    }

    /// A planned stop begins: the deadline of now stays the bound for clients, and `stop_until` is
    /// the end of the stop's span, where there is one (protocol.md rule 5).
    pub fn plan_stop(&self, stop_until: Deadline) {
        let _state = self.state();
        if self.page().guard() == page::Guard::ByDeadline {
            self.page().plan_stop(self.deadlines.writing(), stop_until);
        }
        self.shared.1.notify_all();
    }

    /// How long a planned stop may still take, where an operation gave it a span.
    #[must_use]
    pub fn stop_span_left(&self) -> Duration {
        let orders = self.page().orders();
        match orders.guard {
            page::Guard::PlannedStop => {
                orders.stop_until.left(boot_time()).saturating_sub(orders.kill_budget)
            }
            page::Guard::Off | page::Guard::ByDeadline | page::Guard::Unknown(_) => Duration::ZERO,
        }
    }

    /// Whether it watches over a server by the deadlines themselves, not only by a bound.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.page().guard() == page::Guard::ByDeadline
    }

    /// Nothing writable runs any more.
    pub fn disarm(&self) {
        let mut state = self.state();
        self.page().set_guard(page::Guard::Off);
        state.stopping = false;
        state.killing = false;
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.state().ended = true;
        self.shared.1.notify_all();
    }

    fn run(&self, settings: &GuardSettings, events: &mpsc::Sender<Fenced>) {
        let mut state = self.state();
        let mut before = read_clocks();
        let mut due = before.boot;
        while !state.ended {
            let now = read_clocks();
            self.page().set_agent_heartbeat(now.boot);
            self.keep_clocks(&mut state, settings, events, (before, now, due));
            let until = self.keep_deadline(&mut state, settings, events, now.boot);
            let wait = until.since(boot_time()).min(SLICE);
            before = now;
            due = boot_time().plus(wait);
            let waited = self.shared.1.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Rung 1 proper; when to look again.
    fn keep_deadline(
        &self,
        state: &mut State,
        settings: &GuardSettings,
        events: &mpsc::Sender<Fenced>,
        now: BootTime,
    ) -> BootTime {
        let view = DemoteView {
            now,
            guarded: guarded(self.page()),
            stop_budget: lead(self.page(), settings.stop_budget),
            kill_budget: settings.kill_budget,
            stopping: state.stopping,
        };
        match demote::judge(&view) {
            Demote::Rest(until) => return until,
            Demote::Clear(until) => {
                state.stopping = false;
                return until;
            }
            Demote::Stop => {
                state.stopping = true;
                state.instance.stop();
                events.try_send(Fenced::Stopping).ok();
            }
            Demote::KillBackends => {
                if state.instance.has_clients() {
                    self.kill(state, events);
                }
            }
            Demote::Kill => self.kill(state, events),
        }
        now.plus(AGAIN)
    }

    fn kill(&self, state: &mut State, events: &mpsc::Sender<Fenced>) {
        if state.instance.kill_all() {
            state.killing = false;
            state.frozen = None;
            self.page().set_guard(page::Guard::Off);
            self.page().set_frozen(false);
        } else if !state.killing {
            state.killing = true;
            // Nobody listening is fine: the processes are what counts.
            events.try_send(Fenced::Killed).ok();
        }
    }

    /// Clock discipline.
    fn keep_clocks(
        &self,
        state: &mut State,
        settings: &GuardSettings,
        events: &mpsc::Sender<Fenced>,
        (before, now, due): (Reading, Reading, BootTime),
    ) {
        let page = self.page();
        let view = ClockView {
            now,
            before,
            due,
            epsilon: settings.epsilon,
            threshold: settings.pause_threshold,
            writes: page.guard() == page::Guard::ByDeadline,
            guarded: page.guard() != page::Guard::Off,
            frozen: state.frozen,
            renewed: self.deadlines.renewed(),
        };
        match freeze::judge(&view) {
            Freeze::Leave => {}
            Freeze::Begin(pause) => {
                page.set_frozen(true);
                state.instance.freeze();
                // Only what is sent from here on counts.
                state.frozen = Some(freeze_until(settings, page, boot_time()));
                self.deadlines.hurry();
                events.try_send(Fenced::Frozen(pause)).ok();
            }
            Freeze::Hold => state.instance.freeze(),
            Freeze::Thaw(after) => {
                state.frozen = None;
                if std::mem::take(&mut state.adopted) {
                    page.set_carried(Deadline::NEVER);
                }
                page.set_frozen(false);
                state.instance.thaw();
                events.try_send(Fenced::Thawed(after)).ok();
            }
            Freeze::Kill => self.kill(state, events),
        }
    }
}

fn read_clocks() -> Reading {
    Reading { boot: boot_time(), monotonic: monotonic() }
}

fn freeze_until(settings: &GuardSettings, page: &Page, now: BootTime) -> Frozen {
    let kill_at = page.writing().instant().minus(settings.kill_budget);
    Frozen { since: now, until: now.plus(settings.stop_budget).min(kill_at) }
}

/// How long before the deadline the stop begins: early enough for an armed watchdog, which fires
/// before the deadline, to find nothing to reset.
#[must_use]
pub fn lead(page: &Page, stop_budget: Duration) -> Duration {
    let counts = match (page.watchdog_state(), page.watchdog_step()) {
        (WatchdogState::Armed, _) | (WatchdogState::Failed, WatchdogStep::Ping) => true,
        (
            WatchdogState::Off
            | WatchdogState::Failed
            | WatchdogState::Disarmed
            | WatchdogState::Unknown(_),
            _,
        ) => false,
    };
    if counts {
        WatchdogTiming::fence_lead(Duration::from_secs(page.watchdog_granted_s()), stop_budget)
    } else {
        stop_budget
    }
}

fn guarded(page: &Page) -> Guarded {
    let orders = page.orders();
    match orders.guard {
        page::Guard::Off => Guarded::Nothing,
        page::Guard::PlannedStop => Guarded::Stop { bound: orders.bound, until: orders.stop_until },
        // A newer agent's word that this one does not know guards at least by the deadline.
        page::Guard::ByDeadline | page::Guard::Unknown(_) => Guarded::Until(orders.writing),
    }
}
