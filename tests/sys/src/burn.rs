//! A busy machine: processes that burn CPU, and memory that is touched again and again.
//!
//! Burners are processes, so that the threads that measure compete with them as with strangers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;

use crate::tools::{Owned, command};

/// Processes in an endless loop; dropping it ends them.
#[derive(Debug)]
pub struct Cpu(Vec<Owned>);

impl Cpu {
    /// `times` burners for every CPU of this machine.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn overload(times: usize) -> anyhow::Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let burners = (0..cpus * times).map(|_| {
            let line = ["-c", "while :; do :; done"];
            command("sh").args(line).spawn().map(Owned).context("start a CPU burner")
        });
        Ok(Self(burners.collect::<anyhow::Result<_>>()?))
    }

    /// How many burn.
    #[must_use]
    pub fn burners(&self) -> usize {
        self.0.len()
    }
}

/// Memory that a thread keeps writing to, page by page; dropping it frees it.
#[derive(Debug)]
pub struct Memory {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    /// Keeps `bytes` in use.
    #[must_use]
    pub fn pressure(bytes: usize) -> Self {
        const PAGE: usize = 4096;
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || {
                let mut block = vec![0_u8; bytes];
                while !ends.load(Ordering::Relaxed) {
                    for page in block.chunks_mut(PAGE) {
                        if let Some(first) = page.first_mut() {
                            *first = std::hint::black_box(first.wrapping_add(1));
                        }
                    }
                }
            })
        };
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
