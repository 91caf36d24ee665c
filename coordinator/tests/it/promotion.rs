//! `promote`: what its plan says, what is refused, how it goes on without the old primary site, and how
//! it is given up.

use std::time::Duration;

use regent_coordinator::decide::Reason;
use regent_coordinator::decide::plan::Planned;
use regent_coordinator::decide::promotion::{self, Asked, Request};
use regent_coordinator::decide::request::{self, Refusal};
use regent_coordinator::decide::write::{Purpose, Write};
use regent_proto::Lsn;
use regent_proto::name::OperationId;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{
    Operation, OperationKind, Outcome, PrimaryState, ReportedPromise, ReportedRole, SwitchoverStep,
    Verdict,
};
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, Switch, TimelineId};

use crate::agents::{ALL_LIVE, Conduct};
use crate::switchover::{Run, to_the_end};
use crate::world::{TWO_SITES, World, site};

const S: fn(u64) -> Duration = Duration::from_secs;
/// The primary site acts no more.
const DARK: Conduct = Conduct { dead: &["eu"], ..ALL_LIVE };

fn accept(seconds: u64) -> AcceptedLoss {
    let max_age_ms = Some(seconds * 1000);
    AcceptedLoss { max_age_ms, max_bytes: None, ..AcceptedLoss::default() }
}

fn accept_any() -> Option<AcceptedLoss> {
    Some(AcceptedLoss { max_age_ms: None, ..accept(0) })
}

/// As the loss in [`dark`].
fn to_us() -> Request {
    Request { to: site("us"), accepted: Some(accept(15)), end_lease: false }
}

/// `eu` was lost 20 s ago, just when `us` had replayed its last commit: with the lease of 15 s, commits
/// of at most 15 s are lost.
fn dark(yaml: &str, living: &[&str]) -> World {
    let mut world = World::healthy(yaml);
    let committed = WallTime(world.now.nanos() / 1_000_000 + 1);
    world.edit_report("us", |report| report.last_commit = Some(committed));
    world.pass(S(20), living);
    world
}

fn three_sites() -> String {
    let ap = "  - {name: ap, kind: data, dcs: embedded, nodes: [{name: ap1}]}\n  - {name: wit,";
    let links = "links: [{between: [eu, us]}, {between: [eu, ap]}, {between: [us, ap]}]";
    let yaml = TWO_SITES.replace("  - {name: wit,", ap);
    yaml.replace("links: [{between: [eu, us]}]", links)
}

fn planned(world: &World, request: &Request) -> Planned {
    world.judged(|federation| promotion::plan(federation, request))
}

fn id() -> OperationId {
    "promotion-1-abc".parse().expect("an identifier")
}

fn asked(request: &Request, plan_hash: String) -> Asked {
    Asked {
        id: id(),
        request: request.clone(),
        plan_hash,
        by: "ann@desk".to_owned(),
        reason: "eu is dark".to_owned(),
    }
}

fn execute(world: &World, asked: &Asked) -> Result<Write, Refusal> {
    world.judged(|federation| promotion::execute(federation, asked))
}

/// Plans and executes.
fn begin(world: &mut World, request: &Request) -> OperationId {
    let hash = planned(world, request).hash;
    let write = execute(world, &asked(request, hash)).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert!(world.perform(&write), "{} conflicts", write.purpose);
    id()
}

fn blocking(planned: &Planned) -> Vec<&str> {
    let checks = planned.plan.checks.iter();
    checks
        .filter(|check| check.verdict == Verdict::Block)
        .map(|check| check.name.as_str())
        .collect()
}

