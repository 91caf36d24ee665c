//! Judgement: what the elected coordinator does next, as a pure function of what it sees.
//!
//! `decide(&Policy, &Memory, &View) -> Decision`. No I/O, no clock, no logging, no async, ordered
//! maps only; imports `regent_proto` and itself. At most one transaction comes out of a round:
//! the next round looks at what became of it. Everything is derived from the records, so any
//! coordinator goes on where another one died; [`Memory`] holds ages, and nothing in it is needed
//! for safety.
//!
//! Order of a round: the quorum answers → this coordinator is elected → the records can be read →
//! the running operation → a dark region, where the topology says so → the assignments.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod apply;
pub mod assignments;
pub mod automatic;
mod election;
pub mod fencing;
pub mod picture;
pub mod plan;
pub mod promotion;
mod reason;
pub mod request;
pub mod switchover;
pub mod tree;
pub mod view;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_proto::keys::GlobalKey;
use regent_proto::name::{CoordinatorName, OperationId, SiteName};
use regent_proto::record::{
    Operation, Primary, PrimaryState, ReportedRole, RunningOperation, SwitchoverStep,
    TopologyRecord, VERSION,
};
use regent_proto::time::BootTime;
use regent_proto::topology::Topology;

pub use reason::{Missing, Reason};
pub use switchover::Situation;

use election::Standing;
use plan::NoPlan;
use switchover::Advance;
use view::{Freshness, Quorum, Seen, Slot, Unreadable, View};
use write::{Purpose, Put, Write};

/// What this coordinator is, and limits that are not the federation's to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub me: CoordinatorName,
    /// Its site.
    pub site: SiteName,
    /// Its gRPC address, for the other coordinators and for people.
    pub address: String,
    /// It serves the API off loopback without TLS.
    pub insecure: bool,
    /// Its version.
    pub software: String,
    /// A report that was not renewed for this long means unknown. Three times the interval at
    /// which sites report at least.
    pub report_age_max: Duration,
    /// A site that was silent or down passes WAL on again after it was well for this long, so
    /// that one on the edge does not pull its children to and fro.
    pub settle: Duration,
}

impl Policy {
    /// The limits in use.
    pub const REPORT_AGE_MAX: Duration = Duration::from_secs(15);
    /// See [`Policy::settle`].
    pub const SETTLE: Duration = Duration::from_secs(30);
}

/// What the last round left: ages only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Since when this process has seen the running operation in its present step.
    pub step: Option<StepClock>,
    /// Sites that pass no WAL on: `None` while they are silent or down, then since when they are
    /// back.
    pub broken: BTreeMap<SiteName, Option<BootTime>>,
}

/// The clock of a step, on this process's boot clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepClock {
    /// The operation.
    pub operation: OperationId,
    /// Its step.
    pub step: SwitchoverStep,
    /// Since when this process has seen it there.
    pub since: BootTime,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Decision {
    /// For the next round.
    pub memory: Memory,
    /// At most one transaction: the next one is decided on what became of it.
    pub actions: Vec<Write>,
    /// Look again then, if nothing happens before.
    pub wake_at: Option<BootTime>,
    /// Why, also for doing nothing.
    pub reason: Reason,
}

/// A federation whose deciding records can be read.
#[derive(Debug, Clone, Copy)]
pub struct Federation<'a> {
    /// This coordinator.
    pub policy: &'a Policy,
    /// Ages.
    pub memory: &'a Memory,
    /// Everything seen.
    pub view: &'a View,
    /// `topology`.
    pub topology: &'a Seen<TopologyRecord>,
    /// `primary`.
    pub primary: &'a Seen<Primary>,
}

impl Federation<'_> {
    /// The topology itself.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology.value.topology
    }

    /// Sites that pass nothing on at present.
    #[must_use]
    pub fn broken(&self) -> BTreeSet<SiteName> {
        self.memory.broken.keys().cloned().collect()
    }

    /// How much a site's report is worth.
    #[must_use]
    pub fn freshness(&self, site: &SiteName) -> Freshness {
        self.view.freshness(site, self.policy.report_age_max)
    }

    /// The running operation, where it can be read.
    #[must_use]
    pub fn running(&self) -> Option<&Seen<Operation>> {
        let id = self.view.running.read()?.value.id.as_ref()?;
        self.view.operation(id)
    }
}

