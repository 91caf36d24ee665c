//! I30: a promotion of a site loses no commit beyond the bound that was accepted (hazards.md section 6).
//! Judged when primacy moves: what lies beyond the new floor is given up, and from there on nothing of
//! the rest may be missing anywhere (I3). Clocks agree here, which is the bound's assumption.

use std::collections::BTreeSet;

use regent_proto::keys::GlobalKeys;
use regent_proto::record::{EpochHistory, Primary, PrimaryState, Record as _};

use crate::time::{MS, Nanos};
use crate::world::World;

/// What boot clocks that run apart may add to the spans that a bound is made of.
const DRIFT_PER_CENT: Nanos = 1;

pub(super) fn check(world: &mut World, store: usize, before: &Primary, after: &Primary) {
    let PrimaryState::Fenced { accepted, .. } = &before.state else { return };
    if after.epoch == before.epoch {
        return;
    }
    let Some(federation) = &world.federation else { return };
    let key = GlobalKeys::new(&federation.name).history(after.epoch);
    let entry = world.stores[store].entry(&key);
    let taker = entry.and_then(|entry| EpochHistory::decode(&key, &entry.value).ok());
    let taker = taker.and_then(|taken| world.nodes.iter().find(|node| node.name == taken.node));
    let (Some(taker), Some(floor)) = (taker, &after.floor) else {
        return world.broken("I30", "a promotion without a history or a floor".to_owned());
    };
    let records = taker.server.wal.records().iter();
    let held: BTreeSet<u64> =
        records.filter(|record| record.end <= floor.position.get()).map(|r| r.id).collect();
    let last = held.iter().filter_map(|id| world.history.committed_at(*id)).max().unwrap_or(0);
    let writes = world.history.writes();
    let (mut lost, mut newest) = (BTreeSet::new(), 0);
    for id in world.history.acknowledged.iter().filter(|id| !held.contains(id)) {
        lost.insert(*id);
        let at = usize::try_from(*id).unwrap_or_default().wrapping_sub(1);
        newest = newest.max(writes.get(at).map_or(0, |write| write.acknowledged_at));
    }
    if lost.is_empty() {
        return;
    }
    let span = newest.saturating_sub(last);
    let most = accepted.max_age_ms.map(|ms| ms * MS + ms * MS * DRIFT_PER_CENT / 100);
    world.counters.count("accepted loss");
    world.explain(usize::MAX, "I30", || format!("{} writes of {} ms lost", lost.len(), span / MS));
    if most.is_some_and(|most| span > most) {
        let what = format!("{} writes of {} ms lost, accepted: {accepted}", lost.len(), span / MS);
        world.broken("I30", what);
    }
    world.history.forget(&lost);
}
