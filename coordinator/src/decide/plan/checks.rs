//! Checks of the federation's state: who holds primacy, who reports, what else runs.

use regent_proto::name::SiteName;
use regent_proto::record::{PrimaryState, ReportedRole, SiteRole};
use regent_proto::topology::SiteKind;

use super::super::Federation;
use super::super::view::{Freshness, Slot, View};
use super::{Finding, Preflight};

pub(super) fn primary_open(at: &Preflight<'_>) -> Finding {
    let primary = &at.primary.value;
    let wanted = "`primary` open, writes not fenced";
    if let Some(fence) = &primary.writes_fenced {
        return Finding::block(
            format!("writes fenced by {}: {}", fence.by, fence.reason),
            wanted,
            format!("lift the fence first: regentctl unfence {}", primary.holder),
        );
    }
    match &primary.state {
        PrimaryState::Open => Finding::pass(format!("open, held by {}", primary.holder), wanted),
        PrimaryState::Handover { to, operation, .. }
        | PrimaryState::Token { to, operation, .. }
        | PrimaryState::Fenced { to, operation, .. } => Finding::block(
            format!("{} to {to} by operation {operation}", primary.state.name()),
            wanted,
            format!("wait for its end: regentctl operation watch {operation}"),
        ),
    }
}

pub(super) fn primary_holds_lease(at: &Preflight<'_>) -> Finding {
    let (from, epoch) = (at.from(), at.primary.value.epoch);
    let wanted = format!("{from} has opened in epoch {epoch} and holds the primary lease");
    let next = format!("look at {from}: regentctl status");
    let lease = match &at.view.lease {
        Slot::Absent => return Finding::block("nobody ever held it", wanted, next),
        Slot::Unreadable(bad) => return Finding::block(bad.problem.clone(), wanted, next),
        Slot::Read(lease) => lease,
    };
    let (age, lease) = (at.view.now.since(lease.since), &lease.value);
    if lease.site != *from || lease.epoch != epoch {
        let saw = format!("last held by {} in epoch {}", lease.site, lease.epoch);
        Finding::block(saw, wanted, next)
    } else if lease.released {
        Finding::block(format!("released by {}", lease.node), wanted, next)
    } else if age >= lease.ttl {
        let saw = format!("not renewed for {age:.1?}, TTL {:?}", lease.ttl);
        Finding::block(saw, wanted, next)
    } else {
        Finding::pass(format!("held by {} in epoch {}", lease.node, lease.epoch), wanted)
    }
}

/// The one check of a plan for what is no data site.
pub(super) fn target_unknown(federation: &Federation<'_>, to: &SiteName) -> Finding {
    let (topology, from) = (federation.topology(), &federation.primary.value.holder);
    let others = topology.data_sites().map(|site| &site.name).filter(|name| *name != from);
    let names: Vec<&str> = others.map(SiteName::as_str).collect();
    let wanted = match names.as_slice() {
        [] => format!("a data site besides {from}, of which there is none"),
        names => format!("one of the data sites besides {from}: {}", names.join(", ")),
    };
    let saw = match topology.site(to).map(|site| site.kind) {
        None => format!("there is no site {to}"),
        Some(SiteKind::Witness | SiteKind::Data) => format!("{to} is a witness and holds no data"),
    };
    Finding::block(saw, wanted, "name one of them with --to")
}

pub(super) fn target_known(at: &Preflight<'_>) -> Finding {
    Finding::pass(format!("{} is a data site", at.target.name), "a data site")
}

pub(super) fn target_not_primary(at: &Preflight<'_>) -> Finding {
    let wanted = "a site that is not primary";
    if at.from() == at.to() {
        let saw = format!("{} is the primary site already", at.to());
        Finding::block(saw, wanted, "nothing to do, or name another site with --to")
    } else {
        Finding::pass(format!("{} is primary", at.from()), wanted)
    }
}

pub(super) fn target_in_electorate(at: &Preflight<'_>) -> Finding {
    let electorate = &at.primary.value.electorate;
    let names: Vec<&str> = electorate.iter().map(|site| site.as_str()).collect();
    let saw = format!("the electorate is {}", names.join(", "));
    let wanted = format!("{} in the electorate", at.to());
    if electorate.contains(at.to()) {
        Finding::pass(saw, wanted)
    } else {
        let next = format!("wait until {} has added it, or look why it has not", at.from());
        Finding::block(saw, wanted, next)
    }
}

