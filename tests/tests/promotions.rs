//! Two promotions of one parent, at one position, onto one timeline number: the second is not
//! followed blindly, and what it wrote is not kept under the first one's name (hazards.md row 71).
//! `pg_rewind` finds nothing to do here, and streaming would go on where the other history ended,
//! where the upstream of a standby is copied anew and serves another history at the same address.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use regent_proto::name::NodeName;
use regent_tests::bed::{Bed, HEALTHY, TWO_SITES, explain};
use regent_tests::say;
use regent_tests::session::value;
use regent_tests::wait::until;

const LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for a node that stands on the wrong promotion to be copied anew.
const COPIED: Duration = Duration::from_secs(120);

/// What an agent says that has told two promotions of one number apart.
const TOLD: &str = "but is of another promotion";

/// Where the timeline that a server promoted itself to began.
fn begin(bed: &Bed, node: &NodeName) -> anyhow::Result<String> {
    let layout = bed.lab().layout();
    let place = layout.node(node.as_str()).context("a node of the lab")?;
    let file = layout.data_dir(place).join("pg_wal/00000002.history");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.split_whitespace().nth(1).context("a position")?.to_owned())
}

async fn twice(bed: &mut Bed, message: Option<&str>) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    // It would find the server that is promoted by hand and write there; those rows nobody keeps.
    bed.keep_away_from(&roles.b_leader).await;
    bed.progress().await?;
    let nodes: Vec<NodeName> = bed.lab().layout().nodes.iter().map(|n| n.name.clone()).collect();
    let of_a = |node: &&NodeName| node.as_str().starts_with(roles.a.as_str());
    let next = nodes.iter().filter(of_a).find(|node| **node != roles.a_leader);
    let next = next.context("a second node")?.clone();
    let dead: Vec<&NodeName> = nodes.iter().filter(|node| **node != next).collect();
    for node in &dead {
        bed.lab().kill_agent(node, Signal::SIGKILL).await?;
    }
    // A fast stop: both standbys of it have the very same WAL.
    let postmaster = bed.lab().postmaster_pid(&roles.a_leader)?.context("the primary's server")?;
    kill(postmaster, Signal::SIGINT)?;
    until("the primary to have stopped", LIMIT, async || {
        match bed.lab().postmaster_pid(&roles.a_leader).map_err(|e| e.to_string())? {
            None => Ok(()),
            Some(pid) => Err(format!("{pid} runs")),
        }
    })
    .await?;
    value(bed.lab(), &roles.b_leader, "SELECT pg_promote(true, 30)").await?;
    value(bed.lab(), &roles.b_leader, "CREATE TABLE phantom AS SELECT 1 AS x").await?;
    if let Some(message) = message {
        let emit = format!("SELECT pg_logical_emit_message(false, 'regent', '{message}')");
        value(bed.lab(), &roles.b_leader, &emit).await?;
    }
    value(bed.lab(), &roles.b_leader, "CHECKPOINT").await?;
    bed.see("the other promotion", HEALTHY, |global| {
        let lease = global.lease()?;
        (lease.node == next && !lease.released).then_some(())
    })
    .await?;
    bed.progress().await?;
    let begins = (begin(bed, &next)?, begin(bed, &roles.b_leader)?);
    ensure!(begins.0 == begins.1, "two switches, not one: {begins:?}");
    say(format!("timeline 2 began twice at {}", begins.0));

    for node in &dead {
        bed.lab().start_agent(node).await?;
    }
    bed.healthy().await?;
    for node in &nodes {
        until("nothing of the other promotion", COPIED, async || {
            let asked =
                value(bed.lab(), node, "SELECT to_regclass('public.phantom') IS NOT NULL").await;
            match asked.as_deref() {
                Ok("f") => Ok(()),
                Ok(_) => Err(format!("{node} keeps what the other promotion wrote")),
                Err(problem) => Err(format!("{node}: {problem:#}")),
            }
        })
        .await?;
        let name = value(bed.lab(), node, "SELECT pg_is_in_recovery()").await?;
        say(format!("{node}: in recovery {name}, no phantom"));
    }
    // By its id, which its promotion wrote itself: not because nothing came from its upstream.
    for node in nodes.iter().filter(|node| node.as_str().starts_with(roles.b.as_str())) {
        let log = std::fs::read_to_string(bed.lab().layout().log(&format!("agent-{node}")))?;
        ensure!(log.contains(TOLD), "{node} was not told apart by its promotion");
    }
    Ok(())
}

async fn run(name: &str, message: Option<&str>) -> anyhow::Result<()> {
    let mut bed = Bed::start(name, TWO_SITES, None).await?;
    if let Err(error) = twice(&mut bed, message).await {
        bed.keep_logs();
        return Err(error);
    }
    let (history, judgement) = bed.finish().await?;
    ensure!(judgement.is_clean(), "{}", explain(&judgement, &history));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_promotion_of_the_same_number_is_not_followed_blindly() {
    run("promotions", Some("promotion 0123456789abcdef")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_by_hand_is_told_apart_and_so_is_whoever_followed_it() {
    run("promotions-by-hand", None).await.unwrap();
}
