//! A busy machine: processes that burn CPU, and files that are written again and again.
//!
//! Burners are processes, so that the threads that measure compete with them as with strangers.

use std::path::Path;

use anyhow::Context as _;

use crate::tools::{Owned, command};

/// A killed test drops nothing: what it started ends by itself once its parent is gone.
const WHILE: &str = "kill -0 $PPID 2>/dev/null";

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
            command("sh")
                .args(["-c", &format!("while {WHILE}; do :; done")])
                .spawn()
                .map(Owned)
                .context("start a CPU burner")
        });
        Ok(Self(burners.collect::<anyhow::Result<_>>()?))
    }

    /// How many burn.
    #[must_use]
    pub fn burners(&self) -> usize {
        self.0.len()
    }
}

/// Processes of a group that keep writing files: more pages than the group can hold, so that each of
/// them makes room first, also for what else is in the group. Dropping it ends them.
#[derive(Debug)]
pub struct Pages(Vec<Owned>);

impl Pages {
    /// `writers` of `mib` MiB each, in `dir`, moved to the group before they begin.
    ///
    /// # Errors
    /// When one can't be started.
    pub fn written(writers: usize, mib: u64, dir: &Path, group: &Path) -> anyhow::Result<Self> {
        let writers = (0..writers).map(|number| {
            let line = format!(
                "echo $$ > $0/cgroup.procs && while {WHILE}; do \
                 dd if=/dev/zero of=$1 bs=1M count=$2 conv=notrunc 2>/dev/null; done"
            );
            let file = dir.join(format!("pages-{number}"));
            let mut writer = command("sh");
            writer.args(["-c", &line]).arg(group).arg(file).arg(mib.to_string());
            writer.spawn().map(Owned).context("start a writer")
        });
        Ok(Self(writers.collect::<anyhow::Result<_>>()?))
    }

    /// How many write.
    #[must_use]
    pub fn writers(&self) -> usize {
        self.0.len()
    }
}
