//! What rung 1 does to the processes of a data directory: end the sessions, freeze, thaw, kill.
//!
//! Finding them is the guardian crate's ([`regent_guardian::processes`]): the same scan, so that
//! both rungs mean the same processes. Nothing here touches a file outside /proc.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use nix::sys::signal::Signal;
use regent_guardian::processes::kill_family;
use regent_guardian::processes::scan::{Family, Member, Scanner};
use regent_guardian::processes::title::Kind;
pub use regent_guardian::processes::{
    DataDirectory, alive, kill_all, of_data_directory, signal, start_time,
};

/// How often a freeze looks for processes that were being started meanwhile, and a thaw for ones that
/// it left behind.
const PASSES: usize = 5;

/// By what the processes of a server are known. A copy takes no memory.
#[derive(Debug, Clone, Default)]
pub struct Named {
    data: Option<Arc<DataDirectory>>,
    postmaster: Option<i32>,
}

/// The processes of one data directory, with what finding them takes: opened and allocated once, so
/// that a fence needs neither memory nor, at the worst, a descriptor (`scan`).
#[derive(Debug)]
pub struct Instance {
    named: Named,
    scanner: Scanner,
}

impl Instance {
    /// Nothing is known of it yet.
    ///
    /// # Errors
    /// When /proc can't be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self { named: Named::default(), scanner: Scanner::open()? })
    }

    /// Its true path, once known; one that could not be resolved now may have been before.
    pub fn set_data(&mut self, data: Option<DataDirectory>) {
        if data.is_some() {
            self.named.data = data.map(Arc::new);
        }
    }

    /// Its postmaster, while it lives.
    pub fn set_postmaster(&mut self, postmaster: Option<i32>) {
        self.named.postmaster = postmaster;
        self.scanner.follow([postmaster, None]);
    }

    /// By what its processes are known.
    #[must_use]
    pub fn named(&self) -> Named {
        self.named.clone()
    }

    /// From now on looks for this server's.
    pub fn look_for(&mut self, server: Named) {
        self.set_postmaster(server.postmaster);
        self.named = server;
    }

    /// Whether its postmaster is known, and lives.
    #[must_use]
    pub fn has_postmaster(&self) -> bool {
        self.named.postmaster.is_some()
    }

    /// What to look for, and with what.
    fn parts(&mut self) -> (&mut Scanner, Family<'_>) {
        let named = &self.named;
        let data_dir = named.data.as_ref().map(|data| data.path().as_os_str().as_bytes());
        let family = Family {
            data_dir: data_dir.unwrap_or_default(),
            postmaster: named.postmaster,
            reaper: None,
        };
        (&mut self.scanner, family)
    }

    /// Every process that is known; `None` when not all could be read.
    fn scan(&mut self, seen: impl FnMut(&Member)) -> Option<()> {
        let (scanner, family) = self.parts();
        scanner.scan(&family, seen).ok()
    }

    /// The same, with whether each is a client's.
    fn scan_kinds(&mut self, mut seen: impl FnMut(&Member, bool)) -> Option<()> {
        let (scanner, family) = self.parts();
        scanner.scan_kinds(&family, |member, kind| seen(member, kind == Kind::Client)).ok()
    }

    /// Fast shutdown, as rung 1 begins it. The postmaster refuses new clients before it ends the old
    /// ones.
    pub fn stop(&self) {
        if let Some(postmaster) = self.named.postmaster {
            signal(postmaster, Signal::SIGINT);
        }
    }

    /// Tells the clients' processes to end. Reads titles, so it may wait for a disk.
    pub fn end_sessions(&mut self) {
        // What cannot be seen now is killed at K.
        let _seen: Option<()> = self.scan_kinds(|member, client| {
            if client {
                signal(member.pid, Signal::SIGTERM);
            }
        });
    }

    /// Whether something lives that can acknowledge a write. What cannot be seen may. Reads titles, as
    /// [`Self::end_sessions`] does.
    #[must_use]
    pub fn has_clients(&mut self) -> bool {
        let mut found = false;
        self.scan_kinds(|_, client| found |= client).is_none() || found
    }

    /// Stops every process, the postmaster first: it starts no more.
    pub fn freeze(&mut self) {
        if let Some(postmaster) = self.named.postmaster {
            signal(postmaster, Signal::SIGSTOP);
        }
        for _ in 0..PASSES {
            let mut running = 0;
            let scanned = self.scan(|member| {
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

    /// Lets every process go on, the postmaster last; true once a scan finds none that stands still.
    #[must_use]
    pub fn thaw(&mut self) -> bool {
        let postmaster = self.named.postmaster;
        for _ in 0..PASSES {
            let mut standing = 0;
            let scanned = self.scan(|member| {
                // Those that seem to run, too: a stop may be on its way to them.
                if Some(member.pid) != postmaster {
                    signal(member.pid, Signal::SIGCONT);
                }
                if member.stat.is_some_and(|process| process.state == b'T') {
                    standing += 1;
                }
            });
            if let Some(postmaster) = postmaster {
                signal(postmaster, Signal::SIGCONT);
            }
            if scanned.is_some() && standing == 0 {
                return true;
            }
        }
        false
    }

    /// Kills everything; true once a scan finds nothing.
    #[must_use]
    pub fn kill_all(&mut self) -> bool {
        let resolved = self.named.data.is_some();
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

/// Waits for what processes do after a signal, twenty seconds at most.
#[cfg(test)]
pub(super) fn until(what: &str, done: impl Fn() -> bool) {
    use crate::observe::clock::boot_time;

    let end = boot_time().plus(std::time::Duration::from_secs(20));
    while !done() {
        assert!(boot_time() < end, "never: {what}");
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "processes to signal")]
    fn a_thaw_sees_everybody_go_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60 & echo; wait"]).stdout(Stdio::piped());
        let mut server = command.spawn().expect("sh");
        let mut said = [0];
        server.stdout.as_mut().expect("piped").read_exact(&mut said).expect("its children run");
        let pid = i32::try_from(server.id()).expect("small");
        let mut instance = Instance::open().expect("/proc");
        instance.set_postmaster(Some(pid));
        instance.freeze();
        let mut family = Vec::new();
        instance.scan(|member| family.push(member.pid)).expect("/proc");
        assert_eq!(family.len(), 3, "{family:?}");
        // A signal that was sent is a state a moment later, where no processor was free for it.
        until("all of them stopped", || family.iter().all(|pid| stopped(*pid)));
        assert!(instance.thaw());
        assert!(!family.iter().any(|pid| stopped(*pid)));
        assert!(!instance.kill_all(), "they were there");
        server.wait().expect("killed");
    }
}
