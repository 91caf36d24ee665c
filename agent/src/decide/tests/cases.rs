//! What is decided in named situations. Each check that can refuse has a case in which it alone
//! refuses.

use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::name::NodeName;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::PrimaryState;
use regent_proto::time::Deadline;

use super::world::{NOW, PRIMARY_REVISION, World, history, mark, name, point, promotions, sender};
use crate::decide::quorum::Voting;
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit};

/// A leader in recovery that may open: everything of rule 8 holds.
fn about_to_open() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world
}

/// A watchdog is required and stands like this.
fn watchdog(world: &mut World, state: WatchdogState) {
    let required = WatchdogView { required: true, wanted: true, ..WatchdogView::default() };
    world.view.guardian.watchdog = WatchdogView { state, ..required };
}

#[test]
fn a_leader_key_is_taken_only_beside_a_guardian_and_a_running_watchdog() {
    let race = || {
        let mut world = about_to_open();
        world.leader(None);
        world.view.tenure.primary = None;
        world.site().members.remove(&name::<NodeName>("a2"));
        world
    };
    let takes = |world: &World| world.decide().actions == vec![Action::AcquireLeader];
    assert!(takes(&race()));
    let mut alone = race();
    alone.view.guardian.alive = false;
    assert_eq!(alone.decide().reason, Reason::NotCandidate(Unfit::NoGuardian));
    for (state, required, optional) in [
        (WatchdogState::Armed, true, true),
        (WatchdogState::Failed, false, true),
        (WatchdogState::Off, false, false),
        (WatchdogState::Disarmed, false, false),
    ] {
        let mut world = race();
        watchdog(&mut world, state);
        assert_eq!(takes(&world), required, "{state:?}");
        world.view.guardian.watchdog.required = false;
        assert_eq!(takes(&world), optional, "{state:?}");
    }
}

#[test]
fn a_leader_that_cannot_be_guarded_lets_another_member_lead() {
    let mut world = about_to_open();
    world.view.guardian.alive = false;
    assert_eq!(world.decide().actions, vec![Action::ReleaseLeader]);
    world.site().members.remove(&name::<NodeName>("a2"));
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn without_any_answer_of_the_store_reads_are_served_after_a_while_and_nothing_else() {
    let mut world = World::new();
    world.stopped(ControlState::InProduction, 3, 400);
    world.view.site = None;
    let first = world.decide();
    assert_eq!((first.actions, first.reason), (vec![], Reason::NoStore));
    world.memory = first.memory;
    world.view.now = NOW.plus(Duration::from_secs(10));
    let then = world.decide();
    assert_eq!(then.actions, vec![Action::Run(Job::StartStandby(Follow::Nobody))]);
    world.view.postgres.process = Process::Running;
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn a_healthy_leader_has_nothing_to_do() {
    let decision = World::new().decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::Leading));
}

#[test]
fn a_leader_with_everything_in_order_promotes() {
    let decision = about_to_open().decide();
    assert_eq!(decision.actions, vec![Action::Promote]);
    assert_eq!(decision.memory.owes_checkpoint_since, Some(NOW));
}

#[test]
fn each_condition_of_opening_alone_keeps_the_server_closed() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Reason); 14] = [
        ("no guardian", |w| w.view.guardian.alive = false, Reason::NotCandidate(Unfit::NoGuardian)),
        ("watchdog not armed yet", |w| watchdog(w, WatchdogState::Off), Reason::ArmingWatchdog),
        (
            "watchdog unusable",
            |w| watchdog(w, WatchdogState::Failed),
            Reason::NotCandidate(Unfit::WatchdogFailed),
        ),
        ("leader key of another", |w| w.leader(Some("a2")), Reason::Turning),
        (
            "leader key not renewed",
            |w| w.view.tenure.site = Deadline::NEVER,
            Reason::AwaitingRenewal,
        ),
        ("primary unknown", |w| w.federation().primary = None, Reason::PrimacyUnknown),
        ("held by another site", World::held_by_b, Reason::Turning),
        (
            "fenced",
            |w| {
                w.state(PrimaryState::Fenced {
                    to: name("b"),
                    operation: name("op-2"),
                    accepted: AcceptedLoss::default(),
                });
            },
            Reason::Fenced,
        ),
        ("marked", |w| w.site().mark = Some(mark(PRIMARY_REVISION - 1)), Reason::EnteringEpoch),
        (
            "marked, older reading",
            |w| {
                w.site().mark = Some(mark(PRIMARY_REVISION));
            },
            Reason::AwaitingTake,
        ),
        ("floor missing", |w| w.primary().floor = Some(point(3, 501)), Reason::LacksFloor),
        ("no lease", |w| w.view.tenure.primary = None, Reason::AcquiringPrimary),
        (
            "epoch not on disk",
            |w| w.federation().disk_epoch = DiskEpoch::Absent,
            Reason::EnteringEpoch,
        ),
        (
            "newer epoch seen",
            |w| {
                w.site_epoch().epoch = Epoch::new(4);
            },
            Reason::EpochOlder,
        ),
    ];
    for (what, bend, reason) in cases {
        let mut world = about_to_open();
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(decision.reason, reason, "{what}");
        let opens = decision.actions.iter().any(|action| {
            matches!(action, Action::Promote | Action::Run(Job::StartPrimary { .. }))
        });
        assert!(!opens, "{what}: {:?}", decision.actions);
    }
}

