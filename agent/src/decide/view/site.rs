//! The site's DCS: its keys as values, each unreadable one told as such.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, SystemIdentifier};
use regent_proto::record::{Mark, Promise, Promotions, SeenEpoch};
use regent_proto::time::BootTime;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::super::quorum::Voting;
use super::At;
use crate::decide::slots::readiness::Horizon;

/// The site DCS, from one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteView {
    /// Time since the store last answered.
    pub age: Duration,
    /// The leader key.
    pub leader: Option<LeaderKey>,
    /// Time since this process first saw the leader key gone; zero while it is there.
    pub leaderless: Duration,
    /// `initialize`.
    pub initialize: Initialize,
    /// Members that published themselves, without those whose record cannot be read.
    pub members: BTreeMap<NodeName, Arc<Member>>,
    /// `sync`.
    pub sync: SyncView,
    /// WAL position that the last leader published.
    pub optime: Option<Lsn>,
    /// The leader's history, as it published it in its own member record.
    pub ancestry: Option<Ancestry>,
    /// A `failover` request, with the revision of its key.
    pub failover: Option<At<FailoverRequest>>,
    /// The mark of a handover.
    pub mark: Option<At<Mark>>,
    /// Revision of a mark that cannot be read.
    pub unreadable_mark: Option<u64>,
    /// Highest epoch the site has seen.
    pub seen_epoch: Option<At<SeenEpoch>>,
    /// Revision of a `regent/epoch` that cannot be read.
    pub unreadable_epoch: Option<u64>,
    /// `failsafe`.
    pub failsafe: FailsafeRecord,
    /// What the site has promised to the primary site.
    pub promise: PromiseRecord,
    /// What the last leader published of slots.
    pub published: PublishedSlots,
    /// `regent/promotions`: whoever last opened here, or was about to.
    pub promotions: Option<At<Promotions>>,
    /// Patroni's `history`, which has no ids.
    pub history: Option<At<Ancestry>>,
}

/// The key `status`, without its position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedSlots {
    /// `slots`: where each one is.
    pub slots: BTreeMap<String, Lsn>,
    /// `retain_slots`: slots of members that were there lately.
    pub retain: BTreeSet<String>,
}

/// `failsafe`: who may take the leader key, since its holder asks them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailsafeRecord {
    /// There is none.
    Absent,
    /// Nobody knows what it says.
    Unreadable {
        /// Its revision.
        revision: u64,
    },
    /// REST addresses by member.
    Read {
        /// The members.
        members: BTreeMap<NodeName, String>,
        /// Its revision.
        revision: u64,
    },
}

impl FailsafeRecord {
    /// Its revision, `None` when it does not exist.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Unreadable { revision } | Self::Read { revision, .. } => Some(*revision),
        }
    }
}

/// `regent/promise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromiseRecord {
    /// There is none.
    Absent,
    /// Nobody knows what it says.
    Unreadable {
        /// Its revision.
        revision: u64,
    },
    /// The last one that was given.
    Read(At<Promise>),
}

/// The leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    /// Who.
    pub name: NodeName,
    /// Its value is no member's name: somebody has it, nobody knows who.
    pub unreadable: bool,
    /// Whether it is bound to the lease that this process renews.
    pub bound_to_my_lease: bool,
    /// It carries this node's name under a lease that no agent of this node has had.
    pub twin: bool,
    /// Its revision.
    pub revision: u64,
}

/// `initialize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initialize {
    /// Nobody has begun.
    Absent,
    /// Somebody runs a bootstrap.
    Running,
    /// Done.
    Done(SystemIdentifier),
    /// Neither empty nor an identifier.
    Unreadable,
}

/// A member's record, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each tag is one independent fact")]
pub struct Member {
    /// PostgreSQL's host.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// REST address.
    pub api_url: String,
    /// Where it answers for its site while it leads, with failsafe of the quorum.
    pub promise_url: Option<String>,
    /// Patroni's state word.
    pub state: String,
    /// Patroni's role word.
    pub role: String,
    /// It receives WAL.
    pub streaming: bool,
    /// Present timeline.
    pub timeline: Option<TimelineId>,
    /// WAL end.
    pub position: Option<Lsn>,
    /// Tag `nofailover`, or a failover priority of zero.
    pub nofailover: bool,
    /// Tag `nosync`, or a synchronous priority of zero.
    pub nosync: bool,
    /// Tag `sync_priority`.
    pub sync_priority: i64,
    /// Tag `nostream`: it replays the archive and does not stream.
    pub nostream: bool,
    /// Tag `replicatefrom`: the member that it streams from, instead of the leader.
    pub replicatefrom: Option<NodeName>,
    /// Tag `clonefrom`: it is there to be copied from.
    pub clonefrom: bool,
    /// What its slots hold back of the catalog.
    pub horizon: Option<Horizon>,
}

/// A switchover or failover request inside the site (Patroni's `failover` key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRequest {
    /// Who should give up.
    pub leader: Option<NodeName>,
    /// Who should lead.
    pub candidate: Option<NodeName>,
    /// When, where it is not for now.
    pub scheduled: Option<Schedule>,
}

/// When a request is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// On the boot clock, as the wall clock was when this process first saw the request.
    pub due: Due,
    /// As it stands in the request, for people.
    pub text: String,
}

/// An instant of a wall clock on the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Since this machine was booted, or to come.
    At(BootTime),
    /// Before this machine was booted.
    BeforeBoot,
}

/// `sync`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncView {
    /// Revision of the key, `None` when it does not exist.
    pub revision: Option<u64>,
    /// Who wrote it as leader.
    pub leader: Option<NodeName>,
    /// Whose confirmation commits wait for.
    pub standbys: BTreeSet<NodeName>,
    /// There is a record, but nobody knows what it says.
    pub unreadable: bool,
    /// How many votes a standby needs beside its own to lead; 0 unless the mode is `quorum`.
    pub quorum: usize,
}

impl SyncView {
    /// Who may lead beside its leader.
    #[must_use]
    pub fn voting(&self) -> Voting {
        Voting { voters: self.standbys.clone(), quorum: self.quorum }
    }
}
