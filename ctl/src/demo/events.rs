//! What happened in the demo, as values: events with their span, and the figures of each. Pure.
//!
//! An event's rows are those acknowledged from its beginning up to the next one's, so that every
//! row belongs to exactly one event and a lost one shows beside what lost it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::millis;
use crate::load::{Ack, History, Judgement, Outage, outage};
use crate::report::{Case, Verdict};
use crate::screen::{Cell, Line, Tone, cell, columns, span};

/// Something that was done to the federation while the writer wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Stable, for the report.
    pub name: String,
    /// For people.
    pub title: String,
    /// When it began, on the writer's clock.
    pub from: Duration,
    /// When it was over and writes had come back.
    pub to: Duration,
    /// The longest outage allowed, where there is a limit.
    pub limit: Option<Duration>,
    /// What went wrong.
    pub problem: Option<String>,
}

/// An event with its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event.
    pub event: Event,
    /// The longest time without an acknowledgement.
    pub outage: Outage,
    /// Rows acknowledged.
    pub acknowledged: usize,
    /// How many of them were lost.
    pub lost: usize,
    /// How many of them were duplicated.
    pub duplicated: usize,
    /// How many of them were reordered.
    pub reordered: usize,
}

/// Gives every event its figures.
#[must_use]
pub fn rows(events: &[Event], history: &History, judgement: &Judgement) -> Vec<Row> {
    let starts: Vec<Duration> = events.iter().map(|event| event.from).collect();
    events
        .iter()
        .enumerate()
        .map(|(i, event)| {
            let begin = if i == 0 { Duration::ZERO } else { event.from };
            let acks = between(&history.acks, begin, starts.get(i + 1).copied());
            let within = |numbers: &BTreeSet<u64>| {
                acks.iter().filter(|ack| numbers.contains(&ack.number)).count()
            };
            Row {
                event: event.clone(),
                outage: outage(&history.acks, event.from, event.to),
                acknowledged: acks.len(),
                lost: within(&judgement.lost),
                duplicated: within(&judgement.duplicated),
                reordered: within(&judgement.reordered),
            }
        })
        .collect()
}

fn between(acks: &[Ack], from: Duration, to: Option<Duration>) -> &[Ack] {
    let first = acks.partition_point(|ack| ack.at < from);
    let end = to.map_or(acks.len(), |to| acks.partition_point(|ack| ack.at < to));
    &acks[first.min(end)..end]
}

/// The cases of the report: one an event, and one over all rows.
#[must_use]
pub fn cases(rows: &[Row], history: &History, judgement: &Judgement) -> Vec<Case> {
    let mut cases: Vec<Case> = rows.iter().map(case).collect();
    let all = Case::new("all-rows")
        .figure("acknowledged", number(judgement.acknowledged), "rows")
        .figure("lost", number(judgement.lost.len()), "rows")
        .figure("duplicated", number(judgement.duplicated.len()), "rows")
        .figure("reordered", number(judgement.reordered.len()), "rows")
        .figure("foreign", number(judgement.foreign.len()), "rows")
        .figure("unknown-outcomes-sent-again", number64(history.unknown), "attempts")
        .require(judgement.acknowledged > 0, || "no row was acknowledged".to_owned())
        .require(judgement.is_clean(), || {
            format!(
                "{} lost, {} duplicated, {} reordered, {} foreign",
                judgement.lost.len(),
                judgement.duplicated.len(),
                judgement.reordered.len(),
                judgement.foreign.len()
            )
        });
    cases.push(all);
    cases
}

fn case(row: &Row) -> Case {
    let mut case = Case::new(&row.event.name)
        .figure("write-outage", row.outage.length.as_secs_f64() * 1000.0, "ms")
        .figure("took", (row.event.to.saturating_sub(row.event.from)).as_secs_f64() * 1000.0, "ms")
        .figure("acknowledged", number(row.acknowledged), "rows")
        .figure("lost", number(row.lost), "rows")
        .figure("duplicated", number(row.duplicated), "rows")
        .figure("reordered", number(row.reordered), "rows")
        .require(row.lost + row.duplicated + row.reordered == 0, || {
            format!("{} lost, {} duplicated, {} reordered", row.lost, row.duplicated, row.reordered)
        })
        .require(row.event.problem.is_none(), || row.event.problem.clone().unwrap_or_default());
    if let Some(limit) = row.event.limit {
        case = case.figure("write-outage-limit", limit.as_secs_f64() * 1000.0, "ms");
        case = case.require(row.outage.length <= limit, || {
            format!("write outage {:?}, allowed {limit:?}", row.outage.length)
        });
    }
    case
}

