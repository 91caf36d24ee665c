//! The records: what sites and coordinators tell each other, and the marks an agent keeps in its
//! site's DCS.
//!
//! JSON, versioned, one writer role each (design.md section 4, protocol.md section 1). Fields this
//! version does not know are kept and written back. A record that cannot be read is an error that
//! names its key; it never means "absent" (I9, I13).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::lsn::Lsn;
use crate::name::{
    CoordinatorName, NodeName, OperationId, RequestId, SiteName, SystemIdentifier, Tenure,
};
use crate::time::WallTime;
use crate::timeline::{Ancestry, HistoryPoint, TimelineId};
use crate::topology::Topology;

/// Fields of a newer version, kept as they came.
pub type Unknown = BTreeMap<String, serde_json::Value>;

/// The record format this version writes.
pub const VERSION: u32 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key} cannot be read as {kind}: {problem}; it is ignored until it is repaired")]
pub struct RecordError {
    /// The store key.
    pub key: String,
    /// The record type expected.
    pub kind: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// A JSON record with a version.
pub trait Record: Serialize + DeserializeOwned {
    /// The record type, for messages.
    const KIND: &'static str;

    /// The version found in the record.
    fn version(&self) -> u32;

    /// Checks what the types alone do not say. The default accepts.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Reads a record; `key` is for the message.
    fn decode(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let error =
            |problem: String| RecordError { key: key.to_owned(), kind: Self::KIND, problem };
        let record: Self = serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
        if record.version() != VERSION {
            return Err(error(format!("version {} instead of {VERSION}", record.version())));
        }
        record.check().map_err(error)?;
        Ok(record)
    }

    /// The record as stored.
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records hold only values that JSON can express")
    }
}

macro_rules! record {
    ($name:ident, $kind:literal) => {
        impl Record for $name {
            const KIND: &'static str = $kind;
            fn version(&self) -> u32 {
                self.version
            }
        }
    };
}

mod millis {
    //! Spans as whole milliseconds.
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

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
    fn version(&self) -> u32 {
        self.version
    }
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
    fn version(&self) -> u32 {
        self.version
    }
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

/// What a site is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteRole {
    /// Its cluster is writable, as far as `primary` and its lease allow.
    Primary,
    /// Its cluster follows another site.
    Standby,
    /// It came back with a history of its own: never opens, does not archive, is followed by none.
    Quarantined,
    /// It has left the federation.
    Detached,
}

impl std::fmt::Display for SiteRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Quarantined => "quarantined",
            Self::Detached => "detached",
        })
    }
}

/// `sites/S/assignment`: what the elected coordinator wants site S to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Format version.
    pub version: u32,
    /// Up by one at every change.
    pub generation: u64,
    /// What the site is for. It never opens anything: `primary` does.
    pub role: SiteRole,
    /// The epoch it was derived under.
    pub epoch: Epoch,
    /// The site it streams from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SiteName>,
    /// Sites that stream, or will stream, from here: a slot is kept for each of their nodes.
    #[serde(default)]
    pub downstream: BTreeSet<SiteName>,
    /// A switchover asks this site to checkpoint now, once per value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_for: Option<OperationId>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Assignment, "assignment");

