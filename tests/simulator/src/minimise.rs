//! A failing seed with as few of its faults as still break the same invariant.

use crate::run::{Report, run};
use crate::scenario::Plan;

/// Removes faults, first many at a time, as long as the same invariant breaks.
#[must_use]
pub fn minimise(plan: &Plan) -> (Plan, Report) {
    let first = run(plan);
    let Some(invariant) = first.violation.as_ref().map(|violation| violation.invariant) else {
        return (plan.clone(), first);
    };
    let mut kept: Vec<usize> = (0..first.faults).collect();
    let mut best = first;
    let mut chunk = kept.len().max(1);
    loop {
        let mut from = 0;
        while from < kept.len() {
            let fewer: Vec<usize> = kept
                .iter()
                .enumerate()
                .filter(|(i, _)| *i < from || *i >= from + chunk)
                .map(|(_, fault)| *fault)
                .collect();
            let report = run(&Plan { only: Some(fewer.clone()), ..plan.clone() });
            if report.violation.as_ref().is_some_and(|v| v.invariant == invariant) {
                kept = fewer;
                best = report;
            } else {
                from += chunk;
            }
        }
        if chunk == 1 {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    (Plan { only: Some(kept), ..plan.clone() }, best)
}
