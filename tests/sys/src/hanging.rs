//! A file system that stops answering: a directory seen through bindfs, which is then stopped.
//!
//! While stalled, whoever asks the file system waits, as on a lost NFS server; also the test
//! itself, should it look there. What bindfs had not begun can be killed; the rest is in
//! uninterruptible sleep (state `D`) until it answers again. For that alone see [`crate::disk`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::Stopped;
use crate::tools::{self, Owned};
use crate::{Need, boot, missing, mounts};

/// What a hanging directory needs.
pub const NEEDS: &[Need] = &[Need::Root, Need::Fuse, Need::Program("bindfs")];

/// A directory's contents under another path. Dropping it ends the mount, also while stalled;
/// whoever uses it then gets errors.
#[derive(Debug)]
pub struct Directory {
    /// Where the contents are seen.
    place: PathBuf,
    server: Owned,
    stopped: Option<Stopped>,
}

impl Directory {
    /// Shows `contents` at `place`, an empty directory, to every user with the rights that the
    /// files have.
    ///
    /// # Errors
    /// Without what [`NEEDS`] names, or when bindfs fails.
    pub fn show(contents: &Path, place: &Path) -> anyhow::Result<Self> {
        if let Some(why) = missing(NEEDS) {
            anyhow::bail!("no hanging directory: {why}");
        }
        mounts::sweep();
        let place = place.canonicalize().with_context(|| format!("find {}", place.display()))?;
        let options = format!("allow_other,default_permissions,fsname={}", mounts::source("dir"));
        let server = tools::command(tools::program("bindfs")?)
            .args(["-f", "-o", &options])
            .arg(contents)
            .arg(&place)
            .spawn()
            .context("start bindfs")?;
        let directory = Self { place, server: Owned(server), stopped: None };
        let there = || mounts::all().iter().any(|m| m.place == directory.place).then_some(());
        boot::until(Duration::from_secs(5), there)
            .with_context(|| format!("bindfs did not mount {}", directory.place.display()))?;
        Ok(directory)
    }

    /// Where the contents are seen.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Stops answering. What the kernel has in its cache can still be read.
    ///
    /// # Errors
    /// When the server can't be stopped.
    pub fn stall(&mut self) -> anyhow::Result<()> {
        let pid = self.server.0.id().try_into().context("a process id")?;
        self.stopped = Some(Stopped::these([Pid::from_raw(pid)]).context("stop bindfs")?);
        Ok(())
    }

    /// Answers again, first whatever was asked meanwhile.
    pub fn resume(&mut self) {
        self.stopped = None;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        mounts::end(&self.place);
        // Killed before it could go on: it must not work off what was asked.
        if let Ok(pid) = self.server.0.id().try_into() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        self.stopped = None;
    }
}
