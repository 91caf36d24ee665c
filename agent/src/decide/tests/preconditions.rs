//! I6: each precondition of opening alone keeps a server closed, every set of two and three, and others at random.

use std::time::Duration;

use regent_proto::time::Deadline;

use super::world::{World, mark, name, point, remote, seen, sender};
use crate::decide::failsafe::site::PromisedLeader;
use crate::decide::preconditions::{Opening, Precondition, unmet};
use crate::decide::view::*;
use crate::decide::{Action, Job};

/// Everything holds: promotes.
fn ready() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world
}

/// Everything holds: starts writable, as after a crash under this epoch.
fn crashed() -> World {
    let mut world = World::new();
    world.stopped(ControlState::InProduction, 3, 400);
    world
}

/// Takes away just this one.
fn take_away(precondition: Precondition, world: &mut World) {
    match precondition {
        // In a federation a pause leaves the fence, and so the openings, as they are. It comes first in
        // `ALL`, and the sets below take the later ones away before it.
        Precondition::NotPaused => {
            world.policy.paused = true;
            world.view.federation = None;
        }
        Precondition::SiteRead => world.view.site = None,
        Precondition::LeaderKey => {
            if let Some(leader) = world.view.site.as_mut().and_then(|s| s.leader.as_mut()) {
                leader.bound_to_my_lease = false;
            }
        }
        Precondition::SiteDeadline => world.view.tenure.site = Deadline::NEVER,
        Precondition::SiteRenewed => world.view.failsafe.stands = true,
        Precondition::Unpromised => {
            let until = world.view.now.plus(Duration::from_secs(1));
            world.view.failsafe.promised = Some(PromisedLeader { leader: name("a2"), until });
        }
        Precondition::QuorumRead => world.federation().primary = None,
        Precondition::HolderOpen => {
            if world.federation().primary.is_some() {
                world.handover("b");
            }
        }
        Precondition::WritesNotFenced => {
            if let Some(primary) = &mut world.federation().primary {
                let (by, reason) = ("x".to_owned(), "y".to_owned());
                primary.value.writes_fenced =
                    Some(regent_proto::record::WritesFenced { by, reason });
            }
        }
        Precondition::NoMark => {
            if let Some(site) = &mut world.view.site {
                site.mark = Some(mark(1));
            }
        }
        Precondition::Identity => {
            if let DataDirectory::Cluster(control) = &mut world.view.postgres.data {
                control.system_identifier = name("7000000000000000002");
            }
        }
        Precondition::Floor => {
            if let Some(primary) = &mut world.federation().primary {
                primary.value.floor = Some(point(3, 501));
            }
        }
        Precondition::PrimaryLease => world.view.tenure.primary = None,
        Precondition::PrimaryRenewed => {
            if let Some(held) = &mut world.view.tenure.primary {
                held.by_promise = true;
            }
        }
        Precondition::EpochOnDisk => world.disk_epoch(2),
        Precondition::EpochInSite => {
            if let Some(site) = &mut world.view.site {
                site.seen_epoch = Some(At { value: seen(2), revision: 1 });
            }
        }
        Precondition::Guardian => world.view.guardian.alive = false,
        Precondition::Watchdog => {
            world.view.guardian.watchdog.required = true;
            world.view.guardian.watchdog.wanted = true;
            world.view.guardian.watchdog.state = WatchdogState::Failed;
        }
        Precondition::SynchronousRecord => {
            if let Some(site) = &mut world.view.site {
                site.sync.leader = Some(name("a2"));
            }
        }
        Precondition::SynchronousList => {
            if let Some(status) = &mut world.view.postgres.status {
                status.synchronous_standby_names = "\"a3\"".to_owned();
            }
        }
        Precondition::FollowsNobody => world.view.remote = Some(remote(1)),
        Precondition::MayLead => world.policy.nofailover = true,
        Precondition::InRecovery => {
            if let Some(status) = &mut world.view.postgres.status {
                status.in_recovery = false;
            }
        }
        Precondition::NoJob => world.view.job = Some(JobKind::Stop),
    }
}

