//! Plans and operations as text for people. Pure.

use regent_proto::time::WallTime;
use regent_proto::wire::{Check, Operation, OperationStep, Plan};

use crate::exit::Exit;
use crate::screen::{Cell, Line, Tone, cell, columns, span, wrap};

/// A plan: every check with what it saw, then the steps.
#[must_use]
pub fn plan(plan: &Plan, width: usize) -> Vec<Line> {
    let what = what(&plan.kind, &plan.from, &plan.to);
    let title = format!("Plan: {what}, under epoch {}", plan.epoch);
    let mut lines = vec![Line::toned(Tone::Strong, title)];
    let names = plan.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for one in &plan.checks {
        lines.extend(check(one, names.min(28), width));
    }
    if !plan.steps.is_empty() {
        lines.push(Line::toned(Tone::Strong, "Steps:"));
    }
    for (i, step) in plan.steps.iter().enumerate() {
        for (j, part) in wrap(step, width.saturating_sub(5)).iter().enumerate() {
            let number = if j == 0 { format!("{:>3}. ", i + 1) } else { " ".repeat(5) };
            lines.push(Line::plain(number).put(Tone::Plain, part));
        }
    }
    lines
}

/// A verb with its sites; what moves no primacy has one.
fn what(kind: &str, from: &str, to: &str) -> String {
    if to.is_empty() { format!("{kind} {from}") } else { format!("{kind} {from} → {to}") }
}

fn check(check: &Check, names: usize, width: usize) -> Vec<Line> {
    let (mark, tone) = match check.verdict.as_str() {
        "pass" => ("ok   ", Tone::Good),
        "warn" => ("warn ", Tone::Warn),
        _ => ("BLOCK", Tone::Bad),
    };
    let start = 8 + names + 1;
    let mut texts = vec![(Tone::Plain, check.saw.clone())];
    // What could not be looked at because of another check would only bury that one.
    let moot = check.verdict == "warn" && check.saw.starts_with("not known");
    if check.verdict != "pass" && !moot {
        texts.push((Tone::Plain, format!("wanted: {}", check.wanted)));
        if !check.next.is_empty() {
            texts.push((Tone::Strong, format!("next: {}", check.next)));
        }
    }
    let mut lines = Vec::new();
    for (text_tone, text) in texts {
        for part in wrap(&text, width.saturating_sub(start)) {
            let head = if lines.is_empty() {
                Line::plain("  ")
                    .put(tone, mark)
                    .put(Tone::Plain, " ")
                    .put(Tone::Plain, &check.name)
            } else {
                Line::new()
            };
            lines.push(head.pad_to(start).put(text_tone, part));
        }
    }
    lines
}

/// Whether there is nothing to show of a plan but why there is none.
#[must_use]
pub fn is_refusal(plan: &Plan) -> bool {
    plan.blocked && plan.steps.is_empty()
}

/// Why a blocked plan cannot be executed, in one sentence.
#[must_use]
pub fn blockers(plan: &Plan) -> String {
    let blocking: Vec<String> = plan
        .checks
        .iter()
        .filter(|check| check.verdict == "block")
        .map(|check| format!("{}: {}, wanted {}", check.name, check.saw, check.wanted))
        .collect();
    blocking.join("; ")
}

/// One operation in one line.
#[must_use]
pub fn summary(operation: &Operation) -> String {
    let what = what(&operation.kind, &operation.from, &operation.to);
    let head = format!("{what} ({})", operation.id);
    if is_over(operation) {
        return format!("{head}: {}", outcome(operation));
    }
    match operation.steps.last() {
        None => format!("{head}: begins"),
        Some(step) if step.note.is_empty() => format!("{head}: {}", step.name),
        Some(step) => format!("{head}: {}, {}", step.name, step.note),
    }
}

/// Whether an operation has ended.
#[must_use]
pub fn is_over(operation: &Operation) -> bool {
    !matches!(operation.outcome.as_str(), "" | "running")
}

