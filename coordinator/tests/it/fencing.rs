//! `fence` and `unfence`: what their plans say, what is refused, and what the one transaction leaves.

use regent_coordinator::decide::fencing::{self, Asked, Verb};
use regent_coordinator::decide::plan::Planned;
use regent_coordinator::decide::request::Refusal;
use regent_coordinator::decide::write::Write;
use regent_proto::name::OperationId;
use regent_proto::record::{Outcome, RunningOperation, Verdict, WritesFenced};

use crate::world::{TWO_SITES, World, running, site};

fn planned(world: &World, verb: Verb, at: &str) -> Planned {
    world.judged(|federation| fencing::plan(federation, verb, &site(at)))
}

fn asked(verb: Verb, at: &str, plan_hash: String) -> Asked {
    Asked {
        id: id(verb),
        verb,
        site: site(at),
        plan_hash,
        by: "ann@desk".to_owned(),
        reason: "a drill".to_owned(),
    }
}

fn id(verb: Verb) -> OperationId {
    let id = match verb {
        Verb::Fence => "fence-1-abc",
        Verb::Unfence => "unfence-1-abc",
    };
    id.parse().expect("an identifier")
}

fn execute(world: &World, asked: &Asked) -> Result<Write, Refusal> {
    world.judged(|federation| fencing::execute(federation, asked))
}

/// Plans and executes.
fn done(world: &mut World, verb: Verb) {
    let hash = planned(world, verb, "eu").hash;
    let write = execute(world, &asked(verb, "eu", hash)).expect("nothing blocks");
    assert!(world.perform(&write), "{} conflicts", write.purpose);
}

/// A world in which the verb is possible.
fn before(verb: Verb) -> World {
    let mut world = World::healthy(TWO_SITES);
    match verb {
        Verb::Fence => {}
        Verb::Unfence => done(&mut world, Verb::Fence),
    }
    world
}

/// A hand says that this operation runs.
fn run(world: &mut World, id: &OperationId) {
    let key = world.keys.running_operation();
    world.put::<RunningOperation>(&key, &running(Some(id)));
}

#[test]
fn the_primary_site_is_fenced_and_let_go_with_an_audit_record_each() {
    let mut world = World::healthy(TWO_SITES);
    let open = world.primary();
    done(&mut world, Verb::Fence);
    let fence = world.primary().writes_fenced.expect("fenced");
    assert_eq!((fence.by.as_str(), fence.reason.as_str()), ("ann@desk", "a drill"));
    done(&mut world, Verb::Unfence);
    assert_eq!(world.primary(), open, "primacy, epoch and floor are as before");
    for verb in Verb::ALL {
        let operation = world.operation(&id(verb));
        assert!(matches!(operation.outcome, Some(Outcome::Succeeded { .. })), "{verb:?}");
        assert_eq!(
            (operation.requested_by, operation.reason),
            (fence.by.clone(), fence.reason.clone())
        );
        assert_eq!(operation.plan_hash.len(), 16);
    }
    assert_eq!(world.running(), None, "neither ever runs");
}

/// Each check alone, in a world in which the verb would be possible otherwise.
#[test]
fn each_check_alone_refuses() {
    type Spoil = fn(&mut World);
    for verb in Verb::ALL {
        let other: Spoil = |_| {};
        let operation: Spoil = |world| run(world, &"op-9".parse().expect("an identifier"));
        let written: Spoil = |world| {
            world.edit_primary(|primary| {
                primary.writes_fenced = match primary.writes_fenced.take() {
                    None => Some(WritesFenced { by: "bob".into(), reason: "before".into() }),
                    Some(_) => None,
                };
            });
        };
        for (check, at, spoil) in [
            ("site-is-primary", "us", other),
            ("no-other-operation", "eu", operation),
            ("writes", "eu", written),
        ] {
            let mut world = before(verb);
            spoil(&mut world);
            let Planned { plan, hash } = planned(&world, verb, at);
            let blocking: Vec<&str> = plan
                .checks
                .iter()
                .filter(|check| check.verdict == Verdict::Block)
                .map(|check| check.name.as_str())
                .collect();
            assert_eq!(blocking, [check], "{verb:?}");
            let refusal = execute(&world, &asked(verb, at, hash)).expect_err("blocked");
            let Refusal::Blocked(text) = refusal else { panic!("{refusal}") };
            assert!(text.contains(check), "{text}");
        }
    }
}

#[test]
fn nothing_is_done_without_a_reason_or_by_a_plan_of_another_situation() {
    let mut world = World::healthy(TWO_SITES);
    let hash = planned(&world, Verb::Fence, "eu").hash;
    let silent = Asked { reason: String::new(), ..asked(Verb::Fence, "eu", hash.clone()) };
    let refusal = execute(&world, &silent).expect_err("no reason");
    assert!(matches!(&refusal, Refusal::Invalid(text) if text.contains("--reason")), "{refusal}");
    // A plan of the other verb is none of this one.
    done(&mut world, Verb::Fence);
    let stale = execute(&world, &asked(Verb::Unfence, "eu", hash)).expect_err("stale");
    assert!(matches!(&stale, Refusal::Stale(text) if text.contains("unfence eu")), "{stale}");
}

#[test]
fn whoever_is_slower_than_a_switchover_changes_nothing() {
    let mut world = World::healthy(TWO_SITES);
    let hash = planned(&world, Verb::Fence, "eu").hash;
    let write = execute(&world, &asked(Verb::Fence, "eu", hash)).expect("nothing blocks");
    world.begin("us");
    assert!(!world.perform(&write), "the running operation was not compared");
    assert_eq!(world.primary().writes_fenced, None);
}

/// A hand wrote the id of an audit record where a running operation belongs: it is cleared.
#[test]
fn what_is_done_at_once_never_runs() {
    for verb in Verb::ALL {
        let mut world = before(verb);
        done(&mut world, verb);
        run(&mut world, &id(verb));
        let cleared = world.decide().actions.first().cloned().expect("a write");
        assert!(world.perform(&cleared));
        assert_eq!(world.running(), None);
    }
}
