//! Patroni's own `patronictl` on a site of Regent's (spec/patroni-compat.md 6), verb by verb, while a
//! client writes: what it prints, what it exits with, and what came of it. Its own list of commands is
//! the list of cases: one that has none here fails. Nothing that was acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use regent_proto::name::NodeName;
use regent_tests::bed::{Bed, HEALTHY};
use regent_tests::program::{Finished, patronictl, run};
use regent_tests::rest::ask;
use regent_tests::session::value;
use regent_tests::wait::until;
use regent_tests::{say, skip};
use regentctl::lab::layout::StorePlace;
use regentctl::lab::programs;
use regentctl::report::Case;
use serde_json::{Value, json};

const SINGLE_SITE: &str = include_str!("../../topologies/single-site.yaml");
const NAME: &str = "patronictl";
/// The site, which is the cluster to Patroni.
const CLUSTER: &str = "home";
/// A verb with what it waits for: a restart, a copy, a checkpoint.
const LONGEST: Duration = Duration::from_secs(60);
/// What a planned switchover may take from the clients.
const OUTAGE_MOST: Duration = Duration::from_secs(2);

/// A time that does not come while this runs.
const LATER: &str = "2099-01-01T00:00:00+00:00";

/// Verbs that do nothing here but refuse, and why.
const UNTRIED: [(&str, &str); 1] =
    [("remove", "asks a person at a terminal; what comes of it has its test in keys_gone.rs")];

/// Who is who.
#[derive(Debug, Clone)]
struct Roles {
    leader: String,
    synchronous: String,
    other: String,
}

struct Site {
    bed: Bed,
    config: tempfile::NamedTempFile,
    passwords: tempfile::NamedTempFile,
    tried: BTreeSet<String>,
    cases: Vec<Case>,
}

impl Site {
    async fn start() -> anyhow::Result<Self> {
        let topology = SINGLE_SITE.replacen("dcs: embedded", "dcs: etcd", 1);
        let bed = Bed::start(NAME, &topology, None).await?;
        let place = bed.lab().layout().site_stores.values().next().context("a site store")?;
        let StorePlace::Etcd3 { hosts } = place else { bail!("want etcd, got {place:?}") };
        let mut config = tempfile::NamedTempFile::new()?;
        let text = json!({"scope": CLUSTER, "namespace": "/service/", "etcd3": {"hosts": hosts}});
        config.write_all(text.to_string().as_bytes())?;
        let mut passwords = tempfile::NamedTempFile::new()?;
        writeln!(passwords, "*:*:*:postgres:{}", bed.lab().secrets().superuser)?;
        Ok(Self { bed, config, passwords, tried: BTreeSet::new(), cases: Vec::new() })
    }

    fn run(&mut self, arguments: &[&str]) -> anyhow::Result<Finished> {
        let mut command = patronictl().map_err(anyhow::Error::msg)?;
        command.env("PGPASSFILE", self.passwords.path());
        command.arg("-c").arg(self.config.path()).args(arguments);
        if let Some(verb) = arguments.first() {
            self.tried.insert((*verb).to_owned());
        }
        tokio::task::block_in_place(|| run(command, LONGEST))
    }

    /// It succeeds, and says this.
    fn does(&mut self, arguments: &[&str], says: &str) -> anyhow::Result<String> {
        let done = self.run(arguments)?;
        let well = done.code == Some(0) && done.stdout.contains(says);
        ensure!(well, "patronictl {arguments:?}, wanted {says:?}: {done:?}");
        Ok(done.stdout)
    }

    /// It fails, and says this.
    fn refuses(&mut self, arguments: &[&str], says: &str) -> anyhow::Result<()> {
        let done = self.run(arguments)?;
        let all = format!("{}{}", done.stdout, done.stderr);
        ensure!(
            done.code == Some(1) && all.contains(says),
            "{arguments:?}, wanted {says:?}: {done:?}"
        );
        Ok(())
    }

    fn members(&mut self) -> anyhow::Result<Vec<Value>> {
        let text = self.does(&["list", "-f", "json"], "")?;
        serde_json::from_str(&text).with_context(|| format!("the members: {text}"))
    }

