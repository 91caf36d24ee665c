//! Timelines and their ancestry: which history a server's WAL belongs to.
//!
//! Two promotions that do not know of each other choose the same timeline number, so equal numbers
//! are not equal histories: ancestry is compared by (timeline, switch position, promotion id)
//! (I14; hazards.md section 4, facts 20 to 22).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::name::PromotionId;

/// PostgreSQL's timeline number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One line of a history file: `timeline` ended at `end`, where its successor began.
///
/// A record of an older version has no promotion id: who began that timeline is then unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left.
    pub end: Lsn,
    /// Who began that timeline, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionId>,
}

/// The history of a server: its present timeline and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ancestry {
    /// The present timeline.
    pub timeline: TimelineId,
    /// Who began the present timeline, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionId>,
    /// Earlier timelines, oldest first.
    #[serde(default)]
    pub switches: Vec<Switch>,
}

/// A point of a history: what a server must contain to count as its continuation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// The timeline the position lies on.
    pub timeline: TimelineId,
    /// End of the last record that must be there.
    pub position: Lsn,
    /// Who began that timeline, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionId>,
}

impl fmt::Display for HistoryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.position, self.timeline)
    }
}

/// How a point lies to a server's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Containment {
    /// The server's history goes through the point and its WAL reaches it.
    Contained,
    /// The server's history is on the way to the point but its WAL does not reach it yet.
    Behind,
    /// The server's history left the point's timeline before the point, or never was on it.
    Diverged,
    /// It has a timeline of that number, but whether it is the same one cannot be told.
    Unknown,
}

/// Whether two histories mean the same by a timeline number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sameness {
    /// One promotion, or the database's first timeline.
    Same,
    /// Two promotions that chose the same number.
    Different,
    /// An id is missing.
    Unknown,
}

/// How a server comes onto an upstream's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Following {
    /// Its present point lies on the upstream's way.
    Streams,
    /// It left that way at a switch that `pg_rewind` finds.
    Rewinds,
    /// It left that way where `pg_rewind` would find nothing to do or the wrong point: it compares
    /// numbers and positions, and here only the promotions differ.
    Copies,
    /// Whether it is on that way cannot be told: an id is missing.
    Unknown,
}

/// A timeline as part of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Branch<'a> {
    timeline: TimelineId,
    begin: Option<Lsn>,
    promotion: Option<&'a PromotionId>,
    /// `None`: it is the present one.
    end: Option<Lsn>,
}

/// What tells two timelines of one number apart, beside what is known to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Their promotions' ids; without one nobody can tell.
    Id,
    /// Where an id is missing, where they began.
    Begin,
    /// The same, but of the one that both are on still nobody can tell.
    BeginUnlessOwn,
}

impl Branch<'_> {
    /// Two branches of one number. The first timeline was begun by `initdb`; which one, the system
    /// identifier tells.
    fn same(&self, other: &Branch<'_>) -> Sameness {
        match (self.promotion, other.promotion) {
            _ if self.timeline.0 <= 1 => Sameness::Same,
            (Some(mine), Some(theirs)) if mine == theirs => Sameness::Same,
            (Some(_), Some(_)) => Sameness::Different,
            (None, _) | (_, None) => match (self.begin, other.begin) {
                (Some(mine), Some(theirs)) if mine != theirs => Sameness::Different,
                (Some(_) | None, Some(_) | None) => Sameness::Unknown,
            },
        }
    }

    fn same_by(&self, other: &Branch<'_>, by: By) -> Sameness {
        let known = self.same(other);
        let one_begin = self.begin.is_some() && self.begin == other.begin;
        let both_on_it = self.end.is_none() && other.end.is_none();
        match (known, by) {
            (Sameness::Unknown, By::Begin) if one_begin => Sameness::Same,
            (Sameness::Unknown, By::BeginUnlessOwn) if one_begin && !both_on_it => Sameness::Same,
            (_, By::Id | By::Begin | By::BeginUnlessOwn) => known,
        }
    }

    /// What `pg_rewind` takes for one: the two current ones of one number, and any that begin alike.
    fn looks_same(&self, other: &Branch<'_>) -> bool {
        let both_current = self.end.is_none() && other.end.is_none();
        both_current || self.begin.is_none() || self.begin == other.begin
    }
}

