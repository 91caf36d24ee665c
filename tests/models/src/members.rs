//! The nodes of a site as the models of its synchronous standbys have them: small sets of bits, and the
//! names that the product's rules are asked with.

use std::collections::BTreeSet;

use regent_proto::name::NodeName;

use crate::gate::name;

/// Nodes at most.
pub const NODES: usize = 4;
/// Their names, by index.
pub const NAMES: [&str; NODES] = ["n0", "n1", "n2", "n3"];

/// The set of one node.
#[must_use]
pub fn bit(node: u8) -> u8 {
    1 << node
}

/// Its name.
#[must_use]
pub fn node(index: u8) -> NodeName {
    name(NAMES[usize::from(index)])
}

/// The names of a set.
#[must_use]
pub fn names(set: u8) -> BTreeSet<NodeName> {
    (0..4).filter(|index| set & bit(*index) != 0).map(node).collect()
}

/// The set of these names.
#[must_use]
pub fn bits(names: &BTreeSet<NodeName>) -> u8 {
    (0..4).filter(|index| names.contains(&node(*index))).map(bit).sum()
}
