//! The gate of opening (I6) as the models ask it: [`preconditions::unmet`] on a view made of what a
//! model knows. Everything else in that view is as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_agent::decide::failsafe::quorum;
use regent_agent::decide::preconditions::{self, Opening, Precondition};
use regent_agent::decide::view::{
    At, ConfigurationView, Control, ControlState, DataDirectory, DiskEpoch, FailsafeRecord,
    FailsafeView, FederationView, GuardianView, Initialize, LeaderKey, Policy, PostgresView,
    PrimaryTenure, Process, PromiseRecord, PublishedSlots, RequestsView, SiteView, Status,
    SyncView, TenureView, View, WatchdogState, WatchdogView,
};
use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, SiteName, SystemIdentifier};
use regent_proto::promise::PromiseRequest;
use regent_proto::record::{Mark, Primary, SeenEpoch, Unknown, VERSION};
use regent_proto::time::Deadline;
use regent_proto::timeline::{Ancestry, TimelineId};

use crate::clock::{NOW, ticks};

/// What a model knows of a node that is about to be promoted.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The leader key is bound to the process's own lease.
    pub leader_key: bool,
    /// Its deadline.
    pub site: Deadline,
    /// A guardian of the server lives.
    pub guardian: bool,
    /// A watchdog is required, and how it stands.
    pub watchdog: Option<Device>,
    /// The server runs in recovery.
    pub in_recovery: bool,
    /// The server's history and the end of its WAL.
    pub history: (Ancestry, Lsn),
    /// What it knows of the quorum, where the cluster belongs to a federation.
    pub federation: Option<Quorum>,
}

/// A watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Age of the last ping, while it runs.
    pub pinged: Option<u8>,
    /// What it granted, in ticks.
    pub granted: u8,
}

/// What a node knows of the quorum.
#[derive(Debug, Clone)]
pub struct Quorum {
    /// Its site.
    pub site: SiteName,
    /// `primary` as this process has read it.
    pub primary: Option<Primary>,
    /// The site is marked.
    pub marked: bool,
    /// Epoch and deadline of the primary lease that it holds.
    pub lease: Option<(Epoch, Deadline)>,
    /// Highest epoch on its disk, with the holder.
    pub on_disk: Option<(Epoch, SiteName)>,
    /// Highest epoch in its site's DCS, with the holder.
    pub in_site: Option<(Epoch, SiteName)>,
}

/// The database of every model.
#[must_use]
pub fn database() -> SystemIdentifier {
    "7000000000000000001".parse().expect("digits")
}

/// A name; the models' names are well formed.
#[must_use]
pub fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name of a model is well formed")
}

/// What stands against opening.
#[must_use]
pub fn unmet(facts: &Facts) -> Vec<Precondition> {
    preconditions::unmet(&policy(), &view(facts), Opening::Promotion)
}

/// Whether a site that knows this may promise.
#[must_use]
pub fn may_promise(facts: &Facts, request: &PromiseRequest) -> bool {
    quorum::may_promise(&view(facts), &policy().me, request).is_ok()
}

/// What an agent is set up with where a model asks for nothing else.
#[must_use]
pub fn policy() -> Policy {
    Policy {
        me: name("a1"),
        nofailover: false,
        loop_wait: Duration::from_secs(1),
        maximum_lag_on_failover: u64::MAX,
        synchronous_mode: false,
        mode_is_the_sites: true,
        synchronous_mode_strict: false,
        synchronous_node_count: 1,
        use_pg_rewind: true,
        may_bootstrap: false,
        paused: false,
        synchronous_quorum: false,
        own_standby_names: String::new(),
        slots: Default::default(),
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
    }
}

fn seen(federation: uuid::Uuid, (epoch, holder): &(Epoch, SiteName)) -> SeenEpoch {
    SeenEpoch {
        version: VERSION,
        federation,
        epoch: *epoch,
        holder: holder.clone(),
        unknown: Unknown::new(),
    }
}

