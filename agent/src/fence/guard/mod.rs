//! Rung 1 of the fence: a thread that stops PostgreSQL at D − G and kills what is left at K = D − κ,
//! and that freezes it when the clocks cannot be trusted.
//!
//! It owns no store, no socket and no log line on its way: it reads the page and signals processes.
//! Armed before anything opens; disarmed only by whoever has seen the server stopped (I7, I12). A
//! hung agent takes this thread with it; that is what the guardian is for, which reads the same page.
//! The judgements are [`crate::decide::demote`] and [`crate::decide::freeze`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use regent_guardian::page::{self, Page};
use regent_proto::time::{BootTime, Deadline, WatchdogTiming};
use tokio::sync::mpsc;

use super::Deadlines;
use super::measured::Measured;
use super::processes::{DataDirectory, Instance};
use super::sessions::Sessions;
use super::watchdog;
use crate::decide::demote::{self, Demote, DemoteView, Guarded};
use crate::decide::freeze::{self, ClockView, Freeze, Frozen, Pause, Reading};
use crate::decide::guarding::Watched;
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

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
struct State {
    instance: Instance,
    sessions: Sessions,
    stopping: bool,
    /// When this thread asked the server to stop; until the server has ended.
    stop_began: Option<BootTime>,
    /// When it began to kill; until a scan finds nothing.
    kill_began: Option<BootTime>,
    frozen: Option<Frozen>,
    /// What it was frozen with was no right that anybody knew of.
    adopted: bool,
    /// A start of what may write is under way: that nothing lives does not mean that nothing will.
    starting: bool,
    ended: bool,
}

