//! What is watched over (I1, I18): nothing writes without a right and without a guard, whoever
//! started or promoted it.

use super::paused::Fence;
use super::view::View;

/// What the guard and the deadlines are at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// What the guard watches over.
    pub watched: Watched,
    /// The last round of this loop was suspended by a pause.
    pub was_suspended: bool,
    /// What this life knows that it holds lies ahead.
    pub holds: bool,
    /// What the fence goes by lies ahead: what is held, or what a former life left.
    pub may_write: bool,
    /// The postmaster that this agent knows of.
    pub postmaster: Postmaster,
}

/// What the guard watches over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Nothing at all.
    Nothing,
    /// A server that the deadlines stop: nothing more has to be said.
    ByDeadline,
    /// A planned stop, to its end.
    Stop,
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

/// What runs may have been promoted, or have lost its key, while nobody watched.
fn after_pause(view: &View, guards: Guards) -> Guarding {
    if !view.postgres.may_write() {
        Guarding::Keep
    } else if guards.may_write {
        Guarding::Arm
    } else {
        Guarding::Freeze
    }
}

/// A server that was found writable (adopted after a restart of the agent) is under the guard from
/// its first acknowledged deadline on, or by what a former life left. One that writes while nothing
/// is watched over, such as a standby that somebody promoted by hand, has no right that anybody
/// knows. A job that runs has its own word with the guard.
///
/// A restarted agent that belongs to no federation does not know of a pause before its DCS has
/// answered once: an outage of that is what one pauses for.
fn while_it_stands(view: &View, guards: Guards) -> Guarding {
    let paused_for_all_we_know = view.federation.is_none() && view.site.is_none();
    if !view.postgres.may_write()
        || view.job.is_some()
        || guards.watched == Watched::ByDeadline
        || paused_for_all_we_know
    {
        Guarding::Keep
    } else if guards.holds || (guards.watched == Watched::Nothing && guards.may_write) {
        Guarding::Arm
    } else if guards.watched == Watched::Nothing && guards.postmaster == Postmaster::Lives {
        Guarding::Freeze
    } else {
        Guarding::Keep
    }
}
