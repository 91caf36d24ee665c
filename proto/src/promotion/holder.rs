//! The holder that a promotion replaces, and the sites that survive it: what `primary` and the reports tell
//! of them, gathered in one place for the plan and for the site's leader.
//!
//! Invariant: what is not known never speaks for a promotion.

use std::time::Duration;

use super::{Loss, Writing};
use crate::lsn::Lsn;
use crate::record::{Primary, Report, ReportedRole};
use crate::time::WallTime;
use crate::timeline::{Ancestry, Containment, Following, HistoryPoint};

/// A server's history, where it is known, and the end of its WAL.
pub type Server<'a> = (Option<&'a Ancestry>, Lsn);

/// The server that would be promoted. Instants by its own site's wall clocks.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Now.
    pub now: WallTime,
    /// When the last transaction that it has replayed was committed.
    pub last_commit: Option<WallTime>,
    /// How far it has replayed.
    pub replayed: Lsn,
    /// The end of its WAL.
    pub end: Lsn,
}

/// How a server's history lies to the old holder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// It leads to where the old holder is, however short it is.
    Continues,
    /// It left that way: promoted, it would bring back what an earlier promotion has given up.
    Left,
    /// That cannot be told: an id is missing.
    Untold,
}

/// Another site that survives, beside the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Survivor {
    /// The target has all of its WAL.
    NotAhead,
    /// It has so many bytes more.
    Ahead(u64),
    /// The two have parted, and it is on the later timeline, or on another one of the same number.
    Newer,
    /// It does not tell how far it is: its PostgreSQL does not run, or has not answered yet. What it had it
    /// has.
    Untold,
}

/// The holder, as far as `primary` and its site's last report under this epoch tell.
#[derive(Debug, Clone, Copy)]
pub struct OldHolder<'a> {
    floor: Option<&'a HistoryPoint>,
    report: Option<&'a Report>,
}

impl<'a> OldHolder<'a> {
    /// `report`: the last one of `primary`'s holder. One of another epoch tells of another tenure.
    #[must_use]
    pub fn new(primary: &'a Primary, report: Option<&'a Report>) -> Self {
        let report = report.filter(|report| report.epoch == primary.epoch);
        Self { floor: primary.floor.as_ref(), report }
    }

    /// Its history.
    #[must_use]
    pub fn history(&self) -> Option<&'a Ancestry> {
        let report = self.report?;
        match report.role {
            ReportedRole::Down => None,
            ReportedRole::Standby | ReportedRole::Primary => report.ancestry.as_ref(),
        }
    }

    /// Whether a server's history is one that a promotion may go on with. What left the holder's way
    /// has to be rewound first.
    #[must_use]
    pub fn way(&self, server: (&Ancestry, Lsn)) -> Way {
        match (self.way_of_floor(server), self.way_of_report(server)) {
            (Way::Left, _) | (_, Way::Left) => Way::Left,
            (Way::Untold, _) | (_, Way::Untold) => Way::Untold,
            (Way::Continues, Way::Continues) => Way::Continues,
        }
    }

    fn way_of_floor(&self, (own, end): (&Ancestry, Lsn)) -> Way {
        match self.floor.map(|floor| own.contains(end, floor)) {
            None | Some(Containment::Contained | Containment::Behind) => Way::Continues,
            Some(Containment::Diverged) => Way::Left,
            Some(Containment::Unknown) => Way::Untold,
        }
    }

    fn way_of_report(&self, (own, end): (&Ancestry, Lsn)) -> Way {
        let Some(holder) = self.history() else { return Way::Continues };
        // Another server of that site may have been promoted since, and have gone on from there.
        let reported = self.report.and_then(|report| report.position);
        if reported.is_some_and(|at| holder.following(at, own) == Following::Streams) {
            return Way::Continues;
        }
        match own.following(end, holder) {
            Following::Streams => Way::Continues,
            Following::Rewinds | Following::Copies => Way::Left,
            Following::Unknown => Way::Untold,
        }
    }

    /// What the target would lose.
    #[must_use]
    pub fn loss(&self, target: &Target, writing: Writing) -> Loss {
        let known = self.report.and_then(|report| report.position);
        // Where its site only has a standby, that one's end bounds nothing: the primary may have been far
        // ahead of it.
        let wrote = self.report.filter(|report| match report.role {
            ReportedRole::Primary => true,
            ReportedRole::Standby | ReportedRole::Down => false,
        });
        let told = wrote.and_then(|report| report.position_at).zip(known);
        let floor = self.floor.map(|floor| floor.position);
        let ahead = known.map(|known| floor.map_or(known, |floor| known.max(floor)));
        let ahead = ahead.map(|known| known.bytes_since(target.end));
        Loss::of(target.complete_age(told), writing, ahead)
    }
}

