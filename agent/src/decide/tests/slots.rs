//! Slots: what a node plans in named situations (spec/patroni-compat.md 3.16, row by row), and what holds
//! of every plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::TimelineId;

use super::world::{NOW, World, name, status};
use crate::decide::slots::readiness::{Horizon, Xid};
use crate::decide::slots::{
    ClusterType, Given, Kind, Matcher, Permanent, Planned, Rules, Step, Why, plan, told,
};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

/// A node of `a1`, `a2` and `a3`, and what it knows.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a node")]
struct Node {
    rules: Rules,
    me: NodeName,
    nofailover: bool,
    leads: bool,
    cluster: ClusterType,
    paused: bool,
    due: bool,
    leader: NodeName,
    members: BTreeMap<NodeName, Arc<Member>>,
    downstream: BTreeSet<String>,
    retained: BTreeSet<String>,
    managed: BTreeSet<String>,
    unknown_for: BTreeMap<String, Duration>,
    published: BTreeMap<String, Lsn>,
    status: Status,
    ready: BTreeSet<String>,
}

fn lsn(at: u64) -> Lsn {
    Lsn::new(at)
}

fn logical() -> Kind {
    Kind::Logical { database: "app".to_owned(), plugin: "pgoutput".to_owned() }
}

fn permanent(kind: Kind) -> Permanent {
    Permanent { kind, only: None, wal_budget: None }
}

impl Node {
    /// `a1` leads, `a2` and `a3` are members; everything that is wanted is there.
    fn leader() -> Self {
        let world = World::new();
        let a2 = world.view.site.as_ref().expect("a site").members[&name::<NodeName>("a2")].clone();
        let members = ["a1", "a2", "a3"].map(|who| (name::<NodeName>(who), a2.clone()));
        let mut status = status(false, 3, 1000);
        status.wal_logical = true;
        for slot in ["a2", "a3"] {
            status.slots.insert(slot.to_owned(), at(Slot::physical(true), 900));
        }
        Self {
            rules: Rules::default(),
            me: name("a1"),
            nofailover: false,
            leads: true,
            cluster: ClusterType::Primary,
            paused: false,
            due: true,
            leader: name("a1"),
            members: members.into(),
            downstream: BTreeSet::new(),
            retained: BTreeSet::new(),
            managed: BTreeSet::new(),
            unknown_for: BTreeMap::new(),
            published: BTreeMap::new(),
            status,
            ready: BTreeSet::new(),
        }
    }

    /// `a1` follows `a2`; it has a slot for each of the others.
    fn follower() -> Self {
        let mut node = Self { leads: false, leader: name("a2"), ..Self::leader() };
        node.status.in_recovery = true;
        node.status.receiver =
            Some(Receiver { host: "h".to_owned(), port: 1, timeline: TimelineId(3) });
        for slot in ["a2", "a3"] {
            node.status.slots.insert(slot.to_owned(), at(Slot::physical(false), 500));
        }
        node
    }

    fn member(&mut self, who: &str) -> &mut Member {
        Arc::make_mut(self.members.get_mut(&name::<NodeName>(who)).expect("a member"))
    }

    fn slot(&mut self, slot: &str) -> &mut Slot {
        self.status.slots.get_mut(slot).expect("a slot")
    }

    /// `slots` names a logical one.
    fn with_logical(mut self) -> Self {
        self.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
        self
    }

