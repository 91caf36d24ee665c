//! The agent's long acts on the model: how long they take, what they need, what they leave behind
//! when they are interrupted.

use std::time::Duration;

use regent_agent::decide::Job;
use regent_agent::decide::view::{ControlState, FinishedJob, Follow, JobKind};
use regent_proto::time::Deadline;

use super::life::Stage;
use super::wal::Wal;
use super::{Data, Process};
use crate::event::Event;
use crate::mutants::Mutant;
use crate::node::observe::addresses;
use crate::time::{MS, Nanos, SEC, nanos};
use crate::world::World;

impl World {
    /// Begins a job of the agent of node `n`.
    pub(crate) fn begin_job(&mut self, n: usize, job: Job) {
        self.last_job += 1;
        let number = self.last_job;
        let kind = job.kind();
        if kind == JobKind::Checkpoint {
            self.nodes[n].checkpoint = Some(number);
        } else {
            self.nodes[n].job = Some((kind.clone(), number));
        }
        let took: Nanos = match &job {
            Job::Initdb => self.chance.between(2 * SEC, 6 * SEC),
            Job::Clone(_) => self.chance.between(3 * SEC, 40 * SEC),
            Job::StartStandby(_) | Job::StartPrimary { .. } => 20 * MS,
            Job::Stop => return self.begin_stop(n, number, Duration::ZERO),
            // As the product's.
            Job::StopToRestart => return self.begin_stop(n, number, Duration::from_secs(60)),
            Job::Rewind(_) => self.chance.between(SEC, 15 * SEC),
            Job::Checkpoint => self.chance.between(100 * MS, 4 * SEC),
            Job::CreateUsers | Job::PrePromote => self.chance.between(50 * MS, 300 * MS),
            // No scenario has logical slots.
            Job::CopySlots { .. } => 20 * MS,
        };
        match &job {
            // The agent's own marker stands until they are done.
            Job::Initdb => self.server(n).data = Data::Incomplete,
            // Nothing is removed for a source that does not answer.
            Job::Clone(from)
                if self.nodes[n].server.data == Data::Cluster && self.source(n, from).is_none() => {
            }
            Job::Clone(_) => self.server(n).data = Data::Incomplete,
            Job::StartStandby(follow) => {
                let server = self.server(n);
                server.follow = Some(follow.clone());
                server.synchronous = String::new();
                self.disarm(n);
            }
            Job::StartPrimary { synchronous } => {
                self.server(n).synchronous.clone_from(synchronous);
                if self.mutant == Mutant::EmptyListAfterACrash {
                    self.server(n).synchronous.clear();
                }
            }
            Job::Stop
            | Job::StopToRestart
            | Job::Rewind(_)
            | Job::Checkpoint
            | Job::CreateUsers
            | Job::PrePromote
            | Job::CopySlots { .. } => {}
        }
        self.schedule(took, Event::Job(n, number, Box::new(job)));
    }

    fn begin_stop(&mut self, n: usize, number: u64, least: Duration) {
        let now = self.nodes[n].clock.boot(self.now);
        let budget = self.nodes[n].config.regent.stop_budget.0;
        let orders = self.nodes[n].page.orders();
        let span = match orders.guard {
            regent_guardian::page::Guard::PlannedStop => {
                orders.stop_until.left(now).saturating_sub(orders.kill_budget)
            }
            regent_guardian::page::Guard::Off
            | regent_guardian::page::Guard::ByDeadline
            | regent_guardian::page::Guard::Unknown(_) => Duration::ZERO,
        };
        // As the product's job: the budget, then the walsenders are ended, then the patience.
        let patience = budget.max(span.saturating_sub(budget)).max(least);
        if self.nodes[n].server.process == Process::Stopped {
            self.schedule(20 * MS, Event::Job(n, number, Box::new(Job::Stop)));
            return;
        }
        self.stop_server(n);
        self.later(n, nanos(budget), Stage::Budget);
        self.later(n, nanos(budget + patience), Stage::Patience);
        self.schedule(50 * MS, Event::Job(n, number, Box::new(Job::Stop)));
    }

