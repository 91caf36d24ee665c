//! Coming back where a rewind does not help: copied anew only where that is allowed, per flag; and what
//! has to be kept before anything is changed (I15).

use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::timeline::TimelineId;

use super::world::{NOW, World, control, name};
use crate::decide::salvage::{Keep, Salvage, before};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Stranded};

/// A former primary, stopped, whose history left the upstream's: it wrote on on timeline 2, which `a2`
/// left at 200.
fn former_primary() -> World {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.stopped(ControlState::InProduction, 2, 250);
    world
}

fn own_control(world: &mut World) -> &mut Control {
    let DataDirectory::Cluster(control) = &mut world.view.postgres.data else {
        unreachable!("these worlds have a cluster");
    };
    control
}

fn copies(world: &World) -> bool {
    matches!(world.decide().actions[..], [Action::Run(Job::Clone(_))])
}

#[test]
fn a_new_copy_takes_the_place_of_a_server_only_where_that_is_allowed() {
    type Bend = fn(&mut World);
    // What stands against a rewind; whether a failed rewind's flag alone lets it be copied.
    let cases: [(Stranded, Bend, bool); 6] = [
        (Stranded::RewindFailed, |w| w.memory.rewind_failed = true, true),
        (Stranded::RewindFailed, |w| w.memory.rewinds = 2, true),
        (Stranded::RewindOff, |w| w.policy.use_pg_rewind = false, false),
        (Stranded::RewindImpossible, |w| own_control(w).rewindable = false, false),
        (
            Stranded::OtherPromotion,
            |w| {
                w.stopped(ControlState::ShutDown, 3, 310);
                own_control(w).ancestry.promotion = Some(name("q3"));
            },
            false,
        ),
        (
            Stranded::PromotionUnknown,
            |w| {
                w.stopped(ControlState::ShutDown, 3, 310);
                own_control(w).ancestry.promotion = None;
                w.memory.unknown_since = Some(NOW);
                w.view.now = NOW.plus(Duration::from_secs(11));
            },
            false,
        ),
    ];
    assert!(!copies(&former_primary()), "it rewinds");
    for (why, bend, failure_is_enough) in cases {
        for (failure, diverged) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut world = former_primary();
            world.policy.remove_on_rewind_failure = failure;
            world.policy.remove_on_diverged_timelines = diverged;
            bend(&mut world);
            let allowed = diverged || (failure && failure_is_enough);
            assert_eq!(copies(&world), allowed, "{why:?} {failure} {diverged}");
            if !allowed {
                let decision = world.decide();
                assert_eq!((decision.actions, &decision.reason), (vec![], &Reason::NotCopied(why)));
                // And it stays so: it is not forgotten for how long nothing was known.
                world.memory = decision.memory;
                assert_eq!(world.decide().reason, Reason::NotCopied(why));
                let said = decision.reason.to_string();
                assert!(said.contains("remove_data_directory_on_"), "{said}");
            }
        }
    }
}

#[test]
fn a_running_server_that_may_not_come_back_is_not_stopped() {
    let running = |diverged| {
        let mut world = former_primary();
        world.standby(2, 250);
        world.policy.use_pg_rewind = false;
        world.policy.remove_on_diverged_timelines = diverged;
        world.decide()
    };
    assert_eq!(running(true).actions, vec![Action::Run(Job::Stop)]);
    let stays = running(false);
    let why = Reason::NotCopied(Stranded::RewindOff);
    assert_eq!((stays.actions, stays.reason), (vec![], why));
    // Nor one of which nothing can be told.
    let mut unknown = former_primary();
    unknown.standby(3, 310);
    unknown.status().ancestry.promotion = None;
    unknown.memory.unknown_since = Some(NOW);
    unknown.view.now = NOW.plus(Duration::from_secs(11));
    assert_eq!(unknown.decide().actions, vec![Action::Run(Job::Stop)]);
    unknown.policy.remove_on_diverged_timelines = false;
    assert_eq!(unknown.decide().reason, Reason::NotCopied(Stranded::PromotionUnknown));
}

#[test]
fn what_a_rewind_left_half_done_is_copied_anew_by_its_own_flag() {
    let mut world = former_primary();
    world.view.postgres.data = DataDirectory::Incomplete;
    for half in [false, true] {
        for (failure, diverged) in [(false, false), (true, false), (false, true)] {
            world.view.postgres.half_rewound = half;
            world.policy.remove_on_rewind_failure = failure;
            world.policy.remove_on_diverged_timelines = diverged;
            assert_eq!(copies(&world), !half || failure || diverged, "{half} {failure} {diverged}");
        }
    }
}