#[expect(clippy::cast_precision_loss, reason = "a demo's rows are far below 2^52")]
fn number(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a demo's attempts are far below 2^52")]
fn number64(count: u64) -> f64 {
    count as f64
}

/// The table at the end.
#[must_use]
pub fn table(rows: &[Row], cases: &[Case], judgement: &Judgement) -> Vec<Line> {
    let head = ["EVENT", "OUTAGE", "ACKNOWLEDGED", "LOST", "DUPLICATED", "REORDERED", ""];
    let mut table: Vec<Vec<Cell>> =
        vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
    for (row, case) in rows.iter().zip(cases) {
        table.push(vec![
            cell(&row.event.title),
            (Tone::Strong, span(millis(row.outage.length))),
            cell(row.acknowledged.to_string()),
            count(row.lost),
            count(row.duplicated),
            count(row.reordered),
            verdict(case.verdict),
        ]);
    }
    if let Some(all) = cases.last() {
        table.push(vec![
            cell("all"),
            cell(""),
            cell(judgement.acknowledged.to_string()),
            count(judgement.lost.len()),
            count(judgement.duplicated.len()),
            count(judgement.reordered.len()),
            verdict(all.verdict),
        ]);
    }
    let mut lines = columns(&table);
    for case in cases.iter().filter(|case| case.verdict == Verdict::Fail) {
        lines.push(Line::toned(Tone::Bad, format!("{}: {}", case.name, case.reason)));
    }
    lines
}

fn count(count: usize) -> Cell {
    let tone = if count == 0 { Tone::Plain } else { Tone::Bad };
    (tone, count.to_string())
}

fn verdict(verdict: Verdict) -> Cell {
    match verdict {
        Verdict::Pass => (Tone::Good, "pass".to_owned()),
        Verdict::Fail => (Tone::Bad, "FAIL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::passed;

    fn event(name: &str, from: u64, to: u64, limit: Option<u64>) -> Event {
        let ms = Duration::from_millis;
        Event {
            name: name.into(),
            title: name.into(),
            from: ms(from),
            to: ms(to),
            limit: limit.map(ms),
            problem: None,
        }
    }

    /// One row every 2 ms, none from 100 to 160 ms and none from 300 to 330 ms.
    fn history() -> History {
        let acks: Vec<Ack> = (0..250_u64)
            .filter(|n| !(50..80).contains(n) && !(150..165).contains(n))
            .enumerate()
            .map(|(i, slot)| Ack {
                number: i as u64,
                at: Duration::from_millis(slot * 2),
                attempts: 1,
            })
            .collect();
        History { sent: acks.len() as u64, acks, ..History::default() }
    }

    #[test]
    fn every_row_belongs_to_one_event() {
        let events = [event("a", 90, 200, None), event("b", 290, 400, Some(100))];
        let history = history();
        let judgement = Judgement { acknowledged: history.acks.len(), ..Judgement::default() };
        let rows = rows(&events, &history, &judgement);
        assert_eq!(rows.iter().map(|row| row.acknowledged).sum::<usize>(), history.acks.len());
        assert_eq!(rows[0].outage.length, Duration::from_millis(62));
        assert_eq!(rows[1].outage.length, Duration::from_millis(32));
        assert!(passed(&cases(&rows, &history, &judgement)));
    }

    #[test]
    fn a_lost_row_fails_its_event_and_the_whole() {
        let events = [event("a", 90, 200, None), event("b", 290, 400, Some(20))];
        let history = history();
        let last = history.acks.last().expect("rows").number;
        let judgement = Judgement {
            acknowledged: history.acks.len(),
            lost: [last].into(),
            ..Judgement::default()
        };
        let rows = rows(&events, &history, &judgement);
        let cases = cases(&rows, &history, &judgement);
        let verdicts: Vec<Verdict> = cases.iter().map(|case| case.verdict).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Fail]);
        assert!(cases[1].reason.contains("1 lost") && cases[1].reason.contains("allowed 20ms"));
        let text: Vec<String> = table(&rows, &cases, &judgement).iter().map(Line::text).collect();
        assert!(text[2].ends_with("FAIL"), "{text:?}");
    }
}
