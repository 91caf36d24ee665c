//! A site that comes back: whatever is not known about the epoch, or is older than what was seen,
//! keeps it closed, and a person has a way out (I2, I27). The client tries all the while; nothing
//! may be acknowledged.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_dcs::{Change, Txn};
use regent_proto::Epoch;
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_proto::name::NodeName;
use regent_proto::record::{Record as _, SeenEpoch};
use regent_proto::topology::StoreKind;
use regent_tests::bed::{Bed, Roles, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::program::{self, Finished};
use regent_tests::records::{CALL, open};
use regent_tests::wait::until;
use regent_tests::{say, skip};
use regentctl::lab::programs;

const LIMIT: Duration = Duration::from_secs(40);

/// The primary site is down: agents and servers, the standby first, so that nobody takes over.
struct Down<'a> {
    bed: &'a Bed,
    roles: &'a Roles,
    nodes: Vec<NodeName>,
    acknowledged: usize,
}

fn acknowledged(bed: &Bed) -> usize {
    bed.writer.look(|history| history.acks.len())
}

async fn down<'a>(bed: &'a Bed, roles: &'a Roles) -> anyhow::Result<Down<'a>> {
    let nodes = bed.lab().layout().nodes.iter().filter(|node| node.site == roles.a);
    let mut nodes: Vec<NodeName> = nodes.map(|node| node.name.clone()).collect();
    nodes.sort_by_key(|node| *node == roles.a_leader);
    for node in &nodes {
        bed.lab().kill_node(node).await?;
        until("the killed agent to be gone", LIMIT, async || {
            match bed.lab().agent_pid(node).await.map_err(|e| e.to_string())? {
                None => Ok(()),
                Some(pid) => Err(format!("{pid} is there")),
            }
        })
        .await?;
    }
    Ok(Down { bed, roles, nodes, acknowledged: acknowledged(bed) })
}

impl Down<'_> {
    fn file(&self, node: &NodeName) -> anyhow::Result<PathBuf> {
        let layout = self.bed.lab().layout();
        let place = layout.node(node.as_str()).context("a node of the lab")?;
        let mut name = layout.data_dir(place).into_os_string();
        name.push(".regent-epoch");
        Ok(name.into())
    }

    fn seen(&self, node: &NodeName) -> anyhow::Result<SeenEpoch> {
        let file = self.file(node)?;
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        Ok(SeenEpoch::decode("the epoch file", &bytes)?)
    }

    async fn write_site(&self, value: Option<Vec<u8>>) -> anyhow::Result<()> {
        let layout = self.bed.lab().layout();
        let place = layout.site_stores.get(&self.roles.a).context("a site store")?;
        let scope = self.roles.a.as_str().parse()?;
        let key = SiteKeys::new("service", &scope).key(SiteKey::Epoch);
        let store = open(place)?;
        ensure!(store.get(&key, CALL).await?.is_some(), "no {key} to begin with");
        let change = match value {
            None => Change::delete(key),
            Some(value) => Change::put(key, value),
        };
        store.txn(Txn::new().then(change), CALL).await?;
        Ok(())
    }

    /// Starts the agents; returns once one that leads says why it stays closed. Until then, and
    /// still then, nothing was acknowledged.
    async fn stays_closed(&self, what: &str, because: &str) -> anyhow::Result<()> {
        let logs: Vec<PathBuf> = (self.nodes.iter())
            .map(|node| self.bed.lab().layout().log(&format!("agent-{node}")))
            .collect();
        let length = |log: &PathBuf| std::fs::read(log).map_or(0, |bytes| bytes.len());
        let before: Vec<usize> = logs.iter().map(length).collect();
        for node in &self.nodes {
            self.bed.lab().start_agent(node).await?;
        }
        until(&format!("{what}: {because:?} in a log"), LIMIT, async || {
            let said = logs.iter().zip(&before).any(|(log, from)| {
                let bytes = std::fs::read(log).unwrap_or_default();
                String::from_utf8_lossy(bytes.get(*from..).unwrap_or_default()).contains(because)
            });
            let open = acknowledged(self.bed) > self.acknowledged;
            if said || open { Ok(()) } else { Err(format!("not in {logs:?}")) }
        })
        .await?;
        let now = acknowledged(self.bed);
        ensure!(
            now == self.acknowledged,
            "{what}: {} acknowledged while closed",
            now - self.acknowledged
        );
        say(format!("{what}: stays closed"));
        Ok(())
    }

    /// As a person does it, as the user whom the data belongs to.
    async fn by_hand(&self, node: &NodeName, arguments: &[&str]) -> anyhow::Result<Finished> {
        let layout = self.bed.lab().layout();
        let place = layout.node(node.as_str()).context("a node of the lab")?;
        let owner = std::fs::metadata(layout.data_dir(place))?;
        let mut command = program::ours("regent-agent")?;
        command.arg(layout.config(&format!("agent-{node}"))).args(arguments);
        command.current_dir("/").uid(owner.uid()).gid(owner.gid());
        tokio::task::spawn_blocking(move || program::run(command, LIMIT)).await?
    }
}

