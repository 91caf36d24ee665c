//! A federation on one screen: who is primary, is it safe, what would be lost right now.
//!
//! Pure: a picture from a coordinator in, lines out, at most as many as the screen has. When they
//! do not fit, healthy nodes go first, then warnings; the three answers on top never do.

use regent_proto::wire::{Federation, Node, Site};

use crate::fence;
use crate::plan;
use crate::screen::{Cell, Line, Tone, age, bytes, cell, columns, labelled};

/// A site that has not reported for longer says nothing any more.
const FRESH_MS: u64 = 10_000;

/// The screen of `status`.
#[must_use]
pub fn screen(federation: &Federation, rows: usize, width: usize) -> Vec<Line> {
    let head = head(federation, width);
    let tail = tail(federation, width);
    let full = tree(federation, true);
    let room = rows.saturating_sub(head.len() + 1);
    let mut lines = head;
    if full.len() + 1 + tail.len() <= room {
        lines.extend(full);
        lines.push(Line::new());
        lines.extend(tail);
    } else {
        let short = tree(federation, false);
        let left = room.saturating_sub(short.len() + 1);
        lines.extend(cut(short, room, "sites"));
        if left > 0 {
            lines.push(Line::new());
            lines.extend(cut(tail, left, "lines"));
        }
    }
    lines.truncate(rows.saturating_sub(1));
    lines.into_iter().map(|line| line.cut(width)).collect()
}

/// The first lines that fit, and how many did not.
fn cut(mut lines: Vec<Line>, room: usize, what: &str) -> Vec<Line> {
    if lines.len() > room && room > 0 {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        let text = format!("… {hidden} more {what}: regentctl status -o json");
        lines.push(Line::toned(Tone::Dim, text));
    }
    lines
}

fn head(federation: &Federation, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let (tone, primary) = primary(federation);
    lines.extend(labelled("PRIMARY", tone, &primary, width));
    if federation.safe {
        lines.extend(labelled("SAFE", Tone::Good, "yes", width));
    } else {
        let reasons = match federation.unsafe_reasons.as_slice() {
            [] => "no".to_owned(),
            reasons => format!("no: {}", reasons.join("; ")),
        };
        let wrapped = labelled("SAFE", Tone::Bad, &reasons, width);
        lines.extend(cut(wrapped, 5, "lines"));
    }
    let loss = match federation.loss_now.as_str() {
        "" => "unknown",
        loss => loss,
    };
    lines.extend(cut(labelled("LOSS NOW", Tone::Plain, loss, width), 3, "lines"));
    lines.push(Line::new());
    lines
}

fn primary(federation: &Federation) -> (Tone, String) {
    if federation.primary_site.is_empty() {
        return (Tone::Bad, without_primary(federation));
    }
    let site = &federation.primary_site;
    let state = match federation.primary_state.as_str() {
        "open" => String::new(),
        state => format!(", {state}"),
    };
    let place = format!("federation {}, epoch {}", federation.name, federation.epoch);
    match &federation.lease {
        Some(lease) if lease.held => {
            let tone = if state.is_empty() { Tone::Strong } else { Tone::Warn };
            (tone, format!("{site}, node {}{state} ({place})", lease.node))
        }
        Some(_) | None => {
            (Tone::Bad, format!("{site}, but no node holds the primary lease{state} ({place})"))
        }
    }
}

/// Three cases that a missing `primary` must not mix up: only in the last one making the federation
/// is what helps.
fn without_primary(federation: &Federation) -> String {
    if federation.unreadable.iter().any(|key| key.ends_with("/primary")) {
        return "unknown: its record cannot be read, so nothing opens and every writer stops at its \
                deadline; runbook a-record-cannot-be-read"
            .to_owned();
    }
    // Nothing of these is there before a federation is made, and nothing removes them.
    if !federation.sites.is_empty() || federation.lease.is_some() {
        return "nobody: its record was removed from the global quorum, so every writer is stopped and \
                nothing opens until it is put back; runbook the-primary-record-is-gone"
            .to_owned();
    }
    format!("none; make federation {}: regentctl topology apply FILE --create", federation.name)
}

