//! `regentctl fence` and `unfence` on a federation under a writing client: nobody acknowledges a row
//! between the two, through the death of the fenced site's leader and a failover inside it; the site
//! serves reads meanwhile, and a switchover away from it is refused by name.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::name::SiteName;
use regent_tests::bed::{Bed, HEALTHY, TWO_SITES, explain};
use regent_tests::program::{self, Finished};
use regent_tests::rest::code;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;

const CALL: Duration = Duration::from_secs(20);
const PATH: &str = "/primary";

/// `regentctl`, as a person types it.
async fn regentctl(bed: &Bed, arguments: &[&str]) -> anyhow::Result<Finished> {
    let mut command = program::ours("regentctl")?;
    command.arg("--lab").arg(&bed.lab().layout().dir).args(arguments);
    tokio::task::spawn_blocking(move || program::run(command, CALL)).await?
}

fn acknowledged(bed: &Bed) -> usize {
    bed.writer.look(|history| history.acks.len())
}

fn nodes<'a>(bed: &'a Bed, site: &SiteName) -> Vec<&'a NodePlace> {
    bed.lab().layout().nodes.iter().filter(|node| node.site == *site).collect()
}

/// Every living node of the site serves reads and says that it is no primary; who leads.
async fn fenced(bed: &Bed, site: &SiteName, living: usize) -> anyhow::Result<String> {
    let leader = until("a site that serves reads only", HEALTHY, async || {
        let mut codes = Vec::new();
        for node in nodes(bed, site) {
            codes.push((code(node.rest_port, PATH).await, code(node.rest_port, "/health").await));
        }
        let reading = codes.iter().filter(|codes| **codes == (503, 200)).count();
        let federation = bed.federation().await.map_err(|e| e.to_string())?;
        let shown = federation.sites.iter().find(|shown| shown.name == site.as_str());
        let shown = shown.ok_or("no such site")?;
        let reports = !shown.leader.is_empty() && shown.reported_role != "primary";
        if reading == living && reports {
            Ok(shown.leader.clone())
        } else {
            Err(format!("{codes:?}"))
        }
    });
    leader.await.with_context(|| bed.state())
}

/// The nodes of all sites that say they are the federation's writable primary, and those to read from.
async fn places(bed: &Bed) -> (Vec<String>, usize) {
    let (mut primaries, mut replicas) = (Vec::new(), 0);
    for node in &bed.lab().layout().nodes {
        if code(node.rest_port, "/regent/primary").await == 200 {
            primaries.push(node.name.to_string());
        }
        replicas += usize::from(code(node.rest_port, "/regent/replica?lag=64MB").await == 200);
    }
    (primaries, replicas)
}

/// In recovery, and read by a session of its own.
async fn is_read(bed: &Bed, node: &str) -> anyhow::Result<()> {
    let place = bed.lab().layout().node(node).context("a node of the lab")?;
    let mut config = bed.lab().client_config(std::slice::from_ref(&place.site))?;
    config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::Any);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    drop(client);
    connection.await??;
    ensure!(row.get::<_, bool>(0), "{node} is not in recovery");
    Ok(())
}

async fn through(bed: &Bed) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    let (a, b) = (roles.a.as_str(), roles.b.as_str());

    let refused = regentctl(bed, &["fence", b, "--reason", "a drill", "--yes"]).await?;
    ensure!(refused.code == Some(3), "{refused:?}");
    ensure!(refused.stderr.contains("site-is-primary"), "{refused:?}");
    let silent = regentctl(bed, &["fence", a, "--yes"]).await?;
    ensure!(silent.code == Some(2) && silent.stderr.contains("--reason"), "{silent:?}");
    bed.progress().await?;
    let rate = bed.rate(bed.writer.now());
    let all = bed.lab().layout().nodes.len();
    let before = (vec![roles.a_leader.to_string()], all - 1);
    ensure!(places(bed).await == before, "{:?}", places(bed).await);

    let done = regentctl(bed, &["fence", a, "--reason", "a drill", "--yes"]).await?;
    ensure!(done.code == Some(0) && done.stdout.contains("succeeded"), "{done:?}");
    let nodes = nodes(bed, &roles.a).len();
    let leader = fenced(bed, &roles.a, nodes).await?;
    is_read(bed, &leader).await?;
    let (primaries, _) = places(bed).await;
    ensure!(primaries.is_empty(), "{primaries:?} under the fence");
    let at = acknowledged(bed);
    let status = regentctl(bed, &["status"]).await?;
    ensure!(status.stdout.contains("writes are fenced by"), "{}", status.stdout);
    ensure!(status.stdout.contains("a drill"), "{}", status.stdout);

    let blocked = regentctl(bed, &["switchover", "--to", b, "--yes"]).await?;
    ensure!(blocked.code == Some(3), "{blocked:?}");
    ensure!(blocked.stderr.contains("primary-open"), "{blocked:?}");

    // The fence is the site's, not the node's.
    bed.lab().kill_node(&leader.parse()?).await?;
    let next = until("a failover inside the fenced site", HEALTHY, async || {
        let next = fenced(bed, &roles.a, nodes - 1).await.map_err(|e| format!("{e:#}"))?;
        if next == leader { Err(format!("{next} is named still")) } else { Ok(next) }
    })
    .await?;
    is_read(bed, &next).await?;
    bed.start_missing().await?;
    fenced(bed, &roles.a, nodes).await?;
    ensure!(acknowledged(bed) == at, "{} rows under the fence", acknowledged(bed) - at);

    let lifted = regentctl(bed, &["unfence", a, "--reason", "enough", "--yes"]).await?;
    ensure!(lifted.code == Some(0), "{lifted:?}");
    let again = bed.healthy().await?;
    ensure!(again.a == roles.a, "{} is primary", again.a);
    say(format!(
        "{rate} rows/s before the fence, {at} rows under it unchanged, {next} instead of {leader}; \
         {} rows/s after",
        bed.rate(bed.writer.now())
    ));
    let listed = regentctl(bed, &["operation", "list"]).await?;
    for what in [format!("fence {a}"), format!("unfence {a}")] {
        ensure!(listed.stdout.contains(&what), "no {what} in {}", listed.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_site_acknowledges_nothing_until_it_is_unfenced() {
    let bed = Bed::start("fence_verbs", TWO_SITES, None).await.expect("a federation");
    through(&bed).await.expect("as the verbs say");
    let (history, judgement) = bed.finish().await.expect("the table");
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}
