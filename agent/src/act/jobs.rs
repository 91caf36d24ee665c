//! Long acts: one at a time on the data directory and the server, a checkpoint beside it. Decisions
//! go on meanwhile; how a job ended is the next observation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_guardian::processes::of_data_directory;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::postgres::bootstrap::Ground;
use super::postgres::files::{Files, InForce};
use super::postgres::programs::Programs;
use super::postgres::server::Server;
use super::postgres::{copy, sql};
use super::scripts::{self, Call};
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::Job;
use crate::decide::view::{FinishedJob, Follow, JobKind};
use crate::fence::guard::Guard;

/// The longest that the end of the agent waits for a start that is under way: longer than a guardian
/// has for it.
const STARTS_WITHIN: Duration = Duration::from_secs(15);

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
            // A rewind asks its source by SQL before it begins.
            let untouched = result.as_ref().is_err_and(|error| error.is::<sql::SqlError>());
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
            | JobKind::PrePromote => {}
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
            | JobKind::PrePromote => task.abort(),
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
                    Follow::Member { .. } | Follow::Site { .. } => addresses(&from)?,
                };
                self.ground().make_replica(&addresses, progress).await?;
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
                let first = addresses.first().ok_or_else(|| anyhow::anyhow!("no address"))?;
                sql::wait_for_checkpoint(first, user, Duration::from_secs(60)).await?;
                copy::rewind(&self.programs, &self.files, user, &addresses[..1]).await?;
                Ok(self.files.set_standby_signal(true)?)
            }
            Job::Checkpoint => Ok(sql::checkpoint(&self.config).await?),
            Job::CreateUsers => Ok(sql::create_users(&self.config).await?),
            Job::PrePromote => match &self.config.postgres.pre_promote {
                Some(command) => scripts::run(Call::new("pre_promote", command), PRE_PROMOTE).await,
                None => Ok(()),
            },
        }
    }

    /// What it takes to make a data directory.
    fn ground(&self) -> Ground<'_> {
        Ground {
            programs: &self.programs,
            files: &self.files,
            config: &self.config,
            dynamic: &self.dynamic,
        }
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
        self.files.forget_recovery()?;
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
        let arguments = self.files.arguments(&self.config, &self.dynamic);
        if standby {
            self.guard.disarm();
        } else {
            // The deadline may have passed since this was decided, and rung 1 have found nothing.
            self.guard.arm_for_start();
            anyhow::ensure!(self.guard.may_write(), "the right to write ended before the start");
        }
        let postmaster = self.server.start(&self.programs, &arguments).await?;
        if !standby {
            self.guard.arm(Some(postmaster.pid));
        }
        Ok(())
    }

    /// `least` is the least patience with a stop that is under way; a deadline ends it sooner.
    async fn stop(&self, least: Duration) -> anyhow::Result<()> {
        let budget = self.config.regent.stop_budget.0;
        // An operation's stop span lets the shutdown's checkpoint outlast the lease (rule 5).
        let patience = budget.max(self.guard.stop_span_left().saturating_sub(budget)).max(least);
        let clean = self.server.stop(&self.files.data_dir, budget, patience).await;
        if self.server.postmaster().is_some() {
            anyhow::bail!("PostgreSQL could not be stopped; its processes are still there");
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
        Follow::Site { addresses, .. } => Ok(addresses.clone()),
    }
}
