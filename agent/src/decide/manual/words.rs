//! What is done about a request to switch over inside a site, and why one ends, as data and in words.

use std::fmt;

/// What is done about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manual {
    /// The candidates are asked.
    AskingCandidates,
    /// The checkpoint that makes the stop short.
    Checkpoint,
    /// The server stops.
    Stopping,
    /// Stopped: waits for a candidate to have all WAL.
    AwaitingCandidate,
    /// The candidate, which has all WAL, becomes one of whom `sync` names.
    Recording,
    /// The leader key is given up.
    Releasing,
    /// Left to the next leader.
    MakingRoom,
    /// The request ends.
    Dropped(Dropped),
}

/// Why a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The cluster is paused: nobody could open.
    Paused,
    /// It was due too long ago.
    Missed,
    /// An operation of the federation runs.
    OperationRuns,
    /// The quorum is away: the leader goes on by the other sites' promises.
    ByPromise,
    /// It is for another leader.
    OtherLeader,
    /// It names the leader as its candidate.
    LeadsAlready,
    /// Nobody it could choose is fit.
    NoCandidate,
    /// The checkpoint took too long.
    CheckpointSlow,
    /// The checkpoint failed.
    CheckpointFailed,
    /// The server did not stop in order.
    StoppedUncleanly,
    /// It was taken back, or changed, while the server stopped.
    Cancelled,
    /// The leader key is not the one under which the server was stopped.
    KeyMoved,
    /// No candidate confirmed all WAL in time.
    NotConfirmed,
    /// The leader key has changed hands, or its holder is about to open again.
    Outlived,
    /// The server does not start, so nothing can be handed over in order.
    NotRunning,
}

impl fmt::Display for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AskingCandidates => "switchover: asking the candidates",
            Self::Checkpoint => "switchover: checkpointing first",
            Self::Stopping => "switchover: stopping PostgreSQL",
            Self::AwaitingCandidate => {
                "switchover: stopped, waiting for a candidate to have all WAL"
            }
            Self::Recording => "switchover: the candidate has all WAL, naming it in `sync`",
            Self::Releasing => "switchover: a candidate has all WAL, giving the leader key up",
            Self::MakingRoom => "switchover: leaving the leader key to the next leader",
            Self::Dropped(why) => return write!(f, "switchover request dropped: {why}"),
        })
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "the cluster is paused",
            Self::Missed => "it was due too long ago",
            Self::OperationRuns => "an operation of the federation runs",
            Self::ByPromise => "the global quorum is away: nobody could open",
            Self::OtherLeader => "it names another leader",
            Self::LeadsAlready => "its candidate leads already",
            Self::NoCandidate => "no good candidates have been found",
            Self::CheckpointSlow => "the checkpoint took too long",
            Self::CheckpointFailed => "the checkpoint failed",
            Self::StoppedUncleanly => "PostgreSQL did not stop in order",
            Self::Cancelled => "it was taken back while PostgreSQL stopped",
            Self::KeyMoved => "the leader key has moved while PostgreSQL stopped",
            Self::NotConfirmed => "no candidate had all WAL in time: opening again",
            Self::Outlived => "it has had its effect",
            Self::NotRunning => "PostgreSQL does not start; ask for a failover by name",
        })
    }
}
