//! What people ask an agent for (spec/patroni-compat.md 2.5, 5.4), on real servers under a writing
//! client: restarts of a replica and of the primary, at once, on condition and scheduled, a replica
//! copied anew, and the callbacks that this makes, in order. Nothing that was acknowledged is lost, and
//! no restart begins a timeline or an epoch. Then the primary dies, and the history says who came next.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_agent::observe::clock::wall_time;
use regent_proto::time::WallTime;
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES, explain};
use regent_tests::rest::{ask, ask_within, code};
use regent_tests::session::value;
use regent_tests::wait::until;
use regent_tests::{records, say};
use regentctl::lab::layout::NodePlace;
use serde_json::{Value, json};

/// A restart with its checkpoint, its stop and its start, on a machine that is busy.
const RESTARTS: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);

/// A node of the primary site.
fn place(bed: &Bed, roles: &Roles, leads: bool) -> anyhow::Result<NodePlace> {
    let nodes = bed.lab().layout().nodes.iter();
    let mut nodes = nodes.filter(|node| node.site == roles.a);
    let found = nodes.find(|node| (node.name == roles.a_leader) == leads);
    Ok(found.context("a node of the primary site")?.clone())
}

/// What an agent answers to a request.
async fn post(node: &NodePlace, path: &str, body: &Value) -> anyhow::Result<(u16, String)> {
    let answer = ask_within(RESTARTS, node.rest_port, "POST", path, &body.to_string()).await?;
    Ok((answer.code, answer.body))
}

async fn patroni(node: &NodePlace) -> anyhow::Result<Value> {
    Ok(ask(node.rest_port, "GET", "/patroni", "").await?.json())
}

fn postmaster(bed: &Bed, node: &NodePlace) -> anyhow::Result<Pid> {
    bed.lab().postmaster_pid(&node.name)?.with_context(|| format!("{} runs no server", node.name))
}

/// A key of the primary site's store.
async fn key(bed: &Bed, roles: &Roles, key: &str) -> anyhow::Result<Value> {
    let place = bed.lab().layout().site_stores.get(&roles.a).context("a store")?;
    let entry = records::open(place)?.get(&format!("/service/{}/{key}", roles.a), CALL).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default())
}

/// Callbacks that write what they are told into a file of each node.
struct Told {
    dir: tempfile::TempDir,
}

impl Told {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("regent-told-").tempdir_in("/tmp")?;
        // The lab's user writes here.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
        Ok(Self { dir })
    }

    fn file(&self, node: &NodePlace) -> PathBuf {
        self.dir.path().join(node.name.as_str())
    }

    /// A script that appends its arguments.
    fn script(&self, node: &NodePlace) -> anyhow::Result<PathBuf> {
        let script = self.dir.path().join(format!("{}.sh", node.name));
        let text = format!("#!/bin/sh\necho \"$@\" >> {}\n", self.file(node).display());
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }

    /// What was told so far, without reloads, which come as the synchronous list moves.
    fn lines(&self, node: &NodePlace) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(node)).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with("on_reload"));
        lines.map(str::to_owned).collect()
    }

    async fn are(&self, node: &NodePlace, wanted: &[&str]) -> anyhow::Result<()> {
        until("the callbacks", HEALTHY, async || {
            let lines = self.lines(node);
            if lines == wanted { Ok(()) } else { Err(format!("{}: {lines:?}", node.name)) }
        })
        .await
    }
}

/// The agents of the primary site begin anew, with callbacks.
async fn configure(bed: &Bed, roles: &Roles, told: &Told) -> anyhow::Result<()> {
    for leads in [false, true] {
        let node = place(bed, roles, leads)?;
        let file = bed.lab().layout().config(&node.agent());
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file)?)?;
        let script = told.script(&node)?;
        let callbacks = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];
        for callback in callbacks {
            config["postgresql"]["callbacks"][callback] = json!(script);
        }
        std::fs::write(&file, config.to_string())?;
        bed.lab().kill_agent(&node.name, Signal::SIGKILL).await?;
        bed.lab().start_agent(&node.name).await?;
    }
    Ok(())
}

/// Asked, answered with success, and another postmaster runs.
async fn restarts(bed: &Bed, node: &NodePlace, body: &Value) -> anyhow::Result<()> {
    let before = postmaster(bed, node)?;
    let answer = post(node, "/restart", body).await?;
    ensure!(answer == (200, "restarted successfully".to_owned()), "{}: {answer:?}", node.name);
    let after = postmaster(bed, node)?;
    ensure!(before != after, "{} still runs postmaster {before}", node.name);
    Ok(())
}