#[test]
fn a_lease_of_an_older_epoch_or_past_its_deadline_is_acquired_anew() {
    for bend in [
        (|w: &mut World| w.view.tenure.primary.as_mut().expect("held").epoch = Epoch::new(2))
            as fn(&mut World),
        |w| w.view.tenure.primary.as_mut().expect("held").deadline = Deadline::at(NOW),
    ] {
        let mut world = about_to_open();
        bend(&mut world);
        assert_eq!(world.decide().reason, Reason::AcquiringPrimary);
    }
}

#[test]
fn record_and_list_are_set_before_opening() {
    let mut world = about_to_open();
    world.site().sync = SyncView::default();
    world.status().synchronous_standby_names = String::new();
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::SynchronousBeforeOpening);
    assert!(matches!(decision.actions[0], Action::WriteSync { .. }));
    assert_eq!(decision.actions[1], Action::SetSynchronousNames("\"a2\"".to_owned()));
}

/// Otherwise the record names the leader of before, should this node be lost before it has told of its
/// promotion.
#[test]
fn what_it_promotes_from_is_recorded_before_it_promotes() {
    type Bend = fn(&mut World);
    let recorded = || promotions("a1", history(3), Some(500));
    assert_eq!(about_to_open().site().promotions, Some(recorded()));
    let bends: [(&str, Bend); 6] = [
        ("no record", |w| w.site().promotions = None),
        ("the leader's of before", |w| {
            w.site().promotions = Some(promotions("a2", history(3), Some(500)));
        }),
        ("of when it was open", |w| w.site().promotions = Some(promotions("a1", history(3), None))),
        ("another history", |w| {
            w.site().promotions = Some(promotions("a1", history(2), Some(500)));
        }),
        ("from further on", |w| {
            w.site().promotions = Some(promotions("a1", history(3), Some(501)));
        }),
        ("a later one of Patroni's does not hide it", |w| {
            w.site().promotions = None;
            w.site().history = Some(At { value: history(9), revision: 99 });
        }),
    ];
    for (what, bend) in bends {
        let mut world = about_to_open();
        bend(&mut world);
        let decision = world.decide();
        let writes =
            Action::WritePromotions { ancestry: history(3), end: regent_proto::Lsn::new(500) };
        assert_eq!(decision.actions, vec![writes.clone()], "{what}");
        assert_eq!(decision.reason, Reason::RecordingOpening, "{what}");
        // With what else there is to write, not a round later.
        world.site().sync = SyncView::default();
        let together = world.decide();
        assert_eq!(together.actions.last(), Some(&writes), "{what}");
        assert_eq!(together.reason, Reason::SynchronousBeforeOpening, "{what}");
        world = about_to_open();
        bend(&mut world);
        world.site().promotions = Some(recorded());
        assert_eq!(world.decide().actions, vec![Action::Promote], "{what}");
    }
    // WAL that came in since changes nothing.
    let mut further = about_to_open();
    further.site().promotions = Some(promotions("a1", history(3), Some(499)));
    assert_eq!(further.decide().actions, vec![Action::Promote]);
}

