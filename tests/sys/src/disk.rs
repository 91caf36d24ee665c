//! A disk that hangs: a small ext4 file system in a file, frozen.
//!
//! Whoever writes to it while it is frozen waits uninterruptibly (state `D`): a SIGKILL stays
//! pending until it is thawed, as on a dead disk. Reads are answered. The other way round than
//! [`crate::hanging`], where everything waits and everybody can be killed.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};

use crate::{Need, tools};

/// What a disk needs.
pub const NEEDS: &[Need] =
    &[Need::Root, Need::Program("mkfs.ext4"), Need::Program("mount"), Need::Program("fsfreeze")];

/// A file system of its own. Dropping it thaws and unmounts it, and removes its file.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    image: PathBuf,
    frozen: bool,
}

impl Disk {
    /// An empty file system of `bytes` at `place`, an empty directory; its file beside it.
    ///
    /// # Errors
    /// Without what [`NEEDS`] names, or without free loop devices.
    pub fn at(place: &Path, bytes: u64) -> anyhow::Result<Self> {
        let place = place.canonicalize().with_context(|| format!("find {}", place.display()))?;
        let image = place.with_extension("image");
        let shown = || format!("make {}", image.display());
        let file = File::create_new(&image).with_context(shown)?;
        let disk = Self { place, image, frozen: false };
        file.set_len(bytes).with_context(|| format!("make {}", disk.image.display()))?;
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .with_context(|| format!("{} is no text", path.display()))
        };
        let (image, place) = (text(&disk.image)?, text(&disk.place)?);
        tools::run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &image])?;
        tools::run("mount", &["-o", "loop", &image, &place])?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Writers wait from now on.
    ///
    /// # Errors
    /// When it can't be frozen.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.fsfreeze("-f")?;
        self.frozen = true;
        Ok(())
    }

    /// Writers go on, or die of the signal that they had.
    ///
    /// # Errors
    /// When it can't be thawed.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.fsfreeze("-u")?;
        self.frozen = false;
        Ok(())
    }

    fn fsfreeze(&self, way: &str) -> anyhow::Result<()> {
        let place = self.place.to_str().context("the place of the disk is no text")?;
        tools::run("fsfreeze", &[way, place]).map(|_| ())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            self.fsfreeze("-u").ok();
        }
        // The loop device goes with the last user of the mount.
        umount2(&self.place, MntFlags::MNT_DETACH).ok();
        std::fs::remove_file(&self.image).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{ended, lives, stat};
    use crate::tools::{Owned, command};
    use crate::{boot, lacks};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn whoever_writes_to_a_frozen_disk_outlives_its_sigkill_until_it_is_thawed() {
        if lacks(NEEDS) {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("disk");
        std::fs::create_dir(&place).expect("a directory");
        let mut disk = Disk::at(&place, 16 << 20).expect("a disk");
        std::fs::write(disk.place().join("before"), "x").expect("it answers");
        disk.freeze().expect("it freezes");
        let line = format!("echo x >{}/during", place.display());
        let writer = Owned(command("sh").args(["-c", &line]).spawn().expect("sh starts"));
        let pid = Pid::from_raw(writer.0.id().try_into().expect("a pid"));
        let waits = || (stat(pid)?.state == 'D').then_some(());
        boot::until(SOON, waits).expect("it waits");
        kill(pid, Signal::SIGKILL).expect("it is ours");
        boot::pause(Duration::from_millis(100));
        assert!(lives(pid) && stat(pid).is_some_and(|stat| stat.state == 'D'));
        assert_eq!(std::fs::read(place.join("before")).expect("reads go on"), b"x");
        disk.thaw().expect("it thaws");
        ended(pid, SOON).expect("it dies");
        disk.freeze().expect("it freezes");
        drop(disk);
        assert!(!place.join("before").exists(), "nothing is mounted");
    }
}
