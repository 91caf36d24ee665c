//! What the promotion of a site gives up, and which server may be promoted at all: one arithmetic for the
//! plan that a person reads and for the site's leader, which asks it again in the moment of its
//! transaction (protocol.md rules 4, 12 and 18).
//!
//! A loss in time is an upper bound. A commit was acknowledged by the one writer of its instant, so a
//! server that has the commit of an instant has all that were acknowledged before it, and so has one
//! that has all WAL which the holder told of then; what it can lack was acknowledged between that instant
//! and the last one at which the old holder could. In bytes only what was reported is known: "at
//! least". The commit's instant is by its writer's wall clock, and
//! is compared with the target's: the bound is as good as the sites' clocks agree. It decides about a
//! loss that a person accepts, about no right.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::name::SiteName;
use crate::time::WallTime;
use crate::timeline::{Ancestry, Containment, Following, HistoryPoint};

/// What a person has accepted to lose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// Commits of at most so many milliseconds; `None`: of any span, also one that nobody knows.
    pub max_age_ms: Option<u64>,
    /// At most so many bytes, as far as they are known; `None`: any number.
    pub max_bytes: Option<u64>,
    /// Sites whose WAL is left out of account, however far they are.
    #[serde(default)]
    pub without: BTreeSet<SiteName>,
}

impl Default for AcceptedLoss {
    /// Nothing.
    fn default() -> Self {
        Self { max_age_ms: Some(0), max_bytes: Some(0), without: BTreeSet::new() }
    }
}

/// What a promotion loses, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Commits of at most this span; `None`: not known.
    pub at_most: Option<Duration>,
    /// At least so many bytes; `None`: how far the old holder was is not known.
    pub at_least_bytes: Option<u64>,
}

impl Loss {
    /// `complete_age`: as [`complete_age`] tells. `unchanged`: for how long the one who
    /// asks has seen `lease` as it is, so that its holder's last renewal was sent before that and gave
    /// it `ttl_max` at most. `ahead`: bytes that the target is known to lack, where that is known.
    #[must_use]
    pub fn of(
        complete_age: Option<Duration>,
        unchanged: Duration,
        ttl_max: Duration,
        ahead: Option<u64>,
    ) -> Self {
        let at_most = complete_age.map(|age| (age + ttl_max).saturating_sub(unchanged));
        Self { at_most, at_least_bytes: ahead }
    }

