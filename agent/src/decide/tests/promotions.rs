//! I14: the same timeline number from two promotions is not the same history, and an id that is
//! missing is no proof.

use std::time::Duration;

use regent_proto::timeline::TimelineId;

use super::world::{NOW, World, history, name, point, sender};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

/// Stopped on timeline 3, which another member leads too.
fn comes_back(id: Option<&str>, state: ControlState, end: u64) -> World {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.stopped(state, 3, end);
    if let DataDirectory::Cluster(control) = &mut world.view.postgres.data {
        control.ancestry.promotion = id.map(name);
    }
    world
}

const STATES: [ControlState; 4] = [
    ControlState::ShutDown,
    ControlState::ShutDownInRecovery,
    ControlState::InRecovery,
    ControlState::InProduction,
];

#[test]
fn the_same_number_of_another_promotion_is_copied_anew_whatever_the_state() {
    for state in STATES {
        let same = comes_back(Some("p3"), state, 310).decide();
        assert!(matches!(same.actions[..], [Action::Run(Job::StartStandby(_))]), "{same:?}");
        let other = comes_back(Some("q3"), state, 310).decide();
        assert_eq!(other.reason, Reason::OtherPromotion, "{state:?}");
        assert!(matches!(other.actions[..], [Action::Run(Job::Clone(_))]), "{other:?}");
    }
}

#[test]
fn without_the_id_nothing_is_followed_and_after_a_while_it_is_copied() {
    for state in STATES {
        let mut world = comes_back(None, state, 310);
        let first = world.decide();
        assert_eq!((first.actions, first.reason), (vec![], Reason::PromotionUnknown), "{state:?}");
        world.memory = first.memory;
        world.view.now = NOW.plus(Duration::from_secs(10));
        let later = world.decide();
        assert!(matches!(later.actions[..], [Action::Run(Job::Clone(_))]), "{later:?}");
        // Its own word came, or the upstream's: nothing is copied.
        world.view.now = NOW.plus(Duration::from_secs(9));
        let mut known = world.clone();
        if let DataDirectory::Cluster(control) = &mut known.view.postgres.data {
            control.ancestry.promotion = Some(name("p3"));
        }
        assert!(matches!(known.decide().actions[..], [Action::Run(Job::StartStandby(_))]));
        assert_eq!(known.decide().memory.unknown_since, None);
    }
    // The upstream's is missing just as well.
    let mut world = comes_back(Some("p3"), ControlState::ShutDown, 310);
    world.site().ancestry.as_mut().expect("published").promotion = None;
    assert_eq!(world.decide().reason, Reason::PromotionUnknown);
}

#[test]
fn a_running_standby_leaves_another_history_and_turns_to_nothing_unknown() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.standby(3, 310);
    assert_eq!(world.decide().reason, Reason::Turning);
    world.status().ancestry.promotion = Some(name("q3"));
    assert_eq!(world.decide().actions, vec![Action::Run(Job::Stop)]);
    world.status().ancestry.promotion = None;
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], Reason::PromotionUnknown));
    world.status().ancestry.promotion = Some(name("p3"));
    world.site().ancestry = None;
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], Reason::AwaitingHistory));
}

/// Cut off, two nodes promote from one point; one of them twice. Its number is the higher one then, and
/// it waited for a word of the leader that never came (simulator, seed 792).
#[test]
fn a_lower_number_of_another_promotion_is_another_history() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.standby(3, 310);
    let mut leader = history(2);
    world.site().ancestry = Some(leader.clone());
    assert_eq!(world.decide().reason, Reason::Turning, "its word is from before the promotion");
    leader.promotion = Some(name("q2"));
    world.site().ancestry = Some(leader.clone());
    assert_eq!(world.decide().actions, vec![Action::Run(Job::Stop)]);
    world.stopped(ControlState::ShutDownInRecovery, 3, 310);
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::OtherPromotion);
    assert!(matches!(decision.actions[..], [Action::Run(Job::Clone(_))]), "{decision:?}");
}

