//! The steps of the model: who may do what, when.

use stateright::{Model, Property};

use super::records::{HISTORIES, Histories, History, P, PState, Point, SITES};
use super::rules::{self, HIGH, LOW};
use super::transactions::Edge;
use super::{
    Bounds, Kind, L, Memory, Mutant, Primacy, Request, Sin, Site, Stage, State, properties,
};

/// A step. Sites and requests by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Time goes on.
    Tick,
    /// A leader sends a request.
    Send(usize, Kind),
    /// The quorum gets it.
    Apply(usize),
    /// It never gets it.
    Lose(usize),
    /// Its sender gives it up.
    GiveUp(usize),
    /// Its sender gets the answer.
    Answer(usize),
    /// A leader reads back which renewal was applied.
    ReadBack(usize),
    /// A leader marks its site and stops.
    Mark(usize),
    /// An outlived mark falls.
    MarkFalls(usize),
    /// A server that stopped without a mark goes back.
    Reopen(usize),
    /// The epoch is written down.
    Enter(usize),
    /// The server opens.
    Open(usize),
    /// A row is acknowledged.
    Write(usize),
    /// A node gets the WAL there is, by rewind where it must.
    Follow(usize, u8),
    /// The other node leads; the leader before it is dead.
    Failover(usize),
    /// The leader, which lacks the floor, gives up the leader key to the other node (rule 7).
    GiveWay(usize),
    /// A reading is sent.
    Read(usize),
    /// It is answered.
    ReadAnswer(usize),
    /// A round of promises begins.
    Ask(usize),
    /// A site promises; its answer is heard, or lost.
    Promise(usize, bool),
    /// Lowering begins, and is given up.
    BeginLowering(usize),
    /// It goes back to the higher TTL.
    GiveUpLowering(usize),
    /// A coordinator's transaction, or A's leader's roll-back, which compares what it read.
    Edge(Edge),
    /// One that compares nothing is decided.
    Decide(Edge),
    /// It is applied.
    Put,
}

impl Step {
    /// Whether it is neither a fault nor an operator's: what the system does by itself.
    pub(super) fn is_free(self) -> bool {
        match self {
            Self::Lose(_)
            | Self::GiveUp(_)
            | Self::Failover(_)
            | Self::Promise(_, false)
            | Self::BeginLowering(_)
            | Self::Edge(Edge::Handover(_) | Edge::Fence(_) | Edge::Remove(_))
            | Self::Decide(_) => false,
            Self::Tick
            | Self::Send(..)
            | Self::Apply(_)
            | Self::Answer(_)
            | Self::ReadBack(_)
            | Self::Mark(_)
            | Self::MarkFalls(_)
            | Self::Reopen(_)
            | Self::Enter(_)
            | Self::Open(_)
            | Self::Write(_)
            | Self::Follow(..)
            | Self::GiveWay(_)
            | Self::Read(_)
            | Self::ReadAnswer(_)
            | Self::Ask(_)
            | Self::Promise(_, true)
            | Self::GiveUpLowering(_)
            | Self::Edge(_)
            | Self::Put => true,
        }
    }
}

impl Primacy {
    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Nodes of a site; a second one matters only where it may lead.
    pub(super) fn nodes(&self, at: usize) -> u8 {
        if at == 2 || self.bounds.failovers == 0 { 1 } else { 2 }
    }

    fn sites(&self) -> std::ops::Range<usize> {
        0..usize::from(self.bounds.sites)
    }

    /// Whether a leader may send: one request of its own at a time, and room in flight.
    fn may_send(&self, s: &State, at: usize) -> bool {
        let own = |request: &&Request| usize::from(request.site) == at && request.live;
        let in_flight = s.requests.iter().flatten();
        in_flight.clone().count() < usize::from(self.bounds.requests)
            && !in_flight.filter(own).any(|request| request.heard)
    }

