//! *prepare*: B makes its slots, A and B checkpoint, the lag falls. Nothing is interrupted.
//!
//! Ends with the handover, or, when asked to or overdue, with a cancel that leaves no trace but
//! its record. Nothing is held here (rule 9).

use regent_proto::keys::GlobalKey;
use regent_proto::record::{Outcome, ReportedRole, SwitchoverStep, Verdict};
use regent_proto::transactions;

use super::super::assignments;
use super::super::plan::lag_bytes;
use super::super::reason::{Missing, listed};
use super::super::tree;
use super::super::view::Freshness;
use super::super::write::Purpose;
use super::{Advance, Machine, follow};

impl Machine<'_> {
    pub(super) fn prepare(&self) -> Advance {
        let at = self.view().wall;
        if self.operation().cancel_requested {
            let note = self.operation().steps.last().map(|step| step.note.clone());
            let reason = note.unwrap_or_else(|| "asked for".to_owned());
            return self.end(Outcome::Cancelled { at, reason }, "cancelled before the handover");
        }
        if let Some(reason) = self.target_gone() {
            return self.end(Outcome::Cancelled { at, reason }, "cancelled before the handover");
        }
        let missing = self.not_ready();
        if missing.is_empty() {
            return self.hand_over();
        }
        let due = self.due_at(self.federation.topology().policy.prepare_timeout.0);
        if self.view().now < due {
            return self.wait_noted(SwitchoverStep::Prepare, missing).wake_at(due);
        }
        let reason = format!("not ready in time: still waited for {}", listed(&missing));
        self.end(Outcome::Cancelled { at, reason }, "cancelled before the handover")
    }

    fn target_gone(&self) -> Option<String> {
        let to = self.to();
        if !self.federation.topology().data_sites().any(|site| site.name == *to) {
            return Some(format!("{to} is no data site of the topology any more"));
        }
        if !self.federation.primary.value.electorate.contains(to) {
            return Some(format!("{to} is not in the electorate any more"));
        }
        None
    }

    fn hand_over(&self) -> Advance {
        let primary = self.federation.primary;
        let span = self.federation.topology().policy.handover_span.0;
        let (to, operation) = (self.to().clone(), self.operation().id.clone());
        let read = self.view().read(primary);
        let handover = match transactions::handover(&read, to, operation, span) {
            Ok(handover) => handover,
            Err(no_edge) => {
                let problem = no_edge.to_string();
                return self.wait(SwitchoverStep::Prepare, vec![Missing::Elsewhere { problem }]);
            }
        };
        let note = format!("{} stops and posts its token", self.from());
        let write = self
            .base(Purpose::Handover)
            .comparing(self.view(), GlobalKey::Topology)
            .with(handover)
            .put(self.view(), self.record(SwitchoverStep::Handover, &note, None));
        self.write(SwitchoverStep::Handover, write)
    }

    /// What stands between here and the handover.
    fn not_ready(&self) -> Vec<Missing> {
        let federation = self.federation;
        let primary = &federation.primary.value;
        let mut missing = Vec::new();
        if primary.writes_fenced.is_some() {
            missing.push(Missing::WritesFenced);
        }
        let opened = self.view().lease.read().is_some_and(|lease| {
            let lease = &lease.value;
            lease.site == *self.from() && lease.epoch == primary.epoch && !lease.released
        });
        if !opened {
            missing.push(Missing::HolderNotOpen { site: self.from().clone() });
        }
        if !assignments::changed(federation).is_empty() {
            missing.push(Missing::Assignments);
        }
        for site in federation.topology().data_sites().map(|site| &site.name) {
            let seen = self.view().report(site).map(|seen| seen.value.epoch);
            let taking_part = site == self.from() || site == self.to();
            if seen.is_some_and(|s| s > primary.epoch || (taking_part && s != primary.epoch)) {
                missing.push(Missing::Epoch { site: site.clone() });
            }
        }
        for (site, role) in
            [(self.from(), ReportedRole::Primary), (self.to(), ReportedRole::Standby)]
        {
            if federation.freshness(site) == Freshness::Fresh {
                self.not_ready_in(site, role, &mut missing);
            } else {
                missing.push(Missing::Report { site: site.clone() });
            }
        }
        self.target_not_ready(&mut missing);
        missing
    }

    fn not_ready_in(
        &self,
        site: &regent_proto::name::SiteName,
        role: ReportedRole,
        missing: &mut Vec<Missing>,
    ) {
        let Some(report) = self.view().report(site).map(|seen| &seen.value) else { return };
        missing.extend(follow::wrong_role(site, report, role));
        let generation = self.view().assignment(site).map(|seen| seen.value.generation);
        if generation.is_none_or(|wanted| report.generation < wanted) {
            missing.push(Missing::Seen { site: site.clone() });
        }
        if report.checkpointed_for.as_ref() != Some(&self.operation().id) {
            missing.push(Missing::Checkpoint { site: site.clone() });
        }
    }

    fn target_not_ready(&self, missing: &mut Vec<Missing>) {
        let (federation, to) = (self.federation, self.to());
        let Some(report) = self.view().report(to).map(|seen| &seen.value) else { return };
        let future = assignments::future_tree(federation, to);
        let children = tree::children(&future, to);
        let nodes = federation.topology().sites.iter().filter(|s| children.contains(&s.name));
        let slots: Vec<String> = nodes
            .flat_map(|site| &site.nodes)
            .map(|node| node.name.slot())
            .filter(|slot| !report.slots.contains(slot))
            .collect();
        if !slots.is_empty() {
            missing.push(Missing::Slots { site: to.clone(), slots });
        }
        let limit_bytes = federation.topology().policy.switchover_max_lag.0;
        let bytes = lag_bytes(self.view(), self.from(), to);
        if bytes.is_none_or(|bytes| bytes > limit_bytes) {
            missing.push(Missing::Lag { site: to.clone(), bytes, limit_bytes });
        }
        // What the plan found good must still be so; what it warned of was accepted.
        let promised = self
            .operation()
            .plan
            .checks
            .iter()
            .any(|check| check.name == "synchronous-standby" && check.verdict == Verdict::Pass);
        let wanted = federation.topology().site(to).is_some_and(|site| site.synchronous);
        if promised && wanted && report.synchronous_nodes.is_empty() {
            missing.push(Missing::SynchronousStandby { site: to.clone() });
        }
    }
}
