//! Random identities: tenures, requests. They tell a record's writer apart from its twins.

use regent_proto::name::{RequestId, Tenure};

fn random_hex() -> Option<String> {
    let mut bytes = [0u8; 12];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

/// A new request id; `None` when the kernel gives no randomness, and then nothing is sent.
#[must_use]
pub fn request_id() -> Option<RequestId> {
    random_hex()?.parse().ok()
}

/// A new tenure.
#[must_use]
pub fn tenure() -> Option<Tenure> {
    random_hex()?.parse().ok()
}