    /// A job's end, or a look whether it has come.
    pub(crate) fn job(&mut self, n: usize, number: u64, job: Job) {
        let kind = job.kind();
        let present = if kind == JobKind::Checkpoint {
            self.nodes[n].checkpoint == Some(number)
        } else {
            self.nodes[n].job.as_ref().is_some_and(|(_, present)| *present == number)
        };
        // The agent that began it is gone.
        let Some(process) = self.nodes[n].agent.filter(|_| present) else { return };
        if !self.runs(process) {
            self.schedule(100 * MS, Event::Job(n, number, Box::new(job)));
            return;
        }
        if kind == JobKind::Stop && self.nodes[n].server.process != Process::Stopped {
            self.schedule(20 * MS, Event::Job(n, number, Box::new(job)));
            return;
        }
        let (problem, untouched) = match self.perform_job(n, job) {
            Ok(()) => (None, false),
            Err((problem, untouched)) => (Some(problem.to_owned()), untouched),
        };
        if kind == JobKind::Checkpoint {
            self.nodes[n].checkpoint = None;
        } else {
            self.nodes[n].job = None;
        }
        self.explain(n, "job", || {
            format!("{kind:?} ended: {}", problem.as_deref().unwrap_or("done"))
        });
        if let Some(problem) = &problem {
            self.counters.count(&format!("job failed: {kind:?}: {problem}"));
        }
        self.nodes[n].mail.finished = Some(FinishedJob { job: kind, problem, untouched });
        self.nodes[n].wake.notify_one();
    }

    fn perform_job(&mut self, n: usize, job: Job) -> Result<(), (&'static str, bool)> {
        match job {
            Job::Initdb => {
                self.databases += 1;
                let mark = self.mark();
                let number = 7_000_000_000 + self.databases;
                let server = self.server(n);
                server.wal = Wal::new(mark);
                server.identifier = number;
                server.control = ControlState::ShutDown;
                server.control_timeline = 1;
                server.data = Data::Cluster;
                Ok(())
            }
            Job::Clone(from) => {
                let source = self.source(n, &from).ok_or(("no source answers", false))?;
                if self.nodes[n].server.data == Data::Cluster {
                    return Err(("no source answered", true));
                }
                self.copy_server(n, source);
                Ok(())
            }
            Job::StartStandby(_) => self.start_server(n, true).map_err(|problem| (problem, false)),
            Job::StartPrimary { .. } => {
                self.start_server(n, false).map_err(|problem| (problem, false))?;
                self.arm(n);
                Ok(())
            }
            Job::Stop | Job::StopToRestart => {
                self.disarm(n);
                Ok(())
            }
            Job::Rewind(from) => self.rewind(n, &from),
            Job::PrePromote => Ok(()),
            Job::CopySlots { .. } => Err(("the model has no logical slots", true)),
            Job::Checkpoint => {
                let server = self.server(n);
                if !server.answers() {
                    return Err(("the server does not answer", true));
                }
                server.control_timeline = server.wal.timeline;
                Ok(())
            }
            Job::CreateUsers => {
                let mark = self.mark();
                let server = self.server(n);
                if !server.answers() || server.in_recovery {
                    return Err(("the server does not answer", true));
                }
                server.users = true;
                server.wal.append(mark);
                self.wal_grew(n);
                Ok(())
            }
        }
    }

    /// The first of the addresses that answers.
    fn source(&self, n: usize, from: &Follow) -> Option<usize> {
        addresses(from).into_iter().filter_map(|(_, port)| self.by_port(port)).find(|u| {
            let other = &self.nodes[*u];
            *u != n && other.server.answers() && self.net.both(self.nodes[n].host, other.host)
        })
    }

    fn copy_server(&mut self, n: usize, source: usize) {
        let mut copy = std::mem::take(self.server(n));
        copy.copy(&self.nodes[source].server);
        *self.server(n) = copy;
    }

    /// `pg_rewind` goes by the timelines in the control files (hazards.md section 4, facts 23 to 28).
    fn rewind(&mut self, n: usize, from: &Follow) -> Result<(), (&'static str, bool)> {
        let source = self.source(n, from).ok_or(("the source does not answer", true))?;
        let (own, other) = (&self.nodes[n].server, &self.nodes[source].server);
        if own.process != Process::Stopped || own.data != Data::Cluster {
            return Err(("the target runs", false));
        }
        if own.identifier != other.identifier {
            return Err(("source and target are of different systems", false));
        }
        if other.in_recovery && other.control_timeline < other.wal.timeline {
            return Err(("the source has not made its restartpoint", true));
        }
        if own.control_timeline != other.control_timeline {
            self.copy_server(n, source);
        }
        self.server(n).standby_signal = true;
        // What was rewound needs recovery up to the source's end.
        self.server(n).control = ControlState::InRecovery;
        Ok(())
    }

    /// The end of a handover's stop, on this node's clock.
    #[must_use]
    pub fn stop_until(view: &regent_agent::decide::view::View) -> Deadline {
        use regent_proto::record::PrimaryState;
        let federation = view.federation.as_ref();
        let state = federation.and_then(|f| f.primary.as_ref()).map(|p| &p.value.state);
        match (state, federation) {
            (Some(PrimaryState::Handover { span, .. }), Some(federation)) => {
                Deadline::at(view.now.minus(federation.primary_age).plus(*span))
            }
            (_, _) => Deadline::NEVER,
        }
    }
}
