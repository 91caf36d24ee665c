//! Each preflight check alone blocks (or, where it only tells, alone warns).

use std::time::Duration;

use regent_coordinator::decide::plan;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{
    PrimaryState, Reach, ReportedRole, RunningOperation, SiteRole, Verdict, WritesFenced,
};
use regent_proto::timeline::TimelineId;

use crate::world::{TWO_SITES, World, running, site};

/// A check, what makes it fail and nothing else, and the target asked for.
struct Case {
    check: &'static str,
    verdict: Verdict,
    to: &'static str,
    breaks: fn(&mut World),
}

const fn blocks(check: &'static str, breaks: fn(&mut World)) -> Case {
    Case { check, verdict: Verdict::Block, to: "us", breaks }
}

const fn warns(check: &'static str, breaks: fn(&mut World)) -> Case {
    Case { check, verdict: Verdict::Warn, to: "us", breaks }
}

fn nothing(_: &mut World) {}

const CASES: &[Case] = &[
    blocks("primary-open", |world| {
        world.edit_primary(|primary| {
            primary.writes_fenced =
                Some(WritesFenced { by: "someone".into(), reason: "a drill".into() });
        });
    }),
    blocks("primary-open", |world| {
        world.edit_primary(|primary| {
            let operation = "op-9".parse().expect("an identifier");
            primary.state = PrimaryState::Fenced {
                to: site("us"),
                operation,
                accepted: AcceptedLoss::default(),
            };
        });
    }),
    blocks("primary-holds-lease", |world| world.edit_lease(|lease| lease.released = true)),
    blocks("primary-holds-lease", |world| {
        world.edit_lease(|lease| lease.epoch = regent_proto::Epoch::new(9));
    }),
    Case { to: "nowhere", ..blocks("target-known", nothing) },
    Case { to: "wit", ..blocks("target-known", nothing) },
    Case { to: "eu", ..blocks("target-not-primary", nothing) },
    blocks("target-in-electorate", |world| {
        world.edit_primary(|primary| {
            primary.electorate.remove(&site("us"));
        });
    }),
    blocks("no-other-operation", |world| {
        let key = world.keys.running_operation();
        let id = "op-9".parse().expect("an identifier");
        world.put::<RunningOperation>(&key, &running(Some(&id)));
    }),
    blocks("all-sites-report", |world| {
        let key = world.keys.report(&site("us"));
        world.remove(&key);
    }),
    blocks("all-sites-report", |world| {
        world.pass(Duration::from_secs(20), &["eu"]);
    }),
    blocks("all-sites-report", |world| {
        let key = world.keys.report(&site("eu"));
        world.put_bytes(&key, b"not json");
    }),
    blocks("all-sites-report", |world| {
        world.edit_report("us", |report| report.role = ReportedRole::Down);
    }),
    blocks("epochs-agree", |world| {
        world.edit_report("us", |report| report.epoch = regent_proto::Epoch::new(9));
    }),
    blocks("epochs-agree", |world| {
        world.edit_report("us", |report| report.epoch = regent_proto::Epoch::new(0));
    }),
    blocks("assignment-seen", |world| world.edit_report("us", |report| report.generation = 0)),
    blocks("assignment-seen", |world| {
        let key = world.keys.assignment(&site("us"));
        world.edit(&key, |assignment: &mut regent_proto::record::Assignment| {
            assignment.role = SiteRole::Quarantined;
        });
    }),
    blocks("system-identifier-equal", |world| {
        world.edit_report("us", |report| {
            report.system_identifier = "7000000000000000002".parse().ok();
        });
    }),
    blocks("timeline-compatible", |world| {
        world.edit_report("us", |report| {
            report.ancestry.as_mut().expect("reported").timeline = TimelineId(7);
        });
    }),
    blocks("timeline-compatible", |world| {
        world.edit_report("us", |report| report.ancestry = None);
    }),
    blocks("timeline-compatible", |world| {
        for (site, promotion) in [("eu", "aa"), ("us", "bb")] {
            world.edit_report(site, |report| {
                let ancestry = report.ancestry.as_mut().expect("reported");
                ancestry.timeline = TimelineId(7);
                ancestry.promotion = promotion.parse().ok();
            });
        }
    }),
    blocks("timeline-compatible", |world| {
        for site in ["eu", "us"] {
            world.edit_report(site, |report| {
                let ancestry = report.ancestry.as_mut().expect("reported");
                ancestry.timeline = TimelineId(7);
                ancestry.promotion = None;
            });
        }
    }),
    blocks("lag", |world| {
        world.edit_report("us", |report| {
            report.position = Some(regent_proto::Lsn::new(1));
            report.lag_bytes = None;
        });
        world.edit_report("eu", |report| {
            report.position = Some(regent_proto::Lsn::new(1 << 30));
        });
    }),
    blocks("lag", |world| {
        world.edit_report("us", |report| {
            report.lag_bytes = None;
            report.streaming_from = None;
        });
        world.edit_report("eu", |report| report.position = None);
    }),
    blocks("settings-sufficient", |world| {
        world.edit_report("us", |report| {
            report.settings.insert("max_connections".into(), 99);
        });
    }),
    blocks("settings-sufficient", |world| {
        world.edit_report("us", |report| {
            report.settings.remove("max_wal_senders");
        });
    }),
    blocks("slots-free", |world| {
        world.edit_report("us", |report| report.free_slots = 1);
    }),
    blocks("senders-free", |world| world.edit_report("us", |report| report.free_senders = 0)),
    blocks("reachability", |world| {
        world.edit_report("eu", |report| {
            let problem = "no pg_hba.conf entry".to_owned();
            report.reaches.insert(site("us"), Reach::Refused { problem });
        });
    }),
    blocks("synchronous-standby", |world| {
        world.edit_report("us", |report| report.synchronous_nodes.clear());
    }),
    warns("rewind-possible", |world| {
        world.edit_report("eu", |report| {
            report.settings.insert("wal_log_hints".into(), 0);
        });
    }),
    warns("prepared-transactions", |world| {
        world.edit_report("eu", |report| report.objects.prepared_transactions = 2);
    }),
    warns("logical-slots", |world| {
        world.edit_report("eu", |report| report.objects.logical_slots.push("cdc".into()));
    }),
    warns("unlogged-tables", |world| {
        world.edit_report("eu", |report| report.objects.unlogged_tables = 1);
    }),
    warns("collations", |world| {
        world.edit_report("us", |report| {
            report.objects.collation_mismatches.push("postgres".into());
        });
    }),
    warns("records-readable", |world| {
        let key = world.keys.history(regent_proto::Epoch::new(1));
        world.put_bytes(&key, b"{}");
    }),
];

