//! What may have happened when a store call did not simply succeed.
//!
//! One question decides what a caller may do next, so it is the type: [`StoreError::Refused`],
//! [`StoreError::NotDone`] or [`StoreError::Unknown`] (design.md section 1). A conflict of a
//! transaction is not an error but [`crate::TxnOutcome::Conflict`].

use std::time::Duration;

/// A store call that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store said no, and will say no again: permissions, a bad request, a value too large.
    #[error("{store} refused to {action}: {problem}")]
    Refused {
        /// Which store, for example `sqlite /run/x.db`.
        store: String,
        /// What was being done, for example `get /service/eu/leader`.
        action: String,
        /// The store's words.
        problem: String,
    },
    /// Certainly not applied: nobody was reached, or the store said so. May be tried again.
    #[error("{store} could not {action}: {problem}; nothing was changed")]
    NotDone {
        /// Which store.
        store: String,
        /// What was being done.
        action: String,
        /// What stood in the way.
        problem: String,
    },
    /// The request may have been applied, or may yet be: read before deciding anything.
    #[error("{store}: outcome of {action} is unknown after {waited:?}: {problem}")]
    Unknown {
        /// Which store.
        store: String,
        /// What was being done.
        action: String,
        /// How long the answer was waited for.
        waited: Duration,
        /// What was seen.
        problem: String,
    },
}

impl StoreError {
    /// Whether the request may have been applied.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::NotDone { .. } => false,
            Self::Unknown { .. } => true,
        }
    }
}
