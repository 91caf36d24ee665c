//! The program itself: what it says about bad input, and how it stops.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_dcs::Store as _;
use regent_dcs::sqlite::SqliteStore;
use regent_proto::keys::GlobalKeys;

const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "these tests are about running the program")]
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regent-coordinator"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&Path]) -> Output {
    program().args(arguments).output().expect("the program runs")
}

fn configuration(folder: &Path) -> String {
    format!(
        "name: eu-c1\nsite: eu\nlisten: 127.0.0.1:0\nfederations:\n  - name: f\n    quorum: \
         {{sqlite: {{path: {}}}}}\n",
        folder.join("quorum.db").display()
    )
}

#[test]
fn bad_input_is_one_clear_message_and_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.yml");
    let good = configuration(folder.path());
    for (text, wanted) in [
        (good.replace("site: eu", "site: eu\nsight: eu"), "sight"),
        (good.replace("127.0.0.1:0", "0.0.0.0:7000"), "insecure: true"),
        (good.replace("quorum.db", "no/such/folder.db"), "no/such/folder.db"),
    ] {
        std::fs::write(&file, text).expect("written");
        let output = run(&[&file]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted) && !said.contains("panicked"), "{said}");
    }
    let missing = folder.path().join("missing.yml");
    assert_eq!(run(&[&missing]).status.code(), Some(1));
    std::fs::write(&file, &good).expect("written");
    let output = run(&[Path::new("--check"), &file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.path().join("quorum.db").exists(), "a check opens nothing");
}

#[tokio::test]
async fn sigterm_ends_it_cleanly_and_releases_its_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.yml");
    std::fs::write(&file, configuration(folder.path())).expect("written");
    let mut child = program().arg(&file).spawn().expect("the program runs");
    let store = SqliteStore::open(&folder.path().join("quorum.db")).expect("the store");
    let keys = GlobalKeys::new(&"f".parse().expect("a label"));
    let elected = async {
        while store.get(&keys.leader(), PATIENCE).await.expect("an answer").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, elected).await.expect("it is elected");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it runs");
    let status = tokio::task::spawn_blocking(move || child.wait());
    let status = tokio::time::timeout(PATIENCE, status).await.expect("it ends");
    assert!(status.expect("no panic").expect("waited for").success());
    let left = store.range(keys.prefix(), PATIENCE).await.expect("an answer").entries;
    assert!(left.is_empty(), "{left:?}");
}
