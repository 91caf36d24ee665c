//! What the lab's owner process can be asked, over a Unix socket in the lab's directory.
//!
//! One line of JSON each way. The directory is closed to other users, so the socket needs no
//! guard of its own.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::exit::Failure;

use super::layout::Layout;

/// A request to the owner process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// What runs.
    Processes,
    /// Send a signal to one process.
    Signal {
        /// Its name.
        process: String,
        /// The signal's number.
        signal: i32,
    },
    /// Send a signal to a node's PostgreSQL, postmaster and all.
    SignalPostgres {
        /// The node.
        node: String,
        /// The signal's number.
        signal: i32,
    },
    /// Send a signal to the guardian of a node's PostgreSQL.
    SignalGuardian {
        /// The node.
        node: String,
        /// The signal's number.
        signal: i32,
    },
    /// Kill a node: its agent, its guardian, then its PostgreSQL, at once.
    KillNode {
        /// The node.
        node: String,
    },
    /// Own one more process, which [`Request::Start`] starts.
    Add {
        /// Its name, which is also that of its log.
        process: String,
        /// Its program and arguments.
        argv: Vec<String>,
    },
    /// Start a process that does not run.
    Start {
        /// Its name.
        process: String,
    },
    /// Live on when whoever started the lab ends.
    Detach,
    /// Stop everything, remove everything, answer, end.
    Down,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done; how many processes it concerned.
    Done(usize),
    /// What runs.
    Processes(Vec<ProcessState>),
    /// Not done, and why.
    Refused(String),
}

/// One process of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its name, which is also that of its log.
    pub name: String,
    /// Its process id, while it runs.
    pub pid: Option<i32>,
    /// How it ended last.
    pub ended: Option<String>,
    /// Whether somebody asked for that end.
    pub killed: bool,
}

/// Longest request or answer.
pub const LONGEST: u64 = 1 << 20;

/// Asks the owner process of the lab in `dir`.
pub async fn ask(dir: &Path, request: &Request, limit: Duration) -> Result<Answer, Failure> {
    let asked = tokio::time::timeout(limit, exchange(dir, request)).await;
    let fail = |problem: String| {
        Failure::error(format!("ask the owner of the lab in {}: {problem}", dir.display()))
            .next(format!("regentctl lab down --dir {}", dir.display()))
    };
    match asked {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(problem)) => Err(fail(problem.to_string())),
        Err(_) => Err(fail(format!("no answer within {limit:?}"))),
    }
}

async fn exchange(dir: &Path, request: &Request) -> std::io::Result<Answer> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    let mut stream = loop {
        let stream = UnixStream::connect(Layout::control_socket(dir)).await?;
        let mut stream = BufReader::new(stream);
        match stream.write_all(line.as_bytes()).await {
            Ok(()) => break stream,
            // The owner waits for nobody: it took whoever asks for gone, as he did not run for a while.
            // It has read nothing.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    };
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}
