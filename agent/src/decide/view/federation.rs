//! The global quorum's records, and what this process and this node hold and know of primacy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::name::{SiteName, Tenure};
use regent_proto::record::{Assignment, EpochHistory, Lease, Primary, Report, SeenEpoch};
use regent_proto::time::Deadline;

use super::At;

/// The global quorum's records of this federation, from one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct FederationView {
    /// This site.
    pub site: SiteName,
    /// Time since the quorum last answered; `None` before its first answer.
    pub age: Option<Duration>,
    /// `primary`.
    pub primary: Option<At<Primary>>,
    /// Time since this process first saw this revision of `primary`.
    pub primary_age: Duration,
    /// `lease`.
    pub lease: Option<At<Lease>>,
    /// Its revision, also where it cannot be read.
    pub lease_revision: Option<u64>,
    /// Time since this process first saw this revision of `lease`, or that there is none.
    pub lease_age: Duration,
    /// How the present epoch began; there is none of a federation's first one.
    pub history: Option<At<EpochHistory>>,
    /// This site's assignment.
    pub assignment: Option<Assignment>,
    /// Everybody's reports.
    pub reports: BTreeMap<SiteName, Arc<Report>>,
    /// Highest epoch on this node's disk.
    pub disk_epoch: DiskEpoch,
    /// An operation of the federation runs.
    pub operation_runs: bool,
}

/// The epoch file beside the data directory (rung 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskEpoch {
    /// There is none: this node has not seen an epoch yet.
    Absent,
    /// There is one, but nobody knows what it says: unknown, so fenced.
    Unreadable(String),
    /// What this node has seen.
    Seen(SeenEpoch),
}

/// What the renewal thread holds for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenureView {
    /// It has a store lease of its own.
    pub has_lease: bool,
    /// Deadline of the site's leader key; NEVER while it is not held.
    pub site: Deadline,
    /// The primary lease, while this process holds it.
    pub primary: Option<PrimaryTenure>,
}

/// A held primary lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryTenure {
    /// The tenure.
    pub tenure: Tenure,
    /// The epoch it was acquired under.
    pub epoch: Epoch,
    /// Until when it lets write.
    pub deadline: Deadline,
    /// Revision of `lease` that it stands at.
    pub lease_revision: u64,
    /// The deadline rests on the other sites' promises, not on an acknowledged renewal.
    pub by_promise: bool,
}
