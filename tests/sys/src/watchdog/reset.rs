//! What a device does to its node.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::Pid;

use crate::boot;
use crate::process::{kill_all, lives, living_in};

/// Longest wait for killed processes to be gone.
const DIE: Duration = Duration::from_secs(5);

/// The end of a node: kills its processes with SIGKILL and says how many there were.
#[derive(Clone)]
pub struct Reset(Arc<dyn Fn() -> anyhow::Result<usize> + Send + Sync>);

impl fmt::Debug for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reset")
    }
}

impl Reset {
    /// Whatever the test needs.
    pub fn by(what: impl Fn() -> anyhow::Result<usize> + Send + Sync + 'static) -> Self {
        Self(Arc::new(what))
    }

    /// Kills everything in a cgroup v2 group, e.g. that of a [`crate::cgroup::Node`].
    #[must_use]
    pub fn cgroup(dir: PathBuf) -> Self {
        Self::by(move || {
            let list = || std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            let members = || -> BTreeSet<Pid> {
                let pids = list().lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>();
                pids.into_iter().map(Pid::from_raw).filter(|pid| lives(*pid)).collect()
            };
            let before = members().len();
            let file = dir.join("cgroup.kill");
            std::fs::write(&file, "1").with_context(|| format!("write to {}", file.display()))?;
            boot::until(DIE, || members().is_empty().then_some(before))
                .with_context(|| format!("still alive: {:?}", members()))
        })
    }

    /// Kills these processes, and everything that stands in these directories, until nothing does.
    #[must_use]
    pub fn living_in(directories: Vec<PathBuf>, also: BTreeSet<Pid>) -> Self {
        Self::by(move || {
            let mut killed = 0;
            loop {
                let mut found = also.clone();
                found.retain(|pid| lives(*pid));
                found.extend(directories.iter().flat_map(|dir| living_in(dir)));
                if found.is_empty() {
                    return Ok(killed);
                }
                killed += kill_all(&found, DIE)?;
            }
        })
    }

    /// Does nothing: the trace alone is looked at.
    #[must_use]
    pub fn nothing() -> Self {
        Self::by(|| Ok(0))
    }

    pub(super) fn run(&self) -> anyhow::Result<usize> {
        (self.0)()
    }
}