/// `sites/S/report`: what site S's leader sees; an absent or old one means unknown, not dead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Format version.
    pub version: u32,
    /// Site.
    pub site: SiteName,
    /// The leader that reports.
    pub node: NodeName,
    /// Counts this leader's reports; a reader tells a fresh one by a new value, never by a clock.
    pub sequence: u64,
    /// When it was written, for people.
    pub at: WallTime,
    /// Highest epoch the site has seen.
    pub epoch: Epoch,
    /// Assignment generation seen; 0 before the first.
    pub generation: u64,
    /// The operation whose checkpoint was done last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpointed_for: Option<OperationId>,
    /// What the site's leader runs as.
    pub role: ReportedRole,
    /// When this leader was last seen to have opened for writes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// Identity of the database, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<SystemIdentifier>,
    /// The leader's history, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestry: Option<Ancestry>,
    /// The leader's WAL end: written (primary), or flushed by the receiver (standby).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Lsn>,
    /// How far behind its upstream the leader replays, in bytes, where it can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// The site whose WAL the leader receives right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming_from: Option<SiteName>,
    /// All nodes of the site.
    pub nodes: Vec<ReportedNode>,
    /// Whether `synchronous_mode` is on in this site.
    pub synchronous_mode: bool,
    /// Members whose confirmation commits wait for (primary), or that confirm the leader's WAL and
    /// would be waited for (standby).
    #[serde(default)]
    pub synchronous_nodes: BTreeSet<NodeName>,
    /// Server settings that matter for a switchover, by name.
    #[serde(default)]
    pub settings: BTreeMap<String, i64>,
    /// Free replication slots and free sender slots on the leader.
    #[serde(default)]
    pub free_slots: i64,
    /// Free walsenders on the leader.
    #[serde(default)]
    pub free_senders: i64,
    /// Replication slots that exist on the leader.
    #[serde(default)]
    pub slots: BTreeSet<String>,
    /// Things that a switchover does not carry over, listed for the plan.
    #[serde(default)]
    pub objects: ReportedObjects,
    /// Reachability of other sites' nodes with the replication role.
    #[serde(default)]
    pub reaches: BTreeMap<SiteName, Reach>,
    /// What a person should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Agent version.
    pub agent: String,
    /// PostgreSQL version number, for example 150018.
    #[serde(default)]
    pub server_version: u32,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Report, "report");

/// An opening for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Under which epoch.
    pub epoch: Epoch,
    /// When, for people.
    pub at: WallTime,
}

/// What a site's leader runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportedRole {
    /// No PostgreSQL runs, or its data directory is not there yet.
    Down,
    /// In recovery.
    Standby,
    /// Writable.
    Primary,
}

/// Whether another site answers on the replication port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Reach {
    /// A replication connection was made to this node.
    Reached {
        /// The node.
        node: NodeName,
    },
    /// None could be made.
    Refused {
        /// Why, in the server's or library's words.
        problem: String,
    },
}

/// One node in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedNode {
    /// Name.
    pub name: NodeName,
    /// Patroni's role word: `primary`, `standby_leader`, `replica`, `uninitialized`, `demoted`.
    pub role: String,
    /// Patroni's state word: `running`, `streaming`, `creating replica`, ….
    pub state: String,
    /// PostgreSQL's address for other sites.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// REST address.
    #[serde(default)]
    pub api_url: String,
    /// Where the node, while it leads its site, answers `POST /regent/promise`; none where
    /// failsafe of the quorum is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise_url: Option<String>,
    /// Present timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// WAL end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Lsn>,
    /// Whom it streams from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<NodeName>,
    /// How its fence stands; `None` from an agent that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<ReportedFence>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How a node's fence stands, for people: shown, warned of, never decided on. In the member's record
/// under `regent`, and in its site's report. Spans in milliseconds; `None` where never measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedFence {
    /// What was left until the deadline when this was written; 0 without a right to write.
    pub deadline_left_ms: u64,
    /// Round trip of the last renewal of the leader key's lease.
    pub site_round_trip_ms: Option<u64>,
    /// Round trip of the last renewal of the primary lease.
    pub primary_round_trip_ms: Option<u64>,
    /// Longest stop.
    pub worst_stop_ms: Option<u64>,
    /// G.
    pub stop_budget_ms: u64,
    /// Longest kill.
    pub worst_kill_ms: Option<u64>,
    /// κ.
    pub kill_budget_ms: u64,
    /// A guardian lives.
    pub guardian: bool,
    /// Its latest wake-up.
    pub worst_wake_ms: Option<u64>,
    /// `off`, `armed`, `failed: why`, `disarmed`.
    pub watchdog: String,
    /// The instance is frozen until a renewal is acknowledged.
    pub frozen: bool,
    /// A pause has taken the fence away.
    pub suspended: bool,
    /// Margins that are thin, one sentence each.
    pub thin: Vec<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Objects a switchover plan lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedObjects {
    /// Prepared transactions, which hold locks on the other side too.
    pub prepared_transactions: u64,
    /// Logical slots, which do not follow.
    pub logical_slots: Vec<String>,
    /// Unlogged tables, which are empty after a promotion.
    pub unlogged_tables: u64,
    /// Databases whose collation version differs from the one recorded.
    pub collation_mismatches: Vec<String>,
}