async fn conditions(bed: &Bed, primary: &NodePlace) -> anyhow::Result<()> {
    let before = postmaster(bed, primary)?;
    for (body, wanted, words) in [
        (json!({"role": "replica"}), 503, "restart conditions are not satisfied"),
        (json!({"postgres_version": "13.0"}), 503, "restart conditions are not satisfied"),
        (json!({"restart_pending": true}), 503, "restart conditions are not satisfied"),
        (json!({"timeout": 0}), 400, "timeout"),
        (json!({"schedule": "2026-01-01T00:00:00"}), 400, "time zone"),
        (json!({"schedule": "2026-01-01T00:00:00Z"}), 422, "past"),
    ] {
        let (code, text) = post(primary, "/restart", &body).await?;
        ensure!(code == wanted && text.contains(words), "{body}: {code} {text:?}");
    }
    let answer = post(primary, "/reinitialize", &json!({"force": true})).await?;
    let refusal = "I am the leader, can not reinitialize";
    ensure!(answer == (503, refusal.to_owned()), "{answer:?}");
    ensure!(postmaster(bed, primary)? == before, "the server was restarted all the same");
    Ok(())
}

/// Under the writer: same timeline, same epoch, same leader.
async fn primary_restarts(bed: &Bed, roles: &Roles, primary: &NodePlace) -> anyhow::Result<()> {
    let timeline = patroni(primary).await?["timeline"].clone();
    let before = bed.look(|global| Some((global.primary()?, global.lease()?.tenure)));
    let from = bed.writer.now();
    restarts(bed, primary, &json!({"role": "primary"})).await?;
    bed.progress().await?;
    let outage = bed.outage(from, bed.writer.now());
    say(format!("restart of {}: outage {} ms", primary.name, outage.as_millis()));
    ensure!(patroni(primary).await?["timeline"] == timeline, "it began a timeline");
    let after = bed.look(|global| Some((global.primary()?, global.lease()?.tenure)));
    ensure!(before.is_some() && before == after, "{before:?}, then {after:?}");
    let now = bed.healthy().await?;
    ensure!(now.a_leader == roles.a_leader, "{now:?}");
    Ok(())
}

async fn schedules(bed: &Bed, roles: &Roles, primary: &NodePlace) -> anyhow::Result<()> {
    let at = |millis: u64| WallTime(wall_time().0 + millis).to_string();
    let before = postmaster(bed, primary)?;
    let later = json!({"schedule": at(3_600_000), "role": "primary"});
    let answer = post(primary, "/restart", &later).await?;
    ensure!(answer == (202, "Restart scheduled".to_owned()), "{answer:?}");
    until("the schedule is shown", HEALTHY, async || {
        let shown = patroni(primary).await.map_err(|e| e.to_string())?["scheduled_restart"].clone();
        let member = key(bed, roles, &format!("members/{}", primary.name)).await;
        let member = member.map_err(|e| e.to_string())?["scheduled_restart"].clone();
        let good = shown == later
            && member["schedule"] == later["schedule"]
            && member["postmaster_start_time"].is_string();
        good.then_some(()).ok_or_else(|| format!("{shown} {member}"))
    })
    .await?;
    let again = post(primary, "/restart", &later).await?;
    ensure!(again == (409, "Another restart is already scheduled".to_owned()), "{again:?}");
    let deleted = ask(primary.rest_port, "DELETE", "/restart", "").await?;
    ensure!((deleted.code, deleted.body.as_str()) == (200, "scheduled restart deleted"));
    let none = ask(primary.rest_port, "DELETE", "/restart", "").await?;
    ensure!((none.code, none.body.as_str()) == (404, "no restarts are scheduled"), "{none:?}");
    let shown = patroni(primary).await?;
    ensure!(shown["scheduled_restart"].is_null(), "{shown}");
    ensure!(postmaster(bed, primary)? == before, "a cancelled restart was done");

    let due = wall_time().0 + 2_000;
    let schedule = WallTime(due).to_string();
    let soon = post(primary, "/restart", &json!({"schedule": schedule})).await?;
    ensure!(soon.0 == 202, "{soon:?}");
    until("the restart that is due", RESTARTS, async || {
        let now = bed.lab().postmaster_pid(&primary.name).map_err(|e| e.to_string())?;
        let open = code(primary.rest_port, "/primary").await == 200;
        let done = open && now.is_some_and(|now| now != before);
        done.then_some(()).ok_or_else(|| format!("{now:?}, {open}"))
    })
    .await?;
    let in_time = format!("SELECT pg_postmaster_start_time() >= to_timestamp({due} / 1000.0)");
    let in_time = value(bed.lab(), &primary.name, &in_time).await?;
    ensure!(in_time == "t", "it restarted before it was due");
    bed.progress().await
}

