//! Restarts through any trouble: whatever happens between the stop and the start, a server that was
//! shut down opens where it stopped only while its key was never out of this node's hands, and while it
//! was not, and the right lies ahead, it is never sent through recovery, which ends in a new timeline.

use std::time::Duration;

use proptest::prelude::*;
use regent_proto::time::Deadline;

use super::world::World;
use crate::decide::view::*;
use crate::decide::{Action, Job};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Nothing,
    Ask,
    JobEnds,
    JobFails,
    Crash,
    KeyOurs,
    KeyUnbound,
    KeyOfAnother,
    KeyGone,
    KeyUnreadable,
    DeadlineAhead,
    DeadlinePast,
    ByWord,
    Renewed,
    Pause,
    Resume,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Nothing),
        4 => Just(Event::Ask),
        9 => Just(Event::JobEnds),
        1 => Just(Event::JobFails),
        1 => Just(Event::Crash),
        3 => Just(Event::KeyOurs),
        1 => Just(Event::KeyUnbound),
        1 => Just(Event::KeyOfAnother),
        1 => Just(Event::KeyGone),
        1 => Just(Event::KeyUnreadable),
        3 => Just(Event::DeadlineAhead),
        1 => Just(Event::DeadlinePast),
        1 => Just(Event::ByWord),
        2 => Just(Event::Renewed),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Writes,
    Recovers,
    Down(ControlState),
}

struct Play {
    world: World,
    /// What a writing server looks like.
    writing: PostgresView,
    server: Server,
    job: Option<Job>,
    number: u64,
    /// Since a restart has stopped what wrote: the key was ours in every round.
    unbroken: Option<bool>,
}

impl Play {
    fn new() -> Self {
        let mut world = World::new();
        world.view.federation = None;
        world.view.tenure.primary = None;
        let writing = world.view.postgres.clone();
        let mut play =
            Self { world, writing, server: Server::Writes, job: None, number: 0, unbroken: None };
        play.deadline(true);
        play
    }

