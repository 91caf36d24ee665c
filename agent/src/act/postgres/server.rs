//! The server process: starting, stopping, adopting, and noticing its exit at once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::files::Files;
use super::programs::Programs;
use crate::fence::processes;

/// A postmaster, identified by number and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (/proc/PID/stat, field 22).
    pub started: u64,
}

/// Owns the knowledge of whether a postmaster runs.
#[derive(Debug)]
pub struct Server {
    state: watch::Sender<Option<Postmaster>>,
}

impl Default for Server {
    fn default() -> Self {
        Self { state: watch::Sender::new(None) }
    }
}

impl Server {
    /// The postmaster, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Postmaster>> {
        self.state.subscribe()
    }

    /// The postmaster now.
    #[must_use]
    pub fn postmaster(&self) -> Option<Postmaster> {
        *self.state.borrow()
    }

    /// Adopts a postmaster that an earlier life of this agent started.
    pub fn adopt(&self, data_dir: &Path) -> Option<Postmaster> {
        let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        // A number alone may be somebody else's by now (hazards.md row 78).
        let ours = processes::of_data_directory(data_dir, None).ok()?.contains(&pid);
        let started = processes::start_time(pid)?;
        if !ours || !processes::alive(pid) {
            return None;
        }
        let fd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid)?,
            rustix::process::PidfdFlags::empty(),
        )
        .ok()?;
        let postmaster = Postmaster { pid, started };
        self.state.send_replace(Some(postmaster));
        self.watch_pidfd(fd).ok()?;
        Some(postmaster)
    }

    /// A pidfd becomes readable when the process ends (pidfd_open(2)). A thread of its own waits for
    /// that; it lives as long as the adopted process.
    fn watch_pidfd(&self, fd: OwnedFd) -> std::io::Result<()> {
        let state = self.state.clone();
        std::thread::Builder::new().name("adopted".to_owned()).spawn(move || {
            loop {
                let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                match poll(&mut waiting, PollTimeout::NONE) {
                    Err(nix::errno::Errno::EINTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            state.send_replace(None);
        })?;
        Ok(())
    }

    /// Starts a postmaster; returns once the process exists.
    pub fn start(
        &self,
        programs: &Programs,
        files: &Files,
        arguments: &[String],
    ) -> std::io::Result<Postmaster> {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(files.server_log())?;
        let mut command = programs.command("postgres");
        command
            .args(arguments)
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // The server outlives a crashed agent, which then adopts it.
            .kill_on_drop(false)
            .process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let postmaster =
            Postmaster { pid, started: processes::start_time(pid).unwrap_or_default() };
        self.state.send_replace(Some(postmaster));
        let state = self.state.clone();
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => tracing::info!(%status, "PostgreSQL has ended"),
                Err(error) => tracing::warn!(%error, "waiting for PostgreSQL"),
            }
            state.send_replace(None);
        });
        Ok(postmaster)
    }

    /// Fast shutdown; after `budget` the walsenders that hold it up are ended, after a second
    /// budget everything is killed. Returns once no process of the data directory is left; `true`
    /// when nothing had to be killed.
    pub async fn stop(&self, data_dir: &Path, budget: Duration) -> bool {
        let Some(postmaster) = self.postmaster() else {
            return self.kill(data_dir, None).await;
        };
        processes::signal(postmaster.pid, Signal::SIGINT);
        if self.ended_within(budget).await {
            return self.kill(data_dir, Some(postmaster.pid)).await;
        }
        tracing::warn!(
            "PostgreSQL has not stopped within {budget:?}: ending the walsenders that hold it up"
        );
        for pid in processes::of_data_directory(data_dir, Some(postmaster.pid)).unwrap_or_default()
        {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains("walsender") {
                processes::signal(pid, Signal::SIGTERM);
            }
        }
        if self.ended_within(budget).await {
            return self.kill(data_dir, Some(postmaster.pid)).await;
        }
        tracing::warn!("PostgreSQL has not stopped: killing it");
        let nothing_left = self.kill(data_dir, Some(postmaster.pid)).await;
        tracing::debug!(nothing_left, "after the kill");
        false
    }

    async fn ended_within(&self, span: Duration) -> bool {
        let mut state = self.watch();
        let ended = state.wait_for(Option::is_none);
        tokio::time::timeout(span, ended).await.is_ok()
    }

    /// Kills until a scan finds nothing, for at most a few seconds; `true` when there was nothing.
    async fn kill(&self, data_dir: &Path, postmaster: Option<i32>) -> bool {
        let mut clean = true;
        for _ in 0..400 {
            if processes::kill_all(data_dir, postmaster) {
                break;
            }
            clean = false;
            // The kernel tells nobody when the last of several processes is gone.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.ended_within(Duration::from_secs(2)).await && clean
    }
}
