//! Programs that a fault needs, and running short ones: the one place of this crate that starts any.

#![expect(clippy::disallowed_methods, reason = "the one place of this crate that starts programs")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// Where a program is: `.tools/fence/bin` of this repository (see `scripts/install --fence`), or
/// `PATH`.
///
/// # Errors
/// When it is in neither.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let tools = std::env::var_os("REGENT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    [tools.join("fence/bin")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is not installed; scripts/install --fence brings it"))
}

/// A command of this machine, without input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a short program to its end.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let shown = || format!("{name} {}", arguments.join(" "));
    let output = command(program(name)?).args(arguments).output().with_context(shown)?;
    if !output.status.success() {
        bail!("{}: {}: {}", shown(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
