//! What lies under the nodes of a cluster, by its setting: watchdog devices, or data directories
//! on a file system that can stop answering. Outside the lab's directory, which is removed before
//! these are unmounted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::Pid;
use regent_test_sys::hanging::Directory;
use regent_test_sys::process::{all, kill_all, living_in};
use regent_test_sys::watchdog::{Device, Reset};
use regentctl::lab::Prepared;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::checker::Node;
use super::cluster::Setting;

/// Longest wait for killed processes.
const DIE: Duration = Duration::from_secs(5);

/// The ground of a cluster. Dropping it takes it away.
#[derive(Debug)]
pub struct Ground {
    /// One a node, where nodes have one.
    pub watchdogs: Vec<Device>,
    hanging: Vec<Directory>,
    /// Removed last.
    _directory: TempDir,
}

impl Ground {
    /// Makes what the setting asks for.
    ///
    /// # Errors
    /// Where it can't be had.
    pub fn make(setting: Setting, prepared: &Prepared) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("fence-ground-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let (mut watchdogs, mut hanging) = (Vec::new(), Vec::new());
        for place in &prepared.layout.nodes {
            let name = place.name.as_str();
            match setting {
                Setting::Site | Setting::Federation => {}
                Setting::Watched => {
                    let data_dir = prepared.layout.data_dir(place);
                    let config = prepared.layout.config(&place.agent());
                    let reset = reset(data_dir.clone(), config);
                    watchdogs.push(Device::at(&directory.path().join(name), &data_dir, reset)?);
                }
                Setting::Hanging => {
                    let contents = directory.path().join(format!("{name}-contents"));
                    let shown = directory.path().join(name);
                    for path in [&contents, &shown] {
                        fs::create_dir(path)?;
                        let owner = prepared.owner();
                        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
                    }
                    hanging.push(Directory::show(&contents, &shown)?);
                }
            }
        }
        Ok(Self { watchdogs, hanging, _directory: directory })
    }

    /// Tells a node's agent of it.
    pub fn configure(&self, node: Node, sections: &mut Map<String, Value>) {
        if let Some(device) = self.watchdogs.get(node) {
            let section = json!({"mode": "required", "device": device.path()});
            sections.insert("watchdog".to_owned(), section);
        }
        if let Some(data_dir) = self.data_dir(node) {
            sections["postgresql"]["data_dir"] = json!(data_dir);
        }
    }

    /// Where a node's data is, if not where the lab puts it.
    #[must_use]
    pub fn data_dir(&self, node: Node) -> Option<PathBuf> {
        self.hanging.get(node).map(|directory| directory.place().join("data"))
    }

    /// A node's data directory stops answering. Whoever looks at it from now on waits.
    ///
    /// # Errors
    /// Where it can't.
    pub fn stall(&mut self, node: Node) -> anyhow::Result<()> {
        self.hanging.get_mut(node).context("no file system that can hang")?.stall()
    }

    /// It answers again.
    pub fn resume(&mut self, node: Node) {
        if let Some(directory) = self.hanging.get_mut(node) {
            directory.resume();
        }
    }
}

/// The machine goes down: agent, guardian and server, whatever they were doing.
fn reset(data_dir: PathBuf, config: PathBuf) -> Reset {
    Reset::by(move || {
        let mut killed = 0;
        loop {
            let mut found = living_in(&data_dir);
            found.extend(named(&[&data_dir, &config]));
            if found.is_empty() {
                return Ok(killed);
            }
            killed += kill_all(&found, DIE)?;
        }
    })
}

/// Processes with one of these paths among their arguments.
fn named(paths: &[&Path]) -> BTreeSet<Pid> {
    let names = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| {
            let word = String::from_utf8_lossy(word);
            paths.iter().any(|path| Path::new(word.as_ref()) == *path)
        })
    };
    all().into_iter().filter(names).collect()
}
