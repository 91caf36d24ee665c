//! The bounds that are searched, and the mutants: one condition each, two where either alone is the
//! other's second line.

use std::fmt;

use super::rules::{HIGH, LOW};
use super::{BACK, BACK_TO_ONE, FLOOR, LOST, OLDER, PERSISTED, READABLE, TWO};
use crate::run::Size;

/// How much happens.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent kind of event")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Sites; the third enters the electorate where `adds`, else from the start.
    pub sites: u8,
    /// Handovers.
    pub handovers: u8,
    /// Fences.
    pub fences: u8,
    /// Failovers inside sites.
    pub failovers: u8,
    /// Acknowledged rows.
    pub rows: u8,
    /// Requests in flight.
    pub requests: u8,
    /// A node reads before it is fenced for, so that its wait may be credited.
    pub credit: bool,
    /// Failsafe.
    pub promises: bool,
    /// The third site is added to the electorate, and it alone is fenced for.
    pub adds: bool,
    /// The third site is taken out of the electorate, and it alone is fenced for.
    pub removes: bool,
    /// The TTL is lowered.
    pub lowers: bool,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sites, {} handovers, {} fences, {} failovers, {} rows, {} requests in flight",
            self.sites, self.handovers, self.fences, self.failovers, self.rows, self.requests
        )?;
        for (on, what) in [
            (self.fences > 0 && !self.credit, "no credit"),
            (self.promises, "promises"),
            (self.adds, "C enters the electorate"),
            (self.removes, "C leaves the electorate"),
            (self.lowers, "TTL lowered"),
        ] {
            if on {
                write!(f, ", {what}")?;
            }
        }
        Ok(())
    }
}

const NOTHING: Bounds = Bounds {
    sites: 2,
    handovers: 0,
    fences: 0,
    failovers: 0,
    rows: 0,
    requests: 2,
    credit: true,
    promises: false,
    adds: false,
    removes: false,
    lowers: false,
};
/// There and back.
const SWITCHOVERS: Bounds = Bounds { handovers: 2, rows: 1, ..NOTHING };
const FAILOVERS: Bounds = Bounds { failovers: 1, ..SWITCHOVERS };
const PROMOTION: Bounds = Bounds { fences: 1, rows: 1, ..NOTHING };
/// A promotion out of a handover, and a handover after a promotion.
const SUPERSEDING: Bounds = Bounds { handovers: 1, requests: 1, ..PROMOTION };
const PROMISES: Bounds = Bounds { promises: true, failovers: 1, requests: 1, rows: 0, ..PROMOTION };
/// A switchover beside promises: the take waits for none (the product's waits for those of another
/// tenure), so it shows that it need not.
const PROMISED_SWITCHOVER: Bounds =
    Bounds { promises: true, handovers: 2, requests: 1, rows: 0, ..NOTHING };
const ADDING: Bounds = Bounds { sites: 3, adds: true, failovers: 0, ..PROMISES };
const REMOVING: Bounds = Bounds { adds: false, removes: true, ..ADDING };
const LOWERING: Bounds = Bounds { lowers: true, rows: 0, requests: 1, ..PROMOTION };
/// A site leaves the electorate while primacy is on its way to it, or there.
const LEAVING: Bounds =
    Bounds { sites: 3, handovers: 1, fences: 1, removes: true, rows: 0, requests: 1, ..NOTHING };
/// A request to lower that comes late, beside a renewal.
const LATE_LOWERING: Bounds = Bounds { requests: 2, credit: false, ..LOWERING };

const COMING_BACK: Bounds = Bounds { handovers: 1, failovers: 1, rows: 1, requests: 1, ..NOTHING };

impl Bounds {
    /// The longest TTL.
    pub(super) fn longest(&self) -> u8 {
        if self.lowers { HIGH } else { LOW }
    }

    /// Whether this site may be fenced for.
    pub(super) fn promotes(&self, at: usize) -> bool {
        self.fences > 0 && (at == 2 || !(self.adds || self.removes))
    }

    /// Those in which every state is asked for the way back.
    #[must_use]
    pub fn of_progress(size: Size) -> Vec<Self> {
        match size {
            Size::Short => vec![COMING_BACK],
            Size::Long => vec![COMING_BACK, LEAVING],
        }
    }

    /// Those that are searched.
    #[must_use]
    pub fn of(size: Size) -> Vec<Self> {
        match size {
            Size::Short => {
                let promises = Bounds { failovers: 0, ..PROMISES };
                vec![SWITCHOVERS, Bounds { requests: 1, ..PROMOTION }, promises]
            }
            Size::Long => vec![
                SWITCHOVERS,
                PROMOTION,
                Bounds { failovers: 0, ..PROMISES },
                Bounds { credit: false, ..PROMISES },
                Bounds { requests: 1, ..FAILOVERS },
                LOWERING,
                LATE_LOWERING,
                SUPERSEDING,
                PROMISED_SWITCHOVER,
                ADDING,
                REMOVING,
                LEAVING,
                Bounds { sites: 3, requests: 1, ..SWITCHOVERS },
            ],
        }
    }
}

