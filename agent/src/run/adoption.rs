//! Adoption: a server that an earlier life of this agent left running is taken over as it runs.

use std::sync::Arc;

use anyhow::Context as _;

use crate::act::postgres::files::Files;
use crate::act::postgres::server::Server;
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
    let Some(postmaster) = Server::unguarded(&files.data_dir) else {
        return refuse_used_port(config);
    };
    if !files.standby_signal() {
        guard.adopt(postmaster.pid, config.regent.stop_budget.0);
    }
    server.adopt(postmaster).await.context("adopting a running PostgreSQL")?;
    tracing::info!(pid = postmaster.pid, "adopted a running PostgreSQL that nobody guarded");
    Ok(())
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
