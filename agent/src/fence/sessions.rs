//! Looks at the sessions of a server that rung 1 stops, and ends them, should its postmaster not do it.
//!
//! Only its title tells a session from the processes that a shutdown needs, and reading a title waits
//! for the lock of that process's memory, which it may hold while it waits for a disk. Rung 1 has a
//! kill instant to keep and a lock that others wait for, so it asks a thread of its own, which holds
//! neither. What that one does not get done or seen in time is killed unseen.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_proto::time::BootTime;

use super::processes::{Instance, Named};

#[derive(Debug)]
enum Ask {
    /// End them.
    End(Named),
    /// Whether there are any.
    Look(Named),
}

/// Handle of the thread. It ends with the last one.
#[derive(Debug)]
pub(super) struct Sessions {
    ask: SyncSender<Ask>,
    /// What was seen since it was last asked; never held while something is read.
    seen: Arc<Mutex<Option<bool>>>,
    /// When it was asked what has no answer yet.
    asked: Option<BootTime>,
}

impl Sessions {
    /// Starts the thread, with all that it needs later.
    ///
    /// # Errors
    /// When there is no thread, or /proc can't be opened.
    pub(super) fn start() -> io::Result<Self> {
        let mut instance = Instance::open()?;
        let (ask, asked) = sync_channel(1);
        let seen = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&seen);
        std::thread::Builder::new().name("sessions".to_owned()).spawn(move || {
            while let Ok(ask) = asked.recv() {
                match ask {
                    Ask::End(server) => {
                        instance.look_for(server);
                        instance.end_sessions();
                    }
                    Ask::Look(server) => {
                        instance.look_for(server);
                        let clients = instance.has_clients();
                        *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(clients);
                    }
                }
            }
        })?;
        Ok(Self { ask, seen, asked: None })
    }

    /// Asks for the end of its sessions, and waits for nothing: who was asked before is at it.
    pub(super) fn end(&self, server: Named) {
        self.ask.try_send(Ask::End(server)).ok();
    }

    /// Whether a client may still be served, for somebody who asks every few milliseconds and cannot
    /// wait: false until it is known, and true once it is not known for as long as `patience`.
    pub(super) fn may_be_clients(
        &mut self,
        server: Named,
        now: BootTime,
        patience: Duration,
    ) -> bool {
        let Some(asked) = self.asked else {
            // One that is full is at an older question, which may never end.
            self.ask.try_send(Ask::Look(server)).ok();
            self.asked = Some(now);
            return false;
        };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        if seen.is_some() {
            self.asked = None;
        }
        seen.unwrap_or(now.since(asked) > patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clock::boot_time;

    #[test]
    fn clients_that_nobody_can_see_count_after_the_patience_and_none_do_not() {
        let mut sessions = Sessions::start().expect("a thread");
        let named = Instance::open().expect("/proc").named();
        let begun = boot_time();
        assert!(!sessions.may_be_clients(named.clone(), begun, Duration::from_secs(60)), "asked");
        let seen = loop {
            let seen = *sessions.seen.lock().expect("nobody panics");
            if let Some(seen) = seen {
                break seen;
            }
            std::thread::yield_now();
        };
        assert!(!seen, "there is no server");
        let late = begun.plus(Duration::from_secs(3600));
        assert!(!sessions.may_be_clients(named.clone(), late, Duration::from_secs(1)), "told");

        // As if the thread hung in a title.
        let (ask, hangs) = sync_channel(1);
        sessions.ask = ask;
        assert!(!sessions.may_be_clients(named.clone(), begun, Duration::from_secs(1)), "asked");
        let soon = begun.plus(Duration::from_secs(1));
        assert!(!sessions.may_be_clients(named.clone(), soon, Duration::from_secs(1)));
        assert!(sessions.may_be_clients(named, late, Duration::from_secs(1)));
        drop(hangs);
    }
}
