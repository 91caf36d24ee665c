//! Applying a topology file: a new federation, or the difference to the present one in words.
//!
//! `primary` has edges of its own, so a topology moves nothing: its `primary:` counts for a new
//! federation only. A new data site enters the topology at once and the electorate later, by the
//! holder of the lease (protocol.md section 1). A site that leaves is taken out of the electorate
//! in the same transaction; the primary site can't leave.

use std::collections::{BTreeMap, BTreeSet};

use regent_proto::Epoch;
use regent_proto::keys::GlobalKey;
use regent_proto::name::SiteName;
use regent_proto::record::{
    Primary, PrimaryState, RunningOperation, TopologyRecord, Unknown, VERSION,
};
use regent_proto::topology::{
    Automatic, AutomaticPromotion, Finding, Link, Policy, Site, SiteKind, Span, StoreKind, Topology,
};
use regent_proto::transactions;

use super::plan::{NoPlan, deciding};
use super::request::{Refusal, reachable};
use super::view::{Slot, View};
use super::write::{Purpose, Put, Write};

/// A topology file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// To the letter.
    pub yaml: String,
    /// What it says.
    pub topology: Topology,
    /// Named warnings.
    pub findings: Vec<Finding>,
}

impl File {
    /// Reads and checks a topology file.
    pub fn parse(yaml: &str) -> Result<Self, Refusal> {
        let (topology, findings) =
            Topology::parse(yaml).map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(Self { yaml: yaml.to_owned(), topology, findings })
    }

    fn record(&self, unknown: Unknown) -> Put {
        Put::Topology(Box::new(TopologyRecord {
            version: VERSION,
            yaml: self.yaml.clone(),
            topology: self.topology.clone(),
            unknown,
        }))
    }
}

/// What applying a file comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// One line a change.
    pub changes: Vec<String>,
    /// The transaction; `None` when there is nothing to do.
    pub write: Option<Write>,
}

/// A new federation of this identity.
pub fn create(view: &View, file: &File, federation: uuid::Uuid) -> Result<Applied, Refusal> {
    reachable(view)?;
    if let Err(removed @ NoPlan::Removed { .. }) = deciding(view) {
        // Its sites have seen epochs of the federation that is there, and would stay fenced.
        return Err(removed.into());
    }
    let topology = &file.topology;
    for (name, absent) in
        [("topology", view.topology.is_absent()), ("primary", view.primary.is_absent())]
    {
        if !absent {
            return Err(Refusal::Blocked(format!(
                "federation {} exists already (its `{name}` record is there); apply the file \
                 without --create to change it",
                view.federation
            )));
        }
    }
    let electorate: BTreeSet<SiteName> =
        topology.data_sites().map(|site| site.name.clone()).collect();
    let names: Vec<&str> = electorate.iter().map(SiteName::as_str).collect();
    let changes = vec![
        format!(
            "federation {} is made, with {} as primary site",
            view.federation, topology.primary
        ),
        format!("its electorate is {}", names.join(", ")),
    ];
    let primary = Primary {
        version: VERSION,
        federation,
        system_identifier: None,
        holder: topology.primary.clone(),
        epoch: Epoch::FIRST,
        state: PrimaryState::Open,
        floor: None,
        electorate,
        ttl_max: topology.policy.primary_ttl.0,
        span_max: topology.policy.handover_span.0,
        writes_fenced: None,
        unknown: Unknown::new(),
    };
    let nothing_runs = RunningOperation { version: VERSION, id: None, unknown: Unknown::new() };
    let write = Write::new(Purpose::Create)
        .put(view, file.record(Unknown::new()))
        .with(transactions::create(primary))
        .put(view, Put::Running(nothing_runs));
    Ok(Applied { changes, write: Some(write) })
}