    fn deadline(&mut self, ahead: bool) {
        let until = Deadline::at(self.world.view.now.plus(Duration::from_secs(1_000)));
        self.world.view.tenure.site = if ahead { until } else { Deadline::NEVER };
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Nothing => {}
            Event::Ask => {
                self.number += 1;
                let ask = Ask::Restart(Restart::default());
                self.world.view.requests.asked.push(Request { number: self.number, ask });
            }
            Event::JobEnds => self.end_job(None),
            Event::JobFails => self.end_job(Some("no".to_owned())),
            Event::Crash if self.job.is_none() => {
                self.server = match self.server {
                    Server::Writes => Server::Down(ControlState::InProduction),
                    Server::Recovers => Server::Down(ControlState::InRecovery),
                    down @ Server::Down(_) => down,
                };
            }
            Event::Crash => {}
            Event::KeyOurs => self.world.leader(Some("a1")),
            Event::KeyUnbound | Event::KeyUnreadable => {
                self.world.leader(Some("a1"));
                if let Some(leader) = &mut self.world.site().leader {
                    leader.bound_to_my_lease = event == Event::KeyUnreadable;
                    leader.unreadable = event == Event::KeyUnreadable;
                }
            }
            Event::KeyOfAnother => self.world.leader(Some("a2")),
            Event::KeyGone => self.world.leader(None),
            Event::DeadlineAhead => self.deadline(true),
            Event::DeadlinePast => self.deadline(false),
            Event::ByWord => self.world.view.failsafe.stands = true,
            Event::Renewed => self.world.view.failsafe.stands = false,
            Event::Pause => self.world.policy.paused = true,
            Event::Resume => self.world.policy.paused = false,
        }
    }

    fn end_job(&mut self, problem: Option<String>) {
        let kind = match self.job.take() {
            Some(job) => {
                if problem.is_none() {
                    self.server = self.after(&job);
                }
                job.kind()
            }
            None if self.world.view.checkpoint_runs => {
                self.world.view.checkpoint_runs = false;
                JobKind::Checkpoint
            }
            None => return,
        };
        self.world.view.finished = Some(FinishedJob { job: kind, problem, untouched: false });
    }

    fn after(&self, job: &Job) -> Server {
        match (job, self.server) {
            (Job::StartPrimary { .. }, _) => Server::Writes,
            (Job::StartStandby(_), _) => Server::Recovers,
            (Job::Stop | Job::StopToRestart, Server::Writes) => {
                Server::Down(ControlState::ShutDown)
            }
            (Job::Stop | Job::StopToRestart | Job::CopySlots { .. }, Server::Recovers) => {
                Server::Down(ControlState::ShutDownInRecovery)
            }
            (Job::Clone(_) | Job::Rewind(_) | Job::Initdb, _) => {
                Server::Down(ControlState::InRecovery)
            }
            (
                Job::Stop
                | Job::StopToRestart
                | Job::Checkpoint
                | Job::CreateUsers
                | Job::PrePromote
                | Job::CopySlots { .. },
                as_it_was,
            ) => as_it_was,
        }
    }

    /// What the next round sees.
    fn show(&mut self) {
        let follows = self.world.view.postgres.follows.clone();
        match self.server {
            Server::Writes => self.world.view.postgres = self.writing.clone(),
            Server::Recovers => self.world.standby(3, 500),
            Server::Down(state) => {
                self.world.stopped(state, 3, 500);
                self.world.view.postgres.standby_signal =
                    matches!(state, ControlState::InRecovery | ControlState::ShutDownInRecovery);
            }
        }
        let postgres = &mut self.world.view.postgres;
        postgres.follows = follows;
        self.world.view.job = self.job.as_ref().map(Job::kind);
        if self.job.is_some() {
            postgres.status = None;
            postgres.data = DataDirectory::Incomplete;
            if postgres.process == Process::Running {
                postgres.process = Process::Starting;
            }
        }
    }

    /// What a restart is made of; the rest has no effect here.
    fn perform(&mut self, action: Action) {
        if action == Action::Promote {
            self.server = Server::Writes;
        } else if action == Action::Run(Job::Checkpoint) {
            self.world.view.checkpoint_runs = true;
        } else if let Action::Answer { request, .. } = action {
            self.world.view.requests.asked.retain(|asked| asked.number != request);
        } else if let Action::Run(job) = action {
            if job == Job::StopToRestart && self.server == Server::Writes {
                self.unbroken = Some(true);
            }
            self.job = Some(job);
        }
    }

    fn turn(&mut self, event: Event) -> Result<(), TestCaseError> {
        self.world.view.now = self.world.view.now.plus(Duration::from_secs(2));
        self.happens(event);
        self.show();
        let leader = self.world.site().leader.clone();
        let ours = leader.as_ref().is_some_and(|l| l.name == self.world.policy.me && !l.unreadable);
        let runs = self.world.view.postgres.process == Process::Running;
        self.unbroken = self.unbroken.filter(|_| !runs).map(|unbroken| unbroken && ours);
        let decision = self.world.decide();
        let actions = &decision.actions;
        let down = self.server == Server::Down(ControlState::ShutDown) && self.job.is_none();
        let opens = |a: &Action| matches!(a, Action::Run(Job::StartPrimary { .. }));
        if down && actions.iter().any(opens) {
            prop_assert_eq!(self.unbroken, Some(true), "it opens without a proof: {:?}", actions);
        }
        let right = leader.is_some_and(|l| l.bound_to_my_lease)
            && self.world.view.tenure.site.lies_ahead(self.world.view.now);
        let recovers =
            |a: &Action| matches!(a, Action::Run(Job::StartStandby(_)) | Action::Promote);
        if down && right && self.unbroken == Some(true) {
            prop_assert!(!actions.iter().any(recovers), "a new timeline: {:?}", actions);
        }
        let breaks = |a: &Action| {
            matches!(a, Action::EndTenure | Action::ReleaseLeader | Action::AcquireLeader)
        };
        if actions.iter().any(breaks) {
            self.unbroken = self.unbroken.map(|_| false);
        }
        for action in decision.actions {
            self.perform(action);
        }
        self.world.memory = decision.memory;
        self.world.view.finished = None;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_restart_opens_with_a_proof_and_begins_no_timeline(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut play = Play::new();
        for event in events {
            play.turn(event)?;
        }
    }
}

/// The property above is not empty.
#[test]
fn a_restart_without_trouble_is_among_them() {
    let mut play = Play::new();
    for event in [Event::Ask, Event::JobEnds, Event::JobEnds] {
        play.turn(event).expect("holds");
    }
    let starts = matches!(play.job, Some(Job::StartPrimary { .. }));
    assert!(starts && play.unbroken == Some(true), "{:?}", play.job);
}
