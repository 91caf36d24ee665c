//! Views and records as the API's messages. Only translation: what is safe and what would be lost
//! is judged in [`crate::decide::picture`].

use regent_proto::name::SiteName;
use regent_proto::record::{
    Operation, OperationKind, Outcome, Plan, Report, ReportedNode, ReportedRole, TopologyRecord,
    Verdict,
};
use regent_proto::time::BootTime;
use regent_proto::topology::{Site, SiteKind};
use regent_proto::wire as pb;

use crate::decide::Policy;
use crate::decide::picture::{self, Safety};
use crate::decide::view::View;

fn millis(from: BootTime, to: BootTime) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

fn text(name: Option<impl ToString>) -> String {
    name.map_or_else(String::new, |name| name.to_string())
}

/// One picture of a federation.
#[must_use]
pub fn federation(policy: &Policy, view: &View) -> pb::Federation {
    let Safety { safe, unsafe_reasons, loss_now, warnings } = picture::safety(policy, view);
    let primary = view.primary.read().map(|seen| &seen.value);
    let topology = view.topology.read().map(|seen| &seen.value);
    let running = view.running.read().and_then(|seen| seen.value.id.as_ref());
    pb::Federation {
        name: view.federation.to_string(),
        uuid: text(primary.map(|p| p.federation)),
        epoch: primary.map_or(0, |p| p.epoch.get()),
        primary_site: text(primary.map(|p| &p.holder)),
        primary_state: text(primary.map(|p| p.state.name())),
        lease: lease(view),
        sites: topology.map_or_else(Vec::new, |record| sites(view, record)),
        coordinators: coordinators(view),
        operation: running.and_then(|id| view.operation(id)).map(|seen| operation(&seen.value)),
        safe,
        unsafe_reasons,
        loss_now,
        warnings,
        revision: view.revision.0,
        system_identifier: primary
            .and_then(|p| p.system_identifier)
            .map(|identifier| identifier.to_string()),
        unreadable: view.unreadable().iter().map(|bad| bad.key.clone()).collect(),
    }
}

fn lease(view: &View) -> Option<pb::PrimaryLease> {
    let seen = view.lease.read()?;
    let lease = &seen.value;
    Some(pb::PrimaryLease {
        site: lease.site.to_string(),
        node: lease.node.to_string(),
        epoch: lease.epoch.get(),
        counter: lease.counter,
        released: lease.released,
        ttl_ms: u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX),
        unchanged_ms: millis(seen.since, view.now),
        held: picture::lease_held(view, seen),
    })
}

fn coordinators(view: &View) -> Vec<pb::Coordinator> {
    let elected = picture::elected(view);
    let members = view.coordinators.values().filter_map(|slot| slot.read());
    members
        .map(|seen| pb::Coordinator {
            name: seen.value.name.to_string(),
            site: seen.value.site.to_string(),
            address: seen.value.address.clone(),
            elected: elected == Some(&seen.value.name),
            insecure: seen.value.insecure,
            software: seen.value.software.clone(),
        })
        .collect()
}

fn sites(view: &View, record: &TopologyRecord) -> Vec<pb::Site> {
    let voters = &record.topology.quorum.voters;
    record
        .topology
        .sites
        .iter()
        .map(|site| pb::Site { voter: voters.contains(&site.name), ..one_site(view, site) })
        .collect()
}

