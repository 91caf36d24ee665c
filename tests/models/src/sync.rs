//! The `sync` record and `synchronous_standby_names`: I3, I4, I5.
//!
//! One leader and three standbys of one site. The leader's agent judges by
//! [`synchronous::next`] on what it saw, and acts later: rows are written, flushed and acknowledged,
//! standbys come and go in between. The outcome of a write of the record may be unknown, and a leader
//! dies at any instant; one such write is on its way for any time. Whoever the record names may lead, or the old leader comes back with the list
//! that the record gives; its server alone crashes, and starts again with the list that its agent, which
//! remembers its writes, gives it ([`synchronous::list_at_start`]).
//!
//! Bounds: rows, failovers, and how many standbys are to be synchronous, see [`Bounds`]; standbys
//! disconnect and come back without end. The list is in force when the server says so. In it: lists
//! of one and two, not strict. Not in it: cancelled waits, a change of mode, members of different
//! priorities (the agent's property tests have them).
//!
//! Distinct states: `make models` prints them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use regent_agent::decide::quorum::Voting;
use regent_agent::decide::view::{
    FailsafeRecord, Initialize, Member, Memory, Policy, PromiseRecord, PublishedSlots, Sender,
    SiteView, Status, SyncView,
};
use regent_agent::decide::{Action, synchronous};
use regent_proto::lsn::Lsn;
use regent_proto::timeline::TimelineId;
use stateright::{Model, Property};

use crate::gate::{first_history, policy};
use crate::members::{NAMES, NODES, bit, bits, names, node};
use crate::run::{Row, Rows, Size, hunt, search};

/// How much happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Nodes, the leader among them.
    pub nodes: u8,
    /// Rows.
    pub rows: u8,
    /// Leaders that die.
    pub failovers: u8,
    /// `synchronous_node_count`.
    pub count: u8,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, rows, failovers, count } = self;
        write!(f, "{nodes} nodes, {rows} rows, {failovers} failovers, {count} synchronous")
    }
}

/// One condition broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A name enters the record before it has flushed what was there.
    PublishBeforeEvidence,
    /// What it must have flushed is counted from long before the list.
    EvidenceOfBeforeTheList,
    /// The record grows before the list is in force.
    RecordBeforeTheList,
    /// The list shrinks before the record.
    EmptyListBeforeTheStoreWrite,
    /// A write of the record compares nothing.
    RecordWithoutCompare,
    /// A write of unknown outcome is forgotten.
    UnknownWriteForgotten,
    /// A leader comes back with an empty list.
    EmptyListAfterACrash,
    /// A server that crashed alone starts with the list that the record alone gives.
    UnknownWriteForgottenAtTheStart,
    /// Anybody who runs may lead.
    AnybodyMayLead,
}

impl Mutant {
    /// All of them.
    pub const EACH: [Self; 9] = [
        Self::PublishBeforeEvidence,
        Self::EvidenceOfBeforeTheList,
        Self::RecordBeforeTheList,
        Self::EmptyListBeforeTheStoreWrite,
        Self::RecordWithoutCompare,
        Self::UnknownWriteForgotten,
        Self::EmptyListAfterACrash,
        Self::UnknownWriteForgottenAtTheStart,
        Self::AnybodyMayLead,
    ];

    /// The property that catches it.
    #[must_use]
    pub fn caught_by(self) -> &'static str {
        match self {
            Self::PublishBeforeEvidence
            | Self::EvidenceOfBeforeTheList
            | Self::RecordBeforeTheList
            | Self::EmptyListBeforeTheStoreWrite
            | Self::RecordWithoutCompare
            | Self::UnknownWriteForgotten
            | Self::EmptyListAfterACrash
            | Self::UnknownWriteForgottenAtTheStart => MEET,
            Self::AnybodyMayLead => LOST,
        }
    }
}

/// A write or a setting that was decided on. Sets of nodes are bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decided {
    /// The record; whether it is still at the revision that the write compares.
    Record(u8, bool),
    /// The list.
    List(u8),
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    leader: u8,
    /// The leader's server is open.
    open: bool,
    /// It crashed alone: its agent lives, has the leader key, and remembers.
    crashed: bool,
    /// What each node has flushed.
    flushed: [u8; NODES],
    streams: u8,
    acknowledged: u8,
    /// Whom the record names as leader, and the standbys.
    record: (u8, u8),
    /// The list in force.
    list: u8,
    /// The list that the agent remembers, and the end of WAL when it first saw it.
    since: Option<(u8, u8)>,
    /// Names that writes put into the record which may still be applied, as the agent remembers.
    may_come: u8,
    decided: Option<Decided>,
    /// A write given up, or a dead leader's write of the record: its name, the standbys, whether the revision holds.
    late: Option<(u8, u8, bool)>,
    failovers: u8,
    lost: bool,
}

