//! Marks that an agent keeps in its own site's DCS, under `regent/`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Unknown, millis, record};
use crate::epoch::Epoch;
use crate::lsn::Lsn;
use crate::name::{NodeName, OperationId, SiteName, Tenure};
use crate::timeline::Ancestry;

/// `regent/mark`: the site stops for a handover; no node of it acquires or opens (rule 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Format version.
    pub version: u32,
    /// The operation.
    pub operation: OperationId,
    /// Revision of `primary` in the global quorum that asked for it.
    pub primary_revision: u64,
    /// Who wrote it.
    pub node: NodeName,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Mark, "mark");

/// `regent/epoch`: the highest epoch the site has seen, with its holder (I27).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenEpoch {
    /// Format version.
    pub version: u32,
    /// Identity of the federation; a cluster belongs to one only.
    pub federation: uuid::Uuid,
    /// The epoch.
    pub epoch: Epoch,
    /// Its holder.
    pub holder: SiteName,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(SeenEpoch, "seen epoch");

/// `regent/promise`: this site does not take primacy for `span`, so that the holder named here may
/// go on writing without the quorum (protocol.md rule 11). Written before it is answered; whoever
/// reads it counts it as given at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Format version.
    pub version: u32,
    /// The primary site it was given to.
    pub site: SiteName,
    /// The node that writes there.
    pub node: NodeName,
    /// Its tenure of the primary lease; a token of this very tenure ends the promise.
    pub tenure: Tenure,
    /// The epoch of that tenure.
    pub epoch: Epoch,
    /// How long it lasts.
    #[serde(rename = "span_ms", with = "millis")]
    pub span: Duration,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Promise, "promise");

/// `regent/promotions`: the history of whoever last opened in this site, with the ids of its
/// promotions. Written under the leader key before a promotion, and again once the server is open: a
/// race for the leader key tells by it which of two histories that have parted was the last leader's.
/// What a server's own history is, only its own WAL and data directory tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotions {
    /// Format version.
    pub version: u32,
    /// Whose.
    pub node: NodeName,
    /// Its history.
    pub ancestry: Ancestry,
    /// It was about to promote, with WAL up to here: whatever it did since, it did on a timeline
    /// that began about here and has no name yet. `None`: it was open on the history above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotes_at: Option<Lsn>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Promotions, "promotions");
