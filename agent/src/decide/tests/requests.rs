//! What people ask for over REST (spec/patroni-compat.md 2.5, 3.13), row by row: what is refused, what
//! is done step by step, and that a primary's restart is never a promotion.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::Deadline;

use super::world::{NOW, World, mark, name};
use crate::decide::preconditions::{Opening, Precondition, unmet};
use crate::decide::view::*;
use crate::decide::{Action, Job, PausedAs, Reason};

const NUMBER: u64 = 7;

/// A person asks for this, and the node decides.
fn ask(world: &mut World, ask: Ask) -> Vec<Action> {
    world.view.requests.asked = vec![Request { number: NUMBER, ask }];
    go_on(world)
}

/// The next decision. What is answered is asked no more; what has ended was told.
fn go_on(world: &mut World) -> Vec<Action> {
    let decision = world.decide();
    world.memory = decision.memory;
    world.view.finished = None;
    if decision.actions.iter().any(|action| matches!(action, Action::Answer { .. })) {
        world.view.requests.asked.clear();
    }
    decision.actions
}

fn answered(answer: Answer) -> Vec<Action> {
    vec![Action::Answer { request: NUMBER, answer }]
}

fn run(job: Job) -> Vec<Action> {
    vec![Action::Run(job)]
}

fn restart() -> Ask {
    Ask::Restart(Restart::default())
}

fn finished(world: &mut World, job: JobKind, problem: Option<&str>) {
    world.view.job = None;
    let problem = problem.map(str::to_owned);
    world.view.finished = Some(FinishedJob { job, problem, untouched: false });
}

/// A job owns the server.
fn owned(world: &mut World, job: JobKind) {
    world.view.job = Some(job);
    world.view.postgres.status = None;
    world.view.postgres.process = Process::Starting;
    world.view.postgres.data = DataDirectory::Incomplete;
}

/// `a1` follows `a2` in a site of no federation, and `a2` waits for it.
fn replica() -> World {
    let mut world = alone();
    world.standby(3, 500);
    world.leader(Some("a2"));
    world.site().sync.leader = Some(name("a2"));
    world.site().sync.standbys = BTreeSet::from([name("a1")]);
    let address = ("127.0.0.1".to_owned(), 6002);
    world.view.postgres.follows = Some(Follow::Member { name: name("a2"), address });
    world
}

/// `a1` leads a site of no federation, and writes.
fn alone() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world
}

fn from_a2() -> Follow {
    Follow::Member { name: name("a2"), address: ("127.0.0.1".to_owned(), 6002) }
}

/// From the request to the moment at which the server has stopped, in order.
fn stopped_for_a_restart(world: &mut World) {
    assert_eq!(ask(world, restart()), run(Job::Checkpoint));
    world.view.checkpoint_runs = true;
    assert_eq!(go_on(world), vec![], "what the node does otherwise goes on meanwhile");
    world.view.checkpoint_runs = false;
    assert_eq!(go_on(world), run(Job::StopToRestart), "the tenure goes on");
    owned(world, JobKind::Stop);
    assert_eq!(world.decide().reason, Reason::Busy(JobKind::Stop));
    go_on(world);
    finished(world, JobKind::Stop, None);
    world.stopped(ControlState::ShutDown, 3, 500);
}

fn starts_writable(actions: &[Action]) -> bool {
    matches!(actions, [Action::Run(Job::StartPrimary { synchronous })] if synchronous == "\"a2\"")
}

#[test]
fn a_primary_is_stopped_in_order_and_opens_where_it_stopped() {
    for federated in [true, false] {
        let mut world = if federated { World::new() } else { alone() };
        let running = world.view.postgres.clone();
        stopped_for_a_restart(&mut world);
        let starts = go_on(&mut world);
        assert!(starts_writable(&starts), "{starts:?}");
        owned(&mut world, JobKind::Start);
        assert_eq!(go_on(&mut world), vec![]);
        finished(&mut world, JobKind::Start, None);
        world.view.postgres = running;
        assert_eq!(go_on(&mut world), answered(Answer::Restarted));
        assert!(!world.memory.reopens && world.memory.request.is_none());
        assert_eq!(world.decide().reason, Reason::Leading);
    }
}

