//! What the repetitions of every fault came to: a table to read, and cases for the report.

use std::collections::BTreeMap;
use std::time::Duration;

use regentctl::report::Case;

use super::cluster::Setting;
use super::deadline::Guardian;
use super::faults::Fault;
use super::strain::{Endured, Strain};
use super::trial::Outcome;

/// A wake-up under overload that is later than this is told.
const LATE: Duration = Duration::from_millis(50);
/// With a real-time priority nothing is later than this: the kill that it begins has κ.
const TOO_LATE: Duration = Duration::from_millis(100);

/// The repetitions of one fault.
#[derive(Debug, Default)]
pub struct Tried {
    /// Those that ran.
    pub outcomes: Vec<Outcome>,
    /// What went wrong with those that did not come to an end.
    pub problems: Vec<String>,
}

/// All faults.
pub type Table = BTreeMap<(Setting, Fault), Tried>;

/// A case's name.
#[must_use]
pub fn name(setting: Setting, fault: Fault) -> String {
    match setting {
        Setting::Site | Setting::Watched | Setting::Hanging => fault.name().to_owned(),
        Setting::Federation => format!("federated: {}", fault.name()),
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn nanos(span: i128) -> f64 {
    span as f64 / 1e6
}

/// The middle one; the lower of two.
fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans.get(spans.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

impl Tried {
    /// The case of the report.
    #[must_use]
    pub fn case(&self, name: &str, wanted: usize) -> Case {
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        let sum = |of: &dyn Fn(&Outcome) -> usize| count(self.outcomes.iter().map(of).sum());
        let next: Vec<Duration> = self.outcomes.iter().map(|outcome| outcome.next).collect();
        let mut case = Case::new(name)
            .figure("n", count(self.outcomes.len()), "repetitions")
            .figure("acknowledged", sum(&|o| o.findings.acknowledged), "rows")
            .figure("after D", sum(&|o| o.findings.late.len()), "rows")
            .figure("overlaps", sum(&|o| o.findings.overlaps.len()), "overlaps")
            .figure("lost", sum(&|o| o.findings.lost.len()), "rows")
            .figure("next primary, median", millis(median(next.clone())), "ms")
            .figure("next primary, max", millis(next.into_iter().max().unwrap_or_default()), "ms");
        if let Some(latest) = self.outcomes.iter().filter_map(|outcome| outcome.latest).max() {
            case = case.figure("latest acknowledgement after D", nanos(latest), "ms");
        }
        let misled = self.outcomes.iter().filter_map(|outcome| outcome.misled);
        let least = misled.fold(None, |least: Option<(usize, usize)>, misled| {
            let (stale, naming) = least.unwrap_or((usize::MAX, usize::MAX));
            Some((stale.min(misled.stale), naming.min(misled.naming)))
        });
        if let Some((stale, naming)) = least {
            case = case.figure("stale answers, least", count(stale), "answers");
            case = case.figure("of those with a leader key", count(naming), "answers");
        }
        let guardians = self.outcomes.iter().filter_map(|outcome| outcome.guardian);
        let worst = guardians.fold(None, |worst: Option<(Duration, Duration)>, guardian| {
            let (wake, kill) = worst.unwrap_or_default();
            Some((wake.max(guardian.worst_wake), kill.max(guardian.worst_kill)))
        });
        if let Some((wake, kill)) = worst {
            case = case.figure("guardian's latest wake-up", millis(wake), "ms");
            case = case.figure("longest kill", millis(kill), "ms");
        }
        let rates = |of: &dyn Fn(&Outcome) -> usize| {
            count(self.outcomes.iter().map(of).min().unwrap_or_default())
        };
        case = case.figure("rate before, least", rates(&|o| o.rates.0), "rows/s").figure(
            "rate after, least",
            rates(&|o| o.rates.1),
            "rows/s",
        );
        for problem in &self.problems {
            case = case.require(false, || problem.clone());
        }
        for (n, outcome) in self.outcomes.iter().enumerate().filter(|(_, o)| !o.passed()) {
            case = case.require(false, || {
                let words = outcome.words.join(" | ");
                let watchdog = outcome.watchdog.join(" | ");
                let misled = outcome.misled.map(|m| format!("; {m:?}")).unwrap_or_default();
                format!(
                    "repetition {}: {}{misled}; watchdog: {watchdog}; {words}",
                    n + 1,
                    outcome.findings.text()
                )
            });
        }
        let ran = self.outcomes.len() + self.problems.len();
        case.require(ran >= wanted, || format!("{ran} of {wanted} repetitions ran"))
    }
}

/// The table's head.
pub const HEAD: &str = "fault                             n  acknowledged  late  overlap  lost  \
                        last - D ms  next ms (med/max)  kill ms  wake ms  rows/s before/after";

/// One line of the table.
#[must_use]
pub fn line(case: &Case) -> String {
    let figure = |name: &str| case.figures.iter().find(|f| f.name == name).map(|f| f.value);
    let show = |name: &str, digits: usize| {
        figure(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{:<33} {:>2}  {:>12}  {:>4}  {:>7}  {:>4}  {:>10}  {:>10}/{:<7} {:>7}  {:>7}  {}/{}",
        case.name,
        show("n", 0),
        show("acknowledged", 0),
        show("after D", 0),
        show("overlaps", 0),
        show("lost", 0),
        show("latest acknowledgement after D", 0),
        show("next primary, median", 0),
        show("next primary, max", 0),
        show("longest kill", 0),
        show("guardian's latest wake-up", 1),
        show("rate before, least", 0),
        show("rate after, least", 0),
    )
}

/// The case of a strain.
#[must_use]
pub fn strained(strain: Strain, endured: &anyhow::Result<Endured>, span: Duration) -> Case {
    let mut case = Case::new(strain.name()).figure("under strain", millis(span), "ms");
    let endured = match endured {
        Ok(endured) => endured,
        Err(problem) => return case.require(false, || format!("{problem:#}")),
    };
    case = case.figure("longest time without a row", millis(endured.gap), "ms");
    if let Some(guardian) = endured.guardian {
        case = case.figure("guardian's latest wake-up", millis(guardian.worst_wake), "ms");
        if strain == Strain::Overload {
            case = punctual(case, guardian);
        }
    }
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let (before, after) = endured.rates;
    case = case.figure("rate before", count(before), "rows/s");
    case = case.figure("rate under strain, at its end", count(after), "rows/s");
    let problem = endured.problem();
    case.require(problem.is_none(), || problem.unwrap_or_default())
}

/// The case of an overload says how late the guardian woke, where that is late.
fn punctual(case: Case, worst: Guardian) -> Case {
    let woke = || {
        let granted = if worst.realtime { "with" } else { "without" };
        format!("the guardian woke {:?} late, {granted} real-time priority", worst.worst_wake)
    };
    let fails = worst.realtime && worst.worst_wake > TOO_LATE;
    case.want(worst.worst_wake <= LATE, woke).require(!fails, woke)
}

/// One line about a strain.
#[must_use]
pub fn strain_line(case: &Case) -> String {
    let figures = case.figures.iter().map(|f| format!("{} {:.0} {}", f.name, f.value, f.unit));
    let warnings = case.warnings.iter().map(|warning| format!("WARNING: {warning}"));
    format!("{:<33} {}", case.name, figures.chain(warnings).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regentctl::report::Verdict;

    #[test]
    fn a_late_wake_up_is_told_and_one_that_real_time_should_have_prevented_fails() {
        let of = |millis, realtime| {
            let worst_wake = Duration::from_millis(millis);
            let worst = Guardian { worst_wake, worst_kill: Duration::ZERO, realtime };
            let case = punctual(Case::new("overload"), worst);
            (case.warnings.len(), case.verdict)
        };
        for realtime in [true, false] {
            assert_eq!(of(50, realtime), (0, Verdict::Pass));
            assert_eq!(of(51, realtime), (1, Verdict::Pass));
            assert_eq!(of(100, realtime), (1, Verdict::Pass));
        }
        assert_eq!(of(101, true), (1, Verdict::Fail));
        assert_eq!(of(101, false), (1, Verdict::Pass));
    }
}
