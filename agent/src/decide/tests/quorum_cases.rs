//! What is decided with `synchronous_mode: quorum`, and on the way into and out of it, in named
//! situations.

use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::time::Deadline;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::world::{NOW, World, history, name, promotions, sender};
use crate::decide::quorum::Voting;
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason, Unfit};

/// The world's leader in quorum mode, with these standbys that have everything.
fn primary(standbys: &[&str]) -> World {
    let mut world = World::new();
    world.policy.synchronous_quorum = true;
    let member = world.site().members[&name::<NodeName>("a2")].clone();
    world.status().senders.clear();
    for standby in standbys {
        world.site().members.insert(name(standby), member.clone());
        world.status().senders.insert((*standby).to_owned(), sender(500));
        let slot = Slot::physical(true);
        world.status().slots.insert((*standby).to_owned(), slot);
    }
    world
}

fn names_of(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|n| name(n)).collect()
}

#[test]
fn from_on_to_quorum_and_back() {
    let mut world = primary(&["a2", "a3"]);
    let revision = Some(20);
    let both = names_of(&["a2", "a3"]);
    let grown = Action::WriteSync { standbys: both.clone(), revision, quorum: 1 };
    assert_eq!(world.decide().actions, vec![grown], "the record first: both have to be seen");
    (world.site().sync.standbys, world.site().sync.quorum) = (both.clone(), 1);
    let any = "ANY 1 (\"a2\",\"a3\")".to_owned();
    assert_eq!(world.decide().actions, vec![Action::SetSynchronousNames(any.clone())]);
    world.status().synchronous_standby_names = any.clone();
    world.view.checkpoint_runs = true;
    assert_eq!(world.decide().reason, Reason::Leading, "at rest");
    // Back: one is enough, and it is the list that shrinks first.
    world.policy.synchronous_quorum = false;
    assert_eq!(world.decide().actions, vec![Action::SetSynchronousNames("\"a2\"".to_owned())]);
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    let one = names_of(&["a2"]);
    // Not before it has confirmed what was there.
    world.memory.list_since = Some(("\"a2\"".to_owned(), Lsn::new(501)));
    assert_eq!(world.decide().reason, Reason::Leading);
    world.memory.list_since = Some(("\"a2\"".to_owned(), Lsn::new(500)));
    let shrunk = Action::WriteSync { standbys: one, revision, quorum: 0 };
    assert_eq!(world.decide().actions, vec![shrunk]);
}

#[test]
fn whoever_is_far_behind_does_not_count() {
    let mut world = primary(&["a2", "a3"]);
    world.status().synchronous_standby_names = "ANY 1 (\"a2\")".to_owned();
    world.memory.list_since = Some(("ANY 1 (\"a2\")".to_owned(), Lsn::new(450)));
    world.view.checkpoint_runs = true;
    world.status().senders.insert("a3".to_owned(), sender(449));
    assert_eq!(world.decide().reason, Reason::Leading);
    world.status().senders.insert("a3".to_owned(), sender(450));
    assert!(matches!(world.decide().actions[..], [Action::WriteSync { quorum: 1, .. }]));
}

/// It may come into force after the decision, and nobody would wait for whom the record then names.
#[test]
fn no_record_grows_while_another_list_was_set() {
    let mut world = primary(&["a2"]);
    world.policy.synchronous_quorum = false;
    world.site().sync.standbys.clear();
    world.memory.list_asked = Some(String::new());
    let again = Action::SetSynchronousNames("\"a2\"".to_owned());
    let decision = world.decide();
    assert_eq!(decision.actions, vec![again], "not the record, which would be next");
    world.memory = decision.memory;
    assert!(matches!(world.decide().actions[..], [Action::WriteSync { .. }]), "seen: now it is");
}

