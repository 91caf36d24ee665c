//! Streaming: one connection a standby, WAL down it, confirmations up it.

use regent_agent::decide::view::Follow;

use super::life::Stage;
use super::{Process, Server};
use crate::event::Event;
use crate::time::{MS, Nanos, SEC};
use crate::world::World;

/// `wal_receiver_timeout` and `wal_sender_timeout`: a silent way is given up after this long.
const SILENT: Nanos = 10 * SEC;
/// Records of one message: whoever was away for long catches up by and by.
const PART: usize = 16;
/// How often a primary looks who streams from it while commits wait, or are to: as the product's loop.
const STANDBYS_AGAIN: Nanos = 200 * MS;
/// `wal_retrieve_retry_interval`.
const RETRY: Nanos = 2 * SEC;

/// A walsender with its walreceiver.
#[derive(Debug)]
pub struct Connection {
    /// Upstream.
    pub from: usize,
    /// Standby.
    pub to: usize,
    /// What the standby has confirmed.
    pub flushed: u64,
    /// Everything was sent once.
    pub streaming: bool,
    /// A message is on its way.
    pending: bool,
    /// Since when nothing comes through.
    silent: Option<Nanos>,
}

impl World {
    /// The upstream that `n` would find: the first of its addresses that lets it in.
    fn upstream(&self, n: usize) -> Option<usize> {
        let node = self.nodes.get(n)?;
        let addresses = match node.server.follow.as_ref()? {
            Follow::Nobody => return None,
            Follow::Member { address, .. } => vec![address.clone()],
            Follow::Site { addresses, .. } | Follow::Remote { addresses, .. } => addresses.clone(),
        };
        let lets_in = |u: &usize| {
            let Some(other) = self.nodes.get(*u) else { return false };
            *u != n && other.server.answers() && self.net.both(node.host, other.host)
        };
        addresses.iter().filter_map(|(_, port)| self.by_port(*port)).find(lets_in)
    }

    /// A standby will look for its upstream; an earlier appointment stands.
    pub(crate) fn connect_later(&mut self, n: usize, span: Nanos) {
        let (now, at) = (self.now, self.now + span);
        let server = self.server(n);
        if server.connect_due <= now || at < server.connect_due {
            server.connect_due = at;
            self.later(n, span, Stage::Connect);
        }
    }

    /// A standby tries to stream.
    pub(crate) fn connect(&mut self, n: usize) {
        let now = self.now;
        let server = self.server(n);
        if server.connect_due > now {
            return;
        }
        if server.process != Process::Running || !server.in_recovery || server.receiver.is_some() {
            return;
        }
        let slot = self.nodes[n].name.slot();
        let fit = self.upstream(n).filter(|u| {
            let (upstream, own) = (&self.nodes[*u].server, &self.nodes[n].server);
            upstream.identifier == own.identifier
                && upstream.slots.contains_key(&slot)
                && own.wal.can_stream_from(&upstream.wal)
        });
        let Some(from) = fit else {
            self.connect_later(n, RETRY);
            return;
        };
        self.last_connection += 1;
        let id = self.last_connection;
        let flushed = self.nodes[n].server.wal.end();
        let connection =
            Connection { from, to: n, flushed, streaming: false, pending: false, silent: None };
        self.connections.insert(id, connection);
        self.server(n).receiver = Some(id);
        let upstream = self.nodes[from].name.clone();
        self.explain(n, "PostgreSQL", || format!("streams from {upstream}"));
        self.ship_soon(id);
    }

    /// A server's upstream has changed in its configuration.
    pub(crate) fn reconnect(&mut self, n: usize) {
        self.end_receiver(n);
        self.connect_later(n, 5 * MS);
    }

    /// The receiver of `n` ends.
    pub(crate) fn end_receiver(&mut self, n: usize) {
        let id = self.server(n).receiver.take();
        if let Some(connection) = id.and_then(|id| self.connections.remove(&id)) {
            self.streams_changed(connection.from);
        }
    }

