//! Requests to switch over inside the site, a case for each row of spec/patroni-compat.md 3.6.1 and
//! 3.6.2, and hazards.md rows 45 and 46.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline};
use regent_proto::timeline::TimelineId;

use super::world::{NOW, World, history, name, sender};
use crate::decide::manual::{Switching, SwitchingStep};
use crate::decide::view::*;
use crate::decide::{Action, Dropped, Job, Manual, PausedAs, Reason, Unfit};

/// Revision of the request in these worlds.
const REQUEST: u64 = 90;
const MS: Duration = Duration::from_millis(1);

/// `a1` leads and writes; `a2` is its synchronous standby, `a3` another; both answer that they have
/// everything.
fn world() -> World {
    let mut world = World::new();
    let third = world.site().members[&name::<NodeName>("a2")].clone();
    world.site().members.insert(name("a3"), third);
    world.status().senders.insert("a3".to_owned(), sender(500));
    world.status().slots.insert("a3".to_owned(), Slot::physical(true));
    world.view.peers = Some(PeersView {
        age: Duration::ZERO,
        answers: [(name("a2"), answer(500)), (name("a3"), answer(500))].into(),
    });
    world
}

fn answer(position: u64) -> PeerAnswer {
    PeerAnswer {
        without_data: false,
        primary: false,
        position: Lsn::new(position),
        timeline: Some(TimelineId(3)),
        nofailover: false,
        failover_priority: 1,
        age: Some(Duration::ZERO),
        ancestry: Some(history(3)),
    }
}

fn peer<'w>(world: &'w mut World, who: &str) -> &'w mut PeerAnswer {
    let peers = world.view.peers.as_mut().expect("they answered");
    peers.answers.get_mut(&name::<NodeName>(who)).expect("it answered")
}

fn request(leader: Option<&str>, candidate: Option<&str>) -> FailoverRequest {
    FailoverRequest { leader: leader.map(name), candidate: candidate.map(name), scheduled: None }
}

fn ask(world: &mut World, value: FailoverRequest) {
    world.site().failover = Some(At { value, revision: REQUEST });
    world.memory.asked_for = Some((REQUEST, NOW));
}

fn asked(leader: Option<&str>, candidate: Option<&str>) -> World {
    let mut world = world();
    ask(&mut world, request(leader, candidate));
    world
}

fn schedule(world: &mut World, due: Due) {
    let request = world.site().failover.as_mut().expect("asked");
    request.value.scheduled = Some(Schedule { due, text: "2026-11-30T10:00:00Z".to_owned() });
}

fn begins(world: &World) -> bool {
    world.decide().reason == Reason::Manual(Manual::Checkpoint)
}

/// The request ends, for this reason.
fn ends(world: &World, why: Dropped) {
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::Manual(Manual::Dropped(why)));
    assert_eq!(decision.actions, vec![Action::ClearFailover { revision: REQUEST }]);
}

/// Only this one is asked: an answer that never comes holds up nothing.
fn asks(who: &str) -> Vec<Action> {
    vec![Action::AskCandidates(BTreeSet::from([name(who)]))]
}

/// Decides, and remembers.
fn step(world: &mut World) -> (Reason, Vec<Action>) {
    let decision = world.decide();
    world.memory = decision.memory;
    (decision.reason, decision.actions)
}

fn pass(world: &mut World, span: Duration) {
    world.view.now = world.view.now.plus(span);
    if let Some(peers) = &mut world.view.peers {
        peers.age += span;
    }
}

/// Stopped in order for a request, its end at 520; nobody has been asked since.
fn stopped(leader: Option<&str>, candidate: Option<&str>) -> World {
    let mut world = asked(leader, candidate);
    stops(&mut world);
    world
}

fn stops(world: &mut World) {
    assert_eq!(step(world).0, Reason::Manual(Manual::Checkpoint));
    let (reason, actions) = step(world);
    assert_eq!(reason, Reason::Manual(Manual::Stopping));
    assert_eq!(actions, vec![Action::EndTenure, Action::Run(Job::Stop)]);
    world.stopped(ControlState::ShutDown, 3, 520);
    pass(world, MS);
}

/// They are asked and answer.
fn answered(world: &mut World, positions: [u64; 2]) {
    let (reason, actions) = step(world);
    assert_eq!(reason, Reason::Manual(Manual::AwaitingCandidate));
    assert!(matches!(actions[..], [Action::AskCandidates(_)]), "{actions:?}");
    answered_again(world, positions);
}

fn answered_again(world: &mut World, positions: [u64; 2]) {
    let answers = [(name("a2"), answer(positions[0])), (name("a3"), answer(positions[1]))];
    world.view.peers = Some(PeersView { age: Duration::ZERO, answers: answers.into() });
}

#[test]
fn without_a_request_nothing_is_done() {
    let decision = world().decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::Leading));
}

#[test]
fn a_request_for_this_leader_or_for_any_begins() {
    for (leader, candidate) in
        [(Some("a1"), Some("a2")), (Some("a1"), None), (None, Some("a2")), (None, Some("a3"))]
    {
        let world = asked(leader, candidate);
        assert!(begins(&world), "{leader:?} {candidate:?}: {:?}", world.decide());
    }
}

