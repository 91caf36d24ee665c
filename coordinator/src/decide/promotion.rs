//! `promote`: a person gives primacy to a standby site although the primary site may be gone, and
//! accepts what that loses.
//!
//! One transaction begins it, with its audit record: `primary` is fenced for the target, so that
//! nobody renews, acquires or takes any more. The target's leader waits until the old holder can't
//! acknowledge anything, compares the loss with what was accepted, and takes primacy itself
//! (protocol.md section 2, *promote*). What is left to the coordinators is to give it up when that does
//! not come, and to write down what happened: [`super::switchover`].
//! Invariant: nothing is lost that nobody accepted; what the plan promised is asked again by who takes.

use std::time::Duration;

use regent_proto::keys::GlobalKey;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::promotion::{AcceptedLoss, Loss, OldHolder, Survivor, Target, Way, Writing};
use regent_proto::record::{
    Check, Operation, OperationKind, Outcome, PrimaryState, Report, ReportedRole, RunningOperation,
    StepRecord, SwitchoverStep, VERSION,
};
use regent_proto::time::LeaseTiming;
use regent_proto::transactions;

use super::Federation;
use super::plan::{self, Finding, Planned, rounded};
use super::request::{self, Refusal};
use super::view::{Freshness, Slot, View};
use super::write::{Purpose, Put, Write};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The next primary site.
    pub to: SiteName,
    /// What may be lost; `None`: nobody has said.
    pub accepted: Option<AcceptedLoss>,
    /// Go on although the primary lease is alive.
    pub end_lease: bool,
}

/// Who asked, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operation's identity, drawn by the caller.
    pub id: OperationId,
    /// What for.
    pub request: Request,
    /// The plan that was agreed to.
    pub plan_hash: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

type CheckFn = fn(&Preflight<'_>) -> Finding;

/// Every check, in the order in which it is shown. Names are stable.
const CHECKS: &[(&str, CheckFn)] = &[
    ("positions", positions),
    ("target-not-primary", target_not_primary),
    ("target-in-electorate", target_in_electorate),
    ("no-other-promotion", no_other_promotion),
    ("old-lease", old_lease),
    ("target-reports", target_reports),
    ("target-continues", target_continues),
    ("no-survivor-ahead", no_survivor_ahead),
    ("loss-accepted", loss_accepted),
];

/// A promise of the target's, by which the old holder may go on without its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promised {
    /// There is none.
    Nothing,
    /// The last one.
    Until(Writing),
    /// Its agents are older than these reports of promises; they wait for what they promised all the same.
    Untold,
}

/// Everything a check may look at.
struct Preflight<'a> {
    federation: &'a Federation<'a>,
    request: &'a Request,
}

impl<'a> Preflight<'a> {
    fn view(&self) -> &'a View {
        self.federation.view
    }

    fn from(&self) -> &'a SiteName {
        &self.federation.primary.value.holder
    }

    fn to(&self) -> &'a SiteName {
        &self.request.to
    }

    fn report(&self, site: &SiteName) -> Option<&'a Report> {
        self.view().report(site).map(|seen| &seen.value)
    }

    /// The data sites of the topology.
    fn sites(&self) -> impl Iterator<Item = &'a SiteName> {
        self.federation.topology().data_sites().map(|site| &site.name)
    }

    /// For how long this coordinator has seen the lease as it is.
    fn lease_unchanged(&self) -> Duration {
        match &self.view().lease {
            Slot::Read(lease) => self.view().now.since(lease.since),
            // Nobody can tell when it last was renewed, or it never was.
            Slot::Absent | Slot::Unreadable(_) => Duration::ZERO,
        }
    }

    fn old(&self) -> OldHolder<'a> {
        OldHolder::new(&self.federation.primary.value, self.report(self.from()))
    }

    /// By which promise of the target's the old holder may go on, as the target told it last: it is
    /// the one that waits for its end.
    fn promised(&self) -> Promised {
        let told =
            self.view().report(self.to()).and_then(|seen| Some((seen.value.promise?, seen.since)));
        match told {
            None => Promised::Untold,
            Some((promise, since)) => match promise.writing(self.view().now.since(since)) {
                None => Promised::Nothing,
                Some(writing) => Promised::Until(writing),
            },
        }
    }

    fn loss(&self) -> Loss {
        let (view, primary) = (self.view(), &self.federation.primary.value);
        let by_lease = Writing::by_lease(self.lease_unchanged(), primary.ttl_max);
        let writing = match self.promised() {
            Promised::Nothing => by_lease,
            Promised::Until(promised) => by_lease.or(promised),
            Promised::Untold => return Loss { at_most: None, at_least_bytes: None },
        };
        let report = self.report(self.to());
        let Some((report, end)) = report.and_then(|report| Some((report, report.position?))) else {
            return Loss { at_most: None, at_least_bytes: None };
        };
        let target = Target { now: view.wall, last_commit: report.last_commit, replayed: end, end };
        self.old().loss(&target, writing)
    }

    fn silent(&self, site: &SiteName) -> Option<String> {
        match self.federation.freshness(site) {
            Freshness::Fresh => None,
            Freshness::Unproven => {
                Some(format!("{site} has not sent a new report since this coordinator started"))
            }
            Freshness::Old => {
                let age = self.view().report_age(site).unwrap_or_default();
                Some(format!("{site} has not reported for {age:.0?}"))
            }
            Freshness::Missing => Some(format!("{site} has never reported")),
            Freshness::Unreadable => Some(format!("the report of {site} can't be read")),
        }
    }
}