/// The outcome with its reason.
#[must_use]
pub fn outcome(operation: &Operation) -> String {
    if operation.outcome_reason.is_empty() {
        operation.outcome.clone()
    } else {
        format!("{}: {}", operation.outcome, operation.outcome_reason)
    }
}

/// The exit code that an operation's outcome means for who waited for it.
#[must_use]
pub fn exit(operation: &Operation) -> Exit {
    match operation.outcome.as_str() {
        "succeeded" => Exit::Done,
        "rolled-back" | "cancelled" | "superseded" => Exit::RolledBack,
        _ => Exit::Unknown,
    }
}

/// One step, with the time since the operation was asked for.
#[must_use]
pub fn step(operation: &Operation, step: &OperationStep) -> Line {
    let since = step.entered_at_ms.saturating_sub(operation.requested_at_ms);
    Line::toned(Tone::Dim, format!("{:>10}  ", format!("+{}", span(since))))
        .put(Tone::Strong, format!("{:<10}", step.name))
        .put(Tone::Plain, &step.note)
}

/// The last line of an operation: outcome, outage, duration.
#[must_use]
pub fn ending(operation: &Operation) -> Line {
    let tone = match exit(operation) {
        Exit::Done => Tone::Good,
        Exit::RolledBack => Tone::Warn,
        _ => Tone::Bad,
    };
    let mut facts = Vec::new();
    if let Some(outage) = operation.outage_ms {
        facts.push(format!("writes stood still for {}", span(outage)));
    }
    if let Some(ended) = operation.ended_at_ms {
        facts.push(format!("{} in all", span(ended.saturating_sub(operation.requested_at_ms))));
    }
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    Line::toned(tone, format!("{}{facts}", outcome(operation)))
}

/// An operation with everything that is known of it.
#[must_use]
pub fn operation(operation: &Operation, width: usize) -> Vec<Line> {
    let at = WallTime(operation.requested_at_ms);
    let mut lines = vec![
        Line::toned(Tone::Strong, summary(operation)).cut(width),
        Line::plain(format!("asked for by {} at {at}", or_dash(&operation.requested_by))),
    ];
    if !operation.reason.is_empty() {
        lines.push(Line::plain(format!("because: {}", operation.reason)));
    }
    if operation.cancel_requested && !is_over(operation) {
        lines.push(Line::toned(Tone::Warn, "somebody asked to cancel it"));
    }
    if let Some(agreed) = &operation.plan {
        lines.extend(plan(agreed, width));
    }
    lines.push(Line::toned(Tone::Strong, "What happened:"));
    lines.extend(operation.steps.iter().map(|one| step(operation, one)));
    if is_over(operation) {
        lines.push(ending(operation));
    }
    lines
}