/// A step. Nodes by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A row is written.
    Write,
    /// A standby flushes what there is.
    Flush(u8),
    /// The rows that whom the list names have flushed are acknowledged.
    Acknowledge,
    /// A standby comes.
    Connect(u8),
    /// A standby goes.
    Disconnect(u8),
    /// The agent looks and decides.
    Decide,
    /// It acts.
    Act,
    /// The leader dies.
    Die,
    /// Its server dies, and nothing else.
    Crash,
    /// The agent starts it again.
    Start,
    /// This node leads and opens.
    Lead(u8),
    /// The outcome of a write of the record is unknown.
    Unknown,
    /// A write given up is applied.
    Late,
    /// It never is.
    LostForGood,
}

/// The model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synchronous {
    /// Its bounds.
    pub bounds: Bounds,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

/// I4.
pub const MEET: &str = "I4: whoever the record lets lead has every acknowledged row";
/// I3.
pub const LOST: &str = "I3: whoever opens has every acknowledged row";

impl Synchronous {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn policy(&self, me: u8) -> Policy {
        Policy {
            me: node(me),
            synchronous_mode: true,
            synchronous_node_count: usize::from(self.bounds.count),
            ..policy()
        }
    }

    fn nodes(&self) -> std::ops::Range<u8> {
        0..self.bounds.nodes
    }

    /// The product's next step, from what there is to be seen now.
    fn decide(&self, s: &mut State) -> Option<Decided> {
        let policy = self.policy(s.leader);
        let list = |set: u8| synchronous::list(&policy, &names(set));
        let end = s.flushed[usize::from(s.leader)];
        let mut memory = Memory {
            list_since: s.since.map(|(set, end)| (list(set), Lsn::new(u64::from(end)))),
            ..Memory::default()
        };
        if !self.is(Mutant::UnknownWriteForgotten) {
            memory.sync_sent = sent(s);
        }
        if self.is(Mutant::EvidenceOfBeforeTheList) {
            memory.list_since = Some((list(s.list), Lsn::new(0)));
        }
        let status = self.status(s, list(s.list), end);
        let action = synchronous::next(&policy, &mut memory, &site(s, self.nodes()), &status);
        s.may_come = memory.sync_sent.take().map_or(0, |(_, sent)| bits(&sent.voters));
        s.since =
            memory.list_since.and_then(|(_, end)| Some((s.list, u8::try_from(end.get()).ok()?)));
        let decided = match action? {
            Action::WriteSync { standbys, .. } => Decided::Record(bits(&standbys), true),
            Action::SetSynchronousNames(text) => {
                Decided::List((0..16).find(|set| list(*set) == text)?)
            }
            _ => return None,
        };
        Some(match decided {
            Decided::List(set)
                if self.is(Mutant::RecordBeforeTheList) && set & !s.record.1 != 0 =>
            {
                Decided::Record(s.record.1 | set, true)
            }
            Decided::Record(set, _)
                if self.is(Mutant::EmptyListBeforeTheStoreWrite)
                    && set & s.record.1 == set
                    && s.list != set =>
            {
                Decided::List(set)
            }
            Decided::List(_) | Decided::Record(..) => decided,
        })
    }

    fn status(&self, s: &State, list: String, end: u8) -> Status {
        let streaming = self.nodes().filter(|index| s.streams & bit(*index) != 0);
        let senders: BTreeMap<String, Sender> = streaming
            .map(|index| {
                let flushed = u64::from(s.flushed[usize::from(index)]);
                let flushed = if self.is(Mutant::PublishBeforeEvidence) { 99 } else { flushed };
                let sender = Sender {
                    streaming: true,
                    synchronous: s.list & bit(index) != 0,
                    flushed: Lsn::new(flushed),
                };
                (NAMES[usize::from(index)].to_owned(), sender)
            })
            .collect();
        let end = Lsn::new(u64::from(end));
        Status {
            in_recovery: false,
            ancestry: first_history(),
            control_timeline: TimelineId(1),
            end,
            replayed: end,
            last_commit: None,
            wall: regent_proto::time::WallTime(0),
            senders,
            receiver: None,
            synchronous_standby_names: list,
            slots: BTreeMap::new(),
            name_sought: false,
            settings: Default::default(),
            free_slots: 10,
            free_senders: 10,
            server_version: 150_018,
            wal_logical: false,
            slot_wal_limit: None,
            slots_at: None,
            upstream_end: None,
        }
    }

