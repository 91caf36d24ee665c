//! Jobs that ended: what a success changes, and how soon one that failed is tried again.

use std::time::Duration;

use super::view::{FailedJob, JobKind, PrePromote, Process};
use super::{Action, Choice, Judge, Reason};

/// The first pause after a job failed; doubles up to [`BACKOFF_MOST`].
const BACKOFF_LEAST: Duration = Duration::from_secs(1);
/// The longest pause between two tries of a failing job.
const BACKOFF_MOST: Duration = Duration::from_secs(30);

impl Judge<'_> {
    /// What came of a job that has ended.
    pub(super) fn remember_finished_job(&mut self) {
        let Some(finished) = &self.view.finished else { return };
        // Of a start that is done it is not known yet whether the server comes up.
        let started = finished.problem.is_none() && finished.job == JobKind::Start;
        self.memory.start_unanswered = match finished.job {
            JobKind::Checkpoint | JobKind::CreateUsers | JobKind::PrePromote => {
                self.memory.start_unanswered
            }
            // A copy of slots leaves the server stopped, or as it was when it answered.
            JobKind::Initdb
            | JobKind::Clone
            | JobKind::Start
            | JobKind::Stop
            | JobKind::Rewind
            | JobKind::CopySlots => started,
        };
        if finished.problem.is_none() {
            self.memory.failed =
                self.memory.failed.take().filter(|failed| started && failed.job == JobKind::Start);
            match finished.job {
                JobKind::Clone => {
                    self.memory.rewind_failed = false;
                    self.memory.rewinds = 0;
                    // A copy has its source's history: it is not copied again for what was not known
                    // of the one before, which would drive that one's salvage out.
                    self.memory.unknown_since = None;
                }
                JobKind::Checkpoint => {
                    self.memory.owes_checkpoint_since = None;
                    if let Some(operation) = self.memory.checkpointing_for.take() {
                        self.memory.checkpointed_for = Some(operation);
                    }
                }
                JobKind::Rewind => self.memory.rewinds = self.memory.rewinds.saturating_add(1),
                JobKind::PrePromote => self.memory.pre_promote = PrePromote::Passed,
                // Other files are there now: what was known of the slots before says nothing.
                JobKind::CopySlots => self.memory.slots_readiness.clear(),
                JobKind::Initdb | JobKind::Start | JobKind::Stop | JobKind::CreateUsers => {}
            }
            return;
        }
        if finished.job == JobKind::PrePromote {
            self.memory.pre_promote = PrePromote::Refused(self.view.now);
        }
        if finished.job == JobKind::Rewind && !finished.untouched {
            self.memory.rewind_failed = true;
        }
        if finished.job == JobKind::Checkpoint {
            self.memory.checkpointing_for = None;
        }
        if finished.job == JobKind::CopySlots {
            if finished.untouched {
                // The server was not stopped for it.
                self.memory.slots_copy_after = Some(self.view.now.plus(BACKOFF_MOST));
                self.memory.slots_copies = self.memory.slots_copies.saturating_sub(1);
            } else {
                // Some of the files may be others now.
                self.memory.slots_readiness.clear();
            }
        }
        self.note_failure(finished.job.clone());
    }

    /// A server that ends before it ever answered is a start that failed, or it would be started
    /// again and again without a pause.
    pub(super) fn remember_end_of_start(&mut self) {
        if self.view.postgres.status.is_some() {
            self.memory.start_unanswered = false;
            self.memory.failed.take_if(|failed| failed.job == JobKind::Start);
            return;
        }
        let ended = self.view.postgres.process == Process::Stopped && self.view.job.is_none();
        if ended && self.memory.start_unanswered {
            self.memory.start_unanswered = false;
            self.note_failure(JobKind::Start);
        }
    }

    fn note_failure(&mut self, job: JobKind) {
        let times = match &self.memory.failed {
            Some(failed) if failed.job == job => failed.times.saturating_add(1),
            Some(_) | None => 1,
        };
        let pause = BACKOFF_MOST.min(BACKOFF_LEAST * 2u32.saturating_pow(times.min(6) - 1));
        let at = self.view.now;
        self.memory.failed = Some(FailedJob { job, times, at, retry_at: at.plus(pause) });
    }

    /// A job that failed is not tried again at once. Stopping is never put off.
    pub(super) fn without_hasty_retry(&self, choice: Choice) -> Choice {
        let Some(failed) = &self.memory.failed else { return choice };
        let again = |action: &Action| matches!(action, Action::Run(job) if job.kind() == failed.job && job.kind() != JobKind::Stop);
        if self.view.now < failed.retry_at && choice.actions.iter().any(again) {
            let left = failed.retry_at.since(self.view.now);
            return Choice::wait_for(Reason::Backoff(failed.job.clone()), left);
        }
        choice
    }
}
