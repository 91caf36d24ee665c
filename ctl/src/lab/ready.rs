//! Creating the lab's federation and waiting until all of it works.

use std::time::Duration;

use regent_proto::topology::{SiteKind, Topology};
use regent_proto::wire;

use crate::clock;
use crate::coordinators::Client;
use crate::exit::{Exit, Failure};

use super::control::ProcessState;
use super::{Lab, process};

/// A base backup of an empty database takes about a second; a busy machine needs more.
const READY: Duration = Duration::from_secs(120);
/// Coordinators must answer and have their quorum.
const CREATE: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A report older than this says nothing.
const FRESH_MS: u64 = 10_000;

/// Makes the federation, as `regentctl topology apply --create` would.
pub async fn create(
    lab: &Lab,
    topology_text: &str,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Failure> {
    progress("creating the federation");
    let coordinators = lab.coordinators();
    let request = wire::ApplyTopologyRequest {
        yaml: topology_text.to_owned(),
        dry_run: false,
        create: true,
        requested_by: "regentctl lab".to_owned(),
    };
    let begun = clock::now();
    let mut said = false;
    loop {
        let applied = coordinators
            .write("create the federation", |mut client: Client| {
                let request = request.clone();
                async move { client.apply_topology(request).await }
            })
            .await;
        let Err(problem) = applied else { return Ok(()) };
        // Nobody else creates federations in this lab: "exists" means that an answer was lost.
        if problem.exit != Exit::Unknown {
            let made = coordinators.federation().await;
            return if made.is_ok_and(|f| !f.primary_site.is_empty()) {
                Ok(())
            } else {
                Err(problem)
            };
        }
        if let Some(ended) = ended(&lab.processes().await?) {
            return Err(with_log(lab, &ended.name, &explain_end(ended)));
        }
        if !said && begun.elapsed() > Duration::from_secs(1) {
            progress("waiting: no coordinator answers yet");
            said = true;
        }
        if begun.elapsed() > CREATE {
            let first = lab.layout.coordinators.first().map(|place| place.process());
            let log = first.unwrap_or_default();
            return Err(with_log(lab, &log, &format!("after {CREATE:?}: {}", problem.message)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until every node runs and streams.
pub async fn wait(lab: &Lab, progress: &mut (dyn FnMut(&str) + Send)) -> Result<(), Failure> {
    let coordinators = lab.coordinators();
    let begun = clock::now();
    let mut said = String::new();
    loop {
        let missing = match coordinators.federation().await {
            Ok(federation) => missing(lab.topology(), &federation),
            Err(problem) => vec![Missing { node: None, what: problem.message }],
        };
        let Some(first) = missing.first() else {
            progress(&format!("ready after {:.1} s", begun.elapsed().as_secs_f64()));
            return Ok(());
        };
        if let Some(ended) = ended(&lab.processes().await?) {
            return Err(with_log(lab, &ended.name, &explain_end(ended)));
        }
        let text = missing.iter().map(|m| m.what.as_str()).collect::<Vec<_>>().join("; ");
        if begun.elapsed() > READY {
            let log = match &first.node {
                Some(node) => format!("agent-{node}"),
                None => lab.layout.coordinators.first().map(|p| p.process()).unwrap_or_default(),
            };
            return Err(with_log(lab, &log, &format!("not ready after {READY:?}: {text}")));
        }
        if text != said {
            progress(&format!("waiting: {text}"));
            said = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A process that ended by itself: nothing in a lab may.
fn ended(processes: &[ProcessState]) -> Option<&ProcessState> {
    processes.iter().find(|process| process.pid.is_none() && !process.killed)
}

fn explain_end(process: &ProcessState) -> String {
    format!("{} ended ({})", process.name, process.ended.as_deref().unwrap_or("not started"))
}

fn with_log(lab: &Lab, process_name: &str, problem: &str) -> Failure {
    let log = lab.layout.log(process_name);
    let tail = process::tail(&log, 8);
    let shown = if tail.is_empty() { "(empty)".to_owned() } else { tail };
    Failure::error(format!("start the lab: {problem}\nthe end of {process_name}'s log:\n{shown}"))
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The node, where it is one's fault.
    pub node: Option<String>,
    /// In words.
    pub what: String,
}

/// What a federation still lacks to be ready; empty when it works as the topology wants.
#[must_use]
pub fn missing(topology: &Topology, federation: &wire::Federation) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut lacks = |node: Option<&str>, what: String| {
        missing.push(Missing { node: node.map(str::to_owned), what });
    };
    if federation.primary_state != "open" {
        lacks(None, format!("primary is {:?}", federation.primary_state));
    }
    for site in topology.sites.iter().filter(|site| site.kind == SiteKind::Data) {
        let name = site.name.as_str();
        let Some(seen) = federation.sites.iter().find(|seen| seen.name == name) else {
            lacks(None, format!("site {name} is not in the federation"));
            continue;
        };
        let primary = federation.primary_site == name;
        let first = site.nodes.first().map(|node| node.name.as_str());
        let leader = Some(seen.leader.as_str()).filter(|leader| !leader.is_empty()).or(first);
        if seen.report_age_ms.is_none_or(|age| age > FRESH_MS) {
            lacks(first, format!("site {name} does not report"));
            continue;
        }
        let wanted = if primary { "primary" } else { "standby" };
        if seen.reported_role != wanted {
            lacks(leader, format!("site {name} is {}", or(&seen.reported_role, "unknown")));
        }
        if !primary && seen.streaming_from.is_empty() {
            lacks(leader, format!("site {name} does not stream"));
        }
        if primary && site.synchronous && site.nodes.len() > 1 && seen.synchronous_nodes.is_empty()
        {
            lacks(leader, format!("site {name} has no synchronous standby"));
        }
        for node in &site.nodes {
            let node = node.name.as_str();
            match seen.nodes.iter().find(|seen| seen.name == node) {
                None => lacks(Some(node), format!("{node} is not there")),
                Some(seen) if is_ready(seen) => {}
                Some(seen) => {
                    lacks(Some(node), format!("{node} is {}", or(&seen.state, "unknown")))
                }
            }
        }
    }
    missing
}

fn is_ready(node: &wire::Node) -> bool {
    match node.role.as_str() {
        "primary" | "master" => node.state == "running",
        _ => node.state == "streaming",
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::healthy;

    fn topology() -> Topology {
        let text = include_str!("../../../topologies/two-sites-and-witness.yaml");
        Topology::parse(text).expect("the shipped topology is valid").0
    }

    #[test]
    fn a_healthy_federation_lacks_nothing() {
        assert_eq!(missing(&topology(), &healthy()), []);
    }

    #[test]
    fn what_is_missing_is_named_with_its_node() {
        let mut federation = healthy();
        federation.sites[0].nodes[1].state = "creating replica".into();
        federation.sites[1].report_age_ms = None;
        let texts: Vec<String> =
            missing(&topology(), &federation).into_iter().map(|m| m.what).collect();
        assert_eq!(texts, ["eu-2 is creating replica", "site us does not report"]);
    }

    #[test]
    fn a_process_that_was_not_asked_to_end_is_noticed() {
        let state = |pid, killed| ProcessState { name: "x".into(), pid, ended: None, killed };
        assert!(ended(&[state(Some(3), false), state(None, true)]).is_none());
        assert!(ended(&[state(None, false)]).is_some());
    }
}
