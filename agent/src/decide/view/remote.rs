//! The cluster of no federation that this one follows: Patroni's `standby_cluster`, and what was found
//! there.

use regent_proto::name::SystemIdentifier;
use regent_proto::time::BootTime;
use regent_proto::timeline::Ancestry;

/// The section, as far as decisions need it, and what answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteView {
    /// Hosts and ports; none: its WAL comes from the archive alone.
    pub addresses: Vec<(String, u16)>,
    /// The slot there.
    pub slot: Option<String>,
    /// Who answered there last.
    pub found: Option<RemoteFound>,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFound {
    /// Its database.
    pub system_identifier: SystemIdentifier,
    /// Its history, which names no promotions.
    pub ancestry: Ancestry,
    /// When it was asked.
    pub asked: BootTime,
}
