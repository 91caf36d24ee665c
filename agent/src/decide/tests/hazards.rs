//! What went wrong in others' systems and is kept out by a decision: cases of docs/hazards.md, by its
//! rows, that no other file here has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::Deadline;

use super::world::{NOW, World, history, name, sender};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit};

/// The same world without a federation.
fn alone(mut world: World) -> World {
    world.view.federation = None;
    world.view.tenure.primary = None;
    world
}

/// Rights that lie ahead of this instant.
fn renewed_until(world: &mut World, seconds: u64) {
    world.view.now = NOW.plus(Duration::from_secs(seconds));
    let ahead = Deadline::at(world.view.now.plus(Duration::from_secs(4)));
    world.view.tenure.site = ahead;
    if let Some(held) = &mut world.view.tenure.primary {
        held.deadline = ahead;
    }
}

/// Row 5: a question that PostgreSQL does not answer in time is no word about its role.
#[test]
fn a_primary_that_answers_nothing_for_a_moment_keeps_its_role() {
    for process in [Process::Starting, Process::Running] {
        for mut world in [World::new(), alone(World::new())] {
            world.view.postgres.process = process;
            world.view.postgres.status = None;
            for second in 0..10 {
                renewed_until(&mut world, second);
                let decision = world.decide();
                assert_eq!(decision.reason, Reason::AwaitingServer, "{process:?}, {second} s");
                assert_eq!(decision.actions, vec![], "{process:?}, {second} s");
                world.memory = decision.memory;
            }
        }
    }
}

/// Row 6: the fence has stopped the server, and the store, whose picture is of before, says nothing.
#[test]
fn a_fenced_server_serves_reads_while_its_store_is_away() {
    for state in [ControlState::ShutDown, ControlState::InProduction] {
        let mut world = World::new();
        world.view.tenure.site = Deadline::NEVER;
        world.view.tenure.primary = None;
        world.stopped(state, 3, 520);
        let serves = vec![Action::Run(Job::StartStandby(Follow::Nobody))];
        assert_eq!(world.decide().actions, serves, "{state:?}");
        world.standby(3, 520);
        assert_eq!(world.decide().actions, vec![], "{state:?}: nothing opens");
        // The store is back, and nobody had taken the key.
        world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(4)));
        let decision = world.decide();
        assert!(
            matches!(decision.actions[..], [Action::AcquirePrimary { .. }]),
            "{state:?}: {decision:?}"
        );
    }
}

/// A primary under whose list this member streams and has flushed everything; the record is empty.
fn about_to_publish(who: &str) -> World {
    let mut world = World::new();
    let member = world.site().members[&name::<NodeName>("a2")].clone();
    world.site().members.remove(&name::<NodeName>("a2"));
    world.site().members.insert(name(who), member);
    world.site().sync.standbys.clear();
    world.status().senders = BTreeMap::from([(who.to_owned(), sender(500))]);
    let list = format!("\"{who}\"");
    world.status().synchronous_standby_names.clone_from(&list);
    world.memory.list_since = Some((list, regent_proto::Lsn::new(1)));
    world
}

/// Whom the decision puts into the record, where it writes it.
fn published(world: &World) -> Option<BTreeSet<NodeName>> {
    match &world.decide().actions[..] {
        [Action::WriteSync { standbys, .. }] => Some(standbys.clone()),
        _ => None,
    }
}

/// Row 32: PostgreSQL's own word decides whether a member is synchronous, not the list that was sent.
#[test]
fn a_standby_that_the_server_does_not_count_is_not_published() {
    let mut world = about_to_publish("a2");
    assert_eq!(published(&world), Some(BTreeSet::from([name("a2")])));
    world.status().senders.get_mut("a2").expect("it streams").synchronous = false;
    assert_eq!(published(&world), None, "{:?}", world.decide());
}

/// Row 34.
#[test]
fn a_name_in_capitals_is_published_and_may_lead() {
    let eu = BTreeSet::from([name("Eu-1.A")]);
    assert_eq!(published(&about_to_publish("Eu-1.A")), Some(eu.clone()));
    let mut world = World::new();
    world.policy.me = name("Eu-1.A");
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().leaderless = Duration::from_secs(1);
    world.view.peers = Some(PeersView { age: Duration::from_millis(10), answers: BTreeMap::new() });
    world.site().sync.standbys = eu;
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    world.site().sync.standbys = BTreeSet::from([name("a2")]);
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::NotSynchronous));
}