/// What lay in the directory is gone, and the replica streams again.
async fn copied_anew(bed: &Bed, roles: &Roles, replica: &NodePlace) -> anyhow::Result<()> {
    let marker = bed.lab().layout().data_dir(replica).join("of-the-old-copy");
    std::fs::write(&marker, "")?;
    let answer = post(replica, "/reinitialize", &json!({})).await?;
    ensure!(answer == (200, "reinitialize started".to_owned()), "{answer:?}");
    until("a new copy that streams", HEALTHY, async || {
        let code = code(replica.rest_port, "/replica").await;
        let done = !marker.exists() && code == 200;
        done.then_some(()).ok_or_else(|| format!("{code}, old: {}", marker.exists()))
    })
    .await?;
    let now = bed.healthy().await?;
    ensure!(now.a_leader == roles.a_leader, "{now:?}");
    Ok(())
}

/// The primary's node dies: the other one leads, is told so, and writes itself into the history.
async fn history(bed: &Bed, roles: &Roles, told: &Told, next: &NodePlace) -> anyhow::Result<()> {
    let old = patroni(next).await?["timeline"].as_u64().context("a timeline")?;
    bed.lab().kill_node(&roles.a_leader).await?;
    let wanted = format!("on_role_change primary {}", roles.a);
    until("the change of role is told", HEALTHY, async || {
        let last = told.lines(next).pop();
        (last.as_ref() == Some(&wanted)).then_some(()).ok_or_else(|| format!("{last:?}"))
    })
    .await?;
    bed.progress().await?;
    until("the history", HEALTHY, async || {
        let lines = key(bed, roles, "history").await.map_err(|e| e.to_string())?;
        let last = lines.as_array().and_then(|lines| lines.last()).cloned().unwrap_or_default();
        let complete = last.as_array().is_some_and(|line| line.len() == 5);
        let good = complete && last[0] == json!(old) && last[4] == json!(next.name.as_str());
        let served = ask(next.rest_port, "GET", "/history", "").await.map_err(|e| e.to_string())?;
        let same = served.json() == lines;
        (good && same).then_some(()).ok_or_else(|| format!("{lines}, served {}", served.body))
    })
    .await?;
    bed.lab().start_agent(&roles.a_leader).await?;
    bed.healthy().await.map(drop)
}

async fn requests() -> anyhow::Result<()> {
    let bed = Bed::start("requests", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let told = Told::new()?;
    configure(&bed, &roles, &told).await?;
    let roles = bed.healthy().await?;
    let (primary, replica) = (place(&bed, &roles, true)?, place(&bed, &roles, false)?);
    let site = roles.a.as_str();
    let line = |action: &str, role: &str| format!("{action} {role} {site}");
    told.are(&primary, &[&line("on_start", "primary")]).await?;
    told.are(&replica, &[&line("on_start", "replica")]).await?;

    conditions(&bed, &primary).await?;
    restarts(&bed, &replica, &json!({"role": "replica", "timeout": 50})).await?;
    bed.healthy().await?;
    primary_restarts(&bed, &roles, &primary).await?;
    schedules(&bed, &roles, &primary).await?;
    bed.healthy().await?;
    copied_anew(&bed, &roles, &replica).await?;

    let (start, again) = (line("on_start", "primary"), line("on_restart", "primary"));
    told.are(&primary, &[&start, &again, &again]).await?;
    let (start, again) = (line("on_start", "replica"), line("on_restart", "replica"));
    let stop = line("on_stop", "replica");
    told.are(&replica, &[&start, &again, &stop, &start]).await?;
    history(&bed, &roles, &told, &replica).await?;

    let (history, judgement) = bed.finish().await?;
    say(format!("requests: {}", explain(&judgement, &history)));
    ensure!(judgement.is_clean(), "{}", explain(&judgement, &history));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_ask_for_is_done_and_loses_nothing() {
    requests().await.unwrap();
}
