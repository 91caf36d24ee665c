//! Under which user a lab runs, and the directory that this user owns.
//!
//! PostgreSQL refuses to run as root and so do we: started as root, everything of a lab runs as
//! `postgres` where that user exists, else as `nobody`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use crate::exit::Failure;

/// The user a lab runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name.
    pub name: String,
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// Whether this is another user than the one who started us.
    pub dropped: bool,
}

impl Owner {
    /// Chooses the user.
    pub fn choose() -> Result<Self, Failure> {
        let uid = nix::unistd::geteuid();
        if !uid.is_root() {
            let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
            return Ok(Self {
                name: name.unwrap_or_else(|| uid.to_string()),
                uid,
                gid: nix::unistd::getegid(),
                dropped: false,
            });
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self { name: user.name, uid: user.uid, gid: user.gid, dropped: true })
            .ok_or_else(|| {
                Failure::error(
                    "started as root, but neither user postgres nor user nobody exists to drop to; \
                     PostgreSQL does not run as root",
                )
                .next("adduser --system postgres")
            })
    }

    /// Makes `dir`, which must not exist, for this user alone.
    pub fn make_dir(&self, dir: &Path) -> Result<(), Failure> {
        let fail = |what: &str, e: std::io::Error| {
            Failure::error(format!("{what} {}: {e}", dir.display()))
        };
        DirBuilder::new().mode(0o700).create(dir).map_err(|e| fail("make directory", e))?;
        // Inherited setgid or ACLs must not widen it.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(|e| fail("set mode of", e))?;
        Ok(())
    }

    /// Writes a file that only this user can read.
    pub fn write(&self, file: &Path, text: &str) -> Result<(), Failure> {
        let fail = |e| Failure::error(format!("write {}: {e}", file.display()));
        let mut open = OpenOptions::new();
        open.write(true).create_new(true).mode(0o600);
        open.open(file).and_then(|mut f| f.write_all(text.as_bytes())).map_err(fail)
    }

    /// Hands everything just made below `dir` to this user, `dir` itself last: until then nobody
    /// else can reach into it.
    pub fn hand_over(&self, dir: &Path) -> Result<(), Failure> {
        if !self.dropped {
            return Ok(());
        }
        let fail = |path: &Path, e| {
            Failure::error(format!("give {} to user {}: {e}", path.display(), self.name))
        };
        let entries = fs::read_dir(dir).map_err(|e| fail(dir, e))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).map_err(|e| fail(&path, e))?;
            if meta.is_dir() {
                self.hand_over(&path)?;
            } else if meta.nlink() == 1 {
                // A hard link shares its owner with the original, which is not ours to give away.
                chown(&path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
                    .map_err(|e| fail(&path, e))?;
            }
        }
        chown(dir, Some(self.uid.as_raw()), Some(self.gid.as_raw())).map_err(|e| fail(dir, e))
    }

    /// The first directory on the way to `path` that this user cannot pass.
    #[must_use]
    pub fn barred(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors()
            .skip(1)
            .filter(|directory| !directory.as_os_str().is_empty())
            .find(|directory| !fs::metadata(directory).is_ok_and(|meta| self.may(&meta, 0o1)))
            .map(Path::to_owned)
    }

    /// Whether the mode lets this user do `bits` (4 read, 2 write, 1 execute or pass).
    #[must_use]
    pub fn may(&self, meta: &fs::Metadata, bits: u32) -> bool {
        let shift = if meta.uid() == self.uid.as_raw() {
            6
        } else if meta.gid() == self.gid.as_raw() {
            3
        } else {
            0
        };
        meta.mode() >> shift & bits == bits
    }
}

/// Whether a directory is a lab's that this process may trust: ours, or, as root, the lab user's,
/// and closed to everybody else.
#[must_use]
pub fn is_trusted(dir: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(dir) else { return false };
    let Ok(owner) = Owner::choose() else { return false };
    meta.is_dir() && meta.uid() == owner.uid.as_raw() && meta.mode() & 0o077 == 0
}

/// The directory for labs without `--dir`: the temporary directory, unless the lab's user can't
/// reach it.
#[must_use]
pub fn base(owner: &Owner) -> PathBuf {
    let usual = std::env::temp_dir();
    let usual = usual.canonicalize().unwrap_or(usual);
    let reachable = owner.barred(&usual.join("x")).is_none();
    if reachable { usual } else { PathBuf::from("/tmp") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let top = tempfile::tempdir().expect("a directory");
        let closed = top.path().join("closed");
        DirBuilder::new().mode(0o700).create(&closed).expect("a directory");
        let stranger = Owner {
            name: "stranger".into(),
            uid: Uid::from_raw(54_321),
            gid: Gid::from_raw(54_321),
            dropped: true,
        };
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        assert_eq!(stranger.barred(&closed.join("lab")), Some(closed));
    }
}