#[test]
fn a_writer_without_the_right_is_stopped() {
    let stops = vec![Action::EndTenure, Action::Run(Job::Stop)];
    let cases: [fn(&mut World); 5] = [
        |w| w.leader(Some("a2")),
        World::held_by_b,
        |w| {
            w.state(PrimaryState::Fenced {
                to: name("b"),
                operation: name("op-2"),
                accepted: AcceptedLoss::default(),
            })
        },
        |w| w.leader(None),
        // Its history misses what this epoch demands.
        |w| w.primary().floor = Some(point(3, 501)),
    ];
    for bend in cases {
        let mut world = World::new();
        bend(&mut world);
        assert_eq!(world.decide().actions, stops, "{:?}", world.decide().reason);
    }
}

#[test]
fn a_writer_goes_on_while_the_quorum_is_silent() {
    // Its deadline, which only the quorum can raise, ends it; not a missing answer.
    let mut world = World::new();
    world.federation().primary = None;
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn handover_step_by_step() {
    let mut world = World::new();
    world.handover("b");
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::Marking);
    assert_eq!(decision.actions[0], Action::EndTenure, "the tenure ends before the mark stands");
    assert!(matches!(decision.actions[1], Action::WriteMark { .. }));
    assert_eq!(decision.actions[2], Action::Run(Job::Stop));
    world.memory = decision.memory;

    world.site().mark = Some(mark(PRIMARY_REVISION));
    world.stopped(ControlState::ShutDown, 3, 520);
    let decision = world.decide();
    let Action::PostToken { end, lease_revision, .. } = &decision.actions[0] else {
        panic!("{decision:?}");
    };
    assert_eq!((end, *lease_revision), (&point(3, 520), 60));

    world.token("b", point(3, 520));
    let decision = world.decide();
    assert!(matches!(decision.actions[..], [Action::Run(Job::StartStandby(_))]), "{decision:?}");

    world.federation().primary_age = Duration::from_secs(15);
    assert_eq!(world.decide().reason, Reason::RollingBack);
}

#[test]
fn only_a_clean_stop_of_the_marking_process_gives_a_token() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 4] = [
        ("not clean", |w| w.stopped(ControlState::InProduction, 3, 520)),
        ("marked by an earlier life", |w| w.memory.marked = None),
        ("marked for another handover", |w| w.site().mark = Some(mark(PRIMARY_REVISION - 5))),
        ("the lease is another tenure's", |w| {
            w.federation().lease.as_mut().expect("there").value.tenure = name("t2");
        }),
    ];
    for (what, bend) in cases {
        let mut world = World::new();
        world.handover("b");
        world.memory.marked = Some(PRIMARY_REVISION);
        world.site().mark = Some(mark(PRIMARY_REVISION));
        world.stopped(ControlState::ShutDown, 3, 520);
        bend(&mut world);
        assert_eq!(world.decide().reason, Reason::RollingBack, "{what}");
    }
}

#[test]
fn the_next_leader_of_a_rolls_back() {
    let mut world = about_to_open();
    world.handover("b");
    world.view.tenure.primary = None;
    assert_eq!(world.decide().reason, Reason::RollingBack);
}

#[test]
fn nobody_stops_for_who_has_left_the_electorate() {
    let mut world = World::new();
    world.handover("b");
    assert!(world.primary().electorate.remove(&name("b")));
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::RollingBack);
    assert!(!decision.actions.contains(&Action::Run(Job::Stop)), "{decision:?}");
}

/// This site is `to`; the token stands and everything is confirmed.
fn about_to_take() -> World {
    let mut world = World::new();
    world.held_by_b();
    world.token("a", point(3, 520));
    world.standby(3, 520);
    world.status().senders.insert("a2".to_owned(), sender(520));
    world
}

#[test]
fn the_target_takes_at_exactly_the_token() {
    assert_eq!(about_to_take().decide().reason, Reason::Taking);
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Reason); 8] = [
        ("behind", |w| w.standby(3, 519), Reason::AwaitingToken),
        (
            "no more in the electorate",
            |w| assert!(w.primary().electorate.remove(&name("a"))),
            Reason::AwaitingToken,
        ),
        ("beyond", |w| w.standby(3, 521), Reason::AwaitingToken),
        ("another timeline", |w| w.standby(4, 520), Reason::AwaitingToken),
        (
            "another promotion",
            |w| {
                w.token("a", {
                    let mut p = point(3, 520);
                    p.promotion = Some(name("x"));
                    p
                });
                w.status().ancestry.promotion = Some(name("y"));
            },
            Reason::AwaitingToken,
        ),
        (
            "its standby has not confirmed",
            |w| {
                w.status().senders.insert("a2".to_owned(), sender(519));
            },
            Reason::AwaitingConfirmation,
        ),
        ("for another site", |w| w.token("b", point(3, 520)), Reason::LeadingStandby),
        (
            "a required watchdog that failed",
            |w| {
                let watchdog = &mut w.view.guardian.watchdog;
                (watchdog.required, watchdog.wanted) = (true, true);
                watchdog.state = WatchdogState::Failed;
            },
            Reason::NotCandidate(Unfit::WatchdogFailed),
        ),
    ];
    for (what, bend, reason) in cases {
        let mut world = about_to_take();
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(decision.reason, reason, "{what}");
        assert!(!decision.actions.iter().any(|a| matches!(a, Action::Take { .. })), "{what}");
    }
}

