//! Switchovers inside a site, asked for over REST as `patronictl` does, under a client that keeps
//! writing: to a named candidate, an unnamed one, one that commits did not wait for, a scheduled one;
//! refused and cancelled ones; and one whose candidate stops receiving just then, after which the
//! leader opens again. Nothing is lost in any, and each tells its outage.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_agent::observe::clock::wall_time;
use regent_proto::name::NodeName;
use regent_proto::time::WallTime;
use regent_tests::bed::{Bed, HEALTHY, explain};
use regent_tests::rest::{Answer, ask};
use regent_tests::server::stop_titled;
use regent_tests::wait::until;
use regent_tests::{report, say};
use regentctl::lab::layout::NodePlace;
use regentctl::report::{Case, passed};
use serde_json::{Value, json};

const SINGLE_SITE: &str = include_str!("../../topologies/single-site.yaml");
const NAME: &str = "site-switchover";
/// What a switchover may take from the clients: far less than a leader key takes to expire, which is
/// what an unplanned failover waits for.
const OUTAGE_MOST: Duration = Duration::from_secs(2);
/// The same where the candidate does not follow: the walsender that holds up the stop is ended after
/// the stop budget, the candidate is waited for, the server starts, and the record lets the candidate
/// go.
const REOPENS_WITHIN: Duration = Duration::from_secs(10);
/// A schedule is for so much later.
const LATER: Duration = Duration::from_secs(4);

/// Who is who.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Roles {
    leader: NodeName,
    /// Whom commits wait for.
    synchronous: NodeName,
    other: NodeName,
    timeline: u64,
}

struct Site(Bed);

impl Site {
    fn place(&self, node: &NodeName) -> anyhow::Result<&NodePlace> {
        let nodes = &self.0.lab().layout().nodes;
        nodes.iter().find(|place| place.name == *node).context("a node of this site")
    }

    async fn rest(
        &self,
        node: &NodeName,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask(self.place(node)?.rest_port, method, path, &body).await
    }

    async fn cluster(&self, node: &NodeName) -> anyhow::Result<Value> {
        Ok(self.rest(node, "GET", "/cluster", &Value::Null).await?.json())
    }

