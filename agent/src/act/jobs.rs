//! Long acts: one at a time on the data directory and the server, a checkpoint beside it. Decisions
//! go on meanwhile; how a job ended is the next observation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_guardian::processes::of_data_directory;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::postgres::bootstrap::Ground;
use super::postgres::configuration::{Wanted, examine};
use super::postgres::files::{Files, InForce};
use super::postgres::programs::Programs;
use super::postgres::salvage::{How, SalvageError};
use super::postgres::server::Server;
use super::postgres::slots::CopyError;
use super::postgres::{archive, control, copy, slots, sql};
use super::scripts::{self, Call};
use crate::config::dynamic::Dynamic;
use crate::config::{Config, ReplicaMethod};
use crate::decide::Job;
use crate::decide::parameters::effective;
use crate::decide::salvage::Salvage;
use crate::decide::view::{FinishedJob, Follow, JobKind};
use crate::fence::guard::Guard;

/// The longest that the end of the agent waits for a start that is under way: longer than a guardian
/// has for it.
const STARTS_WITHIN: Duration = Duration::from_secs(15);

/// The longest wait for pg_control before a start.
const READS_WITHIN: Duration = Duration::from_secs(10);
/// The longest that `pre_promote` may hold up a promotion.
const PRE_PROMOTE: Duration = Duration::from_secs(60);
/// The longest that `before_stop` may hold up a stop.
pub const BEFORE_STOP: Duration = Duration::from_secs(10);
/// How long the shutdown's checkpoint of a restart may take: the server still has its rights.
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);
/// The longest that what a job has left behind is waited for once it was cancelled.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);
/// How soon it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What jobs need.
#[derive(Debug, Clone)]
pub struct Context {
    /// Configuration.
    pub config: Arc<Config>,
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// The server's files.
    pub files: Files,
    /// The server's process.
    pub server: Arc<Server>,
    /// Rung 1.
    pub guard: Guard,
    /// The dynamic configuration in use.
    pub dynamic: Dynamic,
    /// What the configuration on disk says.
    pub in_force: Arc<Mutex<InForce>>,
    /// What a rewind or a copy must not begin without.
    pub salvage: Option<Salvage>,
}

/// Runs jobs and tells how they ended.
#[derive(Debug)]
pub struct Jobs {
    running: Option<(JobKind, JoinHandle<()>, CancellationToken)>,
    checkpoint: bool,
    finished: mpsc::Sender<FinishedJob>,
    progress: watch::Sender<Option<String>>,
}

impl Jobs {
    /// `finished` is told how each job ended.
    #[must_use]
    pub fn new(finished: mpsc::Sender<FinishedJob>) -> Self {
        let progress = watch::Sender::new(None);
        Self { running: None, checkpoint: false, finished, progress }
    }

    /// The exclusive job that runs.
    #[must_use]
    pub fn running(&self) -> Option<JobKind> {
        self.running.as_ref().map(|(kind, _, _)| kind.clone())
    }

    /// A checkpoint runs.
    #[must_use]
    pub fn checkpoint_runs(&self) -> bool {
        self.checkpoint
    }

