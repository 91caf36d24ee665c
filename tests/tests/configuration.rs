//! The dynamic configuration on real servers: what is patched counts at once and everywhere, what needs
//! a restart says so, what PostgreSQL refuses stops nothing, and a lost `config` key comes back as it
//! was in force (I13).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_agent::observe::clock::boot_time;
use regent_tests::alone::{Alone, READY};
use regent_tests::rest::ask;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;
use serde_json::{Value, json};

/// How soon a change counts on every node.
const AT_ONCE: Duration = Duration::from_secs(10);

fn parameters(parameters: &Value) -> Value {
    json!({"postgresql": {"parameters": parameters}})
}

/// Waits until a setting is this at these nodes.
async fn shows(
    site: &Alone,
    nodes: &[NodePlace],
    (name, value): (&str, &str),
    limit: Duration,
) -> anyhow::Result<()> {
    for node in nodes {
        until(&format!("{name} = {value} at {}", node.name), limit, async || {
            let shown = site.value(node, &format!("SHOW {name}")).await;
            let shown = shown.map_err(|e| format!("{e:#}"))?;
            (shown == value).then_some(()).ok_or(shown)
        })
        .await?;
    }
    Ok(())
}

/// Waits until `GET /patroni` gives this reason for a restart, or none.
async fn waits_for_a_restart(
    site: &Alone,
    nodes: &[NodePlace],
    reason: Option<&Value>,
) -> anyhow::Result<()> {
    for node in nodes {
        until(&format!("{} to wait for a restart: {reason:?}", node.name), READY, async || {
            let told = site.patroni(node).await.map_err(|e| e.to_string())?;
            let right = match reason {
                Some(reason) => {
                    told["pending_restart"] == true && told["pending_restart_reason"] == *reason
                }
                // What does not answer says nothing either.
                None => told["state"] == "running" && told.get("pending_restart").is_none(),
            };
            right.then_some(()).ok_or_else(|| told.to_string())
        })
        .await?;
    }
    Ok(())
}

fn postmasters(site: &Alone) -> anyhow::Result<Vec<Option<nix::unistd::Pid>>> {
    site.nodes().iter().map(|node| Ok(site.lab().postmaster_pid(&node.name)?)).collect()
}

/// Kills a node's PostgreSQL, and waits until its agent has another one running.
async fn restart(site: &Alone, node: &NodePlace) -> anyhow::Result<()> {
    let before = site.lab().postmaster_pid(&node.name)?.context("a server runs")?;
    site.lab().kill_postgres(&node.name).await?;
    until(&format!("{} to run again", node.name), READY, async || {
        let now = site.lab().postmaster_pid(&node.name).map_err(|e| e.to_string())?;
        let told = site.patroni(node).await.map_err(|e| e.to_string())?;
        let again = now.is_some_and(|pid| pid != before) && told["state"] == "running";
        again.then_some(()).ok_or_else(|| format!("{now:?}, {told}"))
    })
    .await
}

async fn at_once_and_everywhere() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    let before = postmasters(&site)?;
    let asked = boot_time();
    ensure!(site.patch(&parameters(&json!({"work_mem": "7MB"}))).await? == 200, "PATCH");
    shows(&site, site.nodes(), ("work_mem", "7MB"), AT_ONCE).await?;
    say(format!("work_mem: on both nodes after {} ms", boot_time().since(asked).as_millis()));
    waits_for_a_restart(&site, site.nodes(), None).await?;
    ensure!(site.patch(&parameters(&json!({"work_mem": null}))).await? == 200, "PATCH");
    shows(&site, site.nodes(), ("work_mem", "4MB"), AT_ONCE).await?;
    ensure!(postmasters(&site)? == before, "a server was restarted");
    // Kept on every node, in Patroni's file.
    let key = site.key("config").await?.context("a configuration")?;
    for node in site.nodes() {
        until(&format!("{} to keep it", node.name), AT_ONCE, async || {
            let kept = site.data_dir(node).join("patroni.dynamic.json");
            let kept = std::fs::read_to_string(kept).map_err(|e| e.to_string())?;
            let same = serde_json::from_str::<Value>(&kept).ok()
                == serde_json::from_str::<Value>(&key).ok();
            same.then_some(()).ok_or(kept)
        })
        .await?;
    }
    site.end().await
}

