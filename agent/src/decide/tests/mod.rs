//! Cases and properties of the agent's decisions.
//!
//! `world` is a compact language for views; `cases` says what is decided in named situations;
//! `properties` draws any combination and checks what must hold in all of them.

mod bootstrap;
mod callbacks;
mod candidates;
mod cases;
mod configuration;
mod epochs;
mod failsafe;
mod frozen;
mod guarding;
mod hazards;
mod manual;
mod paused;
mod pre_promote;
mod preconditions;
mod promotion;
mod promotions;
mod properties;
mod quorum;
mod quorum_cases;
mod quorum_walks;
mod rejoins;
mod remembered;
mod requests;
mod restarts;
mod slots;
mod standby_cluster;
mod start;
mod synchronous;
mod upstream;
mod wakes;
pub(crate) mod world;
