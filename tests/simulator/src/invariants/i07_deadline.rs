//! I7: nothing is acknowledged after the deadline: the page's, or in a planned stop its bound
//! (hazards.md section 6; protocol.md rules 1 and 5). Judged on the node's own clock.

use regent_guardian::page::Guard;
use regent_proto::keys::{SiteKey, SiteKeys};

use crate::world::World;

/// Notes whose leader key has gone with its lease: by then nothing may be acknowledged there, on
/// anybody's clock.
pub(super) fn note_leases(world: &mut World, store: usize) {
    let Some(site) = world.sites.iter().find(|site| site.store == store) else { return };
    let Some(first) = site.nodes.first().map(|n| &world.nodes[*n].config) else { return };
    let key = SiteKeys::new(&first.namespace, &first.scope).key(SiteKey::Leader);
    let holder =
        |value: &[u8]| world.nodes.iter().position(|node| node.name.as_str().as_bytes() == value);
    let held = world.stores[store].entry(&key).and_then(|entry| holder(&entry.value));
    let gone: Vec<usize> = world.stores[store]
        .lapsed
        .iter()
        .filter(|(lapsed, _)| *lapsed == key)
        .filter_map(|(_, value)| holder(value))
        .collect();
    world.stores[store].lapsed.clear();
    for n in gone {
        world.checks.lapsed.insert(n, world.now);
    }
    if let Some(n) = held {
        world.checks.lapsed.remove(&n);
    }
}

pub(super) fn check(world: &mut World, n: usize) {
    if world.nodes[n].unfenced && world.nodes[n].page.guard() == Guard::Off {
        // I18 is about those.
        return;
    }
    // While every member keeps the key for it, nobody else takes it; also after its agent has ended,
    // which knew of that.
    if let Some(since) = world.checks.lapsed.get(&n)
        && super::i19_failsafe::word_of_members(world, n).is_err()
    {
        let over = world.now - since;
        let what = format!("{} acknowledges {over} ns after its lease ended", world.nodes[n].name);
        world.broken("I7", what);
    }
    let node = &world.nodes[n];
    let orders = node.page.orders();
    let now = node.clock.boot(world.now);
    let until = match orders.guard {
        Guard::Off => return,
        Guard::PlannedStop => orders.bound,
        Guard::ByDeadline | Guard::Unknown(_) => orders.writing,
    };
    if !until.lies_ahead(now) {
        let over = now.since(until.instant());
        let what = format!("{} acknowledges {over:?} after its deadline", node.name);
        world.broken("I7", what);
    }
}
