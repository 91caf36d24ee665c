//! I1 and I25: at no instant do two servers acknowledge commits, in a site or between sites
//! (hazards.md section 6): once another has acknowledged, an earlier one never does again.

use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    let present = (n, world.nodes[n].server.life);
    let now = world.now;
    if world.checks.acknowledger != Some(present) {
        // In synchronous mode whoever was promoted meanwhile has taken its standbys away.
        if !world.synchronous && super::i18_pause::outlived(world, n) {
            return world.counters.count("pause: outlived");
        }
        if let Some(last) = world.checks.former.get(&present) {
            let other = world.checks.acknowledger.map_or(n, |(other, _)| other);
            let what = format!(
                "{} acknowledges, and {} has since {} ns ago",
                world.nodes[n].name,
                world.nodes[other].name,
                now - last
            );
            world.broken("I1", what);
        }
        if let Some(former) = world.checks.acknowledger.replace(present) {
            world.checks.former.insert(former, now);
        }
    }
}
