//! Models of the protocol, small enough to be searched completely (hazards.md 7.2; docs/adr/0022).
//!
//! A model is a state machine of bytes around the product's own rules: it makes the records and views
//! that a rule takes, asks it, and does what it says, in every order and with every fault that its
//! header names. So a changed rule changes the model. One module a model; each says its bounds, its
//! properties by the invariant they come from (hazards.md section 6) and its mutants, each of which
//! breaks one condition and must be caught by the property it names.

pub mod asked;
pub mod clock;
pub mod election;
pub mod gate;
pub mod lease;
pub mod members;
pub mod primary;
pub mod progress;
pub mod quorum;
pub mod run;
pub mod sync;

/// Searches a model and its mutants within bounds of a size, one row after the other.
pub type Search = fn(run::Size) -> run::Rows;

/// The models by name.
pub const EACH: [(&str, Search); 5] = [
    ("lease", lease::rows),
    ("sync", sync::rows),
    ("quorum", quorum::rows),
    ("primary", primary::rows),
    ("election", election::rows),
];