/// One condition broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Rule 1: the deadline counts from the answer.
    DeadlineAnchoredAtReceive,
    /// Rule 4: no wait after the fence.
    NoWaitAfterTheFence,
    /// Rule 4: the wait counts from an instant of another node's boot clock.
    WaitFromAnotherProcess,
    /// Rule 4: the wait counts from the sending of the reading.
    WaitAnchoredAtTheSending,
    /// Rule 4: the wait does not start over when `primary` changed.
    WaitNotStartedOver,
    /// Rule 4: credit although `lease` was renewed.
    CreditAcrossAChangedLease,
    /// Table: *renew* compares no `primary`.
    RenewalComparesNoPrimary,
    /// Table: *acquire* compares no `primary`.
    AcquireComparesNoPrimary,
    /// Rule 5: the stop without a mark, which goes back on its own judgement.
    StopWithoutMark,
    /// Rule 5: the mark leaves tenure and deadline.
    MarkKeepsTheDeadline,
    /// Rule 5: the answer to a request of before the mark gives a deadline.
    MarkLetsEarlierRequestsRaise,
    /// Rule 5: the mark falls without a CAS, and left the deadline.
    ReopenWithoutACasWithDKept,
    /// Rule 5: the mark falls in any state, and *token* compares no `lease`.
    MarkFallsInAnyStateAndTokenComparesNoLease,
    /// *Token* compares no `lease`, and the mark bars nothing.
    TokenComparesNoLeaseAndTheMarkDoesNotBar,
    /// *Roll-back* is a put.
    RollBackAsAPut,
    /// *Handover* is a put.
    CoordinatorWritesWithoutCompares,
    /// *Take* looks neither at its WAL nor at the floor.
    TakeWithoutWalAndFloor,
    /// Rule 7: the floor is tested at opening alone.
    FloorTestedAtOpeningOnly,
    /// Rule 7: the floor is tested nowhere.
    OpeningWithoutTheFloor,
    /// Rule 11: the promise is in the leader's memory.
    PromiseInMemory,
    /// Rule 11: a promotion does not wait for its own promise.
    PromotionIgnoresItsPromise,
    /// Electorate: the new member is asked once it is known to be one.
    NewMemberAskedOnlyWhenKnown,
    /// Electorate: a member is added while the deadline rests on promises.
    AddedWhileDRestsOnPromises,
    /// Electorate: a site is fenced for, and promoted, that has left it.
    FencedForWhoIsNoMember,
    /// Electorate: a site takes that has left it since the handover.
    TakenByNoMember,
    /// Electorate: a site is promoted that has left it since the fence.
    PromotedThoughNoMember,
    /// Electorate: the holder is removed.
    TheHolderLeaves,
    /// Rule 11: a round is complete with the first answer.
    OneAnswerIsEnough,
    /// Rule 11: it asks whom `primary` names by now, which its tenure does not compare; and who has
    /// left the electorate since the fence is promoted.
    AsksThePresentElectorate,
    /// Rule 3: it renews against what it reads after a refusal, whatever that is.
    RenewsWhateverItReads,
    /// Rule 7: who lacks the floor keeps the site's leader key.
    NeverGivesWay,
    /// Rule 1: what is read back counts from the latest request.
    ReadBackWithTheLatestSend,
    /// Limits: lowering keeps the deadline.
    LoweringKeepsTheDeadline,
    /// Limits: lowering compares no `lease`.
    LoweringComparesNoLease,
    /// Rule 2: after a restart it opens because the site has a lease.
    OpeningBeforeTheReading,
    /// Rule 8: the epoch is not written down.
    EpochNotPersisted,
    /// A take of unknown outcome is acted on.
    TakeActedOnUnknown,
    /// Rule 5: the mark stays.
    MarkNeverFalls,
    /// Rule 7: *acquire* does not look at the floor.
    AcquireWithoutTheFloor,
    /// Rule 9: nobody rolls back.
    NoRollBack,
    /// Table: nobody unfences.
    NoUnfence,
}

