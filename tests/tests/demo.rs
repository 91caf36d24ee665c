//! The whole demo, run as a person runs it: it ends well, its report passes, nothing is left.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_tests::wait::until;
use regent_tests::{program, say};
use regentctl::lab::process;

/// The demo takes about 40 s on two idle cores.
const DEMO: Duration = Duration::from_secs(300);
/// How long the last of it may take to go.
const GOES: Duration = Duration::from_secs(5);

/// Shared memory whose maker has gone.
fn orphans() -> BTreeSet<u32> {
    let segments = process::segments().into_iter();
    let left = segments.filter(|(_, maker)| !Path::new(&format!("/proc/{maker}")).exists());
    left.map(|(id, _)| id).collect()
}

/// The ports in the connection string that the demo prints.
fn ports(output: &str) -> Vec<u16> {
    let line = output.lines().find(|line| line.contains(" port=")).unwrap_or_default();
    let list = line.split_whitespace().find_map(|word| word.strip_prefix("port="));
    list.unwrap_or_default().split(',').filter_map(|port| port.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_complete_demo_loses_nothing_and_leaves_nothing() {
    let before = orphans();
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("demo.json");
    let mut demo = program::ours("regentctl").unwrap();
    demo.args(["demo", "--plain", "--report"]).arg(&report);
    let done = tokio::task::spawn_blocking(move || program::run(demo, DEMO)).await.unwrap();
    let done = done.unwrap();
    let output = format!("{}{}", done.stdout, done.stderr);
    assert_eq!(done.code, Some(0), "{output}");

    let text = std::fs::read_to_string(&report).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let verdict = |name: &str| {
        let case = cases.iter().find(|case| case["name"] == name);
        case.unwrap_or_else(|| panic!("no case {name} in {text}"))["verdict"].clone()
    };
    let figure = |case: &serde_json::Value, name: &str| -> Option<f64> {
        let figures = case["figures"].as_array()?.iter();
        figures.filter(|figure| figure["name"] == name).find_map(|figure| figure["value"].as_f64())
    };
    for case in &cases {
        assert_eq!(case["verdict"], "pass", "{case}");
        for what in ["lost", "duplicated", "reordered"] {
            assert!(figure(case, what).is_none_or(|rows| rows == 0.0), "{case}");
        }
        say(case.to_string());
    }
    for event in ["switchover-eu-us", "failover-us", "switchover-us-eu"] {
        assert_eq!(verdict(event), "pass");
    }
    assert!(cases.iter().any(|case| figure(case, "lost") == Some(0.0)), "{text}");

    let word = output.split_whitespace().find(|word| word.starts_with("/tmp/regent-"));
    let dir: PathBuf = word.unwrap_or_else(|| panic!("no directory in {output}")).into();
    assert!(!dir.exists(), "{} is left", dir.display());
    assert_eq!(process::living_in(&dir), BTreeSet::new(), "processes are left");
    let ports = ports(&output);
    assert_eq!(ports.len(), 4, "{output}");
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port}: {e}"));
    }
    until("shared memory to be removed", GOES, async || {
        let left: Vec<u32> = orphans().difference(&before).copied().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}
