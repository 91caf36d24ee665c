//! PostgreSQL as a model: a data directory with WAL and timelines, a server process, sessions whose
//! commits wait for synchronous standbys, shutdowns that drain walsenders, promotions at the last
//! received record (hazards.md section 4).

pub mod commits;
pub mod jobs;
pub mod life;
pub mod replication;
pub mod wal;

use std::collections::BTreeMap;

use regent_agent::decide::slots::Step;
use regent_agent::decide::view::{ControlState, Follow};

use commits::Pending;
use wal::Wal;

/// The data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    Empty,
    /// The agent's marker of an unfinished copy.
    Incomplete,
    /// A cluster.
    Cluster,
}

/// The server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// None.
    Stopped,
    /// Recovers, answers nobody.
    Starting,
    /// Answers.
    Running,
    /// A fast shutdown is under way.
    Stopping,
}

/// One server.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a server")]
pub struct Server {
    /// Its directory.
    pub data: Data,
    /// The database's identity.
    pub identifier: u64,
    /// Its WAL, all of it flushed.
    pub wal: Wal,
    /// Timeline of the last checkpoint: what a rewind of others goes by.
    pub control_timeline: u32,
    /// How it stopped.
    pub control: ControlState,
    /// `standby.signal`.
    pub standby_signal: bool,
    /// The upstream in its configuration.
    pub follow: Option<Follow>,
    /// `synchronous_standby_names`.
    pub synchronous: String,
    /// Replication users were made.
    pub users: bool,
    /// Slots, and from where on each keeps WAL.
    pub slots: BTreeMap<String, u64>,
    /// The process.
    pub process: Process,
    /// Grows with every start: events of an earlier process mean nothing.
    pub life: u64,
    /// In recovery.
    pub in_recovery: bool,
    /// A promotion is under way.
    pub promoting: bool,
    /// In a shutdown: sessions have been ended.
    pub sessions_ended: bool,
    /// The guard has stopped its processes.
    pub frozen: bool,
    /// A fault has.
    pub paused: bool,
    /// The disk is full: nothing can be written.
    pub full: bool,
    /// The disk takes up to so much longer.
    pub slow: u64,
    /// Commits that wait for standbys.
    pub pending: Vec<Pending>,
    /// Writes that came while nothing ran.
    pub inbox: Vec<(usize, u64)>,
    /// When it looks for its upstream next.
    pub connect_due: u64,
    /// The connection to its upstream.
    pub receiver: Option<u64>,
    /// It streamed from a history that is not its own: what is in it nobody knows.
    pub corrupt: bool,
}

impl Server {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            data: Data::Empty,
            identifier: 0,
            wal: Wal::new(0),
            control_timeline: 1,
            control: ControlState::ShutDown,
            standby_signal: false,
            follow: None,
            synchronous: String::new(),
            users: false,
            slots: BTreeMap::new(),
            process: Process::Stopped,
            life: 0,
            in_recovery: false,
            promoting: false,
            sessions_ended: false,
            frozen: false,
            paused: false,
            full: false,
            slow: 0,
            pending: Vec::new(),
            inbox: Vec::new(),
            connect_due: 0,
            receiver: None,
            corrupt: false,
        }
    }

    /// Slots as the product's agent orders them. Their WAL is never removed here; logical ones, which
    /// no scenario has, are none.
    pub(crate) fn take_slot_step(&mut self, step: &Step) {
        let end = self.wal.end();
        match step {
            Step::Drop { name } => {
                self.slots.remove(name);
            }
            Step::Create { name, .. } => {
                self.slots.entry(name.clone()).or_insert(end);
            }
            Step::Advance { name, to, .. } => {
                if let Some(restart) = self.slots.get_mut(name) {
                    *restart = to.get().clamp(*restart, end.max(*restart));
                }
            }
            Step::Copy { .. } | Step::Prove { .. } | Step::Warn { .. } => {}
        }
    }

    /// Nothing of it runs: by the guard's doing or by a fault's.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.frozen || self.paused
    }

    /// It answers queries.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.process == Process::Running && !self.stands_still()
    }

    /// It could acknowledge something.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.process == Process::Running && !self.in_recovery
    }

    /// There are processes that can acknowledge something, now or once they go on.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        match self.process {
            Process::Stopped => false,
            Process::Starting | Process::Running => true,
            Process::Stopping => !self.sessions_ended,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}
