//! All keys of the site are gone (ADR 40).

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::world::{World, history, name, promotions};
use crate::decide::remembered::{Remembered, asked};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit};

/// As everything of the site's DCS is deleted.
fn gone(world: &mut World) {
    world.leader(None);
    let site = world.site();
    site.initialize = Initialize::Absent;
    site.members.clear();
    site.sync = SyncView::default();
    (site.optime, site.ancestry, site.history) = (None, None, None);
    (site.promotions, site.seen_epoch, site.failover) = (None, None, None);
    site.published = PublishedSlots::default();
}

/// A standby of no federation that has seen its cluster whole, with `a2` in the lead.
fn standby() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.standby(3, 500);
    world.leader(Some("a2"));
    world.member("a2").api_url = "http://a2/patroni".to_owned();
    world.site().sync.leader = Some(name("a2"));
    world.memory = world.decide().memory;
    world
}

fn wiped(leaderless: Duration) -> World {
    let mut world = standby();
    gone(&mut world);
    world.site().leaderless = leaderless;
    world
}

fn decides(world: &World) -> (Vec<Action>, Reason) {
    let decision = world.decide();
    (decision.actions, decision.reason)
}

fn waits(why: Unfit) -> (Vec<Action>, Reason) {
    (vec![], Reason::NotCandidate(why))
}

fn answers(world: &mut World) -> &mut PeerAnswer {
    world.answers_like_us();
    let peers = world.view.peers.as_mut().expect("just put there");
    peers.answers.get_mut(&name::<NodeName>("a2")).expect("just put there")
}

#[test]
fn a_standby_leaves_the_first_ttl_to_the_primary_and_then_needs_everybodys_word() {
    let ttl = World::new().policy.ttl;
    for early in [Duration::ZERO, ttl - Duration::from_millis(1)] {
        let mut world = wiped(early);
        assert_eq!(decides(&world), waits(Unfit::KeysGone), "{early:?}");
        answers(&mut world);
        assert_eq!(decides(&world), waits(Unfit::KeysGone), "{early:?}, whoever answers");
    }
    let mut world = wiped(ttl);
    assert_eq!(decides(&world), (vec![Action::AskPeers], Reason::AskingPeers));
    let addresses = asked(&world.policy.me, world.view.site.as_ref().expect("read"), &world.memory);
    let wanted = BTreeMap::from([(name("a2"), "http://a2/patroni".to_owned())]);
    assert_eq!(addresses, wanted);
    world.view.peers = Some(PeersView { age: Duration::ZERO, answers: BTreeMap::new() });
    assert_eq!(decides(&world), waits(Unfit::Unheard(name("a2"))));
    answers(&mut world);
    assert_eq!(decides(&world), (vec![Action::AcquireLeader], Reason::RaceWon));
    // Its server starts, or replays what a crash left: it has more than it tells.
    answers(&mut world).age = None;
    assert_eq!(decides(&world), waits(Unfit::Unheard(name("a2"))));
    answers(&mut world).position = Lsn::new(0);
    assert_eq!(decides(&world), waits(Unfit::Unheard(name("a2"))));
    let empty = answers(&mut world);
    (empty.position, empty.age, empty.without_data) = (Lsn::new(0), None, true);
    assert_eq!(decides(&world), (vec![Action::AcquireLeader], Reason::RaceWon));
    answers(&mut world).primary = true;
    assert_eq!(decides(&world), waits(Unfit::PrimaryAlive(name("a2"))));
    answers(&mut world).position = Lsn::new(501);
    assert_eq!(decides(&world), waits(Unfit::Behind(name("a2"))));
    // Another one makes a cluster meanwhile: this one was made already.
    let mut world = wiped(ttl);
    world.site().initialize = Initialize::Running;
    world.view.peers = Some(PeersView { age: Duration::ZERO, answers: BTreeMap::new() });
    assert_eq!(decides(&world), waits(Unfit::Unheard(name("a2"))));
    world.stopped(ControlState::ShutDownInRecovery, 3, 500);
    assert_eq!(world.decide().actions, vec![Action::Run(Job::StartStandby(Follow::Nobody))]);
}

#[test]
fn a_person_who_chooses_this_node_knows_who_is_missing_but_waits_for_the_ttl_too() {
    let ttl = World::new().policy.ttl;
    for (leader, wanted) in [(None, true), (Some("a2"), false)] {
        for (leaderless, over) in [(ttl, true), (ttl / 2, false)] {
            let mut world = wiped(leaderless);
            let value = FailoverRequest {
                leader: leader.map(name),
                candidate: Some(name("a1")),
                scheduled: None,
            };
            world.site().failover = Some(At { value, revision: 90 });
            world.view.peers = Some(PeersView { age: Duration::ZERO, answers: BTreeMap::new() });
            let takes = world.decide().actions == vec![Action::AcquireLeader];
            assert_eq!(takes, wanted && over, "{leader:?} {leaderless:?}");
        }
    }
}

