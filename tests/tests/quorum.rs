//! Quorum commit (`synchronous_mode: quorum`) under a client that keeps writing: a standby that receives
//! nothing holds nobody up, and the death of the leader is followed by an election among those who voted,
//! with nothing lost (I3, I4). The same death in mode `on` is `failover`'s.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::name::NodeName;
use regent_tests::bed::{Bed, HEALTHY, explain};
use regent_tests::rest::{ask, code};
use regent_tests::server::stop_titled;
use regent_tests::wait::until;
use regent_tests::{report, say};
use regentctl::lab::layout::NodePlace;
use regentctl::report::{Case, passed};
use serde_json::{Value, json};

const SINGLE_SITE: &str = include_str!("../../topologies/single-site.yaml");
const NAME: &str = "quorum";
/// What a failover may take beyond the site's TTL.
const BEYOND_TTL: Duration = Duration::from_secs(2);
/// Deaths in a row, each of whoever leads.
const DEATHS: usize = 2;
/// Longest time without an acknowledgement while one standby of two is silent.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// So many writes are acknowledged beside it.
const BESIDE: usize = 500;

/// The leader, and who votes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Roles {
    leader: NodeName,
    voters: [NodeName; 2],
}

struct Site(Bed);

impl Site {
    fn place(&self, node: &NodeName) -> anyhow::Result<&NodePlace> {
        let nodes = &self.0.lab().layout().nodes;
        nodes.iter().find(|place| place.name == *node).context("a node of this site")
    }

    /// Until one node leads, both others vote and stream, and rows are acknowledged.
    async fn healthy(&self) -> anyhow::Result<Roles> {
        let any = self.0.lab().layout().nodes[0].rest_port;
        let roles = until("a leader and two voters", HEALTHY, async || {
            let cluster = ask(any, "GET", "/cluster", "").await.map_err(|e| e.to_string())?;
            let cluster = cluster.json();
            roles(&cluster).ok_or_else(|| cluster.to_string())
        })
        .await
        .with_context(|| self.0.state())?;
        self.0
            .see("the leader's primary lease", HEALTHY, |global| {
                let lease = global.lease()?;
                (lease.node == roles.leader && !lease.released).then_some(())
            })
            .await?;
        for voter in &roles.voters {
            let port = self.place(voter)?.rest_port;
            until("the voter's health check", HEALTHY, async || {
                let codes = (code(port, "/quorum").await, code(port, "/sync").await);
                (codes == (200, 503)).then_some(()).ok_or_else(|| format!("{voter}: {codes:?}"))
            })
            .await?;
        }
        self.0.progress().await?;
        Ok(roles)
    }
}

fn roles(cluster: &Value) -> Option<Roles> {
    let members = cluster["members"].as_array()?;
    let all = |role: &str, state: &str| -> Option<Vec<NodeName>> {
        let found = members.iter().filter(|m| m["role"] == role && m["state"] == state);
        found.map(|member| member["name"].as_str()?.parse().ok()).collect()
    };
    let [leader] = all("leader", "running")?.try_into().ok()?;
    let voters = all("quorum_standby", "streaming")?.try_into().ok()?;
    Some(Roles { leader, voters })
}

/// One of two voters receives nothing: the other one's word is enough.
async fn silent(site: &Site, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    for voter in &before.voters {
        let data_dir = site.0.lab().layout().data_dir(site.place(voter)?);
        let stopped = stop_titled(&data_dir, "walreceiver")?;
        ensure!(stopped.pids().len() == 1, "want one walreceiver, found {:?}", stopped.pids());
        let from = site.0.writer.now();
        site.0.writer.wait_for(BESIDE, from, HEALTHY).await?;
        let outage = site.0.outage(from, site.0.writer.now());
        drop(stopped);
        say(format!("{NAME}: {voter} silent: longest gap {} ms", outage.as_millis()));
        let case = Case::new(format!("{NAME} silent {voter}"))
            .figure("gap", outage.as_secs_f64() * 1e3, "ms")
            .require(outage <= UNDISTURBED, || format!("{outage:?}, limit {UNDISTURBED:?}"));
        cases.push(case);
        let after = site.healthy().await?;
        ensure!(after.leader == before.leader, "{} leads", after.leader);
    }
    Ok(())
}

async fn deaths(site: &Site, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let limit = site.0.lab().topology().policy.site_ttl.0 + BEYOND_TTL;
    for death in 1..=DEATHS {
        let before = site.healthy().await?;
        let from = site.0.writer.now();
        site.0.lab().kill_node(&before.leader).await?;
        let next = site.0.see("another node with the primary lease", HEALTHY, |global| {
            let lease = global.lease()?;
            (lease.node != before.leader && !lease.released).then_some(lease)
        });
        let next = next.await?;
        site.0.progress().await?;
        let outage = site.0.outage(from, site.0.writer.now());
        say(format!(
            "{NAME}: {} killed, {} leads; outage {} ms, {} rows/s before",
            before.leader,
            next.node,
            outage.as_millis(),
            site.0.rate(from),
        ));
        site.0.lab().start_agent(&before.leader).await?;
        let after = site.healthy().await?;
        let case = Case::new(format!("{NAME} death {death}"))
            .figure("outage", outage.as_secs_f64() * 1e3, "ms")
            .figure("limit", limit.as_secs_f64() * 1e3, "ms")
            .require(outage <= limit, || format!("outage {outage:?}, limit {limit:?}"))
            .require(after.voters.contains(&before.leader), || format!("{after:?}"));
        cases.push(case);
    }
    Ok(())
}

async fn quorum() -> anyhow::Result<Vec<Case>> {
    let site = Site(Bed::start(NAME, SINGLE_SITE, None).await?);
    let port = site.0.lab().layout().nodes[0].rest_port;
    let mut cases = Vec::new();
    // There and back under load, then there to stay.
    for mode in [json!("quorum"), json!(true), json!("quorum")] {
        let body = json!({ "synchronous_mode": mode }).to_string();
        let answer = ask(port, "PATCH", "/config", &body).await?;
        ensure!(answer.code == 200, "PATCH {body}: {answer:?}");
        if mode == json!("quorum") {
            site.healthy().await?;
            continue;
        }
        until("one synchronous standby", HEALTHY, async || {
            let cluster = ask(port, "GET", "/cluster", "").await.map_err(|e| e.to_string())?.json();
            let members = cluster["members"].as_array().ok_or("no members")?;
            let count = members.iter().filter(|m| m["role"] == "sync_standby").count();
            (count == 1).then_some(()).ok_or_else(|| cluster.to_string())
        })
        .await?;
    }
    silent(&site, &mut cases).await?;
    deaths(&site, &mut cases).await?;
    let (history, judgement) = site.0.finish().await?;
    say(format!("{NAME}: {}", explain(&judgement, &history)));
    let rows = Case::new(format!("{NAME} rows"));
    cases.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
    Ok(cases)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_quorum_commit_nobody_waits_for_the_slowest_and_nothing_is_lost() {
    let cases = quorum().await.unwrap();
    regentctl::report::write(&report::file(NAME), &cases).expect("the report is written");
    assert!(passed(&cases), "{cases:#?}");
}
