//! What the API's requests come to: a transaction, or a refusal in words.
//!
//! Any coordinator may serve a request, elected or not: these transactions do not compare
//! `leader`. They begin or mark an operation; of `primary` they touch nothing but the fence of a promotion
//! that is cancelled ([`super::fencing`]'s and [`super::promotion`]'s have edges of their own).

use regent_proto::keys::GlobalKey;
use regent_proto::name::OperationId;
use regent_proto::record::{
    Operation, Outcome, PrimaryState, RunningOperation, StepRecord, SwitchoverStep, Unknown,
    VERSION, Verdict,
};
use regent_proto::transactions;

use super::plan::{self, NoPlan, Planned};
use super::view::{Quorum, Seen, Slot, View};
use super::write::{Purpose, Put, Write};
use super::{Federation, switchover};

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It names something that is not there.
    #[error("{0}")]
    NotFound(String),
    /// A check, or the state of things, stands against it.
    #[error("{0}")]
    Blocked(String),
    /// The situation has changed since.
    #[error("{0}")]
    Stale(String),
    /// The quorum does not answer.
    #[error("{0}")]
    Unreachable(String),
}

impl From<NoPlan> for Refusal {
    fn from(error: NoPlan) -> Self {
        Self::Blocked(error.to_string())
    }
}

/// How many operations a federation remembers.
pub const OPERATIONS_KEPT: usize = 50;
/// A transaction is bounded.
const FORGOTTEN_AT_ONCE: usize = 20;

/// Who asked for a switchover, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operation's identity, drawn by the caller.
    pub id: OperationId,
    /// What for.
    pub request: plan::Request,
    /// The plan that was agreed to.
    pub plan_hash: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Refuses what can't be changed because the records are old.
pub fn reachable(view: &View) -> Result<(), Refusal> {
    match &view.quorum {
        Quorum::Reachable => Ok(()),
        Quorum::Unreachable { problem, .. } => Err(Refusal::Unreachable(format!(
            "the global quorum does not answer ({problem}); nothing was changed"
        ))),
    }
}

/// Refuses a plan that a check blocks, or that is not the one that was agreed to.
pub(super) fn agreed(planned: &Planned, agreed_to: &str, verb: &str) -> Result<(), Refusal> {
    let Planned { plan, hash } = planned;
    let blocking: Vec<String> = plan
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Block)
        .map(|c| format!("{}: {}; wanted: {}; next: {}", c.name, c.saw, c.wanted, c.next))
        .collect();
    if !blocking.is_empty() {
        return Err(Refusal::Blocked(blocking.join("\n")));
    }
    if hash != agreed_to {
        return Err(Refusal::Stale(format!(
            "the plan {agreed_to} is stale: the situation has changed since, the plan would now be \
             {hash}; look at it again: regentctl {verb} --dry-run"
        )));
    }
    Ok(())
}

/// Begins exactly the plan that was agreed to.
pub fn execute(federation: &Federation<'_>, asked: &Asked) -> Result<Write, Refusal> {
    let view = federation.view;
    reachable(view)?;
    let planned = plan::plan(federation, &asked.request);
    agreed(&planned, &asked.plan_hash, &format!("switchover --to {}", asked.request.to))?;
    let first = StepRecord {
        step: SwitchoverStep::Prepare,
        entered_at: view.wall,
        note: "asked for".to_owned(),
    };
    let operation = Operation {
        steps: vec![first],
        ..operation(view, asked.id.clone(), planned, &asked.by, &asked.reason)
    };
    let unknown = view.running.read().map(|seen| seen.value.unknown.clone()).unwrap_or_default();
    let running = RunningOperation { version: VERSION, id: Some(asked.id.clone()), unknown };
    let begin = Write::new(Purpose::Execute)
        .comparing(view, GlobalKey::Primary)
        .comparing(view, GlobalKey::Topology)
        .put(view, Put::Operation(Box::new(operation)))
        .put(view, Put::Running(running));
    Ok(too_many(view).into_iter().fold(begin, |write, id| write.forget(view, id)))
}

/// The record of an operation that was just asked for: who, why, and what was agreed to.
pub(super) fn operation(
    view: &View,
    id: OperationId,
    planned: Planned,
    by: &str,
    reason: &str,
) -> Operation {
    let Planned { plan, hash } = planned;
    Operation {
        version: VERSION,
        id,
        kind: plan.kind.clone(),
        requested_by: by.to_owned(),
        reason: reason.to_owned(),
        plan_hash: hash,
        epoch: plan.epoch,
        plan,
        requested_at: view.wall,
        steps: Vec::new(),
        cancel_requested: false,
        outcome: None,
        outage_ms: None,
        unknown: Unknown::new(),
    }
}

