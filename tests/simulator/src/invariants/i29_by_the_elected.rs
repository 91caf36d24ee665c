//! I29, the order of it: what only the elected coordinator may write, nobody writes who has lost the election
//! (protocol.md section 2: each of its transactions compares its own `leader` tenure; the compares on what
//! else was read are the safety, this is the order).

use regent_dcs::{Change, Txn};
use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::record::{CoordinatorLeader, Primary, PrimaryState, Record as _};

use crate::coordinator::called;
use crate::network::HostId;
use crate::world::World;

/// A transaction from this machine was applied.
pub(super) fn check(world: &mut World, store: usize, host: HostId, txn: &Txn) {
    let Some(federation) = world.federation.as_ref().filter(|f| f.store == store) else { return };
    let found = world.coordinators.iter().position(|coordinator| coordinator.host == host);
    // Whoever makes the federation is not elected yet.
    let Some(c) = found.filter(|_| world.checks.primary.is_some()) else { return };
    let keys = GlobalKeys::new(&federation.name);
    let before = world.checks.primary.as_ref().map(|(_, primary)| primary);
    // Whoever serves a request begins and cancels a promotion, and fences writes; the rest orders.
    let by_request = |change: &Change| {
        let Change::Put { key, value, .. } = change else { return false };
        let after = Primary::decode(key, value).ok();
        let fenced = |primary: &Primary| matches!(primary.state, PrimaryState::Fenced { .. });
        before.zip(after).is_some_and(|(before, after)| {
            fenced(before) || fenced(&after) || before.writes_fenced != after.writes_fenced
        })
    };
    let decides = |change: &Change| match keys.classify(change.key()) {
        GlobalKey::Assignment(_) => true,
        GlobalKey::Primary => !by_request(change),
        GlobalKey::Topology
        | GlobalKey::Lease
        | GlobalKey::RunningOperation
        | GlobalKey::Leader
        | GlobalKey::Report(_)
        | GlobalKey::Operation(_)
        | GlobalKey::Coordinator(_)
        | GlobalKey::History(_)
        | GlobalKey::Foreign => false,
    };
    if !txn.changes.iter().any(decides) {
        return;
    }
    let me = called(world.sites[world.coordinators[c].site].name.as_str(), c);
    let entry = world.stores[store].entry(&keys.leader());
    let elected = entry.and_then(|entry| CoordinatorLeader::decode(&entry.key, &entry.value).ok());
    let elected = elected.map(|leader| leader.name);
    if elected.as_ref() != Some(&me) {
        let elected = elected.map_or("nobody".to_owned(), |name| name.to_string());
        let what = format!("{me} writes what only the elected may, and that is {elected}");
        world.broken("I29", what);
    }
}
