//! I27: a server of a federation opens only while `primary` names its site as holder and lets it
//! write (hazards.md section 6; protocol.md rules 2 and 8). Judged on what the quorum holds, not on
//! what the node has seen of it.

use regent_proto::record::PrimaryState;

use crate::world::World;

pub(super) fn check(world: &mut World, n: usize) {
    if world.federation.is_none() {
        return;
    }
    let node = &world.nodes[n];
    let site = &world.sites[node.site].name;
    let Some((_, primary)) = &world.checks.primary else {
        let what = format!("{} opens before there is a `primary`", node.name);
        return world.broken("I27", what);
    };
    let may = match &primary.state {
        PrimaryState::Open | PrimaryState::Handover { .. } => primary.holder == *site,
        // Decided before the token: its server stops at once, and its lease is refused.
        PrimaryState::Token { .. } | PrimaryState::Fenced { .. } => false,
    };
    if !may {
        let what = format!(
            "{} of {site} opens while `primary` is {} of {}",
            node.name,
            primary.state.name(),
            primary.holder
        );
        world.broken("I27", what);
    }
}
