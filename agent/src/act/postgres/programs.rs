//! Running PostgreSQL's programs with a bound, secrets kept out of their arguments.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot run {program}: {source}; is postgresql.bin_dir right?")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// Exit status.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {bound:?} and was killed")]
    TooLong {
        /// The program.
        program: PathBuf,
        /// The bound.
        bound: Duration,
    },
}

/// What a program printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// Whether it ended well.
    pub success: bool,
    /// Its standard output.
    pub output: String,
    /// The end of its standard error.
    pub errors: String,
}

/// Where PostgreSQL's programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    bin_dir: PathBuf,
}

/// How much of a program's output a message carries.
const OUTPUT_MOST: usize = 600;

impl Programs {
    /// Programs of `bin_dir`; of PATH where it is empty.
    #[must_use]
    pub fn new(bin_dir: &Path) -> Self {
        Self { bin_dir: bin_dir.to_owned() }
    }

    /// Path of one program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// A command in a plain environment: messages in English, no PG* variables of the caller.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        Self::plain(&self.path(name))
    }

    /// The same for a program of ours.
    #[must_use]
    pub fn plain(program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("LANG", "C").stdin(Stdio::null()).kill_on_drop(true);
        for variable in ["PGHOST", "PGPORT", "PGDATA", "PGUSER", "PGDATABASE", "PGPASSWORD"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs to the end; the output on success. `progress` sees each line of standard error.
    pub async fn run(
        &self,
        mut command: Command,
        bound: Duration,
        mut progress: impl FnMut(&str) + Send,
    ) -> Result<String, ProgramError> {
        let program = PathBuf::from(command.as_std().get_program());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|source| ProgramError::Start { program: program.clone(), source })?;
        let mut out = child.stdout.take().expect("stdout was piped above");
        let err = child.stderr.take().expect("stderr was piped above");
        let work = async {
            let mut output = String::new();
            let mut errors = String::new();
            let read_errors = each_line(err, |line| {
                progress(line);
                errors.push_str(line);
                errors.push('\n');
                if errors.len() > 4 * OUTPUT_MOST {
                    errors = tail(&errors);
                }
            });
            let (_, read) = tokio::join!(read_errors, out.read_to_string(&mut output));
            if let Err(error) = read {
                errors.push_str(&error.to_string());
            }
            (child.wait().await, output, errors)
        };
        match tokio::time::timeout(bound, work).await {
            Err(_elapsed) => Err(ProgramError::TooLong { program, bound }),
            Ok((Ok(status), output, _)) if status.success() => Ok(output),
            Ok((status, output, errors)) => Err(ProgramError::Failed {
                program,
                status: status.map_or_else(|e| e.to_string(), |s| s.to_string()),
                output: tail(if errors.trim().is_empty() { &output } else { &errors }),
            }),
        }
    }

    /// What a program printed, whether it ended well or not; `None` where it did not start, or not
    /// end in time.
    pub async fn printed(&self, mut command: Command, bound: Duration) -> Option<Printed> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        match tokio::time::timeout(bound, command.output()).await {
            Ok(Ok(output)) => Some(Printed {
                success: output.status.success(),
                output: String::from_utf8_lossy(&output.stdout).into_owned(),
                errors: tail(&String::from_utf8_lossy(&output.stderr)),
            }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a program does not start");
                None
            }
            Err(_) => None,
        }
    }

    /// Runs to the end, ignoring progress.
    pub async fn output(&self, command: Command, bound: Duration) -> Result<String, ProgramError> {
        self.run(command, bound, |_| ()).await
    }
}

/// Tells each line as soon as it has come: a rewind that is cut off has said before that it begins.
/// pg_basebackup separates progress by carriage returns, messages by newlines.
async fn each_line(from: impl AsyncRead + Unpin, mut tell: impl FnMut(&str)) {
    let mut from = BufReader::new(from);
    let mut line: Vec<u8> = Vec::new();
    while let Ok(read) = from.fill_buf().await {
        let over = read.is_empty();
        let end = read.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
        let used = end.map_or(read.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() || over || line.len() > 4 * OUTPUT_MOST {
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() {
                tell(text.trim());
            }
            line.clear();
        }
        if over {
            return;
        }
    }
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let start = text.len().saturating_sub(OUTPUT_MOST);
    let start = (start..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_told_before_the_next_one_comes() {
        let (mut says, hears) = tokio::io::duplex(64);
        let (tells, mut told) = tokio::sync::mpsc::channel(8);
        let reads = tokio::spawn(each_line(hears, move |line: &str| {
            tells.try_send(line.to_owned()).expect("there is room");
        }));
        let bound = Duration::from_secs(10);
        for (said, heard) in [("one\n", "one"), (" two\r", "two"), ("\r\n\nthree\r", "three")] {
            tokio::io::AsyncWriteExt::write_all(&mut says, said.as_bytes()).await.expect("room");
            let line = tokio::time::timeout(bound, told.recv()).await.expect("at once");
            assert_eq!(line.as_deref(), Some(heard));
        }
        tokio::io::AsyncWriteExt::write_all(&mut says, b"last").await.expect("room");
        drop(says);
        reads.await.expect("it ends");
        assert_eq!(told.recv().await.as_deref(), Some("last"));
    }
}
