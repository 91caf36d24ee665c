//! I14: a node follows only its own history; equal timeline numbers are not equal histories
//! (hazards.md section 6). A server that streamed what does not fit must never open.

use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    if world.nodes[n].server.corrupt {
        let what = format!("{} opens with a history that is not its own", world.nodes[n].name);
        world.broken("I14", what);
    }
}
