//! How long the machine's disk kept a writer waiting: a thread that writes and syncs a block again
//! and again beside the servers' files. A standstill of writes that the disk explains is the
//! machine's, and every other one is ours.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use regent_proto::time::BootTime;
use regent_test_sys::boot;

const EVERY: Duration = Duration::from_millis(50);

/// Begin and end of each sync; the last may be under way.
type Syncs = Arc<Mutex<Vec<(BootTime, Option<BootTime>)>>>;

/// The thread and what it measured.
#[derive(Debug)]
pub struct Stalls {
    syncs: Syncs,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to sync a file in this directory; the file has no name.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn watch(dir: &Path) -> anyhow::Result<Self> {
        let file = tempfile::tempfile_in(dir)
            .with_context(|| format!("make a file in {}", dir.display()))?;
        let (syncs, ends) = (Syncs::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (syncs, ends) = (Arc::clone(&syncs), Arc::clone(&ends));
            std::thread::spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    sync(&file, &syncs);
                    boot::pause(EVERY);
                }
            })
        };
        Ok(Self { syncs, ends, thread: Some(thread) })
    }

    /// The longest sync that ended after `from` or is under way.
    #[must_use]
    pub fn worst_since(&self, from: BootTime) -> Duration {
        let syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = syncs.iter().filter_map(|(begun, ended)| {
            let ended = ended.unwrap_or_else(boot::now);
            (ended >= from).then(|| ended.since(*begun))
        });
        spans.max().unwrap_or_default()
    }
}

fn sync(file: &File, syncs: &Syncs) {
    let note = |begun: Option<BootTime>| {
        let mut syncs = syncs.lock().unwrap_or_else(PoisonError::into_inner);
        match begun {
            Some(begun) => syncs.push((begun, None)),
            None => drop(syncs.last_mut().map(|last| last.1 = Some(boot::now()))),
        }
    };
    note(Some(boot::now()));
    // A disk that refuses fails the servers first, and they say so.
    file.write_all_at(&[0; 512], 0).and_then(|()| file.sync_data()).ok();
    note(None);
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
