//! Who takes a free leader key: the rows of spec/patroni-compat.md 3.4, and what holds whatever the
//! nodes are. Safety first, then position, then preference (I16).

use std::time::Duration;

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::world::{World, history, name, point, promotions};
use crate::decide::view::{At, FailsafeRecord, PeerAnswer, PeersView};
use crate::decide::{Action, Reason, Unfit};

/// The leader key is free, and this node and its peer have the same.
fn fit() -> World {
    let mut world = World::new();
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().leaderless = Duration::from_secs(1);
    led(&mut world, history(3));
    world.answers_like_us();
    world
}

/// The last leader, neither of the two here, left this.
fn led(world: &mut World, ancestry: Ancestry) {
    world.site().promotions = Some(promotions("a9", ancestry, None));
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
        ("13b: off by default", |w| led(w, history(4)), None),
        (
            "13b: check_timeline",
            |w| {
                w.policy.check_timeline = true;
                led(w, history(4));
            },
            Some(Unfit::OlderTimeline),
        ),
        ("13b: the same timeline", |w| w.policy.check_timeline = true, None),
        (
            "13b: not in a standby site",
            |w| {
                w.held_by_b();
                w.policy.check_timeline = true;
                led(w, history(4));
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
                w.site().promotions = None;
            },
            Some(Unfit::HistoriesPart(name("a2"))),
        ),
        (
            "the same number, and it led",
            |w| {
                peer_has(w, another(3));
                led(w, another(3));
            },
            Some(Unfit::NewerHistory(name("a2"))),
        ),
    ]);
}

/// The leader of before wrote past the point from which another was promoted under the key, and that one
/// acknowledged rows before both were lost.
#[test]
fn a_tail_that_was_left_behind_never_beats_what_was_acknowledged_since() {
    /// This node has the tail.
    fn tail(world: &mut World) {
        world.policy.synchronous_mode = false;
        world.standby(2, 260);
        peer_has(world, history(3));
        peer(world).position = Lsn::new(210);
    }
    /// This node was promoted.
    fn promoted(world: &mut World) {
        world.policy.synchronous_mode = false;
        world.standby(3, 210);
        peer_has(world, history(2));
        peer(world).position = Lsn::new(260);
    }
    fn says(world: &mut World, node: &str, timeline: u32, promotes_at: Option<u64>) {
        world.site().promotions = Some(promotions(node, history(timeline), promotes_at));
    }
    let newer = || Some(Unfit::NewerHistory(name("a2")));
    let part = || Some(Unfit::HistoriesPart(name("a2")));
    check([
        (
            "the tail, and the record is from before",
            |w| {
                tail(w);
                says(w, "a1", 2, None);
            },
            part(),
        ),
        (
            "... the other's is from before",
            |w| {
                promoted(w);
                says(w, "a2", 2, None);
            },
            part(),
        ),
        (
            "the tail, and the other was about to promote",
            |w| {
                tail(w);
                says(w, "a2", 2, Some(200));
            },
            newer(),
        ),
        (
            "promoted, as it wrote that it would",
            |w| {
                promoted(w);
                says(w, "a1", 2, Some(200));
            },
            None,
        ),
        (
            "the tail, and the other follows whoever was about to promote",
            |w| {
                tail(w);
                says(w, "a3", 2, Some(200));
            },
            newer(),
        ),
        (
            "it follows whoever was about to promote",
            |w| {
                promoted(w);
                says(w, "a3", 2, Some(200));
            },
            None,
        ),
        (
            "the tail, and the record tells the promotion",
            |w| {
                tail(w);
                says(w, "a2", 3, None);
            },
            newer(),
        ),
        (
            "no record: the later promotion",
            |w| {
                tail(w);
                w.site().promotions = None;
            },
            newer(),
        ),
    ]);
}

