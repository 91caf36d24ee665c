//! A cluster of no federation that `standby_cluster` makes follow another one
//! (spec/patroni-compat.md 3.14): nothing of it opens, whoever leads it, until the section is gone.

use std::time::Duration;

use regent_proto::timeline::{Ancestry, TimelineId};

use super::world::{NOW, World, name, remote, sender};
use crate::decide::view::*;
use crate::decide::{Action, Job, PausedAs, Reason, Stranded};

fn target() -> Follow {
    let RemoteView { addresses, slot, .. } = remote(3);
    Follow::Remote { addresses, slot }
}

fn member(who: &str) -> Follow {
    Follow::Member { name: name(who), address: ("127.0.0.1".to_owned(), 6002) }
}

fn run(job: Job) -> Vec<Action> {
    vec![Action::Run(job)]
}

/// `a1` leads, of no federation, with the section.
fn leads() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.view.remote = Some(remote(3));
    world
}

/// And streams from there.
fn streams() -> World {
    let mut world = leads();
    world.standby(3, 500);
    world.view.postgres.follows = Some(target());
    world.site().sync = SyncView { revision: Some(20), ..SyncView::default() };
    world.status().receiver =
        Some(Receiver { host: "10.1.0.2".to_owned(), port: 5433, timeline: TimelineId(3) });
    world
}

/// And its stream has ended.
fn silent() -> World {
    let mut world = streams();
    world.status().receiver = None;
    world
}

fn found(world: &mut World) -> &mut RemoteFound {
    let remote = world.view.remote.as_mut().expect("these worlds have the section");
    remote.found.as_mut().expect("it has answered")
}

fn without_names(ancestry: &mut Ancestry) {
    ancestry.promotion = None;
    ancestry.switches.iter_mut().for_each(|switch| switch.promotion = None);
}

#[test]
fn a_standby_leader_that_streams_has_nothing_to_do_and_opens_only_without_the_section() {
    let quiet = streams().decide();
    assert_eq!((quiet.actions, quiet.reason), (vec![], Reason::LeadingStandby));
    // Everything of an opening holds.
    let mut world = streams();
    world.site().sync = World::new().site().sync.clone();
    world.status().senders.insert("a2".to_owned(), sender(500));
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    let stays = world.decide().actions;
    assert!(!stays.contains(&Action::Promote), "{stays:?}");
    world.view.remote = None;
    assert_eq!(world.decide().actions, vec![Action::Promote]);
}

#[test]
fn a_primary_that_gets_the_section_stops_writing_before_anything_else() {
    let mut world = leads();
    let stops = vec![Action::EndTenure, Action::Run(Job::Stop)];
    assert_eq!(world.decide().actions, stops);
    world.view.remote.as_mut().expect("there").found = None;
    assert_eq!(world.decide().actions, stops, "whoever answers there");
    // Somebody has promoted a standby leader by hand.
    let mut opened = streams();
    opened.status().in_recovery = false;
    assert_eq!(opened.decide().actions, stops);
}

/// Both are on the timeline that it wrote: whether that is one, a number does not tell.
#[test]
fn a_former_primary_follows_once_it_is_known_to_have_been_taken_over() {
    for (there, state, wanted) in [
        (4, ControlState::ShutDown, Reason::Starting),
        (3, ControlState::ShutDown, Reason::PromotionUnknown),
        (3, ControlState::ShutDownInRecovery, Reason::Starting),
        (2, ControlState::ShutDown, Reason::Rewinding),
    ] {
        let mut world = leads();
        world.view.remote = Some(remote(there));
        world.stopped(state, 3, 290);
        assert_eq!(world.decide().reason, wanted, "{there} {state:?}");
    }
    let mut world = leads();
    world.view.remote.as_mut().expect("there").found = None;
    world.stopped(ControlState::ShutDown, 3, 290);
    assert_eq!(world.decide().reason, Reason::AwaitingHistory);
    // One that was a standby serves reads until somebody answers.
    for state in [ControlState::ShutDownInRecovery, ControlState::InRecovery] {
        world.stopped(state, 3, 290);
        assert_eq!(world.decide().actions, run(Job::StartStandby(Follow::Nobody)));
    }
}

