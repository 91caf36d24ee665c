//! The fence, as the main loop keeps it: armed whenever something writes, and
//! off only by a pause.

use super::Agent;
use crate::act::publish::NOT_FENCED;
use crate::decide::paused::{self, Fence};
use crate::decide::view::{Policy, View};
use crate::fence::guard::Fenced;
use crate::observe::clock::boot_time;

impl Agent {
    /// Puts the fence as a pause, or the end of one, wants it, before anything else is done (I18).
    pub(super) fn keep_fence(&mut self, policy: &Policy, view: &View) {
        let node = &self.config.name;
        match paused::fence(policy, view) {
            Fence::Suspended => {
                if !self.suspended {
                    tracing::warn!(%node, "{NOT_FENCED}: deadlines stop nothing until the pause ends");
                }
                self.suspended = true;
                self.actor.guard.disarm();
            }
            Fence::Stands => {
                if self.suspended {
                    tracing::info!(%node, "the pause has ended: the fence stands again");
                    self.suspended = false;
                    self.fence_after_pause(view);
                }
                self.guard_what_writes(view);
            }
        }
    }

    /// What runs may have been promoted, or have lost its key, while nobody watched: without a right
    /// that is known it is frozen until it has one, or killed, like a server of a former life.
    fn fence_after_pause(&self, view: &View) {
        let recovers = match &view.postgres.status {
            Some(status) => status.in_recovery,
            None => view.postgres.standby_signal,
        };
        if let Some(postmaster) = self.actor.server.postmaster().filter(|_| !recovers) {
            let now = boot_time();
            let ahead = self.deadlines.writing().lies_ahead(now);
            if ahead {
                self.actor.guard.arm(Some(postmaster.pid));
            } else {
                self.actor.guard.adopt(postmaster.pid, self.config.regent.stop_budget.0);
            }
        }
    }

    /// A server that was found writable (adopted after a restart of the agent) is under the guard
    /// from its first acknowledged deadline on.
    fn guard_what_writes(&self, view: &View) {
        let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        if writable && view.job.is_none() && !self.actor.guard.watches() {
            let ahead = self.deadlines.held().lies_ahead(boot_time());
            if let (true, Some(postmaster)) = (ahead, self.actor.server.postmaster()) {
                self.actor.guard.arm(Some(postmaster.pid));
            }
        }
    }

    /// Logs what the guard did without waiting for this loop.
    pub(super) fn say_fenced(&self, fenced: Fenced) {
        let node = &self.config.name;
        match fenced {
            Fenced::Stopping => tracing::warn!(%node, "the deadline is near: stopping PostgreSQL"),
            Fenced::Killed => tracing::warn!(%node, "the deadline has come: PostgreSQL was killed"),
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