/// It came up a moment ago, and the time that it had for that does not count against the restart.
#[test]
fn a_restart_has_the_whole_time_of_a_start() {
    let mut world = World::new();
    world.memory.answers_since = Some(NOW);
    world.memory.start_since = Some(NOW.minus(Duration::from_secs(299)));
    stopped_for_a_restart(&mut world);
    assert!(starts_writable(&go_on(&mut world)));
    assert_eq!(world.memory.start_since, Some(world.view.now));
}

/// A start that fails is answered, and tried again the same way: never by a promotion.
#[test]
fn a_start_that_fails_is_told_and_tried_again_as_a_primary() {
    let mut world = World::new();
    stopped_for_a_restart(&mut world);
    go_on(&mut world);
    finished(&mut world, JobKind::Start, Some("no"));
    assert_eq!(go_on(&mut world), answered(Answer::RestartFailed));
    world.view.now = NOW.plus(Duration::from_secs(2));
    let ahead = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
    world.view.tenure.site = ahead;
    if let Some(held) = &mut world.view.tenure.primary {
        held.deadline = ahead;
    }
    assert!(starts_writable(&go_on(&mut world)));
}

/// Whatever says that the right may have been another's for a moment sends it through recovery.
#[test]
fn a_key_that_was_lost_for_a_moment_ends_the_restart_as_a_primary() {
    type Breaks = fn(&mut World);
    let cases: [(&str, Breaks); 4] = [
        ("another has the key", |world| world.leader(Some("a2"))),
        ("nobody has it", |world| world.leader(None)),
        ("a former life's, bound anew", |world| {
            world.site().leader.as_mut().expect("there").bound_to_my_lease = false;
            world.view.tenure.site = Deadline::NEVER;
        }),
        ("nobody can read it", |world| {
            world.site().leader.as_mut().expect("there").unreadable = true;
        }),
    ];
    for (what, breaks) in cases {
        let mut world = alone();
        stopped_for_a_restart(&mut world);
        let stopped = world.view.clone();
        breaks(&mut world);
        assert!(!starts_writable(&go_on(&mut world)), "{what}");
        world.view = stopped;
        world.view.finished = None;
        let standby = run(Job::StartStandby(Follow::Nobody));
        assert_eq!(go_on(&mut world), standby, "{what}: as if it had never been");
    }
    let mut newer = World::new();
    stopped_for_a_restart(&mut newer);
    newer.disk_epoch(2);
    assert!(!starts_writable(&go_on(&mut newer)), "it last wrote under another epoch");
}

/// A server that was killed after all crashed under this key: as ever, it starts where it crashed.
#[test]
fn a_stop_that_had_to_kill_is_no_obstacle() {
    let mut world = alone();
    stopped_for_a_restart(&mut world);
    world.stopped(ControlState::InProduction, 3, 500);
    assert!(starts_writable(&go_on(&mut world)));
}

#[test]
fn conditions_of_a_restart_are_tested_alone() {
    let version = |number| Some(ServerVersion { text: String::new(), number });
    for (restart, pending, begins) in [
        (Restart { role: Some(NodeRole::Primary), ..Restart::default() }, false, true),
        (Restart { role: Some(NodeRole::Replica), ..Restart::default() }, false, false),
        (Restart { role: Some(NodeRole::StandbyLeader), ..Restart::default() }, false, false),
        (Restart { postgres_version: version(150_018), ..Restart::default() }, false, false),
        (Restart { postgres_version: version(150_019), ..Restart::default() }, false, true),
        (Restart { restart_pending: true, ..Restart::default() }, false, false),
        (Restart { restart_pending: true, ..Restart::default() }, true, true),
    ] {
        let mut world = World::new();
        world.view.requests.pending_restart = pending;
        let actions = ask(&mut world, Ask::Restart(restart.clone()));
        let wanted = if begins { run(Job::Checkpoint) } else { answered(Answer::ConditionsUnmet) };
        assert_eq!(actions, wanted, "{restart:?}");
    }
    let role = |world: &mut World, role| {
        let restart = Restart { role: Some(role), ..Restart::default() };
        !ask(world, Ask::Restart(restart)).contains(&answered(Answer::ConditionsUnmet)[0])
    };
    assert!(role(&mut replica(), NodeRole::Replica));
    assert!(!role(&mut replica(), NodeRole::Primary));
    let mut leads = World::new();
    leads.held_by_b();
    leads.standby(3, 500);
    assert!(!role(&mut leads, NodeRole::Replica));
    assert!(role(&mut leads, NodeRole::StandbyLeader));
}