impl Ancestry {
    /// A server's history parsed from a history file (`TIMELINE\tPOSITION\tREASON` a line;
    /// PostgreSQL manual, "Timelines") for `timeline`. Lines that are not of this form are an
    /// error: a half-read history must not pass for a short one.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut switches: Vec<Switch> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || HistoryError { timeline, line: index + 1, text: line.to_owned() };
            let mut fields = line.split_whitespace();
            let parent = fields.next().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
            let end = fields.next().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
            let grows = switches.last().is_none_or(|s| s.timeline.0 < parent && s.end <= end);
            if !grows || parent >= timeline.0 {
                return Err(bad());
            }
            switches.push(Switch { timeline: TimelineId(parent), end, promotion: None });
        }
        Ok(Self { timeline, promotion: None, switches })
    }

    /// Where this history left `timeline`: `None` when it never was on it, `Some(None)` when it
    /// is on it still.
    #[must_use]
    pub fn left(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.switches.iter().find(|s| s.timeline == timeline).map(|s| Some(s.end))
    }

    /// Its timelines, the present one first.
    fn branches(&self) -> impl Iterator<Item = Branch<'_>> {
        let begin = |index: usize| index.checked_sub(1).and_then(|i| self.switches.get(i));
        let present = Branch {
            timeline: self.timeline,
            begin: self.switches.last().map(|switch| switch.end),
            promotion: self.promotion.as_ref(),
            end: None,
        };
        let earlier = self.switches.iter().enumerate().rev().map(move |(index, switch)| Branch {
            timeline: switch.timeline,
            begin: begin(index).map(|before| before.end),
            promotion: switch.promotion.as_ref(),
            end: Some(switch.end),
        });
        std::iter::once(present).chain(earlier)
    }

    fn branch(&self, timeline: TimelineId) -> Option<Branch<'_>> {
        self.branches().find(|branch| branch.timeline == timeline)
    }

    /// Where a timeline of this history began, where its history file told.
    #[must_use]
    pub fn begin(&self, timeline: TimelineId) -> Option<Lsn> {
        self.branch(timeline)?.begin
    }

    /// Timelines that a promotion began and whose id is missing.
    #[must_use]
    pub fn unnamed(&self) -> Vec<TimelineId> {
        let unnamed = |branch: &Branch<'_>| branch.timeline.0 > 1 && branch.promotion.is_none();
        self.branches().filter(unnamed).map(|branch| branch.timeline).collect()
    }

    /// Notes who began a timeline of this history.
    pub fn name(&mut self, timeline: TimelineId, promotion: &PromotionId) {
        if timeline == self.timeline {
            self.promotion = Some(promotion.clone());
        }
        for switch in self.switches.iter_mut().filter(|switch| switch.timeline == timeline) {
            switch.promotion = Some(promotion.clone());
        }
    }

    /// How `point` lies to a server with this history whose WAL ends at `end`.
    #[must_use]
    pub fn contains(&self, end: Lsn, point: &HistoryPoint) -> Containment {
        let Some(branch) = self.branch(point.timeline) else {
            // Below the point's timeline: only the point's own history could tell; a server that
            // is on an older timeline follows it when that history left here at or after `end`.
            let below = self.timeline < point.timeline;
            return if below { Containment::Behind } else { Containment::Diverged };
        };
        if branch.end.is_some_and(|left| left < point.position) {
            return Containment::Diverged;
        }
        let theirs = Branch { begin: None, promotion: point.promotion.as_ref(), ..branch };
        match branch.same(&theirs) {
            Sameness::Same if end >= point.position => Containment::Contained,
            Sameness::Same => Containment::Behind,
            Sameness::Different => Containment::Diverged,
            Sameness::Unknown => Containment::Unknown,
        }
    }

    /// How a server with this history, whose WAL ends at `end`, comes onto an upstream's. A timeline
    /// of one promotion has one past, so the highest one that both know decides.
    #[must_use]
    pub fn following(&self, end: Lsn, upstream: &Self) -> Following {
        self.following_by(end, upstream, By::Id)
    }

    /// The same for an upstream whose word names no promotions, and for histories that came from there:
    /// where an id is missing, timelines of one number that began at one position count as one. Not where
    /// both are on it still and this server `wrote` it: two that opened at the same end chose the same.
    #[must_use]
    pub fn following_unnamed(&self, end: Lsn, upstream: &Self, wrote: bool) -> Following {
        let by = if wrote { By::BeginUnlessOwn } else { By::Begin };
        self.following_by(end, upstream, by)
    }

    fn following_by(&self, end: Lsn, upstream: &Self, by: By) -> Following {
        let mut blind = false;
        for mine in self.branches() {
            let Some(theirs) = upstream.branch(mine.timeline) else { continue };
            match mine.same_by(&theirs, by) {
                Sameness::Same if blind => return Following::Copies,
                Sameness::Same => {
                    let reaches = theirs.end.is_none_or(|left| end <= left);
                    let stays = mine.end.is_none() && reaches;
                    return if stays { Following::Streams } else { Following::Rewinds };
                }
                Sameness::Different => blind |= mine.looks_same(&theirs),
                Sameness::Unknown => return Following::Unknown,
            }
        }
        Following::Unknown
    }

    /// The last point that both histories go through, as far as they tell: its timeline, and its
    /// position where one of them has left it. `None` where a missing id leaves it open.
    #[must_use]
    pub fn parting(&self, other: &Self) -> Option<(TimelineId, Option<Lsn>)> {
        self.parting_by(other, By::Id)
    }

    /// The same for histories that name no promotions, as [`Self::following_unnamed`].
    #[must_use]
    pub fn parting_unnamed(&self, other: &Self) -> Option<(TimelineId, Option<Lsn>)> {
        self.parting_by(other, By::Begin)
    }

    fn parting_by(&self, other: &Self, by: By) -> Option<(TimelineId, Option<Lsn>)> {
        for mine in self.branches() {
            let Some(theirs) = other.branch(mine.timeline) else { continue };
            match mine.same_by(&theirs, by) {
                Sameness::Same => {
                    let earlier = match (mine.end, theirs.end) {
                        (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
                        (Some(end), None) | (None, Some(end)) => Some(end),
                        (None, None) => None,
                    };
                    return Some((mine.timeline, earlier));
                }
                Sameness::Different => {}
                Sameness::Unknown => return None,
            }
        }
        None
    }

    /// Whether this history has left the timeline that `other` is on: `other` has not heard of a
    /// later promotion. The number alone would not tell (two promotions may choose it).
    #[must_use]
    pub fn has_left(&self, other: &Self) -> bool {
        let left = self.branch(other.timeline).filter(|branch| branch.end.is_some());
        let present = other.branch(other.timeline);
        left.zip(present).is_some_and(|(left, present)| left.same(&present) == Sameness::Same)
    }

    /// Whether a server with this history, whose WAL ends at `end`, can follow an upstream with
    /// history `upstream` without rewind: its present point lies on the upstream's way.
    #[must_use]
    pub fn can_follow(&self, end: Lsn, upstream: &Self) -> bool {
        self.following(end, upstream) == Following::Streams
    }
}

