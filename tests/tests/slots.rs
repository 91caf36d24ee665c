//! Slots through a failover inside a site, on real servers (spec/patroni-compat.md 3.16): permanent ones,
//! physical and logical, go on on the next leader; a logical consumer that confirmed row N gets exactly
//! N+1 and what follows; a member's slot is on the standby before it is needed, and goes
//! `member_slots_ttl` after its member; what `ignore_slots` names stays.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::name::NodeName;
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES, explain};
use regent_tests::rest::ask;
use regent_tests::say;
use regent_tests::session::value;
use regent_tests::wait::until;

/// `member_slots_ttl` of the test.
const MEMBER_TTL: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a copy of a logical slot to become usable: the leader's `catalog_xmin` moves only
/// with the snapshots that PostgreSQL writes every 15 s, and its own `restart_lsn` after some of them.
const USABLE: Duration = Duration::from_secs(240);

const CONFIG: &str = r#"{
  "member_slots_ttl": "15s",
  "slots": {
    "backup": {"type": "physical"},
    "cdc": {"type": "logical", "database": "postgres", "plugin": "pgoutput"}
  },
  "ignore_slots": [{"name": "theirs", "type": "physical"}],
  "postgresql": {"parameters": {"wal_level": "logical"}}
}"#;

fn rest_port(bed: &Bed, node: &NodeName) -> anyhow::Result<u16> {
    let place = bed.lab().layout().node(node.as_str());
    Ok(place.with_context(|| format!("{node} is not of this lab"))?.rest_port)
}

/// The other node of the primary site.
fn standby(bed: &Bed, roles: &Roles) -> anyhow::Result<NodeName> {
    let mut nodes = bed.lab().layout().nodes.iter();
    let other = nodes.find(|node| node.site == roles.a && node.name != roles.a_leader);
    Ok(other.context("a second node of the primary site")?.name.clone())
}

/// Waits until a statement gives this value.
async fn gives(bed: &Bed, node: &NodeName, statement: &str, wanted: &str) -> anyhow::Result<()> {
    until(&format!("{statement} on {node} to give {wanted}"), LIMIT, async || {
        match value(bed.lab(), node, statement).await {
            Ok(found) if found == wanted => Ok(()),
            Ok(found) => Err(found),
            Err(problem) => Err(format!("{problem:#}")),
        }
    })
    .await
}

/// How many slots of this name there are.
fn count(slot: &str) -> String {
    format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'")
}

/// The rows inserted, of pgoutput's messages (protocol-logicalrep-message-formats of the manual): `I`, the
/// table in 4 bytes, `N`, one column in 2, `t`, its length in 4, its text. Every server has pgoutput,
/// unlike test_decoding, which is a package of its own in some distributions.
const TAKE: &str = "\
SELECT coalesce(string_agg(convert_from(substr(data, 14), 'UTF8'), E'\\n'), '')
FROM pg_logical_slot_get_binary_changes(
    'cdc', NULL, NULL, 'proto_version', '1', 'publication_names', 'changes')
WHERE get_byte(data, 0) = ascii('I')";

/// A consumer of `cdc` that keeps the position which it has confirmed, as every client of the streaming
/// protocol does.
#[derive(Debug, Default)]
struct Consumer {
    confirmed: Option<String>,
    rows: Vec<u32>,
}

impl Consumer {
    /// Connects to whoever leads, tells its position, and takes what there is.
    async fn take(&mut self, bed: &Bed, leader: &NodeName) -> anyhow::Result<()> {
        if let Some(confirmed) = &self.confirmed {
            let ahead = format!(
                "SELECT confirmed_flush_lsn > '{confirmed}' FROM pg_replication_slots \
                 WHERE slot_name = 'cdc'"
            );
            let ahead = value(bed.lab(), leader, &ahead).await?;
            ensure!(
                ahead == "f",
                "the slot on {leader} is ahead of {confirmed}, or gone: {ahead:?}"
            );
            // What START_REPLICATION does with the position that it is given.
            let tell = format!(
                "SELECT count(pg_replication_slot_advance(slot_name, '{confirmed}')) \
                 FROM pg_replication_slots WHERE slot_name = 'cdc' \
                 AND confirmed_flush_lsn < '{confirmed}'"
            );
            value(bed.lab(), leader, &tell).await?;
        }
        let found = value(bed.lab(), leader, TAKE).await?;
        for line in found.lines() {
            let number = line.parse().ok();
            self.rows.push(number.with_context(|| format!("a row, not {line:?}"))?);
        }
        let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots \
                         WHERE slot_name = 'cdc'";
        self.confirmed = Some(value(bed.lab(), leader, confirmed).await?);
        Ok(())
    }
}

async fn insert(bed: &Bed, leader: &NodeName, from: u32, to: u32) -> anyhow::Result<()> {
    let rows = format!("INSERT INTO changes SELECT generate_series({from}, {to})");
    value(bed.lab(), leader, &rows).await.map(drop)
}

