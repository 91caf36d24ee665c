//! A view built from a few words. The default world: member `a1` of site `a` leads, is primary
//! under epoch 3, holds both leases; `a2` is its synchronous standby; site `b` follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::SiteName;
use regent_proto::record::{
    Assignment, Lease, Mark, Primary, PrimaryState, Promotions, Report, ReportedNode,
    ReportedObjects, ReportedRole, SeenEpoch, SiteRole, Token, Unknown, VERSION,
};
use regent_proto::time::{BootTime, Deadline, WallTime};
use regent_proto::timeline::{Ancestry, HistoryPoint, Switch, TimelineId};

use crate::decide::slots::Rules;
use crate::decide::view::*;
use crate::decide::{Decision, decide};

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("names in tests are well formed")
}

pub(crate) const NOW: BootTime = BootTime::from_nanos(1_000_000_000_000);

/// Revision of `primary` in every world.
pub(crate) const PRIMARY_REVISION: u64 = 70;

/// Revision of `regent/epoch` in every world.
pub(crate) const EPOCH_REVISION: u64 = 45;

/// An epoch of site `a`.
pub(crate) fn seen(epoch: u64) -> SeenEpoch {
    SeenEpoch {
        version: VERSION,
        federation: uuid::Uuid::nil(),
        epoch: Epoch::new(epoch),
        holder: name("a"),
        unknown: Unknown::new(),
    }
}

/// Timeline `t` above 1 was begun by promotion `pt`.
pub(crate) fn history(timeline: u32) -> Ancestry {
    let switches = (1..timeline)
        .map(|t| Switch {
            timeline: TimelineId(t),
            end: Lsn::new(u64::from(t) * 100),
            promotion: promotion(t),
        })
        .collect();
    Ancestry { timeline: TimelineId(timeline), promotion: promotion(timeline), switches }
}

pub(super) fn promotion(timeline: u32) -> Option<regent_proto::name::PromotionId> {
    (timeline > 1).then(|| name(&format!("p{timeline}")))
}

pub(crate) fn point(timeline: u32, position: u64) -> HistoryPoint {
    HistoryPoint {
        timeline: TimelineId(timeline),
        position: Lsn::new(position),
        promotion: promotion(timeline),
    }
}

pub(crate) fn sender(flushed: u64) -> Sender {
    Sender { streaming: true, synchronous: true, flushed: Lsn::new(flushed) }
}

pub(crate) fn status(in_recovery: bool, timeline: u32, end: u64) -> Status {
    Status {
        in_recovery,
        ancestry: history(timeline),
        name_sought: false,
        control_timeline: TimelineId(timeline),
        end: Lsn::new(end),
        replayed: Lsn::new(end),
        last_commit: Some(WallTime(9_999_001)),
        wall: WallTime(10_000_000),
        senders: BTreeMap::new(),
        receiver: None,
        synchronous_standby_names: String::new(),
        slots: BTreeMap::new(),
        settings: Default::default(),
        free_slots: 10,
        free_senders: 10,
        server_version: 150_018,
        wal_logical: false,
        slot_wal_limit: None,
        slots_at: None,
        upstream_end: None,
    }
}

pub(crate) fn control(state: ControlState, timeline: u32, end: u64) -> Control {
    Control {
        system_identifier: name("7000000000000000001"),
        state,
        ancestry: history(timeline),
        end: Lsn::new(end),
        rewindable: true,
    }
}

fn member(port: u16) -> Arc<Member> {
    Arc::new(Member {
        host: "127.0.0.1".to_owned(),
        port,
        api_url: String::new(),
        promise_url: None,
        state: "running".to_owned(),
        role: "replica".to_owned(),
        streaming: true,
        timeline: None,
        position: None,
        nofailover: false,
        nosync: false,
        nostream: false,
        sync_priority: 1,
        replicatefrom: None,
        clonefrom: false,
        horizon: None,
    })
}