/// Changes the topology of a federation that exists.
pub fn apply(view: &View, file: &File) -> Result<Applied, Refusal> {
    reachable(view)?;
    let (record, primary) = deciding(view)?;
    if let Some(id) = view.running.read().and_then(|seen| seen.value.id.as_ref()) {
        return Err(Refusal::Blocked(format!(
            "operation {id} runs; wait for its end: regentctl operation watch {id}"
        )));
    }
    if let Slot::Unreadable(bad) = &view.running {
        return Err(Refusal::Blocked(bad.problem.clone()));
    }
    let (old, new) = (&record.value.topology, &file.topology);
    let holder = &primary.value.holder;
    refuse_loss_of_primary(new, holder)?;
    let changes = differences(old, new, holder)?;
    if changes.is_empty() && record.value.yaml == file.yaml {
        return Ok(Applied { changes, write: None });
    }
    let mut write = Write::new(Purpose::Apply)
        .comparing(view, GlobalKey::Primary)
        .comparing(view, GlobalKey::RunningOperation)
        .put(view, file.record(record.value.unknown.clone()));
    let remaining: BTreeSet<SiteName> = primary
        .value
        .electorate
        .iter()
        .filter(|site| new.data_sites().any(|data| data.name == **site))
        .cloned()
        .collect();
    if remaining != primary.value.electorate {
        let smaller = transactions::electorate_of(&view.read(primary), &remaining);
        write = write.with(smaller.map_err(|no_edge| Refusal::Blocked(no_edge.to_string()))?);
    }
    let changes =
        if changes.is_empty() { vec!["only the file's wording".to_owned()] } else { changes };
    Ok(Applied { changes, write: Some(write) })
}

fn refuse_loss_of_primary(new: &Topology, holder: &SiteName) -> Result<(), Refusal> {
    match new.site(holder).map(|site| site.kind) {
        Some(SiteKind::Data) => Ok(()),
        Some(SiteKind::Witness) => Err(Refusal::Blocked(format!(
            "site {holder} is primary and can't become a witness; switch over first: \
             regentctl switchover --to SITE"
        ))),
        None => Err(Refusal::Blocked(format!(
            "the file removes site {holder}, which is primary; switch over first: \
             regentctl switchover --to SITE"
        ))),
    }
}

fn differences(old: &Topology, new: &Topology, holder: &SiteName) -> Result<Vec<String>, Refusal> {
    let mut changes = Vec::new();
    if old.primary != new.primary && new.primary != *holder {
        changes.push(format!(
            "primary: {} moves nothing ({holder} is primary): to move primacy, regentctl \
             switchover --to {}",
            new.primary, new.primary
        ));
    }
    site_changes(old, new, &mut changes)?;
    link_changes(old, new, &mut changes);
    if old.quorum.store != new.quorum.store {
        return Err(Refusal::Blocked(format!(
            "quorum.store can't be changed from {} to {} by applying a file",
            store(old.quorum.store),
            store(new.quorum.store)
        )));
    }
    if old.quorum.voters != new.quorum.voters {
        changes.push(format!(
            "quorum.voters {} → {} (the store's own members are not changed by this)",
            names(&old.quorum.voters),
            names(&new.quorum.voters)
        ));
    }
    policy_changes(&old.policy, &new.policy, &mut changes);
    if old.lab != new.lab {
        changes.push("lab: changed".to_owned());
    }
    Ok(changes)
}

fn site_changes(old: &Topology, new: &Topology, changes: &mut Vec<String>) -> Result<(), Refusal> {
    for site in &new.sites {
        match old.site(&site.name) {
            None => changes.push(format!(
                "site {} joins as {} with {} node(s){}",
                site.name,
                kind(site.kind),
                site.nodes.len(),
                match site.kind {
                    SiteKind::Data => "; it enters the electorate once the holder has added it",
                    SiteKind::Witness => "",
                }
            )),
            Some(before) => one_site(before, site, changes)?,
        }
    }
    for site in old.sites.iter().filter(|site| new.site(&site.name).is_none()) {
        changes.push(format!(
            "site {} leaves the topology and the electorate; what runs there is not stopped",
            site.name
        ));
    }
    Ok(())
}

