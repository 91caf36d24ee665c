//! Regional operations: what was planned, which steps were entered, how it ended.

use serde::{Deserialize, Serialize};

use super::{Unknown, record};
use crate::epoch::Epoch;
use crate::name::{OperationId, SiteName};
use crate::promotion::AcceptedLoss;
use crate::time::WallTime;

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
    /// Deliberate: the primary site may be gone, and what it alone has is given up.
    Promotion {
        /// Present primary site.
        from: SiteName,
        /// Next primary site.
        to: SiteName,
        /// What may be lost.
        accepted: AcceptedLoss,
    },
    /// The primary site is to write no more until a person lifts it.
    Fence {
        /// The primary site.
        site: SiteName,
    },
    /// It may write again.
    Unfence {
        /// The primary site.
        site: SiteName,
    },
}

impl OperationKind {
    /// The verb, as in records and on screens.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => "switchover",
            Self::Promotion { .. } => "promotion",
            Self::Fence { .. } => "fence",
            Self::Unfence { .. } => "unfence",
        }
    }

    /// Present and next primary site, where primacy is to move. What moves none is done with the one
    /// write that begins it: it never runs.
    #[must_use]
    pub fn moves(&self) -> Option<(&SiteName, &SiteName)> {
        match self {
            Self::Switchover { from, to } | Self::Promotion { from, to, .. } => Some((from, to)),
            Self::Fence { .. } | Self::Unfence { .. } => None,
        }
    }
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
    /// The step it is in, with the times of all steps so far; none of what is done at once.
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

/// The steps of a switchover, in order. A promotion enters at *take*: `primary` is fenced for B then,
/// which waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchoverStep {
    /// Slots made, checkpoints done, lag under the limit. Nothing is interrupted.
    Prepare,
    /// `primary` says handover: A stops and posts the token.
    Handover,
    /// The token stands, or `primary` is fenced for B: B takes.
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
    /// What was asked for is so: after a switchover B is primary.
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
