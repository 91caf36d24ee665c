//! `regentctl agent upgrade`: tells an agent on this machine to become the program at its path.
//!
//! The agent is found by the lock of its run directory, which names its process and when that life
//! began; another beginning is a new life, and a file of refusal says why there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::cli::Upgrade;
use crate::clock;
use crate::exit::{Ending, Exit, Failure};
use crate::lab::process::pause;
use crate::render::Output;

/// How long an agent may take: a job that runs is waited for.
const LONGEST: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One life of an agent, as its lock says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    pid: i32,
    begun: String,
    version: String,
}

/// Runs the verb.
pub fn upgrade(which: &Upgrade, output: &Output) -> Ending {
    let run_dir = match (&which.run_dir, which.pid) {
        (Some(dir), _) => dir.clone(),
        (None, Some(pid)) => run_dir_of(pid)?,
        (None, None) => return Err(Failure::usage("want --run-dir DIR or --pid PID")),
    };
    let before = life(&run_dir)?;
    let refusal = run_dir.join("upgrade-refused");
    if let Err(error) = fs::remove_file(&refusal)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Failure::error(format!("remove {}: {error}", refusal.display())));
    }
    kill(Pid::from_raw(before.pid), Signal::SIGUSR2).map_err(|error| {
        Failure::error(format!("send SIGUSR2 to the agent, process {}: {error}", before.pid))
    })?;
    let begun = clock::now();
    while begun.elapsed() < LONGEST {
        if let Ok(problem) = fs::read_to_string(&refusal) {
            return Err(Failure::error(format!("the agent goes on as it was: {problem}")));
        }
        if let Ok(now) = life(&run_dir)
            && now != before
        {
            output.json(&json!({ "pid": now.pid, "from": before.version, "to": now.version }));
            output.say(format!(
                "process {} was version {} and is version {}",
                now.pid, before.version, now.version
            ));
            return Ok(Exit::Done);
        }
        pause(LOOK_AGAIN);
    }
    Err(Failure::error(format!(
        "the agent, process {}, has not become another within {LONGEST:?}; it will, as soon as \
         the job that runs has ended; its log says which",
        before.pid
    )))
}

/// The life that holds the lock of a run directory.
fn life(run_dir: &Path) -> Result<Life, Failure> {
    let file = run_dir.join("agent.lock");
    let fail = |problem: String| {
        Failure::error(format!("{}: {problem}; want an agent's regent.run_dir", file.display()))
    };
    let text = fs::read_to_string(&file).map_err(|error| fail(error.to_string()))?;
    let life = parse(&text).ok_or_else(|| fail(format!("{text:?} names no process")))?;
    let exe = fs::read_link(format!("/proc/{}/exe", life.pid));
    let name = exe.as_deref().ok().and_then(Path::file_name).map(|name| name.to_string_lossy());
    if name.is_some_and(|name| name.starts_with("regent-agent")) {
        Ok(life)
    } else {
        Err(fail(format!("process {} is no running regent-agent of this user", life.pid)))
    }
}

fn parse(text: &str) -> Option<Life> {
    let (first, rest) = text.split_once('\n')?;
    let (pid, begun) = first.split_once(' ')?;
    let pid = pid.parse().ok().filter(|pid| *pid > 1)?;
    Some(Life { pid, begun: begun.to_owned(), version: rest.trim().to_owned() })
}

/// An agent holds its lock open all its life.
fn run_dir_of(pid: i32) -> Result<PathBuf, Failure> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(|error| Failure::error(format!("look at process {pid}: {error}")))?;
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .find(|file| file.file_name().is_some_and(|name| name == "agent.lock"))
        .and_then(|file| file.parent().map(Path::to_owned))
        .ok_or_else(|| Failure::error(format!("process {pid} holds no agent.lock: no agent")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_a_life() {
        let life = parse("4711 99887766\n0.1.0\n").expect("a life");
        assert_eq!((life.pid, life.begun.as_str()), (4711, "99887766"));
        assert_eq!(life.version, "0.1.0");
        for text in ["", "4711", "1 5\n0.1.0\n", "x 5\n0.1.0\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_agent_gets_no_signal() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = format!("{} 5\n0.1.0\n", std::process::id());
        fs::write(dir.path().join("agent.lock"), own).expect("written");
        let failure = life(dir.path()).expect_err("this test is no agent");
        assert!(failure.message.contains("no running regent-agent"), "{failure}");
        let own = i32::try_from(std::process::id()).expect("small");
        assert!(run_dir_of(own).expect_err("no lock").message.contains("agent.lock"));
    }
}