/// Waits until a consumer could go on from this node, while the present one goes on and moves the slot.
async fn usable(
    bed: &Bed,
    (leader, node): (&NodeName, &NodeName),
    consumer: &mut Consumer,
) -> anyhow::Result<()> {
    let port = rest_port(bed, node)?;
    until(&format!("a usable copy on {node}"), USABLE, async || {
        consumer.take(bed, leader).await.map_err(|error| format!("{error:#}"))?;
        let answer = ask(port, "GET", "/patroni", "").await.map_err(|e| e.to_string())?;
        let body = answer.json();
        let slot = &body["regent"]["slots"]["cdc"];
        (slot["usable"] == true).then_some(()).ok_or_else(|| {
            format!("{slot}, {}, {}", body["regent"]["slot_warnings"], body["regent"]["reason"])
        })
    })
    .await
}

/// Puts the configuration in force: the physical slot shows that it is read, then the servers restart
/// under the new `wal_level`, one after the other.
async fn configure(bed: &Bed) -> anyhow::Result<(NodeName, NodeName)> {
    let roles = bed.healthy().await?;
    let standby_then = standby(bed, &roles)?;
    // Before the slot: whoever decodes wants the publication to have been there from the slot's begin.
    value(bed.lab(), &roles.a_leader, "CREATE TABLE changes (n int PRIMARY KEY)").await?;
    value(bed.lab(), &roles.a_leader, "CREATE PUBLICATION changes FOR TABLE changes").await?;
    let answer = ask(rest_port(bed, &roles.a_leader)?, "PATCH", "/config", CONFIG).await?;
    ensure!(answer.code == 200, "PATCH /config: {answer:?}");
    for node in [&roles.a_leader, &standby_then] {
        gives(bed, node, &count("backup"), "1").await?;
    }
    for node in [&standby_then, &roles.a_leader] {
        bed.lab().kill_postgres(node).await?;
        gives(bed, node, "SHOW wal_level", "logical").await?;
        bed.healthy().await?;
    }
    let roles = bed.healthy().await?;
    Ok((roles.a_leader.clone(), standby(bed, &roles)?))
}

async fn through_a_failover(bed: &Bed) -> anyhow::Result<()> {
    let (leader, standby) = configure(bed).await?;
    gives(bed, &leader, &count("cdc"), "1").await?;
    let mut consumer = Consumer::default();
    usable(bed, (&leader, &standby), &mut consumer).await?;
    say(format!("the copy of the logical slot on {standby} is usable"));

    insert(bed, &leader, 1, 20).await?;
    consumer.take(bed, &leader).await?;
    ensure!(consumer.rows == (1..=20).collect::<Vec<_>>(), "{:?}", consumer.rows);
    insert(bed, &leader, 21, 40).await?;
    // Before the failover: each could be the next one's upstream.
    let of_leader = leader.slot();
    ensure!(
        value(bed.lab(), &standby, &count(&of_leader)).await? == "1",
        "{of_leader} on {standby}"
    );
    ensure!(value(bed.lab(), &leader, &count(&standby.slot())).await? == "1", "the standby's slot");

    let killed_at = bed.writer.now();
    bed.lab().kill_node(&leader).await?;
    bed.see("the other node with the primary lease", HEALTHY, |global| {
        let lease = global.lease()?;
        (lease.node == standby && !lease.released).then_some(())
    })
    .await?;
    bed.progress().await?;
    ensure!(value(bed.lab(), &standby, &count(&of_leader)).await? == "1", "{of_leader} after it");
    let kept = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'backup' \
                AND restart_lsn IS NOT NULL";
    ensure!(value(bed.lab(), &standby, kept).await? == "1", "the permanent physical slot");
    consumer.take(bed, &standby).await?;
    let all: Vec<u32> = (1..=40).collect();
    ensure!(consumer.rows == all, "lost, repeated or out of order: {:?}", consumer.rows);
    say(format!("{standby} leads; the consumer got rows 21 to 40 once, in order"));

    for slot in ["theirs", "stranger"] {
        let make = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
        value(bed.lab(), &standby, &make).await?;
    }
    gives(bed, &standby, &count(&of_leader), "0").await?;
    let waited = bed.writer.now().saturating_sub(killed_at);
    ensure!(waited >= MEMBER_TTL, "{of_leader} was dropped after {waited:?}");
    gives(bed, &standby, &count("stranger"), "0").await?;
    ensure!(value(bed.lab(), &standby, &count("theirs")).await? == "1", "`ignore_slots` names it");
    say(format!("{of_leader} was dropped {waited:?} after its member died"));

    bed.lab().start_agent(&leader).await?;
    bed.healthy().await?;
    gives(bed, &standby, &count(&of_leader), "1").await?;
    // Its own slot of before counts for nothing: it is copied from the one that led since.
    usable(bed, (&standby, &leader), &mut consumer).await?;
    insert(bed, &standby, 41, 50).await?;
    consumer.take(bed, &standby).await?;
    ensure!(consumer.rows == (1..=50).collect::<Vec<_>>(), "{:?}", consumer.rows);
    ensure!(value(bed.lab(), &standby, &count("theirs")).await? == "1", "to the end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_go_on_on_the_next_leader_and_a_consumer_loses_and_repeats_nothing() {
    let bed = Bed::start("slots", TWO_SITES, None).await.unwrap();
    if let Err(error) = through_a_failover(&bed).await {
        bed.keep_logs();
        panic!("{error:#}");
    }
    let (history, judgement) = bed.finish().await.unwrap();
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}