#[test]
fn a_copy_that_was_just_made_is_not_made_again_at_once() {
    let mut world = former_primary();
    world.stopped(ControlState::InProduction, 3, 310);
    own_control(&mut world).ancestry.promotion = None;
    world.memory.unknown_since = Some(NOW);
    world.view.now = NOW.plus(Duration::from_secs(3600));
    assert!(copies(&world), "it was waited for long enough");
    let done = FinishedJob { job: JobKind::Clone, problem: None, untouched: false };
    world.view.finished = Some(done);
    assert_eq!(world.decide().reason, Reason::PromotionUnknown);
    assert!(!copies(&world));
}

fn member(who: &str) -> Follow {
    Follow::Member { name: name(who), address: ("127.0.0.1".to_owned(), 6002) }
}

fn kept(world: &World, job: &Job) -> Option<Keep> {
    before(job, &world.view).map(|salvage| salvage.keep)
}

#[test]
fn what_the_upstream_may_never_have_had_is_kept_from_where_the_histories_part() {
    let since = |timeline: u32, position: u64| {
        Some(Keep::Since { timeline: TimelineId(timeline), position: Lsn::new(position) })
    };
    for job in [Job::Rewind(member("a2")), Job::Clone(member("a2"))] {
        let mut world = former_primary();
        assert_eq!(kept(&world, &job), since(2, 200), "{job:?}");
        assert_eq!(
            before(&job, &world.view),
            Some(Salvage {
                keep: Keep::Since { timeline: TimelineId(2), position: Lsn::new(200) },
                control: control(ControlState::InProduction, 2, 250),
            })
        );
        own_control(&mut world).ancestry.promotion = Some(name("q2"));
        assert_eq!(kept(&world, &job), since(1, 100), "two promotions of one number");
        own_control(&mut world).ancestry.promotion = None;
        assert_eq!(kept(&world, &job), Some(Keep::Everything), "an id is missing");
        let mut unheard = former_primary();
        unheard.site().ancestry = None;
        assert_eq!(kept(&unheard, &job), Some(Keep::Everything), "nobody said where");
    }
    let mut site = former_primary();
    site.held_by_b();
    let upstream = Follow::Site { site: name("b"), addresses: Vec::new() };
    assert_eq!(kept(&site, &Job::Rewind(upstream)), since(2, 200), "another site's history");
}

/// hazards.md row 73: a planned move leaves nothing to keep, and nothing to rewind.
#[test]
fn a_clean_switchover_is_never_salvaged() {
    let mut world = former_primary();
    // It stopped just where its successor began timeline 3.
    world.stopped(ControlState::ShutDown, 2, 200);
    let decision = world.decide();
    assert!(matches!(decision.actions[..], [Action::Run(Job::StartStandby(_))]), "{decision:?}");
    for job in [Job::Clone(member("a2")), Job::Rewind(member("a2"))] {
        assert_eq!(kept(&world, &job), None, "also where somebody wants it copied: {job:?}");
    }
    world.stopped(ControlState::ShutDown, 2, 201);
    assert!(kept(&world, &Job::Clone(member("a2"))).is_some(), "one record more");
}

#[test]
fn a_standby_is_salvaged_where_it_has_more_than_its_upstream() {
    let reinitializes = Job::Clone(member("a2"));
    let mut world = former_primary();
    world.standby(3, 300);
    assert_eq!(kept(&world, &reinitializes), None, "it streams");
    world.standby(2, 250);
    assert!(kept(&world, &reinitializes).is_some(), "it is ahead on a timeline that was left");
    // Stopped, pg_control does not tell what it had received.
    world.stopped(ControlState::ShutDownInRecovery, 3, 300);
    let all = Keep::Since { timeline: TimelineId(3), position: Lsn::new(300) };
    assert_eq!(kept(&world, &reinitializes), Some(all));
}

#[test]
fn nothing_is_kept_where_there_is_nothing_or_nothing_is_changed() {
    let mut world = former_primary();
    for job in [Job::Stop, Job::StartStandby(member("a2")), Job::Checkpoint, Job::Initdb] {
        assert_eq!(kept(&world, &job), None, "{job:?}");
    }
    for data in [DataDirectory::Empty, DataDirectory::Incomplete] {
        world.view.postgres.data = data;
        assert_eq!(kept(&world, &Job::Clone(member("a2"))), None);
    }
}