#[test]
fn a_request_that_cannot_be_met_ends_at_once() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Dropped); 16] = [
        ("another leader", |w| ask(w, request(Some("a2"), None)), Dropped::OtherLeader),
        ("itself", |w| ask(w, request(Some("a1"), Some("a1"))), Dropped::LeadsAlready),
        ("itself, any leader", |w| ask(w, request(None, Some("a1"))), Dropped::LeadsAlready),
        ("unknown", |w| ask(w, request(Some("a1"), Some("a9"))), Dropped::NoCandidate),
        ("not synchronous", |w| ask(w, request(Some("a1"), Some("a3"))), Dropped::NoCandidate),
        ("tag in the DCS", |w| w.member("a2").nofailover = true, Dropped::NoCandidate),
        ("tag by its answer", |w| peer(w, "a2").nofailover = true, Dropped::NoCandidate),
        ("a primary", |w| peer(w, "a2").primary = true, Dropped::NoCandidate),
        (
            "silent",
            |w| {
                let peers = w.view.peers.as_mut().expect("they answered");
                peers.answers.remove(&name::<NodeName>("a2"));
            },
            Dropped::NoCandidate,
        ),
        ("too far behind", |w| w.status().end = Lsn::new(501 + (1 << 20)), Dropped::NoCandidate),
        (
            "on another timeline",
            |w| peer(w, "a2").timeline = Some(TimelineId(2)),
            Dropped::NoCandidate,
        ),
        ("nobody is synchronous", |w| w.site().sync.standbys.clear(), Dropped::NoCandidate),
        ("who is, is not known", |w| w.site().sync.unreadable = true, Dropped::NoCandidate),
        ("operation", |w| w.federation().operation_runs = true, Dropped::OperationRuns),
        ("missed", |w| schedule(w, Due::BeforeBoot), Dropped::Missed),
        ("paused", |w| w.policy.paused = true, Dropped::Paused),
    ];
    for (what, bend, why) in cases {
        let mut world = asked(Some("a1"), Some("a2"));
        assert!(begins(&world));
        bend(&mut world);
        assert_eq!(world.decide().reason, Reason::Manual(Manual::Dropped(why)), "{what}");
        ends(&world, why);
    }
    let mut async_mode = asked(Some("a1"), Some("a3"));
    async_mode.policy.synchronous_mode = false;
    async_mode.site().sync = SyncView::default();
    async_mode.status().synchronous_standby_names = String::new();
    assert!(begins(&async_mode), "anybody may lead");
}

#[test]
fn near_enough_is_near_enough() {
    let mut world = asked(Some("a1"), Some("a2"));
    world.status().end = Lsn::new(500 + (1 << 20));
    assert!(begins(&world));
    // It told of itself a while ago; what it confirms, this server knows at once.
    peer(&mut world, "a2").position = Lsn::new(1);
    assert!(begins(&world));
}

/// The number of a timeline does not tell whose it is (I14): what was not streamed from this server may
/// be another history's, however far it goes.
#[test]
fn whoever_does_not_stream_from_the_leader_is_no_candidate() {
    for (leader, candidate) in [(Some("a1"), "a2"), (None, "a3")] {
        let mut catches_up = asked(leader, Some(candidate));
        assert!(begins(&catches_up));
        let mut away = catches_up.clone();
        away.status().senders.remove(candidate);
        ends(&away, Dropped::NoCandidate);
        catches_up.status().senders.get_mut(candidate).expect("it streams").streaming = false;
        ends(&catches_up, Dropped::NoCandidate);
    }
    let mut world = asked(Some("a1"), None);
    world.policy.synchronous_mode = false;
    world.site().sync = SyncView::default();
    world.status().senders.remove("a3");
    stops(&mut world);
    assert_eq!(world.decide().actions, asks("a2"), "the other is not even waited for");
    answered(&mut world, [519, 900]);
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::Manual(Manual::AwaitingCandidate));
    assert_eq!(decision.actions, vec![]);
    answered_again(&mut world, [520, 900]);
    assert_eq!(world.decide().actions, vec![Action::ReleaseLeader]);
}

#[test]
fn a_schedule_is_waited_for_met_and_missed() {
    let loop_wait = World::new().policy.loop_wait;
    let after = |span: Duration| Due::At(NOW.plus(span));
    let before = |span: Duration| Due::At(NOW.minus(span));
    for (due, wake) in [(after(loop_wait * 60), loop_wait), (after(loop_wait / 2), loop_wait / 2)] {
        let mut world = asked(Some("a1"), Some("a2"));
        schedule(&mut world, due);
        let decision = world.decide();
        assert_eq!((decision.reason, decision.actions), (Reason::Leading, vec![]));
        assert_eq!(decision.wake_at, NOW.plus(wake), "{due:?}");
    }
    for (due, met) in [
        (after(Duration::ZERO), true),
        (before(loop_wait), true),
        (before(loop_wait * 3 / 2), true),
        (before(loop_wait * 3 / 2 + MS), false),
        (Due::BeforeBoot, false),
    ] {
        let mut world = asked(Some("a1"), Some("a2"));
        schedule(&mut world, due);
        if met {
            assert!(begins(&world), "{due:?}");
        } else {
            ends(&world, Dropped::Missed);
        }
    }
}

