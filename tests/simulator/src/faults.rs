//! What goes wrong: drawn per seed in kind and rate, each with an end.

use regent_agent::decide::freeze::Reading;

use crate::event::Event;
use crate::mutants::Mutant;
use crate::network::HostId;
use crate::time::{MIN, MS, Nanos, SEC};
use crate::world::World;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub at: Nanos,
    /// How long it lasts.
    pub span: Nanos,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to an agent.
    KillAgent(usize),
    /// SIGTERM to an agent.
    StopAgent(usize),
    /// SIGSTOP to an agent.
    PauseAgent(usize),
    /// SIGKILL to every process of PostgreSQL.
    KillPostgres(usize),
    /// SIGSTOP to PostgreSQL.
    PausePostgres(usize),
    /// SIGSTOP to a guardian.
    PauseGuardian(usize),
    /// The machine loses its power, and has it again.
    KillNode(usize),
    /// The machine does not run, and its boot clock does (suspend, a paused guest).
    Suspend(usize),
    /// A machine is cut off; from others, to others, or both.
    CutNode(usize, Way),
    /// Two machines don't see each other.
    CutNodes(usize, usize),
    /// A node does not reach its DCS, or is not answered.
    CutStore(usize, Way),
    /// A site is cut off.
    CutSite(usize, Way),
    /// Two sites don't see each other.
    CutSites(usize, usize),
    /// Every way is slow.
    SlowNetwork,
    /// Messages are lost.
    Loss,
    /// A store does not answer.
    StoreDown(usize),
    /// A store is slow.
    StoreSlow(usize),
    /// A store refuses writes.
    StoreFull(usize),
    /// A store's leader changes.
    Election(usize),
    /// A store forgets old changes.
    Compaction(usize),
    /// A key is deleted by hand.
    DeleteKey(usize),
    /// A node's disk is full.
    DiskFull(usize),
    /// A node's disk is slow.
    DiskSlow(usize),
    /// A clock runs too fast or too slow.
    Drift(usize, i16),
    /// A wall clock is stepped.
    WallStep(usize),
    /// A coordinator dies.
    KillCoordinator(usize),
    /// A site's machines lose their power.
    KillSite(usize),
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It hears nothing.
    In,
    /// It is not heard.
    Out,
    /// Neither.
    Both,
}

/// Machines of the run.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Nodes.
    pub nodes: usize,
    /// Sites, the witness too.
    pub sites: usize,
    /// Stores.
    pub stores: usize,
    /// Coordinators.
    pub coordinators: usize,
}

