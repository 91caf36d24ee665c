//! What must hold before this process looks after a server: places of its own, one agent a run
//! directory and a name, programs of the data directory's version. Each refusal says what to do.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::act::postgres::files::Files;
use crate::act::postgres::programs::Programs;
use crate::act::site::SiteStore;
use crate::config::Config;
use crate::observe::clock::boot_time;

/// The run directory is ours alone.
pub(super) fn check_run_dir(config: &Config) -> anyhow::Result<()> {
    let run_dir = &config.regent.run_dir;
    let metadata = std::fs::metadata(run_dir)?;
    anyhow::ensure!(
        metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o077 == 0,
        "regent.run_dir: {} has mode {:o} and owner {}; want mode 700 and this user ({})",
        run_dir.display(),
        metadata.mode() & 0o7777,
        metadata.uid(),
        nix::unistd::geteuid()
    );
    Ok(())
}

/// Why the run directory's lock is not held.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another agent holds it, and what runs is that one's.
    #[error(
        "{path} is locked: another agent runs with this run directory; stop it, or give this one a \
         regent.run_dir of its own"
    )]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// It can't be made or opened: no other agent can, either.
    #[error("regent.run_dir: cannot make or lock {path}: {source}")]
    Unusable {
        /// The lock.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// One agent a run directory: a second one would fight over the server (hazards.md row 10).
pub(super) fn lock_run_dir(run_dir: &Path) -> Result<std::fs::File, LockError> {
    let path = run_dir.join("agent.lock");
    let opened =
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir).and_then(|()| {
            std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)
        });
    let lock = match opened {
        Ok(lock) => lock,
        Err(source) => return Err(LockError::Unusable { path, source }),
    };
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(LockError::Taken { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(LockError::Unusable { path, source }),
    }
}

/// For people and for `regentctl agent upgrade`: who holds the lock, and since when.
pub(super) fn note_life(run_dir: &Path, lock: &std::fs::File) -> anyhow::Result<()> {
    let life =
        format!("{} {}\n{}\n", std::process::id(), boot_time().nanos(), env!("CARGO_PKG_VERSION"));
    lock.set_len(0)
        .and_then(|()| std::io::Write::write_all(&mut { lock }, life.as_bytes()))
        .with_context(|| format!("writing agent.lock in {}", run_dir.display()))
}

/// As Patroni does: another process that answers under this member's name means that this one
/// must not start (hazards.md row 10).
pub(super) async fn refuse_twin(
    config: &Config,
    site: &SiteStore,
    http: &reqwest::Client,
) -> anyhow::Result<()> {
    let key = site.keys.member(&config.name);
    let Ok(Some(entry)) = site.store.get(&key, Duration::from_secs(3)).await else { return Ok(()) };
    let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    let url = record.get("api_url").and_then(serde_json::Value::as_str).unwrap_or_default();
    let own = format!("http://{}/", config.rest.connect_address);
    if url.is_empty() || url.starts_with(&own) {
        return Ok(());
    }
    let liveness = url.replace("/patroni", "/liveness");
    let asked = http.get(&liveness).timeout(Duration::from_secs(3)).send().await;
    anyhow::ensure!(
        asked.is_err(),
        "there is already a node named {:?} running at {url}; give this one a name of its own, or \
         stop the other",
        config.name.as_str()
    );
    Ok(())
}

/// The oldest PostgreSQL that is understood.
const OLDEST: u32 = 13;

/// PostgreSQL is there, new enough, and of the data directory's major version.
pub(super) async fn check_versions(programs: &Programs, files: &Files) -> anyhow::Result<()> {
    let mut command = programs.command("postgres");
    command.arg("--version");
    let text = programs.output(command, Duration::from_secs(10)).await.context(
        "postgresql.bin_dir: PostgreSQL's server programs are needed (package postgresql-15 or \
         the like)",
    )?;
    let major: u32 = text
        .split_whitespace()
        .find_map(|word| word.split(['.', 'd', 'r', 'b']).next()?.parse().ok())
        .with_context(|| format!("postgres --version said {text:?}, which has no number"))?;
    anyhow::ensure!(
        major >= OLDEST,
        "postgresql.bin_dir: {} is PostgreSQL {major}; want {OLDEST} or newer",
        programs.path("postgres").display()
    );
    if let Ok(data) = std::fs::read_to_string(files.data_dir.join("PG_VERSION")) {
        let data = data.trim();
        anyhow::ensure!(
            data == major.to_string(),
            "postgresql.data_dir: {} is of PostgreSQL {data}, but postgresql.bin_dir has {major}; \
             point bin_dir at version {data}",
            files.data_dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regent_dcs::clock::BootClock;
    use regent_dcs::memory::MemoryStore;
    use regent_dcs::{Change, Store as _, Txn};
    use regent_proto::keys::SiteKeys;

    use super::*;

    const CALL: Duration = Duration::from_secs(1);

    const FILE: &str = "
scope: eu
name: eu-1
restapi: {listen: '127.0.0.1:8008'}
sqlite: {path: /tmp/eu.db}
regent: {run_dir: /tmp/run, stop_budget: 1500ms}
bootstrap: {dcs: {ttl: 5, loop_wait: 1, retry_timeout: 1}}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: /tmp/data
  authentication:
    superuser: {username: postgres, password: s3cret}
    replication: {username: replicator, password: s3cret}
";

    /// An agent that lives, as far as REST tells; its port.
    async fn lives() -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let alive = axum::routing::get(|| async { "alive" });
        let app = axum::Router::new().route("/liveness", alive);
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    /// hazards.md row 10: two of one name share lock, slot and synchronous standing.
    #[tokio::test]
    async fn a_name_that_a_living_agent_has_is_refused() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = Config::parse(Path::new("agent.yml"), FILE).expect("good");
        let keys = SiteKeys::new(&config.namespace, &config.scope);
        let memory = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let site = SiteStore { store: Arc::new(memory.clone()), keys, me: config.name.clone() };
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        refuse_twin(&config, &site, &http).await.expect("nobody has published the name");
        let beside = async |api_url: String| {
            let record = serde_json::json!({ "api_url": api_url }).to_string();
            let put = Change::put(site.keys.member(&config.name), record);
            memory.txn(Txn::new().then(put), CALL).await.expect("the store is well");
            refuse_twin(&config, &site, &http).await
        };
        let twin = format!("http://127.0.0.1:{}/patroni", lives().await);
        let refused = beside(twin).await.expect_err("it lives").to_string();
        assert!(refused.contains("already a node named \"eu-1\""), "{refused}");
        // Its own record of before, and one of an agent that has gone.
        let own = format!("http://{}/patroni", config.rest.connect_address);
        beside(own).await.expect("its own");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let gone = free.local_addr().expect("bound").port();
        drop(free);
        beside(format!("http://127.0.0.1:{gone}/patroni")).await.expect("nobody answers there");
    }
}
