//! The virtual machine's initial RAM disk: busybox, the drivers, the guardian, this crate's
//! `fence-vm`, PostgreSQL with a new data directory, and every library that one of them names.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use regent_test_sys::tools::{command, program, run};
use regentctl::lab::owner::Owner;
use regentctl::lab::programs;

use super::inside::{PLACE, USER};
use super::{Driver, Fault};
use crate::program::path;

/// The machine's first program. A watchdog of the kernel's can't reset what no driver is loaded for.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/shm /tmp
/bin/busybox mount -t tmpfs shm /dev/shm
/bin/busybox chmod 1777 /dev/shm /tmp
/bin/busybox insmod /drivers/watchdog.ko
/bin/busybox insmod /drivers/DRIVER.ko
/bin/busybox chown 1000:1000 /dev/watchdog0
/regent/fence-vm --inside BIN /dev/watchdog0 FAULT
echo \"VM ended $?\"
/bin/busybox poweroff -f
";

/// Packs the image into `image`, with everything gathered below `root`.
///
/// # Errors
/// When a part is missing, or a program fails.
pub fn pack(
    tools: &Path,
    root: &Path,
    driver: Driver,
    fault: Fault,
    image: &Path,
) -> anyhow::Result<()> {
    let bin = programs::postgres(&Owner::choose()?)?.bin;
    let own = std::env::current_exe().context("this program's own path")?;
    if !root.join("bin").exists() {
        for dir in ["bin", "drivers", "proc", "sys", "dev", "etc", "regent"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::copy(program("busybox")?, root.join("bin/busybox")).context("copy busybox")?;
        std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
        let passwd = format!("root:x:0:0::/:/bin/sh\npostgres:x:{USER}:{USER}::{PLACE}:/bin/sh\n");
        fs::write(root.join("etc/passwd"), passwd)?;
        let place = root.join(&PLACE[1..]);
        fs::copy(path("regent-guardian")?, place.join("regent-guardian"))?;
        fs::copy(&own, place.join("fence-vm"))?;
        let mut programs = vec![place.join("regent-guardian"), place.join("fence-vm")];
        for name in ["postgres", "psql"] {
            keep(root, &bin.join(name))?;
            programs.push(bin.join(name));
        }
        let share = run("pg_config", &["--sharedir"]).ok();
        let share = share.map_or_else(|| default_share(&bin), |dir| PathBuf::from(dir.trim()));
        let inside = root.join(share.strip_prefix("/")?);
        fs::create_dir_all(inside.parent().context("a directory above")?)?;
        copy_tree(&share, &inside)?;
        let modules = bin.parent().context("a directory above bin")?.join("lib");
        let module = modules.join("dict_snowball.so");
        if module.exists() {
            keep(root, &module)?;
        }
        for library in libraries(&programs)? {
            keep(root, &library)?;
        }
        data_directory(&bin, &place)?;
        chown(&place, Some(USER), Some(USER))?;
        for name in ["watchdog", "softdog", "i6300esb"] {
            let file = format!("{name}.ko");
            let from = tools.join("vm").join(&file);
            fs::copy(&from, root.join("drivers").join(&file))
                .with_context(|| format!("copy {}: run scripts/install-vm", from.display()))?;
        }
    }
    let init = INIT.replace("DRIVER", driver.name()).replace("FAULT", &fault.to_string());
    let init = init.replace("BIN", &bin.display().to_string());
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let mut cpio = command("sh");
    cpio.args(["-c", "find . | cpio --quiet -o -H newc"]).current_dir(root);
    cpio.stdout(fs::File::create(image)?);
    ensure!(cpio.status()?.success(), "cpio failed");
    Ok(())
}

fn default_share(bin: &Path) -> PathBuf {
    let major = bin.parent().and_then(Path::file_name).unwrap_or_default();
    Path::new("/usr/share/postgresql").join(major)
}

/// A file at its own path inside.
fn keep(root: &Path, file: &Path) -> anyhow::Result<()> {
    let inside = root.join(file.strip_prefix("/")?);
    fs::create_dir_all(inside.parent().context("a directory above")?)?;
    fs::copy(file, &inside).with_context(|| format!("copy {}", file.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut copy = command("cp");
    ensure!(copy.arg("-aL").args([from, to]).status()?.success(), "copy {}", from.display());
    Ok(())
}

/// Every library that these programs are linked with, as ldd(1) prints them.
fn libraries(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in programs {
        let output = command("ldd").arg(program).output().context("run ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.split_whitespace().filter(|word| word.starts_with('/'));
        all.extend(words.map(PathBuf::from));
    }
    Ok(all)
}

/// initdb as the user that it will belong to.
fn data_directory(bin: &Path, place: &Path) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let work = tempfile::Builder::new().prefix("fence-vm").tempdir()?;
    chown(work.path(), Some(USER), Some(USER))?;
    let mut initdb = command(bin.join("initdb"));
    initdb.uid(USER).gid(USER).current_dir(work.path()).stdout(Stdio::null());
    // The image has neither locales nor time zones.
    initdb
        .env("TZ", "GMT")
        .args(["--no-locale", "-N", "-A", "trust", "-U", "postgres", "-D"])
        .arg(work.path().join("data"));
    ensure!(initdb.status()?.success(), "initdb failed");
    let mut copy = command("cp");
    copy.arg("-a").arg(work.path().join("data")).arg(place);
    ensure!(copy.status()?.success(), "copy the data directory");
    Ok(())
}