/// What a promotion would do and lose now. Changes nothing.
pub fn plan(federation: &Federation<'_>, request: &Request) -> Planned {
    let kind = OperationKind::Promotion {
        from: federation.primary.value.holder.clone(),
        to: request.to.clone(),
        accepted: request.accepted.clone().unwrap_or_default(),
    };
    let at = Preflight { federation, request };
    if !at.sites().any(|site| *site == request.to) {
        // Nothing else that could be said about such a site means anything.
        let others: Vec<&str> =
            at.sites().filter(|site| *site != at.from()).map(SiteName::as_str).collect();
        let saw = format!("{} is no data site", request.to);
        let wanted = format!("a data site besides {}: {}", at.from(), others.join(", "));
        let finding = Finding::block(saw, wanted, "name one of them");
        let checks = vec![plan::named("target-known", finding)];
        return plan::planned(federation, kind, checks, Vec::new());
    }
    let checks: Vec<Check> =
        CHECKS.iter().map(|(name, check)| plan::named(name, check(&at))).collect();
    plan::planned(federation, kind, checks, steps(&at))
}

/// What is known of every site; it blocks nothing by itself.
fn positions(at: &Preflight<'_>) -> Finding {
    let shown: Vec<String> = at
        .sites()
        .map(|site| match (at.report(site).and_then(|r| r.position), at.view().report_age(site)) {
            (Some(position), Some(age)) => format!("{site} at {position} as of {age:.0?} ago"),
            (None, Some(age)) => format!("{site} without a position as of {age:.0?} ago"),
            (Some(_) | None, None) => format!("{site} never reported"),
        })
        .collect();
    let mut known: Vec<_> =
        at.sites().filter_map(|site| Some((at.report(site)?.position?, site))).collect();
    known.sort();
    let furthest = match known.as_slice() {
        [.., (second, _), (first, site)] if first > second => format!("; {site} is ahead"),
        _ => String::new(),
    };
    Finding::pass(format!("{}{furthest}", shown.join(", ")), "the last known WAL positions")
}

fn target_not_primary(at: &Preflight<'_>) -> Finding {
    let wanted = "a site that is not primary";
    if at.from() == at.to() {
        Finding::block(format!("{} is the primary site", at.to()), wanted, "nothing to do")
    } else {
        Finding::pass(format!("{} is primary", at.from()), wanted)
    }
}

fn target_in_electorate(at: &Preflight<'_>) -> Finding {
    let electorate = &at.federation.primary.value.electorate;
    let names: Vec<&str> = electorate.iter().map(|site| site.as_str()).collect();
    let saw = format!("the electorate is {}", names.join(", "));
    let wanted = format!("{} in the electorate", at.to());
    if electorate.contains(at.to()) {
        Finding::pass(saw, wanted)
    } else {
        Finding::block(saw, wanted, "promote one that is; only the primary site adds to it")
    }
}