#[test]
fn a_target_without_other_members_takes_alone() {
    let mut world = about_to_take();
    world.site().members.remove(&name::<NodeName>("a2"));
    world.status().senders.clear();
    assert_eq!(world.decide().reason, Reason::Taking);
    // Nor does it wait for one that commits will never wait for.
    for bend in [(|w: &mut World| w.member("a2").nofailover = true) as fn(&mut World), |w| {
        w.member("a2").nosync = true
    }] {
        let mut world = about_to_take();
        world.status().senders.clear();
        assert_eq!(world.decide().reason, Reason::AwaitingConfirmation);
        bend(&mut world);
        assert_eq!(world.decide().reason, Reason::Taking);
    }
}

#[test]
fn the_race_is_won_by_the_healthiest() {
    type Bend = fn(&mut World);
    let answer = |position: u64, primary: bool| PeerAnswer {
        primary,
        position: regent_proto::Lsn::new(position),
        timeline: Some(regent_proto::timeline::TimelineId(3)),
        nofailover: false,
        failover_priority: 1,
        age: Some(Duration::ZERO),
        ancestry: Some(history(3)),
        without_data: false,
    };
    let mut fit = World::new();
    fit.leader(None);
    fit.standby(3, 500);
    fit.view.tenure.primary = None;
    fit.site().leaderless = Duration::from_secs(1);
    fit.view.peers = Some(PeersView {
        age: Duration::from_millis(10),
        answers: [(name("a2"), answer(500, false))].into(),
    });
    assert_eq!(fit.decide().actions, vec![Action::AcquireLeader]);
    let unfit: [(&str, Bend, Reason); 9] = [
        (
            "sync unreadable",
            |w| w.site().sync.unreadable = true,
            Reason::NotCandidate(Unfit::SyncUnreadable),
        ),
        ("tag", |w| w.policy.nofailover = true, Reason::NotCandidate(Unfit::NoFailover)),
        (
            "not synchronous",
            |w| {
                w.site().sync.leader = Some(name("a2"));
                w.site().sync.standbys.clear();
            },
            Reason::NotCandidate(Unfit::NotSynchronous),
        ),
        (
            "lagging",
            |w| {
                w.site().optime = Some(regent_proto::Lsn::new((1 << 20) + 501));
            },
            Reason::NotCandidate(Unfit::Lagging),
        ),
        (
            "floor",
            |w| w.primary().floor = Some(point(3, 501)),
            Reason::NotCandidate(Unfit::LacksFloor),
        ),
        (
            "another is ahead",
            |w| {
                let peers = w.view.peers.as_mut().expect("asked");
                peers.answers.get_mut(&name::<NodeName>("a2")).expect("a2").position =
                    regent_proto::Lsn::new(501);
            },
            Reason::NotCandidate(Unfit::Behind(name("a2"))),
        ),
        (
            "another still writes",
            |w| {
                let peers = w.view.peers.as_mut().expect("asked");
                peers.answers.get_mut(&name::<NodeName>("a2")).expect("a2").primary = true;
            },
            Reason::NotCandidate(Unfit::PrimaryAlive(name("a2"))),
        ),
        ("nobody asked yet", |w| w.view.peers = None, Reason::AskingPeers),
        (
            "answers from before",
            |w| w.site().leaderless = Duration::from_millis(1),
            Reason::AskingPeers,
        ),
    ];
    for (what, bend, reason) in unfit {
        let mut world = fit.clone();
        bend(&mut world);
        assert_eq!(world.decide().reason, reason, "{what}");
    }
}

