//! What is watched over: in every combination of what the guard, the deadlines and the server are.

use super::world::{World, status};
use crate::decide::guarding::{Guarding, Guards, Postmaster, guarding};
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
            for bits in 0_u32..32 {
                let bit = |n: u32| bits >> n & 1 == 1;
                for postmaster in [Postmaster::None, Postmaster::Ended, Postmaster::Lives] {
                    let guards = Guards {
                        by_deadline: bit(0),
                        off: bit(1),
                        was_suspended: bit(2),
                        holds: bit(3),
                        may_write: bit(4),
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
        let wanted = if server != Server::Writable || job || guards.by_deadline {
            Guarding::Keep
        } else if guards.holds {
            Guarding::Arm
        } else if guards.off && guards.postmaster == Postmaster::Lives {
            Guarding::Freeze
        } else {
            // A planned stop is under way, or its processes are being killed.
            Guarding::Keep
        };
        assert_eq!(guarding(fence, view, guards), wanted, "{server:?} {job} {guards:?}");
    });
}
