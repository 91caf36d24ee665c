//! What a person should know of a node whose decisions go on as if nothing were the matter: said among its
//! warnings, in `status`, REST and its report. Nothing is done about it here.

use std::time::Duration;

use super::view::{DiskEpoch, View};
use super::{Held, Reason, Unfit};

/// One sentence for each, without figures that change from round to round.
#[must_use]
pub fn warnings(view: &View, reason: &Reason, ttl: Duration) -> Vec<String> {
    let mut warnings = Vec::new();
    if wants_a_person(reason) {
        warnings.push(reason.to_string());
    }
    let disk = view.federation.as_ref().map(|federation| &federation.disk_epoch);
    // Whoever leads says it as its reason. Whoever follows would say it when it is too late: in the race.
    if let (Some(DiskEpoch::Unreadable(problem)), false) = (disk, says_the_epoch(reason)) {
        warnings.push(format!(
            "it cannot lead: the epoch on its disk cannot be read: {problem}; look with `regent-agent \
             CONFIG --show-epoch`, runbook the-epoch-is-unknown"
        ));
    }
    if view.site.as_ref().is_some_and(|site| site.age > ttl / 2) {
        warnings.push(format!(
            "the site DCS has not answered for more than {:?}: without it the right to write ends",
            ttl / 2
        ));
    }
    warnings
}

fn says_the_epoch(reason: &Reason) -> bool {
    matches!(reason, Reason::EpochUnknown(_))
}

/// Whether a node that stands there goes on only after somebody has done something.
fn wants_a_person(reason: &Reason) -> bool {
    match reason {
        Reason::AwaitingPromotion(held) => *held != Held::OldLease,
        Reason::ForeignData(_)
        | Reason::UnreadableData(_)
        | Reason::LeaderUnreadable
        | Reason::EpochOlder
        | Reason::EpochUnknown(_)
        | Reason::PromotionUnknown
        | Reason::NotCopied(_)
        | Reason::TwinLeads
        | Reason::KeysGone => true,
        Reason::NotCandidate(unfit) => matches!(unfit, Unfit::Unheard(_)),
        Reason::NoStore
        | Reason::Busy(_)
        | Reason::Backoff(_)
        | Reason::AwaitingRenewal
        | Reason::PrimacyUnknown
        | Reason::Bootstrap
        | Reason::AwaitingBootstrap
        | Reason::AwaitingSource
        | Reason::Cloning
        | Reason::RaceWon
        | Reason::AskingPeers
        | Reason::RetakingLeader
        | Reason::LeaderDeleted
        | Reason::StoppingWriter
        | Reason::Leading
        | Reason::NotReady(_)
        | Reason::Failsafe
        | Reason::AcquiringPrimary
        | Reason::EnteringEpoch
        | Reason::SynchronousBeforeOpening
        | Reason::Promoting
        | Reason::ArmingWatchdog
        | Reason::Starting
        | Reason::AwaitingServer
        | Reason::LacksFloor
        | Reason::LeadingStandby
        | Reason::Following
        | Reason::Turning
        | Reason::Rewinding
        | Reason::Recloning
        | Reason::OtherPromotion
        | Reason::NamingPromotion
        | Reason::AwaitingHistory
        | Reason::Marking
        | Reason::StoppingForHandover
        | Reason::PostingToken
        | Reason::AwaitingTake
        | Reason::RollingBack
        | Reason::AwaitingToken
        | Reason::AwaitingConfirmation
        | Reason::AwaitingPromise
        | Reason::Taking
        | Reason::PromotingSite
        | Reason::Fenced
        | Reason::ClearingMark
        | Reason::FinishingBootstrap
        | Reason::Synchronous
        | Reason::ListChanged
        | Reason::Slots
        | Reason::Checkpoint
        | Reason::Paused(_)
        | Reason::CopyingSlots
        | Reason::StartOverdue
        | Reason::RecordingOpening
        | Reason::Manual(_)
        | Reason::Reloading
        | Reason::RaisingParameters
        | Reason::Requested(_)
        | Reason::PrePromoting => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Stranded;
    use crate::decide::epoch::EpochUnknown;
    use crate::decide::tests::world::World;

    const TTL: Duration = Duration::from_secs(30);

    #[test]
    fn a_node_that_goes_on_by_itself_warns_of_nothing() {
        let view = World::new().view;
        assert_eq!(warnings(&view, &Reason::Following, TTL), Vec::<String>::new());
    }

    #[test]
    fn what_waits_for_a_person_is_said_in_its_reasons_words() {
        let view = World::new().view;
        let reason = Reason::NotCopied(Stranded::RewindOff);
        assert_eq!(warnings(&view, &reason, TTL), [reason.to_string()]);
        let unheard = Unfit::Unheard("a2".parse().expect("a name"));
        for (unfit, said) in [(unheard, 1), (Unfit::KeysGone, 0)] {
            assert_eq!(warnings(&view, &Reason::NotCandidate(unfit), TTL).len(), said);
        }
    }

    #[test]
    fn a_standby_that_could_not_lead_says_so_before_it_has_to() {
        let mut view = World::new().view;
        let federation = view.federation.as_mut().expect("a federation");
        federation.disk_epoch = DiskEpoch::Unreadable("garbage".to_owned());
        let said = warnings(&view, &Reason::Following, TTL);
        assert!(said.len() == 1 && said[0].contains("garbage"), "{said:?}");
        // Once, where it is the reason already.
        let unknown = Reason::EpochUnknown(EpochUnknown::DiskUnreadable("garbage".to_owned()));
        assert_eq!(warnings(&view, &unknown, TTL).len(), 1);
    }

    #[test]
    fn a_silent_dcs_is_said_after_half_the_ttl() {
        let mut view = World::new().view;
        view.site.as_mut().expect("a site").age = TTL / 2;
        assert!(warnings(&view, &Reason::Leading, TTL).is_empty());
        view.site.as_mut().expect("a site").age = TTL / 2 + Duration::from_millis(1);
        let said = warnings(&view, &Reason::Leading, TTL);
        assert!(said.len() == 1 && said[0].contains("15s"), "{said:?}");
    }
}
