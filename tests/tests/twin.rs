//! A second agent of one name, whose configuration was copied with the first one's REST address, so that it
//! takes that one's record for its own: the first one keeps its leader key and goes on (hazards.md row 10).

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use regent_tests::alone::{Alone, READY};
use regent_tests::rest::{ask, code};
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::owner::Owner;
use regentctl::lab::process;
use serde_json::{Value, json};

/// So long the twin runs: many renewals of the first one, and more than its TTL.
const BESIDE: Duration = Duration::from_secs(12);

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The first one's configuration with places and ports of its own; the port of its REST API.
fn configured(first: &Path, dir: &Path, owner: &Owner) -> anyhow::Result<u16> {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(first)?)?;
    let (port, run_dir) = (free_port()?, dir.join("run"));
    config["restapi"]["listen"] = json!(format!("127.0.0.1:{port}"));
    config["regent"]["run_dir"] = json!(run_dir);
    config["postgresql"]["data_dir"] = json!(dir.join("data"));
    config["postgresql"]["pgpass"] = json!(run_dir.join("pgpass"));
    config["postgresql"]["parameters"]["unix_socket_directories"] = json!(run_dir);
    config["postgresql"]["listen"] = json!(format!("127.0.0.1:{}", free_port()?));
    let file = dir.join("twin.yml");
    std::fs::write(&file, config.to_string())?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    if owner.dropped {
        chown(&file, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    Ok(port)
}

async fn beside() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    let (primary, replica) = site.whole().await?;
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    let before = (site.lab().postmaster_pid(&primary.name)?, site.value(&primary, timeline).await?);
    let dir = tempfile::Builder::new().prefix("regent-twin-").tempdir_in("/tmp")?;
    // The agents' user makes its directories there.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
    let owner = Owner::choose()?;
    let port = configured(&site.lab().layout().config(&primary.agent()), dir.path(), &owner)?;
    let agent = site.lab().layout().dir.join("bin/regent-agent");
    let file = dir.path().join("twin.yml").display().to_string();
    let twin = tokio::task::spawn_blocking(move || {
        process::run(&agent, &[&file], Path::new("/"), Some(&owner), BESIDE)
    });
    until("the twin to see the first one's key", READY, async || {
        let told = ask(port, "GET", "/patroni", "").await.map_err(|e| e.to_string())?.json();
        let reason = told["regent"]["reason"].as_str().unwrap_or_default();
        let sees = reason.contains("another agent of this name");
        sees.then_some(()).ok_or_else(|| told.to_string())
    })
    .await?;
    ensure!(twin.await?.is_err(), "the twin has ended by itself");
    ensure!(code(primary.rest_port, "/primary").await == 200, "{} lost its right", primary.name);
    let (leads, follows) = site.whole().await?;
    ensure!((&leads.name, &follows.name) == (&primary.name, &replica.name), "{}", leads.name);
    let after = (site.lab().postmaster_pid(&primary.name)?, site.value(&primary, timeline).await?);
    ensure!(after == before, "{after:?}, want {before:?}");
    say("twin: the first one went on");
    site.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_leaves_the_first_ones_leader_key_alone() {
    beside().await.unwrap();
}
