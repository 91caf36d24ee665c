//! I20: once the faults are over, a writer exists and everything is redundant again within a stated
//! bound, without a human (hazards.md section 6): ten minutes here.

use crate::time::MIN;
use crate::world::World;

pub(super) fn check(world: &mut World) {
    let writers: Vec<usize> =
        (0..world.nodes.len()).filter(|n| world.nodes[*n].server.writable()).collect();
    let [writer] = writers[..] else {
        let reasons: Vec<String> =
            world.nodes.iter().map(|node| format!("{}: {}", node.name, node.reason)).collect();
        let what =
            format!("{} servers are writable at the end; {}", writers.len(), reasons.join(", "));
        return world.broken("I20", what);
    };
    super::i03_no_acknowledged_loss::check(world, writer);
    for n in (0..world.nodes.len()).filter(|n| *n != writer) {
        let node = &world.nodes[n];
        if node.server.receiver.is_none() {
            let what = format!("{} does not stream at the end: {}", node.name, node.reason);
            return world.broken("I20", what);
        }
    }
    if world.now.saturating_sub(world.checks.last_acknowledgement) > MIN {
        world.broken("I20", "nothing was acknowledged in the last minute".to_owned());
    }
}
