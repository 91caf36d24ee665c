//! The gRPC messages as JSON, for `-o json`: the names of the fields are those of
//! `wire/regent.proto`.

use regent_proto::wire::{
    Check, Coordinator, Federation, Fence, Node, Operation, OperationStep, Plan, PrimaryLease, Site,
};
use serde_json::{Value, json};

/// A federation.
#[must_use]
pub fn federation(f: &Federation) -> Value {
    json!({
        "name": f.name,
        "uuid": f.uuid,
        "epoch": f.epoch,
        "primary_site": f.primary_site,
        "primary_state": f.primary_state,
        "lease": f.lease.as_ref().map(lease),
        "sites": f.sites.iter().map(site).collect::<Vec<_>>(),
        "coordinators": f.coordinators.iter().map(coordinator).collect::<Vec<_>>(),
        "operation": f.operation.as_ref().map(operation),
        "safe": f.safe,
        "unsafe_reasons": f.unsafe_reasons,
        "loss_now": f.loss_now,
        "warnings": f.warnings,
        "revision": f.revision,
        "system_identifier": f.system_identifier,
        "unreadable": f.unreadable,
    })
}

fn lease(l: &PrimaryLease) -> Value {
    json!({
        "site": l.site, "node": l.node, "epoch": l.epoch, "counter": l.counter,
        "released": l.released, "ttl_ms": l.ttl_ms, "unchanged_ms": l.unchanged_ms, "held": l.held,
    })
}

fn site(s: &Site) -> Value {
    json!({
        "name": s.name,
        "kind": s.kind,
        "role": s.role,
        "upstream": s.upstream,
        "report_age_ms": s.report_age_ms,
        "reported_role": s.reported_role,
        "timeline": s.timeline,
        "position": s.position,
        "lag_bytes": s.lag_bytes,
        "streaming_from": s.streaming_from,
        "synchronous_mode": s.synchronous_mode,
        "synchronous_nodes": s.synchronous_nodes,
        "nodes": s.nodes.iter().map(node).collect::<Vec<_>>(),
        "warnings": s.warnings,
        "seen_epoch": s.seen_epoch,
        "leader": s.leader,
        "voter": s.voter,
    })
}

fn node(n: &Node) -> Value {
    json!({
        "name": n.name, "role": n.role, "state": n.state, "host": n.host, "port": n.port,
        "api_url": n.api_url, "timeline": n.timeline, "position": n.position,
        "upstream": n.upstream, "lag_bytes": n.lag_bytes, "fence": n.fence.as_ref().map(fence),
    })
}

fn fence(f: &Fence) -> Value {
    json!({
        "deadline_left_ms": f.deadline_left_ms, "site_round_trip_ms": f.site_round_trip_ms,
        "primary_round_trip_ms": f.primary_round_trip_ms, "worst_stop_ms": f.worst_stop_ms,
        "stop_budget_ms": f.stop_budget_ms, "worst_kill_ms": f.worst_kill_ms,
        "kill_budget_ms": f.kill_budget_ms, "guardian": f.guardian,
        "worst_wake_ms": f.worst_wake_ms, "watchdog": f.watchdog, "frozen": f.frozen,
        "suspended": f.suspended, "thin": f.thin,
        "guardian_lacks": f.guardian_lacks,
    })
}

fn coordinator(c: &Coordinator) -> Value {
    json!({
        "name": c.name, "site": c.site, "address": c.address, "elected": c.elected,
        "insecure": c.insecure, "software": c.software,
    })
}

/// A plan.
#[must_use]
pub fn plan(p: &Plan) -> Value {
    json!({
        "kind": p.kind, "from": p.from, "to": p.to, "epoch": p.epoch,
        "checks": p.checks.iter().map(check).collect::<Vec<_>>(),
        "steps": p.steps, "hash": p.hash, "blocked": p.blocked,
    })
}

fn check(c: &Check) -> Value {
    json!({
        "name": c.name, "verdict": c.verdict, "saw": c.saw, "wanted": c.wanted, "next": c.next,
    })
}

/// An operation.
#[must_use]
pub fn operation(o: &Operation) -> Value {
    json!({
        "id": o.id,
        "kind": o.kind,
        "from": o.from,
        "to": o.to,
        "requested_by": o.requested_by,
        "reason": o.reason,
        "requested_at_ms": o.requested_at_ms,
        "plan": o.plan.as_ref().map(plan),
        "steps": o.steps.iter().map(step).collect::<Vec<_>>(),
        "outcome": o.outcome,
        "outcome_reason": o.outcome_reason,
        "ended_at_ms": o.ended_at_ms,
        "outage_ms": o.outage_ms,
        "cancel_requested": o.cancel_requested,
        "epoch": o.epoch,
    })
}

fn step(s: &OperationStep) -> Value {
    json!({ "name": s.name, "entered_at_ms": s.entered_at_ms, "note": s.note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_what_a_script_asks_for() {
        let json = federation(&crate::status::tests::healthy());
        assert_eq!(json["primary_site"], "eu");
        assert_eq!(json["sites"][1]["nodes"][0]["role"], "standby_leader");
        assert_eq!(json["lease"]["held"], true);
        assert_eq!(json["operation"], Value::Null);
    }
}