/// Handle of the thread.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<(Mutex<State>, Condvar)>,
    deadlines: Arc<Deadlines>,
    data_dir: PathBuf,
    /// Finds the true path, which waits for a disk: never under the lock, where the thread would wait
    /// with it.
    resolve: fn(&Path) -> io::Result<DataDirectory>,
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
    ) -> io::Result<Self> {
        let page = deadlines.page();
        page.set_kill_budget(settings.kill_budget);
        let mut instance = Instance::open()?;
        if page.guard() != page::Guard::Off {
            instance.set_data(DataDirectory::resolve(&settings.data_dir).ok());
            instance.set_postmaster(Some(page.postmaster_pid()).filter(|pid| *pid > 0));
        }
        // Frozen by a life that ended before it could say more: this one asks for it again.
        let frozen = page.frozen().then(|| freeze_until(&settings, page, boot_time()));
        let state = State {
            instance,
            sessions: Sessions::start()?,
            stopping: false,
            stop_began: None,
            kill_began: None,
            frozen,
            // That it was adopted died with that life. What it carries beside a freeze is let go of
            // at the thaw in any case: by then this life has renewed its own.
            adopted: page.frozen(),
            starting: false,
            ended: false,
        };
        let guard = Self {
            shared: Arc::new((Mutex::new(state), Condvar::new())),
            deadlines,
            data_dir: settings.data_dir.clone(),
            resolve: DataDirectory::resolve,
        };
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

    /// A server that may write is about to be started, until this is told which one it is or that
    /// there is none ([`Self::not_started`]). Until then it is guarded though nothing lives.
    pub fn arm_for_start(&self) {
        self.state().starting = true;
        self.arm(None);
    }

    /// From now on PostgreSQL may be, or become, writable.
    pub fn arm(&self, postmaster: Option<i32>) {
        {
            let mut state = self.state();
            state.starting &= postmaster.is_none();
            // Before the disk is asked: its number may be another's by the time that the disk answers.
            state.instance.set_postmaster(postmaster);
        }
        let data = (self.resolve)(&self.data_dir).ok();
        let mut state = self.state();
        state.instance.set_data(data);
        state.stopping = false;
        state.kill_began = None;
        self.page().set_guard(page::Guard::ByDeadline);
        self.shared.1.notify_all();
    }

    /// A server that may write was found, whose rights nobody knows: it is frozen, so that it
    /// acknowledges nothing, until this life has renewed them. Where it cannot within `bound`, the
    /// server is killed.
    ///
    /// First what the postmaster's number tells, then, once the disk has said it, what works in the
    /// directory: whoever is frozen is kept frozen, newly found ones with them.
    pub fn adopt(&self, postmaster: i32, bound: Duration) {
        {
            let mut state = self.state();
            let page = self.page();
            state.instance.set_postmaster(Some(postmaster));
            page.set_frozen(true);
            state.instance.freeze();
            let since = boot_time();
            state.frozen = Some(Frozen { since, until: since.plus(bound) });
            // Later than the freeze ends by what rung 1 stops earlier: it must not stop what it has
            // just frozen.
            page.set_carried(Deadline::at(since.plus(bound + lead(page, bound))));
            state.adopted = true;
            page.set_guard(page::Guard::ByDeadline);
        }
        self.arm(Some(postmaster));
        self.deadlines.hurry();
    }

    /// What was to be started was not.
    pub fn not_started(&self) {
        self.state().starting = false;
    }

    /// Whether the right to write lies ahead.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.deadlines.writing().lies_ahead(boot_time())
    }

    /// What is watched over.
    #[must_use]
    pub fn watched(&self) -> Watched {
        match self.page().guard() {
            page::Guard::Off => Watched::Nothing,
            page::Guard::ByDeadline | page::Guard::Unknown(_) => Watched::ByDeadline,
            page::Guard::PlannedStop => Watched::Stop,
        }
    }

    /// What this agent measured in its life.
    #[must_use]
    pub fn measured(&self) -> &Measured {
        self.deadlines.measured()
    }

    /// Nothing of the server is left: a stop or kill that this thread began took until now.
    pub fn server_ended(&self) {
        let mut state = self.state();
        if let Some(began) = state.stop_began.take() {
            self.measured().stop.note(boot_time().since(began));
        }
        self.killed(&mut state);
    }

    /// The postmaster has ended: its number may become another's.
    pub fn forget_postmaster(&self) {
        self.state().instance.set_postmaster(None);
    }

    /// A planned stop begins: the deadline of now stays the bound for clients, and `stop_until` is
    /// the end of the stop's span, where there is one (protocol.md rule 5).
    pub fn plan_stop(&self, stop_until: Deadline) {
        let mut state = self.state();
        if self.page().guard() == page::Guard::ByDeadline {
            state.sessions.begin();
            let deadlines = &self.deadlines;
            // What an adopted one carries is time until it is judged, and no right.
            let bound = if state.adopted { deadlines.held() } else { deadlines.writing() };
            self.page().plan_stop(bound, stop_until);
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

    /// Nothing writable runs any more.
    pub fn disarm(&self) {
        let mut state = self.state();
        self.page().set_guard(page::Guard::Off);
        state.starting = false;
        state.stopping = false;
        state.kill_began = None;
    }

    /// A kill that was under way is over: whoever calls has seen that nothing is left.
    fn killed(&self, state: &mut State) {
        if let Some(began) = state.kill_began.take() {
            self.measured().kill.note(boot_time().since(began));
        }
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
                if state.instance.has_postmaster() {
                    state.stop_began.get_or_insert_with(boot_time);
                }
                state.instance.stop();
                state.sessions.end(state.instance.named());
                events.try_send(Fenced::Stopping).ok();
            }
            Demote::KillBackends => {
                let named = state.instance.named();
                if state.sessions.may_be_clients(named, now, settings.kill_budget / 2) {
                    self.kill(state, events);
                }
            }
            Demote::Kill => self.kill(state, events),
        }
        now.plus(AGAIN)
    }

    fn kill(&self, state: &mut State, events: &mpsc::Sender<Fenced>) {
        let began = boot_time();
        if std::mem::take(&mut state.adopted) {
            // Nobody granted it: it must not outlive what it was for.
            self.page().set_carried(Deadline::NEVER);
        }
        if state.instance.kill_all() {
            self.killed(state);
            // What is about to be started would come up with nobody watching.
            if !state.starting {
                state.frozen = None;
                self.page().set_guard(page::Guard::Off);
                self.page().set_frozen(false);
            }
        } else if state.kill_began.is_none() {
            state.kill_began = Some(began);
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
                state.adopted = false;
                // This life has renewed its own, or nothing is guarded.
                page.set_carried(Deadline::NEVER);
                // Whoever is left behind is looked for again, by the next life too, while the word
                // says that there may be somebody: as long as the freeze could have lasted.
                let over = state.frozen.is_none_or(|frozen| now.boot >= frozen.until);
                if state.instance.thaw() || over {
                    state.frozen = None;
                    page.set_frozen(false);
                    events.try_send(Fenced::Thawed(after)).ok();
                }
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
    if watchdog::counts(page) {
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

#[cfg(test)]
mod tests;
