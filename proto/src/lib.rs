//! The vocabulary of everything that two of Regent's processes must agree on: checked names,
//! epochs, WAL positions, timelines, time, the records, the store keys, the topology file, and the
//! gRPC messages.
//!
//! Architecture invariant: no I/O, no clock, no randomness, no async. Every other crate depends on
//! this one; it depends on none of them.

pub mod edges;
pub mod epoch;
pub mod keys;
pub mod log;
pub mod lsn;
pub mod name;
pub mod promise;
pub mod promotion;
pub mod record;
pub mod time;
pub mod timeline;
pub mod topology;
pub mod transactions;
pub mod wire;
pub mod yaml;

pub use epoch::Epoch;
pub use lsn::Lsn;
