//! Coming back under somebody else's history: whom to follow, and whether a rewind is needed first
//! (I14; hazards.md section 4, facts 18 to 29).

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::ReportedRole;
use regent_proto::timeline::{Ancestry, Following, TimelineId};

use super::view::{Control, ControlState, FederationView, Follow, SiteView};

/// All nodes of another site, its leader first, so that an in-site failover there needs no
/// coordinator. `None` until that site has reported an address.
pub(super) fn site_addresses(federation: &FederationView, site: &SiteName) -> Option<Follow> {
    let report = federation.reports.get(site)?;
    let mut nodes: Vec<_> = report.nodes.iter().collect();
    nodes.sort_by_key(|node| (node.name != report.node, node.name.clone()));
    let addresses: Vec<(String, u16)> =
        nodes.iter().map(|node| (node.host.clone(), node.port)).collect();
    (!addresses.is_empty()).then(|| Follow::Site { site: site.clone(), addresses })
}

/// The site to stream from: the assignment's where it was made under the present epoch, otherwise
/// the primary site itself (so that a switchover ends without any coordinator).
pub(super) fn upstream_site(federation: &FederationView) -> Option<SiteName> {
    let primary = federation.primary.as_ref()?;
    let assigned = federation
        .assignment
        .as_ref()
        .filter(|assignment| assignment.epoch == primary.value.epoch)
        .and_then(|assignment| assignment.upstream.clone());
    Some(assigned.unwrap_or_else(|| primary.value.holder.clone()))
        .filter(|site| *site != federation.site)
}

/// The history that a site's leader reports, while it has a server. The holder's counts from the
/// epoch on under which it opened: before that it is a standby's (I2).
pub(super) fn site_history<'a>(
    federation: &'a FederationView,
    site: &SiteName,
) -> Option<&'a Ancestry> {
    let report = federation.reports.get(site)?;
    let primary = &federation.primary.as_ref()?.value;
    if *site == primary.holder && report.epoch != primary.epoch {
        return None;
    }
    match report.role {
        ReportedRole::Down => None,
        ReportedRole::Standby | ReportedRole::Primary => report.ancestry.as_ref(),
    }
}

/// How to follow a member of the own site.
pub(super) fn member_follow(site: &SiteView, name: &NodeName) -> Option<Follow> {
    let member = site.members.get(name)?;
    Some(Follow::Member { name: name.clone(), address: (member.host.clone(), member.port) })
}

/// Whom to copy in place of the leader: a member that is there for it, runs and streams. The first by its
/// name, so that the same view gives the same answer.
pub(super) fn clone_member(site: &SiteView, leader: &NodeName, me: &NodeName) -> Option<Follow> {
    let fit = site.members.iter().find(|(name, member)| {
        *name != leader
            && *name != me
            && member.clonefrom
            && member.state == "running"
            && member.streaming
    });
    fit.and_then(|(name, _)| member_follow(site, name))
}

/// What a stopped server has to go through before it may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Start and stream.
    Start,
    /// Rewind first.
    Rewind,
    /// Copy anew: `pg_rewind` would not see where the histories part.
    Copy,
    /// The upstream's history is not known: wait.
    Wait,
    /// Whether both are on one history cannot be told.
    Unknown,
}

/// An upstream's history, and what tells its timelines apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) ancestry: &'a Ancestry,
    /// It came from a cluster that names no promotions.
    pub(super) unnamed: bool,
    /// The upstream itself was asked, after its stream ended: an older timeline is no old word.
    pub(super) present: bool,
}

impl<'a> Told<'a> {
    /// By a record, which may be older than what has come from there.
    pub(super) fn recorded(ancestry: &'a Ancestry) -> Self {
        Self { ancestry, unnamed: false, present: false }
    }
}

impl Told<'_> {
    /// How a server comes under it; `wrote`: it was a primary until it stopped.
    pub(super) fn followed_by(self, mine: &Ancestry, end: Lsn, wrote: bool) -> Following {
        if self.unnamed {
            mine.following_unnamed(end, self.ancestry, wrote)
        } else {
            mine.following(end, self.ancestry)
        }
    }

    /// The last point that a server's history shares with it, as far as they tell.
    pub(super) fn parting_from(self, mine: &Ancestry) -> Option<(TimelineId, Option<Lsn>)> {
        if self.unnamed { mine.parting_unnamed(self.ancestry) } else { mine.parting(self.ancestry) }
    }

    /// It is of a time before the present timeline of a server.
    fn is_left_by(self, mine: &Ancestry) -> bool {
        let there = self.ancestry.timeline;
        if self.unnamed {
            let left = matches!(mine.left(there), Some(Some(_)));
            left && mine.begin(there) == self.ancestry.begin(there)
        } else {
            mine.has_left(self.ancestry)
        }
    }
}

pub(super) fn way_back(control: &Control, upstream: Option<Told<'_>>) -> Way {
    let Some(upstream) = upstream else { return Way::Wait };
    let wrote = match control.state {
        ControlState::ShutDown | ControlState::InProduction => true,
        ControlState::ShutDownInRecovery | ControlState::InRecovery => false,
    };
    let following = upstream.followed_by(&control.ancestry, control.end, wrote);
    let upstream = upstream.ancestry;
    match (following, control.state) {
        (Following::Unknown, _) => Way::Unknown,
        (Following::Copies, _) => Way::Copy,
        (Following::Streams, ControlState::ShutDown | ControlState::ShutDownInRecovery) => {
            Way::Start
        }
        (Following::Rewinds, ControlState::ShutDown | ControlState::ShutDownInRecovery) => {
            Way::Rewind
        }
        // Recovery decides where a standby's WAL really ends; the running server is looked at
        // again once it says so.
        (Following::Streams | Following::Rewinds, ControlState::InRecovery) => Way::Start,
        // It crashed while it wrote. On the same timeline it is the history that the upstream is
        // on; otherwise pg_rewind recovers it first and finds out what must go.
        (Following::Streams | Following::Rewinds, ControlState::InProduction) => {
            if control.ancestry.timeline == upstream.timeline { Way::Start } else { Way::Rewind }
        }
    }
}

/// How a running standby stands to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// On its way, or its word is not known, or is older than this server.
    Fine,
    /// It has left that history.
    Diverged,
    /// Whether it has cannot be told.
    Unknown,
}

pub(super) fn stand(mine: &Ancestry, end: Lsn, upstream: Option<Told<'_>>) -> Stand {
    let Some(upstream) = upstream else { return Stand::Fine };
    match upstream.followed_by(mine, end, false) {
        Following::Streams => Stand::Fine,
        Following::Unknown => Stand::Unknown,
        // An upstream on an older timeline of ours has not heard of the present one yet (a promotion
        // just happened, and its report is old): that is not divergence.
        Following::Rewinds | Following::Copies
            if !upstream.present && upstream.is_left_by(mine) =>
        {
            Stand::Fine
        }
        Following::Rewinds | Following::Copies => Stand::Diverged,
    }
}
