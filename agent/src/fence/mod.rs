//! Leases and the fence: what holds the right to write, and what ends it in time.
//!
//! Two threads of their own. [`renewal`] renews the site's leader key and the primary lease; no
//! PostgreSQL call, file or log can hold it up (I10). [`guard`] stops PostgreSQL before the earlier
//! of the two deadlines and kills what is left of it, without asking anybody (rung 1, I7).

pub mod guard;
pub mod measured;
pub mod processes;
pub mod renewal;
mod ttl;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use regent_proto::time::{BootTime, Deadline};

/// The two deadlines, shared between the threads and with the health endpoints.
#[derive(Debug, Default)]
pub struct Deadlines {
    site: AtomicU64,
    primary: AtomicU64,
    federated: AtomicBool,
    measured: measured::Measured,
}

impl Deadlines {
    /// Deadlines of a node that holds nothing yet.
    #[must_use]
    pub fn new(federated: bool) -> Self {
        Self { federated: AtomicBool::new(federated), ..Self::default() }
    }

    /// What renewals took.
    #[must_use]
    pub fn measured(&self) -> &measured::Measured {
        &self.measured
    }

    /// The site key's.
    #[must_use]
    pub fn site(&self) -> Deadline {
        Deadline::at(BootTime::from_nanos(self.site.load(Ordering::SeqCst)))
    }

    /// The primary lease's.
    #[must_use]
    pub fn primary(&self) -> Deadline {
        Deadline::at(BootTime::from_nanos(self.primary.load(Ordering::SeqCst)))
    }

    /// Until when this node may write: the earlier of the two (protocol.md rule 1).
    #[must_use]
    pub fn writing(&self) -> Deadline {
        if self.federated.load(Ordering::SeqCst) {
            self.site().earlier(self.primary())
        } else {
            self.site()
        }
    }

    fn set_site(&self, deadline: Deadline) {
        self.site.store(deadline.instant().nanos(), Ordering::SeqCst);
    }

    fn set_primary(&self, deadline: Deadline) {
        self.primary.store(deadline.instant().nanos(), Ordering::SeqCst);
    }
}
