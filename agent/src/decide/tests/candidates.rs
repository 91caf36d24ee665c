//! Who takes a free leader key: the rows of spec/patroni-compat.md 3.4, and what holds whatever the
//! nodes are. Safety first, then position, then preference (I16).

use std::time::Duration;

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::world::{World, history, name};
use crate::decide::view::{PeerAnswer, PeersView};
use crate::decide::{Action, Reason, Unfit};

/// The leader key is free, and this node and its peer have the same.
fn fit() -> World {
    let mut world = World::new();
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().leaderless = Duration::from_secs(1);
    let answer = PeerAnswer {
        primary: false,
        position: Lsn::new(500),
        timeline: Some(TimelineId(3)),
        nofailover: false,
        failover_priority: 1,
        ancestry: Some(history(3)),
    };
    world.view.peers =
        Some(PeersView { age: Duration::from_millis(10), answers: [(name("a2"), answer)].into() });
    world
}

fn peer(world: &mut World) -> &mut PeerAnswer {
    let peers = world.view.peers.as_mut().expect("asked");
    peers.answers.get_mut(&name::<NodeName>("a2")).expect("a2 answers")
}

/// A promotion of timeline 2 that nobody here has heard of.
fn another(timeline: u32) -> Ancestry {
    let mut history = history(timeline);
    history.switches.truncate(2);
    history.promotion = Some(name(&format!("q{timeline}")));
    history
}

fn peer_has(world: &mut World, history: Ancestry) {
    let peer = peer(world);
    peer.timeline = Some(history.timeline);
    peer.ancestry = Some(history);
}

/// The record is of a leader before, and this node was its synchronous standby.
fn led_by_a2(world: &mut World) {
    world.site().sync.leader = Some(name("a2"));
    world.site().sync.standbys = [name("a1")].into();
}

type Bend = fn(&mut World);

/// Each row bends the race of [`fit`]; `None`: this node takes the key.
fn check<const N: usize>(rows: [(&str, Bend, Option<Unfit>); N]) {
    for (row, bend, unfit) in rows {
        let mut world = fit();
        bend(&mut world);
        let decision = world.decide();
        let (actions, reason) = match unfit {
            Some(unfit) => (vec![], Reason::NotCandidate(unfit)),
            None => (vec![Action::AcquireLeader], Reason::RaceWon),
        };
        assert_eq!((decision.actions, decision.reason), (actions, reason), "{row}");
    }
}

fn behind() -> Unfit {
    Unfit::Behind(name("a2"))
}

#[test]
fn what_a_node_alone_needs_to_lead() {
    check([
        ("13: as far, as good", |_| {}, None),
        ("7: nofailover", |w| w.policy.nofailover = true, Some(Unfit::NoFailover)),
        ("13a: lag", |w| w.site().optime = Some(Lsn::new((1 << 20) + 501)), Some(Unfit::Lagging)),
        ("13b: off by default", |w| w.site().last_history = Some(history(4)), None),
        (
            "13b: check_timeline",
            |w| {
                w.policy.check_timeline = true;
                w.site().last_history = Some(history(4));
            },
            Some(Unfit::OlderTimeline),
        ),
        ("13b: the same timeline", |w| w.policy.check_timeline = true, None),
        (
            "13b: not in a standby site",
            |w| {
                w.held_by_b();
                w.policy.check_timeline = true;
                w.site().last_history = Some(history(4));
            },
            None,
        ),
    ]);
}

#[test]
fn the_rows_of_the_member_comparison() {
    check([
        (
            "13c: the other is nofailover",
            |w| {
                peer(w).position = Lsn::new(501);
                peer(w).nofailover = true;
            },
            None,
        ),
        (
            "13d: not in recovery, whatever its tags",
            |w| {
                peer(w).primary = true;
                peer(w).nofailover = true;
            },
            Some(Unfit::PrimaryAlive(name("a2"))),
        ),
        ("13d: ahead", |w| peer(w).position = Lsn::new(501), Some(behind())),
        (
            "13d: the record's leader is ahead",
            |w| {
                led_by_a2(w);
                peer(w).position = Lsn::new(501);
            },
            None,
        ),
        (
            "13d: ... and the mode is off",
            |w| {
                led_by_a2(w);
                w.policy.synchronous_mode = false;
                peer(w).position = Lsn::new(501);
            },
            Some(behind()),
        ),
        (
            "13d: no position",
            |w| {
                peer_has(w, history(4));
                peer(w).position = Lsn::new(0);
            },
            None,
        ),
        (
            "12: ahead, and not in the record",
            |w| {
                w.site().sync.standbys.clear();
                peer(w).position = Lsn::new(501);
            },
            None,
        ),
        (
            "a Patroni member, by its number",
            |w| {
                peer_has(w, history(4));
                peer(w).ancestry = None;
            },
            Some(behind()),
        ),
    ]);
}

