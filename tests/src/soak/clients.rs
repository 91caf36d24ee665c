//! Clients that write through the whole soak, each on a thread of its own:
//!
//! * **ordinary**: one row after the other, wherever it is taken;
//! * **pipelining**: many rows in flight, wherever they are taken; its backend hardly ever waits for it;
//! * **holding**: one row after the other in a session from before the event. Once that has ended it
//!   waits for the next event's turn before it opens another one.
//!
//! Each session is one stream of the [ledger](super::ledger): a row whose outcome is unknown is never
//! sent again.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use regentctl::lab::process::pause;
use regentctl::{clock, load};

use super::ledger::{Stream, StreamId};
use crate::fence::checker::Node;
use crate::fence::clients::Place;
use crate::fence::session::{Said, Session};
use crate::wait::until;

/// Between two looks for a node that takes writes.
const ROAM: Duration = Duration::from_millis(10);
/// A client that may choose gives a session up after so long without an answer, and each at the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// A node that did not answer in time is left alone for so long: others may have a writer by now.
const SILENT: Duration = Duration::from_secs(5);
/// Rates are of this long.
pub const RATE: Duration = Duration::from_secs(1);
/// Longest wait for every client to write, on a site that is whole.
const WRITES: Duration = Duration::from_secs(20);
/// How many words about sessions are kept.
const WORDS: usize = 20;

/// How a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One row after the other.
    Ordinary,
    /// Many rows in flight.
    Pipelining,
    /// In a session from before the event.
    Holding,
}

impl Kind {
    /// Every kind; a client's number in the ledger is its place here.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::Pipelining, Self::Holding];

    /// Rows in flight, and the pause between two sendings.
    fn window(self) -> (u64, Duration) {
        match self {
            Self::Ordinary => (1, Duration::from_millis(3)),
            Self::Pipelining => (40, Duration::from_millis(30)),
            Self::Holding => (1, Duration::from_millis(10)),
        }
    }
}

