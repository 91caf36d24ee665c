//! Rung 4: what each kind of evidence about the epoch allows.

use regent_proto::Epoch;
use regent_proto::time::Deadline;

use super::world::{EPOCH_REVISION, World, name, point, seen, sender};
use crate::decide::epoch::EpochUnknown;
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit, refuses};

fn about_to_open() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world
}

fn opens_or_acquires(world: &World) -> bool {
    world.decide().actions.iter().any(|action| {
        matches!(
            action,
            Action::Promote | Action::AcquirePrimary { .. } | Action::Run(Job::StartPrimary { .. })
        )
    })
}

type Bend = fn(&mut World);

const UNKNOWN: [(&str, Bend, EpochUnknown); 3] = [
    ("missing in the site", |w| w.site().seen_epoch = None, EpochUnknown::SiteMissing),
    (
        "unreadable in the site",
        |w| {
            w.site().seen_epoch = None;
            w.site().unreadable_epoch = Some(46);
        },
        EpochUnknown::SiteUnreadable,
    ),
    (
        "unreadable on disk",
        |w| w.federation().disk_epoch = DiskEpoch::Unreadable("x".to_owned()),
        EpochUnknown::DiskUnreadable(String::new()),
    ),
];

fn same_kind(why: &EpochUnknown, wanted: &EpochUnknown) -> bool {
    std::mem::discriminant(why) == std::mem::discriminant(wanted)
}

/// Each alone fences: with a lease in hand, before the lease, marked, stopped after a crash, and a
/// server that writes already is stopped.
#[test]
fn what_is_not_known_about_the_epoch_fences() {
    let closed: [(&str, Bend); 4] = [
        ("lease in hand", |_| ()),
        ("no lease yet", |w| w.view.tenure.primary = None),
        ("marked", |w| w.site().mark = Some(super::world::mark(1))),
        ("crashed while it wrote", |w| w.stopped(ControlState::InProduction, 3, 400)),
    ];
    for (what, unknown, wanted) in UNKNOWN {
        for (when, bend) in closed {
            let mut world = about_to_open();
            bend(&mut world);
            unknown(&mut world);
            assert!(!opens_or_acquires(&world), "{what}, {when}");
            let Reason::EpochUnknown(why) = world.decide().reason else {
                panic!("{what}, {when}: {:?}", world.decide());
            };
            assert!(same_kind(&why, &wanted), "{what}, {when}: {why}");
            assert!(why.to_string().contains("--show-epoch"), "{why}");
        }
        let mut writes = World::new();
        unknown(&mut writes);
        assert_eq!(writes.decide().actions, vec![Action::EndTenure, Action::Run(Job::Stop)]);
    }
}

#[test]
fn an_older_epoch_or_another_holder_of_the_same_stops_a_writer() {
    let bends: [(&str, Bend); 5] = [
        ("newer on disk", |w| w.disk_epoch(4)),
        ("newer in the site", |w| w.site_epoch().epoch = Epoch::new(4)),
        ("another federation on disk", |w| {
            let mut other = seen(2);
            other.federation = uuid::Uuid::max();
            w.federation().disk_epoch = DiskEpoch::Seen(other);
        }),
        ("another federation in the site", |w| w.site_epoch().federation = uuid::Uuid::max()),
        ("the same epoch was another site's", |w| w.site_epoch().holder = name("b")),
    ];
    for (what, bend) in bends {
        let mut writes = World::new();
        bend(&mut writes);
        assert_eq!(writes.decide().reason, Reason::EpochOlder, "{what}");
        assert_eq!(
            writes.decide().actions,
            vec![Action::EndTenure, Action::Run(Job::Stop)],
            "{what}"
        );
        let mut closed = about_to_open();
        bend(&mut closed);
        assert!(!opens_or_acquires(&closed), "{what}");
    }
}

/// The process that leads without a break knows what was there.
#[test]
fn whoever_led_all_along_puts_a_removed_epoch_back_and_nobody_else() {
    for (what, remove, _) in UNKNOWN {
        let mut world = World::new();
        let before = world.decide();
        assert_eq!(before.memory.entered, Some(seen(3)));
        world.memory = before.memory;
        remove(&mut world);
        let revision = match what {
            "missing in the site" => None,
            "unreadable in the site" => Some(46),
            _ => Some(EPOCH_REVISION),
        };
        let wanted = Action::EnterEpoch { seen: seen(3), revision, clear_mark: None };
        assert_eq!(world.decide().actions, vec![wanted], "{what}");
        for (broken, bend) in [
            ("another leads", (|w: &mut World| w.leader(Some("a2"))) as Bend),
            ("deadline past", |w| w.view.tenure.site = Deadline::NEVER),
        ] {
            let mut world = world.clone();
            bend(&mut world);
            assert_eq!(world.decide().memory.entered, None, "{what}, {broken}");
        }
    }
}