    /// What a copy says of its progress.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Option<String>> {
        self.progress.subscribe()
    }

    /// A job ended: the next may begin.
    pub fn ended(&mut self, kind: &JobKind) {
        if *kind == JobKind::Checkpoint {
            self.checkpoint = false;
        } else {
            self.running = None;
        }
    }

    /// Starts a job.
    pub fn start(&mut self, job: Job, context: Context) {
        let kind = job.kind();
        let begun = kind.clone();
        let finished = self.finished.clone();
        let progress = self.progress.clone();
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let task = tokio::spawn(async move {
            let result = tokio::select! {
                result = context.perform(job, &progress) => result,
                () = cancelled.cancelled() => Err(anyhow::anyhow!("it was cancelled")),
            };
            if cancelled.is_cancelled() {
                progress.send_replace(None);
                context.nothing_is_left().await;
            }
            // A rewind asks its source by SQL, and keeps what is unsent, before it begins; a copy of slots
            // tries all that can fail.
            let untouched = result.as_ref().is_err_and(|error| {
                error.is::<sql::SqlError>() || error.is::<SalvageError>() || error.is::<CopyError>()
            });
            let problem = result.err().map(|error| format!("{error:#}"));
            if let Some(problem) = &problem {
                tracing::warn!(job = ?kind, problem, "a job failed");
            }
            // The receiver ends only with the agent.
            drop(finished.send(FinishedJob { job: kind, problem, untouched }).await);
        });
        if begun == JobKind::Checkpoint {
            self.checkpoint = true;
        } else {
            self.running = Some((begun, task, cancel));
        }
    }

    /// Ends a copy or a rewind; that it has ended is told like any other's end. Nothing else is cut
    /// off: what a start or a stop has begun must be known.
    pub fn cancel(&self) {
        let Some((kind, _, cancel)) = &self.running else { return };
        match kind {
            JobKind::Clone | JobKind::Rewind => cancel.cancel(),
            JobKind::Initdb
            | JobKind::Start
            | JobKind::Stop
            | JobKind::Checkpoint
            | JobKind::CreateUsers
            | JobKind::PrePromote
            | JobKind::CopySlots => {}
        }
    }

    /// The agent ends: no job goes on after this. A start is waited for, because what it starts must
    /// be known before the right to write is given back; anything else is dropped with its program.
    /// `false` where one did not end in time.
    pub async fn end(&mut self) -> bool {
        let Some((kind, task, _)) = self.running.take() else { return true };
        match kind {
            JobKind::Start => {}
            JobKind::Stop
            | JobKind::Checkpoint
            | JobKind::CreateUsers
            | JobKind::Initdb
            | JobKind::Clone
            | JobKind::Rewind
            | JobKind::PrePromote
            | JobKind::CopySlots => task.abort(),
        }
        tokio::time::timeout(STARTS_WITHIN, task).await.is_ok()
    }
}

/// How a server is started.
enum Start {
    Standby(Follow),
    Primary { synchronous: String },
}

impl Context {
    async fn perform(
        &self,
        job: Job,
        progress: &watch::Sender<Option<String>>,
    ) -> anyhow::Result<()> {
        let users = &self.config.postgres.authentication;
        match job {
            Job::Initdb => self.ground().make().await,
            Job::Clone(from) => {
                let addresses = match &from {
                    Follow::Nobody => Vec::new(),
                    Follow::Remote { addresses, .. } => addresses.clone(),
                    Follow::Member { .. } | Follow::Site { .. } => addresses(&from)?,
                };
                let methods = self.methods(&from)?;
                self.ground().make_replica(&methods, &addresses, progress).await?;
                // A copy is a standby until decided otherwise: it must never open by itself.
                Ok(self.files.set_standby_signal(true)?)
            }
            Job::StartStandby(follow) => self.start(Start::Standby(follow)).await,
            Job::StartPrimary { synchronous } => self.start(Start::Primary { synchronous }).await,
            Job::Stop => self.stop(Duration::ZERO).await,
            Job::StopToRestart => {
                // Before the other stops there is no time for it: a right ends with each of them.
                if let Some(command) = &self.config.postgres.before_stop
                    && let Err(error) =
                        scripts::run(Call::new("before_stop", command), BEFORE_STOP).await
                {
                    tracing::warn!("{error:#}: PostgreSQL is stopped all the same");
                }
                self.stop(RESTARTS_WITHIN).await
            }
            Job::Rewind(source) => {
                let addresses = addresses(&source)?;
                let user = users.rewind.as_ref().unwrap_or(&users.superuser);
                let first = match &source {
                    Follow::Remote { addresses, .. } => sql::writer_among(addresses, user).await?,
                    Follow::Nobody | Follow::Member { .. } | Follow::Site { .. } => {
                        addresses.first().cloned()
                    }
                };
                let first = first.ok_or_else(|| anyhow::anyhow!("no address"))?;
                sql::wait_for_checkpoint(&first, user, Duration::from_secs(60)).await?;
                self.before_a_rewind(&source).await?;
                // What is copied of slots may point into what the rewind takes away.
                slots::forget(&self.files);
                copy::rewind(&self.programs, &self.files, user, &[first]).await?;
                Ok(self.files.set_standby_signal(true)?)
            }
            Job::Checkpoint => Ok(sql::checkpoint(&self.config).await?),
            Job::CreateUsers => Ok(sql::create_users(&self.config).await?),
            Job::PrePromote => match &self.config.postgres.pre_promote {
                Some(command) => scripts::run(Call::new("pre_promote", command), PRE_PROMOTE).await,
                None => Ok(()),
            },
            Job::CopySlots { from, slots } => self.copy_slots(&from, &slots).await,
        }
    }

