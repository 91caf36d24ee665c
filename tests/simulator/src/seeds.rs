//! Many seeds at once, and those that once broke something.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::Counters;
use crate::mutants::Mutant;
use crate::run::{Report, run};
use crate::scenario::{self, Plan};

/// Every so many seeds one is run twice, and its trace has to be the same.
const TWICE: u64 = 100;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Those that broke an invariant, in order.
    pub broken: Vec<Report>,
    /// Those whose second run had another trace.
    pub unequal: Vec<u64>,
    /// What happened how often.
    pub counters: Counters,
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Events.
    pub events: u64,
    /// The seed with the most events, and how many.
    pub longest: (u64, u64),
}

/// Runs these seeds on so many threads; a seed's run does not depend on it.
#[must_use]
pub fn many(first: u64, count: u64, threads: usize, mutant: Mutant) -> Outcome {
    let next = AtomicU64::new(first);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let plan = Plan { seed, explain: false, mutant, only: None };
                    let report = run(&plan);
                    let equal = !seed.is_multiple_of(TWICE) || run(&plan).hash == report.hash;
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.counters.add(&report.counters);
                    outcome.acknowledged += report.acknowledged;
                    outcome.events += report.events;
                    outcome.longest = outcome.longest.max((report.events, report.seed));
                    if !equal {
                        outcome.unequal.push(seed);
                    }
                    if report.violation.is_some() {
                        outcome.broken.push(report);
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.broken.sort_by_key(|report| report.seed);
    outcome
}

/// The first of `most` seeds in which a safety invariant notices the mutant. Seeds that make nothing
/// of what it breaks are passed over, and count.
#[must_use]
pub fn until_broken(mutant: Mutant, most: u64) -> Option<(u64, Report)> {
    let touched = |seed: &u64| !mutant.of_federations() || scenario::federated(*seed);
    (0..most).filter(touched).find_map(|seed| {
        let report = run(&Plan { seed, explain: false, mutant, only: None });
        // Want of progress proves nothing about safety.
        let unsafe_ = report.violation.as_ref().is_some_and(|v| v.invariant != "I20");
        unsafe_.then_some((seed, report))
    })
}

/// The committed list: a seed and its cause a line.
const REGRESSIONS: &str = include_str!("../seeds.txt");

/// Seeds that once broke something, with what it was.
pub fn regressions() -> impl Iterator<Item = (u64, &'static str)> {
    REGRESSIONS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (seed, cause) = line.split_once(' ')?;
        Some((seed.parse().ok()?, cause.trim()))
    })
}
