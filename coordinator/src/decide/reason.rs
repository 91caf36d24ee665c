//! Why a decision is what it is: the log line, the metric label, what tests expect.

use std::fmt;
use std::time::Duration;

use super::automatic::Answer;
use regent_proto::name::{CoordinatorName, OperationId, SiteName};
use regent_proto::record::SwitchoverStep;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The quorum does not answer.
    QuorumUnreachable {
        /// The last error.
        problem: String,
    },
    /// No store lease yet.
    NoSession,
    /// Announcing itself.
    Joining,
    /// Nobody is elected.
    Campaigning,
    /// Another coordinator acts.
    NotElected {
        /// Which.
        elected: CoordinatorName,
    },
    /// A record that is needed can't be read, or was removed.
    Unreadable {
        /// Which, and what is wrong.
        problem: String,
    },
    /// There is no federation yet.
    NotCreated,
    /// Assignments changed.
    Assigning {
        /// Whose.
        sites: Vec<SiteName>,
    },
    /// `operation` names one that has no record.
    OperationMissing {
        /// Which.
        operation: OperationId,
    },
    /// `primary` is fenced for a promotion that no record tells of: the fence is lifted after its span.
    FenceAbandoned {
        /// By which operation.
        operation: OperationId,
        /// For which site.
        to: SiteName,
    },
    /// The primary site is dark, and the topology says what comes of it.
    RegionDark {
        /// Which.
        site: SiteName,
        /// What comes of it.
        answer: Answer,
    },
    /// A switchover goes on.
    Switchover {
        /// Which.
        operation: OperationId,
        /// Where it is.
        step: SwitchoverStep,
        /// What it waits for, or what was just decided.
        waits_for: Vec<Missing>,
    },
    /// All is as it should be.
    AtRest,
}

/// What a step waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// A site's report is old, absent or unreadable.
    Report {
        /// Whose.
        site: SiteName,
    },
    /// The assignments are not written yet.
    Assignments,
    /// A site has not seen its assignment.
    Seen {
        /// Which.
        site: SiteName,
    },
    /// A site has not done its checkpoint.
    Checkpoint {
        /// Which.
        site: SiteName,
    },
    /// The next primary lacks slots.
    Slots {
        /// The next primary.
        site: SiteName,
        /// Which.
        slots: Vec<String>,
    },
    /// The next primary lags too much, or its lag is unknown.
    Lag {
        /// The next primary.
        site: SiteName,
        /// By how much; `None`: unknown.
        bytes: Option<u64>,
        /// The limit.
        limit_bytes: u64,
    },
    /// A site has seen another epoch than the quorum shows.
    Epoch {
        /// Which.
        site: SiteName,
    },
    /// The holder has not opened in this epoch.
    HolderNotOpen {
        /// The holder.
        site: SiteName,
    },
    /// The operator has fenced writes.
    WritesFenced,
    /// The next primary has no confirmed synchronous standby, and that was not accepted.
    SynchronousStandby {
        /// The next primary.
        site: SiteName,
    },
    /// A site's role is not the one wanted.
    Role {
        /// Which.
        site: SiteName,
        /// The role wanted.
        wanted: &'static str,
    },
    /// A site does not stream from its upstream.
    Stream {
        /// Which.
        site: SiteName,
        /// Its upstream.
        upstream: SiteName,
    },
    /// A site is not on the new primary's timeline.
    Timeline {
        /// Which.
        site: SiteName,
    },
    /// The token: A stops.
    Token {
        /// A.
        from: SiteName,
        /// It is rolled back after this span.
        span: Duration,
    },
    /// The take: B has what it needs, or fetches it.
    Take {
        /// B.
        to: SiteName,
        /// It is rolled back after this span.
        span: Duration,
    },
    /// A promotion's take.
    Promotion {
        /// The site that is promoted.
        to: SiteName,
        /// It is given up after this span.
        span: Duration,
        /// What the site's leader last said that it waits for.
        awaits: Option<String>,
    },
    /// `primary` is on another way.
    Elsewhere {
        /// What it says.
        problem: String,
    },
}

impl fmt::Display for Missing {
    /// Without figures that change all the time: these texts are notes in records too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report { site } => write!(f, "a new report of {site}"),
            Self::Assignments => write!(f, "the assignments to be written"),
            Self::Seen { site } => write!(f, "{site} to see its assignment"),
            Self::Checkpoint { site } => write!(f, "the checkpoint in {site}"),
            Self::Slots { site, slots } => {
                write!(f, "the slots {} in {site}", slots.join(", "))
            }
            Self::Lag { site, limit_bytes, .. } => {
                write!(f, "{site} to lag at most {limit_bytes} bytes")
            }
            Self::Epoch { site } => write!(f, "{site} to know this epoch and no newer one"),
            Self::HolderNotOpen { site } => write!(f, "{site} to be open with its lease"),
            Self::WritesFenced => write!(f, "the operator's fence to be lifted"),
            Self::SynchronousStandby { site } => {
                write!(f, "a confirmed synchronous standby in {site}")
            }
            Self::Role { site, wanted } => write!(f, "{site} to be {wanted}"),
            Self::Stream { site, upstream } => write!(f, "{site} to stream from {upstream}"),
            Self::Timeline { site } => write!(f, "{site} to be on the new timeline"),
            Self::Token { from, span } => {
                write!(f, "{from} to stop and post its token (rolled back after {span:?})")
            }
            Self::Take { to, span } => write!(f, "{to} to take (rolled back after {span:?})"),
            Self::Promotion { to, span, awaits } => {
                write!(f, "{to} to take (given up after {span:?})")?;
                awaits.iter().try_for_each(|awaits| write!(f, "; its leader: {awaits}"))
            }
            Self::Elsewhere { problem } => f.write_str(problem),
        }
    }
}

/// What is waited for, as one line.
#[must_use]
pub(super) fn listed(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QuorumUnreachable { problem } => {
                write!(f, "the global quorum does not answer: {problem}")
            }
            Self::NoSession => write!(f, "waits for a lease in the global quorum"),
            Self::Joining => write!(f, "announces itself"),
            Self::Campaigning => write!(f, "no coordinator is elected: stands for election"),
            Self::NotElected { elected } => write!(f, "{elected} is elected"),
            Self::Unreadable { problem } => write!(f, "does nothing: {problem}"),
            Self::NotCreated => write!(
                f,
                "the federation does not exist yet: create it with `regentctl topology apply \
                 --create FILE`"
            ),
            Self::Assigning { sites } => {
                let sites: Vec<&str> = sites.iter().map(SiteName::as_str).collect();
                write!(f, "writes the assignments of {}", sites.join(", "))
            }
            Self::OperationMissing { operation } => {
                write!(f, "running operation {operation} has no record")
            }
            Self::FenceAbandoned { operation, to } => write!(
                f,
                "`primary` is fenced for {to} by {operation}, which does not run or has no record that can \
                 be read: the fence is lifted unless {to} takes in time"
            ),
            Self::RegionDark { site, answer } => {
                write!(f, "automatic promotion: {site} is dark; {answer}")
            }
            Self::Switchover { operation, step, waits_for } if waits_for.is_empty() => {
                write!(f, "switchover {operation}: {step}")
            }
            Self::Switchover { operation, step, waits_for } => {
                write!(f, "switchover {operation}: {step} waits for {}", listed(waits_for))
            }
            Self::AtRest => write!(f, "nothing to do"),
        }
    }
}