/// What an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum OperationKind {
    /// Planned: nothing is lost.
    Switchover {
        /// Present primary site.
        from: SiteName,
        /// Next primary site.
        to: SiteName,
    },
}

/// `operations/ID`: one regional operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Format version.
    pub version: u32,
    /// Identity.
    pub id: OperationId,
    /// What was asked for.
    #[serde(rename = "request")]
    pub kind: OperationKind,
    /// Who asked.
    pub requested_by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Hash of the plan that was agreed to.
    pub plan_hash: String,
    /// The plan, as shown.
    pub plan: Plan,
    /// When it was asked for.
    pub requested_at: WallTime,
    /// The step it is in, with the times of all steps so far.
    pub steps: Vec<StepRecord>,
    /// Somebody asked to cancel it.
    #[serde(default)]
    pub cancel_requested: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The epoch under which it began.
    pub epoch: Epoch,
    /// Write outage that the operation measured, in milliseconds: token's stop to B open, as the
    /// agents reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_ms: Option<u64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Operation, "operation");

/// The steps of a switchover, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchoverStep {
    /// Slots made, checkpoints done, lag under the limit. Nothing is interrupted.
    Prepare,
    /// `primary` says handover: A stops and posts the token.
    Handover,
    /// The token stands: B takes.
    Take,
    /// A and the other sites turn to B.
    Follow,
    /// Every site streams on the new timeline.
    Verify,
    /// `primary` went back to A: A opens again.
    RollBack,
    /// Nothing left to do; the outcome is recorded.
    Done,
}

impl SwitchoverStep {
    /// All steps, for tests that must cover each.
    pub const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Handover,
        Self::Take,
        Self::Follow,
        Self::Verify,
        Self::RollBack,
        Self::Done,
    ];

    /// The step's name as in records and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Handover => "handover",
            Self::Take => "take",
            Self::Follow => "follow",
            Self::Verify => "verify",
            Self::RollBack => "roll-back",
            Self::Done => "done",
        }
    }
}

impl std::fmt::Display for SwitchoverStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A step that was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which.
    pub step: SwitchoverStep,
    /// When it was entered.
    pub entered_at: WallTime,
    /// What it waits for, or why it was entered.
    pub note: String,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Outcome {
    /// B is primary.
    Succeeded {
        /// When.
        at: WallTime,
    },
    /// A is primary again, or still.
    RolledBack {
        /// When.
        at: WallTime,
        /// Why.
        reason: String,
    },
    /// Cancelled before the handover.
    Cancelled {
        /// When.
        at: WallTime,
        /// By whom or what.
        reason: String,
    },
    /// A promotion took its place.
    Superseded {
        /// When.
        at: WallTime,
        /// Which.
        by: OperationId,
    },
}

/// What a verb would do, and whether it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for.
    #[serde(rename = "request")]
    pub kind: OperationKind,
    /// The epoch it was made under.
    pub epoch: Epoch,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// What will happen, in order, in words.
    pub steps: Vec<String>,
}

impl Plan {
    /// Whether any check blocks.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.checks.iter().any(|c| c.verdict == Verdict::Block)
    }
}