/// An id that cannot be read costs a standby nothing that it has.
#[test]
fn a_standby_whose_id_is_missing_stays_with_the_leader_that_it_streams_from() {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.standby(3, 310);
    let followed = world.decide().actions;
    let [Action::Follow(target @ Follow::Member { address: (host, port), .. })] = &followed[..]
    else {
        panic!("{followed:?}");
    };
    world.status().ancestry.promotion = None;
    let receiver = Receiver { host: host.clone(), port: *port, timeline: TimelineId(3) };
    // Turned already, and it receives: nothing happens, however long the id is missing.
    let mut turned = world.clone();
    turned.view.postgres.follows = Some(target.clone());
    let mut stalled = turned.clone();
    turned.status().receiver = Some(receiver.clone());
    for seconds in [0, 10, 100] {
        turned.view.now = NOW.plus(Duration::from_secs(seconds));
        let decision = turned.decide();
        assert!(!decision.actions.iter().any(|action| matches!(action, Action::Run(_))));
        assert_ne!(decision.reason, Reason::PromotionUnknown);
        turned.memory = decision.memory;
    }
    // It receives nothing, for longer than its upstream can be down: that may be another server by now.
    for (seconds, stops) in [(0, false), (59, false), (60, true)] {
        stalled.view.now = NOW.plus(Duration::from_secs(seconds));
        let decision = stalled.decide();
        assert_eq!(decision.reason, Reason::PromotionUnknown);
        assert_eq!(decision.actions == vec![Action::Run(Job::Stop)], stops, "{seconds} s");
        stalled.memory = decision.memory;
    }
    world.status().receiver = Some(receiver.clone());
    assert_eq!(world.decide().actions, followed);
    let mut other = world.clone();
    other.status().receiver = Some(Receiver { port: port + 1, ..receiver.clone() });
    assert_eq!(other.decide().reason, Reason::PromotionUnknown, "from somebody else");
    world.status().receiver = Some(Receiver { timeline: TimelineId(2), ..receiver });
    assert_eq!(world.decide().reason, Reason::PromotionUnknown, "an older timeline");
}

#[test]
fn a_writer_names_its_timeline_and_tells_the_quorum() {
    let mut world = World::new();
    world.status().ancestry.promotion = None;
    assert_eq!(world.decide().actions, vec![], "its WAL has not been looked through");
    world.status().name_sought = true;
    assert_eq!(world.decide().actions, vec![Action::NamePromotion]);
    // Unnamed it hands nothing over: nobody could tell the token's timeline.
    world.handover("b");
    assert_eq!(world.decide().reason, Reason::RollingBack);
    // The first timeline has no promotion.
    let mut first = World::new();
    first.primary().floor = None;
    first.status().ancestry = history(1);
    assert_eq!(first.decide().reason, Reason::Leading);
}

#[test]
fn a_token_without_or_with_another_id_is_not_taken() {
    let mut world = World::new();
    world.held_by_b();
    world.token("a", point(3, 520));
    world.standby(3, 520);
    world.status().senders.insert("a2".to_owned(), sender(520));
    assert_eq!(world.decide().reason, Reason::Taking);
    for id in [None, Some(name("q3"))] {
        let mut other = world.clone();
        other.status().ancestry.promotion = id.clone();
        assert_eq!(other.decide().reason, Reason::AwaitingToken, "mine {id:?}");
        let mut token = point(3, 520);
        token.promotion = id.clone();
        let mut other = world.clone();
        other.token("a", token);
        assert_eq!(other.decide().reason, Reason::AwaitingToken, "the token's {id:?}");
    }
}

#[test]
fn a_floor_of_another_or_an_unknown_promotion_is_not_contained() {
    for id in [None, Some(name("q3"))] {
        let mut world = World::new();
        world.standby(3, 500);
        world.primary().floor = Some(point(3, 400));
        world.status().ancestry.promotion = id.clone();
        assert_eq!(world.decide().reason, Reason::LacksFloor, "{id:?}");
    }
    let mut earlier = World::new();
    earlier.standby(3, 500);
    for switch in &mut earlier.status().ancestry.switches {
        if switch.timeline == TimelineId(2) {
            switch.promotion = None;
        }
    }
    assert_eq!(earlier.decide().reason, Reason::LacksFloor, "the floor lies on timeline 2");
}

/// A running primary is stopped by a floor that it certainly lacks, not by an id that it lost.
#[test]
fn a_primary_whose_id_is_missing_goes_on() {
    let mut world = World::new();
    world.primary().floor = Some(point(3, 300));
    assert_eq!(world.decide().reason, Reason::Leading);
    world.status().ancestry.promotion = Some(name("q3"));
    assert_eq!(world.decide().reason, Reason::LacksFloor);
    assert!(world.decide().actions.contains(&Action::Run(Job::Stop)));
    world.status().ancestry.promotion = None;
    assert_eq!(world.decide().reason, Reason::Leading);
}
