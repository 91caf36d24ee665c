//! A region goes dark with rows that the other one was never sent. `regentctl promote` refuses while the
//! lease lives, and without an accepted loss; with it the client goes on at the other site. The old
//! region comes back, never opens, keeps its WAL and follows. Of the acknowledged rows those are lost
//! that lie within the bound that was told, and no others (I26, I27, I30).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::unistd::Pid;
use regent_coordinator::decide::automatic;
use regent_proto::Lsn;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::{EpochHistory, Operation, Outcome, PrimaryState, Record as _};
use regent_test_sys::process::Stopped;
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES};
use regent_tests::program::{self, Finished};
use regent_tests::records::CALL;
use regent_tests::rest::code;
use regent_tests::say;
use regent_tests::session::value;
use regent_tests::wait::until;

/// The longest that the verb may take: the whole wait of the topology's 15 s, a take, and following.
const VERB: Duration = Duration::from_secs(120);

/// `regentctl`, as a person types it.
async fn regentctl(bed: &Bed, arguments: &[&str]) -> anyhow::Result<Finished> {
    let mut command = program::ours("regentctl")?;
    command.arg("--lab").arg(&bed.lab().layout().dir).args(arguments);
    tokio::task::spawn_blocking(move || program::run(command, VERB)).await?
}

fn nodes(bed: &Bed, site: &SiteName) -> Vec<NodeName> {
    let nodes = bed.lab().layout().nodes.iter().filter(|node| node.site == *site);
    nodes.map(|node| node.name.clone()).collect()
}

fn data_dir(bed: &Bed, node: &NodeName) -> anyhow::Result<PathBuf> {
    let layout = bed.lab().layout();
    Ok(layout.data_dir(layout.node(node.as_str()).context("a node of the lab")?))
}

/// The site is lost while the other one is not sent what it acknowledges; when that was, on the
/// writer's clock.
async fn goes_dark(bed: &Bed, roles: &Roles) -> anyhow::Result<Duration> {
    let sender = format!(
        "SELECT pid FROM pg_stat_replication WHERE application_name = '{}'",
        roles.b_leader
    );
    let sender = value(bed.lab(), &roles.a_leader, &sender).await?;
    let stopped = Stopped::these([Pid::from_raw(sender.parse().context("its sender")?)])?;
    let received = "SELECT pg_last_wal_receive_lsn()";
    let received: Lsn = value(bed.lab(), &roles.b_leader, received).await?.parse()?;
    bed.writer.wait_for(200, bed.writer.now(), HEALTHY).await?;
    bed.see("a report of what was never sent", HEALTHY, |global| {
        (global.report(&roles.a)?.position? > received).then_some(())
    })
    .await?;
    // The standby first, so that nobody there takes over.
    let mut nodes = nodes(bed, &roles.a);
    nodes.sort_by_key(|node| *node == roles.a_leader);
    for node in &nodes {
        bed.lab().kill_node(node).await?;
    }
    let at = bed.writer.now();
    bed.lab().kill_coordinator(&roles.a).await?;
    drop(stopped);
    Ok(at)
}

/// Nothing is begun that nobody has accepted.
async fn refused(bed: &Bed, b: &str) -> anyhow::Result<()> {
    // What it blocks on changes while the coordinators find out who is gone.
    until("a promotion that only its loss blocks", HEALTHY, async || {
        let arguments = ["promote", b, "--reason", "eu is dark", "--yes"];
        let refused = regentctl(bed, &arguments).await.map_err(|e| format!("{e:#}"))?;
        let text = &refused.stderr;
        let others = ["old-lease", "target-reports"].iter().any(|check| text.contains(check));
        if refused.code == Some(3) && text.contains("loss-accepted") && !others {
            Ok(())
        } else {
            Err(format!("{refused:?}"))
        }
    })
    .await?;
    let little = ["promote", b, "--accept-loss-age", "1ms", "--reason", "eu is dark", "--yes"];
    let little = regentctl(bed, &little).await?;
    ensure!(little.code == Some(3) && little.stderr.contains("loss-accepted"), "{little:?}");
    let open = bed.look(|global| global.primary().map(|primary| primary.state));
    ensure!(open == Some(PrimaryState::Open), "refused, and yet {open:?}");
    Ok(())
}

