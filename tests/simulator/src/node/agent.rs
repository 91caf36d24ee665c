//! An agent: the product's renewal loops, mirrors, observers, decision and publisher; only what
//! `regent_agent::run` does between them is done here, in the same order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::failsafe::record::Keeper;
use regent_agent::act::fence_report::RoundTrips;
use regent_agent::act::global::GlobalStore;
use regent_agent::act::publish::{self, Picture as Told, Publisher};
use regent_agent::act::random::Ids;
use regent_agent::act::site::SiteStore;
use regent_agent::config::Config;
use regent_agent::config::dynamic::Dynamic;
use regent_agent::decide::guarding::{Guarding, Guards, Postmaster, Watched, guarding};
use regent_agent::decide::paused::{self, Fence};
use regent_agent::decide::slots;
use regent_agent::decide::view::{
    FailsafeView, FederationView, FinishedJob, JobKind, LeaderKey, Memory, PeersView, Policy,
    Process, SiteView, TenureView, View,
};
use regent_agent::decide::{Action, Decision, decide};
use regent_agent::fence::Deadlines;
use regent_agent::fence::renewal::{GlobalSide, RenewalThread, SiteSide, Tenures};
use regent_agent::fence::rounds::SharedLeader;
use regent_agent::observe::global::GlobalObserver;
use regent_agent::observe::mirror::{self, Picture};
use regent_agent::observe::postgres::Extra;
use regent_agent::observe::site::SiteObserver;
use regent_dcs::LeaseId;
use regent_dcs::clock::BootClock;
use regent_guardian::page::Guard;
use regent_guardian::page::Page;
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::name::{NodeName, OperationId};
use regent_proto::record::Primary;
use regent_proto::time::{BootTime, WallTime};
use regent_proto::timeline::TimelineId;
use tokio::sync::{Notify, watch};

use super::act::Came;
use crate::mutants::Mutant;
use crate::postgres;
use crate::store::client::SimStore;
use crate::tasks::ProcessClock;
use crate::time::{MS, SEC};
use crate::world::{ProcessId, Sim, World};

/// Rounds in a row for the same actions, as in the product.
const SAME_MOST: u32 = 5;
/// The shortest sleep: a loop that looks again in 3 ms looks again in 20.
const SHORTEST: Duration = Duration::from_millis(20);

/// One life of an agent.
pub(crate) struct Agent {
    pub(crate) sim: Sim,
    pub(crate) n: usize,
    pub(crate) process: ProcessId,
    pub(crate) clock: BootClock,
    pub(crate) config: Arc<Config>,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) renewal: RenewalThread,
    pub(crate) site: SiteStore,
    pub(crate) global: Option<GlobalStore>,
    pub(crate) dynamic: Dynamic,
    pub(crate) marked_at: WallTime,
    pub(crate) primary_read: Option<Primary>,
    site_pictures: watch::Receiver<Picture>,
    global_pictures: Option<watch::Receiver<Picture>>,
    site_observer: SiteObserver,
    global_observer: Option<GlobalObserver>,
    site_seen: Option<(SiteView, BootTime, Option<LeaseId>)>,
    global_seen: Option<(FederationView, BootTime)>,
    memory: Memory,
    finished: Option<FinishedJob>,
    wake: Arc<Notify>,
    tenures: watch::Receiver<Tenures>,
    told: watch::Sender<Option<Arc<Told>>>,
    told_last: (Option<Word>, BootTime),
    opened: Option<regent_proto::record::Opened>,
    suspended: bool,
    repeated: u32,
}

/// What others are told of at once when it changes.
#[derive(PartialEq)]
struct Word {
    state: &'static str,
    server: Option<(bool, TimelineId, bool)>,
    slots: Option<usize>,
    leads: Option<LeaderKey>,
    lease: Option<LeaseId>,
    checkpointed_for: Option<OperationId>,
    site: Option<(BTreeSet<NodeName>, usize)>,
    primary: Option<u64>,
}

impl World {
    /// Starts the agent of node `n`, on whatever a former life left.
    pub(crate) fn start_agent(&mut self, sim: &Sim, n: usize) {
        if self.nodes[n].agent.is_some() || self.nodes[n].off {
            return;
        }
        let process = self.new_process(n);
        let wake = Arc::new(Notify::new());
        let federated = self.federation.is_some();
        let node = &mut self.nodes[n];
        node.agent = Some(process);
        node.wake = Arc::clone(&wake);
        node.mail = super::Mailbox::default();
        node.job = None;
        node.checkpoint = None;
        node.guard = super::GuardState::default();
        node.paused_at = None;
        if node.guardian.alive {
            // As `fence::successor`: what was granted stays, and counts as carried.
            node.page.carry();
            if node.page.frozen() {
                let now = node.clock.boot(self.now);
                let until = now.plus(node.config.regent.stop_budget.0);
                let frozen = regent_agent::decide::freeze::Frozen { since: now, until };
                node.guard.frozen = Some(frozen);
            }
        } else if let Ok(page) = Page::create() {
            page.set_kill_budget(node.config.regent.kill_budget.0);
            node.page = page;
        }
        let deadlines = Arc::new(Deadlines::new(node.page.clone(), federated));
        node.deadlines = Some(Arc::clone(&deadlines));
        self.adopt_what_runs(n);
        let agent = self.build_agent(sim, n, process, (deadlines, wake));
        self.spawned.push((process, Box::pin(agent.run())));
        self.explain(n, "agent", || "starts".to_owned());
        self.wake_guard(n);
    }