#[test]
fn a_healthy_federation_passes_every_check() {
    let world = World::healthy(TWO_SITES);
    let planned = world.plan("us");
    for check in &planned.plan.checks {
        assert_eq!(check.verdict, Verdict::Pass, "{check:?}");
        assert!(!check.saw.is_empty() && !check.wanted.is_empty(), "{check:?}");
    }
}

#[test]
fn each_check_alone_blocks_or_warns() {
    for (number, case) in CASES.iter().enumerate() {
        let mut world = World::healthy(TWO_SITES);
        (case.breaks)(&mut world);
        let planned = world.plan(case.to);
        for check in &planned.plan.checks {
            if check.name == case.check {
                assert_eq!(check.verdict, case.verdict, "case {number}: {check:?}");
                assert!(!check.next.is_empty(), "case {number}: {check:?} names no next step");
            } else {
                assert_ne!(
                    check.verdict,
                    Verdict::Block,
                    "case {number}, {}: {check:?}",
                    case.check
                );
            }
        }
        assert_eq!(planned.plan.blocked(), case.verdict == Verdict::Block, "case {number}");
    }
}

#[test]
fn every_check_has_a_case() {
    for name in plan::check_names() {
        assert!(CASES.iter().any(|case| case.check == name), "no case for {name}");
    }
}

#[test]
fn an_unprotected_opening_can_be_accepted() {
    let mut world = World::healthy(TWO_SITES);
    world.edit_report("us", |report| report.synchronous_nodes.clear());
    let request = plan::Request { to: site("us"), accept_unprotected: true };
    let planned = world.judged(|federation| plan::plan(federation, &request));
    assert!(!planned.plan.blocked());
    assert_ne!(planned.hash, world.plan("us").hash, "what was accepted is part of the plan");
}

#[test]
fn a_report_found_at_the_first_look_proves_nothing() {
    let mut world = World::healthy(TWO_SITES);
    world.restart_coordinator();
    let blocking = |world: &World| -> Vec<String> {
        let planned = world.plan("us");
        let checks = planned.plan.checks.into_iter();
        checks.filter(|c| c.verdict == Verdict::Block).map(|c| c.name).collect()
    };
    assert_eq!(blocking(&world), ["all-sites-report"]);
    world.pass(Duration::from_secs(2), &["eu", "us"]);
    assert!(blocking(&world).is_empty());
    // The same report written again is no new one.
    let key = world.keys.report(&site("us"));
    world.restart_coordinator();
    world.edit_report("eu", |_| {});
    world.edit(&key, |_: &mut regent_proto::record::Report| {});
    assert_eq!(blocking(&world), ["all-sites-report"]);
}