/// One preflight check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name, stable: tests and scripts refer to it.
    pub name: String,
    /// Pass, warn or block.
    pub verdict: Verdict,
    /// What it saw.
    pub saw: String,
    /// What it wanted.
    pub wanted: String,
    /// What to do next; empty when it passed.
    #[serde(default)]
    pub next: String,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As wanted.
    Pass,
    /// Worth knowing, does not stop the operation.
    Warn,
    /// The operation cannot be executed.
    Block,
}

/// `operation`: the one running operation of the federation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningOperation {
    /// Format version.
    pub version: u32,
    /// Which; `None` when nothing runs (the record stays, so that its revision can be compared).
    pub id: Option<OperationId>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(RunningOperation, "running operation");

/// `leader`: the elected coordinator, bound to a store lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorLeader {
    /// Format version.
    pub version: u32,
    /// Who.
    pub name: CoordinatorName,
    /// Its term.
    pub tenure: Tenure,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(CoordinatorLeader, "coordinator leader");

/// `coordinators/ID`: one coordinator that lives, bound to a store lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorMember {
    /// Format version.
    pub version: u32,
    /// Who.
    pub name: CoordinatorName,
    /// Its site.
    pub site: SiteName,
    /// Its gRPC address, `host:port`.
    pub address: String,
    /// Software version.
    pub software: String,
    /// It serves the API off loopback without TLS because its configuration says so.
    #[serde(default)]
    pub insecure: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(CoordinatorMember, "coordinator");

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
    /// Bytes lost; 0 for a switchover.
    pub lost_bytes: u64,
    /// Timelines that began in this epoch: where, and the promotion's id.
    #[serde(default)]
    pub promotions: Vec<HistoryPoint>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(EpochHistory, "epoch history");

// --- Records in the site DCS, under `{base}/regent/` -------------------------------------------

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

/// `regent/promotions`: the leader's history with the ids of its promotions, for people; what a
/// server's own history is, only its own WAL and data directory tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotions {
    /// Format version.
    pub version: u32,
    /// Whose.
    pub node: NodeName,
    /// Its history.
    pub ancestry: Ancestry,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(Promotions, "promotions");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn primary() -> Primary {
        Primary {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            system_identifier: "7000000000000000001".parse().ok(),
            holder: "eu".parse().expect("a label"),
            epoch: Epoch::FIRST,
            state: PrimaryState::Handover {
                to: "us".parse().expect("a label"),
                operation: "op-1".parse().expect("an identifier"),
                span: Duration::from_secs(30),
            },
            floor: None,
            electorate: ["eu", "us"].iter().map(|s| s.parse().expect("a label")).collect(),
            ttl_max: Duration::from_secs(90),
            span_max: Duration::from_secs(30),
            writes_fenced: None,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_kept() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&primary().encode()).expect("own encoding");
        json["comet"] = serde_json::json!({"tail": 3});
        let read = Primary::decode("primary", json.to_string().as_bytes()).expect("readable");
        let again: serde_json::Value =
            serde_json::from_slice(&read.encode()).expect("own encoding");
        assert_eq!(again["comet"]["tail"], 3);
        assert_eq!(again["state"]["name"], "handover");
        assert_eq!(again["state"]["span_ms"], 30_000);
    }

    #[test]
    fn a_record_of_another_version_is_refused_with_its_key() {
        let mut newer = primary();
        newer.version = 2;
        let error = Primary::decode("/regent/f/primary", &newer.encode()).expect_err("version 2");
        assert!(error.to_string().contains("/regent/f/primary"), "{error}");
        let mut foreign = primary();
        foreign.electorate.clear();
        assert!(Primary::decode("p", &foreign.encode()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Primary::decode("k", &bytes).is_err());
            prop_assert!(Lease::decode("k", &bytes).is_err());
            prop_assert!(Assignment::decode("k", &bytes).is_err());
            prop_assert!(Report::decode("k", &bytes).is_err());
            prop_assert!(Operation::decode("k", &bytes).is_err());
            prop_assert!(Mark::decode("k", &bytes).is_err());
            prop_assert!(Promise::decode("k", &bytes).is_err());
        }
    }
}
