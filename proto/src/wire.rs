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

pub use generated::*;

/// The service's descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/regent.bin"));
