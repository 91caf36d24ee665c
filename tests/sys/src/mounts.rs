//! FUSE mounts of tests: their connection aborted and the mount gone, whatever still uses it.
//!
//! A process in uninterruptible wait on a mount whose server does not answer can't be killed;
//! aborting the connection in /sys/fs/fuse ends its wait with an error (kernel documentation,
//! filesystems/fuse/fuse.rst).

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const CONTROL: &str = "/sys/fs/fuse/connections";

/// What every mount of this crate is called in /proc/mounts, before its own name.
pub const PREFIX: &str = "regent-test-";

/// A FUSE mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub place: PathBuf,
    /// Number of its connection.
    pub connection: u32,
    /// Its source, as its server called it.
    pub source: String,
}

/// The FUSE mounts of this mount namespace. Looks at none of them, which might hang.
#[must_use]
pub fn all() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// A line of proc_pid_mountinfo(5): "ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS... - TYPE SOURCE ...".
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    right.next()?.starts_with("fuse").then_some(())?;
    let source = right.next()?.to_owned();
    let mut left = left.split(' ');
    // The minor device number of a FUSE mount is the number of its connection.
    let connection = left.nth(2)?.split_once(':')?.1.parse().ok()?;
    let place = left.nth(1)?.replace("\\040", " ");
    Some(Mount { place: PathBuf::from(place), connection, source })
}

/// Detaches the mount at `place` and aborts its connection, so that nobody waits on it any more.
pub fn end(place: &Path) {
    let place = place.to_owned();
    for found in all().into_iter().filter(|found| found.place == place) {
        umount2(&found.place, MntFlags::MNT_DETACH).ok();
        abort(found.connection);
    }
}

fn abort(connection: u32) {
    let file = PathBuf::from(CONTROL).join(connection.to_string()).join("abort");
    if !file.exists() {
        let none: Option<&str> = None;
        mount(Some("fusectl"), CONTROL, Some("fusectl"), MsFlags::empty(), none).ok();
    }
    // Gone with its last file already: nothing waits.
    fs::write(file, "1").ok();
}

/// Ends the mounts that tests left whose process was killed.
pub fn sweep() {
    for left in all().into_iter().filter(|found| found.source.starts_with(PREFIX)) {
        let pid = left.source.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let alive = pid.is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            end(&left.place);
        }
    }
}

/// A source's name that [`sweep`] can tell the owner from.
#[must_use]
pub fn source(what: &str) -> String {
    format!("{PREFIX}{}-{what}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_are_read_with_their_connection() {
        let line =
            "97 29 0:40 / /tmp/a\\040b rw,nosuid shared:5 - fuse regent-test-7-x rw,user_id=0";
        let wanted = Mount {
            place: PathBuf::from("/tmp/a b"),
            connection: 40,
            source: "regent-test-7-x".to_owned(),
        };
        assert_eq!(parse(line), Some(wanted));
        assert_eq!(parse("29 1 254:0 / / rw shared:1 - ext4 /dev/vda rw"), None);
    }
}
