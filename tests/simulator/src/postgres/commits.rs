//! Commits: written, flushed, and acknowledged once the synchronous standbys have them.

use crate::event::Event;
use crate::mutants::Mutant;
use crate::world::World;

/// A commit that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Whose.
    pub client: usize,
    /// Which write.
    pub write: u64,
    /// Where its record ends.
    pub end: u64,
}

/// `synchronous_standby_names` as the product writes it: nothing, `"a"`, `N ("a","b")` or
/// `ANY N ("a","b")`. How many, of whom, and whether any of them do.
pub(crate) fn parse(list: &str) -> (usize, Vec<&str>, bool) {
    let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let any = list.starts_with("ANY ");
    let number = list.trim_start_matches("ANY ").split('(').next();
    let count = number.and_then(|n| n.trim().parse().ok()).unwrap_or(names.len());
    (count, names, any)
}

impl World {
    /// A client's write reaches the server.
    pub(crate) fn write(&mut self, n: usize, client: usize, write: u64) {
        let server = self.server(n);
        if server.stands_still() && server.process == super::Process::Running {
            // The bytes wait in the socket.
            server.inbox.push((client, write));
            return;
        }
        if !server.writable() || server.full {
            self.client_refused(client, write);
            return;
        }
        let end = server.wal.append(write);
        server.pending.push(Pending { client, write, end });
        self.history.written(write, n, self.now);
        self.wal_grew(n);
    }

    /// Lets go what may be acknowledged.
    pub(crate) fn release(&mut self, n: usize) {
        let server = &self.nodes[n].server;
        if server.pending.is_empty() || server.stands_still() || !server.writable() {
            return;
        }
        let safe = self.safe_up_to(n);
        let server = self.server(n);
        let (free, wait): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut server.pending).into_iter().partition(|p| p.end <= safe);
        server.pending = wait;
        for pending in free {
            self.acknowledged(n, &pending);
        }
    }

    /// Up to where commits need not wait: with FIRST N, the N first of the list that stream; with
    /// ANY N, the N furthest.
    fn safe_up_to(&self, n: usize) -> u64 {
        let (count, names, any) = parse(&self.nodes[n].server.synchronous);
        let heedless = self.mutant == Mutant::AcknowledgeAtOnce;
        if count == 0 || names.is_empty() || heedless {
            return u64::MAX;
        }
        let mut confirmed: Vec<u64> = names
            .iter()
            .filter_map(|name| {
                let found = self.connections.values().find(|connection| {
                    connection.from == n
                        && connection.streaming
                        && self.nodes[connection.to].name.as_str() == *name
                });
                found.map(|connection| connection.flushed)
            })
            .collect();
        if any {
            confirmed.sort_unstable_by(|a, b| b.cmp(a));
        }
        confirmed.truncate(count);
        if confirmed.len() < count { 0 } else { confirmed.into_iter().min().unwrap_or(0) }
    }

    /// The server lets the answer go: from here on the client may know.
    fn acknowledged(&mut self, n: usize, pending: &Pending) {
        self.on_acknowledgement(n, pending.write);
        let (from, to) = (self.nodes[n].host, self.clients_host);
        if let Some(span) = self.net.message(&mut self.chance, from, to) {
            self.schedule(span, Event::Answered(pending.client, pending.write));
        }
    }

    /// What waited in the sockets is read.
    pub(crate) fn thawed(&mut self, n: usize) {
        let inbox = std::mem::take(&mut self.server(n).inbox);
        for (client, write) in inbox {
            self.write(n, client, write);
        }
        self.release(n);
    }
}
