//! The switchover A → B as a state machine over [`SwitchoverStep`].
//!
//! Level-triggered: where the operation is, is derived from `primary`; the steps in the operation's
//! record say what was last written down. So a coordinator that comes in at any point goes on,
//! also when everything is over already. From the handover on the agents need no coordinator; what
//! is left to it is to roll back when the span is over, and to write down what happened.
//!
//! A promotion goes on here too, from *take* on: until B has taken it may be given up.
//!
//! Edges of `primary` written here, and no other: *handover*, *roll-back* and *unfence*
//! (protocol.md section 2). All put the operation's step in the same transaction, so an open
//! `primary` of A's epoch means "not handed over" or "rolled back" by what the record says.

mod follow;
mod prepare;

use regent_proto::keys::GlobalKey;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{
    Operation, OperationKind, Outcome, PrimaryState, RunningOperation, StepRecord, SwitchoverStep,
    VERSION,
};
use regent_proto::time::BootTime;
use regent_proto::transactions;

use super::Federation;
use super::promotion;
use super::reason::{Missing, Reason, listed};
use super::view::{Seen, View};
use super::write::{Purpose, Put, Write};

/// What `primary` says about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Situation {
    /// A holds and is open, in the epoch in which the operation began.
    Before,
    /// A is asked to stop.
    Stopping,
    /// A has stopped: B may take.
    Stopped,
    /// It is a promotion: A is fenced, B waits and takes.
    Fenced,
    /// B has taken.
    Moved,
    /// Primacy went another way.
    Superseded {
        /// By this operation, where it is known.
        by: Option<OperationId>,
    },
    /// `primary` is in a state that this operation does not know; whoever wrote it ends it.
    Foreign {
        /// What it says.
        problem: String,
    },
}

/// What a round does for the operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Advance {
    /// The transaction.
    pub(super) write: Option<Write>,
    /// One that only says what it waits for: written when there is nothing else to write.
    pub(super) note: Option<Write>,
    /// Look again then.
    pub(super) wake: Option<BootTime>,
    /// Why.
    pub(super) reason: Reason,
}

/// The step written down last.
#[must_use]
pub fn recorded(operation: &Operation) -> SwitchoverStep {
    operation.steps.last().map_or(SwitchoverStep::Prepare, |last| last.step)
}

/// An operation that moves primacy.
#[derive(Debug, Clone, Copy)]
pub struct Moving<'a> {
    /// Its record.
    pub operation: &'a Operation,
    /// A.
    pub from: &'a SiteName,
    /// B.
    pub to: &'a SiteName,
}

impl Moving<'_> {
    /// Where it is, by `primary`.
    #[must_use]
    pub fn situation(&self, federation: &Federation<'_>) -> Situation {
        let primary = &federation.primary.value;
        let Moving { operation, from, to } = *self;
        let with_a = primary.holder == *from && primary.epoch == operation.epoch;
        let with_b = primary.holder == *to && primary.epoch == operation.epoch.next();
        let own = primary.state.operation() == Some(&operation.id);
        match &primary.state {
            PrimaryState::Fenced { .. } if with_a && own => Situation::Fenced,
            PrimaryState::Fenced { operation: by, .. } => {
                Situation::Superseded { by: Some(by.clone()) }
            }
            PrimaryState::Handover { .. } if with_a && own => Situation::Stopping,
            PrimaryState::Token { .. } if with_a && own => Situation::Stopped,
            PrimaryState::Open if with_a => Situation::Before,
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. }
                if with_b =>
            {
                Situation::Moved
            }
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. }
                if primary.epoch > operation.epoch =>
            {
                Situation::Superseded { by: taken_by(federation, operation) }
            }
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Token { .. } => {
                Situation::Foreign {
                    problem: format!(
                        "`primary` to leave the state {} of {} at epoch {}, which is not this \
                         operation's",
                        primary.state.name(),
                        primary.holder,
                        primary.epoch
                    ),
                }
            }
        }
    }
}

/// The operation that took the epoch after this one's.
fn taken_by(federation: &Federation<'_>, operation: &Operation) -> Option<OperationId> {
    let history = federation.view.history.get(&operation.epoch.next())?.read()?;
    history.value.operation.clone().filter(|by| *by != operation.id)
}

