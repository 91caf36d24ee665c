//! Our programs run as a person runs them: as processes with a time limit.

#![expect(clippy::disallowed_methods, reason = "the one place of this crate that starts programs")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use regentctl::clock;
use regentctl::lab::process::pause;

use crate::report::workspace;

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Kills the program when dropped before its end.
#[derive(Debug)]
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// One of our programs, beside the directory of this test.
///
/// # Errors
/// When it was not built.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    Ok(regentctl::lab::programs::sibling(name)?)
}

/// A program of ours with an empty environment but PATH.
///
/// # Errors
/// When it was not built.
pub fn ours(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(path(name)?);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/")
        .current_dir(workspace());
    Ok(command)
}

/// Patroni's own `patronictl`, as scripts/install --patroni puts it there, with an empty environment.
///
/// # Errors
/// What to do where it is not there.
pub fn patronictl() -> Result<Command, String> {
    let program = tools().map(|tools| tools.join("patroni/bin/patronictl"));
    let found = program.filter(|program| program.is_file());
    let program =
        found.ok_or("no patronictl in $REGENT_TOOLS or .tools: scripts/install --patroni")?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/").env("LANG", "C.UTF-8");
    Ok(command)
}

/// HAProxy, as scripts/install --haproxy puts it there, with an empty environment.
///
/// # Errors
/// What to do where it is not there.
pub fn haproxy() -> Result<Command, String> {
    let own = tools().map(|tools| tools.join("haproxy/bin"));
    let all =
        own.into_iter().chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from));
    let found = all.map(|directory| directory.join("haproxy")).find(|program| program.is_file());
    let program =
        found.ok_or("no haproxy in $REGENT_TOOLS, .tools or /usr: scripts/install --haproxy")?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// Where scripts/install puts what it unpacks.
fn tools() -> Option<PathBuf> {
    crate::option("REGENT_TOOLS").map(PathBuf::from).or_else(|| Some(workspace().join(".tools")))
}

/// A program that goes on until this is dropped; what it prints is the test's.
#[derive(Debug)]
pub struct Running(Guarded);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let shown = format!("{command:?}");
        let child =
            command.stdin(Stdio::null()).spawn().with_context(|| format!("start {shown}"))?;
        Ok(Self(Guarded(child)))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel can't tell.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.0.try_wait()?.is_none())
    }
}

/// Runs a command to its end, or kills it at the limit.
///
/// # Errors
/// When it does not start or does not end.
pub fn run(mut command: Command, limit: Duration) -> anyhow::Result<Finished> {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let mut child = Guarded(child);
    let stdout = child.0.stdout.take().map(drain);
    let stderr = child.0.stderr.take().map(drain);
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let begun = clock::now();
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok(Finished {
                code: status.code(),
                stdout: text(stdout),
                stderr: text(stderr),
            });
        }
        if begun.elapsed() > limit {
            drop(child);
            bail!("{shown} did not end within {limit:?}: {}{}", text(stdout), text(stderr));
        }
        pause(Duration::from_millis(10));
    }
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
