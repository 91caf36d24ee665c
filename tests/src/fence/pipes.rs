//! Log pipes that can be full: named pipes in place of the logs of an agent and its server, read
//! into ordinary files until they shall be full.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::stat::Mode;
use regentctl::lab::owner::Owner;
use regentctl::lab::process::pause;

/// Between two looks at a pipe.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The pipes of one node. Dropping them ends their reader; their writers then get EPIPE.
#[derive(Debug)]
pub struct Pipes {
    full: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Where a pipe's text is kept.
#[must_use]
pub fn text_of(pipe: &Path) -> PathBuf {
    pipe.with_extension("text")
}

impl Pipes {
    /// Makes pipes of these names for the lab's user and reads them.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn make(names: &[PathBuf], owner: &Owner) -> anyhow::Result<Self> {
        let mut pipes = Vec::new();
        for name in names {
            nix::unistd::mkfifo(name, Mode::from_bits_truncate(0o600))
                .with_context(|| format!("make pipe {}", name.display()))?;
            if owner.dropped {
                chown(name, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
            }
            // For reading and writing: there is always a reader, so opening never waits.
            let mut open = OpenOptions::new();
            open.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
            let text = OpenOptions::new().create(true).append(true).open(text_of(name))?;
            pipes.push((open.open(name)?, text));
        }
        let (full, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_full, stopped) = (Arc::clone(&full), Arc::clone(&stop));
        let reader = std::thread::Builder::new().name("log pipes".to_owned()).spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for (pipe, text) in &mut pipes {
                    if is_full.load(Ordering::SeqCst) {
                        fill(pipe);
                    } else {
                        drain(pipe, text);
                    }
                }
                pause(LOOK_EVERY);
            }
        })?;
        Ok(Self { full, stop, reader: Some(reader) })
    }

    /// From now on nobody reads and not a byte fits in, or the opposite.
    pub fn fill(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// Writes until nothing fits in any more: whole pages first, then single bytes.
fn fill(pipe: &mut File) {
    for size in [4096, 1] {
        let filler = vec![b'\n'; size];
        while matches!(pipe.write(&filler), Ok(1..)) {}
    }
}

fn drain(pipe: &mut File, text: &mut File) {
    let mut bytes = [0; 64 * 1024];
    loop {
        match pipe.read(&mut bytes) {
            Ok(count @ 1..) => {
                // A log that can't be kept is missed by whoever looks for it, and by nothing else.
                text.write_all(&bytes[..count]).ok();
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}
