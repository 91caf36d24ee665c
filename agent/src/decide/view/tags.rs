//! Patroni's tags of a member, as decisions understand them (spec/patroni-compat.md 3.4, 3.5.1, 5.2).
//! Read from what is written by `config::tags`, and nowhere else.

use regent_proto::name::NodeName;

/// What a member's tags say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Patroni's tags, each independent")]
pub struct Tags {
    /// It never leads, unless a person makes it.
    pub nofailover: bool,
    /// Among equals the highest leads.
    pub failover_priority: i64,
    /// Commits never wait for it.
    pub nosync: bool,
    /// Commits wait for the highest.
    pub sync_priority: i64,
    /// The member that it streams from, instead of the leader.
    pub replicatefrom: Option<NodeName>,
    /// Others are copied from it rather than from the leader.
    pub clonefrom: bool,
    /// It replays the archive and does not stream.
    pub nostream: bool,
    /// Clients that balance do not read from it.
    pub noloadbalance: bool,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            nofailover: false,
            failover_priority: 1,
            nosync: false,
            sync_priority: 1,
            replicatefrom: None,
            clonefrom: false,
            nostream: false,
            noloadbalance: false,
        }
    }
}
