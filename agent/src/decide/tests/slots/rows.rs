//! The rows of spec/patroni-compat.md 3.16, and of its sections 1.3 and 4 on slots.

use super::*;
use crate::decide::slots::Matcher;
use crate::decide::view::Follow;

type Bend = fn(&mut Node);
type Row = (&'static str, fn() -> Node, Bend, &'static [&'static str]);

/// Of each row of spec 3.16: what is so, beside a node that has nothing to do, and what follows.
fn table(cases: &[Row]) {
    for (what, node, bend, wanted) in cases {
        let mut node = node();
        assert_eq!(node.words(), Vec::<String>::new(), "{what}: nothing to do before");
        bend(&mut node);
        assert_eq!(node.words(), *wanted, "{what}");
    }
}

/// Spec 3.16: "Leader creates slots for members that stream from it".
#[test]
fn the_leader_keeps_a_slot_for_every_member_that_streams() {
    table(&[
        ("missing", Node::leader, |n| drop(n.status.slots.remove("a2")), &["create a2: Member"]),
        (
            "nostream: nobody streams",
            Node::leader,
            |n| {
                n.member("a2").nostream = true;
                n.slot("a2").active = false;
                n.managed.insert("a2".to_owned());
            },
            &["drop a2: Unneeded"],
        ),
        (
            "replicatefrom another: kept, and moved to where it is",
            Node::leader,
            |n| {
                n.member("a3").replicatefrom = Some(name("a2"));
                n.member("a3").position = Some(lsn(950));
                n.slot("a3").active = false;
            },
            &["advance a3 to 950: Told"],
        ),
        (
            "replicatefrom another, without retention: not kept",
            Node::leader,
            |n| {
                n.rules.member_ttl = Duration::ZERO;
                n.member("a3").replicatefrom = Some(name("a2"));
                n.slot("a3").active = false;
                n.managed.insert("a3".to_owned());
            },
            &["drop a3: Unneeded"],
        ),
        (
            "replicatefrom somebody who is not there: it streams from the leader",
            Node::leader,
            |n| {
                n.rules.member_ttl = Duration::ZERO;
                n.member("a3").replicatefrom = Some(name("a9"));
                n.status.slots.remove("a3");
            },
            &["create a3: Member"],
        ),
        (
            "a node of another site",
            Node::leader,
            |n| {
                n.downstream.insert("b1".to_owned());
            },
            &["create b1: Downstream"],
        ),
        (
            "use_slots off",
            Node::leader,
            |n| {
                n.rules.use_slots = false;
                n.slot("a2").active = false;
                n.managed.insert("a2".to_owned());
            },
            &["drop a2: Unneeded"],
        ),
        (
            "names that mean two members",
            Node::leader,
            |n| {
                let member = n.members[&name::<NodeName>("a2")].clone();
                n.members.insert(name("A2"), member);
            },
            &["warn a2: SharedName([NodeName(\"A2\"), NodeName(\"a2\")])"],
        ),
    ]);
}

/// Whoever leads another site streams from here, and the rest of that site from it.
#[test]
fn slots_of_a_downstream_site_keep_what_its_nodes_lack() {
    table(&[
        (
            "the leader of another site, which is away: it keeps what that one lacks",
            Node::leader,
            |n| {
                n.downstream.insert("b1".to_owned());
                n.status.slots.insert("b1".to_owned(), at(Slot::physical(false), 500));
            },
            &[],
        ),
        (
            "another node of that site, which streams there: kept, and moved to where it is",
            Node::leader,
            |n| {
                n.downstream.insert("b2".to_owned());
                n.idle.insert("b2".to_owned(), lsn(950));
                n.status.slots.insert("b2".to_owned(), at(Slot::physical(false), 500));
            },
            &["advance b2 to 950: Told"],
        ),
        (
            "the same, which has come further than this node",
            Node::leader,
            |n| {
                n.downstream.insert("b2".to_owned());
                n.idle.insert("b2".to_owned(), lsn(2000));
                n.status.slots.insert("b2".to_owned(), at(Slot::physical(false), 500));
            },
            &["advance b2 to 1000: Told"],
        ),
        (
            "the same, but it streams from here",
            Node::leader,
            |n| {
                n.downstream.insert("b2".to_owned());
                n.idle.insert("b2".to_owned(), lsn(950));
                n.status.slots.insert("b2".to_owned(), at(Slot::physical(true), 500));
            },
            &[],
        ),
    ]);
}

/// Spec 3.16: "every promotable node keeps slots for all other members plus `retain_slots`, advancing
/// inactive ones to the LSN in `status`".
#[test]
fn a_node_that_could_lead_keeps_all_slots_where_the_leader_has_published_them() {
    table(&[
        (
            "missing, the leader's among them",
            Node::follower,
            |n| n.status.slots.clear(),
            &["create a2: Member", "create a3: Member"],
        ),
        (
            "published further on",
            Node::follower,
            |n| {
                n.published.insert("a3".to_owned(), lsn(700));
            },
            &["advance a3 to 700: Published"],
        ),
        (
            "never further than this node has replayed",
            Node::follower,
            |n| {
                n.status.replayed = lsn(600);
                n.published.insert("a3".to_owned(), lsn(700));
            },
            &["advance a3 to 600: Published"],
        ),
        (
            "not back",
            Node::follower,
            |n| {
                n.published.insert("a3".to_owned(), lsn(300));
            },
            &[],
        ),
        (
            "somebody streams through it",
            Node::follower,
            |n| {
                n.slot("a3").active = true;
                n.published.insert("a3".to_owned(), lsn(700));
            },
            &[],
        ),
        (
            "not again so soon",
            Node::follower,
            |n| {
                n.due = false;
                n.published.insert("a3".to_owned(), lsn(700));
            },
            &[],
        ),
        (
            "its own cascade is left to itself",
            Node::follower,
            |n| {
                n.member("a3").replicatefrom = Some(name("a1"));
                n.published.insert("a3".to_owned(), lsn(700));
            },
            &[],
        ),
        (
            "nofailover: only those that stream from it",
            Node::follower,
            |n| {
                n.nofailover = true;
                n.member("a3").replicatefrom = Some(name("a1"));
                n.managed.extend(["a2".to_owned(), "a3".to_owned()]);
            },
            &["drop a2: Unneeded"],
        ),
        (
            "a member that is away",
            Node::follower,
            |n| {
                n.retained.insert("a4".to_owned());
            },
            &["create a4: Retained"],
        ),
        (
            "itself is never kept",
            Node::follower,
            |n| {
                n.retained.insert("a1".to_owned());
            },
            &[],
        ),
        (
            "no retention: only cascades",
            Node::follower,
            |n| {
                n.rules.member_ttl = Duration::ZERO;
                n.managed.extend(["a2".to_owned(), "a3".to_owned()]);
            },
            &["drop a2: Unneeded", "drop a3: Unneeded"],
        ),
    ]);
}

/// Spec 3.16: "Physical slots with xmin that should be inactive, lost slots, and unknown slots (unless
/// ignore_slots / pause / failover=true logical on 17+) are dropped".
#[test]
fn what_nobody_can_use_goes() {
    table(&[
        (
            "holds back vacuum on a node that follows",
            Node::follower,
            |n| n.slot("a3").holds_xmin = true,
            &["drop a3: HoldsXmin", "create a3: Member"],
        ),
        (
            "holds back vacuum on the leader: its member is away, and comes back through it",
            Node::leader,
            |n| {
                n.slot("a3").active = false;
                n.slot("a3").holds_xmin = true;
            },
            &[],
        ),
        (
            "lost",
            Node::leader,
            |n| {
                n.slot("a3").active = false;
                n.slot("a3").wal = WalStatus::Lost;
            },
            &["drop a3: Lost", "create a3: Member"],
        ),
        (
            "lost, in a pause",
            Node::leader,
            |n| {
                n.paused = true;
                n.slot("a3").active = false;
                n.slot("a3").wal = WalStatus::Lost;
            },
            &[],
        ),
        (
            "unknown, for a while",
            Node::leader,
            |n| {
                n.status.slots.insert("x".to_owned(), Slot::physical(false));
                n.unknown_for.insert("x".to_owned(), Duration::from_secs(1799));
            },
            &["warn x: Stranger"],
        ),
        (
            "unknown for member_slots_ttl",
            Node::leader,
            |n| {
                n.status.slots.insert("x".to_owned(), Slot::physical(false));
                n.unknown_for.insert("x".to_owned(), Duration::from_secs(1800));
            },
            &["drop x: Unknown"],
        ),
        (
            "unknown and used",
            Node::leader,
            |n| drop(n.status.slots.insert("x".to_owned(), Slot::physical(true))),
            &[],
        ),
        (
            "unknown, in a pause",
            Node::leader,
            |n| {
                n.paused = true;
                n.status.slots.insert("x".to_owned(), Slot::physical(false));
                n.managed.insert("x".to_owned());
            },
            &[],
        ),
    ]);
}

/// The same row's "unless".
#[test]
fn others_slots_stay() {
    table(&[
        (
            "ignored, by each thing that a matcher can say",
            Node::leader,
            |n| {
                let plain = Matcher::default();
                let text = |text: &str| Some(text.to_owned());
                n.rules.ignored = vec![
                    Matcher { name: text("x"), physical: Some(true), ..plain.clone() },
                    Matcher { plugin: text("wal2json"), ..plain.clone() },
                    Matcher { database: text("theirs"), physical: Some(false), ..plain },
                ];
                n.status.slots.insert("x".to_owned(), Slot::physical(false));
                let other = |database: &str, plugin: &str| {
                    let kind =
                        Kind::Logical { database: database.to_owned(), plugin: plugin.to_owned() };
                    made(&kind, lsn(1), Origin::Own)
                };
                n.status.slots.insert("y".to_owned(), other("app", "wal2json"));
                n.status.slots.insert("z".to_owned(), other("theirs", "pgoutput"));
                n.managed.extend(["x", "y", "z"].map(str::to_owned));
            },
            &[],
        ),
        (
            "a matcher of which one thing is not so",
            Node::leader,
            |n| {
                let name = Some("x".to_owned());
                n.rules.ignored =
                    vec![Matcher { name, physical: Some(false), ..Matcher::default() }];
                n.status.slots.insert("x".to_owned(), Slot::physical(false));
                n.managed.insert("x".to_owned());
            },
            &["drop x: Unneeded"],
        ),
        (
            "a failover slot of PostgreSQL 17",
            Node::follower,
            |n| {
                let slot = Slot { failover: true, ..copy(1, Origin::Own) };
                n.status.slots.insert("x".to_owned(), slot);
                n.managed.insert("x".to_owned());
            },
            &[],
        ),
    ]);
}

/// Spec 3.16 and section 4, `slots`: permanent slots.
#[test]
fn permanent_slots_are_on_every_node_that_could_lead() {
    let physical: Bend = |n| {
        n.rules.permanent.insert("backup".to_owned(), permanent(Kind::Physical));
    };
    table(&[
        ("physical, on the leader", Node::leader, physical, &["create backup: Permanent"]),
        (
            "physical, on a node that follows",
            Node::follower,
            physical,
            &["create backup: Permanent"],
        ),
        ("not on one that never leads", || Node { nofailover: true, ..cascaded() }, physical, &[]),
        (
            "only in a standby site",
            Node::leader,
            |n| {
                let slot =
                    Permanent { only: Some(ClusterType::Standby), ..permanent(Kind::Physical) };
                n.rules.permanent.insert("there".to_owned(), slot);
            },
            &[],
        ),
        (
            "by the node's own name",
            Node::leader,
            |n| drop(n.rules.permanent.insert("a1".to_owned(), permanent(Kind::Physical))),
            &[],
        ),
        (
            "logical by a member's name",
            Node::leader,
            |n| drop(n.rules.permanent.insert("a2".to_owned(), permanent(logical()))),
            &["warn a2: NodesName"],
        ),
        (
            "physical that is logical already",
            Node::leader,
            |n| {
                n.rules.permanent.insert("x".to_owned(), permanent(Kind::Physical));
                n.status.slots.insert("x".to_owned(), copy(1, Origin::Own));
            },
            &["warn x: OtherKind"],
        ),
    ]);
}

/// A node that follows, with nothing but the slot of one that streams from it.
fn cascaded() -> Node {
    let mut node = Node::follower();
    node.member("a3").replicatefrom = Some(name("a1"));
    node.status.slots.remove("a2");
    node
}

/// Spec 3.16: "Permanent logical slots: created on primary; copied to standbys (state file read via SQL,
/// PG restarted), advanced each cycle".
#[test]
fn permanent_logical_slots_are_made_by_the_primary_and_copied_by_the_others() {
    let wanted: Bend = |n| drop(n.rules.permanent.insert("cdc".to_owned(), permanent(logical())));
    table(&[
        ("made", Node::leader, wanted, &["create cdc: Permanent"]),
        (
            "not made anew where its consumer would miss something",
            Node::leader,
            |n| {
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &["warn cdc: Gap(Lsn(400))"],
        ),
        (
            "wal_level",
            Node::leader,
            |n| {
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.status.wal_logical = false;
            },
            &["warn cdc: WalLevel"],
        ),
        ("the leader has not made it yet", Node::follower, wanted, &[]),
        (
            "copied",
            Node::follower,
            |n| {
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &["copy cdc: Missing"],
        ),
        (
            "not in a pause",
            Node::follower,
            |n| {
                n.paused = true;
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &[],
        ),
        (
            "not while it does not stream",
            Node::follower,
            |n| {
                n.status.receiver = None;
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &[],
        ),
        (
            "not from a leader that is Patroni's: it could not be judged",
            Node::follower,
            |n| {
                n.member("a2").horizon = None;
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &[],
        ),
        (
            "in a standby site there is none",
            Node::follower,
            |n| {
                n.cluster = ClusterType::Standby;
                n.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
                n.published.insert("cdc".to_owned(), lsn(400));
            },
            &[],
        ),
    ]);
}

/// The same row's "advanced each cycle", and what becomes of a copy that is not good.
#[test]
fn copies_of_logical_slots_are_moved_and_bad_ones_replaced() {
    let with = || {
        let mut node = Node::follower().with_logical();
        node.status.slots.insert("cdc".to_owned(), copy(400, Origin::Proven));
        node.published.insert("cdc".to_owned(), lsn(400));
        node
    };
    table(&[
        (
            "moved",
            with,
            |n| {
                n.published.insert("cdc".to_owned(), lsn(450));
            },
            &["advance cdc to 450: Published"],
        ),
        (
            "of a time when this node was the primary",
            with,
            |n| n.slot("cdc").origin = Origin::Own,
            &["copy cdc: NotCopied"],
        ),
        ("lost", with, |n| n.slot("cdc").invalid = true, &["copy cdc: Lost"]),
        (
            "another plugin",
            with,
            |n| n.slot("cdc").plugin = Some("test_decoding".to_owned()),
            &["copy cdc: Changed"],
        ),
        (
            "found safe",
            with,
            |n| {
                n.slot("cdc").origin = Origin::Copied;
                n.ready.insert("cdc".to_owned());
            },
            &["prove cdc: Proven"],
        ),
        ("not found safe yet", with, |n| n.slot("cdc").origin = Origin::Copied, &[]),
        (
            "nothing moved it for member_slots_ttl, and the leader has it no more",
            with,
            |n| {
                n.slot("cdc").origin = Origin::Own;
                n.published.clear();
                n.unknown_for.insert("cdc".to_owned(), Duration::from_secs(1800));
            },
            &["drop cdc: NotCopied"],
        ),
        (
            "that, in a pause",
            with,
            |n| {
                n.paused = true;
                n.slot("cdc").origin = Origin::Own;
                n.unknown_for.insert("cdc".to_owned(), Duration::from_secs(1800));
            },
            &[],
        ),
        (
            "no longer wanted",
            with,
            |n| {
                n.rules.permanent.clear();
                n.managed.insert("cdc".to_owned());
            },
            &["drop cdc: Unneeded"],
        ),
    ]);
}

/// Hazards.md, fact 32: feedback of a far site bloats the primary while the link is down.
#[test]
fn feedback_is_for_copies_only() {
    let member = Follow::Member { name: name("a2"), address: ("h".to_owned(), 1) };
    let far = Follow::Site { site: name("b"), addresses: vec![("h".to_owned(), 1)] };
    let with = Node::follower().with_logical().rules;
    let without = Node::follower().rules;
    for (follows, wanted) in
        [(None, true), (Some(&Follow::Nobody), true), (Some(&member), true), (Some(&far), false)]
    {
        assert_eq!(with.want_feedback(follows), wanted, "{follows:?}");
        assert!(!without.want_feedback(follows), "{follows:?}");
    }
}

/// What could not be dropped before the node opened goes as soon as nobody uses it.
#[test]
fn an_unsafe_copy_does_not_stay_on_a_primary() {
    let with = || {
        let mut node = Node::leader().with_logical();
        node.status.slots.insert("cdc".to_owned(), copy(400, Origin::Own));
        node.published.insert("cdc".to_owned(), lsn(400));
        node
    };
    table(&[
        (
            "left over",
            with,
            |n| n.slot("cdc").origin = Origin::Unsafe,
            &["drop cdc: Unsafe", "warn cdc: Gap(Lsn(400))"],
        ),
        (
            "used",
            with,
            |n| {
                n.slot("cdc").origin = Origin::Unsafe;
                n.slot("cdc").active = true;
            },
            &["warn cdc: Unsafe"],
        ),
        (
            "in a pause",
            with,
            |n| {
                n.slot("cdc").origin = Origin::Unsafe;
                n.paused = true;
            },
            &["warn cdc: Unsafe"],
        ),
    ]);
}

/// Spec 1.3: `status`.
#[test]
fn the_leader_publishes_where_its_slots_are_and_where_it_is() {
    let mut node = Node::leader().with_logical();
    node.status.slots.insert("cdc".to_owned(), copy(777, Origin::Own));
    node.status.slots.insert("x".to_owned(), at(Slot::physical(false), 5));
    let positions = |pairs: &[(&str, u64)]| -> BTreeMap<String, Lsn> {
        pairs.iter().map(|(name, at)| ((*name).to_owned(), lsn(*at))).collect()
    };
    let all = positions(&[("a1", 1000), ("a2", 900), ("a3", 900), ("cdc", 777)]);
    assert_eq!(node.given().positions(), all);
    // What is known of a permanent logical slot outlives the slot: its consumer asks from there on.
    node.status.slots.remove("cdc");
    node.published.insert("cdc".to_owned(), lsn(750));
    assert_eq!(node.given().positions().get("cdc"), Some(&lsn(750)));
    node.rules.member_ttl = Duration::ZERO;
    assert_eq!(node.given().positions(), positions(&[("cdc", 750)]));
}
