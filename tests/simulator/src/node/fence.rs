//! Rungs 1 and 2 on the model's processes: the product's judgements, and here their effects.
//!
//! In production both look every few milliseconds, because nobody tells them of a changed page. Here
//! they look when a kill instant has come, and within their tick after the page has changed: the
//! same instants, without the idle looks between.

use std::time::Duration;

use regent_agent::decide::demote::{self, Demote, DemoteView, Guarded};
use regent_agent::decide::freeze::{self, ClockView, Freeze, Frozen, Reading};
use regent_agent::fence::guard::lead;
use regent_guardian::decide::{self as guardian, Processes, View, WatchdogAct};
use regent_guardian::page::{self, Flags, Page, WatchdogWanted};
use regent_guardian::tend;
use regent_proto::time::{BootTime, Deadline};

use crate::event::Event;
use crate::mutants::Mutant;
use crate::postgres::Process;
use crate::time::{MS, Nanos, SEC};
use crate::world::World;

/// The longest that rung 1 sleeps while it guards.
const GUARD_SLICE: Nanos = 50 * MS;
/// As rung 2.
const GUARDIAN_TICK: Nanos = 20 * MS;
/// Twenty looks, ten a second.
pub(crate) const HANGS_AFTER: Nanos = 2 * SEC;

impl World {
    fn node_boot(&self, n: usize) -> BootTime {
        self.nodes[n].clock.boot(self.now)
    }

    /// Rung 1 from the agent's configuration.
    fn stop_budget(&self, n: usize) -> Duration {
        self.nodes[n].config.regent.stop_budget.0
    }

    fn kill_budget(&self, n: usize) -> Duration {
        self.nodes[n].config.regent.kill_budget.0
    }

    /// The page has changed: both rungs see it within their ticks.
    pub(crate) fn look_at_page(&mut self, n: usize) {
        let word = self.nodes[n].orders_word();
        if word != self.nodes[n].orders_seen {
            self.nodes[n].orders_seen = word;
            let guard = self.chance.below(GUARD_SLICE);
            let tick = self.chance.below(GUARDIAN_TICK);
            self.look_again(n, self.now + guard);
            self.guardian_again(n, self.now + tick);
        }
    }

    fn look_again(&mut self, n: usize, at: Nanos) {
        if self.nodes[n].guard_due < self.now || at < self.nodes[n].guard_due {
            self.nodes[n].guard_due = at;
            self.schedule_at(at, Event::Guard(n));
        }
    }

    fn guardian_again(&mut self, n: usize, at: Nanos) {
        if self.nodes[n].guardian_due < self.now || at < self.nodes[n].guardian_due {
            self.nodes[n].guardian_due = at;
            self.schedule_at(at, Event::Guardian(n));
        }
    }

    /// From now on the server may be, or become, writable.
    pub(crate) fn arm(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if std::mem::take(&mut node.unfenced) {
            self.counters.count("pause: fence stands again");
            node.refenced = Some(node.page.writing());
        }
        node.guard.stopping = false;
        node.guard.killing = false;
        node.page.set_guard(page::Guard::ByDeadline);
        self.look_again(n, self.now);
        self.look_at_page(n);
    }

    /// A server that may write was found, whose rights nobody knows.
    pub(crate) fn adopt_server(&mut self, n: usize, bound: Duration) {
        let since = self.node_boot(n);
        let node = &mut self.nodes[n];
        node.page.set_frozen(true);
        node.server.frozen = true;
        node.guard.frozen = Some(Frozen { since, until: since.plus(bound) });
        // Later than the freeze ends by what rung 1 stops earlier.
        let lead = lead(&node.page, bound);
        node.page.set_carried(Deadline::at(since.plus(bound + lead)));
        node.guard.adopted = true;
        self.arm(n);
        self.hurry(n);
    }