/// What the quorum says of the epoch that began.
async fn history(bed: &Bed) -> anyhow::Result<EpochHistory> {
    let primary = bed.look(|global| global.primary()).context("a primary")?;
    let key = bed.keys.history(primary.epoch);
    let entry = bed.store().get(&key, CALL).await?.with_context(|| key.clone())?;
    Ok(EpochHistory::decode(&key, &entry.value)?)
}

/// The old site is back under the new one, and no node of it was ever open.
async fn comes_back(bed: &Bed, a: &SiteName) -> anyhow::Result<Roles> {
    bed.start_missing().await?;
    let ports: Vec<u16> = (bed.lab().layout().nodes.iter())
        .filter(|node| node.site == *a)
        .map(|node| node.rest_port)
        .collect();
    let mut opened = BTreeSet::new();
    until("the old site to stream from the new one", HEALTHY, async || {
        for port in &ports {
            if code(*port, "/primary").await == 200 {
                opened.insert(*port);
            }
        }
        let federation = bed.federation().await.map_err(|e| e.to_string())?;
        let site = federation.sites.iter().find(|site| site.name == a.as_str());
        let site = site.ok_or("no such site")?;
        let follows = site.streaming_from == federation.primary_site;
        if follows { Ok(()) } else { Err(format!("{} from {:?}", a, site.streaming_from)) }
    })
    .await?;
    ensure!(opened.is_empty(), "{opened:?} were open");
    bed.healthy().await
}

async fn through(bed: &Bed) -> anyhow::Result<(Duration, Duration)> {
    let roles = bed.healthy().await?;
    let b = roles.b.as_str();
    let accept = ["--accept-loss-age", "90s", "--reason", "eu is dark", "--yes"];
    let alive = regentctl(bed, &[&["promote", b], &accept[..]].concat()).await?;
    ensure!(alive.code == Some(3) && alive.stderr.contains("old-lease"), "{alive:?}");
    let silent = regentctl(bed, &["promote", b, "--accept-loss-age", "90s", "--yes"]).await?;
    ensure!(silent.code == Some(2) && silent.stderr.contains("--reason"), "{silent:?}");

    let dark_at = goes_dark(bed, &roles).await?;
    refused(bed, b).await?;
    let planned = [&["promote", b, "--dry-run"], &accept[..2]].concat();
    let planned = regentctl(bed, &planned).await?;
    ensure!(planned.code == Some(0), "{planned:?}");
    say(&planned.stdout);
    for what in ["positions", "old-lease", "commits of at most"] {
        ensure!(planned.stdout.contains(what), "no {what:?} in {}", planned.stdout);
    }

    let done = regentctl(bed, &[&["promote", b], &accept[..]].concat()).await?;
    say(&done.stdout);
    ensure!(done.code == Some(0) && done.stdout.contains("succeeded"), "{done:?}");
    let (bound, operation) = replaced(bed, &roles).await?;
    ensure!(operation.reason == "eu is dark", "{}", operation.reason);
    Ok((dark_at, bound))
}

