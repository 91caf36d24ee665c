//! What each site should be: its role, its upstream, and the slots it keeps.
//!
//! Derived from topology, `primary` and the tree; written only when the content changes, with the
//! next generation. An assignment never opens anything: `primary` does. While primacy is on its
//! way nothing is rewritten: the agents need no coordinator then, and nothing may disturb them.

use std::collections::{BTreeMap, BTreeSet};

use regent_proto::keys::GlobalKey;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{Assignment, PrimaryState, SiteRole, SwitchoverStep, Unknown, VERSION};

use super::Federation;
use super::switchover::{self, Situation};
use super::tree::{self, Tree};
use super::view::{Freshness, Slot};
use super::write::{Purpose, Put, Write};

/// A switchover that is being prepared.
struct Preparing<'a> {
    operation: &'a OperationId,
    from: &'a SiteName,
    to: &'a SiteName,
}

fn preparing<'a>(federation: &'a Federation<'_>) -> Option<Preparing<'a>> {
    let operation = &federation.running()?.value;
    let (from, to) = operation.kind.moves()?;
    let moving = switchover::Moving { operation, from, to };
    if moving.situation(federation) != Situation::Before
        || switchover::recorded(operation) != SwitchoverStep::Prepare
    {
        return None;
    }
    Some(Preparing { operation: &operation.id, from, to })
}

/// The transaction that brings all assignments up to date, with the sites it changes.
pub(super) fn due(federation: &Federation<'_>) -> Option<(Write, Vec<SiteName>)> {
    match &federation.primary.value.state {
        PrimaryState::Open => {}
        PrimaryState::Handover { .. }
        | PrimaryState::Token { .. }
        | PrimaryState::Fenced { .. } => {
            return None;
        }
    }
    let changed = changed(federation);
    if changed.is_empty() {
        return None;
    }
    let view = federation.view;
    let mut write = switchover::elected_write(view, Purpose::Assign)
        .comparing(view, GlobalKey::Topology)
        .comparing(view, GlobalKey::RunningOperation);
    if let Some(operation) = federation.running() {
        write = write.comparing(view, GlobalKey::Operation(operation.value.id.clone()));
    }
    let sites = changed.keys().cloned().collect();
    for (site, assignment) in changed {
        write = write.put(view, Put::Assignment(site, Box::new(assignment)));
    }
    Some((write, sites))
}

/// Assignments whose content is not as wanted.
pub(super) fn changed(federation: &Federation<'_>) -> BTreeMap<SiteName, Assignment> {
    wanted(federation)
        .into_iter()
        .filter_map(|(site, wanted)| {
            let present = match federation.view.assignments.get(&site) {
                None | Some(Slot::Absent) => return Some((site, wanted)),
                // Its generation is unknown, so nothing may follow it until it is repaired.
                Some(Slot::Unreadable(_)) => return None,
                Some(Slot::Read(seen)) => &seen.value,
            };
            let next = Assignment {
                generation: present.generation,
                unknown: present.unknown.clone(),
                ..wanted
            };
            if next == *present {
                return None;
            }
            Some((site, Assignment { generation: present.generation.saturating_add(1), ..next }))
        })
        .collect()
}

/// What each data site's assignment should say, with generation 1.
fn wanted(federation: &Federation<'_>) -> BTreeMap<SiteName, Assignment> {
    let primary = &federation.primary.value;
    let present = present_tree(federation);
    let preparing = preparing(federation);
    let future = preparing.as_ref().map(|p| future_tree(federation, p.to));
    let mut wanted = BTreeMap::new();
    for (site, upstream) in &present {
        if out_of_the_tree(federation, site) {
            continue;
        }
        let mut downstream = tree::children(&present, site);
        if let Some(future) = &future {
            downstream.extend(tree::children(future, site));
        }
        let checkpoint = preparing.as_ref().filter(|p| site == p.from || site == p.to);
        let role = if *site == primary.holder { SiteRole::Primary } else { SiteRole::Standby };
        let assignment = Assignment {
            version: VERSION,
            generation: 1,
            role,
            epoch: primary.epoch,
            upstream: upstream.clone(),
            downstream,
            checkpoint_for: checkpoint.map(|p| p.operation.clone()),
            unknown: Unknown::new(),
        };
        wanted.insert(site.clone(), assignment);
    }
    wanted
}

/// Quarantined and detached sites are brought back by verbs of their own.
fn out_of_the_tree(federation: &Federation<'_>, site: &SiteName) -> bool {
    federation.view.assignment(site).is_some_and(|seen| match seen.value.role {
        SiteRole::Primary | SiteRole::Standby => false,
        SiteRole::Quarantined | SiteRole::Detached => true,
    })
}

/// The tree under the present holder.
#[must_use]
pub fn present_tree(federation: &Federation<'_>) -> Tree {
    let primary = &federation.primary.value;
    let topology = federation.topology();
    let assigned: Tree = topology
        .data_sites()
        .filter_map(|site| federation.view.assignment(&site.name).map(|seen| (&site.name, seen)))
        .map(|(site, seen)| (site, &seen.value))
        .filter(|(_, assignment)| assignment.epoch == primary.epoch)
        .map(|(site, assignment)| (site.clone(), assignment.upstream.clone()))
        .collect();
    // A coordinator that has just started can't tell a living site from a dead one yet; the one
    // before it could. It keeps that one's tree until it knows better.
    let unproven =
        topology.data_sites().any(|site| federation.freshness(&site.name) == Freshness::Unproven);
    if unproven && tree::holds(topology, &primary.holder, &assigned) {
        return assigned;
    }
    tree::derive(topology, &primary.holder, &unusable(federation))
}

/// The tree once `to` is primary.
#[must_use]
pub fn future_tree(federation: &Federation<'_>, to: &SiteName) -> Tree {
    tree::derive(federation.topology(), to, &unusable(federation))
}

fn unusable(federation: &Federation<'_>) -> BTreeSet<SiteName> {
    let mut unusable = federation.broken();
    let sites = federation.topology().data_sites();
    unusable.extend(
        sites.map(|site| &site.name).filter(|site| out_of_the_tree(federation, site)).cloned(),
    );
    unusable
}