    fn sends(&self, s: &State, at: usize, out: &mut Vec<Step>) {
        if !self.may_send(s, at) {
            return;
        }
        let site = &s.sites[at];
        let memory = &site.memory;
        let holds = usize::from(s.p.holder) == at;
        let free = site.mark.is_none() || self.is(Mutant::TokenComparesNoLeaseAndTheMarkDoesNotBar);
        let lacks = !memory.lease || memory.left == 0;
        let tests =
            !self.is(Mutant::FloorTestedAtOpeningOnly) && !self.is(Mutant::OpeningWithoutTheFloor);
        let floor = !tests || rules::contains_floor(s, at);
        let wal = site.wal[usize::from(site.leader)];
        match s.p.state {
            PState::Open | PState::Handover(_)
                if holds && free && lacks && (floor || self.is(Mutant::AcquireWithoutTheFloor)) =>
            {
                out.push(Step::Send(at, Kind::Acquire));
            }
            PState::Open | PState::Handover(_) | PState::Token(_) | PState::Fenced(_) => {}
        }
        if memory.lease && site.mark.is_none() && (site.open || !memory.marked) {
            let lowered = s.p.ttl_max == LOW || memory.lowering > 0;
            let ttl = if lowered { LOW } else { s.p.ttl_max };
            out.push(Step::Send(at, Kind::Renew(ttl)));
        }
        let sent = |kinds: fn(Kind) -> bool| {
            let own = s.requests.iter().flatten().filter(|r| usize::from(r.site) == at && r.live);
            own.filter(|r| r.stage == Stage::Sent).any(|r| kinds(r.kind))
        };
        let marked = memory.marked
            && (site.mark == Some(true)
                || self.is(Mutant::StopWithoutMark)
                || self.is(Mutant::TokenComparesNoLeaseAndTheMarkDoesNotBar));
        let stopped = marked && !site.open && holds && floor;
        let own_lease = s.l.of.map(usize::from) == Some(at);
        if stopped
            && own_lease
            && matches!(s.p.state, PState::Handover(_))
            && !sent(|kind| matches!(kind, Kind::Token(..)))
        {
            out.push(Step::Send(at, Kind::Token(wal.history, wal.end)));
        }
        let taking = sent(|kind| matches!(kind, Kind::Take | Kind::Promote(..)));
        let exact = wal == s.p.floor && rules::contains_floor(s, at);
        match s.p.state {
            PState::Token(to) if usize::from(to) == at && !taking => {
                let may = self.next(s, Edge::Take).is_some();
                if may && (exact || self.is(Mutant::TakeWithoutWalAndFloor)) {
                    out.push(Step::Send(at, Kind::Take));
                }
            }
            PState::Fenced(to) if usize::from(to) == at && !taking => {
                let waited = memory.fenced_for.is_some_and(|age| rules::waited(age, s.p.ttl_max));
                let promised = site.promise.is_some_and(|age| rules::promise_stands(s, age));
                let may = self.next(s, Edge::Promote(wal)).is_some();
                if may
                    && (waited || self.is(Mutant::NoWaitAfterTheFence))
                    && (!promised || self.is(Mutant::PromotionIgnoresItsPromise))
                {
                    out.push(Step::Send(at, Kind::Promote(wal.history, wal.end)));
                }
            }
            PState::Open | PState::Handover(_) | PState::Token(_) | PState::Fenced(_) => {}
        }
        let writes = memory.lease && site.open && holds;
        let alone = memory.left == memory.acknowledged && memory.round.is_none();
        if self.bounds.adds
            && writes
            && s.p.electorate & 4 == 0
            && (alone || self.is(Mutant::AddedWhileDRestsOnPromises))
        {
            out.push(Step::Send(at, Kind::Add(2)));
        }
        if self.bounds.lowers && writes && memory.lowering == 2 && s.p.ttl_max == HIGH {
            out.push(Step::Send(at, Kind::Lower));
        }
    }

