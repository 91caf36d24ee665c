//! Which leases of the site DCS this node's agents have had, in a file of the run directory. Its lock is
//! held: a leader key under one of these is of a former life, which has ended, and may be bound anew. One
//! that carries this node's name under any other lease is a twin's (hazards.md row 10).
//!
//! In the run directory on purpose: a copy of the data directory on another machine does not bring it along,
//! and what a reboot takes away costs at most one TTL.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regent_dcs::LeaseId;

use super::postgres::files::write_atomically;

/// So many are kept: the key hangs on the last one, or, while it moves, on the one before.
const KEPT: usize = 8;

/// The leases of one node's agents.
#[derive(Debug)]
pub struct OwnLeases {
    path: PathBuf,
    /// The last one at the end.
    had: Vec<LeaseId>,
}

impl OwnLeases {
    /// What former lives have left; nothing where it cannot be read, which costs at most one TTL.
    #[must_use]
    pub fn left(run_dir: &Path) -> Self {
        let path = run_dir.join("leases");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let had = text.lines().filter_map(|line| line.parse().ok()).map(LeaseId).collect();
        Self { path, had }
    }

    /// All of them; `None` where none is known although what a former life left is still guarded: that
    /// one's version kept no note, and the key is taken for its.
    #[must_use]
    pub fn known(&self, guarded: bool) -> Option<BTreeSet<LeaseId>> {
        (!self.had.is_empty() || !guarded).then(|| self.had.iter().copied().collect())
    }

    /// This one is had now. An error is told once.
    pub fn note(&mut self, lease: LeaseId) -> std::io::Result<()> {
        if self.had.last() == Some(&lease) {
            return Ok(());
        }
        self.had.retain(|had| *had != lease);
        self.had.push(lease);
        self.had.drain(..self.had.len().saturating_sub(KEPT));
        let lines: String = self.had.iter().map(|LeaseId(id)| format!("{id}\n")).collect();
        write_atomically(&self.path, lines.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_knows_the_leases_of_the_last_ones() {
        let run_dir = tempfile::tempdir().expect("a directory");
        let left = || OwnLeases::left(run_dir.path());
        assert_eq!(left().known(false), Some(BTreeSet::new()), "nothing here was ever a leader");
        assert_eq!(left().known(true), None, "an older version's server is here");
        for id in 1..=10 {
            left().note(LeaseId(id)).expect("written");
        }
        let mut last = left();
        last.note(LeaseId(4)).expect("written");
        last.note(LeaseId(4)).expect("nothing to write");
        let known = left().known(true).expect("some");
        assert_eq!(known, BTreeSet::from([3, 4, 5, 6, 7, 8, 9, 10].map(LeaseId)));
        std::fs::write(run_dir.path().join("leases"), "garbage\n").expect("written");
        assert_eq!(left().known(false), Some(BTreeSet::new()));
    }
}