#[test]
fn preference_counts_between_equals_only() {
    check([
        (
            "13d: ahead, and preferred less",
            |w| {
                peer(w).position = Lsn::new(501);
                w.policy.failover_priority = 9;
            },
            Some(behind()),
        ),
        (
            "13d: behind, and preferred more",
            |w| {
                peer(w).position = Lsn::new(499);
                peer(w).failover_priority = 9;
            },
            None,
        ),
        (
            "13d: as far, and preferred more",
            |w| peer(w).failover_priority = 2,
            Some(Unfit::Preferred(name("a2"))),
        ),
        (
            "13d: ... but it led before",
            |w| {
                peer(w).failover_priority = 2;
                w.policy.synchronous_mode = false;
                w.memory.last_leader = Some(name("a2"));
            },
            None,
        ),
        (
            "13d: ... but it is the record's leader",
            |w| {
                led_by_a2(w);
                peer(w).failover_priority = 2;
            },
            None,
        ),
        (
            "13d: ... and does not take it (I20)",
            |w| {
                peer(w).failover_priority = 2;
                w.site().leaderless = Duration::from_secs(5);
            },
            None,
        ),
    ]);
}

#[test]
fn of_two_histories_the_last_leaders_counts() {
    check([
        ("a higher number that never led", |w| peer_has(w, another(7)), None),
        (
            "... and nobody knows who led",
            |w| {
                peer_has(w, another(7));
                w.site().last_history = None;
            },
            Some(Unfit::HistoriesPart(name("a2"))),
        ),
        (
            "the same number, and it led",
            |w| {
                peer_has(w, another(3));
                w.site().last_history = Some(another(3));
            },
            Some(Unfit::NewerHistory(name("a2"))),
        ),
    ]);
}

#[test]
fn the_leader_of_before_is_remembered_when_the_key_is_free() {
    let mut world = fit();
    world.leader(Some("a2"));
    world.memory = world.decide().memory;
    world.leader(None);
    world.policy.synchronous_mode = false;
    peer(&mut world).failover_priority = 2;
    assert_eq!(world.decide().reason, Reason::RaceWon);
    world.memory.last_leader = None;
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::Preferred(name("a2"))));
}

/// One node of a race.
#[derive(Debug, Clone)]
struct Node {
    history: usize,
    more: u64,
    priority: i64,
    nofailover: bool,
    synchronous: bool,
    /// It tells its ancestry, as a Patroni member does not.
    tells: bool,
}

const NAMES: [&str; 4] = ["a1", "a2", "a3", "a4"];

impl Node {
    fn ancestry(&self) -> Ancestry {
        match self.history {
            0 => history(3),
            1 => history(2),
            2 => another(3),
            3 => history(4),
            _ => another(6),
        }
    }

    fn end(&self) -> u64 {
        let history = self.ancestry();
        history.switches.last().map_or(0, |switch| switch.end.get()) + self.more
    }

    /// On which promotion's timeline a position of its WAL lies.
    fn branch(&self, position: u64) -> (TimelineId, Option<String>) {
        let history = self.ancestry();
        let left = history.switches.iter().find(|switch| position <= switch.end.get());
        let (timeline, promotion) = left
            .map_or((history.timeline, history.promotion.as_ref()), |switch| {
                (switch.timeline, switch.promotion.as_ref())
            });
        (timeline, promotion.map(ToString::to_string))
    }

    /// It has all of the other's WAL, and more.
    fn has_more_than(&self, other: &Self) -> bool {
        let bounds = [self.ancestry(), other.ancestry()];
        let bounds = bounds.iter().flat_map(|history| &history.switches);
        let points = bounds.flat_map(|switch| [switch.end.get(), switch.end.get() + 1]);
        let mut points = points.chain([other.end()]).filter(|point| *point <= other.end());
        self.end() > other.end() && points.all(|point| self.branch(point) == other.branch(point))
    }
}

/// The circumstances.
#[derive(Debug, Clone)]
struct Race {
    nodes: Vec<Node>,
    synchronous: bool,
    /// Who led before, in the record and in memory.
    former: Option<usize>,
    last_history: Option<usize>,
}

