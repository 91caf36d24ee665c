//! Requests on their way to a store, answers and news on their way back, and leases that come due.

use regent_dcs::{StoreError, TxnOutcome};

use super::client::{Call, Watching};
use super::{Answer, Request};
use crate::event::Event;
use crate::network::HostId;
use crate::time::{MS, Nanos, SEC};
use crate::world::{ProcessId, World};

impl World {
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
            let span = self.way_to(host, store) + self.held_up(store);
            self.schedule(span, Event::Arrive(id, store, host, Box::new(request)));
        }
        id
    }

    /// A proxy, a full queue, a packet that is sent again and again: who sent it may have given up long ago.
    fn held_up(&mut self, store: usize) -> Nanos {
        let late = self.stores.get(store).map_or(0, |store| store.late);
        if late > 0 && self.chance.one_in(3) { self.chance.below(late) } else { 0 }
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
            if let (Request::Txn(txn), Answer::Txn(TxnOutcome::Applied { .. })) = (request, &answer)
            {
                self.on_write(store, host, txn);
            }
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
        let node = self.programs.get(process.0).and_then(|program| program.node);
        let silent = node.is_some_and(|n| self.nodes[n].hears_no_news);
        if down || silent || !self.answers_back(store, host) || !self.reaches_store(host, store) {
            self.schedule(SEC, Event::News(id));
            return;
        }
        self.deliver(id);
    }

    /// A store call ended like this.
    pub fn store_said(&mut self, answer: &Result<Answer, StoreError>) {
        match answer {
            Ok(Answer::Txn(TxnOutcome::Conflict { .. })) => {
                self.counters.count("store: conflict");
            }
            Ok(_) => {}
            Err(StoreError::Refused { .. }) => self.counters.count("store: refused"),
            Err(StoreError::NotDone { .. }) => self.counters.count("store: not done"),
            Err(StoreError::Unknown { .. }) => self.counters.count("store: unknown"),
        }
    }
}
