//! What a whole node decides and tells of slots.

use regent_proto::time::Deadline;

use super::super::world::NOW;
use super::*;
use crate::decide::slots::readiness::{Readiness, Xid};
use crate::decide::slots::{Why, told};
use crate::decide::view::{
    At, Due, FailoverRequest, FinishedJob, Follow, JobKind, Schedule, SyncView,
};
use crate::decide::{Action, Job, Reason};

fn follower_world() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.leader(Some("a2"));
    world.standby(3, 500);
    world.status().slots.remove("b1");
    world.status().wal_logical = true;
    world.status().upstream_end = Some(lsn(500));
    world.status().receiver =
        Some(Receiver { host: "127.0.0.1".to_owned(), port: 6002, timeline: TimelineId(3) });
    world.view.postgres.follows =
        Some(Follow::Member { name: name("a2"), address: ("127.0.0.1".to_owned(), 6002) });
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], Reason::Following));
    world.policy.slots.permanent.insert("cdc".to_owned(), permanent(logical()));
    world.site().published.slots.insert("cdc".to_owned(), lsn(400));
    world.member("a2").horizon = Some(horizon(400, None, 700));
    world
}

#[test]
fn a_node_that_follows_copies_logical_slots_from_its_leader() {
    let world = follower_world();
    let from = ("127.0.0.1".to_owned(), 6002);
    let job = Job::CopySlots { from, slots: BTreeSet::from(["cdc".to_owned()]) };
    let decision = world.decide();
    assert_eq!(decision.actions, vec![Action::Run(job)]);
    assert_eq!(decision.reason, Reason::CopyingSlots);
}

/// A standby site's other nodes stream from its leader: what nobody fetches must not fill the disk, here
/// and, by what is published, on each node that could lead.
#[test]
fn a_downstream_node_that_streams_elsewhere_keeps_no_wal_that_it_has() {
    let mut world = World::new();
    let reports = &mut world.federation().reports;
    let report = Arc::make_mut(reports.get_mut(&name("b")).expect("site b has told"));
    let mut second = report.nodes[0].clone();
    second.name = name("b2");
    second.position = Some(lsn(450));
    report.nodes.push(second);
    world.memory = world.decide().memory;
    let kept = |restart| at(Slot::physical(false), restart);
    world.status().slots.insert("b1".to_owned(), kept(300));
    world.status().slots.insert("b2".to_owned(), kept(300));
    world.memory.slots_tried = None;
    let to = lsn(450);
    let step = Step::Advance { name: "b2".to_owned(), kind: Kind::Physical, to };
    assert_eq!(world.decide().actions, vec![Action::Slots(vec![Planned { step, why: Why::Told }])]);
    world.status().slots.insert("b2".to_owned(), kept(450));
    let told = told(&world.policy, &world.memory, &world.view);
    assert_eq!(told.positions.get("b2"), Some(&to));
}

/// All at once they would leave commits without a standby, and the leader without a successor.
#[test]
fn standbys_copy_slots_one_after_the_other() {
    let copies = |world: &World| world.decide().reason == Reason::CopyingSlots;
    let third = |name_of_it: &str| {
        let mut world = follower_world();
        let mut member = world.site().members[&name::<NodeName>("a1")].clone();
        Arc::make_mut(&mut member).streaming = true;
        world.site().members.insert(name(name_of_it), member);
        world.status().slots.insert(name_of_it.to_owned(), Slot::physical(true));
        world
    };
    // The first by name, unless the other one is on its way.
    let mut first = third("a3");
    assert!(copies(&first));
    first.member("a3").state = "starting".to_owned();
    assert!(!copies(&first));
    first.member("a3").state = "running".to_owned();
    first.member("a3").streaming = false;
    assert!(!copies(&first));
    // One that never streams holds up nobody for ever.
    first.memory = first.decide().memory;
    for (after, wanted) in [(299, false), (300, true)] {
        first.view.now = NOW.plus(Duration::from_secs(after));
        assert_eq!(copies(&first), wanted, "after {after} s");
    }
    // What has no data streams nothing, and stops nothing.
    let mut empty = third("a3");
    empty.member("a3").state = "stopped".to_owned();
    empty.member("a3").role = "uninitialized".to_owned();
    assert!(copies(&empty));
    // The second by name gives the first one time to be seen at it.
    let mut second = third("a0");
    assert!(!copies(&second));
    second.memory = second.decide().memory;
    for (after, wanted) in [(2, false), (3, true)] {
        second.view.now = NOW.plus(Duration::from_secs(after));
        assert_eq!(copies(&second), wanted, "after {after} s");
        let mut busy = second.clone();
        busy.member("a0").state = "stopped".to_owned();
        assert!(!copies(&busy), "a0 copies, after {after} s");
    }
}