    /// Until one node leads, another is synchronous, the third streams, all on one timeline, the
    /// leader has the primary lease, and rows are acknowledged.
    async fn healthy(&self) -> anyhow::Result<Roles> {
        let any = self.0.lab().layout().nodes[0].name.clone();
        let roles = until("a healthy site", HEALTHY, async || {
            let cluster = self.cluster(&any).await.map_err(|e| e.to_string())?;
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
        self.0.progress().await?;
        Ok(roles)
    }

    /// Asks, and what came of it, with the outage that it cost.
    async fn switch(
        &self,
        what: &str,
        (path, body): (&str, Value),
        wanted: (u16, String),
    ) -> anyhow::Result<(Roles, Duration, Case)> {
        let before = self.healthy().await?;
        let from = self.0.writer.now();
        let answer = self.rest(&before.leader, "POST", path, &body).await?;
        self.0.progress().await?;
        let outage = self.0.outage(from, self.0.writer.now());
        let after = self.healthy().await?;
        say(format!(
            "{NAME}: {what}: {} {}; {} -> {}, outage {} ms, {} rows/s before",
            answer.code,
            answer.body,
            before.leader,
            after.leader,
            outage.as_millis(),
            self.0.rate(from),
        ));
        let case = Case::new(format!("{NAME} {what}"))
            .figure("outage", outage.as_secs_f64() * 1e3, "ms")
            .require((answer.code, answer.body.clone()) == wanted, || format!("{answer:?}"));
        Ok((after, outage, case))
    }
}

fn roles(cluster: &Value) -> Option<Roles> {
    let members = cluster["members"].as_array()?;
    let one = |role: &str, state: &str| -> Option<NodeName> {
        let mut found = members.iter().filter(|m| m["role"] == role && m["state"] == state);
        let name = found.next()?["name"].as_str()?.parse().ok()?;
        found.next().is_none().then_some(name)
    };
    let timeline = members.first()?["timeline"].as_u64()?;
    let same = members.iter().all(|member| member["timeline"].as_u64() == Some(timeline));
    let (leader, synchronous) = (one("leader", "running")?, one("sync_standby", "streaming")?);
    let other = one("replica", "streaming")?;
    (same && members.len() == 3).then_some(Roles { leader, synchronous, other, timeline })
}

fn over_to(node: &NodeName, verb: &str) -> (u16, String) {
    (200, format!("Successfully {verb}ed over to \"{node}\""))
}

fn quick(case: Case, outage: Duration) -> Case {
    case.require(outage <= OUTAGE_MOST, || format!("outage {outage:?}, limit {OUTAGE_MOST:?}"))
}

/// Refused before anything is done: the site stays as it is.
async fn refused(site: &Site, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    let leader = before.leader.as_str();
    let other = before.other.as_str();
    let not_synchronous = "candidate name does not match with sync_standby";
    let same = "Switchover target and source are the same";
    for (path, body, code, text) in [
        ("/switchover", json!({"leader": leader, "candidate": "home-9"}), 412, not_synchronous),
        ("/switchover", json!({"leader": leader, "candidate": other}), 412, not_synchronous),
        ("/switchover", json!({"leader": other}), 412, "leader name does not match"),
        ("/failover", json!({"candidate": "home-9"}), 412, "candidate does not exists"),
        ("/switchover", json!({"leader": leader, "candidate": leader}), 400, same),
    ] {
        let answer = site.rest(&before.other, "POST", path, &body).await?;
        let case = Case::new(format!("{NAME} refused {path} {body}"));
        cases.push(case.require((answer.code, answer.body.as_str()) == (code, text), || {
            format!("{answer:?}")
        }));
    }
    ensure!(site.healthy().await? == before, "a refused request changed something");
    Ok(())
}

async fn scheduled(site: &Site, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    let in_future = |span: Duration| {
        WallTime(wall_time().0 + u64::try_from(span.as_millis()).unwrap_or(u64::MAX)).to_string()
    };
    let (leader, candidate) = (before.leader.as_str(), before.synchronous.as_str());
    // Taken back.
    let at = in_future(HEALTHY * 60);
    let body = json!({"leader": leader, "candidate": candidate, "scheduled_at": at});
    let posted = site.rest(&before.other, "POST", "/switchover", &body).await?;
    let shown = until("the schedule is shown", HEALTHY, async || {
        let cluster = site.cluster(&before.leader).await.map_err(|e| e.to_string())?;
        let shown = &cluster["scheduled_switchover"];
        if shown.is_null() { Err(cluster.to_string()) } else { Ok(shown.clone()) }
    });
    let shown = shown.await?;
    let expected = json!({"at": body["scheduled_at"], "from": leader, "to": candidate});
    let deleted = site.rest(&before.other, "DELETE", "/switchover", &Value::Null).await?;
    let again = site.rest(&before.other, "DELETE", "/switchover", &Value::Null).await?;
    let answers = [posted, deleted, again].map(|answer| (answer.code, answer.body));
    let wanted = [
        (202, "Switchover scheduled".to_owned()),
        (200, "scheduled switchover deleted".to_owned()),
        (404, "no switchover is scheduled".to_owned()),
    ];
    ensure!(site.healthy().await? == before, "a schedule that was taken back changed something");
    cases.push(
        Case::new(format!("{NAME} cancelled"))
            .require(answers == wanted, || format!("{answers:?}"))
            .require(shown == expected, || format!("{shown}, not {expected}")),
    );
    // Met.
    let from = site.0.writer.now();
    let body = json!({"leader": leader, "candidate": candidate, "scheduled_at": in_future(LATER)});
    let posted = site.rest(&before.other, "POST", "/switchover", &body).await?;
    until("the scheduled switchover", HEALTHY, async || {
        let cluster = site.cluster(&before.other).await.map_err(|e| e.to_string())?;
        let leads = cluster["members"].as_array().is_some_and(|members| {
            members.iter().any(|m| m["role"] == "leader" && m["name"] == candidate)
        });
        if leads { Ok(()) } else { Err(cluster.to_string()) }
    })
    .await?;
    let waited = site.0.writer.now() - from;
    site.0.progress().await?;
    let outage = site.0.outage(from, site.0.writer.now());
    let after = site.healthy().await?;
    say(format!(
        "{NAME}: scheduled: {} after {} ms, outage {} ms",
        after.leader,
        waited.as_millis(),
        outage.as_millis()
    ));
    let case = Case::new(format!("{NAME} scheduled"))
        .figure("outage", outage.as_secs_f64() * 1e3, "ms")
        .require(posted.code == 202, || format!("{posted:?}"))
        .require(after.leader == before.synchronous, || format!("{} leads", after.leader))
        // The text has whole milliseconds, and the request takes some.
        .require(waited + Duration::from_millis(50) >= LATER, || format!("too soon: {waited:?}"));
    cases.push(quick(case, outage));
    Ok(())
}

/// hazards.md row 45: the candidate's walreceiver does not run from just before the request on. It
/// answers, it is near enough, and it never gets the end of the WAL.
async fn frozen(site: &Site, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let before = site.healthy().await?;
    let place = site.place(&before.synchronous)?;
    let data_dir = site.0.lab().layout().data_dir(place);
    let stopped = stop_titled(&data_dir, "walreceiver")?;
    ensure!(stopped.pids().len() == 1, "want one walreceiver, found {:?}", stopped.pids());
    let from = site.0.writer.now();
    let body = json!({"leader": before.leader.as_str(), "candidate": before.synchronous.as_str()});
    let answer = site.rest(&before.leader, "POST", "/switchover", &body).await?;
    site.0.progress().await?;
    let outage = site.0.outage(from, site.0.writer.now());
    let held = site.cluster(&before.leader).await?;
    drop(stopped);
    let after = site.healthy().await?;
    say(format!(
        "{NAME}: frozen candidate: {} {}; {} leads on timeline {}, outage {} ms",
        answer.code,
        answer.body,
        after.leader,
        after.timeline,
        outage.as_millis()
    ));
    let case = Case::new(format!("{NAME} frozen candidate"))
        .figure("outage", outage.as_secs_f64() * 1e3, "ms")
        .require((answer.code, answer.body.as_str()) == (503, "Switchover failed"), || {
            format!("{answer:?}")
        })
        .require(after.leader == before.leader, || format!("{} leads", after.leader))
        .require(after.timeline == before.timeline, || {
            format!("timeline {} became {}", before.timeline, after.timeline)
        })
        .require(held.get("scheduled_switchover").is_none(), || held.to_string())
        .require(outage <= REOPENS_WITHIN, || format!("outage {outage:?}"));
    cases.push(case);
    Ok(())
}

async fn switchovers() -> anyhow::Result<Vec<Case>> {
    let site = Site(Bed::start(NAME, SINGLE_SITE, None).await?);
    let mut cases = Vec::new();
    refused(&site, &mut cases).await?;
    for round in 1..=2 {
        let roles = site.healthy().await?;
        let to = roles.synchronous.clone();
        let body = json!({"leader": roles.leader.as_str(), "candidate": to.as_str()});
        let what = format!("named {round}");
        let wanted = over_to(&to, "switch");
        let (after, outage, case) = site.switch(&what, ("/switchover", body), wanted).await?;
        cases.push(quick(case, outage).require(after.leader == to, || format!("{after:?}")));
    }
    let roles = site.healthy().await?;
    // Only one may lead, so it is known who will.
    let to = roles.synchronous.clone();
    let body = json!({"leader": roles.leader.as_str()});
    let wanted = over_to(&to, "switch");
    let (after, outage, case) = site.switch("unnamed", ("/switchover", body), wanted).await?;
    cases.push(quick(case, outage).require(after.leader == to, || format!("{after:?}")));
    let to = after.other.clone();
    let body = json!({"candidate": to.as_str()});
    let wanted = over_to(&to, "fail");
    let (after, outage, case) = site.switch("asynchronous", ("/failover", body), wanted).await?;
    cases.push(quick(case, outage).require(after.leader == to, || format!("{after:?}")));
    scheduled(&site, &mut cases).await?;
    frozen(&site, &mut cases).await?;
    let (history, judgement) = site.0.finish().await?;
    say(format!("{NAME}: {}", explain(&judgement, &history)));
    let rows = Case::new(format!("{NAME} rows"));
    cases.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
    Ok(cases)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_switches_over_when_asked_and_loses_nothing() {
    let cases = switchovers().await.unwrap();
    regentctl::report::write(&report::file(NAME), &cases).expect("the report is written");
    assert!(passed(&cases), "{cases:#?}");
}
