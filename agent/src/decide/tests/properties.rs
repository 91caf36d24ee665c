//! What holds in every world: the order of opening, the conditions of each edge of `primary`, and
//! that no world makes the decider panic.

use std::time::Duration;

use proptest::prelude::*;
use regent_proto::epoch::Epoch;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::PrimaryState;
use regent_proto::time::{Deadline, LeaseTiming};
use regent_proto::timeline::Containment;

use super::world::{
    NOW, PRIMARY_REVISION, World, history, mark, name, point, remote, seen, sender,
};
use crate::decide::manual::{Switching, SwitchingStep};
use crate::decide::view::*;
use crate::decide::{Action, Decision, Dropped, Job, Manual, Reason};

/// Draws every dimension on its own, so that also impossible and half-changed worlds come up.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent dimensions of a random world")]
struct Draw {
    leader: Option<&'static str>,
    site_deadline: bool,
    primary: u8,
    holder_is_me: bool,
    floor: u64,
    mark: Option<u64>,
    marked: Option<u64>,
    tenure: u8,
    disk_epoch: u64,
    entered: bool,
    seen_epoch: u64,
    server: u8,
    timeline: u32,
    end: u64,
    confirmed: u64,
    synchronous: bool,
    sync_leader: Option<&'static str>,
    initialize: u8,
    job: bool,
    primary_age: u64,
    request: u8,
    step: u8,
    peers: Option<u64>,
    peers_age: u64,
}

fn draw() -> impl Strategy<Value = Draw> {
    let identity = (
        prop_oneof![Just(None), Just(Some("a1")), Just(Some("a2"))],
        any::<bool>(),
        0u8..6,
        any::<bool>(),
        prop_oneof![Just(200u64), Just(500), Just(520), Just(900)],
        prop_oneof![Just(None), Just(Some(PRIMARY_REVISION)), Just(Some(PRIMARY_REVISION - 3))],
        prop_oneof![Just(None), Just(Some(PRIMARY_REVISION)), Just(Some(PRIMARY_REVISION - 3))],
        0u8..4,
    );
    let rest = (
        (0u64..5, any::<bool>()),
        0u64..5,
        0u8..9,
        2u32..5,
        prop_oneof![Just(150u64), Just(500), Just(520), Just(901)],
        prop_oneof![Just(500u64), Just(520)],
        any::<bool>(),
        prop_oneof![Just(None), Just(Some("a1")), Just(Some("a2"))],
        0u8..4,
        prop::bool::weighted(0.1),
        prop_oneof![Just(1u64), Just(20)],
    );
    let manual = (
        0u8..10,
        0u8..6,
        prop_oneof![Just(None), Just(Some(500u64)), Just(Some(520)), Just(Some(901))],
        prop_oneof![Just(0u64), Just(10), Just(2000)],
    );
    (identity, rest, manual).prop_map(|(i, r, m)| Draw {
        leader: i.0,
        site_deadline: i.1,
        primary: i.2,
        holder_is_me: i.3,
        floor: i.4,
        mark: i.5,
        marked: i.6,
        tenure: i.7,
        disk_epoch: r.0.0,
        entered: r.0.1,
        seen_epoch: r.1,
        server: r.2,
        timeline: r.3,
        end: r.4,
        confirmed: r.5,
        synchronous: r.6,
        sync_leader: r.7,
        initialize: r.8,
        job: r.9,
        primary_age: r.10,
        request: m.0,
        step: m.1,
        peers: m.2,
        peers_age: m.3,
    })
}