async fn up_and_down() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    let (primary, replica) = site.whole().await?;
    let reason =
        |old: &str, new: &str| json!({"max_connections": {"old_value": old, "new_value": new}});
    let both = [primary.clone(), replica.clone()];
    let set = async |value: u32| -> anyhow::Result<()> {
        let code = site.patch(&parameters(&json!({"max_connections": value}))).await?;
        ensure!(code == 200, "PATCH max_connections {value}: {code}");
        Ok(())
    };
    // The lab begins with 60. Up, and the primary is restarted first: the standby stands still, and
    // makes room by itself.
    set(80).await?;
    waits_for_a_restart(&site, &both, Some(&reason("60", "80"))).await?;
    shows(&site, &both, ("max_connections", "60"), AT_ONCE).await?;
    let metrics = ask(primary.rest_port, "GET", "/metrics", "").await?.body;
    let flag = metrics.lines().find(|line| line.starts_with("patroni_pending_restart{"));
    ensure!(flag.is_some_and(|line| line.ends_with(" 1")), "{flag:?}");
    until("/cluster to say so of both", AT_ONCE, async || {
        let cluster = ask(primary.rest_port, "GET", "/cluster", "").await;
        let cluster = cluster.map_err(|e| e.to_string())?.json();
        let all = cluster["members"].as_array().is_some_and(|members| {
            members.len() == 2
                && members.iter().all(|member| {
                    member["pending_restart"] == true
                        && member["pending_restart_reason"] == reason("60", "80")
                })
        });
        all.then_some(()).ok_or_else(|| cluster.to_string())
    })
    .await?;
    restart(&site, &primary).await?;
    shows(&site, &both, ("max_connections", "80"), READY).await?;
    waits_for_a_restart(&site, &both, None).await?;
    ensure!(site.whole().await?.0.name == primary.name, "the same one leads");
    say("max_connections: up on the primary first, the standby followed");

    // Down, and the standby is restarted first: it must not start below its WAL.
    set(70).await?;
    waits_for_a_restart(&site, &both, Some(&reason("80", "70"))).await?;
    restart(&site, &replica).await?;
    shows(&site, &both, ("max_connections", "80"), READY).await?;
    waits_for_a_restart(&site, &both, Some(&reason("80", "70"))).await?;
    restart(&site, &primary).await?;
    shows(&site, std::slice::from_ref(&primary), ("max_connections", "70"), READY).await?;
    // Once a record of the new settings is replayed there, and nothing before it has to be once more:
    // a checkpoint of the primary's behind it, from which the standby's recovery begins.
    site.whole().await?;
    site.session(&primary).await?.batch_execute("CHECKPOINT").await?;
    let end = site.value(&primary, "SELECT pg_current_wal_lsn()").await?;
    until("the standby to have replayed it", READY, async || {
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        let there = site.value(&replica, &there).await.map_err(|e| format!("{e:#}"))?;
        (there == "t").then_some(()).ok_or(there)
    })
    .await?;
    site.session(&replica).await?.batch_execute("CHECKPOINT").await?;
    restart(&site, &replica).await?;
    shows(&site, &both, ("max_connections", "70"), READY).await?;
    waits_for_a_restart(&site, &both, None).await?;
    say("max_connections: down on the primary first, the standby followed");
    site.end().await
}

/// Waits until a node's warnings have one with all of these words, or none with the first.
async fn warned(site: &Alone, node: &NodePlace, words: &[&str], is: bool) -> anyhow::Result<()> {
    until(&format!("{} to warn of {words:?}: {is}", node.name), READY, async || {
        let told = site.patroni(node).await.map_err(|e| e.to_string())?;
        let none = Vec::new();
        let warnings = told["regent"]["warnings"].as_array().unwrap_or(&none);
        let has = |all: &[&str]| {
            warnings.iter().any(|warning| {
                let text = warning.as_str().unwrap_or_default();
                all.iter().all(|word| text.contains(word))
            })
        };
        let right = if is { has(words) } else { !has(&words[..1]) };
        let right = right && told["state"] == "running";
        right.then_some(()).ok_or_else(|| told.to_string())
    })
    .await
}

