//! The switchover's state machine: every step, resumed by a coordinator that knows nothing, with
//! every partner dead or alive, ends with B primary or A primary and an outcome.

use std::time::Duration;

use regent_coordinator::decide::Reason;
use regent_coordinator::decide::write::{Purpose, Put};
use regent_proto::Epoch;
use regent_proto::name::OperationId;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{Operation, Outcome, PrimaryState, ReportedRole, SwitchoverStep};

use crate::agents::{self, ALL_LIVE, Conduct};
use crate::world::{TWO_SITES, World, site};

/// What a run does besides deciding.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) conduct: Conduct,
    /// Every decision is made by a coordinator that has just started.
    pub(crate) forgetful: bool,
}

const ORDINARY: Run = Run { conduct: ALL_LIVE, forgetful: false };

/// One thing happens: the coordinator writes, or an agent acts. False when neither has anything
/// to do.
fn step(world: &mut World, run: Run) -> bool {
    if run.forgetful {
        world.restart_coordinator();
        for name in ["eu", "us"] {
            if !run.conduct.dead.contains(&name) {
                world.edit_report(name, |_| {});
            }
        }
    }
    let decision = world.decide();
    if let Some(write) = decision.actions.first() {
        assert!(world.perform(write), "{} conflicts", write.purpose);
        return true;
    }
    match agents::deed(&world.view(), &run.conduct) {
        Some(txn) => {
            assert!(world.txn(&txn), "an agent's transaction conflicts");
            true
        }
        None => false,
    }
}

/// Runs until the operation has ended; when nothing happens, time passes.
pub(crate) fn to_the_end(world: &mut World, id: &OperationId, run: Run) -> Operation {
    let living: Vec<&str> =
        ["eu", "us"].into_iter().filter(|name| !run.conduct.dead.contains(name)).collect();
    for _ in 0..300 {
        if world.operation(id).outcome.is_some() {
            assert_eq!(world.running(), None, "ended, so nothing runs");
            return world.operation(id);
        }
        if !step(world, run) {
            world.pass(Duration::from_secs(2), &living);
        }
    }
    panic!("it does not end: {:?}", world.operation(id).steps)
}

fn recorded(world: &World, id: &OperationId) -> SwitchoverStep {
    world.operation(id).steps.last().expect("a step").step
}

/// A world in which the operation was just written down to be at `wanted`.
pub(crate) fn stopped_at(wanted: SwitchoverStep) -> (World, OperationId) {
    let mut world = World::healthy(TWO_SITES);
    let id = world.begin("us");
    let conduct = match wanted {
        SwitchoverStep::RollBack => Conduct { takes: false, ..ALL_LIVE },
        SwitchoverStep::Prepare
        | SwitchoverStep::Handover
        | SwitchoverStep::Take
        | SwitchoverStep::Follow
        | SwitchoverStep::Verify
        | SwitchoverStep::Done => ALL_LIVE,
    };
    for _ in 0..300 {
        if recorded(&world, &id) == wanted {
            return (world, id);
        }
        if !step(&mut world, Run { conduct, forgetful: false }) {
            world.pass(Duration::from_secs(2), &["eu", "us"]);
        }
    }
    panic!("{wanted} is never reached: {:?}", world.operation(&id).steps)
}

fn succeeded(operation: &Operation) -> bool {
    matches!(operation.outcome, Some(Outcome::Succeeded { .. }))
}

