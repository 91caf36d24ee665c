//! What the whole federation agrees on: its topology, `primary` and the lease of its holder, and who
//! held it before. Every write of `primary` is an edge of protocol.md section 2 (`crate::edges`).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Record, Unknown, millis, record};
use crate::epoch::Epoch;
use crate::name::{NodeName, OperationId, RequestId, SiteName, SystemIdentifier, Tenure};
use crate::promotion::AcceptedLoss;
use crate::time::WallTime;
use crate::timeline::HistoryPoint;
use crate::topology::Topology;

/// `topology`: the topology file as applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyRecord {
    /// Format version.
    pub version: u32,
    /// The file, to the letter: what `regentctl topology show` prints.
    pub yaml: String,
    /// What the file says, for readers that do not parse YAML.
    pub topology: Topology,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for TopologyRecord {
    const KIND: &'static str = "topology";
    /// The two forms say the same, and the topology is one that would be accepted today.
    fn check(&self) -> Result<(), String> {
        let (parsed, _) = Topology::parse(&self.yaml).map_err(|e| format!("yaml: {e}"))?;
        if parsed == self.topology {
            Ok(())
        } else {
            Err("`topology` is not what `yaml` says".to_owned())
        }
    }
}

/// `primary`: the one record that decides which site may write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Primary {
    /// Format version.
    pub version: u32,
    /// Identity of the federation; a cluster's site DCS records the one it belongs to.
    pub federation: uuid::Uuid,
    /// Identity of the database; unknown until the first holder has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<SystemIdentifier>,
    /// The primary site.
    pub holder: SiteName,
    /// Up by one each time primacy moves.
    pub epoch: Epoch,
    /// What may happen next.
    pub state: PrimaryState,
    /// What every history that opens must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<HistoryPoint>,
    /// The sites that may take primacy.
    pub electorate: BTreeSet<SiteName>,
    /// Upper bound of the primary lease's TTL in use.
    #[serde(rename = "ttl_max_ms", with = "millis")]
    pub ttl_max: Duration,
    /// Upper bound of a promise's span in use.
    #[serde(rename = "span_max_ms", with = "millis")]
    pub span_max: Duration,
    /// The operator's `fence` verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_fenced: Option<WritesFenced>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Primary {
    const KIND: &'static str = "primary";
    fn check(&self) -> Result<(), String> {
        if self.electorate.contains(&self.holder) {
            Ok(())
        } else {
            Err(format!("holder {} is not in the electorate", self.holder))
        }
    }
}

/// The states of `primary`; its edges are the transactions of protocol.md section 2.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum PrimaryState {
    /// The holder writes, or may acquire.
    Open,
    /// The holder gives primacy to `to`: it stops and posts a token.
    Handover {
        /// The next primary site.
        to: SiteName,
        /// The switchover.
        operation: OperationId,
        /// How long A's leader waits on its own boot clock before it rolls back.
        #[serde(rename = "span_ms", with = "millis")]
        span: Duration,
    },
    /// The holder has stopped cleanly; `to` may take.
    Token {
        /// The next primary site.
        to: SiteName,
        /// The switchover.
        operation: OperationId,
        /// How long A's leader waits on its own boot clock before it rolls back.
        #[serde(rename = "span_ms", with = "millis")]
        span: Duration,
        /// The proof of the stop.
        token: Token,
    },
    /// No renewal can succeed any more; `to` may take after the wait.
    Fenced {
        /// The site to be promoted.
        to: SiteName,
        /// The promotion.
        operation: OperationId,
        /// What it may lose. It stands here so that whoever promotes compares it with the rest.
        #[serde(default)]
        accepted: AcceptedLoss,
    },
}

impl PrimaryState {
    /// The operation that is under way, if any.
    #[must_use]
    pub fn operation(&self) -> Option<&OperationId> {
        match self {
            Self::Open => None,
            Self::Handover { operation, .. }
            | Self::Token { operation, .. }
            | Self::Fenced { operation, .. } => Some(operation),
        }
    }

    /// The site that is being promoted, if any.
    #[must_use]
    pub fn fenced_for(&self) -> Option<&SiteName> {
        match self {
            Self::Open | Self::Handover { .. } | Self::Token { .. } => None,
            Self::Fenced { to, .. } => Some(to),
        }
    }

    /// The state's name as in the record.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Handover { .. } => "handover",
            Self::Token { .. } => "token",
            Self::Fenced { .. } => "fenced",
        }
    }
}

/// What a holder that stopped cleanly leaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Who stopped.
    pub from: SiteName,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// Identity of the database.
    pub system_identifier: SystemIdentifier,
    /// End of the shutdown checkpoint record: B's history must end exactly here.
    pub end: HistoryPoint,
    /// The tenure that wrote it.
    pub tenure: Tenure,
    /// When the site was marked and its clients were cut, for people.
    #[serde(default)]
    pub stopping_at: WallTime,
}

/// Why writes are fenced by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritesFenced {
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// `lease`: rewritten by the holder at every renewal; an ordinary record without a store lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Format version.
    pub version: u32,
    /// The holder's site.
    pub site: SiteName,
    /// The holder.
    pub node: NodeName,
    /// The holder's term.
    pub tenure: Tenure,
    /// The epoch it holds.
    pub epoch: Epoch,
    /// Counts renewals of this tenure.
    pub counter: u64,
    /// Which request wrote this, so that an unknown outcome can be read back.
    pub request: RequestId,
    /// TTL in use, for display; waits use `primary.ttl_max`.
    #[serde(rename = "ttl_ms", with = "millis")]
    pub ttl: Duration,
    /// The holder has stopped, or its token or release stands.
    #[serde(default)]
    pub released: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Lease, "lease");

/// `history/EPOCH`: who became primary, when, why, and at which WAL position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochHistory {
    /// Format version.
    pub version: u32,
    /// The epoch that began.
    pub epoch: Epoch,
    /// The new primary site.
    pub site: SiteName,
    /// The node that took it.
    pub node: NodeName,
    /// The site before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SiteName>,
    /// The operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What the new history contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<HistoryPoint>,
    /// When, for people.
    pub at: WallTime,
    /// When the site before cut its clients, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_at: Option<WallTime>,
    /// Bytes lost, at least; 0 for a switchover.
    pub lost_bytes: u64,
    /// Of a promotion: the commits of at most this span were lost; `None` also where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at_most_ms: Option<u64>,
    /// Timelines that began in this epoch: where, and the promotion's id.
    #[serde(default)]
    pub promotions: Vec<HistoryPoint>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(EpochHistory, "epoch history");
