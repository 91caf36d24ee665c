//! Rung 0 beside a node: `regent-packets` as its operator would run it, until the cluster ends.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_test_sys::boot;
use regent_test_sys::tools::{self, Owned, command};

use crate::program;

/// Longest wait for its table to come or go.
const SOON: Duration = Duration::from_secs(10);

/// The program beside one node. It takes its table away when dropped.
#[derive(Debug)]
pub struct Packets {
    program: Owned,
    port: u16,
}

impl Packets {
    /// Starts it, and returns once the kernel has its table.
    ///
    /// # Errors
    /// Without nft, or when no table comes.
    pub fn beside(run_dir: &Path, port: u16) -> anyhow::Result<Self> {
        let mut packets = command(program::path("regent-packets")?);
        packets.arg("--page").arg(run_dir.join("guardian.page"));
        packets.args(["--port", &port.to_string()]).arg("--nft").arg(tools::program("nft")?);
        let packets = Self { program: Owned(packets.spawn()?), port };
        // Its set has a timeout once it has read the page of a node that leads.
        let expires = || packets.set().is_some_and(|set| set.contains("expires")).then_some(());
        boot::until(SOON, expires).context("regent-packets has put no end to the port")?;
        Ok(packets)
    }

    fn set(&self) -> Option<String> {
        let table = format!("regent_packets_{}", self.port);
        tools::run("nft", &["list", "set", "inet", &table, "open"]).ok()
    }

    /// Its process.
    ///
    /// # Errors
    /// Never on Linux: a process number fits.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.program.0.id())?))
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            kill(pid, Signal::SIGTERM).ok();
            let _ended = boot::until(SOON, || self.program.0.try_wait().ok().flatten());
        }
    }
}