    /// The product's list for a server that crashed under its leader key.
    fn start(&self, s: &mut State) -> Option<()> {
        let policy = self.policy(s.leader);
        let mut memory = Memory { sync_sent: sent(s), ..Memory::default() };
        if self.is(Mutant::UnknownWriteForgottenAtTheStart) {
            memory.sync_sent = None;
        }
        let text = synchronous::list_at_start(&policy, &mut memory, &site(s, self.nodes()));
        s.list = (0..16).find(|set| synchronous::list(&policy, &names(*set)) == text)?;
        (s.open, s.crashed, s.streams) = (true, false, 0);
        Some(())
    }

    fn act(&self, s: &mut State) -> Option<()> {
        match s.decided.take()? {
            Decided::Record(set, fresh) => {
                if fresh || self.is(Mutant::RecordWithoutCompare) {
                    s.record = (s.leader, set);
                    s.settled();
                }
            }
            Decided::List(set) => s.list = set,
        }
        Some(())
    }

    fn lead(&self, s: &mut State, index: u8) {
        let named = s.record.1;
        if s.flushed[usize::from(index)] < s.acknowledged {
            s.lost = true;
        }
        if index == s.record.0 {
            // It crashed, and comes back as it was.
            s.list = if self.is(Mutant::EmptyListAfterACrash) { 0 } else { named };
        } else {
            // Nobody streams from it yet, so nobody has confirmed what it opens with.
            s.record = (index, 0);
            s.list = 0;
        }
        // Who leads has the leader key anew, and every write of the record compares its revision.
        s.settled();
        (s.leader, s.open, s.since) = (index, true, None);
        s.streams = 0;
        let end = s.flushed[usize::from(index)];
        for (other, flushed) in s.flushed.iter_mut().enumerate() {
            if other != usize::from(index) {
                *flushed = (*flushed).min(end);
            }
        }
    }
}

impl State {
    /// The record has another revision: what was in flight is dead, and known to be.
    fn settled(&mut self) {
        self.late = self.late.map(|(leader, set, _)| (leader, set, false));
        self.may_come = 0;
    }
}

fn sent(s: &State) -> Option<(Option<u64>, Voting)> {
    (s.may_come != 0).then(|| (Some(1), Voting { voters: names(s.may_come), quorum: 0 }))
}

fn site(s: &State, nodes: std::ops::Range<u8>) -> SiteView {
    let member = || {
        Arc::new(Member {
            host: String::new(),
            port: 1,
            api_url: String::new(),
            promise_url: None,
            state: "running".to_owned(),
            role: "replica".to_owned(),
            streaming: true,
            timeline: None,
            position: None,
            nofailover: false,
            nosync: false,
            nostream: false,
            sync_priority: 1,
            replicatefrom: None,
            clonefrom: false,
            horizon: None,
        })
    };
    SiteView {
        age: Duration::ZERO,
        leader: None,
        leaderless: Duration::ZERO,
        initialize: Initialize::Absent,
        members: nodes.map(|index| (node(index), member())).collect(),
        sync: SyncView {
            revision: Some(1),
            leader: Some(node(s.record.0)),
            standbys: names(s.record.1),
            unreadable: false,
            quorum: 0,
        },
        optime: None,
        ancestry: None,
        failover: None,
        mark: None,
        unreadable_mark: None,
        seen_epoch: None,
        unreadable_epoch: None,
        failsafe: FailsafeRecord::Absent,
        promise: PromiseRecord::Absent,
        published: PublishedSlots::default(),
        promotions: None,
        history: None,
    }
}

