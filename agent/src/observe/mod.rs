//! Gathers the view: stores through mirrors, PostgreSQL through SQL and its files, peers through
//! their REST API. Never judges; a record that cannot be read is reported once and left out.

pub mod clock;
mod configuration;
pub mod decoded;
pub mod failsafe;
pub mod global;
pub mod guardian;
pub mod mirror;
pub mod peers;
pub mod postgres;
pub mod promotions;
pub mod reach;
pub mod remote;
pub mod schedule;
pub mod site;
pub mod unreadable;
