//! Tests of the coordinator: its judgement on a world of records, and whole coordinators on a real
//! store. `cfg(test)` tells clippy that what is shared between the tests may panic as they do.

#[cfg(test)]
mod agents;
#[cfg(test)]
mod assigning;
#[cfg(test)]
mod automatic;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod fencing;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod planning;
#[cfg(test)]
mod play;
#[cfg(test)]
mod program;
#[cfg(test)]
mod promotion;
#[cfg(test)]
mod purity;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod switchover;
#[cfg(test)]
mod topologies;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod world;
