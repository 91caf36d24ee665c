//! Automatic promotion: each of its conditions alone bars it, and what it begins is what a person would begin.

use std::time::Duration;

use regent_coordinator::decide::automatic::{Answer, REQUESTED_BY};
use regent_coordinator::decide::write::{Purpose, Write};
use regent_coordinator::decide::{Decision, Reason, picture};
use regent_proto::Lsn;
use regent_proto::name::OperationId;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{
    Operation, OperationKind, Outcome, PrimaryState, ReportedRole, WritesFenced,
};
use regent_proto::time::WallTime;

use crate::agents::{ALL_LIVE, Conduct};
use crate::switchover::{Run, to_the_end};
use crate::world::{TWO_SITES, World, policy, running, site};

const S: fn(u64) -> Duration = Duration::from_secs;
const DARK: Conduct = Conduct { dead: &["eu"], ..ALL_LIVE };

fn yaml(mode: &str) -> String {
    let automatic = format!(
        "policy: {{automatic_promotion: {{mode: {mode}, after: 60s, accept_loss_age: 15s, \
         cool_down: 1h, per_day: 2}}, "
    );
    TWO_SITES.replace("policy: {", &automatic)
}

/// `eu` is silent for so long; `us` had replayed its last commit just then, so that with the lease of 15 s
/// commits of at most 15 s are lost.
fn dark(mode: &str, seconds: u64) -> World {
    let mut world = World::healthy(&yaml(mode));
    let committed = WallTime(world.now.nanos() / 1_000_000 + 1);
    world.edit_report("us", |report| report.last_commit = Some(committed));
    world.pass(S(seconds), &["us"]);
    world.edit_report("us", |report| report.last_commit = Some(committed));
    world
}

fn begun(decision: &Decision) -> Option<&Write> {
    decision.actions.iter().find(|write| write.purpose == Purpose::Promote)
}

fn answer(decision: &Decision) -> Option<&Answer> {
    match &decision.reason {
        Reason::RegionDark { answer, .. } => Some(answer),
        _ => None,
    }
}

/// The whole round as the elected coordinator comes to rest in it: assignments are written first.
fn settled(world: &mut World) -> Decision {
    for _ in 0..10 {
        let decision = world.decide();
        match decision.actions.first() {
            Some(write) if write.purpose == Purpose::Assign => assert!(world.perform(write)),
            _ => return decision,
        }
    }
    panic!("it assigns for ever");
}

#[test]
fn a_dark_region_is_replaced_by_the_very_promotion_of_a_person() {
    let mut world = dark("on", 61);
    let epoch = world.primary().epoch;
    let decision = settled(&mut world);
    assert_eq!(answer(&decision), Some(&Answer::Promotes(site("us"))));
    let write = begun(&decision).expect("a promotion");
    assert!(world.perform(write));
    let id = world.running().expect("it runs");
    let operation = world.operation(&id);
    assert_eq!(operation.requested_by, REQUESTED_BY);
    let accepted =
        AcceptedLoss { max_age_ms: Some(15_000), max_bytes: None, ..AcceptedLoss::default() };
    let (from, to) = (site("eu"), site("us"));
    assert_eq!(operation.kind, OperationKind::Promotion { from, to, accepted });
    let ended = to_the_end(&mut world, &id, Run { conduct: DARK, forgetful: true });
    assert!(matches!(ended.outcome, Some(Outcome::Succeeded { .. })), "{:?}", ended.outcome);
    assert_eq!((world.primary().holder, world.primary().epoch), (site("us"), epoch.next()));
}

/// Whoever has lost the election meanwhile begins nothing.
#[test]
fn only_the_elected_coordinator_begins_it() {
    let mut world = dark("on", 61);
    let decision = settled(&mut world);
    let write = begun(&decision).expect("a promotion").clone();
    world.remove(&world.keys.leader());
    assert!(!world.perform(&write));
}

#[test]
fn what_is_only_observed_is_said_and_not_done() {
    let mut world = dark("observe-only", 73);
    let decision = settled(&mut world);
    assert_eq!(decision.actions, []);
    assert_eq!(answer(&decision), Some(&Answer::Would(site("us"))));
    let warnings = picture::safety(&policy(), &world.view()).warnings;
    let told = "automatic promotion (observe-only): eu is dark; observe-only: us would be promoted (since 13s)";
    assert!(warnings.iter().any(|warning| warning == told), "{warnings:?}");
    assert_eq!(world.primary().state, PrimaryState::Open);
}

#[test]
fn it_is_looked_at_when_its_time_comes_and_off_where_nobody_asked_for_it() {
    let mut world = dark("on", 59);
    let decision = settled(&mut world);
    assert_eq!(answer(&decision), Some(&Answer::Waits));
    assert_eq!(decision.actions, []);
    let wake = decision.wake_at.expect("it looks again");
    assert!(wake <= world.now.plus(S(1)), "{wake:?} at {:?}", world.now);
    let mut world = dark("off", 3600);
    let decision = settled(&mut world);
    assert_eq!((answer(&decision), begun(&decision)), (None, None));
    assert_eq!(picture::safety(&policy(), &world.view()).warnings, Vec::<String>::new());
}

