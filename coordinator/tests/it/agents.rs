//! The agents' part, played: each site's leader does the next thing that the records ask of it,
//! with the compares of protocol.md section 2.

use std::collections::BTreeMap;

use regent_coordinator::decide::view::View;
use regent_dcs::{Change, Compare, Revision, Txn};
use regent_proto::Lsn;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, OperationId, SiteName, SystemIdentifier};
use regent_proto::record::{
    Assignment, EpochHistory, Lease, Primary, PrimaryState, Reach, Record as _, Report,
    ReportedNode, ReportedObjects, ReportedPromise, ReportedRole, SiteRole, Token, Unknown,
    VERSION,
};
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, HistoryPoint, Switch, TimelineId};
use regent_proto::topology::Site;

/// Who acts, and how far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conduct {
    /// Sites whose leader does nothing at all.
    pub(crate) dead: &'static [&'static str],
    /// Checkpoints are done.
    pub(crate) checkpoints: bool,
    /// The holder acts on a handover.
    pub(crate) stops: bool,
    /// The target acts on a token, or on a fence for it.
    pub(crate) takes: bool,
}

pub(crate) const ALL_LIVE: Conduct =
    Conduct { dead: &[], checkpoints: true, stops: true, takes: true };

/// The next transaction of some agent, if anybody has something to do.
pub(crate) fn deed(view: &View, conduct: &Conduct) -> Option<Txn> {
    let primary = &view.primary.read()?.value;
    let keys = GlobalKeys::new(&view.federation);
    let topology = &view.topology.read()?.value.topology;
    for site in topology.data_sites() {
        if conduct.dead.contains(&site.name.as_str()) {
            continue;
        }
        let agent = Agent { view, keys: &keys, primary, site };
        if let Some(txn) = agent.primacy(conduct).or_else(|| agent.report(conduct)) {
            return Some(txn);
        }
    }
    None
}

struct Agent<'a> {
    view: &'a View,
    keys: &'a GlobalKeys,
    primary: &'a Primary,
    site: &'a Site,
}

