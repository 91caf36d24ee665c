//! What a site follows, and whom each of its members streams from: the one place that says so. A
//! federation's records and the section `standby_cluster` come to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regent_proto::name::{NodeName, SystemIdentifier};
use regent_proto::record::Primary;

use super::rejoin;
use super::view::{At, FederationView, Follow, Initialize, Member, RemoteView, SiteView, View};

/// What a site follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Upstream<'a> {
    /// Nobody: it is, or is to be, the one that writes; in a federation by this record.
    Nobody(Option<(&'a FederationView, &'a At<Primary>)>),
    /// Nobody knows: `primary` is absent, unreadable, or was never read.
    Unknown,
    /// Another site of its federation, or the one that holds primacy by way of it.
    Site(&'a FederationView, &'a At<Primary>),
    /// A cluster that `standby_cluster` names.
    Remote(&'a RemoteView),
}

/// What the site follows. In a federation the records alone say so.
#[must_use]
pub fn of(view: &View) -> Upstream<'_> {
    match (&view.federation, &view.remote) {
        (Some(federation), _) => match &federation.primary {
            None => Upstream::Unknown,
            Some(primary) if primary.value.holder == federation.site => {
                Upstream::Nobody(Some((federation, primary)))
            }
            Some(primary) => Upstream::Site(federation, primary),
        },
        (None, Some(remote)) => Upstream::Remote(remote),
        (None, None) => Upstream::Nobody(None),
    }
}

/// Whether the site is a standby site, as far as is known: its leader is a standby leader.
#[must_use]
pub fn is_standby_site(view: &View) -> bool {
    match of(view) {
        Upstream::Site(..) | Upstream::Remote(_) => true,
        Upstream::Nobody(_) | Upstream::Unknown => false,
    }
}

/// Whom a federation's site follows, as its section `standby_cluster` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nobody: there is no section.
    Nobody,
    /// The nodes of another site.
    Nodes(Vec<(String, u16)>),
}

/// `None`: of no federation the section is intent, and in one nobody may know now. It stays as it is.
#[must_use]
pub fn shown(view: &View) -> Option<Shown> {
    match of(view) {
        Upstream::Nobody(None) | Upstream::Remote(_) | Upstream::Unknown => None,
        Upstream::Nobody(Some(_)) => Some(Shown::Nobody),
        Upstream::Site(federation, _) => {
            let site = rejoin::upstream_site(federation)?;
            match rejoin::site_addresses(federation, &site)? {
                Follow::Site { addresses, .. } => Some(Shown::Nodes(addresses)),
                Follow::Nobody | Follow::Member { .. } | Follow::Remote { .. } => None,
            }
        }
    }
}

/// How a standby leader follows a cluster of no federation.
pub(super) fn remote_follow(remote: &RemoteView) -> Follow {
    Follow::Remote { addresses: remote.addresses.clone(), slot: remote.slot.clone() }
}

/// How a node without data copies it: from one that has answered and is of this cluster's database, or
/// by what needs nobody.
pub(super) fn remote_source(remote: &RemoteView, initialize: &Initialize) -> Option<Follow> {
    let wanted: Option<SystemIdentifier> = match initialize {
        Initialize::Done(wanted) => Some(*wanted),
        Initialize::Absent | Initialize::Running | Initialize::Unreadable => None,
    };
    let fits = remote
        .found
        .as_ref()
        .map(|found| wanted.is_none_or(|wanted| wanted == found.system_identifier));
    fits.unwrap_or(remote.addresses.is_empty()).then(|| remote_follow(remote))
}

/// Whom a member streams from while another leads: the one that its `replicatefrom` names, while that one
/// runs and does not itself stream from here in the end; else the leader. Of a loop every member
/// streams from the leader. `own` is this node's own tag, which its record tells later.
#[must_use]
pub fn of_member<'a>(
    members: &'a BTreeMap<NodeName, Arc<Member>>,
    leader: &'a NodeName,
    (member, own): (&NodeName, Option<&'a NodeName>),
) -> &'a NodeName {
    let Some(wanted) = own.filter(|wanted| *wanted != member && runs(members, wanted)) else {
        return leader;
    };
    let mut seen = BTreeSet::new();
    let mut at = wanted;
    while at != leader && seen.insert(at) {
        if at == member {
            return leader;
        }
        let next = members.get(at).and_then(|there| there.replicatefrom.as_ref());
        match next.filter(|next| runs(members, next)) {
            Some(next) => at = next,
            None => break,
        }
    }
    wanted
}

fn runs(members: &BTreeMap<NodeName, Arc<Member>>, name: &NodeName) -> bool {
    members.get(name).is_some_and(|member| member.state == "running")
}

/// The same as a target: nobody for a node that is to have its WAL from the archive.
pub(super) fn member_follow(
    site: &SiteView,
    leader: &NodeName,
    (me, replicatefrom, nostream): (&NodeName, Option<&NodeName>, bool),
) -> Option<Follow> {
    let from = of_member(&site.members, leader, (me, replicatefrom));
    let target = rejoin::member_follow(site, from)?;
    Some(if nostream { Follow::Nobody } else { target })
}
