//! A paused cluster (I18; spec/patroni-compat.md 3.13): what is left alone, what is kept up.

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::time::Deadline;

use super::world::{NOW, World, control, name, sender, status};
use crate::decide::paused::{Fence, fence};
use crate::decide::slots::{Kind, Planned, Step, Why};
use crate::decide::view::*;
use crate::decide::{Action, Job, PausedAs, Reason};

/// Paused, and of no federation.
fn alone() -> World {
    let mut world = World::new();
    world.policy.paused = true;
    world.view.federation = None;
    world.view.tenure.primary = None;
    world
}

type Bend = fn(&mut World);

#[test]
fn only_a_pause_outside_a_federation_takes_the_fence_away() {
    for (paused, federated, wanted) in [
        (false, false, Fence::Stands),
        (false, true, Fence::Stands),
        (true, true, Fence::Stands),
        (true, false, Fence::Suspended),
    ] {
        let mut world = World::new();
        world.policy.paused = paused;
        if !federated {
            world.view.federation = None;
        }
        assert_eq!(fence(&world.policy, &world.view), wanted, "{paused} {federated}");
    }
}

/// Everything that would move a server or a role, were it not for the pause.
#[test]
fn nothing_is_started_stopped_promoted_or_taken() {
    let cases: [(&str, Bend, PausedAs); 12] = [
        ("leads", |_| {}, PausedAs::Leader),
        ("leads, deadline past", |w| w.view.tenure.site = Deadline::NEVER, PausedAs::Leader),
        ("another has the key", |w| w.leader(Some("a2")), PausedAs::PrimaryBesideTheLeader),
        (
            "another has the key, and it does not answer",
            |w| {
                w.leader(Some("a2"));
                w.view.postgres.status = None;
            },
            PausedAs::PrimaryBesideTheLeader,
        ),
        (
            "stopped, another leads",
            |w| {
                w.stopped(ControlState::ShutDown, 3, 500);
                w.leader(Some("a2"));
            },
            PausedAs::Secondary,
        ),
        (
            "follows, history left behind",
            |w| {
                w.standby(2, 900);
                w.leader(Some("a2"));
            },
            PausedAs::Secondary,
        ),
        (
            "empty, another leads",
            |w| {
                w.stopped(ControlState::ShutDown, 3, 500);
                w.view.postgres.data = DataDirectory::Empty;
                w.leader(Some("a2"));
            },
            PausedAs::Secondary,
        ),
        (
            "empty, nobody leads, nobody has made it",
            |w| {
                w.stopped(ControlState::ShutDown, 3, 500);
                w.view.postgres.data = DataDirectory::Empty;
                w.leader(None);
                w.site().initialize = Initialize::Absent;
            },
            PausedAs::NoLeader,
        ),
        (
            "healthy standby, nobody leads",
            |w| {
                w.standby(3, 500);
                w.leader(None);
            },
            PausedAs::NoLeader,
        ),
        (
            "stopped, nobody leads",
            |w| {
                w.stopped(ControlState::ShutDown, 3, 500);
                w.leader(None);
            },
            PausedAs::NoLeader,
        ),
        (
            "primary of another cluster's identity, nobody leads",
            |w| {
                w.leader(None);
                w.site().initialize = Initialize::Running;
            },
            PausedAs::NoLeader,
        ),
        (
            "primary without a lease of its own, nobody leads",
            |w| {
                w.leader(None);
                w.view.tenure.has_lease = false;
            },
            PausedAs::NoLeader,
        ),
    ];
    for (what, bend, as_what) in cases {
        let mut world = alone();
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(
            (decision.actions, decision.reason),
            (vec![], Reason::Paused(as_what)),
            "{what}"
        );
    }
}

#[test]
fn the_key_is_kept_by_a_primary_taken_when_free_and_given_up_by_anything_else() {
    let cases: [(&str, Bend, Action); 6] = [
        ("free", |w| w.leader(None), Action::AcquireLeader),
        (
            "free, and nobody has recorded the identity",
            |w| {
                w.leader(None);
                w.site().initialize = Initialize::Absent;
            },
            Action::AcquireLeader,
        ),
        (
            "ours, bound to a former life's lease",
            |w| {
                w.site().leader.as_mut().expect("there").bound_to_my_lease = false;
                w.view.tenure.site = Deadline::NEVER;
            },
            Action::AcquireLeader,
        ),
        ("held, in recovery", |w| w.standby(3, 500), Action::ReleaseLeader),
        ("held, stopped", |w| w.stopped(ControlState::ShutDown, 3, 500), Action::ReleaseLeader),
        (
            "held, another database",
            |w| {
                let mut other = control(ControlState::InProduction, 3, 400);
                other.system_identifier = name("7000000000000000009");
                w.view.postgres.data = DataDirectory::Cluster(other);
            },
            Action::ReleaseLeader,
        ),
    ];
    for (what, bend, action) in cases {
        let mut world = alone();
        bend(&mut world);
        assert_eq!(world.decide().actions, vec![action], "{what}");
    }
}