#[test]
fn the_ordinary_way_passes_every_step_once() {
    let mut world = World::healthy(TWO_SITES);
    let id = world.begin("us");
    let operation = to_the_end(&mut world, &id, ORDINARY);
    assert!(succeeded(&operation), "{:?}", operation.outcome);
    let steps: Vec<SwitchoverStep> = operation.steps.iter().map(|step| step.step).collect();
    assert_eq!(
        steps,
        [
            SwitchoverStep::Prepare,
            SwitchoverStep::Handover,
            SwitchoverStep::Take,
            SwitchoverStep::Follow,
            SwitchoverStep::Verify,
            SwitchoverStep::Done
        ]
    );
    let primary = world.primary();
    assert_eq!((primary.holder, primary.epoch), (site("us"), Epoch::new(2)));
    assert_eq!(world.assignment("eu").upstream, Some(site("us")));
    // And back again.
    world.settle();
    world.remove(&world.keys.operation(&id));
    let back = world.begin("eu");
    assert!(succeeded(&to_the_end(&mut world, &back, ORDINARY)));
    assert_eq!(world.primary().holder, site("eu"));
    assert_eq!(world.epoch(), Epoch::new(3));
}

#[test]
fn from_every_step_a_new_coordinator_goes_on_to_the_end() {
    for wanted in SwitchoverStep::ALL {
        let (mut world, id) = stopped_at(wanted);
        world.restart_coordinator();
        world.pass(Duration::from_secs(1), &["eu", "us"]);
        let operation = to_the_end(&mut world, &id, ORDINARY);
        match wanted {
            SwitchoverStep::RollBack => {
                let rolled_back = matches!(operation.outcome, Some(Outcome::RolledBack { .. }));
                assert!(rolled_back, "{:?}", operation.outcome);
                assert_eq!((world.primary().holder, world.epoch()), (site("eu"), Epoch::FIRST));
            }
            SwitchoverStep::Prepare
            | SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::Done => {
                assert!(succeeded(&operation), "{wanted}: {:?}", operation.outcome);
                assert_eq!((world.primary().holder, world.epoch()), (site("us"), Epoch::new(2)));
            }
        }
    }
}

#[test]
fn a_coordinator_that_forgets_everything_between_two_writes_comes_to_the_same_end() {
    let mut world = World::healthy(TWO_SITES);
    let id = world.begin("us");
    let operation = to_the_end(&mut world, &id, Run { forgetful: true, ..ORDINARY });
    assert!(succeeded(&operation), "{:?}", operation.outcome);
}

#[test]
fn without_any_coordinator_the_agents_finish_and_it_is_written_down_later() {
    for wanted in [SwitchoverStep::Handover, SwitchoverStep::Take] {
        let (mut world, id) = stopped_at(wanted);
        while let Some(txn) = agents::deed(&world.view(), &ALL_LIVE) {
            assert!(world.txn(&txn));
        }
        assert_eq!(world.primary().holder, site("us"), "the agents need nobody");
        world.restart_coordinator();
        world.pass(Duration::from_secs(1), &["eu", "us"]);
        let operation = to_the_end(&mut world, &id, ORDINARY);
        assert!(succeeded(&operation), "{:?}", operation.outcome);
        let steps: Vec<SwitchoverStep> = operation.steps.iter().map(|step| step.step).collect();
        assert!(steps.contains(&SwitchoverStep::Take), "{steps:?}");
        assert!(steps.is_sorted(), "{steps:?}");
    }
}

#[test]
fn whoever_is_dead_at_whichever_step_it_ends_with_one_primary() {
    let dead: [&'static [&'static str]; 2] = [&["eu"], &["us"]];
    for wanted in SwitchoverStep::ALL {
        for dead in dead {
            let (mut world, id) = stopped_at(wanted);
            let conduct = Conduct { dead, ..ALL_LIVE };
            let operation = to_the_end(&mut world, &id, Run { conduct, forgetful: false });
            let primary = world.primary();
            assert_eq!(primary.state, PrimaryState::Open, "{wanted} {dead:?}");
            if succeeded(&operation) {
                assert_eq!((primary.holder, primary.epoch), (site("us"), Epoch::new(2)));
            } else {
                assert_eq!((primary.holder, primary.epoch), (site("eu"), Epoch::FIRST));
            }
        }
    }
}