fn site(facts: &Facts) -> SiteView {
    let quorum = facts.federation.as_ref();
    let me: NodeName = name("a1");
    let leader = LeaderKey {
        name: me.clone(),
        unreadable: false,
        bound_to_my_lease: facts.leader_key,
        twin: false,
        revision: 1,
    };
    SiteView {
        age: Duration::ZERO,
        leader: Some(leader),
        leaderless: Duration::ZERO,
        initialize: Initialize::Done(database()),
        members: BTreeMap::new(),
        sync: SyncView {
            revision: Some(1),
            leader: Some(me),
            standbys: BTreeSet::new(),
            unreadable: false,
            quorum: 0,
        },
        optime: None,
        ancestry: None,
        failover: None,
        mark: quorum.is_some_and(|quorum| quorum.marked).then(|| At {
            value: Mark {
                version: VERSION,
                operation: name("op-1"),
                primary_revision: 1,
                node: name("a1"),
                unknown: Unknown::new(),
            },
            revision: 1,
        }),
        unreadable_mark: None,
        seen_epoch: quorum.and_then(|quorum| {
            let value = seen(uuid::Uuid::nil(), quorum.in_site.as_ref()?);
            Some(At { value, revision: 1 })
        }),
        unreadable_epoch: None,
        failsafe: FailsafeRecord::Absent,
        promise: PromiseRecord::Absent,
        published: PublishedSlots::default(),
        promotions: None,
        history: None,
    }
}

fn view(facts: &Facts) -> View {
    let (ancestry, end) = facts.history.clone();
    let quorum = facts.federation.as_ref();
    let federation = quorum.map(|quorum| FederationView {
        site: quorum.site.clone(),
        age: quorum.primary.is_some().then_some(Duration::ZERO),
        primary: quorum.primary.clone().map(|value| At { value, revision: 1 }),
        primary_age: Duration::ZERO,
        lease_age: Duration::ZERO,
        lease: None,
        lease_revision: None,
        history: None,
        assignment: None,
        reports: BTreeMap::new(),
        disk_epoch: match &quorum.on_disk {
            Some(epoch) => DiskEpoch::Seen(seen(uuid::Uuid::nil(), epoch)),
            None => DiskEpoch::Absent,
        },
        operation_runs: false,
    });
    let tenure = TenureView {
        has_lease: true,
        site: facts.site,
        primary: quorum.and_then(|quorum| {
            let (epoch, deadline) = quorum.lease?;
            Some(PrimaryTenure {
                tenure: name("tenure-1"),
                epoch,
                deadline,
                lease_revision: 1,
                by_promise: false,
            })
        }),
    };
    View {
        now: NOW,
        site: Some(site(facts)),
        federation,
        remote: None,
        postgres: postgres(facts, ancestry, end),
        tenure,
        job: None,
        checkpoint_runs: false,
        finished: None,
        peers: None,
        failsafe: FailsafeView::default(),
        guardian: GuardianView {
            alive: facts.guardian,
            watchdog: WatchdogView {
                required: facts.watchdog.is_some(),
                wanted: facts.watchdog.is_some(),
                state: match facts.watchdog {
                    Some(Device { pinged: Some(_), .. }) => WatchdogState::Armed,
                    Some(Device { pinged: None, .. }) | None => WatchdogState::Off,
                },
                granted: ticks(facts.watchdog.map_or(0, |device| device.granted)),
                ping_age: facts.watchdog.and_then(|device| device.pinged).map(ticks),
                ..WatchdogView::default()
            },
            ..GuardianView::default()
        },
        requests: RequestsView::default(),
    }
}

fn postgres(facts: &Facts, ancestry: Ancestry, end: Lsn) -> PostgresView {
    PostgresView {
        data: DataDirectory::Cluster(Control {
            system_identifier: database(),
            state: ControlState::InRecovery,
            ancestry: ancestry.clone(),
            end,
            rewindable: true,
        }),
        process: if facts.in_recovery { Process::Running } else { Process::Stopped },
        status: facts.in_recovery.then(|| Status {
            in_recovery: true,
            control_timeline: ancestry.timeline,
            ancestry,
            end,
            replayed: end,
            last_commit: None,
            wall: regent_proto::time::WallTime(0),
            senders: BTreeMap::new(),
            receiver: None,
            synchronous_standby_names: String::new(),
            slots: BTreeMap::new(),
            name_sought: false,
            settings: Default::default(),
            free_slots: 10,
            free_senders: 10,
            server_version: 150_018,
            wal_logical: false,
            slot_wal_limit: None,
            slots_at: None,
            upstream_end: None,
        }),
        follows: None,
        standby_signal: true,
        users_exist: true,
        configuration: ConfigurationView::default(),
        half_rewound: false,
    }
}

/// The history of a database that was never promoted.
#[must_use]
pub fn first_history() -> Ancestry {
    Ancestry { timeline: TimelineId(1), promotion: None, switches: Vec::new() }
}
