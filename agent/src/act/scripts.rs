//! Running the operator's programs: each in a process group of its own, which ends with it where it is
//! cut short; what it prints goes to the log; nothing of its environment is a secret (I23).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::postgres::programs::Programs;
use crate::config::CommandLine;

/// How long what is left of the output of a program that has ended is read: a child that it left in
/// the background may hold the pipe for ever.
const READS_ON: Duration = Duration::from_millis(500);
/// How long the end of what was killed is waited for.
const DIES_WITHIN: Duration = Duration::from_secs(5);
/// How soon it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// In the environment of whatever makes a data directory: which one.
const MAKES: &str = "REGENT_MAKES";
/// The most that is logged of one run, in bytes.
const LOGGED_MOST: u64 = 64 << 10;

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    name: &'static str,
    command: &'a CommandLine,
    arguments: &'a [String],
    passfile: Option<&'a Path>,
    makes: Option<&'a Path>,
}

impl<'a> Call<'a> {
    /// `name` is what its lines in the log are marked with.
    #[must_use]
    pub fn new(name: &'static str, command: &'a CommandLine) -> Self {
        Self { name, command, arguments: &[], passfile: None, makes: None }
    }

    /// Further arguments.
    #[must_use]
    pub fn arguments(self, arguments: &'a [String]) -> Self {
        Self { arguments, ..self }
    }

    /// Where it finds passwords.
    #[must_use]
    pub fn passfile(self, passfile: &'a Path) -> Self {
        Self { passfile: Some(passfile), ..self }
    }

