//! The fence under every fault (`make fence-report`): no acknowledgement after the deadline, no
//! instant at which two nodes acknowledge, no acknowledged row lost, in any repetition; and a
//! healthy holder that nothing of this demotes.
//!
//! REGENT_REPEAT: repetitions of each fault (2). REGENT_HEALTHY: seconds that the healthy holder is
//! under strain (180). REGENT_FAULT: only faults and strains whose name contains one of these
//! parts, with commas between; a part that is a whole name means that one alone.

use std::time::Duration;

use regent_tests::fence::cluster::{Cluster, Setting};
use regent_tests::fence::faults::Fault;
use regent_tests::fence::report::{HEAD, Table, line, name, strain_line, strained};
use regent_tests::fence::strain::{self, Strain};
use regent_tests::fence::trial;
use regent_tests::{option, report, say, skip};
use regentctl::lab::programs;
use regentctl::report::{Case, Verdict, write};

/// Repetitions of each fault in `make test`.
const REPEAT: usize = 2;
/// Seconds of strain in `make test`.
const HEALTHY: u64 = 180;
/// Clusters of the largest setting that are on trial at once: a trial mostly waits for a deadline.
const LANES: usize = 3;

struct Asked {
    repeat: usize,
    healthy: Duration,
    only: Option<String>,
}

impl Asked {
    fn read() -> Self {
        let number = |name: &str| option(name).and_then(|n| n.parse::<u64>().ok());
        Self {
            repeat: number("REGENT_REPEAT")
                .map_or(REPEAT, |n| usize::try_from(n).unwrap_or(REPEAT)),
            healthy: Duration::from_secs(number("REGENT_HEALTHY").unwrap_or(HEALTHY)),
            only: option("REGENT_FAULT"),
        }
    }

    fn wants(&self, name: &str) -> bool {
        let one = |part: &str| part == name || !whole(part) && name.contains(part);
        self.only.as_ref().is_none_or(|parts| parts.split(',').any(one))
    }

    /// What is asked for and can be tried here.
    fn faults(&self, setting: Setting) -> Vec<Fault> {
        let faults = Fault::of(setting).into_iter();
        let asked = faults.filter(|fault| self.wants(&name(setting, *fault)));
        asked.filter(|fault| possible(&name(setting, *fault), fault.missing())).collect()
    }
}

/// Whether a part of a name is all of one.
fn whole(part: &str) -> bool {
    let mut faults = Fault::ALL.iter().map(|fault| fault.name());
    let mut strains = Strain::ALL.iter().map(|strain| strain.name());
    faults.any(|name| name == part) || strains.any(|name| name == part)
}

/// Says what can't be tried, which counts as skipped.
fn possible(name: &str, missing: Option<String>) -> bool {
    if let Some(why) = &missing {
        skip(&format!("{name}: {why}"));
    }
    missing.is_none()
}

/// The faults of the largest setting in lanes, and those that no other trial may run beside: a fault
/// that takes the processors is one of every node of the machine.
fn lanes(faults: Vec<Fault>) -> ([Vec<Fault>; LANES], Vec<Fault>) {
    let overloads = |fault: &Fault| matches!(fault, Fault::Overload | Fault::OverloadDcsLost);
    let (alone, beside): (Vec<_>, Vec<_>) = faults.into_iter().partition(overloads);
    let mut lanes = [const { Vec::new() }; LANES];
    for (n, fault) in beside.into_iter().enumerate() {
        lanes[n % LANES].push(fault);
    }
    (lanes, alone)
}