fn opens(world: &World) -> bool {
    world
        .decide()
        .actions
        .iter()
        .any(|action| matches!(action, Action::Promote | Action::Run(Job::StartPrimary { .. })))
}

#[test]
fn with_all_of_them_it_opens() {
    assert_eq!(unmet(&ready().policy, &ready().view, Opening::Promotion), vec![]);
    assert!(opens(&ready()), "{:?}", ready().decide());
    assert_eq!(unmet(&crashed().policy, &crashed().view, Opening::Start), vec![]);
    assert!(opens(&crashed()), "{:?}", crashed().decide());
}

#[test]
fn each_alone_is_named_and_keeps_the_server_closed() {
    for (opening, world) in [(Opening::Promotion, ready()), (Opening::Start, crashed())] {
        for precondition in Precondition::ALL {
            if !precondition.concerns(opening) {
                continue;
            }
            let mut world = world.clone();
            take_away(precondition, &mut world);
            let missing = unmet(&world.policy, &world.view, opening);
            assert_eq!(missing, vec![precondition], "{opening:?}");
            assert!(!opens(&world), "{opening:?} without: {precondition}");
        }
    }
}

/// A switchover goes on in a paused site of a federation: its rights are fenced as ever.
#[test]
fn a_pause_of_a_federation_s_site_is_no_obstacle() {
    let mut world = ready();
    world.policy.paused = true;
    assert_eq!(unmet(&world.policy, &world.view, Opening::Promotion), vec![]);
    assert!(opens(&world), "{:?}", world.decide());
}

/// Every set of two and of three.
#[test]
fn no_set_that_lacks_some_opens() {
    let all = Precondition::ALL;
    for first in 0..all.len() {
        for second in 0..first {
            for third in 0..=second {
                let mut world = ready();
                for index in [first, second, third] {
                    take_away(all[index], &mut world);
                }
                let missing = unmet(&world.policy, &world.view, Opening::Promotion);
                assert!(!missing.is_empty(), "{first} {second} {third}");
                assert!(!opens(&world), "without {missing:?}");
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(10_000))]
    /// Of all sets, some; the small ones are above.
    #[test]
    fn no_set_at_all_that_lacks_some_opens(set in 1u32..(1 << Precondition::ALL.len())) {
        let mut world = ready();
        // From the last, as above: the federation goes after what is in it.
        for (index, precondition) in Precondition::ALL.into_iter().enumerate().rev() {
            if set & (1 << index) != 0 {
                take_away(precondition, &mut world);
            }
        }
        let missing = unmet(&world.policy, &world.view, Opening::Promotion);
        proptest::prop_assert!(!missing.is_empty(), "{set:b}");
        proptest::prop_assert!(!opens(&world), "without {missing:?}");
    }
}

/// hazards.md 3.5: while nothing writable runs, pings are free.
#[test]
fn a_watchdog_that_was_pinged_too_late_for_the_deadline_keeps_the_server_closed() {
    let mut world = ready();
    let deadline = world.view.tenure.site;
    let granted = Duration::from_secs(2);
    let left = deadline.left(world.view.now);
    // 2 W + R after the last ping is the latest that it fires.
    let enough = Duration::from_secs(5).saturating_sub(left);
    let watchdog = &mut world.view.guardian.watchdog;
    (watchdog.required, watchdog.wanted) = (true, true);
    (watchdog.state, watchdog.granted) = (WatchdogState::Armed, granted);
    watchdog.ping_age = Some(enough);
    assert_eq!(unmet(&world.policy, &world.view, Opening::Promotion), vec![]);
    let late = deadline.instant().minus(Duration::from_secs(5)).plus(Duration::from_nanos(1));
    world.view.now = late.max(world.view.now);
    world.view.guardian.watchdog.ping_age = Some(world.view.now.since(late));
    let missing = unmet(&world.policy, &world.view, Opening::Promotion);
    assert_eq!(missing, vec![Precondition::Watchdog]);
    assert!(!opens(&world));
    // The next renewal leaves enough, for a moment: it is looked for.
    let wakes = world.decide().wake_at;
    assert!(wakes <= world.view.now.plus(Duration::from_millis(100)), "{wakes:?}");
}
