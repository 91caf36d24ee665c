//! The world: everything that is not the product's own code, and the queue of what happens next.
//!
//! One thread, one seed. Every effect is an event at a point of virtual time; events of one point
//! happen in the order in which they were scheduled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regent_agent::decide::view::View;
use regent_agent::decide::{Decision, Reason};
use regent_agent::observe::{global, site};
use regent_proto::name::{FederationName, SiteName};
use regent_proto::record::Reach;
use regent_proto::time::{BootTime, WallTime};

use crate::chance::Chance;
use crate::clients::Client;
use crate::coordinator::Coordinator;
use crate::counters::Counters;
use crate::event::{Due, Event};
use crate::faults::Fault;
use crate::history::History;
use crate::invariants::{Checks, Violation};
use crate::mutants::Mutant;
use crate::network::{HostId, Network};
use crate::node::Node;
use crate::postgres::replication::Connection;
use crate::store::StoreModel;
use crate::store::client::{Call, Watching};
use crate::tasks::Task;
use crate::time::{Clock, MS, Nanos, SEC};
use crate::trace::Trace;

/// A round of an agent, as it is counted.
pub const ROUND: &str = "round of an agent";

/// The world, shared by the tasks of one thread.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<World>>);

impl Sim {
    /// Around a world.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// The world. Never held while a task is polled or dropped.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One life of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(pub usize);

/// A program that runs, or has.
#[derive(Debug)]
pub struct Program {
    /// Its machine.
    pub host: HostId,
    /// The node whose clock it reads; `None`: a machine of its own, whose clock is right.
    pub node: Option<usize>,
    /// It has not ended.
    pub alive: bool,
    /// It is stopped (SIGSTOP).
    pub paused: bool,
}

/// A site.
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Its DCS.
    pub store: usize,
    /// Its nodes.
    pub nodes: Vec<usize>,
    /// What one of its agents has decoded, no other needs to.
    pub known: site::Known,
}

/// The federation, where there is one.
pub struct Federation {
    /// Its name.
    pub name: FederationName,
    /// The global quorum.
    pub store: usize,
    /// As above.
    pub known: global::Known,
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "independent settings of a run")]
pub struct World {
    /// The present.
    pub now: Nanos,
    number: u64,
    queue: BinaryHeap<Reverse<Due>>,
    /// The run's randomness.
    pub chance: Chance,
    /// What happened.
    pub trace: Trace,
    /// What has happened at least once.
    pub counters: Counters,
    /// Tasks to begin.
    pub spawned: Vec<(ProcessId, Task)>,
    /// Programs that ended.
    pub ended: Vec<ProcessId>,
    /// Programs that go on.
    pub resumed: Vec<ProcessId>,
    /// All programs.
    pub programs: Vec<Program>,
    /// The network.
    pub net: Network,
    /// The stores.
    pub stores: Vec<StoreModel>,
    /// Requests in flight.
    pub calls: BTreeMap<u64, Call>,
    pub(crate) last_call: u64,
    /// Open watches.
    pub watches: BTreeMap<u64, Watching>,
    pub(crate) last_watch: u64,
    /// Tenures and requests get their names here.
    pub ids: Arc<AtomicU64>,
    /// The sites.
    pub sites: Vec<Site>,
    /// The federation.
    pub federation: Option<Federation>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Streams.
    pub connections: BTreeMap<u64, Connection>,
    /// The last stream's number.
    pub last_connection: u64,
    /// The last job's number.
    pub last_job: u64,
    /// How often somebody asked an agent for something.
    pub asks: u64,
    /// Records that are no writes.
    pub marks: u64,
    /// Databases that were made.
    pub databases: u64,
    /// Clients.
    pub clients: Vec<Client>,
    /// Where they are.
    pub clients_host: HostId,
    /// What they wrote.
    pub history: History,
    /// What the invariants remember.
    pub checks: Checks,
    /// The run has come upon a fault of the product that is known, and ends there.
    pub known: Option<&'static str>,
    /// What broke one.
    pub violation: Option<Violation>,
    /// The deliberate fault.
    pub mutant: Mutant,
    /// The run's faults.
    pub plan: Vec<Fault>,
    /// Those that have begun and not ended.
    pub struck: Vec<Fault>,
    /// The harsh phase is over.
    pub healing: bool,
    /// The coordinators.
    pub coordinators: Vec<Coordinator>,
    /// The federation's file.
    pub topology: String,
    /// The last operation's number.
    pub last_operation: u64,
    /// An operator has asked to fence the writes.
    pub has_fenced: bool,
    /// Commits wait for a standby inside each site.
    pub synchronous: bool,
    /// They wait for a quorum, if they wait.
    pub quorum: bool,
    /// Members and sites are asked when a store does not answer.
    pub failsafe: bool,
}