/// Each alone refuses, and nothing is stopped.
#[test]
fn what_cannot_be_restarted_now_is_refused_before_anything_is_stopped() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Answer); 9] = [
        ("a copy", |w| owned(w, JobKind::Clone), Answer::InProgress("copying a replica")),
        ("a start", |w| owned(w, JobKind::Start), Answer::InProgress("start")),
        (
            "another restart",
            |w| {
                ask(w, restart());
                w.view.checkpoint_runs = true;
            },
            Answer::InProgress("restart"),
        ),
        (
            "it starts",
            |w| {
                w.view.postgres.process = Process::Starting;
                w.view.postgres.status = None;
            },
            Answer::StillStarting,
        ),
        (
            "the members' word opens nothing",
            |w| w.view.failsafe.stands = true,
            Answer::RestartFailed,
        ),
        ("no deadline", |w| w.view.tenure.site = Deadline::NEVER, Answer::RestartFailed),
        ("a handover is marked", |w| w.site().mark = Some(mark(1)), Answer::RestartFailed),
        (
            "no data",
            |w| {
                w.stopped(ControlState::ShutDown, 3, 500);
                w.view.postgres.data = DataDirectory::Empty;
            },
            Answer::RestartFailed,
        ),
        ("no store was read", |w| w.view.site = None, Answer::RestartFailed),
    ];
    for (what, bend, answer) in cases {
        let mut world = World::new();
        bend(&mut world);
        world.view.requests.asked = vec![Request { number: 8, ask: restart() }];
        let decision = world.decide();
        let told = Action::Answer { request: 8, answer };
        assert!(decision.actions.contains(&told), "{what}: {:?}", decision.actions);
        let stops = |action: &Action| matches!(action, Action::Run(Job::StopToRestart | Job::Stop));
        assert!(!decision.actions.iter().any(stops), "{what}: {:?}", decision.actions);
    }
}

/// Between the request and the stop a handover may begin: it comes first.
#[test]
fn a_right_that_ends_before_the_stop_ends_the_request() {
    let mut world = World::new();
    assert_eq!(ask(&mut world, restart()), run(Job::Checkpoint));
    world.site().mark = Some(mark(1));
    let actions = go_on(&mut world);
    assert_eq!(actions.first(), answered(Answer::RestartFailed).first());
    assert!(!actions.contains(&Action::Run(Job::StopToRestart)), "{actions:?}");
    assert!(world.memory.request.is_none());
}

/// Whoever asks without end keeps the node from nothing.
#[test]
fn an_answer_is_given_beside_what_is_due() {
    let mut world = alone();
    world.leader(Some("a2"));
    let mut wanted = answered(Answer::NothingScheduled);
    wanted.extend([Action::EndTenure, Action::Run(Job::Stop)]);
    assert_eq!(ask(&mut world, Ask::Unschedule), wanted);
}

