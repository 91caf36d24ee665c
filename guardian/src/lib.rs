//! Rung 2 and 3 of the fence: what a guardian is made of, and what its agent shares with it.
//!
//! A guardian is a small program beside one PostgreSQL that kills it before the deadline, whatever
//! its agent does (hazards.md 3.5; invariants I7, I8, I12). The two share [`page`], 4096 bytes of
//! memory with absolute deadlines in them, and nothing else: no socket, no file, no message.
//!
//! Architecture invariant: nothing here needs a runtime, and what the guardian's loop calls
//! allocates nothing, logs nothing and touches no file outside /proc but the watchdog.

pub mod clock;
pub mod decide;
pub mod launch;
pub mod packets;
pub mod page;
pub mod processes;
pub mod program;
pub mod signals;
pub mod tend;
pub mod watchdog;
