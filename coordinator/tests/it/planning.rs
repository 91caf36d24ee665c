//! The plan's hash, executing and cancelling.

use regent_coordinator::decide::plan;
use regent_coordinator::decide::request::{self, Asked, Refusal};
use regent_proto::name::OperationId;
use regent_proto::record::{Outcome, SwitchoverStep};

use crate::world::{TWO_SITES, World, site};

fn asked(hash: &str) -> Asked {
    Asked {
        id: "op-1".parse().expect("an identifier"),
        request: plan::Request { to: site("us"), accept_unprotected: false },
        plan_hash: hash.to_owned(),
        by: "tester".to_owned(),
        reason: String::new(),
    }
}

fn execute(world: &World, hash: &str) -> Result<(), Refusal> {
    world.judged(|federation| request::execute(federation, &asked(hash)).map(drop))
}

#[test]
fn figures_do_not_change_the_hash_but_the_situation_does() {
    let mut world = World::healthy(TWO_SITES);
    let hash = world.plan("us").hash;
    world.edit_report("us", |report| report.lag_bytes = Some(4096));
    world.edit_lease(|lease| lease.counter += 1);
    assert_eq!(world.plan("us").hash, hash);
    assert_eq!(execute(&world, &hash), Ok(()));
    world.edit_primary(|primary| primary.ttl_max *= 2);
    assert_ne!(world.plan("us").hash, hash);
    let refusal = execute(&world, &hash).expect_err("stale");
    assert!(matches!(&refusal, Refusal::Stale(text) if text.contains(&hash)), "{refusal}");
    let mut world = World::healthy(TWO_SITES);
    let hash = world.plan("us").hash;
    world.edit_topology("prepare_timeout: 60s", "prepare_timeout: 61s");
    assert!(matches!(execute(&world, &hash), Err(Refusal::Stale(_))));
}

#[test]
fn a_blocked_plan_is_not_executed() {
    let mut world = World::healthy(TWO_SITES);
    world.edit_report("us", |report| report.free_senders = 0);
    let hash = world.plan("us").hash;
    let refusal = execute(&world, &hash).expect_err("blocked");
    assert!(
        matches!(&refusal, Refusal::Blocked(text) if text.contains("senders-free")),
        "{refusal}"
    );
}

#[test]
fn of_a_site_that_is_none_only_the_refusal_is_planned() {
    let world = World::healthy(TWO_SITES);
    for (to, saw) in
        [("nowhere", "there is no site nowhere"), ("wit", "wit is a witness and holds no data")]
    {
        let plan = world.plan(to).plan;
        let [check] = plan.checks.as_slice() else { panic!("{:#?}", plan.checks) };
        assert_eq!((check.name.as_str(), check.saw.as_str()), ("target-known", saw));
        assert_eq!(check.wanted, "one of the data sites besides eu: us");
        assert!(plan.blocked() && plan.steps.is_empty(), "{plan:#?}");
    }
}

#[test]
fn of_two_requests_one_begins() {
    let mut world = World::healthy(TWO_SITES);
    let hash = world.plan("us").hash;
    let first = world.judged(|f| request::execute(f, &asked(&hash))).expect("a write");
    let mut other = asked(&hash);
    other.id = "op-2".parse().expect("an identifier");
    let second = world.judged(|f| request::execute(f, &other)).expect("a write");
    assert!(world.perform(&first));
    assert!(!world.perform(&second));
    assert_eq!(world.running(), Some(asked(&hash).id));
    assert!(matches!(execute(&world, &hash), Err(Refusal::Blocked(_))));
}

#[test]
fn cancelling_is_allowed_until_the_handover() {
    let mut world = World::healthy(TWO_SITES);
    let id = world.begin("us");
    let cancel = |world: &World, id: &OperationId| {
        world.judged(|federation| request::cancel(federation, id, "tester"))
    };
    let write = cancel(&world, &id).expect("allowed").expect("not asked before");
    assert!(world.perform(&write));
    assert_eq!(cancel(&world, &id), Ok(None), "asked twice is asked once");
    world.settle();
    let operation = world.operation(&id);
    let Some(Outcome::Cancelled { reason, .. }) = &operation.outcome else {
        panic!("{:?}", operation.outcome)
    };
    assert!(reason.contains("tester"), "{reason}");
    assert_eq!(world.running(), None);
    assert_eq!(world.assignment("us").checkpoint_for, None, "a cancel undoes it");
    assert!(matches!(cancel(&world, &id), Err(Refusal::Blocked(_))), "it has ended");
    let unknown = "op-7".parse().expect("an identifier");
    assert!(matches!(cancel(&world, &unknown), Err(Refusal::NotFound(_))));
}

#[test]
fn cancelling_is_refused_from_the_handover_on_with_the_reason() {
    for step in SwitchoverStep::ALL {
        let (world, id) = crate::switchover::stopped_at(step);
        let answer = world.judged(|federation| request::cancel(federation, &id, "tester"));
        match step {
            SwitchoverStep::Prepare => assert!(answer.is_ok(), "{answer:?}"),
            SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::RollBack
            | SwitchoverStep::Done => {
                let Err(Refusal::Blocked(text)) = answer else { panic!("{step}: {answer:?}") };
                let said = text.contains("past the handover") || text.contains("ended already");
                assert!(said, "{text}");
            }
        }
    }
}

#[test]
fn old_operations_are_forgotten_when_a_new_one_begins() {
    let mut world = World::healthy(TWO_SITES);
    let first = world.begin("us");
    world.settle();
    let mut ended = world.operation(&first);
    assert!(ended.outcome.is_some());
    for number in 0..request::OPERATIONS_KEPT {
        ended.id = format!("old-{number:03}").parse().expect("an identifier");
        ended.requested_at.0 = u64::try_from(number).expect("small");
        let key = world.keys.operation(&ended.id);
        world.put(&key, &ended);
    }
    world.remove(&world.keys.operation(&first));
    world.begin("eu");
    let prefix = world.keys.operations();
    let kept: Vec<&String> = world.entries.keys().filter(|k| k.starts_with(&prefix)).collect();
    assert_eq!(kept.len(), request::OPERATIONS_KEPT);
    assert!(kept[0].ends_with("old-001"), "{kept:?}");
}