#[test]
fn coming_back_under_another_history() {
    type Case = (&'static str, ControlState, u32, u64, bool, Reason);
    let cases: [Case; 6] = [
        ("clean, on the way", ControlState::ShutDown, 2, 200, false, Reason::Starting),
        ("clean, beyond the switch", ControlState::ShutDown, 2, 201, false, Reason::Rewinding),
        ("crashed as primary", ControlState::InProduction, 2, 150, false, Reason::Rewinding),
        ("crashed as standby", ControlState::InRecovery, 2, 150, false, Reason::Starting),
        ("same timeline", ControlState::ShutDownInRecovery, 3, 450, false, Reason::Starting),
        ("rewind failed before", ControlState::InProduction, 2, 150, true, Reason::Recloning),
    ];
    for (what, state, timeline, end, failed, reason) in cases {
        let mut world = World::new();
        world.leader(Some("a2"));
        world.view.tenure.primary = None;
        world.stopped(state, timeline, end);
        world.memory.rewind_failed = failed;
        assert_eq!(world.decide().reason, reason, "{what}");
    }
    let mut running = World::new();
    running.leader(Some("a2"));
    running.view.tenure.primary = None;
    running.standby(2, 201);
    assert_eq!(running.decide().reason, Reason::Rewinding, "a running standby that is ahead");
    running.standby(2, 200);
    assert_eq!(running.decide().reason, Reason::Turning);
    // Without the upstream's history nothing is destroyed.
    running.stopped(ControlState::ShutDown, 2, 201);
    running.site().ancestry = None;
    assert_eq!(running.decide().reason, Reason::AwaitingHistory);
    let _ = history(1);
}

#[test]
fn missing_keys_never_make_a_second_database() {
    let mut world = World::new();
    world.leader(None);
    world.view.postgres.data = DataDirectory::Empty;
    world.view.postgres.process = Process::Stopped;
    world.view.postgres.status = None;
    world.view.tenure.primary = None;
    world.site().initialize = Initialize::Absent;
    // The federation already has a system identifier.
    assert_eq!(world.decide().actions, vec![]);
    world.primary().system_identifier = None;
    assert_eq!(world.decide().reason, Reason::KeysGone, "another member has data");
    world.member("a2").role = "uninitialized".to_owned();
    assert_eq!(world.decide().actions, vec![Action::ClaimInitialize, Action::Run(Job::Initdb)]);
    world.site().initialize = Initialize::Running;
    assert_eq!(world.decide().reason, Reason::AwaitingBootstrap);
    world.federation().primary = None;
    world.site().initialize = Initialize::Absent;
    assert_eq!(world.decide().reason, Reason::PrimacyUnknown);
}

/// A required watchdog runs before the first leader key of a cluster is taken, too.
#[test]
fn a_new_cluster_is_not_led_without_the_watchdog_that_is_required() {
    let mut world = World::new();
    world.leader(None);
    world.stopped(ControlState::ShutDown, 1, 100);
    world.view.tenure.primary = None;
    world.site().initialize = Initialize::Running;
    world.site().members.clear();
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    world.view.guardian.watchdog.wanted = true;
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader], "`automatic` may do without");
    world.view.guardian.watchdog.required = true;
    let started = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
    for state in [WatchdogState::Off, WatchdogState::Failed, WatchdogState::Disarmed] {
        world.view.guardian.watchdog.state = state;
        assert_eq!(world.decide().actions, started, "{state:?}: only a guardian can tell");
    }
    // Its server runs in recovery, and a guardian beside it.
    world.standby(1, 100);
    world.primary().floor = None;
    for (state, actions) in [
        (WatchdogState::Off, vec![Action::ArmWatchdog]),
        (WatchdogState::Failed, vec![]),
        (WatchdogState::Armed, vec![Action::AcquireLeader]),
    ] {
        world.view.guardian.watchdog.state = state;
        assert_eq!(world.decide().actions, actions, "{state:?}");
    }
}

/// Found by the simulator: while the thread moves the key to a lease of another TTL, the picture may
/// show the new lease before the thread has told of it.
#[test]
fn a_key_on_its_way_to_another_lease_is_not_bound_to_the_one_of_before() {
    for paused in [false, true] {
        let mut world = World::new();
        world.policy.paused = paused;
        world.site().leader.as_mut().expect("ours").bound_to_my_lease = false;
        assert_eq!(world.decide().actions, vec![], "paused: {paused}");
        if paused {
            world.view.federation = None;
            assert_eq!(world.decide().actions, vec![], "paused, without a federation");
        }
        // A former life's: this one has no right by it.
        world.view.tenure.site = Deadline::NEVER;
        assert_eq!(world.decide().actions, vec![Action::AcquireLeader], "paused: {paused}");
    }
}