fn world(draw: &Draw) -> World {
    let mut world = World::new();
    world.leader(draw.leader);
    if !draw.site_deadline {
        world.view.tenure.site = Deadline::NEVER;
    }
    if !draw.holder_is_me {
        world.primary().holder = name("b");
    }
    world.primary().floor = Some(point(3, draw.floor));
    match draw.primary {
        0 | 1 => {}
        2 => world.handover(if draw.holder_is_me { "b" } else { "a" }),
        3 => world.token(if draw.holder_is_me { "b" } else { "a" }, point(3, 520)),
        4 => {
            let to = name(if draw.holder_is_me { "b" } else { "a" });
            let accepted = AcceptedLoss { max_age_ms: Some(10_000), ..AcceptedLoss::default() };
            world.state(PrimaryState::Fenced { to, operation: name("op-2"), accepted });
        }
        _ => world.federation().primary = None,
    }
    world.site().mark = draw.mark.map(mark);
    world.memory.marked = draw.marked;
    match draw.tenure {
        0 => world.view.tenure.primary = None,
        1 => world.view.tenure.primary.as_mut().expect("held").epoch = Epoch::new(2),
        2 => world.view.tenure.primary.as_mut().expect("held").deadline = Deadline::NEVER,
        _ => {}
    }
    match draw.disk_epoch {
        0 => world.federation().disk_epoch = DiskEpoch::Absent,
        1 => world.federation().disk_epoch = DiskEpoch::Unreadable("garbage".to_owned()),
        epoch => world.disk_epoch(epoch),
    }
    match draw.seen_epoch {
        0 => world.site().seen_epoch = None,
        1 => {
            world.site().seen_epoch = None;
            world.site().unreadable_epoch = Some(46);
        }
        epoch => world.site_epoch().epoch = Epoch::new(epoch),
    }
    if !draw.holder_is_me {
        if let Some(seen) = &mut world.site().seen_epoch {
            seen.value.holder = name("b");
        }
        if let DiskEpoch::Seen(seen) = &mut world.federation().disk_epoch {
            seen.holder = name("b");
        }
    }
    world.memory.entered = draw.entered.then(|| seen(3));
    match draw.server {
        0 => world.standby(draw.timeline, draw.end),
        1 => world.stopped(ControlState::ShutDown, draw.timeline, draw.end),
        2 => world.stopped(ControlState::InProduction, draw.timeline, draw.end),
        3 => world.stopped(ControlState::InRecovery, draw.timeline, draw.end),
        4 => {
            world.view.postgres.data = DataDirectory::Empty;
            world.view.postgres.process = Process::Stopped;
            world.view.postgres.status = None;
        }
        5 => world.view.postgres.status = None,
        6 => {
            world.standby(draw.timeline, draw.end);
            world.view.postgres.process = Process::Starting;
            world.view.postgres.status = None;
        }
        8 => {
            world.view.postgres.process = Process::Starting;
            world.view.postgres.status = None;
            world.view.guardian.frozen = true;
        }
        _ => {
            world.status().end = regent_proto::Lsn::new(draw.end);
        }
    }
    if let Some(status) = &mut world.view.postgres.status {
        status.senders.insert("a2".to_owned(), sender(draw.confirmed));
    }
    world.policy.synchronous_mode = draw.synchronous;
    world.site().sync.leader = draw.sync_leader.map(name);
    world.site().initialize = match draw.initialize {
        0 => Initialize::Absent,
        1 => Initialize::Running,
        2 => Initialize::Unreadable,
        _ => Initialize::Done(name("7000000000000000001")),
    };
    world.view.job = draw.job.then_some(JobKind::Start);
    world.federation().primary_age = Duration::from_secs(draw.primary_age);
    world.federation().lease_age = Duration::from_secs(draw.primary_age / 2);
    switching(&mut world, draw);
    world
}

/// A request to switch over inside the site, and how far it is.
fn switching(world: &mut World, draw: &Draw) {
    let request = |leader: Option<&str>, candidate: Option<&str>| FailoverRequest {
        leader: leader.map(name),
        candidate: candidate.map(name),
        scheduled: None,
    };
    let value = match draw.request {
        0 => Some(request(Some("a1"), None)),
        1 => Some(request(Some("a2"), Some("a1"))),
        2 => Some(request(None, Some("a2"))),
        3 | 4 => Some(request(Some("a1"), Some("a2"))),
        _ => None,
    };
    world.site().failover = value.map(|value| At { value, revision: 90 });
    let since = NOW.minus(Duration::from_millis(100));
    let step = match draw.step {
        0 => None,
        1 => Some(SwitchingStep::Checkpointing { since }),
        2 => Some(SwitchingStep::Stopping),
        3 => Some(SwitchingStep::Stopped { since }),
        4 => Some(SwitchingStep::Released { since }),
        _ => Some(SwitchingStep::GivenUp(Dropped::NotConfirmed)),
    };
    world.memory.switching = step.map(|step| Switching {
        revision: 90,
        leader_revision: if draw.peers_age == 10 { 11 } else { 12 },
        streamed: (draw.request != 4).then(|| name("a2")).into_iter().collect(),
        step,
    });
    world.view.peers = draw.peers.map(|position| PeersView {
        age: Duration::from_millis(draw.peers_age),
        answers: [(
            name("a2"),
            PeerAnswer {
                without_data: false,
                primary: false,
                position: regent_proto::Lsn::new(position),
                timeline: Some(regent_proto::timeline::TimelineId(draw.timeline)),
                nofailover: false,
                failover_priority: 1,
                age: Some(Duration::ZERO),
                ancestry: Some(history(draw.timeline)),
            },
        )]
        .into(),
    });
}

