//! The guardian program against real PostgreSQL, with clients that hold their sessions from before
//! the fault: one that pipelines statements, one that commits in a loop inside a DO block.

#![expect(clippy::panic, clippy::print_stdout, reason = "tests fail and say what they measured")]

mod bed;
mod client;
mod deadline;
mod planned;
mod start;
mod system;
mod watchdog;
