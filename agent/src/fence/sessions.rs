//! Ends the sessions of a server that rung 1 stops, should its postmaster not do it.
//!
//! Only its title tells a session from the processes that a shutdown needs, and reading a title waits
//! for the lock of that process's memory, which it may hold while it waits for a disk. Rung 1 has a
//! kill instant to keep and a lock that others wait for, so it asks a thread of its own, which holds
//! neither. What that one does not get done is killed at K, unseen.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::processes::{Instance, Named};

/// Handle of the thread. It ends with the last one.
#[derive(Debug)]
pub(super) struct Sessions(SyncSender<Named>);

impl Sessions {
    /// Starts the thread, with all that it needs later.
    ///
    /// # Errors
    /// When there is no thread, or /proc can't be opened.
    pub(super) fn start() -> io::Result<Self> {
        let mut instance = Instance::open()?;
        let (ask, asked) = sync_channel(1);
        std::thread::Builder::new().name("sessions".to_owned()).spawn(move || {
            while let Ok(server) = asked.recv() {
                instance.look_for(server);
                instance.end_sessions();
            }
        })?;
        Ok(Self(ask))
    }

    /// Asks for the end of its sessions, and waits for nothing: who was asked before is at it.
    pub(super) fn end(&self, server: Named) {
        self.0.try_send(server).ok();
    }
}
