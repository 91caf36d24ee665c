//! Performs decisions: in the given order, without choices, without retries. What came of it is
//! seen by the next observation.

pub mod callbacks;
pub mod cluster_file;
mod config_key;
pub mod epoch_by_hand;
pub mod epoch_file;
pub mod failsafe;
pub mod fence_report;
pub mod global;
pub mod history;
pub mod jobs;
pub mod own_leases;
pub mod postgres;
pub mod publish;
pub mod random;
mod reload;
pub mod scripts;
pub mod site;
pub mod store;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_dcs::{LeaseId, Revision};
use regent_proto::record::PrimaryState;
use regent_proto::time::{Deadline, WallTime};
use tokio_postgres::Client;

use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::view::{LeaderKey, View};
use crate::decide::{Action, Job, salvage};
use crate::fence::guard::Guard;
use crate::fence::release::Release;
use crate::fence::renewal::RenewalThread;
use crate::fence::watchdog;
use crate::observe::clock::{boot_time, wall_time};
use epoch_file::EpochFile;
use global::GlobalStore;
use jobs::Jobs;
use postgres::configuration::Wanted;
use postgres::copy;
use postgres::files::{Files, InForce};
use postgres::programs::Programs;
use postgres::promotions;
use postgres::server::Server;
use postgres::{slots, sql};
use site::{Held, SiteStore, Written};

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the picture of the site DCS or the quorum has it from this revision on.
    Done(Touched),
    /// Not done, or not known: what follows in the decision is not tried.
    NotDone(String),
    /// The agent has to end.
    Exit(String),
}

/// Which store a done action wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// Neither.
    Nothing,
    /// The site DCS.
    Site(Revision),
    /// The global quorum.
    Global(Revision),
}

/// Everything that acts share.
pub struct Actor {
    /// Configuration.
    pub config: Arc<Config>,
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// The server's files.
    pub files: Files,
    /// The epoch on disk (rung 4).
    pub epoch_file: EpochFile,
    /// The server's process.
    pub server: Arc<Server>,
    /// Rung 1.
    pub guard: Guard,
    /// Leases.
    pub renewal: RenewalThread,
    /// The site DCS.
    pub site: SiteStore,
    /// The global quorum.
    pub global: Option<GlobalStore>,
    /// What the configuration on disk says.
    pub in_force: Arc<Mutex<InForce>>,
    /// Long acts.
    pub jobs: Jobs,
    /// The dynamic configuration in use.
    pub dynamic: Dynamic,
    /// What failsafe binds this node and its site to.
    pub failsafe: failsafe::Shared,
    /// When this process last marked its site, for people.
    pub marked_at: WallTime,
    /// What the server's files shall say.
    pub wanted: Arc<Wanted>,
    /// The `initialize` that this process claimed.
    pub claimed: Option<Revision>,
    /// What goes on with logical slots beside the loop.
    pub slot_work: slots::Work,
}

/// The end of the stop span that a handover gives, on this process's own clock.
fn stop_until(view: &View) -> Deadline {
    let federation = view.federation.as_ref();
    let state = federation.and_then(|f| f.primary.as_ref()).map(|primary| &primary.value.state);
    match (state, federation) {
        (Some(PrimaryState::Handover { span, .. }), Some(federation)) => {
            Deadline::at(view.now.minus(federation.primary_age).plus(*span))
        }
        (_, _) => Deadline::NEVER,
    }
}

fn leader_key(view: &View) -> Option<&LeaderKey> {
    view.site.as_ref().and_then(|site| site.leader.as_ref())
}

fn refused(doing: &str) -> Outcome {
    Outcome::NotDone(format!("{doing}: somebody else was faster"))
}

impl Actor {
    /// What is in force on disk.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another dynamic configuration counts from now on, and outlives this process and the DCS.
    pub fn take_dynamic(&mut self, dynamic: Dynamic) {
        self.dynamic = dynamic;
        self.wanted = Arc::new(Wanted::of(&self.config, &self.dynamic));
        self.keep_dynamic();
    }

    /// Keeps the document that is in force; also after each job, which owned the data directory.
    pub fn keep_dynamic(&self) {
        if self.jobs.running().is_none()
            && let Err(error) = self.files.keep_dynamic(&self.dynamic)
        {
            tracing::warn!(%error, "keeping the dynamic configuration in the data directory");
        }
    }