    fn leader(&self, s: &State, at: usize, out: &mut Vec<Step>) {
        let site = &s.sites[at];
        let memory = &site.memory;
        let holds = usize::from(s.p.holder) == at;
        let deaf = |r: &Request| usize::from(r.site) == at && r.live && !r.heard;
        let renewal = |r: &Request| matches!(r.kind, Kind::Renew(_));
        if s.requests.iter().flatten().any(|r| deaf(r) && renewal(r) && r.stage == Stage::Applied) {
            out.push(Step::ReadBack(at));
        }
        if holds && memory.lease && site.mark.is_none() && matches!(s.p.state, PState::Handover(_))
        {
            out.push(Step::Mark(at));
        }
        if site.mark.is_some() && !self.is(Mutant::MarkNeverFalls) {
            out.push(Step::MarkFalls(at));
        }
        if self.is(Mutant::StopWithoutMark) && memory.marked && !site.open {
            out.push(Step::Reopen(at));
        }
        if memory.lease && site.seen < memory.epoch {
            out.push(Step::Enter(at));
        }
        let room = usize::from(s.histories.count) < HISTORIES;
        // Without a deadline the gate is closed anyway, and asking it takes time.
        if !site.open && memory.left > 0 && room && !(memory.marked && site.mark.is_none()) {
            out.push(Step::Open(at));
        }
        let other = usize::from(1 - site.leader);
        let in_step = self.nodes(at) == 1 || site.wal[other] == site.wal[usize::from(site.leader)];
        if site.open && s.rows < self.bounds.rows && in_step {
            out.push(Step::Write(at));
        }
        if at < 2 && s.failovers < self.bounds.failovers {
            out.push(Step::Failover(at));
        }
        let has = |node: usize| s.histories.contains(site.wal[node], s.p.floor);
        if holds
            && self.nodes(at) == 2
            && !memory.lease
            && !self.is(Mutant::NeverGivesWay)
            && !has(usize::from(site.leader))
            && has(other)
        {
            out.push(Step::GiveWay(at));
        }
        let fenced = matches!(s.p.state, PState::Fenced(to) if usize::from(to) == at);
        if memory.reading.is_some() && !holds {
            out.push(Step::ReadAnswer(at));
        } else if self.may_be_promoted(s, at) && !holds && (fenced || self.bounds.credit) {
            out.push(Step::Read(at));
        }
        if self.bounds.promises {
            let allowed = rules::may_use_promises(s, at);
            if allowed && memory.round.is_none() {
                out.push(Step::Ask(at));
            }
        }
        if self.bounds.lowers && site.open && s.p.ttl_max == HIGH {
            let step = match memory.lowering {
                0 => Step::BeginLowering(at),
                _ => Step::GiveUpLowering(at),
            };
            out.push(step);
        }
    }

    fn follows(&self, s: &State, out: &mut Vec<Step>) {
        let serves = usize::from(s.p.holder);
        for at in self.sites() {
            if s.p.state == PState::Fenced(u8::try_from(at).unwrap_or(u8::MAX)) {
                // Rule 12: it has stopped its receiver, and is what it will promote.
                continue;
            }
            let nodes = self.nodes(at);
            for node in 0..nodes {
                let site = &s.sites[at];
                let leads = node == site.leader;
                if leads && (at == serves || site.open) {
                    continue;
                }
                let source = if leads { serves } else { at };
                let source = s.sites[source].wal[usize::from(s.sites[source].leader)];
                let own = site.wal[usize::from(node)];
                // Nobody goes back to a history of fewer timelines than its own (`decide/rejoin.rs`).
                let older = s.histories.timeline(source) < s.histories.timeline(own);
                if own != source && !older && s.histories.contains(source, s.p.floor) {
                    out.push(Step::Follow(at, node));
                }
            }
        }
    }

    fn promises(&self, s: &State, out: &mut Vec<Step>) {
        let Some(asker) = self.sites().find(|at| s.sites[*at].memory.round.is_some()) else {
            return;
        };
        let asking = &s.sites[asker].memory;
        for at in self.sites().filter(|at| *at != asker) {
            let site = &s.sites[at];
            let already = asking.round.is_some_and(|(_, who)| who & (1 << at) != 0);
            let asked = asking.electorate & (1 << at) != 0;
            let taking = s.requests.iter().flatten().any(|r| {
                usize::from(r.site) == at
                    && r.live
                    && r.stage == Stage::Sent
                    && matches!(r.kind, Kind::Take | Kind::Promote(..))
            });
            // Who holds a tenure knows of its own epoch.
            let knows = !site.memory.lease && rules::may_promise(s, at, asker);
            if asked && !already && knows && !taking {
                out.extend([Step::Promise(at, true), Step::Promise(at, false)]);
            }
        }
    }

