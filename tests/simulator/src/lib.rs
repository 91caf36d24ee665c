//! The deterministic simulator: whole sites of the product's own agents and coordinators in virtual
//! time, under faults, from one seed (hazards.md 7.3; docs/architecture.md, "The simulator").
//!
//! What is the product's: decisions, observers, records, renewal loops, mirrors, publisher,
//! transactions, fence judgements, guardian decisions, the coordinators' loop. What is replaced are
//! the effects: stores, PostgreSQL, network, disks, clocks, processes.

pub mod chance;
pub mod clients;
pub mod coordinator;
pub mod counters;
pub mod event;
pub mod explain;
pub mod faults;
pub mod history;
pub mod in_site;
pub mod invariants;
pub mod minimise;
pub mod mutants;
pub mod names;
pub mod network;
pub mod node;
pub mod postgres;
mod requests;
pub mod run;
pub mod scenario;
pub mod seeds;
pub mod store;
pub mod tasks;
pub mod time;
pub mod trace;
pub mod world;

/// Most of a run is made of views and records that are copied and dropped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
