//! A server that was found without a guard and is frozen: it tells nothing, and goes on once this life
//! has renewed the rights that it was open under. What is decided for it here opens nothing.

use regent_proto::Epoch;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{PrimaryState, WritesFenced};
use regent_proto::time::Deadline;

use super::world::{PRIMARY_REVISION, World, control, name, point};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

type Bend = fn(&mut World);

/// A new life of a1 has found its primary, and has renewed nothing yet. The key is still bound to the
/// lease of the life before.
fn found() -> World {
    let mut world = World::new();
    let postgres = &mut world.view.postgres;
    (postgres.process, postgres.status) = (Process::Starting, None);
    world.view.guardian.frozen = true;
    world.view.tenure.site = Deadline::NEVER;
    world.view.tenure.primary = None;
    world.site().leader.as_mut().expect("it led").bound_to_my_lease = false;
    world
}

/// The key is this life's.
fn with_key() -> World {
    let mut world = found();
    world.view.tenure.site = World::new().view.tenure.site;
    world.leader(Some("a1"));
    world
}

fn acquires() -> Vec<Action> {
    let epoch = Epoch::new(3);
    let lease_revision = Some(60);
    vec![Action::AcquirePrimary { primary_revision: PRIMARY_REVISION, lease_revision, epoch }]
}

#[test]
fn a_frozen_server_that_tells_nothing_has_both_its_leases_renewed() {
    let world = found();
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    let mut alone = found();
    alone.view.federation = None;
    assert_eq!(alone.decide().actions, vec![Action::AcquireLeader], "without a federation");
    let mut world = with_key();
    let decision = world.decide();
    assert_eq!(decision.actions, acquires());
    assert_eq!(decision.reason, Reason::AcquiringPrimary);
    // With both in hand the guard thread lets it go on; there is nothing to do but to wait.
    world.view.tenure.primary = World::new().view.tenure.primary;
    assert_eq!(world.decide().actions, vec![]);
    assert_eq!(world.decide().reason, Reason::AwaitingServer);
    // One of another epoch is none.
    world.view.tenure.primary.as_mut().expect("held").epoch = Epoch::new(2);
    assert_eq!(world.decide().actions, acquires());
}

#[test]
fn the_lease_waits_for_whoever_was_not_open_under_this_epoch() {
    let bends: [(&str, Bend); 8] = [
        ("not frozen: it comes up", |w| w.view.guardian.frozen = false),
        ("a standby", |w| w.view.postgres.standby_signal = true),
        ("it recovers", |w| in_state(w, ControlState::InRecovery)),
        ("it had stopped in order", |w| in_state(w, ControlState::ShutDown)),
        ("it was open under an epoch of before", |w| w.disk_epoch(2)),
        ("it has seen no epoch", |w| w.federation().disk_epoch = DiskEpoch::Absent),
        ("it has left the way of the floor", |w| w.primary().floor = Some(point(2, 250))),
        ("marked for a handover", |w| w.site().mark = Some(super::world::mark(PRIMARY_REVISION))),
    ];
    for (what, bend) in bends {
        let mut world = with_key();
        bend(&mut world);
        assert_eq!(world.decide().actions, vec![], "{what}");
    }
}

fn in_state(world: &mut World, state: ControlState) {
    world.view.postgres.data = DataDirectory::Cluster(control(state, 3, 400));
}

fn writes_fenced(world: &mut World) {
    let (by, reason) = ("x".to_owned(), "y".to_owned());
    world.primary().writes_fenced = Some(WritesFenced { by, reason });
}

#[test]
fn a_frozen_server_that_may_not_write_ends() {
    let bends: [(&str, Bend, Reason); 7] = [
        ("a newer epoch on disk", |w| w.disk_epoch(4), Reason::EpochOlder),
        ("in the site", |w| w.site_epoch().epoch = Epoch::new(4), Reason::EpochOlder),
        ("primary names another site", World::held_by_b, Reason::StoppingWriter),
        (
            "fenced",
            |w| {
                w.state(PrimaryState::Fenced {
                    to: name("b"),
                    operation: name("op-2"),
                    accepted: AcceptedLoss::default(),
                })
            },
            Reason::Fenced,
        ),
        ("writes fenced", writes_fenced, Reason::Fenced),
        ("another leads", |w| w.leader(Some("a2")), Reason::StoppingWriter),
        (
            "another database",
            |w| w.site().initialize = Initialize::Done(name("7000000000000000002")),
            Reason::ForeignData(String::new()),
        ),
    ];
    for (what, bend, reason) in bends {
        let mut world = with_key();
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(decision.actions, vec![Action::EndTenure, Action::Run(Job::Stop)], "{what}");
        let told = std::mem::discriminant(&decision.reason);
        assert_eq!(told, std::mem::discriminant(&reason), "{what}: {:?}", decision.reason);
    }
    let mut world = with_key();
    world.federation().primary = None;
    assert_eq!(world.decide().actions, vec![], "unknown is no permission");
}
