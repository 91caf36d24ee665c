//! Every write and what became of it.

use std::collections::BTreeSet;

use crate::time::Nanos;

/// What is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not known: it may be anywhere or nowhere.
    Unknown,
    /// Certainly not done.
    Failed,
    /// A server let the success go.
    Acknowledged,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Whose.
    pub client: usize,
    /// The server that wrote it.
    pub node: Option<usize>,
    /// What became of it.
    pub outcome: Outcome,
    /// The client has heard of its success.
    pub heard: bool,
    /// When it was committed.
    pub committed_at: Nanos,
    /// When its success was let go.
    pub acknowledged_at: Nanos,
}

/// All writes, by number from 1.
#[derive(Debug, Default)]
pub struct History {
    writes: Vec<Write>,
    /// Acknowledged ones, in order.
    pub acknowledged: Vec<u64>,
}

impl History {
    fn at(&mut self, write: u64) -> Option<&mut Write> {
        self.writes.get_mut(usize::try_from(write).ok()?.checked_sub(1)?)
    }

    /// A new write; its number.
    pub fn begin(&mut self, client: usize) -> u64 {
        let write = Write {
            client,
            node: None,
            outcome: Outcome::Unknown,
            heard: false,
            committed_at: 0,
            acknowledged_at: 0,
        };
        self.writes.push(write);
        self.writes.len() as u64
    }

    /// A server has it.
    pub fn written(&mut self, write: u64, node: usize, now: Nanos) {
        if let Some(write) = self.at(write) {
            write.node = Some(node);
            write.committed_at = now;
        }
    }

    /// It was refused.
    pub fn failed(&mut self, write: u64) {
        if let Some(write) = self.at(write) {
            write.outcome = Outcome::Failed;
        }
    }

    /// A server let its success go.
    pub fn acknowledge(&mut self, write: u64, now: Nanos) {
        if let Some(found) = self.at(write) {
            found.outcome = Outcome::Acknowledged;
            found.acknowledged_at = now;
            self.acknowledged.push(write);
        }
    }

    /// The client knows.
    pub fn heard(&mut self, write: u64) {
        if let Some(write) = self.at(write) {
            write.heard = true;
        }
    }

    /// When a write was committed; `None`: it is no write.
    #[must_use]
    pub fn committed_at(&self, write: u64) -> Option<Nanos> {
        let at = usize::try_from(write).ok()?.checked_sub(1)?;
        self.writes.get(at).map(|write| write.committed_at)
    }

    /// All of them.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The last acknowledged writes are given up: a loss that the rules allow.
    pub fn forget(&mut self, lost: &BTreeSet<u64>) {
        self.acknowledged.retain(|write| !lost.contains(write));
    }
}