/// Spec 2.5: a synchronous standby is counted on no more before it stops.
#[test]
fn a_synchronous_replica_withdraws_first_for_so_long_and_no_longer() {
    for let_go in [true, false] {
        let mut world = replica();
        assert_eq!(ask(&mut world, restart()), vec![]);
        let withdraws = world.memory.request.as_ref().map(UnderWay::withdraws);
        assert_eq!(withdraws, Some(true));
        if let_go {
            world.site().sync.standbys.clear();
        } else {
            world.view.now = NOW.plus(Duration::from_millis(1_999));
            assert_eq!(go_on(&mut world), vec![], "not yet");
            world.view.now = NOW.plus(Duration::from_secs(2));
        }
        assert_eq!(go_on(&mut world), run(Job::Checkpoint), "let go: {let_go}");
        assert_eq!(go_on(&mut world), run(Job::StopToRestart));
        assert!(!world.memory.reopens);
        owned(&mut world, JobKind::Stop);
        go_on(&mut world);
        finished(&mut world, JobKind::Stop, None);
        world.stopped(ControlState::ShutDownInRecovery, 3, 500);
        assert_eq!(go_on(&mut world), run(Job::StartStandby(from_a2())));
        let withdraws = world.memory.request.as_ref().map(UnderWay::withdraws);
        assert_eq!(withdraws, Some(false));
        world.standby(3, 500);
        assert_eq!(go_on(&mut world), answered(Answer::Restarted));
    }
}

#[test]
fn a_server_that_does_not_answer_in_the_time_given_is_told() {
    let mut world = replica();
    let timeout = Some(Duration::from_secs(5));
    world.site().sync.standbys.clear();
    ask(&mut world, Ask::Restart(Restart { timeout, ..Restart::default() }));
    go_on(&mut world);
    owned(&mut world, JobKind::Stop);
    go_on(&mut world);
    finished(&mut world, JobKind::Stop, None);
    world.stopped(ControlState::ShutDownInRecovery, 3, 500);
    go_on(&mut world);
    world.view.postgres.process = Process::Starting;
    world.view.now = NOW.plus(Duration::from_millis(4_999));
    assert_eq!(go_on(&mut world), vec![]);
    assert_eq!(world.decide().wake_at, NOW.plus(Duration::from_secs(5)));
    world.view.now = NOW.plus(Duration::from_secs(5));
    assert_eq!(go_on(&mut world), answered(Answer::StillStarting));
}

fn in_a_minute() -> Ask {
    Ask::Schedule(ScheduledRestart {
        schedule: "2026-11-30T12:00:00+00:00".to_owned(),
        due: NOW.plus(Duration::from_secs(60)),
        started: None,
        restart: Restart { role: Some(NodeRole::Primary), ..Restart::default() },
    })
}

#[test]
fn one_restart_is_scheduled_at_a_time_and_can_be_cancelled() {
    let mut world = World::new();
    assert_eq!(ask(&mut world, Ask::Unschedule), answered(Answer::NothingScheduled));
    assert_eq!(ask(&mut world, in_a_minute()), answered(Answer::Scheduled));
    assert_eq!(ask(&mut world, in_a_minute()), answered(Answer::AlreadyScheduled));
    assert_eq!(ask(&mut world, Ask::Unschedule), answered(Answer::Unscheduled));
    world.view.now = NOW.plus(Duration::from_secs(60));
    assert_eq!(world.decide().actions, vec![], "nothing is left of it");
}

#[test]
fn a_scheduled_restart_begins_when_it_is_due_and_where_its_reason_still_stands() {
    type Bend = fn(&mut World);
    let cases: [(&str, u64, Bend, bool, bool); 8] = [
        ("early", 59_999, |_| {}, false, true),
        ("due", 60_000, |_| {}, true, false),
        ("a little late", 61_500, |_| {}, true, false),
        ("long past", 61_501, |_| {}, false, false),
        ("paused", 60_000, |w| w.policy.paused = true, false, true),
        (
            "another postmaster",
            50_000,
            |w| {
                w.view.requests.started = Some("later".to_owned());
            },
            false,
            false,
        ),
        ("the role is another", 60_000, |w| w.standby(3, 500), false, false),
        ("a job runs", 60_000, |w| owned(w, JobKind::Start), false, true),
    ];
    for (what, millis, bend, begins, stays) in cases {
        let mut world = alone();
        world.view.requests.started = Some("then".to_owned());
        assert_eq!(ask(&mut world, in_a_minute()), answered(Answer::Scheduled));
        world.view.now = NOW.plus(Duration::from_millis(millis));
        world.view.tenure.site = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
        bend(&mut world);
        let actions = go_on(&mut world);
        assert_eq!(actions.contains(&Action::Run(Job::Checkpoint)), begins, "{what}: {actions:?}");
        assert_eq!(world.memory.scheduled_restart.is_some(), stays, "{what}");
    }
    let mut world = alone();
    world.policy.loop_wait = Duration::from_secs(100);
    world.view.requests.asked = vec![Request { number: NUMBER, ask: in_a_minute() }];
    assert_eq!(world.decide().wake_at, NOW.plus(Duration::from_secs(60)), "wakes in time");
}

