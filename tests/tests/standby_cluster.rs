//! A cluster of no federation that follows another one through Patroni's `standby_cluster`, on real
//! servers: it is made by copying from there, its members cascade, its standby leader is lost, the other
//! cluster fails over under it, and once the section is taken away it opens with every row
//! (spec/patroni-compat.md 3.14). A client writes to the other cluster all the while. In a federation the
//! section is output, and moves with primacy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_proto::name::{NodeName, SiteName};
use regent_tests::bed::{Bed, Roles, TWO_SITES, explain};
use regent_tests::report::workspace;
use regent_tests::rest::{ask, code};
use regent_tests::say;
use regent_tests::session::value;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;
use regentctl::lab::{Lab, Options};
use regentctl::load::{self, Target, Writer, table};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

/// The lab's own federation is taken out of every agent's file: what is left are two clusters.
const TOPOLOGY: &str = "
federation: pair
primary: home
sites:
  - name: home
    kind: data
    dcs: embedded
    synchronous: true
    nodes:
      - name: home-1
      - name: home-2
  - name: away
    kind: data
    dcs: embedded
    synchronous: false
    nodes:
      - name: away-1
      - name: away-2
      - name: away-3
links:
  - between: [home, away]
    cost: 1
quorum:
  store: embedded
  voters: [home]
policy:
  site_ttl: 5s
  primary_ttl: 15s
lab:
  accept: [single-store-quorum]
";

struct Pair {
    lab: Lab,
    home: Vec<NodePlace>,
    away: Vec<NodePlace>,
}

impl Pair {
    /// Every agent's file without its federation; nobody runs yet.
    async fn prepare() -> anyhow::Result<Self> {
        let options = Options { dir: None, dcs: None, bare: true };
        let lab = Lab::up(TOPOLOGY, &options, &mut |_| {}).await?;
        let nodes = lab.layout().nodes.clone();
        let (home, away): (Vec<NodePlace>, Vec<NodePlace>) =
            nodes.into_iter().partition(|node| node.site.as_str() == "home");
        let ports: Vec<String> = home.iter().map(|node| node.postgres_port.to_string()).collect();
        let section = json!({
            "host": "127.0.0.1,127.0.0.1", "port": ports.join(","), "primary_slot_name": "away",
        });
        for node in home.iter().chain(&away) {
            lab.kill_agent(&node.name, Signal::SIGKILL).await?;
            edit(&lab.layout().config(&node.agent()), |config| {
                config.as_object_mut().context("a mapping")?.shift_remove("federation");
                let dcs = &mut config["bootstrap"]["dcs"];
                if node.site.as_str() == "home" {
                    dcs["slots"] = json!({"away": {"type": "physical"}});
                } else {
                    dcs["standby_cluster"] = section.clone();
                }
                if node.name.as_str() == "away-3" {
                    config["tags"] = json!({"replicatefrom": "away-2"});
                }
                Ok(())
            })?;
        }
        Ok(Self { lab, home, away })
    }

    async fn value(&self, node: &NodePlace, statement: &str) -> anyhow::Result<String> {
        value(&self.lab, &node.name, statement).await
    }

    /// Waits until a statement gives this value.
    async fn gives(&self, node: &NodePlace, statement: &str, wanted: &str) -> anyhow::Result<()> {
        until(&format!("{statement} on {} to give {wanted}", node.name), LIMIT, async || match self
            .value(node, statement)
            .await
        {
            Ok(found) if found == wanted => Ok(()),
            Ok(found) => Err(found),
            Err(problem) => Err(format!("{problem:#}")),
        })
        .await
    }

    /// The last row that is acknowledged by now is seen on each of these.
    async fn arrives(&self, writer: &Writer, on: &[&NodePlace]) -> anyhow::Result<()> {
        let last = writer.look(|history| history.acks.last().map(|ack| ack.number));
        let row = last.context("no row was acknowledged")?;
        let there = format!("SELECT count(*) FROM regent_load.rows WHERE n = {row}");
        for node in on {
            self.gives(node, &there, "1").await?;
        }
        Ok(())
    }

    /// Where a client of these nodes writes.
    fn target(&self, nodes: &[NodePlace]) -> Target {
        let ports = nodes.iter().map(|node| node.postgres_port).collect();
        Target { ports, password: self.lab.secrets().app.clone() }
    }

    /// Agent, guardian and server are gone at once.
    async fn lose(&self, node: &NodePlace) -> anyhow::Result<()> {
        self.lab.kill_agent(&node.name, Signal::SIGKILL).await?;
        self.lab.kill_postgres(&node.name).await?;
        Ok(())
    }
}