impl World {
    /// Nothing yet.
    #[must_use]
    pub fn new(seed: u64, trace: Trace, mutant: Mutant) -> Self {
        let mut net = Network::default();
        let clients_host = net.host(usize::MAX);
        Self {
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            chance: Chance::new(seed),
            trace,
            counters: Counters::default(),
            spawned: Vec::new(),
            ended: Vec::new(),
            resumed: Vec::new(),
            programs: Vec::new(),
            net,
            stores: Vec::new(),
            calls: BTreeMap::new(),
            last_call: 0,
            watches: BTreeMap::new(),
            last_watch: 0,
            ids: Arc::new(AtomicU64::new(1)),
            sites: Vec::new(),
            federation: None,
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            last_connection: 0,
            last_job: 0,
            asks: 0,
            marks: 0,
            databases: 0,
            clients: Vec::new(),
            clients_host,
            history: History::default(),
            checks: Checks::default(),
            known: None,
            violation: None,
            mutant,
            plan: Vec::new(),
            struck: Vec::new(),
            healing: false,
            coordinators: Vec::new(),
            topology: String::new(),
            last_operation: 0,
            has_fenced: false,
            synchronous: true,
            quorum: false,
            failsafe: false,
        }
    }

    /// Something happens, `span` from now.
    pub fn schedule(&mut self, span: Nanos, event: Event) {
        self.schedule_at(self.now.saturating_add(span), event);
    }