#[test]
fn the_old_site_is_fenced_with_the_audit_record_in_one_transaction() {
    let mut world = dark(TWO_SITES, &["us"]);
    let open = world.primary();
    let id = begin(&mut world, &to_us());
    let accepted = accept(15);
    let (to, operation) = (site("us"), id.clone());
    let state = PrimaryState::Fenced { to, operation, accepted: accepted.clone() };
    let mut fenced = open;
    fenced.state = state;
    assert_eq!(world.primary(), fenced, "holder, epoch and floor are as before");
    assert_eq!(world.running(), Some(id.clone()));
    let record = world.operation(&id);
    let (from, to) = (site("eu"), site("us"));
    assert_eq!(record.kind, OperationKind::Promotion { from, to, accepted });
    assert_eq!((record.reason.as_str(), record.outcome), ("eu is dark", None));
    assert_eq!(record.steps.last().map(|step| step.step), Some(SwitchoverStep::Take));
}

#[test]
fn each_check_alone_refuses() {
    type Spoil = fn(&mut World);
    type Ask = fn(&mut Request);
    let same: Ask = |_| {};
    let any: Ask = |request| request.accepted = accept_any();
    let cases: [(&str, Spoil, Ask); 12] = [
        (
            "target-not-primary",
            |world| world.edit_report("eu", |report| report.role = ReportedRole::Standby),
            |request| (request.to, request.accepted) = (site("eu"), accept_any()),
        ),
        (
            "target-in-electorate",
            |world| world.edit_primary(|primary| assert!(primary.electorate.remove(&site("us")))),
            same,
        ),
        (
            "no-other-promotion",
            |world| {
                world.edit_primary(|primary| {
                    let operation = "promotion-0".parse().expect("an identifier");
                    let accepted = AcceptedLoss::default();
                    primary.state = PrimaryState::Fenced { to: site("us"), operation, accepted };
                });
            },
            same,
        ),
        ("old-lease", |world| world.edit_lease(|lease| lease.counter += 1), any),
        ("target-reports", |world| world.pass(S(20), &[]), same),
        (
            "target-reports",
            |world| world.edit_report("us", |report| report.role = ReportedRole::Down),
            same,
        ),
        (
            "target-reports",
            |world| {
                let epoch = world.epoch().next();
                world.edit_report("us", |report| report.epoch = epoch);
            },
            same,
        ),
        (
            "target-reports",
            |world| {
                let other = "7000000000000000009".parse().expect("digits");
                world.edit_primary(|primary| primary.system_identifier = Some(other));
            },
            same,
        ),
        (
            "target-continues",
            |world| {
                let left = Switch { timeline: TimelineId(1), end: Lsn::new(64), promotion: None };
                world.edit_report("us", |report| {
                    report.ancestry = Some(Ancestry {
                        timeline: TimelineId(2),
                        promotion: Some("p-of-another".parse().expect("an id")),
                        switches: vec![left],
                    });
                });
            },
            same,
        ),
        ("loss-accepted", |_| {}, |request| request.accepted = None),
        ("loss-accepted", |_| {}, |request| request.accepted = Some(accept(14))),
        (
            "loss-accepted",
            |world| {
                // Of which `us` lacks the last record.
                world.edit_report("eu", |report| {
                    report.position = report.position.map(|at| Lsn::new(at.get() + 1));
                });
                world.pass(S(20), &["us"]);
            },
            |request| request.accepted = Some(AcceptedLoss { max_bytes: Some(0), ..accept(60) }),
        ),
    ];
    for (check, spoil, ask) in cases {
        let mut world = dark(TWO_SITES, &["us"]);
        let mut request = to_us();
        assert_eq!(blocking(&planned(&world, &request)), Vec::<&str>::new());
        spoil(&mut world);
        ask(&mut request);
        let planned = planned(&world, &request);
        assert_eq!(blocking(&planned), [check], "{:?}", planned.plan.checks);
        let refusal = execute(&world, &asked(&request, planned.hash)).expect_err("blocked");
        let Refusal::Blocked(text) = refusal else { panic!("{refusal}") };
        assert!(text.contains(check), "{text}");
    }
    let world = dark(TWO_SITES, &["us"]);
    for to in ["wit", "x"] {
        let plan = planned(&world, &Request { to: site(to), ..to_us() });
        assert_eq!(blocking(&plan), ["target-known"], "{to}: {:?}", plan.plan.checks);
    }
}

