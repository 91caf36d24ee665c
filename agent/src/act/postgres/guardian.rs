//! Starting guardians: one that starts a postmaster, or one that adopts a living one.
//!
//! A guardian gets the page as its standard input and the server's log as its output, and ends by
//! itself. It is known by a pidfd, so that its end is noticed at once whoever its parent is; it is
//! our child, so we reap it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use regent_guardian::page::{Page, Phase};
use tokio::sync::watch;

use super::programs::Programs;
use super::server::Postmaster;
use crate::fence::{processes, successor};
use crate::observe::clock::boot_time;

/// How long a guardian may take to guard.
const GUARDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a killed guardian may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// The page wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How much of what it said a message carries.
const OUTPUT_MOST: u64 = 600;

/// Why no guardian guards.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// It could not be started.
    #[error(
        "cannot run the guardian {program}: {source}; it lies beside regent-agent, or is named by \
         regent.guardian"
    )]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or descriptor that it needs.
    #[error(
        "preparing a guardian: {0}; it needs descriptors and the server's log: see the disk of \
         regent.run_dir and LimitNOFILE"
    )]
    Prepare(#[from] std::io::Error),
    /// It ended before it guarded.
    #[error(
        "the guardian ended at once: {said}; its words stand in postgresql.log in regent.run_dir"
    )]
    Ended {
        /// What was last said in the server's log.
        said: String,
    },
    /// It did not say that it guards.
    #[error(
        "the guardian did not guard within {GUARDS_WITHIN:?} and was killed; the machine is overloaded \
         or its disk hangs; it is tried again"
    )]
    Silent,
    /// The agent ends.
    #[error("this agent ends: nothing is started any more")]
    Closed,
}

/// How guardians of this node are run.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The guardian's program.
    pub program: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// This agent's run directory.
    pub run_dir: PathBuf,
    /// The server's log.
    pub log: PathBuf,
    /// The page.
    pub page: Page,
    /// The watchdog's device, where one is wanted.
    pub watchdog: Option<PathBuf>,
}

/// A guardian that lives, or did a moment ago.
#[derive(Debug)]
pub struct Guardian {
    pid: i32,
    ended: Ended,
}

/// A process whose end can be waited for, whoever its parent is (pidfd_open(2)). A thread of its own
/// waits; it lives as long as the process.
#[derive(Debug)]
pub struct Ended(watch::Receiver<bool>);

