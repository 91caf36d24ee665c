//! What must hold before this process looks after a server: places of its own, one agent a run
//! directory and a name, programs of the data directory's version. Each refusal says what to do.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::time::Duration;

use anyhow::Context as _;

use crate::act::epoch_file::EpochFile;
use crate::act::postgres::files::Files;
use crate::act::postgres::programs::Programs;
use crate::act::site::SiteStore;
use crate::config::Config;
use crate::observe::clock::boot_time;

/// The run directory is ours alone; the epoch has a place that outlives it.
pub(super) fn prepare_places(config: &Config) -> anyhow::Result<()> {
    if config.federation.is_some() {
        EpochFile::new(config).check()?;
    }
    let run_dir = &config.regent.run_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .with_context(|| format!("regent.run_dir: cannot make {}", run_dir.display()))?;
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

/// One agent a run directory: a second one would fight over the server (hazards.md row 10).
pub(super) fn lock_run_dir(config: &Config) -> anyhow::Result<std::fs::File> {
    let path = config.regent.run_dir.join("agent.lock");
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    lock.try_lock().map_err(|error| {
        anyhow::anyhow!(
            "{} is locked ({error}): another agent runs with this run directory; stop it, or give \
             this one a regent.run_dir of its own",
            path.display()
        )
    })?;
    // For people and for `regentctl agent upgrade`: who holds it, and since when.
    let life =
        format!("{} {}\n{}\n", std::process::id(), boot_time().nanos(), env!("CARGO_PKG_VERSION"));
    lock.set_len(0)
        .and_then(|()| std::io::Write::write_all(&mut &lock, life.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(lock)
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
