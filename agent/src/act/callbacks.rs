//! Patroni's callbacks as they run (spec/patroni-compat.md 5.4): beside the loop, one at a time, the
//! newest wins. `on_reload` has a lane of its own.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::scripts::{self, Script};
use crate::config::{CallbacksSection, CommandLine, Config};
use crate::decide::callbacks::{Callback, ToldRole};

/// The longest that one may run.
const RUNS_WITHIN: Duration = Duration::from_secs(600);
/// How long the end of the agent waits for the last one.
const LAST_WITHIN: Duration = Duration::from_secs(5);

/// One call.
#[derive(Debug, Clone)]
struct Call {
    /// Counted in its lane.
    number: u64,
    callback: Callback,
    role: &'static str,
    command: CommandLine,
    scope: String,
}

/// Runs one call after the other.
#[derive(Debug)]
struct Lane {
    calls: watch::Sender<Option<Call>>,
    /// The last one that has come to its end.
    served: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Lane {
    fn begin() -> Self {
        let (calls, called) = watch::channel(None);
        let (serves, served) = watch::channel(0);
        Self { calls, served, task: tokio::spawn(serve(called, serves)) }
    }

    fn is_idle(&self) -> bool {
        let last = self.calls.borrow().as_ref().map_or(0, |call| call.number);
        *self.served.borrow() == last
    }
}

/// Where callbacks are called.
#[derive(Debug)]
pub struct Callbacks {
    commands: CallbacksSection,
    scope: String,
    lane: Lane,
    reloads: Lane,
}

impl Callbacks {
    /// Those of the configuration.
    #[must_use]
    pub fn begin(config: &Config) -> Self {
        Self {
            commands: config.postgres.callbacks.clone(),
            scope: config.scope.to_string(),
            lane: Lane::begin(),
            reloads: Lane::begin(),
        }
    }

    /// Calls one, where it is configured; returns at once.
    pub fn call(&self, callback: Callback, role: ToldRole) {
        let commands = &self.commands;
        let (command, lane) = match callback {
            Callback::Start => (&commands.on_start, &self.lane),
            Callback::Stop => (&commands.on_stop, &self.lane),
            Callback::Restart => (&commands.on_restart, &self.lane),
            Callback::RoleChange => (&commands.on_role_change, &self.lane),
            Callback::Reload => (&commands.on_reload, &self.reloads),
        };
        let Some(command) = command.clone() else { return };
        let (role, scope) = (role.word(), self.scope.clone());
        lane.calls.send_modify(|last| {
            let number = last.as_ref().map_or(0, |last| last.number) + 1;
            *last = Some(Call { number, callback, role, command, scope });
        });
    }

    /// None runs. One that does belongs to this life of the process: the next one would neither read what
    /// it prints nor wait for its end.
    #[must_use]
    pub fn are_idle(&self) -> bool {
        self.lane.is_idle() && self.reloads.is_idle()
    }

    /// The agent ends: the last calls come to their end, or are cut short.
    pub async fn end(self) {
        for lane in [self.lane, self.reloads] {
            drop(lane.calls);
            let mut task = lane.task;
            if tokio::time::timeout(LAST_WITHIN, &mut task).await.is_err() {
                tracing::warn!("a callback that has not ended is killed");
                task.abort();
                // Its group is killed as the task is dropped.
                task.await.ok();
            }
        }
    }
}

async fn serve(mut calls: watch::Receiver<Option<Call>>, serves: watch::Sender<u64>) {
    while calls.changed().await.is_ok() {
        loop {
            let call = calls.borrow_and_update().clone();
            let Some(call) = call else { break };
            let newer = perform(&call, &mut calls).await;
            serves.send_replace(call.number);
            if !newer {
                break;
            }
        }
    }
}

/// Runs one; true when a newer one has cut it short.
async fn perform(call: &Call, calls: &mut watch::Receiver<Option<Call>>) -> bool {
    let (name, role) = (call.callback.word(), call.role);
    tracing::info!(callback = name, role, "calling");
    let arguments = [name, role, call.scope.as_str()].map(str::to_owned);
    let run = scripts::Call::new(name, &call.command).arguments(&arguments);
    let mut script = match Script::start(run) {
        Ok(script) => script,
        Err(error) => {
            let program = call.command.program.display();
            tracing::error!(callback = name, %program, %error, "a callback cannot be run");
            return false;
        }
    };
    let newer = async {
        if calls.changed().await.is_err() {
            // Nobody calls any more: this one is the last.
            std::future::pending::<()>().await;
        }
    };
    let newer = tokio::select! {
        ended = tokio::time::timeout(RUNS_WITHIN, script.ended()) => {
            match ended {
                Ok(Ok(true)) => return false,
                Ok(Ok(false)) => tracing::warn!(callback = name, "a callback failed"),
                Ok(Err(error)) => tracing::warn!(callback = name, %error, "a callback is lost"),
                Err(_) => tracing::warn!(callback = name, "a callback runs for too long"),
            }
            false
        }
        () = newer => {
            tracing::warn!(callback = name, "a callback is cut short by a newer one");
            true
        }
    };
    script.kill().await;
    newer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::view::NodeRole;

    const PRIMARY: ToldRole = ToldRole::As(NodeRole::Primary);

    fn callbacks(text: &str) -> Callbacks {
        let arguments = ["-c", text, "sh"].map(str::to_owned).to_vec();
        let command = Some(CommandLine { program: "/bin/sh".into(), arguments });
        let (on_start, on_role_change, on_reload) = (command.clone(), command.clone(), command);
        Callbacks {
            commands: CallbacksSection {
                on_start,
                on_role_change,
                on_reload,
                ..CallbacksSection::default()
            },
            scope: "eu".to_owned(),
            lane: Lane::begin(),
            reloads: Lane::begin(),
        }
    }

    async fn seen(file: &std::path::Path, wanted: &str) -> String {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if text.contains(wanted) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn action_role_and_cluster_are_told_and_the_last_one_comes_to_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("told");
        let callbacks = callbacks(&format!("sleep 0.1; echo $@ >> {}", file.display()));
        callbacks.call(Callback::Stop, PRIMARY);
        assert!(callbacks.are_idle(), "on_stop is not configured");
        callbacks.call(Callback::Start, PRIMARY);
        assert!(!callbacks.are_idle());
        callbacks.end().await;
        let text = std::fs::read_to_string(&file).expect("written");
        assert_eq!(text, "on_start primary eu\n", "on_stop is not configured");
    }

    #[tokio::test]
    async fn the_newest_wins_and_reloads_have_their_own_lane() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("told");
        // The first argument tells what it is; only the first hangs.
        let text = format!(
            "echo $1 >> {0}; if [ $1 = on_start ]; then sleep 3600; echo late >> {0}; fi",
            file.display()
        );
        let callbacks = callbacks(&text);
        callbacks.call(Callback::Start, PRIMARY);
        seen(&file, "on_start").await;
        callbacks.call(Callback::Reload, PRIMARY);
        seen(&file, "on_reload").await;
        callbacks.call(Callback::RoleChange, PRIMARY);
        seen(&file, "on_role_change").await;
        while !callbacks.are_idle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        callbacks.end().await;
        let text = std::fs::read_to_string(&file).expect("written");
        assert_eq!(text, "on_start\non_reload\non_role_change\n");
    }
}
