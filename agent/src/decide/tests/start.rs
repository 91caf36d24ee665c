//! A leader whose server does not come up (spec/patroni-compat.md 3.8, 3.9): when it makes room, for
//! whom, and how it goes on where there is nobody.

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::time::Deadline;

use super::world::{NOW, World, history, name, point, promotions};
use crate::decide::view::*;
use crate::decide::{Action, Decision, Job, PausedAs, Reason, Unfit};

/// The server of this leader is down, for as long, and its synchronous standby has answered.
fn down(for_seconds: u64) -> World {
    let mut world = World::new();
    world.stopped(ControlState::InProduction, 3, 400);
    world.memory.start_since = Some(NOW.minus(Duration::from_secs(for_seconds)));
    world.answers_like_us();
    world
}

/// The same, and a start is under way.
fn starting(for_seconds: u64) -> World {
    let mut world = down(for_seconds);
    world.view.postgres.process = Process::Starting;
    world
}

fn peer(world: &mut World) -> &mut PeerAnswer {
    let peers = world.view.peers.as_mut().expect("asked");
    peers.answers.get_mut(&name::<NodeName>("a2")).expect("a2 answers")
}

fn starts(decision: &Decision) -> bool {
    matches!(decision.actions[..], [Action::Run(Job::StartPrimary { .. })])
}

fn makes_room() -> (Vec<Action>, Reason) {
    (vec![Action::ReleaseLeader], Reason::StartOverdue)
}

fn stops() -> (Vec<Action>, Reason) {
    (vec![Action::EndTenure, Action::Run(Job::Stop)], Reason::StartOverdue)
}

fn decides(world: &World) -> (Vec<Action>, Reason) {
    let decision = world.decide();
    (decision.actions, decision.reason)
}

#[test]
fn once_it_has_had_its_time_the_server_stops_and_the_key_is_given_up() {
    assert_eq!(decides(&starting(299)), (vec![], Reason::AwaitingServer));
    assert_eq!(decides(&starting(300)), stops());
    assert!(starts(&down(299).decide()));
    let decision = down(300).decide();
    assert_eq!((decision.actions, decision.reason), makes_room());
    assert_eq!(decision.memory.stands_back_until, Some(NOW.plus(Duration::from_secs(5))));
    // The time runs from the first look at a server that is down.
    let mut fresh = down(0);
    fresh.memory.start_since = None;
    assert_eq!(fresh.decide().memory.start_since, Some(NOW));
    // It is looked at again when its time is over, not a period later.
    let mut late = starting(0);
    late.memory.start_since = Some(NOW.minus(Duration::from_millis(299_900)));
    assert_eq!(late.decide().wake_at.since(NOW), Duration::from_millis(100));
}

#[test]
fn it_makes_room_only_for_one_that_may_lead() {
    type Bend = fn(&mut World);
    let rows: [(&str, Bend); 20] = [
        ("nobody else", |w| drop(w.site().members.remove(&name::<NodeName>("a2")))),
        ("it does not run", |w| w.member("a2").state = "stopped".to_owned()),
        ("nofailover", |w| w.member("a2").nofailover = true),
        ("not in the record", |w| w.site().sync.standbys.clear()),
        ("nobody knows who is", |w| w.site().sync.unreadable = true),
        ("the record was deleted", |w| w.site().sync = SyncView::default()),
        ("the record names no leader", |w| w.site().sync.leader = None),
        ("not in the failsafe record", |w| {
            let members = [(name("a1"), String::new())].into();
            w.site().failsafe = FailsafeRecord::Read { members, revision: 1 };
        }),
        ("it lacks the floor", |w| {
            w.primary().floor = Some(point(3, 450));
            peer(w).position = Lsn::new(449);
        }),
        ("nobody can tell of the floor", |w| peer(w).ancestry = None),
        ("its history has parted from this one", |w| {
            let mut other = history(3);
            other.promotion = Some(name("q3"));
            peer(w).ancestry = Some(other);
        }),
        ("it was promoted beside this one", |w| {
            peer(w).ancestry = Some(history(4));
        }),
        ("check_timeline", |w| {
            w.policy.check_timeline = true;
            peer(w).ancestry = Some(history(2));
            peer(w).position = Lsn::new(200);
        }),
        ("the picture is old", |w| w.site().age = Duration::from_secs(7)),
        ("it does not answer", |w| w.view.peers.as_mut().expect("asked").answers.clear()),
        ("its watchdog failed", |w| peer(w).nofailover = true),
        ("its server does not answer", |w| peer(w).position = Lsn::new(0)),
        ("it lags", |w| w.site().optime = Some(Lsn::new((1 << 20) + 501))),
        ("it writes", |w| peer(w).primary = true),
        ("a new cluster", |w| {
            w.site().initialize = Initialize::Running;
            w.stopped(ControlState::ShutDown, 3, 400);
        }),
    ];
    for (row, bend) in rows {
        let mut world = down(1000);
        bend(&mut world);
        let decision = world.decide();
        assert!(starts(&decision), "{row}: {decision:?}");
        world.view.postgres.process = Process::Starting;
        assert_eq!(decides(&world), (vec![], Reason::AwaitingServer), "{row}");
    }
    let mut asynchronous = down(1000);
    asynchronous.site().sync.standbys.clear();
    asynchronous.policy.synchronous_mode = false;
    assert_eq!(decides(&asynchronous), makes_room(), "without the mode anybody will do");
    asynchronous.site().sync = SyncView::default();
    assert_eq!(decides(&asynchronous), makes_room(), "and there is no record");
    // A Patroni member tells no ancestry; without a floor it may have all that there is.
    let mut patroni = down(1000);
    patroni.primary().floor = None;
    peer(&mut patroni).ancestry = None;
    assert_eq!(decides(&patroni), makes_room());
    // It has not received the last promotion yet: then it is behind, and has not parted.
    let mut behind = down(1000);
    peer(&mut behind).ancestry = Some(history(2));
    peer(&mut behind).position = Lsn::new(200);
    assert_eq!(decides(&behind), makes_room());
    let mut near = down(1000);
    near.site().age = Duration::from_secs(6);
    assert_eq!(decides(&near), makes_room());
}

