//! Runs seeds: `simulate [--seeds N] [--first N] [--threads N] [--seed N] [--explain] [--minimise]
//! [--mutant NAME] [--counters] [--mutants]`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use regent_simulator::counters;
use regent_simulator::minimise::minimise;
use regent_simulator::mutants::Mutant;
use regent_simulator::run::{Report, run};
use regent_simulator::scenario::Plan;
use regent_simulator::seeds;

#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Asked {
    seeds: u64,
    first: u64,
    threads: usize,
    seed: Option<u64>,
    explain: bool,
    minimise: bool,
    counters: bool,
    mutants: bool,
    mutant: Mutant,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked {
        seeds: 1000,
        first: 0,
        threads: 2,
        seed: None,
        explain: false,
        minimise: false,
        counters: false,
        mutants: false,
        mutant: Mutant::None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text:?}: {e}"));
        match argument.as_str() {
            "--seeds" => asked.seeds = number(value()?)?,
            "--first" => asked.first = number(value()?)?,
            "--threads" => asked.threads = usize::try_from(number(value()?)?).unwrap_or(2),
            "--seed" => asked.seed = Some(number(value()?)?),
            "--explain" => asked.explain = true,
            "--minimise" => asked.minimise = true,
            "--mutants" => asked.mutants = true,
            "--counters" => asked.counters = true,
            "--mutant" => {
                let name = value()?;
                let unknown = || format!("no mutant {name:?}: there are {:?}", Mutant::ALL);
                asked.mutant = Mutant::named(&name).ok_or_else(unknown)?;
            }
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    Ok(asked)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}

fn show(report: &Report) {
    for line in &report.lines {
        say(line);
    }
    if !report.lines.is_empty() {
        for (what, times) in report.counters.all() {
            if what.starts_with("event: ") {
                say(&format!("{times:>9}  {what}"));
            }
        }
    }
    let held = match &report.violation {
        None => "every invariant held".to_owned(),
        Some(violation) => format!("{}: {}", violation.invariant, violation.what),
    };
    say(&format!(
        "seed {}: trace {:016x}, {} events, {} acknowledged writes; {held}",
        report.seed, report.hash, report.events, report.acknowledged
    ));
}

fn one(asked: &Asked, seed: u64) -> bool {
    let plan = Plan { seed, explain: asked.explain, mutant: asked.mutant, only: None };
    if !asked.minimise {
        let report = run(&plan);
        show(&report);
        return report.violation.is_none();
    }
    let (least, _) = minimise(&Plan { explain: false, ..plan });
    let report = run(&Plan { explain: asked.explain, ..least.clone() });
    show(&report);
    say(&format!("with these of its faults only: {:?}", least.only.unwrap_or_default()));
    report.violation.is_none()
}

fn many(asked: &Asked) -> bool {
    let outcome = seeds::many(asked.first, asked.seeds, asked.threads, asked.mutant);
    for report in &outcome.broken {
        show(report);
    }
    for seed in &outcome.unequal {
        say(&format!("seed {seed}: its second run had another trace"));
    }
    if asked.counters {
        for (what, times) in outcome.counters.all() {
            say(&format!("{times:>9}  {what}"));
        }
    }
    say(&format!(
        "{} seeds, {} broken, {} not repeatable; {} events (most: {:?}), {} acknowledged writes",
        asked.seeds,
        outcome.broken.len(),
        outcome.unequal.len(),
        outcome.events,
        outcome.longest,
        outcome.acknowledged
    ));
    let whole = asked.seeds >= counters::LONG && asked.mutant == Mutant::None;
    let amiss = if whole { outcome.counters.amiss() } else { Vec::new() };
    for name in &amiss {
        say(name);
    }
    outcome.broken.is_empty() && outcome.unequal.is_empty() && amiss.is_empty()
}

/// After how many seeds each deliberate fault is noticed.
fn mutants(asked: &Asked) -> bool {
    let next = AtomicUsize::new(0);
    let all = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match seeds::until_broken(*mutant, asked.seeds) {
                        Some((seed, report)) => {
                            let what = report.violation.map(|v| (v.invariant, v.what));
                            let (invariant, what) = what.unwrap_or_default();
                            say(&format!("{mutant:?}: {} seeds, {invariant}: {what}", seed + 1));
                        }
                        None => {
                            let why = mutant.second_line();
                            all.fetch_and(why.is_some(), Ordering::Relaxed);
                            let why =
                                why.map_or(String::new(), |why| format!(", as it may be: {why}"));
                            say(&format!("{mutant:?}: not noticed in {} seeds{why}", asked.seeds));
                        }
                    }
                }
            });
        }
    });
    all.into_inner()
}

fn main() -> ExitCode {
    let held = match asked() {
        Ok(asked) if asked.mutants => mutants(&asked),
        Ok(asked) => match asked.seed {
            Some(seed) => one(&asked, seed),
            None => many(&asked),
        },
        Err(problem) => {
            say(&problem);
            false
        }
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
