//! What people asked of this node over REST (spec/patroni-compat.md 2.5), and what has become of it.

use std::time::Duration;

use regent_proto::time::BootTime;

/// What people asked for, with what of the server only these requests are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestsView {
    /// Those that were not answered yet, the oldest first.
    pub asked: Vec<Request>,
    /// When the postmaster started, in the server's words: another start is another postmaster.
    pub started: Option<String>,
    /// A parameter waits for a restart.
    pub pending_restart: bool,
    /// A restart is under way, as the last decision left it.
    pub restarting: bool,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number in this life of the process.
    pub number: u64,
    /// What is asked for.
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A restart, now.
    Restart(Restart),
    /// A restart, later.
    Schedule(ScheduledRestart),
    /// That no restart is scheduled any more.
    Unschedule,
    /// A copy in place of this replica's data.
    Reinitialize(Reinitialize),
}

/// A restart with its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restart {
    /// Only in this role.
    pub role: Option<NodeRole>,
    /// Only where the server is older than this version.
    pub postgres_version: Option<ServerVersion>,
    /// Only where a parameter waits for a restart.
    pub restart_pending: bool,
    /// How long the server may take to answer again.
    pub timeout: Option<Duration>,
}

/// A restart at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledRestart {
    /// The instant as it was written, for people.
    pub schedule: String,
    /// The same on the boot clock, as the clocks stood when it was asked for (I11).
    pub due: BootTime,
    /// When the postmaster had started that is to be restarted.
    pub started: Option<String>,
    /// Its conditions, tested when it is due.
    pub restart: Restart,
}

/// A new copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reinitialize {
    /// A copy or a rewind that runs is ended for it.
    pub force: bool,
    /// From the leader and from nobody else.
    pub from_leader: bool,
}

/// A role as a condition names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRole {
    /// It writes.
    Primary,
    /// It leads a standby site.
    StandbyLeader,
    /// Anything else in recovery.
    Replica,
}

impl NodeRole {
    /// Patroni's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::StandbyLeader => "standby_leader",
            Self::Replica => "replica",
        }
    }
}

/// A version of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// As it was written.
    pub text: String,
    /// As `server_version_num` has it.
    pub number: u32,
}

/// What whoever asked is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was restarted, and answers.
    Restarted,
    /// The conditions of the restart do not hold.
    ConditionsUnmet,
    /// Something else has the server at the moment.
    InProgress(&'static str),
    /// The server starts.
    StillStarting,
    /// The restart was not begun, or did not come to its end.
    RestartFailed,
    /// The restart is scheduled.
    Scheduled,
    /// Another one is.
    AlreadyScheduled,
    /// The scheduled restart was cancelled.
    Unscheduled,
    /// There was none.
    NothingScheduled,
    /// The copy begins.
    ReinitializeStarted,
    /// There is nobody to copy from.
    NoLeader,
    /// This node leads: everybody else copies from it.
    IsLeader,
}

/// A request that was taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// The request that waits for an answer.
    pub request: Option<u64>,
    /// What it is.
    pub task: Task,
    /// How far it is.
    pub stage: Stage,
    /// Until when this stage may last.
    pub until: BootTime,
}

/// What is done for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Stop and start.
    Restart(Restart),
    /// Stop, copy and start.
    Reinitialize(Reinitialize),
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A job that is in the way ends.
    Clearing,
    /// It is synchronous, and waits until its primary counts on it no more.
    Withdrawing,
    /// A checkpoint makes the stop short.
    Checkpointing,
    /// The server stops.
    Stopping,
    /// The copy is made.
    Copying,
    /// The server starts, as it would in any case.
    Starting,
}

impl UnderWay {
    /// While this node does not want to be counted on by its primary's commits.
    #[must_use]
    pub fn withdraws(&self) -> bool {
        match self.stage {
            Stage::Withdrawing | Stage::Checkpointing | Stage::Stopping | Stage::Copying => true,
            Stage::Clearing | Stage::Starting => false,
        }
    }

    /// A restart, from its first step on the server to its end.
    #[must_use]
    pub fn restarts(&self) -> bool {
        match (&self.task, self.stage) {
            (Task::Restart(_), Stage::Stopping | Stage::Starting) => true,
            (
                Task::Restart(_),
                Stage::Clearing | Stage::Withdrawing | Stage::Checkpointing | Stage::Copying,
            )
            | (Task::Reinitialize(_), _) => false,
        }
    }
}
