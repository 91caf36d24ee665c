//! Making a data directory: `initdb`, `pg_basebackup`, `pg_rewind`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;

use super::files::{Files, write_atomically};
use super::programs::Programs;
use crate::config::dynamic::Dynamic;
use crate::config::{Config, User};

/// The longest an `initdb` may take.
const INITDB_BOUND: Duration = Duration::from_secs(300);
/// The longest a base backup may take; it can be cancelled at any moment before.
const COPY_BOUND: Duration = Duration::from_secs(24 * 3600);
/// The longest a rewind may take.
const REWIND_BOUND: Duration = Duration::from_secs(6 * 3600);

/// Creates a cluster. The directory counts as incomplete until whoever asked for it says that all is
/// [`done`].
pub async fn initdb(
    programs: &Programs,
    files: &Files,
    config: &Config,
    dynamic: &Dynamic,
) -> anyhow::Result<()> {
    begin(files)?;
    let superuser = &config.postgres.authentication.superuser;
    let password = files.run_dir.join("initdb-password");
    write_atomically(&password, superuser.password.reveal().as_bytes())?;
    let mut command = programs.command("initdb");
    command
        .arg("-D")
        .arg(&files.data_dir)
        .arg("--username")
        .arg(&superuser.username)
        .arg("--pwfile")
        .arg(&password)
        .args(["--auth-host=scram-sha-256", "--auth-local=scram-sha-256"])
        .args(initdb_options(&config.bootstrap.initdb)?);
    let result = programs.output(command, INITDB_BOUND).await;
    drop(std::fs::remove_file(&password));
    result?;
    // `initdb` leaves settings of its own choice in pg_control, and recovery refuses to begin with lower
    // ones (PostgreSQL's manual, 27.4.3). A run in single-user mode, which ends with its input, puts
    // ours there.
    let mut command = programs.command("postgres");
    command.arg("--single").args(files.arguments(config, dynamic)).arg("postgres");
    programs.output(command, INITDB_BOUND).await?;
    Ok(())
}

/// Patroni's list: names, or one-entry maps.
fn initdb_options(options: &[serde_json::Value]) -> anyhow::Result<Vec<String>> {
    let wrong = |value: &serde_json::Value| {
        anyhow::anyhow!(
            "bootstrap.initdb: {value} is not an option; want a name (data-checksums) or one \
             name with its value (encoding: UTF8)"
        )
    };
    let mut arguments = Vec::new();
    for option in options {
        if let Some(name) = option.as_str() {
            arguments.push(format!("--{name}"));
            continue;
        }
        let map = option.as_object().filter(|map| map.len() == 1).ok_or_else(|| wrong(option))?;
        for (name, value) in map {
            let text = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Number(number) => number.to_string(),
                other => return Err(wrong(other)),
            };
            arguments.push(format!("--{name}={text}"));
        }
    }
    Ok(arguments)
}

/// The longest wait for a source to say that it is there.
const SOURCE_BOUND: Duration = Duration::from_secs(15);

/// Asks who is there on the replication port, with the replication role. `psql` speaks the
/// protocol's simple commands; tokio-postgres does not (stack.md).
pub async fn identify(
    programs: &Programs,
    conninfo: &str,
    bound: Duration,
) -> Result<(), super::programs::ProgramError> {
    let mut command = programs.command("psql");
    command
        .args(["--no-psqlrc", "--no-password", "-XAtc", "IDENTIFY_SYSTEM"])
        .arg(format!("{conninfo} replication=true"));
    programs.output(command, bound).await.map(drop)
}

/// Copies a server, after removing what is there. `progress` gets one line a second.
pub async fn clone(
    programs: &Programs,
    files: &Files,
    user: &User,
    addresses: &[(String, u16)],
    progress: &watch::Sender<Option<String>>,
) -> anyhow::Result<()> {
    let conninfo = files.conninfo(user, addresses, "pg_basebackup");
    // What is here may be all that is left of what the source has lost: it goes only for one that answers.
    // An empty directory is begun at once: by that the node that claimed `initialize` is known.
    if files.data_dir.join("PG_VERSION").exists() && !files.incomplete().exists() {
        identify(programs, &conninfo, SOURCE_BOUND).await.context("what is here stays")?;
    }
    begin(files)?;
    let mut command = programs.command("pg_basebackup");
    command.arg("-D").arg(&files.data_dir).arg("-d").arg(conninfo).args([
        "-X",
        "stream",
        "--checkpoint=fast",
        "--no-password",
        "--progress",
    ]);
    let result = programs
        .run(command, COPY_BOUND, |line| {
            progress.send_replace(Some(line.to_owned()));
        })
        .await;
    progress.send_replace(None);
    result?;
    done(files)
}

/// Rewinds onto a primary. A failure midway leaves the directory unusable: it then counts as
/// incomplete (hazards.md section 4, fact 28).
pub async fn rewind(
    programs: &Programs,
    files: &Files,
    user: &User,
    addresses: &[(String, u16)],
) -> anyhow::Result<()> {
    let conninfo = files.conninfo(user, addresses, "pg_rewind");
    // Its own crash recovery runs in single-user mode, which refuses standby mode.
    files.set_standby_signal(false)?;
    let mut command = programs.command("pg_rewind");
    command
        .arg("-D")
        .arg(&files.data_dir)
        .arg("--source-server")
        .arg(format!("{conninfo} dbname=postgres"));
    let marker = files.incomplete();
    let run = programs.run(command, REWIND_BOUND, |line| {
        // Said after all preconditions held and before the first file is touched.
        if line.contains("rewinding from last common checkpoint")
            && let Err(error) = write_atomically(&marker, b"pg_rewind\n")
        {
            tracing::error!(%error, "cannot note that a rewind has begun");
        }
    });
    run.await?;
    if marker.exists() { done(files) } else { Ok(()) }
}

/// Notes that the directory is incomplete, and empties it.
pub fn begin(files: &Files) -> anyhow::Result<()> {
    write_atomically(&files.incomplete(), b"copy\n")?;
    empty(&files.data_dir)?;
    Ok(())
}

/// It is complete.
pub fn done(files: &Files) -> anyhow::Result<()> {
    std::fs::remove_file(files.incomplete())?;
    Ok(())
}

/// Gives up what was begun here. What is still in the directory goes before the marker does: without it,
/// half a cluster would count as one.
pub fn give_up(files: &Files) -> std::io::Result<()> {
    let marker = files.incomplete();
    if !marker.exists() {
        return Ok(());
    }
    if files.data_dir.exists() {
        empty(&files.data_dir)?;
    }
    std::fs::remove_file(&marker)
}

/// Removes what is in the directory, not the directory (it may be a mount point).
fn empty(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if !directory.exists() {
        return std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
