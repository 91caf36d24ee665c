//! What a step does.

use super::records::{P, PState};
use super::rules::{self, LOW};
use super::steps::Step;
use super::transactions::Edge;
use super::{Bounds, L, Memory, Mutant, Primacy, Sin, State};
use crate::clock::OLD;

fn index(at: usize) -> u8 {
    u8::try_from(at).unwrap_or(u8::MAX)
}

impl State {
    /// `primary` has another revision.
    pub(super) fn set_primary(&mut self, model: &Primacy, p: P) {
        if p.epoch < self.p.epoch {
            self.sin = Sin::EpochBack;
        }
        self.p = p;
        self.top = self.top.max(p.epoch);
        for site in &mut self.sites {
            site.memory.p_known = false;
            if !model.is(Mutant::WaitNotStartedOver) {
                site.memory.fenced_for = None;
            }
            site.mark = site.mark.map(|_| false);
        }
        for request in self.requests.iter_mut().flatten() {
            request.p_fresh = false;
        }
    }

    /// `lease` has another revision, written by this request.
    pub(super) fn set_lease(&mut self, model: &Primacy, lease: L) {
        self.l = lease;
        for site in &mut self.sites {
            site.memory.l_known = false;
            if !model.is(Mutant::CreditAcrossAChangedLease) {
                site.memory.lease_for = None;
            }
        }
        for request in self.requests.iter_mut().flatten() {
            request.l_fresh = false;
        }
    }

    /// The tenure is over.
    pub(super) fn end(&mut self, at: usize) {
        let site = &mut self.sites[at];
        site.open = false;
        let memory = &mut site.memory;
        (memory.lease, memory.left, memory.acknowledged) = (false, 0, 0);
        (memory.round, memory.lowering) = (None, 0);
    }

    pub(super) fn raise(&mut self, at: usize, left: u8) {
        let memory = &mut self.sites[at].memory;
        memory.left = memory.left.max(left);
        memory.acknowledged = memory.acknowledged.max(left);
        memory.refused = false;
    }
}

