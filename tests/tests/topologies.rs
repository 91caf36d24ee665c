//! Every topology that comes with Regent is started as it stands, by the command a person types,
//! is healthy, and goes without a trace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::topology::Topology;
use regent_tests::program::{self, Finished};
use regent_tests::report::workspace;
use regent_tests::say;
use regentctl::lab::process;

const UP: Duration = Duration::from_secs(200);
const ASK: Duration = Duration::from_secs(30);

/// Takes the lab down, also in a panic.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.exists() {
            regentctl::lab::sweep::sweep(&self.0).ok();
        }
    }
}

fn regentctl(arguments: &[&str], limit: Duration) -> Finished {
    let mut command = program::ours("regentctl").expect("it was built");
    command.args(arguments);
    program::run(command, limit).expect("it ends")
}

fn started_and_ended(file: &Path) {
    let (topology, _) =
        Topology::parse(&std::fs::read_to_string(file).expect("the file")).expect("it is valid");
    let dir =
        PathBuf::from(format!("/tmp/regent-test-{}-{}", topology.federation, std::process::id()));
    let shown = dir.display().to_string();
    let _guard = Guard(dir.clone());
    let up = regentctl(&["lab", "up", &file.display().to_string(), "--dir", &shown], UP);
    assert_eq!(up.code, Some(0), "{}{}", up.stdout, up.stderr);

    let status = regentctl(&["--lab", &shown, "-o", "json", "status"], ASK);
    assert_eq!(status.code, Some(0), "{}{}", status.stdout, status.stderr);
    let seen: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(seen["primary_site"], topology.primary.as_str());
    assert_eq!(seen["primary_state"], "open");
    assert_eq!(seen["lease"]["held"], true);
    assert_eq!(seen["unreadable"], serde_json::json!([]));
    for site in topology.data_sites() {
        let sites = seen["sites"].as_array().expect("sites");
        let found = sites.iter().find(|seen| seen["name"] == site.name.as_str()).expect("the site");
        let primary = site.name == topology.primary;
        assert_eq!(found["reported_role"], if primary { "primary" } else { "standby" }, "{found}");
        let nodes = found["nodes"].as_array().expect("nodes");
        assert_eq!(nodes.len(), site.nodes.len(), "{found}");
        for node in nodes {
            assert!(node["state"] == "running" || node["state"] == "streaming", "{node}");
        }
    }
    let text = regentctl(&["--lab", &shown, "status"], ASK);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    assert!(text.stdout.lines().count() <= 24, "more than one screen:\n{}", text.stdout);
    let wide = text.stdout.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "wider than 80 columns");

    let down = regentctl(&["lab", "down", "--dir", &shown], ASK);
    assert_eq!(down.code, Some(0), "{}{}", down.stdout, down.stderr);
    assert!(!dir.exists(), "{shown} is left");
    assert!(process::living_in(&dir).is_empty(), "processes are left");
    say(format!("{}: started, healthy, removed", topology.federation));
}

#[test]
fn every_topology_starts_as_it_stands_and_goes_without_a_trace() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(workspace().join("topologies"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        started_and_ended(&file);
    }
}
