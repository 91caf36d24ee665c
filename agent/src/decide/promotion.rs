//! A promotion of this site, as its leader sees it: `primary` is fenced for it, so that nobody renews,
//! acquires or takes any more. It takes primacy when the old holder can't acknowledge anything any more,
//! and what is lost then is within what a person has accepted (protocol.md section 2, *promote*; rules 4,
//! 11, 12 and 18). Needs no coordinator from the fence on.

use std::fmt;
use std::time::Duration;

use regent_proto::name::SiteName;
use regent_proto::promotion::{AcceptedLoss, Loss, OldHolder, Survivor, Target, Way, Writing};
use regent_proto::record::Primary;
use regent_proto::time::LeaseTiming;
use regent_proto::timeline::{Containment, HistoryPoint};

use super::view::{At, FederationView, SiteView, Status};
use super::{Action, Choice, Judge, LOOK_AGAIN, Reason};

/// How soon a site that may not take yet looks again: what it waits for comes with a record, or with
/// the replay of WAL that it has.
const AGAIN: Duration = Duration::from_millis(250);

/// Why a site that `primary` is fenced for does not take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It has left the electorate.
    NoMember,
    /// Its history does not lead to where the old holder is, or it cannot be told yet.
    Diverged,
    /// This site has more, or has parted from this one's history on a later timeline.
    Behind(SiteName),
    /// This site does not tell how far its WAL goes.
    Untold(SiteName),
    /// The old holder may still acknowledge.
    OldLease,
    /// More than was accepted.
    Loss,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember => f.write_str("it has left the electorate"),
            Self::Diverged => f.write_str(
                "its history does not lead to the old holder's, or that cannot be told yet",
            ),
            Self::Behind(site) => write!(
                f,
                "{site} has more WAL, or is on a later timeline, and is not left out of account"
            ),
            Self::Untold(site) => write!(
                f,
                "{site} does not tell how far its WAL goes, and is not left out of account"
            ),
            Self::OldLease => f.write_str("the old primary may still acknowledge"),
            Self::Loss => f.write_str("more would be lost than was accepted"),
        }
    }
}

impl Judge<'_> {
    /// Every condition alone holds the promotion.
    pub(super) fn promote_site(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &At<Primary>,
        accepted: &AcceptedLoss,
        status: &Status,
    ) -> Choice {
        let held = |why, again| Choice::wait_for(Reason::AwaitingPromotion(why), again);
        if !primary.value.electorate.contains(&federation.site) {
            return held(Held::NoMember, AGAIN);
        }
        if let Some(choice) = self.unguarded() {
            // As before a take.
            return choice;
        }
        let end = HistoryPoint {
            timeline: status.ancestry.timeline,
            // What was received may end within a record, at which no server opens.
            position: status.replayed,
            promotion: status.ancestry.promotion.clone(),
        };
        // Without its promotion's id the floor could not be told from another history's.
        let named = status.ancestry.contains(status.replayed, &end) == Containment::Contained;
        let reported = federation.reports.get(&primary.value.holder);
        let old = OldHolder::new(&primary.value, reported.map(AsRef::as_ref));
        let continues = match old.way((&status.ancestry, status.end)) {
            Way::Continues => true,
            Way::Left | Way::Untold => false,
        };
        if !named || !continues {
            return held(Held::Diverged, AGAIN);
        }
        if let Some(ahead) = ahead(federation, &primary.value, accepted, status) {
            return held(ahead, AGAIN);
        }
        let left = LeaseTiming::wait_for(primary.value.ttl_max).saturating_sub(waited(federation));
        if !left.is_zero() {
            return held(Held::OldLease, left);
        }
        if let Some(until) = self.view.failsafe.takes_not_before
            && self.view.now < until
        {
            return Choice::wait_for(Reason::AwaitingPromise, until.since(self.view.now));
        }
        if self.unconfirmed(site, status, end.position) {
            return Choice::wait_for(Reason::AwaitingConfirmation, LOOK_AGAIN);
        }
        let loss = self.loss(&old, federation, &primary.value, status);
        if !loss.is_within(accepted) {
            return held(Held::Loss, AGAIN);
        }
        let primary_revision = primary.revision;
        let promote = Action::PromoteSite { primary_revision, end, loss };
        Choice::act(Reason::PromotingSite, vec![promote])
    }

    fn loss(
        &self,
        old: &OldHolder<'_>,
        federation: &FederationView,
        primary: &Primary,
        status: &Status,
    ) -> Loss {
        let by_lease = Writing::by_lease(waited(federation), primary.ttl_max);
        // A promise of this site's may have let the old holder go on for longer than its lease.
        let promised = self.view.failsafe.last_promise_ends;
        let writing =
            promised.map_or(by_lease, |end| by_lease.or(Writing::until(end, self.view.now)));
        let target = Target {
            now: status.wall,
            last_commit: status.last_commit,
            replayed: status.replayed,
            end: status.end,
        };
        old.loss(&target, writing)
    }
}

/// Since an instant after the old holder's last acknowledged renewal was sent. No renewal is applied
/// after the fence, and one that was seen before it is credited while `lease` is as it was (rule 4).
fn waited(federation: &FederationView) -> Duration {
    federation.primary_age.max(federation.lease_age)
}

/// A surviving site that has what this one lacks, or does not tell, unless a person says that it does not
/// count.
fn ahead(
    federation: &FederationView,
    primary: &Primary,
    accepted: &AcceptedLoss,
    status: &Status,
) -> Option<Held> {
    let own = (Some(&status.ancestry), status.end);
    let mut others = federation.reports.iter().filter(|(site, _)| {
        **site != federation.site && **site != primary.holder && !accepted.without.contains(*site)
    });
    others.find_map(|(site, report)| match Survivor::reported(Some(own), report) {
        Survivor::NotAhead => None,
        Survivor::Ahead(_) | Survivor::Newer => Some(Held::Behind(site.clone())),
        Survivor::Untold => Some(Held::Untold(site.clone())),
    })
}