#[test]
fn a_schedule_that_was_met_is_not_missed_while_it_is_carried_out() {
    let mut world = asked(Some("a1"), Some("a2"));
    schedule(&mut world, Due::At(NOW));
    step(&mut world);
    world.view.checkpoint_runs = true;
    pass(&mut world, Duration::from_secs(20));
    world.view.tenure.site = Deadline::at(world.view.now.plus(MS));
    world.view.tenure.primary.as_mut().expect("held").deadline = world.view.tenure.site;
    assert_eq!(world.decide().reason, Reason::Leading);
    world.view.checkpoint_runs = false;
    assert_eq!(world.decide().reason, Reason::Manual(Manual::AskingCandidates));
}

#[test]
fn a_pause_ends_a_request_and_lets_a_schedule_wait() {
    let mut world = asked(Some("a1"), Some("a2"));
    world.view.federation = None;
    world.policy.paused = true;
    ends(&world, Dropped::Paused);
    schedule(&mut world, Due::At(NOW));
    let decision = world.decide();
    assert_eq!(decision.actions, vec![], "{:?}", decision.reason);
}

#[test]
fn the_candidates_are_asked_first_and_again_when_their_answers_are_old() {
    let mut world = asked(Some("a1"), Some("a2"));
    world.view.peers = None;
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::Manual(Manual::AskingCandidates));
    assert_eq!(decision.actions, asks("a2"));
    let mut old = asked(Some("a1"), Some("a2"));
    old.view.peers.as_mut().expect("asked").age = Duration::from_millis(1501);
    assert_eq!(old.decide().actions, asks("a2"));
}

/// The answers of a moment ago are to another request's question: that one is missing says nothing.
#[test]
fn the_candidates_of_each_request_are_asked_before_it_ends_for_want_of_one() {
    let mut world = asked(None, Some("a3"));
    world.memory.asked_for = None;
    let peers = world.view.peers.as_mut().expect("they answered");
    peers.answers.remove(&name::<NodeName>("a3"));
    pass(&mut world, MS);
    assert_eq!(step(&mut world).1, asks("a3"));
    assert_eq!(step(&mut world).1, asks("a3"), "these are the same answers");
    world.view.peers.as_mut().expect("they answered").age = Duration::ZERO;
    ends(&world, Dropped::NoCandidate);
}

#[test]
fn the_checkpoint_comes_before_the_stop_and_is_bounded() {
    let mut world = asked(Some("a1"), Some("a2"));
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Checkpoint));
    assert_eq!(actions, vec![Action::Run(Job::Checkpoint)]);
    world.view.checkpoint_runs = true;
    assert_eq!(step(&mut world), (Reason::Leading, vec![]), "the leader leads on meanwhile");
    let mut slow = world.clone();
    slow.view.now = NOW.plus(Duration::from_secs(301));
    slow.view.tenure.site = Deadline::at(slow.view.now.plus(MS));
    slow.view.tenure.primary.as_mut().expect("held").deadline = slow.view.tenure.site;
    ends(&slow, Dropped::CheckpointSlow);
    step(&mut slow);
    slow.view.checkpoint_runs = false;
    ends(&slow, Dropped::CheckpointSlow);
    world.view.checkpoint_runs = false;
    let mut failed = world.clone();
    let (at, retry_at) = (NOW.plus(MS), NOW.plus(MS * 2));
    failed.memory.failed = Some(FailedJob { job: JobKind::Checkpoint, times: 1, at, retry_at });
    ends(&failed, Dropped::CheckpointFailed);
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Stopping));
    assert_eq!(actions, vec![Action::EndTenure, Action::Run(Job::Stop)]);
    let begun = world.memory.switching.expect("begun");
    assert_eq!(begun.revision, REQUEST);
}

/// The one after a promotion for instance: it failed before anybody asked for a switchover.
#[test]
fn a_checkpoint_that_failed_for_somebody_else_ends_no_request_and_is_made_before_the_stop() {
    let mut world = asked(Some("a1"), Some("a2"));
    let (at, retry_at) = (NOW, NOW.plus(MS * 3));
    world.memory.failed = Some(FailedJob { job: JobKind::Checkpoint, times: 1, at, retry_at });
    for _ in 0..3 {
        assert_eq!(
            step(&mut world),
            (Reason::Leading, vec![]),
            "it is put off, the leader leads on"
        );
        pass(&mut world, MS);
    }
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Checkpoint));
    assert_eq!(actions, vec![Action::Run(Job::Checkpoint)]);
    world.view.checkpoint_runs = true;
    pass(&mut world, MS);
    assert_eq!(step(&mut world), (Reason::Leading, vec![]));
    world.view.checkpoint_runs = false;
    pass(&mut world, MS);
    let ended = |problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        Some(FinishedJob { job: JobKind::Checkpoint, problem, untouched: false })
    };
    let mut failed = world.clone();
    failed.view.finished = ended(Some("no space"));
    ends(&failed, Dropped::CheckpointFailed);
    world.view.finished = ended(None);
    assert_eq!(step(&mut world).0, Reason::Manual(Manual::Stopping));
}