/// The operation's next transaction, or what it waits for.
pub(super) fn advance(federation: &Federation<'_>, operation: &Seen<Operation>) -> Advance {
    let operation = &operation.value;
    let (None, Some((from, to))) = (&operation.outcome, operation.kind.moves()) else {
        return forget(federation.view, &operation.id);
    };
    let moving = Moving { operation, from, to };
    let machine = Machine { federation, moving };
    let step = recorded(operation);
    match moving.situation(federation) {
        Situation::Before => machine.before(step),
        Situation::Stopping => machine.stopping(step),
        Situation::Stopped => machine.stopped(step),
        Situation::Fenced => machine.fenced(step),
        Situation::Moved => machine.moved(step),
        Situation::Superseded { by } => machine.superseded(by),
        Situation::Foreign { problem } => machine.wait(step, vec![Missing::Elsewhere { problem }]),
    }
}

/// An outcome is written together with the end of `operation`; should a hand have changed one of them,
/// or name there what is done at once, `operation` is cleared.
fn forget(view: &View, operation: &OperationId) -> Advance {
    let write = base(view, Purpose::ClearOperation, operation).put(view, no_operation(view));
    let (operation, step) = (operation.clone(), SwitchoverStep::Done);
    let reason = Reason::Switchover { operation, step, waits_for: Vec::new() };
    Advance { write: Some(write), ..Advance::nothing(reason) }
}

fn base(view: &View, purpose: Purpose, operation: &OperationId) -> Write {
    elected_write(view, purpose)
        .comparing(view, GlobalKey::RunningOperation)
        .comparing(view, GlobalKey::Operation(operation.clone()))
}

fn no_operation(view: &View) -> Put {
    let unknown = view.running.read().map(|seen| seen.value.unknown.clone()).unwrap_or_default();
    Put::Running(RunningOperation { version: VERSION, id: None, unknown })
}

struct Machine<'a> {
    federation: &'a Federation<'a>,
    moving: Moving<'a>,
}