    /// The data directory that it makes.
    #[must_use]
    pub fn makes(self, data_dir: &'a Path) -> Self {
        Self { makes: Some(data_dir), ..self }
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Script {
    /// Dropped first: while the child is not waited for, the number of its group is its own.
    group: Group,
    child: Child,
    output: JoinSet<()>,
}

/// Its process group. Whatever of it lives when this is dropped is killed.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // Nobody is left: as good.
            killpg(group, Signal::SIGKILL).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Script {
    /// Starts it.
    pub fn start(call: Call<'_>) -> std::io::Result<Self> {
        let Call { name, command, arguments, passfile, makes } = call;
        let mut run = Programs::plain(&command.program);
        without_secrets(&mut run);
        if let Some(passfile) = passfile {
            run.env("PGPASSFILE", passfile);
        }
        if let Some(data_dir) = makes {
            run.env(MAKES, data_dir);
        }
        run.args(&command.arguments).args(arguments).process_group(0);
        run.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.spawn()?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let mut output = JoinSet::new();
        if let Some(out) = child.stdout.take() {
            output.spawn(log(name, out));
        }
        if let Some(err) = child.stderr.take() {
            output.spawn(log(name, err));
        }
        Ok(Self { group: Group(group), child, output })
    }

    /// Waits for its end: whether it ended well. What it left in the background goes on.
    pub async fn ended(&mut self) -> std::io::Result<bool> {
        let status = self.child.wait().await?;
        // Its number may be another's from now on.
        self.group.0 = None;
        let read = async { while self.output.join_next().await.is_some() {} };
        tokio::time::timeout(READS_ON, read).await.ok();
        Ok(status.success())
    }

    /// Kills it with its group, and waits for its end for a bounded time.
    pub async fn kill(mut self) {
        self.group.kill();
        if tokio::time::timeout(DIES_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.child.id(), "a program that was killed is still there");
        }
    }
}

/// Runs one to its end, and kills it at the bound.
pub async fn run(call: Call<'_>, bound: Duration) -> anyhow::Result<()> {
    let (name, shown) = (call.name, call.command.program.display());
    let mut script = Script::start(call)
        .map_err(|error| anyhow::anyhow!("{name}: cannot run {shown}: {error}"))?;
    let Ok(ended) = tokio::time::timeout(bound, script.ended()).await else {
        script.kill().await;
        anyhow::bail!("{name}: {shown} did not end within {bound:?} and was killed");
    };
    anyhow::ensure!(ended?, "{name}: {shown} failed; the log has what it said, with script={name}");
    Ok(())
}

/// Ends what still makes this data directory: of a life of this agent that was killed, or of a method that
/// was cut off and had left its group. It would write into what comes next.
pub async fn end_what_makes(data_dir: &Path) -> anyhow::Result<()> {
    let ends = async {
        loop {
            let left = makers(data_dir);
            if left.is_empty() {
                return;
            }
            tracing::warn!(?left, "programs that an earlier try has left are killed");
            for pid in left {
                // Gone meanwhile: as good.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let ended = tokio::time::timeout(DIES_WITHIN, ends).await.is_ok();
    anyhow::ensure!(
        ended,
        "programs that an earlier try has left running cannot be ended: see what hangs in {:?}",
        makers(data_dir)
    );
    Ok(())
}

fn makers(data_dir: &Path) -> Vec<i32> {
    let mut wanted = format!("{MAKES}=").into_bytes();
    wanted.extend_from_slice(data_dir.as_os_str().as_bytes());
    let makes = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(makes).collect()
}

/// One line of the log for each of the output, up to a bound; the rest is read and dropped, or the
/// program would wait.
async fn log(name: &'static str, mut output: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new((&mut output).take(LOGGED_MOST)).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        if !line.trim().is_empty() {
            tracing::info!(script = name, "{}", line.trim_end());
        }
    }
    drop(lines);
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.ok();
}

/// What an agent may have been given that is none of a script's business.
fn without_secrets(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_private(&name) {
            command.env_remove(name);
        }
    }
}

fn is_private(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    let ours = ["PATRONI_", "REGENT_", "PG", "KUBERNETES_", "NOTIFY_SOCKET"];
    let secret = ["PASSWORD", "SECRET", "TOKEN", "CREDENTIAL"];
    ours.iter().any(|prefix| name.starts_with(prefix))
        || secret.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> CommandLine {
        CommandLine { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), text.to_owned()] }
    }

    #[test]
    fn no_secret_is_handed_on() {
        for name in ["PGPASSWORD", "PATRONI_SUPERUSER_PASSWORD", "REGENT_X", "Vault_Token"] {
            assert!(is_private(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "LANG", "MY_SETTING"] {
            assert!(!is_private(OsStr::new(name)), "{name}");
        }
    }

    #[tokio::test]
    async fn its_end_is_told_and_its_bound_kept() {
        let bound = Duration::from_secs(20);
        run(Call::new("test", &shell("exit 0")), bound).await.expect("well");
        let failed = run(Call::new("test", &shell("exit 3")), bound).await.expect_err("not well");
        assert!(failed.to_string().contains("test: /bin/sh failed"), "{failed}");
        let none = CommandLine { program: "/none/here".into(), arguments: Vec::new() };
        let failed = run(Call::new("test", &none), bound).await.expect_err("no program");
        assert!(failed.to_string().contains("cannot run /none/here"), "{failed}");
        let sleeps = shell("sleep 3600");
        let late = run(Call::new("test", &sleeps), Duration::from_millis(50)).await;
        assert!(late.expect_err("too long").to_string().contains("did not end within"));
    }

    #[tokio::test]
    async fn what_was_left_making_a_directory_is_ended_and_nothing_else() {
        let (dir, another) = (tempfile::tempdir(), tempfile::tempdir());
        let (dir, another) = (dir.expect("a directory"), another.expect("a directory"));
        let command = shell("sleep 3600 & wait");
        let start = |of: &Path| Script::start(Call::new("test", &command).makes(of));
        let mut left = start(dir.path()).expect("started");
        let mut others = start(another.path()).expect("started");
        end_what_makes(dir.path()).await.expect("ended");
        assert!(makers(dir.path()).is_empty());
        assert!(!left.ended().await.expect("it was a child"), "it was killed");
        assert!(others.child.try_wait().expect("a child").is_none(), "it makes another directory");
        others.kill().await;
    }

    /// A shell that waits for its child is killed with it.
    #[tokio::test]
    async fn what_is_killed_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let text = format!("sleep 3600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let script = Script::start(Call::new("test", &shell(&text))).expect("started");
        let pid = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) => break text.trim().parse::<i32>().expect("a number"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        script.kill().await;
        let stat = format!("/proc/{pid}/stat");
        let gone = |stat: &str| {
            // Its parent is gone, and whoever reaps it may take a moment.
            let text = std::fs::read_to_string(stat).unwrap_or_default();
            text.is_empty() || text.contains(") Z ")
        };
        while !gone(&stat) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