/// Operations as a table.
#[must_use]
pub fn operations(list: &[Operation]) -> Vec<Line> {
    if list.is_empty() {
        return vec![Line::plain(
            "no operation yet; next: regentctl switchover --to SITE --dry-run",
        )];
    }
    let head = ["ID", "WHAT", "ASKED FOR AT", "BY", "OUTCOME", "OUTAGE"];
    let mut rows: Vec<Vec<Cell>> =
        vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
    for one in list {
        let outcome = match exit(one) {
            Exit::Done => (Tone::Good, one.outcome.clone()),
            Exit::RolledBack => (Tone::Warn, one.outcome.clone()),
            _ => (Tone::Strong, one.steps.last().map_or("begins".into(), |step| step.name.clone())),
        };
        rows.push(vec![
            cell(&one.id),
            cell(what(&one.kind, &one.from, &one.to)),
            cell(WallTime(one.requested_at_ms).to_string().split('.').next().unwrap_or_default()),
            cell(or_dash(&one.requested_by)),
            outcome,
            cell(one.outage_ms.map_or_else(|| "-".to_owned(), span)),
        ]);
    }
    columns(&rows)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> Plan {
        let check = |name: &str, verdict: &str, saw: &str, wanted: &str, next: &str| Check {
            name: name.into(),
            verdict: verdict.into(),
            saw: saw.into(),
            wanted: wanted.into(),
            next: next.into(),
        };
        Plan {
            kind: "switchover".into(),
            from: "eu".into(),
            to: "us".into(),
            epoch: 3,
            checks: vec![
                check("reports", "pass", "both sites reported within 1 s", "within 10 s", ""),
                check(
                    "lag",
                    "block",
                    "us lags 212.0 MB",
                    "less than 16.0 MB",
                    "regentctl status --watch",
                ),
            ],
            steps: vec!["checkpoint in eu and us".into(), "eu stops".into()],
            hash: "abc".into(),
            blocked: true,
        }
    }

    #[test]
    fn a_plan_shows_what_each_check_saw_and_wanted() {
        let text: Vec<String> = plan(&blocked(), 80).iter().map(Line::text).collect();
        let wanted = [
            "Plan: switchover eu → us, under epoch 3",
            "  ok    reports both sites reported within 1 s",
            "  BLOCK lag     us lags 212.0 MB",
            "                wanted: less than 16.0 MB",
            "                next: regentctl status --watch",
            "Steps:",
            "  1. checkpoint in eu and us",
            "  2. eu stops",
        ];
        assert_eq!(text, wanted);
        assert_eq!(blockers(&blocked()), "lag: us lags 212.0 MB, wanted less than 16.0 MB");
    }

    #[test]
    fn what_moves_no_primacy_has_one_site() {
        let fence = Plan { kind: "fence".into(), to: String::new(), ..blocked() };
        assert_eq!(plan(&fence, 80)[0].text(), "Plan: fence eu, under epoch 3");
        let operation = Operation {
            id: "fence-3-abc".into(),
            kind: "fence".into(),
            from: "eu".into(),
            outcome: "succeeded".into(),
            ..Operation::default()
        };
        assert_eq!(summary(&operation), "fence eu (fence-3-abc): succeeded");
    }

    #[test]
    fn a_plan_without_steps_is_a_refusal() {
        assert!(!is_refusal(&blocked()), "the other checks tell what stands in the way as well");
        assert!(is_refusal(&Plan { steps: Vec::new(), ..blocked() }));
        assert!(!is_refusal(&Plan { blocked: false, steps: Vec::new(), ..blocked() }));
    }

    #[test]
    fn a_check_that_could_not_be_made_does_not_bury_the_one_that_blocks() {
        let mut moot = blocked();
        moot.checks[0].verdict = "warn".into();
        moot.checks[0].saw = "not known: there is no report of us".into();
        let text: Vec<String> = plan(&moot, 80).iter().map(Line::text).collect();
        assert_eq!(text[1], "  warn  reports not known: there is no report of us");
        assert_eq!(text[2], "  BLOCK lag     us lags 212.0 MB");
    }

    #[test]
    fn outcomes_have_their_exit_codes() {
        let with =
            |outcome: &str| exit(&Operation { outcome: outcome.into(), ..Operation::default() });
        assert_eq!(with("succeeded"), Exit::Done);
        assert_eq!(with("rolled-back"), Exit::RolledBack);
        assert_eq!(with("cancelled"), Exit::RolledBack);
        assert_eq!(with("superseded"), Exit::RolledBack);
        assert_eq!(with("running"), Exit::Unknown);
    }

    #[test]
    fn steps_show_their_time_since_the_request() {
        let operation = Operation { requested_at_ms: 1_000, ..Operation::default() };
        let one =
            OperationStep { name: "take".into(), entered_at_ms: 1_612, note: "us takes".into() };
        assert_eq!(step(&operation, &one).text(), "   +612 ms  take      us takes");
    }
}
