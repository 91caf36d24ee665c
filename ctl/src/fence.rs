//! Every node's fence on one screen: until when it may write, and how wide the margins are that its
//! promise rests on. Pure: a picture from a coordinator in, lines out.

use std::collections::BTreeMap;

use regent_proto::wire::{Federation, Fence, Node};

use crate::screen::{Cell, Line, Tone, cell, columns, labelled, span};

/// The lines of `status --fence`.
#[must_use]
pub fn section(federation: &Federation, width: usize) -> Vec<Line> {
    let head = ["NODE", "DEADLINE", "RENEWAL", "STOP", "KILL", "GUARDIAN", "WAKE", "WATCHDOG"];
    let mut rows: Vec<Vec<Cell>> =
        vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
    for site in &federation.sites {
        for node in &site.nodes {
            rows.push(row(node, site.report_age_ms.unwrap_or(0)));
        }
    }
    let mut lines = columns(&rows);
    lines.push(Line::new());
    for lacking in lacking(federation) {
        lines.extend(labelled("WARNING", Tone::Warn, &lacking, width));
    }
    let note = "DEADLINE as of the site's last report; RENEWAL: round trip of the leader key's and \
                of the primary lease's last renewal; STOP, KILL and WAKE: worst measured, of the budget";
    lines.extend(labelled("", Tone::Dim, note, width));
    lines
}

/// Rights that guardians lack, with the nodes that lack the same. Not among the warnings of every
/// status: it is a property of the installation, not of the moment.
fn lacking(federation: &Federation) -> Vec<String> {
    let mut nodes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in federation.sites.iter().flat_map(|site| &site.nodes) {
        if let Some(fence) = node.fence.as_ref().filter(|fence| !fence.guardian_lacks.is_empty()) {
            nodes.entry(fence.guardian_lacks.join(", ")).or_default().push(&node.name);
        }
    }
    let said = nodes.iter();
    said.map(|(rights, nodes)| format!("{}: the guardian lacks {rights}", nodes.join(", ")))
        .collect()
}

/// Thin margins, watchdogs that cannot be used, and fences that a pause took away, of every node.
#[must_use]
pub fn warnings(federation: &Federation) -> Vec<String> {
    let nodes = federation.sites.iter().flat_map(|site| &site.nodes);
    nodes
        .filter_map(|node| Some((node, node.fence.as_ref()?)))
        .flat_map(|(node, fence)| {
            let suspended = fence.suspended.then(|| "NOT FENCED: PAUSED".to_owned());
            let frozen = fence.frozen.then(|| "frozen: its clocks are not trusted".to_owned());
            let failed = fence.watchdog.strip_prefix("failed: ");
            let failed = failed.map(|why| format!("the watchdog cannot be used: {why}"));
            let rungs = suspended.into_iter().chain(frozen).chain(failed);
            let said = rungs.chain(fence.thin.iter().cloned());
            said.map(move |text| format!("{}: {text}", node.name))
        })
        .collect()
}

fn row(node: &Node, age_ms: u64) -> Vec<Cell> {
    let Some(fence) = &node.fence else {
        return vec![cell(&node.name), (Tone::Warn, "not told".to_owned())];
    };
    // What was left when it was written has run on since.
    let deadline = match fence.deadline_left_ms.saturating_sub(age_ms) {
        _ if fence.suspended => (Tone::Bad, "NOT FENCED".to_owned()),
        0 => cell("-"),
        left => cell(span(left)),
    };
    let renewal = match (fence.site_round_trip_ms, fence.primary_round_trip_ms) {
        (None, None) => "-".to_owned(),
        (site, primary) => {
            let shown: Vec<String> = [site, primary].into_iter().flatten().map(span).collect();
            shown.join(" / ")
        }
    };
    let guardian = match (fence.guardian, node.state.as_str()) {
        (true, _) if !fence.guardian_lacks.is_empty() => {
            (Tone::Warn, "alive, lacks rights".to_owned())
        }
        (true, _) => (Tone::Good, "alive".to_owned()),
        (false, "running" | "streaming") => (Tone::Bad, "none".to_owned()),
        (false, _) => cell("-"),
    };
    let watchdog = match fence.watchdog.as_str() {
        "" | "off" | "disarmed" => cell("off"),
        "armed" => (Tone::Good, "armed".to_owned()),
        problem => (Tone::Bad, problem.to_owned()),
    };
    vec![
        cell(&node.name),
        deadline,
        cell(renewal),
        worst(fence.worst_stop_ms, fence.stop_budget_ms, fence, "stop"),
        worst(fence.worst_kill_ms, fence.kill_budget_ms, fence, "kill"),
        guardian,
        fence.worst_wake_ms.map_or_else(|| cell("-"), |wake| cell(span(wake))),
        watchdog,
    ]
}

