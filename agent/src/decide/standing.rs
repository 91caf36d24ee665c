//! How two members stand to each other when the leader key is free: whose WAL goes further, and
//! whether it is one history at all (spec/patroni-compat.md 3.4, member comparison; I14, I16).
//!
//! Ancestry decides where both tell theirs. A Patroni member tells none, and of some promotions the
//! id is missing: then the timelines' numbers are compared, as Patroni does.

use regent_proto::lsn::Lsn;
use regent_proto::timeline::{Ancestry, Following, TimelineId};

/// A member's WAL, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wal<'a> {
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

/// Compares. `last` is the history that the last leader left in the store.
#[must_use]
pub fn compare(mine: Wal<'_>, other: Wal<'_>, last: Option<&Ancestry>) -> Standing {
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
            Standing::Diverged(newer((mine.end, my_history), (other.end, their_history), last))
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
        std::cmp::Ordering::Less => Standing::Behind,
        std::cmp::Ordering::Equal => Standing::Equal,
        std::cmp::Ordering::Greater => Standing::Ahead,
    }
}

/// Of two that have parted the one counts that is on the way of the last leader. Where that tells
/// nothing, the one that a promotion began after the other's: it left a timeline that the other is on
/// still.
fn newer(
    (my_end, mine): (Lsn, &Ancestry),
    (their_end, theirs): (Lsn, &Ancestry),
    last: Option<&Ancestry>,
) -> Newer {
    if let Some(last) = last {
        match (mine.following(my_end, last), theirs.following(their_end, last)) {
            (Following::Streams, Following::Rewinds | Following::Copies) => return Newer::Mine,
            (Following::Rewinds | Following::Copies, Following::Streams) => return Newer::Theirs,
            (
                Following::Streams | Following::Rewinds | Following::Copies | Following::Unknown,
                Following::Streams | Following::Rewinds | Following::Copies | Following::Unknown,
            ) => {}
        }
    }
    match (mine.has_left(theirs), theirs.has_left(mine)) {
        (true, false) => Newer::Mine,
        (false, true) => Newer::Theirs,
        (true, true) | (false, false) => Newer::Undecidable,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regent_proto::timeline::Switch;

    use super::*;

    fn at(history: &Ancestry, end: u64) -> Wal<'_> {
        Wal { end: Lsn::new(end), timeline: Some(history.timeline), ancestry: Some(history) }
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
            ("a rogue promotion", at(&two, 260), at(&three, 250), Some(&two), Newer::Mine),
            ("... seen from it", at(&three, 250), at(&two, 260), Some(&two), Newer::Theirs),
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
            assert_eq!(compare(mine, other, last), Standing::Diverged(newer), "{what}");
        }
    }

    #[test]
    fn without_ancestry_or_ids_the_numbers_count() {
        let (two, three) = (history("aa", 2, &[(1, 100)]), history("aa", 3, &[(1, 100), (2, 200)]));
        let mut forgot = three.clone();
        forgot.promotion = None;
        let patroni = |timeline, end| Wal { end: Lsn::new(end), timeline, ancestry: None };
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
            last in proptest::option::of(any_history()),
        ) {
            let last = last.as_ref().map(|(last, _)| last);
            let here = compare(at(&mine, my_end), at(&theirs, their_end), last);
            let there = compare(at(&theirs, their_end), at(&mine, my_end), last);
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
    }
}
