//! Clients: they write numbered rows, one after the other, keep their sessions as long as these
//! last, and remember what became of each write.

use crate::event::Event;
use crate::postgres::Process;
use crate::time::{MS, Nanos, SEC};
use crate::world::World;

/// How long a client waits for an answer before it gives the session up.
const PATIENCE: Nanos = 5 * SEC;

/// One client.
#[derive(Debug, Default)]
pub struct Client {
    /// The server it has a session with, and which life of it.
    session: Option<(usize, u64)>,
    /// The write that is under way, and since when.
    busy: Option<(u64, Nanos)>,
    /// The turn that counts.
    turn: u64,
    /// The mean pause between writes.
    pub pause: Nanos,
    /// It keeps a session also where an answer does not come.
    pub stubborn: bool,
}

impl Client {
    /// One that pauses so long between writes.
    #[must_use]
    pub fn new(pause: Nanos, stubborn: bool) -> Self {
        Self { pause, stubborn, ..Self::default() }
    }
}

impl World {
    fn client_turn(&mut self, c: usize, span: Nanos) {
        let client = &mut self.clients[c];
        client.turn += 1;
        let turn = client.turn;
        self.schedule(span, Event::Client(c, turn));
    }

    /// The client does its next thing.
    pub(crate) fn client(&mut self, c: usize, turn: u64) {
        if self.clients[c].turn != turn {
            return;
        }
        let now = self.now;
        if let Some((_, since)) = self.clients[c].busy {
            if now.saturating_sub(since) < PATIENCE || self.clients[c].stubborn {
                self.client_turn(c, SEC);
                if now.saturating_sub(since) > 12 * PATIENCE {
                    self.clients[c].busy = None;
                    self.clients[c].session = None;
                }
                return;
            }
            self.clients[c].busy = None;
            self.clients[c].session = None;
        }
        if self.clients[c].session.is_none() {
            self.clients[c].session = self.find_primary();
        }
        let pause = self.clients[c].pause;
        let Some((n, life)) = self.clients[c].session else {
            let span = self.chance.between(200 * MS, SEC);
            self.client_turn(c, span);
            return;
        };
        let write = self.history.begin(c);
        self.clients[c].busy = Some((write, now));
        let host = self.nodes[n].host;
        if let Some(span) = self.net.message(&mut self.chance, self.clients_host, host) {
            self.schedule(span, Event::Write(n, life, c, write));
        }
        let span = self.chance.between(pause / 2, pause * 3 / 2);
        self.client_turn(c, span);
    }

    /// Any server that says it can be written to.
    fn find_primary(&mut self) -> Option<(usize, u64)> {
        let open: Vec<usize> = (0..self.nodes.len())
            .filter(|n| {
                let node = &self.nodes[*n];
                node.server.writable()
                    && node.server.answers()
                    && self.net.both(self.clients_host, node.host)
            })
            .collect();
        let n = *self.chance.pick(&open)?;
        Some((n, self.nodes[n].server.life))
    }

    /// A write reaches a machine.
    pub(crate) fn write_arrives(&mut self, n: usize, life: u64, client: usize, write: u64) {
        let server = &self.nodes[n].server;
        if server.life != life || server.process != Process::Running {
            // The connection is gone: reset.
            self.client_refused(client, write);
            return;
        }
        self.write(n, client, write);
    }

    fn tell(&mut self, client: usize, write: u64, failed: bool) {
        let span = self.chance.between(MS, 10 * MS);
        self.schedule(span, Event::Gone(client, write, failed));
    }

    /// Nothing was done, and the client is told.
    pub(crate) fn client_refused(&mut self, client: usize, write: u64) {
        self.history.failed(write);
        self.tell(client, write, true);
    }

    /// The session ended under a write.
    pub(crate) fn client_lost(&mut self, client: usize, write: u64) {
        self.tell(client, write, false);
    }

    /// The client hears of it.
    pub(crate) fn gone(&mut self, c: usize, write: u64) {
        if self.clients[c].busy.is_some_and(|(busy, _)| busy == write) {
            self.clients[c].busy = None;
            self.clients[c].session = None;
            let span = self.chance.between(50 * MS, SEC);
            self.client_turn(c, span);
        }
    }

    /// The client hears of its success.
    pub(crate) fn answered(&mut self, c: usize, write: u64) {
        if self.clients[c].busy.is_some_and(|(busy, _)| busy == write) {
            self.clients[c].busy = None;
            self.history.heard(write);
        }
    }
}
