//! Failsafe's effects: asking members and other sites, keeping this node's own word, and keeping
//! the `failsafe` record. What an answer means is judged in `decide::failsafe`.

pub mod members;
pub mod record;
pub mod sites;
pub mod word;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regent_proto::record::{Primary, PrimaryState};
use regent_proto::time::BootTime;

use crate::act::global::GlobalError;
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

impl Shared {
    /// From here on this node promises the leader key to nobody; not while it has promised it.
    ///
    /// # Errors
    /// With whom it has promised the key.
    pub fn enter(&self, now: BootTime) -> Result<(), String> {
        self.word.enter(now).map_err(|promised| {
            format!("failsafe: {} was promised the leader key", promised.leader)
        })
    }

    /// Own promises end before a take, also one that was given since the decision.
    ///
    /// # Errors
    /// With how long a promise lasts.
    pub fn begin_take(
        &self,
        primary: &Primary,
        revision: u64,
        now: BootTime,
    ) -> Result<(), String> {
        let token_of = match &primary.state {
            PrimaryState::Token { token, .. } => Some(&token.tenure),
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Fenced { .. } => {
                None
            }
        };
        let begun = self.given.lock().begin_take(revision, now, token_of, primary);
        begun.map_err(|until| {
            format!("taking: this site's own promise lasts {:?} more", until.since(now))
        })
    }

    /// A take whose outcome is not known stays unresolved until `primary` is read again.
    ///
    /// # Errors
    /// As it was given.
    pub fn end_take<T>(&self, taken: Result<T, GlobalError>) -> Result<T, GlobalError> {
        let known = match &taken {
            Err(GlobalError::Store(error)) => !error.may_have_happened(),
            Ok(_)
            | Err(
                GlobalError::Conflict { .. }
                | GlobalError::NoRandomness
                | GlobalError::State { .. },
            ) => true,
        };
        if known {
            self.given.lock().end_take();
        }
        taken
    }
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
