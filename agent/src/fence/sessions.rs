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
    /// Whether there are any: the question's number.
    Look(u64, Named),
}

/// Handle of the thread. It ends with the last one.
#[derive(Debug)]
pub(super) struct Sessions {
    ask: SyncSender<Ask>,
    /// The latest question that was answered, and how; never held while something is read.
    seen: Arc<Mutex<Option<(u64, bool)>>>,
    /// The question that it has, and the one to come.
    asked: Option<u64>,
    next: u64,
    /// Since when it is not known.
    unknown: Option<BootTime>,
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
                    Ask::Look(question, server) => {
                        instance.look_for(server);
                        let answer = (question, instance.has_clients());
                        *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                    }
                }
            }
        })?;
        Ok(Self { ask, seen, asked: None, next: 0, unknown: None })
    }

    /// Asks for the end of its sessions, and waits for nothing: who was asked before is at it.
    pub(super) fn end(&self, server: Named) {
        self.ask.try_send(Ask::End(server)).ok();
    }

    /// Another stop begins: what was asked about the one before tells nothing of it.
    pub(super) fn begin(&mut self) {
        (self.asked, self.unknown) = (None, None);
    }

    /// Whether a client may still be served, for somebody who asks every few milliseconds and cannot
    /// wait: false until it is known, and true once it is not known for as long as `patience`.
    pub(super) fn may_be_clients(
        &mut self,
        server: Named,
        now: BootTime,
        patience: Duration,
    ) -> bool {
        let unknown = *self.unknown.get_or_insert(now);
        if self.asked.is_none() && self.ask.try_send(Ask::Look(self.next, server)).is_ok() {
            self.asked = Some(self.next);
            self.next += 1;
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        match seen {
            Some((question, clients)) if self.asked == Some(question) => {
                (self.asked, self.unknown) = (None, None);
                clients
            }
            Some(_) | None => now.since(unknown) > patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clock::boot_time;

    #[test]
    fn clients_that_nobody_can_see_count_after_the_patience_and_none_do_not() {
        let second = Duration::from_secs(1);
        let mut sessions = Sessions::start().expect("a thread");
        let named = Instance::open().expect("/proc").named();
        let begun = boot_time();
        let late = begun.plus(second * 3600);
        assert!(!sessions.may_be_clients(named.clone(), begun, second), "asked");
        let seen = || *sessions.seen.lock().expect("nobody panics");
        while seen().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(seen(), Some((0, false)), "there is no server");
        assert!(!sessions.may_be_clients(named.clone(), late, second), "told");

        // As if the thread hung in a title, with another order waiting.
        let (ask, hangs) = sync_channel(1);
        sessions.ask = ask;
        sessions.end(named.clone());
        let begun = late;
        let (soon, late) = (begun.plus(second), begun.plus(second * 2));
        assert!(!sessions.may_be_clients(named.clone(), begun, second), "not even asked");
        assert!(!sessions.may_be_clients(named.clone(), soon, second));
        assert!(sessions.may_be_clients(named.clone(), late, second));
        // It goes on: what it says of this stop is no answer for the next one.
        assert!(matches!(hangs.try_recv(), Ok(Ask::End(_))));
        assert!(sessions.may_be_clients(named.clone(), late, second), "asked now");
        *sessions.seen.lock().expect("nobody panics") = Some((1, true));
        sessions.begin();
        assert!(!sessions.may_be_clients(named.clone(), late, second), "of another stop");
        *sessions.seen.lock().expect("nobody panics") = Some((1, true));
        assert!(matches!(hangs.try_recv(), Ok(Ask::Look(1, _))));
        assert!(!sessions.may_be_clients(named.clone(), late, second), "asked anew");
        *sessions.seen.lock().expect("nobody panics") = Some((2, true));
        assert!(sessions.may_be_clients(named, late, second));
    }
}