#[test]
fn a_new_standby_leader_turns_by_what_was_told_after_it_began_to_lead() {
    let mut world = silent();
    world.view.postgres.follows = Some(member("a2"));
    assert_eq!(world.decide().actions, vec![Action::Follow(target())]);
    // A word of before may be older than what has come since.
    world.view.now = NOW.plus(Duration::from_secs(1));
    let waits = world.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::AwaitingHistory));
    world.memory = waits.memory;
    world.view.now = NOW.plus(Duration::from_secs(2));
    found(&mut world).asked = NOW.plus(Duration::from_millis(1500));
    assert_eq!(world.decide().actions, vec![Action::Follow(target())]);
}

#[test]
fn what_the_other_cluster_never_had_is_rewound_but_not_by_an_old_word() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, bool); 5] = [
        ("the same", |_| {}, false),
        ("it left before", |w| found(w).ancestry = remote_history(4), true),
        ("it is on an older one", |w| found(w).ancestry = remote_history(2), true),
        ("no names on either side", |w| without_names(&mut w.status().ancestry), false),
        (
            "this one began elsewhere",
            |w| w.status().ancestry.switches[1].end = regent_proto::lsn::Lsn::new(190),
            true,
        ),
    ];
    for (what, bend, diverged) in cases {
        let mut world = silent();
        bend(&mut world);
        let wanted = if diverged { run(Job::Stop) } else { vec![] };
        assert_eq!(world.decide().actions, wanted, "{what}");
    }
    let mut streaming = streams();
    found(&mut streaming).ancestry = remote_history(2);
    assert_eq!(streaming.decide().actions, vec![], "it has heard of the promotion there");
    let mut stopped = leads();
    stopped.view.remote = Some(remote(4));
    stopped.stopped(ControlState::ShutDownInRecovery, 3, 500);
    assert_eq!(stopped.decide().actions, run(Job::Rewind(target())));
    stopped.policy.use_pg_rewind = false;
    stopped.policy.remove_on_diverged_timelines = false;
    assert_eq!(stopped.decide().reason, Reason::NotCopied(Stranded::RewindOff));
}

fn remote_history(timeline: u32) -> Ancestry {
    remote(timeline).found.expect("it answers").ancestry
}

#[test]
fn a_cluster_of_another_database_is_not_followed() {
    for mut world in [silent(), leads()] {
        if world.view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery) {
            world.stopped(ControlState::ShutDown, 3, 290);
        }
        found(&mut world).system_identifier = name("7000000000000000002");
        let decision = world.decide();
        assert_eq!(decision.actions, vec![]);
        let Reason::ForeignData(said) = &decision.reason else { panic!("{:?}", decision.reason) };
        assert!(said.starts_with("standby_cluster: "), "{said}");
    }
}

/// What was acknowledged under it may be here alone until the other cluster's WAL comes.
#[test]
fn the_record_of_synchronous_standbys_falls_once_it_streams() {
    let clears = |mut world: World| {
        world.site().sync = World::new().site().sync.clone();
        world.decide().actions.contains(&Action::ClearSync { revision: 20 })
    };
    assert!(clears(streams()));
    assert!(!clears(silent()));
}

#[test]
fn a_standby_leader_that_is_lost_is_followed_by_any_member() {
    let mut world = silent();
    world.leader(None);
    world.view.postgres.follows = Some(member("a2"));
    world.answers_like_us();
    world.site().leaderless = Duration::from_secs(1);
    // Of the time when this cluster wrote.
    world.site().sync.leader = Some(name("a9"));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    world.view.remote = None;
    assert_eq!(world.decide().actions, vec![], "it bars whom it does not name");
}

#[test]
fn members_follow_the_standby_leader_whose_timelines_nobody_named() {
    let mut world = silent();
    world.leader(Some("a2"));
    world.member("a2").role = "standby_leader".to_owned();
    assert_eq!(world.decide().actions, vec![Action::Follow(member("a2"))]);
    without_names(&mut world.status().ancestry);
    without_names(world.site().ancestry.as_mut().expect("there"));
    assert_eq!(world.decide().actions, vec![Action::Follow(member("a2"))]);
    // Elsewhere every timeline has its name, soon or late.
    world.view.remote = None;
    world.member("a2").role = "primary".to_owned();
    assert_eq!(world.decide().reason, Reason::PromotionUnknown);
}

