//! Rung 0, an option: the kernel refuses what PostgreSQL sends once the right to write is over.
//!
//! Whatever was frozen together with its guardian (a cgroup's freezer, a node that swapped itself to
//! death) may send an acknowledgement in the milliseconds between the thaw and its death. The
//! kernel's timers ran on meanwhile: so a set of nftables holds PostgreSQL's port with a timeout that
//! ends at K, and what leaves that port while it is not in the set resets its own socket. Each raised deadline
//! puts it there anew; while nothing writable runs the port has no timeout.
//!
//! A program of its own, `regent-packets`, because it needs CAP_NET_ADMIN and nobody else does. It
//! reads the guardian's page and writes nowhere but into the kernel. No other rung counts on it: where
//! it is not granted, the rest holds as it is. A pause of the whole machine stops the kernel's timers,
//! too: that it does not cover (hazards.md 3.6).

pub mod program;
mod rules;

use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

use crate::page::{Guard, Orders};

/// Until when the port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing writable runs: reads, and streaming from a standby, go on.
    Open,
    /// To the end of a right to write, less the kill budget: the instant of the guardian's kill.
    Until(BootTime),
}

/// What the kernel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Open without an end.
    Open,
    /// Open for this long from now on.
    For(Duration),
    /// Closed.
    Closed,
}

/// What the page's orders want.
#[must_use]
pub fn gate(orders: &Orders) -> Gate {
    let last = match orders.guard {
        Guard::Off => return Gate::Open,
        // An agent that orders what this version does not know still has its deadline.
        Guard::ByDeadline | Guard::Unknown(_) => orders.writing,
        // Standbys take the rest of the WAL until then.
        Guard::PlannedStop => orders.stop_until.raised(orders.bound),
    };
    Gate::Until(kill(last, orders.kill_budget))
}

fn kill(last: Deadline, budget: Duration) -> BootTime {
    last.instant().minus(budget)
}

/// What has to be told now, if anything: `told` is what the kernel was told for certain.
#[must_use]
pub fn change(told: Option<Gate>, wanted: Gate, now: BootTime) -> Option<Rule> {
    if told == Some(wanted) {
        return None;
    }
    Some(match wanted {
        Gate::Open => Rule::Open,
        Gate::Until(end) if now < end => Rule::For(end.since(now)),
        Gate::Until(_) => Rule::Closed,
    })
}

/// Whether telling was quick enough. The kernel counts from when it hears of it, which may be as late
/// as `after`; what came later than the kill budget allows could end after D, and is told again.
#[must_use]
pub fn certain(rule: Rule, before: BootTime, after: BootTime, budget: Duration) -> bool {
    match rule {
        Rule::Open | Rule::Closed => true,
        Rule::For(_) => after.since(before) <= budget,
    }
}

#[cfg(test)]
mod tests;