fn tail(federation: &Federation, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(operation) = &federation.operation {
        lines.extend(labelled("OPERATION", Tone::Warn, &plan::summary(operation), width));
    }
    let coordinators: Vec<String> = federation
        .coordinators
        .iter()
        .map(|c| if c.elected { format!("{} (elected)", c.name) } else { c.name.clone() })
        .collect();
    let elected = federation.coordinators.iter().any(|c| c.elected);
    let (tone, text) = match (coordinators.is_empty(), elected) {
        (true, _) => (Tone::Bad, "none: no regional operation is possible".to_owned()),
        (false, true) => (Tone::Plain, coordinators.join(", ")),
        (false, false) => (Tone::Warn, format!("{}; none is elected", coordinators.join(", "))),
    };
    lines.extend(labelled("COORDS", tone, &text, width));
    for key in &federation.unreadable {
        lines.extend(labelled("UNREADABLE", Tone::Bad, key, width));
    }
    let of_sites = federation
        .sites
        .iter()
        .flat_map(|site| site.warnings.iter().map(move |text| format!("{}: {text}", site.name)));
    let of_fences = fence::warnings(federation);
    for warning in federation.warnings.iter().cloned().chain(of_sites).chain(of_fences) {
        lines.extend(labelled("WARNING", Tone::Warn, &warning, width));
    }
    lines
}

/// Sites and nodes; without `nodes` only those nodes that are not as they should be.
#[must_use]
pub fn tree(federation: &Federation, nodes: bool) -> Vec<Line> {
    let head = ["SITE / NODE", "ROLE", "STATE", "FROM", "LAG", "TL", "POSITION"];
    let mut rows: Vec<Vec<Cell>> =
        vec![head.iter().map(|text| (Tone::Dim, (*text).to_owned())).collect()];
    for site in &federation.sites {
        rows.push(site_row(site, federation));
        let shown: Vec<&Node> = site.nodes.iter().filter(|node| nodes || !is_well(node)).collect();
        for (i, node) in shown.iter().enumerate() {
            let branch = if i + 1 == shown.len() { "└ " } else { "├ " };
            rows.push(node_row(branch, node, site));
        }
    }
    columns(&rows)
}

fn is_well(node: &Node) -> bool {
    matches!(node.state.as_str(), "running" | "streaming")
}

fn site_row(site: &Site, federation: &Federation) -> Vec<Cell> {
    let name = (Tone::Strong, site.name.clone());
    if site.kind == "witness" {
        return vec![name, (Tone::Dim, "witness".to_owned())];
    }
    let role = match site.role.as_str() {
        "" => (Tone::Warn, "unassigned".to_owned()),
        "primary" => (Tone::Good, "primary".to_owned()),
        "quarantined" | "detached" => (Tone::Bad, site.role.clone()),
        role => cell(role),
    };
    let state = match site.report_age_ms {
        None => (Tone::Bad, "no report".to_owned()),
        Some(old) if old > FRESH_MS => (Tone::Bad, format!("silent {}", age(old))),
        Some(_) => reported(site, federation),
    };
    let from = match (site.streaming_from.as_str(), site.upstream.as_str()) {
        ("", "") => cell("-"),
        ("", upstream) => (Tone::Bad, format!("not {upstream}")),
        (from, upstream) if from == upstream || upstream.is_empty() => cell(from),
        (from, _) => (Tone::Warn, from.to_owned()),
    };
    let mut row = vec![name, role, state, from, lag(site.lag_bytes)];
    row.extend(history(site.timeline, site.position.as_deref()));
    row
}

/// What the site's leader runs as, when that is not what the site is for.
fn reported(site: &Site, federation: &Federation) -> Cell {
    let primary = site.name == federation.primary_site;
    match (site.reported_role.as_str(), primary) {
        ("primary", true) => (Tone::Good, "writable".to_owned()),
        ("standby", false) => cell("following"),
        ("", _) => (Tone::Warn, "unknown".to_owned()),
        ("primary", false) => (Tone::Bad, "WRITABLE".to_owned()),
        ("standby", true) => (Tone::Bad, "read-only".to_owned()),
        (role, _) => (Tone::Bad, role.to_owned()),
    }
}

fn node_row(branch: &str, node: &Node, site: &Site) -> Vec<Cell> {
    let synchronous = site.synchronous_nodes.contains(&node.name);
    let role = match node.role.as_str() {
        "primary" | "master" => (Tone::Good, "primary".to_owned()),
        "standby_leader" => cell("standby leader"),
        "replica" if synchronous => cell("sync standby"),
        other => cell(other.replace('_', " ")),
    };
    let state = if is_well(node) {
        cell(&node.state)
    } else {
        let text = if node.state.is_empty() { "unknown" } else { &node.state };
        (Tone::Bad, text.to_owned())
    };
    // A standby leader's upstream is in another site, which may not be able to say which node.
    let from = match (node.upstream.as_str(), node.role.as_str()) {
        ("", "standby_leader") if !site.streaming_from.is_empty() => &site.streaming_from,
        ("", _) => "-",
        (upstream, _) => upstream,
    };
    let mut row =
        vec![cell(format!("{branch}{}", node.name)), role, state, cell(from), lag(node.lag_bytes)];
    row.extend(history(node.timeline, node.position.as_deref()));
    row
}

