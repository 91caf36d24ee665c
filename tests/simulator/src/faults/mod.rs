//! What goes wrong: drawn per seed in kind and rate, each with an end. What each does is `strike`'s.

mod configuration;
mod keys;
mod strike;

use crate::event::Event;
use crate::mutants::Mutant;
use crate::node::device::Quirk;
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
    /// A node does not reach its DCS or the quorum, or is not answered.
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
    /// Some requests to a store take effect long after their senders have given up.
    StoreLate(usize),
    /// A store refuses writes.
    StoreFull(usize),
    /// A store's leader changes.
    Election(usize),
    /// A store forgets old changes.
    Compaction(usize),
    /// A key is deleted by hand.
    DeleteKey(usize),
    /// Every key of a site's DCS is deleted at once: a wrong prefix, a store that was made anew.
    DeleteAllKeys(usize),
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
    /// An operator gives a site another `ttl`, `loop_wait` and `retry_timeout`, and takes it back.
    Timing(usize, usize),
    /// An operator pauses a site.
    PauseSite(usize),
    /// SIGSTOP to an agent and its guardian at once, where a watchdog counts.
    PauseBoth(usize),
    /// SIGKILL to both, where a watchdog counts.
    KillBoth(usize),
    /// A watchdog device behaves oddly.
    Device(usize, Quirk),
    /// A node's watches tell nothing more, and do not end.
    SilentWatch(usize),
    /// SIGSTOP to a coordinator.
    PauseCoordinator(usize),
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

/// The kinds, as [`World::draw_faults`] numbers them, that a mutant's runs draw most: those without which
/// what it breaks is never needed. `None`: the seed's own.
fn provoking(mutant: Mutant) -> Option<&'static [u64]> {
    let kinds: &[u64] = match mutant {
        // Late answers, and nobody to stop in order.
        Mutant::DeadlineAnchoredAtReceive => &[2, 16],
        // A key that carries the name of a life that is over, and nobody who tells of its end.
        Mutant::ElectedByName => &[0, 33],
        // Standbys that come back, and are slow.
        Mutant::PublishBeforeEvidence => &[3, 6, 9, 22],
        // Early ends, and nobody who tells of them.
        Mutant::EarlyRevoke => &[18, 33],
        // Late writes of a record that changes.
        Mutant::RecordWithoutCompare => &[3, 6, 32],
        // Late takers of a key that changes hands.
        Mutant::LeaderKeyWithoutRecords => &[1, 32],
        // Late handovers and roll-backs, and handovers that nobody answers.
        Mutant::HandoverAsAPut => &[32],
        Mutant::RollBackAsAPut => &[2, 10, 32, 32],
        // Coordinators that go on where they stood still.
        Mutant::WriteWithoutItsLeadershipCompare => &[32, 34],
        // Leaders without their store, whose members do not hear them, or do.
        Mutant::SilenceIsConsent => &[9, 10, 15],
        Mutant::WordNotKept => &[10, 10, 9],
        // A primary site that writes on without the quorum.
        Mutant::NoWaitAfterTheFence => &[10, 11],
        _ => return None,
    };
    Some(kinds)
}

impl World {
    /// Draws the faults of a run: a few kinds, each at a rate of its own.
    pub fn draw_faults(&mut self, extent: Extent, count: usize, harsh: Nanos) -> Vec<Fault> {
        const KINDS: u64 = 36;
        let drawn: Vec<u64> = (0..6).map(|_| self.chance.below(KINDS)).collect();
        let favoured = provoking(self.mutant).map_or(drawn, <[u64]>::to_vec);
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
            27 => Kind::Timing(s, self.chance.index(configuration::TIMINGS.len())),
            28 => Kind::PauseSite(s),
            29 => Kind::PauseBoth(n),
            30 => Kind::KillBoth(n),
            31 => Kind::Device(n, *self.chance.pick(Quirk::ALL)?),
            32 => {
                let quorum = self.federation.as_ref().map(|federation| federation.store);
                let quorum = quorum.filter(|_| self.chance.one_in(2));
                Kind::StoreLate(quorum.unwrap_or(store))
            }
            33 => Kind::SilentWatch(n),
            34 if extent.coordinators > 0 => {
                Kind::PauseCoordinator(self.chance.index(extent.coordinators))
            }
            35 => Kind::DeleteAllKeys(self.sites[self.nodes[n].site].store),
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
        self.counters.count(crate::names::fault(&fault.kind));
        self.trace.note(self.now, 4000, index as u64);
        self.disturbed();
        self.strike(&fault);
        self.struck.push(fault.clone());
        let span = fault.span;
        self.schedule(span, Event::Mend(Box::new(fault)));
    }
}