impl Ended {
    /// Of a process that lives.
    pub fn of(pid: i32) -> std::io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(pid).ok_or(std::io::ErrorKind::NotFound)?;
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let (ended, receiver) = watch::channel(false);
        std::thread::Builder::new().name("ended".to_owned()).spawn(move || {
            loop {
                let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                match poll(&mut waiting, PollTimeout::NONE) {
                    Err(Errno::EINTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            ended.send_replace(true);
        })?;
        Ok(Self(receiver))
    }

    /// Waits for it.
    pub async fn wait(&self) {
        // The sender goes only after it has told.
        drop(self.0.clone().wait_for(|ended| *ended).await);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn already(&self) -> bool {
        *self.0.borrow()
    }
}

impl Guardian {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its end, and reaps it where it is our child.
    pub async fn wait(&self) {
        self.ended.wait().await;
        reap(self.pid);
    }

    /// Ends one that hangs.
    pub async fn kill(&self) {
        if !self.ended.already() {
            processes::signal(self.pid, Signal::SIGKILL);
        }
        self.wait().await;
    }
}

/// Ends a child that was just started and cannot be followed. Should it have started a postmaster in
/// that moment, the next round finds that one, as it finds anybody's, and the page is armed.
fn end_unseen(mut child: std::process::Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
        tracing::error!(%error, pid = child.id(), "a guardian that cannot be followed does not end");
    }
}

/// Reaps a child; that it is another's is no error.
pub fn reap(pid: i32) {
    waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
}

/// Reaps what a former life in this very process started and did not see the end of.
pub fn reap_what_was_left() {
    // An error means that there are no children.
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

impl Launcher {
    /// The guardian that the page names, which lives.
    pub fn found(&self) -> std::io::Result<Guardian> {
        let pid = self.page.guardian_pid();
        Ok(Guardian { pid, ended: Ended::of(pid)? })
    }

    /// Starts a guardian that starts this postmaster.
    pub async fn start(
        &self,
        postgres: &Path,
        arguments: &[String],
    ) -> Result<(Guardian, Postmaster), GuardianError> {
        let mut argv = vec!["--".into(), postgres.as_os_str().to_owned()];
        argv.extend(arguments.iter().map(Into::into));
        self.launch(argv).await
    }

    /// Starts a guardian for a postmaster that lives already.
    pub async fn adopt(&self, postmaster: Postmaster) -> Result<Guardian, GuardianError> {
        let who = format!("{},{}", postmaster.pid, postmaster.started);
        let (guardian, _) = self.launch(vec!["--adopt".into(), who.into()]).await?;
        Ok(guardian)
    }

    async fn launch(
        &self,
        what: Vec<std::ffi::OsString>,
    ) -> Result<(Guardian, Postmaster), GuardianError> {
        let log = File::options().read(true).append(true).create(true).open(&self.log)?;
        let before = log.metadata()?.len();
        let mut command = Programs::plain(&self.program).into_std();
        command
            .args(["--page-fd", "0", "--data-dir"])
            .arg(&self.data_dir)
            .arg("--lock")
            .arg(self.run_dir.join("guardian.lock"));
        if let Some(device) = &self.watchdog {
            command.arg("--watchdog").arg(device);
        }
        command
            .args(what)
            .stdin(Stdio::from(self.page.fd().try_clone_to_owned()?))
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        let child = command
            .spawn()
            .map_err(|source| GuardianError::Start { program: self.program.clone(), source })?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let ended = match Ended::of(pid) {
            Ok(ended) => ended,
            Err(error) => {
                // Nobody would know of it, and its lock would keep the next one out.
                end_unseen(child);
                return Err(error.into());
            }
        };
        let guardian = Guardian { pid, ended };
        let postmaster = self.until_it_guards(&guardian, (log, before)).await?;
        // It guards all the same: a full disk must not end a healthy server.
        if let Err(error) = self.point_to(pid) {
            let link = successor::link(&self.run_dir);
            tracing::error!(
                %error, link = %link.display(),
                "pointing to the guardian's page: an agent that is started again will not find it, and \
                 this server ends at its deadline then"
            );
        }
        Ok((guardian, postmaster))
    }

    async fn until_it_guards(
        &self,
        guardian: &Guardian,
        (mut log, before): (File, u64),
    ) -> Result<Postmaster, GuardianError> {
        let begun = boot_time();
        loop {
            let phase = self.page.phase();
            let postmaster = Postmaster {
                pid: self.page.postmaster_pid(),
                started: self.page.postmaster_start(),
            };
            let entered = self.page.guardian_pid() == guardian.pid
                && !matches!(phase, Phase::None | Phase::Starting);
            if entered && postmaster.pid > 0 && !guardian.ended.already() {
                return Ok(postmaster);
            }
            if guardian.ended.already() {
                reap(guardian.pid);
                return Err(GuardianError::Ended { said: said(&mut log, before) });
            }
            if boot_time().since(begun) > GUARDS_WITHIN {
                // It may hang in the kernel, beyond any signal. Its lock keeps others out as long.
                if tokio::time::timeout(ENDS_WITHIN, guardian.kill()).await.is_err() {
                    tracing::error!(pid = guardian.pid, "the silent guardian cannot be ended");
                }
                return Err(GuardianError::Silent);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Where a later life of this agent finds the page.
    pub fn point_to(&self, pid: i32) -> std::io::Result<()> {
        let link = successor::link(&self.run_dir);
        let new = link.with_extension("page.new");
        drop(std::fs::remove_file(&new));
        symlink(format!("/proc/{pid}/fd/0"), &new)?;
        std::fs::rename(&new, &link)
    }
}

/// The end of what was written to the log since then, on one line.
fn said(log: &mut File, before: u64) -> String {
    let mut text = Vec::new();
    let end = log.metadata().map_or(before, |data| data.len());
    let from = before.max(end.saturating_sub(OUTPUT_MOST));
    let read = log.seek(SeekFrom::Start(from)).and_then(|_| log.read_to_end(&mut text));
    match read {
        Ok(_) if !text.is_empty() => {
            String::from_utf8_lossy(&text).trim().lines().collect::<Vec<_>>().join("; ")
        }
        Ok(_) => "it said nothing".to_owned(),
        Err(error) => format!("the server's log cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use regent_guardian::page::Side;

    use super::*;

    /// By another process: what this one has open for writing while another test starts a program
    /// can't be run (ETXTBSY).
    #[expect(clippy::disallowed_methods, reason = "a process that ends at once")]
    fn write(program: &Path, text: &str) {
        let mut shell = std::process::Command::new("sh");
        let line = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let written = shell.args(["-c", line]).arg(program).arg(text).status();
        assert!(written.expect("sh").success());
    }

    /// What would be killed is a healthy server (`guard_anew`).
    #[tokio::test]
    async fn a_guardian_that_guards_is_one_though_nothing_can_point_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let (program, told) = (dir.path().join("guardian"), dir.path().join("pid"));
        let text = format!("#!/bin/sh\necho $$ > {}\nexec sleep 60\n", told.display());
        write(&program, &text);
        let launcher = Launcher {
            program,
            data_dir: dir.path().to_owned(),
            run_dir: dir.path().join("full"),
            log: dir.path().join("log"),
            page: page.clone(),
            watchdog: None,
        };
        let own = i32::try_from(std::process::id()).expect("small");
        let started = processes::start_time(own).expect("it lives");
        let guards = async {
            loop {
                let pid = std::fs::read_to_string(&told).unwrap_or_default();
                if let Ok(pid) = pid.trim().parse() {
                    page.set_postmaster_pid(own);
                    page.set_phase(Phase::Guarding);
                    page.set_guardian_pid(pid);
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let adopted = launcher.adopt(Postmaster { pid: own, started });
        let (guardian, ()) = tokio::join!(adopted, guards);
        let guardian = guardian.expect("it guards");
        assert_eq!(guardian.pid(), page.guardian_pid());
        assert!(launcher.point_to(own).is_err(), "the premise");
        guardian.kill().await;
    }
}