/// The next transaction, if any is due.
pub fn decide(policy: &Policy, memory: &Memory, view: &View) -> Decision {
    let memory = noted(policy, memory, view);
    let (write, wake, reason) = judge(policy, &memory, view);
    let wakes = [wake, next_age(policy, &memory, view)];
    let wake_at = wakes.into_iter().flatten().filter(|at| *at > view.now).min();
    Decision { memory, actions: write.into_iter().collect(), wake_at, reason }
}

type Judgement = (Option<Write>, Option<BootTime>, Reason);

fn judge(policy: &Policy, memory: &Memory, view: &View) -> Judgement {
    match &view.quorum {
        Quorum::Reachable => {}
        Quorum::Unreachable { problem, .. } => {
            return (None, None, Reason::QuorumUnreachable { problem: problem.clone() });
        }
    }
    match election::standing(policy, view) {
        Standing::Elected => {}
        Standing::Due(write, reason) => return (Some(write), None, reason),
        Standing::Waiting(reason) => return (None, None, reason),
    }
    match plan::deciding(view) {
        Ok((topology, primary)) => govern(&Federation { policy, memory, view, topology, primary }),
        Err(NoPlan::NotCreated { .. }) => (None, None, Reason::NotCreated),
        Err(none @ (NoPlan::Removed { .. } | NoPlan::Unreadable { .. })) => {
            (None, None, Reason::Unreadable { problem: none.to_string() })
        }
    }
}

/// The elected coordinator's work: the running operation, then the assignments, then what is only
/// said about the operation.
fn govern(federation: &Federation<'_>) -> Judgement {
    let advance = match &federation.view.running {
        Slot::Absent => Advance::nothing(Reason::AtRest),
        Slot::Unreadable(bad) => Advance::nothing(unreadable(bad)),
        Slot::Read(running) => match &running.value.id {
            None => Advance::nothing(Reason::AtRest),
            Some(id) => match federation.view.operations.get(id) {
                Some(Slot::Read(operation)) => switchover::advance(federation, operation),
                Some(Slot::Unreadable(bad)) => Advance::nothing(unreadable(bad)),
                Some(Slot::Absent) | None => clear_missing(federation, id),
            },
        },
    };
    let advance = match abandoned_fence(federation) {
        Some(abandoned) if advance.write.is_none() => abandoned,
        Some(_) | None => advance,
    };
    if advance.write.is_some() {
        return (advance.write, advance.wake, advance.reason);
    }
    let dark = automatic::judge(federation);
    let wake = advance.wake.into_iter().chain(dark.as_ref().map(|dark| dark.due));
    let wake = wake.filter(|at| *at > federation.view.now).min();
    let reason = |dark: &automatic::Dark| Reason::RegionDark {
        site: federation.primary.value.holder.clone(),
        answer: dark.answer.clone(),
    };
    if let Some(dark) = &dark
        && dark.write.is_some()
    {
        return (dark.write.clone(), wake, reason(dark));
    }
    match assignments::due(federation) {
        Some((write, sites)) => (Some(write), wake, Reason::Assigning { sites }),
        None => match &dark {
            Some(dark) if advance.reason == Reason::AtRest => (None, wake, reason(dark)),
            Some(_) | None => (advance.note, wake, advance.reason),
        },
    }
}