/// With `synchronous_mode: quorum` one that lacks votes could not take the key.
#[test]
fn in_quorum_it_makes_room_for_one_that_would_have_the_votes() {
    let mut world = down(1000);
    world.policy.synchronous_quorum = true;
    world.site().sync.standbys = [name("a2"), name("a3")].into();
    world.site().sync.quorum = 1;
    assert!(starts(&world.decide()), "its own alone");
    let voter = peer(&mut world).clone();
    let answers = &mut world.view.peers.as_mut().expect("asked").answers;
    answers.insert(name("a3"), voter.clone());
    assert_eq!(decides(&world), makes_room());
    let answers = &mut world.view.peers.as_mut().expect("asked").answers;
    answers.insert(name("a3"), PeerAnswer { age: None, ..voter });
    assert!(starts(&world.decide()), "the other has not read all of its WAL");
}

/// Before the first checkpoint pg_control has the timeline from which the server was promoted.
#[test]
fn what_this_node_opened_with_tells_its_history_before_the_first_checkpoint() {
    let mut world = down(1000);
    world.stopped(ControlState::InProduction, 2, 190);
    world.site().promotions = Some(promotions("a1", history(3), None));
    assert_eq!(decides(&world), makes_room());
    world.site().promotions = Some(promotions("a2", history(3), None));
    assert!(starts(&world.decide()), "the record is of another");
}

#[test]
fn from_the_overdue_start_to_the_free_key() {
    let answers = down(300).view.peers;
    let mut world = starting(300);
    world.view.peers = None;
    let step = |world: &mut World| {
        let decision = world.decide();
        world.memory = decision.memory;
        world.view.now = world.view.now.plus(Duration::from_millis(20));
        (decision.actions, decision.reason)
    };
    // The others are asked once, and it goes on while they answer.
    assert_eq!(step(&mut world), (vec![Action::AskPeers], Reason::AwaitingServer));
    for _ in 0..20 {
        assert_eq!(step(&mut world), (vec![], Reason::AwaitingServer));
    }
    world.view.peers = answers.clone();
    assert_eq!(step(&mut world), stops());
    world.view.tenure.primary = None;
    world.view.job = Some(JobKind::Stop);
    assert_eq!(step(&mut world), (vec![], Reason::Busy(JobKind::Stop)));
    // That took a while: what they answered is old, and nothing is started before they have again.
    world.view.job = None;
    world.view.finished = Some(FinishedJob { job: JobKind::Stop, problem: None, untouched: false });
    world.stopped(ControlState::InProduction, 3, 400);
    world.view.peers.as_mut().expect("asked").age = Duration::from_secs(3);
    assert_eq!(step(&mut world), (vec![Action::AskPeers], Reason::StartOverdue));
    world.view.finished = None;
    assert_eq!(step(&mut world), (vec![], Reason::StartOverdue));
    world.view.peers = answers;
    assert_eq!(step(&mut world), makes_room());
    world.leader(None);
    assert_eq!(step(&mut world), (vec![], Reason::NotCandidate(Unfit::CouldNotStart)));
}