#[test]
fn a_key_of_a_former_life_is_left_where_nothing_writes() {
    let mut world = alone();
    world.standby(3, 500);
    world.site().leader.as_mut().expect("there").bound_to_my_lease = false;
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn a_promotion_under_way_keeps_its_key() {
    let mut world = alone();
    world.standby(3, 500);
    world.memory.promoting_since = Some(NOW);
    let decision = world.decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::Promoting));
}

#[test]
fn the_synchronous_record_is_kept_and_no_slot_dropped() {
    let mut world = alone();
    world.status().senders.clear();
    let shrinks = world.decide().actions;
    assert!(matches!(shrinks.as_slice(), [Action::WriteSync { .. }]), "{shrinks:?}");

    let mut world = alone();
    world.status().slots.clear();
    let old = Slot::physical(false);
    world.status().slots.insert("gone".to_owned(), old.clone());
    world.memory.slots_managed.insert("gone".to_owned());
    let since = NOW.minus(Duration::from_secs(7200));
    world.memory.slots_unknown_since.insert("gone".to_owned(), since);
    let create = Step::Create { name: "a2".to_owned(), kind: Kind::Physical };
    let planned = Planned { step: create, why: Why::Member };
    assert_eq!(world.decide().actions, vec![Action::Slots(vec![planned])]);
    world.status().slots.insert("a2".to_owned(), old);
    assert_eq!(world.decide().reason, Reason::Paused(PausedAs::Leader), "nothing but a drop");
}

#[test]
fn a_secondary_moves_its_slots_on_and_drops_none() {
    let mut world = alone();
    world.standby(3, 500);
    world.leader(Some("a2"));
    let slot = Slot { restart: Some(Lsn::new(100)), ..Slot::physical(false) };
    let slots = ["a2", "gone"].map(|slot_name| (slot_name.to_owned(), slot.clone()));
    world.status().slots = slots.into();
    world.memory.slots_managed.insert("gone".to_owned());
    world.site().published.slots.insert("a2".to_owned(), Lsn::new(400));
    let to = Lsn::new(400);
    let step = Step::Advance { name: "a2".to_owned(), kind: Kind::Physical, to };
    let decision = world.decide();
    let planned = Planned { step, why: Why::Published };
    assert_eq!(decision.actions, vec![Action::Slots(vec![planned])]);
    assert_eq!(decision.reason, Reason::Paused(PausedAs::Secondary));
    world.memory = decision.memory;
    assert_eq!(world.decide().actions, vec![], "not again at once, and nothing but a drop is left");
}

#[test]
fn the_end_of_a_pause_stops_whoever_has_no_right() {
    let mut world = alone();
    world.leader(Some("a2"));
    assert_eq!(world.decide().actions, vec![]);
    world.policy.paused = false;
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::StoppingWriter);
    assert!(decision.actions.contains(&Action::Run(Job::Stop)));
}

#[test]
fn a_sites_pause_in_a_federation_stops_its_automation_and_no_end_of_a_right() {
    let automation: [(&str, Bend); 3] = [
        ("free key", |w| {
            w.standby(3, 500);
            w.view.tenure.primary = None;
            w.leader(None);
        }),
        ("stopped standby", |w| {
            w.stopped(ControlState::ShutDownInRecovery, 3, 500);
            w.leader(Some("a2"));
        }),
        ("stopped leader", |w| w.stopped(ControlState::ShutDown, 3, 500)),
    ];
    for (what, bend) in automation {
        let mut world = World::new();
        bend(&mut world);
        assert!(!world.decide().actions.is_empty(), "{what}: something is done without a pause");
        world.policy.paused = true;
        let decision = world.decide();
        assert_eq!(decision.reason, Reason::Paused(PausedAs::Automation), "{what}");
        assert_eq!(decision.actions, vec![], "{what}");
    }
    let rights: [(&str, Bend); 4] = [
        ("another has the key", |w| w.leader(Some("a2"))),
        ("the key is gone", |w| w.leader(None)),
        ("another site is primary", World::held_by_b),
        ("handover", |w| w.handover("b")),
    ];
    for (what, bend) in rights {
        let mut world = World::new();
        bend(&mut world);
        let unpaused = world.decide();
        assert!(!unpaused.actions.is_empty(), "{what}");
        world.policy.paused = true;
        assert_eq!(world.decide(), unpaused, "{what}: as without a pause");
    }
    let mut own = World::new();
    own.site().leader.as_mut().expect("there").bound_to_my_lease = false;
    own.view.tenure.site = Deadline::NEVER;
    own.policy.paused = true;
    assert_eq!(own.decide().actions, vec![Action::AcquireLeader], "its own key is kept");
    let mut starting = alone();
    starting.view.postgres.status = Some(status(false, 3, 500));
    starting.status().senders.insert("a2".to_owned(), sender(500));
    starting.view.job = Some(JobKind::Stop);
    assert_eq!(starting.decide().reason, Reason::Busy(JobKind::Stop), "what runs is finished");
}
