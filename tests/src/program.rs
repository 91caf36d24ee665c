//! Our programs run as a person runs them: as processes with a time limit.

#![expect(clippy::disallowed_methods, reason = "the one place of this crate that starts programs")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use regentctl::clock;
use regentctl::lab::process::pause;

use crate::option;
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

/// A program of ours with an empty environment but PATH and the choice of PostgreSQL.
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
    let choices = ["REGENT_PG_BIN", "REGENT_PG_MAJOR", "REGENT_TOOLS"];
    command.envs(choices.into_iter().filter_map(|name| Some((name, option(name)?))));
    Ok(command)
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
