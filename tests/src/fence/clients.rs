//! Clients that write through a fault. Three kinds hold a session to the primary of before, and
//! never open another one, because these are the ones that a fence forgets (hazards.md 3.5):
//!
//! * **pipelined**: keeps hundreds of statements in flight, so its backend never waits for it and
//!   does not notice the death of its postmaster; a statement is acknowledged by its ReadyForQuery;
//! * **looping**: one `DO` block that inserts, commits and says the row's number in a notice, which
//!   the server flushes at once; its backend reads nothing from the client for minutes;
//! * **ordinary**: one row after the other.
//!
//! Beside them one **roaming** client a node asks until its node can be written to, and then writes
//! one by one: what the next primary acknowledges, and what an old one still would.
//!
//! Each is a thread of its own with more right to the processor than anything a fault starts.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use regent_proto::time::BootTime;
use regentctl::lab::process::pause;

use super::checker::{Ack, Node, Tenure};
use super::session::{Said, Session};
use regent_guardian::clock::boot_time;

/// Statements that the pipelined client keeps in flight.
const IN_FLIGHT: u64 = 300;
/// Rows of one `DO` block: more than any observation lasts.
const ROWS_OF_A_BLOCK: u64 = 10_000_000;
/// Between two attempts of a roaming client.
const ROAM: Duration = Duration::from_millis(5);
/// Between two rows of a client that writes one by one.
const PACE: Duration = Duration::from_millis(2);
/// Clients run at this niceness, where permitted: outside the overload.
const NICE: i32 = -10;
/// SQLSTATEs of a server that does not take writes (any more): read_only_sql_transaction.
const READ_ONLY: &str = "25006";

/// How a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hundreds of statements in flight, session held.
    Pipelined,
    /// Commits in a loop inside the server, session held.
    Looping,
    /// One by one, session held.
    Ordinary,
    /// One by one, wherever its node can be written to.
    Roaming,
}

impl Kind {
    /// Those that hold their session.
    pub const HELD: [Self; 3] = [Self::Pipelined, Self::Looping, Self::Ordinary];
}

/// Where a client writes.
#[derive(Debug, Clone)]
pub struct Place {
    /// Which node.
    pub node: Node,
    /// Its port.
    pub port: u16,
}

/// Acknowledgements of one tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: BootTime,
    /// The last.
    pub last: BootTime,
}

/// What all clients of one repetition were told.
#[derive(Debug, Default)]
pub struct Log {
    /// Every acknowledgement, by and large in order.
    pub acks: Vec<Ack>,
    /// First and last of each tenure.
    pub spans: BTreeMap<Tenure, Span>,
    /// Acknowledgements of each client.
    pub of_client: BTreeMap<u32, usize>,
    /// How the held sessions ended, and warnings of the server.
    pub words: Vec<String>,
}

impl Log {
    fn note(&mut self, acks: impl IntoIterator<Item = Ack>) {
        for ack in acks {
            let span = self.spans.entry(ack.tenure);
            let span = span.or_insert(Span { first: ack.at, last: ack.at });
            span.first = span.first.min(ack.at);
            span.last = span.last.max(ack.at);
            *self.of_client.entry(ack.row.0).or_default() += 1;
            self.acks.push(ack);
        }
    }

    /// Acknowledgements in `from..to`.
    #[must_use]
    pub fn count(&self, from: BootTime, to: BootTime) -> usize {
        self.acks.iter().filter(|ack| ack.at >= from && ack.at < to).count()
    }
}

