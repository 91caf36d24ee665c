//! I2, I25 and I29: `primary` changes along its edges only, and its epoch grows by one with a take
//! or a promotion and never otherwise (protocol.md section 2; hazards.md section 6).

use regent_proto::keys::GlobalKeys;
use regent_proto::record::{Primary, PrimaryState, Record as _};

use crate::world::World;

/// Whether `before` may become `after`.
fn edge(before: &Primary, after: &Primary) -> bool {
    let same = before.holder == after.holder && before.epoch == after.epoch;
    let floor_kept = before.floor == after.floor;
    match (&before.state, &after.state) {
        // Identity and electorate change while it is open.
        (PrimaryState::Open, PrimaryState::Open) => same && floor_kept,
        (PrimaryState::Open, PrimaryState::Handover { to, .. }) => {
            same && floor_kept && *to != before.holder && before.electorate.contains(to)
        }
        (PrimaryState::Handover { to, .. }, PrimaryState::Token { to: next, .. }) => {
            same && to == next && after.floor.is_some()
        }
        (PrimaryState::Token { to, token, .. }, PrimaryState::Open) => {
            let taken = after.holder == *to
                && after.epoch == before.epoch.next()
                && after.floor.as_ref() == Some(&token.end);
            taken || (same && floor_kept)
        }
        (PrimaryState::Handover { .. }, PrimaryState::Open) => same && floor_kept,
        // The floor falls back here, and nowhere else.
        (PrimaryState::Fenced { to, .. }, PrimaryState::Open) => {
            let promoted =
                after.holder == *to && after.epoch == before.epoch.next() && after.floor.is_some();
            promoted || (same && floor_kept)
        }
        (PrimaryState::Handover { .. }, PrimaryState::Handover { .. })
        | (PrimaryState::Token { .. }, PrimaryState::Token { .. })
        | (PrimaryState::Open, PrimaryState::Token { .. })
        | (PrimaryState::Token { .. }, PrimaryState::Handover { .. })
        | (PrimaryState::Fenced { .. }, _) => false,
        (_, PrimaryState::Fenced { to, .. }) => {
            same && floor_kept && *to != before.holder && before.electorate.contains(to)
        }
    }
}

pub(super) fn check(world: &mut World, store: usize) {
    let Some(federation) = world.federation.as_ref().filter(|f| f.store == store) else { return };
    let key = GlobalKeys::new(&federation.name).primary();
    let Some(entry) = world.stores[store].entry(&key) else {
        if world.checks.primary.is_some() {
            world.broken("I13", "`primary` is gone".to_owned());
        }
        return;
    };
    if world.checks.primary.as_ref().is_some_and(|(revision, _)| *revision == entry.modified.0) {
        return;
    }
    let revision = entry.modified.0;
    let Ok(after) = Primary::decode(&key, &entry.value) else {
        return world.broken("I2", "`primary` cannot be read".to_owned());
    };
    let before = world.checks.primary.replace((revision, after.clone()));
    if let Some((_, before)) = before {
        let names = format!("{} -> {}", before.state.name(), after.state.name());
        let taken = if before.epoch == after.epoch { "" } else { ", taken" };
        world.counters.count(&format!("edge: {names}{taken}"));
        world.explain(usize::MAX, "primary", || {
            format!("{names}: holder {} epoch {}", after.holder, after.epoch)
        });
        if !edge(&before, &after) {
            world.broken("I2", format!("`primary` went {names}: {before:?} to {after:?}"));
        }
        super::i30_accepted_loss::check(world, store, &before, &after);
        let posted = matches!(after.state, PrimaryState::Token { .. });
        let site = world.sites.iter().position(|site| site.name == after.holder);
        if let Some(site) = site.filter(|_| posted) {
            super::i12_after_the_stop::check_token(world, site);
        }
    }
}
