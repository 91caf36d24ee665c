//! Quorum commit in time: rows, standbys that come and go, changes of the mode under load, writes of
//! unknown outcome, crashes and failovers, in any order. After each of them every set of nodes that
//! may win has every acknowledged row, and whoever wins has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::TimelineId;

use super::world::{World, history, name};
use crate::decide::Action;
use crate::decide::quorum::{List, Voting, kept, votes};
use crate::decide::synchronous::{list_at_start, list_of, next};
use crate::decide::view::{Memory, PeerAnswer, PeersView, Sender, SyncView};

const NAMES: [&str; 5] = ["a1", "a2", "a3", "a4", "a5"];

fn node(index: usize) -> NodeName {
    name(NAMES[index])
}

#[derive(Debug, Clone)]
enum Event {
    /// The agent looks and acts.
    Step,
    /// As `Step`, but what comes of a write of the record is not known.
    Unknown,
    /// A write of unknown outcome is applied, if the record is as it compares.
    Late,
    /// It never is.
    Lost,
    /// The list that was set comes into force.
    Reload,
    /// A row is written.
    Write,
    /// A standby flushes what there is.
    Flush(usize),
    Connect(usize),
    Disconnect(usize),
    /// `synchronous_mode`, `synchronous_node_count`, `synchronous_mode_strict`.
    Mode(Option<bool>, usize, bool),
    /// PostgreSQL alone crashes and is started again.
    Crash,
    /// The agent ends, and another life of it begins.
    Restart,
    /// The leader dies; of all nodes only these answer.
    Failover(u8),
}

/// One site.
struct Site {
    world: World,
    flushed: BTreeMap<NodeName, u64>,
    streams: BTreeSet<NodeName>,
    list: String,
    /// Set, and not in force yet.
    asked: Option<String>,
    acknowledged: u64,
    late: Vec<(Option<u64>, SyncView)>,
    opened: usize,
    /// The mode is on, and was seen at rest: from here on only whom the record names may lead.
    promised: bool,
}

impl Site {
    fn new() -> Self {
        let mut world = World::new();
        let member = world.site().members[&node(1)].clone();
        for index in 0..NAMES.len() {
            world.site().members.insert(node(index), member.clone());
        }
        world.site().sync = SyncView { revision: Some(20), ..SyncView::default() };
        world.memory = Memory::default();
        world.policy.synchronous_quorum = true;
        let flushed = (0..NAMES.len()).map(|index| (node(index), 10)).collect();
        Self {
            world,
            flushed,
            streams: BTreeSet::new(),
            list: String::new(),
            asked: None,
            acknowledged: 0,
            late: Vec::new(),
            opened: 0,
            promised: false,
        }
    }

    fn me(&self) -> NodeName {
        self.world.policy.me.clone()
    }

    fn end(&self) -> u64 {
        self.flushed[&self.me()]
    }

    fn record(&self) -> &SyncView {
        &self.world.view.site.as_ref().expect("these worlds have a site DCS").sync
    }

    /// The server as it is seen now.
    fn look(&mut self) {
        let (end, list) = (Lsn::new(self.end()), self.list.clone());
        let senders = self
            .streams
            .iter()
            .map(|standby| {
                let sender = Sender {
                    streaming: true,
                    synchronous: list.contains(&format!("\"{standby}\"")),
                    flushed: Lsn::new(self.flushed[standby]),
                };
                (standby.as_str().to_owned(), sender)
            })
            .collect();
        let status = self.world.status();
        (status.end, status.synchronous_standby_names, status.senders) = (end, list, senders);
    }

    fn put(&mut self, mut record: SyncView) {
        record.revision = Some(self.record().revision.unwrap_or(0) + 1);
        self.world.site().sync = record;
    }

    fn step(&mut self, unknown: bool) {
        self.look();
        let me = self.me();
        let World { policy, memory, view } = &mut self.world;
        let site = view.site.as_ref().expect("these worlds have a site DCS");
        let status = view.postgres.status.as_ref().expect("the server runs");
        let (compared, record) = match next(policy, memory, site, status) {
            None => {
                self.promised |= policy.synchronous_mode;
                return;
            }
            Some(Action::SetSynchronousNames(list)) => {
                self.asked = Some(list);
                return;
            }
            Some(Action::WriteSync { standbys, revision, quorum }) => {
                let leader = Some(me);
                (revision, SyncView { leader, standbys, quorum, ..SyncView::default() })
            }
            Some(Action::ClearSync { revision }) => (Some(revision), SyncView::default()),
            Some(other) => panic!("{other:?} is not a step of the resolver"),
        };
        if unknown {
            self.late.push((compared, record));
        } else if compared == self.record().revision {
            self.put(record);
        }
    }

