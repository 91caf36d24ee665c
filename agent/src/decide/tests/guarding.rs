//! What is watched over: in every combination of what the guard, the deadlines and the server are.

use super::world::{World, status};
use crate::decide::guarding::{Guarding, Guards, Postmaster, Watched, guarding};
use crate::decide::paused::Fence;
use crate::decide::view::*;

/// The server, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Writable,
    InRecovery,
    SilentStandby,
    Silent,
}

fn watched_and_postmasters() -> impl Iterator<Item = (Watched, Postmaster)> {
    let postmasters = [Postmaster::None, Postmaster::Ended, Postmaster::Lives];
    [Watched::Nothing, Watched::ByDeadline, Watched::Stop]
        .into_iter()
        .flat_map(move |watched| postmasters.map(|postmaster| (watched, postmaster)))
}

fn every(mut judge: impl FnMut(&View, Fence, Guards, Server, bool)) {
    let either = [false, true];
    for server in [Server::Writable, Server::InRecovery, Server::SilentStandby, Server::Silent] {
        for job in either {
            let mut world = World::new();
            let postgres = &mut world.view.postgres;
            (postgres.status, postgres.standby_signal) = match server {
                Server::Writable => (Some(status(false, 3, 500)), false),
                Server::InRecovery => (Some(status(true, 3, 500)), true),
                Server::SilentStandby => (None, true),
                Server::Silent => (None, false),
            };
            world.view.job = job.then_some(JobKind::Start);
            for bits in 0_u32..8 {
                let bit = |n: u32| bits >> n & 1 == 1;
                for (watched, postmaster) in watched_and_postmasters() {
                    let guards = Guards {
                        watched,
                        was_suspended: bit(0),
                        holds: bit(1),
                        may_write: bit(2),
                        postmaster,
                    };
                    for fence in [Fence::Stands, Fence::Suspended] {
                        judge(&world.view, fence, guards, server, job);
                    }
                }
            }
        }
    }
}

#[test]
fn a_suspended_fence_watches_over_nothing_and_no_postmaster_needs_none() {
    every(|view, fence, guards, server, job| {
        let wanted = match (fence, guards.postmaster) {
            (Fence::Suspended, _) => Guarding::Suspend,
            (Fence::Stands, Postmaster::None) => Guarding::Keep,
            (Fence::Stands, Postmaster::Ended | Postmaster::Lives) => return,
        };
        assert_eq!(guarding(fence, view, guards), wanted, "{server:?} {job} {guards:?}");
    });
}

#[test]
fn after_a_pause_whatever_may_write_is_armed_by_its_right_or_frozen() {
    every(|view, fence, guards, server, job| {
        if fence == Fence::Suspended
            || guards.postmaster == Postmaster::None
            || !guards.was_suspended
        {
            return;
        }
        let wanted = match (server, guards.may_write) {
            (Server::InRecovery | Server::SilentStandby, _) => Guarding::Keep,
            (Server::Writable | Server::Silent, true) => Guarding::Arm,
            (Server::Writable | Server::Silent, false) => Guarding::Freeze,
        };
        assert_eq!(guarding(fence, view, guards), wanted, "{server:?} {job} {guards:?}");
    });
}

#[test]
fn while_the_fence_stands_no_server_writes_unguarded() {
    every(|view, fence, guards, server, job| {
        if fence == Fence::Suspended
            || guards.postmaster == Postmaster::None
            || guards.was_suspended
        {
            return;
        }
        let told = guarding(fence, view, guards);
        let what = format!("{told:?}: {server:?} {job} {guards:?}");
        let writes = matches!(server, Server::Writable | Server::Silent);
        let right = guards.holds || guards.may_write;
        let alone = guards.watched == Watched::Nothing && guards.postmaster == Postmaster::Lives;
        assert_ne!(told, Guarding::Suspend, "{what}");
        if !writes || job || guards.watched == Watched::ByDeadline {
            assert_eq!(told, Guarding::Keep, "{what}");
        }
        if writes && !job && alone {
            let wanted = if right { Guarding::Arm } else { Guarding::Freeze };
            assert_eq!(told, wanted, "{what}");
        }
        // Nobody who has a right is frozen, nobody without one counts as guarded by it, and a planned
        // stop, or a kill that goes on, is left to end.
        assert!(told != Guarding::Freeze || (!right && alone), "{what}");
        assert!(told != Guarding::Arm || right, "{what}");
        if guards.watched == Watched::Stop && !guards.holds {
            assert_eq!(told, Guarding::Keep, "{what}");
        }
    });
}

/// The site DCS has not answered since the agent began: whether the cluster is paused is not known.
#[test]
fn before_the_first_picture_only_a_federation_freezes_what_writes() {
    let guards = Guards {
        watched: Watched::Nothing,
        was_suspended: false,
        holds: false,
        may_write: false,
        postmaster: Postmaster::Lives,
    };
    let mut world = World::new();
    world.view.site = None;
    assert_eq!(guarding(Fence::Stands, &world.view, guards), Guarding::Freeze);
    world.view.federation = None;
    assert_eq!(guarding(Fence::Stands, &world.view, guards), Guarding::Keep);
}