impl Survivor {
    /// What a site that reports has which the target lacks. `None`: the target does not tell how far it is.
    #[must_use]
    pub fn reported(own: Option<Server<'_>>, report: &Report) -> Self {
        match own.zip(report.position) {
            Some((own, reached)) => Self::beside(own, (report.ancestry.as_ref(), reached)),
            None => Self::Untold,
        }
    }

    /// What another site has that the target lacks. How old its report is does not matter: what it had
    /// it has.
    #[must_use]
    pub fn beside((own, end): Server<'_>, (theirs, reached): Server<'_>) -> Self {
        let by_bytes = match reached.bytes_since(end) {
            0 => Survivor::NotAhead,
            bytes => Survivor::Ahead(bytes),
        };
        let (Some(own), Some(theirs)) = (own, theirs) else { return by_bytes };
        match (own.following(end, theirs), theirs.following(reached, own)) {
            (Following::Streams, _) => by_bytes,
            (_, Following::Streams) => Survivor::NotAhead,
            (Following::Unknown, _) | (_, Following::Unknown) => by_bytes,
            // Which of two that have parted was given up before, a number alone does not prove, nor a history
            // that may be cut short: who has more bytes is ahead, and so is who is on the later timeline.
            (Following::Rewinds | Following::Copies, Following::Rewinds | Following::Copies) => {
                if theirs.timeline < own.timeline {
                    by_bytes
                } else {
                    Survivor::Newer
                }
            }
        }
    }
}