    /// What the list in force lets be acknowledged.
    fn acknowledge(&mut self) {
        let list = List::parse(&self.list).expect("only ours");
        if list.needed > list.names.len() {
            return;
        }
        let mut flushed: Vec<u64> = list
            .names
            .iter()
            .filter(|standby| self.streams.contains(*standby))
            .map(|standby| self.flushed[standby])
            .collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        let up_to = match list.needed {
            0 => self.end(),
            needed => flushed.get(needed - 1).copied().unwrap_or(0),
        };
        self.acknowledged = self.acknowledged.max(up_to.min(self.end()));
    }

    /// Of those who answer, who may take the leader key.
    fn winners(&self, answering: &BTreeSet<NodeName>) -> Vec<NodeName> {
        let record = self.record();
        let of_record =
            |who: &NodeName| record.standbys.contains(who) || record.leader.as_ref() == Some(who);
        let wins = |who: &NodeName| {
            let mine = self.flushed[who];
            let answer = |other: &NodeName| PeerAnswer {
                primary: false,
                position: Lsn::new(self.flushed[other]),
                timeline: Some(TimelineId(3)),
                nofailover: false,
                failover_priority: 1,
                age: Some(Duration::ZERO),
                ancestry: None,
                without_data: false,
            };
            let others = answering.iter().filter(|other| *other != who);
            let answers = others.map(|other| (other.clone(), answer(other))).collect();
            let peers = PeersView { age: Duration::ZERO, answers };
            let history = history(3);
            let at = (&history, Lsn::new(mine));
            let (has, needs) = votes(record, who, at, Some(&peers), None, Duration::ZERO);
            let behind = answering.iter().any(|o| of_record(o) && self.flushed[o] > mine);
            of_record(who) && has >= needs && !behind
        };
        answering.iter().filter(|who| wins(who)).cloned().collect()
    }

    /// The leader is dead, its key gone: somebody else, or it itself, leads.
    fn failover(&mut self, answering: u8) {
        if !self.world.policy.synchronous_mode || self.record().leader.is_none() {
            // Anybody may lead: nothing was promised.
            return;
        }
        let answers = |index: &usize| answering & (1 << *index) != 0;
        let answering: BTreeSet<NodeName> = (0..NAMES.len()).filter(answers).map(node).collect();
        let Some(winner) = self.winners(&answering).into_iter().next() else { return };
        self.world.policy.me = winner.clone();
        let old = self.record().clone();
        let voting = if old.standbys.contains(&winner) {
            let by_quorum = self.world.policy.synchronous_quorum || old.quorum > 0;
            let kept = kept(&old, &winner, |who| answering.contains(who)).filter(|_| by_quorum);
            kept.unwrap_or_default()
        } else {
            old.voting()
        };
        self.list = list_of(&self.world.policy, &voting);
        self.asked = None;
        let Voting { voters, quorum } = voting;
        self.put(SyncView { leader: Some(winner), standbys: voters, quorum, ..old });
        let end = self.end();
        for flushed in self.flushed.values_mut() {
            *flushed = (*flushed).min(end);
        }
        self.begin_life();
        self.streams.clear();
        self.opened += 1;
    }

