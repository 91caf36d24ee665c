//! What a decision may order: one effect each, and the long acts among them.

use std::collections::BTreeSet;

use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, OperationId, SystemIdentifier};
use regent_proto::promotion::Loss;
use regent_proto::record::SeenEpoch;
use regent_proto::timeline::{Ancestry, HistoryPoint};

use super::slots::Planned;
use super::view::{Answer, Follow, JobKind};

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create `initialize`, empty: this node bootstraps the cluster.
    ClaimInitialize,
    /// Write the identity into `initialize`.
    RecordInitialize(SystemIdentifier),
    /// Take the leader key: create it, or bind the one in our name to our lease.
    AcquireLeader,
    /// Give the leader key up.
    ReleaseLeader,
    /// Write `sync`, comparing the revision that was read.
    WriteSync {
        /// Who is synchronous.
        standbys: BTreeSet<NodeName>,
        /// Revision of the record that was read.
        revision: Option<u64>,
        /// How many votes one of them needs beside its own to lead.
        quorum: usize,
    },
    /// Empty `sync`: a standby site has no synchronous standby.
    ClearSync {
        /// Revision of the record that was read.
        revision: u64,
    },
    /// Write the mark of a handover under the leader key.
    WriteMark {
        /// The operation.
        operation: OperationId,
        /// Revision of `primary` that asked for it.
        primary_revision: u64,
    },
    /// Persist an epoch: on disk, then in the site DCS; and remove an outlived mark with it.
    EnterEpoch {
        /// The epoch with its federation and holder.
        seen: SeenEpoch,
        /// Revision of `regent/epoch` that was read; `None` where it does not exist.
        revision: Option<u64>,
        /// Revision of the mark that falls.
        clear_mark: Option<u64>,
    },
    /// Persist on disk an epoch that the site has seen.
    KeepEpoch(SeenEpoch),
    /// Acquire the primary lease (protocol.md section 2, *acquire*).
    AcquirePrimary {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of `lease` that was read.
        lease_revision: Option<u64>,
        /// The epoch that is acquired.
        epoch: Epoch,
    },
    /// End the tenure: from its confirmation on, the deadline is 0 and nothing raises it.
    EndTenure,
    /// Post the token (*token*).
    PostToken {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The shutdown checkpoint's end.
        end: HistoryPoint,
        /// Identity of the database.
        system_identifier: SystemIdentifier,
    },
    /// Take primacy (*take*).
    Take {
        /// Revision of `primary` that was read.
        primary_revision: u64,
    },
    /// Take primacy without a token (*promote*).
    PromoteSite {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// The new floor.
        end: HistoryPoint,
        /// What is given up.
        loss: Loss,
    },
    /// Give a handover up (*roll-back*).
    RollBack {
        /// Revision of `primary` that was read.
        primary_revision: u64,
    },
    /// Write the identity of the database into `primary`.
    RecordIdentity {
        /// Revision of `primary` that was read.
        primary_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The identity.
        system_identifier: SystemIdentifier,
    },
    /// Make the running standby follow somebody else.
    Follow(Follow),
    /// Set `synchronous_standby_names`.
    SetSynchronousNames(String),
    /// Promote the running standby.
    Promote,
    /// Write `regent/promotions`: this node is about to promote.
    WritePromotions {
        /// The history that it promotes from.
        ancestry: Ancestry,
        /// Where its WAL ends.
        end: Lsn,
    },
    /// Write who began the present timeline into WAL and beside it.
    NamePromotion,
    /// Add a promotion to the history of the present epoch in the quorum.
    RecordPromotion {
        /// Revision of the history record that was read.
        history_revision: u64,
        /// Revision of our own `lease`.
        lease_revision: u64,
        /// The timeline, its begin, and its promotion.
        promotion: HistoryPoint,
    },
    /// Make, drop and move slots, and note what was found of them.
    Slots(Vec<Planned>),
    /// Ask the guardian to arm the watchdog; its page says what came of it.
    ArmWatchdog,
    /// Start a job.
    Run(Job),
    /// Ask the other members for their state.
    AskPeers,
    /// Have both leases renewed at once; what comes of it wakes.
    RenewNow,
    /// Stop the agent: a person must look.
    Exit(String),
    /// Empty the `failover` key: the request in it has had its effect, or has none.
    ClearFailover {
        /// Revision of the key that was read.
        revision: u64,
    },
    /// Ask these members for their state, and wait for no other's answer.
    AskCandidates(BTreeSet<NodeName>),
    /// Put what is wanted into the server's files, as far as it takes it, and have it read again.
    Reload,
    /// Answer a request.
    Answer {
        /// Its number.
        request: u64,
        /// The answer.
        answer: Answer,
    },
    /// End the copy or the rewind that runs.
    CancelJob,
    /// Delete the `initialize` that this process claimed: what it made of it has failed.
    AbandonInitialize,
}

/// A long act with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// `initdb` into the data directory.
    Initdb,
    /// `pg_basebackup`, removing what is left of an earlier copy.
    Clone(Follow),
    /// Start in recovery.
    StartStandby(Follow),
    /// Start writable; only after the whole order of opening (rule 8).
    StartPrimary {
        /// `synchronous_standby_names` from the first commit on.
        synchronous: String,
    },
    /// Stop: end sessions, fast shutdown, kill what is left after the budget.
    Stop,
    /// `pg_rewind` against this server.
    Rewind(Follow),
    /// Checkpoint (primary) or restartpoint (standby).
    Checkpoint,
    /// Create the replication and rewind users.
    CreateUsers,
    /// Stop for a restart: in order, with patience for the shutdown's checkpoint, while the deadlines
    /// go on as ever.
    StopToRestart,
    /// The operator's program that can refuse a promotion.
    PrePromote,
    /// Read logical slots from the leader, stop, and put them into the data directory. What follows is
    /// an ordinary start.
    CopySlots {
        /// The leader's host and port.
        from: (String, u16),
        /// Which.
        slots: BTreeSet<String>,
    },
}

impl Job {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Initdb => JobKind::Initdb,
            Self::Clone(_) => JobKind::Clone,
            Self::StartStandby(_) | Self::StartPrimary { .. } => JobKind::Start,
            Self::Stop | Self::StopToRestart => JobKind::Stop,
            Self::Rewind(_) => JobKind::Rewind,
            Self::Checkpoint => JobKind::Checkpoint,
            Self::CreateUsers => JobKind::CreateUsers,
            Self::PrePromote => JobKind::PrePromote,
            Self::CopySlots { .. } => JobKind::CopySlots,
        }
    }
}