/// What is done for a request alone (I12): the key is given up by a primary only once it has stopped
/// in order and a candidate has all of its WAL; a server that stopped in order opens without a
/// promotion only where this process stopped it, under this very key.
fn check_switching(world: &World, decision: &Decision) -> Result<(), TestCaseError> {
    let view = &world.view;
    let site = view.site.as_ref().expect("site");
    let holder = view.federation.as_ref().and_then(|f| f.primary.as_ref());
    let primary_site = holder.is_some_and(|primary| primary.value.holder.as_str() == "a");
    let DataDirectory::Cluster(control) = &view.postgres.data else { return Ok(()) };
    let key = site.leader.as_ref().map(|leader| leader.revision);
    for action in &decision.actions {
        if let Action::ClearFailover { revision } = action {
            prop_assert_eq!(site.failover.as_ref().map(|at| at.revision), Some(*revision));
            prop_assert!(site.leader.as_ref().is_some_and(|leader| leader.bound_to_my_lease));
        }
        if matches!(action, Action::Run(Job::StartPrimary { .. }))
            && control.state == ControlState::ShutDown
            && site.initialize != Initialize::Running
        {
            let mine = world.memory.switching.as_ref().is_some_and(|s| {
                matches!(s.step, SwitchingStep::GivenUp(_)) && Some(s.leader_revision) == key
            });
            prop_assert!(mine, "opens what it did not stop");
        }
    }
    // Nothing is drawn that has failed before, so every release is of a server that stopped in order.
    if decision.reason == Reason::Manual(Manual::Releasing) && primary_site {
        prop_assert_eq!(view.postgres.process, Process::Stopped);
        prop_assert_eq!(control.state, ControlState::ShutDown);
        prop_assert!(site.failover.as_ref().is_some_and(|at| at.revision == 90), "asked for");
        let begun = world.memory.switching.as_ref().expect("begun");
        prop_assert_eq!(Some(begun.leader_revision), key);
        let peers = view.peers.as_ref().expect("asked");
        let has_all = peers.answers.values().any(|answer| {
            answer.position >= control.end && answer.timeline == Some(control.ancestry.timeline)
        });
        prop_assert!(has_all, "nobody has it all");
        prop_assert!(!begun.streamed.is_empty(), "whoever has it may have it from another");
        if world.policy.synchronous_mode && site.sync.leader.is_some() {
            prop_assert!(!site.sync.standbys.is_empty(), "nobody could lead");
        }
    }
    if decision.reason == Reason::Manual(Manual::Stopping) {
        prop_assert_eq!(&decision.actions[..], &[Action::EndTenure, Action::Run(Job::Stop)]);
    }
    Ok(())
}

