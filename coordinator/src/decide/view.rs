//! The view: everything a decision may look at.
//!
//! Built by `observe` from the records of one federation; nothing here judges. Each record comes
//! with its revision and with the instant, on this process's boot clock, at which this process
//! first saw that revision: ages are never taken from stamps that others wrote (I11).
//! A record that can't be read is a value of its own and never counts as absent (I9, I13).

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::Epoch;
use regent_proto::keys::GlobalKey;
use regent_proto::name::{CoordinatorName, FederationName, OperationId, SiteName, Tenure};
use regent_proto::record::{
    Assignment, CoordinatorLeader, CoordinatorMember, EpochHistory, Lease, Operation, Primary,
    Report, RunningOperation, TopologyRecord,
};
use regent_proto::time::{BootTime, WallTime};
use regent_proto::transactions::Read;

/// A modification revision in the global quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// A store lease, by the store's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreLease(pub i64);

/// A record as this process saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// The record.
    pub value: T,
    /// Its revision.
    pub revision: Revision,
    /// The store lease it goes with.
    pub lease: Option<StoreLease>,
    /// When this process first saw this revision (of a report: this sequence number).
    pub since: BootTime,
    /// Whether this process saw it come; false for what it found at its first look, which may be
    /// of any age.
    pub witnessed: bool,
}

/// A record that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The store key.
    pub key: String,
    /// What is wrong, naming the key.
    pub problem: String,
    /// Its revision.
    pub revision: Revision,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Slot<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something that can't be read.
    Unreadable(Unreadable),
    /// A record.
    Read(Seen<T>),
}

impl<T> Slot<T> {
    /// The record, where there is one that can be read.
    #[must_use]
    pub fn read(&self) -> Option<&Seen<T>> {
        match self {
            Self::Absent | Self::Unreadable(_) => None,
            Self::Read(seen) => Some(seen),
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn unreadable(&self) -> Option<&Unreadable> {
        match self {
            Self::Absent | Self::Read(_) => None,
            Self::Unreadable(unreadable) => Some(unreadable),
        }
    }

    /// Its revision; `None` when the key does not exist.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Absent => None,
            Self::Unreadable(unreadable) => Some(unreadable.revision),
            Self::Read(seen) => Some(seen.revision),
        }
    }

    /// Whether the key does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// This coordinator's lease in the store and the tenure it would lead under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The lease.
    pub lease: StoreLease,
    /// Random, one per lease.
    pub tenure: Tenure,
}

/// Whether the global quorum answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quorum {
    /// The watch runs: the records are as the quorum has them.
    Reachable,
    /// The records are as they were when it last answered.
    Unreachable {
        /// Since when.
        since: BootTime,
        /// The last error.
        problem: String,
    },
}

/// How much a site's report is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// A new one was seen within the limit.
    Fresh,
    /// It was found at this process's first look and no newer one has come yet: wait for one.
    Unproven,
    /// No new one for longer than the limit: the site's state is unknown.
    Old,
    /// There is none.
    Missing,
    /// There is one that can't be read.
    Unreadable,
}

/// One federation at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Which.
    pub federation: FederationName,
    /// Boot clock.
    pub now: BootTime,
    /// Wall clock, only to stamp records for people.
    pub wall: WallTime,
    /// Store revision of this picture.
    pub revision: Revision,
    /// Whether the quorum answers.
    pub quorum: Quorum,
    /// This coordinator's lease in the store.
    pub session: Option<Session>,
    /// `topology`.
    pub topology: Slot<TopologyRecord>,
    /// `primary`.
    pub primary: Slot<Primary>,
    /// `lease`.
    pub lease: Slot<Lease>,
    /// `operation`.
    pub running: Slot<RunningOperation>,
    /// `leader`.
    pub leader: Slot<CoordinatorLeader>,
    /// `sites/S/assignment`.
    pub assignments: BTreeMap<SiteName, Slot<Assignment>>,
    /// `sites/S/report`.
    pub reports: BTreeMap<SiteName, Slot<Report>>,
    /// `operations/ID`.
    pub operations: BTreeMap<OperationId, Slot<Operation>>,
    /// `coordinators/ID`.
    pub coordinators: BTreeMap<CoordinatorName, Slot<CoordinatorMember>>,
    /// `history/EPOCH`.
    pub history: BTreeMap<Epoch, Slot<EpochHistory>>,
}

