//! What holds of every plan.

use proptest::prelude::*;

use super::*;
use crate::decide::slots::{Matcher, Why};
use crate::decide::upstream;

static SLOTS: [&str; 8] = ["a1", "a2", "a3", "a4", "b1", "cdc", "backup", "x"];

fn some_slot() -> impl Strategy<Value = Slot> {
    let wal = prop_oneof![
        4 => Just(WalStatus::Reserved),
        1 => Just(WalStatus::Extended),
        1 => Just(WalStatus::Unreserved),
        1 => Just(WalStatus::Lost),
    ];
    let origins = vec![Origin::Own, Origin::Copied, Origin::Proven, Origin::Unsafe];
    let origin = prop::sample::select(origins);
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
    let slot_names = || prop::sample::select(&SLOTS[..]);
    let published = prop::collection::btree_map(slot_names(), 1_u64..1200, 0..8);
    let bits = prop::collection::vec(any::<bool>(), 12);
    let from = prop::option::of(prop::sample::select(vec!["a1", "a2", "a9"]));
    let froms = prop::collection::vec(from, 3);
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
            let from = (who, member.replicatefrom.as_ref());
            let here = *who != node.leader
                && *upstream::of_member(&node.members, &node.leader, from) == node.me;
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
