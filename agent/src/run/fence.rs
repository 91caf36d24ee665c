//! The fence, as the main loop keeps it: armed whenever something writes, and
//! off only by a pause.

use super::Agent;
use crate::act::publish::NOT_FENCED;
use crate::decide::guarding::{Guarding, Guards, Postmaster, guarding};
use crate::decide::paused::{self, Fence};
use crate::decide::view::{Policy, View};
use crate::fence::guard::Fenced;
use crate::observe::clock::boot_time;

impl Agent {
    /// Puts the fence as a pause, or the end of one, wants it, before anything else is done (I18).
    pub(super) fn keep_fence(&mut self, policy: &Policy, view: &View) {
        let node = &self.config.name;
        let guard = &self.actor.guard;
        let postmaster = self.actor.server.postmaster();
        let now = boot_time();
        let guards = Guards {
            watched: guard.watched(),
            was_suspended: self.suspended,
            holds: self.deadlines.held().lies_ahead(now),
            may_write: self.deadlines.writing().lies_ahead(now),
            postmaster: match &postmaster {
                None => Postmaster::None,
                Some(postmaster) if postmaster.lives() => Postmaster::Lives,
                Some(_) => Postmaster::Ended,
            },
        };
        let fence = paused::fence(policy, view);
        match (self.suspended, fence) {
            (false, Fence::Suspended) => {
                tracing::warn!(%node, "{NOT_FENCED}: deadlines stop nothing until the pause ends");
            }
            (true, Fence::Stands) => {
                tracing::info!(%node, "the pause has ended: the fence stands again");
            }
            (true, Fence::Suspended) | (false, Fence::Stands) => {}
        }
        self.suspended = fence == Fence::Suspended;
        match (guarding(fence, view, guards), postmaster) {
            (Guarding::Suspend, _) => guard.disarm(),
            (Guarding::Keep, _) | (Guarding::Arm | Guarding::Freeze, None) => {}
            (Guarding::Arm, Some(postmaster)) => guard.arm(Some(postmaster.pid)),
            (Guarding::Freeze, Some(postmaster)) => {
                tracing::warn!(
                    %node,
                    "PostgreSQL may write without a right to: it is frozen until it has one"
                );
                guard.adopt(postmaster.pid, self.config.regent.stop_budget.0);
            }
        }
    }

    /// Logs what the guard did without waiting for this loop.
    pub(super) fn say_fenced(&self, fenced: Fenced) {
        let node = &self.config.name;
        match fenced {
            Fenced::Stopping => tracing::warn!(%node, "the deadline is near: stopping PostgreSQL"),
            Fenced::Killed => {
                tracing::warn!(%node, "the deadline is here: killing what is left of PostgreSQL")
            }
            Fenced::Frozen(pause) => tracing::warn!(
                %node, ?pause,
                "this node did not run, or its clocks differ: PostgreSQL is frozen until the leases \
                 are renewed"
            ),
            Fenced::Thawed(after) => tracing::warn!(
                %node, milliseconds = after.as_millis(), "the leases are renewed: PostgreSQL goes on"
            ),
        }
    }
}