/// A history file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "history of timeline {timeline}, line {line}: {text:?} is not \"TIMELINE POSITION REASON\" in \
     growing order; do not start this server before its pg_wal is checked"
)]
pub struct HistoryError {
    /// The timeline whose history file it is.
    pub timeline: TimelineId,
    /// Line number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    /// Timelines above 1 carry the ids `aa2`, `aa3`, and so on.
    fn history(timeline: u32, switches: &[(u32, u64)]) -> Ancestry {
        let mut history = unnamed(timeline, switches);
        for t in history.unnamed() {
            history.name(t, &id(&format!("aa{t}")));
        }
        history
    }

    fn unnamed(timeline: u32, switches: &[(u32, u64)]) -> Ancestry {
        let switches = switches
            .iter()
            .map(|&(t, end)| Switch { timeline: TimelineId(t), end: lsn(end), promotion: None })
            .collect();
        Ancestry { timeline: TimelineId(timeline), promotion: None, switches }
    }

    fn id(text: &str) -> PromotionId {
        text.parse().expect("an identifier")
    }

    fn point(timeline: u32, position: u64) -> HistoryPoint {
        let promotion = (timeline > 1).then(|| id(&format!("aa{timeline}")));
        HistoryPoint { timeline: TimelineId(timeline), position: lsn(position), promotion }
    }

