//! The other half of the fence: what must *not* cost a healthy holder its right to write. The same
//! clients write on while the node is under strain; the tenure and its sessions have to last.

use std::time::Duration;

use anyhow::Context as _;
use regent_test_sys::burn::Cpu;

use crate::wait::until;

use super::checker::{Findings, Node, Observation, Tenure, judge, spans};
use super::clients::Clients;
use super::cluster::{Cluster, TTL};
use super::deadline::{Guardian, Watcher};
use super::trial;
use regent_guardian::clock::boot_time;

/// Held up in either direction: a request takes twice this, seven tenths of what a call may take at
/// the lab's TTL of 5 s (a seventh of it).
const SLOW: Duration = Duration::from_millis(250);
/// An hour, in seconds.
const HOUR: i64 = 3600;
/// Rates are of this long.
const RATE: Duration = Duration::from_secs(1);

/// A strain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strain {
    /// Four times as much to compute as there are processors.
    Overload,
    /// Every answer of the DCS takes its time, within the bound of a call.
    SlowDcs,
    /// The pipes that agent and server log to are full.
    BlockedLog,
    /// The wall clock is stepped an hour ahead, and back, and on.
    ClockSteps,
}

impl Strain {
    /// Every strain.
    pub const ALL: [Self; 4] = [Self::Overload, Self::SlowDcs, Self::BlockedLog, Self::ClockSteps];

    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overload => "healthy under 4x overload",
            Self::SlowDcs => "healthy with a slow DCS",
            Self::BlockedLog => "healthy with a blocked log",
            Self::ClockSteps => "healthy while the clock steps",
        }
    }

    /// Why it can't be tried here.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Overload | Self::SlowDcs | Self::BlockedLog => None,
            Self::ClockSteps => super::wall::library().err(),
        }
    }
}

/// What came of a strain.
#[derive(Debug, Clone)]
pub struct Endured {
    /// What is wrong with the acknowledgements.
    pub findings: Findings,
    /// Tenures that acknowledged: one, unless the holder was demoted.
    pub tenures: Vec<Tenure>,
    /// Sessions that ended, and what servers warned of.
    pub words: Vec<String>,
    /// The highest deadline that was written, from the instant of writing it, under a slow DCS.
    pub granted: Option<Duration>,
    /// Longest time without any acknowledgement.
    pub gap: Duration,
    /// Acknowledgements in the second before the strain, and in the last one under it.
    pub rates: (usize, usize),
    /// What the holder's guardian told at the end, where there is one.
    pub guardian: Option<Guardian>,
}

impl Endured {
    /// What speaks against a holder that was left alone.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.tenures.len() != 1 {
            return Some(format!("{} tenures: {:?}", self.tenures.len(), self.tenures));
        }
        if !self.words.is_empty() {
            return Some(self.words.join(" | "));
        }
        // A deadline counts from the sending: what the way took is not granted.
        if let Some(granted) =
            self.granted.filter(|granted| *granted > TTL.saturating_sub(SLOW * 2))
        {
            return Some(format!(
                "a deadline {granted:?} ahead, though the lease of {TTL:?} had been on its way for \
                 {:?}",
                SLOW * 2
            ));
        }
        if self.rates.0 == 0 || self.rates.1 == 0 {
            return Some(format!("no rows: {:?} before and at the end", self.rates));
        }
        (!self.findings.clean()).then(|| self.findings.text())
    }
}

/// Puts the holder under a strain for `span`.
///
/// # Errors
/// When the cluster is not whole before, or not after.
pub async fn run(cluster: &mut Cluster, strain: Strain, span: Duration) -> anyhow::Result<Endured> {
    let old = cluster.healthy().await.context("before the strain")?;
    let run_dirs = cluster.places.iter().map(|place| cluster.directories(place.node).0).collect();
    let watcher = Watcher::start(run_dirs)?;
    let first = cluster.take_clients();
    let password = cluster.lab().secrets().app.clone();
    let clients = Clients::start(&cluster.places[old], &cluster.places, &password, first)?;
    trial::warm(&clients).await?;
    let at = boot_time();
    let before = clients.look(|log| log.count(at.minus(RATE), at));
    endure(cluster, strain, span, old).await?;
    let end = boot_time();
    let after = clients.look(|log| log.count(end.minus(RATE), end));
    relieve(cluster, old)?;
    let now = cluster.healthy().await.context("after the strain")?;
    let log = clients.finish();
    let seen = watcher.seen();
    drop(watcher);
    let samples = seen.deadlines.get(&old).map(Vec::as_slice).unwrap_or_default();
    // What was asked before the strain began may come without delay.
    let slowly = at.plus(TTL / 2);
    let granted = samples
        .iter()
        .filter(|sample| sample.at > slowly && sample.at < end)
        .map(|sample| sample.deadline.left(sample.at))
        .max()
        .filter(|_| strain == Strain::SlowDcs);
    let observation = Observation {
        acks: log.acks,
        deadlines: seen.deadlines,
        found: cluster.take_rows(now).await?,
    };
    let mut times: Vec<_> = observation.acks.iter().map(|ack| ack.at).collect();
    times.retain(|time| *time >= at && *time <= end);
    times.sort_unstable();
    let gap = times.windows(2).map(|pair| pair[1].since(pair[0])).max();
    Ok(Endured {
        tenures: spans(&observation.acks).into_keys().collect(),
        findings: judge(&observation),
        words: log.words,
        granted,
        gap: gap.unwrap_or_default(),
        rates: (before, after),
        guardian: seen.guardians.get(&old).copied(),
    })
}

async fn endure(
    cluster: &Cluster,
    strain: Strain,
    span: Duration,
    node: Node,
) -> anyhow::Result<()> {
    let mut overload = None;
    match strain {
        Strain::Overload => overload = Some(Cpu::overload(4)?),
        Strain::SlowDcs => cluster.proxies.of_node.iter().for_each(|proxy| proxy.delay(SLOW)),
        Strain::BlockedLog => cluster.block_logs(node, true)?,
        Strain::ClockSteps => {
            for shift in [HOUR, -HOUR, HOUR] {
                cluster.step_wall(node, shift).await?;
                last(span / 3).await?;
            }
            return Ok(());
        }
    }
    last(span).await?;
    drop(overload);
    Ok(())
}

/// The strain lasts as long as the report says: a span of observation, not a wait for anything.
async fn last(span: Duration) -> anyhow::Result<()> {
    let begun = boot_time();
    until("the strain's span", span * 2, async || {
        if boot_time().since(begun) >= span { Ok(()) } else { Err("under strain".to_owned()) }
    })
    .await
}

fn relieve(cluster: &Cluster, node: Node) -> anyhow::Result<()> {
    cluster.proxies.of_node.iter().for_each(|proxy| proxy.delay(Duration::ZERO));
    cluster.block_logs(node, false)?;
    cluster.wall.step(node, 0)
}
