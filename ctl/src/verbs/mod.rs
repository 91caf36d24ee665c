//! The verbs that talk to coordinators, or to the agent on this machine, one file each.

pub mod agent;
pub mod completions;
pub mod fencing;
pub mod operation;
pub mod promotion;
pub mod site;
pub mod status;
pub mod switchover;
pub mod topology;