    /// Something happens then.
    pub fn schedule_at(&mut self, at: Nanos, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Due { at: at.max(self.now), number: self.number, event }));
    }

    /// The next event up to `end`, with the clock moved there.
    pub fn next(&mut self, end: Nanos) -> Option<Event> {
        loop {
            if self.queue.peek().is_none_or(|due| due.0.at > end) {
                self.now = end;
                return None;
            }
            let Reverse(due) = self.queue.pop()?;
            self.now = due.at;
            if let Event::Wake(_, armed) = &due.event
                && !armed.swap(false, Ordering::Relaxed)
            {
                continue;
            }
            return Some(due.event);
        }
    }

    /// A program on node `n`.
    pub fn new_process(&mut self, n: usize) -> ProcessId {
        let host = self.nodes[n].host;
        self.programs.push(Program { host, node: Some(n), alive: true, paused: false });
        ProcessId(self.programs.len() - 1)
    }

    /// A program on a machine of its own.
    pub fn new_program(&mut self, host: HostId) -> ProcessId {
        self.programs.push(Program { host, node: None, alive: true, paused: false });
        ProcessId(self.programs.len() - 1)
    }

    /// Whether a program lives and is not stopped.
    #[must_use]
    pub fn runs(&self, process: ProcessId) -> bool {
        self.programs.get(process.0).is_some_and(|program| program.alive && !program.paused)
    }

    /// A program ends.
    pub fn end_program(&mut self, process: ProcessId) {
        if let Some(program) = self.programs.get_mut(process.0) {
            program.alive = false;
            self.ended.push(process);
        }
    }

    fn clock_of(&self, process: ProcessId) -> Option<&Clock> {
        let node = self.programs.get(process.0)?.node?;
        Some(&self.nodes[node].clock)
    }

    /// The boot clock that a program reads.
    #[must_use]
    pub fn boot(&self, process: ProcessId) -> BootTime {
        let right = BootTime::from_nanos(self.now + 1000 * SEC);
        self.clock_of(process).map_or(right, |clock| clock.boot(self.now))
    }

    /// When its boot clock will show `at`.
    #[must_use]
    pub fn when(&self, process: ProcessId, at: BootTime) -> Nanos {
        let right = at.nanos().saturating_sub(1000 * SEC);
        self.clock_of(process).map_or(right, |clock| clock.when(at))
    }

    /// A node's wall clock.
    #[must_use]
    pub fn wall(&self, n: usize) -> WallTime {
        let step = self.nodes.get(n).map_or(0, |node| node.clock.wall_step);
        let millis = i128::from(1_700_000_000_000_u64 + self.now / MS) + i128::from(step);
        WallTime(u64::try_from(millis).unwrap_or(0))
    }

    /// A task of this program was polled: the page may have changed.
    pub fn polled(&mut self, process: ProcessId) {
        if let Some(n) = self.programs.get(process.0).and_then(|program| program.node) {
            self.look_at_page(n);
        }
    }

    /// What happened, for the trace.
    pub fn explain(&mut self, n: usize, who: &str, what: impl FnOnce() -> String) {
        if self.trace.wanted() {
            let text = what();
            let name = self.nodes.get(n).map_or("", |node| node.name.as_str());
            self.trace.say(self.now, name, who, &text);
        }
    }

    /// A decision was made.
    pub fn decided(&mut self, n: usize, view: &View, decision: &Decision) {
        self.trace.note(self.now, n as u64, decision.actions.len() as u64);
        self.counters.count(ROUND);
        if matches!(decision.reason, Reason::Manual(_) | Reason::Requested(_)) {
            self.is_asked_for();
        }
        if self.nodes[n].decided.as_ref() == Some(&decision.reason) {
            return;
        }
        self.nodes[n].decided = Some(decision.reason.clone());
        let reason = decision.reason.to_string();
        if self.nodes[n].reason == reason {
            return;
        }
        self.trace.text(&reason);
        self.counters.reason(&decision.reason);
        for action in &decision.actions {
            self.counters.action(action);
        }
        if self.trace.wanted() {
            let saw = crate::explain::saw(view);
            let does: Vec<String> = decision.actions.iter().map(|a| format!("{a:?}")).collect();
            let name = self.nodes[n].name.as_str().to_owned();
            let text = format!("{reason} | saw {saw} | does {}", does.join("; "));
            self.trace.say(self.now, &name, "decides", &text);
        }
        self.nodes[n].reason = reason;
    }

    /// The server's process came or went: its agent looks.
    pub fn server_changed(&mut self, n: usize) {
        self.nodes[n].wake.notify_one();
    }

    /// Both leases are to be renewed at once.
    pub fn hurry(&self, n: usize) {
        if let Some(deadlines) = &self.nodes[n].deadlines {
            deadlines.hurry();
        }
    }

    /// When the request was sent that last raised the node's deadline.
    #[must_use]
    pub fn renewed(&self, n: usize) -> BootTime {
        self.nodes[n].deadlines.as_ref().map_or(BootTime::default(), |d| d.renewed())
    }

    /// Rung 1 looks at once.
    pub fn wake_guard(&mut self, n: usize) {
        self.nodes[n].guard_due = self.now;
        self.schedule(0, Event::Guard(n));
    }

    /// An agent ended by itself; its supervisor starts it again.
    pub fn agent_exits(&mut self, n: usize) {
        if let Some(process) = self.nodes[n].agent.take() {
            self.end_program(process);
            self.nodes[n].deadlines = None;
            self.nodes[n].door = None;
            self.nodes[n].paused = None;
        }
        self.explain(n, "agent", || "ends".to_owned());
        let pause = self.chance.between(SEC, 5 * SEC);
        self.schedule(pause, Event::StartAgent(n));
    }

    /// Whether the other sites' servers can be reached, as the product's own probe says.
    #[must_use]
    pub fn reaches(&self, n: usize) -> BTreeMap<SiteName, Reach> {
        let own = self.nodes[n].site;
        let mut reaches = BTreeMap::new();
        for (s, site) in self.sites.iter().enumerate() {
            if s == own || site.nodes.is_empty() {
                continue;
            }
            let found = site.nodes.iter().find(|m| {
                self.net.both(self.nodes[n].host, self.nodes[**m].host)
                    && self.nodes[**m].server.answers()
            });
            if let Some(m) = found {
                let node = self.nodes[*m].name.clone();
                reaches.insert(site.name.clone(), Reach::Reached { node });
            }
        }
        reaches
    }
}
