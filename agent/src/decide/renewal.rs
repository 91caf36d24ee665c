//! What a refused renewal of the primary lease means (protocol.md rule 3), and when nothing is renewed.

use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::name::{SiteName, Tenure};
use regent_proto::record::{Lease, Primary, PrimaryState};
use regent_proto::time::BootTime;

/// How long a round may take under any TTL: it waits for stores and for PostgreSQL several times, each
/// time within a bound of seconds.
const LONGEST_ROUND: Duration = Duration::from_secs(10);

/// Whether a main loop that last came round then hangs, by this TTL: neither lease is renewed for one
/// that does, so that somebody else can lead (I20; hazards.md row 69). Twice the TTL, and never less
/// than 10 s: overload alone must demote nobody. `None`: no loop is watched.
///
/// A round of failsafe questions that is under way may still end well, once.
#[must_use]
pub fn hangs(came_round: Option<BootTime>, now: BootTime, ttl: Duration) -> bool {
    came_round.is_some_and(|then| now.since(then) > (ttl * 2).max(LONGEST_ROUND))
}

/// What the renewal thread does after a refusal, from the records it then read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRefusal {
    /// Renew against the revisions just read and keep running until the deadline.
    Renew,
    /// The right is gone: fence now.
    Fence,
}

/// The holder's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Its site.
    pub site: &'a SiteName,
    /// The epoch it acquired.
    pub epoch: Epoch,
    /// Its tenure.
    pub tenure: &'a Tenure,
    /// The site is marked for a handover.
    pub marked: bool,
}

/// What a held tenure looks like when a round of promises comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each alone voids a promise")]
pub struct PromiseUse {
    /// The tenure was ended: the site is marked, or its key is lost.
    pub ended: bool,
    /// A renewal was refused and none was acknowledged since.
    pub refused: bool,
    /// PostgreSQL is open under this very tenure.
    pub open: bool,
    /// The deadline still lies ahead: a promise lets go on, it brings nothing back.
    pub ahead: bool,
}

impl PromiseUse {
    /// Whether promises may be asked for, and may raise the deadline (protocol.md rule 11).
    #[must_use]
    pub fn allowed(self) -> bool {
        !self.ended && !self.refused && self.open && self.ahead
    }
}

/// Judges a refusal. Absent or unreadable records are "anything else": fence.
#[must_use]
pub fn after_refusal(
    holder: &Holder<'_>,
    primary: Option<&Primary>,
    lease: Option<&Lease>,
) -> AfterRefusal {
    let (Some(primary), Some(lease)) = (primary, lease) else { return AfterRefusal::Fence };
    let lets_hold = match &primary.state {
        PrimaryState::Open => true,
        PrimaryState::Handover { .. } => !holder.marked,
        PrimaryState::Token { .. } | PrimaryState::Fenced { .. } => false,
    };
    let mine = primary.holder == *holder.site
        && primary.epoch == holder.epoch
        && primary.writes_fenced.is_none()
        && lease.tenure == *holder.tenure
        && !lease.released;
    if lets_hold && mine && !holder.marked { AfterRefusal::Renew } else { AfterRefusal::Fence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_hangs_once_it_has_not_come_round_for_two_ttls() {
        let at = |ms: u64| BootTime::from_nanos(ms * 1_000_000);
        let ttl = Duration::from_secs(30);
        assert!(!hangs(None, at(1_000_000), ttl), "nobody watches it");
        assert!(!hangs(Some(at(5_000)), at(65_000), ttl));
        assert!(hangs(Some(at(5_000)), at(65_001), ttl));
        assert!(!hangs(Some(at(5_000)), at(4_000), ttl), "it came round meanwhile");
        let short = Duration::from_secs(3);
        assert!(!hangs(Some(at(5_000)), at(15_000), short), "it may be slow");
        assert!(hangs(Some(at(5_000)), at(15_001), short));
    }
}