/// hazards.md row 10: the first one of the name lives, whether its REST API answers or not.
#[test]
fn a_key_that_a_twin_holds_is_left_alone_until_its_lease_ends() {
    let twin = || {
        let mut world = World::new();
        let leader = world.site().leader.as_mut().expect("there");
        (leader.bound_to_my_lease, leader.twin) = (false, true);
        world.view.tenure.site = Deadline::NEVER;
        world
    };
    let stops = vec![Action::EndTenure, Action::Run(Job::Stop)];
    assert_eq!(twin().decide().actions, stops, "it writes by no right");
    let mut standby = twin();
    standby.standby(3, 500);
    assert_eq!((standby.decide().actions, standby.decide().reason), (vec![], Reason::TwinLeads));
    standby.stopped(ControlState::ShutDownInRecovery, 3, 500);
    let serves = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
    assert_eq!(standby.decide().actions, serves, "reads");
    standby.view.postgres.data = DataDirectory::Empty;
    assert_eq!(standby.decide().actions, vec![]);
    for writes in [true, false] {
        let mut paused = twin();
        paused.policy.paused = true;
        paused.view.federation = None;
        if !writes {
            paused.standby(3, 500);
        }
        assert_eq!(paused.decide().actions, vec![], "paused, writes: {writes}");
        // It is its own: the renewal moves it to another lease.
        paused.view.tenure.site = World::new().view.tenure.site;
        assert_eq!(paused.decide().reason, Reason::AwaitingRenewal, "paused, writes: {writes}");
    }
}

#[test]
fn another_database_is_refused() {
    let mut world = World::new();
    world.site().initialize = Initialize::Done(name("7000000000000000002"));
    let stops = vec![Action::EndTenure, Action::Run(Job::Stop)];
    assert_eq!(world.decide().actions, stops, "stopped before the agent goes");
    world.stopped(ControlState::ShutDown, 3, 520);
    assert!(matches!(world.decide().actions[..], [Action::Exit(_)]));
}

#[test]
fn a_server_that_crashed_under_its_lease_waits_for_whom_the_record_names() {
    let mut world = World::new();
    world.stopped(ControlState::InProduction, 3, 400);
    let synchronous = "\"a2\"".to_owned();
    assert_eq!(world.decide().actions, vec![Action::Run(Job::StartPrimary { synchronous })]);
    // Opened under another epoch: through recovery, where the floor is tested.
    world.disk_epoch(2);
    assert_eq!(world.decide().actions, vec![Action::Run(Job::StartStandby(Follow::Nobody))]);
}

/// Found by the model `sync`: PostgreSQL alone crashes while a write of the record is unresolved.
#[test]
fn a_server_that_crashed_waits_for_whom_a_lost_write_may_still_bring_too() {
    let mut world = World::new();
    world.stopped(ControlState::InProduction, 3, 400);
    let starts = |world: &World| match &world.decide().actions[..] {
        [Action::Run(Job::StartPrimary { synchronous })] => synchronous.clone(),
        other => panic!("{other:?}"),
    };
    let brings =
        |names: &[&str]| Voting { voters: names.iter().map(|n| name(n)).collect(), quorum: 0 };
    let unresolved = world.site().sync.revision;
    world.memory.sync_sent = Some((unresolved, brings(&["a3"])));
    assert_eq!(starts(&world), "2 (\"a2\",\"a3\")");
    // A record that is not this node's may become so by the late write.
    world.site().sync.leader = None;
    assert_eq!(starts(&world), "\"a3\"");
    // Once the record has another revision the write is dead.
    world.site().sync.leader = Some(name("a1"));
    world.site().sync.revision = Some(21);
    assert_eq!(starts(&world), "\"a2\"");
}