async fn nonsense() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    let (primary, replica) = site.whole().await?;
    let before = postmasters(&site)?;
    let lots = json!({"shared_buffers": "lots", "work_mem": "6MB"});
    ensure!(site.patch(&parameters(&lots)).await? == 200, "PostgreSQL judges it, not REST");
    let words = ["shared_buffers", "invalid value for parameter", "lots"];
    for node in [&primary, &replica] {
        warned(&site, node, &words, true).await?;
    }
    // What stands beside it counts, and nothing was stopped.
    shows(&site, site.nodes(), ("work_mem", "6MB"), AT_ONCE).await?;
    ensure!(postmasters(&site)? == before, "a server was restarted");
    // It would not have started with it.
    for node in [&replica, &primary] {
        restart(&site, node).await?;
        shows(&site, std::slice::from_ref(node), ("work_mem", "6MB"), READY).await?;
        site.whole().await?;
    }
    for node in [&primary, &replica] {
        warned(&site, node, &words, true).await?;
    }
    ensure!(site.patch(&parameters(&json!({"shared_buffers": "32MB"}))).await? == 200, "PATCH");
    for node in [&primary, &replica] {
        warned(&site, node, &words, false).await?;
    }
    // Of what the agent owns it knows the range.
    let kept = site.key("config").await?;
    for bad in [json!(5), json!("many"), json!(1_000_000)] {
        let code = site.patch(&parameters(&json!({"max_connections": bad}))).await?;
        ensure!(code == 400, "max_connections {bad}: {code}");
    }
    ensure!(site.key("config").await? == kept, "a refused value was written");
    site.end().await
}

/// The key is there, and says the same as before.
async fn back(site: &Alone, before: &Value) -> anyhow::Result<()> {
    until("the configuration to be back", READY, async || {
        let key = site.key("config").await.map_err(|e| e.to_string())?;
        let key = key.ok_or("there is none")?;
        let now: Value = serde_json::from_str(&key).map_err(|e| e.to_string())?;
        (now == *before).then_some(()).ok_or(key)
    })
    .await
}

/// Commits wait for the other node.
async fn synchronous(site: &Alone) -> anyhow::Result<()> {
    let (primary, replica) = site.whole().await?;
    until("a synchronous standby", READY, async || {
        let list = site.value(&primary, "SHOW synchronous_standby_names").await;
        let list = list.map_err(|e| format!("{e:#}"))?;
        let key = site.key("sync").await.map_err(|e| e.to_string())?.unwrap_or_default();
        let right = list.contains(replica.name.as_str()) && key.contains(replica.name.as_str());
        right.then_some(()).ok_or_else(|| format!("list {list:?}, record {key}"))
    })
    .await
}

async fn lost() -> anyhow::Result<()> {
    // The agents' files say off.
    let site = Alone::start(false).await?;
    let code = site.patch(&json!({"synchronous_mode": true, "theirs": {"kept": 1}})).await?;
    ensure!(code == 200, "PATCH: {code}");
    synchronous(&site).await?;
    let before = site.key("config").await?.context("a configuration")?;
    let before: Value = serde_json::from_str(&before)?;
    ensure!(before["synchronous_mode"] == true, "{before}");
    for time in 1..=2 {
        site.delete("config").await?;
        back(&site, &before).await?;
        synchronous(&site).await?;
        say(format!("config: back as it was in force, {time} of one tenure"));
    }
    // With nobody there who remembers but the data directories.
    for node in site.nodes() {
        site.lab().kill_agent(&node.name, Signal::SIGKILL).await?;
    }
    site.delete("config").await?;
    for node in site.nodes() {
        site.lab().start_agent(&node.name).await?;
    }
    back(&site, &before).await?;
    synchronous(&site).await?;
    say("config: back from the data directory");
    site.end().await
}

/// Commits would wait for nobody, or for ever, and `sync` say something else (hazards.md row 37).
async fn altered() -> anyhow::Result<()> {
    let site = Alone::start(true).await?;
    let (primary, _) = site.whole().await?;
    synchronous(&site).await?;
    let file = site.data_dir(&primary).join("postgresql.auto.conf");
    let before = postmasters(&site)?;
    for list in ["''", "'nobody_at_all'", "'*'"] {
        site.value(&primary, &format!("ALTER SYSTEM SET synchronous_standby_names = {list}"))
            .await?;
        site.value(&primary, "SELECT pg_reload_conf()").await?;
        until("the agent to take it out", AT_ONCE, async || {
            let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
            (!text.contains("synchronous_standby_names")).then_some(()).ok_or(text)
        })
        .await?;
        synchronous(&site).await?;
    }
    ensure!(postmasters(&site)? == before, "a server was restarted");
    site.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_alter_system_sets_is_taken_out_while_the_server_runs() {
    altered().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patched_parameter_counts_at_once_and_everywhere() {
    at_once_and_everywhere().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_says_so_and_no_standby_starts_below_its_wal() {
    up_and_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgresql_refuses_is_said_in_its_words_and_stops_nothing() {
    nonsense().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_configuration_comes_back_as_it_was_in_force() {
    lost().await.unwrap();
}