#[test]
fn a_survivor_that_is_ahead_or_silent_is_promoted_or_left_out_by_name() {
    let yaml = three_sites();
    let ahead: fn(&mut World) = |world| {
        world.edit_report("ap", |report| {
            report.position = report.position.map(|at| Lsn::new(at.get() + 1));
        });
    };
    let silent: fn(&mut World) = |world| world.pass(S(20), &["us"]);
    // Its PostgreSQL was stopped: what it had it has.
    let down: fn(&mut World) = |world| {
        world.edit_report("ap", |report| {
            report.role = ReportedRole::Down;
            (report.position, report.ancestry) = (None, None);
        });
    };
    for spoil in [ahead, silent, down] {
        let mut world = dark(&yaml, &["us", "ap"]);
        assert_eq!(blocking(&planned(&world, &to_us())), Vec::<&str>::new());
        spoil(&mut world);
        let plan = planned(&world, &to_us());
        assert_eq!(blocking(&plan), ["no-survivor-ahead"], "{:?}", plan.plan.checks);
        let accepted = Some(AcceptedLoss { without: [site("ap")].into(), ..accept(15) });
        let without = planned(&world, &Request { accepted, ..to_us() });
        assert_eq!(blocking(&without), Vec::<&str>::new());
    }
}

/// It is at most where the target is, but on a timeline that the target has not heard of.
#[test]
fn a_survivor_on_a_later_timeline_is_ahead_whatever_its_position() {
    let mut world = dark(&three_sites(), &["us", "ap"]);
    world.edit_report("ap", |report| {
        let end = report.position.map(|at| Lsn::new(at.get() - 1)).expect("it streams");
        report.ancestry = Some(Ancestry {
            timeline: TimelineId(2),
            promotion: Some("p-of-eu2".parse().expect("an id")),
            switches: vec![Switch { timeline: TimelineId(1), end, promotion: None }],
        });
        report.position = Some(end);
    });
    let plan = planned(&world, &to_us());
    assert_eq!(blocking(&plan), ["no-survivor-ahead"], "{:?}", plan.plan.checks);
}

/// A promise lets the old site write on for longer than its lease: until it ends that blocks, and what it
/// acknowledged by it counts ever after.
#[test]
fn a_promise_of_the_targets_is_part_of_the_wait_and_of_the_loss() {
    let loss = |world: &World| {
        let plan = planned(world, &Request { accepted: None, ..to_us() });
        let check = plan.plan.checks.into_iter().find(|check| check.name == "loss-accepted");
        check.expect("it is one of them").saw
    };
    let mut world = dark(TWO_SITES, &["us"]);
    assert!(loss(&world).starts_with("commits of at most 15.0 s"), "{}", loss(&world));
    let given = |ends_in_ms| Some(ReportedPromise::Given { ends_in_ms });
    world.edit_report("us", |report| report.promise = given(5000));
    let request = Request { accepted: accept_any(), ..to_us() };
    assert_eq!(blocking(&planned(&world, &request)), ["old-lease"]);
    let ends = Request { end_lease: true, ..request.clone() };
    assert_eq!(blocking(&planned(&world, &ends)), Vec::<&str>::new());
    assert!(loss(&world).starts_with("commits of at most 25.0 s"), "{}", loss(&world));
    let waits = |world: &World| planned(world, &request).plan.steps[1].clone();
    assert!(
        waits(&world).contains("nor before its promise to eu ends, in 5s"),
        "{}",
        waits(&world)
    );
    world.edit_report("us", |report| report.promise = given(-2000));
    assert_eq!(blocking(&planned(&world, &request)), Vec::<&str>::new());
    assert!(loss(&world).starts_with("commits of at most 18.0 s"), "{}", loss(&world));
    assert!(!waits(&world).contains("promise"), "{}", waits(&world));
    // An older agent, which does not tell.
    world.edit_report("us", |report| report.promise = None);
    assert!(loss(&world).starts_with("commits of a span that is not known"), "{}", loss(&world));
    assert!(waits(&world).contains("what it may have promised eu"), "{}", waits(&world));
    let plan = planned(&world, &request);
    let lease = plan.plan.checks.iter().find(|check| check.name == "old-lease");
    assert_eq!(lease.map(|check| check.verdict), Some(Verdict::Warn));
    assert_eq!(blocking(&plan), Vec::<&str>::new(), "any loss is accepted");
}