#[test]
fn a_timeline_without_a_name_is_named_before_anything_stops() {
    let mut world = asked(Some("a1"), Some("a2"));
    world.status().ancestry.promotion = None;
    world.status().name_sought = true;
    world.primary().floor = None;
    assert_eq!(world.decide().actions, vec![Action::NamePromotion]);
}

#[test]
fn a_request_that_changed_begins_anew() {
    let mut world = asked(Some("a1"), Some("a2"));
    step(&mut world);
    world.site().failover.as_mut().expect("asked").revision = REQUEST + 1;
    assert!(begins(&world), "another request has had no checkpoint");
}

#[test]
fn the_key_is_given_up_to_a_candidate_that_has_all_wal() {
    let mut world = stopped(Some("a1"), Some("a2"));
    answered(&mut world, [520, 0]);
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Releasing));
    assert_eq!(actions, vec![Action::ReleaseLeader]);
    let step = world.memory.switching.expect("begun").step;
    assert!(matches!(step, SwitchingStep::Released { .. }), "{step:?}");
}

/// hazards.md rows 45 and 46: another one that is ready is no reason, nor is a byte less than the end
/// of the shutdown checkpoint, nor what was said before the stop.
#[test]
fn the_key_is_kept_until_the_very_candidate_has_the_very_end() {
    for (what, leader, candidate, positions) in [
        ("another one is ready", Some("a1"), Some("a2"), [519, 520]),
        ("nobody is", Some("a1"), None, [519, 0]),
        ("one that is not synchronous is", Some("a1"), None, [519, 520]),
        ("a failover's other", None, Some("a2"), [519, 520]),
    ] {
        let mut world = stopped(leader, candidate);
        answered(&mut world, positions);
        let decision = world.decide();
        assert_eq!(decision.reason, Reason::Manual(Manual::AwaitingCandidate), "{what}");
        assert_eq!(decision.actions, vec![], "{what}");
        pass(&mut world, Duration::from_millis(60));
        assert_eq!(world.decide().actions, asks("a2"), "{what}: asked again");
    }
    let mut early = stopped(Some("a1"), Some("a2"));
    peer(&mut early, "a2").position = Lsn::new(900);
    assert_eq!(early.decide().actions, asks("a2"), "that was before the stop");
    let bends: [fn(&mut PeerAnswer); 4] = [
        |a| a.timeline = Some(TimelineId(2)),
        |a| a.timeline = None,
        |a| a.primary = true,
        |a| a.nofailover = true,
    ];
    for bend in bends {
        let mut world = stopped(Some("a1"), Some("a2"));
        answered(&mut world, [520, 520]);
        bend(peer(&mut world, "a2"));
        assert_eq!(world.decide().reason, Reason::Manual(Manual::AwaitingCandidate));
    }
}

#[test]
fn an_unnamed_candidate_is_any_that_may_lead_and_has_all_wal() {
    let mut world = stopped(Some("a1"), None);
    answered(&mut world, [520, 520]);
    assert_eq!(step(&mut world).1, vec![Action::ReleaseLeader]);
}

/// Asked for by name, though commits did not wait for it: it has everything by now, and only whom
/// `sync` names may lead.
#[test]
fn a_failover_to_another_standby_makes_it_a_synchronous_one_first() {
    let mut world = stopped(None, Some("a3"));
    answered(&mut world, [0, 520]);
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Recording));
    let standbys = BTreeSet::from([name("a2"), name("a3")]);
    let writes = Action::WriteSync { standbys: standbys.clone(), revision: Some(20), quorum: 0 };
    assert_eq!(actions, vec![writes]);
    world.site().sync.standbys = standbys;
    world.site().sync.revision = Some(21);
    assert_eq!(step(&mut world).1, vec![Action::ReleaseLeader]);
}

/// A quorum's voter needs votes; where too few run to give them, whoever has all WAL needs none.
#[test]
fn a_candidate_that_would_lack_votes_is_the_only_one_named() {
    let of_quorum = |standbys: [&str; 2]| {
        let mut world = stopped(Some("a1"), Some("a2"));
        world.policy.synchronous_quorum = true;
        world.site().sync.standbys = standbys.into_iter().map(name).collect();
        world.site().sync.quorum = 1;
        answered(&mut world, [520, 0]);
        world
    };
    let votes = of_quorum(["a2", "a3"]);
    assert_eq!(votes.decide().actions, vec![Action::ReleaseLeader], "a3 runs and votes");
    let mut down = of_quorum(["a2", "a3"]);
    down.member("a3").state = "stopped".to_owned();
    let mut gone = of_quorum(["a2", "a4"]);
    for world in [&mut down, &mut gone] {
        let standbys = BTreeSet::from([name("a2")]);
        let (reason, actions) = step(world);
        assert_eq!(reason, Reason::Manual(Manual::Recording));
        let writes =
            Action::WriteSync { standbys: standbys.clone(), revision: Some(20), quorum: 0 };
        assert_eq!(actions, vec![writes]);
        let sync = &mut world.site().sync;
        (sync.standbys, sync.quorum, sync.revision) = (standbys, 0, Some(21));
        assert_eq!(step(world).1, vec![Action::ReleaseLeader]);
    }
}