    /// A server that nobody guards is frozen until its rights are known.
    fn adopt_what_runs(&mut self, n: usize) {
        let server = &self.nodes[n].server;
        if server.process == postgres::Process::Stopped || self.nodes[n].guardian.alive {
            return;
        }
        let bound = self.nodes[n].config.regent.stop_budget.0;
        if !self.nodes[n].server.standby_signal {
            self.adopt_server(n, bound);
        }
        self.begin_guardian(n);
    }

    fn build_agent(
        &mut self,
        sim: &Sim,
        n: usize,
        process: ProcessId,
        (deadlines, wake): (Arc<Deadlines>, Arc<Notify>),
    ) -> Agent {
        let node = &self.nodes[n];
        let (config, me) = (Arc::clone(&node.config), node.name.clone());
        let site_index = self.sites[node.site].store;
        let site_known = self.sites[node.site].known.clone();
        let global_known = self.federation.as_ref().map(|f| f.known.clone()).unwrap_or_default();
        let site_name = self.sites[node.site].name.clone();
        let clock = ProcessClock::of(sim, process);
        let keys = SiteKeys::new(&config.namespace, &config.scope);
        let store = |index| Arc::new(SimStore::new(sim, process, index));
        let site = SiteStore { store: store(site_index), keys: keys.clone(), me: me.clone() };
        let dynamic = config.first_dynamic();
        let timing = config.site_timing(&dynamic);
        let (renewal, loops) =
            RenewalThread::wire(Arc::clone(&deadlines), self.federation.is_some());
        let site_side = SiteSide {
            store: store(site_index),
            leader_key: keys.key(SiteKey::Leader),
            me: me.clone(),
            timing: timing.clone(),
            clock: clock.clone(),
            failsafe: None,
        };
        let ids = Ids::Counted(Arc::clone(&self.ids));
        let global = self.federation.as_ref().map(|federation| {
            let keys = GlobalKeys::new(&federation.name);
            let side = GlobalSide {
                store: store(federation.store),
                keys: keys.clone(),
                site: site_name.clone(),
                clock: clock.clone(),
                ids: ids.clone(),
                failsafe: None,
            };
            let store = GlobalStore {
                store: store(federation.store),
                keys,
                site: site_name.clone(),
                me: me.clone(),
                clock: clock.clone(),
                ids: ids.clone(),
            };
            (side, store)
        });
        let (global_side, global) = global.unzip();
        let (publish, site_pictures) = watch::channel(Picture::default());
        let prefix = keys.prefix().to_owned();
        let mirrored =
            mirror::keep(site.store.clone(), prefix, timing.call_timeout, clock.clone(), publish);
        self.spawned.push((process, Box::pin(loops.run(site_side, global_side))));
        self.spawned.push((process, Box::pin(mirrored)));
        let global_pictures = global.as_ref().map(|global: &GlobalStore| {
            let (publish, pictures) = watch::channel(Picture::default());
            let prefix = global.keys.prefix().to_owned();
            let patience = Duration::from_secs(2);
            let mirrored =
                mirror::keep(global.store.clone(), prefix, patience, clock.clone(), publish);
            self.spawned.push((process, Box::pin(mirrored)));
            pictures
        });
        let (told, pictures) = watch::channel(None);
        let publisher = Publisher::new(
            Arc::clone(&config),
            (site.clone(), global.clone()),
            Keeper::new(SharedLeader::default()),
        );
        self.spawned.push((process, Box::pin(publishes(publisher, pictures))));
        let tenures = renewal.tenures();
        Agent {
            sim: sim.clone(),
            n,
            process,
            clock,
            config,
            deadlines,
            renewal,
            site,
            dynamic,
            marked_at: WallTime::default(),
            primary_read: None,
            site_pictures,
            global_pictures,
            site_observer: SiteObserver::sharing(keys, me, site_known),
            global_observer: global
                .as_ref()
                .map(|g| GlobalObserver::sharing(g.keys.clone(), g.site.clone(), global_known)),
            global,
            site_seen: None,
            global_seen: None,
            memory: Memory::default(),
            finished: None,
            wake,
            tenures,
            told,
            told_last: (None, BootTime::default()),
            opened: None,
            suspended: false,
            repeated: 0,
        }
    }
}

async fn publishes(mut publisher: Publisher, mut pictures: watch::Receiver<Option<Arc<Told>>>) {
    while pictures.changed().await.is_ok() {
        let picture = pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            publisher.publish(&picture).await;
        }
    }
}

