//! Joins the rooms: observe, decide, act, and again when something happens or it is time.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use regent_dcs::clock::BootClock;
use regent_guardian::page::{Page, WatchdogWanted};
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::{Opened, Reach};
use regent_proto::time::{BootTime, Deadline, WallTime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::act::epoch_file::EpochFile;
use crate::act::failsafe::record::Keeper;
use crate::act::failsafe::word::Word;
use crate::act::failsafe::{self, SharedGiven, members, sites};
use crate::act::fence_report::RoundTrips;
use crate::act::global::GlobalStore;
use crate::act::jobs::Jobs;
use crate::act::postgres::files::{Files, write_atomically};
use crate::act::postgres::guardian::{Launcher, reap_what_was_left};
use crate::act::postgres::programs::Programs;
use crate::act::postgres::server::Server;
use crate::act::publish::{NOT_FENCED, Picture, Publisher};
use crate::act::random::Ids;
use crate::act::site::{Held, SiteStore};
use crate::act::{Actor, Outcome, Touched, store};
use crate::api;
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::config::watchdog::WatchdogMode;
use crate::decide::paused::{self, Fence};
use crate::decide::view::{
    FinishedJob, GuardianView, JobKind, Memory, PeerAnswer, PeersView, Policy, Process, TenureView,
    View,
};
use crate::decide::{Action, Reason, decide};
use crate::fence::guard::{Fenced, Guard, GuardSettings};
use crate::fence::release::Release;
use crate::fence::renewal::{GlobalSide, RenewalThread, SiteSide};
use crate::fence::rounds::{QuorumRounds, SharedLeader, SiteRounds, Targets, on_this_runtime};
use crate::fence::{Deadlines, successor, watchdog};
use crate::observe::clock::{boot_time, wall_time};
use crate::observe::failsafe::{FailsafeObserver, Seen};
use crate::observe::global::GlobalObserver;
use crate::observe::mirror::Mirror;
use crate::observe::postgres::{ASK_AGAIN, Extra, PostgresObserver};
use crate::observe::site::SiteObserver;
use crate::observe::{guardian, peers, reach};
use crate::upgrade::{self, Upgrade};

/// How often the other sites' replication ports are tried.
const REACH_EVERY: Duration = Duration::from_secs(10);
/// The same actions for the same reason in a row, after which the loop waits a moment: an effect
/// that does not show must not spin.
const SAME_MOST: u32 = 5;

/// How long an agent that ends waits for its leader key's end.
const LETS_GO: Duration = Duration::from_secs(5);

/// A running agent.
pub struct Agent {
    config: Arc<Config>,
    actor: Actor,
    deadlines: Arc<Deadlines>,
    site_mirror: Mirror,
    global_mirror: Option<Mirror>,
    site_observer: SiteObserver,
    global_observer: Option<GlobalObserver>,
    failsafe: FailsafeObserver,
    postgres: PostgresObserver,
    memory: Memory,
    finished: Option<FinishedJob>,
    finished_jobs: mpsc::Receiver<FinishedJob>,
    fenced: mpsc::Receiver<Fenced>,
    peers: Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>,
    peer_answers: watch::Sender<Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>>,
    http: reqwest::Client,
    reaches: watch::Sender<BTreeMap<SiteName, Reach>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    opened: Option<Opened>,
    last_reason: String,
    last_problem: String,
    /// A pause has taken the fence away.
    suspended: bool,
    /// Why the dynamic configuration in the DCS is not in force.
    refused_dynamic: Option<String>,
    repeated: u32,
    stop: CancellationToken,
    upgrade: Upgrade,
    upgrade_asked: bool,
    /// Held for the life of the process.
    _lock: std::fs::File,
}

impl Agent {
    /// Connects, binds, adopts a running server; nothing is changed yet.
    pub async fn build(
        config: Config,
        upgrade: Upgrade,
        inherited_page: Option<i32>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        prepare_places(&config)?;
        let programs = Programs::new(&config.postgres.bin_dir);
        let files = Files::new(&config);
        let lock = lock_run_dir(&config)?;
        files.write_passfile(&config).context("writing the password file")?;
        check_versions(&programs, &files).await?;
        let listeners = api::Listeners::bind(&config).await?;
        reap_what_was_left();
        let page = successor::page(&config.regent.run_dir, inherited_page)
            .context("the guardian's page")?;
        let deadlines = Arc::new(Deadlines::new(page.clone(), config.federation.is_some()));
        let (fenced_events, fenced) = mpsc::channel(16);
        let guard = start_guard(&config, &deadlines, fenced_events)?;
        let server = Arc::new(Server::new(launcher(&config, &files, page)?, guard.clone()));
        let site_keys = SiteKeys::new(&config.namespace, &config.scope);
        let clock = BootClock::kernel().context("reading this boot's identity")?;
        let (failsafe, targets) = open_failsafe(&config)?;
        let asks = (failsafe.leader.clone(), targets.subscribe());
        let renewal = start_renewal(&config, &site_keys, &deadlines, (&clock, asks))?;
        let (site_store, global_store) = open_stores(&config, &site_keys, &clock)?;
        let http = reqwest::Client::builder().no_proxy().build().context("building HTTP client")?;
        refuse_twin(&config, &site_store, &http).await?;
        let dynamic = config.first_dynamic();
        let timeout = config.site_timing(&dynamic).call_timeout;
        let (site_mirror, global_mirror) =
            start_mirrors(&site_store, global_store.as_ref(), timeout, &clock);
        let in_force = files.read_in_force();
        adopt(&config, &server, &files, &guard).await?;
        let (finished_send, finished_jobs) = mpsc::channel(8);
        let (pictures, picture_receiver) = watch::channel(None);
        let keeper = Keeper::new(failsafe.leader.clone(), clock.clone());
        let stores = (site_store.clone(), global_store.clone());
        let publisher = Publisher::new(Arc::clone(&config), stores, keeper);
        tokio::spawn(publish(publisher, picture_receiver.clone()));
        let shared = api::Shared {
            config: Arc::clone(&config),
            pictures: picture_receiver.clone(),
            deadlines: Arc::clone(&deadlines),
            site: site_store.clone(),
            failsafe: failsafe.clone(),
        };
        listeners.serve(&shared);
        let reaches = watch::Sender::new(BTreeMap::new());
        tokio::spawn(ask_reach(
            Arc::clone(&config),
            programs.clone(),
            files.clone(),
            picture_receiver,
            reaches.clone(),
        ));
        Ok(Self {
            site_observer: SiteObserver::new(site_keys, config.name.clone()),
            global_observer: global_store
                .as_ref()
                .map(|global| GlobalObserver::new(global.keys.clone(), global.site.clone())),
            failsafe: FailsafeObserver::new(&config, failsafe.clone(), targets),
            postgres: PostgresObserver::new(Arc::clone(&config), programs.clone(), files.clone()),
            actor: Actor {
                config: Arc::clone(&config),
                programs,
                files,
                epoch_file: EpochFile::new(&config),
                server,
                guard,
                renewal,
                site: site_store,
                global: global_store,
                in_force: Arc::new(Mutex::new(in_force)),
                jobs: Jobs::new(finished_send),
                dynamic,
                failsafe,
                marked_at: WallTime::default(),
            },
            config,
            deadlines,
            site_mirror,
            global_mirror,
            memory: Memory::default(),
            finished: None,
            finished_jobs,
            fenced,
            peers: None,
            peer_answers: watch::Sender::new(None),
            http,
            reaches,
            pictures,
            opened: None,
            last_reason: String::new(),
            last_problem: String::new(),
            suspended: false,
            refused_dynamic: None,
            repeated: 0,
            stop,
            upgrade,
            upgrade_asked: false,
            _lock: lock,
        })
    }

    /// Runs until stopped. As Patroni does on SIGTERM: stops PostgreSQL, then gives the key up.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut wakes = Wakes::new(&self);
        loop {
            let (view, extra) = self.observe().await;
            let policy = self.policy();
            let decision = decide(&policy, &self.memory, &view);
            self.say(&view, &decision.reason);
            self.note_opening(&view);
            self.keep_fence(&policy, &view);
            self.tell(&view, extra, &decision.reason);
            self.finished = None;
            let again = self.act(&decision.actions, &view).await?;
            self.memory = decision.memory;
            if self.stop.is_cancelled() {
                return self.shut_down(&view).await;
            }
            self.upgrade_when_idle(&view).await;
            if again && !self.spinning(&decision.actions) {
                continue;
            }
            let mut wait = decision.wake_at.since(boot_time());
            if self.repeated >= SAME_MOST {
                wait = wait.min(Duration::from_millis(200));
            }
            if !again && !decision.actions.is_empty() {
                wait = wait.min(Duration::from_millis(250));
            }
            if view.postgres.process == Process::Starting {
                wait = wait.min(ASK_AGAIN);
            }
            self.wait(&mut wakes, wait).await;
        }
    }

    /// Puts the fence as a pause, or the end of one, wants it, before anything else is done (I18).
    fn keep_fence(&mut self, policy: &Policy, view: &View) {
        let node = &self.config.name;
        match paused::fence(policy, view) {
            Fence::Suspended => {
                if !self.suspended {
                    tracing::warn!(%node, "{NOT_FENCED}: deadlines stop nothing until the pause ends");
                }
                self.suspended = true;
                self.actor.guard.disarm();
            }
            Fence::Stands => {
                if self.suspended {
                    tracing::info!(%node, "the pause has ended: the fence stands again");
                    self.suspended = false;
                    self.fence_after_pause(view);
                }
                self.guard_what_writes(view);
            }
        }
    }

    /// What runs may have been promoted, or have lost its key, while nobody watched: without a right
    /// that is known it is frozen until it has one, or killed, like a server of a former life.
    fn fence_after_pause(&self, view: &View) {
        let recovers = match &view.postgres.status {
            Some(status) => status.in_recovery,
            None => view.postgres.standby_signal,
        };
        if let Some(postmaster) = self.actor.server.postmaster().filter(|_| !recovers) {
            let now = boot_time();
            let ahead = self.deadlines.writing().lies_ahead(now);
            if ahead {
                self.actor.guard.arm(Some(postmaster.pid));
            } else {
                self.actor.guard.adopt(postmaster.pid, self.config.regent.stop_budget.0);
            }
        }
    }

    /// A server that was found writable (adopted after a restart of the agent) is under the guard
    /// from its first acknowledged deadline on.
    fn guard_what_writes(&self, view: &View) {
        let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        if writable && view.job.is_none() && !self.actor.guard.watches() {
            let ahead = self.deadlines.held().lies_ahead(boot_time());
            if let (true, Some(postmaster)) = (ahead, self.actor.server.postmaster()) {
                self.actor.guard.arm(Some(postmaster.pid));
            }
        }
    }

    /// For people: when this node was first seen writable under an epoch.
    fn note_opening(&mut self, view: &View) {
        let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        let held = view.tenure.primary.as_ref().filter(|held| held.deadline.lies_ahead(view.now));
        if let (true, Some(held)) = (writable, held)
            && self.opened.is_none_or(|opened| opened.epoch != held.epoch)
        {
            self.opened = Some(Opened { epoch: held.epoch, at: wall_time() });
        }
    }

    fn spinning(&mut self, actions: &[Action]) -> bool {
        self.repeated = if actions.is_empty() { 0 } else { self.repeated + 1 };
        self.repeated >= SAME_MOST
    }

    async fn observe(&mut self) -> (View, Extra) {
        let job = self.actor.jobs.running();
        let follows = self.actor.in_force().follow;
        let postmaster = self.actor.server.postmaster();
        let owned = !matches!(job, None | Some(JobKind::CreateUsers));
        let (postgres, extra) = self.postgres.read(postmaster, follows, owned).await;
        let now = boot_time();
        let tenures = self.actor.renewal.tenures().borrow().clone();
        let picture = self.site_mirror.pictures().borrow().clone();
        let read = self.site_observer.read(&picture, tenures.lease, now, &self.actor.dynamic);
        let read = read.map(|(site, dynamic)| {
            (site, dynamic.filter(|dynamic| *dynamic != self.actor.dynamic))
        });
        let site = match read {
            None => None,
            Some((site, None)) => {
                self.refused_dynamic = None;
                Some(site)
            }
            Some((site, Some(dynamic))) => {
                self.adopt_dynamic(dynamic).await;
                Some(site)
            }
        };
        let disk_epoch = self.actor.epoch_file.read();
        let federation = match (&mut self.global_observer, &self.global_mirror) {
            (Some(observer), Some(mirror)) => {
                let picture = mirror.pictures().borrow().clone();
                Some(observer.read(&picture, disk_epoch, now))
            }
            (Some(_) | None, _) => None,
        };
        if let Some(answers) = self.peer_answers.borrow().clone() {
            self.peers = Some(answers);
        }
        let peers = self
            .peers
            .as_ref()
            .map(|(asked, answers)| PeersView { age: now.since(*asked), answers: answers.clone() });
        let seen = Seen {
            site: site.as_ref(),
            federation: federation.as_ref(),
            postgres: &postgres,
            primary: tenures.primary.as_ref(),
            dynamic: &self.actor.dynamic,
        };
        let failsafe = self.failsafe.read(&seen, now);
        let mut view = View {
            now,
            failsafe,
            site,
            federation,
            postgres,
            tenure: TenureView {
                has_lease: tenures.lease.is_some(),
                site: self.deadlines.site(),
                primary: tenures.primary,
            },
            job,
            checkpoint_runs: self.actor.jobs.checkpoint_runs(),
            finished: self.finished.clone(),
            peers,
            guardian: self.guardian_view(now),
        };
        let shortest = watchdog::shortest_lease(&self.config, &self.actor.dynamic, &view);
        let wanted = watchdog::mode(&self.config, &shortest);
        view.guardian.watchdog.wanted = wanted != WatchdogWanted::Off;
        view.guardian.watchdog.required = wanted == WatchdogWanted::Required;
        (view, extra)
    }

    fn guardian_view(&self, now: BootTime) -> GuardianView {
        let server = &self.actor.server;
        let beside = server.beside().borrow().clone();
        guardian::view(self.deadlines.page(), &beside, server.worst_stop(), now)
    }

    /// A changed dynamic configuration is taken whole or not at all (I21).
    async fn adopt_dynamic(&mut self, dynamic: Dynamic) {
        let timing = self.config.site_timing(&dynamic);
        if let Err(error) = self.config.check_timing(&dynamic) {
            let problem = format!("the dynamic configuration is not taken: {error}");
            if self.refused_dynamic.as_ref() != Some(&problem) {
                tracing::warn!(node = %self.config.name, "{problem}");
                self.refused_dynamic = Some(problem);
            }
            return;
        }
        self.refused_dynamic = None;
        self.actor.dynamic = dynamic;
        self.actor.renewal.renew_site(timing).await;
    }

    fn policy(&self) -> Policy {
        self.actor.dynamic.policy(&self.config)
    }

    /// A decision is logged when its reason changes.
    fn say(&mut self, view: &View, reason: &Reason) {
        if matches!(reason, Reason::Busy(_)) {
            // The line before said what was begun.
            return;
        }
        let reason = reason.to_string();
        if self.last_reason == reason {
            return;
        }
        self.last_reason.clone_from(&reason);
        let epoch = view
            .federation
            .as_ref()
            .and_then(|f| f.primary.as_ref())
            .map_or(0, |primary| primary.value.epoch.get());
        tracing::info!(cluster = %self.config.scope, node = %self.config.name, epoch, "{reason}");
    }

    fn tell(&self, view: &View, extra: Extra, reason: &Reason) {
        let mut warnings = self.config.warnings.clone();
        // A configuration that is in force has passed the check.
        warnings.extend(self.config.check_timing(&self.actor.dynamic).unwrap_or_default());
        warnings.extend(self.refused_dynamic.clone());
        warnings.extend(guardian::warnings(&view.guardian));
        if let Reason::EpochUnknown(why) = reason {
            warnings.push(format!("{} stays fenced: {why}", self.config.name));
        }
        if self.actor.dynamic.pause {
            let what = if self.suspended { NOT_FENCED } else { "paused: no automatic failover" };
            warnings.push(what.to_owned());
        }
        if let Some(observer) = &self.global_observer {
            warnings.extend(observer.unreadable().map(|key| format!("unreadable record {key}")));
        }
        let site = self.site_observer.unreadable();
        warnings.extend(site.map(|key| format!("unreadable record {key}")));
        let dcs_age = view.site.as_ref().map_or(u128::MAX, |site| site.age.as_millis());
        let dcs_age = u64::try_from(dcs_age).unwrap_or(u64::MAX);
        let picture = Picture {
            view: view.clone(),
            extra,
            dynamic: self.actor.dynamic.clone(),
            lease: self.actor.lease(),
            checkpointed_for: self.memory.checkpointed_for.clone(),
            opened: self.opened,
            reaches: self.reaches.borrow().clone(),
            warnings,
            reason: self.last_reason.clone(),
            unreadable: self.site_observer.unreadable().cloned().collect(),
            progress: self.actor.jobs.progress().borrow().clone(),
            suspended: self.suspended,
            writing: self.deadlines.writing(),
            round_trips: RoundTrips::last(&self.deadlines),
            at: wall_time(),
            dcs_seen: WallTime(wall_time().0.saturating_sub(dcs_age)),
            fences: self.site_observer.fences().clone(),
        };
        self.pictures.send_replace(Some(Arc::new(picture)));
    }

    /// Performs; true when something was done, so that the world is looked at again at once.
    async fn act(&mut self, actions: &[Action], view: &View) -> anyhow::Result<bool> {
        let mut touched = Vec::new();
        for action in actions {
            if *action == Action::AskPeers {
                self.ask_peers(view);
                return Ok(false);
            }
            let client = self.postgres.client();
            match self.actor.perform(action, view, client).await {
                Outcome::Done(what) => {
                    if matches!(action, Action::Slots { .. }) {
                        self.postgres.forget_surroundings();
                    }
                    touched.push(what);
                }
                Outcome::NotDone(problem) => {
                    if problem != self.last_problem {
                        tracing::warn!(node = %self.config.name, problem, "not done");
                        self.last_problem = problem;
                    }
                    return Ok(false);
                }
                Outcome::Exit(problem) => anyhow::bail!(problem),
            }
        }
        // Own writes are waited for in the pictures: deciding on older ones would only conflict.
        for what in touched {
            match (what, &self.global_mirror) {
                (Touched::Site(revision), _) => self.site_mirror.reach(revision).await,
                (Touched::Global(revision), Some(mirror)) => mirror.reach(revision).await,
                (Touched::Global(_), None) | (Touched::Nothing, _) => {}
            }
        }
        Ok(!actions.is_empty())
    }

    fn ask_peers(&self, view: &View) {
        let mut members = view.site.as_ref().map(|s| s.members.clone()).unwrap_or_default();
        members.remove(&self.config.name);
        let (client, answers) = (self.http.clone(), self.peer_answers.clone());
        let asked = view.now;
        tokio::spawn(async move {
            let found = peers::ask(&client, members).await;
            answers.send_replace(Some((asked, found)));
        });
    }

    async fn wait(&mut self, wakes: &mut Wakes, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            Some(()) = self.upgrade.asked.recv() => self.upgrade_asked = true,
            () = tokio::time::sleep(wait) => {}
            finished = self.finished_jobs.recv() => {
                if let Some(finished) = finished {
                    self.actor.jobs.ended(&finished.job);
                    self.postgres.forget();
                    self.finished = Some(finished);
                    self.repeated = 0;
                }
            }
            fenced = self.fenced.recv() => {
                if let Some(fenced) = fenced {
                    self.say_fenced(fenced);
                }
            }
            () = wakes.changed() => {}
        }
    }

    /// A job's child belongs to this life; the next one would not know of it.
    async fn upgrade_when_idle(&mut self, view: &View) {
        let idle = view.job.is_none()
            && self.actor.jobs.running().is_none()
            && !self.actor.jobs.checkpoint_runs();
        if !self.upgrade_asked || !idle {
            return;
        }
        self.upgrade_asked = false;
        let refusal = upgrade::refusal(&self.config.regent.run_dir);
        drop(std::fs::remove_file(&refusal));
        tracing::info!(node = %self.config.name, "upgrading in place");
        let problem = self.upgrade.perform(self.deadlines.page()).await;
        tracing::error!(node = %self.config.name, problem, "not upgraded: this program goes on");
        if let Err(error) = write_atomically(&refusal, problem.as_bytes()) {
            tracing::warn!(%error, "telling the refusal in the run directory");
        }
    }

    fn say_fenced(&self, fenced: Fenced) {
        let node = &self.config.name;
        match fenced {
            Fenced::Stopping => tracing::warn!(%node, "the deadline is near: stopping PostgreSQL"),
            Fenced::Killed => tracing::warn!(%node, "the deadline has come: PostgreSQL was killed"),
            Fenced::Frozen(pause) => tracing::warn!(
                %node, ?pause,
                "this node did not run, or its clocks differ: PostgreSQL is frozen until the leases \
                 are renewed"
            ),
            Fenced::Thawed(after) => tracing::warn!(
                %node, milliseconds = after.as_millis(), "the leases are renewed: PostgreSQL goes on"
            ),
        }
    }

    async fn shut_down(&mut self, view: &View) -> anyhow::Result<()> {
        if self.suspended {
            // As in Patroni: the server goes on, and so does whoever looks after it by hand.
            tracing::warn!(node = %self.config.name, "stopping; PAUSE: PostgreSQL is left running");
            self.actor.guard.end();
            return Ok(());
        }
        tracing::info!(node = %self.config.name, "stopping");
        self.actor.guard.plan_stop(Deadline::NEVER);
        self.actor.renewal.end_tenure().await;
        let budget = self.config.regent.stop_budget.0;
        if self.actor.server.postmaster().is_some() {
            self.actor.server.stop(&self.actor.files.data_dir, budget, budget).await;
        }
        if self.actor.server.postmaster().is_some() {
            // The guard goes on until its bound; the key is left to expire (I12).
            anyhow::bail!("PostgreSQL could not be stopped; the leader key is left to expire");
        }
        self.actor.guard.disarm();
        self.actor.guard.end();
        let leads = view.site.as_ref().and_then(|site| site.leader.as_ref());
        if let Some(held) = Held::of(leads) {
            // Released only after the stop (I12); the lease would end it a little later anyway.
            let released = self.actor.renewal.release(held);
            match tokio::time::timeout(LETS_GO, released).await {
                Ok(Release::Gone(_)) => {}
                Ok(Release::Kept(problem)) => {
                    tracing::warn!(problem, "the leader key is left to expire");
                }
                Err(_) => tracing::warn!("no answer in time: the leader key is left to expire"),
            }
        }
        Ok(())
    }
}