    fn given(&self) -> Given<'_> {
        Given {
            rules: &self.rules,
            me: &self.me,
            nofailover: self.nofailover,
            leads: self.leads,
            cluster: self.cluster,
            paused: self.paused,
            due: self.due,
            leader: Some(&self.leader),
            members: &self.members,
            downstream: self.downstream.clone(),
            retained: self.retained.clone(),
            managed: &self.managed,
            unknown_for: self.unknown_for.clone(),
            published: &self.published,
            status: &self.status,
            ready: self.ready.clone(),
        }
    }

    fn plan(&self) -> Vec<Planned> {
        plan(&self.given())
    }

    /// As short words, for tables.
    fn words(&self) -> Vec<String> {
        let word = |Planned { step, why }: Planned| match step {
            Step::Drop { name } => format!("drop {name}: {why:?}"),
            Step::Create { name, .. } => format!("create {name}: {why:?}"),
            Step::Advance { name, to, .. } => format!("advance {name} to {}: {why:?}", to.get()),
            Step::Copy { name } => format!("copy {name}: {why:?}"),
            Step::Prove { name } => format!("prove {name}: {why:?}"),
            Step::Warn { name } => format!("warn {name}: {why:?}"),
        };
        self.plan().into_iter().map(word).collect()
    }

    /// What the server is like once all was done.
    fn done(&mut self, planned: &[Planned]) {
        let limit = if self.status.in_recovery { self.status.replayed } else { self.status.end };
        for Planned { step, .. } in planned {
            match step {
                Step::Drop { name } => drop(self.status.slots.remove(name)),
                Step::Create { name, kind } => {
                    self.status.slots.insert(name.clone(), made(kind, limit, Origin::Own));
                }
                Step::Advance { name, to, kind } => {
                    let slot = self.status.slots.get_mut(name).expect("what is moved is there");
                    match kind {
                        Kind::Physical => slot.restart = Some(*to),
                        Kind::Logical { .. } => slot.confirmed = Some(*to),
                    }
                }
                Step::Copy { name } => {
                    let kind = self.rules.permanent[name].kind.clone();
                    let slot = made(&kind, self.published[name].min(limit), Origin::Copied);
                    self.ready.remove(name);
                    self.status.slots.insert(name.clone(), slot);
                }
                Step::Prove { name } => {
                    self.status.slots.get_mut(name).expect("there").origin = Origin::Proven;
                }
                Step::Warn { .. } => {}
            }
        }
    }
}

fn at(slot: Slot, restart: u64) -> Slot {
    Slot { restart: Some(lsn(restart)), wal: WalStatus::Reserved, ..slot }
}

fn made(kind: &Kind, position: Lsn, origin: Origin) -> Slot {
    let slot = Slot { restart: Some(position), wal: WalStatus::Reserved, ..Slot::default() };
    match kind {
        Kind::Physical => Slot { physical: true, ..slot },
        Kind::Logical { database, plugin } => Slot {
            database: Some(database.clone()),
            plugin: Some(plugin.clone()),
            confirmed: Some(position),
            origin,
            ..slot
        },
    }
}

fn copy(confirmed: u64, origin: Origin) -> Slot {
    made(&logical(), lsn(confirmed), origin)
}

type Bend = fn(&mut Node);