impl Agent<'_> {
    fn name(&self) -> &SiteName {
        &self.site.name
    }

    fn node(&self) -> NodeName {
        self.site.nodes[0].name.clone()
    }

    fn holds(&self) -> bool {
        self.primary.holder == *self.name()
    }

    fn primacy(&self, conduct: &Conduct) -> Option<Txn> {
        let lease = self.view.lease.read().map(|seen| &seen.value);
        match &self.primary.state {
            PrimaryState::Open if self.holds() => {
                let mine = lease.is_some_and(|lease| {
                    lease.site == *self.name()
                        && lease.epoch == self.primary.epoch
                        && !lease.released
                });
                (!mine).then(|| self.base().then(self.put_lease(self.primary, false)))
            }
            PrimaryState::Handover { to, operation, span } if self.holds() && conduct.stops => {
                let report = &self.view.report(self.name())?.value;
                let ancestry = report.ancestry.as_ref()?;
                let end = HistoryPoint {
                    timeline: ancestry.timeline,
                    position: report.position?,
                    promotion: ancestry.promotion.clone(),
                };
                let token = Token {
                    from: self.name().clone(),
                    epoch: self.primary.epoch,
                    system_identifier: report.system_identifier?,
                    end: end.clone(),
                    tenure: lease?.tenure.clone(),
                    stopping_at: WallTime(1_000),
                };
                let (to, operation, span) = (to.clone(), operation.clone(), *span);
                let state = PrimaryState::Token { to, operation, span, token };
                let next = Primary { state, floor: Some(end), ..self.primary.clone() };
                let released = self.put_lease(&next, true);
                Some(self.base().then(self.put_primary(&next)).then(released))
            }
            PrimaryState::Token { to, operation, token, .. }
                if to == self.name() && conduct.takes =>
            {
                Some(self.take(operation, token.end.clone(), Some(token.stopping_at)))
            }
            PrimaryState::Fenced { to, operation, .. } if to == self.name() && conduct.takes => {
                let report = &self.view.report(self.name())?.value;
                let ancestry = report.ancestry.as_ref()?;
                let end = HistoryPoint {
                    timeline: ancestry.timeline,
                    position: report.position?,
                    promotion: ancestry.promotion.clone(),
                };
                Some(self.take(operation, end, None))
            }
            PrimaryState::Open
            | PrimaryState::Handover { .. }
            | PrimaryState::Token { .. }
            | PrimaryState::Fenced { .. } => None,
        }
    }

    /// Primacy moves here.
    fn take(
        &self,
        operation: &OperationId,
        floor: HistoryPoint,
        stopping_at: Option<WallTime>,
    ) -> Txn {
        let next = Primary {
            state: PrimaryState::Open,
            holder: self.name().clone(),
            epoch: self.primary.epoch.next(),
            floor: Some(floor),
            ..self.primary.clone()
        };
        let history = EpochHistory {
            version: VERSION,
            epoch: next.epoch,
            site: self.name().clone(),
            node: self.node(),
            from: Some(self.primary.holder.clone()),
            operation: Some(operation.clone()),
            floor: next.floor.clone(),
            at: WallTime::default(),
            stopping_at,
            lost_bytes: 0,
            lost_at_most_ms: None,
            promotions: Vec::new(),
            unknown: Unknown::new(),
        };
        let key = self.keys.history(next.epoch);
        self.base()
            .when(Compare::Absent { key: key.clone() })
            .then(self.put_primary(&next))
            .then(self.put_lease(&next, false))
            .then(Change::put(key, history.encode()))
    }

    /// Compares `primary` and `lease` as seen.
    fn base(&self) -> Txn {
        let compare = |key: String, revision: Option<u64>| match revision {
            Some(revision) => Compare::Modified { key, revision: Revision(revision) },
            None => Compare::Absent { key },
        };
        let primary = self.view.primary.revision().map(|r| r.0);
        let lease = self.view.lease.revision().map(|r| r.0);
        Txn::new()
            .when(compare(self.keys.primary(), primary))
            .when(compare(self.keys.lease(), lease))
    }

    fn put_primary(&self, primary: &Primary) -> Change {
        Change::put(self.keys.primary(), primary.encode())
    }

    fn put_lease(&self, primary: &Primary, released: bool) -> Change {
        let lease = Lease {
            version: VERSION,
            site: self.name().clone(),
            node: self.node(),
            tenure: format!("tenure-of-{}-{}", self.name(), primary.epoch)
                .parse()
                .expect("an identifier"),
            epoch: primary.epoch,
            counter: 0,
            request: "request-1".parse().expect("an identifier"),
            ttl: primary.ttl_max,
            released,
            unknown: Unknown::new(),
        };
        Change::put(self.keys.lease(), lease.encode())
    }

    /// What the site's leader would report, when that differs from what it has reported.
    fn report(&self, conduct: &Conduct) -> Option<Txn> {
        let assignment = &self.view.assignment(self.name())?.value;
        let before = self.view.report(self.name()).map(|seen| &seen.value);
        let mut next = before.cloned().unwrap_or_else(|| first_report(self.site));
        self.fill(&mut next, assignment, conduct);
        if before == Some(&next) {
            return None;
        }
        next.sequence += 1;
        let key = self.keys.report(self.name());
        Some(Txn::new().then(Change::put(key, next.encode())))
    }

    fn fill(&self, report: &mut Report, assignment: &Assignment, conduct: &Conduct) {
        report.generation = assignment.generation;
        report.epoch = self.primary.epoch;
        let topology = &self.view.topology.read().expect("checked before").value.topology;
        report.slots = topology
            .sites
            .iter()
            .filter(|site| assignment.downstream.contains(&site.name))
            .flat_map(|site| site.nodes.iter().map(|node| node.name.slot()))
            .collect();
        if let Some(operation) = &assignment.checkpoint_for
            && conduct.checkpoints
        {
            report.checkpointed_for = Some(operation.clone());
        }
        match &self.primary.state {
            PrimaryState::Open if self.holds() => {
                report.role = ReportedRole::Primary;
                report.streaming_from = None;
                report.lag_bytes = None;
                self.begin_timeline(report);
            }
            PrimaryState::Token { .. } if self.holds() => report.role = ReportedRole::Standby,
            PrimaryState::Open
            | PrimaryState::Handover { .. }
            | PrimaryState::Token { .. }
            | PrimaryState::Fenced { .. } => self.follow(report, assignment),
        }
    }

    /// Each epoch begins a timeline of its own in this play.
    fn begin_timeline(&self, report: &mut Report) {
        let timeline = TimelineId(u32::try_from(self.primary.epoch.get()).expect("small"));
        let end = report.position.unwrap_or(Lsn::new(1 << 24));
        let history = report.ancestry.get_or_insert(Ancestry {
            timeline: TimelineId(1),
            promotion: None,
            switches: Vec::new(),
        });
        if history.timeline < timeline {
            let promotion = history.promotion.take();
            history.switches.push(Switch { timeline: history.timeline, end, promotion });
            history.timeline = timeline;
            history.promotion = format!("p{timeline}").parse().ok();
        }
        report.position = Some(end);
    }

    fn follow(&self, report: &mut Report, assignment: &Assignment) {
        let Some(upstream) = &assignment.upstream else { return };
        if assignment.role != SiteRole::Standby {
            return;
        }
        report.role = ReportedRole::Standby;
        let Some(upstream) = self.view.report(upstream) else { return };
        if upstream.value.ancestry.is_none() {
            return;
        }
        report.ancestry.clone_from(&upstream.value.ancestry);
        report.position = upstream.value.position;
        report.streaming_from = Some(upstream.value.site.clone());
        report.lag_bytes = Some(0);
    }
}

