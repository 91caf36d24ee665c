//! The synchronous record and list: after every single step, and at every crash between two steps,
//! whoever may lead has every commit that was acknowledged (I3, I4).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::world::{World, name, sender};
use crate::decide::Action;
use crate::decide::synchronous::{list, next};
use crate::decide::view::Sender;

/// A primary with standbys, simulated at the level of the rule: commits wait for the list in
/// force; what is acknowledged is on the primary and on everyone in the list.
struct Site {
    world: World,
    in_force: BTreeSet<NodeName>,
    acknowledged: u64,
    /// What each standby has on disk; stays there while it is away.
    flushed: BTreeMap<String, Lsn>,
}

#[derive(Debug, Clone)]
enum Event {
    Step,
    Write,
    Catch(usize),
    Connect(usize, bool),
    Prefer(usize, i64),
}

const NAMES: [&str; 3] = ["a2", "a3", "a4"];

fn names(list: &str) -> BTreeSet<NodeName> {
    NAMES.iter().filter(|n| list.contains(&format!("\"{n}\""))).map(|n| name(n)).collect()
}

impl Site {
    fn new() -> Self {
        let mut world = World::new();
        let member = world.site().members[&name::<NodeName>("a2")].clone();
        for other in NAMES {
            world.site().members.insert(name(other), member.clone());
        }
        world.status().senders.clear();
        world.status().synchronous_standby_names = String::new();
        world.site().sync.standbys.clear();
        world.memory.list_since = None;
        Self { world, in_force: BTreeSet::new(), acknowledged: 0, flushed: BTreeMap::new() }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Write => {
                let end = self.world.status().end.get() + 10;
                self.world.status().end = Lsn::new(end);
                let all = self.in_force.iter().all(|who| {
                    self.world
                        .view
                        .postgres
                        .status
                        .as_ref()
                        .expect("runs")
                        .senders
                        .get(who.as_str())
                        .is_some_and(|s| s.streaming && s.flushed.get() >= end)
                });
                // A standby in the list that streams confirms at once; one that is gone holds the
                // commit, and it is not acknowledged.
                for who in &self.in_force.clone() {
                    if let Some(s) = self.world.status().senders.get_mut(who.as_str()) {
                        s.flushed = Lsn::new(end);
                    }
                }
                let held = self.in_force.iter().any(|who| {
                    !self
                        .world
                        .view
                        .postgres
                        .status
                        .as_ref()
                        .expect("runs")
                        .senders
                        .contains_key(who.as_str())
                });
                if all || !held {
                    self.acknowledged = end;
                }
            }
            Event::Catch(who) => {
                let end = self.world.status().end;
                if let Some(s) = self.world.status().senders.get_mut(NAMES[*who]) {
                    s.flushed = end;
                }
            }
            Event::Connect(who, on) => {
                let senders = &mut self.world.view.postgres.status.as_mut().expect("runs").senders;
                if *on {
                    let on_disk = self.flushed.get(NAMES[*who]).copied().unwrap_or(Lsn::new(1));
                    let back = Sender { synchronous: false, flushed: on_disk, ..sender(1) };
                    senders.entry(NAMES[*who].to_owned()).or_insert(back);
                } else {
                    senders.remove(NAMES[*who]);
                }
            }
            Event::Prefer(who, priority) => {
                self.world.member(NAMES[*who]).sync_priority = *priority;
            }
            Event::Step => self.step(),
        }
        let in_force = self.in_force.clone();
        let senders = &mut self.world.view.postgres.status.as_mut().expect("runs").senders;
        for (who, sender) in senders {
            sender.synchronous = in_force.contains(&name::<NodeName>(who));
            self.flushed.insert(who.clone(), sender.flushed);
        }
    }

    fn step(&mut self) {
        let World { policy, memory, view } = &mut self.world;
        let site = view.site.as_mut().expect("site");
        let status = view.postgres.status.as_mut().expect("runs");
        match next(policy, memory, site, status) {
            Some(Action::WriteSync { standbys, .. }) => {
                site.sync.standbys = standbys;
                site.sync.revision = Some(site.sync.revision.unwrap_or(0) + 1);
            }
            Some(Action::SetSynchronousNames(text)) => {
                self.in_force = names(&text);
                status.synchronous_standby_names = text;
            }
            Some(other) => panic!("{other:?} is not a step of the resolver"),
            None => {}
        }
    }

    fn rest(&mut self) {
        for _ in 0..10 {
            self.apply(&Event::Step);
        }
    }

    fn record(&self) -> &BTreeSet<NodeName> {
        &self.world.view.site.as_ref().expect("site").sync.standbys
    }

    fn priority(&self, who: &NodeName) -> i64 {
        self.world.view.site.as_ref().expect("site").members[who].sync_priority
    }

    /// Everyone whom the record would let lead has what was acknowledged.
    fn nothing_can_be_lost(&self) -> Result<(), String> {
        let site = self.world.view.site.as_ref().expect("site");
        let status = self.world.view.postgres.status.as_ref().expect("runs");
        for who in &site.sync.standbys {
            if !self.in_force.contains(who) {
                return Err(format!("{who} is in the record but nobody waits for it"));
            }
            if let Some(sender) = status.senders.get(who.as_str())
                && sender.flushed.get() < self.acknowledged
            {
                return Err(format!("{who} may lead without {}", self.acknowledged));
            }
        }
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => Just(Event::Step),
        4 => Just(Event::Write),
        2 => (0usize..3).prop_map(Event::Catch),
        3 => (0usize..3, any::<bool>()).prop_map(|(who, on)| Event::Connect(who, on)),
        1 => (0usize..3, 1i64..4).prop_map(|(who, priority)| Event::Prefer(who, priority)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn record_and_list_never_let_an_acknowledged_commit_go(
        events in proptest::collection::vec(event(), 1..120),
        count in 1usize..3,
    ) {
        let mut site = Site::new();
        site.world.policy.synchronous_node_count = count;
        for event in &events {
            site.apply(event);
            prop_assert_eq!(site.nothing_can_be_lost(), Ok(()), "after {:?}", event);
        }
    }

    /// As many as are wanted stay in the record while a preferred one takes another's place.
    #[test]
    fn nobody_confirmed_makes_room_before_the_next_one_has_confirmed(
        priorities in proptest::collection::vec(1i64..4, 3),
        writes in proptest::collection::vec(any::<bool>(), 12),
        count in 1usize..3,
    ) {
        let mut site = Site::new();
        site.world.policy.synchronous_node_count = count;
        for who in 0..count {
            site.apply(&Event::Connect(who, true));
            site.apply(&Event::Catch(who));
        }
        site.rest();
        for (who, priority) in priorities.iter().enumerate() {
            site.apply(&Event::Connect(who, true));
            site.apply(&Event::Prefer(who, *priority));
        }
        for write in writes {
            site.apply(if write { &Event::Write } else { &Event::Step });
            prop_assert!(site.record().len() >= count, "{:?}", site.record());
        }
        for who in 0..NAMES.len() {
            site.apply(&Event::Catch(who));
        }
        site.rest();
        prop_assert_eq!(site.record().len(), count);
        let least = site.record().iter().map(|who| site.priority(who)).min();
        for other in NAMES.iter().map(|who| name(who)).filter(|who| !site.record().contains(who)) {
            prop_assert!(Some(site.priority(&other)) <= least, "{other} is left out");
        }
    }

    #[test]
    fn it_comes_to_rest(connected in proptest::collection::vec(any::<bool>(), 3)) {
        let mut site = Site::new();
        for (who, on) in connected.iter().enumerate() {
            site.apply(&Event::Connect(who, *on));
            site.apply(&Event::Catch(who));
        }
        for _ in 0..10 {
            site.apply(&Event::Step);
        }
        let wanted = usize::from(connected.iter().any(|on| *on));
        let sync = &site.world.view.site.as_ref().expect("site").sync.standbys;
        prop_assert_eq!(sync.len(), wanted);
        prop_assert_eq!(&site.in_force, sync);
    }
}

/// Found by the model `sync`: the late write would name a node for which nobody waited any more.
#[test]
fn no_list_forgets_a_name_that_a_lost_write_may_still_bring() {
    let mut site = Site::new();
    site.apply(&Event::Connect(0, true));
    site.apply(&Event::Catch(0));
    while site.in_force.is_empty() {
        site.apply(&Event::Step);
    }
    let World { policy, memory, view } = &mut site.world;
    let (record, status) = (view.site.as_mut(), view.postgres.status.as_mut());
    let (record, status) = (record.expect("site"), status.expect("runs"));
    let grows = next(policy, memory, record, status);
    assert!(matches!(&grows, Some(Action::WriteSync { standbys, .. }) if standbys.len() == 1));
    // Its outcome is unknown, the record is as it was, and the standby goes.
    status.senders.clear();
    let again = next(policy, memory, record, status);
    assert!(matches!(&again, Some(Action::WriteSync { standbys, .. }) if standbys.is_empty()));
    // This one's too: the first may still come.
    let again = next(policy, memory, record, status);
    assert!(matches!(&again, Some(Action::WriteSync { standbys, .. }) if standbys.is_empty()));
    record.sync.revision = Some(record.sync.revision.unwrap_or(0) + 1);
    let shrinks = next(policy, memory, record, status);
    assert_eq!(shrinks, Some(Action::SetSynchronousNames(String::new())));
}

/// The order of spec 3.5.1, and who does not count at all.
#[test]
fn whom_commits_wait_for() {
    type Bend = fn(&mut World);
    let rows: [(&str, Bend, &str); 12] = [
        ("who is in the record stays", |_| {}, "\"a2\""),
        ("then the furthest", |w| w.site().sync.standbys.clear(), "\"a4\""),
        (
            "then the name",
            |w| {
                w.site().sync.standbys.clear();
                w.status().senders.remove("a4");
                w.status().senders.insert("a2".to_owned(), sender(490));
            },
            "\"a2\"",
        ),
        ("sync_priority first", |w| w.member("a3").sync_priority = 2, "2 (\"a2\",\"a3\")"),
        ("nosync, or sync_priority 0", |w| w.member("a2").nosync = true, "\"a4\""),
        ("nofailover", |w| w.member("a2").nofailover = true, "\"a4\""),
        ("it streams from another", |w| w.member("a2").replicatefrom = Some(name("a3")), "\"a4\""),
        ("from the leader", |w| w.member("a2").replicatefrom = Some(name("a1")), "\"a2\""),
        (
            "from one that is away",
            |w| {
                w.member("a3").state = "stopped".to_owned();
                w.member("a2").replicatefrom = Some(name("a3"));
            },
            "\"a2\"",
        ),
        ("too far behind the furthest", |w| w.policy.maximum_lag_on_syncnode = Some(14), "\"a4\""),
        (
            "a single one, behind the leader",
            |w| {
                w.status().senders.retain(|who, _| who == "a2");
                w.policy.maximum_lag_on_syncnode = Some(19);
            },
            "",
        ),
        ("just near enough", |w| w.policy.maximum_lag_on_syncnode = Some(15), "\"a2\""),
    ];
    for (row, bend, wanted) in rows {
        let mut world = World::new();
        let member = world.site().members[&name::<NodeName>("a2")].clone();
        for (other, flushed) in NAMES.iter().zip([480, 490, 495]) {
            world.site().members.insert(name(other), member.clone());
            world.status().senders.insert((*other).to_owned(), sender(flushed));
        }
        bend(&mut world);
        let World { policy, memory, view } = &mut world;
        let (site, status) = (view.site.as_mut(), view.postgres.status.as_mut());
        let (site, status) = (site.expect("site"), status.expect("runs"));
        // The record shrinks first, where it has to.
        for _ in 0..2 {
            match next(policy, memory, site, status) {
                Some(Action::WriteSync { standbys, revision }) => {
                    site.sync.standbys = standbys;
                    site.sync.revision = revision.map(|revision| revision + 1);
                }
                Some(Action::SetSynchronousNames(list)) => status.synchronous_standby_names = list,
                Some(other) => panic!("{row}: {other:?}"),
                None => {}
            }
        }
        assert_eq!(status.synchronous_standby_names, wanted, "{row}");
    }
}

/// The same members as later on: of those that have confirmed what this node opens with.
#[test]
fn whom_the_first_commits_wait_for() {
    type Bend = fn(&mut World);
    let rows: [(&str, Bend, &[&str]); 8] = [
        ("by name", |_| {}, &["a2"]),
        ("as many as are wanted", |w| w.policy.synchronous_node_count = 2, &["a2", "a3"]),
        ("sync_priority first", |w| w.member("a4").sync_priority = 2, &["a4"]),
        ("nofailover", |w| w.member("a2").nofailover = true, &["a3"]),
        ("nosync", |w| w.member("a2").nosync = true, &["a3"]),
        ("another's", |w| w.member("a2").replicatefrom = Some(name("a3")), &["a3"]),
        (
            "not confirmed",
            |w| {
                w.member("a2").sync_priority = 2;
                w.status().senders.insert("a2".to_owned(), sender(499));
            },
            &["a3"],
        ),
        ("nobody", |w| w.status().senders.clear(), &[]),
    ];
    for (row, bend, wanted) in rows {
        let mut world = World::new();
        world.standby(3, 500);
        let member = world.site().members[&name::<NodeName>("a2")].clone();
        for other in NAMES {
            world.site().members.insert(name(other), member.clone());
            world.status().senders.insert(other.to_owned(), sender(500));
        }
        // Of a leader before, whose standby this node was.
        world.site().sync.leader = Some(name("a5"));
        world.site().sync.standbys = BTreeSet::from([name("a1")]);
        bend(&mut world);
        let decision = world.decide();
        let standbys: BTreeSet<NodeName> = wanted.iter().map(|who| name(who)).collect();
        let revision = world.site().sync.revision;
        let writes = Action::WriteSync { standbys, revision };
        assert_eq!(decision.actions.first(), Some(&writes), "{row}");
    }
}

#[test]
fn names_are_always_quoted() {
    let policy = World::new().policy;
    let set = |names: &[&str]| names.iter().map(|n| name(n)).collect::<BTreeSet<NodeName>>();
    assert_eq!(list(&policy, &set(&["first"])), "\"first\"");
    assert_eq!(list(&policy, &set(&["A.b", "any"])), "2 (\"A.b\",\"any\")");
    assert_eq!(list(&policy, &set(&[])), "");
    let mut strict = policy;
    strict.synchronous_mode_strict = true;
    assert_eq!(list(&strict, &set(&[])), "\"__regent_nobody__\"");
}