async fn unknown_and_older(bed: &Bed) -> anyhow::Result<()> {
    // The site DCS has lost it, and the site restarts.
    let roles = bed.healthy().await?;
    let site = down(bed, &roles).await?;
    for node in &site.nodes {
        let seen = site.seen(node).with_context(|| format!("{node} has it on disk"))?;
        ensure!(seen.epoch == Epoch::FIRST && seen.holder == roles.a, "{node}: {seen:?}");
    }
    site.write_site(None).await?;
    site.stays_closed("lost in the site DCS", "the site DCS has lost regent/epoch").await?;
    let node = &site.nodes[0];
    let shown = site.by_hand(node, &["--show-epoch"]).await?;
    ensure!(shown.stdout.contains("site DCS: none"), "{shown:?}");
    let wrong = site.by_hand(node, &["--accept-epoch", "2"]).await?;
    ensure!(wrong.code == Some(1) && wrong.stderr.contains("is at epoch 1"), "{wrong:?}");
    ensure!(acknowledged(bed) == site.acknowledged, "refused, but something was acknowledged");
    let accepted = site.by_hand(node, &["--accept-epoch", "1"]).await?;
    ensure!(accepted.code == Some(0), "{accepted:?}");
    let roles = bed.healthy().await?;

    // The disks say more than the quorum.
    let site = down(bed, &roles).await?;
    let good: Vec<_> = site.nodes.iter().map(|node| site.seen(node)).collect::<Result<_, _>>()?;
    for (node, seen) in site.nodes.iter().zip(&good) {
        let newer = SeenEpoch { epoch: Epoch::new(9), ..seen.clone() };
        std::fs::write(site.file(node)?, newer.encode())?;
    }
    site.stays_closed("newer on disk", "the site has seen a newer epoch").await?;
    let refused = site.by_hand(&site.nodes[0], &["--accept-epoch", "1"]).await?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("epoch 9"), "{refused:?}");
    for (node, seen) in site.nodes.iter().zip(&good) {
        std::fs::write(site.file(node)?, seen.encode())?;
    }
    let roles = bed.healthy().await?;

    // The disks say something that nobody can read.
    let site = down(bed, &roles).await?;
    for node in &site.nodes {
        std::fs::write(site.file(node)?, b"1\n")?;
    }
    site.stays_closed("unreadable on disk", "the epoch on its disk cannot be read").await?;
    for node in &site.nodes {
        let accepted = site.by_hand(node, &["--accept-epoch", "1"]).await?;
        ensure!(accepted.code == Some(0), "{accepted:?}");
    }
    let roles = bed.healthy().await?;

    // `primary` can be read, but no transaction proves that it is the present one.
    let site = down(bed, &roles).await?;
    let gate = Gate::close_lease(&bed.quorum_file()?)?;
    site.stays_closed("no acknowledged transaction", &gate.words()).await?;
    drop(gate);
    let roles = bed.healthy().await?;

    // The disks have lost it: what the site DCS says is on the leader's again before it opens.
    let site = down(bed, &roles).await?;
    for node in &site.nodes {
        std::fs::remove_file(site.file(node)?)?;
        bed.lab().start_agent(node).await?;
    }
    let roles = bed.healthy().await?;
    let leader = &roles.a_leader;
    let seen = site.seen(leader).with_context(|| format!("{leader} has it on disk again"))?;
    ensure!(seen.epoch == Epoch::FIRST && seen.holder == roles.a, "{leader}: {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_comes_back_opens_only_under_an_epoch_that_is_known_and_newest() {
    let bed = Bed::start("epoch", TWO_SITES, None).await.unwrap();
    let result = unknown_and_older(&bed).await;
    if let Err(error) = result {
        bed.keep_logs();
        panic!("{error:?}");
    }
    let (history, judgement) = bed.finish().await.unwrap();
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}

/// I27: started while the quorum is silent, everything a node knows from before counts for nothing.
async fn silent_quorum(bed: &Bed) -> anyhow::Result<()> {
    let roles = bed.healthy().await?;
    let voters: Vec<String> = (bed.lab().processes().await?.into_iter())
        .map(|process| process.name)
        .filter(|name| name.starts_with("quorum"))
        .collect();
    ensure!(voters.len() == 3, "{voters:?}");
    let site = down(bed, &roles).await?;
    for voter in &voters {
        bed.lab().signal(voter, Signal::SIGSTOP).await?;
    }
    site.stays_closed("silent quorum", "the global quorum does not say who is primary").await?;
    for voter in &voters {
        bed.lab().signal(voter, Signal::SIGCONT).await?;
    }
    bed.healthy().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_starts_while_the_quorum_is_silent_stays_closed() {
    if let Err(missing) = programs::etcd() {
        return skip(&missing.to_string());
    }
    let bed = Bed::start("epoch-etcd", TWO_SITES, Some(StoreKind::Etcd)).await.unwrap();
    let result = silent_quorum(&bed).await;
    if let Err(error) = result {
        bed.keep_logs();
        panic!("{error:?}");
    }
    let (history, judgement) = bed.finish().await.unwrap();
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
}