impl World {
    /// Draws the faults of a run: a few kinds, each at a rate of its own.
    pub fn draw_faults(&mut self, extent: Extent, count: usize, harsh: Nanos) -> Vec<Fault> {
        const KINDS: u64 = 27;
        let favoured: Vec<u64> = (0..6).map(|_| self.chance.below(KINDS)).collect();
        let mut faults: Vec<Fault> = (0..count)
            .filter_map(|_| {
                let kind = if self.chance.one_in(3) {
                    self.chance.below(KINDS)
                } else {
                    self.chance.pick(&favoured).copied().unwrap_or(0)
                };
                let kind = self.draw(kind, extent)?;
                let at = self.chance.between(MIN, harsh);
                let span = match self.chance.below(4) {
                    0 => self.chance.between(50 * MS, 3 * SEC),
                    1 | 2 => self.chance.between(3 * SEC, 40 * SEC),
                    _ => self.chance.between(40 * SEC, 4 * MIN),
                };
                Some(Fault { at, span, kind })
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        faults
    }

    fn draw(&mut self, kind: u64, extent: Extent) -> Option<Kind> {
        let n = self.chance.index(extent.nodes);
        let m = self.chance.index(extent.nodes);
        let s = self.chance.index(extent.sites);
        let t = self.chance.index(extent.sites);
        let store = self.chance.index(extent.stores);
        let way = *self.chance.pick(&[Way::In, Way::Out, Way::Both, Way::Both])?;
        Some(match kind {
            0 => Kind::KillAgent(n),
            1 => Kind::StopAgent(n),
            2 => Kind::PauseAgent(n),
            3 => Kind::KillPostgres(n),
            4 => Kind::PausePostgres(n),
            5 => Kind::PauseGuardian(n),
            6 => Kind::KillNode(n),
            7 => Kind::Suspend(n),
            8 => Kind::CutNode(n, way),
            9 => Kind::CutNodes(n, m),
            10 => Kind::CutStore(n, way),
            11 if extent.sites > 1 => Kind::CutSite(s, way),
            12 if extent.sites > 1 && s != t => Kind::CutSites(s, t),
            13 => Kind::SlowNetwork,
            14 => Kind::Loss,
            15 => Kind::StoreDown(store),
            16 => Kind::StoreSlow(store),
            17 => Kind::StoreFull(store),
            18 => Kind::Election(store),
            19 => Kind::Compaction(store),
            20 => Kind::DeleteKey(store),
            21 => Kind::DiskFull(n),
            22 => Kind::DiskSlow(n),
            23 => Kind::Drift(n, i16::try_from(self.chance.below(1600)).unwrap_or(0) - 800),
            24 => Kind::WallStep(n),
            25 if extent.coordinators > 0 => {
                Kind::KillCoordinator(self.chance.index(extent.coordinators))
            }
            26 => Kind::KillSite(s),
            _ => return None,
        })
    }

    /// A fault begins.
    pub(crate) fn begin_fault(&mut self, index: usize) {
        let Some(fault) = self.plan.get(index).cloned() else { return };
        if self.healing {
            return;
        }
        self.explain(usize::MAX, "FAULT", || {
            format!("{:?} for {} ms", fault.kind, fault.span / MS)
        });
        let name: String =
            format!("{:?}", fault.kind).chars().take_while(|c| c.is_alphanumeric()).collect();
        self.counters.count(&format!("fault: {name}"));
        self.trace.note(self.now, 4000, index as u64);
        self.strike(&fault);
        let span = fault.span;
        self.schedule(span, Event::Mend(Box::new(fault)));
    }

    fn strike(&mut self, fault: &Fault) {
        match fault.kind {
            // Nothing can be done to what does not run; and without a watchdog, a node whose agent
            // and guardian are both gone is not fenced (docs/safety.md).
            Kind::KillAgent(n)
            | Kind::StopAgent(n)
            | Kind::PauseAgent(n)
            | Kind::PausePostgres(n)
            | Kind::PauseGuardian(n)
            | Kind::Suspend(n)
                if self.half_asleep(n) => {}
            Kind::KillAgent(n) => self.kill_agent(n),
            Kind::StopAgent(n) => {
                if self.nodes[n].agent.is_some() {
                    self.nodes[n].mail.stop = true;
                    self.nodes[n].wake.notify_one();
                }
            }
            Kind::PauseAgent(n) => self.pause_agent(n, true),
            Kind::KillPostgres(n) => self.kill_server(n),
            Kind::PausePostgres(n) => self.server(n).paused = true,
            Kind::PauseGuardian(n) => {
                if self.nodes[n].agent.is_some_and(|process| self.runs(process)) {
                    self.nodes[n].guardian.paused = true;
                }
            }
            Kind::KillNode(n) => self.power_off(n),
            Kind::Suspend(n) => self.suspend(n),
            Kind::CutNode(n, way) => {
                let host = self.nodes[n].host;
                self.cut(host, way);
            }
            Kind::CutNodes(n, m) => self.cut_pair(n, m, true),
            Kind::CutStore(n, way) => self.cut_store(n, way, true),
            Kind::CutSite(s, way) => self.cut_site(s, way, true),
            Kind::CutSites(s, t) => {
                self.net.site_cuts.insert((s, t));
                self.net.site_cuts.insert((t, s));
            }
            Kind::SlowNetwork => self.net.slow = 800 * MS,
            Kind::Loss => self.net.loss = 6,
            Kind::StoreDown(store) => self.stores[store].down = true,
            Kind::StoreSlow(store) => self.stores[store].slow = 6 * SEC,
            Kind::Election(store) if self.mutant == Mutant::EarlyRevoke => {
                let now = self.now;
                self.stores[store].expire_early(now, &mut self.chance);
                self.store_changed(store);
            }
            Kind::StoreFull(store) => self.stores[store].read_only = true,
            Kind::Election(store) => self.stores[store].down = true,
            Kind::Compaction(store) => self.stores[store].compact(0),
            Kind::DeleteKey(store) => self.delete_key(store),
            Kind::DiskFull(n) => self.server(n).full = true,
            Kind::DiskSlow(n) => self.server(n).slow = 3 * SEC,
            Kind::Drift(n, ppm) => {
                let now = self.now;
                self.nodes[n].clock.set_rate(now, i64::from(ppm));
            }
            Kind::WallStep(n) => self.nodes[n].clock.wall_step -= 3_600_000,
            Kind::KillCoordinator(c) => self.kill_coordinator(c),
            Kind::KillSite(s) => {
                for n in self.sites[s].nodes.clone() {
                    self.power_off(n);
                }
            }
        }
    }

    /// Something of the node is stopped already.
    fn half_asleep(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.suspended || node.guardian.paused || node.server.paused || node.paused_at.is_some()
    }

    /// A fault ends.
    pub(crate) fn mend(&mut self, fault: &Fault) {
        self.explain(usize::MAX, "MENDED", || format!("{:?}", fault.kind));
        match fault.kind {
            Kind::KillAgent(_) | Kind::StopAgent(_) | Kind::KillPostgres(_) => {}
            Kind::Compaction(_) | Kind::DeleteKey(_) | Kind::WallStep(_) => {}
            Kind::PauseAgent(n) | Kind::PausePostgres(n) | Kind::PauseGuardian(n)
                if self.nodes[n].suspended => {}
            Kind::PauseAgent(n) => self.pause_agent(n, false),
            Kind::PausePostgres(n) => {
                self.server(n).paused = false;
                if !self.nodes[n].server.frozen {
                    self.thawed(n);
                }
            }
            Kind::PauseGuardian(n) => self.resume_guardian(n),
            Kind::KillNode(n) => self.power_on(n),
            Kind::Suspend(n) => self.resume_node(n),
            Kind::CutNode(n, _) => {
                let host = self.nodes[n].host;
                self.net.mute.remove(&host);
                self.net.deaf.remove(&host);
            }
            Kind::CutNodes(n, m) => self.cut_pair(n, m, false),
            Kind::CutStore(n, way) => self.cut_store(n, way, false),
            Kind::CutSite(s, way) => self.cut_site(s, way, false),
            Kind::CutSites(s, t) => {
                self.net.site_cuts.remove(&(s, t));
                self.net.site_cuts.remove(&(t, s));
            }
            Kind::SlowNetwork => self.net.slow = 0,
            Kind::Loss => self.net.loss = 0,
            Kind::StoreDown(store) | Kind::Election(store) => self.store_is_back(store),
            Kind::StoreSlow(store) => self.stores[store].slow = 0,
            Kind::StoreFull(store) => self.stores[store].read_only = false,
            Kind::DiskFull(n) => self.server(n).full = false,
            Kind::DiskSlow(n) => self.server(n).slow = 0,
            Kind::Drift(n, _) => {
                let now = self.now;
                self.nodes[n].clock.set_rate(now, 0);
            }
            Kind::KillCoordinator(c) => self.schedule(0, Event::StartCoordinator(c)),
            Kind::KillSite(s) => {
                for n in self.sites[s].nodes.clone() {
                    self.power_on(n);
                }
            }
        }
    }

    /// Everything is mended at once: the healing phase begins.
    pub(crate) fn heal(&mut self) {
        self.healing = true;
        self.net.heal();
        for fault in self.plan.clone() {
            match fault.kind {
                // What is overdue on a resumed machine is killed first.
                Kind::PausePostgres(_) => self.schedule(10 * MS, Event::Mend(Box::new(fault))),
                _ => self.mend(&fault),
            }
        }
        for n in 0..self.nodes.len() {
            self.power_on(n);
        }
    }

    fn store_is_back(&mut self, store: usize) {
        let now = self.now;
        if self.stores[store].down {
            self.stores[store].down = false;
            self.stores[store].elect(now, &mut self.chance);
            self.lease_timer(store);
        }
    }

    fn delete_key(&mut self, store: usize) {
        let keys: Vec<String> = self.stores[store]
            .keys()
            .filter(|key| {
                let last = key.rsplit('/').next().unwrap_or_default();
                key.contains("/members/") || ["leader", "status", "history"].contains(&last)
            })
            .cloned()
            .collect();
        if let Some(key) = self.chance.pick(&keys).cloned() {
            self.explain(usize::MAX, "FAULT", || format!("deletes {key}"));
            self.stores[store].delete(&key);
            self.store_changed(store);
        }
    }

    pub(crate) fn kill_agent(&mut self, n: usize) {
        let Some(process) = self.nodes[n].agent.take() else { return };
        self.end_program(process);
        self.nodes[n].paused_at = None;
        self.nodes[n].deadlines = None;
        self.nodes[n].job = None;
        self.nodes[n].checkpoint = None;
        let pause = self.chance.between(SEC, 8 * SEC);
        self.schedule(pause, Event::StartAgent(n));
    }

    fn pause_agent(&mut self, n: usize, stop: bool) {
        let Some(process) = self.nodes[n].agent else { return };
        let now = self.now;
        let Some(program) = self.programs.get_mut(process.0) else { return };
        if stop {
            program.paused = true;
            let clock = &self.nodes[n].clock;
            let reading = Reading { boot: clock.boot(now), monotonic: clock.monotonic(now) };
            self.nodes[n].paused_at.get_or_insert((now, reading));
        } else if program.paused {
            program.paused = false;
            self.resumed.push(process);
            self.wake_guard(n);
        }
    }

    fn resume_guardian(&mut self, n: usize) {
        if self.nodes[n].guardian.paused {
            self.nodes[n].guardian.paused = false;
            self.nodes[n].guardian_due = self.now;
            self.schedule(0, Event::Guardian(n));
        }
    }

    fn power_off(&mut self, n: usize) {
        if self.nodes[n].off {
            return;
        }
        self.nodes[n].off = true;
        self.nodes[n].suspended = false;
        self.kill_agent(n);
        self.kill_server(n);
    }

    fn power_on(&mut self, n: usize) {
        if std::mem::take(&mut self.nodes[n].off) {
            let pause = self.chance.between(5 * SEC, 20 * SEC);
            self.schedule(pause, Event::StartAgent(n));
        }
    }

    /// Nothing of the machine runs; its boot clock goes on, its monotonic clock does not.
    fn suspend(&mut self, n: usize) {
        self.nodes[n].suspended = true;
        self.pause_agent(n, true);
        self.nodes[n].guardian.paused = true;
        self.server(n).paused = true;
    }

    fn resume_node(&mut self, n: usize) {
        if !std::mem::take(&mut self.nodes[n].suspended) {
            return;
        }
        if let Some((from, _)) = self.nodes[n].paused_at {
            self.nodes[n].clock.suspended += self.now - from;
        }
        // What is overdue is killed before a client is answered (docs/safety.md: thawed nodes).
        self.resume_guardian(n);
        self.pause_agent(n, false);
        self.schedule(
            2 * MS,
            Event::Mend(Box::new(Fault { at: 0, span: 0, kind: Kind::PausePostgres(n) })),
        );
    }

    fn cut(&mut self, host: HostId, way: Way) {
        if way != Way::In {
            self.net.mute.insert(host);
        }
        if way != Way::Out {
            self.net.deaf.insert(host);
        }
    }

    fn cut_pair(&mut self, n: usize, m: usize, cut: bool) {
        let (a, b) = (self.nodes[n].host, self.nodes[m].host);
        for pair in [(a, b), (b, a)] {
            if cut {
                self.net.host_cuts.insert(pair);
            } else {
                self.net.host_cuts.remove(&pair);
            }
        }
    }

    fn cut_store(&mut self, n: usize, way: Way, cut: bool) {
        let host = self.nodes[n].host;
        let store = self.sites[self.nodes[n].site].store;
        for voter in self.stores[store].voters.clone() {
            let pairs = [(host, voter, way != Way::In), (voter, host, way != Way::Out)];
            for (from, to, wanted) in pairs {
                if cut && wanted {
                    self.net.host_cuts.insert((from, to));
                } else if !cut {
                    self.net.host_cuts.remove(&(from, to));
                }
            }
        }
    }

    fn cut_site(&mut self, s: usize, way: Way, cut: bool) {
        for other in (0..self.sites.len()).filter(|other| *other != s) {
            for (pair, wanted) in [((s, other), way != Way::In), ((other, s), way != Way::Out)] {
                if cut && wanted {
                    self.net.site_cuts.insert(pair);
                } else if !cut {
                    self.net.site_cuts.remove(&pair);
                }
            }
        }
    }
}
