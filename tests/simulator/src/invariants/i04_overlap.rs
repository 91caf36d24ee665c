//! I4: whoever can acknowledge and whoever may be elected always overlap, also between two writes (hazards.md
//! section 6). Judged on the list that is in force, on the record that stands, and on what each of its
//! voters really has, at each of its writes and at each acknowledgement. `decide/quorum.rs` says what a
//! race is won with: it is compared with here, not asked.

use std::collections::BTreeSet;

use regent_proto::keys::SiteKey;
use serde_json::Value;

use crate::postgres::{Data, commits};
use crate::world::World;

/// The record `sync`.
struct Record {
    leader: String,
    voters: BTreeSet<String>,
    /// Votes that a voter needs beside its own.
    quorum: usize,
}

fn record(world: &World, site: usize) -> Option<Record> {
    let key = world.site_key(site, SiteKey::Sync)?;
    let entry = world.stores[world.sites[site].store].entry(&key)?;
    let value: Value = serde_json::from_slice(&entry.value).ok()?;
    let names = value.get("sync_standby").and_then(Value::as_str).unwrap_or_default();
    let quorum = value.get("quorum").and_then(Value::as_u64).unwrap_or(0);
    Some(Record {
        leader: value.get("leader")?.as_str()?.to_owned(),
        voters: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        quorum: usize::try_from(quorum).unwrap_or(usize::MAX),
    })
}

/// The store of a site has another record: it is held against whoever acknowledged last.
pub(super) fn check_store(world: &mut World, store: usize) {
    let Some((n, life)) = world.checks.acknowledger else { return };
    let site = world.nodes[n].site;
    if world.sites[site].store != store || world.nodes[n].server.life != life {
        return;
    }
    let key = world.site_key(site, SiteKey::Sync).unwrap_or_default();
    let revision = world.stores[store].entry(&key).map(|entry| entry.modified.0);
    if world.checks.sync != revision {
        world.checks.sync = revision;
        check(world, n);
    }
}

/// A node has taken the leader key: the record as it stands lets it, or nothing was acknowledged under it.
/// What a site of a federation goes by depends on what it has heard of `primary`; in a pause the primary
/// that runs is not asked.
pub(super) fn check_taker(world: &mut World, site: usize, n: usize) {
    if !world.synchronous || world.federation.is_some() || world.paused_in_store(site) {
        return;
    }
    let Some(record) = record(world, site) else { return };
    let me = world.nodes[n].name.as_str();
    if record.leader != me && !record.voters.contains(me) {
        let Record { leader, voters, .. } = record;
        let what = format!("{me} takes the leader key, which is for {leader} and {voters:?}");
        world.broken("I4", what);
    }
}

/// While it is the record's leader that is open. Another one that has taken over has written the record
/// anew, and what this one still acknowledges is I1's.
pub(super) fn check(world: &mut World, n: usize) {
    let node = &world.nodes[n];
    if !world.synchronous || !node.server.writable() || node.unfenced {
        return;
    }
    let Some(record) = record(world, node.site).filter(|r| r.leader == node.name.as_str()) else {
        return;
    };
    let Record { voters, quorum, .. } = &record;
    if voters.len() <= *quorum {
        // Nobody but itself can win.
        return;
    }
    let (needed, names, _) = commits::parse(&node.server.synchronous);
    let listed: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    let needed = if listed.is_empty() { 0 } else { needed };
    if needed <= listed.len() && voters.union(&listed).count() > quorum + needed {
        let what = format!(
            "{} lets {voters:?} lead with {quorum} votes, and waits for {:?}",
            node.name, node.server.synchronous
        );
        return world.broken("I4", what);
    }
    let last = world.history.acknowledged.last();
    let Some(last) = last.and_then(|write| node.server.wal.find(*write)) else { return };
    let lacks = |name: &&String| {
        let voter = world.nodes.iter().find(|node| node.name.as_str() == name.as_str());
        // One without data cannot win.
        let voter = voter.filter(|voter| voter.server.data == Data::Cluster);
        voter.is_some_and(|voter| !voter.server.wal.holds(last))
    };
    let without: Vec<&String> = voters.iter().filter(lacks).collect();
    if without.len() > *quorum {
        let what = format!(
            "{} lets {voters:?} lead with {quorum} votes, and {without:?} lack write {}",
            node.name, last.id
        );
        world.broken("I4", what);
    }
}