fn edit(file: &Path, change: impl FnOnce(&mut Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    change(&mut config)?;
    Ok(std::fs::write(file, config.to_string())?)
}

/// The one of these that answers a health check with 200.
async fn the_one<'a>(nodes: &[&'a NodePlace], path: &str) -> anyhow::Result<&'a NodePlace> {
    until(&format!("one node with 200 at {path}"), LIMIT, async || {
        let mut good = Vec::new();
        let mut codes = Vec::new();
        for node in nodes {
            let found = code(node.rest_port, path).await;
            codes.push(format!("{} {found}", node.name));
            if found == 200 {
                good.push(*node);
            }
        }
        if let [one] = good[..] { Ok(one) } else { Err(codes.join(", ")) }
    })
    .await
}

/// Waits until it streams as a replica.
async fn streams(node: &NodePlace) -> anyhow::Result<()> {
    until(&format!("{} to stream", node.name), LIMIT, async || {
        let answer = ask(node.rest_port, "GET", "/patroni", "").await;
        let state = answer.map_err(|error| error.to_string())?.json();
        let streams = state["role"] == "replica" && state["replication_state"] == "streaming";
        streams.then_some(()).ok_or_else(|| state.to_string())
    })
    .await
}

/// Waits until rows are acknowledged again, or still.
async fn progresses(writer: &Writer) -> anyhow::Result<()> {
    Ok(writer.wait_for(20, writer.now(), LIMIT).await?)
}

const SENDERS: &str = "SELECT coalesce(string_agg(DISTINCT application_name, ',' \
                       ORDER BY application_name), '') FROM pg_stat_replication";