/// A fence whose operation does not run, or has no record that can be read: nothing else would
/// end it, should its target hold. Lifted after the time that a promotion has.
fn abandoned_fence(federation: &Federation<'_>) -> Option<Advance> {
    let (view, primary) = (federation.view, federation.primary);
    let PrimaryState::Fenced { to, operation, .. } = &primary.value.state else { return None };
    if federation.running().is_some_and(|running| running.value.id == *operation) {
        return None;
    }
    let due = primary.since.plus(promotion::span(federation));
    let reason = Reason::FenceAbandoned { operation: operation.clone(), to: to.clone() };
    let waits = Advance::nothing(reason);
    if view.now < due {
        return Some(Advance { wake: Some(due), ..waits });
    }
    let unfence = regent_proto::transactions::unfence(&view.read(primary)).ok()?;
    // What names it is compared, so that an operation which somebody has repaired goes on.
    let write = switchover::elected_write(view, Purpose::GiveUp)
        .comparing(view, GlobalKey::RunningOperation)
        .comparing(view, GlobalKey::Operation(operation.clone()))
        .with(unfence);
    let unended = view.operation(operation).map(|seen| &seen.value);
    let write = match unended.filter(|operation| operation.outcome.is_none()) {
        Some(operation) => {
            let mut ended = operation.clone();
            let span = promotion::span(federation);
            request::end_unfollowed(
                view,
                &mut ended,
                format!("{to} has not taken within {span:?}"),
            );
            write.put(view, Put::Operation(Box::new(ended)))
        }
        None => write,
    };
    Some(Advance { write: Some(write), ..waits })
}

fn unreadable(bad: &Unreadable) -> Reason {
    Reason::Unreadable { problem: bad.problem.clone() }
}

/// `operation` names one without a record: nothing can end it, so it is forgotten, unless
/// primacy is on its way by it (then A's leader rolls back, B takes or the fence is lifted, and it is
/// forgotten after).
fn clear_missing(federation: &Federation<'_>, id: &OperationId) -> Advance {
    let view = federation.view;
    let reason = Reason::OperationMissing { operation: id.clone() };
    if federation.primary.value.state.operation() == Some(id) {
        return Advance::nothing(reason);
    }
    let running = view.running.read().map(|seen| seen.value.unknown.clone()).unwrap_or_default();
    let cleared = RunningOperation { version: VERSION, id: None, unknown: running };
    let write = switchover::elected_write(view, Purpose::ClearOperation)
        .comparing(view, GlobalKey::Operation(id.clone()))
        .put(view, Put::Running(cleared));
    Advance { write: Some(write), ..Advance::nothing(reason) }
}

/// The memory with this view's ages in it.
fn noted(policy: &Policy, memory: &Memory, view: &View) -> Memory {
    let running = view.running.read().and_then(|seen| seen.value.id.as_ref());
    let step = running.and_then(|id| view.operation(id)).map(|seen| {
        let step = switchover::recorded(&seen.value);
        match &memory.step {
            Some(clock) if clock.operation == seen.value.id && clock.step == step => clock.clone(),
            Some(_) | None => StepClock { operation: seen.value.id.clone(), step, since: view.now },
        }
    });
    let mut broken = memory.broken.clone();
    for site in view.reports.keys() {
        if passes_nothing_on(policy, view, site) {
            broken.insert(site.clone(), None);
        } else if let Some(back) = broken.get_mut(site) {
            back.get_or_insert(view.now);
        }
    }
    broken.retain(|_, back| back.is_none_or(|since| view.now.since(since) < policy.settle));
    Memory { step, broken }
}

/// Known to be silent or down. Unknown is not broken: a site that never reported has children in
/// a new federation, and a report that can't be read moves nobody.
fn passes_nothing_on(policy: &Policy, view: &View, site: &SiteName) -> bool {
    match view.freshness(site, policy.report_age_max) {
        Freshness::Old => true,
        Freshness::Fresh | Freshness::Unproven => {
            view.report(site).is_some_and(|seen| seen.value.role == ReportedRole::Down)
        }
        Freshness::Missing | Freshness::Unreadable => false,
    }
}

/// When the next report grows old, or the next site has settled.
fn next_age(policy: &Policy, memory: &Memory, view: &View) -> Option<BootTime> {
    // One nanosecond past the limit: "older than" is what counts.
    let past = Duration::from_nanos(1);
    let reports = view.reports.values().filter_map(Slot::read);
    let old = reports.map(|seen| seen.since.plus(policy.report_age_max + past));
    let settled = memory.broken.values().flatten().map(|since| since.plus(policy.settle + past));
    old.chain(settled).filter(|at| *at > view.now).min()
}