    fn change_in_force(&self, change: impl FnOnce(&mut InForce)) -> InForce {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut in_force);
        in_force.clone()
    }

    fn set_in_force(&self, change: impl FnOnce(&mut InForce)) -> std::io::Result<()> {
        let next = self.change_in_force(change);
        self.files.write_configuration(&self.config, &self.dynamic, &next)
    }

    /// What changes with the role is in force at once; whatever else is wanted is judged first.
    fn set_role(&self, change: impl FnOnce(&mut InForce)) -> std::io::Result<()> {
        let next = self.change_in_force(change);
        self.files.write_role(&self.config, &self.dynamic, &next)
    }

    fn timeout(&self) -> Duration {
        self.config.site_timing(&self.dynamic).call_timeout
    }

    /// Performs one action.
    pub async fn perform(
        &mut self,
        action: &Action,
        view: &View,
        client: Option<&Client>,
    ) -> Outcome {
        match action {
            Action::Exit(text) => Outcome::Exit(text.clone()),
            Action::Run(job) => self.run(job, view),
            Action::ArmWatchdog => self.arm_watchdog(view),
            Action::AskPeers | Action::AskCandidates(_) | Action::Answer { .. } => {
                Outcome::Done(Touched::Nothing)
            }
            Action::CancelJob => {
                self.jobs.cancel();
                Outcome::Done(Touched::Nothing)
            }
            Action::RenewNow => {
                self.renewal.deadlines().hurry();
                Outcome::Done(Touched::Nothing)
            }
            Action::KeepEpoch(seen) => match self.epoch_file.write(seen) {
                Ok(()) => Outcome::Done(Touched::Nothing),
                Err(error) => Outcome::NotDone(format!("writing the epoch to disk: {error}")),
            },
            Action::EndTenure => {
                self.marked_at = wall_time();
                // The bound first: a guard that looks in between must not see a deadline of 0 and
                // kill the server that is about to stop in order.
                self.guard.plan_stop(stop_until(view));
                self.renewal.end_tenure().await;
                Outcome::Done(Touched::Nothing)
            }
            Action::ClaimInitialize => {
                let outcome = self.on_site(action, view).await;
                if let Outcome::Done(Touched::Site(revision)) = &outcome {
                    self.claimed = Some(*revision);
                }
                outcome
            }
            Action::AbandonInitialize => self.abandon_initialize().await,
            Action::RecordInitialize(_)
            | Action::AcquireLeader
            | Action::ReleaseLeader
            | Action::WriteSync { .. }
            | Action::WritePromotions { .. }
            | Action::ClearSync { .. }
            | Action::WriteMark { .. }
            | Action::EnterEpoch { .. }
            | Action::ClearFailover { .. } => self.on_site(action, view).await,
            Action::AcquirePrimary { .. }
            | Action::PostToken { .. }
            | Action::Take { .. }
            | Action::PromoteSite { .. }
            | Action::RollBack { .. }
            | Action::RecordIdentity { .. }
            | Action::RecordPromotion { .. } => self.on_quorum(action, view).await,
            Action::Follow(_)
            | Action::SetSynchronousNames(_)
            | Action::Promote
            | Action::Slots(_) => self.on_server(action, client).await,
            Action::NamePromotion => self.name_promotion(view, client).await,
            Action::Reload => match self.reload(view, client).await {
                Ok(()) => Outcome::Done(Touched::Nothing),
                Err(problem) => Outcome::NotDone(problem),
            },
        }
    }

    fn run(&mut self, job: &Job, view: &View) -> Outcome {
        match job {
            Job::StartPrimary { .. } => {
                let shortest = watchdog::shortest_lease(&self.config, &self.dynamic, view);
                let lead = watchdog::lead_at_start(&self.config, &shortest);
                if self.renewal.deadlines().writing().left(boot_time()) <= lead {
                    let problem =
                        "the deadline is too near: what starts now would be stopped at once";
                    return Outcome::NotDone(problem.to_owned());
                }
                if let Err(refused) = self.enter() {
                    return refused;
                }
                // Guard and watchdog before anything can open (rule 8).
                self.guard.arm_for_start();
                if let refused @ Outcome::NotDone(_) = self.arm_watchdog(view) {
                    self.guard.not_started();
                    return refused;
                }
            }
            Job::StartStandby(_) => watchdog::unwant(self.renewal.deadlines().page()),
            Job::Initdb
            | Job::Clone(_)
            | Job::Stop
            | Job::Rewind(_)
            | Job::Checkpoint
            | Job::CreateUsers
            | Job::StopToRestart
            | Job::PrePromote
            | Job::CopySlots { .. } => {}
        }
        let mut context = self.job_context();
        context.salvage = salvage::before(job, view);
        self.jobs.start(job.clone(), context);
        Outcome::Done(Touched::Nothing)
    }

    fn arm_watchdog(&self, view: &View) -> Outcome {
        let shortest = watchdog::shortest_lease(&self.config, &self.dynamic, view);
        match watchdog::want(self.renewal.deadlines().page(), &self.config, &shortest) {
            Ok(()) => Outcome::Done(Touched::Nothing),
            Err(refused) => Outcome::NotDone(format!("arming the watchdog: {refused}")),
        }
    }

    /// From here on this node promises the leader key to nobody; not while it has promised it.
    fn enter(&self) -> Result<(), Outcome> {
        self.failsafe.enter(boot_time()).map_err(Outcome::NotDone)
    }

    fn job_context(&self) -> jobs::Context {
        jobs::Context {
            config: Arc::clone(&self.config),
            programs: self.programs.clone(),
            files: self.files.clone(),
            server: Arc::clone(&self.server),
            guard: self.guard.clone(),
            dynamic: self.dynamic.clone(),
            in_force: Arc::clone(&self.in_force),
            salvage: None,
        }
    }

    /// What was made first, with its marker: a claim that another makes afterwards must not look like
    /// ours.
    async fn abandon_initialize(&mut self) -> Outcome {
        let Some(claimed) = self.claimed else {
            return Outcome::NotDone("`initialize` is not of this process's claim".to_owned());
        };
        let files = self.files.clone();
        let given_up = tokio::task::spawn_blocking(move || copy::give_up(&files)).await;
        if let Err(error) = given_up.map_err(std::io::Error::other).flatten() {
            return Outcome::NotDone(format!("giving the bootstrap up: {error}"));
        }
        match self.site.abandon_initialize(claimed, self.timeout()).await {
            Ok(Some(revision)) => {
                self.claimed = None;
                Outcome::Done(Touched::Site(revision))
            }
            Ok(None) => {
                self.claimed = None;
                refused("giving the bootstrap up")
            }
            Err(error) => Outcome::NotDone(error.to_string()),
        }
    }

    async fn on_site(&self, action: &Action, view: &View) -> Outcome {
        let written = match (action, Held::of(leader_key(view))) {
            (Action::ClaimInitialize, _) => self.site.claim_initialize(self.timeout()).await,
            (Action::AcquireLeader, _) => {
                if let Err(refused) = self.enter() {
                    return refused;
                }
                self.acquire_leader(view).await
            }
            (_, None) => {
                return Outcome::NotDone(format!("{action:?}: the leader key is not ours"));
            }
            (Action::ReleaseLeader, Some(held)) => {
                return match self.renewal.release(held).await {
                    Release::Gone(revision) => Outcome::Done(Touched::Site(revision)),
                    Release::Kept(problem) => Outcome::NotDone(problem),
                };
            }
            (_, Some(held)) => match self.as_leader(action, held).await {
                Ok(written) => written,
                Err(problem) => return Outcome::NotDone(problem),
            },
        };
        match written {
            Ok(Some(revision)) => Outcome::Done(Touched::Site(revision)),
            Ok(None) => refused("writing to the site DCS"),
            Err(error) => Outcome::NotDone(error.to_string()),
        }
    }

    async fn acquire_leader(&self, view: &View) -> Written {
        let Some(lease) = self.lease() else { return Ok(None) };
        let former = leader_key(view).filter(|l| l.name == self.config.name).map(|l| l.revision);
        let site = view.site.as_ref();
        let failsafe = site.and_then(|site| site.failsafe.revision());
        let read = (failsafe, site.and_then(|site| site.sync.revision));
        let written = self.site.acquire_leader(lease, former, read, self.timeout()).await;
        if matches!(written, Ok(Some(_))) {
            self.renewal.renew_site(self.config.site_timing(&self.dynamic)).await;
        }
        written
    }

    /// Writes that hold only while the leader key is this process's.
    async fn as_leader(&self, action: &Action, held: Held) -> Result<Written, String> {
        let timeout = self.timeout();
        let site = &self.site;
        Ok(match action {
            Action::RecordInitialize(id) => site.record_initialize(held, *id, timeout).await,
            Action::WriteSync { standbys, revision, quorum } => {
                site.write_sync(held, (standbys, *quorum), *revision, timeout).await
            }
            Action::ClearSync { revision } => site.clear_sync(held, *revision, timeout).await,
            Action::WritePromotions { ancestry, end } => {
                site.write_promotions(held, ancestry, *end, timeout).await
            }
            Action::WriteMark { operation, primary_revision } => {
                site.write_mark(held, operation, *primary_revision, timeout).await
            }
            Action::EnterEpoch { seen, revision, clear_mark } => {
                self.epoch_file
                    .write(seen)
                    .map_err(|error| format!("writing the epoch to disk: {error}"))?;
                site.enter_epoch(held, seen, *revision, *clear_mark, timeout).await
            }
            Action::ClearFailover { revision } => {
                site.clear_failover(held, *revision, timeout).await
            }
            other => return Err(format!("{other:?} is not of the site DCS")),
        })
    }

    /// The lease that the renewal thread holds.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.renewal.tenures().borrow().lease
    }

    async fn on_quorum(&self, action: &Action, view: &View) -> Outcome {
        let federation = view.federation.as_ref();
        let (Some(global), Some(federation)) = (&self.global, federation) else {
            return Outcome::NotDone("this cluster belongs to no federation".to_owned());
        };
        let Some(primary) = federation.primary.as_ref().map(|at| &at.value) else {
            return Outcome::NotDone("no `primary` was read".to_owned());
        };
        let timing = self.config.primary_timing(primary.ttl_max);
        let timeout = timing.call_timeout;
        let result = match action {
            Action::AcquirePrimary { primary_revision, lease_revision, epoch } => {
                if *epoch != primary.epoch {
                    return Outcome::NotDone("acquiring: `primary` has another epoch".to_owned());
                }
                if let Err(error) = timing.check("primary lease") {
                    return Outcome::NotDone(error.to_string());
                }
                // Before somebody can count by it: it may be shorter than what a former life had.
                let granted = Deadline::granted(boot_time(), &timing);
                self.renewal.deadlines().lower_carried(granted);
                match global.acquire(primary, (*primary_revision, *lease_revision), timing).await {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::Take { primary_revision } => {
                if let Err(error) = timing.check("primary lease") {
                    return Outcome::NotDone(error.to_string());
                }
                let begun = self.failsafe.begin_take(primary, *primary_revision, boot_time());
                if let Err(problem) = begun {
                    return Outcome::NotDone(problem);
                }
                let taken = global.take(primary, *primary_revision, wall_time(), timing).await;
                match self.failsafe.end_take(taken) {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::PromoteSite { primary_revision, end, loss } => {
                if let Err(error) = timing.check("primary lease") {
                    return Outcome::NotDone(error.to_string());
                }
                let begun = self.failsafe.begin_take(primary, *primary_revision, boot_time());
                if let Err(problem) = begun {
                    return Outcome::NotDone(problem);
                }
                tracing::warn!("takes primacy without a token, and loses {loss}");
                let (revision, given_up) = (*primary_revision, (end.clone(), *loss));
                let taken = global.promote(primary, revision, given_up, wall_time(), timing).await;
                match self.failsafe.end_take(taken) {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::PostToken { primary_revision, lease_revision, end, system_identifier } => {
                let Some(lease) = federation.lease.as_ref().map(|at| &at.value) else {
                    return Outcome::NotDone("no `lease` was read".to_owned());
                };
                let revisions = (*primary_revision, *lease_revision);
                let stopped = global::Stopped {
                    end: end.clone(),
                    system_identifier: *system_identifier,
                    at: self.marked_at,
                };
                global.post_token(primary, revisions, lease, stopped, timeout).await
            }
            Action::RollBack { primary_revision } => {
                global.roll_back(primary, *primary_revision, timeout).await
            }
            Action::RecordIdentity { primary_revision, lease_revision, system_identifier } => {
                let revisions = (*primary_revision, *lease_revision);
                global.record_identity(primary, revisions, *system_identifier, timeout).await
            }
            Action::RecordPromotion { history_revision, lease_revision, promotion } => {
                let Some(history) = federation.history.as_ref().map(|at| &at.value) else {
                    return Outcome::NotDone("no `history` of this epoch was read".to_owned());
                };
                let revisions = (*history_revision, *lease_revision);
                global.record_promotion(history, revisions, promotion.clone(), timeout).await
            }
            other => return Outcome::NotDone(format!("{other:?} is not of the quorum")),
        };
        match result {
            Ok(revision) => Outcome::Done(Touched::Global(revision)),
            Err(error) => Outcome::NotDone(error.to_string()),
        }
    }

    async fn adopt(&self, adopted: crate::fence::renewal::Adopted) -> Revision {
        let revision = adopted.lease_revision;
        self.renewal.adopt(adopted).await;
        if let Some(postmaster) = self.server.postmaster() {
            // The bound of an earlier planned stop is over with the new tenure.
            self.guard.arm(Some(postmaster.pid));
        }
        revision
    }

    /// Writes who began the present timeline into WAL, then beside it.
    async fn name_promotion(&self, view: &View, client: Option<&Client>) -> Outcome {
        let (Some(client), Some(status)) = (client, &view.postgres.status) else {
            return Outcome::NotDone("PostgreSQL does not answer".to_owned());
        };
        let (data_dir, timeline) = (&self.files.data_dir, status.ancestry.timeline);
        let Some(fresh) = random::Ids::Kernel.promotion_id() else {
            return Outcome::NotDone("the kernel gave no random bytes".to_owned());
        };
        let id = match promotions::pending(data_dir, timeline, fresh) {
            Ok(id) => id,
            Err(error) => return Outcome::NotDone(format!("noting the promotion's id: {error}")),
        };
        if let Err(error) = sql::write_message(client, &promotions::message(&id)).await {
            return Outcome::NotDone(format!("writing the promotion's id into WAL: {error}"));
        }
        match promotions::note(data_dir, timeline, &id) {
            Ok(()) => Outcome::Done(Touched::Nothing),
            Err(error) => Outcome::NotDone(format!("noting the promotion's id: {error}")),
        }
    }

    /// In synchronous mode the list is the agent's, and what `ALTER SYSTEM` has set stands above it.
    async fn bring_list_into_force(&self, client: &Client) -> Result<(), sql::SqlError> {
        const NAME: &str = "synchronous_standby_names";
        if self.dynamic.synchronous_mode && self.files.auto_conf_sets(NAME) {
            tracing::warn!("{NAME} was set by ALTER SYSTEM: it is the agent's, and taken out");
            sql::alter_system_reset(client, NAME).await?;
        }
        sql::reload(client).await
    }

    async fn on_server(&self, action: &Action, client: Option<&Client>) -> Outcome {
        let Some(client) = client else {
            return Outcome::NotDone("PostgreSQL does not answer".to_owned());
        };
        let done = match action {
            Action::Follow(follow) => {
                let written = self.set_role(|in_force| in_force.follow = Some(follow.clone()));
                match written {
                    Ok(()) => sql::reload(client).await,
                    Err(error) => {
                        return Outcome::NotDone(format!("writing the configuration: {error}"));
                    }
                }
            }
            Action::SetSynchronousNames(list) => {
                let written = self.set_role(|in_force| in_force.synchronous.clone_from(list));
                match written {
                    Ok(()) => self.bring_list_into_force(client).await,
                    Err(error) => {
                        return Outcome::NotDone(format!("writing the configuration: {error}"));
                    }
                }
            }
            Action::Promote => {
                if let Err(refused) = self.enter() {
                    return refused;
                }
                self.guard.arm(self.server.postmaster().map(|postmaster| postmaster.pid));
                // From here on no ping is free any more; the last one may have been since the gate.
                if !watchdog::fires_in_time(self.renewal.deadlines().page()) {
                    let problem = "the watchdog, as last pinged, would fire after the deadline";
                    return Outcome::NotDone(problem.to_owned());
                }
                slots::open(&self.files);
                sql::promote(client).await
            }
            Action::Slots(steps) => {
                slots::perform(client, (&self.config, &self.files), steps, &self.slot_work).await
            }
            other => return Outcome::NotDone(format!("{other:?} is not of the server")),
        };
        match done {
            Ok(()) => Outcome::Done(Touched::Nothing),
            Err(error) => Outcome::NotDone(error.to_string()),
        }
    }
}