#[test]
fn nobody_is_asked_again_before_the_answers_are_late() {
    let asks = |world: &mut World, milliseconds: u64| {
        let mut asked = 0;
        for _ in 0..milliseconds / 20 {
            let decision = world.decide();
            asked += usize::from(decision.actions.contains(&Action::AskPeers));
            assert_eq!(decision.reason, Reason::AwaitingServer, "one reason all along");
            world.memory = decision.memory;
            world.view.now = world.view.now.plus(Duration::from_millis(20));
            if let Some(peers) = &mut world.view.peers {
                peers.age += Duration::from_millis(20);
            }
        }
        asked
    };
    let mut silent = starting(300);
    silent.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(60)));
    silent.view.peers = None;
    assert_eq!(asks(&mut silent, 1_000), 1);
    assert_eq!(asks(&mut silent, 9_000), 6);
    // They answer that they cannot lead: they are asked again once that is old.
    let mut unable = starting(300);
    peer(&mut unable).position = Lsn::new(0);
    assert_eq!(asks(&mut unable, 1_400), 0);
    assert_eq!(asks(&mut unable, 1_400), 1);
    // What is down is started after all, where no answer comes at all.
    let mut down = down(300);
    down.view.peers = None;
    let decision = down.decide();
    assert_eq!(decision.actions, vec![Action::AskPeers]);
    down.memory = decision.memory;
    down.view.now = down.view.now.plus(Duration::from_millis(1_499));
    let waits = down.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::StartOverdue));
    assert_eq!(waits.wake_at.since(down.view.now), Duration::from_millis(1));
    down.view.now = down.view.now.plus(Duration::from_millis(1));
    assert!(starts(&down.decide()));
    // While it is not to be started yet, the reason for that stays.
    let mut backoff = down.clone();
    backoff.memory.successors_asked = None;
    backoff.memory.failed = Some(FailedJob {
        job: JobKind::Start,
        times: 3,
        at: backoff.view.now,
        retry_at: backoff.view.now.plus(Duration::from_secs(4)),
    });
    let decision = backoff.decide();
    let reason = Reason::Backoff(JobKind::Start);
    assert_eq!((&decision.actions[..], &decision.reason), (&[Action::AskPeers][..], &reason));
    backoff.memory = decision.memory;
    assert_eq!(decides(&backoff), (vec![], reason));
}

/// An agent that was started again must not end a server that is open and slow.
#[test]
fn a_server_that_this_process_did_not_start_has_a_ttl_at_least() {
    for timeout in [Duration::ZERO, Duration::from_secs(20)] {
        for (seconds, started_here, ends) in
            [(29, false, false), (30, false, true), (20, true, true), (4, true, false)]
        {
            let mut world = starting(seconds);
            world.policy.ttl = Duration::from_secs(30);
            world.policy.primary_start_timeout = timeout;
            world.memory.start_unanswered = started_here;
            let wanted = if ends { stops() } else { (vec![], Reason::AwaitingServer) };
            assert_eq!(decides(&world), wanted, "{timeout:?} {seconds} s");
        }
    }
}

#[test]
fn the_others_are_asked_before_it_makes_room() {
    for (world, reason) in
        [(down(300), Reason::StartOverdue), (starting(300), Reason::AwaitingServer)]
    {
        for peers in [None, Some(Duration::from_secs(2))] {
            let mut world = world.clone();
            world.view.peers = world.view.peers.filter(|_| peers.is_some());
            if let (Some(view), Some(age)) = (&mut world.view.peers, peers) {
                view.age = age;
            }
            assert_eq!(decides(&world), (vec![Action::AskPeers], reason.clone()));
        }
    }
}

#[test]
fn a_timeout_of_zero_fails_over_at_once() {
    let at_once = |mut world: World| {
        world.policy.primary_start_timeout = Duration::ZERO;
        world
    };
    let mut crashed = at_once(down(0));
    crashed.memory.start_since = None;
    assert_eq!(decides(&crashed), makes_room());
    crashed.site().members.remove(&name::<NodeName>("a2"));
    assert!(starts(&crashed.decide()), "alone it is started again");
    // What another life of this agent has started may answer any moment.
    assert_eq!(decides(&at_once(starting(4))), (vec![], Reason::AwaitingServer));
    assert_eq!(decides(&at_once(starting(5))), stops());
    // It was stopped in order: by this agent, to open again, or by a person.
    for (seconds, actions) in [
        (4, vec![Action::Run(Job::StartStandby(Follow::Nobody))]),
        (5, vec![Action::ReleaseLeader]),
    ] {
        for state in [ControlState::ShutDown, ControlState::ShutDownInRecovery] {
            let mut stopped = at_once(down(seconds));
            stopped.stopped(state, 3, 500);
            assert_eq!(stopped.decide().actions, actions, "{state:?}, {seconds} s");
        }
    }
    // A server that has answered is slow, not down.
    let mut slow = at_once(starting(1000));
    slow.memory.start_since = None;
    slow.memory.answers_since = Some(NOW.minus(Duration::from_secs(60)));
    assert_eq!(decides(&slow), (vec![], Reason::AwaitingServer));
}