pub(super) fn report(site: &str, timeline: u32) -> Report {
    let node = format!("{site}1");
    Report {
        version: VERSION,
        site: name(site),
        node: name(&node),
        sequence: 1,
        at: WallTime(0),
        epoch: Epoch::new(3),
        generation: 1,
        checkpointed_for: None,
        opened: None,
        role: ReportedRole::Standby,
        system_identifier: None,
        ancestry: Some(history(timeline)),
        position: Some(Lsn::new(500)),
        position_at: None,
        last_commit: None,
        lag_bytes: None,
        promise: None,
        promotion_awaits: None,
        streaming_from: None,
        nodes: vec![ReportedNode {
            name: name(&node),
            role: "standby_leader".to_owned(),
            state: "running".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 7001,
            api_url: String::new(),
            promise_url: None,
            timeline: None,
            position: None,
            upstream: None,
            fence: None,
            unknown: Unknown::new(),
        }],
        synchronous_mode: true,
        synchronous_nodes: BTreeSet::new(),
        settings: Default::default(),
        free_slots: 1,
        free_senders: 1,
        slots: BTreeSet::new(),
        objects: ReportedObjects::default(),
        reaches: BTreeMap::new(),
        warnings: Vec::new(),
        agent: String::new(),
        server_version: 0,
        unknown: Unknown::new(),
    }
}

pub(crate) fn token(end: HistoryPoint) -> Token {
    Token {
        from: name("a"),
        epoch: Epoch::new(3),
        system_identifier: name("7000000000000000001"),
        end,
        tenure: name("t1"),
        stopping_at: WallTime(0),
    }
}

/// `regent/promotions` of a node that is open, or about to promote there.
pub(crate) fn promotions(
    node: &str,
    ancestry: Ancestry,
    promotes_at: Option<u64>,
) -> At<Promotions> {
    At {
        value: Promotions {
            version: VERSION,
            node: name(node),
            ancestry,
            promotes_at: promotes_at.map(Lsn::new),
            unknown: Unknown::new(),
        },
        revision: 42,
    }
}

pub(crate) fn mark(primary_revision: u64) -> At<Mark> {
    At {
        value: Mark {
            version: VERSION,
            operation: name("op-1"),
            primary_revision,
            node: name("a1"),
            unknown: Unknown::new(),
        },
        revision: 41,
    }
}

/// `standby_cluster` as it is in force, with what answered there.
pub(crate) fn remote(timeline: u32) -> RemoteView {
    let mut ancestry = history(timeline);
    ancestry.promotion = None;
    ancestry.switches.iter_mut().for_each(|switch| switch.promotion = None);
    RemoteView {
        addresses: vec![("10.1.0.1".to_owned(), 5432), ("10.1.0.2".to_owned(), 5433)],
        slot: Some("b".to_owned()),
        found: Some(RemoteFound {
            system_identifier: name("7000000000000000001"),
            ancestry,
            asked: NOW,
        }),
    }
}

/// A policy, a memory and a view that tests bend.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) policy: Policy,
    pub(crate) memory: Memory,
    pub(crate) view: View,
}

impl World {
    /// The other member has answered: it follows, and has just what this node has.
    pub(super) fn answers_like_us(&mut self) {
        let answer = PeerAnswer {
            primary: false,
            position: Lsn::new(500),
            timeline: Some(TimelineId(3)),
            nofailover: false,
            failover_priority: 1,
            age: Some(Duration::ZERO),
            ancestry: Some(history(3)),
            without_data: false,
        };
        let answers = [(name("a2"), answer)].into();
        self.view.peers = Some(PeersView { age: Duration::from_millis(10), answers });
    }

