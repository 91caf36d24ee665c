//! Cases and properties of the agent's decisions.
//!
//! `world` is a compact language for views; `cases` says what is decided in named situations;
//! `properties` draws any combination and checks what must hold in all of them.

mod candidates;
mod cases;
mod epochs;
mod failsafe;
mod guarding;
mod hazards;
mod paused;
mod preconditions;
mod promotions;
mod properties;
mod slots;
mod start;
mod synchronous;
pub(crate) mod world;
