//! All keys of a site's DCS are gone at once: the primary brings them back and goes on; without it nobody
//! leads before everybody who is remembered has answered; and no node makes a second database (I13, ADR 40).

use anyhow::ensure;
use regent_tests::alone::{Alone, READY};
use regent_tests::rest::code;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;

/// So often, since who is faster is up to chance.
const TIMES: usize = 5;
/// What makes a cluster of its keys.
const KEYS: [&str; 6] = ["initialize", "config", "leader", "status", "history", "sync"];

/// Until a node says why it waits.
async fn waits(site: &Alone, node: &NodePlace, words: &str) -> anyhow::Result<()> {
    let what = format!("{} waits", node.name);
    until(&what, READY, async || {
        let state = site.patroni(node).await.map_err(|e| e.to_string())?;
        let says = state["regent"]["reason"].as_str().is_some_and(|reason| reason.contains(words));
        says.then_some(()).ok_or_else(|| state.to_string())
    })
    .await
}

async fn the_primary_goes_on(site: &Alone) -> anyhow::Result<()> {
    let (primary, replica) = site.whole().await?;
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    let before = site.value(&primary, timeline).await?;
    for time in 0..TIMES {
        site.delete_all().await?;
        until("the keys are back", READY, async || {
            for key in KEYS {
                let found = site.key(key).await.map_err(|e| e.to_string())?;
                found.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} is gone"))?;
            }
            Ok(())
        })
        .await?;
        let (leads, follows) = site.whole().await?;
        ensure!(
            (&leads.name, &follows.name) == (&primary.name, &replica.name),
            "{time}: {} leads",
            leads.name
        );
        let after = site.value(&leads, timeline).await?;
        ensure!(after == before, "{time}: timeline {after}, want {before}");
    }
    Ok(())
}

/// It may be that the other one has what this one lacks.
async fn nobody_leads_on_its_own(site: &Alone) -> anyhow::Result<()> {
    let (primary, replica) = site.whole().await?;
    site.value(&primary, "CREATE TABLE kept AS SELECT 1 AS one").await?;
    let found = site.value(&primary, "SELECT count(*) FROM kept").await?;
    site.lab().kill_node(&primary.name).await?;
    site.delete_all().await?;
    waits(site, &replica, &format!("{}, a member that this node", primary.name)).await?;
    ensure!(code(replica.rest_port, "/primary").await != 200, "{} leads", replica.name);
    ensure!(site.key("leader").await?.is_none(), "somebody has the leader key");
    site.lab().start_agent(&primary.name).await?;
    let (leads, _) = site.whole().await?;
    let after = site.value(&leads, "SELECT count(*) FROM kept").await?;
    ensure!(after == found, "{after} rows at {}", leads.name);
    Ok(())
}

async fn no_second_database(site: &Alone) -> anyhow::Result<()> {
    let (primary, replica) = site.whole().await?;
    let identity = async |node: &NodePlace| {
        site.value(node, "SELECT system_identifier FROM pg_control_system()").await
    };
    let before = identity(&primary).await?;
    for node in [&replica, &primary] {
        site.lab().kill_node(&node.name).await?;
    }
    std::fs::remove_dir_all(site.data_dir(&replica))?;
    site.delete_all().await?;
    site.lab().start_agent(&replica.name).await?;
    waits(site, &replica, "no second one is made").await?;
    ensure!(site.key("initialize").await?.is_none(), "somebody makes a cluster");
    ensure!(!site.data_dir(&replica).join("PG_VERSION").exists(), "it has made a database");
    site.lab().start_agent(&primary.name).await?;
    let (leads, follows) = site.whole().await?;
    ensure!(leads.name == primary.name, "{} leads", leads.name);
    for node in [&leads, &follows] {
        let found = identity(node).await?;
        ensure!(found == before, "{}: {found}, want {before}", node.name);
    }
    Ok(())
}

async fn gone() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    the_primary_goes_on(&site).await?;
    say("keys_gone: the primary goes on");
    nobody_leads_on_its_own(&site).await?;
    say("keys_gone: nobody leads on its own");
    no_second_database(&site).await?;
    say("keys_gone: no second database");
    site.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_keys_stays_the_one_that_it_was() {
    gone().await.unwrap();
}
