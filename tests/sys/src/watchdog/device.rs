//! The device: its state, its clock, and the mount that it is reached through.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use nix::errno::Errno;
use nix::unistd::Pid;
use regent_proto::time::BootTime;

use super::file::WatchdogFile;
use super::{Event, Quirk, Reset, Trace};
use crate::process::living_in;
use crate::{Need, boot, missing, mounts};

/// What a device needs.
pub const NEEDS: &[Need] = &[Need::Root, Need::Fuse];

// linux/watchdog.h
const SETTIMEOUT: u32 = 0x0080;
const MAGICCLOSE: u32 = 0x0100;
const KEEPALIVEPING: u32 = 0x8000;

/// What a device grants before anybody asks, as softdog.
const DEFAULT_TIMEOUT: u32 = 60;
/// The longest that it grants, as softdog.
const LONGEST: u32 = 65_535;

#[derive(Debug)]
struct State {
    quirks: Vec<Quirk>,
    timeout: u32,
    opened: bool,
    magic: bool,
    /// Since when it has not been pinged; `None` while it is not armed.
    armed: Option<BootTime>,
    ends: bool,
}

/// What the file and the clock share.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    trace: Trace,
    data_dir: PathBuf,
    reset: Reset,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, call: impl Into<String>, error: Errno) -> Errno {
        self.trace.add(boot::now(), Event::Refused { call: call.into(), error });
        error
    }

    /// `thread`: of the process that opens it, as FUSE names it.
    pub(super) fn open(&self, thread: Pid) -> Result<(), Errno> {
        let mut state = self.state();
        let quirk = state.quirks.iter().find_map(|quirk| match quirk {
            Quirk::Open(error) => Some(*error),
            _ => None,
        });
        if let Some(error) = quirk.or(state.opened.then_some(Errno::EBUSY)) {
            return Err(self.refuse("open", error));
        }
        let at = boot::now();
        let starts = !state.quirks.contains(&Quirk::NoSupport);
        (state.opened, state.magic, state.armed) = (true, false, starts.then_some(at));
        let by = process_of(thread);
        self.trace.add(at, Event::Opened { by, timeout: state.timeout });
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn support(&self) -> Result<u32, Errno> {
        let state = self.state();
        if state.quirks.contains(&Quirk::NoSupport) {
            return Err(self.refuse("support", Errno::ENOTTY));
        }
        let mut options = KEEPALIVEPING;
        if !state.quirks.contains(&Quirk::FixedTimeout) {
            options |= SETTIMEOUT;
        }
        if !state.quirks.contains(&Quirk::NoMagicClose) {
            options |= MAGICCLOSE;
        }
        Ok(options)
    }

    pub(super) fn ping(&self) -> Result<(), Errno> {
        let mut state = self.state();
        let quirk = state.quirks.iter().find_map(|quirk| match quirk {
            Quirk::Ping(error) => Some(*error),
            _ => None,
        });
        if let Some(error) = quirk {
            return Err(self.refuse("ping", error));
        }
        let at = boot::now();
        // After its reset a machine is not pinged: the test's node has left its clock.
        state.armed = state.armed.map(|_| at);
        self.trace.add(at, Event::Ping);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn write(&self, data: &[u8]) -> Result<(), Errno> {
        self.state().magic = data.contains(&b'V');
        if data.is_empty() { Ok(()) } else { self.ping() }
    }

    pub(super) fn set_timeout(&self, asked: u32) -> Result<u32, Errno> {
        let mut state = self.state();
        let quirk = state.quirks.iter().find_map(|quirk| match quirk {
            Quirk::FixedTimeout => Some(Err(Errno::EOPNOTSUPP)),
            Quirk::SetTimeout(error) => Some(Err(*error)),
            Quirk::Grants(seconds) => Some(Ok(*seconds)),
            _ => None,
        });
        let range = if (1..=LONGEST).contains(&asked) { Ok(asked) } else { Err(Errno::EINVAL) };
        let granted = match quirk.unwrap_or(range) {
            Ok(granted) => granted,
            Err(error) => return Err(self.refuse("settimeout", error)),
        };
        let at = boot::now();
        state.timeout = granted;
        state.armed = state.armed.map(|_| at);
        self.trace.add(at, Event::SetTimeout { asked, granted });
        self.changed.notify_all();
        Ok(granted)
    }

    pub(super) fn timeout(&self) -> u32 {
        self.state().timeout
    }

    pub(super) fn seconds_left(&self) -> u32 {
        let state = self.state();
        let since = state.armed.map_or(Duration::ZERO, |pinged| boot::now().since(pinged));
        state.timeout.saturating_sub(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    pub(super) fn unknown(&self, command: u32) -> Errno {
        self.refuse(format!("{command:#x}"), Errno::ENOTTY)
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        let at = boot::now();
        let told = state.magic || state.quirks.contains(&Quirk::NoMagicClose);
        let disarmed = told && !state.quirks.contains(&Quirk::NoWayOut);
        state.opened = false;
        if disarmed {
            state.armed = None;
        }
        let processes = living_in(&self.data_dir).into_iter().collect();
        self.trace.add(at, Event::Closed { disarmed, processes });
        self.changed.notify_all();
    }

    /// The device's clock: resets the node when the timeout has passed, until it ends.
    fn run(&self) {
        let mut state = self.state();
        while !state.ends {
            let now = boot::now();
            let expires =
                state.armed.map(|pinged| pinged.plus(Duration::from_secs(state.timeout.into())));
            match expires {
                Some(at) if now >= at => {
                    state.armed = None;
                    self.trace.add(now, Event::Expired);
                    // The file answers on meanwhile: whoever is killed has it open.
                    drop(state);
                    let killed = self.reset.run().map_err(|error| format!("{error:#}"));
                    self.trace.add(boot::now(), Event::Reset { killed });
                    state = self.state();
                }
                Some(at) => {
                    let woken = self.changed.wait_timeout(state, at.since(now));
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

fn process_of(thread: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    process.map_or(thread, Pid::from_raw)
}

/// An emulated watchdog device. Dropping it takes it away; it resets nothing then.
pub struct Device {
    path: PathBuf,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    clock: Option<JoinHandle<()>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Device {
    /// A device at `path`, which every user may open. `data_dir`, absolute and without symbolic
    /// links: whose processes may not live when it is disarmed (see [`Event::Closed`]).
    ///
    /// # Errors
    /// Without what [`NEEDS`] names, or when it can't be mounted.
    pub fn at(path: &Path, data_dir: &Path, reset: Reset) -> anyhow::Result<Self> {
        if let Some(why) = missing(NEEDS) {
            anyhow::bail!("no watchdog device: {why}");
        }
        mounts::sweep();
        let shown = || format!("make the watchdog device {}", path.display());
        File::create(path).with_context(shown)?;
        let path = path.canonicalize().with_context(shown)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                quirks: Vec::new(),
                timeout: DEFAULT_TIMEOUT,
                opened: false,
                magic: false,
                armed: None,
                ends: false,
            }),
            changed: Condvar::new(),
            trace: Trace::default(),
            data_dir: data_dir.to_owned(),
            reset,
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName(mounts::source("watchdog"))];
        config.acl = SessionACL::All;
        let file = WatchdogFile(Arc::clone(&shared));
        let session = fuser::spawn_mount(file, &path, &config).with_context(shown)?;
        let clock = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.run())
        };
        Ok(Self { path, shared, session: Some(session), clock: Some(clock) })
    }

    /// The same with quirks from its start.
    ///
    /// # Errors
    /// As [`Device::at`].
    pub fn with(
        path: &Path,
        data_dir: &Path,
        reset: Reset,
        quirks: impl IntoIterator<Item = Quirk>,
    ) -> anyhow::Result<Self> {
        let device = Self::at(path, data_dir, reset)?;
        device.behave(quirks);
        Ok(device)
    }

    /// Its quirks from now on.
    pub fn behave(&self, quirks: impl IntoIterator<Item = Quirk>) {
        self.shared.state().quirks = quirks.into_iter().collect();
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What happened to it.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.shared.trace.clone()
    }

    /// Whether its clock runs.
    #[must_use]
    pub fn armed(&self) -> bool {
        self.shared.state().armed.is_some()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.state().ends = true;
        self.shared.changed.notify_all();
        if let Some(clock) = self.clock.take() {
            clock.join().ok();
        }
        mounts::end(&self.path);
        if let Some(session) = self.session.take() {
            session.umount_and_join().ok();
        }
    }
}