    /// A planned stop begins.
    pub(crate) fn plan_stop(&mut self, n: usize, until: Deadline) {
        let page = &self.nodes[n].page;
        if page.guard() == page::Guard::ByDeadline {
            let (site, primary) = (page.site_deadline(), page.primary_deadline());
            let held = if page.federated() { site.earlier(primary) } else { site };
            let bound = if self.nodes[n].guard.adopted { held } else { page.writing() };
            page.plan_stop(bound, until);
        }
        self.look_again(n, self.now);
        self.look_at_page(n);
    }

    /// Nothing writable runs any more.
    pub(crate) fn disarm(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.page.set_guard(page::Guard::Off);
        node.guard.stopping = false;
        node.guard.killing = false;
    }

    /// A pause takes the fence away, also from a server that only begins to write: one that recovers,
    /// or is being promoted.
    pub(crate) fn unfence(&mut self, n: usize) {
        self.disarm(n);
        let node = &mut self.nodes[n];
        if node.server.process != Process::Stopped && !std::mem::replace(&mut node.unfenced, true) {
            self.counters.count("pause: fence taken away");
            self.explain(n, "agent", || "NOT FENCED: PAUSED".to_owned());
        }
    }

    fn thaw(&mut self, n: usize) {
        let server = self.server(n);
        server.frozen = false;
        // SIGCONT asks nobody who stopped it.
        server.paused = false;
        self.thawed(n);
    }

    /// Rung 1 looks.
    pub(crate) fn guard(&mut self, n: usize) {
        if self.nodes[n].guard_due != self.now {
            return;
        }
        self.nodes[n].guard_due = 0;
        let Some(process) = self.nodes[n].agent.filter(|p| self.runs(*p)) else { return };
        let late = self.nodes[n].paused_at.take();
        let boot = self.boot(process);
        let clock = &self.nodes[n].clock;
        let now = Reading { boot, monotonic: clock.monotonic(self.now) };
        let before = late.map_or(now, |(_, reading)| reading);
        let slice = Duration::from_nanos(GUARD_SLICE);
        let due = late.map_or(boot, |(_, reading)| reading.boot.plus(slice));
        self.keep_clocks(n, (before, now, due));
        let until = self.keep_deadline(n, boot);
        let frozen = self.nodes[n].guard.frozen.is_some();
        let at = self.nodes[n].clock.when(until).max(self.now + MS);
        let at = if frozen { at.min(self.now + GUARD_SLICE) } else { at };
        if self.nodes[n].page.guard() != page::Guard::Off {
            self.nodes[n].guard_due = at;
            self.schedule_at(at, Event::Guard(n));
        }
    }

    fn keep_deadline(&mut self, n: usize, now: BootTime) -> BootTime {
        let view = DemoteView {
            now,
            guarded: guarded(&self.nodes[n].page),
            stop_budget: lead(&self.nodes[n].page, self.stop_budget(n)),
            kill_budget: self.kill_budget(n),
            stopping: self.nodes[n].guard.stopping,
        };
        match demote::judge(&view) {
            Demote::Rest(until) => return until,
            Demote::Clear(until) => {
                self.nodes[n].guard.stopping = false;
                return until;
            }
            Demote::Stop => {
                self.nodes[n].guard.stopping = true;
                self.explain(n, "guard", || "the deadline is near: stops PostgreSQL".to_owned());
                self.stop_server(n);
            }
            Demote::KillBackends => {
                if self.nodes[n].server.has_clients() {
                    self.guard_kills(n);
                }
            }
            Demote::Kill => self.guard_kills(n),
        }
        now.plus(Duration::from_millis(5))
    }

    fn guard_kills(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if std::mem::take(&mut node.guard.adopted) {
            // Nobody granted it: it does not outlive what it was for.
            node.page.set_carried(Deadline::NEVER);
        }
        if node.server.process == Process::Stopped {
            node.guard.killing = false;
            node.guard.frozen = None;
            node.page.set_guard(page::Guard::Off);
            node.page.set_frozen(false);
        } else {
            node.guard.killing = true;
            self.counters.count("guard: kill");
            self.explain(n, "guard", || "the deadline has come: kills PostgreSQL".to_owned());
            self.kill_server(n);
        }
    }