#[test]
fn paused_it_waits_and_counts_anew_afterwards() {
    for mut world in [down(1000), starting(1000)] {
        world.policy.paused = true;
        let decision = world.decide();
        assert_eq!(decision.actions, vec![], "{:?}", decision.reason);
        assert_eq!(decision.memory.start_since, None);
    }
    let mut world = down(1000);
    world.policy.paused = true;
    assert_eq!(world.decide().reason, Reason::Paused(PausedAs::Automation));
    let mut alone = starting(1000);
    alone.policy.paused = true;
    alone.view.federation = None;
    assert_eq!(decides(&alone), (vec![], Reason::AwaitingServer));
}

#[test]
fn who_made_room_leaves_the_key_to_others_for_a_ttl() {
    let mut world = down(300);
    world.policy.loop_wait = Duration::from_secs(60);
    world.memory = world.decide().memory;
    world.view.tenure.primary = None;
    // The key is on its way out, then gone.
    world.view.tenure.site = Deadline::NEVER;
    let stays_out = (vec![], Reason::NotCandidate(Unfit::CouldNotStart));
    assert_eq!(decides(&world), stays_out);
    world.leader(None);
    let decision = world.decide();
    assert_eq!((decision.actions, decision.reason), stays_out);
    assert_eq!(decision.wake_at.since(NOW), Duration::from_secs(5));
    let again = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
    let mut alone = world.clone();
    alone.site().members.remove(&name::<NodeName>("a2"));
    assert_eq!(alone.decide().actions, again, "nobody is left to take it");
    let mut later = world.clone();
    later.view.now = NOW.plus(Duration::from_secs(5));
    assert_eq!(later.decide().actions, again);
    // It follows whoever has taken it.
    world.leader(Some("a2"));
    assert_ne!(world.decide().reason, Reason::NotCandidate(Unfit::CouldNotStart));
    assert_eq!(world.decide().memory.start_since, None);
}

#[test]
fn a_server_that_falls_again_soon_goes_on_with_the_time_it_had() {
    let since = Some(NOW.minus(Duration::from_secs(200)));
    for (up_for, kept) in [(29, since), (30, None)] {
        let mut world = World::new();
        world.memory.start_since = since;
        world.memory.answers_since = Some(NOW.minus(Duration::from_secs(up_for)));
        let decision = world.decide();
        assert_eq!(decision.memory.start_since, kept, "{up_for}");
        world.memory = decision.memory;
        world.stopped(ControlState::InProduction, 3, 400);
        assert_eq!(world.decide().memory.start_since, kept.or(Some(NOW)));
        assert_eq!(world.decide().memory.answers_since, None);
    }
}

#[test]
fn a_server_that_ends_before_it_answers_is_started_again_later_and_later() {
    let mut world = down(0);
    world.policy.loop_wait = Duration::from_secs(60);
    for pause in [1, 2, 4].map(Duration::from_secs) {
        world.view.postgres.process = Process::Starting;
        world.view.finished =
            Some(FinishedJob { job: JobKind::Start, problem: None, untouched: false });
        world.memory = world.decide().memory;
        world.view.finished = None;
        world.view.postgres.process = Process::Stopped;
        let decision = world.decide();
        assert_eq!(decision.reason, Reason::Backoff(JobKind::Start));
        assert_eq!(decision.wake_at.since(NOW), pause);
        world.memory = decision.memory;
    }
    // What was stopped on purpose is no failed start.
    let mut stopped = down(0);
    stopped.memory.start_unanswered = true;
    stopped.view.finished =
        Some(FinishedJob { job: JobKind::Stop, problem: None, untouched: false });
    assert!(starts(&stopped.decide()));
    // Once it answers, all is forgotten.
    let failed = world.memory.failed.clone();
    assert_eq!(failed.as_ref().map(|failed| failed.times), Some(3));
    let mut up = World::new();
    up.memory.failed = failed;
    assert_eq!(up.decide().memory.failed, None);
}