/// Of every verb's plan.
pub(in crate::decide) fn no_other_operation(view: &View) -> Finding {
    let wanted = "no running operation";
    match &view.running {
        Slot::Unreadable(bad) => {
            Finding::block(bad.problem.clone(), wanted, "repair or delete that record")
        }
        Slot::Absent => Finding::pass("none runs", wanted),
        Slot::Read(running) => match &running.value.id {
            None => Finding::pass("none runs", wanted),
            Some(id) => Finding::block(
                format!("operation {id} runs"),
                wanted,
                format!("wait for its end: regentctl operation watch {id}"),
            ),
        },
    }
}

pub(super) fn all_sites_report(at: &Preflight<'_>) -> Finding {
    let wanted = format!("a new report of every data site within {:?}", at.report_age_max);
    let mut blocking = Vec::new();
    let mut silent = Vec::new();
    for site in at.topology.value.topology.data_sites() {
        let name = &site.name;
        let saw = match at.freshness(name) {
            Freshness::Fresh => match (name == at.from(), at.report(name).map(|r| r.role)) {
                (true, Some(role)) if role != ReportedRole::Primary => {
                    format!("{name} does not run as primary")
                }
                (_, Some(ReportedRole::Down)) => format!("{name} reports that it is down"),
                (true | false, _) => continue,
            },
            Freshness::Unproven => {
                format!("{name} has not sent a new report since this coordinator started")
            }
            Freshness::Old => {
                let age = at.view.report_age(name).unwrap_or_default();
                format!("{name} has not reported for {age:.0?}")
            }
            Freshness::Missing => format!("{name} has never reported"),
            Freshness::Unreadable => format!("the report of {name} can't be read"),
        };
        if name == at.from() || name == at.to() { &mut blocking } else { &mut silent }.push(saw);
    }
    let next = "see that the site's agents run and reach the global quorum; reports come at least \
                every 5 s";
    match (blocking.is_empty(), silent.is_empty()) {
        (true, true) => Finding::pass("all report", wanted),
        (true, false) => Finding::warn(silent.join("; "), wanted, next),
        (false, _) => {
            blocking.extend(silent);
            Finding::block(blocking.join("; "), wanted, next)
        }
    }
}

/// A site that has seen a newer epoch means that this quorum is older than it was; A and B must know
/// just this one.
pub(super) fn epochs_agree(at: &Preflight<'_>) -> Finding {
    let epoch = at.primary.value.epoch;
    let wanted = format!("{} and {} at epoch {epoch}, nobody at a newer one", at.from(), at.to());
    let sites = at.topology.value.topology.data_sites().map(|site| &site.name);
    let reports = sites.filter_map(|name| Some((name, at.report(name)?.epoch)));
    let other: Vec<String> = reports
        .filter(|(name, seen)| {
            let taking_part = *name == at.from() || *name == at.to();
            *seen > epoch || (taking_part && *seen != epoch)
        })
        .map(|(name, seen)| format!("{name} at epoch {seen}"))
        .collect();
    if other.is_empty() {
        Finding::pass("they are", wanted)
    } else {
        let next = "wait for the site's leader; if it stays fenced its warning in `regentctl \
                    status` says why, and the runbook the-epoch-is-unknown what to do";
        Finding::block(other.join(", "), wanted, next)
    }
}

pub(super) fn assignment_seen(at: &Preflight<'_>) -> Finding {
    let wanted = format!("{} has seen its assignment, and it is standby", at.to());
    let report = match at.target_report(&wanted) {
        Ok(report) => report,
        Err(unknown) => return unknown,
    };
    let next = "wait for the elected coordinator and the site's leader: regentctl status";
    match at.view.assignments.get(at.to()) {
        None | Some(Slot::Absent) => Finding::block("it has no assignment yet", wanted, next),
        Some(Slot::Unreadable(bad)) => {
            Finding::block(bad.problem.clone(), wanted, "repair or delete that record")
        }
        Some(Slot::Read(seen)) => {
            let assignment = &seen.value;
            let saw = format!(
                "assignment {} as {}, seen {}",
                assignment.generation, assignment.role, report.generation
            );
            // As primary it is refused by `target-not-primary`.
            let fits = match assignment.role {
                SiteRole::Standby | SiteRole::Primary => report.generation >= assignment.generation,
                SiteRole::Quarantined | SiteRole::Detached => false,
            };
            if fits { Finding::pass(saw, wanted) } else { Finding::block(saw, wanted, next) }
        }
    }
}