/// An operation that was asked for so long ago, and has ended.
fn asked_for(world: &mut World, id: &str, ago: Duration, by: &str) {
    let id: OperationId = id.parse().expect("an identifier");
    let mut other = World::healthy(TWO_SITES);
    let switchover = other.begin("us");
    let at =
        WallTime(world.now.nanos() / 1_000_000 - u64::try_from(ago.as_millis()).expect("short"));
    let operation = Operation {
        id: id.clone(),
        requested_at: at,
        requested_by: by.to_owned(),
        outcome: Some(Outcome::Succeeded { at }),
        ..other.operation(&switchover)
    };
    let key = world.keys.operation(&id);
    world.put(&key, &operation);
}

/// What bars it is said; without it, it begins.
#[test]
fn each_condition_alone_bars_it() {
    type Bend = fn(&mut World);
    let hour = S(3600);
    assert!(hour > S(60));
    let cases: [(&str, Bend, &str); 8] = [
        (
            "writes are fenced",
            |w| {
                w.edit_primary(|primary| {
                    let (by, reason) = ("ann".to_owned(), "a drill".to_owned());
                    primary.writes_fenced = Some(WritesFenced { by, reason });
                });
            },
            "writes are fenced by ann",
        ),
        (
            "primacy was moved just before",
            |w| asked_for(w, "switchover-1-a", S(3599), "ann"),
            "switchover-1-a was asked for within the last 3600s (cool_down)",
        ),
        (
            "the day's are used up",
            |w| {
                asked_for(w, "promotion-1-auto", S(7200), REQUESTED_BY);
                asked_for(w, "promotion-2-auto", S(24 * 3600 - 1), REQUESTED_BY);
            },
            "2 within the last 24 hours, which are all that per_day allows",
        ),
        (
            "more would be lost than the topology accepts",
            |w| w.edit_report("us", |report| report.last_commit = None),
            "us is blocked by loss-accepted",
        ),
        (
            "the other site is down",
            |w| w.edit_report("us", |report| report.role = ReportedRole::Down),
            "us is blocked by target-reports",
        ),
        (
            "the other site is not in the electorate",
            |w| w.edit_primary(|primary| assert!(primary.electorate.remove(&site("us")))),
            "us is blocked by target-in-electorate",
        ),
        (
            "nobody can read what runs",
            |w| w.put_bytes(&w.keys.running_operation(), b"{"),
            "running",
        ),
        (
            "an operation runs",
            |w| {
                let key = w.keys.running_operation();
                w.put(&key, &running(Some(&"fence-9-x".parse().expect("an id"))));
            },
            "operation fence-9-x runs",
        ),
    ];
    for (what, bend, said) in cases {
        let mut world = dark("on", 61);
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(begun(&decision), None, "{what}");
        let told = picture::safety(&policy(), &world.view()).warnings.join("\n");
        assert!(told.contains("nobody is promoted") && told.contains(said), "{what}: {told}");
    }
}

/// What makes a primary site not known to be dark.
#[test]
fn a_site_that_may_live_or_was_stopped_by_somebody_is_left_alone() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 5] = [
        ("it renews", |w| w.edit_lease(|lease| lease.counter += 1)),
        ("its lease was given back", |w| w.edit_lease(|lease| lease.released = true)),
        ("it reports", |w| w.edit_report("eu", |report| report.sequence += 1)),
        ("its report is gone", |w| w.remove(&w.keys.report(&site("eu")))),
        ("this coordinator has just come", World::restart_coordinator),
    ];
    for (what, bend) in cases {
        let mut world = dark("on", 61);
        bend(&mut world);
        let decision = settled(&mut world);
        assert_eq!(begun(&decision), None, "{what}");
        assert!(
            matches!(answer(&decision), None | Some(Answer::Waits)),
            "{what}: {:?}",
            decision.reason
        );
    }
}

/// Of two sites that could, the one with more; of two that are alike, the first by name.
#[test]
fn the_site_with_the_most_wal_is_promoted() {
    let three = yaml("on")
        .replace(
            "  - {name: wit,",
            "  - {name: ap, kind: data, dcs: embedded, nodes: [{name: ap1}]}\n  - {name: wit,",
        )
        .replace(
            "links: [{between: [eu, us]}]",
            "links: [{between: [eu, us]}, {between: [eu, ap]}, {between: [us, ap]}]",
        );
    for (more, chosen) in [(0, "ap"), (1, "us")] {
        let mut world = World::healthy(&three);
        let committed = WallTime(world.now.nanos() / 1_000_000 + 1);
        world.pass(S(61), &["us", "ap"]);
        for name in ["us", "ap"] {
            world.edit_report(name, |report| report.last_commit = Some(committed));
        }
        world.edit_report("us", |report| {
            report.position = report.position.map(|at| Lsn::new(at.get() + more));
        });
        let decision = settled(&mut world);
        assert_eq!(answer(&decision), Some(&Answer::Promotes(site(chosen))), "{more}");
    }
}
