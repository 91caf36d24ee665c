//! The deadlines that nodes write under, watched on a thread of their own: every change is kept
//! with the instant at which it was seen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use regent_guardian::page::{Flags, Guard, Page};
use regent_proto::time::BootTime;
use regent_test_sys::watchdog::check::Right;
use regentctl::lab::process::pause;

use super::checker::{Node, Sample};
use regent_guardian::clock::boot_time;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Like the clients: outside the overload.
const NICE: i32 = -10;

/// What a guardian tells of itself, the worst of a repetition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guardian {
    /// Latest wake-up.
    pub worst_wake: Duration,
    /// Longest kill.
    pub worst_kill: Duration,
    /// Whether the system let it have a real-time priority.
    pub realtime: bool,
}

/// What was seen of all nodes.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Where it changed.
    pub deadlines: BTreeMap<Node, Vec<Sample>>,
    /// Each node's right to write as its guardian is to guard it, where it changed.
    pub rights: BTreeMap<Node, Vec<(BootTime, Right)>>,
    /// Of each node that had one.
    pub guardians: BTreeMap<Node, Guardian>,
}

/// Watches the pages of all nodes. Dropping it ends that.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the pages in these run directories.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(run_dirs: Vec<PathBuf>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::Builder::new().name("deadlines".to_owned()).spawn(move || {
            rustix::process::setpriority_process(None, NICE).ok();
            let mut opened = BTreeMap::new();
            while !stopped.load(Ordering::SeqCst) {
                look(&run_dirs, &mut opened, &kept);
                pause(LOOK_EVERY);
            }
        })?;
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A node's page, opened once for each guardian.
#[derive(Debug)]
struct Opened {
    /// Where the link leads, which names the guardian.
    to: PathBuf,
    page: Page,
}

fn look(run_dirs: &[PathBuf], opened: &mut BTreeMap<Node, Opened>, kept: &Mutex<Seen>) {
    for (node, run_dir) in run_dirs.iter().enumerate() {
        let link = run_dir.join("guardian.page");
        let Ok(to) = std::fs::read_link(&link) else { continue };
        if opened.get(&node).is_none_or(|before| before.to != to) {
            // A link whose guardian has died leads nowhere, and says nothing new.
            let Ok(page) = Page::open(&link) else { continue };
            opened.insert(node, Opened { to, page });
        }
        let Some(Opened { page, .. }) = opened.get(&node) else { continue };
        let deadline = page.writing();
        let right = match page.guard() {
            Guard::Off => Right::None,
            Guard::PlannedStop => Right::Until(page.stop_until().max(page.bound())),
            Guard::ByDeadline | Guard::Unknown(_) => Right::Until(deadline),
        };
        // After the read: an acknowledgement at this instant may rest on this deadline.
        let sample = Sample { at: boot_time(), deadline };
        let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = seen.deadlines.entry(node).or_default();
        if samples.last().is_none_or(|last| last.deadline != deadline) {
            samples.push(sample);
        }
        let rights = seen.rights.entry(node).or_default();
        if rights.last().is_none_or(|last| last.1 != right) {
            rights.push((sample.at, right));
        }
        let worst = seen.guardians.entry(node).or_default();
        worst.worst_wake = worst.worst_wake.max(page.worst_wake());
        worst.worst_kill = worst.worst_kill.max(page.worst_kill());
        worst.realtime |= page.flags().has(Flags::REALTIME);
    }
}