/// A candidate that stops its own server meanwhile would be none, and who confirms commits is waited for.
#[test]
fn nobody_copies_slots_while_a_switchover_is_asked_for() {
    let scheduled = |seconds| {
        let due = Due::At(NOW.plus(Duration::from_secs(seconds)));
        Some(Schedule { due, text: String::new() })
    };
    let rows = [
        (Some("a1"), None, false),
        (Some("a3"), None, false),
        (None, None, false),
        (Some("a1"), scheduled(60), false),
        (Some("a1"), scheduled(3600), true),
    ];
    for (candidate, scheduled, copies) in rows {
        let mut world = follower_world();
        let value =
            FailoverRequest { leader: Some(name("a2")), candidate: candidate.map(name), scheduled };
        world.site().failover = Some(At { value, revision: 90 });
        let copying = world.decide().reason == Reason::CopyingSlots;
        assert_eq!(copying, copies, "{:?}", world.site().failover);
    }
}

/// Whatever spoils each copy must not keep the server stopping.
#[test]
fn slots_are_not_copied_again_and_again() {
    let mut world = follower_world();
    world.memory = world.decide().memory;
    let copies = |world: &World| world.decide().reason == Reason::CopyingSlots;
    let ended = |problem: Option<&str>, untouched| {
        let problem = problem.map(str::to_owned);
        Some(FinishedJob { job: JobKind::CopySlots, problem, untouched })
    };
    let lost = Slot { wal: WalStatus::Lost, ..copy(400, Origin::Copied) };
    let cases = [
        (ended(None, false), 300),
        (ended(Some("the shutdown removed WAL"), false), 300),
        (ended(Some("the leader has none"), true), 30),
    ];
    for (finished, again_after) in cases {
        let mut world = world.clone();
        world.status().slots.insert("cdc".to_owned(), lost.clone());
        world.view.finished = finished;
        world.memory = world.decide().memory;
        world.view.finished = None;
        for (after, wanted) in [(again_after - 1, false), (again_after, true)] {
            world.view.now = NOW.plus(Duration::from_secs(after));
            assert_eq!(copies(&world), wanted, "{after} of {again_after}");
        }
    }
}

/// WAL limits too small for a copy, or feedback that is off, spoil each one in the same way.
#[test]
fn each_copy_that_comes_to_nothing_waits_twice_as_long() {
    let mut world = follower_world();
    let lost = Slot { wal: WalStatus::Lost, ..copy(400, Origin::Copied) };
    world.status().slots.insert("cdc".to_owned(), lost);
    let mut at = 0;
    for pause in [300, 600, 1200] {
        world.view.now = NOW.plus(Duration::from_secs(at));
        let copies = world.decide();
        assert_eq!(copies.reason, Reason::CopyingSlots, "after {at} s");
        world.memory = copies.memory;
        world.view.now = NOW.plus(Duration::from_secs(at + pause - 1));
        assert_ne!(world.decide().reason, Reason::CopyingSlots, "{pause} s after {at} s");
        at += pause;
    }
}

/// What is in place after a copy that touched anything may be other files.
#[test]
fn what_was_known_of_a_copy_ends_with_the_next_one() {
    let mut world = follower_world();
    let slot = Slot { catalog_xmin: Some(Xid(700)), ..copy(400, Origin::Copied) };
    world.status().slots.insert("cdc".to_owned(), slot);
    world.member("a2").horizon = Some(horizon(501, Some(700), 700));
    let known = Readiness {
        leader: name("a2"),
        timeline: TimelineId(3),
        since: Some(lsn(500)),
        began: Some(lsn(300)),
        threshold: Some(Xid(700)),
        ready: true,
    };
    world.memory.slots_readiness.insert("cdc".to_owned(), known);
    for (problem, untouched, ready) in
        [(None, false, false), (Some("half"), false, false), (Some("none"), true, true)]
    {
        let problem = problem.map(str::to_owned);
        world.view.finished = Some(FinishedJob { job: JobKind::CopySlots, problem, untouched });
        let memory = world.decide().memory;
        assert_eq!(memory.slots_readiness["cdc"].ready, ready, "untouched: {untouched}");
    }
}

/// `a1` leads a cluster of no federation.
fn lone_leader() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.policy.synchronous_mode = false;
    world.status().synchronous_standby_names = String::new();
    world.site().sync = SyncView::default();
    world.status().slots.remove("b1");
    world
}