/// A switchover is superseded; a promotion under way is ended by hand first.
fn no_other_promotion(at: &Preflight<'_>) -> Finding {
    let wanted = "no promotion under way";
    if let PrimaryState::Fenced { to, operation, .. } = &at.federation.primary.value.state {
        let next = format!(
            "wait for its end: regentctl operation watch {operation}, or: regentctl operation cancel \
             {operation}"
        );
        return Finding::block(format!("{operation} promotes {to}"), wanted, next);
    }
    match &at.view().running {
        Slot::Unreadable(bad) => {
            Finding::block(bad.problem.clone(), wanted, "repair or delete that record")
        }
        Slot::Absent => Finding::pass("no operation runs", wanted),
        Slot::Read(running) => match &running.value.id {
            None => Finding::pass("no operation runs", wanted),
            Some(id) => Finding::warn(format!("operation {id} runs"), wanted, "it is superseded"),
        },
    }
}

/// Its lease, and the promises by which a site that lost the quorum goes on without one.
fn old_lease(at: &Preflight<'_>) -> Finding {
    let ttl_max = at.federation.primary.value.ttl_max;
    let wanted = format!("a primary lease that was not renewed for {ttl_max:.0?}");
    let promised = at.promised();
    let lasts = match promised {
        Promised::Until(promised) => Some(promised.left).filter(|left| !left.is_zero()),
        Promised::Nothing | Promised::Untold => None,
    };
    let by_lease = match &at.view().lease {
        Slot::Absent => Ok("nobody ever held it".to_owned()),
        Slot::Unreadable(bad) if lasts.is_none() => {
            let waits = "it is waited for as if it were alive";
            return Finding::warn(bad.problem.clone(), wanted, waits);
        }
        Slot::Unreadable(bad) => Ok(bad.problem.clone()),
        Slot::Read(lease) => {
            let (unchanged, node) = (at.lease_unchanged(), &lease.value.node);
            if lease.value.released {
                Ok(format!("released by {node}"))
            } else if unchanged >= ttl_max {
                Ok(format!("{node} has not renewed it for {unchanged:.0?}"))
            } else {
                Err(format!("{node} renewed it within the last {unchanged:.1?}, or may have"))
            }
        }
    };
    let from = at.from();
    let (saw, wanted) = match (by_lease, lasts) {
        (Ok(ended), None) if promised == Promised::Untold => {
            let saw = format!(
                "{ended}; whether {from} may write on by a promise, the agents of {} do not tell",
                at.to()
            );
            let waits = "its leader waits for the end of what it promised; how much is lost cannot be \
                         told before";
            return Finding::warn(saw, wanted, waits);
        }
        (Ok(ended), None) => return Finding::pass(ended, wanted),
        (Err(alive), _) => (alive, wanted),
        (Ok(ended), Some(left)) => {
            let saw = format!(
                "{ended}, but {from} may write on by what {} promised it, for another {left:.0?}",
                at.to(),
            );
            (saw, format!("{wanted}, and no promise that lasts"))
        }
    };
    if at.request.end_lease {
        Finding::warn(saw, wanted, "accepted: it ends by this promotion")
    } else {
        let next = format!(
            "if {from} is alive, switch over: regentctl switchover --to {to}; if it is not, wait; to \
             end a lease that is alive: --end-lease",
            to = at.to()
        );
        Finding::block(saw, wanted, next)
    }
}

fn target_reports(at: &Preflight<'_>) -> Finding {
    let (to, primary) = (at.to(), &at.federation.primary.value);
    let wanted =
        format!("{to} reports as a standby of this database, at no epoch above {}", primary.epoch);
    let next = "see that its agents run and reach the global quorum: regentctl status";
    if let Some(silent) = at.silent(to) {
        return Finding::block(silent, wanted, next);
    }
    let Some(report) = at.report(to) else {
        return Finding::block(format!("{to} has never reported"), wanted, next);
    };
    let role = match report.role {
        ReportedRole::Down => "reports that it is down",
        ReportedRole::Primary => "runs as primary",
        ReportedRole::Standby => "runs as standby",
    };
    let saw = format!("{to} {role}, at epoch {}", report.epoch);
    let same = primary.system_identifier.is_none_or(|id| report.system_identifier == Some(id));
    if report.role == ReportedRole::Standby && report.epoch <= primary.epoch && same {
        Finding::pass(saw, wanted)
    } else {
        let other = if same { "" } else { ", and holds another database" };
        Finding::block(format!("{saw}{other}"), wanted, next)
    }
}