/// What the clients were told.
#[derive(Debug, Default)]
pub struct Log {
    /// Every acknowledgement, in order.
    pub acks: Vec<load::Ack>,
    /// Every stream, in the order in which they began.
    pub streams: Vec<Stream>,
    /// When each client was told something last.
    of_client: BTreeMap<Kind, Duration>,
    /// When each node told somebody something last.
    of_node: BTreeMap<Node, Duration>,
    /// How the latest sessions ended.
    words: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    turn: AtomicU32,
    begun: Instant,
    log: Mutex<Log>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn turn(&self) -> u32 {
        self.turn.load(Ordering::SeqCst)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A new stream of a client.
    fn begin(&self, kind: Kind) -> io::Result<StreamId> {
        let mut log = self.log();
        let id = StreamId::try_from(log.streams.len()).map_err(io::Error::other)?;
        log.streams.push(Stream { client: kind as usize, sent: 0, acknowledged: 0 });
        Ok(id)
    }

    fn change(&self, id: StreamId, change: impl FnOnce(&mut Stream)) {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        if let Some(stream) = self.log().streams.get_mut(index) {
            change(stream);
        }
    }

    /// A client was told of these rows of a stream by a node.
    fn told(&self, kind: Kind, node: Node, id: StreamId, rows: std::ops::Range<u64>) {
        if rows.is_empty() {
            return;
        }
        self.change(id, |stream| stream.acknowledged = rows.end);
        let mut log = self.log();
        // Read under the lock, so that they are in order.
        let at = self.now();
        log.acks.extend(rows.map(|number| load::Ack { number, at, attempts: 1 }));
        log.of_client.insert(kind, at);
        log.of_node.insert(node, at);
    }

    fn say(&self, text: String) {
        let mut log = self.log();
        if log.words.len() >= WORDS {
            log.words.remove(0);
        }
        log.words.push(text);
    }
}

/// Clients at work. Dropping them ends them.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts one of each kind.
    ///
    /// # Errors
    /// When there is no thread for one.
    pub fn start(places: &[Place], password: &str) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            turn: AtomicU32::new(0),
            begun: clock::now(),
            log: Mutex::default(),
        });
        let mut clients = Self { shared, threads: Vec::new() };
        for kind in Kind::ALL {
            let client = Client {
                kind,
                places: places.to_vec(),
                password: password.to_owned(),
                next: kind as usize,
                turn: 0,
                idle: BTreeMap::new(),
                silent: BTreeMap::new(),
                shared: Arc::clone(&clients.shared),
            };
            let thread = std::thread::Builder::new().name(format!("{kind:?}"));
            clients.threads.push(thread.spawn(move || client.run())?);
        }
        Ok(clients)
    }

    /// Time since the start, on the clock of the acknowledgements.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Looks at what was told so far.
    fn look<T>(&self, at: impl FnOnce(&Log) -> T) -> T {
        at(&self.shared.log())
    }

    /// The next event's turn: whoever holds a session has one from before it. Waits until every
    /// client has written for a second; how many rows were acknowledged in it.
    ///
    /// # Errors
    /// When one does not write.
    pub async fn steady(&self) -> anyhow::Result<usize> {
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        let since = self.now();
        until("every client to write", WRITES, async || {
            self.look(|log| {
                let late =
                    |kind: &Kind| log.of_client.get(kind).is_none_or(|at| *at < since + RATE);
                let late: Vec<Kind> = Kind::ALL.into_iter().filter(late).collect();
                if late.is_empty() { Ok(()) } else { Err(format!("{late:?}; {:?}", log.words)) }
            })
        })
        .await?;
        Ok(self.look(|log| {
            let before = |at: Duration| log.acks.partition_point(|ack| ack.at < at);
            before(since + RATE) - before(since)
        }))
    }

    /// Waits until somebody is told something later than `after`, by another node than `old` where
    /// one is named.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn told(
        &self,
        after: Duration,
        old: Option<Node>,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let what = match old {
            Some(old) => format!("another node than {old} to acknowledge"),
            None => "an acknowledgement".to_owned(),
        };
        until(&what, limit, async || {
            self.look(|log| {
                let mut nodes = log.of_node.iter();
                let there = nodes.any(|(node, at)| *at > after && old != Some(*node));
                let seen = || format!("last of each node {:?}; {:?}", log.of_node, log.words);
                if there { Ok(()) } else { Err(seen()) }
            })
        })
        .await
    }

    /// The longest time without an acknowledgement of anybody that touches `from..to`.
    #[must_use]
    pub fn outage(&self, from: Duration, to: Duration) -> Duration {
        self.look(|log| load::outage(&log.acks, from, to).length)
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
            // Its panic was printed, and shows as a client that does not write.
            thread.join().ok();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

struct Client {
    kind: Kind,
    places: Vec<Place>,
    password: String,
    /// Which place is looked at next.
    next: usize,
    /// In whose turn it was told something last.
    turn: u32,
    /// Sessions at nodes that take no writes, to ask again.
    idle: BTreeMap<Node, Session>,
    /// Nodes that did not answer, and until when they are left alone.
    silent: BTreeMap<Node, Duration>,
    shared: Arc<Shared>,
}

impl Client {
    fn run(mut self) {
        while !self.shared.stopped() {
            let Some((node, session)) = self.find() else {
                pause(ROAM);
                continue;
            };
            if let Err(end) = self.write(node, session) {
                let at = self.shared.now().as_millis();
                self.shared.say(format!("{at} ms: {:?} at node {node}: {end}", self.kind));
            }
            while self.waits_for_its_turn() {
                pause(ROAM);
            }
        }
    }

    /// Whether the event is not over that ended its session.
    fn waits_for_its_turn(&self) -> bool {
        self.kind == Kind::Holding && self.turn == self.shared.turn() && !self.shared.stopped()
    }

    /// A session at the next place, if that takes writes.
    fn find(&mut self) -> Option<(Node, Session)> {
        let place = self.places.get(self.next % self.places.len().max(1))?.clone();
        self.next += 1;
        let now = self.shared.now();
        if self.silent.get(&place.node).is_some_and(|until| now < *until) {
            return None;
        }
        match self.ask(&place) {
            Ok((session, true)) => Some((place.node, session)),
            Ok((session, false)) => {
                self.idle.insert(place.node, session);
                None
            }
            Err(problem) => {
                // Whatever else it is, the next attempt is the answer.
                if problem.kind() == io::ErrorKind::TimedOut {
                    self.silent.insert(place.node, self.shared.now() + SILENT);
                }
                None
            }
        }
    }

    /// A session at a place, and whether it takes writes.
    fn ask(&mut self, place: &Place) -> io::Result<(Session, bool)> {
        let mut session = match self.idle.remove(&place.node) {
            Some(session) => session,
            None => Session::open(place.port, &self.password)?,
        };
        let writes = session.ask("SELECT pg_is_in_recovery()")? == "f";
        Ok((session, writes))
    }

    /// One stream, to the end of its session or of everything.
    fn write(&mut self, node: Node, mut session: Session) -> io::Result<()> {
        let (window, pace) = self.kind.window();
        let id = self.shared.begin(self.kind)?;
        session.prepare_insert(id)?;
        let (mut sent, mut told) = (0, 0);
        let mut heard = self.shared.now();
        loop {
            let stopped = self.shared.stopped();
            if stopped && sent == told {
                return Ok(());
            }
            if !stopped && sent - told <= window / 2 {
                while sent < told + window {
                    session.insert(sent)?;
                    sent += 1;
                }
                // Before the server can have it.
                self.shared.change(id, |stream| stream.sent = sent);
                session.send()?;
            }
            let (rows, failed) = hear(&mut session)?;
            self.shared.told(self.kind, node, id, told..told + rows);
            told += rows;
            if let Some(failed) = failed {
                return Err(io::Error::other(failed));
            }
            if rows > 0 {
                heard = self.shared.now();
                self.turn = self.shared.turn();
                pause(pace);
            } else if (stopped || self.kind != Kind::Holding)
                && self.shared.now() - heard > PATIENCE
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// How many rows in a row were acknowledged, and what the server said instead of the next one.
fn hear(session: &mut Session) -> io::Result<(u64, Option<String>)> {
    let mut rows = 0;
    for said in session.arrived()?.1 {
        match said {
            Said::Ready => rows += 1,
            Said::Error(code, text) => return Ok((rows, Some(format!("{code}: {text}")))),
            Said::Notice(_) | Said::Value(_) => {}
        }
    }
    Ok((rows, None))
}
