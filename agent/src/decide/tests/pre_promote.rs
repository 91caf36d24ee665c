//! `pre_promote` (spec/patroni-compat.md 3.3, 3.4 row 1): asked before anything is written down about a
//! promotion, once for each, and its refusal gives the key to another member.

use std::time::Duration;

use regent_proto::name::NodeName;

use super::world::{NOW, World, name, sender};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit, refuses};

const TTL: Duration = Duration::from_secs(5);

/// A leader in recovery that may open.
fn about_to_open() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world.policy.pre_promote = Some(TTL);
    world
}

fn go_on(world: &mut World) -> Vec<Action> {
    let decision = world.decide();
    world.memory = decision.memory;
    world.view.finished = None;
    decision.actions
}

fn said(world: &mut World, problem: Option<&str>) {
    assert_eq!(go_on(world), vec![Action::Run(Job::PrePromote)]);
    world.view.job = Some(JobKind::PrePromote);
    assert_eq!(go_on(world), vec![], "it is waited for");
    world.view.job = None;
    let problem = problem.map(str::to_owned);
    let job = JobKind::PrePromote;
    world.view.finished = Some(FinishedJob { job, problem, untouched: false });
}

#[test]
fn nothing_is_promoted_before_it_has_passed_and_then_it_is_asked_no_more() {
    let mut world = about_to_open();
    said(&mut world, None);
    assert_eq!(go_on(&mut world), vec![Action::Promote]);
    // The server is open: the next promotion is asked about anew.
    world.status().in_recovery = false;
    go_on(&mut world);
    assert_eq!(world.memory.pre_promote, PrePromote::NotAsked);
}

#[test]
fn it_is_asked_only_where_nothing_else_stands_in_the_way() {
    let mut world = about_to_open();
    world.view.guardian.alive = false;
    assert!(!go_on(&mut world).contains(&Action::Run(Job::PrePromote)));
    let mut none = about_to_open();
    none.policy.pre_promote = None;
    assert_eq!(go_on(&mut none), vec![Action::Promote]);
}

/// Inside a site nobody streams from whoever has the key and is not open yet: a record of its own would
/// name nobody else, and the others, who have everything, could not lead once it gives the key back.
#[test]
fn a_refusal_leaves_record_and_list_to_the_others() {
    let alone = || {
        let mut world = about_to_open();
        world.status().senders.clear();
        world.status().synchronous_standby_names = String::new();
        world.site().sync.leader = Some(name("a2"));
        world.site().sync.standbys = [name("a1")].into();
        world.site().promotions = None;
        world
    };
    let mut world = alone();
    said(&mut world, Some("no"));
    assert_eq!(go_on(&mut world), vec![Action::ReleaseLeader]);
    // Where it passes, they are written then, and not before.
    let mut world = alone();
    said(&mut world, None);
    let actions = go_on(&mut world);
    assert!(actions.iter().any(|action| matches!(action, Action::WriteSync { .. })), "{actions:?}");
    let writes = |action: &Action| matches!(action, Action::WritePromotions { .. });
    assert!(actions.iter().any(writes), "{actions:?}");
}

#[test]
fn a_new_epoch_is_entered_before_it_is_asked() {
    let mut world = about_to_open();
    world.disk_epoch(2);
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::EnteringEpoch);
    assert!(!decision.actions.is_empty());
    assert!(!decision.actions.contains(&Action::Run(Job::PrePromote)));
}

#[test]
fn a_refusal_gives_the_key_back_and_keeps_this_node_out_for_a_ttl() {
    let mut world = about_to_open();
    said(&mut world, Some("no"));
    assert_eq!(go_on(&mut world), vec![Action::ReleaseLeader]);
    world.leader(None);
    world.view.tenure.primary = None;
    world.site().members.remove(&name::<NodeName>("a2"));
    world.view.now = NOW.plus(TTL - Duration::from_millis(1));
    let refused = world.decide();
    let unfit = Reason::NotCandidate(Unfit::PrePromoteRefused);
    assert_eq!((refused.actions, refused.reason), (vec![], unfit));
    world.view.now = NOW.plus(TTL);
    assert_eq!(go_on(&mut world), vec![Action::AcquireLeader]);
}

/// Or whoever it is ahead of would wait for it. A new leader may count on its confirmations.
#[test]
fn a_refusal_is_told_while_nobody_else_leads_and_it_lasts() {
    let tells = |world: &World| refuses(&world.policy.me, &world.view, &world.memory);
    let mut world = about_to_open();
    assert!(!tells(&world));
    said(&mut world, Some("no"));
    assert_eq!(go_on(&mut world), vec![Action::ReleaseLeader]);
    assert!(tells(&world), "before the key is free");
    world.leader(None);
    world.view.tenure.primary = None;
    world.site().members.remove(&name::<NodeName>("a2"));
    go_on(&mut world);
    assert!(tells(&world));
    let mut led = world.clone();
    led.leader(Some("a2"));
    assert!(!tells(&led));
    world.view.now = NOW.plus(TTL);
    go_on(&mut world);
    assert!(!tells(&world));
}
