//! A changed configuration is put in force, last of all; a standby that its WAL asks more of than it
//! was started with makes room for it.

use std::time::Duration;

use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::PrimaryState;
use regent_proto::time::Deadline;

use super::world::{NOW, World, name, point, sender};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

/// Something else is wanted than was last written.
fn changed(world: &mut World) {
    world.view.postgres.configuration.wanted = 2;
    world.view.postgres.configuration.in_force = 1;
}

/// Follows `a2` of its site, and streams.
fn following() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    let address = ("127.0.0.1".to_owned(), 6002);
    world.view.postgres.follows = Some(Follow::Member { name: name("a2"), address });
    world
}

/// Leads the standby site, and streams from `b`.
fn leading_standby() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.held_by_b();
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world.status().slots.insert("a2".to_owned(), Slot::physical(true));
    world.site().sync = SyncView::default();
    let addresses = vec![("127.0.0.1".to_owned(), 7001)];
    world.view.postgres.follows = Some(Follow::Site { site: name("b"), addresses });
    world
}

#[test]
fn whoever_has_nothing_else_to_do_puts_a_changed_configuration_in_force() {
    let worlds: [(&str, World, Reason); 3] = [
        ("primary", World::new(), Reason::Leading),
        ("member", following(), Reason::Following),
        ("standby leader", leading_standby(), Reason::LeadingStandby),
    ];
    for (who, mut world, reason) in worlds {
        assert_eq!(world.decide().reason, reason, "{who}");
        changed(&mut world);
        let decision = world.decide();
        assert_eq!(
            (decision.actions, decision.reason),
            (vec![Action::Reload], Reason::Reloading),
            "{who}"
        );
        world.view.postgres.configuration.in_force = 2;
        assert_eq!(world.decide().reason, reason, "{who}: once");
    }
}

#[test]
fn a_changed_configuration_waits_for_whatever_rights_and_commits_rest_on() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 4] = [
        ("the list", |w| w.status().synchronous_standby_names = String::new()),
        ("a slot", |w| w.status().slots.clear()),
        ("another holds the key", |w| w.leader(Some("a2"))),
        ("fenced", |w| {
            w.state(PrimaryState::Fenced {
                to: name("b"),
                operation: name("op-2"),
                accepted: AcceptedLoss::default(),
            })
        }),
    ];
    for (what, bend) in cases {
        let mut world = World::new();
        changed(&mut world);
        bend(&mut world);
        assert!(!world.decide().actions.contains(&Action::Reload), "{what}");
    }
    let mut taking = World::new();
    taking.held_by_b();
    taking.token("a", point(3, 520));
    taking.standby(3, 520);
    taking.status().senders.insert("a2".to_owned(), sender(520));
    changed(&mut taking);
    assert_eq!(taking.decide().reason, Reason::Taking);
}

/// A reload writes the list that the server shows: that of before would come back for good.
#[test]
fn a_changed_configuration_waits_until_the_server_shows_the_list_that_was_set() {
    let mut world = World::new();
    world.policy.synchronous_mode = false;
    world.policy.own_standby_names = "x".to_owned();
    world.site().sync = SyncView { revision: Some(21), ..SyncView::default() };
    changed(&mut world);
    let step = |world: &mut World| {
        let decision = world.decide();
        world.memory = decision.memory;
        decision.actions
    };
    let sets = vec![Action::SetSynchronousNames("x".to_owned())];
    assert_eq!(step(&mut world), sets);
    assert_eq!(step(&mut world), vec![], "the server shows the one of before");
    let mut shown = world.clone();
    shown.status().synchronous_standby_names = "x".to_owned();
    assert_eq!(step(&mut shown), vec![Action::Reload]);
    // One that it refuses is never shown, and keeps nothing else out.
    world.view.now = NOW.plus(Duration::from_secs(10));
    world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(14)));
    world.view.tenure.primary.as_mut().expect("held").deadline = world.view.tenure.site;
    assert_eq!(step(&mut world), sets);
    assert_eq!(step(&mut world), vec![Action::Reload]);
    // In recovery the list is in force nowhere; an earlier process's is waited for by nobody.
    let mut member = following();
    member.memory = Memory::of_a_new_process();
    changed(&mut member);
    assert_eq!(member.decide().actions, vec![Action::Reload]);
}

#[test]
fn a_pause_does_not_keep_a_changed_configuration_out() {
    for leader in [Some("a1"), Some("a2"), None] {
        let mut world = following();
        world.view.federation = None;
        if leader == Some("a1") {
            world = World::new();
            world.view.federation = None;
            world.view.tenure.primary = None;
        } else {
            world.leader(leader);
        }
        world.policy.paused = true;
        changed(&mut world);
        assert_eq!(world.decide().actions, vec![Action::Reload], "{leader:?}");
        world.view.postgres.status = None;
        assert_eq!(world.decide().actions, vec![], "{leader:?}: nobody answers");
    }
    let mut site = World::new();
    site.policy.paused = true;
    changed(&mut site);
    assert_eq!(site.decide().actions, vec![Action::Reload], "a paused site of a federation");
}

/// Patroni's standby, adopted in a pause: its postgresql.conf says whom it follows, and nothing of ours does.
#[test]
fn a_standby_that_nobody_told_whom_to_follow_keeps_its_files() {
    let mut world = following();
    world.view.federation = None;
    world.view.postgres.follows = None;
    changed(&mut world);
    for leader in [Some("a2"), None] {
        world.leader(leader);
        world.policy.paused = true;
        assert_eq!(world.decide().actions, vec![], "{leader:?}");
    }
    world.leader(Some("a2"));
    world.policy.paused = false;
    assert!(matches!(world.decide().actions[..], [Action::Follow(_)]), "first it is told");
    // Nor where its leader does not run.
    world.member("a2").state = "stopped".to_owned();
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn a_standby_whose_wal_asks_for_more_is_started_again() {
    let stops = vec![Action::Run(Job::Stop)];
    let mut opening = World::new();
    opening.standby(3, 500);
    for (who, mut world) in [
        ("member", following()),
        ("standby leader", leading_standby()),
        ("about to open: it could not", opening),
    ] {
        assert_ne!(world.decide().actions, stops, "{who}");
        world.view.postgres.configuration.too_low = true;
        let decision = world.decide();
        assert_eq!((decision.actions, decision.reason), (stops.clone(), Reason::RaisingParameters));
        world.policy.paused = true;
        assert_ne!(world.decide().actions, stops, "{who}: nobody would start it again");
    }
    let mut primary = World::new();
    primary.view.postgres.configuration.too_low = true;
    assert_eq!(primary.decide().reason, Reason::Leading, "it does not recover");
}
