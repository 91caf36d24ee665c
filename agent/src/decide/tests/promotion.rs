//! A promotion of this site: it takes primacy after the whole wait, within the accepted loss, and each
//! condition alone holds it.

use std::sync::Arc;
use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::promotion::{AcceptedLoss, Loss};
use regent_proto::record::{PrimaryState, Report, ReportedRole};
use regent_proto::time::{BootTime, LeaseTiming, WallTime};
use regent_proto::timeline::{HistoryPoint, TimelineId};

use super::world::{NOW, World, history, name, point, promotion, report, sender};
use crate::decide::{Action, Held, Reason, Unfit};

const S: fn(u64) -> Duration = Duration::from_secs;
/// As in these worlds.
const TTL: Duration = Duration::from_secs(15);

fn accept(max_age: Option<u64>) -> AcceptedLoss {
    let max_age_ms = max_age.map(|seconds| seconds * 1000);
    AcceptedLoss { max_age_ms, max_bytes: None, ..AcceptedLoss::default() }
}

fn fenced(world: &mut World, to: &str, accepted: AcceptedLoss) {
    world.state(PrimaryState::Fenced { to: name(to), operation: name("op-2"), accepted });
}

/// This site is fenced for; everything is confirmed, the wait is over, and the loss is 4 s.
fn about_to_promote() -> World {
    let mut world = World::new();
    world.held_by_b();
    fenced(&mut world, "a", accept(Some(4)));
    world.standby(3, 520);
    world.status().senders.insert("a2".to_owned(), sender(520));
    world.federation().primary_age = S(16);
    world.federation().lease_age = S(16);
    committed(&mut world, 5);
    b_reports(&mut world, |report| report.position = Some(Lsn::new(600)));
    world
}

/// The last commit that was replayed is so old.
fn committed(world: &mut World, seconds: u64) {
    let status = world.status();
    status.last_commit = Some(WallTime(status.wall.0 - seconds * 1000 + 1));
}

fn b_reports(world: &mut World, change: impl FnOnce(&mut Report)) {
    let reports = &mut world.federation().reports;
    change(Arc::make_mut(reports.get_mut(&name("b")).expect("the other site")));
}

fn promoted(world: &World) -> Option<(HistoryPoint, Loss)> {
    world.decide().actions.into_iter().find_map(|action| {
        if let Action::PromoteSite { end, loss, .. } = action { Some((end, loss)) } else { None }
    })
}

#[test]
fn a_site_that_is_fenced_for_takes_primacy_and_says_what_is_lost() {
    let world = about_to_promote();
    assert_eq!(world.decide().reason, Reason::PromotingSite);
    let loss = Loss { at_most: Some(S(4)), at_least_bytes: Some(80) };
    assert_eq!(promoted(&world), Some((point(3, 520), loss)));
}

/// What was received beyond the last whole record is not what a server opens with.
#[test]
fn the_new_floor_is_what_was_replayed() {
    let mut world = about_to_promote();
    world.status().replayed = Lsn::new(515);
    assert_eq!(promoted(&world).map(|(end, _)| end), Some(point(3, 515)));
}

