//! Making a cluster, and a replica without a leader (spec/patroni-compat.md 3.2).

use std::time::Duration;

use super::world::{NOW, World};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

/// A node without data, of no federation; nobody leads.
fn empty(initialize: Initialize) -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.leader(None);
    world.stopped(ControlState::ShutDown, 1, 100);
    world.view.postgres.data = DataDirectory::Empty;
    world.site().initialize = initialize;
    world.member("a2").role = "uninitialized".to_owned();
    world
}

fn go_on(world: &mut World) -> Vec<Action> {
    let decision = world.decide();
    world.memory = decision.memory;
    world.view.finished = None;
    decision.actions
}

fn fails(world: &mut World) {
    world.view.job = None;
    let problem = Some("no".to_owned());
    world.view.finished = Some(FinishedJob { job: JobKind::Initdb, problem, untouched: false });
}

#[test]
fn a_bootstrap_that_fails_gives_its_claim_back_and_is_tried_again_after_a_pause() {
    let begins = vec![Action::ClaimInitialize, Action::Run(Job::Initdb)];
    let mut world = empty(Initialize::Absent);
    assert_eq!(go_on(&mut world), begins);
    world.site().initialize = Initialize::Running;
    world.view.postgres.data = DataDirectory::Incomplete;
    world.view.job = Some(JobKind::Initdb);
    assert_eq!(go_on(&mut world), vec![]);
    fails(&mut world);
    assert_eq!(go_on(&mut world), vec![Action::AbandonInitialize]);
    // The store did not answer: the directory is put aside, and the claim still stands.
    world.view.postgres.data = DataDirectory::Empty;
    assert_eq!(go_on(&mut world), vec![Action::AbandonInitialize]);
    world.site().initialize = Initialize::Absent;
    let waits = world.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::Backoff(JobKind::Initdb)));
    world.view.now = NOW.plus(Duration::from_secs(1));
    assert_eq!(go_on(&mut world), begins);
}

/// What another process claimed is not this one's to give back.
#[test]
fn only_its_own_claim_is_given_back() {
    let mut former = empty(Initialize::Running);
    former.view.postgres.data = DataDirectory::Incomplete;
    fails(&mut former);
    assert_eq!(go_on(&mut former), vec![], "of a former life: tried again after the pause");
    former.view.now = NOW.plus(Duration::from_secs(1));
    assert_eq!(go_on(&mut former), vec![Action::Run(Job::Initdb)]);

    let mut other = empty(Initialize::Absent);
    go_on(&mut other);
    // The claim is over, whoever claims next.
    other.site().initialize = Initialize::Absent;
    other.view.finished = None;
    other.policy.may_bootstrap = false;
    go_on(&mut other);
    fails(&mut other);
    other.site().initialize = Initialize::Running;
    assert_eq!(go_on(&mut other), vec![]);
    assert!(!other.memory.claimed_initialize);
}

#[test]
fn without_a_leader_a_replica_is_made_only_by_a_method_that_needs_none() {
    let done = || empty(World::new().site().initialize.clone());
    assert_eq!(done().decide().reason, Reason::AwaitingSource);
    let mut world = done();
    world.policy.clones_without_leader = true;
    assert_eq!(world.decide().actions, vec![Action::Run(Job::Clone(Follow::Nobody))]);
    let mut made = empty(Initialize::Running);
    made.policy.clones_without_leader = true;
    assert_eq!(made.decide().reason, Reason::AwaitingBootstrap, "the cluster is being made");
}
