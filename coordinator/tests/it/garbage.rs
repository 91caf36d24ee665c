//! Garbage in any record: nothing panics, `primary` is not written, no site's role changes, and
//! the record is named.

use std::collections::BTreeMap;

use proptest::prelude::*;
use regent_coordinator::api::wire;
use regent_coordinator::decide::view::View;
use regent_coordinator::decide::write::Put;
use regent_coordinator::decide::{apply, plan, request};
use regent_coordinator::observe::Reported;
use regent_proto::name::SiteName;
use regent_proto::record::{SiteRole, SwitchoverStep};
use serde_json::Value;

use crate::world::{TWO_SITES, World, policy, site};

/// What is done to a record.
#[derive(Debug, Clone)]
enum Damage {
    Bytes(Vec<u8>),
    Truncated(usize),
    /// One value somewhere in the document is replaced.
    Replaced(usize, Value),
    /// One field somewhere is removed.
    Removed(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::from(-1)),
        Just(Value::from(u64::MAX)),
        Just(Value::from(1e300)),
        Just(Value::from("")),
        Just(Value::from("GARBAGE/../x\u{0}")),
        Just(Value::from("x".repeat(5000))),
        Just(serde_json::json!([])),
        Just(serde_json::json!({"name": "open", "x": [[[]]]})),
    ];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Damage::Bytes),
        (0usize..400).prop_map(Damage::Truncated),
        (0usize..80, value).prop_map(|(at, value)| Damage::Replaced(at, value)),
        (0usize..80).prop_map(Damage::Removed),
    ]
}

/// Walks the document and changes the place with this number.
fn visit(value: &mut Value, at: &mut usize, change: &Damage) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                if *at == 0 {
                    match change {
                        Damage::Removed(_) => drop(fields.remove(&name)),
                        Damage::Replaced(_, new) => drop(fields.insert(name, new.clone())),
                        Damage::Bytes(_) | Damage::Truncated(_) => {}
                    }
                    *at = usize::MAX;
                    return;
                }
                *at = at.saturating_sub(1);
                if let Some(inner) = fields.get_mut(&name) {
                    visit(inner, at, change);
                }
                if *at == usize::MAX {
                    return;
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                visit(item, at, change);
                if *at == usize::MAX {
                    return;
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn damaged(value: &[u8], damage: &Damage) -> Vec<u8> {
    match damage {
        Damage::Bytes(bytes) => bytes.clone(),
        Damage::Truncated(length) => value[..(*length).min(value.len())].to_vec(),
        Damage::Replaced(at, _) | Damage::Removed(at) => {
            // What was damaged before may be no document any more.
            let Ok(mut document) = serde_json::from_slice::<Value>(value) else {
                return value.to_vec();
            };
            visit(&mut document, &mut at.clone(), damage);
            document.to_string().into_bytes()
        }
    }
}

fn roles(view: &View) -> BTreeMap<SiteName, SiteRole> {
    view.assignments
        .iter()
        .filter_map(|(site, slot)| slot.read().map(|seen| (site.clone(), seen.value.role)))
        .collect()
}

/// Everything that looks at records does so without a panic.
fn look_at_everything(world: &World) {
    let view = world.view();
    let picture = wire::federation(&policy(), &view);
    assert_eq!(picture.unreadable.len(), view.unreadable().len());
    if let Ok((topology, primary)) = plan::deciding(&view) {
        let (policy, memory) = (policy(), &world.memory);
        let federation = regent_coordinator::decide::Federation {
            policy: &policy,
            memory,
            view: &view,
            topology,
            primary,
        };
        for to in ["us", "eu", "wit", "nowhere"] {
            let request = plan::Request { to: site(to), accept_unprotected: false };
            let planned = plan::plan(&federation, &request);
            let known = topology.value.topology.data_sites().any(|data| data.name == site(to));
            let checks = if known { plan::check_names().count() } else { 1 };
            assert_eq!(planned.plan.checks.len(), checks, "{to}");
        }
        let id = "op-1".parse().expect("an identifier");
        drop(request::cancel(&federation, &id, "tester"));
    }
    let file = apply::File::parse(TWO_SITES).expect("good");
    drop(apply::apply(&view, &file));
    assert!(apply::create(&view, &file, uuid::Uuid::nil()).is_err(), "it exists");
}

/// A federation at rest, or one that prepares a switchover and waits for eu's checkpoint.
fn base(preparing: bool) -> World {
    if preparing {
        let (mut world, _) = crate::switchover::stopped_at(SwitchoverStep::Prepare);
        world.edit_report("eu", |report| report.checkpointed_for = None);
        world
    } else {
        World::healthy(TWO_SITES)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn garbage_anywhere_moves_nothing(
        preparing in any::<bool>(),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), damage()), 1..4),
    ) {
        let mut world = base(preparing);
        let before = roles(&world.view());
        let keys: Vec<String> = world.entries.keys().cloned().collect();
        for (which, damage) in &hits {
            let key = which.get(&keys);
            let value = damaged(&world.entries[key].value, damage);
            world.put_bytes(key, &value);
        }
        let primary = world.entries.get(&world.keys.primary()).cloned();
        look_at_everything(&world);
        for _ in 0..6 {
            let decision = world.decide();
            let Some(write) = decision.actions.first() else { break };
            for put in &write.puts {
                prop_assert!(!matches!(put, Put::Primary(_)), "{} writes primary", write.purpose);
                if let Put::Assignment(site, assignment) = put {
                    let role = before.get(site);
                    prop_assert!(role.is_none_or(|role| *role == assignment.role), "{site}");
                }
            }
            prop_assert!(world.perform(write));
        }
        prop_assert_eq!(world.entries.get(&world.keys.primary()).cloned(), primary);
        look_at_everything(&world);
    }
}

#[test]
fn a_record_that_speaks_for_another_is_not_believed() {
    let mut world = World::healthy(TWO_SITES);
    let foreign = world.entries[&world.keys.report(&site("eu"))].value.clone();
    let key = world.keys.report(&site("us"));
    world.put_bytes(&key, &foreign);
    let view = world.view();
    let unreadable = view.unreadable();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].key, key);
    assert!(unreadable[0].problem.contains(&key), "{}", unreadable[0].problem);
}

#[test]
fn an_unreadable_primary_stops_everything_and_is_named() {
    let mut world = World::healthy(TWO_SITES);
    let key = world.keys.primary();
    world.put_bytes(&key, b"{\"version\":1}");
    let decision = world.decide();
    assert!(decision.actions.is_empty());
    assert!(decision.reason.to_string().contains(&key), "{}", decision.reason);
    assert!(!wire::federation(&policy(), &world.view()).safe);
}

#[test]
fn what_can_not_be_read_is_reported_once_for_each_revision() {
    let mut world = World::healthy(TWO_SITES);
    let mut reported = Reported::default();
    let key = world.keys.report(&site("us"));
    let news = |world: &World, reported: &mut Reported| reported.news(&world.view()).len();
    let good = world.entries[&key].value.clone();
    assert_eq!(news(&world, &mut reported), 0);
    for _ in 0..2 {
        world.put_bytes(&key, b"garbage");
        assert_eq!([news(&world, &mut reported), news(&world, &mut reported)], [1, 0]);
        world.edit_report("eu", |_| {});
        assert_eq!(news(&world, &mut reported), 0, "another record's change is no news of this");
    }
    world.put_bytes(&key, &good);
    assert_eq!(news(&world, &mut reported), 0);
}
