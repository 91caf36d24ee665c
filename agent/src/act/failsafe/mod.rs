//! Failsafe's effects: asking members and other sites, keeping this node's own word, and keeping
//! the `failsafe` record. What an answer means is judged in `decide::failsafe`.

pub mod members;
pub mod record;
pub mod sites;
pub mod word;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decide::failsafe::quorum::Given;
use crate::fence::rounds::SharedLeader;
use word::Word;

/// What the parts of an agent share about failsafe.
#[derive(Debug, Clone)]
pub struct Shared {
    /// As leader of the site.
    pub leader: SharedLeader,
    /// As a member of the site.
    pub word: Arc<Word>,
    /// As a site that other sites ask.
    pub given: SharedGiven,
}

/// [`Given`] between the main loop and the listener for promises.
#[derive(Debug, Clone, Default)]
pub struct SharedGiven(Arc<Mutex<Given>>);

impl SharedGiven {
    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, Given> {
        // Plain data: a panic elsewhere leaves it as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
