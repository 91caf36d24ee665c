//! The replication tree.

use std::collections::BTreeSet;

use proptest::prelude::*;
use regent_coordinator::decide::tree::{self, Tree};
use regent_proto::name::SiteName;
use regent_proto::topology::Topology;

use crate::world::site;

fn topology(links: &[(&str, &str, u32)]) -> Topology {
    let names: BTreeSet<&str> = links.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
    let sites: String = names
        .iter()
        .map(|name| {
            format!("  - {{name: {name}, kind: data, dcs: embedded, nodes: [{{name: {name}1}}]}}\n")
        })
        .collect();
    let links: String = links
        .iter()
        .map(|(a, b, cost)| format!("  - {{between: [{a}, {b}], cost: {cost}}}\n"))
        .collect();
    let first = names.first().expect("a site");
    let yaml = format!(
        "federation: f\nprimary: {first}\nsites:\n{sites}links:\n{links}quorum: {{store: embedded, \
         voters: [{first}]}}\n"
    );
    Topology::parse(&yaml).expect("a good topology").0
}

fn shown(tree: &Tree) -> String {
    tree.iter()
        .filter_map(|(site, upstream)| upstream.as_ref().map(|up| format!("{up}>{site}")))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn trees() {
    let triangle = &[("eu", "us", 1), ("us", "ap", 1), ("eu", "ap", 5)];
    let even = &[("eu", "us", 1), ("us", "ap", 1), ("eu", "ap", 2)];
    let chain = &[("eu", "us", 1), ("us", "ap", 1)];
    let diamond = &[("eu", "us", 1), ("eu", "sa", 1), ("us", "ap", 1), ("sa", "ap", 1)];
    for (links, root, broken, wanted) in [
        (&triangle[..], "eu", vec![], "us>ap eu>us"),
        (triangle, "ap", vec![], "us>eu ap>us"),
        (triangle, "eu", vec!["us"], "eu>ap eu>us"),
        // Equal cost: fewer hops.
        (even, "eu", vec![], "eu>ap eu>us"),
        // No other way: the broken site keeps its child.
        (chain, "eu", vec!["us"], "us>ap eu>us"),
        // Equal cost and hops: the alphabet.
        (diamond, "eu", vec![], "sa>ap eu>sa eu>us"),
        (diamond, "eu", vec!["sa"], "us>ap eu>sa eu>us"),
        // A broken primary is the primary still.
        (chain, "eu", vec!["eu"], "us>ap eu>us"),
    ] {
        let broken = broken.into_iter().map(site).collect();
        let topology = topology(links);
        let tree = tree::derive(&topology, &site(root), &broken);
        assert_eq!(shown(&tree), wanted, "{links:?} under {root} without {broken:?}");
        assert!(tree::holds(&topology, &site(root), &tree));
    }
}

#[test]
fn a_tree_over_links_that_are_gone_does_not_hold() {
    let chain = topology(&[("eu", "us", 1), ("us", "ap", 1)]);
    let eu = site("eu");
    let good = tree::derive(&chain, &eu, &BTreeSet::new());
    let with = |name: &str, upstream: Option<&str>| {
        let mut tree = good.clone();
        tree.insert(site(name), upstream.map(site));
        tree
    };
    assert!(!tree::holds(&chain, &eu, &with("ap", Some("eu"))), "no such link");
    assert!(!tree::holds(&chain, &eu, &with("us", Some("ap"))), "a circle");
    assert!(!tree::holds(&chain, &eu, &with("us", None)), "two roots");
    assert!(!tree::holds(&chain, &site("us"), &good), "another root");
}

proptest! {
    #[test]
    fn every_site_hangs_on_the_root_whatever_is_broken(
        costs in proptest::collection::vec(1u32..10, 10),
        present in proptest::collection::vec(any::<bool>(), 10),
        broken in proptest::collection::btree_set(0usize..5, 0..5),
        root in 0usize..5,
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let mut links = Vec::new();
        let mut at = 0;
        for i in 0..5 {
            for j in i + 1..5 {
                // A chain keeps them connected; the rest is by chance.
                if j == i + 1 || present[at] {
                    links.push((names[i], names[j], costs[at]));
                }
                at += 1;
            }
        }
        let topology = topology(&links);
        let broken: BTreeSet<SiteName> = broken.into_iter().map(|i| site(names[i])).collect();
        let tree = tree::derive(&topology, &site(names[root]), &broken);
        prop_assert_eq!(tree.len(), 5);
        prop_assert!(tree::holds(&topology, &site(names[root]), &tree));
        let again = tree::derive(&topology, &site(names[root]), &broken);
        prop_assert_eq!(tree, again);
    }
}
