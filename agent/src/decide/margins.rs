//! Which margins of the fence are thin: worst cases that were measured, against the budgets that the
//! proofs rest on (hazards.md 3.3, 3.5). Said in log, status and metrics; nothing is done about it.

use regent_proto::record::ReportedFence;

/// The least share of the stop budget that a stop should leave, in percent of it.
const STOP_USES_MOST: u64 = 80;
/// What the guardian may oversleep (proto's `time::lease`), in milliseconds.
const WAKE_MOST_MS: u64 = 50;

/// One sentence for each thin margin.
#[must_use]
pub fn thin(fence: &ReportedFence, server_runs: bool, hung: u64) -> Vec<String> {
    let mut thin = Vec::new();
    let (stop, kill) = (fence.stop_budget_ms, fence.kill_budget_ms);
    if let Some(worst) = fence.worst_stop_ms.filter(|worst| worst * 100 > stop * STOP_USES_MOST) {
        thin.push(format!(
            "a stop took {worst} ms, near the stop budget of {stop} ms: what is not stopped by then \
             is killed; raise regent.stop_budget"
        ));
    }
    if let Some(worst) = fence.worst_kill_ms.filter(|worst| worst * 2 > kill) {
        thin.push(format!(
            "a kill took {worst} ms, more than half of the kill budget of {kill} ms: raise \
             regent.kill_budget to at least {} ms",
            worst * 2
        ));
    }
    if let Some(worst) = fence.worst_wake_ms.filter(|worst| *worst > WAKE_MOST_MS) {
        thin.push(format!(
            "the guardian woke up {worst} ms late, more than {WAKE_MOST_MS} ms: give it real-time \
             priority, or raise regent.kill_budget"
        ));
    }
    if hung > 0 {
        thin.push(format!(
            "a guardian hung and was replaced, times since this agent began: {hung}; look for what \
             stops or starves it (`regentctl agent upgrade` clears this)"
        ));
    }
    if server_runs && !fence.guardian {
        thin.push("no guardian lives beside the server: a hung agent is not fenced".to_owned());
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_margin_warns_alone_and_only_beyond_its_bound() {
        let good = ReportedFence {
            worst_stop_ms: Some(4000),
            stop_budget_ms: 5000,
            worst_kill_ms: Some(125),
            kill_budget_ms: 250,
            worst_wake_ms: Some(50),
            guardian: true,
            ..ReportedFence::default()
        };
        assert_eq!(thin(&good, true, 0), Vec::<String>::new());
        let hung = thin(&good, true, 1);
        assert!(hung.len() == 1 && hung[0].starts_with("a guardian hung"), "{hung:?}");
        for (bad, word) in [
            (ReportedFence { worst_stop_ms: Some(4001), ..good.clone() }, "4001 ms, near"),
            (ReportedFence { worst_kill_ms: Some(126), ..good.clone() }, "at least 252 ms"),
            (ReportedFence { worst_wake_ms: Some(51), ..good.clone() }, "51 ms late"),
            (ReportedFence { guardian: false, ..good.clone() }, "no guardian"),
        ] {
            let said = thin(&bad, true, 0);
            assert!(said.len() == 1 && said[0].contains(word), "{word}: {said:?}");
        }
        assert!(thin(&ReportedFence { guardian: false, ..good }, false, 0).is_empty());
    }
}
