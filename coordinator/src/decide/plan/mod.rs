//! The plan of a switchover: every preflight check and what will be done. Changes nothing. The hash of
//! every verb's plan.
//!
//! The hash names what was agreed to: kind, epoch, the revisions of `primary` and `topology`, and
//! the checks' verdicts. Figures that change all the time are not in it, so that it goes stale
//! only when the situation did.

mod checks;
mod listing;
mod servers;

use std::fmt::Write as _;
use std::time::Duration;

use regent_proto::name::SiteName;
use regent_proto::record::{Check, OperationKind, Plan, Primary, Report, TopologyRecord, Verdict};
use regent_proto::topology::Site;
use sha2::{Digest as _, Sha256};

pub(super) use checks::no_other_operation;
pub(super) use servers::rounded;

use super::tree::Tree;
use super::view::{Freshness, Seen, Slot, View};
use super::{Federation, assignments};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The next primary site.
    pub to: SiteName,
    /// Go on although it would open without a synchronous standby.
    pub accept_unprotected: bool,
}

/// A plan with the hash by which it is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Its hash.
    pub hash: String,
}

/// Why there can be no plan at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// The federation does not exist.
    #[error(
        "federation {federation} does not exist in the global quorum yet; create it with \
         `regentctl topology apply --create FILE`"
    )]
    NotCreated {
        /// Which.
        federation: String,
    },
    /// A deciding record is gone, though its federation exists.
    #[error(
        "the `{record}` record of federation {federation} was removed from the global quorum: \
         {effect}; put it back, don't make the federation anew: runbook the-primary-record-is-gone"
    )]
    Removed {
        /// Of which federation.
        federation: String,
        /// Which.
        record: &'static str,
        /// What that means for writes.
        effect: &'static str,
    },
    /// A deciding record can't be read.
    #[error("{problem}")]
    Unreadable {
        /// Which, and what is wrong.
        problem: String,
    },
}

/// What a check found.
pub(super) struct Finding {
    verdict: Verdict,
    saw: String,
    wanted: String,
    next: String,
}

impl Finding {
    pub(super) fn pass(saw: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, saw: saw.into(), wanted: wanted.into(), next: String::new() }
    }

    pub(super) fn warn(
        saw: impl Into<String>,
        wanted: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warn, next: next.into(), ..Self::pass(saw, wanted) }
    }

    pub(super) fn block(
        saw: impl Into<String>,
        wanted: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Block, next: next.into(), ..Self::pass(saw, wanted) }
    }
}

type CheckFn = fn(&Preflight<'_>) -> Finding;

/// Every check, in the order in which it is shown. Names are stable.
const CHECKS: &[(&str, CheckFn)] = &[
    ("primary-open", checks::primary_open),
    ("primary-holds-lease", checks::primary_holds_lease),
    ("target-known", checks::target_known),
    ("target-not-primary", checks::target_not_primary),
    ("target-in-electorate", checks::target_in_electorate),
    ("no-other-operation", |at| no_other_operation(at.view)),
    ("all-sites-report", checks::all_sites_report),
    ("epochs-agree", checks::epochs_agree),
    ("assignment-seen", checks::assignment_seen),
    ("system-identifier-equal", servers::system_identifier_equal),
    ("timeline-compatible", servers::timeline_compatible),
    ("lag", servers::lag),
    ("settings-sufficient", servers::settings_sufficient),
    ("slots-free", servers::slots_free),
    ("senders-free", servers::senders_free),
    ("reachability", servers::reachability),
    ("rewind-possible", servers::rewind_possible),
    ("synchronous-standby", servers::synchronous_standby),
    ("prepared-transactions", listing::prepared_transactions),
    ("logical-slots", listing::logical_slots),
    ("unlogged-tables", listing::unlogged_tables),
    ("collations", listing::collations),
    ("records-readable", listing::records_readable),
];

/// The names of all checks, in order.
pub fn check_names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Everything a check may look at.
struct Preflight<'a> {
    view: &'a View,
    topology: &'a Seen<TopologyRecord>,
    primary: &'a Seen<Primary>,
    request: &'a Request,
    /// B in the topology; it holds data.
    target: &'a Site,
    report_age_max: Duration,
    /// The tree once the target is primary.
    future: Tree,
}

impl<'a> Preflight<'a> {
    /// A.
    fn from(&self) -> &'a SiteName {
        &self.primary.value.holder
    }

    /// B.
    fn to(&self) -> &'a SiteName {
        &self.request.to
    }

    fn report(&self, site: &SiteName) -> Option<&'a Report> {
        self.view.report(site).map(|seen| &seen.value)
    }

    fn freshness(&self, site: &SiteName) -> Freshness {
        self.view.freshness(site, self.report_age_max)
    }

    /// A's and B's reports, or what to say when one is not there (`all-sites-report` blocks then).
    fn both(&self, wanted: &str) -> Result<(&'a Report, &'a Report), Finding> {
        match (self.report(self.from()), self.report(self.to())) {
            (Some(from), Some(to)) => Ok((from, to)),
            (None, _) => Err(unknown(self.from(), wanted)),
            (_, None) => Err(unknown(self.to(), wanted)),
        }
    }

    /// B's report, likewise.
    fn target_report(&self, wanted: &str) -> Result<&'a Report, Finding> {
        self.report(self.to()).ok_or_else(|| unknown(self.to(), wanted))
    }
}

/// Not known because a site's report is missing, which blocks by itself.
fn unknown(site: &SiteName, wanted: &str) -> Finding {
    Finding::warn(
        format!("not known: there is no report of {site}"),
        wanted,
        "see all-sites-report",
    )
}

