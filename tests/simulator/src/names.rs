//! The names of what should happen sometimes. Each list comes with the match that counts by it, which
//! has no wildcard: a variant that is added to the product is asked for here, and then in a long run.

use regent_agent::decide::{Action, PausedAs, Reason, Unfit};
use regent_coordinator::decide::Reason as Judged;

use crate::faults::Kind;

/// A list of names, and which of them a value has.
macro_rules! names {
    ($(#[$doc:meta])* $list:ident, $of:ident: $type:ty { $($pattern:pat => $name:literal,)* }) => {
        $(#[$doc])*
        pub const $list: &[&str] = &[$($name),*];

        /// Which of them.
        #[must_use]
        pub fn $of(value: &$type) -> &'static str {
            match value {
                $($pattern => $name,)*
            }
        }
    };
}

names! {
    /// Why an agent decided as it did.
    REASONS, reason: Reason {
        Reason::NoStore => "reason: NoStore",
        Reason::Busy(_) => "reason: Busy",
        Reason::Backoff(_) => "reason: Backoff",
        Reason::ForeignData(_) => "reason: ForeignData",
        Reason::UnreadableData(_) => "reason: UnreadableData",
        Reason::LeaderUnreadable => "reason: LeaderUnreadable",
        Reason::AwaitingRenewal => "reason: AwaitingRenewal",
        Reason::PrimacyUnknown => "reason: PrimacyUnknown",
        Reason::EpochOlder => "reason: EpochOlder",
        Reason::EpochUnknown(_) => "reason: EpochUnknown",
        Reason::Bootstrap => "reason: Bootstrap",
        Reason::AwaitingBootstrap => "reason: AwaitingBootstrap",
        Reason::AwaitingSource => "reason: AwaitingSource",
        Reason::Cloning => "reason: Cloning",
        Reason::RaceWon => "reason: RaceWon",
        Reason::AskingPeers => "reason: AskingPeers",
        Reason::NotCandidate(_) => "reason: NotCandidate",
        Reason::RetakingLeader => "reason: RetakingLeader",
        Reason::TwinLeads => "reason: TwinLeads",
        Reason::LeaderDeleted => "reason: LeaderDeleted",
        Reason::StoppingWriter => "reason: StoppingWriter",
        Reason::Leading => "reason: Leading",
        Reason::NotReady(_) => "reason: NotReady",
        Reason::Failsafe => "reason: Failsafe",
        Reason::AcquiringPrimary => "reason: AcquiringPrimary",
        Reason::EnteringEpoch => "reason: EnteringEpoch",
        Reason::SynchronousBeforeOpening => "reason: SynchronousBeforeOpening",
        Reason::Promoting => "reason: Promoting",
        Reason::ArmingWatchdog => "reason: ArmingWatchdog",
        Reason::Starting => "reason: Starting",
        Reason::AwaitingServer => "reason: AwaitingServer",
        Reason::LacksFloor => "reason: LacksFloor",
        Reason::LeadingStandby => "reason: LeadingStandby",
        Reason::Following => "reason: Following",
        Reason::Turning => "reason: Turning",
        Reason::Rewinding => "reason: Rewinding",
        Reason::Recloning => "reason: Recloning",
        Reason::OtherPromotion => "reason: OtherPromotion",
        Reason::PromotionUnknown => "reason: PromotionUnknown",
        Reason::NamingPromotion => "reason: NamingPromotion",
        Reason::AwaitingHistory => "reason: AwaitingHistory",
        Reason::Marking => "reason: Marking",
        Reason::StoppingForHandover => "reason: StoppingForHandover",
        Reason::PostingToken => "reason: PostingToken",
        Reason::AwaitingTake => "reason: AwaitingTake",
        Reason::RollingBack => "reason: RollingBack",
        Reason::AwaitingToken => "reason: AwaitingToken",
        Reason::AwaitingConfirmation => "reason: AwaitingConfirmation",
        Reason::AwaitingPromise => "reason: AwaitingPromise",
        Reason::Taking => "reason: Taking",
        Reason::AwaitingPromotion(_) => "reason: AwaitingPromotion",
        Reason::PromotingSite => "reason: PromotingSite",
        Reason::Fenced => "reason: Fenced",
        Reason::ClearingMark => "reason: ClearingMark",
        Reason::FinishingBootstrap => "reason: FinishingBootstrap",
        Reason::Synchronous => "reason: Synchronous",
        Reason::ListChanged => "reason: ListChanged",
        Reason::Slots => "reason: Slots",
        Reason::Checkpoint => "reason: Checkpoint",
        Reason::Paused(_) => "reason: Paused",
        Reason::CopyingSlots => "reason: CopyingSlots",
        Reason::StartOverdue => "reason: StartOverdue",
        Reason::RecordingOpening => "reason: RecordingOpening",
        Reason::Manual(_) => "reason: Manual",
        Reason::Reloading => "reason: Reloading",
        Reason::RaisingParameters => "reason: RaisingParameters",
        Reason::NotCopied(_) => "reason: NotCopied",
        Reason::Requested(_) => "reason: Requested",
        Reason::PrePromoting => "reason: PrePromoting",
        Reason::KeysGone => "reason: KeysGone",
    }
}

names! {
    /// Why a node does not take a free leader key.
    UNFIT, unfit: Unfit {
        Unfit::NoFailover => "unfit: NoFailover",
        Unfit::NotSynchronous => "unfit: NotSynchronous",
        Unfit::OldPicture => "unfit: OldPicture",
        Unfit::EpochUnreadable => "unfit: EpochUnreadable",
        Unfit::SyncUnreadable => "unfit: SyncUnreadable",
        Unfit::Lagging => "unfit: Lagging",
        Unfit::Behind(_) => "unfit: Behind",
        Unfit::PrimaryAlive(_) => "unfit: PrimaryAlive",
        Unfit::LacksFloor => "unfit: LacksFloor",
        Unfit::NotInRecovery => "unfit: NotInRecovery",
        Unfit::NoGuardian => "unfit: NoGuardian",
        Unfit::WatchdogFailed => "unfit: WatchdogFailed",
        Unfit::Promised(_) => "unfit: Promised",
        Unfit::NotInFailsafe => "unfit: NotInFailsafe",
        Unfit::TooFewVotes { .. } => "unfit: TooFewVotes",
        Unfit::NewerHistory(_) => "unfit: NewerHistory",
        Unfit::HistoriesPart(_) => "unfit: HistoriesPart",
        Unfit::Preferred(_) => "unfit: Preferred",
        Unfit::OlderTimeline => "unfit: OlderTimeline",
        Unfit::CouldNotStart => "unfit: CouldNotStart",
        Unfit::OtherWanted(_) => "unfit: OtherWanted",
        Unfit::PrePromoteRefused => "unfit: PrePromoteRefused",
        Unfit::KeysGone => "unfit: KeysGone",
        Unfit::Unheard(_) => "unfit: Unheard",
    }
}

names! {
    /// What a node of a paused cluster is.
    PAUSED, paused: PausedAs {
        PausedAs::Leader => "paused: Leader",
        PausedAs::Secondary => "paused: Secondary",
        PausedAs::PrimaryBesideTheLeader => "paused: PrimaryBesideTheLeader",
        PausedAs::NoPrimaryAnyMore => "paused: NoPrimaryAnyMore",
        PausedAs::TakingFreeKey => "paused: TakingFreeKey",
        PausedAs::NoLeader => "paused: NoLeader",
        PausedAs::Automation => "paused: Automation",
    }
}

names! {
    /// What an agent does.
    ACTIONS, action: Action {
        Action::ClaimInitialize => "action: ClaimInitialize",
        Action::RecordInitialize(_) => "action: RecordInitialize",
        Action::AcquireLeader => "action: AcquireLeader",
        Action::ReleaseLeader => "action: ReleaseLeader",
        Action::WriteSync { .. } => "action: WriteSync",
        Action::ClearSync { .. } => "action: ClearSync",
        Action::WriteMark { .. } => "action: WriteMark",
        Action::EnterEpoch { .. } => "action: EnterEpoch",
        Action::KeepEpoch(_) => "action: KeepEpoch",
        Action::AcquirePrimary { .. } => "action: AcquirePrimary",
        Action::EndTenure => "action: EndTenure",
        Action::PostToken { .. } => "action: PostToken",
        Action::Take { .. } => "action: Take",
        Action::PromoteSite { .. } => "action: PromoteSite",
        Action::RollBack { .. } => "action: RollBack",
        Action::RecordIdentity { .. } => "action: RecordIdentity",
        Action::Follow(_) => "action: Follow",
        Action::SetSynchronousNames(_) => "action: SetSynchronousNames",
        Action::Promote => "action: Promote",
        Action::WritePromotions { .. } => "action: WritePromotions",
        Action::NamePromotion => "action: NamePromotion",
        Action::RecordPromotion { .. } => "action: RecordPromotion",
        Action::Slots(_) => "action: Slots",
        Action::Run(_) => "action: Run",
        Action::ArmWatchdog => "action: ArmWatchdog",
        Action::RenewNow => "action: RenewNow",
        Action::AskPeers => "action: AskPeers",
        Action::Exit(_) => "action: Exit",
        Action::ClearFailover { .. } => "action: ClearFailover",
        Action::AskCandidates(_) => "action: AskCandidates",
        Action::Reload => "action: Reload",
        Action::Answer { .. } => "action: Answer",
        Action::CancelJob => "action: CancelJob",
        Action::AbandonInitialize => "action: AbandonInitialize",
    }
}

names! {
    /// Why a coordinator decided as it did.
    JUDGED, judged: Judged {
        Judged::QuorumUnreachable { .. } => "coordinator: QuorumUnreachable",
        Judged::NoSession => "coordinator: NoSession",
        Judged::Joining => "coordinator: Joining",
        Judged::Campaigning => "coordinator: Campaigning",
        Judged::NotElected { .. } => "coordinator: NotElected",
        Judged::Unreadable { .. } => "coordinator: Unreadable",
        Judged::NotCreated => "coordinator: NotCreated",
        Judged::Assigning { .. } => "coordinator: Assigning",
        Judged::OperationMissing { .. } => "coordinator: OperationMissing",
        Judged::FenceAbandoned { .. } => "coordinator: FenceAbandoned",
        Judged::RegionDark { .. } => "coordinator: RegionDark",
        Judged::Switchover { .. } => "coordinator: Switchover",
        Judged::AtRest => "coordinator: AtRest",
    }
}

names! {
    /// Kinds of faults.
    FAULTS, fault: Kind {
        Kind::KillAgent(_) => "fault: KillAgent",
        Kind::StopAgent(_) => "fault: StopAgent",
        Kind::PauseAgent(_) => "fault: PauseAgent",
        Kind::KillPostgres(_) => "fault: KillPostgres",
        Kind::PausePostgres(_) => "fault: PausePostgres",
        Kind::PauseGuardian(_) => "fault: PauseGuardian",
        Kind::KillNode(_) => "fault: KillNode",
        Kind::Suspend(_) => "fault: Suspend",
        Kind::CutNode(..) => "fault: CutNode",
        Kind::CutNodes(..) => "fault: CutNodes",
        Kind::CutStore(..) => "fault: CutStore",
        Kind::CutSite(..) => "fault: CutSite",
        Kind::CutSites(..) => "fault: CutSites",
        Kind::SlowNetwork => "fault: SlowNetwork",
        Kind::Loss => "fault: Loss",
        Kind::StoreDown(_) => "fault: StoreDown",
        Kind::StoreSlow(_) => "fault: StoreSlow",
        Kind::StoreFull(_) => "fault: StoreFull",
        Kind::Election(_) => "fault: Election",
        Kind::Compaction(_) => "fault: Compaction",
        Kind::DeleteKey(_) => "fault: DeleteKey",
        Kind::DeleteAllKeys(_) => "fault: DeleteAllKeys",
        Kind::DiskFull(_) => "fault: DiskFull",
        Kind::DiskSlow(_) => "fault: DiskSlow",
        Kind::Drift(..) => "fault: Drift",
        Kind::WallStep(_) => "fault: WallStep",
        Kind::KillCoordinator(_) => "fault: KillCoordinator",
        Kind::KillSite(_) => "fault: KillSite",
        Kind::Timing(..) => "fault: Timing",
        Kind::PauseSite(_) => "fault: PauseSite",
        Kind::PauseBoth(_) => "fault: PauseBoth",
        Kind::KillBoth(_) => "fault: KillBoth",
        Kind::Device(..) => "fault: Device",
        Kind::StoreLate(_) => "fault: StoreLate",
        Kind::SilentWatch(_) => "fault: SilentWatch",
        Kind::PauseCoordinator(_) => "fault: PauseCoordinator",
    }
}

/// The edges of `primary`, and how a store call ends.
pub const OTHERS: &[&str] = &[
    "edge: open -> open",
    "edge: open -> handover",
    "edge: handover -> token",
    "edge: handover -> open",
    "edge: token -> open",
    "edge: token -> open, taken",
    "edge: open -> fenced",
    "edge: fenced -> open",
    "edge: fenced -> open, taken",
    "store: conflict",
    "store: refused",
    "store: not done",
    "store: unknown",
    "guard: kill",
    "guard: freeze",
    "guard: thaw",
    "guardian: kill",
    "guardian: hangs, and is replaced",
    "operator: create the federation",
    "operator: begin the operation",
    "operator: ask for the operation's end",
    "operator: begin the promotion",
    "operator: fence the writes",
    "operator: unfence the writes",
    "operator: refused",
    "configuration: timing taken",
    "configuration: timing refused",
    "configuration: changed beneath a healthy leader",
    "pause: fence taken away",
    "pause: fence stands again",
    "pause: stopped agent leaves its server",
    "pause: outlived",
    "watchdog: armed",
    "watchdog: ping",
    "watchdog: lowered",
    "watchdog: disarmed",
    "watchdog: declined",
    "watchdog: reset",
    "watchdog: agent and guardian stopped",
    "watchdog: agent and guardian killed",
    "watchdog: no server without it",
    "failsafe: a member agrees",
    "failsafe: a member refuses",
    "failsafe: a site promises",
    "failsafe: a site refuses",
    "failsafe: acknowledged by the members' word",
    "failsafe: acknowledged by promise",
    "operator: asks inside a site",
    "operator: restart",
    "operator: reinitialize",
    "asynchronous loss",
    "accepted loss",
    "opened",
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static str> {
    [REASONS, UNFIT, PAUSED, ACTIONS, JUDGED, FAULTS, OTHERS].into_iter().flatten().copied()
}
