//! A person asks for a switchover or a failover inside a site: Patroni's `failover` key, written as its
//! tools write it, at times for a node that cannot lead, and with trouble just then.

use regent_proto::keys::{SiteKey, SiteKeys};

use crate::chance::Chance;
use crate::event::Event;
use crate::faults::{Fault, Kind, Way};
use crate::scenario::HARSH;
use crate::time::{MIN, MS, SEC};
use crate::world::{Site, World};

/// These are drawn beside everything else, so that a seed's other draws stay what they were.
const BESIDE: u64 = 0x5eed_0000_1251_7e00;
/// Requests of an hour, at most.
const MOST: u64 = 8;

impl World {
    /// Draws when somebody asks for something.
    pub(crate) fn draw_requests(&mut self, seed: u64) {
        let mut chance = Chance::new(seed ^ BESIDE);
        for _ in 0..chance.below(MOST + 1) {
            let at = chance.between(2 * MIN, HARSH);
            let site = chance.index(self.sites.len());
            self.schedule_at(at, Event::AskInSite(site));
        }
    }

    /// Somebody asks for it.
    pub(crate) fn ask_in_site(&mut self, site: usize) {
        let nodes = self.sites[site].nodes.clone();
        let store = self.sites[site].store;
        let Some(node) = nodes.first().map(|n| &self.nodes[*n]) else { return };
        let keys = SiteKeys::new(&node.config.namespace, &node.config.scope);
        let leader = self.stores[store].entry(&keys.key(SiteKey::Leader));
        let leader = leader.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        let Some(n) = self.chance.pick(&nodes).copied() else { return };
        let candidate = self.nodes[n].name.as_str().to_owned();
        let leader = leader.unwrap_or_else(|| candidate.clone());
        let request = match self.chance.below(5) {
            0 => format!(r#"{{"member":"{candidate}"}}"#),
            1 => format!(r#"{{"leader":"{leader}"}}"#),
            _ => format!(r#"{{"leader":"{leader}","member":"{candidate}"}}"#),
        };
        self.disturbed();
        self.counters.count("operator: asks inside a site");
        self.explain(usize::MAX, "operator", || format!("asks inside a site: {request}"));
        // Whoever leads may be asked to stop.
        self.disturbed();
        self.stores[store].put(&keys.key(SiteKey::Failover), request.into_bytes());
        self.store_changed(store);
        self.trouble_in_site(n, &nodes);
    }

    /// Whether somebody waits for a switchover or a failover inside this site.
    pub(crate) fn asked_in_site(&self, site: usize) -> bool {
        let Site { nodes, store, .. } = &self.sites[site];
        nodes.first().is_some_and(|n| {
            let config = &self.nodes[*n].config;
            let keys = SiteKeys::new(&config.namespace, &config.scope);
            self.stores[*store].entry(&keys.key(SiteKey::Failover)).is_some()
        })
    }

    /// It lasts a second or two, which what is drawn for the hour would hardly ever meet.
    fn trouble_in_site(&mut self, candidate: usize, nodes: &[usize]) {
        let at = self.now + self.chance.between(10 * MS, 3 * SEC);
        let span = self.chance.between(SEC, MIN);
        let n = match self.chance.pick(nodes).copied() {
            Some(other) if self.chance.one_in(2) => other,
            Some(_) | None => candidate,
        };
        let kind = match self.chance.below(16) {
            0 => Kind::KillNode(n),
            1 => Kind::KillAgent(n),
            2 => Kind::PauseAgent(n),
            3 => Kind::PausePostgres(n),
            4 => Kind::KillPostgres(n),
            5 => Kind::CutNode(n, Way::Both),
            6 => Kind::CutStore(n, Way::Both),
            7 => Kind::DiskSlow(n),
            // Somebody asks again, for the same or for something else.
            8 | 9 => {
                let site = self.nodes[n].site;
                return self.schedule_at(at, Event::AskInSite(site));
            }
            10 => Kind::StoreLate(self.sites[self.nodes[n].site].store),
            11 => Kind::SilentWatch(n),
            _ => return,
        };
        self.strikes_later(Fault { at, span, kind });
    }
}