impl Model for Synchronous {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            leader: 0,
            open: true,
            crashed: false,
            flushed: [0; NODES],
            streams: 0,
            acknowledged: 0,
            record: (0, 0),
            list: 0,
            since: None,
            may_come: 0,
            decided: None,
            late: None,
            failovers: 0,
            lost: false,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Step>) {
        if s.late.is_some() {
            out.extend([Step::Late, Step::LostForGood]);
        }
        let writes = matches!(s.decided, Some(Decided::Record(..)));
        if writes && s.late.is_none() {
            out.push(Step::Unknown);
        }
        if s.crashed {
            out.push(Step::Start);
            if writes {
                out.push(Step::Act);
            }
            if s.failovers < self.bounds.failovers {
                out.push(Step::Die);
            }
            return;
        }
        if !s.open {
            out.extend(self.nodes().map(Step::Lead));
            return;
        }
        out.push(Step::Crash);
        let end = s.flushed[usize::from(s.leader)];
        if end < self.bounds.rows {
            out.push(Step::Write);
        }
        out.push(Step::Acknowledge);
        for index in self.nodes().filter(|index| *index != s.leader) {
            if s.streams & bit(index) == 0 {
                out.push(Step::Connect(index));
            } else {
                out.push(Step::Disconnect(index));
                if s.flushed[usize::from(index)] < end {
                    out.push(Step::Flush(index));
                }
            }
        }
        out.push(if s.decided.is_some() { Step::Act } else { Step::Decide });
        if s.failovers < self.bounds.failovers {
            out.push(Step::Die);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = *before;
        let end = s.flushed[usize::from(s.leader)];
        match step {
            Step::Write => s.flushed[usize::from(s.leader)] += 1,
            Step::Flush(index) => s.flushed[usize::from(index)] += 1,
            Step::Acknowledge => {
                let named = self.nodes().filter(|index| s.list & bit(*index) != 0);
                let all = named.map(|index| s.flushed[usize::from(index)]).min().unwrap_or(end);
                s.acknowledged = s.acknowledged.max(all.min(end));
            }
            Step::Connect(index) => s.streams |= bit(index),
            Step::Disconnect(index) => s.streams &= !bit(index),
            Step::Decide => s.decided = self.decide(&mut s),
            Step::Act => self.act(&mut s)?,
            Step::Die => {
                s.failovers += 1;
                if let Some(Decided::Record(set, fresh)) = s.decided {
                    s.late = Some((s.leader, set, fresh));
                }
                (s.open, s.crashed, s.decided) = (false, false, None);
            }
            Step::Crash => {
                (s.open, s.crashed, s.streams) = (false, true, 0);
                // A list is set by a reload, which needs the server.
                s.decided = s.decided.filter(|decided| matches!(decided, Decided::Record(..)));
            }
            Step::Start => {
                // The agent does one thing after the other.
                if s.decided.is_some() {
                    return None;
                }
                self.start(&mut s)?;
            }
            Step::Lead(index) => {
                let named = s.record.0 == index || s.record.1 & bit(index) != 0;
                if !named && !self.is(Mutant::AnybodyMayLead) {
                    return None;
                }
                self.lead(&mut s, index);
            }
            Step::Unknown => {
                let Some(Decided::Record(set, fresh)) = s.decided.take() else { return None };
                s.late = Some((s.leader, set, fresh));
            }
            Step::Late => {
                let (leader, set, fresh) = s.late.take()?;
                if fresh || self.is(Mutant::RecordWithoutCompare) {
                    s.record = (leader, set);
                    s.may_come = 0;
                    s.decided = s.decided.map(|decided| match decided {
                        Decided::Record(set, _) => Decided::Record(set, false),
                        Decided::List(set) => Decided::List(set),
                    });
                }
            }
            Step::LostForGood => s.late = None,
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(MEET, |model: &Self, s: &State| {
                let named = |index: &u8| s.record.0 == *index || s.record.1 & bit(*index) != 0;
                let mut lead = model.nodes().filter(named);
                lead.all(|index| s.flushed[usize::from(index)] >= s.acknowledged)
            }),
            Property::always(LOST, |_: &Self, s: &State| !s.lost),
            Property::sometimes("a standby that was named leads", |_: &Self, s: &State| {
                s.leader != 0 && s.acknowledged > 0
            }),
            Property::sometimes("as many as wanted are named", |model: &Self, s: &State| {
                s.record.1.count_ones() == u32::from(model.bounds.count)
            }),
        ]
    }
}

/// Searches the model and its mutants. Small enough that both sizes are the same.
#[must_use]
pub fn rows(_: Size) -> Rows {
    let small = Bounds { nodes: 3, rows: 2, failovers: 2, count: 1 };
    let bounds = vec![small];
    let row = |bounds: Bounds, mutant: Option<Mutant>| {
        let model = Synchronous { bounds, mutant };
        let wanted = mutant.map(|mutant| mutant.caught_by());
        Row {
            model: "sync",
            bounds: bounds.to_string(),
            mutant: mutant.zip(wanted).map(|(mutant, wanted)| (format!("{mutant:?}"), wanted)),
            counted: true,
            found: wanted.map_or_else(|| search(model), |wanted| hunt(model, wanted)),
        }
    };
    let models = bounds.into_iter().map(move |bounds| row(bounds, None));
    let mutants = Mutant::EACH.into_iter().map(move |mutant| row(small, Some(mutant)));
    Box::new(models.chain(mutants))
}
