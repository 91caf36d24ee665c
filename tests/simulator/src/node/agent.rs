//! An agent: the product's renewal loops, mirrors, observers, decision and publisher; only what
//! `regent_agent::run` does between them is done here, in the same order. `start` builds one, `act`
//! performs what it decided, `tell` says what it saw.

use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::failsafe;
use regent_agent::act::global::GlobalStore;
use regent_agent::act::publish::Picture as Told;
use regent_agent::act::site::SiteStore;
use regent_agent::config::Config;
use regent_agent::config::dynamic::Dynamic;
use regent_agent::decide::guarding::{Guarding, Guards, Postmaster, Watched, guarding};
use regent_agent::decide::paused::{self, Fence};
use regent_agent::decide::view::{
    FederationView, FinishedJob, Memory, PeersView, Policy, Process, RequestsView, SiteView, Stage,
    TenureView, UnderWay, View,
};
use regent_agent::decide::{Action, decide};
use regent_agent::fence::renewal::{RenewalThread, Tenures};
use regent_agent::fence::{Deadlines, watchdog};
use regent_agent::observe::failsafe::{FailsafeObserver, Seen};
use regent_agent::observe::global::GlobalObserver;
use regent_agent::observe::mirror::Picture;
use regent_agent::observe::site::SiteObserver;
use regent_agent::run::Row;
use regent_dcs::LeaseId;
use regent_dcs::clock::BootClock;
use regent_guardian::page::{Guard, WatchdogWanted};
use regent_proto::record::Primary;
use regent_proto::time::{BootTime, WallTime};
use tokio::sync::{Notify, watch};

use super::act::Came;
use super::tell::Word;
use crate::mutants::Mutant;
use crate::postgres;
use crate::time::MS;
use crate::world::{ProcessId, Sim};

/// The shortest sleep: a loop that looks again in 3 ms looks again in 20.
const SHORTEST: Duration = Duration::from_millis(20);

/// One life of an agent.
pub(crate) struct Agent {
    pub(super) sim: Sim,
    pub(super) n: usize,
    pub(super) process: ProcessId,
    pub(super) clock: BootClock,
    pub(super) config: Arc<Config>,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) renewal: RenewalThread,
    pub(super) site: SiteStore,
    pub(super) global: Option<GlobalStore>,
    pub(super) dynamic: Dynamic,
    pub(super) marked_at: WallTime,
    pub(super) primary_read: Option<Primary>,
    pub(super) site_pictures: watch::Receiver<Picture>,
    pub(super) global_pictures: Option<watch::Receiver<Picture>>,
    pub(super) site_observer: SiteObserver,
    pub(super) global_observer: Option<GlobalObserver>,
    pub(super) site_seen: Option<(SiteView, BootTime, Option<LeaseId>)>,
    pub(super) global_seen: Option<(FederationView, BootTime)>,
    pub(super) memory: Memory,
    pub(super) finished: Option<FinishedJob>,
    pub(super) wake: Arc<Notify>,
    pub(super) tenures: watch::Receiver<Tenures>,
    pub(super) told: watch::Sender<Option<Arc<Told>>>,
    /// What the listeners read.
    pub(super) pictures: watch::Sender<Option<Arc<Told>>>,
    pub(super) failsafe: failsafe::Shared,
    pub(super) failsafe_observer: FailsafeObserver,
    pub(super) told_last: (Option<Word>, BootTime),
    pub(super) opened: Option<regent_proto::record::Opened>,
    pub(super) suspended: bool,
    pub(super) row: Row,
}

impl Agent {
    /// What is remembered of the cluster outlives this process; where the disk is full, what was before.
    fn keep_cluster(&self) {
        let mut world = self.sim.world();
        let node = &mut world.nodes[self.n];
        if !node.server.full && node.cluster != self.memory.cluster {
            node.cluster.clone_from(&self.memory.cluster);
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if let Some(timing) = self.observe_dynamic() {
                self.renewal.renew_site(timing).await;
            }
            let view = self.observe();
            let mut policy = self.policy();
            self.sim.world().mutant.misread(&mut policy);
            let decision = decide(&policy, &self.memory, &view);
            policy.paused = self.dynamic.pause;
            self.sim.world().decided(self.n, &view, &decision);
            self.note_opening(&view);
            self.keep_fence(&policy, &view);
            self.tell(&view, &decision);
            self.finished = None;
            let asked = decision.memory.request.as_ref().map(|under_way| under_way.stage);
            let again = self.act(&decision.actions, asked, &view).await;
            self.memory = decision.memory;
            self.keep_cluster();
            if self.sim.world().nodes[self.n].mail.stop {
                return self.shut_down(&view).await;
            }
            if self.row.goes_on(again) {
                continue;
            }
            let mut wait = decision.wake_at.since(self.clock.now());
            if self.row.is_long() {
                wait = wait.min(Duration::from_millis(200));
            }
            if !again && !decision.actions.is_empty() {
                wait = wait.min(Duration::from_millis(250));
            }
            if view.postgres.process == Process::Starting {
                wait = wait.min(Duration::from_millis(100));
            }
            self.wait(wait.max(SHORTEST)).await;
        }
    }