#[test]
fn a_reinitialize_is_refused_where_patroni_refuses_it() {
    type Bend = fn(&mut World);
    let how = |force| Ask::Reinitialize(Reinitialize { force, from_leader: false });
    let cases: [(&str, bool, Bend, Answer); 9] = [
        ("no leader", false, |w| w.leader(None), Answer::NoLeader),
        (
            "it still writes",
            true,
            |w| {
                *w = alone();
                w.leader(Some("a2"));
            },
            Answer::InProgress("stop"),
        ),
        ("the leader", false, |w| w.leader(Some("a1")), Answer::IsLeader),
        ("the leader", true, |w| w.leader(Some("a1")), Answer::IsLeader),
        (
            "nobody can tell who leads",
            false,
            |w| w.site().leader.as_mut().expect("there").unreadable = true,
            Answer::NoLeader,
        ),
        ("a copy", false, |w| owned(w, JobKind::Clone), Answer::InProgress("copying a replica")),
        ("a start", true, |w| owned(w, JobKind::Start), Answer::InProgress("start")),
        ("a stop", true, |w| owned(w, JobKind::Stop), Answer::InProgress("stop")),
        (
            "another",
            true,
            |w| {
                ask(w, Ask::Reinitialize(Reinitialize::default()));
            },
            Answer::InProgress("reinitialize"),
        ),
    ];
    for (what, force, bend, answer) in cases {
        let mut world = replica();
        bend(&mut world);
        world.view.requests.asked = vec![Request { number: NUMBER, ask: how(force) }];
        let actions = world.decide().actions;
        assert!(actions.contains(&answered(answer)[0]), "{what}: {actions:?}");
        assert!(!actions.contains(&Action::CancelJob), "{what}");
    }
}

#[test]
fn a_replica_is_copied_anew_once_it_has_stopped() {
    for failed in [None, Some("no")] {
        let mut world = replica();
        world.site().sync.standbys.clear();
        let actions = ask(&mut world, Ask::Reinitialize(Reinitialize::default()));
        let mut wanted = answered(Answer::ReinitializeStarted);
        wanted.extend(run(Job::Stop));
        assert_eq!(actions, wanted);
        owned(&mut world, JobKind::Stop);
        assert_eq!(go_on(&mut world), vec![]);
        finished(&mut world, JobKind::Stop, None);
        world.stopped(ControlState::ShutDownInRecovery, 3, 500);
        assert_eq!(go_on(&mut world), run(Job::Clone(from_a2())));
        owned(&mut world, JobKind::Clone);
        go_on(&mut world);
        finished(&mut world, JobKind::Clone, failed);
        world.stopped(ControlState::InProduction, 3, 500);
        // What the copy left is of the leader's timeline: it starts as after any copy.
        assert_eq!(go_on(&mut world), run(Job::StartStandby(from_a2())), "{failed:?}");
        assert_eq!(world.memory.request.is_some(), failed.is_none());
        world.standby(3, 500);
        assert_eq!(go_on(&mut world), vec![]);
        assert!(world.memory.request.is_none());
    }
}