/// What a switchover would do now.
pub fn plan(federation: &Federation<'_>, request: &Request) -> Planned {
    let Some(target) = federation.topology().data_sites().find(|site| site.name == request.to)
    else {
        // Nothing else that could be said about such a site means anything.
        let refusal = checks::target_unknown(federation, &request.to);
        let checks = vec![named("target-known", refusal)];
        return planned(federation, switchover(federation, request), checks, Vec::new());
    };
    let preflight = Preflight {
        view: federation.view,
        topology: federation.topology,
        primary: federation.primary,
        request,
        target,
        report_age_max: federation.policy.report_age_max,
        future: assignments::future_tree(federation, &request.to),
    };
    let checks = CHECKS.iter().map(|(name, check)| named(name, check(&preflight))).collect();
    planned(federation, switchover(federation, request), checks, steps(&preflight))
}

fn switchover(federation: &Federation<'_>, request: &Request) -> OperationKind {
    let from = federation.primary.value.holder.clone();
    OperationKind::Switchover { from, to: request.to.clone() }
}

/// A finding under its stable name.
pub(super) fn named(name: &str, finding: Finding) -> Check {
    let Finding { verdict, saw, wanted, next } = finding;
    Check { name: name.to_owned(), verdict, saw, wanted, next }
}

/// The plan of any verb, with its hash.
pub(super) fn planned(
    federation: &Federation<'_>,
    kind: OperationKind,
    checks: Vec<Check>,
    steps: Vec<String>,
) -> Planned {
    let plan = Plan { kind, epoch: federation.primary.value.epoch, checks, steps };
    let hash = hash(federation, &plan);
    Planned { plan, hash }
}

/// The deciding records, or why there can be no plan.
pub fn deciding(view: &View) -> Result<(&Seen<TopologyRecord>, &Seen<Primary>), NoPlan> {
    let removed = |record, effect| NoPlan::Removed {
        federation: view.federation.to_string(),
        record,
        effect,
    };
    match (&view.topology, &view.primary) {
        (Slot::Unreadable(bad), _) | (_, Slot::Unreadable(bad)) => {
            Err(NoPlan::Unreadable { problem: bad.problem.clone() })
        }
        (topology, Slot::Absent) if !topology.is_absent() || !view.lease.is_absent() => {
            Err(removed("primary", "every writer is stopped, and nothing opens"))
        }
        (Slot::Absent, Slot::Read(_)) => {
            Err(removed("topology", "writes and streams go on, but nothing regional does"))
        }
        (Slot::Absent | Slot::Read(_), Slot::Absent) => {
            Err(NoPlan::NotCreated { federation: view.federation.to_string() })
        }
        (Slot::Read(topology), Slot::Read(primary)) => Ok((topology, primary)),
    }
}

fn steps(preflight: &Preflight<'_>) -> Vec<String> {
    let (from, to) = (preflight.from(), preflight.to());
    let policy = &preflight.topology.value.topology.policy;
    let limit = String::from(policy.switchover_max_lag);
    let moves: Vec<String> = preflight
        .future
        .iter()
        .filter_map(|(site, upstream)| {
            upstream.as_ref().map(|up| format!("{site} streams from {up}"))
        })
        .collect();
    vec![
        format!(
            "prepare: {to} makes its slots, {from} and {to} checkpoint, {to} lags less than \
             {limit}; at most {}; nothing is interrupted, a cancel undoes it",
            String::from(policy.prepare_timeout)
        ),
        format!("handover: {from} ends its clients, stops cleanly and posts its token"),
        format!(
            "take: {to} has all WAL up to the token, takes primacy at epoch {} and opens; without \
             that within {} {from} opens again",
            preflight.primary.value.epoch.next(),
            String::from(policy.handover_span)
        ),
        format!("follow: {}", moves.join(", ")),
        "verify: every site streams on the new timeline".to_owned(),
    ]
}

fn hash(federation: &Federation<'_>, plan: &Plan) -> String {
    let what = match &plan.kind {
        OperationKind::Switchover { from, to } => format!("switchover {from} {to}"),
        OperationKind::Promotion { from, to, accepted } => {
            format!("promotion {from} {to} {accepted:?}")
        }
        OperationKind::Fence { site } => format!("fence {site}"),
        OperationKind::Unfence { site } => format!("unfence {site}"),
    };
    let mut text = format!(
        "{what} epoch {} primary {} topology {}",
        plan.epoch, federation.primary.revision.0, federation.topology.revision.0
    );
    for check in &plan.checks {
        let verdict = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Block => "block",
        };
        write!(text, " {}={verdict}", check.name).expect("a String takes everything");
    }
    let mut hash = hex::encode(Sha256::digest(text.as_bytes()));
    hash.truncate(HASH_DIGITS);
    hash
}

/// Long enough never to meet another by chance, short enough to type.
const HASH_DIGITS: usize = 16;

/// How many bytes of A's WAL B does not have, as far as the reports tell.
///
/// Positions come from two reports of different age; where B streams from A itself, what B says
/// of its own lag can only be nearer to the truth.
#[must_use]
pub fn lag_bytes(view: &View, from: &SiteName, to: &SiteName) -> Option<u64> {
    let (from_report, to_report) = (&view.report(from)?.value, &view.report(to)?.value);
    let behind = from_report
        .position
        .zip(to_report.position)
        .map(|(ahead, position)| ahead.bytes_since(position));
    let direct = to_report.streaming_from.as_ref() == Some(from);
    let own = if direct { to_report.lag_bytes } else { None };
    match (behind, own) {
        (Some(behind), Some(own)) => Some(behind.min(own)),
        (one, other) => one.or(other),
    }
}