    /// The agent of a primary sees it with its next look, without a round of its own.
    fn streams_changed(&mut self, from: usize) {
        if self.synchronous && self.nodes[from].server.writable() {
            let span = self.chance.below(STANDBYS_AGAIN);
            self.schedule(span, Event::Streams(from));
        }
    }

    /// All connections of `n`, up and down, are gone; its standbys look again.
    pub(crate) fn drop_connections(&mut self, n: usize) {
        self.end_receiver(n);
        let down: Vec<(u64, usize)> = self
            .connections
            .iter()
            .filter(|(_, c)| c.from == n)
            .map(|(id, c)| (*id, c.to))
            .collect();
        for (id, to) in down {
            self.connections.remove(&id);
            self.server(to).receiver = None;
            let pause = self.chance.between(200 * MS, RETRY);
            self.connect_later(to, pause);
        }
    }

    /// There is more to send.
    pub(crate) fn wal_grew(&mut self, n: usize) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.from == n).map(|(id, _)| *id).collect();
        for id in ids {
            self.ship_soon(id);
        }
        self.release(n);
    }

    fn ship_soon(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.pending {
            return;
        }
        connection.pending = true;
        let (from, to) = (connection.from, connection.to);
        let span = self.net.latency(&mut self.chance, self.nodes[from].host, self.nodes[to].host);
        self.schedule(span, Event::Ship(id));
    }

    /// WAL arrives, or finds the way cut.
    pub(crate) fn ship(&mut self, id: u64) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = (connection.from, connection.to);
        let (up, down) = (&self.nodes[from], &self.nodes[to]);
        let open = self.net.both(up.host, down.host);
        if !open || up.server.stands_still() || down.server.stands_still() || down.server.full {
            // TCP tries again; both sides give up after their timeouts.
            let since = *connection.silent.get_or_insert(now);
            if now.saturating_sub(since) < SILENT {
                self.schedule(500 * MS, Event::Ship(id));
                return;
            }
            self.connections.remove(&id);
            self.server(to).receiver = None;
            self.streams_changed(from);
            self.connect_later(to, RETRY);
            return;
        }
        connection.silent = None;
        connection.pending = false;
        if down.server.process != Process::Running || !down.server.in_recovery {
            return;
        }
        let before = down.server.wal.end();
        let upstream = self.nodes[from].server.wal.part(before, PART);
        let fits = self.nodes[to].server.wal.receive(&upstream);
        if !fits {
            self.server(to).corrupt = true;
            let name = self.nodes[from].name.clone();
            self.explain(to, "PostgreSQL", || format!("what {name} sends does not fit"));
        }
        let slow = self.nodes[to].server.slow;
        let flush = self.chance.between(MS / 2, 4 * MS)
            + if slow > 0 { self.chance.below(slow) } else { 0 };
        let back = self.net.latency(&mut self.chance, self.nodes[to].host, self.nodes[from].host);
        let end = self.nodes[to].server.wal.end();
        self.schedule(flush + back, Event::Confirmed(id, end));
        if end >= self.nodes[from].server.wal.end()
            && let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.streaming, true)
        {
            self.streams_changed(from);
        }
        // A cascade goes on from here.
        if end > before {
            self.wal_grew(to);
        }
    }

    /// A confirmation arrives.
    pub(crate) fn confirmed(&mut self, id: u64, end: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let from = connection.from;
        connection.flushed = connection.flushed.max(end);
        // Two standbys may stream to each other: nothing is sent for its own sake.
        if end < self.nodes[from].server.wal.end() {
            self.ship_soon(id);
        }
        self.release(from);
    }
}

impl Server {
    /// Copies a running upstream (`pg_basebackup`).
    pub(crate) fn copy(&mut self, source: &Self) {
        self.data = super::Data::Cluster;
        self.identifier = source.identifier;
        self.wal = source.wal.clone();
        self.control_timeline = source.control_timeline;
        self.control = regent_agent::decide::view::ControlState::InRecovery;
        self.standby_signal = true;
        self.slots.clear();
        self.users = source.users;
        self.corrupt = source.corrupt;
        self.synchronous = String::new();
    }
}