    fn member(&mut self, name: &str) -> anyhow::Result<Value> {
        let found = self.members()?.into_iter().find(|member| member["Member"] == *name);
        found.with_context(|| format!("{name} is not listed"))
    }

    /// Until one member leads, one is synchronous and one streams, all on one timeline, and rows are
    /// acknowledged. Asked over REST: a `patronictl` takes a second to start.
    async fn healthy(&self) -> anyhow::Result<Roles> {
        let port = self.bed.lab().layout().nodes.first().context("a node")?.rest_port;
        let roles = until("a healthy site", HEALTHY, async || {
            let cluster = ask(port, "GET", "/cluster", "").await.map_err(|e| e.to_string())?.json();
            roles(&cluster).ok_or_else(|| cluster.to_string())
        })
        .await?;
        self.bed.progress().await?;
        Ok(roles)
    }

    async fn setting(&self, node: &str, name: &str) -> anyhow::Result<String> {
        let node: NodeName = node.parse()?;
        value(self.bed.lab(), &node, &format!("SELECT current_setting('{name}')")).await
    }

    fn postmaster(&self, node: &str) -> anyhow::Result<i32> {
        let node: NodeName = node.parse()?;
        let pid = self.bed.lab().postmaster_pid(&node)?.context("a server")?;
        Ok(pid.as_raw())
    }
}

fn roles(cluster: &Value) -> Option<Roles> {
    let members = cluster["members"].as_array()?;
    let one = |role: &str, state: &str| {
        let mut found = members.iter().filter(|m| m["role"] == role && m["state"] == state);
        let name = found.next()?["name"].as_str()?.to_owned();
        found.next().is_none().then_some(name)
    };
    let timelines: BTreeSet<Option<u64>> = members.iter().map(|m| m["timeline"].as_u64()).collect();
    let (leader, synchronous) = (one("leader", "running")?, one("sync_standby", "streaming")?);
    let other = one("replica", "streaming")?;
    (members.len() == 3 && timelines.len() == 1).then_some(Roles { leader, synchronous, other })
}

/// What only reads.
async fn reads(site: &mut Site) -> anyhow::Result<()> {
    let roles = site.healthy().await?;
    let role = |name: &str| {
        let named = [(&roles.leader, "Leader"), (&roles.synchronous, "Sync Standby")];
        named.iter().find(|(who, _)| *who == name).map_or("Replica", |(_, role)| *role)
    };
    let members = site.members()?;
    ensure!(members.len() == 3, "{members:?}");
    for member in members {
        let name = member["Member"].as_str().unwrap_or_default();
        ensure!(member["Role"] == role(name), "{member}, wanted {}", role(name));
        ensure!(member["Cluster"] == CLUSTER && member["Host"].is_string(), "{member}");
        let leads = member["Member"] == roles.leader.as_str();
        ensure!(leads || member["Replay Lag"].is_u64(), "{member}");
    }
    let drawn = site.does(&["topology"], &roles.leader)?;
    for name in [&roles.synchronous, &roles.other] {
        ensure!(drawn.contains(&format!("+ {name}")), "{name} hangs below nobody:\n{drawn}");
    }
    let versions = site.does(&["version", CLUSTER], "patronictl version 4.1.5")?;
    for name in [&roles.leader, &roles.synchronous, &roles.other] {
        let told = versions.lines().find(|line| line.starts_with(name.as_str()));
        ensure!(told.is_some_and(|line| line.contains("PostgreSQL")), "{name}:\n{versions}");
    }
    let dsn = site.does(&["dsn", "-m", &roles.other], "host=")?;
    let place = site.bed.lab().layout().node(&roles.other).context("a node")?.postgres_port;
    ensure!(dsn.contains(&format!("port={place}")), "{dsn}");
    let query = ["query", "-c", "SELECT 6 * 7", "-U", "postgres", "-d", "postgres", "-m"];
    site.does(&[&query[..], &[&roles.other]].concat(), "42").map(drop)
}