#[test]
fn a_leader_whose_candidate_is_not_ready_opens_again_under_the_same_key() {
    let mut world = stopped(Some("a1"), Some("a2"));
    answered(&mut world, [519, 520]);
    pass(&mut world, Duration::from_millis(1999));
    assert_eq!(step(&mut world).0, Reason::Manual(Manual::AwaitingCandidate));
    pass(&mut world, MS);
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Dropped(Dropped::NotConfirmed)));
    assert_eq!(actions, vec![Action::ClearFailover { revision: REQUEST }]);
    world.site().failover = None;
    let starts = vec![Action::Run(Job::StartPrimary { synchronous: "\"a2\"".to_owned() })];
    assert_eq!(world.decide().actions, starts, "no new timeline, and it waits for whom it did");
    // Its right was ended with its tenure: through the same gate as ever.
    let mut ended = world.clone();
    ended.view.tenure.primary.as_mut().expect("held").deadline = Deadline::NEVER;
    assert_eq!(ended.decide().reason, Reason::AcquiringPrimary);
    let recovers = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
    let mut moved = world.clone();
    moved.site().leader.as_mut().expect("held").revision += 1;
    assert_eq!(moved.decide().actions, recovers, "somebody may have led meanwhile");
    let mut entered = world.clone();
    entered.disk_epoch(2);
    assert_eq!(entered.decide().actions, recovers, "it wrote under another epoch");
    let mut forgotten = world;
    forgotten.memory.switching = None;
    assert_eq!(forgotten.decide().actions, recovers, "not stopped by this process");
}

#[test]
fn whatever_else_comes_between_stop_and_release_opens_again_too() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Dropped); 5] = [
        ("taken back", |w| w.site().failover = None, Dropped::Cancelled),
        (
            "replaced",
            |w| w.site().failover.as_mut().expect("asked").revision += 1,
            Dropped::Cancelled,
        ),
        ("killed", |w| w.stopped(ControlState::InProduction, 3, 400), Dropped::StoppedUncleanly),
        ("key", |w| w.site().leader.as_mut().expect("held").revision += 1, Dropped::KeyMoved),
        ("paused", |w| w.policy.paused = true, Dropped::Paused),
    ];
    for (what, bend, why) in cases {
        let mut world = stopped(Some("a1"), Some("a2"));
        answered(&mut world, [520, 520]);
        bend(&mut world);
        let (reason, actions) = step(&mut world);
        assert_eq!(reason, Reason::Manual(Manual::Dropped(why)), "{what}");
        assert!(!actions.contains(&Action::ReleaseLeader), "{what}");
        if why == Dropped::Cancelled {
            assert_eq!(actions, vec![], "it is not this request's to end");
            assert_eq!(world.decide().wake_at, world.view.now.plus(world.policy.loop_wait));
        }
    }
}

/// A pause in the middle gives the key to nobody who has less: nobody can open while it lasts.
#[test]
fn a_pause_in_between_keeps_the_key_and_the_server_opens_again_after_it() {
    let mut world = stopped(Some("a1"), Some("a2"));
    world.view.federation = None;
    answered(&mut world, [519, 0]);
    world.policy.paused = true;
    let decision = world.decide();
    assert_eq!((decision.reason, decision.actions), (Reason::Paused(PausedAs::Leader), vec![]));
    let mut crashed = world.clone();
    crashed.stopped(ControlState::InProduction, 3, 520);
    assert_eq!(crashed.decide().actions, vec![Action::ReleaseLeader], "as in Patroni");
    let mut moved = world.clone();
    moved.site().leader.as_mut().expect("held").revision += 1;
    assert_eq!(moved.decide().actions, vec![Action::ReleaseLeader], "another key");
    world.policy.paused = false;
    pass(&mut world, Duration::from_secs(3));
    assert_eq!(step(&mut world).0, Reason::Manual(Manual::Dropped(Dropped::NotConfirmed)));
    world.site().failover = None;
    let actions = world.decide().actions;
    assert!(matches!(actions[..], [Action::Run(Job::StartPrimary { .. })]), "{actions:?}");
}

/// By the word of others a server goes on; nothing opens by it.
#[test]
fn a_leader_that_goes_on_by_others_word_stops_for_no_request() {
    let mut away = asked(Some("a1"), Some("a2"));
    away.view.failsafe.stands = true;
    let decision = away.decide();
    assert_eq!((decision.reason, decision.actions), (Reason::Leading, vec![]));
    let mut promised = asked(Some("a1"), Some("a2"));
    promised.view.tenure.primary.as_mut().expect("held").by_promise = true;
    ends(&promised, Dropped::ByPromise);
}

