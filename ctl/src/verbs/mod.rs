//! The verbs that talk to coordinators, one file each.

pub mod completions;
pub mod operation;
pub mod status;
pub mod switchover;
pub mod topology;
