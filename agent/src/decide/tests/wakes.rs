//! What nobody announces is looked for in time: the sleep that a decision asks for, where the loop's own
//! period would be too long.

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::time::BootTime;
use regent_proto::timeline::TimelineId;

use super::world::{NOW, World, name, sender};
use crate::decide::failsafe::site::PromisedLeader;
use crate::decide::preconditions::Precondition;
use crate::decide::view::*;
use crate::decide::{Choice, PausedAs, Reason};

const LOOP_WAIT: Duration = Duration::from_secs(60);

fn ago(millis: u64) -> BootTime {
    NOW.minus(Duration::from_millis(millis))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// With a period that nothing here waits for.
fn patient() -> World {
    let mut world = World::new();
    world.policy.loop_wait = LOOP_WAIT;
    world
}

/// How long it sleeps where there is nothing to do for now.
fn sleeps(world: &World, reason: &Reason) -> Duration {
    let decision = world.decide();
    assert_eq!((&decision.actions[..], &decision.reason), (&[][..], reason));
    decision.wake_at.since(NOW)
}

/// Site `a` without a leader key of its own: `a2` leads it, and `a1` is to stream from there.
fn follower() -> World {
    let mut world = patient();
    world.leader(Some("a2"));
    world.member("a2").role = "primary".to_owned();
    world.view.tenure.primary = None;
    world.standby(3, 500);
    let address = ("127.0.0.1".to_owned(), 6002);
    world.view.postgres.follows = Some(Follow::Member { name: name("a2"), address });
    world
}

fn streams_from(world: &mut World, port: u16) {
    let host = "127.0.0.1".to_owned();
    world.status().receiver = Some(Receiver { host, port, timeline: TimelineId(3) });
}

#[test]
fn a_leader_with_nothing_before_it_sleeps_for_the_whole_period() {
    assert_eq!(sleeps(&patient(), &Reason::Leading), LOOP_WAIT);
}

#[test]
fn a_gate_that_opens_without_a_word_is_looked_at_and_any_other_tells() {
    for gate in Precondition::ALL {
        let wakes = Choice::not_ready(vec![Precondition::MayLead, gate], Vec::new()).wake_in;
        assert_eq!(wakes, gate.comes_unannounced().then_some(ms(100)), "{gate:?}");
    }
    let mut world = patient();
    world.stopped(ControlState::InProduction, 3, 400);
    world.view.failsafe.promised =
        Some(PromisedLeader { leader: name("a2"), until: ago(0).plus(ms(300)) });
    let bars = Reason::NotReady(vec![Precondition::Unpromised]);
    assert_eq!(sleeps(&world, &bars), ms(100), "it crashed, and starts once the promise is over");
}

/// Its checkpoint, which members that rewind wait for; and the end of the patience with a synchronous
/// standby that has not turned to the new timeline, for which all commits wait.
#[test]
fn what_is_due_two_seconds_after_an_opening_is_done_then() {
    for (since, sleep) in [(0, 2_000), (500, 1_500), (1_999, 1)] {
        let mut world = patient();
        world.memory.owes_checkpoint_since = Some(ago(since));
        assert_eq!(sleeps(&world, &Reason::Leading), ms(sleep));
        // Somebody else's checkpoint runs: the standby is given up all the same.
        world.view.checkpoint_runs = true;
        world.status().senders.clear();
        assert_eq!(sleeps(&world, &Reason::Leading), ms(sleep));
    }
    let mut world = patient();
    world.memory.owes_checkpoint_since = Some(ago(2_000));
    world.view.checkpoint_runs = true;
    assert_eq!(sleeps(&world, &Reason::Leading), LOOP_WAIT, "its end wakes");
    world.status().senders.clear();
    assert_eq!(world.decide().reason, Reason::Synchronous);
}

#[test]
fn a_standby_that_commits_are_to_wait_for_is_looked_at_until_it_has_what_there_was() {
    let mut world = patient();
    world.memory.list_since = Some(("\"a2\"".to_owned(), Lsn::new(450)));
    for (flushed, sleep) in [(449, ms(200)), (450, LOOP_WAIT)] {
        world.status().senders.insert("a2".to_owned(), sender(flushed));
        assert_eq!(sleeps(&world, &Reason::Leading), sleep, "{flushed}");
    }
    world.status().senders.insert("a2".to_owned(), Sender { streaming: false, ..sender(1) });
    world.member("a2").nosync = true;
    world.site().sync.standbys.clear();
    world.status().synchronous_standby_names = String::new();
    world.memory.list_since = Some((String::new(), Lsn::new(450)));
    assert_eq!(
        sleeps(&world, &Reason::Leading),
        LOOP_WAIT,
        "it does not stream, nor would it count"
    );
    world.status().senders.insert("a2".to_owned(), sender(1));
    assert_eq!(sleeps(&world, &Reason::Leading), LOOP_WAIT, "it would not count");
    world.policy.synchronous_mode = false;
    world.site().sync.leader = None;
    world.member("a2").nosync = false;
    assert_eq!(sleeps(&world, &Reason::Leading), LOOP_WAIT, "nobody is waited for");
}

#[test]
fn a_standby_too_far_behind_to_count_is_looked_at_until_it_is_near() {
    let mut world = patient();
    world.site().sync.standbys.clear();
    world.status().synchronous_standby_names = String::new();
    world.memory.list_since = Some((String::new(), Lsn::new(1)));
    world.policy.maximum_lag_on_syncnode = Some(10);
    world.status().senders.insert("a2".to_owned(), sender(489));
    assert_eq!(sleeps(&world, &Reason::Leading), ms(200));
    world.status().senders.insert("a2".to_owned(), sender(490));
    assert_eq!(world.decide().reason, Reason::Synchronous);
}

#[test]
fn a_list_of_the_users_own_is_looked_for_and_one_that_is_refused_is_set_again_in_time() {
    let mut world = patient();
    world.policy.synchronous_mode = false;
    world.policy.own_standby_names = "x".to_owned();
    world.site().sync = SyncView { revision: Some(20), ..SyncView::default() };
    world.status().synchronous_standby_names = String::new();
    world.memory.list_asked = Some("x".to_owned());
    for (asked, refused, sleep) in [
        (0, None, Some(ms(200))),
        (9_900, None, Some(ms(100))),
        (4_000, Some("x".to_owned()), Some(ms(6_000))),
        (10_000, None, None),
    ] {
        world.memory.own_names_asked = Some(("x".to_owned(), ago(asked)));
        world.memory.own_names_refused = refused;
        match sleep {
            Some(sleep) => assert_eq!(sleeps(&world, &Reason::Leading), sleep, "{asked}"),
            None => assert_eq!(world.decide().reason, Reason::Synchronous, "{asked}"),
        }
    }
}

#[test]
fn slots_are_due_a_period_after_they_were_moved_whatever_woke_the_loop_since() {
    for (tried, sleep) in [(0, LOOP_WAIT), (7_000, LOOP_WAIT - ms(7_000)), (60_000, LOOP_WAIT)] {
        let mut world = patient();
        world.memory.slots_tried = Some((Vec::new(), ago(tried)));
        assert_eq!(sleeps(&world, &Reason::Leading), sleep, "{tried}");
    }
}

#[test]
fn a_standby_looks_until_its_stream_has_begun() {
    let mut world = follower();
    assert_eq!(sleeps(&world, &Reason::Following), ms(500));
    streams_from(&mut world, 6001);
    assert_eq!(sleeps(&world, &Reason::Following), ms(500), "from somebody else");
    streams_from(&mut world, 6002);
    assert_eq!(sleeps(&world, &Reason::Following), LOOP_WAIT);
}

#[test]
fn the_leader_of_a_standby_site_asks_for_its_restartpoint_again_in_time() {
    let mut world = patient();
    world.standby(3, 500);
    world.held_by_b();
    world.site().sync = SyncView { revision: Some(20), ..SyncView::default() };
    let addresses = vec![("127.0.0.1".to_owned(), 7001)];
    world.view.postgres.follows = Some(Follow::Site { site: name("b"), addresses });
    streams_from(&mut world, 7001);
    assert_eq!(sleeps(&world, &Reason::LeadingStandby), LOOP_WAIT);
    world.status().control_timeline = TimelineId(2);
    world.memory.restartpoint_at = Some(ago(400));
    assert_eq!(sleeps(&world, &Reason::LeadingStandby), ms(600));
    world.view.checkpoint_runs = true;
    assert_eq!(sleeps(&world, &Reason::LeadingStandby), LOOP_WAIT, "its end wakes");
    world.status().control_timeline = TimelineId(3);
    world.view.checkpoint_runs = false;
    world.status().receiver = None;
    assert_eq!(sleeps(&world, &Reason::LeadingStandby), ms(500), "its stream has ended");
}

#[test]
fn a_promotion_that_a_pause_has_overtaken_is_looked_for() {
    let mut world = patient();
    world.view.federation = None;
    world.policy.paused = true;
    world.standby(3, 500);
    world.memory.promoting_since = Some(ago(100));
    assert_eq!(sleeps(&world, &Reason::Promoting), ms(3));
    let mut open = patient();
    open.view.federation = None;
    open.policy.paused = true;
    open.memory.list_since = Some(("\"a2\"".to_owned(), Lsn::new(450)));
    open.status().senders.insert("a2".to_owned(), sender(449));
    assert_eq!(sleeps(&open, &Reason::Paused(PausedAs::Leader)), ms(200));
}

/// With a timeout of zero a server that was stopped in order has five seconds for its first answer, and one
/// that was found a TTL.
#[test]
fn each_time_that_a_start_may_take_is_noticed_when_it_is_over() {
    for (timeout, waited, sleep) in [
        (0, 1_000, 4_000),
        (0, 5_000, 15_000),
        (0, 20_000, 60_000),
        (7_000, 1_000, 6_000),
        (7_000, 7_000, 13_000),
    ] {
        let mut world = patient();
        world.policy.primary_start_timeout = ms(timeout);
        world.policy.ttl = ms(20_000);
        world.stopped(ControlState::ShutDown, 3, 400);
        world.view.postgres.process = Process::Starting;
        world.memory.start_since = Some(ago(waited));
        // Nobody could lead in its place.
        world.site().members.remove(&name::<regent_proto::name::NodeName>("a2"));
        assert_eq!(sleeps(&world, &Reason::AwaitingServer), ms(sleep), "{timeout} {waited}");
    }
}
