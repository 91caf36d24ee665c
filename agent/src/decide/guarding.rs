//! What is watched over (I1, I18): nothing writes without a right and without a guard, whoever
//! started or promoted it.

use super::paused::Fence;
use super::view::View;

/// What the guard and the deadlines are at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// The deadlines are already what stops the server: nothing more has to be said.
    pub by_deadline: bool,
    /// Nothing at all is watched over.
    pub off: bool,
    /// The last round of this loop was suspended by a pause.
    pub was_suspended: bool,
    /// What this life knows that it holds lies ahead.
    pub holds: bool,
    /// What the fence goes by lies ahead: what is held, or what a former life left.
    pub may_write: bool,
    /// The postmaster that this agent knows of.
    pub postmaster: Postmaster,
}

/// A postmaster, as its process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postmaster {
    /// None is known.
    None,
    /// It has ended; what it started may live on.
    Ended,
    /// It lives.
    Lives,
}

/// What is to be done about the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarding {
    /// Rights stop nothing, by order of whoever paused the cluster.
    Suspend,
    /// It is as it should be.
    Keep,
    /// The deadlines, which lie ahead, stop the server from now on.
    Arm,
    /// The server writes, or may, and nobody knows a right of its: it is frozen until it has one,
    /// and killed where it gets none within a bound.
    Freeze,
}

/// What the guard needs, before anything else of a round is done.
#[must_use]
pub fn guarding(fence: Fence, view: &View, guards: Guards) -> Guarding {
    match (fence, guards.postmaster) {
        (Fence::Suspended, _) => Guarding::Suspend,
        (Fence::Stands, Postmaster::None) => Guarding::Keep,
        (Fence::Stands, Postmaster::Ended | Postmaster::Lives) if guards.was_suspended => {
            after_pause(view, guards)
        }
        (Fence::Stands, Postmaster::Ended | Postmaster::Lives) => while_it_stands(view, guards),
    }
}

/// What runs may have been promoted, or have lost its key, while nobody watched. One that gives no
/// status is judged by its files.
fn after_pause(view: &View, guards: Guards) -> Guarding {
    let recovers = match &view.postgres.status {
        Some(status) => status.in_recovery,
        None => view.postgres.standby_signal,
    };
    if recovers {
        Guarding::Keep
    } else if guards.may_write {
        Guarding::Arm
    } else {
        Guarding::Freeze
    }
}

/// A server that was found writable (adopted after a restart of the agent) is under the guard from
/// its first acknowledged deadline on. One that writes while nothing is watched over, such as a
/// standby that somebody promoted by hand, has no right that anybody knows. A job that runs has its
/// own word with the guard.
fn while_it_stands(view: &View, guards: Guards) -> Guarding {
    let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
    if !writable || view.job.is_some() || guards.by_deadline {
        Guarding::Keep
    } else if guards.holds {
        Guarding::Arm
    } else if guards.off && guards.postmaster == Postmaster::Lives {
        Guarding::Freeze
    } else {
        Guarding::Keep
    }
}
