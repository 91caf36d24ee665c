//! PostgreSQL's programs, files, process and SQL: everything that touches the server.
//!
//! No choices here: which of these is done, and when, `decide` says.

pub mod archive;
pub mod bootstrap;
pub mod configuration;
pub mod control;
pub mod copy;
pub mod files;
pub mod found;
pub mod guardian;
pub mod programs;
pub mod promotions;
pub mod replica;
pub mod salvage;
pub mod server;
pub mod slots;
pub mod sql;
pub mod wal;
