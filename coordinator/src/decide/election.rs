//! Which coordinator acts: create-if-absent of `leader`, bound to a store lease.
//!
//! Nobody needs to be right about who is elected: every transaction of the elected one compares
//! the revision of `leader` that its own tenure gave it, so one that lost it changes nothing.

use regent_proto::keys::GlobalKey;
use regent_proto::name::CoordinatorName;
use regent_proto::record::{CoordinatorLeader, CoordinatorMember, Unknown, VERSION};

use super::view::{Session, Slot, View};
use super::write::{Purpose, Put, Write};
use super::{Policy, Reason};

/// Where this coordinator stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// It holds `leader`.
    Elected,
    /// It has something to write first.
    Due(Write, Reason),
    /// It does not act, for this reason.
    Waiting(Reason),
}

pub(super) fn standing(policy: &Policy, view: &View) -> Standing {
    let Some(session) = &view.session else { return Standing::Waiting(Reason::NoSession) };
    if view.coordinators.get(&policy.me).is_none_or(Slot::is_absent) {
        return Standing::Due(join(policy, view, session), Reason::Joining);
    }
    match &view.leader {
        Slot::Absent => Standing::Due(campaign(policy, view, session), Reason::Campaigning),
        Slot::Unreadable(unreadable) => {
            Standing::Waiting(Reason::Unreadable { problem: unreadable.problem.clone() })
        }
        Slot::Read(leader) if leader.value.tenure == session.tenure => Standing::Elected,
        Slot::Read(leader) => {
            Standing::Waiting(Reason::NotElected { elected: leader.value.name.clone() })
        }
    }
}

/// Who is elected, for the picture.
pub(super) fn elected(view: &View) -> Option<&CoordinatorName> {
    view.leader.read().map(|leader| &leader.value.name)
}

fn join(policy: &Policy, view: &View, session: &Session) -> Write {
    let member = CoordinatorMember {
        version: VERSION,
        name: policy.me.clone(),
        site: policy.site.clone(),
        address: policy.address.clone(),
        software: policy.software.clone(),
        insecure: policy.insecure,
        unknown: Unknown::new(),
    };
    Write::new(Purpose::Join).put(view, Put::Coordinator(Box::new(member), session.lease))
}

fn campaign(policy: &Policy, view: &View, session: &Session) -> Write {
    let leader = CoordinatorLeader {
        version: VERSION,
        name: policy.me.clone(),
        tenure: session.tenure.clone(),
        unknown: Unknown::new(),
    };
    Write::new(Purpose::Campaign)
        .comparing(view, GlobalKey::Leader)
        .put(view, Put::Leader(leader, session.lease))
}
