//! A site as the coordinator wants it and as its own leader sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Unknown, record};
use crate::epoch::Epoch;
use crate::lsn::Lsn;
use crate::name::{NodeName, OperationId, SiteName, SystemIdentifier};
use crate::promotion::Writing;
use crate::time::{BootTime, WallTime};
use crate::timeline::{Ancestry, TimelineId};

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
    /// An instant at or before which that end was there, by the leader's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_at: Option<WallTime>,
    /// When the last transaction that the leader has replayed was committed, by its writer's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<WallTime>,
    /// How far behind its upstream the leader replays, in bytes, where it can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// The last promise that the site gave under this epoch; `None`: an older agent, which does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<ReportedPromise>,
    /// `primary` is fenced for this site: why its leader does not take it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion_awaits: Option<String>,
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

/// A promise to take nothing, which the primary site may go on by (failsafe of the quorum).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportedPromise {
    /// None was given.
    NotGiven,
    /// One was.
    Given {
        /// It ends so many milliseconds after the report was written, at the latest; below 0: it ended
        /// so long before.
        ends_in_ms: i64,
    },
}

impl ReportedPromise {
    /// The last one, which ends then, told now; rounded to a later end.
    #[must_use]
    pub fn new(end: Option<BootTime>, now: BootTime) -> Self {
        let Some(end) = end else { return Self::NotGiven };
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let left = end.since(now);
        let ends_in_ms = if left.is_zero() {
            0_i64.saturating_sub(ms(now.since(end)))
        } else {
            ms(left).saturating_add(1)
        };
        Self::Given { ends_in_ms }
    }

    /// When whoever first saw the report so long ago has to expect its end: never too early. `None`: there
    /// is none.
    #[must_use]
    pub fn writing(&self, seen_ago: Duration) -> Option<Writing> {
        let Self::Given { ends_in_ms } = self else { return None };
        let span = Duration::from_millis(ends_in_ms.unsigned_abs());
        Some(if *ends_in_ms < 0 {
            Writing { left: Duration::ZERO, ended_ago: seen_ago + span }
        } else {
            Writing {
                left: span.saturating_sub(seen_ago),
                ended_ago: seen_ago.saturating_sub(span),
            }
        })
    }
}

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
    /// Rights that it asked the kernel for and did not get, in words.
    pub guardian_lacks: Vec<String>,
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
    /// What of the node needs a person, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the telling and the seeing any time may pass; none of it shortens the promise.
    #[test]
    fn a_reported_promise_never_ends_before_the_promise_does() {
        let at = |ms: u64| BootTime::from_nanos(ms * 1_000_000 + 1);
        for (end, told, seen, asked, left, ended_ago) in [
            (50, 20, 20, 20, 31, 0),
            (50, 20, 25, 30, 26, 0),
            (50, 20, 25, 60, 0, 4),
            (50, 50, 50, 50, 0, 0),
            (50, 60, 61, 70, 0, 19),
        ] {
            let reported = ReportedPromise::new(Some(at(end)), at(told));
            let writing = reported.writing(at(asked).since(at(seen))).expect("it was given");
            let ms = Duration::from_millis;
            let wanted = Writing { left: ms(left), ended_ago: ms(ended_ago) };
            assert_eq!(writing, wanted, "{end} {told} {seen} {asked}");
            let truth = Writing::until(at(end), at(asked));
            assert!(writing.left >= truth.left && writing.ended_ago <= truth.ended_ago);
        }
        assert_eq!(ReportedPromise::new(None, at(1)).writing(Duration::ZERO), None);
    }
}