fn first_report(site: &Site) -> Report {
    let settings = [
        ("max_connections", 100),
        ("max_worker_processes", 8),
        ("max_wal_senders", 10),
        ("max_prepared_transactions", 0),
        ("max_locks_per_transaction", 64),
        ("wal_log_hints", 1),
        ("data_checksums", 0),
        ("use_pg_rewind", 1),
    ];
    let identifier: SystemIdentifier = "7000000000000000001".parse().expect("digits");
    let nodes = site.nodes.iter().map(|node| ReportedNode {
        name: node.name.clone(),
        role: "replica".to_owned(),
        state: "streaming".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 5432,
        api_url: String::new(),
        promise_url: None,
        timeline: None,
        position: None,
        upstream: None,
        fence: None,
        unknown: Unknown::new(),
    });
    let everywhere = ["eu", "us", "ap", "sa"];
    let reaches: BTreeMap<SiteName, Reach> = everywhere
        .iter()
        .map(|name| {
            let node = format!("{name}1").parse().expect("a name");
            (name.parse().expect("a label"), Reach::Reached { node })
        })
        .collect();
    Report {
        version: VERSION,
        site: site.name.clone(),
        node: site.nodes[0].name.clone(),
        sequence: 0,
        at: WallTime::default(),
        epoch: regent_proto::Epoch::FIRST,
        generation: 0,
        checkpointed_for: None,
        opened: None,
        role: ReportedRole::Down,
        system_identifier: Some(identifier),
        ancestry: None,
        position: None,
        position_at: None,
        last_commit: None,
        lag_bytes: None,
        promise: Some(ReportedPromise::NotGiven),
        promotion_awaits: None,
        streaming_from: None,
        nodes: nodes.collect(),
        synchronous_mode: site.synchronous,
        synchronous_nodes: site.nodes.iter().skip(1).map(|node| node.name.clone()).collect(),
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        free_slots: 8,
        free_senders: 8,
        slots: std::collections::BTreeSet::new(),
        objects: ReportedObjects::default(),
        reaches,
        warnings: Vec::new(),
        agent: "test".to_owned(),
        server_version: 150_018,
        unknown: Unknown::new(),
    }
}
