//! What this node remembers of its cluster (`decide/remembered.rs`), in a file beside the data directory:
//! it outlives this process, a reboot, and the data themselves (ADR 40).
//!
//! It names the cluster by the prefix of its keys: what was remembered of another one says nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use regent_proto::name::NodeName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::epoch_file::EpochFile;
use super::postgres::files::write_atomically;
use crate::config::Config;
use crate::decide::remembered::Remembered;

/// How soon a write that came to nothing is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// The prefix of its keys in the site DCS.
    cluster: String,
    /// REST addresses by member.
    members: BTreeMap<NodeName, String>,
}

/// The file of one node.
#[derive(Debug, Clone)]
pub struct ClusterFile {
    path: PathBuf,
    cluster: String,
}

impl ClusterFile {
    /// Beside the epoch: by default `DATA_DIR.regent-cluster`.
    #[must_use]
    pub fn new(config: &Config, prefix: &str) -> Self {
        let path = EpochFile::new(config).path().with_extension("regent-cluster");
        Self { path, cluster: prefix.to_owned() }
    }

    /// Its place, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of this cluster. One that gives nothing is an error: nobody knows what this node has
    /// seen.
    pub fn read(&self) -> anyhow::Result<Option<Remembered>> {
        let shown = self.path.display();
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("reading {shown}"))?,
        };
        let written: Written = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{shown}: the members of this cluster as this node last saw them cannot be read; remove \
                 it where the site DCS has `initialize`, or where this node's data are the ones that count"
            )
        })?;
        let ours = written.cluster == self.cluster;
        Ok(ours.then_some(Remembered { members: written.members }))
    }

    /// Writes it, durably.
    pub fn write(&self, remembered: &Remembered) -> std::io::Result<()> {
        let written =
            Written { cluster: self.cluster.clone(), members: remembered.members.clone() };
        let text = serde_json::to_vec(&written).map_err(std::io::Error::other)?;
        write_atomically(&self.path, &text)
    }
}

/// Writes what is remembered whenever it changes, beside the loop: no decision waits for the disk.
pub async fn keep(file: ClusterFile, mut remembered: watch::Receiver<Option<Remembered>>) {
    while remembered.changed().await.is_ok() {
        let Some(now) = remembered.borrow_and_update().clone() else { continue };
        let writes = file.clone();
        let written = tokio::task::spawn_blocking(move || writes.write(&now)).await;
        if let Err(error) = written.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%error, path = %file.path().display(), "keeping the members of the cluster");
            remembered.mark_changed();
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cluster: &str, directory: &Path) -> ClusterFile {
        let path = directory.join("data.regent-cluster");
        ClusterFile { path, cluster: cluster.to_owned() }
    }

    #[test]
    fn what_was_written_is_read_of_its_own_cluster_only_and_garbage_is_not_absent() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = of("/service/eu/", directory.path());
        assert_eq!(file.read().expect("absent is no error"), None);
        let url = "http://127.0.0.1:8008/patroni".to_owned();
        let members = [("eu-1".parse().expect("a name"), url)].into();
        let remembered = Remembered { members };
        file.write(&remembered).expect("written");
        assert_eq!(file.read().expect("readable"), Some(remembered));
        let other = of("/service/us/", directory.path());
        assert_eq!(other.read().expect("readable"), None);
        for garbage in ["", "[]", "{\"cluster\":1}", "{\"cluster\":\"/service/us/\"}"] {
            std::fs::write(file.path(), garbage).expect("written");
            assert!(file.read().is_err(), "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn the_last_that_was_remembered_is_written_down() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = of("/service/eu/", directory.path());
        let (remembers, remembered) = watch::channel(None);
        let last =
            Remembered { members: [("eu-2".parse().expect("a name"), String::new())].into() };
        remembers.send_replace(Some(Remembered::default()));
        remembers.send_replace(Some(last.clone()));
        drop(remembers);
        keep(file.clone(), remembered).await;
        assert_eq!(file.read().expect("readable"), Some(last));
    }
}
