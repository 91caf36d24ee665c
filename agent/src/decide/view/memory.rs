//! What is not seen: the configuration in force, and what earlier decisions left for later ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, OperationId};
use regent_proto::record::SeenEpoch;
use regent_proto::time::BootTime;

use super::super::quorum::Voting;
use super::{JobKind, ScheduledRestart, UnderWay};
use crate::decide::manual::Switching;
use crate::decide::remembered::Remembered;
use crate::decide::slots::readiness::Readiness;
use crate::decide::slots::{Planned, Rules};

/// What does not change from round to round.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Patroni's switches, each independent")]
pub struct Policy {
    /// This member.
    pub me: NodeName,
    /// Tag `nofailover`, or a failover priority of zero.
    pub nofailover: bool,
    /// The loop's period.
    pub loop_wait: Duration,
    /// A replica further behind than this does not lead, in bytes.
    pub maximum_lag_on_failover: u64,
    /// `synchronous_mode`.
    pub synchronous_mode: bool,
    /// It is what the site's `config` says by now, not only what was kept or is in the file.
    pub mode_is_the_sites: bool,
    /// `synchronous_mode_strict`.
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`.
    pub synchronous_node_count: usize,
    /// `pg_rewind` may be used.
    pub use_pg_rewind: bool,
    /// A `bootstrap` section is there.
    pub may_bootstrap: bool,
    /// `pause`.
    pub paused: bool,
    /// `synchronous_mode: quorum`; only with `synchronous_mode`.
    pub synchronous_quorum: bool,
    /// The user's own `synchronous_standby_names`, in force while `synchronous_mode` is off.
    pub own_standby_names: String,
    /// What is to be done with slots.
    pub slots: Rules,
    /// Tag `failover_priority`.
    pub failover_priority: i64,
    /// `check_timeline`.
    pub check_timeline: bool,
    /// A replica further behind than this is not synchronous, in bytes; `None`: no limit.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// `primary_start_timeout`; zero: another member leads at once.
    pub primary_start_timeout: Duration,
    /// TTL of the leader key.
    pub ttl: Duration,
    /// `postgresql.remove_data_directory_on_rewind_failure`: copied anew where a rewind failed.
    pub remove_on_rewind_failure: bool,
    /// `postgresql.remove_data_directory_on_diverged_timelines`: copied anew where no rewind can help.
    pub remove_on_diverged_timelines: bool,
    /// `postgresql.pre_promote` is there: it runs before a promotion. This node is no candidate for so
    /// long after it failed.
    pub pre_promote: Option<Duration>,
    /// A replica can be made while nobody leads, from a backup for instance.
    pub clones_without_leader: bool,
    /// Tag `replicatefrom`: whom this node streams from instead of the leader.
    pub replicatefrom: Option<NodeName>,
    /// Tag `nostream`: it has its WAL from the archive.
    pub nostream: bool,
}

/// What the decider remembers from round to round; only `decide` changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
pub struct Memory {
    /// The last job that failed, how often in a row, and when it may be tried again.
    pub failed: Option<FailedJob>,
    /// The synchronous list in force, and the WAL end when it came into force (I5).
    pub list_since: Option<(String, Lsn)>,
    /// The revision of `sync` that writes of this process compare which may not have been applied
    /// yet, and what stands for each of them.
    pub sync_sent: Option<(Option<u64>, Voting)>,
    /// The operation whose checkpoint was done.
    pub checkpointed_for: Option<OperationId>,
    /// The operation whose checkpoint runs.
    pub checkpointing_for: Option<OperationId>,
    /// The epoch that this process has found, or put, on disk and in the site DCS, while it leads
    /// the site without a break: what is missing there now was removed, and is not unknown to it.
    pub entered: Option<SeenEpoch>,
    /// The deadline rested on the members' word, and since then no picture has shown the leader key
    /// bound to this process's lease, or another's: a store that was away may have forgotten it.
    pub by_word: bool,
    /// The handover this process marked, by revision of `primary`.
    pub marked: Option<u64>,
    /// A rewind failed: only a new copy helps.
    pub rewind_failed: bool,
    /// Since when this process waits for the site DCS's first answer.
    pub without_store_since: Option<BootTime>,
    /// Since when it cannot be told whether this server is on its upstream's history.
    pub unknown_since: Option<BootTime>,
    /// Since when nothing comes from the cluster that `standby_cluster` names, while this node leads.
    pub remote_silent_since: Option<BootTime>,
    /// Since when a member of such a cluster receives nothing from whom it is to stream from.
    pub silent_since: Option<BootTime>,
    /// Slots that this process has wanted, and those of nodes that it has seen.
    pub slots_managed: BTreeSet<String>,
    /// Slots that nobody wants or uses, and since when.
    pub slots_unknown_since: BTreeMap<String, BootTime>,
    /// Rewinds that succeeded since this node last followed: a second one would be a loop.
    pub rewinds: u32,
    /// When a restartpoint was last asked for.
    pub restartpoint_at: Option<BootTime>,
    /// When promotion was last asked for; forgotten once the server is open.
    pub promoting_since: Option<BootTime>,
    /// When this process promoted the server: since then it owes a checkpoint, which `pg_rewind` of
    /// others needs (hazards.md section 4, fact 27).
    pub owes_checkpoint_since: Option<BootTime>,
    /// The synchronous list that was last set and not seen in force since.
    pub list_asked: Option<String>,
    /// The user's own `synchronous_standby_names` as last asked for, and when.
    pub own_names_asked: Option<(String, BootTime)>,
    /// The user's own list that was set, and not shown for so long that the server does not take it.
    pub own_names_refused: Option<String>,
    /// The revision of `sync` that a clearing of this process compares which may not have been
    /// applied yet: it lets anybody lead.
    pub clear_sent: Option<u64>,
    /// Members' slots, and when the member was last there.
    pub slots_seen: BTreeMap<String, BootTime>,
    /// What was last done to slots, and when.
    pub slots_tried: Option<(Vec<Planned>, BootTime)>,
    /// Before this no logical slots are copied again.
    pub slots_copy_after: Option<BootTime>,
    /// Since when this node waits for its turn to copy them.
    pub slots_copy_wanted: Option<BootTime>,
    /// How often they were copied since one of them could be used.
    pub slots_copies: u32,
    /// Where each slot that is here keeps WAL from, and what its consumer has confirmed.
    pub slots_positions: BTreeMap<String, (Option<Lsn>, Option<Lsn>)>,
    /// Copies of logical slots, and whether they can be used.
    pub slots_readiness: BTreeMap<String, Readiness>,
    /// The member whose name the leader key last carried.
    pub last_leader: Option<NodeName>,
    /// Since when the server answers; forgotten when it stops.
    pub answers_since: Option<BootTime>,
    /// Since when this leader waits for a server that stays up.
    pub start_since: Option<BootTime>,
    /// A start was done, and the server has neither answered nor ended since.
    pub start_unanswered: bool,
    /// When this leader asked whether another could lead, until the answers are in.
    pub successors_asked: Option<BootTime>,
    /// Until when this node leaves a free leader key to others.
    pub stands_back_until: Option<BootTime>,
    /// The switchover inside the site that this process has begun.
    pub switching: Option<Switching>,
    /// The request, by revision of its key, whose candidates were asked, and since when.
    pub asked_for: Option<(u64, BootTime)>,
    /// The request that was taken on, until it is answered and done.
    pub request: Option<UnderWay>,
    /// The restart that people have scheduled.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// This process stopped the server, which wrote, for a restart, and the leader key has carried its
    /// name ever since, unbroken: the server opens where it stopped, on the same timeline.
    pub reopens: bool,
    /// This process has claimed `initialize`, and has not seen it done or gone since.
    pub claimed_initialize: bool,
    /// What `pre_promote` said about the promotion that is coming.
    pub pre_promote: PrePromote,
    /// The cluster, as it was last seen whole; outlives this process.
    pub cluster: Option<Remembered>,
}

/// What `pre_promote` said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrePromote {
    /// It was not asked yet.
    #[default]
    NotAsked,
    /// Go on.
    Passed,
    /// No, at this instant.
    Refused(BootTime),
}

impl Memory {
    /// Of a process that has decided nothing yet. An earlier one may have written a list into the
    /// configuration and ended before the server was told, and any reload brings it into force.
    #[must_use]
    pub fn of_a_new_process() -> Self {
        Self { list_asked: Some("an earlier process's".to_owned()), ..Self::default() }
    }
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedJob {
    /// Which.
    pub job: JobKind,
    /// How often in a row.
    pub times: u32,
    /// When that was noted.
    pub at: BootTime,
    /// Not before this instant again.
    pub retry_at: BootTime,
}
