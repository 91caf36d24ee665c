//! What an agent sees of its own server and guardian: as `regent_agent::observe::postgres` would
//! report the model.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use regent_agent::act::postgres::server::Beside;
use regent_agent::decide::view::{
    ConfigurationView, Control, DataDirectory, Follow, GuardianView, JobKind, PostgresView,
    Process, Receiver, Sender, Slot, Status,
};
use regent_agent::observe::guardian;
use regent_proto::lsn::Lsn;
use regent_proto::name::SystemIdentifier;
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::FIRST_PORT;
use crate::postgres::{self, Data};
use crate::time::MS;
use crate::world::World;

/// What the plan of a switchover looks at.
static SETTINGS: LazyLock<Arc<BTreeMap<String, i64>>> = LazyLock::new(|| {
    let settings = [
        ("max_connections", 60),
        ("max_worker_processes", 8),
        ("max_wal_senders", 16),
        ("max_prepared_transactions", 0),
        ("max_locks_per_transaction", 64),
        ("max_replication_slots", 16),
        ("wal_log_hints", 1),
        ("data_checksums", 1),
    ];
    Arc::new(settings.map(|(name, value)| (name.to_owned(), value)).into())
});

impl World {
    /// The node that listens on this port.
    #[must_use]
    pub fn by_port(&self, port: u16) -> Option<usize> {
        let n = usize::from(port.checked_sub(FIRST_PORT)?);
        (n < self.nodes.len()).then_some(n)
    }

    /// The server, while no job owns it.
    #[must_use]
    pub fn observe_postgres(&self, n: usize, job: Option<&JobKind>) -> PostgresView {
        let server = &self.nodes[n].server;
        let owned = !matches!(job, None | Some(JobKind::CreateUsers | JobKind::PrePromote));
        let ancestry = (!owned).then(|| server.wal.ancestry());
        let known = ancestry.clone().filter(|_| server.answers());
        let status = known.map(|ancestry| self.status(n, ancestry));
        let process = match (server.process, &status) {
            (postgres::Process::Stopped, _) => Process::Stopped,
            (_, None) => Process::Starting,
            (_, Some(_)) => Process::Running,
        };
        let data = match (ancestry, server.data) {
            (None, _) | (Some(_), Data::Incomplete) => DataDirectory::Incomplete,
            (Some(_), Data::Empty) => DataDirectory::Empty,
            (Some(ancestry), Data::Cluster) => DataDirectory::Cluster(Control {
                system_identifier: identifier(server.identifier),
                state: server.control,
                ancestry,
                end: server.wal.lsn(),
                rewindable: true,
            }),
        };
        PostgresView {
            data,
            process,
            users_exist: status.is_some() && server.users,
            status,
            follows: server.follow.clone(),
            standby_signal: server.standby_signal,
            configuration: ConfigurationView::default(),
            half_rewound: false,
        }
    }

    /// All clocks agree on when something was committed: what steps of them would do to the bound of a
    /// loss is said of it, and not kept.
    fn last_commit(&self, n: usize) -> Option<WallTime> {
        let server = &self.nodes[n].server;
        let records = server.wal.records().iter().rev().filter(|_| server.in_recovery);
        let mut ids = records.map(|record| record.id);
        ids.find_map(|id| self.history.committed_at(id)).map(|at| WallTime(at / MS))
    }

    fn status(&self, n: usize, ancestry: Ancestry) -> Status {
        let server = &self.nodes[n].server;
        let senders: BTreeMap<String, Sender> = self
            .connections
            .values()
            .filter(|connection| connection.from == n)
            .map(|connection| {
                let name = self.nodes[connection.to].name.as_str().to_owned();
                let synchronous = server.synchronous.contains(&format!("\"{name}\""));
                let sender = Sender {
                    streaming: connection.streaming,
                    synchronous: synchronous && !server.in_recovery,
                    flushed: Lsn::new(connection.flushed),
                };
                (name, sender)
            })
            .collect();
        let down = self.connections.values().filter(|c| c.from == n);
        let used: Vec<String> = down.map(|c| self.nodes[c.to].name.slot()).collect();
        let slots: BTreeMap<String, Slot> = server
            .slots
            .iter()
            .map(|(name, restart)| {
                let restart = Some(Lsn::new(*restart));
                (name.clone(), Slot { restart, ..Slot::physical(used.contains(name)) })
            })
            .collect();
        let receiver = server.receiver.and_then(|id| self.connections.get(&id)).map(|c| {
            let (host, port) = address(c.from);
            Receiver { host, port, timeline: TimelineId(server.wal.timeline) }
        });
        Status {
            in_recovery: server.in_recovery,
            name_sought: server.wal.timeline > 1 && ancestry.promotion.is_none(),
            ancestry,
            control_timeline: TimelineId(server.control_timeline),
            end: server.wal.lsn(),
            replayed: server.wal.lsn(),
            last_commit: self.last_commit(n),
            wall: WallTime(self.now / MS),
            receiver,
            synchronous_standby_names: server.synchronous.clone(),
            free_slots: 16 - i64::try_from(slots.len()).unwrap_or(16),
            free_senders: 16 - i64::try_from(senders.len()).unwrap_or(16),
            senders,
            slots,
            settings: Arc::clone(&SETTINGS),
            server_version: 150_000,
            wal_logical: false,
            slot_wal_limit: None,
            slots_at: None,
            upstream_end: None,
        }
    }

    /// The guardian.
    #[must_use]
    pub fn observe_guardian(&self, n: usize) -> GuardianView {
        let node = &self.nodes[n];
        let beside = Beside { pid: node.guardian.alive.then_some(1), ..Beside::default() };
        guardian::view(&node.page, &beside, Duration::ZERO, node.clock.boot(self.now))
    }
}

/// A database's identity as records carry it.
#[must_use]
pub fn identifier(number: u64) -> SystemIdentifier {
    number.to_string().parse().expect("a number is a system identifier")
}

/// Where a node's PostgreSQL listens.
#[must_use]
pub fn address(n: usize) -> (String, u16) {
    (format!("10.0.0.{}", n + 1), FIRST_PORT + u16::try_from(n).unwrap_or(0))
}

/// The nodes that somebody may copy from.
#[must_use]
pub fn addresses(follow: &Follow) -> Vec<(String, u16)> {
    match follow {
        Follow::Nobody => Vec::new(),
        Follow::Member { address, .. } => vec![address.clone()],
        Follow::Site { addresses, .. } | Follow::Remote { addresses, .. } => addresses.clone(),
    }
}