/// I20: waiting for it would never end.
#[test]
fn a_rival_that_can_never_lead_is_in_nobodys_way() {
    fn part(world: &mut World) {
        peer_has(world, another(7));
        peer(world).position = Lsn::new(300);
        world.site().promotions = None;
    }
    /// Patroni's `history` tells the timeline of this node, and no ids.
    fn part_on_an_older_timeline(world: &mut World) {
        peer_has(world, another(2));
        world.primary().floor = None;
        world.site().promotions = None;
        let mut unnamed = history(3);
        unnamed.promotion = None;
        unnamed.switches.iter_mut().for_each(|switch| switch.promotion = None);
        world.site().history = Some(At { value: unnamed, revision: 1 });
    }
    check([
        ("they have parted", part, Some(Unfit::HistoriesPart(name("a2")))),
        (
            "it lags",
            |w| {
                part(w);
                w.site().optime = Some(Lsn::new((1 << 20) + 400));
            },
            None,
        ),
        (
            "it lacks the floor",
            |w| {
                part(w);
                w.primary().floor = Some(point(3, 250));
            },
            None,
        ),
        (
            "not in the failsafe record",
            |w| {
                part(w);
                let members = [(name("a1"), String::new())].into();
                w.site().failsafe = FailsafeRecord::Read { members, revision: 1 };
            },
            None,
        ),
        (
            "an older timeline, and nobody asks",
            part_on_an_older_timeline,
            Some(Unfit::HistoriesPart(name("a2"))),
        ),
        (
            "... check_timeline",
            |w| {
                part_on_an_older_timeline(w);
                w.policy.check_timeline = true;
            },
            None,
        ),
        (
            "the record's leader: what it has more it never acknowledged",
            |w| {
                part(w);
                led_by_a2(w);
            },
            None,
        ),
        (
            "... also where its history counts as the newer one",
            |w| {
                part(w);
                led_by_a2(w);
                led(w, another(7));
            },
            None,
        ),
        (
            "... but the mode is off",
            |w| {
                part(w);
                led_by_a2(w);
                led(w, another(7));
                w.policy.synchronous_mode = false;
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
#[expect(clippy::struct_excessive_bools, reason = "independent dimensions of a random race")]
struct Node {
    history: usize,
    more: u64,
    priority: i64,
    nofailover: bool,
    synchronous: bool,
    in_failsafe: bool,
    /// It tells its ancestry, as a Patroni member does not.
    tells: bool,
}

const NAMES: [&str; 4] = ["a1", "a2", "a3", "a4"];

/// What may be behind in these worlds.
const LAG: u64 = 150;

fn ancestry(index: usize) -> Ancestry {
    match index {
        0 => history(3),
        1 => history(2),
        2 => another(3),
        3 => history(4),
        _ => another(6),
    }
}

fn begin(ancestry: &Ancestry) -> u64 {
    ancestry.switches.last().map_or(0, |switch| switch.end.get())
}

impl Node {
    fn ancestry(&self) -> Ancestry {
        ancestry(self.history)
    }

    fn end(&self) -> u64 {
        begin(&self.ancestry()) + self.more
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

/// What stands in `regent/promotions`.
#[derive(Debug, Clone)]
struct Recorded {
    node: usize,
    history: usize,
    promotes_after: Option<u64>,
}

/// The circumstances.
#[derive(Debug, Clone)]
struct Race {
    nodes: Vec<Node>,
    synchronous: bool,
    /// Who led before, in the record and in memory.
    former: Option<usize>,
    last: Option<Recorded>,
    optime: Option<u64>,
    failsafe: bool,
    /// Timeline and position.
    floor: Option<(u32, u64)>,
}

impl Race {
    fn decides(&self, me: usize) -> Reason {
        let node = &self.nodes[me];
        let mut world = World::new();
        world.primary().floor = self.floor.map(|(timeline, position)| point(timeline, position));
        world.view.tenure.primary = None;
        world.policy.me = name(NAMES[me]);
        world.policy.nofailover = node.nofailover;
        world.policy.failover_priority = node.priority;
        world.policy.synchronous_mode = self.synchronous;
        world.policy.maximum_lag_on_failover = LAG;
        let member = world.site().members[&name::<NodeName>("a2")].clone();
        world.site().members = NAMES.iter().map(|other| (name(other), member.clone())).collect();
        world.leader(None);
        world.standby(3, node.end());
        world.status().ancestry = node.ancestry();
        world.memory.last_leader = self.former.map(|former| name(NAMES[former]));
        let site = world.site();
        site.leaderless = Duration::from_secs(1);
        site.optime = self.optime.map(Lsn::new);
        site.sync.leader = self.former.map(|former| name(NAMES[former]));
        site.sync.standbys = (0..NAMES.len())
            .filter(|n| self.nodes[*n].synchronous)
            .map(|n| name(NAMES[n]))
            .collect();
        site.promotions = self.last.as_ref().map(|last| {
            let history = ancestry(last.history);
            let promotes_at = last.promotes_after.map(|more| begin(&history) + more);
            promotions(NAMES[last.node], history, promotes_at)
        });
        if self.failsafe {
            let members = (0..NAMES.len()).filter(|n| self.nodes[*n].in_failsafe);
            let members = members.map(|n| (name(NAMES[n]), String::new())).collect();
            site.failsafe = FailsafeRecord::Read { members, revision: 1 };
        }
        let answers = (0..NAMES.len()).filter(|n| *n != me).map(|n| {
            let node = &self.nodes[n];
            let answer = PeerAnswer {
                without_data: false,
                primary: false,
                position: Lsn::new(node.end()),
                timeline: Some(node.ancestry().timeline),
                nofailover: node.nofailover,
                failover_priority: node.priority,
                age: Some(Duration::ZERO),
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

    /// It may lead: by its tags, by the records, by what it has.
    fn may_lead(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let restricted = self.synchronous && self.former.is_some();
        let by_record = !restricted || node.synchronous || self.former == Some(n);
        let recorded = self.nodes.iter().any(|node| node.in_failsafe);
        let by_failsafe = !self.failsafe || !recorded || node.in_failsafe;
        let near = self.optime.is_none_or(|optime| optime <= node.end() + LAG);
        let has_floor = self.floor.is_none_or(|(timeline, position)| {
            let promotion = format!("p{timeline}");
            let there = (TimelineId(timeline), Some(promotion));
            node.end() >= position && node.branch(position) == there
        });
        !node.nofailover && by_record && by_failsafe && near && has_floor
    }

    /// The record says that it acknowledged nothing beyond its standbys.
    fn may_be_passed_over(&self, n: usize) -> bool {
        self.synchronous && self.former == Some(n)
    }

    /// Everybody tells its ancestry, as everybody of Regent does.
    fn telling(mut self) -> Self {
        self.nodes.iter_mut().for_each(|node| node.tells = true);
        self
    }
}

fn node(histories: std::ops::Range<usize>) -> impl Strategy<Value = Node> {
    let tags = (
        1i64..4,
        proptest::bool::weighted(0.2),
        any::<bool>(),
        proptest::bool::weighted(0.8),
        proptest::bool::weighted(0.8),
    );
    // Few steps, so that many are equal; and many, so that there are tails past a switch.
    let more = prop_oneof![1u64..4, 1u64..240];
    (histories, more, tags).prop_map(|(history, more, tags)| {
        let (priority, nofailover, synchronous, in_failsafe, tells) = tags;
        Node { history, more, priority, nofailover, synchronous, in_failsafe, tells }
    })
}

fn race(histories: std::ops::Range<usize>) -> impl Strategy<Value = Race> {
    let nodes = proptest::collection::vec(node(histories), NAMES.len());
    let former = proptest::option::of(0..NAMES.len());
    let last = (0..NAMES.len(), 0usize..5, proptest::option::of(1u64..240));
    let last =
        last.prop_map(|(node, history, promotes_after)| Recorded { node, history, promotes_after });
    let floor = prop_oneof![Just(None), Just(Some((2, 150))), Just(Some((3, 250)))];
    let records = (
        proptest::option::of(last),
        proptest::option::of(200u64..600),
        proptest::bool::weighted(0.3),
        floor,
    );
    (nodes, any::<bool>(), former, records).prop_map(|(nodes, synchronous, former, records)| {
        let (last, optime, failsafe, floor) = records;
        Race { nodes, synchronous, former, last, optime, failsafe, floor }
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

    /// I20: where somebody may lead somebody does, or there are two of them that nobody can choose
    /// between, and they say so.
    #[test]
    fn nobody_waits_for_one_that_never_leads(race in race(0..5).prop_map(Race::telling)) {
        let outcomes = race.outcomes();
        let may: Vec<usize> = (0..NAMES.len()).filter(|n| race.may_lead(*n)).collect();
        let in_doubt = |who: &NodeName| may.iter().any(|n| NAMES[*n] == who.as_str());
        let undecidable = may.iter().any(|n| {
            matches!(&outcomes[*n],
                Reason::NotCandidate(Unfit::HistoriesPart(other)) if in_doubt(other))
        });
        let wins = outcomes.contains(&Reason::RaceWon);
        prop_assert_eq!(wins || undecidable, !may.is_empty(), "{:?}", outcomes);
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