/// A name that nobody can have: with it in the list no commit is acknowledged.
const NOBODY: &str = "\"__regent_nobody__\"";

/// Rows 35 and 36: strict mode holds commits from the first one on, also where nobody streams.
#[test]
fn strict_mode_holds_commits_through_a_promotion_without_a_standby() {
    let mut opens = World::new();
    opens.policy.synchronous_mode_strict = true;
    opens.standby(3, 500);
    let first = opens.decide();
    let list = Action::SetSynchronousNames(NOBODY.to_owned());
    assert!(
        matches!(&first.actions[..], [Action::WriteSync { standbys, .. }, set]
            if standbys.is_empty() && *set == list),
        "{first:?}"
    );
    opens.memory = first.memory;
    opens.site().sync.standbys.clear();
    opens.site().sync.revision = Some(21);
    opens.status().synchronous_standby_names = NOBODY.to_owned();
    assert_eq!(opens.decide().actions, vec![Action::Promote]);

    let mut open = World::new();
    open.policy.synchronous_mode_strict = true;
    open.site().sync.standbys.clear();
    open.status().senders.clear();
    open.status().synchronous_standby_names = NOBODY.to_owned();
    assert_eq!(open.decide().actions, vec![], "and stays so");
    // It was just switched on: the record first, then the list, though nobody streams.
    open.status().synchronous_standby_names = String::new();
    assert_eq!(open.decide().actions, vec![list]);
    open.site().sync = SyncView::default();
    assert_eq!(published(&open), Some(BTreeSet::new()));
}