fn target_continues(at: &Preflight<'_>) -> Finding {
    let (to, from) = (at.to(), at.from());
    let wanted = format!("{to}'s history leads to {from}'s, as far as that is known");
    let next = "promote another site; one that left that way has to be rewound first";
    let report = at.report(to);
    let Some((own, end)) = report.and_then(|r| r.ancestry.as_ref().zip(r.position)) else {
        return Finding::block(format!("{to} does not report its history"), wanted, next);
    };
    let old = at.old();
    let known = old.history().map_or_else(
        || format!("{from} reports no history"),
        |history| format!("{from} on timeline {}", history.timeline),
    );
    let saw = format!("{to} on timeline {} at {end}, {known}", own.timeline);
    match old.way((own, end)) {
        Way::Continues => Finding::pass(saw, wanted),
        Way::Left => Finding::block(saw, wanted, next),
        Way::Untold => {
            let saw = format!("{saw}: whether it is the same timeline cannot be told yet");
            Finding::block(saw, wanted, "look again: an id of a promotion is still looked for")
        }
    }
}

/// A site that has more than the target would lose it; one that is silent may have.
fn no_survivor_ahead(at: &Preflight<'_>) -> Finding {
    let to = at.to();
    let wanted = format!("no other surviving site known to be ahead of {to}, and none silent");
    let without = at.request.accepted.as_ref().map(|accepted| &accepted.without);
    let own = at.report(to).and_then(|own| Some((own.ancestry.as_ref(), own.position?)));
    let (mut seen, mut against) = (Vec::new(), Vec::new());
    for site in at.sites().filter(|site| *site != to && *site != at.from()) {
        if without.is_some_and(|without| without.contains(site)) {
            seen.push(format!("{site} is left out of account"));
            continue;
        }
        let silent = at.silent(site);
        match at.report(site).map(|report| Survivor::reported(own, report)) {
            Some(Survivor::Ahead(bytes)) => {
                against.push(format!("{site} is {} ahead", rounded(bytes)));
            }
            Some(Survivor::Newer) => {
                against.push(format!("{site} has parted from {to}, on a later timeline"));
            }
            Some(Survivor::Untold) if silent.is_none() => {
                against.push(format!("{site} and {to} do not both tell how far their WAL goes"));
            }
            Some(Survivor::NotAhead | Survivor::Untold) | None => match silent {
                Some(silent) => against.push(silent),
                None => seen.push(format!("{site} is not ahead")),
            },
        }
    }
    if against.is_empty() {
        if seen.is_empty() {
            seen.push("there is no other".to_owned());
        }
        return Finding::pass(seen.join(", "), wanted);
    }
    let next = format!(
        "promote the one that is ahead (that {to} first streams from it is not built yet), or leave \
         it out, with what it alone has: --without SITE"
    );
    Finding::block(against.join("; "), wanted, next)
}

fn loss_accepted(at: &Preflight<'_>) -> Finding {
    let loss = at.loss();
    let saw = format!("{loss}, if {} were promoted now", at.to());
    let Some(accepted) = &at.request.accepted else {
        let wanted = "a loss that somebody accepts";
        let next = "say what may be lost: --accept-loss-age 90s, and --accept-loss-bytes if it is \
                    to be compared too";
        return Finding::block(saw, wanted, next);
    };
    let wanted = accepted.to_string();
    if loss.is_within(accepted) {
        Finding::pass(saw, wanted)
    } else {
        let next = "accept more, or any: --accept-loss-age any; waiting does not lower it, and what \
                    is not known counts as lost";
        Finding::block(saw, wanted, next)
    }
}

