//! What rung 1 does to the processes of a data directory: end the sessions, freeze, thaw, kill.
//!
//! Finding them is the guardian crate's ([`regent_guardian::processes`]): the same scan, so that
//! both rungs mean the same processes. Nothing here touches a file outside /proc.

use std::io;
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::signal::Signal;
use regent_guardian::processes::kill_family;
use regent_guardian::processes::scan::{Family, Member, Scanner};
use regent_guardian::processes::title::Kind;
pub use regent_guardian::processes::{
    DataDirectory, alive, kill_all, of_data_directory, signal, start_time,
};

/// How often a freeze looks for processes that were being started meanwhile.
const FREEZE_PASSES: usize = 5;

/// The processes of one data directory, with what finding them takes: opened and allocated once, so
/// that a fence needs neither memory nor, at the worst, a descriptor (`scan`).
#[derive(Debug)]
pub struct Instance {
    data: Option<DataDirectory>,
    scanner: Scanner,
    postmaster: Option<i32>,
}

impl Instance {
    /// Nothing is known of it yet.
    ///
    /// # Errors
    /// When /proc can't be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self { data: None, scanner: Scanner::open()?, postmaster: None })
    }

    /// Its true path, once known; one that could not be resolved now may have been before.
    pub fn set_data(&mut self, data: Option<DataDirectory>) {
        if data.is_some() {
            self.data = data;
        }
    }

    /// Its postmaster, while it lives.
    pub fn set_postmaster(&mut self, postmaster: Option<i32>) {
        self.postmaster = postmaster;
        self.scanner.follow([postmaster, None]);
    }

    /// Whether its postmaster is known, and lives.
    #[must_use]
    pub fn has_postmaster(&self) -> bool {
        self.postmaster.is_some()
    }

    /// What to look for, and with what.
    fn parts(&mut self) -> (&mut Scanner, Family<'_>) {
        let data_dir = self.data.as_ref().map(|data| data.path().as_os_str().as_bytes());
        let family = Family {
            data_dir: data_dir.unwrap_or_default(),
            postmaster: self.postmaster,
            reaper: None,
        };
        (&mut self.scanner, family)
    }

    /// Every process that is known with whether it is a client's; `None` when not all could be read.
    fn scan(&mut self, mut seen: impl FnMut(&Member, bool)) -> Option<()> {
        let (scanner, family) = self.parts();
        scanner.scan_kinds(&family, |member, kind| seen(member, kind == Kind::Client)).ok()
    }

    /// Fast shutdown, as rung 1 begins it. The postmaster refuses new clients before it ends the old
    /// ones; they are told by us as well, should it not run.
    pub fn stop(&mut self) {
        if let Some(postmaster) = self.postmaster {
            signal(postmaster, Signal::SIGINT);
        }
        // What cannot be seen now is killed at K.
        let _seen: Option<()> = self.scan(|member, client| {
            if client {
                signal(member.pid, Signal::SIGTERM);
            }
        });
    }

    /// Whether something lives that can acknowledge a write. What cannot be seen may.
    #[must_use]
    pub fn has_clients(&mut self) -> bool {
        let mut found = false;
        self.scan(|_, client| found |= client).is_none() || found
    }

    /// Stops every process, the postmaster first: it starts no more.
    pub fn freeze(&mut self) {
        if let Some(postmaster) = self.postmaster {
            signal(postmaster, Signal::SIGSTOP);
        }
        for _ in 0..FREEZE_PASSES {
            let mut running = 0;
            let scanned = self.scan(|member, _| {
                if !member.stat.is_some_and(|process| matches!(process.state, b'T' | b't')) {
                    running += 1;
                    signal(member.pid, Signal::SIGSTOP);
                }
            });
            if scanned.is_some() && running == 0 {
                break;
            }
        }
    }

    /// Lets every process go on, the postmaster last.
    pub fn thaw(&mut self) {
        let postmaster = self.postmaster;
        let _seen: Option<()> = self.scan(|member, _| {
            if Some(member.pid) != postmaster {
                signal(member.pid, Signal::SIGCONT);
            }
        });
        if let Some(postmaster) = postmaster {
            signal(postmaster, Signal::SIGCONT);
        }
    }

    /// Kills everything; true once a scan finds nothing.
    #[must_use]
    pub fn kill_all(&mut self) -> bool {
        let resolved = self.data.is_some();
        let (scanner, family) = self.parts();
        // Without a path only the postmaster's family was looked for.
        kill_family(scanner, &family) == Some(0) && (resolved || family.postmaster.is_none())
    }
}

/// Whether a process stands still by a signal.
#[cfg(test)]
pub(super) fn stopped(pid: i32) -> bool {
    let seen = Scanner::open().and_then(|mut scanner| scanner.process(pid));
    seen.is_ok_and(|seen| seen.is_some_and(|process| process.state == b'T'))
}