#[test]
fn each_condition_alone_holds_a_promotion() {
    type Bend = fn(&mut World);
    let held = Reason::AwaitingPromotion;
    let cases: [(&str, Bend, Reason); 23] = [
        ("for another site", |w| fenced(w, "b", accept(None)), Reason::LeadingStandby),
        (
            "no more in the electorate",
            |w| assert!(w.primary().electorate.remove(&name("a"))),
            held(Held::NoMember),
        ),
        ("no guardian", |w| w.view.guardian.alive = false, Reason::NotCandidate(Unfit::NoGuardian)),
        ("too short a wait", |w| wait(w, S(15), S(15)), held(Held::OldLease)),
        (
            "its own promise lasts",
            |w| w.view.failsafe.takes_not_before = Some(NOW.plus(S(1))),
            Reason::AwaitingPromise,
        ),
        (
            "its standby has not confirmed",
            |w| {
                w.status().senders.insert("a2".to_owned(), sender(519));
            },
            Reason::AwaitingConfirmation,
        ),
        ("more than was accepted", |w| fenced(w, "a", accept(Some(3))), held(Held::Loss)),
        ("nothing was accepted", |w| fenced(w, "a", AcceptedLoss::default()), held(Held::Loss)),
        (
            "more bytes than were accepted",
            |w| fenced(w, "a", AcceptedLoss { max_bytes: Some(79), ..accept(None) }),
            held(Held::Loss),
        ),
        ("an older commit", |w| committed(w, 6), held(Held::Loss)),
        (
            "the holder told of more",
            |w| {
                committed(w, 3600);
                told(w, 5, 521);
            },
            held(Held::Loss),
        ),
        (
            "the holder told of it under another epoch",
            |w| {
                committed(w, 3600);
                told(w, 5, 520);
                b_reports(w, |report| report.epoch = Epoch::new(2));
            },
            held(Held::Loss),
        ),
        ("no commit is known", |w| w.status().last_commit = None, held(Held::Loss)),
        (
            "its promise may have let the old holder go on",
            |w| promise_ended(w, Duration::from_millis(999)),
            held(Held::Loss),
        ),
        ("another site has more", |w| third(w, 521), held(Held::Behind(name("c")))),
        ("another site does not tell what it has", |w| silent(w), held(Held::Untold(name("c")))),
        (
            "another site is on a later timeline that left this one's",
            |w| {
                third(w, 515);
                on_four(w, "c", 510);
            },
            held(Held::Behind(name("c"))),
        ),
        ("on a way that the holder left", |w| on_four(w, "b", 510), held(Held::Diverged)),
        ("on a timeline that the holder never saw", |w| b_on_two(w), held(Held::Diverged)),
        (
            "left before the floor",
            |w| {
                w.primary().floor =
                    Some(HistoryPoint { promotion: Some(name("x")), ..point(3, 510) })
            },
            held(Held::Diverged),
        ),
        (
            "its own timeline has no name",
            |w| w.status().ancestry.promotion = None,
            held(Held::Diverged),
        ),
        ("the site has seen more", |w| w.site_epoch().epoch = Epoch::new(4), Reason::EpochOlder),
        ("another member leads", |w| w.leader(Some("a2")), Reason::Following),
    ];
    for (what, bend, reason) in cases {
        let mut world = about_to_promote();
        bend(&mut world);
        let decision = world.decide();
        assert_eq!(promoted(&world), None, "{what}");
        // Whom a follower follows is of no interest here.
        if reason != Reason::Following {
            assert_eq!(decision.reason, reason, "{what}");
        }
    }
}

fn wait(world: &mut World, primary: Duration, lease: Duration) {
    world.federation().primary_age = primary;
    world.federation().lease_age = lease;
}

/// Only who writes can tell where the last commit ended: what a standby of the holder's site has, its
/// primary may have left far behind.
#[test]
fn what_a_standby_of_the_old_site_tells_bounds_no_loss() {
    let mut world = about_to_promote();
    told(&mut world, 1, 500);
    let by_the_primary = promoted(&world).expect("within what was accepted").1.at_most;
    b_reports(&mut world, |report| report.role = ReportedRole::Standby);
    let by_the_commits = promoted(&world).expect("within what was accepted").1.at_most;
    assert!(by_the_commits > by_the_primary, "{by_the_commits:?}, {by_the_primary:?}");
}

/// A server that is down tells no position: then no number of bytes is known to be enough.
#[test]
fn bytes_that_nobody_knows_are_within_no_bound() {
    let mut world = about_to_promote();
    b_reports(&mut world, |report| (report.position, report.position_at) = (None, None));
    let (_, loss) = promoted(&world).expect("only the age is bounded");
    assert_eq!(loss.at_least_bytes, None);
}

/// The holder's WAL ended there so long ago.
fn told(world: &mut World, seconds: u64, position: u64) {
    let at = WallTime(world.status().wall.0 - seconds * 1000 + 1);
    b_reports(world, |report| {
        report.role = ReportedRole::Primary;
        (report.position, report.position_at) = (Some(Lsn::new(position)), Some(at));
    });
}