    /// An upstream that names no promotions is judged by where its timelines began.
    #[test]
    fn without_ids_a_timeline_is_the_one_that_began_there_unless_this_server_wrote_it() {
        let (named, bare) = (history(2, &[(1, 100)]), unnamed(2, &[(1, 100)]));
        let (later, elsewhere) = (unnamed(3, &[(1, 100), (2, 200)]), unnamed(2, &[(1, 90)]));
        for (mine, end, upstream, wrote, wanted) in [
            (&named, 150, &bare, false, Following::Streams),
            (&bare, 150, &bare, false, Following::Streams),
            (&bare, 150, &named, false, Following::Streams),
            (&named, 150, &bare, true, Following::Unknown),
            // It was taken over there.
            (&named, 150, &later, true, Following::Streams),
            (&named, 200, &later, false, Following::Streams),
            (&named, 201, &later, false, Following::Rewinds),
            // It wrote a later one: what it wrote before is told by its begin again.
            (&later, 250, &bare, true, Following::Rewinds),
            (&named, 150, &elsewhere, false, Following::Copies),
        ] {
            let found = mine.following_unnamed(lsn(end), upstream, wrote);
            assert_eq!(found, wanted, "{mine:?} {end} {upstream:?} {wrote}");
        }
        let parting = named.parting_unnamed(&later);
        assert_eq!(parting, Some((TimelineId(2), Some(lsn(200)))), "where the other left it");
        assert_eq!(named.parting(&later), None, "and by ids nobody knows");
    }

    #[test]
    fn histories_part_where_the_first_of_them_left_the_last_common_timeline() {
        let at =
            |timeline: u32, position: Option<u64>| Some((TimelineId(timeline), position.map(lsn)));
        let one = history(1, &[]);
        let two = history(2, &[(1, 100)]);
        let three = history(3, &[(1, 100), (2, 200)]);
        assert_eq!(one.parting(&two), at(1, Some(100)), "left behind by a promotion");
        assert_eq!(two.parting(&one), at(1, Some(100)));
        assert_eq!(two.parting(&three), at(2, Some(200)));
        assert_eq!(two.parting(&two), at(2, None), "both are on it");
        let mut other = history(2, &[(1, 90)]);
        other.name(TimelineId(2), &id("bb2"));
        assert_eq!(two.parting(&other), at(1, Some(90)), "two promotions of one number");
        let unnamed = unnamed(2, &[(1, 100)]);
        assert_eq!(two.parting(&unnamed), None, "an id is missing");
    }