impl Race {
    fn decides(&self, me: usize) -> Reason {
        let node = &self.nodes[me];
        let mut world = World::new();
        world.view.federation = None;
        world.view.tenure.primary = None;
        world.policy.me = name(NAMES[me]);
        world.policy.nofailover = node.nofailover;
        world.policy.failover_priority = node.priority;
        world.policy.synchronous_mode = self.synchronous;
        let member = world.site().members[&name::<NodeName>("a2")].clone();
        world.site().members = NAMES.iter().map(|other| (name(other), member.clone())).collect();
        world.leader(None);
        world.standby(3, node.end());
        world.status().ancestry = node.ancestry();
        world.memory.last_leader = self.former.map(|former| name(NAMES[former]));
        let site = world.site();
        site.leaderless = Duration::from_secs(1);
        site.sync.leader = self.former.map(|former| name(NAMES[former]));
        site.sync.standbys = (0..NAMES.len())
            .filter(|n| self.nodes[*n].synchronous)
            .map(|n| name(NAMES[n]))
            .collect();
        site.last_history =
            self.last_history.map(|history| Node { history, ..node.clone() }.ancestry());
        let answers = (0..NAMES.len()).filter(|n| *n != me).map(|n| {
            let node = &self.nodes[n];
            let answer = PeerAnswer {
                primary: false,
                position: Lsn::new(node.end()),
                timeline: Some(node.ancestry().timeline),
                nofailover: node.nofailover,
                failover_priority: node.priority,
                ancestry: node.tells.then(|| node.ancestry()),
            };
            (name(NAMES[n]), answer)
        });
        world.view.peers =
            Some(PeersView { age: Duration::from_millis(10), answers: answers.collect() });
        world.decide().reason
    }

    /// What each node decides.
    fn outcomes(&self) -> Vec<Reason> {
        (0..NAMES.len()).map(|me| self.decides(me)).collect()
    }

    /// It may lead by its tags and by the record.
    fn may_lead(&self, n: usize) -> bool {
        let restricted = self.synchronous && self.former.is_some();
        let node = &self.nodes[n];
        !node.nofailover && (!restricted || node.synchronous || self.former == Some(n))
    }

    /// The record says that it acknowledged nothing beyond its standbys.
    fn may_be_passed_over(&self, n: usize) -> bool {
        self.synchronous && self.former == Some(n)
    }
}

fn node(histories: std::ops::Range<usize>) -> impl Strategy<Value = Node> {
    let tags =
        (1i64..4, proptest::bool::weighted(0.2), any::<bool>(), proptest::bool::weighted(0.8));
    (histories, 1u64..40, tags).prop_map(|(history, more, tags)| {
        let (priority, nofailover, synchronous, tells) = tags;
        Node { history, more, priority, nofailover, synchronous, tells }
    })
}

fn race(histories: std::ops::Range<usize>) -> impl Strategy<Value = Race> {
    let nodes = proptest::collection::vec(node(histories), NAMES.len());
    let former = proptest::option::of(0..NAMES.len());
    let last = proptest::option::of(0usize..5);
    (nodes, any::<bool>(), former, last).prop_map(|(nodes, synchronous, former, last_history)| {
        Race { nodes, synchronous, former, last_history }
    })
}

/// What is left of an outcome without preference.
fn safe(reason: &Reason) -> bool {
    matches!(reason, Reason::RaceWon | Reason::NotCandidate(Unfit::Preferred(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// I16: no tag and no priority lets a node lead that lacks what a safe one has.
    #[test]
    fn no_winner_is_behind_a_candidate_that_is_safe(race in race(0..5)) {
        let outcomes = race.outcomes();
        for (winner, outcome) in outcomes.iter().enumerate() {
            if *outcome != Reason::RaceWon {
                continue;
            }
            prop_assert!(race.may_lead(winner), "{winner} may not");
            for other in (0..NAMES.len()).filter(|other| *other != winner) {
                let ahead = race.nodes[other].has_more_than(&race.nodes[winner]);
                let waits = race.may_lead(other) && !race.may_be_passed_over(other);
                prop_assert!(!(ahead && waits), "{winner} before {other}: {outcomes:?}");
            }
        }
    }

    /// I16: priorities choose among the safe ones and make nobody safe.
    #[test]
    fn permuted_priorities_leave_the_safe_ones_as_they_are(
        race in race(0..5),
        priorities in Just([1i64, 2, 3, 9]).prop_shuffle(),
    ) {
        let mut permuted = race.clone();
        for (node, priority) in permuted.nodes.iter_mut().zip(priorities) {
            node.priority = priority;
        }
        for (before, after) in race.outcomes().iter().zip(&permuted.outcomes()) {
            prop_assert_eq!(safe(before), safe(after), "{:?} {:?}", before, after);
            prop_assert!(safe(before) || before == after, "{before:?} {after:?}");
        }
    }

    /// I20: of one history somebody takes the key, and nobody who is preferred less than an equal.
    #[test]
    fn of_one_history_the_preferred_of_the_furthest_wins(race in race(0..1)) {
        let outcomes = race.outcomes();
        let somebody = (0..NAMES.len()).any(|n| race.may_lead(n));
        prop_assert_eq!(outcomes.contains(&Reason::RaceWon), somebody, "{:?}", outcomes);
        for winner in (0..NAMES.len()).filter(|n| outcomes[*n] == Reason::RaceWon) {
            for other in (0..NAMES.len()).filter(|n| race.may_lead(*n) && race.former != Some(*n)) {
                let (winner, other) = (&race.nodes[winner], &race.nodes[other]);
                let equal = winner.end() == other.end();
                prop_assert!(!equal || winner.priority >= other.priority, "{outcomes:?}");
            }
        }
    }
}
