//! A primary that dies with rows that it never sent (asynchronous replication) comes back under its
//! successor, which never had them: their WAL is kept before the rewind removes it (I15, I30). A
//! planned move has nothing to keep (hazards.md row 73).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_tests::alone::{Alone, READY};
use regent_tests::rest::code;
use regent_tests::say;
use regent_tests::server::stop_titled;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;
use serde_json::Value;

/// Stands in WAL as it was written.
const MARKER: &str = "a-row-that-nobody-was-sent-4be1a0";

/// What a node has kept, oldest first.
fn kept(site: &Alone, node: &NodePlace) -> anyhow::Result<Vec<PathBuf>> {
    let mut place = site.data_dir(node).into_os_string();
    place.push(".regent-salvage");
    let place = PathBuf::from(place);
    if !place.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&place)?.map(|entry| Ok(entry?.path()));
    let mut kept = entries.collect::<std::io::Result<Vec<_>>>()?;
    kept.sort();
    Ok(kept)
}

/// Whether a directory of WAL has these bytes.
fn has(wal: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(wal)? {
        let path = entry?.path();
        // archive_status
        if path.is_dir() {
            continue;
        }
        let content = std::fs::read(path)?;
        if content.windows(bytes.len()).any(|window| window == bytes) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn salvage() -> anyhow::Result<()> {
    let site = Alone::start(false).await?;
    let (primary, replica) = site.whole().await?;
    let client = site.session(&primary).await?;
    client.batch_execute("CREATE TABLE rows (t text); INSERT INTO rows VALUES ('sent')").await?;
    let count = "SELECT count(*) FROM rows";
    until("the first row at the standby", READY, async || {
        let there = site.value(&replica, count).await.map_err(|e| format!("{e:#}"))?;
        (there == "1").then_some(()).ok_or(there)
    })
    .await?;

    // From here on nothing is sent; and nobody waits for it.
    let stopped = stop_titled(&site.data_dir(&primary), "walsender")?;
    ensure!(!stopped.pids().is_empty(), "there is no WAL sender");
    client.batch_execute(&format!("INSERT INTO rows VALUES ('{MARKER}')")).await?;
    site.lab().kill_node(&primary.name).await?;
    drop(stopped);
    until("the other node to be primary", READY, async || {
        let code = code(replica.rest_port, "/primary").await;
        (code == 200).then_some(()).ok_or_else(|| code.to_string())
    })
    .await?;
    let there = site.value(&replica, count).await?;
    ensure!(there == "1", "the premise: {there} rows were sent");
    ensure!(kept(&site, &primary)?.is_empty(), "nothing has come back yet");

    site.lab().start_agent(&primary.name).await?;
    let (now, back) = site.whole().await?;
    ensure!((&now.name, &back.name) == (&replica.name, &primary.name), "{} leads", now.name);
    ensure!(site.value(&back, count).await? == "1", "it follows its successor's history");
    let wal = site.data_dir(&back).join("pg_wal");
    say(format!("the row is in its WAL still: {}", has(&wal, MARKER.as_bytes())?));
    let salvage = kept(&site, &back)?;
    ensure!(salvage.len() == 1, "{salvage:?}");
    ensure!(has(&salvage[0].join("pg_wal"), MARKER.as_bytes())?, "its WAL is not kept");
    ensure!(salvage[0].join("global/pg_control").exists(), "nor is its control file");
    let note = std::fs::read(salvage[0].join("salvage.json"))?;
    let note: Value = serde_json::from_slice(&note)?;
    ensure!(note["timeline"] == 1 && note["since"]["timeline"] == 1, "{note}");
    say(format!("kept: {note}"));

    // A planned move: the primary's agent stops its server in order, the other takes over, and the
    // first comes back as it is.
    site.lab().kill_agent(&now.name, Signal::SIGTERM).await?;
    until("the other node to be primary again", READY, async || {
        let code = code(back.rest_port, "/primary").await;
        (code == 200).then_some(()).ok_or_else(|| code.to_string())
    })
    .await?;
    site.lab().start_agent(&now.name).await?;
    let (leads, _) = site.whole().await?;
    ensure!(leads.name == back.name, "{} leads", leads.name);
    for node in [&now, &back] {
        let all = kept(&site, node)?;
        ensure!(all.len() == usize::from(node.name == back.name), "{}: {all:?}", node.name);
    }
    site.end().await.context("ending the lab")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wal_of_unsent_rows_is_kept_before_their_server_is_rewound() {
    salvage().await.unwrap();
}
