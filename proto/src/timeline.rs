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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left.
    pub end: Lsn,
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
            switches.push(Switch { timeline: TimelineId(parent), end });
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

    /// How `point` lies to a server with this history whose WAL ends at `end`.
    #[must_use]
    pub fn contains(&self, end: Lsn, point: &HistoryPoint) -> Containment {
        if point.timeline == self.timeline {
            if let (Some(mine), Some(theirs)) = (&self.promotion, &point.promotion)
                && mine != theirs
            {
                return Containment::Diverged;
            }
            return if end >= point.position {
                Containment::Contained
            } else {
                Containment::Behind
            };
        }
        match self.left(point.timeline) {
            Some(Some(switch)) if switch < point.position => Containment::Diverged,
            Some(Some(_)) if end >= point.position => Containment::Contained,
            Some(Some(_) | None) => Containment::Behind,
            // Below the point's timeline: only the point's own history could tell; a server that
            // is on an older timeline follows it when that history left here at or after `end`.
            None if self.timeline < point.timeline => Containment::Behind,
            None => Containment::Diverged,
        }
    }

    /// Whether a server with this history, whose WAL ends at `end`, can follow an upstream with
    /// history `upstream` without rewind: its present point lies on the upstream's way.
    #[must_use]
    pub fn can_follow(&self, end: Lsn, upstream: &Self) -> bool {
        if self.timeline == upstream.timeline {
            return match (&self.promotion, &upstream.promotion) {
                (Some(mine), Some(theirs)) => mine == theirs,
                (None, _) | (_, None) => self.switches == upstream.switches,
            };
        }
        match upstream.left(self.timeline) {
            Some(Some(switch)) => end <= switch && self.is_prefix_of(upstream),
            Some(None) | None => false,
        }
    }

    fn is_prefix_of(&self, other: &Self) -> bool {
        self.switches.iter().zip(&other.switches).all(|(a, b)| a == b)
            && self.switches.len() < other.switches.len()
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

    fn history(timeline: u32, switches: &[(u32, u64)]) -> Ancestry {
        Ancestry {
            timeline: TimelineId(timeline),
            promotion: None,
            switches: switches
                .iter()
                .map(|&(t, end)| Switch { timeline: TimelineId(t), end: lsn(end) })
                .collect(),
        }
    }

    fn point(timeline: u32, position: u64) -> HistoryPoint {
        HistoryPoint { timeline: TimelineId(timeline), position: lsn(position), promotion: None }
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
    fn same_number_from_two_promotions_is_not_the_same_history() {
        let mut mine = history(2, &[(1, 100)]);
        mine.promotion = "aa".parse().ok();
        let mut at = point(2, 90);
        at.promotion = "bb".parse().ok();
        assert_eq!(mine.contains(lsn(500), &at), Containment::Diverged);
        let mut upstream = mine.clone();
        upstream.promotion = "bb".parse().ok();
        assert!(!mine.can_follow(lsn(110), &upstream));
        // Unknown ids: the switch positions decide.
        assert!(!history(2, &[(1, 100)]).can_follow(lsn(110), &history(2, &[(1, 101)])));
    }

    #[test]
    fn following_needs_to_have_stopped_before_the_switch() {
        let upstream = history(3, &[(1, 100), (2, 200)]);
        assert!(history(2, &[(1, 100)]).can_follow(lsn(200), &upstream));
        assert!(!history(2, &[(1, 100)]).can_follow(lsn(201), &upstream));
        assert!(!history(2, &[(1, 99)]).can_follow(lsn(150), &upstream));
        assert!(!history(4, &[(1, 100)]).can_follow(lsn(90), &upstream));
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
