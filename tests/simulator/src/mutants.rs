//! Deliberate faults: each breaks one thing that keeps the world safe, and the invariants have to
//! notice. A run with one is void as a test of the product.
//!
//! They are made at the edges, in what an agent sees, in what it sends, and in what the models do:
//! the product has no switch for any of them. Where a model of `tests/models` has the same mutant, it
//! has the same name.

use regent_agent::decide::view::{Policy, View};
use regent_dcs::{Change, Txn};
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::record::{Primary, PrimaryState, Record as _};
use regent_proto::time::Deadline;
use regent_proto::timeline::HistoryPoint;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Nothing.
    None,
    /// Rung 2 kills nobody.
    GuardianMissing,
    /// The site's deadline counts from the answer.
    DeadlineAnchoredAtReceive,
    /// A renewal of unknown outcome counts.
    UnknownExtends,
    /// A renewed lease counts without a look at the key: the reading beside it is an old one.
    OpeningBeforeTheLinearizableRead,
    /// The leader key is released before the server has stopped.
    LeaseDroppedBeforeTheStop,
    /// A node believes that it holds whatever carries its name.
    ElectedByName,
    /// Every standby counts as having confirmed everything.
    PublishBeforeEvidence,
    /// Commits wait for nobody.
    AcknowledgeAtOnce,
    /// Leases end before their time.
    EarlyRevoke,
    /// Whoever runs takes a free leader key, in `sync` or not.
    AnybodyMayLead,
    /// The list is emptied before the record shrinks.
    EmptyListBeforeTheStoreWrite,
    /// A primary starts with an empty list.
    EmptyListAfterACrash,
    /// A write of `sync` compares no `sync`.
    RecordWithoutCompare,
    /// The leader key is taken whatever has become of `sync` since it was read.
    LeaderKeyWithoutRecords,
    /// *Take* looks neither at its WAL nor at the floor.
    TakeWithoutWalAndFloor,
    /// *Acquire* and *renew* compare no `primary`.
    RenewalComparesNoPrimary,
    /// *Token* compares no `lease`.
    TokenComparesNoLease,
    /// *Roll-back* is a put.
    RollBackAsAPut,
    /// *Handover* is a put.
    HandoverAsAPut,
    /// A coordinator's writes do not compare `leader`.
    WriteWithoutItsLeadershipCompare,
    /// The mark of a handover leaves tenure and deadline.
    MarkKeepsTheDeadline,
    /// A leader key that moves to a lease of another TTL is bound back to the one of before.
    KeyBoundBack,
    /// A lease of a shorter TTL counts as long as the one before it.
    TtlOfTheFormerLease,
    /// The pause of a site takes its fence away in a federation as well.
    PauseUnfencesAFederation,
    /// A paused agent decides as ever.
    PausedAgentActs,
    /// What a pause took away does not come back with its end.
    PauseEndsWithoutTheFence,
    /// A device waits for TTL − 5 s, whatever it says.
    WatchdogLongerThanHalfTheLease,
    /// A device is pinged whenever it is time, allowed or not.
    PingAfterTheDeadline,
    /// A device is stopped when the stop of the server begins.
    WatchdogStoppedWithTheServer,
    /// A member that does not answer its leader counts as one that agrees.
    SilenceIsConsent,
    /// A member takes the leader key though it has promised it.
    WordNotKept,
    /// An agent that is restarted has forgotten its word.
    WordDiesWithItsAgent,
    /// A promotion waits for nobody.
    NoWaitAfterTheFence,
    /// A promotion loses whatever it loses.
    AcceptsAnyLoss,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::GuardianMissing,
        Self::DeadlineAnchoredAtReceive,
        Self::UnknownExtends,
        Self::OpeningBeforeTheLinearizableRead,
        Self::LeaseDroppedBeforeTheStop,
        Self::ElectedByName,
        Self::PublishBeforeEvidence,
        Self::AcknowledgeAtOnce,
        Self::EarlyRevoke,
        Self::AnybodyMayLead,
        Self::EmptyListBeforeTheStoreWrite,
        Self::EmptyListAfterACrash,
        Self::RecordWithoutCompare,
        Self::LeaderKeyWithoutRecords,
        Self::TakeWithoutWalAndFloor,
        Self::RenewalComparesNoPrimary,
        Self::TokenComparesNoLease,
        Self::RollBackAsAPut,
        Self::HandoverAsAPut,
        Self::WriteWithoutItsLeadershipCompare,
        Self::MarkKeepsTheDeadline,
        Self::KeyBoundBack,
        Self::TtlOfTheFormerLease,
        Self::PauseUnfencesAFederation,
        Self::PausedAgentActs,
        Self::PauseEndsWithoutTheFence,
        Self::WatchdogLongerThanHalfTheLease,
        Self::PingAfterTheDeadline,
        Self::WatchdogStoppedWithTheServer,
        Self::SilenceIsConsent,
        Self::WordNotKept,
        Self::WordDiesWithItsAgent,
        Self::NoWaitAfterTheFence,
        Self::AcceptsAnyLoss,
    ];

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
    }

    /// Only federations have what it breaks.
    #[must_use]
    pub fn of_federations(self) -> bool {
        match self {
            Self::TakeWithoutWalAndFloor
            | Self::RenewalComparesNoPrimary
            | Self::TokenComparesNoLease
            | Self::RollBackAsAPut
            | Self::HandoverAsAPut
            | Self::WriteWithoutItsLeadershipCompare
            | Self::MarkKeepsTheDeadline
            | Self::PauseUnfencesAFederation
            | Self::NoWaitAfterTheFence
            | Self::AcceptsAnyLoss => true,
            Self::None
            | Self::GuardianMissing
            | Self::DeadlineAnchoredAtReceive
            | Self::UnknownExtends
            | Self::OpeningBeforeTheLinearizableRead
            | Self::LeaseDroppedBeforeTheStop
            | Self::ElectedByName
            | Self::PublishBeforeEvidence
            | Self::AcknowledgeAtOnce
            | Self::EarlyRevoke
            | Self::AnybodyMayLead
            | Self::EmptyListBeforeTheStoreWrite
            | Self::EmptyListAfterACrash
            | Self::RecordWithoutCompare
            | Self::LeaderKeyWithoutRecords
            | Self::KeyBoundBack
            | Self::TtlOfTheFormerLease
            | Self::PausedAgentActs
            | Self::PauseEndsWithoutTheFence
            | Self::WatchdogLongerThanHalfTheLease
            | Self::PingAfterTheDeadline
            | Self::WatchdogStoppedWithTheServer
            | Self::SilenceIsConsent
            | Self::WordNotKept
            | Self::WordDiesWithItsAgent => false,
        }
    }

    /// What it breaks is the second line behind another rule, which keeps the world safe alone: it survives,
    /// and is told when it does not.
    #[must_use]
    pub fn second_line(self) -> Option<&'static str> {
        match self {
            Self::HandoverAsAPut => Some(
                "every edge of `primary` that a coordinator writes has the step in the operation's record with \
                 it, which a handover compares",
            ),
            Self::AcceptsAnyLoss => Some(
                "the plan has compared the same loss, and nobody writes after its bound: the take finds more \
                 only where the target's leader was replaced by one that lags while the old site wrote on",
            ),
            Self::TokenComparesNoLease => Some(
                "the mark bars every other tenure of its site until `primary`, which a token compares, \
                 has moved (protocol.md section 4)",
            ),
            _ => None,
        }
    }

    /// Its operator promotes, and ends the lease of who lives: nobody else would need the wait.
    #[must_use]
    pub fn ends_leases(self) -> bool {
        self == Self::NoWaitAfterTheFence
    }

    /// Bends what an agent goes by.
    pub(crate) fn misread(self, policy: &mut Policy) {
        if self == Self::PausedAgentActs {
            policy.paused = false;
        }
    }

    /// Bends what an agent sees.
    pub(crate) fn twist(self, me: &NodeName, view: &mut View) {
        match self {
            Self::ElectedByName => {
                // What its renewals find of the key is bent where they read it.
                let leader = view.site.as_mut().and_then(|site| site.leader.as_mut());
                if let Some(leader) = leader.filter(|leader| leader.name == *me) {
                    leader.bound_to_my_lease = true;
                }
            }
            Self::PublishBeforeEvidence => {
                if let Some(status) = &mut view.postgres.status {
                    for sender in status.senders.values_mut() {
                        sender.flushed = Lsn::new(u64::MAX);
                        sender.synchronous = true;
                        sender.streaming = true;
                    }
                }
            }
            Self::AnybodyMayLead => {
                if let Some(site) = view.site.as_mut().filter(|site| site.leader.is_none()) {
                    site.sync.standbys.insert(me.clone());
                }
            }
            Self::TakeWithoutWalAndFloor => has_all(view),
            Self::WordNotKept => view.failsafe.promised = None,
            Self::NoWaitAfterTheFence => {
                if let Some(federation) = &mut view.federation {
                    federation.lease_age += std::time::Duration::from_secs(3600);
                }
            }
            Self::AcceptsAnyLoss => {
                let primary = view.federation.as_mut().and_then(|f| f.primary.as_mut());
                if let Some(PrimaryState::Fenced { accepted, .. }) =
                    primary.map(|primary| &mut primary.value.state)
                {
                    accepted.max_age_ms = None;
                }
            }
            Self::KeyBoundBack => {
                let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
                if leader.is_some_and(|l| l.name == *me && !l.bound_to_my_lease) {
                    view.tenure.site = Deadline::NEVER;
                }
            }
            _ => {}
        }
    }

    /// Bends what a process sends.
    pub(crate) fn bend(self, txn: &mut Txn, coordinator: bool) {
        let puts = |txn: &Txn, key| txn.changes.iter().any(|change| last(change.key()) == key);
        let freed = match self {
            Self::RecordWithoutCompare if puts(txn, "sync") => "sync",
            Self::LeaderKeyWithoutRecords if puts(txn, "leader") && !coordinator => "sync",
            Self::RenewalComparesNoPrimary if puts(txn, "lease") && !puts(txn, "primary") => {
                "primary"
            }
            Self::TokenComparesNoLease if state_put(txn) == Some("token") => "lease",
            Self::RollBackAsAPut if state_put(txn) == Some("open") && !puts(txn, "lease") => {
                "primary"
            }
            Self::HandoverAsAPut if state_put(txn) == Some("handover") => "primary",
            Self::WriteWithoutItsLeadershipCompare if coordinator => "leader",
            _ => return,
        };
        txn.compares.retain(|compare| last(compare.key()) != freed);
    }
}

fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

/// The state of the `primary` that it puts.
fn state_put(txn: &Txn) -> Option<&'static str> {
    txn.changes.iter().find_map(|change| match change {
        Change::Put { key, value, .. } if last(key) == "primary" => {
            Primary::decode(key, value).ok().map(|primary| primary.state.name())
        }
        Change::Put { .. } | Change::Delete { .. } => None,
    })
}

/// Whatever a token or a floor asks for, this node has it.
fn has_all(view: &mut View) {
    let own = match (&view.postgres.status, &view.postgres.data) {
        (Some(status), _) => Some((status.ancestry.clone(), status.end)),
        (None, regent_agent::decide::view::DataDirectory::Cluster(control)) => {
            Some((control.ancestry.clone(), control.end))
        }
        (None, _) => None,
    };
    let primary = view.federation.as_mut().and_then(|f| f.primary.as_mut());
    let (Some((ancestry, end)), Some(primary)) = (own, primary) else { return };
    let point = HistoryPoint {
        timeline: ancestry.timeline,
        position: end,
        promotion: ancestry.promotion.clone(),
    };
    if primary.value.floor.is_some() {
        primary.value.floor = Some(point.clone());
    }
    if let PrimaryState::Token { token, .. } = &mut primary.value.state {
        token.end = point;
    }
}
