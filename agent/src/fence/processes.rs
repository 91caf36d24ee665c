//! What rung 1 does to the processes of a data directory: end the sessions, freeze, thaw, kill.
//!
//! Finding them is the guardian crate's ([`regent_guardian::processes`]): the same scan, so that
//! both rungs mean the same processes. Nothing here touches a file outside /proc.

use std::path::Path;

use nix::sys::signal::Signal;
use regent_guardian::processes::scan::{Family, Process, Scanner};
use regent_guardian::processes::title::Kind;
pub use regent_guardian::processes::{
    DataDirectory, alive, kill_all, of_data_directory, signal, start_time,
};

/// How often a freeze looks for processes that were being started meanwhile.
const FREEZE_PASSES: usize = 5;

/// The processes of one data directory.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    data: Option<DataDirectory>,
    /// The postmaster, while it lives.
    pub postmaster: Option<i32>,
}

impl Instance {
    /// Resolves the directory's true path; done while its disk answers, before anything opens.
    pub fn resolve(&mut self, data_dir: &Path) {
        if let Ok(data) = DataDirectory::resolve(data_dir) {
            self.data = Some(data);
        }
    }

    /// Every process with what it is; `None` when /proc could not be read.
    fn scan(&self, mut seen: impl FnMut(&Process, bool)) -> Option<()> {
        use std::os::unix::ffi::OsStrExt as _;
        let data_dir = self.data.as_ref().map(|data| data.path().as_os_str().as_bytes());
        let family = Family {
            data_dir: data_dir.unwrap_or_default(),
            postmaster: self.postmaster,
            reaper: None,
        };
        let look = |process: &Process, kind: Kind| seen(process, kind == Kind::Client);
        Scanner::open().ok()?.scan_kinds(&family, look).ok()
    }

    /// Fast shutdown, as rung 1 begins it. The postmaster refuses new clients before it ends the old
    /// ones; they are told by us as well, should it not run.
    pub fn stop(&self) {
        if let Some(postmaster) = self.postmaster {
            signal(postmaster, Signal::SIGINT);
        }
        // What cannot be seen now is killed at K.
        let _seen: Option<()> = self.scan(|process, client| {
            if client {
                signal(process.pid, Signal::SIGTERM);
            }
        });
    }

    /// Whether something lives that can acknowledge a write. What cannot be seen may.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        let mut found = false;
        self.scan(|_, client| found |= client).is_none() || found
    }

    /// Stops every process, the postmaster first: it starts no more.
    pub fn freeze(&self) {
        if let Some(postmaster) = self.postmaster {
            signal(postmaster, Signal::SIGSTOP);
        }
        for _ in 0..FREEZE_PASSES {
            let mut running = 0;
            let scanned = self.scan(|process, _| {
                if !matches!(process.state, b'T' | b't') {
                    running += 1;
                    signal(process.pid, Signal::SIGSTOP);
                }
            });
            if scanned.is_some() && running == 0 {
                break;
            }
        }
    }

    /// Lets every process go on, the postmaster last.
    pub fn thaw(&self) {
        let _seen: Option<()> = self.scan(|process, _| {
            if Some(process.pid) != self.postmaster {
                signal(process.pid, Signal::SIGCONT);
            }
        });
        if let Some(postmaster) = self.postmaster {
            signal(postmaster, Signal::SIGCONT);
        }
    }

    /// Kills everything; true once a scan finds nothing.
    #[must_use]
    pub fn kill_all(&self) -> bool {
        match &self.data {
            Some(data) => data.kill_all(self.postmaster),
            None => {
                if let Some(postmaster) = self.postmaster {
                    signal(postmaster, Signal::SIGKILL);
                }
                self.postmaster.is_none_or(|postmaster| !alive(postmaster))
            }
        }
    }
}