    pub(crate) fn new() -> Self {
        let policy = Policy {
            me: name("a1"),
            nofailover: false,
            loop_wait: Duration::from_secs(1),
            maximum_lag_on_failover: 1 << 20,
            synchronous_mode: true,
            mode_is_the_sites: true,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            use_pg_rewind: true,
            may_bootstrap: true,
            paused: false,
            synchronous_quorum: false,
            own_standby_names: String::new(),
            slots: Rules::default(),
            failover_priority: 1,
            check_timeline: false,
            maximum_lag_on_syncnode: None,
            primary_start_timeout: Duration::from_secs(300),
            ttl: Duration::from_secs(5),
            remove_on_rewind_failure: true,
            remove_on_diverged_timelines: true,
            pre_promote: None,
            clones_without_leader: false,
            replicatefrom: None,
            nostream: false,
        };
        let ahead = Deadline::at(NOW.plus(Duration::from_secs(4)));
        let mut status = status(false, 3, 500);
        status.senders.insert("a2".to_owned(), sender(500));
        status.synchronous_standby_names = "\"a2\"".to_owned();
        for slot in ["a2", "b1"] {
            status.slots.insert(slot.to_owned(), Slot::physical(true));
        }
        let view = View {
            now: NOW,
            site: Some(site_view()),
            federation: Some(federation_view()),
            remote: None,
            postgres: PostgresView {
                data: DataDirectory::Cluster(control(ControlState::InProduction, 3, 400)),
                process: Process::Running,
                status: Some(status),
                follows: None,
                standby_signal: false,
                users_exist: true,
                configuration: ConfigurationView::default(),
                half_rewound: false,
            },
            tenure: TenureView {
                has_lease: true,
                site: ahead,
                primary: Some(PrimaryTenure {
                    tenure: name("t1"),
                    epoch: Epoch::new(3),
                    deadline: ahead,
                    lease_revision: 60,
                    by_promise: false,
                }),
            },
            job: None,
            checkpoint_runs: false,
            finished: None,
            peers: None,
            failsafe: FailsafeView::default(),
            guardian: GuardianView { alive: true, ..GuardianView::default() },
            requests: RequestsView::default(),
        };
        let memory =
            Memory { list_since: Some(("\"a2\"".to_owned(), Lsn::new(1))), ..Memory::default() };
        Self { policy, memory, view }
    }

    pub(crate) fn decide(&self) -> Decision {
        decide(&self.policy, &self.memory, &self.view)
    }

    pub(crate) fn site(&mut self) -> &mut SiteView {
        self.view.site.as_mut().expect("these worlds have a site DCS")
    }

    pub(crate) fn federation(&mut self) -> &mut FederationView {
        self.view.federation.as_mut().expect("these worlds have a federation")
    }

    pub(crate) fn primary(&mut self) -> &mut Primary {
        &mut self.federation().primary.as_mut().expect("these worlds have a primary record").value
    }

    pub(crate) fn disk_epoch(&mut self, epoch: u64) {
        self.federation().disk_epoch = DiskEpoch::Seen(seen(epoch));
    }

    pub(crate) fn site_epoch(&mut self) -> &mut SeenEpoch {
        &mut self.site().seen_epoch.as_mut().expect("these worlds have an epoch").value
    }

    pub(crate) fn member(&mut self, who: &str) -> &mut Member {
        let who = name::<regent_proto::name::NodeName>(who);
        Arc::make_mut(self.site().members.get_mut(&who).expect("a member of this world"))
    }

    pub(crate) fn status(&mut self) -> &mut Status {
        self.view.postgres.status.as_mut().expect("the server runs")
    }

    pub(crate) fn leader(&mut self, who: Option<&str>) {
        self.site().leader = who.map(|who| LeaderKey {
            name: name(who),
            unreadable: false,
            bound_to_my_lease: who == "a1",
            twin: false,
            revision: 12,
        });
        if let Some(member) = who
            .and_then(|who| self.site().members.get_mut(&name::<regent_proto::name::NodeName>(who)))
        {
            Arc::make_mut(member).role = "primary".to_owned();
        }
        if who != Some("a1") {
            self.view.tenure.site = Deadline::NEVER;
        }
    }

    /// The server is stopped with this pg_control.
    pub(crate) fn stopped(&mut self, state: ControlState, timeline: u32, end: u64) {
        self.view.postgres.data = DataDirectory::Cluster(control(state, timeline, end));
        self.view.postgres.process = Process::Stopped;
        self.view.postgres.status = None;
    }

    /// The server runs in recovery, and the record says that it is about to promote.
    pub(crate) fn standby(&mut self, timeline: u32, end: u64) {
        self.view.postgres.data =
            DataDirectory::Cluster(control(ControlState::InRecovery, timeline, end));
        self.view.postgres.process = Process::Running;
        self.view.postgres.standby_signal = true;
        let mut status = status(true, timeline, end);
        for slot in ["a2", "b1"] {
            status.slots.insert(slot.to_owned(), Slot::physical(true));
        }
        self.view.postgres.status = Some(status);
        if let Some(site) = &mut self.view.site {
            site.promotions = Some(promotions("a1", history(timeline), Some(end)));
        }
    }

