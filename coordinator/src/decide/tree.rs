//! The replication tree: which site streams from which, from links with costs.
//!
//! The cheapest way from the primary site, then the one with fewer hops, then the alphabet: every
//! coordinator derives the same tree from the same records. A site that can't pass WAL on right
//! now gets no children as long as another way exists.

use std::collections::{BTreeMap, BTreeSet};

use regent_proto::name::SiteName;
use regent_proto::topology::Topology;

/// Each data site's upstream; `None` for the root.
pub type Tree = BTreeMap<SiteName, Option<SiteName>>;

/// (cost, hops), upstream, site: the order in which sites join the tree.
type Candidate = ((u64, u32), SiteName, SiteName);

/// The tree with `root` on top. Sites in `broken` pass nothing on while others can.
#[must_use]
pub fn derive(topology: &Topology, root: &SiteName, broken: &BTreeSet<SiteName>) -> Tree {
    let mut growth = Growth { topology, tree: Tree::new(), way: BTreeMap::new() };
    growth.tree.insert(root.clone(), None);
    growth.way.insert(root.clone(), (0, 0));
    growth.grow(|site| site == root || !broken.contains(site));
    growth.grow(|_| true);
    growth.tree
}

struct Growth<'a> {
    topology: &'a Topology,
    tree: Tree,
    way: BTreeMap<SiteName, (u64, u32)>,
}

impl Growth<'_> {
    /// Adds every site that can be reached over sites that pass WAL on.
    fn grow(&mut self, passes_on: impl Fn(&SiteName) -> bool) {
        let mut open: BTreeSet<Candidate> = BTreeSet::new();
        let members: Vec<SiteName> = self.tree.keys().cloned().collect();
        for site in members.iter().filter(|site| passes_on(site)) {
            self.offer(site, &mut open);
        }
        while let Some((way, upstream, site)) = open.pop_first() {
            if self.tree.contains_key(&site) {
                continue;
            }
            self.tree.insert(site.clone(), Some(upstream));
            self.way.insert(site.clone(), way);
            if passes_on(&site) {
                self.offer(&site, &mut open);
            }
        }
    }

    fn offer(&self, from: &SiteName, open: &mut BTreeSet<Candidate>) {
        let (cost, hops) = self.way.get(from).copied().unwrap_or_default();
        for (site, link) in neighbours(self.topology, from) {
            if !self.tree.contains_key(site) {
                let way = (cost + u64::from(link), hops + 1);
                open.insert((way, from.clone(), site.clone()));
            }
        }
    }
}

fn neighbours<'a>(
    topology: &'a Topology,
    site: &'a SiteName,
) -> impl Iterator<Item = (&'a SiteName, u32)> {
    topology.links.iter().filter_map(move |link| {
        let [a, b] = &link.between;
        if a == site {
            Some((b, link.cost))
        } else if b == site {
            Some((a, link.cost))
        } else {
            None
        }
    })
}

/// The sites that stream from `site`.
#[must_use]
pub fn children(tree: &Tree, site: &SiteName) -> BTreeSet<SiteName> {
    tree.iter()
        .filter(|(_, upstream)| upstream.as_ref() == Some(site))
        .map(|(child, _)| child.clone())
        .collect()
}

/// Whether `tree` leads every data site to `root` over links that exist.
#[must_use]
pub fn holds(topology: &Topology, root: &SiteName, tree: &Tree) -> bool {
    topology.data_sites().all(|site| {
        let mut at = &site.name;
        // A way longer than there are sites goes round in circles.
        for _ in 0..=topology.sites.len() {
            if at == root {
                return tree.get(at).is_some_and(Option::is_none);
            }
            let Some(Some(upstream)) = tree.get(at) else { return false };
            if !neighbours(topology, at).any(|(neighbour, _)| neighbour == upstream) {
                return false;
            }
            at = upstream;
        }
        false
    })
}