/// A consumer that comes for a moment now and then is never seen while it does.
#[test]
fn a_slot_that_moves_is_used() {
    let mut world = lone_leader();
    let theirs = |confirmed| copy(confirmed, Origin::Own);
    world.status().slots.insert("theirs".to_owned(), theirs(100));
    let step = Step::Drop { name: "theirs".to_owned() };
    let drops = vec![Action::Slots(vec![Planned { step, why: Why::Unknown }])];
    let at = |world: &mut World, seconds| {
        world.view.now = NOW.plus(Duration::from_secs(seconds));
        world.view.tenure.site = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
    };
    world.memory = world.decide().memory;
    at(&mut world, 1000);
    world.status().slots.insert("theirs".to_owned(), theirs(200));
    world.memory = world.decide().memory;
    for (seconds, wanted) in [(2799, false), (2800, true)] {
        at(&mut world, seconds);
        let actions = world.decide().actions;
        assert_eq!(actions == drops, wanted, "after {seconds} s: {actions:?}");
    }
}

fn horizon(at: u64, feedback: Option<u32>, leaders: u32) -> Horizon {
    let own = feedback.map(|xid| ("a1".to_owned(), Xid(xid)));
    let cdc = ("cdc".to_owned(), Xid(leaders));
    Horizon { at: lsn(at), xmins: own.into_iter().chain([cdc]).collect() }
}

fn restarts_at(world: &mut World, at: u64) {
    world.status().slots.get_mut("cdc").expect("a copy").restart = Some(lsn(at));
}

/// Each condition of readiness alone keeps a copy from being used; without any of them it is dropped
/// before the node opens, and not told as usable.
#[test]
fn a_copy_is_used_once_its_catalog_is_held() {
    type Case = (&'static str, fn(&mut World), bool);
    let cases: [Case; 8] = [
        ("all is well", |_| {}, true),
        ("no feedback yet", |w| w.member("a2").horizon = Some(horizon(501, None, 700)), false),
        (
            "read before it was here",
            |w| w.member("a2").horizon = Some(horizon(500, Some(700), 700)),
            false,
        ),
        (
            "the leader's has moved on",
            |w| w.member("a2").horizon = Some(horizon(501, Some(700), 701)),
            false,
        ),
        (
            "the leader held less back",
            |w| w.member("a2").horizon = Some(horizon(501, Some(701), 700)),
            false,
        ),
        (
            "it is ahead",
            |w| {
                w.site().published.slots.insert("cdc".to_owned(), lsn(399));
            },
            false,
        ),
        ("the leader tells nothing", |w| w.member("a2").horizon = None, false),
        ("it has no snapshot of its own", |w| restarts_at(w, 300), false),
    ];
    for (what, bend, ready) in cases {
        let mut world = follower_world();
        let slot = Slot { catalog_xmin: Some(Xid(700)), ..copy(400, Origin::Copied) };
        world.status().slots.insert("cdc".to_owned(), slot);
        world.member("a2").horizon = Some(horizon(501, Some(700), 700));
        restarts_at(&mut world, 300);
        // The first look notes that it is there, the second what the leader told.
        world.memory = world.decide().memory;
        restarts_at(&mut world, 400);
        bend(&mut world);
        let second = world.decide();
        let prove = Step::Prove { name: "cdc".to_owned() };
        let proves = vec![Action::Slots(vec![Planned { step: prove, why: Why::Proven }])];
        assert_eq!(second.actions == proves, ready, "{what}: {:?}", second.actions);
        world.memory = second.memory;
        let usable = told(&world.policy, &world.memory, &world.view).usable;
        assert_eq!(usable.get("cdc"), Some(&ready), "{what}");
        // It takes the key over, and opens.
        world.policy.synchronous_mode = false;
        world.leader(Some("a1"));
        world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(4)));
        world.site().sync = SyncView::default();
        let actions = world.decide().actions;
        let step = Step::Drop { name: "cdc".to_owned() };
        let dropped = Action::Slots(vec![Planned { step, why: Why::Unsafe }]);
        let wanted = if ready { vec![Action::Promote] } else { vec![dropped, Action::Promote] };
        assert_eq!(actions, wanted, "{what}");
    }
}

/// A snapshot that this server wrote stays its own, whatever else has to be seen anew.
#[test]
fn a_copy_that_moved_once_need_not_move_again() {
    let mut world = follower_world();
    let slot = Slot { catalog_xmin: Some(Xid(700)), ..copy(400, Origin::Copied) };
    world.status().slots.insert("cdc".to_owned(), slot);
    restarts_at(&mut world, 300);
    world.memory = world.decide().memory;
    // It moves while nothing holds the catalog back for it yet.
    restarts_at(&mut world, 350);
    world.member("a2").horizon = Some(horizon(501, None, 700));
    world.memory = world.decide().memory;
    world.member("a2").horizon = Some(horizon(501, Some(700), 700));
    let prove = Step::Prove { name: "cdc".to_owned() };
    let proves = vec![Action::Slots(vec![Planned { step: prove, why: Why::Proven }])];
    assert_eq!(world.decide().actions, proves);
}

