//! What happened to the device, stamped with boot time, and waiting for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use regent_proto::time::BootTime;

use crate::boot;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Opened, and thereby armed with the timeout it has.
    Opened {
        /// By whom.
        by: Pid,
        /// Seconds.
        timeout: u32,
    },
    /// A call that failed.
    Refused {
        /// `open`, `support`, `settimeout`, `ping`, or an unknown ioctl's number.
        call: String,
        /// How.
        error: Errno,
    },
    /// Pinged, by ioctl or by a write.
    Ping,
    /// A timeout was asked for; it counts as a ping.
    SetTimeout {
        /// Seconds asked for.
        asked: u32,
        /// Seconds that the device has from now on.
        granted: u32,
    },
    /// Closed.
    Closed {
        /// Whether it was disarmed: 'V' written last, and the device takes it.
        disarmed: bool,
        /// Living processes of the watched data directory at this moment.
        processes: Vec<Pid>,
    },
    /// The timeout passed without a ping, and the node was reset.
    Expired,
    /// The reset is complete: what it was to kill is dead.
    Reset {
        /// How many processes it killed, or why it could not.
        killed: Result<usize, String>,
    },
}

/// An event and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Before the device answered.
    pub at: BootTime,
    /// What.
    pub event: Event,
}

/// The events of one device, in their order. Clones are the same trace.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<(Mutex<Vec<Happened>>, Condvar)>);

impl Trace {
    pub(super) fn add(&self, at: BootTime, event: Event) {
        self.events().push(Happened { at, event });
        self.0.1.notify_all();
    }

    fn events(&self) -> MutexGuard<'_, Vec<Happened>> {
        // A push does not panic half-way.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Happened> {
        self.events().clone()
    }

    /// Waits until `look` finds something in the events, which it sees after each.
    #[must_use]
    pub fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[Happened]) -> Option<T>,
    ) -> Option<T> {
        let end = boot::now().plus(limit);
        let mut events = self.events();
        loop {
            if let Some(found) = look(&events) {
                return Some(found);
            }
            let left = end.since(boot::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.0.1.wait_timeout(events, left);
            events = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the first event of a kind; when it happened.
    #[must_use]
    pub fn first(&self, limit: Duration, wanted: impl Fn(&Event) -> bool) -> Option<BootTime> {
        self.wait(limit, |events| {
            events.iter().find(|happened| wanted(&happened.event)).map(|happened| happened.at)
        })
    }

    /// How many pings there were.
    #[must_use]
    pub fn pings(&self) -> usize {
        self.events().iter().filter(|happened| happened.event == Event::Ping).count()
    }
}