/// The last promise of this site under this epoch ended so long ago.
fn promise_ended(world: &mut World, ago: Duration) {
    world.view.failsafe.last_promise_ends = Some(NOW.minus(ago));
}

/// A third site reports that it is there.
fn third(world: &mut World, position: u64) {
    let mut c = report("c", 3);
    c.position = Some(Lsn::new(position));
    world.federation().reports.insert(name("c"), Arc::new(c));
}

/// PostgreSQL of a third site's leader does not run.
fn silent(world: &mut World) {
    let mut c = report("c", 3);
    c.role = ReportedRole::Down;
    (c.position, c.ancestry) = (None, None);
    world.federation().reports.insert(name("c"), Arc::new(c));
}

/// A site is on timeline 4, which left this one's there.
fn on_four(world: &mut World, site: &str, left: u64) {
    let reports = &mut world.federation().reports;
    let report = Arc::make_mut(reports.get_mut(&name(site)).expect("it reports"));
    let ancestry = report.ancestry.as_mut().expect("reported");
    ancestry.switches.push(regent_proto::timeline::Switch {
        timeline: TimelineId(3),
        end: Lsn::new(left),
        promotion: promotion(3),
    });
    ancestry.timeline = TimelineId(4);
    ancestry.promotion = promotion(4);
}

fn b_on_two(world: &mut World) {
    b_reports(world, |report| report.ancestry = Some(history(2)));
    world.primary().floor = None;
}

#[test]
fn conditions_that_do_not_hold_a_promotion() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend); 12] = [
        ("its promise ended before the lease did", |w| promise_ended(w, S(3600))),
        ("its promise ended just when the lease did", |w| promise_ended(w, S(1))),
        ("all that the holder told of later is here", |w| {
            committed(w, 3600);
            told(w, 5, 520);
        }),
        ("any loss is accepted", |w| {
            fenced(w, "a", accept(None));
            w.status().last_commit = None;
        }),
        ("the lease stood still before the fence", |w| wait(w, S(1), S(16))),
        ("the lease cannot be told from its revision", |w| wait(w, S(16), S(1))),
        ("a third site has just as much", |w| third(w, 520)),
        ("one that has more is left out of account", |w| {
            third(w, 600);
            fenced(w, "a", AcceptedLoss { without: [name("c")].into(), ..accept(Some(4)) });
        }),
        ("one that tells nothing is left out of account", |w| {
            silent(w);
            fenced(w, "a", AcceptedLoss { without: [name("c")].into(), ..accept(Some(4)) });
        }),
        ("the holder's server is down, so it tells no history", |w| {
            b_reports(w, |report| {
                report.role = ReportedRole::Down;
                report.ancestry = None;
            });
        }),
        ("it has not reached the floor", |w| w.primary().floor = Some(point(3, 560))),
        ("nobody else is there to confirm", |w| {
            w.site().members.remove(&name::<NodeName>("a2"));
        }),
    ];
    for (what, bend) in cases {
        let mut world = about_to_promote();
        bend(&mut world);
        assert!(promoted(&world).is_some(), "{what}: {}", world.decide().reason);
    }
}

#[test]
fn the_whole_wait_is_waited_and_looked_at_when_it_ends() {
    let whole = LeaseTiming::wait_for(TTL);
    assert!(whole > TTL);
    let mut world = about_to_promote();
    let short = whole.checked_sub(Duration::from_millis(1)).expect("longer");
    wait(&mut world, short, short);
    let decision = world.decide();
    assert_eq!(decision.reason, Reason::AwaitingPromotion(Held::OldLease));
    let end: BootTime = NOW.plus(Duration::from_millis(1));
    assert_eq!(decision.wake_at, end);
    wait(&mut world, whole, Duration::ZERO);
    fenced(&mut world, "a", accept(None));
    assert!(promoted(&world).is_some());
}
