//! Which margins of the fence are thin: worst cases that were measured, against the budgets that the
//! proofs rest on (hazards.md 3.3, 3.5). Said in log, status and metrics; nothing is done about it.

use regent_proto::record::ReportedFence;

/// The least share of the stop budget that a stop should leave, in percent of it.
const STOP_USES_MOST: u64 = 80;
/// What the guardian may oversleep (proto's `time::lease`), in milliseconds.
const WAKE_MOST_MS: u64 = 50;

/// What one call of a renewal may take before it is given up, in milliseconds (τ of hazards.md 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallBounds {
    /// Of the leader key's lease.
    pub site_ms: u64,
    /// Of the primary lease; none outside a federation.
    pub primary_ms: Option<u64>,
}

/// One sentence for each thin margin.
#[must_use]
pub fn thin(fence: &ReportedFence, calls: CallBounds, server_runs: bool, hung: u64) -> Vec<String> {
    let mut thin = Vec::new();
    for (what, took, most, longer) in [
        ("leader key", fence.site_round_trip_ms, Some(calls.site_ms), "ttl and retry_timeout"),
        ("primary lease", fence.primary_round_trip_ms, calls.primary_ms, "policy.primary_ttl"),
    ] {
        // Half of the bound is left for the slower call that comes next.
        if let Some((took, most)) = took.zip(most).filter(|(took, most)| took * 2 > *most) {
            thin.push(format!(
                "the last renewal of the {what} took {took} ms, more than half of the {most} ms that \
                 a call may take: a store that becomes slower costs the right to write; look at it, \
                 or raise {longer}"
            ));
        }
    }
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
             priority (as the unit does); told until PostgreSQL starts anew"
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
            site_round_trip_ms: Some(350),
            primary_round_trip_ms: Some(600),
            ..ReportedFence::default()
        };
        let calls = CallBounds { site_ms: 700, primary_ms: Some(1200) };
        assert_eq!(thin(&good, calls, true, 0), Vec::<String>::new());
        let hung = thin(&good, calls, true, 1);
        assert!(hung.len() == 1 && hung[0].starts_with("a guardian hung"), "{hung:?}");
        for (bad, word) in [
            (ReportedFence { worst_stop_ms: Some(4001), ..good.clone() }, "4001 ms, near"),
            (ReportedFence { worst_kill_ms: Some(126), ..good.clone() }, "at least 252 ms"),
            (ReportedFence { worst_wake_ms: Some(51), ..good.clone() }, "51 ms late"),
            (ReportedFence { guardian: false, ..good.clone() }, "no guardian"),
            (ReportedFence { site_round_trip_ms: Some(351), ..good.clone() }, "key took 351 ms"),
            (ReportedFence { primary_round_trip_ms: Some(601), ..good.clone() }, "lease took 601"),
        ] {
            let said = thin(&bad, calls, true, 0);
            assert!(said.len() == 1 && said[0].contains(word), "{word}: {said:?}");
        }
        assert!(
            thin(&ReportedFence { guardian: false, ..good.clone() }, calls, false, 0).is_empty()
        );
        // Outside a federation there is no primary lease, and so no bound.
        let alone = CallBounds { primary_ms: None, ..calls };
        let lent = ReportedFence { primary_round_trip_ms: Some(5000), ..good };
        assert!(thin(&lent, alone, true, 0).is_empty());
    }
}