fn one_site(view: &View, site: &Site) -> pb::Site {
    let name = &site.name;
    let kind = match site.kind {
        SiteKind::Data => "data",
        SiteKind::Witness => "witness",
    };
    let assignment = view.assignment(name).map(|seen| &seen.value);
    let seen = view.report(name);
    let report = seen.map(|seen| &seen.value);
    let reported_role = report.map(|report| match report.role {
        ReportedRole::Down => "down",
        ReportedRole::Standby => "standby",
        ReportedRole::Primary => "primary",
    });
    pb::Site {
        name: name.to_string(),
        kind: kind.to_owned(),
        role: text(assignment.map(|assignment| assignment.role)),
        upstream: text(assignment.and_then(|assignment| assignment.upstream.as_ref())),
        report_age_ms: seen.map(|seen| millis(seen.since, view.now)),
        reported_role: text(reported_role),
        timeline: report.and_then(|r| r.ancestry.as_ref()).map(|ancestry| ancestry.timeline.0),
        position: report.and_then(|r| r.position).map(|position| position.to_string()),
        lag_bytes: report.and_then(|report| lag(view, name, report)),
        streaming_from: text(report.and_then(|report| report.streaming_from.as_ref())),
        synchronous_mode: report.is_some_and(|report| report.synchronous_mode),
        synchronous_nodes: report
            .map(|r| r.synchronous_nodes.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        nodes: report.map_or_else(|| silent_nodes(site), |report| reported_nodes(site, report)),
        warnings: report.map(|report| report.warnings.clone()).unwrap_or_default(),
        seen_epoch: report.map_or(0, |report| report.epoch.get()),
        leader: text(report.map(|report| &report.node)),
        voter: false,
    }
}

/// How far a standby site is behind the primary site.
fn lag(view: &View, site: &SiteName, report: &Report) -> Option<u64> {
    match report.role {
        ReportedRole::Primary | ReportedRole::Down => None,
        ReportedRole::Standby => {
            let holder = &view.primary.read()?.value.holder;
            crate::decide::plan::lag_bytes(view, holder, site).or(report.lag_bytes)
        }
    }
}

/// The nodes that the topology names, of which nothing is known.
fn silent_nodes(site: &Site) -> Vec<pb::Node> {
    let nodes = site.nodes.iter();
    nodes.map(|node| pb::Node { name: node.name.to_string(), ..pb::Node::default() }).collect()
}

/// What the site's leader tells of its nodes, and by name those of the topology that it sees nothing of.
fn reported_nodes(site: &Site, report: &Report) -> Vec<pb::Node> {
    let node = |node: &ReportedNode| pb::Node {
        name: node.name.to_string(),
        role: node.role.clone(),
        state: node.state.clone(),
        host: node.host.clone(),
        port: node.port.into(),
        api_url: node.api_url.clone(),
        timeline: node.timeline.map(|timeline| timeline.0),
        position: node.position.map(|position| position.to_string()),
        upstream: text(node.upstream.as_ref()),
        lag_bytes: report.position.zip(node.position).map(|(leader, own)| leader.bytes_since(own)),
        fence: node.fence.as_ref().map(pb::Fence::from),
    };
    let told =
        |silent: &pb::Node| report.nodes.iter().any(|node| node.name.as_str() == silent.name);
    let silent = silent_nodes(site).into_iter().filter(|silent| !told(silent));
    report.nodes.iter().map(node).chain(silent).collect()
}

/// `from` and `to`: what moves no primacy has its site as `from`, and no `to`.
fn sites_of(kind: &OperationKind) -> (String, String) {
    match kind {
        OperationKind::Switchover { from, to } | OperationKind::Promotion { from, to, .. } => {
            (from.to_string(), to.to_string())
        }
        OperationKind::Fence { site } | OperationKind::Unfence { site } => {
            (site.to_string(), String::new())
        }
    }
}

/// A plan.
#[must_use]
pub fn plan(plan: &Plan, hash: &str) -> pb::Plan {
    let (from, to) = sites_of(&plan.kind);
    let checks = plan.checks.iter().map(|check| pb::Check {
        name: check.name.clone(),
        verdict: match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Block => "block",
        }
        .to_owned(),
        saw: check.saw.clone(),
        wanted: check.wanted.clone(),
        next: check.next.clone(),
    });
    pb::Plan {
        kind: plan.kind.name().to_owned(),
        from,
        to,
        epoch: plan.epoch.get(),
        checks: checks.collect(),
        steps: plan.steps.clone(),
        hash: hash.to_owned(),
        blocked: plan.blocked(),
    }
}

/// An operation.
#[must_use]
pub fn operation(operation: &Operation) -> pb::Operation {
    let (from, to) = sites_of(&operation.kind);
    let (ended_at_ms, outcome_reason) = match &operation.outcome {
        None => (None, String::new()),
        Some(Outcome::Succeeded { at }) => {
            let note = operation.steps.last().map(|step| step.note.clone());
            (Some(at.0), note.unwrap_or_default())
        }
        Some(Outcome::RolledBack { at, reason } | Outcome::Cancelled { at, reason }) => {
            (Some(at.0), reason.clone())
        }
        Some(Outcome::Superseded { at, by }) => (Some(at.0), format!("by operation {by}")),
    };
    let steps = operation.steps.iter().map(|step| pb::OperationStep {
        name: step.step.name().to_owned(),
        entered_at_ms: step.entered_at.0,
        note: step.note.clone(),
    });
    pb::Operation {
        id: operation.id.to_string(),
        kind: operation.kind.name().to_owned(),
        from,
        to,
        requested_by: operation.requested_by.clone(),
        reason: operation.reason.clone(),
        requested_at_ms: operation.requested_at.0,
        plan: Some(plan(&operation.plan, &operation.plan_hash)),
        steps: steps.collect(),
        outcome: picture::outcome_name(operation.outcome.as_ref()).to_owned(),
        outcome_reason,
        ended_at_ms,
        outage_ms: operation.outage_ms,
        cancel_requested: operation.cancel_requested,
        epoch: operation.epoch.get(),
    }
}