/// The dynamic configuration, and the pause that stands in it.
async fn configures(site: &mut Site) -> anyhow::Result<()> {
    let roles = site.healthy().await?;
    site.does(&["show-config"], "synchronous_mode: true")?;
    let patch = ["edit-config", "--quiet", "--force", "-p", "work_mem=7MB"];
    site.does(&patch, "Configuration changed")?;
    site.does(&["show-config"], "work_mem: 7MB")?;
    for node in [&roles.leader, &roles.synchronous, &roles.other] {
        until("the parameter in force", HEALTHY, async || {
            let now = site.setting(node, "work_mem").await.map_err(|error| error.to_string())?;
            if now == "7MB" { Ok(()) } else { Err(format!("{node}: {now}")) }
        })
        .await?;
    }
    site.does(&["reload", CLUSTER, "--force"], "Reload request received for member")?;
    site.healthy().await?;
    site.does(&["pause", "--wait"], "Success: cluster management is paused")?;
    site.does(&["list"], "Maintenance mode: on")?;
    site.refuses(&["pause"], "Cluster is already paused")?;
    site.does(&["resume", "--wait"], "Success: cluster management is resumed")?;
    let listed = site.does(&["list"], CLUSTER)?;
    ensure!(!listed.contains("Maintenance"), "{listed}");
    Ok(())
}

/// A change of the leader that somebody asks for, with its outage.
async fn moves(site: &mut Site, verb: &[&str], to: &str) -> anyhow::Result<Duration> {
    let from = site.bed.writer.now();
    site.does(verb, &format!("to \"{to}\""))?;
    site.bed.progress().await?;
    let outage = site.bed.outage(from, site.bed.writer.now());
    let rate = site.bed.rate(from);
    let after = site.healthy().await?;
    say(format!("{NAME}: {verb:?}: outage {} ms, {rate} rows/s before", outage.as_millis()));
    let case = Case::new(format!("{NAME} {}", verb[0]))
        .figure("outage", outage.as_secs_f64() * 1e3, "ms")
        .require(outage <= OUTAGE_MOST, || format!("outage {outage:?}, limit {OUTAGE_MOST:?}"))
        .require(after.leader == to, || format!("{} leads, not {to}", after.leader));
    site.cases.push(case);
    Ok(outage)
}

async fn switches(site: &mut Site) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    let (leader, to) = (before.leader.clone(), before.synchronous.clone());
    let wrong = ["switchover", CLUSTER, "--leader", &to, "--candidate", &leader, "--force"];
    site.refuses(&wrong, "is not the leader of cluster")?;
    let verb = ["switchover", CLUSTER, "--leader", &leader, "--candidate", &to, "--force"];
    moves(site, &verb, &to).await?;

    let before = site.healthy().await?;
    let to = before.synchronous.clone();
    let scheduled = ["switchover", CLUSTER, "--candidate", &to, "--scheduled", LATER, "--force"];
    site.does(&scheduled, "Switchover scheduled")?;
    site.does(&["list"], &format!("Switchover scheduled at: {}", &LATER[..10]))?;
    site.does(
        &["flush", CLUSTER, "switchover", "--force"],
        "Success: scheduled switchover deleted",
    )?;
    let listed = site.does(&["list"], CLUSTER)?;
    ensure!(!listed.contains("scheduled at"), "{listed}");

    // To whom commits do not wait for: only by name, with a failover.
    let to = before.other.clone();
    moves(site, &["failover", CLUSTER, "--candidate", &to, "--force"], &to).await?;
    let history = site.does(&["history", "-f", "json"], &to)?;
    let lines: Value = serde_json::from_str(&history)?;
    ensure!(lines.as_array().is_some_and(|lines| lines.len() >= 2), "{history}");
    Ok(())
}

