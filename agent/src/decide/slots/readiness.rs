//! Whether a logical slot that was copied from the leader can be used here.
//!
//! The copy decodes with the catalog as of its `catalog_xmin`. Between the reading of the leader's slot
//! and the moment when this node's feedback reached the leader, only the leader's own slot held vacuum
//! back, and that moves on. So a copy is safe once two things were seen together after this node streamed
//! with it: the leader holds a `catalog_xmin` in the physical slot that this node streams through, and the
//! copy has come to that, and to where the leader's slot then was. All that was vacuumed before is behind
//! it, and from then on nothing is that is not: such a slot's `catalog_xmin` moves only with feedback, and
//! that counts the copy. It must also not be ahead of what the leader has published.
//!
//! And it decodes from its `restart_lsn` on. On the leader a snapshot lies on disk for that position, which
//! is not copied: where transactions ran just then, a decoder here begins without it, finds its footing only
//! when those are over, and passes over whatever was committed before (snapbuild.c; PostgreSQL 17's
//! slotsync.c refuses such a slot for the same reason). A server moves `restart_lsn` only to where it wrote a
//! snapshot itself, once the consumer has confirmed what came before. So a copy also has to have moved
//! its `restart_lsn` here once since it was copied.
//!
//! What is "after" is told by WAL: the leader's reading of its slots carries its position, and this node
//! remembers how far its upstream said it was, in the stream of a server that has the copy. So a leader
//! that writes nothing at all proves nothing, until its next record.

use std::collections::BTreeMap;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::TimelineId;

use crate::decide::view::{Member, Origin, Slot, Status};

/// A transaction's number as PostgreSQL has it in slots: 32 bits that come round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Xid(pub u32);

impl Xid {
    /// Whether it is `other` or after it (TransactionIdFollowsOrEquals, access/transam/transam.c).
    #[must_use]
    pub fn reaches(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) < 1 << 31
    }

    fn later(self, other: Self) -> Self {
        if self.reaches(other) { self } else { other }
    }
}

/// What a server's slots hold back of the catalog, as it read them at one moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Horizon {
    /// How far its WAL was flushed before it read them: that is what it tells in streams, so what is only
    /// inserted would look later than it is.
    pub at: Lsn,
    /// By slot, of those that hold anything back.
    pub xmins: BTreeMap<String, Xid>,
}

/// What is known of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// From whom it was looked after: under another leader all begins anew.
    pub leader: NodeName,
    /// On this timeline.
    pub timeline: TimelineId,
    /// How far the upstream was, as it told a server that had the copy.
    pub since: Option<Lsn>,
    /// From where it decoded when it was first looked at: not before where it was copied.
    pub began: Option<Lsn>,
    /// What it has to reach, once that is known.
    pub threshold: Option<Xid>,
    /// It can be used.
    pub ready: bool,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Who leads.
    pub leader: &'a NodeName,
    /// What it tells.
    pub told: &'a Member,
    /// The name of this node's own slot there.
    pub own: &'a str,
    /// The copy's name.
    pub name: &'a str,
    /// The copy.
    pub slot: &'a Slot,
    /// This server.
    pub status: &'a Status,
    /// Where the leader has published the slot.
    pub published: Option<Lsn>,
}

/// What is known now, from what was known.
#[must_use]
pub fn look(known: Option<Readiness>, seen: &Seen<'_>) -> Readiness {
    let timeline = seen.status.ancestry.timeline;
    // That is of the copy, whoever leads.
    let copy = known.as_ref().filter(|_| seen.slot.origin.is_copy());
    let began = copy.and_then(|known| known.began).or(seen.slot.restart);
    let fresh = Readiness {
        leader: seen.leader.clone(),
        timeline,
        since: seen.status.upstream_end,
        began,
        threshold: None,
        ready: false,
    };
    let same = known.filter(|known| known.leader == *seen.leader && known.timeline == timeline);
    let Some(mut known) = same else { return fresh };
    if seen.slot.is_lost() || !seen.slot.origin.is_copy() {
        return fresh;
    }
    known.since = known.since.or(seen.status.upstream_end);
    let Some(horizon) = &seen.told.horizon else { return fresh };
    // What was read before the copy was here says nothing of it.
    if known.since.is_none_or(|since| horizon.at <= since) {
        return known;
    }
    let Some(feedback) = horizon.xmins.get(seen.own) else {
        // Nothing holds vacuum back for this node.
        return fresh;
    };
    if known.threshold.is_none() {
        let leaders = horizon.xmins.get(seen.name);
        known.threshold = leaders.map(|leaders| feedback.later(*leaders));
    }
    let reached = known
        .threshold
        .zip(seen.slot.catalog_xmin)
        .is_some_and(|(threshold, has)| has.reaches(threshold));
    let behind = seen.slot.confirmed <= seen.published;
    // One that was found safe before has moved, and was not copied again since.
    let moved = seen.slot.origin == Origin::Proven || seen.slot.restart > known.began;
    known.ready = known.ready || (reached && behind && moved && seen.published.is_some());
    known
}