    /// Another process leads, or the same node's next: what was under way compares a key that is gone.
    fn begin_life(&mut self) {
        self.world.memory = Memory::of_a_new_process();
        self.late.clear();
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Step => self.step(false),
            Event::Unknown => self.step(true),
            Event::Reload => self.list = self.asked.take().unwrap_or_else(|| self.list.clone()),
            Event::Late => {
                if let Some((compared, record)) = self.late.pop()
                    && compared == self.record().revision
                {
                    self.put(record);
                }
            }
            Event::Lost => {
                self.late.pop();
            }
            Event::Write => {
                let me = self.me();
                *self.flushed.get_mut(&me).expect("a node") += 10;
            }
            Event::Flush(index) if self.streams.contains(&node(*index)) => {
                let end = self.end();
                self.flushed.insert(node(*index), end);
            }
            Event::Connect(index) if node(*index) != self.me() => {
                self.streams.insert(node(*index));
            }
            Event::Flush(_) | Event::Connect(_) => {}
            Event::Disconnect(index) => {
                self.streams.remove(&node(*index));
            }
            Event::Mode(mode, count, strict) => {
                let policy = &mut self.world.policy;
                policy.synchronous_mode = mode.is_some();
                self.promised &= mode.is_some();
                policy.synchronous_quorum = *mode == Some(true);
                policy.synchronous_node_count = *count;
                policy.synchronous_mode_strict = *strict;
            }
            Event::Crash => {
                let World { policy, memory, view } = &mut self.world;
                let site = view.site.as_ref().expect("these worlds have a site DCS");
                self.list = list_at_start(policy, memory, site);
                self.asked = None;
                self.streams.clear();
            }
            // What was written into the configuration stays there, until any reload.
            Event::Restart => self.begin_life(),
            Event::Failover(answering) => self.failover(*answering),
        }
        self.acknowledge();
    }

    /// Every set of nodes that may win has every acknowledged row.
    fn check(&self) -> Result<(), String> {
        let record = self.record();
        let voters: Vec<&NodeName> = record.standbys.iter().collect();
        for part in 0u32..1 << voters.len() {
            let group = voters.iter().enumerate().filter(|(index, _)| part & (1 << *index) != 0);
            let group: Vec<u64> = group.map(|(_, voter)| self.flushed[*voter]).collect();
            let furthest = group.iter().max().copied().unwrap_or(0);
            if group.len() > record.quorum && furthest < self.acknowledged {
                return Err(format!(
                    "{part:b} of {record:?} may win without {}",
                    self.acknowledged
                ));
            }
        }
        match &record.leader {
            Some(leader) if self.flushed[leader] < self.acknowledged => {
                Err(format!("{leader} may lead without {}", self.acknowledged))
            }
            None if self.promised => Err("anybody may lead".to_owned()),
            Some(_) | None => Ok(()),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let mode = prop_oneof![3 => Just(Some(true)), 2 => Just(Some(false)), 1 => Just(None)];
    prop_oneof![
        20 => Just(Event::Step),
        12 => Just(Event::Reload),
        3 => Just(Event::Unknown),
        2 => Just(Event::Late),
        1 => Just(Event::Lost),
        10 => Just(Event::Write),
        14 => (0usize..5).prop_map(Event::Flush),
        8 => (0usize..5).prop_map(Event::Connect),
        4 => (0usize..5).prop_map(Event::Disconnect),
        2 => (mode, 1usize..4, any::<bool>()).prop_map(|(m, c, s)| Event::Mode(m, c, s)),
        1 => Just(Event::Crash),
        1 => Just(Event::Restart),
        2 => (0u8..32).prop_map(Event::Failover),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn whoever_may_win_has_every_acknowledged_row(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut site = Site::new();
        for event in &events {
            site.apply(event);
            prop_assert_eq!(site.check(), Ok(()), "after {:?}", event);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_comes_to_rest_in_any_mode(
        events in proptest::collection::vec(event(), 0..60),
        mode in prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)],
        count in 1usize..4,
        there in 0u8..32,
    ) {
        let mut site = Site::new();
        for event in &events {
            site.apply(event);
        }
        site.apply(&Event::Mode(mode, count, false));
        site.late.clear();
        for round in 0..40 {
            for index in 0..NAMES.len() {
                let comes = there & (1 << index) != 0;
                let event = if comes { Event::Connect(index) } else { Event::Disconnect(index) };
                site.apply(&event);
                site.apply(&Event::Flush(index));
            }
            site.apply(&Event::Write);
            site.apply(&Event::Step);
            site.apply(&Event::Reload);
            prop_assert_eq!(site.check(), Ok(()), "round {}", round);
        }
        let there = site.streams.len();
        let record = site.record();
        match mode {
            Some(true) => {
                let needed = count.min(there);
                prop_assert_eq!(&record.standbys, &site.streams);
                prop_assert_eq!(record.quorum, there - needed);
                let list = List { names: site.streams.clone(), needed };
                prop_assert_eq!(List::parse(&site.list), Some(list));
            }
            Some(false) => {
                prop_assert_eq!((record.standbys.len(), record.quorum), (count.min(there), 0));
                prop_assert!(record.standbys.is_subset(&site.streams));
                let needed = record.standbys.len();
                let list = List { names: record.standbys.clone(), needed };
                prop_assert_eq!(List::parse(&site.list), Some(list));
            }
            None => {
                prop_assert_eq!((&record.leader, record.standbys.len()), (&None, 0));
                prop_assert_eq!(&site.list, "");
            }
        }
    }
}

/// A failover happens in these walks at all, and a node other than the first leads after it.
#[test]
fn a_voter_with_enough_votes_wins_and_goes_on() {
    let mut site = Site::new();
    for index in 1..4 {
        site.apply(&Event::Connect(index));
        site.apply(&Event::Flush(index));
    }
    for _ in 0..6 {
        site.apply(&Event::Step);
        site.apply(&Event::Reload);
    }
    assert_eq!(site.list, "ANY 1 (\"a2\",\"a3\",\"a4\")");
    assert_eq!(site.record().quorum, 2);
    site.apply(&Event::Write);
    site.apply(&Event::Flush(2));
    assert_eq!(site.acknowledged, 20);
    // a3, which has the row, and one more; or two that may both lack it.
    site.apply(&Event::Failover(0b00110));
    assert_eq!((site.opened, site.me().as_str()), (0, "a1"), "two votes of three");
    site.apply(&Event::Failover(0b01110));
    assert_eq!((site.opened, site.me().as_str()), (1, "a3"));
    assert_eq!(site.check(), Ok(()));
    assert_eq!(site.list, "ANY 1 (\"a1\",\"a2\",\"a4\")", "also before anybody streams from it");
    assert_eq!((site.record().quorum, site.record().standbys.len()), (2, 3));
}