impl View {
    /// A federation of which nothing is known yet.
    #[must_use]
    pub fn empty(federation: FederationName, now: BootTime) -> Self {
        Self {
            federation,
            now,
            wall: WallTime::default(),
            revision: Revision::default(),
            quorum: Quorum::Unreachable { since: now, problem: "not read yet".to_owned() },
            session: None,
            topology: Slot::Absent,
            primary: Slot::Absent,
            lease: Slot::Absent,
            running: Slot::Absent,
            leader: Slot::Absent,
            assignments: BTreeMap::new(),
            reports: BTreeMap::new(),
            operations: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }

    /// A site's report, of whatever age.
    #[must_use]
    pub fn report(&self, site: &SiteName) -> Option<&Seen<Report>> {
        self.reports.get(site).and_then(Slot::read)
    }

    /// A site's assignment.
    #[must_use]
    pub fn assignment(&self, site: &SiteName) -> Option<&Seen<Assignment>> {
        self.assignments.get(site).and_then(Slot::read)
    }

    /// An operation.
    #[must_use]
    pub fn operation(&self, id: &OperationId) -> Option<&Seen<Operation>> {
        self.operations.get(id).and_then(Slot::read)
    }

    /// How long this process has been seeing the present report of a site.
    #[must_use]
    pub fn report_age(&self, site: &SiteName) -> Option<Duration> {
        self.report(site).map(|seen| self.now.since(seen.since))
    }

    /// How much a site's report is worth when reports older than `age_max` are not.
    #[must_use]
    pub fn freshness(&self, site: &SiteName, age_max: Duration) -> Freshness {
        match self.reports.get(site) {
            None | Some(Slot::Absent) => Freshness::Missing,
            Some(Slot::Unreadable(_)) => Freshness::Unreadable,
            Some(Slot::Read(seen)) if self.now.since(seen.since) > age_max => Freshness::Old,
            Some(Slot::Read(seen)) if seen.witnessed => Freshness::Fresh,
            Some(Slot::Read(_)) => Freshness::Unproven,
        }
    }

    /// `primary`, as it was seen, with what else the transactions on it compare.
    #[must_use]
    pub fn read<'a>(&self, primary: &'a Seen<Primary>) -> Read<'a> {
        Read {
            primary: &primary.value,
            primary_revision: primary.revision.0,
            lease_revision: self.lease.revision().map(|revision| revision.0),
        }
    }

    /// The revision of a record; `None` when its key does not exist.
    #[must_use]
    pub fn revision_of(&self, record: &GlobalKey) -> Option<Revision> {
        match record {
            GlobalKey::Topology => self.topology.revision(),
            GlobalKey::Primary => self.primary.revision(),
            GlobalKey::Lease => self.lease.revision(),
            GlobalKey::RunningOperation => self.running.revision(),
            GlobalKey::Leader => self.leader.revision(),
            GlobalKey::Assignment(site) => self.assignments.get(site).and_then(Slot::revision),
            GlobalKey::Report(site) => self.reports.get(site).and_then(Slot::revision),
            GlobalKey::Operation(id) => self.operations.get(id).and_then(Slot::revision),
            GlobalKey::Coordinator(name) => self.coordinators.get(name).and_then(Slot::revision),
            GlobalKey::History(epoch) => self.history.get(epoch).and_then(Slot::revision),
            GlobalKey::Foreign => None,
        }
    }

    /// All records that can't be read.
    #[must_use]
    pub fn unreadable(&self) -> Vec<&Unreadable> {
        let single = [
            self.topology.unreadable(),
            self.primary.unreadable(),
            self.lease.unreadable(),
            self.running.unreadable(),
            self.leader.unreadable(),
        ];
        let mut found: Vec<&Unreadable> = single.into_iter().flatten().collect();
        found.extend(self.assignments.values().filter_map(Slot::unreadable));
        found.extend(self.reports.values().filter_map(Slot::unreadable));
        found.extend(self.operations.values().filter_map(Slot::unreadable));
        found.extend(self.coordinators.values().filter_map(Slot::unreadable));
        found.extend(self.history.values().filter_map(Slot::unreadable));
        found
    }
}