#[test]
fn a_request_that_failed_is_not_tried_again() {
    let mut world = asked(Some("a1"), Some("a2"));
    world.memory.switching = Some(Switching {
        revision: REQUEST,
        leader_revision: 12,
        streamed: BTreeSet::new(),
        step: SwitchingStep::GivenUp(Dropped::NotConfirmed),
    });
    ends(&world, Dropped::NotConfirmed);
    // That write may not be done.
    step(&mut world);
    ends(&world, Dropped::NotConfirmed);
    world.site().failover.as_mut().expect("asked").revision += 1;
    assert!(begins(&world), "a new one is");
}

#[test]
fn a_server_that_ended_by_itself_is_started_as_ever() {
    let mut world = asked(Some("a1"), Some("a2"));
    step(&mut world);
    world.stopped(ControlState::InProduction, 3, 400);
    let actions = world.decide().actions;
    assert!(matches!(actions[..], [Action::Run(Job::StartPrimary { .. })]), "{actions:?}");
}

/// Its server does not start.
fn broken(leader: Option<&str>, candidate: Option<&str>) -> World {
    let mut world = asked(leader, candidate);
    world.stopped(ControlState::InProduction, 3, 400);
    let retry_at = NOW.plus(Duration::from_secs(8));
    world.memory.failed = Some(FailedJob { job: JobKind::Start, times: 4, at: NOW, retry_at });
    world
}

#[test]
fn a_leader_whose_server_does_not_start_gives_the_key_up_for_a_failover_by_name() {
    let mut world = broken(None, Some("a2"));
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Releasing));
    assert_eq!(actions, vec![Action::ReleaseLeader]);
    ends(&broken(None, Some("a3")), Dropped::NoCandidate);
    ends(&broken(Some("a1"), Some("a2")), Dropped::NotRunning);
    let mut old = broken(None, Some("a2"));
    old.view.peers = None;
    assert_eq!(old.decide().actions, asks("a2"));
    let mut silent = broken(None, Some("a2"));
    silent.view.peers.as_mut().expect("they answered").answers.clear();
    ends(&silent, Dropped::NoCandidate);
    let mut starts = broken(None, Some("a2"));
    starts.memory.failed = None;
    let actions = starts.decide().actions;
    assert!(matches!(actions[..], [Action::Run(Job::StartPrimary { .. })]), "{actions:?}");
    let mut later = broken(None, Some("a2"));
    schedule(&mut later, Due::At(NOW.plus(Duration::from_secs(60))));
    assert_eq!(later.decide().reason, Reason::Backoff(JobKind::Start));
    schedule(&mut later, Due::BeforeBoot);
    ends(&later, Dropped::Missed);
    // Without a synchronous standby: one that is near what was last published.
    for (optime, releases) in [(500 + (1 << 20), true), (501 + (1 << 20), false)] {
        let mut world = broken(None, Some("a3"));
        world.policy.synchronous_mode = false;
        world.site().optime = Some(Lsn::new(optime));
        assert_eq!(world.decide().actions.contains(&Action::ReleaseLeader), releases, "{optime}");
    }
}

/// A standby that may take the free key: `a1`, which led before, as `sync` says.
fn race(leader: Option<&str>, candidate: Option<&str>) -> World {
    let mut world = asked(leader, candidate);
    world.leader(None);
    world.view.tenure.primary = None;
    world.standby(3, 500);
    world
}

fn takes(world: &World) -> bool {
    world.decide().actions == vec![Action::AcquireLeader]
}

#[test]
fn the_candidate_takes_the_key_also_where_it_lags() {
    let mut world = race(Some("a2"), Some("a1"));
    assert!(takes(&world));
    world.site().optime = Some(Lsn::new(501 + (1 << 20)));
    assert!(takes(&world), "a person chose it");
    world.site().failover = None;
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::Lagging));
}

/// What a switchover promises is that nothing is lost; a failover to one by name promises less.
#[test]
fn only_a_failover_takes_the_key_before_one_that_is_ahead() {
    let behind = |leader| {
        let mut world = race(leader, Some("a1"));
        peer(&mut world, "a2").position = Lsn::new(501);
        world
    };
    assert!(takes(&behind(None)));
    let reason = behind(Some("a2")).decide().reason;
    assert_eq!(reason, Reason::NotCandidate(Unfit::Behind(name("a2"))));
}

/// Two that waited for each other would leave the site without a leader.
#[test]
fn who_is_asked_for_goes_before_who_is_preferred() {
    for leader in [None, Some("a2")] {
        let mut world = race(leader, Some("a1"));
        peer(&mut world, "a2").failover_priority = 2;
        assert!(takes(&world), "{leader:?}");
        world.site().failover = None;
        let preferred = Reason::NotCandidate(Unfit::Preferred(name("a2")));
        assert_eq!(world.decide().reason, preferred);
    }
    let mut other = race(None, Some("a2"));
    other.policy.failover_priority = 2;
    assert_eq!(other.decide().reason, Reason::NotCandidate(Unfit::OtherWanted(name("a2"))));
}

