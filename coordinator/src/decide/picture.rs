//! Is the federation safe, and what would a loss of the primary site cost right now?
//!
//! Judged from the same view as everything else. "Safe" means: the primary site writes under its
//! lease, and a survivor could take over with little loss. Whatever is not known is not safe.

use std::time::Duration;

use regent_proto::name::{CoordinatorName, SiteName};
use regent_proto::record::{Lease, Outcome, PrimaryState, ReportedRole};

use super::plan::{deciding, lag_bytes};
use super::view::{Freshness, Quorum, Seen, View};
use super::{Federation, Memory, Policy, automatic, election};

/// The picture's judgement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Safety {
    /// Nothing is wrong.
    pub safe: bool,
    /// One sentence each.
    pub unsafe_reasons: Vec<String>,
    /// In words.
    pub loss_now: String,
    /// Worth knowing, no danger.
    pub warnings: Vec<String>,
}

/// The primary lease as this process sees it: held while not released and renewed within its TTL.
#[must_use]
pub fn lease_held(view: &View, lease: &Seen<Lease>) -> bool {
    !lease.value.released && view.now.since(lease.since) < lease.value.ttl
}

/// The share of the TTL after which a lease that was not renewed is said.
const LATE: u32 = 4;

/// How an operation stands, as the API says it.
#[must_use]
pub fn outcome_name(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "running",
        Some(Outcome::Succeeded { .. }) => "succeeded",
        Some(Outcome::RolledBack { .. }) => "rolled-back",
        Some(Outcome::Cancelled { .. }) => "cancelled",
        Some(Outcome::Superseded { .. }) => "superseded",
    }
}

/// The elected coordinator.
#[must_use]
pub fn elected(view: &View) -> Option<&CoordinatorName> {
    election::elected(view)
}

/// Judges the view.
#[must_use]
pub fn safety(policy: &Policy, view: &View) -> Safety {
    let mut reasons = Vec::new();
    match &view.quorum {
        Quorum::Reachable => {}
        Quorum::Unreachable { since, problem } => reasons.push(format!(
            "the global quorum has not answered for {:.0?}: what is shown is old ({problem})",
            view.now.since(*since)
        )),
    }
    let mut warnings: Vec<String> =
        view.unreadable().iter().map(|bad| bad.problem.clone()).collect();
    if election::elected(view).is_none() {
        warnings.push("no coordinator is elected: regional operations wait".to_owned());
    }
    for member in view.coordinators.values().filter_map(|slot| slot.read()) {
        if member.value.insecure {
            warnings.push(format!(
                "coordinator {} serves {} without TLS (insecure: true)",
                member.value.name, member.value.address
            ));
        }
    }
    let loss_now = match deciding(view) {
        Err(none) => {
            reasons.push(none.to_string());
            String::new()
        }
        Ok((topology, primary)) => {
            let memory = Memory::default();
            let federation = Federation { policy, memory: &memory, view, topology, primary };
            primary_reasons(&federation, &mut reasons);
            standby_reasons(&federation, &mut reasons);
            warnings.extend(automatic::told(&federation));
            loss_now(&federation)
        }
    };
    Safety { safe: reasons.is_empty(), unsafe_reasons: reasons, loss_now, warnings }
}

fn primary_reasons(federation: &Federation<'_>, reasons: &mut Vec<String>) {
    let (view, primary) = (federation.view, &federation.primary.value);
    let holder = &primary.holder;
    match &primary.state {
        PrimaryState::Open => {}
        PrimaryState::Handover { to, operation, .. }
        | PrimaryState::Token { to, operation, .. } => {
            reasons.push(format!("primacy is on its way from {holder} to {to} ({operation})"));
        }
        PrimaryState::Fenced { to, operation, .. } => {
            reasons.push(format!("{holder} is fenced, {to} is being promoted ({operation})"));
        }
    }
    if let Some(fence) = &primary.writes_fenced {
        reasons.push(format!("writes are fenced by {}: {}", fence.by, fence.reason));
    }
    match view.lease.read() {
        None => reasons.push(format!("nobody holds the primary lease: {holder} does not write")),
        Some(lease) if lease.value.site != *holder || lease.value.epoch != primary.epoch => {
            reasons.push(format!("{holder} has not taken the primary lease of this epoch yet"));
        }
        Some(lease) if !lease_held(view, lease) => {
            let what = if lease.value.released { "has released" } else { "does not renew" };
            reasons.push(format!("{holder} {what} the primary lease: nobody may write"));
        }
        // A holder renews a dozen times within the TTL: this one is dead, cut off, or about to be fenced.
        Some(lease) if view.now.since(lease.since) > lease.value.ttl / LATE => {
            let since = view.now.since(lease.since);
            reasons.push(format!("{holder} has not renewed the primary lease for {since:.0?}"));
        }
        Some(_) => {}
    }
    if let Some(unknown) = unknown_site(federation, holder) {
        reasons.push(unknown);
    } else if let Some(report) = view.report(holder) {
        let report = &report.value;
        if report.role != ReportedRole::Primary {
            reasons.push(format!("{holder} does not run as primary"));
        }
        if wants_synchronous(federation, holder) && report.synchronous_nodes.is_empty() {
            reasons.push(format!(
                "{holder} has no synchronous standby: the loss of one node may lose commits"
            ));
        }
    }
}