impl Mutant {
    /// All of them.
    pub const EACH: [Self; 41] = [
        Self::EpochNotPersisted,
        Self::TakeActedOnUnknown,
        Self::OpeningBeforeTheReading,
        Self::ReadBackWithTheLatestSend,
        Self::MarkNeverFalls,
        Self::AcquireWithoutTheFloor,
        Self::NoRollBack,
        Self::NoUnfence,
        Self::MarkFallsInAnyStateAndTokenComparesNoLease,
        Self::CoordinatorWritesWithoutCompares,
        Self::DeadlineAnchoredAtReceive,
        Self::NoWaitAfterTheFence,
        Self::WaitFromAnotherProcess,
        Self::WaitAnchoredAtTheSending,
        Self::WaitNotStartedOver,
        Self::CreditAcrossAChangedLease,
        Self::RenewalComparesNoPrimary,
        Self::AcquireComparesNoPrimary,
        Self::StopWithoutMark,
        Self::MarkKeepsTheDeadline,
        Self::MarkLetsEarlierRequestsRaise,
        Self::ReopenWithoutACasWithDKept,
        Self::TokenComparesNoLeaseAndTheMarkDoesNotBar,
        Self::RollBackAsAPut,
        Self::TakeWithoutWalAndFloor,
        Self::FloorTestedAtOpeningOnly,
        Self::OpeningWithoutTheFloor,
        Self::PromiseInMemory,
        Self::PromotionIgnoresItsPromise,
        Self::NewMemberAskedOnlyWhenKnown,
        Self::AddedWhileDRestsOnPromises,
        Self::FencedForWhoIsNoMember,
        Self::TakenByNoMember,
        Self::PromotedThoughNoMember,
        Self::TheHolderLeaves,
        Self::OneAnswerIsEnough,
        Self::AsksThePresentElectorate,
        Self::RenewsWhateverItReads,
        Self::NeverGivesWay,
        Self::LoweringKeepsTheDeadline,
        Self::LoweringComparesNoLease,
    ];

    /// The bounds in which it shows, and the property that catches it.
    #[must_use]
    pub fn caught_by(self) -> (Bounds, &'static str) {
        match self {
            Self::DeadlineAnchoredAtReceive
            | Self::NoWaitAfterTheFence
            | Self::WaitAnchoredAtTheSending
            | Self::CreditAcrossAChangedLease
            | Self::RenewalComparesNoPrimary
            | Self::AcquireComparesNoPrimary
            | Self::RenewsWhateverItReads
            | Self::ReadBackWithTheLatestSend => (PROMOTION, TWO),
            Self::WaitNotStartedOver => (Bounds { fences: 2, rows: 0, ..PROMOTION }, TWO),
            Self::WaitFromAnotherProcess => (Bounds { failovers: 1, rows: 0, ..PROMOTION }, TWO),
            Self::OpeningBeforeTheReading => (Bounds { failovers: 1, rows: 0, ..PROMOTION }, TWO),
            Self::StopWithoutMark
            | Self::ReopenWithoutACasWithDKept
            | Self::MarkFallsInAnyStateAndTokenComparesNoLease
            | Self::TokenComparesNoLeaseAndTheMarkDoesNotBar
            | Self::TakeActedOnUnknown
            | Self::RollBackAsAPut => (Bounds { handovers: 1, rows: 0, ..SWITCHOVERS }, TWO),
            Self::MarkKeepsTheDeadline | Self::MarkLetsEarlierRequestsRaise => {
                (Bounds { rows: 0, ..SWITCHOVERS }, OLDER)
            }
            Self::CoordinatorWritesWithoutCompares => (Bounds { rows: 0, ..SWITCHOVERS }, BACK),
            Self::TakeWithoutWalAndFloor => (SWITCHOVERS, LOST),
            Self::FloorTestedAtOpeningOnly => (Bounds { requests: 1, ..FAILOVERS }, FLOOR),
            Self::OpeningWithoutTheFloor => (Bounds { requests: 1, ..FAILOVERS }, LOST),
            Self::PromiseInMemory => (Bounds { credit: false, ..PROMISES }, TWO),
            Self::PromotionIgnoresItsPromise => {
                (Bounds { credit: false, failovers: 0, ..PROMISES }, TWO)
            }
            Self::NewMemberAskedOnlyWhenKnown | Self::AddedWhileDRestsOnPromises => {
                (Bounds { credit: false, ..ADDING }, TWO)
            }
            Self::FencedForWhoIsNoMember
            | Self::OneAnswerIsEnough
            | Self::AsksThePresentElectorate => (Bounds { credit: false, ..REMOVING }, TWO),
            Self::TakenByNoMember | Self::PromotedThoughNoMember | Self::TheHolderLeaves => {
                (LEAVING, READABLE)
            }
            Self::LoweringKeepsTheDeadline => (LOWERING, TWO),
            Self::LoweringComparesNoLease => (LATE_LOWERING, TWO),
            Self::EpochNotPersisted => (Bounds { handovers: 1, rows: 0, ..SWITCHOVERS }, PERSISTED),
            Self::MarkNeverFalls
            | Self::AcquireWithoutTheFloor
            | Self::NeverGivesWay
            | Self::NoRollBack => (COMING_BACK, BACK_TO_ONE),
            Self::NoUnfence => (LEAVING, BACK_TO_ONE),
        }
    }
}