async fn restarts(site: &mut Site) -> anyhow::Result<()> {
    let roles = site.healthy().await?;
    for (name, by) in [
        (&roles.other, vec!["restart", CLUSTER, roles.other.as_str(), "--force"]),
        (&roles.leader, vec!["restart", CLUSTER, "--role", "leader", "--force"]),
    ] {
        let before = site.postmaster(name)?;
        site.does(&by, &format!("Success: restart on member {name}"))?;
        ensure!(site.postmaster(name)? != before, "{name} runs the server of before");
        let after = site.healthy().await?;
        ensure!(after.leader == roles.leader, "{} leads after a restart", after.leader);
    }
    let scheduled = ["restart", CLUSTER, &roles.other, "--scheduled", LATER, "--force"];
    site.does(&scheduled, &format!("Success: restart scheduled on member {}", roles.other))?;
    until("the scheduled restart in the list", HEALTHY, async || {
        let shown = patronictl_shows(site, &roles.other)?;
        shown.then_some(()).ok_or_else(|| "not shown".to_owned())
    })
    .await?;
    let flush = ["flush", CLUSTER, &roles.other, "restart", "--force"];
    site.does(&flush, &format!("Success: flush scheduled restart for member {}", roles.other))?;
    let pending = ["restart", CLUSTER, &roles.other, "--pending", "--force"];
    let before = site.postmaster(&roles.other)?;
    let told = site.does(&pending, CLUSTER)?;
    ensure!(!told.contains("Success"), "nothing waits for a restart: {told}");
    ensure!(site.postmaster(&roles.other)? == before, "it was restarted all the same");
    Ok(())
}

/// Whether a member's scheduled restart is listed.
fn patronictl_shows(site: &mut Site, name: &str) -> Result<bool, String> {
    let member = site.member(name).map_err(|error| error.to_string())?;
    Ok(member["Scheduled restart"].as_str().is_some_and(|at| at.starts_with(&LATER[..10])))
}

async fn copies(site: &mut Site) -> anyhow::Result<()> {
    let roles = site.healthy().await?;
    let before = site.postmaster(&roles.other)?;
    let leader = roles.leader.clone();
    site.refuses(&["reinit", CLUSTER, &leader, "--force"], "among provided members")?;
    let verb = ["reinit", CLUSTER, &roles.other, "--force", "--wait"];
    site.does(&verb, &format!("Reinitialize is completed on: {}", roles.other))?;
    site.healthy().await?;
    ensure!(site.postmaster(&roles.other)? != before, "{} was not copied anew", roles.other);
    Ok(())
}

/// What a federation decides is not patronictl's to decide.
async fn refuses(site: &mut Site) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    let demote = ["demote-cluster", CLUSTER, "--host", "127.0.0.1", "--port", "5432", "--force"];
    site.refuses(&demote, "in a federation")?;
    site.refuses(&["promote-cluster", CLUSTER, "--force"], "already in the required state")?;
    let after = site.healthy().await?;
    ensure!(after.leader == before.leader, "{} leads", after.leader);
    Ok(())
}

/// Whatever `patronictl` can do has its case.
fn complete(site: &mut Site) -> anyhow::Result<()> {
    let help = site.does(&["--help"], "Commands:")?;
    let verbs = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let verbs: BTreeSet<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    let untried: BTreeMap<&str, &str> = UNTRIED.into();
    let missing: Vec<_> = verbs
        .iter()
        .filter(|verb| !site.tried.contains(**verb) && !untried.contains_key(**verb))
        .collect();
    ensure!(verbs.len() > 10 && missing.is_empty(), "no case for {missing:?} of {verbs:?}");
    Ok(())
}

async fn all() -> anyhow::Result<()> {
    let mut site = Site::start().await?;
    reads(&mut site).await?;
    configures(&mut site).await?;
    switches(&mut site).await?;
    restarts(&mut site).await?;
    copies(&mut site).await?;
    refuses(&mut site).await?;
    complete(&mut site)?;
    let Site { bed, cases, .. } = site;
    bed.report(cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_of_patronictl_does_on_a_site_of_regents_what_it_says() {
    match (programs::etcd(), patronictl()) {
        (Err(missing), _) => skip(&missing.to_string()),
        (_, Err(missing)) => skip(&missing),
        (Ok(_), Ok(_)) => all().await.unwrap(),
    }
}
