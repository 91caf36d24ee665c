//! The world: everything that is not the product's own code, and the queue of what happens next.
//!
//! One thread, one seed. Every effect is an event at a point of virtual time; events of one point
//! happen in the order in which they were scheduled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use regent_agent::decide::view::View;
use regent_agent::decide::{Decision, Job};
use regent_dcs::StoreError;
use regent_proto::name::{FederationName, SiteName};
use regent_proto::record::Reach;
use regent_proto::time::{BootTime, WallTime};

use crate::chance::Chance;
use crate::clients::Client;
use crate::coordinator::{Coordinator, Verb};
use crate::counters::Counters;
use crate::faults::Fault;
use crate::history::History;
use crate::invariants::{Checks, Violation};
use crate::mutants::Mutant;
use crate::network::{HostId, Network};
use crate::node::Node;
use crate::postgres::life::Stage;
use crate::postgres::replication::Connection;
use crate::store::client::{Call, Watching};
use crate::store::{Answer, Request, StoreModel};
use crate::tasks::Task;
use crate::time::{Clock, MS, Nanos, SEC};
use crate::trace::Trace;

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
            Self::Heal => write!(f, "Heal"),
        }
    }
}

struct Due {
    at: Nanos,
    number: u64,
    event: Event,
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

/// A site.
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Its DCS.
    pub store: usize,
    /// Its nodes.
    pub nodes: Vec<usize>,
}

/// The federation, where there is one.
pub struct Federation {
    /// Its name.
    pub name: FederationName,
    /// The global quorum.
    pub store: usize,
}