impl Target {
    /// How long ago it surely had everything that was acknowledged: since the last commit that it has
    /// replayed, or since the old holder told of an end of its WAL that it has too. All by wall clocks.
    /// `None`: not known.
    #[must_use]
    fn complete_age(&self, holder: Option<(WallTime, Lsn)>) -> Option<Duration> {
        let told = holder.filter(|(_, position)| *position <= self.replayed).map(|(at, _)| at);
        let at = self.last_commit.max(told)?;
        // Each is cut to whole milliseconds.
        Some(Duration::from_millis(self.now.0.saturating_sub(at.0).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Switch, TimelineId};

    #[test]
    fn a_target_is_complete_up_to_its_last_commit_or_to_what_the_holder_told() {
        let at = |second: u64, position| Some((WallTime(second * 1000), Lsn::new(position)));
        for (last_commit, holder, seconds) in [
            (Some(80), None, Some(10)),
            (Some(80), at(85, 500), Some(5)),
            (Some(80), at(85, 501), Some(10)),
            (Some(80), at(70, 400), Some(10)),
            (None, at(85, 400), Some(5)),
            (None, at(85, 501), None),
            (None, None, None),
            // A writer's clock that is ahead.
            (Some(95), None, Some(0)),
        ] {
            let target = Target {
                now: WallTime(90_000),
                last_commit: last_commit.map(|second: u64| WallTime(second * 1000)),
                replayed: Lsn::new(500),
                end: Lsn::new(600),
            };
            let wanted =
                seconds.map(|seconds| Duration::from_secs(seconds) + Duration::from_millis(1));
            assert_eq!(target.complete_age(holder), wanted, "{last_commit:?} {holder:?}");
        }
    }

    /// A history up to that timeline; those above 1 carry the ids `p2`, `p3`, and so on.
    fn history(timeline: u32, switches: &[(u32, u64)]) -> Ancestry {
        let switch = |&(timeline, end)| Switch {
            timeline: TimelineId(timeline),
            end: Lsn::new(end),
            promotion: None,
        };
        let mut history = Ancestry {
            timeline: TimelineId(timeline),
            promotion: None,
            switches: switches.iter().map(switch).collect(),
        };
        for unnamed in history.unnamed() {
            history.name(unnamed, &format!("p{unnamed}").parse().expect("an id"));
        }
        history
    }

    fn point(timeline: u32, position: u64, promotion: Option<&str>) -> HistoryPoint {
        HistoryPoint {
            timeline: TimelineId(timeline),
            position: Lsn::new(position),
            promotion: promotion.map(|id| id.parse().expect("an id")),
        }
    }

    /// A report of the present epoch, from which only its history is asked here.
    fn report(ancestry: &Ancestry, position: Option<u64>) -> Report {
        let text = serde_json::json!({
            "version": 1, "site": "eu", "node": "eu1", "sequence": 1, "at": 0, "epoch": 3,
            "generation": 1, "role": "primary", "nodes": [], "synchronous_mode": false,
            "agent": "0", "ancestry": ancestry,
            "position": position.map(Lsn::new),
        });
        serde_json::from_value(text).expect("a report")
    }

    #[test]
    fn a_history_that_left_the_holders_way_is_not_promoted() {
        let (on_one, on_two) = (history(1, &[]), history(2, &[(1, 50)]));
        let mut unnamed = on_two.clone();
        unnamed.promotion = None;
        let (two, one) = (|at| point(2, at, Some("p2")), |at| point(1, at, None));
        let end = Lsn::new;
        for (what, own, floor, holder, way) in [
            ("streams", (&on_two, end(70)), Some(two(60)), Some(&on_two), Way::Continues),
            ("has not reached the floor", (&on_two, end(55)), Some(two(60)), None, Way::Continues),
            (
                "has not heard of the switch",
                (&on_one, end(40)),
                Some(one(30)),
                Some(&on_two),
                Way::Continues,
            ),
            (
                "went on beyond the switch",
                (&on_one, end(60)),
                Some(one(30)),
                Some(&on_two),
                Way::Left,
            ),
            ("left before the floor", (&on_two, end(70)), Some(one(60)), None, Way::Left),
            ("nothing is known of the holder", (&on_one, end(60)), None, None, Way::Continues),
            (
                "another promotion's floor",
                (&on_two, end(70)),
                Some(point(2, 60, Some("q2"))),
                None,
                Way::Left,
            ),
            (
                "a floor without an id",
                (&on_two, end(70)),
                Some(point(2, 60, None)),
                None,
                Way::Untold,
            ),
            ("a history without an id", (&unnamed, end(70)), None, Some(&on_two), Way::Untold),
            (
                "without an id, and left before the floor",
                (&unnamed, end(70)),
                Some(one(60)),
                Some(&on_two),
                Way::Left,
            ),
        ] {
            let report = holder.map(|history| report(history, None));
            let old = OldHolder { floor: floor.as_ref(), report: report.as_ref() };
            assert_eq!(old.way(own), way, "{what}");
        }
    }

    /// The old site has failed over once more and could not tell of it any more.
    #[test]
    fn who_went_on_from_what_the_holder_reported_continues() {
        let (one, two) = (history(1, &[]), history(2, &[(1, 50)]));
        for (reported, way) in
            [(Some(50), Way::Continues), (Some(51), Way::Left), (None, Way::Left)]
        {
            let report = report(&one, reported);
            let old = OldHolder { floor: None, report: Some(&report) };
            assert_eq!(old.way((&two, Lsn::new(70))), way, "{reported:?}");
        }
    }

    /// No position is no position of 0.
    #[test]
    fn who_tells_no_position_may_have_more() {
        let one = history(1, &[]);
        let own = Some((Some(&one), Lsn::new(70)));
        for (own, theirs, found) in [
            (own, Some(70), Survivor::NotAhead),
            (own, Some(71), Survivor::Ahead(1)),
            (own, None, Survivor::Untold),
            (None, Some(70), Survivor::Untold),
        ] {
            assert_eq!(Survivor::reported(own, &report(&one, theirs)), found, "{theirs:?}");
        }
    }

    /// Positions of two histories say nothing of each other.
    #[test]
    fn a_survivor_is_ahead_by_its_history_first() {
        let (one, two) = (history(1, &[]), history(2, &[(1, 50)]));
        let mut other_two = history(2, &[(1, 40)]);
        other_two.promotion = Some("q2".parse().expect("an id"));
        let mut unnamed = two.clone();
        unnamed.promotion = None;
        // A later timeline whose history file is gone.
        let mut cut = history(3, &[]);
        cut.promotion = Some("p3".parse().expect("an id"));
        for (what, own, end, theirs, reached, found) in [
            ("as much", &one, 70, Some(&one), 70, Survivor::NotAhead),
            ("less", &one, 70, Some(&one), 60, Survivor::NotAhead),
            ("more", &one, 70, Some(&one), 73, Survivor::Ahead(3)),
            ("a history nobody knows", &one, 70, None, 73, Survivor::Ahead(3)),
            ("a later timeline further on", &one, 50, Some(&two), 73, Survivor::Ahead(23)),
            ("a later timeline just begun", &one, 50, Some(&two), 50, Survivor::NotAhead),
            ("an earlier timeline", &two, 73, Some(&one), 50, Survivor::NotAhead),
            ("left, and short", &one, 70, Some(&two), 60, Survivor::Newer),
            ("left, and long", &one, 70, Some(&two), 90, Survivor::Newer),
            ("was left, and is longer", &two, 60, Some(&one), 90, Survivor::Ahead(30)),
            ("another of that number", &two, 60, Some(&other_two), 55, Survivor::Newer),
            ("one that cannot be told", &two, 60, Some(&unnamed), 63, Survivor::Ahead(3)),
            ("the same, not longer", &two, 60, Some(&unnamed), 60, Survivor::NotAhead),
            ("was left, and is shorter", &two, 90, Some(&one), 60, Survivor::NotAhead),
            ("its history is cut short", &two, 60, Some(&cut), 90, Survivor::Ahead(30)),
        ] {
            let theirs = (theirs, Lsn::new(reached));
            assert_eq!(Survivor::beside((Some(own), Lsn::new(end)), theirs), found, "{what}");
        }
    }
}