async fn follows(pair: &Pair) -> anyhow::Result<Writer> {
    let home: Vec<&NodePlace> = pair.home.iter().collect();
    for node in &home {
        pair.lab.start_agent(&node.name).await?;
    }
    let primary = the_one(&home, "/primary").await?;
    pair.gives(primary, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'away'", "1")
        .await?;
    let superuser = pair.lab.client_config(std::slice::from_ref(&primary.site))?;
    table::make(&superuser, &pair.lab.secrets().app).await?;
    let writer = Writer::start(pair.target(&pair.home));
    progresses(&writer).await?;

    // Whoever begins makes the cluster, as a copy.
    let [first, second, third] = &pair.away[..] else { anyhow::bail!("want three nodes") };
    pair.lab.start_agent(&first.name).await?;
    let leader = the_one(&[first], "/standby-leader").await?;
    for (path, wanted) in
        [("/primary", 503), ("/read-write", 503), ("/leader", 200), ("/replica", 503)]
    {
        let found = code(leader.rest_port, path).await;
        ensure!(found == wanted, "{path} of a standby leader: {found}");
    }
    for node in [second, third] {
        pair.lab.start_agent(&node.name).await?;
    }
    for node in [second, third] {
        streams(node).await?;
    }
    pair.gives(second, SENDERS, "away-3").await?;
    pair.gives(first, SENDERS, "away-2").await?;
    let cluster = ask(second.rest_port, "GET", "/cluster", "").await?.json();
    let role = |name: &str| {
        let members = cluster["members"].as_array().into_iter().flatten();
        members.filter(|member| member["name"] == name).map(|member| &member["role"]).next()
    };
    ensure!(role("away-1") == Some(&json!("standby_leader")), "{cluster}");
    ensure!(role("away-3") == Some(&json!("replica")), "{cluster}");
    let slot = "SELECT active FROM pg_replication_slots WHERE slot_name = 'away'";
    pair.gives(primary, slot, "t").await?;
    pair.arrives(&writer, &[first, second, third]).await?;
    say("a copy follows, and one of its members cascades from another");
    Ok(writer)
}

async fn fails_over(pair: &Pair, writer: &Writer) -> anyhow::Result<()> {
    let [first, second, third] = &pair.away[..] else { anyhow::bail!("want three nodes") };
    let home: Vec<&NodePlace> = pair.home.iter().collect();
    let primary = the_one(&home, "/primary").await?;
    pair.lose(first).await?;
    let leader = the_one(&[second, third], "/standby-leader").await?;
    progresses(writer).await?;
    pair.arrives(writer, &[second, third]).await?;
    pair.lab.start_agent(&first.name).await?;
    streams(first).await?;
    progresses(writer).await?;
    pair.arrives(writer, &[first, second, third]).await?;
    ensure!(code(leader.rest_port, "/primary").await == 503, "nobody opens");
    say("the standby leader was lost, and another one follows");

    // The other host is the one that writes from now on.
    let other = home.iter().copied().find(|node| node.name != primary.name);
    let other = the_one(&[other.context("a second node")?], "/sync").await?;
    pair.lose(primary).await?;
    the_one(&[other], "/primary").await?;
    progresses(writer).await?;
    pair.arrives(writer, &[first, second, third]).await?;
    say("the other cluster failed over, and is followed");
    Ok(())
}

/// Whoever takes the section away has made sure that the other cluster does not write any more.
async fn opens(pair: &Pair, writer: Writer) -> anyhow::Result<()> {
    let away: Vec<&NodePlace> = pair.away.iter().collect();
    let mut history = writer.finish().await;
    pair.arrives(&writer, &away).await?;
    let leader = the_one(&away, "/standby-leader").await?;
    let without = json!({"standby_cluster": null}).to_string();
    let answer = ask(leader.rest_port, "PATCH", "/config", &without).await?;
    ensure!(answer.code == 200, "{answer:?}");
    let primary = the_one(&away, "/primary").await?;
    ensure!(primary.name == leader.name, "{} leads in place of {}", primary.name, leader.name);
    ensure!(code(primary.rest_port, "/standby-leader").await == 503, "it is a primary now");
    let writer = Writer::resume(pair.target(&pair.away), history.sent);
    progresses(&writer).await?;
    for node in away.iter().filter(|node| node.name != primary.name) {
        streams(node).await?;
    }
    history.append(writer.finish().await);
    pair.arrives(&writer, &away).await?;
    let config = pair.lab.client_config(std::slice::from_ref(&primary.site))?;
    let judgement = load::judge(&history, &table::read(&config).await?);
    ensure!(judgement.is_clean(), "{judgement:?}");
    say("without the section it opened where it was, with every row");
    Ok(())
}

/// What a failure leaves to look at.
fn keep_logs(lab: &Lab) {
    let target = workspace().join("target/test-logs/standby-cluster");
    std::fs::create_dir_all(&target).ok();
    let logs = std::fs::read_dir(lab.layout().dir.join("log")).into_iter().flatten().flatten();
    for log in logs {
        std::fs::copy(log.path(), target.join(log.file_name())).ok();
    }
    for node in &lab.layout().nodes {
        let log = lab.layout().run_dir(node).join("postgresql.log");
        std::fs::copy(log, target.join(format!("postgresql-{}.log", node.name))).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_cluster_follows_fails_over_and_opens_once_its_section_is_gone() {
    let pair = Pair::prepare().await.unwrap();
    let done = async {
        let writer = follows(&pair).await?;
        fails_over(&pair, &writer).await?;
        opens(&pair, writer).await
    };
    let done: anyhow::Result<()> = done.await;
    if done.is_err() {
        keep_logs(&pair.lab);
    }
    done.unwrap();
    pair.lab.down().await.unwrap();
}

/// The section of a site, by its leader's REST interface.
async fn section(bed: &Bed, leader: &NodeName) -> anyhow::Result<Value> {
    let place = bed.lab().layout().node(leader.as_str()).context("a node of the lab")?;
    let answer = ask(place.rest_port, "GET", "/config", "").await?;
    ensure!(answer.code == 200, "{answer:?}");
    Ok(answer.json()["standby_cluster"].clone())
}

/// The standby site's section names every node of the primary site, and the primary site has none.
async fn shows(bed: &Bed, roles: &Roles) -> anyhow::Result<()> {
    let ports_of = |site: &SiteName| {
        let nodes = bed.lab().layout().nodes.iter().filter(|node| node.site == *site);
        let mut ports: Vec<String> = nodes.map(|node| node.postgres_port.to_string()).collect();
        ports.sort();
        ports
    };
    let wanted = ports_of(&roles.a);
    until("the sections to show who follows whom", LIMIT, async || {
        let of = async |leader: &NodeName| section(bed, leader).await.map_err(|e| format!("{e:#}"));
        let (holds, follows) = (of(&roles.a_leader).await?, of(&roles.b_leader).await?);
        let mut ports: Vec<&str> =
            follows["port"].as_str().unwrap_or_default().split(',').collect();
        ports.sort_unstable();
        let slot = follows["primary_slot_name"] == json!(roles.b_leader.slot());
        let right = holds.is_null() && ports == wanted && slot;
        right.then_some(()).ok_or_else(|| format!("{holds} and {follows}"))
    })
    .await
}

async fn moves(bed: &Bed) -> anyhow::Result<()> {
    let before = bed.healthy().await?;
    shows(bed, &before).await?;
    let place = bed.lab().layout().node(before.b_leader.as_str()).context("a node of the lab")?;
    for edit in [json!(null), json!({"host": "elsewhere"})] {
        let body = json!({"standby_cluster": edit}).to_string();
        let answer = ask(place.rest_port, "PATCH", "/config", &body).await?;
        ensure!(answer.code == 409 && answer.body.contains("regentctl switchover"), "{answer:?}");
    }
    let whom = bed.coordinator(&before.elected)?;
    let id = bed.begin(&whom, &before.b).await?;
    bed.see("the switchover to end", LIMIT, |global| global.operation(&id)?.outcome).await?;
    let after = bed.healthy().await?;
    ensure!(after.a == before.b, "{} is primary", after.a);
    shows(bed, &after).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_federation_the_section_shows_whom_a_site_follows_and_cannot_be_changed() {
    let bed = Bed::start("standby-cluster-shown", TWO_SITES, None).await.unwrap();
    if let Err(error) = moves(&bed).await {
        bed.keep_logs();
        panic!("{error:?}");
    }
    let (history, judgement) = bed.finish().await.unwrap();
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}