/// The section was put back: its leader has left the timeline that this cluster began meanwhile.
#[test]
fn a_member_rewinds_from_a_timeline_that_its_leader_has_not_but_not_by_an_old_record() {
    let mut world = silent();
    world.leader(Some("a2"));
    world.site().ancestry = Some(remote_history(2));
    world.view.postgres.follows = Some(member("a2"));
    let waits = world.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::Following));
    world.memory = waits.memory;
    world.view.now = NOW.plus(Duration::from_secs(11));
    assert_eq!(world.decide().actions, run(Job::Stop));
    let (host, timeline) = ("127.0.0.1".to_owned(), TimelineId(3));
    world.status().receiver = Some(Receiver { host, port: 6002, timeline });
    assert_eq!(world.decide().actions, vec![], "its record is about to be written");
}

/// A node without data, and nobody leads.
fn empty(initialize: Initialize) -> World {
    let mut world = leads();
    world.leader(None);
    world.stopped(ControlState::ShutDown, 1, 100);
    world.view.postgres.data = DataDirectory::Empty;
    world.site().initialize = initialize;
    world
}

#[test]
fn the_cluster_is_made_as_a_copy_of_what_answers() {
    let copies = vec![Action::ClaimInitialize, Action::Run(Job::Clone(target()))];
    assert_eq!(empty(Initialize::Absent).decide().actions, copies);
    let mut silent = empty(Initialize::Absent);
    silent.view.remote.as_mut().expect("there").found = None;
    let waits = silent.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::AwaitingSource));
    // Without a host a method has to need none.
    let section = silent.view.remote.as_mut().expect("there");
    (section.addresses, section.slot) = (Vec::new(), None);
    let from = Follow::Remote { addresses: Vec::new(), slot: None };
    let copies = vec![Action::ClaimInitialize, Action::Run(Job::Clone(from))];
    assert_eq!(silent.decide().actions, copies);
    // Every copy of it is lost, and it is there again.
    let done = World::new().site().initialize.clone();
    let mut lost = empty(done.clone());
    lost.member("a2").state = "stopped".to_owned();
    assert_eq!(lost.decide().actions, run(Job::Clone(target())));
    found(&mut lost).system_identifier = name("7000000000000000002");
    assert_eq!(lost.decide().actions, vec![], "of another database");
    assert_eq!(empty(done).decide().actions, vec![], "a member that runs leads first");
}

#[test]
fn a_copy_that_fails_gives_the_claim_back() {
    let mut world = empty(Initialize::Absent);
    world.memory = world.decide().memory;
    world.site().initialize = Initialize::Running;
    world.view.postgres.data = DataDirectory::Incomplete;
    let problem = Some("no".to_owned());
    world.view.finished = Some(FinishedJob { job: JobKind::Clone, problem, untouched: false });
    assert_eq!(world.decide().actions, vec![Action::AbandonInitialize]);
}

#[test]
fn a_leader_without_data_leaves_the_key_to_others() {
    let mut world = leads();
    world.stopped(ControlState::ShutDown, 3, 290);
    world.view.postgres.data = DataDirectory::Empty;
    assert_eq!(world.decide().actions, vec![Action::ReleaseLeader]);
}

#[test]
fn from_an_archive_alone_it_recovers_without_asking_anybody() {
    let mut world = silent();
    world.view.remote = Some(RemoteView { addresses: Vec::new(), slot: None, found: None });
    let from = Follow::Remote { addresses: Vec::new(), slot: None };
    assert_eq!(world.decide().actions, vec![Action::Follow(from.clone())]);
    world.view.postgres.follows = Some(from.clone());
    let then = world.decide();
    assert_eq!((then.actions, then.reason), (vec![], Reason::LeadingStandby));
    world.stopped(ControlState::ShutDown, 3, 290);
    assert_eq!(world.decide().actions, run(Job::StartStandby(from)));
}

#[test]
fn in_a_pause_the_standby_leader_keeps_the_key_and_nothing_else_happens() {
    for mut world in [streams(), silent()] {
        world.policy.paused = true;
        let decision = world.decide();
        let wanted = (vec![], Reason::Paused(PausedAs::Leader));
        assert_eq!((decision.actions, decision.reason), wanted);
        // Taking the section away opens nothing before the pause ends.
        world.view.remote = None;
        assert_eq!(world.decide().actions, vec![Action::ReleaseLeader]);
    }
    let mut writes = leads();
    writes.policy.paused = true;
    assert_eq!(writes.decide().actions, vec![], "nor does it stop a primary");
}
