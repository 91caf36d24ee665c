//! What happens in a world, and in which order: by time, then by number.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Waker;

use regent_agent::decide::Job;
use regent_proto::time::BootTime;

use crate::coordinator::Verb;
use crate::faults::Fault;
use crate::network::HostId;
use crate::node::failsafe::{Question, Reply};
use crate::postgres::life::Stage;
use crate::store::{Answer, Request};
use crate::time::Nanos;
use crate::world::ProcessId;

/// What happens.
pub enum Event {
    /// A timer of a task, unless it was given up.
    Wake(Waker, Arc<AtomicBool>),
    /// A request reaches its store.
    Arrive(u64, usize, HostId, Box<Request>),
    /// An answer reaches whoever asked.
    Reply(u64, Box<Answer>),
    /// News reach a watch.
    News(u64),
    /// Leases of a store may be due.
    Leases(usize),
    /// Something in a server's life.
    Postgres(usize, u64, Stage),
    /// WAL arrives at a standby.
    Ship(u64),
    /// A confirmation arrives at an upstream.
    Confirmed(u64, u64),
    /// A job's end.
    Job(usize, u64, Box<Job>),
    /// Rung 1 looks.
    Guard(usize),
    /// Rung 2 looks.
    Guardian(usize),
    /// An agent looks whether its guardian still wakes.
    Pulse(usize),
    /// A device may have waited for long enough: the one that was opened as this number.
    Watchdog(usize, u64),
    /// A device has fired.
    Reset(usize),
    /// A question of failsafe arrives.
    Asked(usize, Box<Question>),
    /// Its answer arrives.
    Answer(Box<Reply>),
    /// An agent sees that others stream from its server than before.
    Streams(usize),
    /// Members' answers arrive.
    Peers(usize, ProcessId, BootTime, Vec<usize>),
    /// A client does the next thing.
    Client(usize, u64),
    /// A write arrives at a server of this life.
    Write(usize, u64, usize, u64),
    /// An acknowledgement arrives.
    Answered(usize, u64),
    /// A refusal, or the end of the connection, arrives.
    Gone(usize, u64, bool),
    /// A fault begins.
    Fault(usize),
    /// A fault ends.
    Mend(Box<Fault>),
    /// An agent that ended is started by its supervisor.
    StartAgent(usize),
    /// A coordinator is started.
    StartCoordinator(usize),
    /// An operator asks for something.
    Operator(Verb),
    /// Somebody asks for a switchover or failover inside a site.
    AskInSite(usize),
    /// Somebody asks the agent of this node for a restart or a new copy.
    AskAgent(usize, u64),
    /// The faults end here.
    Heal,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wake(..) => write!(f, "Wake"),
            Self::Arrive(id, store, ..) => write!(f, "Arrive({id}, {store})"),
            Self::Reply(id, _) => write!(f, "Reply({id})"),
            Self::News(id) => write!(f, "News({id})"),
            Self::Leases(store) => write!(f, "Leases({store})"),
            Self::Postgres(n, life, stage) => write!(f, "Postgres({n}, {life}, {stage:?})"),
            Self::Ship(id) => write!(f, "Ship({id})"),
            Self::Confirmed(id, end) => write!(f, "Confirmed({id}, {end})"),
            Self::Job(n, number, _) => write!(f, "Job({n}, {number})"),
            Self::Guard(n) => write!(f, "Guard({n})"),
            Self::Guardian(n) => write!(f, "Guardian({n})"),
            Self::Pulse(n) => write!(f, "Pulse({n})"),
            Self::Watchdog(n, number) => write!(f, "Watchdog({n}, {number})"),
            Self::Reset(n) => write!(f, "Reset({n})"),
            Self::Asked(n, _) => write!(f, "Asked({n})"),
            Self::Answer(_) => write!(f, "Answer"),
            Self::Streams(n) => write!(f, "Streams({n})"),
            Self::Peers(n, ..) => write!(f, "Peers({n})"),
            Self::Client(c, turn) => write!(f, "Client({c}, {turn})"),
            Self::Write(n, _, c, w) => write!(f, "Write({n}, {c}, {w})"),
            Self::Answered(c, w) => write!(f, "Answered({c}, {w})"),
            Self::Gone(c, w, _) => write!(f, "Gone({c}, {w})"),
            Self::Fault(i) => write!(f, "Fault({i})"),
            Self::Mend(_) => write!(f, "Mend"),
            Self::StartAgent(n) => write!(f, "StartAgent({n})"),
            Self::StartCoordinator(c) => write!(f, "StartCoordinator({c})"),
            Self::Operator(verb) => write!(f, "Operator({verb:?})"),
            Self::AskInSite(site) => write!(f, "AskInSite({site})"),
            Self::AskAgent(n, _) => write!(f, "AskAgent({n})"),
            Self::Heal => write!(f, "Heal"),
        }
    }
}

/// An event with its time; of one time, in the order in which they were scheduled.
pub(crate) struct Due {
    pub(crate) at: Nanos,
    pub(crate) number: u64,
    pub(crate) event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
