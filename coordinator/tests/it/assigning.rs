//! Election, and the assignments derived from topology, `primary` and reports.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_coordinator::decide::Reason;
use regent_coordinator::decide::write::Purpose;
use regent_proto::record::{
    CoordinatorLeader, PrimaryState, ReportedRole, SiteRole, Unknown, VERSION,
};

use crate::world::{TWO_SITES, World, site};

/// eu – us – ap, and a dear way from eu to ap.
const CASCADE: &str = "
federation: f
primary: eu
sites:
  - {name: eu, kind: data, dcs: embedded, nodes: [{name: eu1}]}
  - {name: us, kind: data, dcs: embedded, nodes: [{name: us1}]}
  - {name: ap, kind: data, dcs: embedded, nodes: [{name: ap1}, {name: ap2}]}
links:
  - {between: [eu, us]}
  - {between: [us, ap]}
  - {between: [eu, ap], cost: 10}
quorum: {store: embedded, voters: [eu, us, ap]}
lab: {accept: [single-store-quorum, single-node-site]}
";

fn next(world: &mut World) -> (Option<Purpose>, Reason) {
    let decision = world.decide();
    if let Some(write) = decision.actions.first() {
        assert!(world.perform(write), "{} conflicts", write.purpose);
    }
    (decision.actions.first().map(|write| write.purpose), decision.reason)
}

#[test]
fn it_joins_stands_for_election_and_waits_for_a_federation() {
    let mut world = World::empty();
    assert_eq!(next(&mut world), (Some(Purpose::Join), Reason::Joining));
    assert_eq!(next(&mut world), (Some(Purpose::Campaign), Reason::Campaigning));
    assert_eq!(next(&mut world), (None, Reason::NotCreated));
}

#[test]
fn whoever_is_not_elected_writes_nothing() {
    let mut world = World::created(TWO_SITES);
    let elected: CoordinatorLeader = CoordinatorLeader {
        version: VERSION,
        name: "us-c1".parse().expect("a name"),
        tenure: "another".parse().expect("an identifier"),
        unknown: Unknown::new(),
    };
    let key = world.keys.leader();
    world.put(&key, &elected);
    assert_eq!(next(&mut world).0, Some(Purpose::Join));
    assert_eq!(next(&mut world), (None, Reason::NotElected { elected: elected.name }));
    // What it decided while it was elected is refused afterwards.
    world.remove(&key);
    assert_eq!(next(&mut world).0, Some(Purpose::Campaign));
    let assign = world.decide().actions.remove(0);
    assert_eq!(assign.purpose, Purpose::Assign);
    let entry = world.entries[&key].value.clone();
    world.put_bytes(&key, &entry);
    assert!(!world.perform(&assign), "`leader` was taken anew in between");
}

#[test]
fn a_new_federation_is_assigned_from_its_links() {
    let world = World::healthy(CASCADE);
    let (eu, us, ap) = (world.assignment("eu"), world.assignment("us"), world.assignment("ap"));
    assert_eq!((eu.role, eu.upstream), (SiteRole::Primary, None));
    assert_eq!(eu.downstream, BTreeSet::from([site("us")]));
    assert_eq!((us.role, us.upstream), (SiteRole::Standby, Some(site("eu"))));
    assert_eq!(us.downstream, BTreeSet::from([site("ap")]));
    assert_eq!((ap.role, ap.upstream), (SiteRole::Standby, Some(site("us"))));
    assert_eq!([eu.generation, us.generation, ap.generation], [1, 1, 1]);
}

#[test]
fn at_rest_nothing_is_written() {
    let mut world = World::healthy(CASCADE);
    for _ in 0..20 {
        world.pass(Duration::from_secs(2), &["eu", "us", "ap"]);
        assert_eq!(next(&mut world), (None, Reason::AtRest));
    }
}

#[test]
fn the_children_of_a_silent_site_are_moved_once_and_come_back_when_it_has_settled() {
    let mut world = World::healthy(CASCADE);
    world.pass(Duration::from_secs(14), &["eu", "ap"]);
    assert_eq!(next(&mut world), (None, Reason::AtRest));
    world.pass(Duration::from_secs(2), &["eu", "ap"]);
    let sites = vec![site("ap"), site("eu"), site("us")];
    assert_eq!(next(&mut world), (Some(Purpose::Assign), Reason::Assigning { sites }));
    assert_eq!(world.assignment("ap").upstream, Some(site("eu")));
    assert_eq!(world.assignment("ap").generation, 2);
    // It comes back, goes, comes back: nothing moves until it was well for a while.
    for living in [&["eu", "us", "ap"][..], &["eu", "ap"], &["eu", "us", "ap"]] {
        world.pass(Duration::from_secs(18), living);
        assert_eq!(next(&mut world), (None, Reason::AtRest));
    }
    let decision = world.decide();
    let wake = decision.wake_at.expect("a report grows old, or the site has settled");
    assert!(wake > world.now);
    for _ in 0..2 {
        world.pass(Duration::from_secs(16), &["eu", "us", "ap"]);
        world.settle();
    }
    assert_eq!(world.assignment("ap").upstream, Some(site("us")));
}

