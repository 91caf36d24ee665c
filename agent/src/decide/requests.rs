//! What people ask of this node over REST: a restart, at once or scheduled, and a new copy in place of
//! a replica's data (spec/patroni-compat.md 2.5, 3.13). One is under way at a time.
//!
//! A request opens nothing itself. It stops the server, or replaces what is in its directory, and from
//! there on the server starts as it would in any case, through the same gate (I6). A primary keeps its
//! leader key over a restart, and its deadlines go on, so the fence stops it as ever; because the key
//! carried this node's name unbroken, nobody else can have led, and the server opens where it stopped,
//! on the same timeline. Where the key moved meanwhile, that is over. Only a pause, in which nothing
//! starts by itself, has starts of its own here, and those are of what a request stopped.

use std::time::Duration;

use super::paused::{self, Fence};
use super::preconditions::{self, Opening};
use super::view::{
    Answer, Ask, ControlState, DataDirectory, Follow, JobKind, LeaderKey, NodeRole, Process,
    Reinitialize, Request, Restart, ScheduledRestart, SiteView, Stage, Task, UnderWay,
};
use super::{Action, Choice, Job, Judge, Reason, callbacks, rejoin, synchronous, upstream};

/// How long a server may take to answer again, where the request does not say: Patroni's default for
/// `primary_start_timeout`.
const STARTS_WITHIN: Duration = Duration::from_secs(300);
/// The bound of a checkpoint before the stop: the job's own.
const CHECKPOINTS_WITHIN: Duration = Duration::from_secs(600);
/// A stop and a copy end with their jobs, which have bounds of their own.
const ENDS_WITH_ITS_JOB: Duration = Duration::from_secs(48 * 3600);
/// How soon a restart that is due and cannot begin is looked at again.
const DUE_AGAIN: Duration = Duration::from_millis(200);
/// A picture of the site DCS that is older tells nothing of who leads: a store that answers is read
/// twice in this time.
const FRESH: Duration = Duration::from_secs(10);

/// What comes next for the request that is under way.
enum Step {
    /// Something else has to happen first.
    Wait,
    /// The next stage, which may last so long, with what begins it.
    Next(Stage, Duration, Option<Action>),
    /// It is over.
    End(Answer),
}

