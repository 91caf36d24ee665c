//! The simulator's short form: the seeds that once broke something, and a thousand others.

#![cfg(test)]

use regent_simulator::counters;
use regent_simulator::mutants::Mutant;
use regent_simulator::run::run;
use regent_simulator::scenario::Plan;
use regent_simulator::seeds;
use regent_simulator::world::ROUND;

/// So many seeds: they break nothing, and reach everything that rare.txt does not name.
const SEEDS: u64 = counters::LONG;

#[test]
fn every_seed_that_once_broke_something_holds() {
    for (seed, cause) in seeds::regressions() {
        let report = run(&Plan { seed, explain: false, mutant: Mutant::None, only: None });
        assert_eq!(report.violation, None, "seed {seed} ({cause})");
    }
}

#[test]
fn every_invariant_holds_in_every_seed() {
    let outcome = seeds::many(0, SEEDS, 2, Mutant::None);
    let broken: Vec<_> = outcome.broken.iter().map(|r| (r.seed, &r.violation)).collect();
    assert!(broken.is_empty(), "make simulate SEED=n EXPLAIN=1 tells why: {broken:?}");
    assert!(outcome.unequal.is_empty(), "not repeatable: {:?}", outcome.unequal);
    assert!(outcome.acknowledged > 1_000_000, "the clients wrote: {}", outcome.acknowledged);
    let amiss = outcome.counters.amiss();
    assert!(amiss.is_empty(), "never, or against rare.txt: {amiss:?}");
}

/// Three nodes and an hour without a fault: whoever looks five times a second looks 54,000 times.
#[test]
fn an_agent_that_has_nothing_to_do_sleeps() {
    let only = Some(Vec::new());
    let report = run(&Plan { seed: 12, explain: false, mutant: Mutant::None, only });
    assert_eq!(report.violation, None);
    let rounds = report.counters.all().get(ROUND).copied().unwrap_or_default();
    assert!((500..12_000).contains(&rounds), "{rounds} rounds");
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [1, 2] {
        let plan = Plan { seed, explain: false, mutant: Mutant::None, only: None };
        assert_eq!(run(&plan).hash, run(&plan).hash, "seed {seed}");
    }
}