/// A primary that restarts has followed nobody: its slots are its own.
#[test]
fn a_primary_that_restarts_keeps_its_logical_slots() {
    let mut world = follower_world();
    world.policy.synchronous_mode = false;
    world.leader(Some("a1"));
    world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(4)));
    world.site().sync = SyncView::default();
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Own));
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    // One that was found safe in an earlier life of the agent is used, one that was not is not.
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Proven));
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Copied));
    let dropped = Planned { step: Step::Drop { name: "cdc".to_owned() }, why: Why::Unsafe };
    assert_eq!(world.decide().actions, vec![Action::Slots(vec![dropped]), Action::Promote]);
}

#[test]
fn a_member_that_is_gone_keeps_its_slot_for_member_slots_ttl() {
    let mut world = lone_leader();
    world.memory = world.decide().memory;
    world.site().members.remove(&name::<NodeName>("a2"));
    world.status().slots.insert("a2".to_owned(), Slot::physical(false));
    for (after, wanted) in [(1799, 0), (1801, 1)] {
        world.view.now = NOW.plus(Duration::from_secs(after));
        world.view.tenure.site = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
        let decision = world.decide();
        let is_it =
            |planned: &Planned| matches!(&planned.step, Step::Drop { name } if name == "a2");
        let drops = matches!(&decision.actions[..],
            [Action::Slots(plan)] if plan.len() == 1 && plan.iter().all(is_it));
        assert_eq!((drops, decision.actions.len()), (wanted == 1, wanted), "{after}: {decision:?}");
        let retain = told(&world.policy, &world.memory, &world.view).retain;
        assert_eq!(retain.contains("a2"), wanted == 0, "{after}");
    }
}

#[test]
fn what_failed_is_not_tried_again_at_once() {
    let mut world = World::new();
    world.status().slots.remove("a2");
    let first = world.decide();
    assert_eq!(first.reason, Reason::Slots);
    world.memory = first.memory;
    assert_eq!(world.decide().actions, vec![], "the rest of the round is not held up");
    world.view.now = NOW.plus(world.policy.loop_wait);
    world.view.tenure.site = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
    if let Some(held) = &mut world.view.tenure.primary {
        held.deadline = world.view.tenure.site;
    }
    assert_eq!(world.decide().reason, Reason::Slots);
}

#[test]
fn a_slot_is_warned_of_before_its_wal_is_lost() {
    let warning = |bend: fn(&mut World)| {
        let mut world = World::new();
        world.status().slots.insert("a2".to_owned(), at(Slot::physical(true), 0));
        world.status().end = lsn(500);
        bend(&mut world);
        let warnings = told(&world.policy, &world.memory, &world.view).warnings;
        warnings.into_iter().map(|(slot, what)| format!("{slot}: {what}")).collect::<Vec<_>>()
    };
    let none: [fn(&mut World); 3] = [
        |_| {},
        |w| w.policy.slots.wal_budget = Some(1000),
        |w| w.status().slot_wal_limit = Some(1000),
    ];
    for bend in none {
        assert_eq!(warning(bend), Vec::<String>::new());
    }
    type Bend = fn(&mut World);
    let cases: [(Bend, &str); 7] = [
        (|w| w.policy.slots.wal_budget = Some(999), "a2: it keeps more than half of its"),
        (|w| w.policy.slots.wal_budget = Some(499), "a2: it keeps more than its WAL budget"),
        (|w| w.status().slot_wal_limit = Some(999), "a2: it keeps more than half of its"),
        (
            |w| {
                let own = Permanent { wal_budget: Some(499), ..permanent(Kind::Physical) };
                w.policy.slots.permanent.insert("a2".to_owned(), own);
                w.policy.slots.wal_budget = Some(5000);
            },
            "a2: it keeps more than its WAL budget of 499",
        ),
        (
            |w| {
                w.status().slot_wal_limit = Some(1000);
                w.status().slots.get_mut("a2").expect("there").safe_wal = Some(499);
            },
            "a2: it keeps more than half of its",
        ),
        (
            |w| w.status().slots.get_mut("a2").expect("there").wal = WalStatus::Unreserved,
            "a2: it is about to be lost",
        ),
        (
            |w| w.status().slots.get_mut("a2").expect("there").wal = WalStatus::Lost,
            "a2: its WAL is gone",
        ),
    ];
    for (bend, wanted) in cases {
        let said = warning(bend);
        assert!(said.len() == 1 && said[0].starts_with(wanted), "{said:?}, wanted {wanted}");
    }
}