/// How long a promotion may take before it is given up: the whole wait, for the lease and for any promise
/// that the target may have given, and as long as a take may.
pub(super) fn span(federation: &Federation<'_>) -> Duration {
    let primary = &federation.primary.value;
    // A promise lasts at most as long as a handover did (protocol.md rule 11).
    LeaseTiming::wait_for(primary.ttl_max).max(primary.span_max)
        + federation.topology().policy.handover_span.0
}

fn steps(at: &Preflight<'_>) -> Vec<String> {
    let (from, to, primary) = (at.from(), at.to(), &at.federation.primary.value);
    let wait = LeaseTiming::wait_for(primary.ttl_max);
    let promise = match at.promised() {
        Promised::Until(promised) if !promised.left.is_zero() => format!(
            ", nor before its promise to {from} ends, in {:.0?} if it gives no other",
            promised.left
        ),
        Promised::Until(_) | Promised::Nothing => String::new(),
        Promised::Untold => format!(", nor before what it may have promised {from} ends"),
    };
    vec![
        format!(
            "fence: `primary` is fenced for {to}; {from} is refused its next renewal, and whatever \
             of it lives stops at the latest when its lease ends"
        ),
        format!(
            "wait: {to} takes nothing before {wait:.1?} have passed in which it has seen the lease \
             unchanged; this coordinator has for {:.0?}{promise}",
            at.lease_unchanged()
        ),
        format!(
            "take: {to} compares the loss with what was accepted once more, takes primacy at epoch {} \
             and opens; without that within {:.0?} the fence is lifted and {from} may open again",
            primary.epoch.next(),
            span(at.federation)
        ),
        "follow: the other sites that live turn to it".to_owned(),
        format!(
            "{from}, when it is back, never opens: it keeps the WAL that {to} never had, is rewound \
             and follows"
        ),
    ]
}

/// Begins exactly the plan that was agreed to.
pub fn execute(federation: &Federation<'_>, asked: &Asked) -> Result<Write, Refusal> {
    let (view, request) = (federation.view, &asked.request);
    request::reachable(view)?;
    if asked.reason.is_empty() {
        return Err(Refusal::Invalid(
            "reason is empty: whoever looks for what was lost has to read why; say it with --reason"
                .to_owned(),
        ));
    }
    let planned = plan(federation, request);
    request::agreed(&planned, &asked.plan_hash, &format!("promote {}", request.to))?;
    let read = view.read(federation.primary);
    let accepted = request.accepted.clone().unwrap_or_default();
    let (to, id) = (request.to.clone(), asked.id.clone());
    let fence = transactions::fence(&read, to, id, accepted)
        .map_err(|no_edge| Refusal::Blocked(no_edge.to_string()))?;
    let first = StepRecord {
        step: SwitchoverStep::Take,
        entered_at: view.wall,
        note: format!("{} is fenced, {} waits", federation.primary.value.holder, request.to),
    };
    let operation = Operation {
        steps: vec![first],
        ..request::operation(view, asked.id.clone(), planned, &asked.by, &asked.reason)
    };
    let unknown = view.running.read().map(|seen| seen.value.unknown.clone()).unwrap_or_default();
    let running = RunningOperation { version: VERSION, id: Some(asked.id.clone()), unknown };
    let mut write = Write::new(Purpose::Promote)
        .with(fence)
        .comparing(view, GlobalKey::Topology)
        .put(view, Put::Operation(Box::new(operation)))
        .put(view, Put::Running(running));
    if !request.end_lease {
        // A renewal that came since says that it is alive.
        write = write.comparing(view, GlobalKey::Lease);
    }
    if let Some(superseded) = superseded(federation, &asked.id) {
        write = write.put(view, superseded);
    }
    Ok(request::too_many(view).into_iter().fold(write, |write, id| write.forget(view, id)))
}

/// The record of the operation in whose place this one comes.
fn superseded(federation: &Federation<'_>, by: &OperationId) -> Option<Put> {
    let at = federation.view.wall;
    let mut operation = federation.running()?.value.clone();
    if operation.outcome.is_some() {
        return None;
    }
    let note = format!("superseded by {by}");
    operation.steps.push(StepRecord { step: SwitchoverStep::Done, entered_at: at, note });
    operation.outcome = Some(Outcome::Superseded { at, by: by.clone() });
    Some(Put::Operation(Box::new(operation)))
}