impl Judge<'_> {
    /// Hears what was asked, and takes the request that is under way one step on: the answers, and
    /// the step where there is one.
    pub(super) fn requested(&mut self) -> (Vec<Action>, Option<Choice>) {
        let view = self.view;
        let mut actions = Vec::new();
        let taken = self.memory.request.as_ref().and_then(|under_way| under_way.request);
        for request in view.requests.asked.iter().filter(|r| Some(r.number) != taken) {
            self.hear(request, &mut actions);
        }
        self.take_up_what_is_due();
        let step = self.go_on(&mut actions).unwrap_or(doing(Stage::Clearing));
        let (answers, steps): (Vec<Action>, Vec<Action>) =
            actions.into_iter().partition(|action| matches!(action, Action::Answer { .. }));
        let choice = (!steps.is_empty()).then(|| Choice::act(Reason::Requested(step), steps));
        (answers, choice)
    }

    fn hear(&mut self, request: &Request, actions: &mut Vec<Action>) {
        let answer = match &request.ask {
            Ask::Restart(restart) => self.take_up_restart(restart, Some(request.number)).err(),
            Ask::Schedule(scheduled) => Some(self.schedule(scheduled)),
            Ask::Unschedule => Some(match self.memory.scheduled_restart.take() {
                Some(_) => Answer::Unscheduled,
                None => Answer::NothingScheduled,
            }),
            Ask::Reinitialize(how) => Some(match self.take_up_reinitialize(*how) {
                Ok(clears) => {
                    actions.extend(clears);
                    Answer::ReinitializeStarted
                }
                Err(refused) => refused,
            }),
        };
        if let Some(answer) = answer {
            actions.push(Action::Answer { request: request.number, answer });
        }
    }

    fn schedule(&mut self, scheduled: &ScheduledRestart) -> Answer {
        if self.memory.scheduled_restart.is_some() {
            return Answer::AlreadyScheduled;
        }
        let started = self.view.requests.started.clone();
        self.memory.scheduled_restart = Some(ScheduledRestart { started, ..scheduled.clone() });
        Answer::Scheduled
    }

    /// A scheduled restart whose time has come, unless it has outlived its reason: the server was
    /// restarted meanwhile, or the time has long passed. Not in a pause (spec 3.13).
    fn take_up_what_is_due(&mut self) {
        let Some(scheduled) = &self.memory.scheduled_restart else { return };
        let now = self.view.now;
        let restarted = match (&scheduled.started, &self.view.requests.started) {
            (Some(then), Some(started)) => then != started,
            (Some(_) | None, Some(_) | None) => false,
        };
        if restarted || now.since(scheduled.due) > self.outdated_after() {
            self.memory.scheduled_restart = None;
            return;
        }
        let busy = self.view.job.is_some() || self.memory.request.is_some();
        if now < scheduled.due || self.policy.paused || busy {
            return;
        }
        if let Some(scheduled) = self.memory.scheduled_restart.take() {
            // Nobody waits for an answer: where it cannot be, it is not.
            self.take_up_restart(&scheduled.restart, None).ok();
        }
    }

    /// As in Patroni.
    fn outdated_after(&self) -> Duration {
        self.policy.loop_wait * 3 / 2
    }

    /// When something of a request is due, if nothing happens before.
    pub(super) fn request_due_in(&self) -> Duration {
        let now = self.view.now;
        let scheduled = self.memory.scheduled_restart.as_ref().map(|scheduled| {
            if now < scheduled.due { scheduled.due.since(now) } else { DUE_AGAIN }
        });
        let under_way = self.memory.request.as_ref().map(|under_way| under_way.until.since(now));
        let under_way = under_way.filter(|left| !left.is_zero());
        scheduled.into_iter().chain(under_way).min().unwrap_or(Duration::MAX)
    }

    fn take_up_restart(&mut self, restart: &Restart, request: Option<u64>) -> Result<(), Answer> {
        if !self.conditions_hold(restart) {
            return Err(Answer::ConditionsUnmet);
        }
        self.nothing_in_progress()?;
        let postgres = &self.view.postgres;
        let possible = match (&postgres.data, postgres.process) {
            (_, Process::Starting) => return Err(Answer::StillStarting),
            (DataDirectory::Cluster(_), Process::Running) => {
                self.view.site.is_some() && (!self.writable() || self.may_reopen())
            }
            // It starts by itself; in a pause, what was stopped by hand may be started as a standby.
            (DataDirectory::Cluster(control), Process::Stopped) => {
                !self.is_suspended() || recovers(control.state)
            }
            (
                DataDirectory::Empty | DataDirectory::Incomplete | DataDirectory::Unreadable(_),
                Process::Running | Process::Stopped,
            ) => false,
        };
        if !possible {
            return Err(Answer::RestartFailed);
        }
        self.take_up(request, Task::Restart(restart.clone()), Stage::Withdrawing);
        Ok(())
    }

    /// What has to be done first is told.
    fn take_up_reinitialize(&mut self, how: Reinitialize) -> Result<Option<Action>, Answer> {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        match leader {
            None => return Err(Answer::NoLeader),
            Some(leader) if leader.unreadable => return Err(Answer::NoLeader),
            Some(leader) if leader.name == self.policy.me => return Err(Answer::IsLeader),
            Some(_) if self.copies_from(how).is_none() => return Err(Answer::NoLeader),
            // It has just lost the key, and is about to be stopped with what only it may have.
            Some(_) if self.writable() && !self.is_suspended() => {
                return Err(Answer::InProgress(word(&JobKind::Stop)));
            }
            Some(_) => {}
        }
        let cancels = match &self.view.job {
            Some(JobKind::Clone | JobKind::Rewind) => how.force && self.memory.request.is_none(),
            Some(
                JobKind::Initdb
                | JobKind::Start
                | JobKind::Stop
                | JobKind::Checkpoint
                | JobKind::CreateUsers
                | JobKind::PrePromote
                | JobKind::CopySlots,
            )
            | None => false,
        };
        if !cancels {
            self.nothing_in_progress()?;
        }
        let stage = if cancels { Stage::Clearing } else { Stage::Withdrawing };
        self.take_up(None, Task::Reinitialize(how), stage);
        Ok(cancels.then_some(Action::CancelJob))
    }

    fn take_up(&mut self, request: Option<u64>, task: Task, stage: Stage) {
        let until = self.view.now.plus(self.withdraws_within());
        self.memory.request = Some(UnderWay { request, task, stage, until });
    }

    fn nothing_in_progress(&self) -> Result<(), Answer> {
        if let Some(under_way) = &self.memory.request {
            return Err(Answer::InProgress(match under_way.task {
                Task::Restart(_) => "restart",
                Task::Reinitialize(_) => "reinitialize",
            }));
        }
        match &self.view.job {
            None => Ok(()),
            Some(kind) => Err(Answer::InProgress(word(kind))),
        }
    }

    fn conditions_hold(&self, restart: &Restart) -> bool {
        let status = self.view.postgres.status.as_ref();
        let in_role = restart.role.is_none_or(|role| self.role() == Some(role));
        let older = restart.postgres_version.as_ref().is_none_or(|version| {
            status.is_some_and(|status| status.server_version < version.number)
        });
        let pending = !restart.restart_pending || self.view.requests.pending_restart;
        in_role && older && pending
    }

    /// What this node runs as.
    fn role(&self) -> Option<NodeRole> {
        callbacks::role(&self.policy.me, self.view)
    }

    fn is_suspended(&self) -> bool {
        match paused::fence(self.policy, self.view) {
            Fence::Suspended => true,
            Fence::Stands => false,
        }
    }

    /// Whether a primary that stops now could open again: nothing but its own running stands in the way.
    fn may_reopen(&self) -> bool {
        let opening = if self.is_suspended() { Opening::StartInPause } else { Opening::Start };
        preconditions::unmet(self.policy, self.view, opening).is_empty()
    }

    /// Its primary's commits may wait for this node; a record that nobody can read may name it.
    fn is_counted_on(&self) -> bool {
        self.view.site.as_ref().is_some_and(|site| {
            let led = site.leader.as_ref().is_some_and(|leader| leader.name != self.policy.me);
            let unknown = self.policy.synchronous_mode && site.sync.unreadable;
            led && (unknown || site.sync.standbys.contains(&self.policy.me))
        })
    }

    /// As in Patroni.
    fn withdraws_within(&self) -> Duration {
        self.policy.loop_wait * 2
    }

    /// Goes on until something has to be waited for; which step that is, where something is done.
    fn go_on(&mut self, actions: &mut Vec<Action>) -> Option<&'static str> {
        let mut under_way = self.memory.request.take()?;
        loop {
            match self.step(&under_way) {
                Step::Wait => {
                    self.memory.request = Some(under_way);
                    return None;
                }
                Step::Next(stage, span, action) => {
                    under_way.stage = stage;
                    under_way.until = self.view.now.plus(span);
                    let Some(action) = action else { continue };
                    if action == Action::Run(Job::StopToRestart) {
                        self.memory.reopens = self.writable();
                    }
                    actions.push(action);
                    self.memory.request = Some(under_way);
                    return Some(doing(stage));
                }
                Step::End(answer) => {
                    // A stop that failed has left the server as it was.
                    self.memory.reopens &= under_way.stage != Stage::Stopping;
                    let answers = under_way.request;
                    actions.extend(answers.map(|request| Action::Answer { request, answer }));
                    return None;
                }
            }
        }
    }

    fn step(&self, under_way: &UnderWay) -> Step {
        let over = self.view.now >= under_way.until;
        match under_way.stage {
            Stage::Clearing => match &self.view.job {
                None => Step::Next(Stage::Withdrawing, self.withdraws_within(), None),
                Some(_) if over => Step::End(Answer::RestartFailed),
                Some(_) => Step::Wait,
            },
            Stage::Withdrawing if self.is_counted_on() && !over => Step::Wait,
            Stage::Withdrawing => {
                let running = self.view.postgres.process == Process::Running;
                let restarts = matches!(under_way.task, Task::Restart(_));
                let begins = running && restarts && !self.view.checkpoint_runs;
                let checkpoint = begins.then_some(Action::Run(Job::Checkpoint));
                Step::Next(Stage::Checkpointing, CHECKPOINTS_WITHIN, checkpoint)
            }
            Stage::Checkpointing => {
                // What a copy replaces is not written out first.
                let waits = match under_way.task {
                    Task::Restart(_) => self.view.checkpoint_runs,
                    Task::Reinitialize(_) => false,
                };
                // A job of the node's own came in between.
                let waits = waits || self.view.job.is_some();
                if waits && !over { Step::Wait } else { self.stop_for(under_way) }
            }
            Stage::Stopping => match (&self.view.job, self.view.postgres.process) {
                (Some(_), _) => Step::Wait,
                (None, Process::Stopped) => self.after_the_stop(under_way),
                (None, Process::Starting | Process::Running) => Step::End(Answer::RestartFailed),
            },
            Stage::Copying => match (&self.view.job, self.failed(&JobKind::Clone)) {
                (Some(_), _) => Step::Wait,
                (None, true) => Step::End(Answer::RestartFailed),
                (None, false) => Step::Next(Stage::Starting, STARTS_WITHIN, None),
            },
            Stage::Starting if self.failed(&JobKind::Start) => Step::End(Answer::RestartFailed),
            Stage::Starting if self.view.postgres.process == Process::Running => {
                Step::End(Answer::Restarted)
            }
            Stage::Starting if over => Step::End(Answer::StillStarting),
            Stage::Starting => Step::Wait,
        }
    }

    fn failed(&self, kind: &JobKind) -> bool {
        let finished = self.view.finished.as_ref();
        finished.is_some_and(|finished| finished.job == *kind && finished.problem.is_some())
    }

    /// Everything is tested again: time has passed since the request was taken on.
    fn stop_for(&self, under_way: &UnderWay) -> Step {
        let postgres = &self.view.postgres;
        let stops = |job| Step::Next(Stage::Stopping, ENDS_WITH_ITS_JOB, Some(Action::Run(job)));
        match (&self.view.job, postgres.process, &under_way.task) {
            (Some(_), _, _) => Step::End(Answer::RestartFailed),
            (None, Process::Stopped, _) => self.after_the_stop(under_way),
            (None, Process::Starting, Task::Restart(_)) => Step::End(Answer::StillStarting),
            (None, Process::Running, Task::Restart(_)) => {
                if !self.writable() || self.may_reopen() {
                    stops(Job::StopToRestart)
                } else {
                    Step::End(Answer::RestartFailed)
                }
            }
            (None, Process::Starting | Process::Running, Task::Reinitialize(how)) => {
                match self.may_copy_from(*how) {
                    Some(_) => stops(Job::Stop),
                    None => Step::End(Answer::NoLeader),
                }
            }
        }
    }

    fn after_the_stop(&self, under_way: &UnderWay) -> Step {
        match &under_way.task {
            Task::Restart(restart) => {
                Step::Next(Stage::Starting, restart.timeout.unwrap_or(STARTS_WITHIN), None)
            }
            // The job removes nothing before its source has answered.
            Task::Reinitialize(how) => match self.may_copy_from(*how) {
                Some(source) => {
                    let clone = Action::Run(Job::Clone(source));
                    Step::Next(Stage::Copying, ENDS_WITH_ITS_JOB, Some(clone))
                }
                None => Step::End(Answer::NoLeader),
            },
        }
    }

    /// The site and its leader, while that is another member.
    fn led_by_another(&self) -> Option<(&SiteView, &LeaderKey)> {
        let site = self.view.site.as_ref()?;
        let leader = site.leader.as_ref()?;
        (leader.name != self.policy.me && !leader.unreadable).then_some((site, leader))
    }

    /// The leader, or a member that is there to be copied from. What is here may be all that is left of
    /// what a leader lacks that has not opened, or that led once (I15).
    fn copies_from(&self, how: Reinitialize) -> Option<Follow> {
        let (site, leader) = self.led_by_another()?;
        if site.age > FRESH || !self.leader_is_open(site, leader) {
            return None;
        }
        let other = rejoin::clone_member(site, &leader.name, &self.policy.me);
        let other = other.filter(|_| !how.from_leader);
        other.or_else(|| rejoin::member_follow(site, &leader.name))
    }

    /// The same once no commit rests on what is here: a restart brings it back, a copy does not (I3).
    fn may_copy_from(&self, how: Reinitialize) -> Option<Follow> {
        self.copies_from(how).filter(|_| !self.is_counted_on())
    }

    /// Whom a server follows that was copied.
    fn follows_after_a_copy(&self) -> Option<Follow> {
        let (site, leader) = self.led_by_another()?;
        let own = (&self.policy.me, self.policy.replicatefrom.as_ref(), self.policy.nostream);
        upstream::member_follow(site, &leader.name, own)
    }

    /// A restart ends here, for whatever reason, as soon as the key is not this node's, or the server
    /// runs again.
    pub(super) fn remember_reopening(&mut self) {
        let leader = self.view.site.as_ref().and_then(|site| site.leader.as_ref());
        let held = leader.is_some_and(|l| l.name == self.policy.me && !l.unreadable);
        let stopping =
            self.memory.request.as_ref().is_some_and(|request| request.stage == Stage::Stopping);
        let runs = self.view.postgres.process == Process::Running;
        self.memory.reopens &= held && (stopping || !runs);
    }

    /// And as soon as the right is given up, or taken anew.
    pub(super) fn forget_reopening(&mut self, actions: &[Action]) {
        let breaks = |action: &Action| {
            matches!(action, Action::EndTenure | Action::ReleaseLeader | Action::AcquireLeader)
        };
        self.memory.reopens &= !actions.iter().any(breaks);
    }

    /// A server that a request has stopped is about to start.
    pub(super) fn starts_by_request(&self) -> bool {
        self.memory.request.as_ref().is_some_and(|request| request.stage == Stage::Starting)
    }

    /// In a pause nothing starts by itself: here starts what a request has stopped.
    pub(super) fn start_by_request(&mut self, site: &SiteView, held: bool) -> Option<Choice> {
        if !self.starts_by_request() || self.view.postgres.process != Process::Stopped {
            return None;
        }
        let DataDirectory::Cluster(control) = &self.view.postgres.data else { return None };
        let copied = matches!(
            self.memory.request.as_ref().map(|request| &request.task),
            Some(Task::Reinitialize(_))
        );
        if copied || recovers(control.state) {
            let before = self.view.postgres.follows.clone();
            let follow = if copied { self.follows_after_a_copy() } else { before };
            let job = Job::StartStandby(follow.unwrap_or(Follow::Nobody));
            return Some(Choice::act(Reason::Starting, vec![Action::Run(job)]));
        }
        if !held || !self.memory.reopens {
            return None;
        }
        let unmet = preconditions::unmet(self.policy, self.view, Opening::StartInPause);
        if !unmet.is_empty() {
            return Some(Choice::not_ready(unmet, Vec::new()));
        }
        let synchronous = synchronous::list_at_start(self.policy, &mut self.memory, site);
        let job = Job::StartPrimary { synchronous };
        Some(Choice::act(Reason::Starting, vec![Action::Run(job)]))
    }
}

/// It was a standby when it stopped.
fn recovers(state: ControlState) -> bool {
    match state {
        ControlState::ShutDownInRecovery | ControlState::InRecovery => true,
        ControlState::ShutDown | ControlState::InProduction => false,
    }
}

/// What has the server, in the words of an answer.
fn word(kind: &JobKind) -> &'static str {
    match kind {
        JobKind::Initdb => "bootstrap",
        JobKind::Clone => "copying a replica",
        JobKind::Start => "start",
        JobKind::Stop => "stop",
        JobKind::Rewind => "rewind",
        JobKind::Checkpoint => "checkpoint",
        JobKind::CreateUsers => "creating users",
        JobKind::PrePromote => "pre_promote",
        JobKind::CopySlots => "copying logical slots",
    }
}

/// A stage, in the words of the log.
fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Clearing => "a request: ending the job in its way",
        Stage::Withdrawing => "a request: no synchronous standby any more",
        Stage::Checkpointing => "a restart was asked for: checkpointing first",
        Stage::Stopping => "a request: stopping PostgreSQL",
        Stage::Copying => "a request: copying the replica anew",
        Stage::Starting => "a request: starting PostgreSQL",
    }
}
