//! Callbacks (spec/patroni-compat.md 5.4): what is told over the life of a server, in order.

use super::world::{World, name};
use crate::decide::callbacks::{Callback, Told, ToldRole};
use crate::decide::view::*;

/// What a callback is given.
type Call = (Callback, ToldRole);

const PRIMARY: ToldRole = ToldRole::As(NodeRole::Primary);
const REPLICA: ToldRole = ToldRole::As(NodeRole::Replica);

fn primary() -> World {
    World::new()
}

fn replica() -> World {
    let mut world = World::new();
    world.standby(3, 500);
    world.leader(Some("a2"));
    world
}

/// A job of this kind has the server.
fn owned(mut world: World, job: JobKind) -> World {
    world.view.job = Some(job);
    world.view.postgres.status = None;
    world.view.postgres.process = Process::Starting;
    world
}

fn stopped(mut world: World) -> World {
    world.stopped(ControlState::ShutDown, 3, 500);
    world
}

/// The same in a restart.
fn restarting(mut world: World) -> World {
    world.view.requests.restarting = true;
    world
}

fn told(views: Vec<World>) -> Vec<Call> {
    let mut told = Told::default();
    views.into_iter().filter_map(|world| told.next(&name("a1"), &world.view)).collect()
}

#[test]
fn the_life_of_a_server_is_told_in_order() {
    use Callback::{Restart, RoleChange, Start, Stop};
    let cases: [(&str, Vec<World>, Vec<Call>); 10] = [
        ("found running", vec![primary(), primary()], vec![(Start, PRIMARY)]),
        ("a promotion", vec![replica(), primary()], vec![(Start, REPLICA), (RoleChange, PRIMARY)]),
        (
            "stopped by order, started as it was",
            vec![replica(), owned(replica(), JobKind::Stop), stopped(replica()), replica()],
            vec![(Start, REPLICA), (Stop, REPLICA), (Start, REPLICA)],
        ),
        (
            "a restart",
            vec![
                primary(),
                restarting(owned(primary(), JobKind::Stop)),
                restarting(stopped(primary())),
                restarting(owned(primary(), JobKind::Start)),
                primary(),
            ],
            vec![(Start, PRIMARY), (Restart, PRIMARY)],
        ),
        (
            "a restart in which another became primary",
            vec![
                primary(),
                restarting(owned(primary(), JobKind::Stop)),
                restarting(stopped(primary())),
                restarting(stopped(replica())),
                replica(),
            ],
            vec![(Start, PRIMARY), (RoleChange, REPLICA)],
        ),
        (
            "died, and started where it was",
            vec![primary(), stopped(primary()), owned(primary(), JobKind::Start), primary()],
            vec![(Start, PRIMARY), (Start, PRIMARY)],
        ),
        (
            "died, and another leads",
            vec![primary(), stopped(primary()), stopped(replica()), stopped(replica()), replica()],
            vec![(Start, PRIMARY), (RoleChange, ToldRole::Demoted), (RoleChange, REPLICA)],
        ),
        (
            "stopped by order as a primary",
            vec![
                primary(),
                owned(primary(), JobKind::Stop),
                stopped(replica()),
                stopped(replica()),
                replica(),
            ],
            vec![
                (Start, PRIMARY),
                (Stop, PRIMARY),
                (RoleChange, ToldRole::Demoted),
                (RoleChange, REPLICA),
            ],
        ),
        (
            "does not answer for a while",
            vec![primary(), owned(primary(), JobKind::CreateUsers), primary()],
            vec![(Start, PRIMARY)],
        ),
        ("stopped from the start", vec![stopped(primary())], vec![]),
    ];
    for (what, views, wanted) in cases {
        assert_eq!(told(views), wanted, "{what}");
    }
}

#[test]
fn nothing_is_told_while_the_cluster_is_made() {
    let mut made = primary();
    made.site().initialize = Initialize::Running;
    assert_eq!(told(vec![made.clone(), made]), vec![]);
    let mut unread = primary();
    unread.view.site = None;
    assert_eq!(told(vec![unread, primary()]), vec![(Callback::Start, PRIMARY)]);
}

#[test]
fn the_leader_of_a_standby_site_has_a_word_of_its_own() {
    let mut leads = World::new();
    leads.held_by_b();
    leads.standby(3, 500);
    let seen = told(vec![leads]);
    assert_eq!(seen, vec![(Callback::Start, ToldRole::As(NodeRole::StandbyLeader))]);
    assert_eq!(seen[0].1.word(), "standby_leader");
}
