//! The epoch on this node's disk (rung 4, I2, I27): what the node refuses to go below, whatever the
//! stores say later.
//!
//! The record of the site DCS (`SeenEpoch`, with the federation's identity) in a file beside the
//! data directory: it outlives a reboot, which the run directory does not, and a new copy of the
//! data, which a file inside would not. Written through fsync of file and directory.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use regent_proto::record::{Record as _, SeenEpoch};

use super::postgres::files::write_atomically;
use crate::config::Config;
use crate::decide::view::DiskEpoch;

/// The file of one node.
#[derive(Debug, Clone)]
pub struct EpochFile {
    path: PathBuf,
}

impl EpochFile {
    /// Where the configuration says, by default `DATA_DIR.regent-epoch`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let path = config.regent.epoch_file.clone().unwrap_or_else(|| {
            let mut name = config.postgres.data_dir.clone().into_os_string();
            name.push(".regent-epoch");
            PathBuf::from(name)
        });
        Self { path }
    }

    /// Its place, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says. Only a file that is not there is absent; anything else that gives no record is
    /// unreadable, which means unknown, which means fenced.
    #[must_use]
    pub fn read(&self) -> DiskEpoch {
        let shown = self.path.display();
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => DiskEpoch::Absent,
            Err(error) => DiskEpoch::Unreadable(format!("{shown}: {error}")),
            Ok(bytes) => match SeenEpoch::decode(&shown.to_string(), &bytes) {
                Ok(seen) => DiskEpoch::Seen(seen),
                Err(error) => DiskEpoch::Unreadable(error.to_string()),
            },
        }
    }

    /// Writes it, durably.
    pub fn write(&self, seen: &SeenEpoch) -> std::io::Result<()> {
        write_atomically(&self.path, &seen.encode())
    }

    /// A node that cannot keep its epoch must not come so far as to need it: tried at the start.
    pub fn check(&self) -> anyhow::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let want = "want a directory that exists and that this user may write to; name another \
                    place with regent.epoch_file";
        let metadata = std::fs::metadata(directory)
            .with_context(|| format!("regent.epoch_file: {}: {want}", directory.display()))?;
        anyhow::ensure!(metadata.is_dir(), "regent.epoch_file: {}: {want}", directory.display());
        let probe = self.path.with_extension("regent-probe");
        write_atomically(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).with_context(
            || {
                format!(
                    "regent.epoch_file: cannot write in {} (mode {:o}, owner {}): {want}",
                    directory.display(),
                    metadata.mode() & 0o7777,
                    metadata.uid()
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use regent_proto::Epoch;
    use regent_proto::record::{Unknown, VERSION};

    use super::*;

    #[test]
    fn what_was_written_is_read_and_garbage_is_not_absent() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = EpochFile { path: directory.path().join("data.regent-epoch") };
        file.check().expect("writable");
        assert_eq!(file.read(), DiskEpoch::Absent);
        let seen = SeenEpoch {
            version: VERSION,
            federation: uuid::Uuid::max(),
            epoch: Epoch::new(7),
            holder: "eu".parse().expect("a site"),
            unknown: Unknown::new(),
        };
        file.write(&seen).expect("written");
        assert_eq!(file.read(), DiskEpoch::Seen(seen));
        for garbage in ["", "7\n", "{\"version\":2}"] {
            std::fs::write(file.path(), garbage).expect("written");
            assert!(matches!(file.read(), DiskEpoch::Unreadable(_)), "{garbage:?}");
        }
        std::fs::remove_file(file.path()).expect("there");
        std::fs::create_dir(file.path()).expect("made");
        assert!(matches!(file.read(), DiskEpoch::Unreadable(_)), "a directory in its place");
    }
}
