//! The bell: how a commit wakes the watchers of other processes.
//!
//! A writer that has committed writes one byte into `FILE.notify`; inotify tells everybody who
//! watches that file. The bell carries no news, it only says "look now".

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::watch;

/// The bell of the store in `path`.
pub(super) fn path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".notify");
    name.into()
}

/// The writer's end.
pub(super) struct Clapper(File);

impl Clapper {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// Wakes the watchers. That can fail without harm: they look by themselves after a while.
    pub(super) fn ring(&self) {
        if let Err(error) = self.0.write_at(b".", 0) {
            tracing::warn!(%error, "could not wake the watchers of the store");
        }
    }
}

/// The watchers' end, one for each open store: a thread that sleeps on inotify. Dropping it ends
/// the thread.
pub(super) struct Bell {
    rung: watch::Receiver<()>,
    stop: Arc<EventFd>,
}

impl Bell {
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        let stop = Arc::new(EventFd::from_value_and_flags(
            0,
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let (ring, rung) = watch::channel(());
        let stopped = stop.clone();
        std::thread::Builder::new().name("dcs-bell".to_owned()).spawn(move || {
            if let Err(error) = pass_on(&inotify, &stopped, &ring) {
                tracing::warn!(%error, "the store's bell fell silent; watchers poll instead");
            }
        })?;
        Ok(Self { rung, stop })
    }

    /// Changes each time the bell rings; closed when it can't any more.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.rung.clone()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // The counter starts at 0 and is written once, so this can't be full.
        if let Err(error) = self.stop.write(1) {
            tracing::warn!(%error, "could not stop the thread at the store's bell");
        }
    }
}

fn pass_on(inotify: &Inotify, stop: &EventFd, ring: &watch::Sender<()>) -> Result<(), Errno> {
    loop {
        let mut ends = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ends, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        if ends[1].any().unwrap_or(true) {
            return Ok(());
        }
        match inotify.read_events() {
            // The file is gone (its watch is the only one): nobody will ring it again.
            Ok(events) if events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_IGNORED)) => {
                return Err(Errno::ENOENT);
            }
            Ok(_) => ring.send_replace(()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