/// A promise that was given just before the fence is waited for: a promotion must not be given up before.
#[test]
fn a_promotion_has_time_for_the_longest_promise() {
    let mut world = dark(TWO_SITES, &["us"]);
    world.edit_primary(|primary| primary.span_max = Duration::from_secs(600));
    let id = begin(&mut world, &to_us());
    let gives_up = |world: &mut World| {
        world.decide().actions.iter().any(|write| write.purpose == Purpose::GiveUp)
    };
    world.pass(S(600), &["us"]);
    assert!(!gives_up(&mut world), "{id} is given up too early");
    world.pass(S(60), &["us"]);
    assert!(gives_up(&mut world));
}

#[test]
fn a_lease_that_is_alive_is_ended_by_who_says_so_and_compared_otherwise() {
    let mut world = dark(TWO_SITES, &["us"]);
    let hash = planned(&world, &to_us()).hash;
    let write = execute(&world, &asked(&to_us(), hash)).expect("nothing blocks");
    world.edit_lease(|lease| lease.counter += 1);
    assert!(!world.perform(&write), "it was renewed meanwhile");
    let ends = Request { accepted: Some(accept(35)), end_lease: true, ..to_us() };
    begin(&mut world, &ends);
}

#[test]
fn nothing_is_begun_without_a_reason_or_by_a_plan_of_another_situation() {
    let mut world = dark(TWO_SITES, &["us"]);
    let hash = planned(&world, &to_us()).hash;
    let silent = Asked { reason: String::new(), ..asked(&to_us(), hash.clone()) };
    let refusal = execute(&world, &silent).expect_err("no reason");
    assert!(matches!(&refusal, Refusal::Invalid(text) if text.contains("--reason")), "{refusal}");
    // What is accepted is part of what was agreed to.
    let more = Request { accepted: Some(accept(60)), ..to_us() };
    let refusal = execute(&world, &asked(&more, hash.clone())).expect_err("another plan");
    assert!(matches!(refusal, Refusal::Stale(_)), "{refusal}");
    begin(&mut world, &to_us());
    let twice = execute(&world, &asked(&to_us(), hash)).expect_err("one is under way");
    assert!(matches!(&twice, Refusal::Blocked(text) if text.contains("no-other-promotion")));
}

#[test]
fn it_ends_without_the_old_primary_site_also_by_coordinators_that_know_nothing() {
    for forgetful in [false, true] {
        let mut world = dark(TWO_SITES, &["us"]);
        let epoch = world.epoch();
        let id = begin(&mut world, &to_us());
        let operation = to_the_end(&mut world, &id, Run { conduct: DARK, forgetful });
        let succeeded = matches!(operation.outcome, Some(Outcome::Succeeded { .. }));
        assert!(succeeded, "{:?}", operation.outcome);
        let primary = world.primary();
        assert_eq!((primary.holder, primary.epoch), (site("us"), epoch.next()));
        let steps: Vec<SwitchoverStep> = operation.steps.iter().map(|step| step.step).collect();
        let wanted = [
            SwitchoverStep::Take,
            SwitchoverStep::Follow,
            SwitchoverStep::Verify,
            SwitchoverStep::Done,
        ];
        assert_eq!(steps, wanted);
    }
}

