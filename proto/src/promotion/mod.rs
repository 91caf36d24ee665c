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

use crate::name::SiteName;
use crate::time::BootTime;

mod holder;

pub use holder::{OldHolder, Server, Survivor, Target, Way};

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
    /// `complete_age`: how long ago the target surely had everything that was acknowledged; `None`: not
    /// known. `ahead`: bytes that the target is known to lack, where that is known.
    #[must_use]
    pub fn of(complete_age: Option<Duration>, writing: Writing, ahead: Option<u64>) -> Self {
        let at_most =
            complete_age.map(|age| (age + writing.left).saturating_sub(writing.ended_ago));
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

/// For how long the old holder may go on to acknowledge, or how long ago it surely could for the last
/// time: one of the two is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writing {
    /// For so long still.
    pub left: Duration,
    /// Since so long not any more.
    pub ended_ago: Duration,
}

impl Writing {
    /// By its lease, which whoever asks has seen as it is for so long: its last renewal was sent before
    /// that, and gave it `ttl_max` at most.
    #[must_use]
    pub fn by_lease(unchanged: Duration, ttl_max: Duration) -> Self {
        Self {
            left: ttl_max.saturating_sub(unchanged),
            ended_ago: unchanged.saturating_sub(ttl_max),
        }
    }

    /// Until that instant.
    #[must_use]
    pub fn until(end: BootTime, now: BootTime) -> Self {
        Self { left: end.since(now), ended_ago: now.since(end) }
    }

    /// By the one or the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { left: self.left.max(other.left), ended_ago: self.ended_ago.min(other.ended_ago) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let by_lease = Writing::by_lease(S(now - seen), S(ttl));
            let loss = Loss::of(Some(S(now - commit)), by_lease, None);
            prop_assert!(loss.at_most >= Some(S(acknowledged - commit)));
        }

        /// The same where it went on by a promise for longer than by its lease, or shorter.
        #[test]
        fn nor_what_it_acknowledged_by_a_promise(
            lease_ended in 0u64..1_000,
            promise_ended in 0u64..1_000,
            now in 0u64..1_000,
            age in 0u64..1_000,
        ) {
            let at = |second: u64| BootTime::from_nanos(second * 1_000_000_000);
            let ttl = 2_000;
            let unchanged = (ttl + now).saturating_sub(lease_ended);
            let by_lease = Writing::by_lease(S(unchanged), S(ttl));
            let writing = by_lease.or(Writing::until(at(promise_ended), at(now)));
            prop_assert!(writing.left.is_zero() || writing.ended_ago.is_zero());
            let last = lease_ended.max(promise_ended);
            let commit = now.saturating_sub(age);
            let loss = Loss::of(Some(S(now - commit)), writing, None);
            prop_assert_eq!(loss.at_most, Some(S(last.saturating_sub(commit))));
        }
    }
}