/// The record may look as it should, and an earlier write of another one may still be applied.
#[test]
fn nothing_opens_while_a_lost_write_of_the_record_may_still_come() {
    let mut world = about_to_open();
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    for names in [vec!["a3"], vec![]] {
        let mut world = world.clone();
        let revision = world.site().sync.revision;
        let voters = names.iter().map(|n| name(n)).collect();
        world.memory.sync_sent = Some((revision, Voting { voters, quorum: 0 }));
        let standbys = world.site().sync.standbys.clone();
        let writes = vec![Action::WriteSync { standbys, revision, quorum: 0 }];
        assert_eq!(world.decide().actions, writes, "once more, so that it compares what is past");
        world.site().sync.revision = Some(21);
        assert_eq!(world.decide().actions, vec![Action::Promote]);
    }
    // What opening itself writes is remembered until it is seen to have been applied.
    world.site().sync.standbys = std::collections::BTreeSet::from([name("a3")]);
    let decision = world.decide();
    assert!(matches!(&decision.actions[..], [Action::WriteSync { .. }]), "{decision:?}");
    world.memory = decision.memory;
    world.site().sync.standbys = std::collections::BTreeSet::from([name("a2")]);
    assert!(matches!(&world.decide().actions[..], [Action::WriteSync { .. }]));
}

#[test]
fn a_newer_epoch_on_disk_or_in_the_site_bars() {
    for bend in [
        (|w: &mut World| w.disk_epoch(4)) as fn(&mut World),
        |w| w.site_epoch().epoch = Epoch::new(4),
        |w| w.site_epoch().federation = uuid::Uuid::max(),
    ] {
        for marked in [false, true] {
            let mut world = about_to_open();
            bend(&mut world);
            world.site().mark = marked.then(|| mark(PRIMARY_REVISION - 1));
            assert_eq!(world.decide().reason, Reason::EpochOlder);
            assert_eq!(world.decide().actions, vec![]);
        }
    }
}

#[test]
fn a_failed_job_is_tried_again_later_and_later() {
    let mut world = World::new();
    world.policy.loop_wait = Duration::from_secs(60);
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.view.postgres.data = DataDirectory::Empty;
    world.view.postgres.process = Process::Stopped;
    world.view.postgres.status = None;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        world.view.finished = Some(FinishedJob {
            job: JobKind::Clone,
            problem: Some("refused".to_owned()),
            untouched: false,
        });
        let decision = world.decide();
        assert_eq!(decision.reason, Reason::Backoff(JobKind::Clone));
        pauses.push(decision.wake_at.since(NOW));
        world.memory = decision.memory;
    }
    assert_eq!(pauses, [1, 2, 4].map(Duration::from_secs));
    world.view.finished =
        Some(FinishedJob { job: JobKind::Clone, problem: None, untouched: false });
    assert_eq!(world.decide().reason, Reason::Cloning);
}

#[test]
fn an_unreadable_leader_key_changes_no_role_before_the_deadline() {
    let mut world = World::new();
    world.site().leader.as_mut().expect("a leader").unreadable = true;
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], Reason::LeaderUnreadable));
    world.view.tenure.site = Deadline::at(NOW);
    assert_eq!(world.decide().reason, Reason::StoppingWriter);
    let mut standby = World::new();
    standby.standby(3, 500);
    standby.site().leader.as_mut().expect("a leader").unreadable = true;
    standby.view.tenure.site = Deadline::NEVER;
    assert_eq!(standby.decide().actions, vec![]);
}

/// ADR 12: its holder makes it again, as long as it has not lost the right by it.
#[test]
fn a_deleted_leader_key_stops_nobody_before_its_holder_has_looked() {
    let bends: [fn(&mut World); 4] = [
        |_| {},
        |w| w.view.postgres.status = None,
        |w| w.view.postgres.process = Process::Starting,
        |w| w.policy.paused = true,
    ];
    for bend in bends {
        let mut world = World::new();
        bend(&mut world);
        world.site().leader = None;
        let decision = world.decide();
        assert_eq!(decision.reason, Reason::LeaderDeleted);
        assert_eq!(decision.actions, vec![Action::RenewNow]);
        let mut past = world.clone();
        past.view.tenure.site = Deadline::at(NOW);
        assert_eq!(past.decide().reason, Reason::StoppingWriter);
        let ahead = world.view.tenure.site;
        world.leader(Some("a2"));
        world.view.tenure.site = ahead;
        assert_eq!(world.decide().reason, Reason::StoppingWriter, "another's");
    }
    let mut standby = World::new();
    standby.standby(3, 500);
    standby.view.tenure.primary = None;
    standby.site().leader = None;
    assert_ne!(standby.decide().reason, Reason::LeaderDeleted, "it can race as any other");
}

