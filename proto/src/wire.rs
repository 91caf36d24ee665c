//! The gRPC messages and service of `regent.v1`, generated from `wire/regent.proto`.

mod generated {
    #![allow(
        clippy::all,
        clippy::pedantic,
        unused_qualifications,
        unreachable_pub,
        elided_lifetimes_in_paths,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        missing_docs,
        reason = "generated"
    )]
    tonic::include_proto!("regent.v1");
}

use crate::record::ReportedFence;

pub use generated::*;

/// The service's descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/regent.bin"));

/// From what a node writes of itself.
impl From<&ReportedFence> for Fence {
    fn from(fence: &ReportedFence) -> Self {
        Self {
            deadline_left_ms: fence.deadline_left_ms,
            site_round_trip_ms: fence.site_round_trip_ms,
            primary_round_trip_ms: fence.primary_round_trip_ms,
            worst_stop_ms: fence.worst_stop_ms,
            stop_budget_ms: fence.stop_budget_ms,
            worst_kill_ms: fence.worst_kill_ms,
            kill_budget_ms: fence.kill_budget_ms,
            guardian: fence.guardian,
            worst_wake_ms: fence.worst_wake_ms,
            watchdog: fence.watchdog.clone(),
            frozen: fence.frozen,
            suspended: fence.suspended,
            thin: fence.thin.clone(),
            guardian_lacks: fence.guardian_lacks.clone(),
        }
    }
}