    #[test]
    fn an_older_timeline_is_left_behind_only_where_one_promotion_began_it() {
        let three = history(3, &[(1, 100), (2, 200)]);
        assert!(three.has_left(&history(2, &[(1, 100)])));
        assert!(three.has_left(&history(1, &[])));
        assert!(!three.has_left(&three));
        assert!(!history(2, &[(1, 100)]).has_left(&three));
        // The same number and the same position, of another promotion; and where nobody can tell.
        let mut other = history(2, &[(1, 100)]);
        other.promotion = Some(id("bb2"));
        assert!(!three.has_left(&other));
        other.promotion = None;
        assert!(!three.has_left(&other));
    }

    #[test]
    fn containment_table() {
        let on_three = history(3, &[(1, 100), (2, 200)]);
        for (end, at, want) in [
            (300, point(3, 250), Containment::Contained),
            (240, point(3, 250), Containment::Behind),
            (300, point(2, 200), Containment::Contained),
            (300, point(2, 201), Containment::Diverged),
            (300, point(1, 100), Containment::Contained),
            (300, point(1, 101), Containment::Diverged),
            (300, point(4, 250), Containment::Behind),
        ] {
            assert_eq!(on_three.contains(lsn(end), &at), want, "{end} {at}");
        }
    }

    #[test]
    fn a_point_of_another_or_an_unknown_promotion_is_not_contained() {
        let mine = history(3, &[(1, 100), (2, 200)]);
        for (t, position) in [(3, 250), (2, 150)] {
            let mut at = point(t, position);
            assert_eq!(mine.contains(lsn(500), &at), Containment::Contained);
            at.promotion = Some(id("bb"));
            assert_eq!(mine.contains(lsn(500), &at), Containment::Diverged, "{t}");
            at.promotion = None;
            assert_eq!(mine.contains(lsn(500), &at), Containment::Unknown, "{t}");
            let forgot = unnamed(3, &[(1, 100), (2, 200)]);
            assert_eq!(forgot.contains(lsn(500), &point(t, position)), Containment::Unknown);
        }
        // What was left before the point is diverged, whoever began it.
        assert_eq!(
            mine.contains(lsn(500), &HistoryPoint { promotion: None, ..point(2, 201) }),
            Containment::Diverged
        );
    }

    #[test]
    fn following_needs_to_have_stopped_before_the_switch() {
        let upstream = history(3, &[(1, 100), (2, 200)]);
        for (mine, end, want) in [
            (history(1, &[]), 100, Following::Streams),
            (history(1, &[]), 101, Following::Rewinds),
            (history(2, &[(1, 100)]), 200, Following::Streams),
            (history(2, &[(1, 100)]), 201, Following::Rewinds),
            (history(3, &[(1, 100), (2, 200)]), 900, Following::Streams),
            // A number the upstream never had: left at 1.
            (history(4, &[(1, 100)]), 90, Following::Rewinds),
        ] {
            assert_eq!(mine.following(lsn(end), &upstream), want, "{mine:?} at {end}");
        }
    }

    /// hazards.md row 72: where the lines that would tell are missing, nothing follows from it.
    #[test]
    fn a_history_that_lacks_the_common_timeline_proves_nothing() {
        let cut_short = history(3, &[]);
        for end in [50, 100, 101, 900] {
            for mine in [history(1, &[]), history(2, &[(1, 100)])] {
                let following = mine.following(lsn(end), &cut_short);
                assert_eq!(following, Following::Unknown, "{mine:?} {end}");
                assert!(!mine.has_left(&cut_short), "{mine:?} {end}");
            }
        }
        // Of a history that begins later only what it still tells is used.
        let later = history(3, &[(2, 200)]);
        let two = history(2, &[(1, 100)]);
        assert_eq!(two.following(lsn(201), &later), Following::Rewinds);
        assert_eq!(history(1, &[]).following(lsn(50), &later), Following::Unknown);
    }

