//! A directory that stops answering, with a real PostgreSQL on it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Pid, User, chown};
use regent_test_sys::hanging::{Directory, NEEDS};
use regent_test_sys::process::{ended, kill_all, lives, living_in, stat, title};
use regent_test_sys::tools::{Owned, command};
use regent_test_sys::{Need, boot, lacks, mounts};

const SOON: Duration = Duration::from_secs(10);

fn pid(child: &Owned) -> Pid {
    Pid::from_raw(child.0.id().try_into().expect("a pid"))
}

/// Contents and the place where they are seen.
fn directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all).expect("it can be entered");
    let (contents, place) = (dir.path().join("contents"), dir.path().join("place"));
    for made in [&contents, &place] {
        std::fs::create_dir(made).expect("a directory");
    }
    (dir, contents, place)
}

#[test]
fn whoever_asks_a_stalled_directory_waits_and_goes_on_when_it_answers() {
    if lacks(NEEDS) {
        return;
    }
    let (_dir, contents, place) = directories();
    let mut directory = Directory::show(&contents, &place).expect("a mount");
    std::fs::write(directory.place().join("before"), "x").expect("it answers");
    assert_eq!(std::fs::read(contents.join("before")).expect("it is there"), b"x");
    directory.stall().expect("it stalls");
    let line = format!("echo x >{}/during", place.display());
    let writer = Owned(command("sh").args(["-c", &line]).spawn().expect("sh starts"));
    let waits =
        || (stat(pid(&writer))?.state == 'D' || stat(pid(&writer))?.state == 'S').then_some(());
    boot::until(SOON, waits).expect("it waits");
    assert!(!contents.join("during").exists());
    directory.resume();
    ended(pid(&writer), SOON).expect("it ends");
    assert!(contents.join("during").exists());
}

#[test]
fn a_stalled_directory_that_is_dropped_keeps_nobody() {
    if lacks(NEEDS) {
        return;
    }
    let (_dir, contents, place) = directories();
    let mut directory = Directory::show(&contents, &place).expect("a mount");
    let place = directory.place().to_owned();
    directory.stall().expect("it stalls");
    let line = format!("echo x >{}/during", place.display());
    let writer = Owned(command("sh").args(["-c", &line]).spawn().expect("sh starts"));
    let asked = || {
        (title(pid(&writer)).starts_with("sh ") && stat(pid(&writer))?.state != 'R').then_some(())
    };
    boot::until(SOON, asked).expect("it waits");
    drop(directory);
    ended(pid(&writer), SOON).expect("it ends");
    assert!(!contents.join("during").exists());
    assert!(!mounts::all().iter().any(|mount| mount.place == place));
}

fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.flatten().map(|version| version.path().join("bin"));
    found.filter(|bin| bin.join("postgres").exists()).max()
}

/// A command as the user `postgres`, or `nobody`.
fn as_user(program: PathBuf, owner: &User) -> Command {
    let mut command = command(program);
    command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).current_dir("/");
    command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn psql(bin: &Path, socket: &Path, owner: &User, statement: &str) -> Command {
    let mut command = as_user(bin.join("psql"), owner);
    command.args(["-XAtq", "-d", "postgres", "-U", "postgres", "-h"]).arg(socket);
    command.args(["-c", statement]);
    command
}

#[test]
fn postgres_runs_on_it_and_its_writers_hang_while_it_is_stalled() {
    if lacks(&[NEEDS, &[Need::Program("setpriv")]].concat()) {
        return;
    }
    let Some(bin) = postgres_programs() else {
        assert!(lacks(&[Need::Program("postgres")]), "Debian's layout is expected");
        return;
    };
    let owner = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok()?);
    let owner = owner.expect("an unprivileged user");
    let (dir, contents, place) = directories();
    for owned in [dir.path(), &contents] {
        chown(owned, Some(owner.uid), Some(owner.gid)).expect("root may");
    }
    let mut directory = Directory::show(&contents, &place).expect("a mount");
    let place = directory.place().to_owned();
    let data = place.join("data");
    let mut initdb = as_user(bin.join("initdb"), &owner);
    initdb.args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&data);
    assert!(initdb.status().expect("initdb runs").success());
    let mut server = as_user(bin.join("postgres"), &owner);
    server.args(["-c", "listen_addresses=", "-D"]).arg(&data).arg("-k").arg(dir.path());
    let server = Owned(server.spawn().expect("it starts"));
    let sql = |statement: &str| psql(&bin, dir.path(), &owner, statement);
    let answers = || sql("SELECT 1").status().is_ok_and(|s| s.success()).then_some(());
    boot::until(Duration::from_secs(30), answers).expect("it answers");
    let made = sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").status();
    assert!(made.expect("psql runs").success());

    directory.stall().expect("it stalls");
    let writer = Owned(sql("INSERT INTO t VALUES (2)").spawn().expect("psql starts"));
    // A backend in the middle of a request to the file system (fs/fuse/dev.c).
    let hangs = || {
        living_in(&data).into_iter().find(|pid| {
            let call = std::fs::read_to_string(format!("/proc/{pid}/wchan"));
            call.is_ok_and(|call| call == "request_wait_answer")
        })
    };
    let hanging = boot::until(SOON, hangs).expect("a process that waits for the directory");
    assert!(title(hanging).starts_with("postgres"), "{}", title(hanging));
    assert!(lives(pid(&writer)), "the commit is not acknowledged");
    directory.resume();
    ended(pid(&writer), SOON).expect("the commit goes on");
    assert!(
        sql("SELECT 1 / (count(*) - 1) FROM t").status().is_ok_and(|s| s.success()),
        "two rows"
    );

    // Dropped while it hangs: nothing waits for the directory any more.
    directory.stall().expect("it stalls");
    let writer = Owned(sql("INSERT INTO t VALUES (3)").spawn().expect("psql starts"));
    boot::until(SOON, hangs).expect("a process that waits for the directory");
    let all = living_in(&data);
    drop(directory);
    kill_all(&all, SOON).expect("all can be killed");
    drop((writer, server));
}
