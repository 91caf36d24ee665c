//! I8: a device is pinged only where it then fires before the right to write has ended, never after,
//! and is stopped only where nothing of PostgreSQL lives (hazards.md section 6 and 3.5). Judged on the
//! device itself: what it says that it granted is not believed.

use std::time::Duration;

use regent_guardian::page::Guard;
use regent_proto::time::{Deadline, WatchdogTiming};

use crate::world::World;

/// The end of the right to write of what runs on the node; `None`: nothing writable is guarded.
fn last(world: &World, n: usize) -> Option<Deadline> {
    let node = &world.nodes[n];
    let orders = node.page.orders();
    match orders.guard {
        Guard::Off => None,
        Guard::ByDeadline | Guard::Unknown(_) => Some(orders.writing),
        Guard::PlannedStop if node.server.has_clients() => Some(orders.bound),
        Guard::PlannedStop => Some(orders.stop_until),
    }
}

/// A device that fires by then, should nobody ping it any more. What goes on after it is I7's; what a
/// machine does that stood still meanwhile, and its device with it, is for the judgement of the clocks.
fn fires_in_time(world: &mut World, n: usize, what: &str) {
    let node = &world.nodes[n];
    let now = node.clock.boot(world.now);
    let (Some(last), Some(counting)) = (last(world, n), &node.device.counting) else { return };
    if !last.lies_ahead(now) || node.refenced == Some(last) {
        return;
    }
    let waited = Duration::from_nanos(world.now - counting.pinged);
    let fires = now.plus(Duration::from_nanos(counting.timeout)).plus(WatchdogTiming::RESET);
    let fires = fires.minus(waited);
    if fires > last.instant() {
        let late = fires.since(last.instant());
        let what = format!("{} {what}: its watchdog fires {late:?} after the deadline", node.name);
        world.broken("I8", what);
    }
}

pub(crate) fn check_ping(world: &mut World, n: usize) {
    let now = world.nodes[n].clock.boot(world.now);
    if last(world, n).is_some_and(|last| !last.lies_ahead(now)) {
        let what = format!("{} pings its watchdog after the deadline", world.nodes[n].name);
        return world.broken("I8", what);
    }
    // Before the server starts, a ping is free: what the device waits for has no process yet.
    if world.nodes[n].server.has_clients() {
        fires_in_time(world, n, "pings");
    }
}

pub(crate) fn check_disarm(world: &mut World, n: usize) {
    if world.nodes[n].server.process != crate::postgres::Process::Stopped {
        let what = format!("{} stops its watchdog while PostgreSQL lives", world.nodes[n].name);
        world.broken("I8", what);
    }
}

/// From its opening on, and with each acknowledgement.
pub(super) fn check(world: &mut World, n: usize, what: &str) {
    fires_in_time(world, n, what);
}
