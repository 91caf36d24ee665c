//! The soak (`make soak`): one synchronous site of three nodes on etcd, under clients that keep writing,
//! and events in a row ([`plan`]). After each the site must be whole again by itself ([`events`]); at the
//! end every acknowledged row must be there, once and in order ([`ledger`]), and each kind of event
//! tells what it cost ([`report`]).
//!
//! The site is the fence's ([`crate::fence::cluster`]); the clients ([`clients`]) are not: these find
//! the next writer themselves.

pub mod clients;
pub mod events;
pub mod ledger;
pub mod plan;
pub mod report;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_dcs::Store;

use crate::fence::cluster::{Cluster, Setting};
use crate::{records, say};
use clients::Clients;
use events::{HEALS, Roles, happen, whole};
use ledger::{Findings, Row, judge};
use plan::Event;
use report::Outcome;

/// The fence's table without its key, which would hide a duplicate, and with the server's own order:
/// an identity is drawn when the row is made.
const TABLE: &str = "\
ALTER TABLE fence.rows DROP CONSTRAINT rows_pkey, \
    ADD COLUMN line bigint GENERATED ALWAYS AS IDENTITY";
const ROWS: &str = "SELECT client, n FROM fence.rows ORDER BY line";
/// Rows read at once.
const AT_ONCE: i32 = 20_000;
/// Longest wait for the whole table.
const READ: Duration = Duration::from_secs(180);

/// A soak that has ended.
#[derive(Debug)]
pub struct Soak {
    /// What its plan was made from.
    pub seed: u32,
    /// Its plan.
    pub plan: Vec<Event>,
    /// What came of the events, up to the first that ended badly.
    pub outcomes: Vec<Outcome>,
    /// How that one ended.
    pub problem: Option<String>,
    /// How many sessions the clients had.
    pub streams: usize,
    /// What became of the rows, or why nobody knows.
    pub findings: Result<Findings, String>,
}

/// Runs so many events.
///
/// # Errors
/// When the site does not start.
pub async fn run(seed: u32, events: usize) -> anyhow::Result<Soak> {
    let plan = plan::plan(seed, events);
    let mut cluster = Cluster::start("soak", Setting::Site).await?;
    let store = records::open(&cluster.lab().layout().quorum)?;
    let leader = cluster.healthy().await?;
    cluster.superuser(leader).await?.batch_execute(TABLE).await.context("prepare the table")?;
    let clients = Clients::start(&cluster.places, &cluster.lab().secrets().app)?;
    let mut roles = whole(&cluster, &*store).await.context("before the first event")?;
    let mut rate = clients.steady().await.context("before the first event")?;
    let (mut outcomes, mut problem) = (Vec::new(), None);
    for (event, n) in plan.iter().zip(1..) {
        match one(&mut cluster, &*store, &clients, (roles, rate), *event).await {
            Ok((outcome, now)) => {
                say(format!("{n} {}", outcome.text()));
                (roles, rate) = (now, outcome.rates.1);
                outcomes.push(outcome);
            }
            Err(why) => {
                let stuck = format!("event {n} of seed {seed}, {event}, from {roles:?}: {why:#}");
                say(format!("{n} FAILED: {stuck}"));
                cluster.keep_logs(&format!("seed-{seed}-event-{n}"))?;
                problem = Some(stuck);
                break;
            }
        }
    }
    let log = clients.finish();
    let found = read(&cluster).await.map_err(|why| format!("{why:#}"));
    let findings = found.map(|found| judge(&log.streams, &found));
    if !findings.as_ref().is_ok_and(Findings::clean) {
        cluster.keep_logs(&format!("seed-{seed}-rows"))?;
    }
    cluster.finish().await?;
    Ok(Soak { seed, plan, outcomes, problem, streams: log.streams.len(), findings })
}

/// One event, from a site that is whole to one that is whole again and writes.
async fn one(
    cluster: &mut Cluster,
    store: &dyn Store,
    clients: &Clients,
    (before, rate): (Roles, usize),
    event: Event,
) -> anyhow::Result<(Outcome, Roles)> {
    let at = clients.now();
    let wanted = happen(cluster, clients, before, event).await?;
    let over = clients.now();
    let after = whole(cluster, store).await.context("stuck")?;
    let healed = clients.now() - over;
    ensure!(healed <= HEALS, "whole again after {healed:?}, limit {HEALS:?}");
    if let Some(wanted) = wanted {
        ensure!(after.leader == wanted, "node {} leads, not {wanted}", after.leader);
    }
    let rates = (rate, clients.steady().await.context("stuck")?);
    let outage = clients.outage(at, clients.now());
    let leaders = (before.leader, after.leader);
    Ok((Outcome { event, outage, whole: healed, rates, leaders }, after))
}

/// Every row, in the server's order.
async fn read(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let reading = async {
        let leader = cluster.healthy().await?;
        let mut client = cluster.superuser(leader).await?;
        let transaction = client.transaction().await?;
        let statement = transaction.prepare(ROWS).await?;
        let portal = transaction.bind(&statement, &[]).await?;
        let mut found = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, AT_ONCE).await?;
            for row in &rows {
                let (stream, number): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
                found.push((u32::try_from(stream)?, u64::try_from(number)?));
            }
            if rows.is_empty() {
                return anyhow::Ok(found);
            }
        }
    };
    tokio::time::timeout(READ, reading).await.context("read the table")?
}