/// A target that never takes: its leader died, or more would be lost than was accepted.
#[test]
fn it_is_given_up_when_the_target_does_not_take() {
    let mut world = dark(TWO_SITES, &["us"]);
    let before = world.primary();
    let id = begin(&mut world, &to_us());
    let conduct = Conduct { takes: false, ..DARK };
    let operation = to_the_end(&mut world, &id, Run { conduct, forgetful: false });
    let rolled_back = matches!(operation.outcome, Some(Outcome::RolledBack { .. }));
    assert!(rolled_back, "{:?}", operation.outcome);
    assert_eq!(world.primary(), before, "primacy, epoch and floor are as before");
    let waited = operation.steps[1].entered_at.0 - operation.steps[0].entered_at.0;
    // The whole wait, and the span of a take.
    assert!(waited >= 25_000, "given up after {waited} ms");
}

/// The word that it is cancelled and the end of the fence are one: no target takes after it.
#[test]
fn it_is_cancelled_until_the_target_has_taken() {
    let mut world = dark(TWO_SITES, &["us"]);
    let id = begin(&mut world, &to_us());
    let cancel = world.judged(|federation| request::cancel(federation, &id, "ann"));
    let write = cancel.expect("it has not taken").expect("nobody has asked before");
    assert!(world.perform(&write));
    assert_eq!(world.primary().state, PrimaryState::Open);
    assert_eq!(world.primary().holder, site("eu"));
    let last = world.operation(&id).steps.last().cloned().expect("a step");
    assert_eq!(
        (last.step, last.note.as_str()),
        (SwitchoverStep::RollBack, "cancel asked for by ann")
    );
    let operation = to_the_end(&mut world, &id, Run { conduct: DARK, forgetful: false });
    let rolled_back = matches!(&operation.outcome, Some(Outcome::RolledBack { reason, .. }) if reason.contains("ann"));
    assert!(rolled_back, "{:?}", operation.outcome);
}

/// Whoever asks twice is told nothing of a handover that never was.
#[test]
fn a_second_cancel_changes_nothing() {
    let mut world = dark(TWO_SITES, &["us"]);
    let id = begin(&mut world, &to_us());
    let cancel = |world: &World| world.judged(|federation| request::cancel(federation, &id, "ann"));
    let write = cancel(&world).expect("it has not taken").expect("nobody has asked before");
    assert!(world.perform(&write));
    assert_eq!(cancel(&world), Ok(None));
}

/// Nothing follows what is not named as running, so its end is written with the cancel.
#[test]
fn a_cancel_ends_what_does_not_run() {
    let mut world = dark(TWO_SITES, &["us"]);
    let id = begin(&mut world, &to_us());
    world.remove(&world.keys.running_operation());
    let cancel = world.judged(|federation| request::cancel(federation, &id, "ann"));
    assert!(world.perform(&cancel.expect("it has not taken").expect("nobody has asked before")));
    assert_eq!(world.primary().state, PrimaryState::Open);
    let operation = world.operation(&id);
    let rolled_back = matches!(&operation.outcome, Some(Outcome::RolledBack { reason, .. }) if reason.contains("ann"));
    assert!(rolled_back, "{:?}", operation.outcome);
}

/// A coordinator of an older version only notes that it is cancelled.
#[test]
fn a_cancel_that_was_only_noted_is_carried_out() {
    let mut world = dark(TWO_SITES, &["us"]);
    let id = begin(&mut world, &to_us());
    let key = world.keys.operation(&id);
    world.edit(&key, |operation: &mut Operation| operation.cancel_requested = true);
    let given_up = world.decide().actions.remove(0);
    assert_eq!(given_up.purpose, Purpose::GiveUp);
    assert!(world.perform(&given_up));
    assert_eq!(world.primary().state, PrimaryState::Open);
}