    fn keep_clocks(&mut self, n: usize, (before, now, due): (Reading, Reading, BootTime)) {
        let node = &self.nodes[n];
        let view = ClockView {
            now,
            before,
            due,
            epsilon: Duration::from_millis(100),
            threshold: node.config.regent.pause_threshold.0,
            writes: node.page.guard() == page::Guard::ByDeadline,
            guarded: node.page.guard() != page::Guard::Off,
            frozen: node.guard.frozen,
            renewed: self.renewed(n),
        };
        match freeze::judge(&view) {
            Freeze::Leave | Freeze::Hold => {}
            Freeze::Begin(pause) => {
                let kill_at = node.page.writing().instant().minus(self.kill_budget(n));
                let until = now.boot.plus(self.stop_budget(n)).min(kill_at);
                let node = &mut self.nodes[n];
                node.page.set_frozen(true);
                if node.server.process != Process::Stopped {
                    node.server.frozen = true;
                }
                node.guard.frozen = Some(Frozen { since: now.boot, until });
                self.hurry(n);
                self.counters.count("guard: freeze");
                self.explain(n, "guard", || format!("freezes PostgreSQL: {pause:?}"));
            }
            Freeze::Thaw(after) => {
                let node = &mut self.nodes[n];
                node.guard.frozen = None;
                node.guard.adopted = false;
                node.page.set_carried(Deadline::NEVER);
                node.page.set_frozen(false);
                self.counters.count("guard: thaw");
                self.explain(n, "guard", || format!("thaws PostgreSQL after {after:?}"));
                self.thaw(n);
            }
            Freeze::Kill => self.guard_kills(n),
        }
    }

    /// A guardian begins with every postmaster: one that is to start, or one that runs. False: it
    /// refuses to start PostgreSQL without the watchdog.
    pub(crate) fn begin_guardian(&mut self, n: usize, starts: bool) -> bool {
        let kill_budget = self.kill_budget(n);
        // One of before that hangs is ended by its agent.
        self.guardian_dies(n);
        let page = self.nodes[n].page.clone();
        page.set_kill_budget(kill_budget);
        tend::enter(&page, self.node_boot(n));
        let rights = [Flags::MEMORY_LOCKED, Flags::REALTIME, Flags::OOM_PROTECTED];
        page.set_flags(rights.into_iter().fold(Flags(0), Flags::with));
        let wanted = page.watchdog_wanted();
        if wanted != WatchdogWanted::Off {
            let (view, opener) = (self.guardian_view(n), self.opener(n));
            let tended = &mut self.nodes[n].guardian.tended;
            let armed = tended.arm_first(&page, &view, || view.now, |terms| opener.open(terms));
            self.touched(n);
            if !armed && wanted == WatchdogWanted::Required && starts {
                self.counters.count("watchdog: no server without it");
                return false;
            }
        }
        self.nodes[n].guardian.alive = true;
        self.guardian_again(n, self.now + MS);
        true
    }

    /// As long as a guardian hangs: its agent, once it has looked for long enough, ends it and starts
    /// another one beside the same server (ADR 24).
    pub(crate) fn pulse(&mut self, n: usize) {
        let node = &self.nodes[n];
        if !node.guardian.alive || !node.guardian.paused {
            return;
        }
        if node.suspended.is_some() || node.agent.is_none_or(|process| !self.runs(process)) {
            // Whoever did not run has not looked.
            self.schedule(HANGS_AFTER, Event::Pulse(n));
            return;
        }
        self.counters.count("guardian: hangs, and is replaced");
        self.explain(n, "agent", || "its guardian hangs: another one".to_owned());
        self.begin_guardian(n, false);
    }

    /// The postmaster has ended: its guardian sees it, unless it does not run either.
    pub(crate) fn guardian_sees_the_end(&mut self, n: usize) {
        let late = self.chance.below(GUARDIAN_TICK);
        self.guardian_again(n, self.now + late / 4);
    }