/// See the module.
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
    last_call: u64,
    /// Open watches.
    pub watches: BTreeMap<u64, Watching>,
    last_watch: u64,
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
    /// The harsh phase is over.
    pub healing: bool,
    /// The coordinators.
    pub coordinators: Vec<Coordinator>,
    /// The federation's file.
    pub topology: String,
    /// The last operation's number.
    pub last_operation: u64,
    /// Commits wait for a standby inside each site.
    pub synchronous: bool,
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
            healing: false,
            coordinators: Vec::new(),
            topology: String::new(),
            last_operation: 0,
            synchronous: true,
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
        let reason = decision.reason.to_string();
        self.trace.note(self.now, n as u64, decision.actions.len() as u64);
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

    /// A store call ended like this.
    pub fn store_said(&mut self, answer: &Result<Answer, StoreError>) {
        match answer {
            Ok(Answer::Txn(regent_dcs::TxnOutcome::Conflict { .. })) => {
                self.counters.count("store: conflict");
            }
            Ok(_) => {}
            Err(StoreError::Refused { .. }) => self.counters.count("store: refused"),
            Err(StoreError::NotDone { .. }) => self.counters.count("store: not done"),
            Err(StoreError::Unknown { .. }) => self.counters.count("store: unknown"),
        }
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

    /// Whether a machine gets through to a store: to a voter that sees a majority.
    #[must_use]
    pub fn reaches_store(&self, host: HostId, store: usize) -> bool {
        let Some(store) = self.stores.get(store) else { return false };
        let majority = store.voters.len() / 2 + 1;
        store.voters.iter().any(|voter| {
            let seen = store.voters.iter().filter(|other| self.net.both(*voter, **other)).count();
            self.net.open(host, *voter) && seen >= majority
        })
    }

    fn answers_back(&self, store: usize, host: HostId) -> bool {
        let Some(store) = self.stores.get(store) else { return false };
        store.voters.iter().any(|voter| self.net.open(*voter, host))
    }

    /// A program sends a request; its number.
    pub fn send(&mut self, process: ProcessId, store: usize, request: Request) -> u64 {
        self.last_call += 1;
        let id = self.last_call;
        self.calls.insert(id, Call { store, process, answer: None, waker: None });
        let Some(host) = self.programs.get(process.0).map(|program| program.host) else {
            return id;
        };
        let lost = self.net.loss > 0 && self.chance.one_in(self.net.loss);
        if self.reaches_store(host, store) && !lost {
            let span = self.way_to(host, store);
            self.schedule(span, Event::Arrive(id, store, host, Box::new(request)));
        }
        id
    }

    fn way_to(&mut self, host: HostId, store: usize) -> Nanos {
        let voters = self.stores.get(store).map_or(&[][..], |store| &store.voters);
        let open = voters.iter().find(|voter| self.net.open(host, **voter)).copied();
        // A quorum of several sites answers after a round between its voters.
        let far = if voters.len() > 1 { 2 } else { 1 };
        let Some(voter) = open else { return MS };
        self.net.latency(&mut self.chance, host, voter) * far
    }

    /// A request takes effect; its answer sets out.
    pub fn arrive(&mut self, id: u64, store: usize, host: HostId, request: &Request) {
        let now = self.now;
        let Some(model) = self.stores.get_mut(store) else { return };
        if model.down {
            return;
        }
        let before = model.revision();
        let answer = model.answer(request, now, &mut self.chance);
        let after = model.revision();
        let work = model.work(&mut self.chance);
        if matches!(request, Request::Grant(_)) {
            self.lease_timer(store);
        }
        if before != after {
            self.trace.note(now, 1000 + store as u64, after.0);
            self.store_changed(store);
        }
        let lost = self.net.loss > 0 && self.chance.one_in(self.net.loss);
        if self.answers_back(store, host) && !lost {
            let span = self.way_to(host, store) + work;
            self.schedule(span, Event::Reply(id, Box::new(answer)));
        }
    }

    /// An answer arrives.
    pub fn reply(&mut self, id: u64, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.answer = Some(answer);
        if let Some(waker) = call.waker.take() {
            waker.wake();
        }
    }

    /// Leases of a store may be due.
    pub fn leases(&mut self, store: usize) {
        let now = self.now;
        let Some(model) = self.stores.get_mut(store) else { return };
        if model.timer != now {
            return;
        }
        model.timer = 0;
        let before = model.revision();
        // Nobody counts while nobody leads.
        if !model.down {
            model.tick(now);
        }
        let after = model.revision();
        self.lease_timer(store);
        if before != after {
            self.store_changed(store);
        }
    }

    /// The store looks again when its next lease is due.
    pub fn lease_timer(&mut self, store: usize) {
        let now = self.now;
        let Some(model) = self.stores.get_mut(store) else { return };
        let Some(next) = model.next_end() else { return };
        let next = if model.down { now + SEC } else { next.max(now + MS) };
        if model.timer <= now || next < model.timer {
            model.timer = next;
            self.schedule_at(next, Event::Leases(store));
        }
    }

    /// A store has news for its watches.
    pub fn store_changed(&mut self, store: usize) {
        self.check_store(store);
        let idle: Vec<(u64, ProcessId)> = self
            .watches
            .iter_mut()
            .filter(|(_, watching)| watching.store == store && !watching.pending)
            .map(|(id, watching)| {
                watching.pending = true;
                (*id, watching.process)
            })
            .collect();
        for (id, process) in idle {
            let Some(host) = self.programs.get(process.0).map(|program| program.host) else {
                continue;
            };
            let span = self.way_to(host, store) + self.chance.below(4 * MS);
            self.schedule(span, Event::News(id));
        }
    }

    /// A watch begins.
    pub fn open_watch(&mut self, watching: Watching) -> u64 {
        self.last_watch += 1;
        let id = self.last_watch;
        self.watches.insert(id, watching);
        // What changed since its revision is told at once.
        self.schedule(MS, Event::News(id));
        id
    }

    /// News arrive, or wait for the way to open.
    pub fn news(&mut self, id: u64) {
        let Some(watching) = self.watches.get_mut(&id) else { return };
        watching.pending = true;
        let (store, process) = (watching.store, watching.process);
        let Some(host) = self.programs.get(process.0).map(|program| program.host) else { return };
        let down = self.stores.get(store).is_none_or(|model| model.down);
        if down || !self.answers_back(store, host) || !self.reaches_store(host, store) {
            self.schedule(SEC, Event::News(id));
            return;
        }
        self.deliver(id);
    }
}
