//! `regentctl topology validate|apply|show`.

use std::path::Path;

use regent_proto::wire::{ApplyTopologyRequest, GetFederationRequest};
use serde_json::json;

use crate::cli::{Global, TopologyVerb};
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit};
use crate::render::Output;
use crate::topology::read;
use crate::verbs::operation::requested_by;

/// Checks a file without asking anybody.
pub fn validate(file: &Path, output: &Output) -> Ending {
    let (_, topology, findings) = read(file)?;
    let warnings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    output.json(&json!({ "federation": topology.federation, "warnings": warnings }));
    for warning in &warnings {
        output.progress(format!("warning: {warning}"));
    }
    let nodes: usize = topology.sites.iter().map(|site| site.nodes.len()).sum();
    output.say(format!(
        "{} is valid: federation {}, {} sites, {nodes} nodes, {} voters",
        file.display(),
        topology.federation,
        topology.sites.len(),
        topology.quorum.voters.len()
    ));
    Ok(Exit::Done)
}

/// Runs a verb of `topology` that asks a coordinator.
pub async fn run(verb: TopologyVerb, global: &Global, output: &Output) -> Ending {
    match verb {
        TopologyVerb::Validate { file } => validate(&file, output),
        TopologyVerb::Apply { file, dry_run, create } => {
            let request = ApplyTopologyRequest { dry_run, create, ..Default::default() };
            apply(&file, request, global, output).await
        }
        TopologyVerb::Show => show(global, output).await,
    }
}

async fn apply(
    file: &Path,
    mut request: ApplyTopologyRequest,
    global: &Global,
    output: &Output,
) -> Ending {
    // Checked here first: a bad file is a usage error, whether or not a coordinator answers.
    request.yaml = read(file)?.0;
    request.requested_by = requested_by();
    let coordinators = Coordinators::from_options(global)?;
    let answer = coordinators
        .write("apply the topology", |mut client: Client| {
            let request = request.clone();
            async move { client.apply_topology(request).await }
        })
        .await?;
    output.json(&json!({
        "changes": answer.changes, "warnings": answer.warnings, "applied": answer.applied,
    }));
    for warning in &answer.warnings {
        output.progress(format!("warning: {warning}"));
    }
    for change in &answer.changes {
        output.say(format!("  {change}"));
    }
    output.say(match (answer.changes.is_empty(), answer.applied) {
        (true, _) => "nothing to change",
        (false, true) => "applied",
        (false, false) => "dry run: nothing was changed",
    });
    Ok(Exit::Done)
}

async fn show(global: &Global, output: &Output) -> Ending {
    let coordinators = Coordinators::from_options(global)?;
    let request = GetFederationRequest { federation: coordinators.name() };
    let topology = coordinators
        .read("read the topology", |mut client: Client| {
            let request = request.clone();
            async move { client.get_topology(request).await }
        })
        .await?;
    if output.is_json() {
        output.json(&json!({ "yaml": topology.yaml, "revision": topology.revision }));
    } else {
        output.raw(&topology.yaml);
    }
    Ok(Exit::Done)
}