#[test]
fn a_handover_that_nobody_answers_is_rolled_back_after_the_span_and_not_before() {
    let (mut world, id) = stopped_at(SwitchoverStep::Handover);
    world.pass(Duration::from_secs(9), &["eu", "us"]);
    assert!(world.decide().actions.is_empty(), "10 s is the span");
    world.restart_coordinator();
    world.pass(Duration::from_secs(9), &["eu", "us"]);
    assert!(world.decide().actions.is_empty(), "a new coordinator counts anew");
    world.pass(Duration::from_secs(1), &["eu", "us"]);
    let write = world.decide().actions.remove(0);
    assert_eq!(write.purpose, Purpose::RollBack);
    assert!(world.perform(&write));
    let primary = world.primary();
    assert_eq!((primary.state, primary.epoch), (PrimaryState::Open, Epoch::FIRST));
    let operation = to_the_end(&mut world, &id, ORDINARY);
    let Some(Outcome::RolledBack { reason, .. }) = &operation.outcome else {
        panic!("{:?}", operation.outcome)
    };
    assert!(reason.contains("eu has not stopped within 10s"), "{reason}");
}

#[test]
fn a_roll_back_by_the_holder_is_found_and_written_down() {
    let (mut world, id) = stopped_at(SwitchoverStep::Take);
    world.edit_primary(|primary| primary.state = PrimaryState::Open);
    let operation = to_the_end(&mut world, &id, ORDINARY);
    assert!(matches!(operation.outcome, Some(Outcome::RolledBack { .. })));
    assert_eq!(world.primary().floor.map(|floor| floor.timeline.0), Some(1), "the floor is kept");
}

#[test]
fn of_take_and_roll_back_exactly_one_wins() {
    let (mut world, _) = stopped_at(SwitchoverStep::Take);
    world.pass(Duration::from_secs(11), &["eu", "us"]);
    let roll_back = world.decide().actions.remove(0);
    assert_eq!(roll_back.purpose, Purpose::RollBack);
    while world.primary().holder == site("eu") {
        let deed = agents::deed(&world.view(), &ALL_LIVE).expect("us takes");
        assert!(world.txn(&deed));
    }
    assert!(!world.perform(&roll_back));
    assert_eq!(world.primary().holder, site("us"));
}

#[test]
fn prepare_ends_when_it_takes_too_long_and_says_what_was_missing() {
    let mut world = World::healthy(TWO_SITES);
    let id = world.begin("us");
    let conduct = Conduct { checkpoints: false, ..ALL_LIVE };
    let operation = to_the_end(&mut world, &id, Run { conduct, forgetful: false });
    let Some(Outcome::Cancelled { reason, .. }) = &operation.outcome else {
        panic!("{:?}", operation.outcome)
    };
    assert!(reason.contains("the checkpoint in eu"), "{reason}");
    assert_eq!(world.primary().state, PrimaryState::Open);
}

#[test]
fn a_site_that_does_not_follow_ends_it_all_the_same_and_is_named() {
    let (mut world, id) = stopped_at(SwitchoverStep::Follow);
    let conduct = Conduct { dead: &["eu"], ..ALL_LIVE };
    let operation = to_the_end(&mut world, &id, Run { conduct, forgetful: false });
    assert!(succeeded(&operation), "{:?}", operation.outcome);
    let note = &operation.steps.last().expect("a step").note;
    assert!(note.contains("us is primary") && note.contains("eu"), "{note}");
}

type Break = fn(&mut World);

