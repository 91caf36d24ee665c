//! Whether a member can take the leader key at all, by what is known of it alone. One judgement for a
//! node of itself, for a rival in a race, and for whom a leader makes room: whoever takes a rival for one
//! that could lead must not wait for one that never will.

use regent_proto::name::NodeName;
use regent_proto::timeline::Containment;

use super::standing::{Last, Wal};
use super::upstream::{self, Upstream};
use super::view::{DiskEpoch, Memory, PeerAnswer, PrePromote, SiteView, View};
use super::{Judge, Unfit, failsafe};

/// A member, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// Its WAL, with its name.
    pub(super) wal: Wal<'a>,
    /// It may not lead.
    pub(super) nofailover: bool,
}

impl<'a> Candidate<'a> {
    /// A member that answered.
    pub(super) fn of(name: &'a NodeName, answer: &'a PeerAnswer) -> Self {
        let wal = Wal {
            name,
            end: answer.position,
            timeline: answer.timeline,
            ancestry: answer.ancestry.as_ref(),
        };
        Self { wal, nofailover: answer.nofailover }
    }
}

/// This node would not lead, for what only it knows: it tells so as `nofailover`. Otherwise it would keep
/// those that it is ahead of from the key for as long as that lasts. While another leads it is in nobody's
/// way, and commits may wait for it.
#[must_use]
pub fn refuses(me: &NodeName, view: &View, memory: &Memory) -> bool {
    let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
    let another_leads = leader.is_some_and(|leader| leader.name != *me);
    let open = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
    let refused = matches!(memory.pre_promote, PrePromote::Refused(_));
    !open && !another_leads && (refused || lacks_epoch(view))
}

/// It could lead the primary site, but never open: the epoch on its disk cannot be read.
pub(super) fn lacks_epoch(view: &View) -> bool {
    view.federation.as_ref().is_some_and(|federation| {
        matches!(federation.disk_epoch, DiskEpoch::Unreadable(_))
            && !upstream::is_standby_site(view)
    })
}

impl Judge<'_> {
    /// Why it does not take the key, whoever else there is; `None`: nothing that is known stands
    /// against it.
    pub(super) fn disqualified(&self, site: &SiteView, who: Candidate<'_>) -> Option<Unfit> {
        let wal = who.wal;
        if who.nofailover {
            return Some(Unfit::NoFailover);
        }
        if failsafe::site::barred(&site.failsafe, wal.name) {
            return Some(Unfit::NotInFailsafe);
        }
        if site.sync.unreadable && self.policy.synchronous_mode {
            // Unknown is not "anybody": the record may name others (I3, I9).
            return Some(Unfit::SyncUnreadable);
        }
        if self.synchronous_rule_applies(site)
            && site.sync.leader.as_ref() != Some(wal.name)
            && !site.sync.standbys.contains(wal.name)
        {
            return Some(Unfit::NotSynchronous);
        }
        // A Patroni member tells no ancestry, and knows no floor that would keep it.
        let lacks =
            wal.ancestry.is_some_and(|told| self.floor_of(told, wal.end) != Containment::Contained);
        if self.holds_primacy() && lacks {
            return Some(Unfit::LacksFloor);
        }
        if self.policy.check_timeline && self.primary_site() {
            let timeline = wal.ancestry.map(|told| told.timeline).or(wal.timeline);
            let last = Last::of(site).map(|last| last.ancestry.timeline);
            if last.is_some_and(|last| timeline.is_none_or(|timeline| timeline < last)) {
                return Some(Unfit::OlderTimeline);
            }
        }
        let lag = site.optime.map_or(0, |optime| optime.bytes_since(wal.end));
        (lag > self.policy.maximum_lag_on_failover).then_some(Unfit::Lagging)
    }

    /// This site holds primacy, as is known.
    pub(super) fn holds_primacy(&self) -> bool {
        matches!(upstream::of(self.view), Upstream::Nobody(Some(_)))
    }
}