#[test]
fn without_another_way_a_silent_site_keeps_its_children() {
    let mut world = World::healthy(&CASCADE.replace("  - {between: [eu, ap], cost: 10}\n", ""));
    world.pass(Duration::from_secs(40), &["eu", "ap"]);
    assert_eq!(next(&mut world), (None, Reason::AtRest));
}

#[test]
fn a_new_coordinator_keeps_the_tree_until_it_knows_better() {
    let mut world = World::healthy(CASCADE);
    world.pass(Duration::from_secs(20), &["eu", "ap"]);
    world.settle();
    assert_eq!(world.assignment("ap").upstream, Some(site("eu")));
    world.restart_coordinator();
    for _ in 0..20 {
        world.pass(Duration::from_secs(2), &["eu", "ap"]);
        assert_eq!(next(&mut world), (None, Reason::AtRest));
    }
}

#[test]
fn a_cheaper_link_moves_a_site() {
    let mut world = World::healthy(CASCADE);
    world.edit_topology("cost: 10", "cost: 1");
    world.settle();
    assert_eq!(world.assignment("ap").upstream, Some(site("eu")));
}

#[test]
fn the_next_primary_keeps_slots_for_its_present_and_its_future_children() {
    let mut world = World::healthy(CASCADE);
    world.begin("ap");
    assert_eq!(next(&mut world).0, Some(Purpose::Assign));
    let ap = world.assignment("ap");
    assert_eq!(ap.downstream, BTreeSet::from([site("us")]), "its future child");
    let us = world.assignment("us");
    assert_eq!(us.downstream, BTreeSet::from([site("ap"), site("eu")]), "present and future");
    assert!(us.checkpoint_for.is_none() && ap.checkpoint_for.is_some());
    assert!(world.assignment("eu").checkpoint_for.is_some());
}

#[test]
fn nothing_is_assigned_while_primacy_is_on_its_way() {
    let mut world = World::healthy(TWO_SITES);
    world.edit_topology("synchronous: true, nodes: [{name: us1}", "nodes: [{name: us1}");
    world.edit_primary(|primary| {
        primary.state = PrimaryState::Handover {
            to: site("us"),
            operation: "op-9".parse().expect("an identifier"),
            span: Duration::from_secs(10),
        };
    });
    let key = world.keys.assignment(&site("us"));
    world.remove(&key);
    assert_eq!(next(&mut world), (None, Reason::AtRest));
}

#[test]
fn a_quarantined_site_is_left_alone() {
    let mut world = World::healthy(CASCADE);
    let key = world.keys.assignment(&site("us"));
    world.edit(&key, |a: &mut regent_proto::record::Assignment| a.role = SiteRole::Quarantined);
    world.settle();
    assert_eq!(world.assignment("us").role, SiteRole::Quarantined);
    assert_eq!(world.assignment("ap").upstream, Some(site("eu")), "and nobody follows it");
}

#[test]
fn a_site_that_is_down_gets_no_children_but_keeps_its_place() {
    let mut world = World::healthy(CASCADE);
    world.edit_report("us", |report| report.role = ReportedRole::Down);
    assert_eq!(next(&mut world).0, Some(Purpose::Assign));
    assert_eq!(world.assignment("ap").upstream, Some(site("eu")));
    assert_eq!(world.assignment("us").upstream, Some(site("eu")));
}

#[test]
fn a_site_that_left_the_topology_is_not_assigned_any_more() {
    let mut world = World::healthy(CASCADE);
    let key = world.keys.assignment(&site("sa"));
    let stray = world.assignment("ap");
    world.put(&key, &stray);
    world.restart_coordinator();
    assert_eq!(next(&mut world), (None, Reason::AtRest));
    world.pass(Duration::from_secs(2), &["eu", "us", "ap"]);
    assert_eq!(next(&mut world), (None, Reason::AtRest));
}