/// Clients at work. Dropping them ends them.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The held clients and how they write.
    pub held: BTreeMap<u32, Kind>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    log: Mutex<Log>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Clients {
    /// Starts the held clients on `old` and a roaming one on every place. `first` is the number of
    /// the first client.
    ///
    /// # Errors
    /// When the primary of before does not take the sessions.
    pub fn start(
        old: &Place,
        places: &[Place],
        password: &str,
        first: u32,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut clients = Self { shared, threads: Vec::new(), held: BTreeMap::new() };
        for (client, kind) in (first..).zip(Kind::HELD) {
            let session = Session::open(old.port, password)?;
            clients.held.insert(client, kind);
            let held =
                Held { session, node: old.node, client, shared: Arc::clone(&clients.shared) };
            clients.spawn(move |shared| {
                if let Err(end) = held.run(kind) {
                    let at = boot_time().nanos() / 1_000_000;
                    shared.log().words.push(format!("{at} ms: {kind:?} session: {end}"));
                }
            })?;
        }
        let roaming = first + u32::try_from(Kind::HELD.len())?;
        for (client, place) in (roaming..).zip(places.iter().cloned()) {
            let password = password.to_owned();
            clients.spawn(move |shared| roam(&place, &password, client, &shared))?;
        }
        Ok(clients)
    }

    fn spawn(&mut self, work: impl FnOnce(Arc<Shared>) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("client".to_owned()).spawn(move || {
            // On Linux this is about the calling thread alone. Without the right to it the stamps
            // may come later, never earlier: no violation is hidden.
            rustix::process::setpriority_process(None, NICE).ok();
            work(shared);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Looks at what was acknowledged so far.
    pub fn look<T>(&self, at: impl FnOnce(&Log) -> T) -> T {
        at(&self.shared.log())
    }

    /// Ends them all; everything they were told.
    #[must_use]
    pub fn finish(mut self) -> Log {
        self.end();
        std::mem::take(&mut *self.shared.log())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // Its panic was printed, and shows as missing acknowledgements.
            thread.join().ok();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

/// On which timeline a primary writes.
fn timeline(session: &mut Session) -> io::Result<u32> {
    let text = session.ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")?;
    u32::from_str_radix(&text, 16).map_err(io::Error::other)
}

struct Held {
    session: Session,
    node: Node,
    client: u32,
    shared: Arc<Shared>,
}

impl Held {
    fn run(mut self, kind: Kind) -> io::Result<()> {
        let tenure = Tenure { node: self.node, timeline: timeline(&mut self.session)? };
        match kind {
            Kind::Looping => self.looping(tenure),
            Kind::Pipelined => self.in_flight(tenure, IN_FLIGHT, Duration::ZERO),
            Kind::Ordinary | Kind::Roaming => self.in_flight(tenure, 1, PACE),
        }
    }

    fn in_flight(&mut self, tenure: Tenure, window: u64, pace: Duration) -> io::Result<()> {
        self.session.prepare_insert(self.client)?;
        let (mut sent, mut told) = (0, 0);
        let mut failed = None;
        while !self.shared.stopped() {
            while sent < told + window {
                self.session.insert(sent)?;
                sent += 1;
            }
            self.session.send()?;
            let (at, said) = self.session.arrived()?;
            let before = told;
            let mut acks = Vec::new();
            for said in said {
                match said {
                    Said::Ready => {
                        if failed.take().is_none() {
                            acks.push(Ack { at, tenure, row: (self.client, told) });
                        }
                        told += 1;
                    }
                    Said::Error(code, text) => failed = Some((code, text)),
                    Said::Notice(text) => self.warn(at, &text),
                    Said::Value(_) => {}
                }
            }
            self.shared.log().note(acks);
            if let Some((code, text)) = failed {
                return Err(io::Error::other(format!("{code}: {text}")));
            }
            if told > before && !pace.is_zero() {
                pause(pace);
            }
        }
        Ok(())
    }

    fn warn(&self, at: BootTime, text: &str) {
        let at = at.nanos() / 1_000_000;
        self.shared.log().words.push(format!("{at} ms: server warns: {text}"));
    }

    fn looping(&mut self, tenure: Tenure) -> io::Result<()> {
        let client = self.client;
        self.session.query(&format!(
            "DO $$ BEGIN FOR i IN 0..{ROWS_OF_A_BLOCK} LOOP \
             INSERT INTO fence.rows (client, n) VALUES ({client}, i); COMMIT; \
             RAISE NOTICE 'committed %', i; END LOOP; END $$"
        ))?;
        self.session.send()?;
        while !self.shared.stopped() {
            let (at, said) = self.session.arrived()?;
            for said in said {
                match said {
                    Said::Notice(text) => match text.strip_prefix("committed ") {
                        Some(number) => {
                            let number = number.parse().map_err(io::Error::other)?;
                            let ack = Ack { at, tenure, row: (client, number) };
                            self.shared.log().note([ack]);
                        }
                        None => self.warn(at, &text),
                    },
                    Said::Error(code, text) => {
                        return Err(io::Error::other(format!("{code}: {text}")));
                    }
                    Said::Ready => return Err(io::Error::other("the block has ended")),
                    Said::Value(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Writes wherever its node lets it, with a new session whenever one ends.
fn roam(place: &Place, password: &str, client: u32, shared: &Arc<Shared>) {
    let mut next = 0;
    while !shared.stopped() {
        // Whatever ends a session here, the next attempt is the answer.
        roam_once(place, password, client, &mut next, shared).ok();
        pause(ROAM);
    }
}

fn roam_once(
    place: &Place,
    password: &str,
    client: u32,
    next: &mut u64,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let mut session = Session::open(place.port, password)?;
    while session.ask("SELECT pg_is_in_recovery()")? != "f" {
        if shared.stopped() {
            return Ok(());
        }
        pause(ROAM);
    }
    let tenure = Tenure { node: place.node, timeline: timeline(&mut session)? };
    session.prepare_insert(client)?;
    while !shared.stopped() {
        let number = *next;
        // A row whose outcome is unknown is never sent again: its number is used up.
        *next += 1;
        session.insert(number)?;
        session.send()?;
        let mut failed = None;
        'answer: loop {
            if shared.stopped() {
                return Ok(());
            }
            let (at, said) = session.arrived()?;
            for said in said {
                match said {
                    Said::Ready => {
                        if failed.is_none() {
                            let ack = Ack { at, tenure, row: (client, number) };
                            shared.log().note([ack]);
                        }
                        break 'answer;
                    }
                    Said::Error(code, text) => failed = Some((code, text)),
                    Said::Notice(_) | Said::Value(_) => {}
                }
            }
        }
        match failed {
            // Until it can be written to again, or for good.
            Some((code, _)) if code == READ_ONLY => return Ok(()),
            Some((code, text)) => return Err(io::Error::other(format!("{code}: {text}"))),
            None => pause(PACE),
        }
    }
    Ok(())
}
