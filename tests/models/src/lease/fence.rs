//! What guardian, rung 1 and gate say of a state, in their own words.

use regent_agent::decide::demote::{self, Demote, DemoteView, Guarded};
use regent_agent::decide::preconditions::Precondition;
use regent_guardian::decide::{self as guardian, Decision, Processes, View, Watchdog};
use regent_guardian::page::{Because, Guard, Orders, WatchdogWanted};
use regent_proto::lsn::Lsn;
use regent_proto::time::{Deadline, WatchdogTiming};

use super::{Key, Lease, Life, Mutant, Server, State, Watch, allowed_timeout, deadline, timing};
use crate::clock::{NOW, ago, ticks};
use crate::gate::{self, Device, Facts};

/// What the guardian sees.
fn view(model: &Lease, state: &State) -> View {
    let (guard, left) = match state.watch {
        Watch::Off => (Guard::Off, 0),
        Watch::ByDeadline => (Guard::ByDeadline, 0),
        Watch::PlannedStop(left) => (Guard::PlannedStop, left),
    };
    let postmaster = state.server != Server::Down;
    let processes = if model.is(Mutant::KillMissesSomeProcesses) && !postmaster {
        Processes::None
    } else if state.client {
        Processes::Client
    } else if state.other || postmaster {
        Processes::Harmless
    } else {
        Processes::None
    };
    View {
        now: NOW,
        orders: Orders {
            guard,
            writing: deadline(state.granted),
            bound: deadline(state.bound),
            stop_until: Deadline::at(NOW.plus(ticks(left))),
            kill_budget: timing().kill_budget,
        },
        postmaster,
        processes,
        killing: state.killing.then_some(Because::Deadline),
        watchdog: Watchdog {
            wanted: if model.watchdog() { WatchdogWanted::Required } else { WatchdogWanted::Off },
            open: state.device.is_some(),
            failed: None,
            // Guardians are not replaced here, and the TTL does not change.
            left: false,
            last_ping: ago(state.device.unwrap_or(0)),
            timeout: ticks(allowed_timeout()),
            longest: std::time::Duration::ZERO,
        },
    }
}

/// What the guardian does.
pub(super) fn guardian(model: &Lease, state: &State) -> Decision {
    guardian::decide(&view(model, state))
}

/// Whether a ping is due, and whether it is let through.
pub(super) fn ping(model: &Lease, state: &State) -> bool {
    let Some(age) = state.device else { return false };
    let due = age > 0;
    if model.is(Mutant::PingAfterTheDeadline) {
        due
    } else if model.is(Mutant::PingWithoutTheFactorTwo) {
        due && (state.watch == Watch::Off || deadline(state.granted).lies_ahead(NOW))
    } else {
        due && guardian::may_ping(&view(model, state))
    }
}

/// What rung 1 does.
pub(super) fn rung_one(state: &State) -> Demote {
    let guarded = match state.watch {
        Watch::Off => Guarded::Nothing,
        Watch::ByDeadline => Guarded::Until(deadline(state.granted)),
        Watch::PlannedStop(left) => Guarded::Stop {
            bound: deadline(state.bound),
            until: Deadline::at(NOW.plus(ticks(left))),
        },
    };
    let LeaseTimingBudgets { stop_budget, kill_budget } = budgets();
    let stopping = state.stopping;
    demote::judge(&DemoteView { now: NOW, guarded, stop_budget, kill_budget, stopping })
}

struct LeaseTimingBudgets {
    stop_budget: std::time::Duration,
    kill_budget: std::time::Duration,
}

fn budgets() -> LeaseTimingBudgets {
    let timing = timing();
    LeaseTimingBudgets { stop_budget: timing.stop_budget, kill_budget: timing.kill_budget }
}

/// Whether the gate lets it open.
pub(super) fn may_open(model: &Lease, state: &State) -> bool {
    let facts = Facts {
        // Bound to its lease as far as it knows: a key that it lost since shows in no reading yet.
        leader_key: state.granted.is_some() && state.key != Key::B,
        site: deadline(state.granted),
        guardian: state.guardian != Life::Dead,
        watchdog: model
            .watchdog()
            .then_some(Device { pinged: state.device, granted: allowed_timeout() }),
        in_recovery: state.server == Server::Recovery,
        history: (gate::first_history(), Lsn::new(1)),
        federation: None,
    };
    gate::unmet(&facts).into_iter().all(|unmet| match unmet {
        Precondition::Guardian => model.is(Mutant::GuardianMissing),
        Precondition::Watchdog => match state.device {
            None => model.is(Mutant::WatchdogMissing),
            Some(_) => model.is(Mutant::FreePingBeforeOpening),
        },
        Precondition::SiteDeadline => model.is(Mutant::OpeningPastTheDeadline),
        _ => false,
    })
}

/// Whether the watchdog, pinged freely until now, fires before the deadline that begins to count.
pub(super) fn fires_in_time(model: &Lease, state: &State) -> bool {
    let Some(age) = state.device else { return true };
    model.is(Mutant::FreePingBeforeOpening)
        || WatchdogTiming::may_ping(ticks(allowed_timeout()), ago(age), deadline(state.granted))
}