/// The whole of rule 8, read off the view independently of the decider.
fn may_open(world: &World) -> Result<(), &'static str> {
    let view = &world.view;
    let site = view.site.as_ref().ok_or("no site")?;
    let leader = site.leader.as_ref().ok_or("nobody leads")?;
    if leader.name != world.policy.me || !leader.bound_to_my_lease {
        return Err("the leader key is not ours");
    }
    if !view.tenure.site.lies_ahead(NOW) {
        return Err("the site deadline is past");
    }
    if site.mark.is_some() {
        return Err("the site is marked");
    }
    let federation = view.federation.as_ref().ok_or("no federation")?;
    let primary = federation.primary.as_ref().ok_or("primary unknown")?;
    if primary.value.state != PrimaryState::Open || primary.value.holder != federation.site {
        return Err("not open for this site");
    }
    let held = view.tenure.primary.as_ref().ok_or("no lease")?;
    if held.epoch != primary.value.epoch || !held.deadline.lies_ahead(NOW) {
        return Err("no lease of this epoch");
    }
    let in_site = &site.seen_epoch.as_ref().ok_or("epoch not in the site DCS")?.value;
    let DiskEpoch::Seen(on_disk) = &federation.disk_epoch else { return Err("not on disk") };
    if on_disk.epoch != primary.value.epoch || in_site.epoch != primary.value.epoch {
        return Err("epoch not persisted");
    }
    if let (Some(status), Some(floor)) = (&view.postgres.status, &primary.value.floor)
        && status.ancestry.contains(status.end, floor) != Containment::Contained
    {
        return Err("floor missing");
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only the edges have conditions of their own")]
fn check(world: &World, decision: &Decision) -> Result<(), TestCaseError> {
    let view = &world.view;
    let primary = view.federation.as_ref().and_then(|f| f.primary.as_ref());
    for (index, action) in decision.actions.iter().enumerate() {
        match action {
            Action::Promote | Action::Run(Job::StartPrimary { .. }) => {
                prop_assert_eq!(may_open(world), Ok(()), "opens");
            }
            Action::AcquirePrimary { .. } => {
                let primary = primary.expect("acquire needs a record");
                prop_assert!(matches!(primary.value.state, PrimaryState::Open));
                prop_assert_eq!(primary.value.holder.as_str(), "a");
                prop_assert!(view.site.as_ref().expect("site").mark.is_none(), "marked");
                prop_assert!(view.tenure.site.lies_ahead(NOW), "site key first");
                if let (Some(status), Some(floor)) = (&view.postgres.status, &primary.value.floor) {
                    let held = status.ancestry.contains(status.end, floor);
                    prop_assert_eq!(held, Containment::Contained, "floor before lease");
                }
                if view.guardian.frozen {
                    let disk = &view.federation.as_ref().expect("acquire needs one").disk_epoch;
                    let open_under = matches!(disk,
                        DiskEpoch::Seen(seen) if seen.epoch == primary.value.epoch);
                    prop_assert!(open_under, "frozen, and open under another epoch");
                }
            }
            Action::PostToken { primary_revision, .. } => {
                prop_assert!(view.postgres.process == Process::Stopped);
                let mark = view.site.as_ref().and_then(|s| s.mark.as_ref()).expect("marked");
                prop_assert_eq!(mark.value.primary_revision, *primary_revision);
                prop_assert_eq!(world.memory.marked, Some(*primary_revision));
                let clean = matches!(&view.postgres.data,
                    DataDirectory::Cluster(c) if c.state == ControlState::ShutDown);
                prop_assert!(clean, "a token needs a clean stop");
            }
            Action::Take { .. } => {
                let status = view.postgres.status.as_ref().expect("take needs a server");
                prop_assert!(status.in_recovery);
                let Some(PrimaryState::Token { to, token, .. }) = primary.map(|p| &p.value.state)
                else {
                    return Err(TestCaseError::fail("take without a token"));
                };
                prop_assert_eq!(to.as_str(), "a");
                prop_assert_eq!(status.end, token.end.position);
                prop_assert_eq!(status.ancestry.timeline, token.end.timeline);
            }
            Action::PromoteSite { end, loss, .. } => {
                let status = view.postgres.status.as_ref().expect("it needs a server");
                prop_assert!(status.in_recovery);
                let federation = view.federation.as_ref().expect("it needs one");
                let Some(PrimaryState::Fenced { to, accepted, .. }) =
                    primary.map(|p| &p.value.state)
                else {
                    return Err(TestCaseError::fail("promoted without a fence"));
                };
                prop_assert_eq!(to.as_str(), "a");
                prop_assert!(loss.is_within(accepted), "{} by {}", loss, accepted);
                let ttl_max = primary.expect("read").value.ttl_max;
                let waited = federation.primary_age.max(federation.lease_age);
                prop_assert!(waited >= LeaseTiming::wait_for(ttl_max), "a short wait");
                let held = status.ancestry.contains(status.replayed, end);
                prop_assert_eq!(held, Containment::Contained, "the new floor");
            }
            Action::WriteMark { .. } => {
                prop_assert_eq!(&decision.actions[index - 1], &Action::EndTenure);
            }
            Action::RollBack { .. } => {
                let state = primary.map(|p| &p.value.state);
                let movable = matches!(
                    state,
                    Some(PrimaryState::Handover { .. } | PrimaryState::Token { .. })
                );
                prop_assert!(movable && primary.is_some_and(|p| p.value.holder.as_str() == "a"));
            }
            Action::Run(Job::Initdb) => {
                let known = primary.and_then(|p| p.value.system_identifier);
                prop_assert_eq!(known, None, "a second database");
            }
            Action::EnterEpoch { seen, revision, clear_mark: None } => {
                check_entering(world, seen, *revision)?;
            }
            Action::EnterEpoch { seen, revision, clear_mark: Some(_) } => {
                check_entering(world, seen, *revision)?;
                let mark = view.site.as_ref().and_then(|s| s.mark.as_ref()).expect("a mark");
                let primary = primary.expect("a reading of primary");
                prop_assert!(primary.revision > mark.value.primary_revision);
                prop_assert!(matches!(primary.value.state, PrimaryState::Open));
                prop_assert_eq!(primary.value.holder.as_str(), "a");
            }
            _ => {}
        }
    }
    Ok(())
}

/// An epoch is written over what was read, never over a newer one, and where nothing is known only
/// by whoever has led without a break or makes the cluster.
fn check_entering(
    world: &World,
    entered: &regent_proto::record::SeenEpoch,
    revision: Option<u64>,
) -> Result<(), TestCaseError> {
    let site = world.view.site.as_ref().expect("site");
    let federation = world.view.federation.as_ref().expect("federation");
    let known = world.memory.entered.is_some();
    match (&site.seen_epoch, site.unreadable_epoch) {
        (Some(there), _) => {
            prop_assert_eq!(revision, Some(there.revision));
            prop_assert!(entered.epoch >= there.value.epoch, "goes back");
        }
        (None, unreadable) => {
            prop_assert_eq!(revision, unreadable);
            let makes = site.initialize == Initialize::Running && unreadable.is_none();
            prop_assert!(known || makes, "absent is not new");
        }
    }
    match &federation.disk_epoch {
        DiskEpoch::Seen(there) => prop_assert!(entered.epoch >= there.epoch, "goes back"),
        DiskEpoch::Unreadable(_) => prop_assert!(known, "unreadable is unknown"),
        DiskEpoch::Absent => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn every_edge_has_its_conditions(draw in draw()) {
        let world = world(&draw);
        let decision = world.decide();
        check(&world, &decision)?;
        check_switching(&world, &decision)?;
    }

    /// Whatever it holds, and whoever answers there, a cluster that follows another one opens nothing, and
    /// writes nothing that an opening begins with.
    #[test]
    fn a_standby_cluster_opens_nothing(
        draw in draw(),
        there in prop_oneof![Just(None), (1u32..6).prop_map(Some)],
    ) {
        let mut world = world(&draw);
        world.view.federation = None;
        world.view.tenure.primary = None;
        let section = remote(there.unwrap_or(1));
        let found = section.found.clone().filter(|_| there.is_some());
        world.view.remote = Some(RemoteView { found, ..section });
        for action in world.decide().actions {
            let opens = matches!(
                action,
                Action::Promote
                    | Action::WritePromotions { .. }
                    | Action::WriteSync { .. }
                    | Action::Run(Job::StartPrimary { .. } | Job::Initdb)
            );
            prop_assert!(!opens, "{action:?}");
        }
    }

    #[test]
    fn a_decision_is_a_function_of_its_arguments(draw in draw()) {
        let world = world(&draw);
        prop_assert_eq!(world.decide(), world.decide());
    }

    #[test]
    fn whoever_lost_the_leader_key_stops_writing(draw in draw()) {
        let world = world(&Draw { leader: Some("a2"), server: 7, job: false, ..draw });
        let actions = world.decide().actions;
        prop_assert_eq!(actions, vec![Action::EndTenure, Action::Run(Job::Stop)]);
    }
}