impl Primacy {
    pub(super) fn perform(&self, s: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Tick => tick(&self.bounds, s),
            Step::Send(at, kind) => self.send(s, at, kind),
            Step::Apply(slot) => self.apply(s, slot)?,
            Step::Lose(slot) => s.requests[slot] = None,
            Step::GiveUp(slot) => self.give_up(s, slot)?,
            Step::Answer(slot) => self.answer(s, slot)?,
            Step::ReadBack(at) => self.read_back(s, at),
            Step::Mark(at) => self.mark(s, at),
            Step::MarkFalls(at) => {
                let site = &s.sites[at];
                let lets = site.mark == Some(false)
                    && s.p.state == PState::Open
                    && usize::from(s.p.holder) == at;
                let any = self.is(Mutant::ReopenWithoutACasWithDKept)
                    || self.is(Mutant::MarkFallsInAnyStateAndTokenComparesNoLease);
                if !lets && !any {
                    return None;
                }
                s.sites[at].mark = None;
                s.sites[at].memory.marked = false;
            }
            Step::Reopen(at) => s.sites[at].memory.marked = false,
            Step::Enter(at) => s.sites[at].seen = s.sites[at].memory.epoch,
            Step::Open(at) => self.open(s, at)?,
            Step::Write(at) => {
                let site = &mut s.sites[at];
                let leader = usize::from(site.leader);
                if !s.histories.truly_contains(site.wal[leader], s.row) {
                    s.sin = Sin::Lost;
                }
                site.wal[leader].end += 1;
                if self.nodes(at) == 2 {
                    site.wal[1 - leader] = site.wal[leader];
                }
                s.row = site.wal[leader];
                s.rows += 1;
            }
            Step::Follow(at, node) => {
                let leads = node == s.sites[at].leader;
                let source = if leads { usize::from(s.p.holder) } else { at };
                let source = s.sites[source].wal[usize::from(s.sites[source].leader)];
                s.sites[at].wal[usize::from(node)] = source;
            }
            Step::Failover(at) => {
                s.failovers += 1;
                self.failover(s, at);
            }
            Step::GiveWay(at) => self.failover(s, at),
            Step::Read(at) => {
                s.sites[at].memory.reading = Some(0);
                if !self.reads_slowly() {
                    self.read_answer(s, at);
                }
            }
            Step::ReadAnswer(at) => self.read_answer(s, at),
            Step::Ask(at) => s.sites[at].memory.round = Some((0, 0)),
            Step::Promise(at, heard) => self.promise(s, at, heard)?,
            Step::BeginLowering(at) => s.sites[at].memory.lowering = 1,
            Step::GiveUpLowering(at) => s.sites[at].memory.lowering = 0,
            Step::Edge(edge) => {
                let next = self.next(s, edge)?;
                count(s, edge);
                s.set_primary(self, next);
            }
            Step::Decide(edge) => {
                s.put = Some(self.next(s, edge)?);
                count(s, edge);
            }
            Step::Put => {
                let put = s.put.take()?;
                s.set_primary(self, put);
            }
        }
        Some(())
    }

    fn mark(&self, s: &mut State, at: usize) {
        let keeps = self.is(Mutant::MarkKeepsTheDeadline)
            || self.is(Mutant::ReopenWithoutACasWithDKept)
            || self.is(Mutant::StopWithoutMark);
        if !keeps {
            s.end(at);
        }
        for request in s.requests.iter_mut().flatten() {
            request.void |= usize::from(request.site) == at;
        }
        let site = &mut s.sites[at];
        site.open = false;
        site.memory.marked = true;
        site.mark = (!self.is(Mutant::StopWithoutMark)).then_some(true);
    }

    fn open(&self, s: &mut State, at: usize) -> Option<()> {
        if !rules::may_open(self, s, at) {
            return None;
        }
        let site = s.sites[at];
        let wal = site.wal[usize::from(site.leader)];
        if site.memory.epoch < s.top {
            s.sin = Sin::OlderEpoch;
        } else if !s.histories.truly_contains(wal, s.row) {
            s.sin = Sin::Lost;
        }
        let by = (index(at), site.leader, site.memory.epoch);
        // Where no row is written, histories differ in nothing that anybody asks.
        let begun = if self.bounds.rows > 0 { s.histories.begin(wal, by)? } else { wal };
        let site = &mut s.sites[at];
        site.wal[usize::from(site.leader)] = begun;
        site.open = true;
        Some(())
    }

    fn failover(&self, s: &mut State, at: usize) {
        let electorate = s.p.electorate;
        let site = &mut s.sites[at];
        site.leader = 1 - site.leader;
        site.open = false;
        site.memory = Memory { electorate, ..Memory::default() };
        if self.is(Mutant::OpeningBeforeTheReading) {
            (site.memory.left, site.memory.epoch) = (LOW, site.seen);
        }
        if self.is(Mutant::WaitFromAnotherProcess) {
            site.memory.fenced_for = Some(OLD.min(5));
        }
        site.promise = match site.promise {
            Some(_) if !self.is(Mutant::PromiseInMemory) => Some(0),
            Some(_) | None => None,
        };
        for request in s.requests.iter_mut().flatten() {
            if usize::from(request.site) == at {
                (request.live, request.heard) = (false, false);
            }
        }
        if s.l.of.map(usize::from) == Some(at) {
            s.l.of = None;
        }
    }

    fn promise(&self, s: &mut State, at: usize, heard: bool) -> Option<()> {
        let asker = s.sites.iter().position(|site| site.memory.round.is_some())?;
        s.sites[at].promise = Some(0);
        let may = rules::may_use_promises(s, asker);
        if heard {
            let memory = &mut s.sites[asker].memory;
            let (age, who) = memory.round?;
            let who = who | (1 << at);
            let wanted = if self.is(Mutant::OneAnswerIsEnough) { who } else { memory.electorate };
            if let Some(span) = rules::complete(wanted, asker, who) {
                let left = rules::granted(age, span);
                if left > memory.left && may {
                    memory.left = left;
                }
                memory.round = None;
            } else {
                memory.round = Some((age, who));
            }
        }
        Some(())
    }

    fn read_answer(&self, s: &mut State, at: usize) {
        let fenced = s.p.state == PState::Fenced(index(at));
        let memory = &mut s.sites[at].memory;
        let Some(sent) = memory.reading.take() else { return };
        if fenced && memory.fenced_for.is_none() {
            let answered = if self.is(Mutant::WaitAnchoredAtTheSending) { sent } else { 0 };
            // Credit: `lease` is as it was in an earlier reading.
            memory.fenced_for = Some(memory.lease_for.unwrap_or(answered).max(answered));
        }
        memory.lease_for.get_or_insert(0);
    }
}

/// What operators do at most so often.
fn count(s: &mut State, edge: Edge) {
    s.handovers += u8::from(matches!(edge, Edge::Handover(_)));
    s.fences += u8::from(matches!(edge, Edge::Fence(_)));
}

/// Ages beyond which nothing differs: a deadline is over after a TTL or a span, a wait after its own
/// length.
fn tick(bounds: &Bounds, s: &mut State) {
    let wait = bounds.longest() + 1;
    let older = |age: u8, most: u8| (age + 1).min(most);
    for site in &mut s.sites {
        let memory = &mut site.memory;
        memory.left = memory.left.saturating_sub(1);
        memory.acknowledged = memory.acknowledged.saturating_sub(1);
        for age in [&mut memory.reading, &mut memory.fenced_for, &mut memory.lease_for] {
            *age = age.map(|age| older(age, wait));
        }
        site.promise = site.promise.map(|age| older(age, rules::SPAN));
        memory.round = memory.round.map(|(age, who)| (older(age, rules::SPAN), who));
    }
    for request in s.requests.iter_mut().flatten() {
        request.age = older(request.age, bounds.longest());
    }
}
