//! I3: every commit acknowledged with success is in the history of each later primary (hazards.md
//! section 6), while commits wait for a standby of the site; without that, an unplanned failover may
//! lose the tail, and only it. What is there is there once, and in the order in which its client wrote.

use std::collections::BTreeSet;

use crate::postgres::wal::MARKS;
use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    in_order(world, n);
    let held = held(world, n);
    let lost: BTreeSet<u64> = world
        .history
        .acknowledged
        .iter()
        .copied()
        .filter(|write| !usize::try_from(*write).is_ok_and(|at| held.get(at) == Some(&true)))
        .collect();
    let Some(first) = lost.first() else { return };
    if world.synchronous {
        let what = format!(
            "{} opens without {} acknowledged writes, the first is {first}",
            world.nodes[n].name,
            lost.len(),
        );
        world.broken("I3", what);
    } else {
        world.counters.count("asynchronous loss");
        world.history.forget(&lost);
    }
}

/// Which writes its WAL holds, by number.
fn held(world: &World, n: usize) -> Vec<bool> {
    let mut held = vec![false; world.history.writes().len() + 1];
    for record in world.nodes[n].server.wal.records() {
        if let Some(at) = usize::try_from(record.id).ok().and_then(|id| held.get_mut(id)) {
            *at = true;
        }
    }
    held
}

/// A client writes one after the other: what it began after it had heard of a success stands behind it,
/// and nothing stands there twice.
fn in_order(world: &mut World, n: usize) {
    let writes = world.history.writes();
    let mut newest = vec![0; world.clients.len()];
    let mut seen = vec![false; writes.len() + 1];
    let mut problem = None;
    for record in world.nodes[n].server.wal.records().iter().filter(|record| record.id < MARKS) {
        let number = usize::try_from(record.id).unwrap_or_default();
        let Some(write) = number.checked_sub(1).and_then(|at| writes.get(at)) else { continue };
        let (Some(newest), Some(seen)) = (newest.get_mut(write.client), seen.get_mut(number))
        else {
            continue;
        };
        if std::mem::replace(seen, true) {
            problem = Some(format!("write {number} twice"));
        } else if write.heard && *newest > number {
            problem = Some(format!("write {number} behind {newest}, which its client began later"));
        }
        *newest = number.max(*newest);
    }
    if let Some(problem) = problem {
        let what = format!("{} opens with {problem}", world.nodes[n].name);
        world.broken("I3", what);
    }
}
