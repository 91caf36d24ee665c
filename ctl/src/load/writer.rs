//! The writer: one row outstanding, about 500 a second, through whatever happens.
//!
//! It uses an ordinary multi-host connection string with `target_session_attrs=read-write`. What
//! the driver does not bound is bounded here: a frozen server answers neither a connection nor a
//! statement, so each gets its own limit, and each attempt begins with another host. A row whose
//! outcome is unknown is sent again with the same number until it is acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::MissedTickBehavior;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::clock;
use crate::exit::Failure;

use super::table::{WRITE, explain};

/// Time between two rows, when the server keeps up: 500 a second.
const PACE: Duration = Duration::from_millis(2);
/// Longest wait for a connection, over all hosts.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest wait for one row.
const STATEMENT: Duration = Duration::from_secs(1);
/// Pause after no host took the connection.
const RETRY: Duration = Duration::from_millis(5);
/// How long the last row may take after the writer was asked to stop.
const LAST_ROW: Duration = Duration::from_secs(30);

/// Where to write.
#[derive(Clone)]
pub struct Target {
    /// The hosts' ports on loopback.
    pub ports: Vec<u16>,
    /// Password of the role `app`.
    pub password: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Target {
    /// The connection string's parts, beginning with another host at each attempt.
    #[must_use]
    pub fn config(&self, attempt: usize) -> Config {
        let mut config = Config::new();
        let first = attempt % self.ports.len().max(1);
        for port in self.ports.iter().cycle().skip(first).take(self.ports.len()) {
            config.host("127.0.0.1").port(*port);
        }
        config
            .user("app")
            .password(&self.password)
            .dbname("postgres")
            .application_name("regent-load")
            .connect_timeout(CONNECT)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        config
    }
}

/// An acknowledged row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Its number.
    pub number: u64,
    /// When, since the writer's start.
    pub at: Duration,
    /// How often it was sent.
    pub attempts: u32,
}

/// What the writer did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Every acknowledgement, in order.
    pub acks: Vec<Ack>,
    /// Numbers below this were sent at least once.
    pub sent: u64,
    /// Attempts whose outcome is unknown.
    pub unknown: u64,
    /// The last error, for people.
    pub last_error: String,
}

impl History {
    /// Adds what a later writer did. Its times are on a clock of its own.
    pub fn append(&mut self, later: Self) {
        self.acks.extend(later.acks);
        self.sent = self.sent.max(later.sent);
        self.unknown += later.unknown;
        self.last_error = later.last_error;
    }
}

/// A writer at work. Dropping it ends it.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Mutex<History>>,
    begun: Instant,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Begins to write, with row 0.
    #[must_use]
    pub fn start(target: Target) -> Self {
        Self::resume(target, 0)
    }

    /// Begins to write, with row `first`: those below were written by an earlier writer.
    #[must_use]
    pub fn resume(target: Target, first: u64) -> Self {
        Self::paced(target, first, PACE)
    }

    /// The same with another time between two rows.
    #[must_use]
    pub fn paced(target: Target, first: u64, pace: Duration) -> Self {
        let shared = Arc::new(Mutex::new(History { sent: first, ..History::default() }));
        let (stop, stopped) = watch::channel(false);
        let begun = clock::now();
        let session =
            Session { target, shared: Arc::clone(&shared), begun, attempts: 0, connection: None };
        let task = tokio::spawn(session.run(first, pace, stopped));
        Self { shared, begun, stop, task: Mutex::new(Some(task)) }
    }

    /// Time since the start, on the clock of the acknowledgements.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Looks at the history so far.
    pub fn look<T>(&self, at: impl FnOnce(&History) -> T) -> T {
        at(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `count` rows were acknowledged after `since`, for a bounded time.
    pub async fn wait_for(
        &self,
        count: usize,
        since: Duration,
        limit: Duration,
    ) -> Result<(), Failure> {
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        let begun = clock::now();
        loop {
            let (seen, error) = self.look(|history| {
                let first = history.acks.partition_point(|ack| ack.at <= since);
                (history.acks.len() - first, history.last_error.clone())
            });
            if seen >= count {
                return Ok(());
            }
            if begun.elapsed() > limit {
                return Err(Failure::error(format!(
                    "writes did not come back: {seen} rows in {limit:?}, wanted {count}; the last \
                     error was {error:?}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends after the row that is outstanding, and gives the whole history.
    pub async fn finish(&self) -> History {
        self.stop.send(true).ok();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(LAST_ROW, &mut task).await.is_err()
        {
            task.abort();
        }
        self.look(History::clone)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// A connection with the statement ready.
struct Connection {
    client: Client,
    statement: Statement,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Session {
    target: Target,
    shared: Arc<Mutex<History>>,
    begun: Instant,
    attempts: usize,
    connection: Option<Connection>,
}

impl Session {
    async fn run(mut self, first: u64, pace: Duration, stopped: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = first;
        while !*stopped.borrow() {
            pace.tick().await;
            self.note(|history| history.sent = number + 1);
            let mut attempts = 1;
            while let Err(problem) = self.send(number).await {
                self.connection = None;
                self.note(|history| history.last_error = problem);
                attempts += 1;
            }
            let at = self.begun.elapsed();
            self.note(|history| history.acks.push(Ack { number, at, attempts }));
            number += 1;
        }
    }

    fn note(&self, change: impl FnOnce(&mut History)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sends a row once. Any error means that its outcome is unknown.
    async fn send(&mut self, number: u64) -> Result<(), String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(problem) => {
                    tokio::time::sleep(RETRY).await;
                    return Err(problem);
                }
            },
        };
        let value = i64::try_from(number).map_err(|e| e.to_string())?;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&value];
        let sent = connection.client.execute(&connection.statement, &parameters);
        let answer = tokio::time::timeout(STATEMENT, sent).await;
        match answer {
            Ok(Ok(_)) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(e)) => {
                self.note(|history| history.unknown += 1);
                Err(explain(&e))
            }
            Err(_) => {
                self.note(|history| history.unknown += 1);
                Err(format!("no acknowledgement within {STATEMENT:?}"))
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, String> {
        let config = self.target.config(self.attempts);
        self.attempts += 1;
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await.map_err(|e| explain(&e))?;
            let task = tokio::spawn(async move {
                // Its error comes back from the statement that meets it.
                connection.await.ok();
            })
            .abort_handle();
            let statement = client.prepare(WRITE).await;
            match statement {
                Ok(statement) => Ok(Connection { client, statement, task }),
                Err(e) => {
                    task.abort();
                    Err(explain(&e))
                }
            }
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(done) => done,
            Err(_) => Err(format!("no connection within {CONNECT:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    #[test]
    fn every_attempt_begins_with_another_host_and_names_them_all() {
        let target = Target { ports: vec![1, 2, 3], password: "secret".into() };
        assert_eq!(target.config(0).get_ports(), [1, 2, 3]);
        assert_eq!(target.config(4).get_ports(), [2, 3, 1]);
        assert_eq!(target.config(0).get_hosts().len(), 3);
        assert!(matches!(&target.config(0).get_hosts()[0], Host::Tcp(host) if host == "127.0.0.1"));
        assert!(!format!("{target:?}").contains("secret"));
    }
}