/// What the target waits for is known to its leader only, and gone with the fence.
#[test]
fn what_held_the_target_stands_in_the_operation() {
    let mut world = dark(TWO_SITES, &["us"]);
    let id = begin(&mut world, &to_us());
    let held = "more would be lost than was accepted";
    world.edit_report("us", |report| report.promotion_awaits = Some(held.to_owned()));
    let noted = world.decide().actions.remove(0);
    assert_eq!(noted.purpose, Purpose::RecordStep);
    assert!(world.perform(&noted));
    let note = |world: &World| world.operation(&id).steps.last().expect("a step").note.clone();
    assert!(note(&world).contains(held), "{}", note(&world));
    world.pass(S(120), &["us"]);
    world.edit_report("us", |report| report.promotion_awaits = Some(held.to_owned()));
    let given_up = world.decide().actions.remove(0);
    assert_eq!(given_up.purpose, Purpose::GiveUp);
    assert!(world.perform(&given_up));
    assert!(note(&world).contains("has not taken within"), "{}", note(&world));
    assert!(note(&world).contains(held), "{}", note(&world));
}

/// Nothing else would end such a fence: its target may hold for ever.
#[test]
fn a_fence_whose_operation_is_not_there_is_lifted_after_its_span() {
    type Spoil = fn(&mut World, &OperationId);
    let cases: [(&str, Spoil); 4] = [
        ("its record is gone", |world, id| world.remove(&world.keys.operation(id))),
        ("it is not named as running", |world, _| world.remove(&world.keys.running_operation())),
        ("its record can't be read", |world, id| {
            world.put_bytes(&world.keys.operation(id), b"{");
        }),
        ("nobody can read what runs", |world, _| {
            world.put_bytes(&world.keys.running_operation(), b"{");
        }),
    ];
    for (what, spoil) in cases {
        let due = || {
            let mut world = dark(TWO_SITES, &["us"]);
            let id = begin(&mut world, &to_us());
            spoil(&mut world, &id);
            let decision = world.decide();
            let reason = Reason::FenceAbandoned { operation: id.clone(), to: site("us") };
            assert_eq!(decision.reason, reason, "{what}");
            assert_eq!(decision.actions, [], "{what}: not at once");
            world.pass(S(120), &["us"]);
            let lifted = world.decide().actions.remove(0);
            assert_eq!(lifted.purpose, Purpose::GiveUp, "{what}");
            (world, id, lifted)
        };
        let (mut world, id, lifted) = due();
        let readable = world.judged(|federation| federation.view.operation(&id).is_some());
        assert!(world.perform(&lifted), "{what}");
        assert_eq!(world.primary().state, PrimaryState::Open, "{what}");
        if readable {
            // Or it would be watched for ever, and never forgotten.
            let outcome = world.operation(&id).outcome;
            assert!(matches!(outcome, Some(Outcome::RolledBack { .. })), "{what}: {outcome:?}");
        }
        // Somebody repairs its record meanwhile, or names what runs.
        let (mut repaired, id, lifted) = due();
        repaired.put_bytes(&repaired.keys.operation(&id), b"{}");
        assert!(!repaired.perform(&lifted), "{what}");
        let (mut named, _, lifted) = due();
        named.put_bytes(&named.keys.running_operation(), b"{}");
        assert!(!named.perform(&lifted), "{what}");
    }
}

/// Rule 13.
#[test]
fn a_switchover_under_way_is_superseded() {
    let mut world = World::healthy(TWO_SITES);
    let switchover = world.begin("us");
    let committed = WallTime(world.now.nanos() / 1_000_000 + 1);
    world.edit_report("us", |report| report.last_commit = Some(committed));
    world.pass(S(20), &["us"]);
    let id = begin(&mut world, &to_us());
    let outcome = world.operation(&switchover).outcome;
    assert!(matches!(&outcome, Some(Outcome::Superseded { by, .. }) if *by == id), "{outcome:?}");
    assert_eq!(world.running(), Some(id));
}
