//! Adoption: a server that an earlier life of this agent left running, or that somebody else started,
//! is taken over as it runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::Agent;
use crate::act::postgres::files::Files;
use crate::act::postgres::found;
use crate::act::postgres::server::{Postmaster, Server};
use crate::config::Config;
use crate::fence::guard::Guard;

/// Takes over a server that an earlier life of this agent left running; without one its port must
/// be free.
pub(super) async fn adopt(
    config: &Config,
    server: &Arc<Server>,
    files: &Files,
    guard: &Guard,
) -> anyhow::Result<()> {
    if let Some(postmaster) = server.take_over() {
        tracing::info!(pid = postmaster.pid, "took a running PostgreSQL over with its guardian");
        return Ok(());
    }
    let Some(postmaster) = found::postmaster(&files.data_dir) else {
        return refuse_used_port(config);
    };
    let bound = config.regent.stop_budget.0;
    adopt_unguarded(server, files, Some((guard, bound)), postmaster).await
}

/// Adopts a server that nobody guards: where there is a fence, one that may write is frozen first,
/// until its rights were renewed or the bound is over.
async fn adopt_unguarded(
    server: &Arc<Server>,
    files: &Files,
    fence: Option<(&Guard, Duration)>,
    postmaster: Postmaster,
) -> anyhow::Result<()> {
    if let Some(lock) = found::guarded_by_another(&files.data_dir, &files.run_dir) {
        anyhow::bail!(
            "postgresql.data_dir: another agent's guardian (its lock is {}) guards the PostgreSQL of \
             {}; stop that agent, or give this one a data directory of its own",
            lock.display(),
            files.data_dir.display()
        );
    }
    if let Some((guard, bound)) = fence.filter(|_| !files.standby_signal()) {
        guard.adopt(postmaster.pid, bound);
    }
    match server.adopt(postmaster).await {
        Ok(()) => {
            tracing::info!(
                pid = postmaster.pid,
                "adopted a running PostgreSQL that nobody guarded"
            );
            Ok(())
        }
        // Rung 1 has ended it meanwhile: its rights could not be renewed.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {
            tracing::info!(pid = postmaster.pid, "a PostgreSQL ended before it could be adopted");
            Ok(())
        }
        Err(error) => Err(error).context("adopting a running PostgreSQL"),
    }
}

impl Agent {
    /// A server that somebody else started since this agent saw it stopped: it is this node's all the
    /// same, and what may write acknowledges nothing until it is known to have the right.
    pub(super) async fn adopt_what_was_started(&mut self) {
        let (server, files) = (&self.actor.server, &self.actor.files);
        let stopped = server.postmaster().is_none();
        let found = stopped.then(|| found::named_postmaster(&files.data_dir)).flatten();
        let Some(postmaster) = found else { return };
        let bound = self.config.regent.stop_budget.0;
        let guard = (!self.suspended).then_some((&self.actor.guard, bound));
        if let Err(error) = adopt_unguarded(server, files, guard, postmaster).await {
            let problem = format!("{error:#}");
            if problem != self.last_problem {
                tracing::warn!(node = %self.config.name, problem, "not adopted");
                self.last_problem = problem;
            }
        }
    }
}

/// PostgreSQL's port must be free before it is started on it: its own refusal would only be seen in
/// its log, again and again.
fn refuse_used_port(config: &Config) -> anyhow::Result<()> {
    let (host, port) = config.postgres.listen_host_port();
    for host in host.split(',') {
        let address = if matches!(host, "*" | "") { "0.0.0.0" } else { host };
        // As PostgreSQL does, with SO_REUSEADDR: connections of before in TIME_WAIT are no obstacle.
        if let Err(error) = std::net::TcpListener::bind((address, port)) {
            anyhow::bail!(
                "postgresql.listen: cannot listen on {address}:{port}: {error}; stop whatever \
                 listens there (`ss -ltnp` shows it), or choose a free port"
            );
        }
    }
    Ok(())
}