#[test]
fn whoever_saw_no_cluster_takes_a_free_key_as_ever() {
    let mut world = wiped(Duration::ZERO);
    world.memory.cluster = None;
    assert_eq!(decides(&world), (vec![Action::AcquireLeader], Reason::RaceWon));
    // One key that is missing is no cluster that is.
    let mut world = wiped(Duration::ZERO);
    world.site().initialize = World::new().site().initialize.clone();
    assert_eq!(decides(&world), (vec![Action::AcquireLeader], Reason::RaceWon));
}

#[test]
fn the_primary_makes_its_key_again_and_brings_the_cluster_back() {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.memory = world.decide().memory;
    let ahead = world.view.tenure.site;
    gone(&mut world);
    world.view.tenure.site = ahead;
    assert_eq!(decides(&world), (vec![Action::RenewNow], Reason::LeaderDeleted));
    world.leader(Some("a1"));
    world.site().promotions = Some(promotions("a1", history(3), None));
    let id = name("7000000000000000001");
    assert_eq!(world.decide().actions, vec![Action::RecordInitialize(id)]);
}

#[test]
fn no_second_database_is_made_by_who_remembers_one_nor_beside_data() {
    let begins = vec![Action::ClaimInitialize, Action::Run(Job::Initdb)];
    let refused = (vec![], Reason::KeysGone);
    let mut world = wiped(Duration::from_secs(3600));
    world.stopped(ControlState::ShutDown, 3, 500);
    for data in [DataDirectory::Empty, DataDirectory::Incomplete] {
        world.view.postgres.data = data;
        assert_eq!(decides(&world), refused);
    }
    world.site().initialize = Initialize::Running;
    assert_eq!(decides(&world), refused, "begun by another, or by a former life");
    world.memory.cluster = None;
    world.site().initialize = Initialize::Absent;
    assert_eq!(decides(&world), (begins.clone(), Reason::Bootstrap), "nobody knows of any");
    world.site().members = World::new().site().members.clone();
    assert_eq!(decides(&world), refused, "a2 has data");
    world.member("a2").role = "uninitialized".to_owned();
    assert_eq!(decides(&world), (begins, Reason::Bootstrap));
}

#[test]
fn who_made_a_database_beside_anothers_data_does_not_lead_it() {
    let mut world = wiped(Duration::ZERO);
    world.memory.cluster = None;
    world.stopped(ControlState::ShutDown, 1, 100);
    world.site().initialize = Initialize::Running;
    assert_eq!(decides(&world), (vec![Action::AcquireLeader], Reason::RaceWon));
    world.site().members = World::new().site().members.clone();
    assert_eq!(decides(&world), (vec![], Reason::KeysGone));
}

#[test]
fn members_are_remembered_from_whole_pictures_with_whom_sync_names() {
    let whole = standby();
    let of = |names: &[(&str, &str)]| {
        let members = names.iter().map(|(who, url)| (name(who), (*url).to_owned()));
        Some(Remembered { members: members.collect() })
    };
    let both = of(&[("a1", ""), ("a2", "http://a2/patroni")]);
    assert_eq!(whole.memory.cluster, both);
    let bends: [fn(&mut World); 5] = [
        |w| w.leader(None),
        |w| w.site().initialize = Initialize::Absent,
        |w| drop(w.site().members.remove(&name::<NodeName>("a1"))),
        |w| drop(w.site().members.remove(&name::<NodeName>("a2"))),
        |w| w.view.site = None,
    ];
    for bend in bends {
        let mut world = whole.clone();
        world.site().sync = SyncView::default();
        bend(&mut world);
        assert_eq!(world.decide().memory.cluster, both);
    }
    // Whoever leaves is forgotten, but not while commits may rest on it.
    let mut world = whole;
    world.leader(Some("a1"));
    let a2 = name::<NodeName>("a2");
    let member = world.site().members.remove(&a2).expect("there");
    world.site().sync.standbys = [a2.clone(), name("a3")].into();
    world.memory = world.decide().memory;
    let kept = of(&[("a1", ""), ("a2", "http://a2/patroni"), ("a3", "")]);
    assert_eq!(world.memory.cluster, kept);
    world.site().sync = SyncView { revision: Some(21), ..SyncView::default() };
    assert_eq!(world.decide().memory.cluster, of(&[("a1", "")]));
    world.site().members.insert(a2, member);
    assert_eq!(world.decide().memory.cluster, both);
}
