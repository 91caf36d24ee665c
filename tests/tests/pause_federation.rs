//! A pause of one site of a federation stops that site's automation and loosens nothing: the primary
//! lease still ends at its deadline, `/primary` with it, and the guardian still stands behind it
//! (design.md section 3, *Pause*). The pause of a cluster without federation is in
//! `pause_and_health`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_guardian::clock::boot_time;
use regent_guardian::page::{Guard, Page};
use regent_guardian::processes::of_data_directory;
use regent_proto::time::BootTime;
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::rest::ask;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;

/// Longer than any lease of the lab.
const PAST: Duration = Duration::from_secs(60);
/// How often `/primary` is asked.
const EVERY: Duration = Duration::from_millis(20);

fn leader(bed: &Bed, roles: &Roles) -> anyhow::Result<NodePlace> {
    let layout = bed.lab().layout();
    Ok(layout.node(roles.a_leader.as_str()).context("a node of the lab")?.clone())
}

/// Every node of the site says that it is paused, and that its fence stands.
async fn pause(bed: &Bed, roles: &Roles, on: bool) -> anyhow::Result<()> {
    let body = if on { r#"{"pause": true}"# } else { r#"{"pause": null}"# };
    let place = leader(bed, roles)?;
    let answer = ask(place.rest_port, "PATCH", "/config", body).await?;
    ensure!(answer.code == 200, "PATCH /config: {answer:?}");
    let nodes = bed.lab().layout().nodes.iter().filter(|node| node.site == place.site);
    for node in nodes {
        until("the pause is seen", HEALTHY, async || {
            let answer = ask(node.rest_port, "GET", "/patroni", "").await;
            let body = answer.map_err(|e| e.to_string())?.json();
            let said = (body["pause"] == true, body["regent"]["fence"].as_str().map(str::to_owned));
            let suspended = said.1.as_deref() == Some("NOT FENCED: PAUSED");
            (said.0 == on && !suspended).then_some(()).ok_or_else(|| format!("{said:?}"))
        })
        .await?;
    }
    Ok(())
}

/// What the coordinators, and so `regentctl status`, show.
async fn status_shows_it(bed: &Bed, roles: &Roles) -> anyhow::Result<()> {
    until("the pause in the status", HEALTHY, async || {
        let federation = bed.federation().await.map_err(|e| e.to_string())?;
        let site = federation.sites.iter().find(|site| site.name == roles.a.as_str());
        let site = site.ok_or("no such site")?;
        let said = site.warnings.iter().any(|text| text.contains("paused: no automatic failover"));
        let nodes = site.nodes.iter().filter_map(|node| node.fence.as_ref());
        let suspended = nodes.filter(|fence| fence.suspended).count();
        if said && suspended == 0 { Ok(()) } else { Err(format!("{:?}", site.warnings)) }
    })
    .await
}

/// Answers of `/primary`, until told to end.
fn poll(port: u16, mut end: tokio::sync::oneshot::Receiver<()>) -> Poll {
    tokio::spawn(async move {
        let mut every = tokio::time::interval(EVERY);
        let mut answers = Vec::new();
        loop {
            tokio::select! {
                _ = &mut end => return answers,
                _ = every.tick() => {
                    if let Ok(answer) = ask(port, "GET", "/primary", "").await {
                        answers.push((answer.asked, answer.code));
                    }
                }
            }
        }
    })
}

type Poll = tokio::task::JoinHandle<Vec<(BootTime, u16)>>;

async fn nothing_left(bed: &Bed, place: &NodePlace) -> anyhow::Result<BootTime> {
    let data_dir = bed.lab().layout().data_dir(place);
    until("no process of the data directory", PAST, async || {
        match of_data_directory(&data_dir, None) {
            Ok(left) if left.is_empty() => Ok(boot_time()),
            Ok(left) => Err(format!("{left:?} live")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}

/// The quorum takes no renewal: `/primary` and the server end in time, paused or not.
async fn lease_lost(bed: &Bed) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    let place = leader(bed, &roles)?;
    pause(bed, &roles, true).await?;
    status_shows_it(bed, &roles).await?;
    let page = Page::open(bed.lab().layout().run_dir(&place).join("guardian.page"))?;
    let (end, ended) = tokio::sync::oneshot::channel();
    let polled = poll(place.rest_port, ended);
    bed.progress().await?;
    let gate = Gate::close_lease(&bed.quorum_file()?)?;
    let closed = boot_time();
    // A renewal that was under way may still count; the last one that did is the deadline.
    let mut deadline = page.writing();
    let gone = until("the guard is off", PAST, async || {
        deadline = deadline.max(page.writing());
        match page.guard() {
            Guard::Off => Ok(boot_time()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    end.send(()).ok();
    let answers = polled.await?;
    let yes = |ahead: bool| {
        answers
            .iter()
            .filter(|(at, code)| *code == 200 && deadline.lies_ahead(*at) == ahead)
            .count()
    };
    say(format!(
        "pause-federation: {} answers, {} times 200, then the guard was off {} ms before the deadline",
        answers.len(),
        yes(true),
        deadline.left(gone).as_millis()
    ));
    ensure!(yes(true) > 0, "`/primary` was not asked while it was true");
    ensure!(yes(false) == 0, "200 after the deadline");
    ensure!(gone > closed && deadline.lies_ahead(gone), "it wrote after the deadline");
    drop(gate);
    pause(bed, &roles, false).await?;
    bed.healthy().await?;
    Ok(())
}

/// The agent is gone: the guardian ends the paused site's server in time.
async fn agent_lost(bed: &Bed) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    let place = leader(bed, &roles)?;
    pause(bed, &roles, true).await?;
    let page = Page::open(bed.lab().layout().run_dir(&place).join("guardian.page"))?;
    bed.lab().kill_agent(&place.name, Signal::SIGKILL).await?;
    let gone = nothing_left(bed, &place).await?;
    ensure!(page.writing().lies_ahead(gone), "a process lived at the deadline");
    ensure!(page.kills() == 1, "the guardian killed {} times", page.kills());
    say(format!("pause-federation: killed {} ms before", page.writing().left(gone).as_millis()));
    bed.lab().start_agent(&place.name).await?;
    // The agent that was just started does not listen yet.
    let mut nodes = bed.lab().layout().nodes.iter();
    let other = nodes.find(|node| node.site == place.site && node.name != place.name);
    let other = other.context("another node of that site")?.rest_port;
    let answer = ask(other, "PATCH", "/config", r#"{"pause": null}"#).await?;
    ensure!(answer.code == 200, "PATCH /config: {answer:?}");
    bed.healthy().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_s_pause_never_loosens_the_primary_lease() {
    let bed = Bed::start("pause-federation", TWO_SITES, None).await.unwrap();
    let both = async {
        lease_lost(&bed).await?;
        agent_lost(&bed).await
    };
    if let Err(error) = both.await {
        bed.keep_logs();
        panic!("{error:?}");
    }
    let (history, judgement) = bed.finish().await.unwrap();
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}
