//! Who reaches whom: hosts in sites, with ways that can be cut in one direction, slow, or lossy.

use std::collections::BTreeSet;

use crate::chance::Chance;
use crate::time::{MS, Nanos, US};

/// A machine: a node's, a coordinator's, a store's, the clients'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    /// The site of each host.
    pub sites: Vec<usize>,
    /// Directed cuts between sites.
    pub site_cuts: BTreeSet<(usize, usize)>,
    /// Directed cuts between hosts.
    pub host_cuts: BTreeSet<(HostId, HostId)>,
    /// Hosts that send nothing to others.
    pub mute: BTreeSet<HostId>,
    /// Hosts that receive nothing from others.
    pub deaf: BTreeSet<HostId>,
    /// Added to every way between hosts, at most.
    pub slow: Nanos,
    /// One in so many messages is lost; 0: none.
    pub loss: u64,
}

impl Network {
    /// Another machine.
    pub fn host(&mut self, site: usize) -> HostId {
        self.sites.push(site);
        HostId(self.sites.len() - 1)
    }

    fn site(&self, host: HostId) -> usize {
        self.sites.get(host.0).copied().unwrap_or(0)
    }

    /// Whether the way is open.
    #[must_use]
    pub fn open(&self, from: HostId, to: HostId) -> bool {
        from == to
            || !(self.mute.contains(&from)
                || self.deaf.contains(&to)
                || self.host_cuts.contains(&(from, to))
                || self.site_cuts.contains(&(self.site(from), self.site(to))))
    }

    /// Whether both ways are open.
    #[must_use]
    pub fn both(&self, one: HostId, other: HostId) -> bool {
        self.open(one, other) && self.open(other, one)
    }

    /// How long a message takes; `None`: it is lost.
    pub fn message(&self, chance: &mut Chance, from: HostId, to: HostId) -> Option<Nanos> {
        if !self.open(from, to) || (self.loss > 0 && from != to && chance.one_in(self.loss)) {
            return None;
        }
        Some(self.latency(chance, from, to))
    }

    /// How long the way takes now.
    pub fn latency(&self, chance: &mut Chance, from: HostId, to: HostId) -> Nanos {
        if from == to {
            return chance.between(20 * US, 60 * US);
        }
        let far = self.site(from) != self.site(to);
        let base = if far { chance.between(8 * MS, 20 * MS) } else { chance.between(200 * US, MS) };
        base + if self.slow > 0 { chance.below(self.slow) } else { 0 }
    }

    /// Everything is mended.
    pub fn heal(&mut self) {
        let sites = std::mem::take(&mut self.sites);
        *self = Self { sites, ..Self::default() };
    }
}
