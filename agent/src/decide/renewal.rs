//! What a refused renewal of the primary lease means (protocol.md rule 3).

use regent_proto::epoch::Epoch;
use regent_proto::name::{SiteName, Tenure};
use regent_proto::record::{Lease, Primary, PrimaryState};

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
