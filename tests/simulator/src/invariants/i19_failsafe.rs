//! I19: going on without the store needs every member's word: whoever acknowledges by its members' word
//! alone has the word of each that the record names, and by a promise that of every site of the electorate
//! (hazards.md section 6; protocol.md rule 11; ADR 16). Judged on who gave it, not on what the asker counts.

use std::collections::BTreeMap;

use regent_agent::act::failsafe::word::Slip as _;
use regent_proto::keys::SiteKey;
use regent_proto::record::{Promise, Record as _};

use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    if world.nodes[n].door.is_none() {
        return;
    }
    let deadline_counts = world.nodes[n].page.guard() == regent_guardian::page::Guard::ByDeadline;
    if deadline_counts && world.by_word(n) {
        world.counters.count("failsafe: acknowledged by the members' word");
        members(world, n);
    }
    let door = world.nodes[n].door.as_ref();
    let by_promise = door.and_then(|door| {
        let tenures = door.tenures.borrow();
        tenures.primary.as_ref().filter(|held| held.by_promise).map(|held| held.tenure.clone())
    });
    if let Some(tenure) = by_promise.filter(|_| deadline_counts) {
        world.counters.count("failsafe: acknowledged by promise");
        sites(world, n, tenure.as_str());
    }
}

fn members(world: &mut World, n: usize) {
    if let Err(problem) = word_of_members(world, n) {
        let me = &world.nodes[n].name;
        let what = format!("{me} acknowledges by its members' word, and {problem}");
        world.broken("I19", what);
    }
}

/// Whether each other member of the record keeps the leader key for this node, now.
pub(super) fn word_of_members(world: &World, n: usize) -> Result<(), String> {
    let (site, me) = (world.nodes[n].site, &world.nodes[n].name);
    let key = world.site_key(site, SiteKey::Failsafe).unwrap_or_default();
    let store = &world.stores[world.sites[site].store];
    // A person who deletes the record takes nobody's word back: those whom it named are bound by their own
    // notes, and its leader goes on asking all of them.
    let removed = store.removed.get(&key).map(Vec::as_slice);
    let record = store.entry(&key).map(|entry| &entry.value[..]).or(removed);
    let named: BTreeMap<String, String> =
        record.and_then(|record| serde_json::from_slice(record).ok()).unwrap_or_default();
    if !named.contains_key(me.as_str()) {
        return Err("no record names it".to_owned());
    }
    for name in named.keys().filter(|name| *name != me.as_str()) {
        let Some(node) = world.nodes.iter().find(|node| node.name.as_str() == name) else {
            continue;
        };
        let now = node.clock.boot(world.now);
        let promised = match &node.door {
            Some(door) => door.shared.failsafe.word.standing(now).map(|promised| promised.leader),
            // The agent is gone; the next one reads what it promised.
            None => {
                let text = node.word.read().ok().flatten().unwrap_or_default();
                text.split(' ').next().and_then(|leader| leader.parse().ok())
            }
        };
        if promised.as_ref() != Some(me) {
            return Err(format!("{name} gave none"));
        }
    }
    Ok(())
}

/// Each other site of the electorate has written down a promise to this tenure.
fn sites(world: &mut World, n: usize, tenure: &str) {
    let own = world.sites[world.nodes[n].site].name.clone();
    let Some((_, primary)) = &world.checks.primary else { return };
    for site in primary.electorate.iter().filter(|site| **site != own) {
        let Some(at) = world.sites.iter().position(|known| known.name == *site) else { continue };
        let Some(key) = world.site_key(at, SiteKey::Promise) else { continue };
        let written = world.stores[world.sites[at].store].entry(&key);
        let promise = written.and_then(|entry| Promise::decode(&key, &entry.value).ok());
        if promise.is_none_or(|promise| promise.tenure.as_str() != tenure) {
            let name = &world.nodes[n].name;
            let what = format!("{name} acknowledges by promise, and {site} promised it nothing");
            return world.broken("I19", what);
        }
    }
}