impl Agent {
    async fn run(mut self) {
        loop {
            if let Some(timing) = self.observe_dynamic() {
                self.renewal.renew_site(timing).await;
            }
            let view = self.observe();
            let policy = self.policy();
            let decision = decide(&policy, &self.memory, &view);
            self.sim.world().decided(self.n, &view, &decision);
            self.note_opening(&view);
            self.keep_fence(&policy, &view);
            self.tell(&view, &decision);
            self.finished = None;
            let again = self.act(&decision.actions, &view).await;
            self.memory = decision.memory;
            if self.sim.world().nodes[self.n].mail.stop {
                return self.shut_down(&view).await;
            }
            if again && !self.spinning(&decision.actions) {
                continue;
            }
            let mut wait = decision.wake_at.since(self.clock.now());
            if self.repeated >= SAME_MOST {
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

    fn spinning(&mut self, actions: &[Action]) -> bool {
        self.repeated = if actions.is_empty() { 0 } else { self.repeated + 1 };
        self.repeated >= SAME_MOST
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
            self.repeated = 0;
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
        self.config.check_timing(&dynamic).ok()?;
        let timing = self.config.site_timing(&dynamic);
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
        }
        view.disk_epoch = epoch;
        Some(view)
    }

    fn observe(&mut self) -> View {
        let now = self.clock.now();
        let tenures = self.tenures.borrow_and_update().clone();
        let site = self.site_view(now);
        let federation = self.federation_view(now);
        let mut world = self.sim.world();
        let node = &mut world.nodes[self.n];
        if let Some(finished) = node.mail.finished.take() {
            self.finished = Some(finished);
        }
        let job: Option<JobKind> = node.job.as_ref().map(|(kind, _)| kind.clone());
        let peers = node.mail.peers.as_ref();
        let peers = peers
            .map(|(asked, answers)| PeersView { age: now.since(*asked), answers: answers.clone() });
        let checkpoint_runs = node.checkpoint.is_some();
        let mut view = View {
            now,
            site,
            federation,
            postgres: world.observe_postgres(self.n, job.as_ref()),
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
            failsafe: FailsafeView::default(),
        };
        let mutant = world.mutant;
        if mutant == Mutant::TakeWithoutWalAndFloor {
            // What it writes is the record itself.
            let primary = view.federation.as_ref().and_then(|f| f.primary.as_ref());
            self.primary_read = primary.map(|at| at.value.clone());
        }
        mutant.twist(&self.config.name, &mut view);
        view
    }

    fn policy(&self) -> Policy {
        self.dynamic.policy(&self.config)
    }

    fn keep_fence(&mut self, policy: &Policy, view: &View) {
        let mut world = self.sim.world();
        let node = &world.nodes[self.n];
        let guard = node.page.guard();
        let guards = Guards {
            watched: match guard {
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
        let fence = paused::fence(policy, view);
        self.suspended = fence == Fence::Suspended;
        match guarding(fence, view, guards) {
            Guarding::Suspend => world.disarm(self.n),
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

    /// Told when something other than a position changed, and now and then.
    fn tell(&mut self, view: &View, decision: &Decision) {
        let status = view.postgres.status.as_ref();
        let leads = view.site.as_ref().and_then(|site| site.leader.as_ref());
        let lease = self.renewal.tenures().borrow().lease;
        let word = Word {
            state: publish::state(view),
            server: status.map(|s| (s.in_recovery, s.ancestry.timeline, s.receiver.is_some())),
            slots: status.map(|s| s.slots.len()),
            leads: leads.cloned(),
            lease,
            checkpointed_for: self.memory.checkpointed_for.clone(),
            site: view.site.as_ref().map(|s| (s.sync.standbys.clone(), s.members.len())),
            primary: view.federation.as_ref().and_then(|f| f.primary.as_ref()).map(|p| p.revision),
        };
        let (last, at) = &self.told_last;
        let every = if self.global.is_some() { 3 * SEC } else { 8 * SEC };
        if last.as_ref() == Some(&word) && view.now.since(*at) < Duration::from_nanos(every) {
            return;
        }
        self.told_last = (Some(word), view.now);
        let wall = self.sim.world().wall(self.n);
        let picture = Told {
            view: view.clone(),
            extra: Extra::default(),
            dynamic: self.dynamic.clone(),
            lease,
            checkpointed_for: self.memory.checkpointed_for.clone(),
            opened: self.opened,
            reaches: self.sim.world().reaches(self.n),
            warnings: Vec::new(),
            reason: decision.reason.to_string(),
            unreadable: BTreeSet::new(),
            progress: None,
            suspended: self.suspended,
            writing: self.deadlines.writing(),
            round_trips: RoundTrips::last(&self.deadlines),
            at: wall,
            dcs_seen: wall,
            fences: self.site_observer.fences().clone(),
            slots: slots::told(&self.policy(), &self.memory, view),
        };
        self.told.send_replace(Some(Arc::new(picture)));
    }

    /// Performs in order; true when something was done.
    async fn act(&mut self, actions: &[Action], view: &View) -> bool {
        let mut done = Vec::new();
        for action in actions {
            if *action == Action::AskPeers {
                self.sim.world().ask_peers(self.n, self.process, view);
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
