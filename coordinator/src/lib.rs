//! The coordinator: turns what the sites of a federation report into the next transaction on the
//! global quorum, and serves the gRPC API.
//!
//! Observe → decide → act: [`observe`] keeps the records of a federation as a
//! [`decide::view::View`], [`decide`] judges it without any effect, [`act`] performs what was
//! decided. [`federation`] is the loop that ties them together, [`run`] the process's life,
//! [`api`] serves people and programs.
//!
//! Architecture invariant: a coordinator never talks to an agent or to PostgreSQL. Everything
//! between them is a record in the global quorum. If every coordinator dies, databases run on.

pub mod act;
pub mod api;
pub mod config;
pub mod decide;
pub mod federation;
pub mod observe;
pub mod run;