/// Each thing that *prepare* waits for, alone, keeps the handover from being written.
#[test]
fn nothing_is_handed_over_before_everything_is_ready() {
    let breaks: [(&str, Break); 10] = [
        ("a checkpoint", |w| w.edit_report("us", |r| r.checkpointed_for = None)),
        ("the generation", |w| w.edit_report("us", |r| r.generation = 0)),
        ("slots", |w| w.edit_report("us", |r| r.slots.clear())),
        ("the lag", |w| {
            w.edit_report("us", |r| {
                r.position = Some(regent_proto::Lsn::new(0));
                r.lag_bytes = Some(1 << 40);
            });
            w.edit_report("eu", |r| r.position = Some(regent_proto::Lsn::new(1 << 40)));
        }),
        ("the lease", |w| w.edit_lease(|l| l.released = true)),
        ("the role", |w| w.edit_report("us", |r| r.role = ReportedRole::Down)),
        ("the target's epoch", |w| w.edit_report("us", |r| r.epoch = Epoch::new(0))),
        ("a newer epoch", |w| w.edit_report("us", |r| r.epoch = Epoch::new(9))),
        ("the fence", |w| {
            w.edit_primary(|p| {
                let (by, reason) = ("x".to_owned(), "y".to_owned());
                p.writes_fenced = Some(regent_proto::record::WritesFenced { by, reason });
            });
        }),
        ("protection", |w| w.edit_report("us", |r| r.synchronous_nodes.clear())),
    ];
    for (what, break_it) in breaks {
        let mut world = World::healthy(TWO_SITES);
        let id = world.begin("us");
        // Everything but the handover itself.
        loop {
            let decision = world.decide();
            match decision.actions.first() {
                Some(write) if write.purpose == Purpose::Handover => break,
                Some(write) => assert!(world.perform(write)),
                None => {
                    let txn = agents::deed(&world.view(), &ALL_LIVE).expect("agents act");
                    assert!(world.txn(&txn));
                }
            }
        }
        break_it(&mut world);
        for _ in 0..5 {
            let decision = world.decide();
            let handed_over = decision
                .actions
                .iter()
                .any(|write| write.puts.iter().any(|put| matches!(put, Put::Primary(_))));
            assert!(!handed_over, "{what}: handed over");
            if let Some(write) = decision.actions.first() {
                assert!(world.perform(write));
            }
        }
        assert_eq!(recorded(&world, &id), SwitchoverStep::Prepare, "{what}");
    }
}

#[test]
fn the_handover_compares_everything_that_the_protocol_names() {
    let (mut world, id) = stopped_at(SwitchoverStep::Prepare);
    let handover = loop {
        let decision = world.decide();
        match decision.actions.first() {
            Some(write) if write.purpose == Purpose::Handover => break write.clone(),
            Some(write) => assert!(world.perform(write)),
            None => {
                let txn = agents::deed(&world.view(), &ALL_LIVE).expect("agents act");
                assert!(world.txn(&txn));
            }
        }
    };
    for key in [
        world.keys.primary(),
        world.keys.topology(),
        world.keys.running_operation(),
        world.keys.operation(&id),
        world.keys.leader(),
    ] {
        let (mut other, _) = stopped_at(SwitchoverStep::Prepare);
        other.entries.clone_from(&world.entries);
        let value = other.entries[&key].value.clone();
        other.put_bytes(&key, &value);
        assert!(!other.perform(&handover), "{key} was rewritten and the handover went through");
    }
    assert!(world.perform(&handover));
}

#[test]
fn primacy_that_went_another_way_ends_the_operation() {
    let (mut world, id) = stopped_at(SwitchoverStep::Prepare);
    world.edit_primary(|primary| {
        let operation = "promotion-1".parse().expect("an identifier");
        primary.state =
            PrimaryState::Fenced { to: site("us"), operation, accepted: AcceptedLoss::default() };
    });
    let write = world.decide().actions.remove(0);
    assert!(world.perform(&write));
    let by = "promotion-1".parse().expect("an identifier");
    let outcome = world.operation(&id).outcome;
    assert!(matches!(&outcome, Some(Outcome::Superseded { by: x, .. }) if *x == by), "{outcome:?}");
}

#[test]
fn a_running_operation_without_a_record_is_forgotten() {
    let (mut world, id) = stopped_at(SwitchoverStep::Prepare);
    world.remove(&world.keys.operation(&id));
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::OperationMissing { operation: id });
    assert!(world.perform(&decision.actions[0]));
    assert_eq!(world.running(), None);
}