/// Of each row of spec 3.16: what is so, beside a node that has nothing to do, and what follows.
fn table(cases: &[(&str, fn() -> Node, Bend, &[&str])]) {
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
        (
            "missing",
            Node::leader,
            |n| drop(n.status.slots.remove("a2")),
            &["create a2: Member"],
        ),
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
        ("not back", Node::follower, |n| {
                n.published.insert("a3".to_owned(), lsn(300));
            }, &[]),
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
fn what_nobody_can_use_goes_and_others_slots_stay() {
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
        ("physical, on a node that follows", Node::follower, physical, &["create backup: Permanent"]),
        (
            "not on one that never leads",
            || Node { nofailover: true, ..cascaded() },
            physical,
            &[],
        ),
        (
            "only in a standby site",
            Node::leader,
            |n| {
                let slot = Permanent {
                    only: Some(ClusterType::Standby),
                    ..permanent(Kind::Physical)
                };
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

fn follower_world() -> World {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.leader(Some("a2"));
    world.standby(3, 500);
    world.status().slots.remove("b1");
    world.status().wal_logical = true;
    world.status().upstream_end = Some(lsn(500));
    world.status().receiver =
        Some(Receiver { host: "127.0.0.1".to_owned(), port: 6002, timeline: TimelineId(3) });
    world.view.postgres.follows =
        Some(Follow::Member { name: name("a2"), address: ("127.0.0.1".to_owned(), 6002) });
    assert_eq!((world.decide().actions, world.decide().reason), (vec![], Reason::Following));
    world.policy.slots.permanent.insert("cdc".to_owned(), permanent(logical()));
    world.site().published.slots.insert("cdc".to_owned(), lsn(400));
    world
}

#[test]
fn a_node_that_follows_copies_logical_slots_from_its_leader() {
    let world = follower_world();
    let from = ("127.0.0.1".to_owned(), 6002);
    let job = Job::CopySlots { from, slots: BTreeSet::from(["cdc".to_owned()]) };
    let decision = world.decide();
    assert_eq!(decision.actions, vec![Action::Run(job)]);
    assert_eq!(decision.reason, Reason::CopyingSlots);
}

fn horizon(at: u64, feedback: Option<u32>, leaders: u32) -> Horizon {
    let own = feedback.map(|xid| ("a1".to_owned(), Xid(xid)));
    let cdc = ("cdc".to_owned(), Xid(leaders));
    Horizon { at: lsn(at), xmins: own.into_iter().chain([cdc]).collect() }
}

/// Each condition of readiness alone keeps a copy from being used; without any of them it is dropped
/// before the node opens, and not told as usable.
#[test]
fn a_copy_is_used_once_its_catalog_is_held() {
    type Case = (&'static str, fn(&mut World), bool);
    let cases: [Case; 7] = [
        ("all is well", |_| {}, true),
        ("no feedback yet", |w| w.member("a2").horizon = Some(horizon(501, None, 700)), false),
        (
            "read before it was here",
            |w| w.member("a2").horizon = Some(horizon(500, Some(700), 700)),
            false,
        ),
        (
            "the leader's has moved on",
            |w| w.member("a2").horizon = Some(horizon(501, Some(700), 701)),
            false,
        ),
        (
            "the leader held less back",
            |w| w.member("a2").horizon = Some(horizon(501, Some(701), 700)),
            false,
        ),
        (
            "it is ahead",
            |w| {
                w.site().published.slots.insert("cdc".to_owned(), lsn(399));
            },
            false,
        ),
        ("the leader tells nothing", |w| w.member("a2").horizon = None, false),
    ];
    for (what, bend, ready) in cases {
        let mut world = follower_world();
        let slot = Slot { catalog_xmin: Some(Xid(700)), ..copy(400, Origin::Copied) };
        world.status().slots.insert("cdc".to_owned(), slot);
        world.member("a2").horizon = Some(horizon(501, Some(700), 700));
        bend(&mut world);
        // The first look notes that it is there, the second what the leader told.
        world.memory = world.decide().memory;
        let second = world.decide();
        let prove = Step::Prove { name: "cdc".to_owned() };
        let proves = vec![Action::Slots(vec![Planned { step: prove, why: Why::Proven }])];
        assert_eq!(second.actions == proves, ready, "{what}: {:?}", second.actions);
        world.memory = second.memory;
        let usable = told(&world.policy, &world.memory, &world.view).usable;
        assert_eq!(usable.get("cdc"), Some(&ready), "{what}");
        // It takes the key over, and opens.
        world.policy.synchronous_mode = false;
        world.leader(Some("a1"));
        world.view.tenure.site = regent_proto::time::Deadline::at(NOW.plus(Duration::from_secs(4)));
        world.site().sync = SyncView::default();
        let actions = world.decide().actions;
        let step = Step::Drop { name: "cdc".to_owned() };
        let dropped = Action::Slots(vec![Planned { step, why: Why::Unsafe }]);
        let wanted =
            if ready { vec![Action::Promote] } else { vec![dropped, Action::Promote] };
        assert_eq!(actions, wanted, "{what}");
    }
}

/// A primary that restarts has followed nobody: its slots are its own.
#[test]
fn a_primary_that_restarts_keeps_its_logical_slots() {
    let mut world = follower_world();
    world.policy.synchronous_mode = false;
    world.leader(Some("a1"));
    world.view.tenure.site = regent_proto::time::Deadline::at(NOW.plus(Duration::from_secs(4)));
    world.site().sync = SyncView::default();
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Own));
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    // One that was found safe in an earlier life of the agent is used, one that was not is not.
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Proven));
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    world.status().slots.insert("cdc".to_owned(), copy(400, Origin::Copied));
    assert_eq!(world.decide().actions.len(), 2);
}

#[test]
fn a_member_that_is_gone_keeps_its_slot_for_member_slots_ttl() {
    let mut world = World::new();
    world.view.federation = None;
    world.view.tenure.primary = None;
    world.policy.synchronous_mode = false;
    world.status().synchronous_standby_names = String::new();
    world.site().sync = SyncView::default();
    world.status().slots.remove("b1");
    world.memory = world.decide().memory;
    world.site().members.remove(&name::<NodeName>("a2"));
    world.status().slots.insert("a2".to_owned(), Slot::physical(false));
    for (after, wanted) in [(1799, 0), (1801, 1)] {
        world.view.now = NOW.plus(Duration::from_secs(after));
        world.view.tenure.site =
            regent_proto::time::Deadline::at(world.view.now.plus(Duration::from_secs(4)));
        let decision = world.decide();
        assert_eq!(decision.actions.len(), wanted, "{after}: {decision:?}");
        let retain = told(&world.policy, &world.memory, &world.view).retain;
        assert_eq!(retain.contains("a2"), wanted == 0, "{after}");
    }
}

#[test]
fn what_failed_is_not_tried_again_at_once() {
    let mut world = World::new();
    world.status().slots.remove("a2");
    let first = world.decide();
    assert_eq!(first.reason, Reason::Slots);
    world.memory = first.memory;
    assert_eq!(world.decide().actions, vec![], "the rest of the round is not held up");
    world.view.now = NOW.plus(world.policy.loop_wait);
    world.view.tenure.site =
        regent_proto::time::Deadline::at(world.view.now.plus(Duration::from_secs(4)));
    if let Some(held) = &mut world.view.tenure.primary {
        held.deadline = world.view.tenure.site;
    }
    assert_eq!(world.decide().reason, Reason::Slots);
}

#[test]
fn a_slot_is_warned_of_before_its_wal_is_lost() {
    let warning = |bend: fn(&mut World)| {
        let mut world = World::new();
        world.status().slots.insert("a2".to_owned(), at(Slot::physical(true), 0));
        world.status().end = lsn(500);
        bend(&mut world);
        let warnings = told(&world.policy, &world.memory, &world.view).warnings;
        warnings.into_iter().map(|(slot, what)| format!("{slot}: {what}")).collect::<Vec<_>>()
    };
    let none: [fn(&mut World); 3] = [
        |_| {},
        |w| w.policy.slots.wal_budget = Some(1000),
        |w| w.status().slot_wal_limit = Some(1000),
    ];
    for bend in none {
        assert_eq!(warning(bend), Vec::<String>::new());
    }
    let cases: [(fn(&mut World), &str); 7] = [
        (|w| w.policy.slots.wal_budget = Some(999), "a2: it keeps more than half of its"),
        (|w| w.policy.slots.wal_budget = Some(499), "a2: it keeps more than its WAL budget"),
        (|w| w.status().slot_wal_limit = Some(999), "a2: it keeps more than half of its"),
        (
            |w| {
                let own = Permanent { wal_budget: Some(499), ..permanent(Kind::Physical) };
                w.policy.slots.permanent.insert("a2".to_owned(), own);
                w.policy.slots.wal_budget = Some(5000);
            },
            "a2: it keeps more than its WAL budget of 499",
        ),
        (
            |w| {
                w.status().slot_wal_limit = Some(1000);
                w.status().slots.get_mut("a2").expect("there").safe_wal = Some(499);
            },
            "a2: it keeps more than half of its",
        ),
        (
            |w| w.status().slots.get_mut("a2").expect("there").wal = WalStatus::Unreserved,
            "a2: it is about to be lost",
        ),
        (
            |w| w.status().slots.get_mut("a2").expect("there").wal = WalStatus::Lost,
            "a2: its WAL is gone",
        ),
    ];
    for (bend, wanted) in cases {
        let said = warning(bend);
        assert!(said.len() == 1 && said[0].starts_with(wanted), "{said:?}, wanted {wanted}");
    }
}

// --- properties ------------------------------------------------------------------------------

static SLOTS: [&str; 8] = ["a1", "a2", "a3", "a4", "b1", "cdc", "backup", "x"];

fn some_slot() -> impl Strategy<Value = Slot> {
    let wal = prop_oneof![
        4 => Just(WalStatus::Reserved),
        1 => Just(WalStatus::Extended),
        1 => Just(WalStatus::Unreserved),
        1 => Just(WalStatus::Lost),
    ];
    let origin = prop_oneof![Just(Origin::Own), Just(Origin::Copied), Just(Origin::Proven)];
    let bits = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (bits, any::<bool>(), wal, origin, 1_u64..1000, prop::bool::weighted(0.8)).prop_map(
        |((active, physical, holds_xmin, failover), app, wal, origin, position, reserved)| {
            let plugin = if app { "pgoutput" } else { "wal2json" };
            let kind = if physical {
                Kind::Physical
            } else {
                Kind::Logical { database: "app".to_owned(), plugin: plugin.to_owned() }
            };
            let slot = made(&kind, lsn(position), origin);
            let restart = slot.restart.filter(|_| reserved || !physical);
            Slot { active, holds_xmin, failover: failover && !physical, wal, restart, ..slot }
        },
    )
}

fn some_node() -> impl Strategy<Value = Node> {
    let slots = prop::collection::btree_map(prop::sample::select(&SLOTS[..]), some_slot(), 0..8);
    let names = || prop::collection::btree_set(prop::sample::select(&SLOTS[..]), 0..6);
    let published = prop::collection::btree_map(prop::sample::select(&SLOTS[..]), 1_u64..1200, 0..8);
    let bits = prop::collection::vec(any::<bool>(), 12);
    let froms = prop::collection::vec(prop::option::of(prop::sample::select(vec!["a1", "a2", "a9"])), 3);
    let ages = prop::collection::btree_map(prop::sample::select(&SLOTS[..]), 0_u64..4000, 0..8);
    (slots, (names(), names(), names()), published, bits, froms, ages, (1_u64..1000, 0_u64..1000))
        .prop_map(|(slots, (retained, managed, ready), published, bits, froms, ages, ends)| {
            let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
            let mut node = if bits[0] { Node::leader() } else { Node::follower() };
            node.status.slots =
                slots.into_iter().map(|(name, slot)| (name.to_owned(), slot)).collect();
            (node.status.end, node.status.replayed) = (lsn(ends.0.max(ends.1)), lsn(ends.1));
            node.retained = owned(retained);
            node.managed = owned(managed);
            node.ready = owned(ready);
            node.published =
                published.into_iter().map(|(name, at)| (name.to_owned(), lsn(at))).collect();
            let ages = ages.into_iter();
            node.unknown_for =
                ages.map(|(name, age)| (name.to_owned(), Duration::from_secs(age))).collect();
            node.nofailover = bits[1];
            node.paused = bits[2];
            node.due = bits[3];
            node.status.wal_logical = bits[4];
            node.rules.use_slots = bits[5] || bits[6];
            if bits[7] {
                node.rules.member_ttl = Duration::ZERO;
            }
            if bits[8] {
                node.cluster = ClusterType::Standby;
            }
            for (who, from) in ["a1", "a2", "a3"].into_iter().zip(froms) {
                node.member(who).replicatefrom = from.map(name);
                node.member(who).position = Some(lsn(ends.0));
            }
            node.member("a3").nostream = bits[9] && bits[10];
            node.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
            node.rules.permanent.insert("backup".to_owned(), permanent(Kind::Physical));
            if bits[11] {
                node.rules.permanent.insert("a2".to_owned(), permanent(logical()));
                let x = Matcher { name: Some("x".to_owned()), ..Matcher::default() };
                let plugin = Some("wal2json".to_owned());
                node.rules.ignored = vec![x, Matcher { plugin, ..Matcher::default() }];
            }
            node
        })
}

fn is_ignored(node: &Node, name: &str) -> bool {
    node.status.slots.get(name).is_some_and(|slot| {
        let plugin = slot.plugin.as_deref() == Some("wal2json");
        (slot.failover && !slot.physical)
            || (!node.rules.ignored.is_empty() && (name == "x" || plugin))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Whoever has done a plan has nothing left but what is said, or a proof of what was moved.
    #[test]
    fn a_plan_is_done_once(mut node in some_node()) {
        for round in 0..3 {
            let planned = node.plan();
            let acts = planned.iter().filter(|planned| !matches!(planned.step, Step::Warn { .. }));
            prop_assert!(round == 0 || acts.count() == 0, "round {round}: {planned:?}");
            node.done(&planned);
        }
    }

    /// Nothing that `ignore_slots` names, and no failover slot, is touched.
    #[test]
    fn what_is_ignored_is_not_touched(node in some_node()) {
        for planned in node.plan() {
            let said = matches!(planned.step, Step::Warn { .. });
            prop_assert!(said || !is_ignored(&node, planned.step.name()), "{planned:?}");
        }
    }

    /// A member that lives and streams from here has a slot after each plan, of which only one that is
    /// lost anyway was dropped; nor is one used by anybody, or any in a pause.
    #[test]
    fn what_a_living_member_needs_is_there(mut node in some_node()) {
        let planned = node.plan();
        let given = node.given();
        let dropped = |wanted: &str| planned.iter().find(|planned| {
            matches!(&planned.step, Step::Drop { name } if name == wanted)
        });
        for (who, member) in given.members {
            let from = member.replicatefrom.as_ref();
            let here = if node.leads {
                from.is_none_or(|from| *from == node.me || !node.members.contains_key(from))
            } else {
                from == Some(&node.me) && *who != node.leader
            };
            if *who == node.me || member.nostream || !here || !node.rules.use_slots {
                continue;
            }
            let drop = dropped(&who.slot());
            prop_assert!(drop.is_none_or(|drop| drop.why == Why::Lost), "{drop:?}");
        }
        for planned in planned.iter().filter(|p| matches!(p.step, Step::Drop { .. })) {
            prop_assert!(!node.paused && !node.status.slots[planned.step.name()].active);
        }
        let needed: Vec<String> = node
            .members
            .iter()
            .filter(|(who, member)| {
                let here = member.replicatefrom.is_none() && node.leads;
                **who != node.me && !member.nostream && here && node.rules.use_slots
            })
            .map(|(who, _)| who.slot())
            .collect();
        node.done(&planned);
        for slot in needed {
            prop_assert!(node.status.slots.contains_key(&slot), "{slot}");
        }
    }

    /// A slot is moved only forward, only on a node that follows to where the leader has published it, and
    /// never beyond what this node has replayed.
    #[test]
    fn no_slot_passes_what_is_published(node in some_node()) {
        for planned in node.plan() {
            let Step::Advance { name, to, kind } = &planned.step else { continue };
            let slot = &node.status.slots[name];
            let has = match kind {
                Kind::Physical => slot.restart,
                Kind::Logical { .. } => slot.confirmed,
            };
            prop_assert!(!slot.active && has.is_some_and(|has| has < *to), "{planned:?}");
            if node.leads {
                prop_assert!(planned.why == Why::Told && *to <= node.status.end);
            } else {
                prop_assert!(*to <= node.published[name] && *to <= node.status.replayed);
            }
        }
    }
}