#[test]
fn an_unreadable_mark_is_removed_in_peace_and_ends_a_handover() {
    let mut world = World::new();
    world.site().unreadable_mark = Some(44);
    assert!(matches!(
        world.decide().actions[..],
        [Action::EnterEpoch { clear_mark: Some(44), .. }]
    ));
    world.handover("b");
    assert_eq!(world.decide().reason, Reason::RollingBack);
    world.view.tenure.primary.as_mut().expect("held").deadline = Deadline::NEVER;
    assert_eq!(world.decide().reason, Reason::StoppingWriter);
}

#[test]
fn a_standby_that_turns_to_the_new_timeline_is_not_let_go_at_once() {
    let mut world = World::new();
    world.status().senders.clear();
    world.memory.owes_checkpoint_since = Some(NOW.minus(Duration::from_secs(1)));
    assert_eq!(world.decide().actions, vec![]);
    world.memory.owes_checkpoint_since = Some(NOW.minus(Duration::from_secs(2)));
    world.view.checkpoint_runs = true;
    assert!(matches!(world.decide().actions[..], [Action::WriteSync { .. }]));
}

#[test]
fn an_old_picture_of_the_quorum_wins_no_race_and_clears_nothing() {
    let mut world = World::new();
    world.held_by_b();
    world.standby(3, 500);
    world.leader(None);
    world.site().leaderless = Duration::from_secs(1);
    world.site().members.remove(&name::<NodeName>("a2"));
    world.site_epoch().epoch = Epoch::new(4);
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::OldPicture));
    world.leader(Some("a1"));
    world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(4)));
    let decision = world.decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::EpochOlder));
}

#[test]
fn nothing_is_rewound_onto_a_leader_that_is_not_open() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.stopped(ControlState::InProduction, 2, 150);
    world.member("a2").role = "replica".to_owned();
    assert_eq!(world.decide().actions, vec![Action::Run(Job::StartStandby(Follow::Nobody))]);
    world.standby(2, 300);
    assert_eq!(world.decide().actions, vec![]);
    world.member("a2").role = "primary".to_owned();
    assert_eq!(world.decide().reason, Reason::Rewinding);
}

#[test]
fn a_rewind_that_touched_nothing_is_tried_again() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.stopped(ControlState::InProduction, 2, 150);
    for (untouched, failed) in [(true, false), (false, true)] {
        let problem = Some("no answer".to_owned());
        world.view.finished = Some(FinishedJob { job: JobKind::Rewind, problem, untouched });
        assert_eq!(world.decide().memory.rewind_failed, failed);
    }
}

/// A standby site that has lost its copy in every node has nobody to elect (simulator, seed 217).
#[test]
fn a_standby_site_without_any_data_copies_another_site() {
    let empty = |initialize| {
        let mut world = World::new();
        world.held_by_b();
        world.leader(None);
        world.site().initialize = initialize;
        world.view.tenure.primary = None;
        world.view.postgres.status = None;
        world.view.postgres.process = Process::Stopped;
        world.view.postgres.data = DataDirectory::Incomplete;
        world.member("a2").state = "stopped".to_owned();
        world
    };
    let done = World::new().site().initialize.clone();
    assert!(matches!(done, Initialize::Done(_)), "a database exists");
    let decision = empty(done.clone()).decide();
    assert_eq!(decision.reason, Reason::Cloning);
    assert!(matches!(decision.actions[..], [Action::Run(Job::Clone(Follow::Site { .. }))]));
    type Bend = fn(&mut World);
    let bends: [(&str, Bend); 4] = [
        ("a member runs", |w| w.member("a2").state = "running".to_owned()),
        ("it is the primary site", |w| {
            w.primary().holder = name("a");
            w.site_epoch().holder = name("a");
            w.federation().disk_epoch = DiskEpoch::Absent;
        }),
        ("nobody knows what it was", |w| w.site().initialize = Initialize::Unreadable),
        ("an old picture", |w| w.site_epoch().epoch = Epoch::new(9)),
    ];
    for (what, bend) in bends {
        let mut world = empty(done.clone());
        bend(&mut world);
        let decision = world.decide();
        assert_eq!((decision.actions, decision.reason), (vec![], Reason::AwaitingSource), "{what}");
    }
}