    /// This site is not the primary site.
    pub(crate) fn held_by_b(&mut self) {
        self.primary().holder = name("b");
        if let Some(seen) = &mut self.site().seen_epoch {
            seen.value.holder = name("b");
        }
        if let DiskEpoch::Seen(seen) = &mut self.federation().disk_epoch {
            seen.holder = name("b");
        }
        self.federation().assignment = None;
        self.view.tenure.primary = None;
    }

    pub(crate) fn state(&mut self, state: PrimaryState) {
        self.primary().state = state;
    }

    pub(crate) fn handover(&mut self, to: &str) {
        self.state(PrimaryState::Handover {
            to: name(to),
            operation: name("op-1"),
            span: Duration::from_secs(15),
        });
    }

    pub(crate) fn token(&mut self, to: &str, end: HistoryPoint) {
        self.state(PrimaryState::Token {
            to: name(to),
            operation: name("op-1"),
            span: Duration::from_secs(15),
            token: token(end),
        });
    }
}

fn site_view() -> SiteView {
    SiteView {
        age: Duration::ZERO,
        leader: Some(LeaderKey {
            name: name("a1"),
            unreadable: false,
            bound_to_my_lease: true,
            twin: false,
            revision: 12,
        }),
        leaderless: Duration::ZERO,
        initialize: Initialize::Done(name("7000000000000000001")),
        members: BTreeMap::from([(name("a1"), member(6001)), (name("a2"), member(6002))]),
        sync: SyncView {
            revision: Some(20),
            leader: Some(name("a1")),
            standbys: BTreeSet::from([name("a2")]),
            unreadable: false,
            quorum: 0,
        },
        optime: Some(Lsn::new(500)),
        ancestry: Some(history(3)),
        failover: None,
        mark: None,
        unreadable_mark: None,
        seen_epoch: Some(At { value: seen(3), revision: EPOCH_REVISION }),
        unreadable_epoch: None,
        failsafe: FailsafeRecord::Absent,
        promise: PromiseRecord::Absent,
        published: PublishedSlots::default(),
        promotions: Some(promotions("a1", history(3), None)),
        history: None,
    }
}

fn federation_view() -> FederationView {
    let b: SiteName = name("b");
    FederationView {
        site: name("a"),
        age: Some(Duration::ZERO),
        primary: Some(At {
            value: Primary {
                version: VERSION,
                federation: uuid::Uuid::nil(),
                system_identifier: Some(name("7000000000000000001")),
                holder: name("a"),
                epoch: Epoch::new(3),
                state: PrimaryState::Open,
                floor: Some(point(2, 200)),
                electorate: BTreeSet::from([name("a"), b.clone()]),
                ttl_max: Duration::from_secs(15),
                span_max: Duration::from_secs(15),
                writes_fenced: None,
                unknown: Unknown::new(),
            },
            revision: PRIMARY_REVISION,
        }),
        primary_age: Duration::from_secs(1),
        lease: Some(At {
            value: Lease {
                version: VERSION,
                site: name("a"),
                node: name("a1"),
                tenure: name("t1"),
                epoch: Epoch::new(3),
                counter: 9,
                request: name("r9"),
                ttl: Duration::from_secs(15),
                released: false,
                unknown: Unknown::new(),
            },
            revision: 60,
        }),
        lease_revision: Some(60),
        lease_age: Duration::from_secs(1),
        history: None,
        assignment: Some(Assignment {
            version: VERSION,
            generation: 1,
            role: SiteRole::Primary,
            epoch: Epoch::new(3),
            upstream: None,
            downstream: BTreeSet::from([b.clone()]),
            checkpoint_for: None,
            unknown: Unknown::new(),
        }),
        reports: BTreeMap::from([(b.clone(), Arc::new(report("b", 3)))]),
        disk_epoch: DiskEpoch::Seen(seen(3)),
        operation_runs: false,
    }
}
