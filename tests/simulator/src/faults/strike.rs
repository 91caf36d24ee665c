//! What each fault does, and how it ends.

use std::time::Duration;

use regent_agent::decide::freeze::Reading;

use super::{Fault, Kind, Way};
use crate::event::Event;
use crate::mutants::Mutant;
use crate::network::HostId;
use crate::node::device::Quirk;
use crate::node::fence::HANGS_AFTER;
use crate::time::{MS, Nanos, SEC};
use crate::world::World;

impl World {
    /// What it does.
    pub(super) fn strike(&mut self, fault: &Fault) {
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
                    self.schedule(HANGS_AFTER, Event::Pulse(n));
                }
            }
            Kind::KillNode(n) => self.power_off(n),
            Kind::Suspend(n) => self.suspend(n),
            Kind::CutNode(n, way) => {
                let host = self.nodes[n].host;
                self.cut(host, way);
            }
            Kind::CutNodes(n, m) => self.cut_pair(n, m, true),
            Kind::CutStore(n, way) => self.cut_store(n, (fault.span, way), true),
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
            Kind::StoreLate(store) => self.stores[store].late = 40 * SEC,
            Kind::StoreFull(store) => self.stores[store].read_only = true,
            Kind::Election(store) => self.stores[store].down = true,
            Kind::Compaction(store) => self.stores[store].compact(0),
            Kind::DeleteKey(store) => self.delete_key(store),
            Kind::DeleteAllKeys(store) => self.delete_all_keys(store),
            Kind::DiskFull(n) => self.disk_full(n, true),
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
            Kind::Timing(s, which) => self.set_timing(s, Some(which)),
            Kind::PauseSite(s) => self.set_pause(s, true),
            Kind::PauseBoth(n) | Kind::KillBoth(n) if !self.device_counts(n) => {}
            Kind::PauseBoth(n) => {
                self.counters.count("watchdog: agent and guardian stopped");
                self.pause_agent(n, true);
                self.nodes[n].guardian.paused = true;
            }
            Kind::KillBoth(n) => {
                self.counters.count("watchdog: agent and guardian killed");
                self.kill_agent(n);
                self.guardian_dies(n);
            }
            Kind::Device(n, quirk) => self.set_quirk(n, quirk),
            Kind::SilentWatch(n) => self.nodes[n].hears_no_news = true,
            Kind::PauseCoordinator(c) => self.pause_coordinator(c, true),
        }
    }

    /// A watchdog counts that a dead guardian does not stop.
    fn device_counts(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let counting = node.device.counting.as_ref().is_some_and(|counting| counting.magic);
        counting && !node.off && node.suspended.is_none() && !node.server.paused
    }

    /// Something of the node is stopped already, and no watchdog would end what goes on.
    fn half_asleep(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        if self.device_counts(n) {
            return false;
        }
        node.suspended.is_some()
            || node.guardian.paused
            || node.server.paused
            || node.paused_at.is_some()
    }

    /// A fault ends.
    pub(crate) fn mend(&mut self, fault: &Fault) {
        self.explain(usize::MAX, "MENDED", || format!("{:?}", fault.kind));
        self.struck.retain(|struck| struck != fault);
        self.disturbed();
        match fault.kind {
            Kind::KillAgent(_) | Kind::StopAgent(_) | Kind::KillPostgres(_) => {}
            Kind::Compaction(_) | Kind::DeleteKey(_) | Kind::WallStep(_) => {}
            Kind::DeleteAllKeys(store) => self.accept_epoch(store),
            Kind::PauseAgent(n) | Kind::PausePostgres(n) | Kind::PauseGuardian(n)
                if self.nodes[n].suspended.is_some() => {}
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
            Kind::CutStore(n, way) => self.cut_store(n, (fault.span, way), false),
            Kind::CutSite(s, way) => self.cut_site(s, way, false),
            Kind::CutSites(s, t) => {
                self.net.site_cuts.remove(&(s, t));
                self.net.site_cuts.remove(&(t, s));
            }
            Kind::SlowNetwork => self.net.slow = 0,
            Kind::Loss => self.net.loss = 0,
            Kind::StoreDown(store) | Kind::Election(store) => self.store_is_back(store),
            Kind::StoreSlow(store) => self.stores[store].slow = 0,
            Kind::StoreLate(store) => self.stores[store].late = 0,
            Kind::StoreFull(store) => self.stores[store].read_only = false,
            Kind::DiskFull(n) => self.disk_full(n, false),
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
            Kind::Timing(s, _) => self.set_timing(s, None),
            Kind::PauseSite(s) => self.set_pause(s, false),
            Kind::PauseBoth(n) if self.nodes[n].suspended.is_some() => {}
            Kind::PauseBoth(n) => {
                self.resume_guardian(n);
                self.pause_agent(n, false);
            }
            Kind::KillBoth(_) => {}
            Kind::Device(n, _) => self.set_quirk(n, Quirk::None),
            Kind::SilentWatch(n) => self.nodes[n].hears_no_news = false,
            Kind::PauseCoordinator(c) => self.pause_coordinator(c, false),
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
        self.lift_fences();
    }

    fn disk_full(&mut self, n: usize, full: bool) {
        self.server(n).full = full;
        self.nodes[n].word.set_full(full);
    }

    fn store_is_back(&mut self, store: usize) {
        let now = self.now;
        if self.stores[store].down {
            self.stores[store].down = false;
            self.stores[store].elect(now, &mut self.chance);
            self.lease_timer(store);
        }
    }

    pub(crate) fn kill_agent(&mut self, n: usize) {
        let Some(process) = self.nodes[n].agent.take() else { return };
        self.end_program(process);
        self.nodes[n].paused_at = None;
        self.nodes[n].paused = None;
        self.nodes[n].deadlines = None;
        self.nodes[n].door = None;
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

    pub(crate) fn power_off(&mut self, n: usize) {
        if self.nodes[n].off {
            return;
        }
        self.nodes[n].off = true;
        self.nodes[n].suspended = None;
        self.kill_agent(n);
        self.guardian_dies(n);
        self.nodes[n].device.counting = None;
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
        self.nodes[n].suspended = Some(self.now);
        self.pause_agent(n, true);
        self.nodes[n].guardian.paused = true;
        self.server(n).paused = true;
    }

    fn resume_node(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(from) = node.suspended.take() else { return };
        let stood = self.now - from;
        node.clock.suspended += stood;
        // Its guardian reads both clocks before anything else.
        node.guardian.tended.stood_still(&node.page, Duration::from_nanos(stood));
        if let Some(counting) = &mut node.device.counting {
            counting.stood += self.now - from.max(counting.pinged);
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

    /// From its site's DCS; in a federation half of the time from the quorum.
    fn cut_store(&mut self, n: usize, (span, way): (Nanos, Way), cut: bool) {
        let host = self.nodes[n].host;
        let quorum = self.federation.as_ref().map(|federation| federation.store);
        let quorum = quorum.filter(|_| span.is_multiple_of(2));
        let store = quorum.unwrap_or(self.sites[self.nodes[n].site].store);
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
