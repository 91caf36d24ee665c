//! I12: the right is given up only after the stop, by its holder (hazards.md section 6; protocol.md rules 5
//! and 8): a leader key that its holder lets go, and a token.

use regent_proto::keys::SiteKey;

use crate::postgres::{Process, Server};
use crate::world::World;

/// It takes writes, or will without being asked again.
fn may_write(server: &Server) -> bool {
    match server.process {
        Process::Stopped => false,
        Process::Starting => !server.standby_signal,
        Process::Running => !server.in_recovery || server.promoting,
        Process::Stopping => !server.in_recovery,
    }
}

/// A leader key is gone: neither with its lease nor by a person's hand, so it was given up.
pub(super) fn check(world: &mut World, store: usize) {
    let by_hand = std::mem::take(&mut world.stores[store].by_hand);
    let Some(site) = world.sites.iter().position(|site| site.store == store) else { return };
    let Some(key) = world.site_key(site, SiteKey::Leader) else { return };
    let entry = world.stores[store].entry(&key);
    let holder = entry.and_then(|entry| {
        world.nodes.iter().position(|node| node.name.as_str().as_bytes() == &entry.value[..])
    });
    let lapsed = world.stores[store].lapsed.iter().any(|(lapsed, _)| *lapsed == key);
    let before = match holder {
        Some(holder) => world.checks.leaders.insert(site, holder),
        None => world.checks.leaders.remove(&site),
    };
    if let Some(taker) = holder.filter(|holder| before != Some(*holder)) {
        super::i04_overlap::check_taker(world, site, taker);
    }
    let Some(n) = before.filter(|before| holder != Some(*before)) else { return };
    if lapsed || by_hand.contains(&key) || world.nodes[n].unfenced {
        return;
    }
    if may_write(&world.nodes[n].server) {
        let what = format!("{} gives up the leader key before it has stopped", world.nodes[n].name);
        world.broken("I12", what);
    }
}

/// A token is posted: nothing of the site that handed over writes, and no agent of it may let it.
pub(super) fn check_token(world: &mut World, site: usize) {
    for n in world.sites[site].nodes.clone() {
        let node = &world.nodes[n];
        let now = node.clock.boot(world.now);
        let ahead = node.deadlines.as_ref().is_some_and(|d| d.held().lies_ahead(now));
        // What stands still with its machine is killed before it answers anybody (docs/safety.md: thawed nodes).
        let stands = node.suspended.is_some();
        if ahead || !stands && may_write(&node.server) {
            let has = if ahead { "the right to write" } else { "a server that writes" };
            let what = format!("a token is posted, and {} has {has}", node.name);
            return world.broken("I12", what);
        }
    }
}