/// The primary site's cluster is made: nothing is known and nothing was ever there.
fn being_made() -> World {
    let mut world = World::new();
    world.stopped(ControlState::ShutDown, 1, 100);
    world.primary().floor = None;
    world.primary().system_identifier = None;
    world.site().initialize = Initialize::Running;
    world.site().seen_epoch = None;
    world.federation().disk_epoch = DiskEpoch::Absent;
    world
}

#[test]
fn only_a_cluster_that_is_being_made_gets_its_first_epoch() {
    let wanted = Action::EnterEpoch { seen: seen(3), revision: None, clear_mark: None };
    assert_eq!(being_made().decide().actions, vec![wanted.clone()]);
    let mut cut_short = being_made();
    cut_short.disk_epoch(3);
    assert_eq!(cut_short.decide().actions, vec![wanted], "on disk already, not in the site yet");
    let bends: [(&str, Bend); 4] = [
        ("the cluster is done", |w| {
            w.site().initialize = Initialize::Done(name("7000000000000000001"));
        }),
        ("initialize is gone", |w| w.site().initialize = Initialize::Absent),
        ("the federation has a database", |w| {
            w.primary().system_identifier = Some(name("7000000000000000001"));
        }),
        ("this node has seen an epoch", |w| w.disk_epoch(2)),
    ];
    for (what, bend) in bends {
        let mut world = being_made();
        bend(&mut world);
        assert_eq!(
            world.decide().reason,
            Reason::EpochUnknown(EpochUnknown::SiteMissing),
            "{what}"
        );
    }
}

/// A standby site goes on following, and takes nothing.
#[test]
fn a_standby_site_that_does_not_know_follows_and_takes_nothing() {
    let mut world = World::new();
    world.held_by_b();
    world.federation().disk_epoch = DiskEpoch::Absent;
    world.standby(3, 520);
    world.view.postgres.follows =
        crate::decide::rejoin::site_addresses(world.federation(), &name("b"));
    world.status().senders.insert("a2".to_owned(), sender(520));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    for slot in ["a2", "b1"] {
        world.status().slots.insert(slot.to_owned(), Slot::physical(true));
    }
    world.site().sync = SyncView::default();
    assert_eq!(world.decide().reason, Reason::EnteringEpoch);
    world.site().seen_epoch = None;
    let unknown = Reason::EpochUnknown(EpochUnknown::SiteMissing);
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], unknown));
    world.token("a", point(3, 520));
    assert!(!world.decide().actions.iter().any(|a| matches!(a, Action::Take { .. })));
    // Its cluster is being made: nothing was ever there.
    world.state(regent_proto::record::PrimaryState::Open);
    world.site().initialize = Initialize::Running;
    assert_eq!(world.decide().reason, Reason::EnteringEpoch, "before `initialize` is done");
}

#[test]
fn members_keep_the_epoch_of_their_site_on_their_own_disk() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.standby(3, 500);
    world.view.postgres.follows =
        Some(Follow::Member { name: name("a2"), address: ("127.0.0.1".to_owned(), 6002) });
    assert_eq!(world.decide().actions, vec![]);
    world.disk_epoch(2);
    assert_eq!(world.decide().actions, vec![Action::KeepEpoch(seen(3))]);
    world.federation().disk_epoch = DiskEpoch::Absent;
    assert_eq!(world.decide().actions, vec![Action::KeepEpoch(seen(3))]);
    world.disk_epoch(4);
    assert_eq!(world.decide().actions, vec![], "never back");
    world.federation().disk_epoch = DiskEpoch::Unreadable("x".to_owned());
    assert_eq!(world.decide().actions, vec![], "a person looks first");
}

#[test]
fn a_node_that_cannot_read_its_epoch_wins_no_race_of_the_primary_site() {
    let mut world = World::new();
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().members.remove(&name::<regent_proto::name::NodeName>("a2"));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    world.federation().disk_epoch = DiskEpoch::Unreadable("x".to_owned());
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::EpochUnreadable));
    let tells = |world: &World| refuses(&world.policy.me, &world.view, &world.memory);
    assert!(tells(&world), "it is in nobody's way");
    let mut open = world.clone();
    open.status().in_recovery = false;
    assert!(!tells(&open), "it leads already");
    world.held_by_b();
    assert!(!tells(&world));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader], "it may lead a standby site");
}