    async fn wait(&mut self, wait: Duration) {
        let until = self.clock.now().plus(wait);
        let mut site = self.site_pictures.clone();
        let global = async {
            match &mut self.global_pictures.clone() {
                Some(pictures) => drop(pictures.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.wake.notified() => {}
            changed = site.changed() => drop(changed),
            () = global => {}
            changed = self.tenures.changed() => drop(changed),
            () = self.clock.reach(until) => {}
        }
        if self.sim.world().nodes[self.n].mail.finished.is_some() {
            self.row.end();
        }
    }

    /// A changed dynamic configuration, as the product adopts it.
    fn observe_dynamic(&mut self) -> Option<regent_proto::time::LeaseTiming> {
        let now = self.clock.now();
        let lease = self.renewal.tenures().borrow().lease;
        let fresh = self.site_seen.as_ref().is_none_or(|(_, _, seen)| *seen != lease)
            || self.site_pictures.has_changed().unwrap_or(false);
        if !fresh {
            return None;
        }
        let read = {
            let picture = self.site_pictures.borrow_and_update();
            self.site_observer.read(&picture, lease, now, &self.dynamic)
        };
        let (view, dynamic) = read?;
        self.site_seen = Some((view, now, lease));
        let dynamic = dynamic.filter(|dynamic| *dynamic != self.dynamic)?;
        let mut world = self.sim.world();
        let (dynamic, refused) = self.config.fitted(dynamic, &self.dynamic);
        if let Some(problem) = refused {
            world.counters.count("configuration: timing refused");
            world.explain(self.n, "agent", || format!("timings not taken: {problem}"));
            if dynamic == self.dynamic {
                return None;
            }
        }
        let timing = self.config.site_timing(&dynamic);
        if dynamic.ttl != self.dynamic.ttl {
            world.counters.count("configuration: timing taken");
        }
        for problem in &dynamic.problems {
            world.counters.count("configuration: timing refused");
            world.explain(self.n, "agent", || format!("configuration: {problem}"));
        }
        drop(world);
        self.dynamic = dynamic;
        Some(timing)
    }

    fn site_view(&self, now: BootTime) -> Option<SiteView> {
        let (seen, at, _) = self.site_seen.as_ref()?;
        let mut view = seen.clone();
        view.age = self.site_pictures.borrow().answered.map_or(view.age, |at| now.since(at));
        if view.leader.is_none() {
            view.leaderless += now.since(*at);
        }
        Some(view)
    }

    fn federation_view(&mut self, now: BootTime) -> Option<FederationView> {
        let pictures = self.global_pictures.as_mut()?;
        let epoch = self.sim.world().nodes[self.n].epoch.clone();
        if self.global_seen.is_none() || pictures.has_changed().unwrap_or(false) {
            let picture = pictures.borrow_and_update();
            let view = self.global_observer.as_mut()?.read(&picture, epoch, now);
            self.global_seen = Some((view.clone(), now));
            return Some(view);
        }
        let (seen, at) = self.global_seen.as_ref()?;
        let mut view = seen.clone();
        view.age = pictures.borrow().answered.map(|at| now.since(at));
        if view.primary.is_some() {
            view.primary_age += now.since(*at);
            view.lease_age += now.since(*at);
        }
        view.disk_epoch = epoch;
        Some(view)
    }

    fn observe(&mut self) -> View {
        let now = self.clock.now();
        let tenures = self.tenures.borrow_and_update().clone();
        let site = self.site_view(now);
        let federation = self.federation_view(now);
        let job = self.sim.world().nodes[self.n].job.as_ref().map(|(kind, _)| kind.clone());
        let postgres = self.sim.world().observe_postgres(self.n, job.as_ref());
        let seen = Seen {
            site: site.as_ref(),
            federation: federation.as_ref(),
            postgres: &postgres,
            primary: tenures.primary.as_ref(),
            dynamic: &self.dynamic,
        };
        let failsafe = self.failsafe_observer.read(&seen, now);
        let mut world = self.sim.world();
        let node = &mut world.nodes[self.n];
        if let Some(finished) = node.mail.finished.take() {
            self.finished = Some(finished);
        }
        let peers = node.mail.peers.as_ref();
        let peers = peers
            .map(|(asked, answers)| PeersView { age: now.since(*asked), answers: answers.clone() });
        let checkpoint_runs = node.checkpoint.is_some();
        let under_way = self.memory.request.as_ref();
        let requests = RequestsView {
            asked: node.mail.asked.clone(),
            restarting: under_way.is_some_and(UnderWay::restarts),
            ..RequestsView::default()
        };
        let mut view = View {
            now,
            site,
            federation,
            remote: None,
            postgres,
            tenure: TenureView {
                has_lease: tenures.lease.is_some(),
                site: self.deadlines.site(),
                primary: tenures.primary,
            },
            job,
            checkpoint_runs,
            finished: self.finished.clone(),
            peers,
            guardian: world.observe_guardian(self.n),
            failsafe,
            requests,
        };
        let shortest = watchdog::shortest_lease(&self.config, &self.dynamic, &view);
        let page = self.deadlines.page();
        if view.site.is_some() {
            watchdog::lower(page, &self.config, &shortest);
        }
        view.guardian.watchdog.too_long = !watchdog::bears(page, &shortest);
        let wanted = watchdog::mode(&self.config, &shortest);
        view.guardian.watchdog.wanted = wanted != WatchdogWanted::Off;
        view.guardian.watchdog.required = wanted == WatchdogWanted::Required;
        let mutant = world.mutant;
        if mutant == Mutant::TakeWithoutWalAndFloor {
            // What it writes is the record itself.
            let primary = view.federation.as_ref().and_then(|f| f.primary.as_ref());
            self.primary_read = primary.map(|at| at.value.clone());
        }
        mutant.twist(&self.config.name, &mut view);
        view
    }

    pub(super) fn policy(&self) -> Policy {
        self.dynamic.policy(&self.config, self.site_observer.config())
    }

    fn keep_fence(&mut self, policy: &Policy, view: &View) {
        let mut world = self.sim.world();
        let fence = match paused::fence(policy, view) {
            Fence::Stands if policy.paused && world.mutant == Mutant::PauseUnfencesAFederation => {
                Fence::Suspended
            }
            fence => fence,
        };
        if view.site.is_some() {
            world.nodes[self.n].paused = Some(policy.paused);
        }
        let node = &world.nodes[self.n];
        let guards = Guards {
            watched: match node.page.guard() {
                Guard::Off => Watched::Nothing,
                Guard::ByDeadline | Guard::Unknown(_) => Watched::ByDeadline,
                Guard::PlannedStop => Watched::Stop,
            },
            was_suspended: self.suspended,
            holds: self.deadlines.held().lies_ahead(view.now),
            may_write: self.deadlines.writing().lies_ahead(view.now),
            postmaster: if node.server.process == postgres::Process::Stopped {
                Postmaster::None
            } else {
                Postmaster::Lives
            },
        };
        if world.mutant == Mutant::PauseEndsWithoutTheFence
            && node.unfenced
            && fence == Fence::Stands
        {
            return;
        }
        self.suspended = fence == Fence::Suspended;
        match guarding(fence, view, guards) {
            Guarding::Suspend => world.unfence(self.n),
            Guarding::Keep => {}
            Guarding::Arm => world.arm(self.n),
            Guarding::Freeze => world.adopt_server(self.n, self.config.regent.stop_budget.0),
        }
    }

    fn note_opening(&mut self, view: &View) {
        let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        let held = view.tenure.primary.as_ref().filter(|held| held.deadline.lies_ahead(view.now));
        if let (true, Some(held)) = (writable, held)
            && self.opened.is_none_or(|opened| opened.epoch != held.epoch)
        {
            let at = self.sim.world().wall(self.n);
            self.opened = Some(regent_proto::record::Opened { epoch: held.epoch, at });
        }
    }

    /// Performs in order; true when something was done.
    async fn act(&mut self, actions: &[Action], asked: Option<Stage>, view: &View) -> bool {
        let mut done = Vec::new();
        for action in actions {
            self.sim.world().on_action(self.n, (self.dynamic.pause, asked), action);
            if let Action::Answer { request, answer } = action {
                let mut world = self.sim.world();
                world.explain(self.n, "agent", || format!("answers {request}: {answer:?}"));
                world.nodes[self.n].mail.asked.retain(|asked| asked.number != *request);
                continue;
            }
            if *action == Action::AskPeers {
                self.sim.world().ask_peers(self.n, self.process, view, None);
                return false;
            }
            if let Action::AskCandidates(names) = action {
                self.sim.world().ask_peers(self.n, self.process, view, Some(names));
                return false;
            }
            match self.perform(action, view).await {
                Came::About(touched) => done.push(touched),
                Came::ToNothing(problem) => {
                    let mut world = self.sim.world();
                    world.explain(self.n, "agent", || format!("not done: {problem}"));
                    return false;
                }
                Came::ToAnEnd => {
                    self.sim.world().agent_exits(self.n);
                    std::future::pending::<()>().await;
                }
            }
        }
        for touched in done {
            self.reach(touched).await;
        }
        actions.iter().any(|action| *action != Action::RenewNow)
    }

    /// Own writes are waited for in the pictures, for a bounded time.
    async fn reach(&self, touched: super::act::Touched) {
        let (pictures, revision) = match touched {
            super::act::Touched::Nothing => return,
            super::act::Touched::Site(revision) => (Some(&self.site_pictures), revision),
            super::act::Touched::Global(revision) => (self.global_pictures.as_ref(), revision),
        };
        let Some(mut pictures) = pictures.cloned() else { return };
        let until = self.clock.now().plus(Duration::from_nanos(250 * MS));
        tokio::select! {
            biased;
            found = pictures.wait_for(|picture| picture.revision >= revision) => drop(found),
            () = self.clock.reach(until) => {}
        }
    }
}