    /// In whole milliseconds, never less than it is.
    #[must_use]
    pub fn at_most_ms(&self) -> Option<u64> {
        let up = Duration::from_nanos(999_999);
        self.at_most.map(|age| u64::try_from((age + up).as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether it is within what was accepted.
    #[must_use]
    pub fn is_within(&self, accepted: &AcceptedLoss) -> bool {
        let age = accepted
            .max_age_ms
            .is_none_or(|most| self.at_most_ms().is_some_and(|at_most| at_most <= most));
        let bytes = accepted
            .max_bytes
            .is_none_or(|most| self.at_least_bytes.is_some_and(|at_least| at_least <= most));
        age && bytes
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at_most {
            Some(age) => write!(f, "commits of at most {:.1} s", age.as_secs_f64())?,
            None => f.write_str("commits of a span that is not known")?,
        }
        match self.at_least_bytes {
            Some(bytes) => write!(f, ", at least {bytes} bytes of WAL"),
            None => f.write_str(", WAL of a size that is not known"),
        }
    }
}

impl fmt::Display for AcceptedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_age_ms {
            Some(ms) => write!(f, "at most {:.1} s", Duration::from_millis(ms).as_secs_f64())?,
            None => f.write_str("any span")?,
        }
        if let Some(bytes) = self.max_bytes {
            write!(f, ", at most {bytes} bytes")?;
        }
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().map(SiteName::as_str).collect();
            write!(f, ", without {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// How long ago a target surely had everything that was acknowledged: since the last commit that it has
/// replayed, or since the old holder told of an end of its WAL that the target has too. All by wall
/// clocks; `now` is the target's. `None`: not known.
#[must_use]
pub fn complete_age(
    (now, last_commit, end): (WallTime, Option<WallTime>, Lsn),
    holder: Option<(WallTime, Lsn)>,
) -> Option<Duration> {
    let told = holder.filter(|(_, position)| *position <= end).map(|(at, _)| at);
    let at = last_commit.max(told)?;
    // Each is cut to whole milliseconds.
    Some(Duration::from_millis(now.0.saturating_sub(at.0).saturating_add(1)))
}

/// Whether a server's history is one that a promotion may go on with: a way to where the old holder
/// is, however short. What left that way would bring back what an earlier promotion has given up, and
/// has to be rewound first. `holder`: the old holder's history, where it is known.
#[must_use]
pub fn continues(
    (own, end): (&Ancestry, Lsn),
    floor: Option<&HistoryPoint>,
    holder: Option<&Ancestry>,
) -> bool {
    let floor = floor.is_none_or(|floor| match own.contains(end, floor) {
        Containment::Contained | Containment::Behind => true,
        Containment::Diverged | Containment::Unknown => false,
    });
    let on_the_way = holder.is_none_or(|holder| match own.following(end, holder) {
        Following::Streams => true,
        Following::Rewinds | Following::Copies | Following::Unknown => false,
    });
    floor && on_the_way
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::TimelineId;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn accepted(max_age_ms: Option<u64>, max_bytes: Option<u64>) -> AcceptedLoss {
        AcceptedLoss { max_age_ms, max_bytes, ..AcceptedLoss::default() }
    }

    #[test]
    fn a_loss_is_within_what_was_accepted_in_both_its_measures() {
        let loss = |at_most, bytes: u64| Loss { at_most, at_least_bytes: Some(bytes) };
        let unknown = Loss { at_most: Some(S(5)), at_least_bytes: None };
        for (loss, accepted, within) in [
            (loss(Some(S(5)), 10), accepted(Some(5_000), None), true),
            (loss(Some(S(5)), 10), accepted(Some(4_999), None), false),
            (loss(Some(S(5) + Duration::from_nanos(1)), 0), accepted(Some(5_000), None), false),
            (loss(Some(S(5)), 10), accepted(Some(5_000), Some(10)), true),
            (loss(Some(S(5)), 11), accepted(Some(5_000), Some(10)), false),
            (loss(None, 0), accepted(Some(u64::MAX), None), false),
            (loss(None, 0), accepted(None, Some(0)), true),
            (loss(None, 1), accepted(None, Some(0)), false),
            (loss(Some(S(0)), 0), AcceptedLoss::default(), true),
            (loss(Some(Duration::from_nanos(1)), 0), AcceptedLoss::default(), false),
            (unknown, accepted(None, None), true),
            (unknown, accepted(None, Some(u64::MAX)), false),
        ] {
            assert_eq!(loss.is_within(&accepted), within, "{loss} by {accepted}");
        }
    }

    proptest! {
        /// However the lease was renewed before it stood still: whatever its holder acknowledged after
        /// the target's last commit lies within the bound.
        #[test]
        fn nothing_that_could_be_acknowledged_lies_beyond_the_bound(
            renewal_sent in 0u64..1_000,
            seen_after in 0u64..100,
            asked_after in 0u64..1_000,
            ttl in 1u64..200,
            before_its_end in 1u64..300,
            after_the_commit in 1u64..300,
        ) {
            let seen = renewal_sent + seen_after;
            let now = seen + asked_after;
            let acknowledged = (renewal_sent + ttl).saturating_sub(before_its_end);
            let commit = acknowledged.saturating_sub(after_the_commit).min(now);
            let loss = Loss::of(Some(S(now - commit)), S(now - seen), S(ttl), None);
            prop_assert!(loss.at_most >= Some(S(acknowledged - commit)));
        }
    }

    #[test]
    fn a_target_is_complete_up_to_its_last_commit_or_to_what_the_holder_told() {
        let (now, end) = (WallTime(90_000), Lsn::new(500));
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
            let commit = last_commit.map(|second: u64| WallTime(second * 1000));
            let wanted = seconds.map(|seconds| S(seconds) + Duration::from_millis(1));
            assert_eq!(
                complete_age((now, commit, end), holder),
                wanted,
                "{last_commit:?} {holder:?}"
            );
        }
    }

    #[test]
    fn a_history_that_left_the_holders_way_is_not_promoted() {
        let first = |promotion: Option<&str>, timeline| Ancestry {
            timeline: TimelineId(timeline),
            promotion: promotion.map(|id| id.parse().expect("an id")),
            switches: Vec::new(),
        };
        let on_one = first(None, 1);
        let mut on_two = first(Some("p2"), 2);
        let left =
            crate::timeline::Switch { timeline: TimelineId(1), end: Lsn::new(50), promotion: None };
        on_two.switches.push(left);
        let point = |timeline, position, promotion: Option<&str>| HistoryPoint {
            timeline: TimelineId(timeline),
            position: Lsn::new(position),
            promotion: promotion.map(|id| id.parse().expect("an id")),
        };
        let end = Lsn::new;
        for (what, own, floor, holder, fits) in [
            ("streams", (&on_two, end(70)), Some(point(2, 60, Some("p2"))), Some(&on_two), true),
            (
                "has not reached the floor",
                (&on_two, end(55)),
                Some(point(2, 60, Some("p2"))),
                None,
                true,
            ),
            (
                "has not heard of the switch",
                (&on_one, end(40)),
                Some(point(1, 30, None)),
                Some(&on_two),
                true,
            ),
            (
                "went on beyond the switch",
                (&on_one, end(60)),
                Some(point(1, 30, None)),
                Some(&on_two),
                false,
            ),
            ("left before the floor", (&on_two, end(70)), Some(point(1, 60, None)), None, false),
            ("nothing is known of the holder", (&on_one, end(60)), None, None, true),
            (
                "another promotion's floor",
                (&on_two, end(70)),
                Some(point(2, 60, Some("q2"))),
                None,
                false,
            ),
        ] {
            assert_eq!(continues(own, floor.as_ref(), holder), fits, "{what}");
        }
    }
}
