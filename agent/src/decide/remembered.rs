//! What a node knows of its cluster when the site DCS knows nothing of it any more: all keys were deleted,
//! or it is another store (ADR 40). Nobody but the running primary brings the keys back at once; anybody
//! else needs the word of every member that is remembered, and no second database is made.

use std::collections::{BTreeMap, BTreeSet};

use regent_proto::name::NodeName;

use super::view::{DataDirectory, Initialize, Member, Memory, PeerAnswer, PeersView, SiteView};
use super::{Judge, Unfit};

/// The members of the cluster, as they were last seen with a leader among them; kept beside the data
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// REST addresses by member, its own among them. Empty where only `sync` has named it.
    pub members: BTreeMap<NodeName, String>,
}

/// What a node remembers, where the keys that would say it are gone: a cluster that was made always has
/// `initialize`. One that cannot be read is not gone.
#[must_use]
pub fn when_keys_are_gone<'m>(site: &SiteView, memory: &'m Memory) -> Option<&'m Remembered> {
    match site.initialize {
        Initialize::Absent | Initialize::Running => memory.cluster.as_ref(),
        Initialize::Done(_) | Initialize::Unreadable => None,
    }
}

/// Whom a race asks, and where: the members, and those that only this node still knows.
#[must_use]
pub fn asked(me: &NodeName, site: &SiteView, memory: &Memory) -> BTreeMap<NodeName, String> {
    let remembered = when_keys_are_gone(site, memory).map(|known| known.members.clone());
    let mut asked = remembered.unwrap_or_default();
    let there = site.members.iter().map(|(name, member)| (name.clone(), member.api_url.clone()));
    asked.extend(there);
    asked.remove(me);
    asked
}

/// It has, or has begun, a copy of some database.
#[must_use]
pub fn has_data(member: &Member) -> bool {
    !matches!(member.role.as_str(), "" | "uninitialized")
}

impl Judge<'_> {
    /// Only a picture with a leader, its record and this node's own says who the members are: without
    /// them keys are missing. Whom `sync` names belongs to it also while it is away: what was
    /// acknowledged may be with it.
    pub(super) fn remember_cluster(&mut self) {
        let Some(site) = &self.view.site else { return };
        let leader = site.leader.as_ref().filter(|leader| !leader.unreadable);
        let made = matches!(site.initialize, Initialize::Done(_));
        let Some(leader) = leader.filter(|_| made) else { return };
        let there = |name: &NodeName| site.members.contains_key(name);
        if !there(&leader.name) || !there(&self.policy.me) {
            return;
        }
        let named: BTreeSet<&NodeName> =
            site.sync.standbys.iter().chain(&site.sync.leader).collect();
        let before = self.memory.cluster.take().unwrap_or_default().members;
        let away = named
            .into_iter()
            .map(|name| (name.clone(), before.get(name).cloned().unwrap_or_default()));
        let mut members: BTreeMap<NodeName, String> = away.collect();
        let seen = site.members.iter().map(|(name, member)| (name.clone(), member.api_url.clone()));
        members.extend(seen);
        self.memory.cluster = Some(Remembered { members });
    }

    /// The keys are gone: why this node does not take the leader key yet. Its holder, if it writes, has
    /// the first turn and makes it anew, or has passed its deadline when the TTL is over. From then on
    /// everybody that is remembered has to say what it has: with no `sync`, `status` and `history` left, what they
    /// have is all that tells whose data count. A person who asks for this very node knows what is missing.
    pub(super) fn lacks_word(&self, site: &SiteView, peers: Option<&PeersView>) -> Option<Unfit> {
        let known = when_keys_are_gone(site, &self.memory)?;
        if site.leaderless < self.policy.ttl {
            return Some(Unfit::KeysGone);
        }
        let silent = known.members.keys().find(|name| {
            **name != self.policy.me
                && !peers
                    .and_then(|peers| peers.answers.get(*name))
                    .is_some_and(PeerAnswer::tells_what_it_has)
        });
        silent.filter(|_| !self.is_wanted_though_behind(site)).cloned().map(Unfit::Unheard)
    }

    /// Another member has data already: whoever makes a database would make a second one (I13).
    pub(super) fn others_have_data(&self, site: &SiteView) -> bool {
        site.members.iter().any(|(name, member)| *name != self.policy.me && has_data(member))
    }

    /// The database that this node has just made, whoever else turned out to have data meanwhile.
    pub(super) fn made_a_second_one(&self, site: &SiteView) -> bool {
        let has_one = matches!(self.view.postgres.data, DataDirectory::Cluster(_));
        has_one
            && site.initialize == Initialize::Running
            && self.view.federation.is_none()
            && self.memory.cluster.is_none()
            && self.others_have_data(site)
    }
}