/// I3, I15: whatever says that what is here could not be had again keeps it here.
#[test]
fn what_may_be_all_that_is_left_is_not_copied_over() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 3] = [
        ("a leader that has not opened", |w| w.member("a2").role = "replica".to_owned()),
        ("a leader of long ago", |w| w.site().age = Duration::from_millis(10_001)),
        ("a leader that tells nothing of itself", |w| {
            w.site().members.remove(&name::<NodeName>("a2"));
        }),
    ];
    for (what, bend) in cases {
        let mut world = replica();
        world.site().sync.standbys.clear();
        let stands = world.clone();
        bend(&mut world);
        let actions = ask(&mut world, Ask::Reinitialize(Reinitialize::default()));
        assert_eq!(actions.first(), answered(Answer::NoLeader).first(), "{what}");
        assert!(world.memory.request.is_none(), "{what}");

        let mut later = stands;
        ask(&mut later, Ask::Reinitialize(Reinitialize::default()));
        owned(&mut later, JobKind::Stop);
        go_on(&mut later);
        finished(&mut later, JobKind::Stop, None);
        later.stopped(ControlState::ShutDownInRecovery, 3, 500);
        bend(&mut later);
        let actions = go_on(&mut later);
        let copies = |action: &Action| matches!(action, Action::Run(Job::Clone(_)));
        assert!(!actions.iter().any(copies), "{what}, once it has stopped: {actions:?}");
        assert!(later.memory.request.is_none(), "{what}, once it has stopped");
    }
}

/// A primary that does not let go of this node may be about to need it.
#[test]
fn what_commits_still_rest_on_is_not_copied_over() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 2] = [
        ("it is named", |_| {}),
        ("nobody can read who is", |w| {
            w.site().sync.standbys.clear();
            w.site().sync.unreadable = true;
        }),
    ];
    for (what, bend) in cases {
        let mut world = replica();
        bend(&mut world);
        let started = answered(Answer::ReinitializeStarted);
        assert_eq!(ask(&mut world, Ask::Reinitialize(Reinitialize::default())), started, "{what}");
        assert!(world.memory.request.is_some(), "{what}");
        world.view.now = NOW.plus(Duration::from_secs(2));
        assert_eq!(go_on(&mut world), vec![], "{what}");
        assert!(world.memory.request.is_none(), "{what}");
    }
}

/// Spec 2.5, 3.2: a member with `clonefrom` is copied from, unless the leader is asked for.
#[test]
fn a_member_that_is_there_for_it_is_copied_from_and_the_leader_where_it_is_asked_for() {
    type Bend = fn(&mut Member);
    let cases: [(Bend, bool, &str); 5] = [
        (|_| {}, false, "a3"),
        (|_| {}, true, "a2"),
        (|m| m.clonefrom = false, false, "a2"),
        (|m| m.streaming = false, false, "a2"),
        (|m| m.state = "stopped".to_owned(), false, "a2"),
    ];
    for (bend, from_leader, wanted) in cases {
        let mut world = replica();
        world.site().sync.standbys.clear();
        let mut third = (*world.site().members[&name::<NodeName>("a2")]).clone();
        third.clonefrom = true;
        bend(&mut third);
        world.site().members.insert(name("a3"), Arc::new(third));
        world.member("a1").clonefrom = true;
        world.stopped(ControlState::ShutDownInRecovery, 3, 500);
        ask(&mut world, Ask::Reinitialize(Reinitialize { force: false, from_leader }));
        let task = world.memory.request.as_ref().map(|request| request.stage);
        assert_eq!(task, Some(Stage::Copying));
        let mut again = replica();
        again.site().members = world.site().members.clone();
        again.stopped(ControlState::ShutDown, 3, 500);
        again.view.postgres.data = DataDirectory::Empty;
        let by_itself = again.decide().actions;
        let from = |actions: &[Action]| {
            let last = actions.last();
            if let Some(Action::Run(Job::Clone(Follow::Member { name, .. }))) = last {
                name.to_string()
            } else {
                format!("{last:?}")
            }
        };
        assert_eq!(from(&by_itself), if from_leader { "a3" } else { wanted });
        world.memory.request = None;
        let actions =
            ask(&mut world, Ask::Reinitialize(Reinitialize { force: false, from_leader }));
        assert_eq!(from(&actions), wanted);
    }
}