/// The other site is primary, and says what is lost; the old one comes back, closed, and keeps what it has.
async fn replaced(bed: &Bed, roles: &Roles) -> anyhow::Result<(Duration, Operation)> {
    let b = roles.b.as_str();
    ensure!(bed.open(HEALTHY).await? == roles.b, "{b} is not primary");
    let history = history(bed).await?;
    let bound = history.lost_at_most_ms.context("a bound of the loss")?;
    ensure!((history.site.as_str(), history.from) == (b, Some(roles.a.clone())), "wrong history");
    ensure!(history.lost_bytes > 0, "the premise: {b} lacked nothing that was reported");
    ensure!(bound <= 90_000, "{bound} ms, more than was accepted");
    let operation = history.operation.context("an operation")?;
    // What an automatic one waits for to be written down comes a moment after the site has opened.
    let operation = bed
        .see("the operation's outcome", HEALTHY, |global| {
            global.operation(&operation).filter(|operation| operation.outcome.is_some())
        })
        .await?;
    ensure!(matches!(operation.outcome, Some(Outcome::Succeeded { .. })), "{operation:?}");

    let after = comes_back(bed, &roles.a).await?;
    ensure!((&after.a, &after.b) == (&roles.b, &roles.a), "{after:?}");
    let mut salvage = data_dir(bed, &roles.a_leader)?.into_os_string();
    salvage.push(".regent-salvage");
    let kept = std::fs::read_dir(&salvage).with_context(|| format!("{salvage:?}"))?.count();
    ensure!(kept == 1, "{kept} things kept in {salvage:?}");
    Ok((Duration::from_millis(bound), operation))
}

/// Nobody types anything.
async fn by_itself(bed: &Bed) -> anyhow::Result<(Duration, Duration)> {
    let roles = bed.healthy().await?;
    let dark_at = goes_dark(bed, &roles).await?;
    bed.see("primacy of the other site", HEALTHY, |global| {
        (global.primary()?.holder == roles.b).then_some(())
    })
    .await?;
    let (bound, operation) = replaced(bed, &roles).await?;
    ensure!(operation.requested_by == automatic::REQUESTED_BY, "{operation:?}");
    Ok((dark_at, bound))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dark_region_is_replaced_with_the_loss_that_was_accepted_and_comes_back_closed() {
    let bed = Bed::start("promote", TWO_SITES, None).await.expect("a federation");
    let (dark_at, bound) = through(&bed).await.expect("as the verb says");
    judge(bed, dark_at, bound).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dark_region_is_replaced_by_itself_where_the_topology_says_so() {
    let policy = "  automatic_promotion: {mode: on, after: 15s, accept_loss_age: 90s}\n  site_ttl:";
    let topology = TWO_SITES.replace("  site_ttl:", policy);
    assert_ne!(topology, TWO_SITES, "the topology has a policy");
    let bed = Bed::start("promote-automatic", &topology, None).await.expect("a federation");
    let (dark_at, bound) = by_itself(&bed).await.expect("as the topology says");
    judge(bed, dark_at, bound).await;
}

/// What was lost is a tail, within what was told.
async fn judge(bed: Bed, dark_at: Duration, bound: Duration) {
    let (history, judgement) = bed.finish().await.expect("the table");
    let others = (&judgement.duplicated, &judgement.reordered, &judgement.foreign);
    let none = BTreeSet::new();
    assert_eq!(others, (&none, &none, &none));
    assert!(!judgement.lost.is_empty(), "the premise: rows were acknowledged that nobody was sent");
    let oldest = history.acks.iter().find(|ack| judgement.lost.contains(&ack.number));
    let oldest = oldest.expect("they were acknowledged").at;
    say(format!(
        "{} of {} acknowledged rows lost, of the last {} ms; told: at most {} ms",
        judgement.lost.len(),
        judgement.acknowledged,
        dark_at.saturating_sub(oldest).as_millis(),
        bound.as_millis()
    ));
    // The last of them, and all from then on: what is lost is a tail.
    let from = |ack: &&regentctl::load::Ack| ack.at >= oldest && ack.at <= dark_at;
    let tail: BTreeSet<u64> = history.acks.iter().filter(from).map(|ack| ack.number).collect();
    assert_eq!(judgement.lost, tail);
    assert!(oldest + bound >= dark_at, "lost beyond the bound");
}
