//! How two members stand to each other when the leader key is free: whose WAL goes further, and
//! whether it is one history at all (spec/patroni-compat.md 3.4, member comparison; I14, I16).
//!
//! Ancestry decides where both tell theirs. A Patroni member tells none, and of some promotions the
//! id is missing: then the timelines' numbers are compared, as Patroni does.

use std::cmp::Ordering;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, PromotionId};
use regent_proto::timeline::{Ancestry, Following, Switch, TimelineId};

use super::view::SiteView;

/// A member's WAL, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wal<'a> {
    /// Whose.
    pub name: &'a NodeName,
    /// Where it ends.
    pub end: Lsn,
    /// Its timeline.
    pub timeline: Option<TimelineId>,
    /// How it came there.
    pub ancestry: Option<&'a Ancestry>,
}

/// Where another member stands, seen from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// All of its WAL is in this node's, which has more.
    Behind,
    /// The same WAL.
    Equal,
    /// All of this node's WAL is in its, which has more.
    Ahead,
    /// Their histories have parted.
    Diverged(Newer),
}

/// Which of two histories that have parted counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// This node's.
    Mine,
    /// The other's.
    Theirs,
    /// Nobody can tell.
    Undecidable,
}

/// What the last leader left in the store of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last<'a> {
    /// Who it was; Patroni's `history` does not tell.
    pub node: Option<&'a NodeName>,
    /// Its history, or the one that it was about to promote from.
    pub ancestry: &'a Ancestry,
    /// It was about to promote, with WAL up to here.
    pub promotes_at: Option<Lsn>,
}

impl<'a> Last<'a> {
    /// `regent/promotions`; or Patroni's `history` where that tells of a later timeline and was
    /// written since: a Patroni member has led meanwhile.
    #[must_use]
    pub fn of(site: &'a SiteView) -> Option<Self> {
        let named = site.promotions.as_ref();
        let since = |revision: u64| named.is_none_or(|named| named.revision < revision);
        let later = |told: &Ancestry| {
            named.is_none_or(|named| named.value.ancestry.timeline < told.timeline)
        };
        let told = site.history.as_ref();
        let told = told.filter(|told| since(told.revision) && later(&told.value));
        let told = told.map(|told| Self { node: None, ancestry: &told.value, promotes_at: None });
        told.or_else(|| {
            let record = &named?.value;
            let (node, promotes_at) = (Some(&record.node), record.promotes_at);
            Some(Self { node, ancestry: &record.ancestry, promotes_at })
        })
    }

    /// It, or a leader before it, left that timeline there. Where it was about to, and did not tell of it
    /// any more, a switch that is not before that point leaves nothing out either.
    #[must_use]
    pub fn left_at(&self, switch: &Switch) -> bool {
        let one = |theirs: Option<&PromotionId>| {
            theirs.zip(switch.promotion.as_ref()).is_none_or(|(theirs, this)| theirs == this)
        };
        let told = self.ancestry.switches.iter().any(|left| {
            (left.timeline, left.end) == (switch.timeline, switch.end)
                && one(left.promotion.as_ref())
        });
        let promotes = self.ancestry.timeline == switch.timeline
            && self.promotes_at.is_some_and(|at| switch.end >= at)
            && one(self.ancestry.promotion.as_ref());
        told || promotes
    }

    /// How a history that has parted from another lies to the last leader's way.
    fn place(&self, wal: Wal<'_>, history: &Ancestry) -> Place {
        let itself = self.node == Some(wal.name);
        if history.has_left(self.ancestry) && (itself || self.promotes_at.is_some()) {
            // It was promoted from there. That it was by that very promotion is certain of the node
            // alone that wrote the record: nobody else promotes under the key without writing it anew.
            return if itself { Place::On } else { Place::Unknown };
        }
        match history.following(wal.end, self.ancestry) {
            Following::Streams => {
                // On the timeline that was left, beyond the point where it was left.
                let past = history.timeline == self.ancestry.timeline
                    && self.promotes_at.is_some_and(|at| wal.end > at);
                if past && !itself { Place::Off } else { Place::On }
            }
            Following::Rewinds | Following::Copies => Place::Off,
            Following::Unknown => Place::Unknown,
        }
    }
}

