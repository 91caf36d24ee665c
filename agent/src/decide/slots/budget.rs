//! How much WAL each slot keeps, and when a person hears of it: before it is lost, not after.
//!
//! The budget of a slot is its own `wal_budget`, or `slot_wal_budget`, or the server's
//! `max_slot_wal_keep_size`, beyond which the server takes the WAL away.

use crate::decide::view::{Slot, Status, WalStatus};

use super::{Planned, Rules, Step, Why};

/// Bytes of WAL that a slot keeps.
#[must_use]
pub fn kept(status: &Status, slot: &Slot) -> Option<u64> {
    slot.restart.map(|at| status.end.bytes_since(at))
}

/// The budget of a slot.
pub(super) fn of(rules: &Rules, status: &Status, name: &str) -> Option<u64> {
    let own = rules.permanent.get(name).and_then(|permanent| permanent.wal_budget);
    own.or(rules.wal_budget).or(status.slot_wal_limit)
}

/// What is to be said: at most one thing of each slot, in words that stay the same while it is so.
pub(super) fn warnings(rules: &Rules, status: &Status) -> Vec<Planned> {
    let judged = status.slots.iter().filter_map(|(name, slot)| {
        let why = judge(rules, status, name, slot)?;
        Some(Planned { step: Step::Warn { name: name.clone() }, why })
    });
    judged.collect()
}

fn judge(rules: &Rules, status: &Status, name: &str, slot: &Slot) -> Option<Why> {
    if slot.is_lost() {
        return Some(Why::Lost);
    }
    match slot.wal {
        WalStatus::Unreserved => return Some(Why::Unreserved),
        WalStatus::Reserved | WalStatus::Extended | WalStatus::Lost | WalStatus::Unknown => {}
    }
    // What the server itself leaves may be less than the budget lets expect.
    let limit = status.slot_wal_limit;
    if let (Some(limit), Some(left)) = (limit, slot.safe_wal)
        && u64::try_from(left).unwrap_or(0) < limit / 2
    {
        return Some(Why::HalfBudget(limit));
    }
    let (budget, kept) = (of(rules, status, name)?, kept(status, slot)?);
    if kept > budget {
        Some(Why::OverBudget(budget))
    } else if kept > budget / 2 {
        Some(Why::HalfBudget(budget))
    } else {
        None
    }
}
