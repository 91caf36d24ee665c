//! Wall clocks that can be stepped: one a node, seen by its agent, through libfaketime. The limit of
//! these trials is that nobody else sees the step:
//! * Not PostgreSQL, whose signal handlers ask for the time: the library opens files then, and a
//!   backend that it crashes takes every session with it.
//! * Not the guardian, which reads the boot clock alone (`guardian/src/clock.rs` and its timer): a
//!   step has nothing there to change, and PostgreSQL would inherit the library from it.
//!
//! The machine's own clock, and with it everybody else's, stays. The boot clock and the monotonic one
//! are never faked: a step does not move them in life either.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use regentctl::lab::Layout;

use crate::option;
use crate::report::workspace;

use super::checker::Node;

/// Where distributions put it.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// libfaketime, for programs with threads.
///
/// # Errors
/// When it is not here.
pub fn library() -> Result<PathBuf, String> {
    let tools = option("REGENT_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from);
    let own = tools.join("fence/root");
    let unpacked = LIBRARIES.iter().map(|library| own.join(library.trim_start_matches('/')));
    let found = unpacked.chain(LIBRARIES.iter().map(PathBuf::from)).find(|l| l.exists());
    // Resolved here: behind a link may be a directory that the lab's user can't pass.
    found.and_then(|library| library.canonicalize().ok()).ok_or_else(|| {
        "stepping a wall clock needs libfaketime: scripts/install --fence brings it".to_owned()
    })
}

/// The clocks of a cluster's nodes.
#[derive(Debug)]
pub struct Wall {
    files: Option<Vec<PathBuf>>,
}

impl Wall {
    /// Gives every agent of a lab that is not started yet a clock of its own, where that can be.
    ///
    /// # Errors
    /// When the lab's files can't be written.
    pub fn prepare(layout: &Layout) -> anyhow::Result<Self> {
        let Ok(library) = library() else { return Ok(Self { files: None }) };
        let agent = layout.dir.join("bin/regent-agent");
        let real = layout.dir.join("bin/regent-agent-real");
        fs::rename(&agent, &real).context("put the agent aside")?;
        let clock = |name: &str| layout.dir.join("config").join(format!("{name}.clock"));
        // Its argument names the node: every agent has a clock of its own.
        let script = format!(
            "#!/bin/sh\nexec env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE=\"${{1%.yml}}.clock\" \
             FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 {} \"$@\"\n",
            library.display(),
            real.display()
        );
        fs::write(&agent, script)?;
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
        let guardian = layout.dir.join("bin/regent-guardian");
        // Of the same name: that is how the lab knows it.
        let real = layout.dir.join("bin/real/regent-guardian");
        fs::create_dir(layout.dir.join("bin/real"))?;
        fs::set_permissions(layout.dir.join("bin/real"), fs::Permissions::from_mode(0o755))?;
        fs::rename(&guardian, &real).context("put the guardian aside")?;
        let script = format!("#!/bin/sh\nexec env -u LD_PRELOAD {} \"$@\"\n", real.display());
        fs::write(&guardian, script)?;
        fs::set_permissions(&guardian, fs::Permissions::from_mode(0o755))?;
        let files: Vec<PathBuf> = layout.nodes.iter().map(|node| clock(&node.agent())).collect();
        for file in &files {
            write(file, 0)?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
        }
        Ok(Self { files: Some(files) })
    }

    /// Steps a node's clock to this many seconds from the machine's.
    ///
    /// # Errors
    /// When its file can't be written.
    pub fn step(&self, node: Node, seconds: i64) -> anyhow::Result<()> {
        match &self.files {
            Some(files) => write(&files[node], seconds),
            None => Ok(()),
        }
    }
}

/// In one piece: whoever reads sees the old shift or the new one.
fn write(file: &Path, seconds: i64) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n"))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, file).with_context(|| format!("write {}", file.display()))
}
