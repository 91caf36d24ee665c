//! Tests of the coordinator: its judgement on a world of records, and whole processes' worth of it
//! on a real store.

mod agents;
mod assigning;
mod checks;
mod end_to_end;
mod garbage;
mod planning;
mod purity;
mod switchover;
mod topologies;
mod tree;
mod world;