/// Its predecessor may have written one and ended before it told the server: any reload brings it.
#[test]
fn a_new_process_sets_the_list_in_force_anew_before_a_record_rests_on_it() {
    let mut world = primary(&["a2"]);
    world.policy.synchronous_quorum = false;
    world.site().sync.standbys.clear();
    world.memory = Memory::of_a_new_process();
    let decision = world.decide();
    let again = Action::SetSynchronousNames("\"a2\"".to_owned());
    assert_eq!(decision.actions, vec![again]);
    world.memory = decision.memory;
    assert!(matches!(world.decide().actions[..], [Action::WriteSync { .. }]));
    // What only restricts is right under either.
    world.memory = Memory::of_a_new_process();
    world.site().sync.standbys = names_of(&["a2"]);
    world.status().senders.clear();
    assert!(matches!(world.decide().actions[..], [Action::WriteSync { .. }]));
}

/// hazards.md row 37.
#[test]
fn a_list_that_somebody_changed_takes_the_record_with_it() {
    let mut world = primary(&["a2", "a3"]);
    (world.site().sync.standbys, world.site().sync.quorum) = (names_of(&["a2", "a3"]), 1);
    for list in ["", "*", "ANY 1 (\"a2\",\"a3\",\"a4\")"] {
        world.status().synchronous_standby_names = list.to_owned();
        let standbys = BTreeSet::new();
        let nobody = Action::WriteSync { standbys, revision: Some(20), quorum: 0 };
        let back = Action::SetSynchronousNames("ANY 1 (\"a2\",\"a3\")".to_owned());
        assert_eq!(world.decide().actions, vec![back, nobody], "{list}");
    }
}

#[test]
fn off_empties_the_record_and_then_brings_the_users_own_list_back() {
    let mut world = primary(&["a2"]);
    world.policy.synchronous_mode = false;
    world.policy.own_standby_names = "2 (x, y)".to_owned();
    assert_eq!(world.decide().actions, vec![Action::ClearSync { revision: 20 }]);
    world.site().sync = SyncView { revision: Some(21), ..SyncView::default() };
    world.view.checkpoint_runs = true;
    let decision = world.decide();
    assert_eq!(decision.actions, vec![Action::SetSynchronousNames("2 (x, y)".to_owned())]);
    // PostgreSQL refuses it: said by PostgreSQL, and not tried in each round.
    world.memory = decision.memory;
    assert_eq!(world.decide().actions, vec![]);
    world.view.now = NOW.plus(Duration::from_secs(10));
    world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(14)));
    world.view.tenure.primary.as_mut().expect("held").deadline = world.view.tenure.site;
    assert_eq!(world.decide().actions, decision.actions);
    world.status().synchronous_standby_names = "2 (x, y)".to_owned();
    assert_eq!(world.decide().actions, vec![]);
    // A server that starts writable, or opens, has none: a value that is refused would keep it down.
    world.stopped(ControlState::InProduction, 3, 400);
    let starts = Action::Run(Job::StartPrimary { synchronous: String::new() });
    assert_eq!(world.decide().actions, vec![starts]);
}

/// Applied while commits wait for the list again, it would let anybody lead.
#[test]
fn a_clearing_that_may_still_come_is_outrun_once_the_mode_is_on_again() {
    let mut world = primary(&["a2"]);
    world.view.checkpoint_runs = true;
    world.policy.synchronous_mode = false;
    let decision = world.decide();
    assert_eq!(decision.actions, vec![Action::ClearSync { revision: 20 }]);
    world.memory = decision.memory;
    world.policy.synchronous_mode = true;
    let standbys = names_of(&["a2"]);
    let again = Action::WriteSync { standbys, revision: Some(20), quorum: 0 };
    let decision = world.decide();
    assert_eq!(decision.actions, vec![again], "nothing else is to be done, and this is");
    world.memory = decision.memory;
    world.site().sync.revision = Some(21);
    assert_eq!(world.decide().reason, Reason::Leading, "it compares what is past");
}