/// Row 37, as far as it goes: the list in force is compared, not the one that was last written.
#[test]
fn a_list_that_was_changed_behind_the_agent_is_put_back_at_once_and_the_record_taken_back() {
    let set = |list: &str| Action::SetSynchronousNames(list.to_owned());
    let writes = |standbys: &[&str], revision| Action::WriteSync {
        standbys: standbys.iter().map(|who| name(who)).collect(),
        revision: Some(revision),
        quorum: 0,
    };
    for behind in ["", "*", "\"a3\"", "a2"] {
        let mut world = World::new();
        world.status().synchronous_standby_names = behind.to_owned();
        let decision = world.decide();
        assert_eq!(decision.actions, vec![set("\"a2\""), writes(&[], 20)], "{behind:?}");
        assert_eq!(decision.reason, Reason::ListChanged);
        // It does not come into force: what the record says must not wait for it.
        world.memory = decision.memory;
        assert_eq!(world.decide().actions, vec![writes(&[], 20)], "{behind:?}");
        world.site().sync.standbys.clear();
        world.site().sync.revision = Some(21);
        assert_eq!(world.decide().actions, vec![set("\"a2\"")], "{behind:?}");
        // It is in force, but the one that it names has yet to flush what there was then.
        world.memory = world.decide().memory;
        world.status().synchronous_standby_names = "\"a2\"".to_owned();
        world.status().senders.insert("a2".to_owned(), sender(499));
        let decision = world.decide();
        assert_eq!(decision.actions, vec![], "{behind:?}");
        world.memory = decision.memory;
        world.status().senders.insert("a2".to_owned(), sender(500));
        assert_eq!(world.decide().actions, vec![writes(&["a2"], 21)], "{behind:?}");
    }
    // One of two is still waited for.
    let mut world = World::new();
    world.policy.synchronous_node_count = 2;
    world.site().sync.standbys.insert(name("a3"));
    let third = world.site().members[&name::<NodeName>("a2")].clone();
    world.site().members.insert(name("a3"), third);
    world.status().senders.insert("a3".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a3\"".to_owned();
    let both = set("2 (\"a2\",\"a3\")");
    assert_eq!(world.decide().actions, vec![both, writes(&["a3"], 20)]);
}

/// Rows 41 and 43: neither the primary's own name nor a stranger's is waited for, however far it is.
#[test]
fn only_members_are_waited_for_whoever_streams() {
    let mut world = World::new();
    world.policy.synchronous_node_count = 3;
    for rogue in ["a1", "zz", "walreceiver", "*"] {
        world.status().senders.insert(rogue.to_owned(), sender(900));
    }
    assert_eq!(world.decide().actions, vec![], "the member that is waited for, and nobody else");
    world.status().senders.remove("a2");
    assert_eq!(published(&world), Some(BTreeSet::new()), "they don't take its place");
    world.site().sync.standbys.clear();
    world.policy.synchronous_mode_strict = true;
    let holds = Action::SetSynchronousNames(NOBODY.to_owned());
    assert_eq!(world.decide().actions, vec![holds]);
}

/// Row 55: no standby can come before the role that it connects with is there, so nothing else is first.
#[test]
fn users_are_made_before_anything_waits_for_a_standby() {
    for strict in [false, true] {
        let mut world = World::new();
        world.policy.synchronous_mode_strict = strict;
        world.view.postgres.users_exist = false;
        world.site().sync = SyncView::default();
        world.status().senders.clear();
        world.status().synchronous_standby_names = NOBODY.to_owned();
        assert_eq!(world.decide().actions, vec![Action::Run(Job::CreateUsers)], "strict: {strict}");
    }
}

/// Row 74: the leader is the one of before, and its history is not.
#[test]
fn a_standby_that_follows_is_judged_anew_when_its_leader_has_promoted_itself() {
    let following = |end| {
        let mut world = World::new();
        world.leader(Some("a2"));
        world.view.tenure.primary = None;
        world.standby(3, end);
        world.view.postgres.follows =
            Some(Follow::Member { name: name("a2"), address: ("127.0.0.1".to_owned(), 6002) });
        world
    };
    let mut ahead = following(310);
    assert_eq!((ahead.decide().actions, ahead.decide().reason), (vec![], Reason::Following));
    // It left timeline 3 at 300.
    ahead.site().ancestry = Some(history(4));
    assert_eq!(ahead.decide().actions, vec![Action::Run(Job::Stop)]);
    let mut on_the_way = following(300);
    on_the_way.site().ancestry = Some(history(4));
    assert_eq!(on_the_way.decide().reason, Reason::Following);
}

/// Row 80: whoever has no data any more leads nobody, whatever it was a moment ago.
#[test]
fn a_leader_whose_data_are_gone_gives_the_key_up() {
    for data in [DataDirectory::Empty, DataDirectory::Incomplete] {
        for mut world in [World::new(), alone(World::new())] {
            world.view.postgres.data = data.clone();
            world.view.postgres.process = Process::Stopped;
            world.view.postgres.status = None;
            assert_eq!(world.decide().actions, vec![Action::ReleaseLeader], "{data:?}");
        }
    }
}

/// Rows 83 and 84: one long act at a time, whatever is wanted meanwhile.
#[test]
fn while_a_job_runs_nothing_else_is_begun() {
    type Bend = fn(&mut World);
    let bends: [(&str, Bend); 6] = [
        ("leads", |_| {}),
        ("opens", |w| w.standby(3, 500)),
        ("lost the key", |w| w.leader(Some("a2"))),
        ("the key is free", |w| w.leader(None)),
        ("has to rewind", |w| {
            w.leader(Some("a2"));
            w.stopped(ControlState::InProduction, 2, 150);
        }),
        ("has to be copied", |w| {
            w.leader(Some("a2"));
            w.stopped(ControlState::ShutDown, 3, 500);
            w.view.postgres.data = DataDirectory::Incomplete;
        }),
    ];
    for (what, bend) in bends {
        for kind in [
            JobKind::Initdb,
            JobKind::Clone,
            JobKind::Start,
            JobKind::Stop,
            JobKind::Rewind,
            JobKind::CreateUsers,
            JobKind::PrePromote,
            JobKind::CopySlots,
        ] {
            let mut world = World::new();
            bend(&mut world);
            world.view.job = Some(kind.clone());
            let decision = world.decide();
            assert_eq!(decision.reason, Reason::Busy(kind.clone()), "{what}, {kind:?}");
            assert_eq!(decision.actions, vec![], "{what}, {kind:?}");
        }
    }
}

/// Row 92: a copy that has not ended is no candidate, though nobody else is left.
#[test]
fn a_copy_that_was_cut_short_never_leads() {
    for mut world in [World::new(), alone(World::new())] {
        world.leader(None);
        world.view.tenure.primary = None;
        world.stopped(ControlState::ShutDown, 3, 500);
        world.view.postgres.data = DataDirectory::Incomplete;
        world.site().members.remove(&name::<NodeName>("a2"));
        world.site().sync.standbys = BTreeSet::from([name("a1")]);
        let decision = world.decide();
        assert_eq!((decision.actions, decision.reason), (vec![], Reason::AwaitingSource));
    }
}
