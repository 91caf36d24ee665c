//! Coordinators: which of them live, and which is elected. Bound to store leases.

use serde::{Deserialize, Serialize};

use super::{Unknown, record};
use crate::name::{CoordinatorName, SiteName, Tenure};

/// `leader`: the elected coordinator, bound to a store lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorLeader {
    /// Format version.
    pub version: u32,
    /// Who.
    pub name: CoordinatorName,
    /// Its term.
    pub tenure: Tenure,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(CoordinatorLeader, "coordinator leader");

/// `coordinators/ID`: one coordinator that lives, bound to a store lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorMember {
    /// Format version.
    pub version: u32,
    /// Who.
    pub name: CoordinatorName,
    /// Its site.
    pub site: SiteName,
    /// Its gRPC address, `host:port`.
    pub address: String,
    /// Software version.
    pub software: String,
    /// It serves the API off loopback without TLS because its configuration says so.
    #[serde(default)]
    pub insecure: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
record!(CoordinatorMember, "coordinator");