/// Where nobody can tell whose history counts a person has to choose, and a failover by name does.
#[test]
fn a_failover_by_name_chooses_between_histories_that_have_parted() {
    let parted = |leader| {
        let mut world = race(leader, Some("a1"));
        let mut another = history(3);
        another.promotion = Some(name("q3"));
        peer(&mut world, "a2").ancestry = Some(another);
        world.site().promotions = None;
        world
    };
    assert!(takes(&parted(None)));
    let reason = parted(Some("a2")).decide().reason;
    assert_eq!(reason, Reason::NotCandidate(Unfit::HistoriesPart(name("a2"))));
}

/// It would not take the key that was given up for it.
#[test]
fn whom_the_failsafe_record_does_not_name_is_no_candidate() {
    let mut world = asked(Some("a1"), Some("a2"));
    assert_ne!(world.decide().reason, Reason::Manual(Manual::Dropped(Dropped::NoCandidate)));
    let members = [(name("a1"), String::new()), (name("a3"), String::new())].into();
    world.site().failsafe = FailsafeRecord::Read { members, revision: 5 };
    ends(&world, Dropped::NoCandidate);
}

#[test]
fn nothing_else_is_waived_for_a_candidate() {
    type Bend = fn(&mut World);
    let cases: [(Bend, Unfit); 7] = [
        (|w| w.policy.nofailover = true, Unfit::NoFailover),
        (|w| w.site().sync.leader = Some(name("a2")), Unfit::NotSynchronous),
        (|w| w.site().sync.unreadable = true, Unfit::SyncUnreadable),
        (|w| w.view.guardian.alive = false, Unfit::NoGuardian),
        (|w| peer(w, "a2").primary = true, Unfit::PrimaryAlive(name("a2"))),
        (
            |w| {
                let members = [(name("a2"), String::new())].into();
                w.site().failsafe = FailsafeRecord::Read { members, revision: 5 };
            },
            Unfit::NotInFailsafe,
        ),
        (
            |w| {
                w.view.postgres.status.as_mut().expect("runs").ancestry = history(1);
                w.status().end = Lsn::new(50);
            },
            Unfit::LacksFloor,
        ),
    ];
    for (bend, unfit) in cases {
        let mut world = race(None, Some("a1"));
        bend(&mut world);
        assert_eq!(world.decide().reason, Reason::NotCandidate(unfit));
    }
}

#[test]
fn others_stand_back_for_a_candidate_that_is_fit_and_for_no_longer_than_a_while() {
    let wanted = |who: &str| Reason::NotCandidate(Unfit::OtherWanted(name(who)));
    let world = || race(Some("a3"), Some("a2"));
    assert_eq!(world().decide().reason, wanted("a2"));
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 7] = [
        ("silent", |w| {
            let peers = w.view.peers.as_mut().expect("they answered");
            peers.answers.remove(&name::<NodeName>("a2"));
        }),
        ("tag", |w| w.member("a2").nofailover = true),
        ("tag by its answer", |w| peer(w, "a2").nofailover = true),
        ("its server does not run", |w| peer(w, "a2").position = Lsn::new(0)),
        ("gone", |w| drop(w.site().members.remove(&name::<NodeName>("a2")))),
        ("it could not lead", |w| w.site().sync.standbys = BTreeSet::from([name("a3")])),
        ("it has not come", |w| w.site().leaderless = Duration::from_secs(5)),
    ];
    for (what, bend) in cases {
        let mut world = world();
        bend(&mut world);
        assert!(takes(&world), "{what}: {:?}", world.decide().reason);
    }
    let mut lags = world();
    lags.view.peers.as_mut().expect("they answered").answers.remove(&name::<NodeName>("a2"));
    lags.site().optime = Some(Lsn::new(501 + (1 << 20)));
    assert_eq!(lags.decide().reason, Reason::NotCandidate(Unfit::Lagging), "it was not chosen");
}

#[test]
fn without_a_candidate_the_race_is_as_ever() {
    let mut world = race(Some("a2"), None);
    assert!(takes(&world));
    peer(&mut world, "a2").position = Lsn::new(501);
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::Behind(name("a2"))));
}

#[test]
fn the_former_leader_makes_room_before_it_races_or_starts() {
    let room = Reason::Manual(Manual::MakingRoom);
    for candidate in [None, Some("a2")] {
        let mut world = race(Some("a1"), candidate);
        world.stopped(ControlState::ShutDown, 3, 520);
        world.site().leaderless = Duration::from_millis(1999);
        let decision = world.decide();
        assert_eq!((decision.reason, decision.actions), (room.clone(), vec![]));
        assert_eq!(decision.wake_at, NOW.plus(MS));
        world.site().leaderless = Duration::from_secs(2);
        let starts = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
        assert_eq!(world.decide().actions, starts);
    }
    // Of a failover, which names no leader, only this process knows that it gave the key up.
    let mut world = race(None, Some("a2"));
    assert_ne!(world.decide().reason, room);
    world.memory.switching = Some(released(NOW));
    assert_eq!(world.decide().reason, room);
}

