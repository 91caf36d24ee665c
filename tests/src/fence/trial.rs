//! One repetition of one fault on a cluster that is whole before and after it.

use std::time::Duration;

use anyhow::Context as _;
use regent_proto::time::{BootTime, WatchdogTiming};
use regent_test_sys::watchdog::check::{Knowledge, Right, violations};

use crate::wait::until;

use super::checker::{Findings, Node, Observation, Tenure, in_force, judge, raised_alone};
use super::clients::{Clients, Kind};
use super::cluster::{Cluster, TTL};
use super::deadline::{Guardian, Watcher};
use super::faults::{Fault, Injected, Next};
use regent_guardian::clock::boot_time;

/// Every held client has this many rows before the fault comes.
const WARM: usize = 50;
/// Longest wait for that.
const WARMS: Duration = Duration::from_secs(20);
/// Longest wait for somebody to acknowledge again.
const NEXT: Duration = Duration::from_secs(40);
/// How long the holder of before may go on before a fault that takes nothing from it is over, and
/// how long nobody may write before a DCS that was lost comes back.
const BEYOND: Duration = Duration::from_millis(1500);
/// ε of a TTL of 5 s.
const EPSILON: Duration = Duration::from_millis(100);
/// Rates are of this long.
const RATE: Duration = Duration::from_secs(1);

/// What came of a repetition.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What is wrong.
    pub findings: Findings,
    /// Last acknowledgement of the tenure of before against its deadline, in nanoseconds; negative
    /// is before. `None` where that tenure went on.
    pub latest: Option<i128>,
    /// From the fault to the first acknowledgement of another tenure, or, where there was none, the
    /// longest time without any.
    pub next: Duration,
    /// Acknowledgements in the second before the fault, and in the last one.
    pub rates: (usize, usize),
    /// Acknowledgements after the fault of the sessions held.
    pub held: usize,
    /// What the guardian of the node told at the end.
    pub guardian: Option<Guardian>,
    /// What a member that answers from its past did to its agent.
    pub misled: Option<Misled>,
    /// What the trace of the node's watchdog shows that it never may.
    pub watchdog: Vec<String>,
    /// How sessions ended, and what servers warned of.
    pub words: Vec<String>,
}

impl Outcome {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.findings.clean()
            && self.watchdog.is_empty()
            && self.misled.is_none_or(|misled| misled.passed())
            && self.rates.0 > 0
            && self.rates.1 > 0
    }
}

/// What answers from the past did to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misled {
    /// Reads answered with what was no longer so.
    pub stale: usize,
    /// Those of them that showed a leader key.
    pub naming: usize,
    /// By how much the agent's deadline passed what its store acknowledged.
    pub raised: Option<Duration>,
}

impl Misled {
    /// Whether it was told of the past, its own right to lead included, and raised nothing by it.
    #[must_use]
    pub fn passed(self) -> bool {
        self.stale > 0 && self.naming > 0 && self.raised.is_none()
    }
}

/// Runs a repetition.
///
/// # Errors
/// When the cluster does not do what it must do for the repetition to show anything.
pub async fn run(cluster: &mut Cluster, fault: Fault) -> anyhow::Result<Outcome> {
    let old = cluster.healthy().await.context("before the fault")?;
    let run_dirs = cluster.places.iter().map(|place| cluster.directories(place.node).0).collect();
    let watcher = Watcher::start(run_dirs)?;
    let first = cluster.take_clients();
    let password = cluster.lab().secrets().app.clone();
    let clients = Clients::start(&cluster.places[old], &cluster.places, &password, first)?;
    warm(&clients).await?;
    // Without it "nothing after D" would say nothing.
    until("the holder's deadline to be read", WARMS, async || {
        let seen = watcher.seen();
        let read = seen.deadlines.get(&old).and_then(|samples| samples.last());
        let ahead = read.is_some_and(|sample| sample.deadline.lies_ahead(boot_time()));
        if ahead { Ok(()) } else { Err(format!("{read:?}")) }
    })
    .await?;

    let at = boot_time();
    let rate_before = clients.look(|log| log.count(at.minus(RATE), at));
    let injected = fault.inject(cluster, old).await.context("inject the fault")?;
    let healed = endure(cluster, fault, injected, &clients, old, at, &watcher).await;
    let misled = healed.with_context(|| clients.look(|log| log.words.join("\n")))?;

    let now = cluster.healthy().await.context("after the fault")?;
    // The last second of writing: a whole cluster, everybody's sessions still open.
    let whole = boot_time();
    wait_for(&clients, "a second of writing", |log| {
        log.spans.values().any(|s| s.last > whole.plus(RATE))
    })
    .await?;
    let end = boot_time();
    let rate_after = clients.look(|log| log.count(end.minus(RATE), end));
    let held: Vec<u32> = clients.held.keys().copied().collect();
    let log = clients.finish();
    let seen = watcher.seen();
    drop(watcher);
    let observation = Observation {
        acks: log.acks,
        deadlines: seen.deadlines,
        found: cluster.take_rows(now).await?,
    };
    let before = observation.acks.iter().find(|ack| ack.row.0 == first).map(|ack| ack.tenure);
    let before = before.context("no acknowledgement before the fault")?;
    Ok(Outcome {
        latest: latest(&observation, before),
        next: next(&observation, before, at),
        rates: (rate_before, rate_after),
        held: observation.acks.iter().filter(|a| a.at > at && held.contains(&a.row.0)).count(),
        guardian: seen.guardians.get(&old).copied(),
        misled,
        watchdog: trace(cluster, old, at, seen.rights.get(&old).cloned().unwrap_or_default()),
        words: log.words,
        findings: judge(&observation),
    })
}