/// In the order in which two that have parted count: one of them only is on the last leader's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// It has left that way.
    Off,
    /// It cannot be told.
    Unknown,
    /// It is on it.
    On,
}

/// Compares. `last` is what the last leader left in the store.
#[must_use]
pub fn compare(mine: Wal<'_>, other: Wal<'_>, last: Option<Last<'_>>) -> Standing {
    let (Some(my_history), Some(their_history)) = (mine.ancestry, other.ancestry) else {
        return by_number(mine, other);
    };
    let i_follow = my_history.following(mine.end, their_history);
    let it_follows = their_history.following(other.end, my_history);
    match (i_follow, it_follows) {
        (Following::Unknown, _) | (_, Following::Unknown) => by_number(mine, other),
        (Following::Streams, Following::Streams) => by_position(mine, other),
        // It went on from where this node is, or further on.
        (Following::Streams, Following::Rewinds | Following::Copies) => Standing::Ahead,
        (Following::Rewinds | Following::Copies, Following::Streams) => Standing::Behind,
        (Following::Rewinds | Following::Copies, Following::Rewinds | Following::Copies) => {
            Standing::Diverged(newer((mine, my_history), (other, their_history), last))
        }
    }
}

/// Today's timeline numbers, for want of more; one that is missing says nothing.
fn by_number(mine: Wal<'_>, other: Wal<'_>) -> Standing {
    match (mine.timeline, other.timeline) {
        (Some(my_timeline), Some(theirs)) if theirs > my_timeline => Standing::Ahead,
        (Some(my_timeline), Some(theirs)) if theirs < my_timeline => Standing::Behind,
        (Some(_) | None, Some(_) | None) => by_position(mine, other),
    }
}

fn by_position(mine: Wal<'_>, other: Wal<'_>) -> Standing {
    match other.end.cmp(&mine.end) {
        Ordering::Less => Standing::Behind,
        Ordering::Equal => Standing::Equal,
        Ordering::Greater => Standing::Ahead,
    }
}