    /// Two promotions of one parent that chose the same number.
    #[test]
    fn the_same_number_from_two_promotions_is_not_the_same_history() {
        let named = |mut history: Ancestry, t: u32, text: &str| {
            history.name(TimelineId(t), &id(text));
            history
        };
        let other = |history| named(history, 2, "bb2");
        for (what, mine, upstream, want) in [
            (
                "present, same switch",
                other(history(2, &[(1, 100)])),
                history(2, &[(1, 100)]),
                Following::Copies,
            ),
            // pg_rewind compares the present numbers first.
            (
                "present, other switch",
                other(history(2, &[(1, 99)])),
                history(2, &[(1, 100)]),
                Following::Copies,
            ),
            (
                "the upstream went on",
                other(history(2, &[(1, 100)])),
                history(3, &[(1, 100), (2, 200)]),
                Following::Copies,
            ),
            (
                "… other switch",
                other(history(2, &[(1, 99)])),
                history(3, &[(1, 100), (2, 200)]),
                Following::Rewinds,
            ),
            (
                "this one went on",
                other(history(3, &[(1, 100), (2, 200)])),
                history(2, &[(1, 100)]),
                Following::Copies,
            ),
            (
                "both went on",
                named(other(history(3, &[(1, 100), (2, 200)])), 3, "bb3"),
                history(3, &[(1, 100), (2, 200)]),
                Following::Copies,
            ),
            ("mine unknown", unnamed(2, &[(1, 100)]), history(2, &[(1, 100)]), Following::Unknown),
            (
                "theirs unknown",
                history(2, &[(1, 100)]),
                unnamed(2, &[(1, 100)]),
                Following::Unknown,
            ),
            (
                "theirs unknown below",
                history(2, &[(1, 100)]),
                named(unnamed(3, &[(1, 100), (2, 200)]), 3, "aa3"),
                Following::Unknown,
            ),
            (
                "no history file",
                named(unnamed(2, &[]), 2, "bb2"),
                history(2, &[(1, 100)]),
                Following::Unknown,
            ),
            (
                "no history file, same id",
                named(unnamed(2, &[]), 2, "aa2"),
                history(2, &[(1, 100)]),
                Following::Streams,
            ),
            // Positions alone tell two promotions apart, and pg_rewind sees it too.
            (
                "unknown, other switch",
                unnamed(2, &[(1, 99)]),
                history(3, &[(1, 100), (2, 200)]),
                Following::Rewinds,
            ),
        ] {
            assert_eq!(mine.following(lsn(110), &upstream), want, "{what}");
            assert_eq!(mine.can_follow(lsn(110), &upstream), want == Following::Streams, "{what}");
        }
        // One promotion has one past: ids below it need not be known.
        let forgetful = named(unnamed(3, &[(1, 100), (2, 200)]), 3, "aa3");
        assert!(forgetful.can_follow(lsn(300), &history(3, &[(1, 100), (2, 200)])));
    }

    #[test]
    fn ids_are_kept_in_records_and_missing_in_older_ones() {
        let mine = history(3, &[(1, 100), (2, 200)]);
        let text = serde_json::to_string(&mine).expect("it has a form");
        assert_eq!(serde_json::from_str::<Ancestry>(&text).expect("its own form"), mine);
        let older = r#"{"timeline":2,"switches":[{"timeline":1,"end":"0/64"}]}"#;
        let older: Ancestry = serde_json::from_str(older).expect("an older form");
        assert_eq!(older.unnamed(), vec![TimelineId(2)]);
    }

    #[test]
    fn history_files_are_read_whole_or_refused() {
        let text = "1\t0/5000060\tno recovery target specified\n\n2\t0/6000000\tx\n";
        let parsed = Ancestry::parse(TimelineId(3), text).expect("well formed");
        assert_eq!(parsed.switches.len(), 2);
        for bad in ["1", "1\tx", "2\t0/5\n1\t0/6", "3\t0/1", "1\t0/9\n2\t0/5"] {
            assert!(Ancestry::parse(TimelineId(3), bad).is_err(), "{bad}");
        }
    }
}