fn released(since: BootTime) -> Switching {
    Switching {
        revision: REQUEST,
        leader_revision: 12,
        streamed: BTreeSet::new(),
        step: SwitchingStep::Released { since },
    }
}

#[test]
fn a_schedule_for_later_is_none_of_the_races_business() {
    let mut world = race(Some("a3"), Some("a2"));
    schedule(&mut world, Due::At(NOW.plus(Duration::from_secs(2))));
    assert!(takes(&world));
    schedule(&mut world, Due::BeforeBoot);
    assert!(takes(&world));
    // The clocks of two machines differ a little.
    schedule(&mut world, Due::At(NOW.plus(Duration::from_secs(1))));
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::OtherWanted(name("a2"))));
}

#[test]
fn the_winner_ends_the_request_before_anything_else() {
    for (leader, candidate) in [(Some("a2"), Some("a1")), (None, Some("a3")), (Some("a1"), None)] {
        let mut world = asked(leader, candidate);
        world.standby(3, 500);
        world.status().senders.insert("a2".to_owned(), sender(500));
        world.status().synchronous_standby_names = "\"a2\"".to_owned();
        world.memory.switching = Some(released(NOW));
        ends(&world, Dropped::Outlived);
        assert_eq!(step(&mut world).1.len(), 1);
        world.site().failover = None;
        assert_eq!(world.decide().actions, vec![Action::Promote]);
        assert_eq!(world.memory.switching, None);
    }
}

/// `a2` has the key.
fn led_by_a2() -> World {
    let mut world = asked(Some("a1"), Some("a2"));
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world
}

#[test]
fn the_former_leader_starts_straight_under_an_open_leader() {
    let mut world = led_by_a2();
    world.policy.loop_wait = Duration::from_secs(60);
    world.member("a2").role = "replica".to_owned();
    world.stopped(ControlState::ShutDown, 3, 520);
    world.memory.switching = Some(released(NOW.minus(MS)));
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::Manual(Manual::MakingRoom));
    assert_eq!(decision.wake_at, NOW.plus(Duration::from_millis(1999)));
    world.view.now = NOW.plus(Duration::from_secs(2));
    let starts = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
    assert_eq!(world.decide().actions, starts, "no longer than that");
    world.view.now = NOW;
    world.member("a2").role = "primary".to_owned();
    let actions = world.decide().actions;
    let [Action::Run(Job::StartStandby(Follow::Member { name: who, .. }))] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(*who, name("a2"));
}

#[test]
fn members_look_soon_while_the_leader_stops_for_a_request() {
    let wake = |world: &World| world.decide().wake_at.since(NOW);
    let mut world = led_by_a2();
    world.standby(3, 500);
    world.member("a2").role = "replica".to_owned();
    assert_eq!(wake(&world), world.policy.loop_wait, "it runs");
    world.member("a2").state = "stopping".to_owned();
    assert_eq!(wake(&world), Duration::from_millis(20));
    schedule(&mut world, Due::At(NOW.plus(Duration::from_secs(60))));
    assert_eq!(wake(&world), world.policy.loop_wait, "not for this");
    world.site().failover = None;
    assert_eq!(wake(&world), world.policy.loop_wait);
}

#[test]
fn the_leader_of_a_standby_site_only_gives_the_key_up() {
    let standby_site = || {
        let mut world = asked(Some("a1"), Some("a2"));
        world.held_by_b();
        world.standby(3, 500);
        for slot in ["a2", "a3"] {
            world.status().slots.insert(slot.to_owned(), Slot::physical(true));
        }
        world.view.postgres.follows =
            Some(Follow::Site { site: name("b"), addresses: vec![("127.0.0.1".to_owned(), 7001)] });
        world.site().sync = SyncView::default();
        world
    };
    let mut world = standby_site();
    let (reason, actions) = step(&mut world);
    assert_eq!(reason, Reason::Manual(Manual::Releasing), "{actions:?}");
    assert_eq!(actions, vec![Action::ReleaseLeader]);
    ends(&world, Dropped::NoCandidate);
    // Nor is it given up again once another one has led in between.
    let held = world.view.tenure.site;
    world.leader(Some("a2"));
    step(&mut world);
    world.leader(Some("a1"));
    world.view.tenure.site = held;
    ends(&world, Dropped::NoCandidate);
    let mut old = standby_site();
    old.view.peers = None;
    assert_eq!(old.decide().actions, asks("a2"));
    let mut silent = standby_site();
    silent.view.peers.as_mut().expect("they answered").answers.clear();
    ends(&silent, Dropped::NoCandidate);
    let mut other = standby_site();
    ask(&mut other, request(Some("a2"), None));
    ends(&other, Dropped::OtherLeader);
    let mut paused = standby_site();
    paused.policy.paused = true;
    ends(&paused, Dropped::Paused);
    let mut later = standby_site();
    schedule(&mut later, Due::At(NOW.plus(Duration::from_secs(60))));
    assert_eq!(later.decide().reason, Reason::LeadingStandby);
    schedule(&mut later, Due::At(NOW.minus(Duration::from_secs(60))));
    ends(&later, Dropped::Missed);
}
