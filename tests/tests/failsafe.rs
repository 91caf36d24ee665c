//! A store that answers nothing, on real processes (I19): with failsafe the writer goes on while
//! everybody agrees, nobody else opens, and it steps down before its deadline once one is silent.

use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use regent_proto::name::{NodeName, SiteName};
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES, explain};
use regent_tests::rest::{ask, code};
use regent_tests::wait::until;
use regent_tests::{report, say};
use regentctl::lab::programs;
use regentctl::report::{Case, passed};

/// The longest gap in acknowledgements while everybody agrees.
const GAP: Duration = Duration::from_secs(1);
/// Beyond the TTL until the server is gone: time for this machine's schedule, not for the writer.
const GONE: Duration = Duration::from_secs(5);

fn topology(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(TWO_SITES.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

struct Outage {
    bed: Bed,
    roles: Roles,
    stores: Vec<String>,
    cases: Vec<Case>,
}

impl Outage {
    async fn start(name: &str, topology: &str, stores: &[&str]) -> anyhow::Result<Self> {
        let bed = Bed::start(name, topology, None).await?;
        let roles = bed.healthy().await?;
        // Each site's report says where it promises, of every node that may lead it once the quorum is
        // silent; the record is written as soon.
        let nodes = |site: &SiteName| {
            bed.lab().layout().nodes.iter().filter(|node| node.site == *site).count()
        };
        bed.see("reports of all nodes of both sites", HEALTHY, |global| {
            let of = |site: &SiteName| {
                global.report(site).filter(|report| report.nodes.len() == nodes(site))
            };
            of(&roles.a).zip(of(&roles.b))
        })
        .await?;
        let stores = stores.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { bed, roles, stores, cases: Vec::new() })
    }

    async fn stores(&self, signal: Signal) -> anyhow::Result<()> {
        for store in &self.stores {
            self.bed.lab().signal(store, signal).await?;
        }
        Ok(())
    }

    fn rest_port(&self, node: &NodeName) -> anyhow::Result<u16> {
        let nodes = &self.bed.lab().layout().nodes;
        let place = nodes.iter().find(|place| place.name == *node).context("a node of the lab")?;
        Ok(place.rest_port)
    }

    /// Nodes that say they are primary now.
    async fn primaries(&self) -> Vec<NodeName> {
        let mut primaries = Vec::new();
        for node in &self.bed.lab().layout().nodes {
            if code(node.rest_port, "/primary").await == 200 {
                primaries.push(node.name.clone());
            }
        }
        primaries
    }

    /// The writer goes on for `span`, and whoever is looked at, only the leader of before writes.
    async fn goes_on(&mut self, what: &str, span: Duration) -> anyhow::Result<()> {
        let leader = self.roles.a_leader.clone();
        let postmaster = self.bed.lab().postmaster_pid(&leader)?;
        let from = self.bed.writer.now();
        let (mut looks, mut others) = (0_u32, Vec::new());
        while self.bed.writer.now() < from + span {
            self.bed.progress().await?;
            looks += 1;
            others.extend(self.primaries().await.into_iter().filter(|node| *node != leader));
        }
        let to = self.bed.writer.now();
        let (gap, rate) = (self.bed.outage(from, to), self.bed.rate(to));
        let same = self.bed.lab().postmaster_pid(&leader)? == postmaster;
        say(format!("{what}: {span:?}, longest gap {gap:?}, {rate} rows/s, {looks} looks"));
        self.cases.push(
            Case::new(what)
                .figure("gap", gap.as_secs_f64() * 1e3, "ms")
                .require(gap <= GAP, || format!("gap {gap:?}, limit {GAP:?}"))
                .require(same, || "PostgreSQL was started anew".to_owned())
                .require(others.is_empty(), || format!("{others:?} were primary as well")),
        );
        Ok(())
    }

    /// The stores answer again: the same server writes on.
    async fn comes_back(&mut self, what: &str) -> anyhow::Result<()> {
        let leader = self.roles.a_leader.clone();
        let postmaster = self.bed.lab().postmaster_pid(&leader)?;
        let from = self.bed.writer.now();
        self.stores(Signal::SIGCONT).await?;
        self.roles = self.bed.healthy().await?;
        let gap = self.bed.outage(from, self.bed.writer.now());
        let same = self.bed.lab().postmaster_pid(&leader)? == postmaster;
        say(format!("{what}: longest gap {gap:?}"));
        self.cases.push(
            Case::new(what)
                .figure("gap", gap.as_secs_f64() * 1e3, "ms")
                .require(gap <= GAP, || format!("gap {gap:?}, limit {GAP:?}"))
                .require(same, || "PostgreSQL was started anew".to_owned())
                .require(self.roles.a_leader == leader, || {
                    format!("{} leads, not {leader}", self.roles.a_leader)
                }),
        );
        Ok(())
    }

    /// These die while the stores are silent: nothing is acknowledged more than `ttl` later, and
    /// nobody else opens.
    async fn steps_down(
        &mut self,
        what: &str,
        killed: &[String],
        ttl: Duration,
    ) -> anyhow::Result<()> {
        let leader = self.roles.a_leader.clone();
        self.bed.kill(killed).await?;
        // A word of the moment before gives one more TTL, and no more.
        let silent = self.bed.writer.now();
        let mut others = Vec::new();
        until("the primary to be gone", ttl + GONE, async || {
            let primaries = self.primaries().await;
            others.extend(primaries.iter().filter(|node| **node != leader).cloned());
            let over = self.bed.writer.now() > silent + ttl && primaries.is_empty();
            over.then_some(()).ok_or_else(|| format!("{primaries:?} write"))
        })
        .await?;
        let (last, late) = self.bed.writer.look(|history| {
            let late = history.acks.iter().filter(|ack| ack.at >= silent + ttl).count();
            (history.acks.last().map_or(silent, |ack| ack.at), late)
        });
        let last = last.saturating_sub(silent);
        say(format!("{what}: {killed:?} dead, last acknowledgement {last:?} later, TTL {ttl:?}"));
        self.cases.push(
            Case::new(what)
                .figure("last", last.as_secs_f64() * 1e3, "ms")
                .require(late == 0, || format!("{late} rows acknowledged after the deadline"))
                .require(others.is_empty(), || format!("{others:?} opened")),
        );
        Ok(())
    }

    async fn finish(mut self, name: &str) -> anyhow::Result<()> {
        self.stores(Signal::SIGCONT).await?;
        self.bed.start_missing().await?;
        self.bed.healthy().await?;
        if !passed(&self.cases) {
            self.bed.keep_logs();
        }
        let (history, judgement) = self.bed.finish().await?;
        say(format!("{name}: {}", explain(&judgement, &history)));
        let rows = Case::new(format!("{name} rows"));
        self.cases.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
        regentctl::report::write(&report::file(name), &self.cases)?;
        anyhow::ensure!(passed(&self.cases), "{:#?}", self.cases);
        Ok(())
    }
}

async fn site() -> anyhow::Result<()> {
    let text = topology(&[
        ("dcs: embedded", "dcs: etcd"),
        ("      - name: eu-2\n", "      - name: eu-2\n      - name: eu-3\n"),
        ("follow_timeout: 60s", "follow_timeout: 60s\n  failsafe: site"),
    ]);
    let ttl = Duration::from_secs(5);
    let mut outage = Outage::start("failsafe-site", &text, &["etcd-eu"]).await?;
    outage.stores(Signal::SIGSTOP).await?;
    outage.goes_on("a site without its etcd goes on", ttl * 3).await?;
    outage.comes_back("its etcd comes back").await?;
    outage.stores(Signal::SIGSTOP).await?;
    let port = outage.rest_port(&outage.roles.a_leader)?;
    until("failsafe again", ttl, async || {
        let answer = ask(port, "GET", "/patroni", "").await.map_err(|e| e.to_string())?.json();
        let active = answer["failsafe_mode_is_active"] == true;
        active.then_some(()).ok_or_else(|| answer.to_string())
    })
    .await?;
    let member = if outage.roles.a_leader.as_str() == "eu-3" { "eu-2" } else { "eu-3" };
    let killed = [format!("agent-{member}")];
    outage.steps_down("a member falls silent", &killed, ttl).await?;
    outage.finish("failsafe-site").await
}

async fn quorum() -> anyhow::Result<()> {
    let text = topology(&[
        ("quorum:\n  store: embedded", "quorum:\n  store: etcd"),
        ("follow_timeout: 60s", "follow_timeout: 60s\n  failsafe: quorum"),
        (
            "  # On one machine the quorum is one file, and that is no news.\n  accept: [single-store-quorum]",
            "  accept: []",
        ),
    ]);
    let ttl = Duration::from_secs(15);
    let voters = ["quorum-eu", "quorum-us", "quorum-witness"];
    let mut outage = Outage::start("failsafe-quorum", &text, &voters).await?;
    let agents: Vec<String> = {
        let nodes = &outage.bed.lab().layout().nodes;
        let others = nodes.iter().filter(|node| node.site == outage.roles.b);
        others.map(|node| node.agent()).collect()
    };
    outage.stores(Signal::SIGSTOP).await?;
    // The promise of the other site's leader ends in this time; its next leader's does not.
    let leader = format!("agent-{}", outage.roles.b_leader);
    outage.bed.kill(&[leader]).await?;
    outage.goes_on("a primary site without the quorum goes on", ttl + ttl / 4).await?;
    outage.steps_down("the other site falls silent", &agents, ttl).await?;
    outage.finish("failsafe-quorum").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_of_three_goes_on_without_its_etcd_while_every_member_agrees() {
    match programs::etcd() {
        Err(missing) => regent_tests::skip(&missing.to_string()),
        Ok(_) => site().await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_site_goes_on_without_the_quorum_while_every_site_promises() {
    match programs::etcd() {
        Err(missing) => regent_tests::skip(&missing.to_string()),
        Ok(_) => quorum().await.unwrap(),
    }
}
