//! A log that nobody reads: a FIFO in place of a log file, first read, then full.
//!
//! Put it where a program opens its log, start the program, then [`Log::block`]: every writer
//! blocks in write(2) from then on, as with `journald` stopped or a stuck `tee`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, mkfifo};

use crate::boot;

/// Whether the reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Reads,
    Blocks,
    Ends,
}

/// A FIFO that is read into memory until it is blocked. Dropping it opens it again, ends the
/// reader and removes the file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Open for reading and writing, so that no writer sees a pipe without a reader (EPIPE).
    pipe: File,
    state: Arc<Mutex<(Reader, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// A FIFO at `path` that `owner` may write to. A file that is there is replaced.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn at(path: &Path, owner: Option<(Uid, Gid)>) -> anyhow::Result<Self> {
        let shown = || format!("make the FIFO {}", path.display());
        if path.exists() {
            fs::remove_file(path).with_context(shown)?;
        }
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(shown)?;
        if let Some((user, group)) = owner {
            chown(path, Some(user), Some(group)).with_context(shown)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let pipe = options.open(path).with_context(shown)?;
        let state = Arc::new(Mutex::new((Reader::Reads, Vec::new())));
        let thread = {
            let (state, from) = (Arc::clone(&state), pipe.try_clone().with_context(shown)?);
            std::thread::spawn(move || read(&from, &state))
        };
        Ok(Self { path: path.to_owned(), pipe, state, thread: Some(thread) })
    }

    /// What was written so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.state.lock().map_or_else(|_| String::new(), |s| String::from_utf8_lossy(&s.1).into())
    }

    /// Stops reading and fills the pipe: from now on every write blocks.
    ///
    /// # Errors
    /// When it can't be filled.
    pub fn block(&self) -> anyhow::Result<()> {
        self.set(Reader::Blocks);
        let mut pipe = &self.pipe;
        for size in [4096, 1] {
            loop {
                match pipe.write(&vec![b'.'; size]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("fill the pipe"),
                }
            }
        }
        Ok(())
    }

    /// Reads on.
    pub fn go_on(&self) {
        self.set(Reader::Reads);
    }

    fn set(&self, reader: Reader) {
        // The lock is held while reading: when this returns, the reader has seen it.
        if let Ok(mut state) = self.state.lock() {
            state.0 = reader;
        }
    }
}

fn read(mut from: &File, state: &Mutex<(Reader, Vec<u8>)>) {
    let mut bytes = [0; 8192];
    loop {
        let Ok(mut held) = state.lock() else { return };
        let reader = held.0;
        match reader {
            Reader::Ends => return,
            Reader::Reads => {
                while let Ok(length @ 1..) = from.read(&mut bytes) {
                    held.1.extend_from_slice(bytes.get(..length).unwrap_or_default());
                }
                drop(held);
                let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                poll(&mut waiting, PollTimeout::from(20_u8)).ok();
            }
            Reader::Blocks => {
                drop(held);
                boot::pause(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Writers that are blocked go on before the pipe goes.
        self.set(Reader::Ends);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        let mut bytes = [0; 8192];
        while matches!((&self.pipe).read(&mut bytes), Ok(1..)) {}
        fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::stat;
    use crate::tools::{Owned, command};
    use nix::unistd::Pid;

    #[test]
    fn writers_block_until_it_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let log = Log::at(&path, None).expect("a FIFO");
        let line = format!("exec >>{}; while echo line; do :; done", path.display());
        let writer = Owned(command("sh").args(["-c", &line]).spawn().expect("sh starts"));
        let pid = Pid::from_raw(writer.0.id().try_into().expect("a pid"));
        let seen = || (log.text().lines().count() > 100).then_some(());
        boot::until(Duration::from_secs(5), seen).expect("lines arrive");
        log.block().expect("it fills");
        let before = log.text().len();
        // Blocked in write(2): asleep, in the function that waits for room in a pipe.
        let asleep = || {
            let call = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            let state = stat(pid)?.state;
            (state == 'S' && (call.contains("pipe") || call == "0")).then_some(())
        };
        boot::until(Duration::from_secs(5), asleep).expect("the writer blocks");
        assert_eq!(log.text().len(), before);
        log.go_on();
        let more = || (log.text().len() > before + 100_000).then_some(());
        boot::until(Duration::from_secs(5), more).expect("it goes on");
        drop(writer);
        drop(log);
        assert!(!path.exists());
    }
}
