//! Making a data directory: `initdb`, `pg_basebackup`, `pg_rewind`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use regent_proto::name::SystemIdentifier;
use tokio::sync::watch;

use super::configuration::{Wanted, setting};
use super::control;
use super::files::{Files, write_atomically};
use super::programs::Programs;
use super::salvage::{self, How};
use crate::config::dynamic::Dynamic;
use crate::config::{Config, User};
use crate::decide::salvage::Salvage;

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
    let owned = Wanted::of(config, dynamic).owned();
    command.arg("--single").args(files.arguments(config, &owned)).arg("postgres");
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

/// Asks who is there on the replication port, with the replication role: the system identifier comes
/// first. `psql` speaks the protocol's simple commands; tokio-postgres does not (stack.md).
pub async fn identify(
    programs: &Programs,
    conninfo: &str,
    bound: Duration,
) -> Result<String, super::programs::ProgramError> {
    ask_walsender(programs, conninfo, "IDENTIFY_SYSTEM", bound).await
}

/// One command of the replication protocol.
pub async fn ask_walsender(
    programs: &Programs,
    conninfo: &str,
    text: &str,
    bound: Duration,
) -> Result<String, super::programs::ProgramError> {
    let mut command = programs.command("psql");
    command
        .args(["--no-psqlrc", "--no-password", "-XAtc", text])
        .arg(format!("{conninfo} replication=true"));
    programs.output(command, bound).await
}

/// Whether a cluster is here, or what is left of one: a lost file is no reason to take the rest for nothing.
pub(super) fn holds_data(files: &Files) -> bool {
    let is_there = |name: &str| files.data_dir.join(name).exists();
    (is_there("PG_VERSION") || is_there("global/pg_control")) && !files.incomplete().exists()
}

/// What comes before the first file is removed: what is here may be all that is left of what the source
/// has lost, so it goes only for one that answers and is of the same database, and after what that one
/// may never have had is kept (I15): linked where all of it is removed, for what is removed lives on under
/// its other name. An empty directory is begun at once: by that the node that claimed
/// `initialize` is known.
pub async fn make_room(
    programs: &Programs,
    files: &Files,
    conninfo: &str,
    how: How,
    (keep, limit): (Option<&Salvage>, u64),
) -> anyhow::Result<()> {
    if !holds_data(files) {
        return Ok(());
    }
    let there = identify(programs, conninfo, SOURCE_BOUND).await;
    let there = there.context("what is here stays")?;
    let mine = match keep {
        Some(salvage) => salvage.control.system_identifier,
        // A healthy copy, which somebody wants anew, is no reason to take another database for it.
        None => {
            let control = control::read(programs, &files.data_dir).await;
            control.map_err(anyhow::Error::msg).context("what is here stays")?.system_identifier
        }
    };
    same_database(&there, mine).context("what is here stays")?;
    match keep {
        Some(salvage) => salvage_first(files, salvage, how, limit).await,
        None => Ok(()),
    }
}

/// Copies a server, after removing what is there. `progress` gets one line a second.
pub async fn clone(
    programs: &Programs,
    files: &Files,
    user: &User,
    addresses: &[(String, u16)],
    progress: &watch::Sender<Option<String>>,
    keep: (Option<&Salvage>, u64),
) -> anyhow::Result<()> {
    let conninfo = files.conninfo(user, addresses, "pg_basebackup");
    make_room(programs, files, &conninfo, How::Link, keep).await?;
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
    forget_sources_configuration(files)?;
    done(files)
}