/// Runs the repetitions one after the other; a cluster that does not heal is replaced.
async fn lane(
    lane: &str,
    setting: Setting,
    faults: Vec<Fault>,
    asked: &Asked,
) -> anyhow::Result<Table> {
    let mut table = Table::new();
    if faults.is_empty() {
        return Ok(table);
    }
    let lane = format!("fence-{lane}");
    let mut cluster = Cluster::start(&lane, setting).await?;
    for fault in faults {
        let name = name(setting, fault);
        for n in 1..=asked.repeat {
            let ran = trial::run(&mut cluster, fault).await;
            let broken = ran.is_err();
            let tried = table.entry((setting, fault)).or_default();
            let passed = ran.as_ref().is_ok_and(trial::Outcome::passed);
            match ran {
                Ok(outcome) => {
                    say(format!("{name} {n}: {}", outcome.findings.text()));
                    tried.outcomes.push(outcome);
                }
                Err(problem) => {
                    say(format!("{name} {n}: FAILED: {problem:#}"));
                    say(cluster.last_words());
                    tried.problems.push(format!("repetition {n}: {problem:#}"));
                }
            }
            if !passed {
                cluster.keep_logs(&format!("{fault:?}-{n}"))?;
            }
            if broken {
                drop(cluster);
                cluster = Cluster::start(&lane, setting).await?;
            }
        }
    }
    cluster.finish().await?;
    Ok(table)
}

/// Strains one after the other, each without a break for its share of the span.
async fn healthy(asked: &Asked) -> anyhow::Result<Vec<Case>> {
    let strains = Strain::ALL.into_iter().filter(|strain| asked.wants(strain.name()));
    let strains: Vec<Strain> =
        strains.filter(|strain| possible(strain.name(), strain.missing())).collect();
    if strains.is_empty() || asked.healthy.is_zero() {
        return Ok(Vec::new());
    }
    let each = asked.healthy / u32::try_from(strains.len())?;
    let mut cluster = Cluster::start("fence-healthy", Setting::Site).await?;
    let mut cases = Vec::new();
    for strain in strains {
        let endured = strain::run(&mut cluster, strain, each).await;
        let case = strained(strain, &endured, each);
        if case.verdict == Verdict::Fail {
            say(format!("{}: {}", case.name, case.reason));
            cluster.keep_logs(&format!("{strain:?}"))?;
        }
        cases.push(case);
        if endured.is_err() {
            drop(cluster);
            cluster = Cluster::start("fence-healthy", Setting::Site).await?;
        }
    }
    cluster.finish().await?;
    Ok(cases)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_acknowledges_what_nobody_may_and_a_healthy_holder_goes_on() {
    if let Err(missing) = programs::etcd() {
        return skip(&missing.to_string());
    }
    let asked = Asked::read();
    let mut cases = Vec::new();
    let mut lines = vec![HEAD.to_owned()];
    let ([first, second, third], alone) = lanes(asked.faults(Setting::Site));
    let others = async {
        let mut tables = Vec::new();
        for setting in [Setting::Federation, Setting::Watched, Setting::Hanging] {
            let name = format!("{setting:?}");
            tables.push(lane(&name, setting, asked.faults(setting), &asked).await);
        }
        tables
    };
    let (first, second, third, others) = tokio::join!(
        lane("Site-1", Setting::Site, first, &asked),
        lane("Site-2", Setting::Site, second, &asked),
        lane("Site-3", Setting::Site, third, &asked),
        others
    );
    let mut tables = vec![first, second, third];
    tables.extend(others);
    tables.push(lane("alone", Setting::Site, alone, &asked).await);
    for table in tables {
        let table = table.unwrap_or_else(|problem| panic!("{problem:#}"));
        for ((setting, fault), tried) in &table {
            let case = tried.case(&name(*setting, *fault), asked.repeat);
            lines.push(line(&case));
            cases.push(case);
        }
    }
    for case in healthy(&asked).await.unwrap_or_else(|problem| panic!("{problem:#}")) {
        lines.push(strain_line(&case));
        cases.push(case);
    }
    lines.iter().for_each(say);
    write(&report::file("fence"), &cases).unwrap();
    let failed: Vec<_> = cases.iter().filter(|case| case.verdict == Verdict::Fail).collect();
    assert!(failed.is_empty() && !cases.is_empty(), "{failed:#?}");
}