#[test]
fn a_crashed_server_starts_with_the_list_of_its_quorum() {
    let mut world = primary(&["a2", "a3", "a4"]);
    (world.site().sync.standbys, world.site().sync.quorum) = (names_of(&["a2", "a3", "a4"]), 2);
    world.stopped(ControlState::InProduction, 3, 400);
    let starts = |world: &World| match &world.decide().actions[..] {
        [Action::Run(Job::StartPrimary { synchronous })] => synchronous.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(starts(&world), "ANY 1 (\"a2\",\"a3\",\"a4\")");
    // A write that may still be applied would let two of the three lead.
    let sent = Voting { voters: names_of(&["a2", "a3", "a4"]), quorum: 1 };
    world.memory.sync_sent = Some((Some(20), sent));
    assert_eq!(starts(&world), "ANY 2 (\"a2\",\"a3\",\"a4\")");
}

/// In recovery without a leader; `a9` led with the voters a1, a2, a3, of which it takes two to lead.
fn race() -> World {
    let mut world = primary(&["a2", "a3"]);
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().leaderless = Duration::from_secs(1);
    let (leader, standbys) = (Some(name("a9")), names_of(&["a1", "a2", "a3"]));
    let revision = Some(20);
    world.site().sync = SyncView { revision, leader, standbys, unreadable: false, quorum: 1 };
    world.view.peers = Some(PeersView { age: Duration::from_millis(10), answers: [].into() });
    world
}

fn answers(world: &mut World, who: &str, position: u64, timeline: Option<u32>) {
    let answer = PeerAnswer {
        primary: false,
        position: Lsn::new(position),
        timeline: timeline.map(TimelineId),
        nofailover: false,
        failover_priority: 1,
        age: Some(Duration::ZERO),
        ancestry: None,
        without_data: false,
    };
    world.view.peers.as_mut().expect("asked").answers.insert(name(who), answer);
}

#[test]
fn a_race_needs_votes_of_the_record() {
    let lacks = |votes, needed| Reason::NotCandidate(Unfit::TooFewVotes { votes, needed });
    let mut world = race();
    assert_eq!(world.decide().reason, lacks(1, 2), "its own");
    for (who, position, timeline) in [
        // No member of the record; nothing yet; of which history cannot be told.
        ("a7", 500, Some(3)),
        ("a2", 0, Some(3)),
        ("a2", 500, None),
    ] {
        let mut world = race();
        answers(&mut world, who, position, timeline);
        assert_eq!(world.decide().reason, lacks(1, 2), "{who} at {position} of {timeline:?}");
    }
    // Ahead, and it may not lead: it stands in nobody's way, and gives no vote.
    let mut other = race();
    answers(&mut other, "a2", 501, Some(3));
    let peers = other.view.peers.as_mut().expect("asked");
    peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers").nofailover = true;
    assert_eq!(other.decide().reason, lacks(1, 2));
    for (who, position, timeline) in [("a2", 500, 3), ("a3", 499, 3), ("a9", 500, 3), ("a2", 1, 2)]
    {
        let mut world = race();
        answers(&mut world, who, position, Some(timeline));
        assert_eq!(world.decide().actions, vec![Action::AcquireLeader], "{who}");
    }
    // The record counts, also in another mode; and who led needs nobody.
    world.policy.synchronous_quorum = false;
    assert_eq!(world.decide().reason, lacks(1, 2));
    world.site().sync.leader = Some(name("a1"));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    // A mode that is off frees from the record only where the site says so.
    let mut off = race();
    off.policy.synchronous_mode = false;
    assert_eq!(off.decide().actions, vec![Action::AcquireLeader]);
    off.policy.mode_is_the_sites = false;
    assert_eq!(off.decide().reason, lacks(1, 2), "what this node keeps is not the site's word");
    // Nobody else is there to be asked.
    let mut alone = race();
    alone.site().members.retain(|member, _| member.as_str() == "a1");
    alone.view.peers = None;
    assert_eq!(alone.decide().reason, lacks(1, 2));
    alone.site().sync.quorum = 0;
    assert_eq!(alone.decide().actions, vec![Action::AcquireLeader]);
}

/// What it flushed between its look and the leader's end may be acknowledged. So may what a server that was
/// just started has on disk and has not read yet.
#[test]
fn a_vote_was_looked_at_to_its_end_once_the_leader_was_gone() {
    // The leader has been gone for a second, and this node asked 10 ms ago.
    for (age, counts) in [(Some(0), true), (Some(990), true), (Some(991), false), (None, false)] {
        let mut world = race();
        answers(&mut world, "a2", 500, Some(3));
        let peers = world.view.peers.as_mut().expect("asked");
        let answer = peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers");
        answer.age = age.map(Duration::from_millis);
        let wins = matches!(world.decide().actions[..], [Action::AcquireLeader]);
        assert_eq!(wins, counts, "{age:?}");
        // It looks again all the time: so it is asked again, soon.
        world.view.peers.as_mut().expect("asked").age = Duration::from_millis(300);
        world.site().leaderless = Duration::from_millis(300);
        let asks = matches!(world.decide().actions[..], [Action::AskPeers]);
        assert_eq!(asks, age != Some(0), "{age:?}");
    }
}

/// a1 streamed from a leader that died before enough confirmed; the next one took the same number, had a1 among
/// its voters, and a2 confirmed its commits.
#[test]
fn positions_of_two_promotions_with_one_number_are_no_votes() {
    let of = |promotion: &str, position: u64| {
        let mut world = race();
        answers(&mut world, "a2", position, Some(3));
        answers(&mut world, "a3", 400, Some(3));
        let peers = world.view.peers.as_mut().expect("asked");
        for (who, answer) in &mut peers.answers {
            let told = Ancestry { promotion: Some(name(promotion)), ..history(3) };
            answer.ancestry = (who.as_str() == "a2").then_some(told);
        }
        world.site().sync.quorum = 2;
        world
    };
    let lacks = Reason::NotCandidate(Unfit::TooFewVotes { votes: 2, needed: 3 });
    assert_eq!(of("p3", 420).decide().actions, vec![Action::AcquireLeader]);
    assert_eq!(of("other", 420).decide().reason, lacks);
    let behind = Reason::NotCandidate(Unfit::Behind(name("a2")));
    assert_eq!(of("p3", 520).decide().reason, behind);
    assert_eq!(of("other", 520).decide().reason, lacks, "nor is it in the way of those who agree");
}

/// The last leader was lost between its promotion and its word of it: nobody could ever tell.
#[test]
fn between_two_promotions_that_nobody_can_tell_apart_the_votes_decide() {
    let mut world = race();
    answers(&mut world, "a2", 520, Some(3));
    answers(&mut world, "a3", 400, Some(3));
    let peers = world.view.peers.as_mut().expect("asked");
    let answer = peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers");
    answer.ancestry = Some(Ancestry { promotion: Some(name("other")), ..history(3) });
    world.site().promotions = Some(promotions("a9", history(2), Some(200)));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    let mut lacks = world.clone();
    lacks.site().sync.quorum = 2;
    let votes = Reason::NotCandidate(Unfit::TooFewVotes { votes: 2, needed: 3 });
    assert_eq!(lacks.decide().reason, votes);
    // In mode on a voter needs none but its own.
    world.policy.synchronous_quorum = false;
    world.site().sync.quorum = 0;
    let part = Reason::NotCandidate(Unfit::HistoriesPart(name("a2")));
    assert_eq!(world.decide().reason, part);
}

/// Preference only orders those who are safe.
#[test]
fn a_preferred_one_counts_only_once_the_votes_are_there() {
    let mut world = race();
    answers(&mut world, "a2", 500, Some(3));
    let peers = world.view.peers.as_mut().expect("asked");
    peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers").failover_priority = 2;
    let preferred = Reason::NotCandidate(Unfit::Preferred(name("a2")));
    assert_eq!(world.decide().reason, preferred);
    world.site().sync.quorum = 2;
    let lacks = Reason::NotCandidate(Unfit::TooFewVotes { votes: 2, needed: 3 });
    assert_eq!(world.decide().reason, lacks);
}

/// a2 received more of timeline 2 than its leader's successor, and than anybody acknowledged. Until it has
/// rewound, which it can't without a leader, the others would lack its vote.
#[test]
fn who_is_left_on_an_older_timeline_votes_however_far_it_is() {
    // Timeline 2 ended at 200.
    for (promotion, end, counts) in [
        (Some("p2"), 500, true),
        (None, 500, true),
        (Some("p2"), 200, true),
        // Its receiver is on the new timeline, and what it has is not.
        (Some("p2"), 199, false),
        (Some("other"), 500, false),
    ] {
        let mut world = race();
        world.view.federation = None;
        world.standby(3, end);
        answers(&mut world, "a2", 600, Some(2));
        let peers = world.view.peers.as_mut().expect("asked");
        let answer = peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers");
        answer.ancestry = Some(Ancestry { promotion: promotion.map(name), ..history(2) });
        let wins = matches!(world.decide().actions[..], [Action::AcquireLeader]);
        assert_eq!(wins, counts, "{promotion:?} seen from {end}");
    }
}

/// a9 led timeline 2, lost the store and went on there with a2, while a person promoted this node by hand at
/// 200: what a2 has beyond that may be acknowledged, though this node's WAL reaches further.
#[test]
fn a_promotion_by_hand_gets_no_vote_of_who_followed_the_leader_past_it() {
    let lacks = Reason::NotCandidate(Unfit::TooFewVotes { votes: 1, needed: 2 });
    for (what, position, (timeline, promotes_at), counts) in [
        ("past the switch", 300, (2, None), false),
        ("... further than this node", 600, (2, None), false),
        ("nothing beyond the switch", 200, (2, None), true),
        ("the leader left there", 300, (3, None), true),
        ("it was about to", 300, (2, Some(200)), true),
        ("... further on", 300, (2, Some(201)), false),
        ("its word is from before", 300, (1, Some(100)), false),
    ] {
        let mut world = race();
        world.view.federation = None;
        answers(&mut world, "a2", position, Some(2));
        let peers = world.view.peers.as_mut().expect("asked");
        let answer = peers.answers.get_mut(&name::<NodeName>("a2")).expect("answers");
        answer.ancestry = Some(history(2));
        // A person wants it whatever others have.
        let value = FailoverRequest { leader: None, candidate: Some(name("a1")), scheduled: None };
        world.site().failover = Some(At { value, revision: 90 });
        world.site().promotions = Some(promotions("a9", history(timeline), promotes_at));
        let decision = world.decide();
        if counts {
            assert_eq!(decision.actions, vec![Action::AcquireLeader], "{what}");
        } else {
            assert_eq!(decision.reason, lacks, "{what}");
        }
    }
    // A number that this node's history went past was another's: positions there say nothing.
    let mut other = race();
    other.view.federation = None;
    other.status().ancestry.switches.retain(|switch| switch.timeline != TimelineId(2));
    answers(&mut other, "a2", 150, Some(2));
    assert_eq!(other.decide().reason, lacks);
}

#[test]
fn whoever_won_waits_for_the_others_of_the_record_from_the_first_commit_on() {
    let mut world = race();
    world.view.federation = None;
    world.leader(Some("a1"));
    world.view.tenure.site = Deadline::at(NOW.plus(Duration::from_secs(4)));
    let standbys = names_of(&["a2", "a3", "a9"]);
    let list = "ANY 2 (\"a2\",\"a3\",\"a9\")".to_owned();
    let opens = vec![
        Action::WriteSync { standbys: standbys.clone(), revision: Some(20), quorum: 1 },
        Action::SetSynchronousNames(list.clone()),
    ];
    assert_eq!(world.decide().actions, opens);
    let mut written = world.clone();
    (written.site().sync.leader, written.site().sync.standbys) = (Some(name("a1")), standbys);
    written.status().synchronous_standby_names = list;
    assert_eq!(written.decide().actions, vec![Action::Promote]);
    // Too few of them run: commits would wait for ever, so nobody but this node may lead.
    world.member("a3").state = "stopped".to_owned();
    let alone = Action::WriteSync { standbys: BTreeSet::new(), revision: Some(20), quorum: 0 };
    assert_eq!(world.decide().actions, vec![alone]);
}