/// Waits until every held client writes.
///
/// # Errors
/// When one does not.
pub(super) async fn warm(clients: &Clients) -> anyhow::Result<()> {
    let held = &clients.held;
    until("every client to write", WARMS, async || {
        clients.look(|log| {
            let slow: Vec<(Kind, usize)> = held
                .iter()
                .map(|(client, kind)| (*kind, log.of_client.get(client).copied().unwrap_or(0)))
                .filter(|(_, rows)| *rows < WARM)
                .collect();
            if slow.is_empty() { Ok(()) } else { Err(format!("{slow:?}; {:?}", log.words)) }
        })
    })
    .await
}

/// What is wrong with what happened to a node's watchdog.
fn trace(
    cluster: &Cluster,
    node: Node,
    led: BootTime,
    rights: Vec<(BootTime, Right)>,
) -> Vec<String> {
    let Some(device) = cluster.ground.watchdogs.get(node) else { return Vec::new() };
    let knowledge = Knowledge {
        rights,
        // The fault's instant: that it was armed before the key is for `watchdog_agent` to show.
        leader_key: Some(led),
        ttl: TTL,
        reset: WatchdogTiming::RESET,
        epsilon: EPSILON,
    };
    violations(&device.trace().all(), &knowledge).iter().map(ToString::to_string).collect()
}

async fn wait_for(
    clients: &Clients,
    what: &str,
    mut look: impl FnMut(&super::clients::Log) -> bool,
) -> anyhow::Result<()> {
    until(what, NEXT, async || {
        clients.look(|log| if look(log) { Ok(()) } else { Err(format!("{:?}", log.spans)) })
    })
    .await
}

/// Lets the fault last as long as it must, and undoes it.
async fn endure(
    cluster: &mut Cluster,
    fault: Fault,
    injected: Injected,
    clients: &Clients,
    old: Node,
    at: BootTime,
    watcher: &Watcher,
) -> anyhow::Result<Option<Misled>> {
    let waited = match fault.next() {
        Next::Another => {
            wait_for(clients, "another node to acknowledge", |log| {
                log.spans.iter().any(|(tenure, span)| tenure.node != old && span.last > at)
            })
            .await
        }
        Next::Anyone => {
            wait_for(clients, "anybody to acknowledge", |log| {
                log.spans.values().any(|span| span.last > at.plus(BEYOND))
            })
            .await
        }
        Next::AfterHealing => {
            until("the deadline to be over", NEXT, async || {
                let seen = watcher.seen();
                let samples = seen.deadlines.get(&old).map(Vec::as_slice).unwrap_or_default();
                let bound = in_force(samples, boot_time());
                let over = bound.instant().plus(BEYOND) < boot_time();
                if over { Ok(()) } else { Err(format!("{bound:?}")) }
            })
            .await
        }
    };
    until("the fault to have lasted", TTL * 3, async || {
        if boot_time() > at.plus(fault.lasts()) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await?;
    let misled = injected.told().map(|told| {
        let seen = watcher.seen();
        let samples = seen.deadlines.get(&old).map(Vec::as_slice).unwrap_or_default();
        let raised = raised_alone(samples, told.renewed, TTL);
        Misled { stale: told.stale, naming: told.naming, raised }
    });
    let undone = injected.heal(cluster).await.context("undo the fault");
    waited.and(undone)?;
    let healed = boot_time();
    wait_for(clients, "acknowledgements after the fault", |log| {
        log.spans.values().any(|span| span.last > healed)
    })
    .await?;
    Ok(misled)
}

/// The last acknowledgement of a tenure that has ended, against its deadline.
fn latest(observation: &Observation, before: Tenure) -> Option<i128> {
    let spans = super::checker::spans(&observation.acks);
    let ended = spans.iter().any(|(tenure, span)| *tenure != before && span.0 > spans[&before].1);
    let last = ended.then(|| spans[&before].1)?;
    let bound = in_force(observation.deadlines.get(&before.node)?, last).instant();
    Some(i128::from(last.nanos()) - i128::from(bound.nanos()))
}

fn next(observation: &Observation, before: Tenure, at: BootTime) -> Duration {
    let other = observation.acks.iter().filter(|ack| ack.tenure != before && ack.at > at);
    if let Some(first) = other.map(|ack| ack.at).min() {
        return first.since(at);
    }
    let mut times: Vec<BootTime> =
        observation.acks.iter().map(|ack| ack.at).filter(|time| *time > at).collect();
    times.sort_unstable();
    let gaps = times.iter().scan(at, |last, time| {
        let gap = time.since(*last);
        *last = *time;
        Some(gap)
    });
    gaps.max().unwrap_or_default()
}