fn one_site(old: &Site, new: &Site, changes: &mut Vec<String>) -> Result<(), Refusal> {
    let name = &new.name;
    if old.kind != new.kind {
        return Err(Refusal::Blocked(format!(
            "site {name} is {} and can't become {}; remove it and add it under another name",
            kind(old.kind),
            kind(new.kind)
        )));
    }
    if old.dcs != new.dcs {
        return Err(Refusal::Blocked(format!("the DCS of site {name} can't be changed in place")));
    }
    if old.synchronous != new.synchronous {
        changes.push(format!("site {name}: synchronous {} → {}", old.synchronous, new.synchronous));
    }
    let before: BTreeMap<_, _> = old.nodes.iter().map(|node| (&node.name, node)).collect();
    for node in &new.nodes {
        match before.get(&node.name) {
            None => changes.push(format!("site {name}: node {} joins", node.name)),
            Some(same) if **same != *node => {
                changes.push(format!("site {name}: node {} has other ports", node.name));
            }
            Some(_) => {}
        }
    }
    for node in old.nodes.iter().filter(|node| !new.nodes.iter().any(|n| n.name == node.name)) {
        changes.push(format!("site {name}: node {} leaves", node.name));
    }
    Ok(())
}

/// Links by their two ends in order, so that `[a, b]` is `[b, a]`.
fn costs(links: &[Link]) -> BTreeMap<(&SiteName, &SiteName), u32> {
    let mut costs = BTreeMap::new();
    for link in links {
        let [a, b] = &link.between;
        let ends = if a < b { (a, b) } else { (b, a) };
        let cost = costs.entry(ends).or_insert(link.cost);
        *cost = link.cost.min(*cost);
    }
    costs
}

fn link_changes(old: &Topology, new: &Topology, changes: &mut Vec<String>) {
    let (before, after) = (costs(&old.links), costs(&new.links));
    for (ends, cost) in &after {
        match before.get(ends) {
            None => changes.push(format!("link {} – {} with cost {cost}", ends.0, ends.1)),
            Some(was) if was != cost => {
                changes.push(format!("link {} – {}: cost {was} → {cost}", ends.0, ends.1));
            }
            Some(_) => {}
        }
    }
    for ends in before.keys().filter(|ends| !after.contains_key(*ends)) {
        changes.push(format!("no link {} – {} any more", ends.0, ends.1));
    }
}

fn policy_changes(old: &Policy, new: &Policy, changes: &mut Vec<String>) {
    let spans = [
        ("site_ttl", old.site_ttl, new.site_ttl),
        ("primary_ttl", old.primary_ttl, new.primary_ttl),
        ("prepare_timeout", old.prepare_timeout, new.prepare_timeout),
        ("handover_span", old.handover_span, new.handover_span),
        ("follow_timeout", old.follow_timeout, new.follow_timeout),
    ];
    for (name, before, after) in spans.into_iter().filter(|(_, before, after)| before != after) {
        changes.push(format!("policy.{name} {} → {}", String::from(before), String::from(after)));
    }
    if old.failsafe != new.failsafe {
        changes.push(format!("policy.failsafe {} → {}", old.failsafe.name(), new.failsafe.name()));
    }
    if old.automatic_promotion != new.automatic_promotion {
        changes.push(format!(
            "policy.automatic_promotion {} → {}",
            automatic(&old.automatic_promotion),
            automatic(&new.automatic_promotion)
        ));
    }
    if old.switchover_max_lag != new.switchover_max_lag {
        changes.push(format!(
            "policy.switchover_max_lag {} → {}",
            String::from(old.switchover_max_lag),
            String::from(new.switchover_max_lag)
        ));
    }
}

fn automatic(policy: &AutomaticPromotion) -> String {
    let span = |span: Span| String::from(span);
    match policy.mode {
        Automatic::Off => "off".to_owned(),
        Automatic::ObserveOnly | Automatic::On => format!(
            "{} after {}, loss of at most {}{}, cool_down {}, {} a day",
            policy.mode.name(),
            span(policy.after),
            policy.accept_loss_age.map_or("0s".to_owned(), span),
            policy
                .accept_loss_bytes
                .map_or(String::new(), |size| { format!(" and {}", String::from(size)) }),
            span(policy.cool_down),
            policy.per_day
        ),
    }
}

fn kind(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Data => "a data site",
        SiteKind::Witness => "a witness",
    }
}

fn store(store: StoreKind) -> &'static str {
    match store {
        StoreKind::Embedded => "embedded",
        StoreKind::Etcd => "etcd",
    }
}

fn names(sites: &[SiteName]) -> String {
    sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}