#[test]
fn force_ends_a_copy_that_runs_and_begins_after_it() {
    let mut world = replica();
    world.site().sync.standbys.clear();
    owned(&mut world, JobKind::Clone);
    world.view.postgres.process = Process::Stopped;
    let force = Reinitialize { force: true, from_leader: true };
    let mut wanted = answered(Answer::ReinitializeStarted);
    wanted.push(Action::CancelJob);
    assert_eq!(ask(&mut world, Ask::Reinitialize(force)), wanted);
    assert_eq!(go_on(&mut world), vec![], "it has not ended yet");
    finished(&mut world, JobKind::Clone, Some("it was cancelled"));
    // The pause after a job that failed is for what nobody has ordered.
    assert_eq!(go_on(&mut world), run(Job::Clone(from_a2())));
}

/// Spec 3.13: by hand a server is restarted in a pause, and what it may be depends on what it was.
#[test]
fn in_a_pause_a_restart_starts_what_it_has_stopped_and_nothing_else() {
    let mut primary = alone();
    primary.policy.paused = true;
    stopped_for_a_restart(&mut primary);
    assert!(starts_writable(&go_on(&mut primary)), "the key is not given up");
    finished(&mut primary, JobKind::Start, Some("no"));
    let mut failed = answered(Answer::RestartFailed);
    failed.push(Action::ReleaseLeader);
    assert_eq!(go_on(&mut primary), failed, "and then it is");

    let mut standby = replica();
    standby.policy.paused = true;
    standby.site().sync.standbys.clear();
    assert_eq!(ask(&mut standby, restart()), run(Job::Checkpoint));
    assert_eq!(go_on(&mut standby), run(Job::StopToRestart));
    owned(&mut standby, JobKind::Stop);
    go_on(&mut standby);
    finished(&mut standby, JobKind::Stop, None);
    standby.stopped(ControlState::ShutDownInRecovery, 3, 500);
    assert_eq!(go_on(&mut standby), run(Job::StartStandby(from_a2())));
    finished(&mut standby, JobKind::Start, Some("no"));
    assert_eq!(go_on(&mut standby), answered(Answer::RestartFailed));
    assert_eq!(standby.decide().reason, Reason::Paused(PausedAs::Secondary));

    let mut former = replica();
    former.policy.paused = true;
    former.stopped(ControlState::ShutDown, 3, 500);
    assert_eq!(ask(&mut former, restart()), answered(Answer::RestartFailed), "a former primary");

    let mut late = alone();
    late.policy.paused = true;
    stopped_for_a_restart(&mut late);
    late.view.tenure.site = Deadline::NEVER;
    let decision = late.decide();
    let wanted = (vec![], Reason::NotReady(vec![Precondition::SiteDeadline]));
    assert_eq!((decision.actions, decision.reason), wanted, "no start without a right");
}

#[test]
fn a_pause_of_a_federation_s_site_starts_by_order_only() {
    let mut world = World::new();
    world.policy.paused = true;
    world.leader(Some("a2"));
    world.stopped(ControlState::ShutDownInRecovery, 3, 500);
    assert_eq!(world.decide().reason, Reason::Paused(PausedAs::Automation));
    assert_eq!(ask(&mut world, restart()), run(Job::StartStandby(from_a2())));
}

/// In a pause the fence is off by a person's order: nothing else of the gate is.
#[test]
fn the_gate_of_a_start_in_a_pause_leaves_out_the_pause_alone() {
    let differs = |precondition: &Precondition| {
        precondition.concerns(Opening::Start) != precondition.concerns(Opening::StartInPause)
    };
    let differing: Vec<Precondition> = Precondition::ALL.into_iter().filter(differs).collect();
    assert_eq!(differing, vec![Precondition::NotPaused]);
    let mut world = alone();
    world.policy.paused = true;
    world.stopped(ControlState::ShutDown, 3, 500);
    assert_eq!(unmet(&world.policy, &world.view, Opening::StartInPause), vec![]);
    let barred = unmet(&world.policy, &world.view, Opening::Start);
    assert_eq!(barred, vec![Precondition::NotPaused]);
}