/// Ended operations beyond those that are kept, oldest first: the records of a federation are read
/// as a whole, so they must stay few.
pub(super) fn too_many(view: &View) -> Vec<OperationId> {
    let mut ended: Vec<&Operation> = view
        .operations
        .values()
        .filter_map(|slot| slot.read().map(|seen| &seen.value))
        .filter(|operation| operation.outcome.is_some())
        .collect();
    ended.sort_by_key(|operation| (operation.requested_at, &operation.id));
    let surplus = (ended.len() + 1).saturating_sub(OPERATIONS_KEPT).min(FORGOTTEN_AT_ONCE);
    ended.into_iter().take(surplus).map(|operation| operation.id.clone()).collect()
}

/// The operation of this id.
pub fn find<'a>(view: &'a View, id: &OperationId) -> Result<&'a Seen<Operation>, Refusal> {
    match view.operations.get(id) {
        Some(Slot::Read(operation)) => Ok(operation),
        Some(Slot::Unreadable(bad)) => Err(Refusal::Blocked(bad.problem.clone())),
        Some(Slot::Absent) | None => Err(Refusal::NotFound(format!(
            "federation {} has no operation {id}; list them: regentctl operation list",
            view.federation
        ))),
    }
}

/// Asks for an operation's end; `None` when that was asked for already.
pub fn cancel(
    federation: &Federation<'_>,
    id: &OperationId,
    by: &str,
) -> Result<Option<Write>, Refusal> {
    let view = federation.view;
    reachable(view)?;
    let operation = &find(view, id)?.value;
    if let Some(outcome) = &operation.outcome {
        let ended = super::picture::outcome_name(Some(outcome));
        return Err(Refusal::Blocked(format!("operation {id} has ended already: {ended}")));
    }
    let Some((from, to)) = operation.kind.moves() else {
        let verb = operation.kind.name();
        return Err(Refusal::Blocked(format!(
            "a {verb} is done at once: nothing is left to cancel"
        )));
    };
    if operation.cancel_requested && federation.primary.value.state == PrimaryState::Open {
        return Ok(None);
    }
    let step = switchover::recorded(operation);
    let in_time = match &federation.primary.value.state {
        PrimaryState::Open => step == SwitchoverStep::Prepare,
        // As long as it has not taken, and whether it has is compared.
        PrimaryState::Fenced { operation: by, .. } => by == id,
        PrimaryState::Handover { .. } | PrimaryState::Token { .. } => false,
    };
    if !in_time {
        return Err(Refusal::Blocked(format!(
            "operation {id} is past the handover (step {step}): from there it ends by itself, with \
             {to} primary or, when {to} has not taken in time, with {from} primary; \
             wait for it: regentctl operation watch {id}"
        )));
    }
    let by = if by.is_empty() { "an unnamed client" } else { by };
    let note = format!("cancel asked for by {by}");
    let mut cancelled = operation.clone();
    cancelled.cancel_requested = true;
    let write = Write::new(Purpose::Cancel).comparing(view, GlobalKey::RunningOperation);
    let write = match &federation.primary.value.state {
        // The fence goes with the word that it is cancelled: the target can't take any more.
        PrimaryState::Fenced { .. } => {
            let unfence = transactions::unfence(&view.read(federation.primary))
                .map_err(|no_edge| Refusal::Blocked(no_edge.to_string()))?;
            let runs = federation.running().is_some_and(|running| running.value.id == *id);
            let cancelled_by = note.clone();
            let (step, entered_at) = (SwitchoverStep::RollBack, view.wall);
            cancelled.steps.push(StepRecord { step, entered_at, note });
            if !runs {
                // Nobody would write its end down.
                end_unfollowed(view, &mut cancelled, cancelled_by);
            }
            write.with(unfence)
        }
        PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. } => {
            if let Some(step) = cancelled.steps.last_mut() {
                step.note = note;
            }
            write.comparing(view, GlobalKey::Primary)
        }
    };
    Ok(Some(write.put(view, Put::Operation(Box::new(cancelled)))))
}

/// The end of a promotion whose fence is lifted and that is not named as running, so that nothing follows it.
pub(super) fn end_unfollowed(view: &View, operation: &mut Operation, reason: String) {
    let at = view.wall;
    let note = format!("{reason}; not named as running, so what came after was not followed");
    operation.steps.push(StepRecord { step: SwitchoverStep::Done, entered_at: at, note });
    operation.outcome = Some(Outcome::RolledBack { at, reason });
}