    /// How a replica is made: what `standby_cluster` names counts for copies from there.
    fn methods(&self, from: &Follow) -> anyhow::Result<Vec<ReplicaMethod>> {
        let methods = &self.config.methods;
        let section = self.dynamic.standby_cluster.as_ref();
        let names: &[String] = match (from, section) {
            (Follow::Remote { .. }, Some(section)) => section.create_replica_methods.as_slice(),
            (
                Follow::Remote { .. }
                | Follow::Nobody
                | Follow::Member { .. }
                | Follow::Site { .. },
                _,
            ) => &[],
        };
        if names.is_empty() {
            return Ok(methods.replica.clone());
        }
        methods.named(names).map_err(anyhow::Error::msg)
    }

    /// What it takes to make a data directory.
    fn ground(&self) -> Ground<'_> {
        Ground {
            programs: &self.programs,
            files: &self.files,
            config: &self.config,
            dynamic: &self.dynamic,
            salvage: self.salvage.as_ref(),
        }
    }

    /// What is in no archive yet goes there, and what the source may never have had is kept (I15): a
    /// rewind changes files in place, so as copies.
    async fn before_a_rewind(&self, source: &Follow) -> anyhow::Result<()> {
        match source {
            // Under another site's history this one's WAL is nothing to archive (design.md section 4).
            Follow::Nobody | Follow::Site { .. } | Follow::Remote { .. } => {}
            Follow::Member { .. } => match archive::ready(&self.programs, &self.files).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(files, "WAL was archived before the rewind"),
                Err(problem) => {
                    tracing::warn!(problem, "WAL is not all archived before the rewind");
                }
            },
        }
        if let Some(salvage) = &self.salvage {
            let limit = self.config.regent.salvage_limit.0;
            copy::salvage_first(&self.files, salvage, How::Copy, limit).await?;
        }
        Ok(())
    }

    /// Starts the server.
    async fn start(&self, how: Start) -> anyhow::Result<()> {
        let started = self.launch(how).await;
        if started.is_err() {
            self.guard.not_started();
        }
        started
    }

    async fn launch(&self, how: Start) -> anyhow::Result<()> {
        let standby = matches!(how, Start::Standby(_));
        self.files.set_standby_signal(standby)?;
        let arguments = self.prepare(standby).await?;
        let in_force = {
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            match how {
                Start::Standby(follow) => {
                    in_force.follow = Some(follow);
                    // A standby has nobody to wait for; its list is set before it opens.
                    in_force.synchronous = String::new();
                }
                Start::Primary { synchronous } => in_force.synchronous = synchronous,
            }
            in_force.clone()
        };
        self.files.write_configuration(&self.config, &self.dynamic, &in_force)?;
        if standby {
            self.guard.disarm();
        } else {
            // The deadline may have passed since this was decided, and rung 1 have found nothing.
            self.guard.arm_for_start();
            anyhow::ensure!(self.guard.may_write(), "the right to write ended before the start");
            slots::open(&self.files);
        }
        let postmaster = self.server.start(&self.programs, &arguments).await?;
        if !standby {
            self.guard.arm(Some(postmaster.pid));
        }
        Ok(())
    }

    /// All that can fail is tried before the server stops; the next decision starts it again.
    async fn copy_slots(
        &self,
        from: &(String, u16),
        names: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let users = &self.config.postgres.authentication;
        let user = users.rewind.as_ref().unwrap_or(&users.superuser);
        let mut found = slots::read(from, user, names).await?;
        // One of another plugin or database would be as wrong here, and be copied again and again.
        let wanted = &self.dynamic.slots.permanent;
        found.retain(|slot| wanted.get(&slot.name).is_some_and(|wanted| wanted.kind == slot.kind));
        if found.is_empty() {
            return Err(CopyError::Absent(names.clone()).into());
        }
        if !self.files.standby_signal() {
            return Err(CopyError::NotStandby.into());
        }
        // With a logical slot and a lower level the server would not start again.
        let wanted = Wanted::of(&self.config, &self.dynamic).parameters;
        if wanted.get("wal_level").is_none_or(|level| level != "logical") {
            return Err(CopyError::WalLevel.into());
        }
        slots::check(&self.files, &found)?;
        self.stop(Duration::ZERO).await?;
        // The shutdown may have removed WAL. The server was stopped for nothing: not `untouched`.
        slots::check(&self.files, &found).map_err(|error| anyhow::anyhow!("{error}"))?;
        slots::put(&self.files, &found)?;
        let names: Vec<&str> = found.iter().map(|slot| slot.name.as_str()).collect();
        tracing::info!(slots = names.join(", "), "logical slots were copied from the leader");
        Ok(())
    }

    /// The command line of a server about to start, and its files as far as its role does not matter.
    async fn prepare(&self, standby: bool) -> anyhow::Result<Vec<String>> {
        let wanted = Wanted::of(&self.config, &self.dynamic);
        let control = if standby {
            let data_dir = &self.files.data_dir;
            control::settings(&self.programs, data_dir, READS_WITHIN).await.unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        let effective = effective(&wanted.parameters, &control, standby);
        for (name, difference) in &effective.raised {
            tracing::warn!(
                name,
                wanted = difference.new,
                started_with = difference.old,
                "its WAL was written with more: a standby is not started with less"
            );
        }
        self.files.strip_auto_conf()?;
        let known = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What was put into the files while the server ran was judged then: a start after a crash, which
        // clients wait for, does not ask again.
        if known.fingerprint != wanted.fingerprint() {
            let judged = (&*self.config, &wanted);
            let refused = examine(&self.programs, &self.files, judged, &known).await;
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            in_force.refused = refused;
            in_force.fingerprint = wanted.fingerprint();
        }
        Ok(self.files.arguments(&self.config, &effective.values))
    }

    /// `least` is the least patience with a stop that is under way; a deadline ends it sooner.
    async fn stop(&self, least: Duration) -> anyhow::Result<()> {
        let budget = self.config.regent.stop_budget.0;
        // An operation's stop span lets the shutdown's checkpoint outlast the lease (rule 5).
        let patience = budget.max(self.guard.stop_span_left().saturating_sub(budget)).max(least);
        let clean = self.server.stop(&self.files.data_dir, budget, patience).await;
        if self.server.postmaster().is_some() {
            anyhow::bail!(
                "PostgreSQL could not be stopped; its processes are still there. What lives of a writer is \
                 killed at its deadline; where a disk hangs, see the runbook an-agent-hangs"
            );
        }
        self.guard.disarm();
        if !clean {
            tracing::warn!("PostgreSQL was stopped, but not cleanly");
        }
        Ok(())
    }
}

impl Context {
    /// The programs of a job that was cut off die with it; what they had started may take a moment,
    /// and must not write into what comes next.
    async fn nothing_is_left(&self) {
        let leaves = async {
            loop {
                let data_dir = self.files.data_dir.clone();
                let looked =
                    tokio::task::spawn_blocking(move || of_data_directory(&data_dir, None));
                if matches!(looked.await, Ok(Ok(found)) if found.is_empty()) {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(LEAVES_WITHIN, leaves).await.is_err() {
            tracing::warn!("what a cancelled job had started is still there");
        }
    }
}

fn addresses(follow: &Follow) -> anyhow::Result<Vec<(String, u16)>> {
    match follow {
        Follow::Nobody => anyhow::bail!("there is nobody to copy from"),
        Follow::Member { address, .. } => Ok(vec![address.clone()]),
        Follow::Site { addresses, .. } | Follow::Remote { addresses, .. } => Ok(addresses.clone()),
    }
}
