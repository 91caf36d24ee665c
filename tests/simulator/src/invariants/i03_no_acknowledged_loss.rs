//! I3: every commit acknowledged with success is in the history of each later primary (hazards.md
//! section 6), while commits wait for a standby of the site; without that, an unplanned failover may
//! lose the tail, and only it.

use std::collections::BTreeSet;

use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    let held: BTreeSet<u64> =
        world.nodes[n].server.wal.records().iter().map(|record| record.id).collect();
    let lost: Vec<u64> =
        world.history.acknowledged.iter().copied().filter(|write| !held.contains(write)).collect();
    if lost.is_empty() {
        return;
    }
    if world.synchronous {
        let what = format!(
            "{} opens without {} acknowledged writes, the first is {:?}",
            world.nodes[n].name,
            lost.len(),
            lost.first()
        );
        world.broken("I3", what);
    } else {
        world.counters.count("asynchronous loss");
        world.history.forget(&lost);
    }
}
