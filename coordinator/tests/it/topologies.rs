//! Creating a federation and applying topology files to it.

use regent_coordinator::decide::apply::{self, File};
use regent_coordinator::decide::picture;
use regent_coordinator::decide::request::Refusal;
use regent_proto::Epoch;
use regent_proto::record::PrimaryState;

use crate::world::{TWO_SITES, World, policy, site};

fn apply(world: &World, yaml: &str) -> Result<apply::Applied, Refusal> {
    apply::apply(&world.view(), &File::parse(yaml)?)
}

#[test]
fn a_federation_is_made_once() {
    let world = World::created(TWO_SITES);
    let primary = world.primary();
    assert_eq!((&primary.holder, primary.epoch), (&site("eu"), Epoch::FIRST));
    assert_eq!(primary.state, PrimaryState::Open);
    assert_eq!(primary.electorate, [site("eu"), site("us")].into(), "witnesses can't take primacy");
    assert_eq!(primary.ttl_max.as_secs(), 15);
    assert_eq!(world.running(), None, "the record is there, so that it can be compared");
    let file = File::parse(TWO_SITES).expect("good");
    let again = apply::create(&world.view(), &file, uuid::Uuid::nil());
    assert!(matches!(again, Err(Refusal::Blocked(_))));
    // Also when one of the two records is damaged, or gone.
    for key in [world.keys.primary(), world.keys.topology()] {
        let mut world = World::created(TWO_SITES);
        world.put_bytes(&key, b"garbage");
        assert!(apply::create(&world.view(), &file, uuid::Uuid::nil()).is_err());
        world.remove(&key);
        assert!(apply::create(&world.view(), &file, uuid::Uuid::nil()).is_err());
    }
}

#[test]
fn a_removed_record_is_told_as_such_and_nothing_is_made_in_its_place() {
    let file = File::parse(TWO_SITES).expect("good");
    let keys = World::empty().keys;
    for (record, removed) in [
        ("primary", vec![keys.primary()]),
        ("topology", vec![keys.topology()]),
        // The lease still tells that there was a federation.
        ("primary", vec![keys.primary(), keys.topology()]),
    ] {
        let mut world = World::healthy(TWO_SITES);
        for key in &removed {
            world.remove(key);
        }
        let view = world.view();
        let told = format!("the `{record}` record of federation f was removed");
        let about = |text: &str| {
            assert!(text.contains(&told), "{text}");
            assert!(text.contains("runbook the-primary-record-is-gone"), "{text}");
            assert!(!text.contains("--create"), "{text}");
        };
        about(&apply::apply(&view, &file).expect_err("nothing to change").to_string());
        about(&apply::create(&view, &file, uuid::Uuid::nil()).expect_err("not new").to_string());
        about(&picture::safety(&policy(), &view).unsafe_reasons.join("; "));
        let decision = world.decide();
        assert!(decision.actions.is_empty(), "{:?}", decision.actions);
        about(&decision.reason.to_string());
    }
}

#[test]
fn the_same_file_changes_nothing() {
    let world = World::healthy(TWO_SITES);
    let applied = apply(&world, TWO_SITES).expect("fine");
    assert!(applied.changes.is_empty() && applied.write.is_none());
}

#[test]
fn changes_are_told_in_words() {
    let world = World::healthy(TWO_SITES);
    let third = "
  - {name: ap, kind: data, dcs: embedded, nodes: [{name: ap1}, {name: ap2}]}
links: [{between: [us, ap], cost: 3}, ";
    for (from, to, wanted) in [
        ("prepare_timeout: 60s", "prepare_timeout: 2m", "policy.prepare_timeout 1m → 2m"),
        ("\nlinks: [", third, "site ap joins as a data site with 2 node(s)"),
        ("\nlinks: [", third, "link ap – us with cost 3"),
        ("{between: [eu, us]}", "{between: [us, eu], cost: 2}", "link eu – us: cost 1 → 2"),
        (", {name: us2}", "", "site us: node us2 leaves"),
        ("{name: us2}", "{name: us2}, {name: us3}", "site us: node us3 joins"),
        ("primary: eu", "primary: us", "moves nothing (eu is primary)"),
        ("[eu, us, wit]", "[eu, us]", "quorum.voters eu, us, wit → eu, us"),
        ("name: eu, kind: data", "name: eu, kind: data ", "only the file's wording"),
    ] {
        assert!(TWO_SITES.contains(from), "{from}");
        let applied = apply(&world, &TWO_SITES.replace(from, to)).expect("fine");
        let told = applied.changes.join("\n");
        assert!(told.contains(wanted), "{told:?} does not say {wanted:?}");
        assert!(applied.write.is_some());
    }
}

#[test]
fn what_must_not_be_is_refused() {
    let mut world = World::healthy(TWO_SITES);
    let without_eu = "
federation: f
primary: us
sites:
  - {name: us, kind: data, dcs: embedded, nodes: [{name: us1}, {name: us2}]}
quorum: {store: embedded, voters: [us]}
";
    let other_dcs = TWO_SITES.replace("us, kind: data, dcs: embedded", "us, kind: data, dcs: etcd");
    let other_quorum = TWO_SITES.replace("{store: embedded", "{store: etcd");
    let no_longer_data = "
federation: f
primary: eu
sites:
  - {name: eu, kind: data, dcs: embedded, nodes: [{name: eu1}, {name: eu2}]}
  - {name: us, kind: witness}
quorum: {store: embedded, voters: [eu, us]}
";
    for (yaml, wanted) in [
        (without_eu, "removes site eu, which is primary"),
        (&other_dcs, "the DCS of site us"),
        (&other_quorum, "quorum.store"),
        (no_longer_data, "can't become"),
    ] {
        let refusal = apply(&world, yaml).expect_err(wanted);
        assert!(refusal.to_string().contains(wanted), "{refusal}");
        assert!(matches!(refusal, Refusal::Blocked(_)));
    }
    assert!(matches!(apply(&world, "federation: ["), Err(Refusal::Invalid(_))));
    world.begin("us");
    let refusal = apply(&world, &TWO_SITES.replace("60s", "61s")).expect_err("an operation runs");
    assert!(refusal.to_string().contains("op-1"), "{refusal}");
}

#[test]
fn a_site_that_leaves_leaves_the_electorate() {
    let mut world = World::healthy(TWO_SITES);
    let alone = "
federation: f
primary: eu
sites:
  - {name: eu, kind: data, dcs: embedded, synchronous: true, nodes: [{name: eu1}, {name: eu2}]}
quorum: {store: embedded, voters: [eu]}
";
    let applied = apply(&world, alone).expect("fine");
    assert!(world.perform(&applied.write.expect("something to write")));
    let primary = world.primary();
    assert_eq!(primary.electorate, [site("eu")].into());
    assert_eq!((primary.holder, primary.epoch), (site("eu"), Epoch::FIRST));
}