/// Of two that have parted the one counts that is on the way of the last leader, and the one that a
/// promotion began after the other's: it left a timeline that the other is on still. Either tells
/// alone. Where they contradict each other nobody can tell: the record may be older than the
/// promotion, and the promotion may be one that nobody was to make.
fn newer(
    (my_wal, mine): (Wal<'_>, &Ancestry),
    (their_wal, theirs): (Wal<'_>, &Ancestry),
    last: Option<Last<'_>>,
) -> Newer {
    let by_last = last.map(|last| last.place(my_wal, mine).cmp(&last.place(their_wal, theirs)));
    let by_last = match by_last {
        Some(Ordering::Greater) => Some(Newer::Mine),
        Some(Ordering::Less) => Some(Newer::Theirs),
        Some(Ordering::Equal) | None => None,
    };
    let by_promotion = match (mine.has_left(theirs), theirs.has_left(mine)) {
        (true, false) => Some(Newer::Mine),
        (false, true) => Some(Newer::Theirs),
        (true, true) | (false, false) => None,
    };
    match (by_last, by_promotion) {
        (Some(last), Some(promotion)) if last != promotion => Newer::Undecidable,
        (Some(newer), _) | (None, Some(newer)) => newer,
        (None, None) => Newer::Undecidable,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::decide::tests::world::{World, promotions};
    use crate::decide::view::At;

    static NOBODY: LazyLock<NodeName> = LazyLock::new(|| "a9".parse().expect("a name"));

    fn at(history: &Ancestry, end: u64) -> Wal<'_> {
        named(&NOBODY, history, end)
    }

    fn named<'a>(name: &'a NodeName, history: &'a Ancestry, end: u64) -> Wal<'a> {
        let (end, timeline) = (Lsn::new(end), Some(history.timeline));
        Wal { name, end, timeline, ancestry: Some(history) }
    }

    /// The last leader, none of those that are compared, was open on this.
    fn open(ancestry: &Ancestry) -> Last<'_> {
        Last { node: None, ancestry, promotes_at: None }
    }

    /// Timelines above 1 carry the ids `TAG2`, `TAG3`, and so on; the tag of a switch is `aa`.
    fn history(tag: &str, timeline: u32, switches: &[(u32, u64)]) -> Ancestry {
        let id = |tag: &str, t: u32| (t > 1).then(|| format!("{tag}{t}").parse().expect("an id"));
        let switches = switches.iter().map(|&(t, end)| Switch {
            timeline: TimelineId(t),
            end: Lsn::new(end),
            promotion: id("aa", t),
        });
        Ancestry {
            timeline: TimelineId(timeline),
            promotion: id(tag, timeline),
            switches: switches.collect(),
        }
    }

    #[test]
    fn what_is_one_history_is_compared_by_position_and_a_later_timeline_is_ahead() {
        let (two, three) = (history("aa", 2, &[(1, 100)]), history("aa", 3, &[(1, 100), (2, 200)]));
        for (mine, other, standing) in [
            (at(&two, 150), at(&two, 150), Standing::Equal),
            (at(&two, 150), at(&two, 151), Standing::Ahead),
            (at(&two, 150), at(&two, 149), Standing::Behind),
            (at(&two, 200), at(&three, 201), Standing::Ahead),
            (at(&three, 201), at(&two, 200), Standing::Behind),
            (at(&three, 201), at(&two, 90), Standing::Behind),
        ] {
            assert_eq!(compare(mine, other, None), standing, "{mine:?} {other:?}");
        }
    }

    #[test]
    fn of_histories_that_have_parted_the_last_leaders_counts_then_the_later_promotion() {
        let two = history("aa", 2, &[(1, 100)]);
        let (three, other_three) =
            (history("aa", 3, &[(1, 100), (2, 200)]), history("bb", 3, &[(1, 100), (2, 200)]));
        let (four, five) = (
            history("aa", 4, &[(1, 100), (2, 200), (3, 300)]),
            history("bb", 5, &[(1, 100), (2, 200)]),
        );
        for (what, mine, other, last, newer) in [
            ("it wrote past the switch", at(&three, 250), at(&two, 260), None, Newer::Mine),
            ("this one did", at(&two, 260), at(&three, 250), None, Newer::Theirs),
            // The record may be older than the promotion, or nobody was to make that.
            ("they contradict", at(&two, 260), at(&three, 250), Some(&two), Newer::Undecidable),
            ("... seen from it", at(&three, 250), at(&two, 260), Some(&two), Newer::Undecidable),
            ("two of one number", at(&three, 250), at(&other_three, 260), None, Newer::Undecidable),
            ("one of them led", at(&three, 250), at(&other_three, 260), Some(&three), Newer::Mine),
            (
                "the other",
                at(&three, 250),
                at(&other_three, 260),
                Some(&other_three),
                Newer::Theirs,
            ),
            // The higher number is no proof: today it barred the other for ever.
            ("a higher number", at(&four, 350), at(&five, 350), None, Newer::Undecidable),
            ("... that never led", at(&four, 350), at(&five, 350), Some(&four), Newer::Mine),
            ("a lower one that led", at(&five, 350), at(&four, 350), Some(&four), Newer::Theirs),
            ("neither led", at(&four, 350), at(&five, 350), Some(&two), Newer::Undecidable),
        ] {
            let last = last.map(open);
            assert_eq!(compare(mine, other, last), Standing::Diverged(newer), "{what}");
        }
    }

    #[test]
    fn one_that_cannot_be_told_counts_before_one_that_is_off_the_way() {
        let (three, mut unnamed) =
            (history("aa", 3, &[(1, 100), (2, 200)]), history("aa", 3, &[(1, 100), (2, 200)]));
        unnamed.promotion = None;
        // It left timeline 1 elsewhere: certainly off the way of whoever is on timeline 3.
        let off = history("bb", 4, &[(1, 90)]);
        let last = Some(open(&unnamed));
        let (mine, other) = (at(&three, 250), at(&off, 250));
        assert_eq!(compare(mine, other, None), Standing::Diverged(Newer::Undecidable));
        assert_eq!(compare(mine, other, last), Standing::Diverged(Newer::Mine));
        assert_eq!(compare(other, mine, last), Standing::Diverged(Newer::Theirs));
    }

    #[test]
    fn patronis_history_counts_where_it_is_later_in_both_senses() {
        let (two, four) =
            (history("aa", 2, &[(1, 100)]), history("aa", 4, &[(1, 100), (2, 200), (3, 300)]));
        let of = |record: Option<&Ancestry>, told: Option<(&Ancestry, u64)>| {
            let mut world = World::new();
            // Its revision is 42.
            world.site().promotions =
                record.map(|record| promotions("a2", record.clone(), Some(150)));
            world.site().history =
                told.map(|(told, revision)| At { value: told.clone(), revision });
            let site = world.site();
            Last::of(site).map(|last| {
                let node = last.node.map(ToString::to_string);
                (node, last.ancestry.timeline.0, last.promotes_at.map(Lsn::get))
            })
        };
        let ours = |timeline| Some((Some("a2".to_owned()), timeline, Some(150)));
        let patronis = |timeline| Some((None, timeline, None));
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(&two), None), ours(2));
        assert_eq!(of(None, Some((&two, 1))), patronis(2));
        assert_eq!(of(Some(&two), Some((&four, 43))), patronis(4));
        assert_eq!(of(Some(&two), Some((&four, 41))), ours(2), "a leader has written since");
        assert_eq!(of(Some(&four), Some((&two, 43))), ours(4));
        assert_eq!(of(Some(&two), Some((&two, 43))), ours(2), "it has the ids");
    }

    #[test]
    fn without_ancestry_or_ids_the_numbers_count() {
        let (two, three) = (history("aa", 2, &[(1, 100)]), history("aa", 3, &[(1, 100), (2, 200)]));
        let mut forgot = three.clone();
        forgot.promotion = None;
        let patroni =
            |timeline, end| Wal { name: &NOBODY, end: Lsn::new(end), timeline, ancestry: None };
        let number = |n| Some(TimelineId(n));
        for (mine, other, standing) in [
            (at(&two, 260), patroni(number(3), 200), Standing::Ahead),
            (at(&three, 200), patroni(number(2), 260), Standing::Behind),
            (at(&two, 260), patroni(number(2), 261), Standing::Ahead),
            (at(&two, 260), patroni(None, 261), Standing::Ahead),
            (at(&two, 260), patroni(None, 260), Standing::Equal),
            (at(&three, 260), at(&forgot, 250), Standing::Behind),
        ] {
            assert_eq!(compare(mine, other, None), standing, "{mine:?} {other:?}");
        }
    }

    fn any_history() -> impl Strategy<Value = (Ancestry, u64)> {
        let tag = prop_oneof![Just("aa"), Just("bb")];
        let histories = prop_oneof![
            Just((1, vec![])),
            Just((2, vec![(1, 100)])),
            Just((2, vec![(1, 90)])),
            Just((3, vec![(1, 100), (2, 200)])),
            Just((3, vec![(1, 100)])),
            Just((4, vec![(1, 100), (2, 200), (3, 300)])),
        ];
        (tag, histories, 1u64..400).prop_map(|(tag, (timeline, switches), more)| {
            let begin = switches.last().map_or(0, |(_, end)| *end);
            (history(tag, timeline, &switches), begin + more)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// Two nodes never take each other for the one to wait for, nor each the other for the lesser.
        #[test]
        fn both_sides_see_the_same(
            (mine, my_end) in any_history(),
            (theirs, their_end) in any_history(),
            last in proptest::option::of(
                (any_history(), proptest::option::of(0usize..3), any::<bool>()),
            ),
        ) {
            let names: [NodeName; 3] = ["a1", "a2", "a3"].map(|name| name.parse().expect("a name"));
            let last = last.as_ref().map(|((ancestry, end), node, promotes)| Last {
                node: node.map(|node: usize| &names[node]),
                ancestry,
                promotes_at: promotes.then(|| Lsn::new(*end)),
            });
            let mine = named(&names[0], &mine, my_end);
            let theirs = named(&names[1], &theirs, their_end);
            let (here, there) = (compare(mine, theirs, last), compare(theirs, mine, last));
            let mirrored = match here {
                Standing::Behind => Standing::Ahead,
                Standing::Equal => Standing::Equal,
                Standing::Ahead => Standing::Behind,
                Standing::Diverged(Newer::Mine) => Standing::Diverged(Newer::Theirs),
                Standing::Diverged(Newer::Theirs) => Standing::Diverged(Newer::Mine),
                Standing::Diverged(Newer::Undecidable) => Standing::Diverged(Newer::Undecidable),
            };
            prop_assert_eq!(there, mirrored);
        }

        /// Whoever led last has what counts, against everybody whose history has parted from its own,
        /// whether it could tell of its promotion or not.
        #[test]
        fn the_last_leader_is_never_the_lesser(story in proptest::collection::vec(tenure(), 1..6)) {
            let mut site = Story::new();
            for tenure in &story {
                site.is_led(tenure);
            }
            let last = site.last();
            let leader = site.wal(site.leader);
            for other in (0..NODES).filter(|other| *other != site.leader) {
                let standing = compare(leader, site.wal(other), last);
                let parted = matches!(standing, Standing::Diverged(_));
                let counts = standing == Standing::Diverged(Newer::Mine);
                prop_assert!(!parted || counts, "{standing:?} beside {other}: {site:?}");
            }
            // Nor does one that followed it lose to what it left behind, while itself is away.
            let follows = |node: &usize| site.history(*node) == site.history(site.leader);
            for follower in (0..NODES).filter(follows) {
                for other in 0..NODES {
                    let standing = compare(site.wal(follower), site.wal(other), last);
                    prop_assert!(standing != Standing::Diverged(Newer::Theirs), "{site:?}");
                }
            }
        }
    }

    const NODES: usize = 4;

    /// Who leads next, what it writes, who follows it, and whether it could tell of its promotion.
    #[derive(Debug, Clone)]
    struct Tenure {
        node: usize,
        writes: u64,
        follow: [Option<u64>; NODES],
        tells: bool,
    }

    fn tenure() -> impl Strategy<Value = Tenure> {
        let follow = proptest::array::uniform4(proptest::option::of(0u64..100));
        (0..NODES, 0u64..100, follow, any::<bool>())
            .prop_map(|(node, writes, follow, tells)| Tenure { node, writes, follow, tells })
    }

    /// Nodes with their WAL, under leaders of which each writes down what it promotes from.
    #[derive(Debug)]
    struct Story {
        names: Vec<NodeName>,
        nodes: Vec<(Ancestry, u64)>,
        leader: usize,
        promotions: u32,
        record: (usize, Ancestry, Option<u64>),
    }

    impl Story {
        fn new() -> Self {
            let first = history("aa", 1, &[]);
            let names = (0..NODES).map(|n| format!("a{n}").parse().expect("a name")).collect();
            let nodes = vec![(first.clone(), 100); NODES];
            Self { names, nodes, leader: 0, promotions: 0, record: (0, first, None) }
        }

        fn is_led(&mut self, tenure: &Tenure) {
            let (mut ancestry, mut end) = self.nodes[tenure.node].clone();
            self.leader = tenure.node;
            self.record = (tenure.node, ancestry.clone(), Some(end));
            let Ancestry { timeline, promotion, .. } = ancestry.clone();
            ancestry.switches.push(Switch { timeline, end: Lsn::new(end), promotion });
            self.promotions += 1;
            ancestry.timeline = TimelineId(timeline.0 + 1);
            ancestry.promotion = format!("p{}", self.promotions).parse().ok();
            end += tenure.writes;
            self.nodes[tenure.node] = (ancestry.clone(), end);
            for (node, behind) in self.nodes.iter_mut().zip(tenure.follow) {
                let Some(behind) = behind else { continue };
                let (history, at) = &*node;
                let received = end.saturating_sub(behind);
                let begun = ancestry.switches.last().is_some_and(|at| received > at.end.get());
                if begun && history.can_follow(Lsn::new(*at), &ancestry) && received >= *at {
                    *node = (ancestry.clone(), received);
                }
            }
            if tenure.tells {
                self.record = (tenure.node, ancestry, None);
            }
        }

        fn history(&self, node: usize) -> &Ancestry {
            &self.nodes[node].0
        }

        fn wal(&self, node: usize) -> Wal<'_> {
            named(&self.names[node], self.history(node), self.nodes[node].1)
        }

        fn last(&self) -> Option<Last<'_>> {
            let (node, ancestry, promotes_at) = &self.record;
            let promotes_at = promotes_at.map(Lsn::new);
            Some(Last { node: Some(&self.names[*node]), ancestry, promotes_at })
        }
    }
}