/// Everything that wakes the loop.
struct Wakes {
    site: watch::Receiver<crate::observe::mirror::Picture>,
    global: Option<watch::Receiver<crate::observe::mirror::Picture>>,
    server: watch::Receiver<Option<crate::act::postgres::server::Postmaster>>,
    beside: watch::Receiver<crate::act::postgres::server::Beside>,
    tenures: watch::Receiver<crate::fence::renewal::Tenures>,
    peers: watch::Receiver<Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>>,
}

impl Wakes {
    fn new(agent: &Agent) -> Self {
        Self {
            site: agent.site_mirror.pictures(),
            global: agent.global_mirror.as_ref().map(Mirror::pictures),
            server: agent.actor.server.watch(),
            beside: agent.actor.server.beside(),
            tenures: agent.actor.renewal.tenures(),
            peers: agent.peer_answers.subscribe(),
        }
    }

    /// A closed channel never wakes: its task is gone and the loop goes on by time alone.
    async fn changed(&mut self) {
        async fn change<T>(receiver: &mut watch::Receiver<T>) {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let global = async {
            match &mut self.global {
                Some(global) => change(global).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = change(&mut self.site) => {}
            () = global => {}
            () = change(&mut self.server) => {}
            () = change(&mut self.beside) => {}
            () = change(&mut self.tenures) => {}
            () = change(&mut self.peers) => {}
        }
    }
}

async fn publish(mut publisher: Publisher, mut pictures: watch::Receiver<Option<Arc<Picture>>>) {
    while pictures.changed().await.is_ok() {
        let picture = pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            publisher.publish(&picture).await;
        }
    }
}

async fn ask_reach(
    config: Arc<Config>,
    programs: Programs,
    files: Files,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
    reaches: watch::Sender<BTreeMap<SiteName, Reach>>,
) {
    let Some(federation) = &config.federation else { return };
    let user = &config.postgres.authentication.replication;
    loop {
        let picture = pictures.borrow_and_update().clone();
        let leads = picture.as_ref().is_some_and(|picture| {
            picture
                .view
                .site
                .as_ref()
                .and_then(|site| site.leader.as_ref())
                .is_some_and(|leader| leader.bound_to_my_lease)
                && picture.view.postgres.status.is_some()
        });
        let mut pause = Duration::from_secs(1);
        if leads
            && let Some(reports) =
                picture.as_ref().and_then(|p| p.view.federation.as_ref()).map(|f| &f.reports)
        {
            let found = reach::ask(&programs, &files, user, reports, &federation.site).await;
            let all = !found.is_empty()
                && found.values().all(|reach| matches!(reach, Reach::Reached { .. }));
            reaches.send_replace(found);
            if all {
                pause = REACH_EVERY;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn open_stores(
    config: &Config,
    site_keys: &SiteKeys,
    clock: &BootClock,
) -> anyhow::Result<(SiteStore, Option<GlobalStore>)> {
    let site = SiteStore {
        store: store::open(&config.dcs)?,
        keys: site_keys.clone(),
        me: config.name.clone(),
    };
    let global = match &config.federation {
        None => None,
        Some(federation) => Some(GlobalStore {
            store: store::open(&federation.quorum)?,
            keys: GlobalKeys::new(&federation.name),
            site: federation.site.clone(),
            me: config.name.clone(),
            clock: clock.clone(),
            ids: Ids::Kernel,
        }),
    };
    Ok((site, global))
}

fn start_mirrors(
    site: &SiteStore,
    global: Option<&GlobalStore>,
    timeout: Duration,
    clock: &BootClock,
) -> (Mirror, Option<Mirror>) {
    let prefix = site.keys.prefix().to_owned();
    let of_site = Mirror::start(Arc::clone(&site.store), prefix, timeout, clock.clone());
    let of_quorum = global.map(|global| {
        let prefix = global.keys.prefix().to_owned();
        Mirror::start(Arc::clone(&global.store), prefix, Duration::from_secs(2), clock.clone())
    });
    (of_site, of_quorum)
}

/// This node's word of before, which it keeps also in this life.
fn open_failsafe(config: &Config) -> anyhow::Result<(failsafe::Shared, watch::Sender<Targets>)> {
    // Beside the epoch: it outlives a reboot as well, which may be over before the promise is.
    let file = EpochFile::new(config).path().with_extension("regent-failsafe");
    let word = Word::open(file.clone(), boot_time()).with_context(|| {
        format!(
            "{}: what this node promised its leader cannot be read; wait one TTL, then remove it",
            file.display()
        )
    })?;
    let shared = failsafe::Shared {
        leader: SharedLeader::default(),
        word: Arc::new(word),
        given: SharedGiven::default(),
    };
    Ok((shared, watch::Sender::new(Targets::default())))
}

fn start_renewal(
    config: &Arc<Config>,
    site_keys: &SiteKeys,
    deadlines: &Arc<Deadlines>,
    (clock, (leader, targets)): (&BootClock, (SharedLeader, watch::Receiver<Targets>)),
) -> anyhow::Result<RenewalThread> {
    let timing = config.site_timing(&config.first_dynamic());
    let leader_key = site_keys.key(SiteKey::Leader);
    let federated = config.federation.is_some();
    let config = Arc::clone(config);
    let clock = clock.clone();
    RenewalThread::start(
        Box::new(move || {
            Box::pin(async move {
                // A client of this thread's own: its connections live on this runtime.
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .redirect(reqwest::redirect::Policy::none())
                    .build()?;
                let site = SiteSide {
                    store: store::open(&config.dcs)?,
                    leader_key,
                    me: config.name.clone(),
                    timing,
                    clock: clock.clone(),
                    failsafe: Some(SiteRounds {
                        leader,
                        ask: members::asker(&config, client),
                        spawn: on_this_runtime(),
                    }),
                };
                let global = match &config.federation {
                    None => None,
                    Some(federation) => Some(GlobalSide {
                        store: store::open(&federation.quorum)?,
                        keys: GlobalKeys::new(&federation.name),
                        site: federation.site.clone(),
                        clock,
                        ids: Ids::Kernel,
                        failsafe: match &federation.promise {
                            None => None,
                            Some(promise) => {
                                let (ask, spawn) = (sites::asker(promise)?, on_this_runtime());
                                Some(QuorumRounds { targets, ask, spawn })
                            }
                        },
                    }),
                };
                Ok((site, global))
            })
        }),
        Arc::clone(deadlines),
        federated,
    )
}

/// PostgreSQL's port must be free before it is started on it: its own refusal would only be seen in
/// its log, again and again.
fn refuse_used_port(config: &Config) -> anyhow::Result<()> {
    let (host, port) = config.postgres.listen_host_port();
    for host in host.split(',') {
        let address = if matches!(host, "*" | "") { "0.0.0.0" } else { host };
        // As PostgreSQL does, with SO_REUSEADDR: connections of before in TIME_WAIT are no obstacle.
        if let Err(error) = std::net::TcpListener::bind((address, port)) {
            anyhow::bail!(
                "postgresql.listen: cannot listen on {address}:{port}: {error}; stop whatever \
                 listens there (`ss -ltnp` shows it), or choose a free port"
            );
        }
    }
    Ok(())
}

fn start_guard(
    config: &Config,
    deadlines: &Arc<Deadlines>,
    events: mpsc::Sender<Fenced>,
) -> std::io::Result<Guard> {
    let settings = GuardSettings {
        data_dir: config.postgres.data_dir.clone(),
        stop_budget: config.regent.stop_budget.0,
        kill_budget: config.regent.kill_budget.0,
        pause_threshold: config.regent.pause_threshold.0,
        epsilon: config.site_timing(&config.first_dynamic()).epsilon(),
    };
    Guard::start(settings, Arc::clone(deadlines), events)
}

/// How guardians of this node are run.
fn launcher(config: &Config, files: &Files, page: Page) -> anyhow::Result<Launcher> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let beside = own.with_file_name("regent-guardian");
    let program = config.regent.guardian.clone().unwrap_or(beside);
    anyhow::ensure!(
        program.is_file(),
        "regent.guardian: {} is not there; it is installed beside regent-agent",
        program.display()
    );
    Ok(Launcher {
        program,
        data_dir: files.data_dir.clone(),
        run_dir: files.run_dir.clone(),
        log: files.server_log(),
        page,
        watchdog: (config.watchdog.mode != WatchdogMode::Off)
            .then(|| config.watchdog.device.clone()),
    })
}

/// Takes over a server that an earlier life of this agent left running; without one its port must
/// be free.
async fn adopt(
    config: &Config,
    server: &Arc<Server>,
    files: &Files,
    guard: &Guard,
) -> anyhow::Result<()> {
    if let Some(postmaster) = server.take_over() {
        tracing::info!(pid = postmaster.pid, "took a running PostgreSQL over with its guardian");
        return Ok(());
    }
    let Some(postmaster) = Server::unguarded(&files.data_dir) else {
        return refuse_used_port(config);
    };
    if !files.standby_signal() {
        guard.adopt(postmaster.pid, config.regent.stop_budget.0);
    }
    server.adopt(postmaster).await.context("adopting a running PostgreSQL")?;
    tracing::info!(pid = postmaster.pid, "adopted a running PostgreSQL that nobody guarded");
    Ok(())
}

/// As Patroni does: another process that answers under this member's name means that this one
/// must not start (hazards.md row 10).
async fn refuse_twin(
    config: &Config,
    site: &SiteStore,
    http: &reqwest::Client,
) -> anyhow::Result<()> {
    let key = site.keys.member(&config.name);
    let Ok(Some(entry)) = site.store.get(&key, Duration::from_secs(3)).await else { return Ok(()) };
    let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    let url = record.get("api_url").and_then(serde_json::Value::as_str).unwrap_or_default();
    let own = format!("http://{}/", config.rest.connect_address);
    if url.is_empty() || url.starts_with(&own) {
        return Ok(());
    }
    let liveness = url.replace("/patroni", "/liveness");
    let asked = http.get(&liveness).timeout(Duration::from_secs(3)).send().await;
    anyhow::ensure!(
        asked.is_err(),
        "there is already a node named {:?} running at {url}; give this one a name of its own, or \
         stop the other",
        config.name.as_str()
    );
    Ok(())
}

/// The run directory is ours alone; the epoch has a place that outlives it.
fn prepare_places(config: &Config) -> anyhow::Result<()> {
    if config.federation.is_some() {
        EpochFile::new(config).check()?;
    }
    let run_dir = &config.regent.run_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .with_context(|| format!("regent.run_dir: cannot make {}", run_dir.display()))?;
    let metadata = std::fs::metadata(run_dir)?;
    anyhow::ensure!(
        metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o077 == 0,
        "regent.run_dir: {} has mode {:o} and owner {}; want mode 700 and this user ({})",
        run_dir.display(),
        metadata.mode() & 0o7777,
        metadata.uid(),
        nix::unistd::geteuid()
    );
    Ok(())
}

/// One agent a run directory: a second one would fight over the server (hazards.md row 10).
fn lock_run_dir(config: &Config) -> anyhow::Result<std::fs::File> {
    let path = config.regent.run_dir.join("agent.lock");
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    lock.try_lock().map_err(|error| {
        anyhow::anyhow!(
            "{} is locked ({error}): another agent runs with this run directory; stop it, or give \
             this one a regent.run_dir of its own",
            path.display()
        )
    })?;
    // For people and for `regentctl agent upgrade`: who holds it, and since when.
    let life =
        format!("{} {}\n{}\n", std::process::id(), boot_time().nanos(), env!("CARGO_PKG_VERSION"));
    lock.set_len(0)
        .and_then(|()| std::io::Write::write_all(&mut &lock, life.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(lock)
}

/// The oldest PostgreSQL that is understood.
const OLDEST: u32 = 13;

/// PostgreSQL is there, new enough, and of the data directory's major version.
async fn check_versions(programs: &Programs, files: &Files) -> anyhow::Result<()> {
    let mut command = programs.command("postgres");
    command.arg("--version");
    let text = programs.output(command, Duration::from_secs(10)).await.context(
        "postgresql.bin_dir: PostgreSQL's server programs are needed (package postgresql-15 or \
         the like)",
    )?;
    let major: u32 = text
        .split_whitespace()
        .find_map(|word| word.split(['.', 'd', 'r', 'b']).next()?.parse().ok())
        .with_context(|| format!("postgres --version said {text:?}, which has no number"))?;
    anyhow::ensure!(
        major >= OLDEST,
        "postgresql.bin_dir: {} is PostgreSQL {major}; want {OLDEST} or newer",
        programs.path("postgres").display()
    );
    if let Ok(data) = std::fs::read_to_string(files.data_dir.join("PG_VERSION")) {
        let data = data.trim();
        anyhow::ensure!(
            data == major.to_string(),
            "postgresql.data_dir: {} is of PostgreSQL {data}, but postgresql.bin_dir has {major}; \
             point bin_dir at version {data}",
            files.data_dir.display()
        );
    }
    Ok(())
}