fn wants_synchronous(federation: &Federation<'_>, site: &SiteName) -> bool {
    federation.topology().site(site).is_some_and(|site| site.synchronous)
}

fn unknown_site(federation: &Federation<'_>, site: &SiteName) -> Option<String> {
    match federation.freshness(site) {
        Freshness::Fresh => None,
        Freshness::Unproven => {
            Some(format!("this coordinator has just started and waits for a new report of {site}"))
        }
        Freshness::Old => {
            let age = federation.view.report_age(site).unwrap_or_default();
            Some(format!("{site} has not reported for {age:.0?}: its state is unknown"))
        }
        Freshness::Missing => Some(format!("{site} has never reported")),
        Freshness::Unreadable => Some(format!("the report of {site} can't be read")),
    }
}

fn standby_reasons(federation: &Federation<'_>, reasons: &mut Vec<String>) {
    let (view, holder) = (federation.view, &federation.primary.value.holder);
    let limit = federation.topology().policy.switchover_max_lag.0;
    for site in federation.topology().data_sites().map(|site| &site.name) {
        if site == holder {
            continue;
        }
        if let Some(unknown) = unknown_site(federation, site) {
            reasons.push(unknown);
            continue;
        }
        let Some(report) = view.report(site).map(|seen| &seen.value) else { continue };
        if let Some(problem) = not_streaming(federation, site, report.role) {
            reasons.push(problem);
        } else if let Some(bytes) = lag_bytes(view, holder, site).filter(|bytes| *bytes > limit) {
            let lag = super::plan::rounded(bytes);
            reasons.push(format!("{site} lags {lag}"));
        }
    }
}

fn not_streaming(
    federation: &Federation<'_>,
    site: &SiteName,
    role: ReportedRole,
) -> Option<String> {
    let view = federation.view;
    match role {
        ReportedRole::Down => return Some(format!("{site} reports that it is down")),
        ReportedRole::Primary => return Some(format!("{site} runs as primary, but is not it")),
        ReportedRole::Standby => {}
    }
    let upstream = view.assignment(site)?.value.upstream.as_ref()?;
    let report = view.report(site)?;
    (report.value.streaming_from.as_ref() != Some(upstream))
        .then(|| format!("{site} does not stream from {upstream}"))
}

/// What would be lost if the primary site were lost and the furthest survivor promoted.
fn loss_now(federation: &Federation<'_>) -> String {
    let (view, primary) = (federation.view, &federation.primary.value);
    let holder = &primary.holder;
    let survivors: Vec<&SiteName> = federation
        .topology()
        .data_sites()
        .map(|site| &site.name)
        .filter(|site| *site != holder && primary.electorate.contains(*site))
        .collect();
    let known: Vec<(u64, &SiteName)> = survivors
        .iter()
        .copied()
        .filter(|site| federation.freshness(site) == Freshness::Fresh)
        .filter_map(|site| lag_bytes(view, holder, site).map(|bytes| (bytes, site)))
        .collect();
    let Some((bytes, furthest)) = known.iter().min() else {
        return if survivors.is_empty() {
            format!("everything, if {holder} were lost now: no other site holds the data")
        } else {
            format!("not known: no other site reports how far behind {holder} it is")
        };
    };
    let age: Duration = view.report_age(furthest).unwrap_or_default();
    if *bytes == 0 {
        format!(
            "what {holder} wrote since {furthest} reported {:.0} s ago that it had everything",
            age.as_secs_f64()
        )
    } else {
        format!(
            "at least {} of WAL, if {holder} were lost now; {furthest} is the furthest, as of {:.0} \
             s ago",
            super::plan::rounded(*bytes),
            age.as_secs_f64()
        )
    }
}