fn lag(lag: Option<u64>) -> Cell {
    match lag {
        None => cell("-"),
        Some(0) => cell("0 B"),
        Some(lag) if lag > 16 << 20 => (Tone::Warn, bytes(lag)),
        Some(lag) => cell(bytes(lag)),
    }
}

fn history(timeline: Option<u32>, position: Option<&str>) -> [Cell; 2] {
    let timeline = timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string());
    [cell(timeline), cell(position.unwrap_or("-"))]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use regent_proto::wire::{Coordinator, Operation, OperationStep, PrimaryLease};

    fn node(name: &str, role: &str, upstream: &str) -> Node {
        Node {
            name: name.into(),
            role: role.into(),
            state: if role == "primary" { "running" } else { "streaming" }.into(),
            host: "127.0.0.1".into(),
            port: 5501,
            api_url: String::new(),
            timeline: Some(3),
            position: Some("0/5000148".into()),
            upstream: upstream.into(),
            lag_bytes: if role == "primary" { None } else { Some(0) },
            fence: None,
        }
    }

    fn site(name: &str, role: &str, nodes: Vec<Node>) -> Site {
        let primary = role == "primary";
        Site {
            name: name.into(),
            kind: "data".into(),
            role: role.into(),
            upstream: if primary { "" } else { "eu" }.into(),
            report_age_ms: Some(400),
            reported_role: role.into(),
            timeline: Some(3),
            position: Some("0/5000148".into()),
            lag_bytes: if primary { None } else { Some(0) },
            streaming_from: if primary { "" } else { "eu" }.into(),
            synchronous_mode: true,
            synchronous_nodes: vec![nodes[1].name.clone()],
            leader: nodes[0].name.clone(),
            nodes,
            warnings: vec![],
            seen_epoch: 3,
            voter: true,
        }
    }

    fn coordinator(name: &str, elected: bool) -> Coordinator {
        Coordinator { name: name.into(), elected, ..Coordinator::default() }
    }

    pub(crate) fn healthy() -> Federation {
        let eu = vec![node("eu-1", "primary", ""), node("eu-2", "replica", "eu-1")];
        let us = vec![node("us-1", "standby_leader", "eu-1"), node("us-2", "replica", "us-1")];
        let witness =
            Site { name: "witness".into(), kind: "witness".into(), voter: true, ..Site::default() };
        Federation {
            name: "two-sites".into(),
            epoch: 3,
            primary_site: "eu".into(),
            primary_state: "open".into(),
            lease: Some(PrimaryLease {
                site: "eu".into(),
                node: "eu-1".into(),
                epoch: 3,
                held: true,
                ..PrimaryLease::default()
            }),
            sites: vec![site("eu", "primary", eu), site("us", "standby", us), witness],
            coordinators: vec![
                coordinator("eu-c1", true),
                coordinator("us-c1", false),
                coordinator("witness-c1", false),
            ],
            safe: true,
            loss_now: "nothing: eu-2 confirms every commit before it is acknowledged".into(),
            ..Federation::default()
        }
    }

    fn text(federation: &Federation) -> String {
        let lines = screen(federation, 24, 80);
        assert!(lines.len() < 24, "{} lines", lines.len());
        let text: Vec<String> = lines.iter().map(Line::text).collect();
        for line in &text {
            assert!(line.chars().count() <= 80, "{line}");
        }
        text.join("\n")
    }

    #[test]
    fn a_healthy_federation_on_one_screen() {
        let wanted = "\
PRIMARY    eu, node eu-1 (federation two-sites, epoch 3)
SAFE       yes
LOSS NOW   nothing: eu-2 confirms every commit before it is acknowledged

SITE / NODE  ROLE            STATE      FROM  LAG  TL  POSITION
eu           primary         writable   -     -    3   0/5000148
├ eu-1       primary         running    -     -    3   0/5000148
└ eu-2       sync standby    streaming  eu-1  0 B  3   0/5000148
us           standby         following  eu    0 B  3   0/5000148
├ us-1       standby leader  streaming  eu-1  0 B  3   0/5000148
└ us-2       sync standby    streaming  us-1  0 B  3   0/5000148
witness      witness

COORDS     eu-c1 (elected), us-c1, witness-c1";
        assert_eq!(text(&healthy()), wanted);
    }

    #[test]
    fn an_ill_federation_says_what_is_wrong_where() {
        let mut ill = healthy();
        ill.safe = false;
        ill.unsafe_reasons = vec![
            "site us has not reported for 34 s: if eu is lost now, nobody may take over".into(),
            "eu has no synchronous standby".into(),
        ];
        ill.loss_now = "at least 12.0 MB: what us had not received 34 s ago".into();
        ill.sites[0].nodes[1].state = "creating replica".into();
        ill.sites[0].synchronous_nodes.clear();
        ill.sites[1].report_age_ms = Some(34_000);
        ill.sites[1].streaming_from = String::new();
        ill.sites[1].lag_bytes = Some(12 << 20);
        ill.coordinators = vec![coordinator("eu-c1", false)];
        ill.unreadable = vec!["/regent/two-sites/sites/us/assignment".into()];
        let wanted = "\
PRIMARY    eu, node eu-1 (federation two-sites, epoch 3)
SAFE       no: site us has not reported for 34 s: if eu is lost now, nobody may
           take over; eu has no synchronous standby
LOSS NOW   at least 12.0 MB: what us had not received 34 s ago

SITE / NODE  ROLE            STATE             FROM    LAG      TL  POSITION
eu           primary         writable          -       -        3   0/5000148
├ eu-1       primary         running           -       -        3   0/5000148
└ eu-2       replica         creating replica  eu-1    0 B      3   0/5000148
us           standby         silent 34 s       not eu  12.0 MB  3   0/5000148
├ us-1       standby leader  streaming         eu-1    0 B      3   0/5000148
└ us-2       sync standby    streaming         us-1    0 B      3   0/5000148
witness      witness

COORDS     eu-c1; none is elected
UNREADABLE /regent/two-sites/sites/us/assignment";
        assert_eq!(text(&ill), wanted);
    }

    #[test]
    fn a_switchover_under_way_and_nobody_writing() {
        let mut busy = healthy();
        busy.primary_state = "handover".into();
        busy.lease.as_mut().expect("a lease").held = false;
        busy.operation = Some(Operation {
            id: "sw-1".into(),
            kind: "switchover".into(),
            from: "eu".into(),
            to: "us".into(),
            outcome: "running".into(),
            steps: vec![OperationStep {
                name: "handover".into(),
                entered_at_ms: 5,
                note: "waits for eu's token".into(),
            }],
            ..Operation::default()
        });
        let text = text(&busy);
        assert!(
            text.starts_with("PRIMARY    eu, but no node holds the primary lease, handover"),
            "{text}"
        );
        assert!(
            text.contains("OPERATION  switchover eu → us (sw-1): handover, waits for eu's token"),
            "{text}"
        );
    }

    #[test]
    fn before_creation_the_next_command_is_shown() {
        let empty = Federation { name: "f".into(), ..Federation::default() };
        let text = text(&empty);
        assert!(text.contains("regentctl topology apply FILE --create"), "{text}");
        assert!(text.contains("LOSS NOW   unknown"), "{text}");
    }

    #[test]
    fn a_removed_primary_is_not_a_federation_to_be_made() {
        let removed = Federation {
            epoch: 0,
            primary_site: String::new(),
            primary_state: String::new(),
            safe: false,
            ..healthy()
        };
        let wanted = "\
PRIMARY    nobody: its record was removed from the global quorum, so every
           writer is stopped and nothing opens until it is put back; runbook
           the-primary-record-is-gone
";
        assert!(text(&removed).starts_with(wanted), "{}", text(&removed));
        assert!(!text(&removed).contains("--create"), "{}", text(&removed));
        // The topology was removed with it: the lease still tells that there was a federation.
        let both = Federation { sites: vec![], ..removed };
        assert!(text(&both).starts_with(wanted), "{}", text(&both));
    }

    #[test]
    fn a_primary_that_cannot_be_read_is_neither_removed_nor_absent() {
        let unreadable = Federation {
            primary_site: String::new(),
            unreadable: vec!["/regent/two-sites/primary".into()],
            ..healthy()
        };
        let text = text(&unreadable);
        assert!(text.starts_with("PRIMARY    unknown: its record cannot be read"), "{text}");
        assert!(text.contains("runbook a-record-cannot-be-read"), "{text}");
    }

    #[test]
    fn a_large_federation_keeps_the_answers_and_the_sick() {
        let mut large = healthy();
        let mut us = large.sites[1].clone();
        us.nodes[1].state = "stopped".into();
        for i in 0..9 {
            us.name = format!("s{i}");
            us.warnings = vec!["the clock of its leader is 4 s off".into()];
            large.sites.push(us.clone());
        }
        let text = text(&large);
        assert!(text.starts_with("PRIMARY    eu"), "{text}");
        assert!(text.contains("stopped"), "{text}");
        assert!(text.contains("more sites: regentctl status -o json"), "{text}");
    }
}
