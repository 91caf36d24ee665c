//! The federation's fencing token.
//!
//! `primary.epoch` goes up by one each time primacy moves from one site to another; whatever acts
//! for a primary carries it, and a lower one is refused (I2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A counter in the `primary` record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a new federation.
    pub const FIRST: Self = Self(1);

    /// An epoch read from a record or message.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch of the next holder. Saturates: 2⁶⁴ moves of primacy do not happen.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