    /// Whether this transaction of a coordinator is a put without compares: by the product, or
    /// broken here.
    fn blind(&self, edge: Edge) -> bool {
        let broken = match edge {
            Edge::RollBack => self.is(Mutant::RollBackAsAPut),
            Edge::Handover(_) => self.is(Mutant::CoordinatorWritesWithoutCompares),
            _ => false,
        };
        broken || !edge.compares_primary()
    }

    fn coordinators(&self, s: &State, out: &mut Vec<Step>) {
        let others = self.sites().filter_map(|at| u8::try_from(at).ok());
        let others = others.filter(|to| *to != s.p.holder);
        let mut edges = Vec::new();
        match s.p.state {
            PState::Open => {
                if s.handovers < self.bounds.handovers {
                    edges.extend(others.clone().map(Edge::Handover));
                }
            }
            PState::Handover(_) | PState::Token(_) if self.is(Mutant::NoRollBack) => {}
            PState::Handover(_) | PState::Token(_) => edges.push(Edge::RollBack),
            PState::Fenced(_) if self.is(Mutant::NoUnfence) => {}
            PState::Fenced(_) => edges.push(Edge::Unfence),
        }
        if s.fences < self.bounds.fences && !matches!(s.p.state, PState::Fenced(_)) {
            let promotes = |to: &u8| self.bounds.promotes(usize::from(*to));
            edges.extend(others.filter(promotes).map(Edge::Fence));
        }
        if self.bounds.removes && s.p.electorate & 4 != 0 {
            edges.push(Edge::Remove(2));
        }
        for edge in edges {
            // One that compares what it read is the same as one that is decided where it is applied.
            out.push(Step::Edge(edge));
            if self.blind(edge) && s.put.is_none() {
                out.push(Step::Decide(edge));
            }
        }
        if s.put.is_some() {
            out.push(Step::Put);
        }
    }
}

impl Model for Primacy {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let start = Point { history: 0, end: 0 };
        let Bounds { sites, adds, lowers, .. } = self.bounds;
        let electorate = if sites > 2 && !adds { 0b111 } else { 0b011 };
        let ttl_max = if lowers { HIGH } else { LOW };
        let memory = Memory { electorate, ..Memory::default() };
        let site = Site {
            leader: 0,
            wal: [start; 2],
            memory,
            open: false,
            mark: None,
            seen: 1,
            promise: None,
        };
        vec![State {
            p: P { holder: 0, epoch: 1, state: PState::Open, floor: start, electorate, ttl_max },
            l: L { of: None, released: true, writer: None },
            sites: [site; SITES],
            requests: [None; 3],
            histories: Histories {
                count: 1,
                each: [History { parent: 0, at: 0, by: (0, 0, 0) }; HISTORIES],
            },
            row: start,
            top: 1,
            handovers: 0,
            fences: 0,
            failovers: 0,
            rows: 0,
            put: None,
            sin: Sin::None,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Step>) {
        out.push(Step::Tick);
        for at in self.sites() {
            self.sends(s, at, out);
            self.leader(s, at, out);
        }
        self.follows(s, out);
        self.promises(s, out);
        self.coordinators(s, out);
        for (at, request) in s.requests.iter().enumerate() {
            let Some(request) = request else { continue };
            if request.stage == Stage::Sent {
                out.push(Step::Apply(at));
                if !request.heard {
                    out.push(Step::Lose(at));
                }
            } else if request.heard {
                out.push(Step::Answer(at));
            }
            if request.heard {
                out.push(Step::GiveUp(at));
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut after = *before;
        self.perform(&mut after, step)?;
        self.settle(&mut after);
        (after != *before).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties(&self.bounds)
    }
}