    /// Rung 2 looks.
    pub(crate) fn guardian(&mut self, n: usize) {
        if self.nodes[n].guardian_due != self.now {
            return;
        }
        self.nodes[n].guardian_due = 0;
        let node = &self.nodes[n];
        if !node.guardian.alive || node.guardian.paused || node.off {
            return;
        }
        let view = self.guardian_view(n);
        let now = view.now;
        let decision = guardian::decide(&view);
        if let Some(because) = decision.kill
            && self.mutant != Mutant::GuardianMissing
        {
            self.nodes[n].guardian.killing = Some(because);
            self.counters.count("guardian: kill");
            self.explain(n, "guardian", || format!("kills PostgreSQL: {because:?}"));
            self.kill_server(n);
        }
        self.tend(n, &view, decision.watchdog);
        if decision.end {
            self.nodes[n].guardian.alive = false;
            self.nodes[n].guardian.killing = None;
            return;
        }
        let orders = &view.orders;
        let kill_at = |deadline: Deadline| deadline.instant().minus(orders.kill_budget);
        let kills = match orders.guard {
            page::Guard::Off => None,
            page::Guard::ByDeadline | page::Guard::Unknown(_) => Some(kill_at(orders.writing)),
            page::Guard::PlannedStop if now < kill_at(orders.bound) => Some(kill_at(orders.bound)),
            page::Guard::PlannedStop => Some(kill_at(orders.stop_until.raised(orders.bound))),
        };
        // While it waits for a ping, for its reason, or for a refused device to be forgotten.
        let tends = (view.watchdog.wanted != WatchdogWanted::Off || view.watchdog.open)
            .then(|| self.next_ping(n, now));
        let Some(next) = kills.into_iter().chain(tends).min() else { return };
        // Its sleep ends within a tick of the instant.
        let late = self.chance.below(GUARDIAN_TICK);
        let at = self.nodes[n].clock.when(next).max(self.now + MS) + late / 4;
        self.guardian_again(n, at);
    }
}

impl World {
    fn guardian_view(&self, n: usize) -> View {
        let (node, now) = (&self.nodes[n], self.node_boot(n));
        View {
            now,
            orders: node.page.orders(),
            postmaster: node.server.process != Process::Stopped,
            processes: match (node.server.process, node.server.has_clients()) {
                (Process::Stopped, _) => Processes::None,
                (_, true) => Processes::Client,
                (_, false) => Processes::Harmless,
            },
            killing: node.guardian.killing,
            watchdog: node.guardian.tended.seen(&node.page, now),
        }
    }

    fn tend(&mut self, n: usize, view: &View, act: Option<WatchdogAct>) {
        let (page, now, opener) = (self.nodes[n].page.clone(), self.node_boot(n), self.opener(n));
        let node = &mut self.nodes[n];
        if self.mutant == Mutant::WatchdogStoppedWithTheServer
            && node.server.process == Process::Stopping
        {
            node.guardian.tended.disarm(&page);
            return self.touched(n);
        }
        let open = node.guardian.tended.is_open();
        node.guardian.tended.tend(&page, (view, act), || now, |terms| opener.open(terms));
        self.touched(n);
        let since = now.since(page.watchdog_last_ping());
        if self.mutant == Mutant::PingAfterTheDeadline && open && since >= view.watchdog.timeout / 4
        {
            self.ping_anyway(n);
        }
    }

    /// When a ping is due, or may be allowed by a renewal meanwhile.
    fn next_ping(&self, n: usize, now: BootTime) -> BootTime {
        let node = &self.nodes[n];
        let watchdog = node.guardian.tended.seen(&node.page, now);
        let due = watchdog.last_ping.plus(watchdog.timeout / 4);
        if watchdog.open && due > now { due } else { now.plus(Duration::from_millis(200)) }
    }
}

fn guarded(page: &Page) -> Guarded {
    let orders = page.orders();
    match orders.guard {
        page::Guard::Off => Guarded::Nothing,
        page::Guard::PlannedStop => Guarded::Stop { bound: orders.bound, until: orders.stop_until },
        page::Guard::ByDeadline | page::Guard::Unknown(_) => Guarded::Until(orders.writing),
    }
}