/// The kept dynamic configuration came along from the source, which may be of another site. This
/// node's own is written at its next start.
pub fn forget_sources_configuration(files: &Files) -> std::io::Result<()> {
    match std::fs::remove_file(files.dynamic()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whoever answers must be of the database that it takes the place of.
fn same_database(answer: &str, mine: SystemIdentifier) -> anyhow::Result<()> {
    let mine = mine.to_string();
    let theirs = answer.split('|').next().unwrap_or_default().trim();
    anyhow::ensure!(theirs == mine, "the source is of database {theirs:?}, and this one of {mine}");
    Ok(())
}

/// Keeps what must not be lost. Beside the runtime: it may be much.
pub async fn salvage_first(
    files: &Files,
    salvage: &Salvage,
    how: How,
    limit: u64,
) -> anyhow::Result<()> {
    let (files, salvage) = (files.clone(), salvage.clone());
    let keep = move || salvage::keep(&files, &salvage, how, limit);
    // As it is, so that whoever asks finds out that nothing was touched.
    Ok(tokio::task::spawn_blocking(keep).await?.map(drop)?)
}

/// Rewinds onto a primary. A failure midway leaves the directory unusable: it then counts as
/// incomplete (hazards.md section 4, fact 28). WAL that is missing here is fetched from the archive,
/// where there is one.
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
    let restores = setting(programs, files, "restore_command").await;
    if restores.is_some_and(|command| !command.is_empty()) {
        command.arg("--restore-target-wal");
    }
    let marker = files.incomplete();
    let run = programs.run(command, REWIND_BOUND, |line| {
        // Said after all preconditions held and before the first file is touched.
        if line.contains("rewinding from last common checkpoint")
            && let Err(error) = files.begin("pg_rewind\n")
        {
            tracing::error!("{error:#}: a rewind has begun");
        }
    });
    run.await?;
    if !marker.exists() {
        return Ok(());
    }
    forget_sources_configuration(files)?;
    done(files)
}

/// Notes that the directory is incomplete, and empties it.
pub fn begin(files: &Files) -> anyhow::Result<()> {
    files.begin("copy\n")?;
    empty(&files.data_dir)?;
    Ok(())
}

/// It is complete.
pub fn done(files: &Files) -> anyhow::Result<()> {
    Ok(files.complete()?)
}

/// Gives up what was begun here. What is still in the directory goes before the marker does: without it,
/// half a cluster would count as one.
pub fn give_up(files: &Files) -> std::io::Result<()> {
    if !files.incomplete().exists() {
        return Ok(());
    }
    if files.data_dir.exists() {
        empty(&files.data_dir)?;
    }
    files.complete()
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::salvage::tests::{Place, config, salvage};
    use super::*;
    use crate::decide::salvage::Keep;

    const MUCH: u64 = 1 << 40;

    /// What `pg_controldata` prints of a standby of the database [`OURS`].
    const CONTROL: &str = "\
Database system identifier:           7000000000000000001
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/5000028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/5000100
Min recovery ending loc's timeline:   1
";

    /// Programs that answer as PostgreSQL's would, and note that they ran. Written by another process:
    /// what this one has open for writing while another test starts a program can't be run (ETXTBSY).
    fn programs(place: &Place, identifier: &str) -> Programs {
        programs_with(place, identifier, "true")
    }

    #[expect(clippy::disallowed_methods, reason = "processes that end at once")]
    fn programs_with(place: &Place, identifier: &str, rewinds: &str) -> Programs {
        let bin = place.dir.path().join("bin");
        std::fs::create_dir_all(&bin).expect("made");
        let ran = place.dir.path().join("ran").display().to_string();
        for (name, does) in [
            ("psql", format!("echo '{identifier}|2|0/5000000|'")),
            // The directory is empty by now.
            ("pg_basebackup", "ls \"$2\" | wc -l; echo 15 > \"$2/PG_VERSION\"".to_owned()),
            ("pg_rewind", rewinds.to_owned()),
            ("postgres", "true".to_owned()),
            ("pg_controldata", format!("cat <<'END'\n{CONTROL}END")),
        ] {
            let text = format!("#!/bin/sh\necho {name} >> {ran}\n{does}\n");
            let line = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
            let mut shell = std::process::Command::new("sh");
            let written = shell.args(["-c", line]).arg(bin.join(name)).arg(text).status();
            assert!(written.expect("sh").success());
        }
        Programs::new(&bin)
    }

    fn ran(place: &Place) -> String {
        std::fs::read_to_string(place.dir.path().join("ran")).unwrap_or_default()
    }

    fn kept(place: &Place) -> PathBuf {
        place.files.salvage.join("00000001")
    }

    async fn copy(place: &Place, identifier: &str, limit: u64) -> anyhow::Result<()> {
        let salvage = salvage(Keep::Everything);
        copy_keeping(place, identifier, (Some(&salvage), limit)).await
    }

    async fn copy_keeping(
        place: &Place,
        identifier: &str,
        keep: (Option<&Salvage>, u64),
    ) -> anyhow::Result<()> {
        let programs = programs(place, identifier);
        let config = config(place.dir.path());
        let user = &config.postgres.authentication.replication;
        let addresses = [("127.0.0.1".to_owned(), 1)];
        let progress = watch::Sender::new(None);
        clone(&programs, &place.files, user, &addresses, &progress, keep).await
    }

    /// World's identity (`decide::tests::world::control`).
    const OURS: &str = "7000000000000000001";

    #[tokio::test]
    async fn salvage_is_there_before_the_first_file_is_removed() {
        let place = Place::new();
        let segment = place.segment(2, 4, 4 * (16 << 20));
        copy(&place, OURS, MUCH).await.expect("copied");
        // Nothing of it is left but here, so it was kept first.
        let old = place.files.data_dir.join("pg_wal").join(&segment);
        assert!(!old.exists() && kept(&place).join("pg_wal").join(&segment).exists());
        assert!(kept(&place).join("global/pg_control").exists());
        assert_eq!(ran(&place), "psql\npg_basebackup\n");
        assert!(!place.files.incomplete().exists());
    }

    /// hazards.md row 77: its source goes midway, and then the machine.
    #[tokio::test]
    async fn a_rewind_that_broke_off_is_known_after_a_reboot() {
        let place = Place::new();
        let config = config(place.dir.path());
        let user = &config.postgres.authentication.replication;
        let addresses = [("127.0.0.1".to_owned(), 1)];
        let begun = "echo 'pg_rewind: rewinding from last common checkpoint at 0/1' >&2; ";
        let note = place.files.incomplete();
        let note = note.display();
        // Its note is there before it goes on, and not only when it has ended.
        let midway = format!(
            "{begun} for i in $(seq 200); do [ -e '{note}' ] && exit 1; sleep 0.05; done; rm -f '{note}'"
        );
        let fails = format!("{begun} exit 1");
        let rows = [
            ("exit 1", false, false),
            (midway.as_str(), false, true),
            (fails.as_str(), false, true),
        ];
        for (does, well, half) in rows.into_iter().chain([(begun, true, false)]) {
            let programs = programs_with(&place, OURS, does);
            let done = rewind(&programs, &place.files, user, &addresses).await;
            assert_eq!(done.is_ok(), well, "{does}: {done:?}");
            std::fs::remove_dir_all(&place.files.run_dir).expect("as a reboot does");
            std::fs::create_dir(&place.files.run_dir).expect("made");
            assert_eq!(place.files.half_rewound(), half, "{does}");
            drop(std::fs::remove_file(place.files.incomplete()));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_removed() {
        let place = Place::new();
        let segment = place.segment(2, 4, 4 * (16 << 20));
        // A file stands where the salvage would go.
        std::fs::write(&place.files.salvage, "").expect("written");
        let blocked = copy(&place, OURS, MUCH).await.expect_err("nothing can be kept");
        assert!(blocked.is::<salvage::SalvageError>(), "{blocked:#}");
        std::fs::remove_file(&place.files.salvage).expect("removed");
        let much = copy(&place, OURS, 1).await.expect_err("too much to keep");
        assert!(much.is::<salvage::SalvageError>(), "{much:#}");
        // Nor is anything for a source of another database.
        let foreign = copy(&place, "7000000000000000002", MUCH).await.expect_err("foreign");
        assert!(format!("{foreign:#}").contains("of database"), "{foreign:#}");
        assert_eq!(ran(&place), "psql\npsql\npsql\n", "no copy began");
        for file in ["PG_VERSION", "global/pg_control"] {
            assert!(place.files.data_dir.join(file).exists(), "{file}");
        }
        assert!(place.files.data_dir.join("pg_wal").join(&segment).exists());
        assert!(!place.files.incomplete().exists(), "and it counts as what it is");
    }

    #[tokio::test]
    async fn a_copy_that_has_nothing_to_keep_goes_for_one_of_its_own_database_only() {
        let place = Place::new();
        // A lost file is no reason to take the rest for nothing.
        std::fs::remove_file(place.files.data_dir.join("PG_VERSION")).expect("removed");
        let foreign = copy_keeping(&place, "7000000000000000002", (None, MUCH)).await;
        let foreign = format!("{:#}", foreign.expect_err("foreign"));
        assert!(foreign.contains("of database"), "{foreign}");
        assert!(place.files.data_dir.join("global/pg_control").exists());
        copy_keeping(&place, OURS, (None, MUCH)).await.expect("copied");
        assert!(!place.files.data_dir.join("global/pg_control").exists());
        assert!(!kept(&place).exists(), "there was nothing to keep");
        let programs = "psql\npg_controldata\npsql\npg_controldata\npg_basebackup\n";
        assert_eq!(ran(&place), programs);
    }
}