/// The worst of a budget, marked where the node says that the margin is thin.
fn worst(worst: Option<u64>, budget: u64, fence: &Fence, what: &str) -> Cell {
    let Some(worst) = worst else { return cell(format!("- of {}", span(budget))) };
    let thin = fence.thin.iter().any(|text| text.starts_with(&format!("a {what} took")));
    let tone = if thin { Tone::Warn } else { Tone::Plain };
    (tone, format!("{} of {}", span(worst), span(budget)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::healthy;

    fn fenced(deadline_left_ms: u64) -> Fence {
        Fence {
            deadline_left_ms,
            site_round_trip_ms: Some(3),
            worst_stop_ms: Some(410),
            stop_budget_ms: 5000,
            worst_kill_ms: None,
            kill_budget_ms: 250,
            guardian: true,
            worst_wake_ms: Some(2),
            watchdog: "off".to_owned(),
            ..Fence::default()
        }
    }

    #[test]
    fn every_node_of_every_site_is_shown_and_what_is_thin_is_said() {
        let mut federation = healthy();
        let leader = Fence { primary_round_trip_ms: Some(21), ..fenced(12_345) };
        federation.sites[0].nodes[0].fence = Some(Fence {
            worst_stop_ms: Some(4_600),
            thin: vec!["a stop took 4600 ms, near the stop budget of 5000 ms".to_owned()],
            ..leader
        });
        federation.sites[0].nodes[1].fence = Some(Fence { guardian: false, ..fenced(0) });
        let armed = Fence { watchdog: "armed".to_owned(), ..fenced(0) };
        federation.sites[1].nodes[0].fence = Some(armed);
        let lines: Vec<String> = section(&federation, 100).iter().map(Line::text).collect();
        let wanted = "\
NODE  DEADLINE  RENEWAL       STOP                KILL         GUARDIAN  WAKE  WATCHDOG
eu-1  11.945 s  3 ms / 21 ms  4.600 s of 5.000 s  - of 250 ms  alive     2 ms  off
eu-2  -         3 ms          410 ms of 5.000 s   - of 250 ms  none      2 ms  off
us-1  -         3 ms          410 ms of 5.000 s   - of 250 ms  alive     2 ms  armed
us-2  not told";
        assert_eq!(lines[..5].join("\n"), wanted);
        // Said above it, among the warnings of every status.
        let thin = "eu-1: a stop took 4600 ms, near the stop budget of 5000 ms";
        assert_eq!(warnings(&federation), [thin]);
    }

    #[test]
    fn a_fence_that_is_off_is_said_even_without_asking_for_fences() {
        let mut federation = healthy();
        // Of a site that joins: the leader's agent reports, this member's has no `federation` section
        // yet, and so its pause takes its fence away.
        let joining = Fence { suspended: true, primary_round_trip_ms: None, ..fenced(0) };
        federation.sites[0].nodes[1].fence = Some(joining);
        assert_eq!(warnings(&federation), ["eu-2: NOT FENCED: PAUSED"]);
    }

    #[test]
    fn rights_that_a_guardian_lacks_are_shown_and_named() {
        let mut federation = healthy();
        let guardian_lacks = vec!["real-time priority".to_owned(), "locked memory".to_owned()];
        let fence = Fence { guardian_lacks, ..fenced(1) };
        federation.sites[0].nodes[0].fence = Some(fence.clone());
        federation.sites[1].nodes[0].fence = Some(fence);
        let lines: Vec<String> = section(&federation, 100).iter().map(Line::text).collect();
        assert!(lines[1].contains("  alive, lacks rights  "), "{}", lines[1]);
        let said = "eu-1, us-1: the guardian lacks real-time priority, locked memory";
        assert!(lines.iter().any(|line| line.contains(said)), "{lines:#?}");
        assert!(warnings(&federation).is_empty(), "of the installation, not of the moment");
    }

    #[test]
    fn a_watchdog_that_failed_is_said_with_its_reason() {
        let mut federation = healthy();
        let watchdog = "failed: Open: Input/output error".to_owned();
        federation.sites[0].nodes[1].fence = Some(Fence { watchdog, ..fenced(1) });
        let said = "eu-2: the watchdog cannot be used: Open: Input/output error";
        assert_eq!(warnings(&federation), [said]);
    }
}