impl<'a> Machine<'a> {
    fn view(&self) -> &'a View {
        self.federation.view
    }

    fn operation(&self) -> &'a Operation {
        self.moving.operation
    }

    fn from(&self) -> &'a SiteName {
        self.moving.from
    }

    fn to(&self) -> &'a SiteName {
        self.moving.to
    }

    /// Whether nobody waits for A.
    fn is_promotion(&self) -> bool {
        match self.operation().kind {
            OperationKind::Promotion { .. } => true,
            OperationKind::Switchover { .. }
            | OperationKind::Fence { .. }
            | OperationKind::Unfence { .. } => false,
        }
    }

    /// When the present step is overdue, by this process's own clock.
    fn due_at(&self, span: std::time::Duration) -> BootTime {
        let clock = self.federation.memory.step.as_ref();
        clock.map_or(self.view().now, |clock| clock.since).plus(span)
    }

    // --- A holds -------------------------------------------------------------------------------

    fn before(&self, step: SwitchoverStep) -> Advance {
        match step {
            SwitchoverStep::Prepare => self.prepare(),
            // Handed over and open again in the same epoch: A's leader, or a coordinator that
            // died before it could say so, rolled back.
            SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify => {
                let note = format!("{} gave up waiting: primacy stays there", self.from());
                self.enter(SwitchoverStep::RollBack, &note)
            }
            SwitchoverStep::RollBack | SwitchoverStep::Done => self.rolled_back(step),
        }
    }

    fn rolled_back(&self, step: SwitchoverStep) -> Advance {
        let due = self.due_at(self.federation.topology().policy.follow_timeout.0);
        let missing = follow::missing_primary(self.federation, self.from());
        if !missing.is_empty() && self.view().now < due {
            return self.wait(step, missing).wake_at(due);
        }
        let rolled_back =
            self.operation().steps.iter().rev().find(|s| s.step == SwitchoverStep::RollBack);
        let outcome = Outcome::RolledBack {
            at: self.view().wall,
            reason: rolled_back.map_or_else(
                || format!("{} is primary still, in the same epoch", self.from()),
                |step| step.note.clone(),
            ),
        };
        let note = if missing.is_empty() {
            format!("{} is primary again", self.from())
        } else {
            format!("ended without {}", listed(&missing))
        };
        self.end(outcome, &note)
    }

    // --- Primacy is on its way -----------------------------------------------------------------

    fn stopping(&self, step: SwitchoverStep) -> Advance {
        let span = self.span();
        if let Some(roll_back) = self.overdue(self.from(), "stopped") {
            return roll_back;
        }
        match step {
            SwitchoverStep::Prepare => {
                self.enter(SwitchoverStep::Handover, "seen after it was written")
            }
            SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::RollBack
            | SwitchoverStep::Done => self
                .wait(step, vec![Missing::Token { from: self.from().clone(), span }])
                .wake_at(self.federation.primary.since.plus(span)),
        }
    }

    fn stopped(&self, step: SwitchoverStep) -> Advance {
        let span = self.span();
        if let Some(roll_back) = self.overdue(self.to(), "taken") {
            return roll_back;
        }
        match step {
            SwitchoverStep::Prepare | SwitchoverStep::Handover => {
                let note = format!("{} has stopped and posted its token", self.from());
                self.enter(SwitchoverStep::Take, &note)
            }
            SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::RollBack
            | SwitchoverStep::Done => self
                .wait(step, vec![Missing::Take { to: self.to().clone(), span }])
                .wake_at(self.federation.primary.since.plus(span)),
        }
    }

    fn span(&self) -> std::time::Duration {
        match &self.federation.primary.value.state {
            PrimaryState::Handover { span, .. } | PrimaryState::Token { span, .. } => *span,
            PrimaryState::Open | PrimaryState::Fenced { .. } => {
                self.federation.topology().policy.handover_span.0
            }
        }
    }

    /// The roll-back, once this process has seen this revision of `primary` for the span.
    fn overdue(&self, site: &SiteName, what: &str) -> Option<Advance> {
        let primary = self.federation.primary;
        if self.view().now < primary.since.plus(self.span()) {
            return None;
        }
        let note = format!("{site} has not {what} within {:?}", self.span());
        let roll_back = transactions::roll_back(&self.view().read(primary)).ok()?;
        let write = self
            .base(Purpose::RollBack)
            .with(roll_back)
            .put(self.view(), self.record(SwitchoverStep::RollBack, &note, None));
        Some(self.write(SwitchoverStep::RollBack, write))
    }

    /// A promotion: B takes by itself, or it is given up. A cancel lifts the fence itself; one that an older
    /// coordinator has only noted is carried out here.
    fn fenced(&self, step: SwitchoverStep) -> Advance {
        let (primary, span) = (self.federation.primary, promotion::span(self.federation));
        let due = primary.since.plus(span);
        let awaits = self.view().report(self.to()).and_then(|r| r.value.promotion_awaits.clone());
        let note = if self.operation().cancel_requested {
            let asked = self.operation().steps.last().map(|step| step.note.clone());
            asked.unwrap_or_else(|| "cancelled".to_owned())
        } else if self.view().now >= due {
            let awaits = awaits.map(|awaits| format!("; its leader said last: {awaits}"));
            format!("{} has not taken within {span:?}{}", self.to(), awaits.unwrap_or_default())
        } else {
            let to = self.to().clone();
            return self
                .wait_noted(step, vec![Missing::Promotion { to, span, awaits }])
                .wake_at(due);
        };
        let unfence = match transactions::unfence(&self.view().read(primary)) {
            Ok(unfence) => unfence,
            Err(no_edge) => {
                let problem = no_edge.to_string();
                return self.wait(step, vec![Missing::Elsewhere { problem }]);
            }
        };
        let write = self
            .base(Purpose::GiveUp)
            .with(unfence)
            .put(self.view(), self.record(SwitchoverStep::RollBack, &note, None));
        self.write(SwitchoverStep::RollBack, write)
    }

    // --- Ends ----------------------------------------------------------------------------------

    fn superseded(&self, by: Option<OperationId>) -> Advance {
        let primary = &self.federation.primary.value;
        let saw = format!("{} holds primacy at epoch {}", primary.holder, primary.epoch);
        let at = self.view().wall;
        let taken = self.view().history.get(&self.operation().epoch.next()).and_then(|s| s.read());
        let own =
            taken.is_some_and(|seen| seen.value.operation.as_ref() == Some(&self.operation().id));
        let outcome = match by {
            // B took by this operation, and primacy has moved on since.
            None if own => Outcome::Succeeded { at },
            None => Outcome::Cancelled {
                at,
                reason: format!("primacy moved without this operation: {saw}"),
            },
            Some(by) => Outcome::Superseded { at, by },
        };
        self.end(outcome, &saw)
    }

    fn end(&self, outcome: Outcome, note: &str) -> Advance {
        let write = self
            .base(Purpose::End)
            .put(self.view(), self.record(SwitchoverStep::Done, note, Some(outcome)))
            .put(self.view(), no_operation(self.view()));
        self.write(SwitchoverStep::Done, write)
    }

    // --- Parts ---------------------------------------------------------------------------------

    fn base(&self, purpose: Purpose) -> Write {
        base(self.view(), purpose, &self.operation().id)
    }

    /// The operation's record with one more step, and those before it that nobody wrote down.
    fn record(&self, step: SwitchoverStep, note: &str, outcome: Option<Outcome>) -> Put {
        let mut operation = self.operation().clone();
        let entered_at = self.view().wall;
        for passed in passed_over(recorded(self.operation()), step) {
            let note = "passed before a coordinator looked".to_owned();
            operation.steps.push(StepRecord { step: passed, entered_at, note });
        }
        operation.steps.push(StepRecord { step, entered_at, note: note.to_owned() });
        if let Some(Outcome::Succeeded { .. }) = &outcome {
            operation.outage_ms = self.outage_ms();
        }
        operation.outcome = outcome.or(operation.outcome);
        Put::Operation(Box::new(operation))
    }

    /// From the moment A cut its clients to the moment B's leader saw itself open, by their wall
    /// clocks: for people, like every other use of them.
    fn outage_ms(&self) -> Option<u64> {
        let epoch = self.federation.primary.value.epoch;
        let history = self.view().history.get(&epoch)?.read()?;
        let opened = self.view().report(self.to())?.value.opened?;
        if opened.epoch != epoch {
            return None;
        }
        opened.at.0.checked_sub(history.value.stopping_at?.0)
    }

    fn enter(&self, step: SwitchoverStep, note: &str) -> Advance {
        let write = self.base(Purpose::RecordStep).put(self.view(), self.record(step, note, None));
        self.write(step, write)
    }

    fn write(&self, step: SwitchoverStep, write: Write) -> Advance {
        let operation = self.operation().id.clone();
        let reason = Reason::Switchover { operation, step, waits_for: Vec::new() };
        Advance { write: Some(write), ..Advance::nothing(reason) }
    }

    fn wait(&self, step: SwitchoverStep, waits_for: Vec<Missing>) -> Advance {
        let operation = self.operation().id.clone();
        let reason = Reason::Switchover { operation, step, waits_for };
        Advance::nothing(reason)
    }

    /// Waits, and says for what in the record, for whoever watches the operation.
    fn wait_noted(&self, step: SwitchoverStep, waits_for: Vec<Missing>) -> Advance {
        let note = format!("waits for {}", listed(&waits_for));
        let mut operation = self.operation().clone();
        match operation.steps.last_mut() {
            Some(last) if last.note != note => last.note = note,
            Some(_) | None => return self.wait(step, waits_for),
        }
        let put = Put::Operation(Box::new(operation));
        let write = self.base(Purpose::RecordStep).put(self.view(), put);
        Advance { note: Some(write), ..self.wait(step, waits_for) }
    }
}

impl Advance {
    /// Nothing to write, for this reason.
    pub(super) fn nothing(reason: Reason) -> Self {
        Self { write: None, note: None, wake: None, reason }
    }

    fn wake_at(self, at: BootTime) -> Self {
        Self { wake: Some(at), ..self }
    }
}

/// Steps of the way forward between two.
fn passed_over(last: SwitchoverStep, next: SwitchoverStep) -> Vec<SwitchoverStep> {
    match next {
        SwitchoverStep::Prepare
        | SwitchoverStep::Handover
        | SwitchoverStep::RollBack
        | SwitchoverStep::Done => Vec::new(),
        SwitchoverStep::Take | SwitchoverStep::Follow | SwitchoverStep::Verify => {
            let way = [SwitchoverStep::Handover, SwitchoverStep::Take, SwitchoverStep::Follow];
            way.into_iter().filter(|step| *step > last && *step < next).collect()
        }
    }
}

/// What every write of the elected coordinator compares: its own tenure, and `primary`.
pub(super) fn elected_write(view: &View, purpose: Purpose) -> Write {
    Write::new(purpose).comparing(view, GlobalKey::Leader).comparing(view, GlobalKey::Primary)
}
