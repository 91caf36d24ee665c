//! `fence` and `unfence`: a person takes the right to write from the primary site, and gives it back.
//!
//! Primacy does not move: the record `primary` says that nobody writes. Whoever leads the site is refused
//! its next renewal and stops (protocol.md rule 3); the site serves reads, also after a restart or a
//! failover inside it. One transaction begins and ends it, with its audit record, so it never runs.
//! Invariant: nobody is fenced whose name the person did not say (I24).

use regent_proto::keys::GlobalKey;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{Check, Operation, OperationKind, Outcome, WritesFenced};
use regent_proto::transactions;

use super::Federation;
use super::plan::{self, Finding, Planned};
use super::request::{self, Refusal};
use super::write::{Purpose, Put, Write};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The site is to write no more.
    Fence,
    /// It may write again.
    Unfence,
}

impl Verb {
    /// Both, for tests that must cover each.
    pub const ALL: [Self; 2] = [Self::Fence, Self::Unfence];

    fn of(self, site: &SiteName) -> OperationKind {
        let site = site.clone();
        match self {
            Self::Fence => OperationKind::Fence { site },
            Self::Unfence => OperationKind::Unfence { site },
        }
    }
}

/// Who asked, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operation's identity, drawn by the caller.
    pub id: OperationId,
    /// Which.
    pub verb: Verb,
    /// The primary site, by name.
    pub site: SiteName,
    /// The plan that was agreed to.
    pub plan_hash: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What the verb would do now. Changes nothing.
pub fn plan(federation: &Federation<'_>, verb: Verb, site: &SiteName) -> Planned {
    let checks: [(&str, Finding); 3] = [
        ("site-is-primary", site_is_primary(federation, site)),
        ("no-other-operation", plan::no_other_operation(federation.view)),
        ("writes", writes(federation, verb)),
    ];
    let checks: Vec<Check> =
        checks.into_iter().map(|(name, finding)| plan::named(name, finding)).collect();
    plan::planned(federation, verb.of(site), checks, steps(federation, verb))
}

fn site_is_primary(federation: &Federation<'_>, site: &SiteName) -> Finding {
    let holder = &federation.primary.value.holder;
    let wanted = "the primary site: no other one writes";
    if site == holder {
        Finding::pass(format!("{holder} is primary"), wanted)
    } else {
        Finding::block(format!("{holder} is primary, not {site}"), wanted, format!("name {holder}"))
    }
}

fn writes(federation: &Federation<'_>, verb: Verb) -> Finding {
    let primary = &federation.primary.value;
    let saw = match &primary.writes_fenced {
        Some(fence) => format!("writes fenced by {}: {}", fence.by, fence.reason),
        None => format!("writes are not fenced, `primary` is {}", primary.state.name()),
    };
    // What the transaction itself would say, so that the plan cannot promise what it refuses.
    let edge = match verb {
        Verb::Fence => primary.writes_fenced_by(by("", "")),
        Verb::Unfence => primary.writes_unfenced(),
    };
    let (wanted, next) = match verb {
        Verb::Fence => ("`primary` open, writes not fenced", "nothing to do, if that is fenced"),
        Verb::Unfence => ("`primary` open, writes fenced", "nothing to do, if that writes"),
    };
    match edge {
        Ok(_) => Finding::pass(saw, wanted),
        Err(_) => Finding::block(saw, wanted, next),
    }
}

fn by(by: &str, reason: &str) -> WritesFenced {
    WritesFenced { by: by.to_owned(), reason: reason.to_owned() }
}

fn steps(federation: &Federation<'_>, verb: Verb) -> Vec<String> {
    let primary = &federation.primary.value;
    let holder = &primary.holder;
    match verb {
        Verb::Fence => vec![
            format!(
                "`primary` says that writes are fenced; {holder} is refused its next renewal and \
                 stops, at the latest when its lease ends ({:.0?})",
                primary.ttl_max
            ),
            format!(
                "{holder} starts again read-only; it keeps primacy at epoch {}, and stays fenced \
                 through restarts and failovers inside it until: regentctl unfence {holder}",
                primary.epoch
            ),
        ],
        Verb::Unfence => vec![format!(
            "{holder} acquires the primary lease again and opens for writes, in the same epoch {}",
            primary.epoch
        )],
    }
}

/// Carries out exactly the plan that was agreed to.
pub fn execute(federation: &Federation<'_>, asked: &Asked) -> Result<Write, Refusal> {
    let view = federation.view;
    request::reachable(view)?;
    if asked.verb == Verb::Fence && asked.reason.is_empty() {
        return Err(Refusal::Invalid(
            "reason is empty: whoever finds the site fenced has to read why; say it with --reason"
                .to_owned(),
        ));
    }
    let planned = plan(federation, asked.verb, &asked.site);
    let verb = planned.plan.kind.name();
    request::agreed(&planned, &asked.plan_hash, &format!("{verb} {}", asked.site))?;
    let read = view.read(federation.primary);
    let transaction = match asked.verb {
        Verb::Fence => transactions::fence_writes(&read, by(&asked.by, &asked.reason)),
        Verb::Unfence => transactions::unfence_writes(&read),
    };
    let transaction = transaction.map_err(|no_edge| Refusal::Blocked(no_edge.to_string()))?;
    // The audit record.
    let operation = Operation {
        outcome: Some(Outcome::Succeeded { at: view.wall }),
        ..request::operation(view, asked.id.clone(), planned, &asked.by, &asked.reason)
    };
    let write = Write::new(match asked.verb {
        Verb::Fence => Purpose::Fence,
        Verb::Unfence => Purpose::Unfence,
    })
    .with(transaction)
    .comparing(view, GlobalKey::RunningOperation)
    .put(view, Put::Operation(Box::new(operation)));
    Ok(request::too_many(view).into_iter().fold(write, |write, id| write.forget(view, id)))
}
