//! What a soak came to: a line for each kind of event, and the cases of the report.

use std::collections::BTreeMap;
use std::time::Duration;

use regentctl::report::Case;

use super::Soak;
use super::events::HEALS;
use super::plan::Event;
use crate::fence::checker::Node;

/// What came of one event.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which.
    pub event: Event,
    /// The longest time without an acknowledgement.
    pub outage: Duration,
    /// From its end until the site was whole.
    pub whole: Duration,
    /// Rows acknowledged in a second before it and in one after it.
    pub rates: (usize, usize),
    /// Who led before it and after it.
    pub leaders: (Node, Node),
}

impl Outcome {
    /// Whether another node leads though nobody asked for it.
    #[must_use]
    pub fn failed_over(&self) -> bool {
        let asked = matches!(self.event, Event::Asked(_));
        !asked && self.leaders.0 != self.leaders.1
    }

    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}: outage {} ms, whole after {} ms, {}/{} rows/s before/after, node {} -> {}",
            self.event,
            self.outage.as_millis(),
            self.whole.as_millis(),
            self.rates.0,
            self.rates.1,
            self.leaders.0,
            self.leaders.1
        )
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The span that so many percent of all are not longer than; zero of none.
fn percentile(spans: &[Duration], percent: usize) -> Duration {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    let rank = (spans.len() * percent).div_ceil(100);
    spans.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The case of one kind of event.
fn kind(name: &str, outcomes: &[&Outcome]) -> Case {
    let mut case = Case::new(name).figure("n", count(outcomes.len()), "events");
    let outages: Vec<Duration> = outcomes.iter().map(|outcome| outcome.outage).collect();
    let wholes: Vec<Duration> = outcomes.iter().map(|outcome| outcome.whole).collect();
    for (what, spans) in [("outage", outages), ("whole again", wholes)] {
        for (rank, percent) in [("median", 50), ("p95", 95), ("max", 100)] {
            let figure = millis(percentile(&spans, percent));
            case = case.figure(&format!("{what}, {rank}"), figure, "ms");
        }
    }
    let failed_over = outcomes.iter().filter(|outcome| outcome.failed_over()).count();
    case.figure("another leader unasked", count(failed_over), "events")
}

/// All cases of a soak.
#[must_use]
pub fn cases(soak: &Soak) -> Vec<Case> {
    let mut kinds: BTreeMap<Event, Vec<&Outcome>> = BTreeMap::new();
    for outcome in &soak.outcomes {
        kinds.entry(outcome.event).or_default().push(outcome);
    }
    let kinds = kinds.iter().map(|(event, outcomes)| kind(&event.to_string(), outcomes));
    kinds.chain([events(soak), rows(soak)]).collect()
}

fn events(soak: &Soak) -> Case {
    let planned = |which: fn(Event) -> bool| soak.plan.iter().filter(|e| which(**e)).count();
    let ran = |which: &dyn Fn(&Outcome) -> bool| soak.outcomes.iter().filter(|o| which(o)).count();
    let (deposed, wanted) = (ran(&Outcome::failed_over), planned(Event::deposes));
    let switched = ran(&|o| o.event.is_switchover() && o.leaders.0 != o.leaders.1);
    let asked = planned(Event::is_switchover);
    let (all, ended) = (soak.plan.len(), soak.outcomes.len());
    let least = |of: fn(&Outcome) -> usize| soak.outcomes.iter().map(of).min().unwrap_or_default();
    let rates: [usize; 2] = [least(|o| o.rates.0), least(|o| o.rates.1)];
    let slowest = soak.outcomes.iter().map(|outcome| outcome.whole).max().unwrap_or_default();
    Case::new("events")
        .figure("seed", f64::from(soak.seed), "seed")
        .figure("planned", count(all), "events")
        .figure("ended well", count(ended), "events")
        .figure("failovers", count(deposed), "events")
        .figure("switchovers", count(switched), "events")
        .figure("whole again, max", millis(slowest), "ms")
        .figure("rate before, least", count(rates[0]), "rows/s")
        .figure("rate after, least", count(rates[1]), "rows/s")
        .require(soak.problem.is_none(), || soak.problem.clone().unwrap_or_default())
        .require(all > 0 && ended == all, || format!("{ended} of {all} events ended well"))
        .require(deposed >= wanted, || format!("{deposed} failovers, {wanted} at least wanted"))
        .require(switched == asked, || format!("{switched} switchovers, {asked} wanted"))
        .require(slowest <= HEALS, || format!("whole after {slowest:?}, limit {HEALS:?}"))
}

fn rows(soak: &Soak) -> Case {
    let case = Case::new("rows").figure("sessions", count(soak.streams), "sessions");
    let findings = match &soak.findings {
        Ok(findings) => findings,
        Err(problem) => {
            return case.require(false, || format!("the rows were not read: {problem}"));
        }
    };
    let acknowledged = usize::try_from(findings.acknowledged).unwrap_or(usize::MAX);
    case.figure("acknowledged", count(acknowledged), "rows")
        .figure("lost", count(findings.lost.len()), "rows")
        .figure("duplicated", count(findings.duplicated.len()), "rows")
        .figure("reordered", count(findings.reordered.len()), "rows")
        .figure("foreign", count(findings.foreign.len()), "rows")
        .require(findings.clean(), || findings.text())
}

/// The table's head.
pub const HEAD: &str = "event                                       n  outage ms (median/p95/max)  \
                        whole again ms (median/p95/max)  another leader";

/// One line of the table.
#[must_use]
pub fn line(case: &Case) -> String {
    let figure = |name: &str| case.figures.iter().find(|f| f.name == name).map(|f| f.value);
    let Some(n) = figure("n") else {
        let figures = case.figures.iter().map(|f| format!("{} {:.0} {}", f.name, f.value, f.unit));
        return format!("{}: {}", case.name, figures.collect::<Vec<_>>().join(", "));
    };
    let three = |what: &str| {
        let ranks = ["median", "p95", "max"];
        let figures = ranks.map(|rank| figure(&format!("{what}, {rank}")).unwrap_or_default());
        figures.map(|value| format!("{value:.0}")).join("/")
    };
    format!(
        "{:<41} {n:>3}  {:>27}  {:>31}  {:>14.0}",
        case.name,
        three("outage"),
        three("whole again"),
        figure("another leader unasked").unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::ledger::{Findings, Row};
    use crate::soak::plan::{Deed, Request, Whom};
    use regentctl::report::{Verdict, passed};
    use std::collections::BTreeSet;

    const KILLED: Event = Event::Node(Deed::NodeKilled, Whom::Leader);
    const SWITCHED: Event = Event::Asked(Request::ToSynchronous);

    fn outcome(event: Event, outage: u64) -> Outcome {
        let outage = Duration::from_millis(outage);
        let whole = Duration::from_millis(500);
        Outcome { event, outage, whole, rates: (900, 800), leaders: (0, 1) }
    }

    fn good() -> Soak {
        let findings = Findings { acknowledged: 7, ..Findings::default() };
        Soak {
            seed: 1,
            plan: vec![KILLED, SWITCHED, KILLED],
            outcomes: vec![outcome(KILLED, 6000), outcome(SWITCHED, 200), outcome(KILLED, 4000)],
            problem: None,
            streams: 5,
            findings: Ok(findings),
        }
    }

    /// The names of the cases that fail.
    fn failing(soak: &Soak) -> Vec<String> {
        let cases = cases(soak).into_iter();
        cases.filter(|case| case.verdict == Verdict::Fail).map(|case| case.name).collect()
    }

    #[test]
    fn ranks_are_of_what_there_is() {
        let spans: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        let ranks = [50, 95, 100].map(|percent| percentile(&spans, percent).as_millis());
        assert_eq!(ranks, [10, 19, 20]);
        assert_eq!(percentile(&spans[..1], 50), Duration::from_millis(20));
        assert_eq!(percentile(&[], 95), Duration::ZERO);
    }

    #[test]
    fn a_good_soak_passes_with_a_case_for_each_kind() {
        let cases = cases(&good());
        assert!(passed(&cases), "{cases:#?}");
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["leader: node killed", "switchover, named", "events", "rows"]);
        assert!(line(&cases[0]).contains("4000/6000/6000"), "{}", line(&cases[0]));
        assert!(
            line(&cases[2]).contains("failovers 2 events, switchovers 1"),
            "{}",
            line(&cases[2])
        );
    }

    #[test]
    fn each_fault_of_a_soak_fails_it() {
        type Plant = fn(&mut Soak);
        let of_events: [Plant; 6] = [
            |soak| soak.problem = Some("stuck".to_owned()),
            |soak| drop(soak.outcomes.pop()),
            |soak| soak.outcomes[0].leaders = (1, 1),
            |soak| soak.outcomes[1].leaders = (1, 1),
            |soak| soak.outcomes[0].whole = HEALS + Duration::from_millis(1),
            |soak| (soak.plan, soak.outcomes) = (Vec::new(), Vec::new()),
        ];
        for plant in of_events {
            let mut soak = good();
            plant(&mut soak);
            assert_eq!(failing(&soak), ["events"], "{soak:?}");
        }
        let lost: BTreeSet<Row> = BTreeSet::from([(0, 1)]);
        for findings in [
            Err("no leader".to_owned()),
            Ok(Findings::default()),
            Ok(Findings { acknowledged: 7, lost, ..Findings::default() }),
        ] {
            let soak = Soak { findings, ..good() };
            assert_eq!(failing(&soak), ["rows"], "{soak:?}");
        }
    }
}
