//! Quorum commit: `ANY n (…)`, the voters of the `sync` record, and races by votes: I3, I4, I5.
//!
//! As [`sync`](crate::sync), with `synchronous_mode: quorum`: the leader's agent judges by
//! [`synchronous::next`] on what it saw and acts later, while rows are written, flushed and acknowledged
//! by any n of the list. The outcome of a write of the record may be unknown, and one such write is on
//! its way for any time. The leader dies at any instant; whoever then has
//! enough votes ([`quorum::votes`]) of any set of nodes that answers leads, opens with the record that
//! [`quorum::kept`] says, or the old leader comes back. A server that crashed alone starts with
//! [`synchronous::list_at_start`].
//!
//! Bounds: see [`Bounds`]. The mode changes to `on` and back as often as they say. Not in it: strict mode,
//! the mode off, cancelled waits, answers of before the leader's end; what a dead leader wrote and nobody
//! received is cut off at once, so there is one timeline.
//!
//! Distinct states: `make models` prints them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use regent_agent::decide::quorum::{self, List, Voting};
use regent_agent::decide::view::{
    FailsafeRecord, Initialize, Member, Memory, PeerAnswer, PeersView, Policy, PromiseRecord,
    Sender, SiteView, Status, SyncView,
};
use regent_agent::decide::{Action, synchronous};
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
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
    /// Changes of the mode.
    pub modes: u8,
    /// `synchronous_node_count`.
    pub count: u8,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, rows, failovers, modes, count } = self;
        write!(
            f,
            "{nodes} nodes, {rows} rows, {failovers} failovers, {modes} changes of mode, any {count}"
        )
    }
}

/// One condition broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Voters enter the record before they have flushed what was there.
    PublishBeforeEvidence,
    /// What they must have flushed is counted from long before the list.
    EvidenceOfBeforeTheList,
    /// A name joins the list before the record asks for more votes.
    ListBeforeTheRecord,
    /// The record asks for one vote too few.
    OneVoteTooFew,
    /// The list shrinks to nobody before the record.
    EmptyListBeforeTheStoreWrite,
    /// A write of the record compares nothing.
    RecordWithoutCompare,
    /// A write of unknown outcome is forgotten.
    UnknownWriteForgotten,
    /// A server that crashed alone starts with the list that the record alone gives.
    UnknownWriteForgottenAtTheStart,
    /// A leader comes back with an empty list.
    EmptyListAfterACrash,
    /// Who won keeps the record and waits for nobody.
    KeptWithoutTheList,
    /// A voter leads by its own vote.
    OwnVoteIsEnough,
}

impl Mutant {
    /// All of them.
    pub const EACH: [Self; 11] = [
        Self::PublishBeforeEvidence,
        Self::EvidenceOfBeforeTheList,
        Self::ListBeforeTheRecord,
        Self::OneVoteTooFew,
        Self::EmptyListBeforeTheStoreWrite,
        Self::RecordWithoutCompare,
        Self::UnknownWriteForgotten,
        Self::UnknownWriteForgottenAtTheStart,
        Self::EmptyListAfterACrash,
        Self::KeptWithoutTheList,
        Self::OwnVoteIsEnough,
    ];

    /// The property that catches it.
    #[must_use]
    pub fn caught_by(self) -> &'static str {
        match self {
            Self::PublishBeforeEvidence
            | Self::EvidenceOfBeforeTheList
            | Self::ListBeforeTheRecord
            | Self::OneVoteTooFew
            | Self::EmptyListBeforeTheStoreWrite
            | Self::RecordWithoutCompare
            | Self::UnknownWriteForgotten
            | Self::UnknownWriteForgottenAtTheStart
            | Self::EmptyListAfterACrash
            | Self::KeptWithoutTheList => MEET,
            Self::OwnVoteIsEnough => LOST,
        }
    }
}

/// A set of nodes as bits, and a number: voters and quorum, or names and how many.
type Of = (u8, u8);

/// A write or a setting that was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decided {
    /// The record; whether it is still at the revision that the write compares.
    Record(Of, bool),
    /// The list.
    List(Of),
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a small state")]
pub struct State {
    leader: u8,
    /// The leader's server is open.
    open: bool,
    /// It crashed alone: its agent lives, has the leader key, and remembers.
    crashed: bool,
    /// The mode is `quorum`, and not `on`.
    by_quorum: bool,
    /// What each node has flushed.
    flushed: [u8; NODES],
    streams: u8,
    acknowledged: u8,
    /// Whom the record names as leader.
    led: u8,
    record: Of,
    /// The list in force.
    list: Of,
    /// The end of WAL when the agent first saw that list.
    since: Option<u8>,
    /// What stands for writes that may still be applied, as the agent remembers.
    may_come: Of,
    decided: Option<Decided>,
    /// A write given up, or a dead leader's write of the record: its name, what it puts, whether
    /// the revision holds.
    late: Option<(u8, Of, bool)>,
    failovers: u8,
    modes: u8,
    lost: bool,
}

/// A step. Nodes by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A row is written.
    Write,
    /// A standby flushes what there is.
    Flush(u8),
    /// The rows that enough of the list have flushed are acknowledged.
    Acknowledge,
    /// A standby comes.
    Connect(u8),
    /// A standby goes.
    Disconnect(u8),
    /// The agent looks and decides.
    Decide,
    /// It acts.
    Act,
    /// Somebody changes the mode.
    Mode,
    /// The leader dies.
    Die,
    /// Its server dies, and nothing else.
    Crash,
    /// The agent starts it again.
    Start,
    /// This node leads and opens; these answered it.
    Lead(u8, u8),
    /// The outcome of a write of the record is unknown.
    Unknown,
    /// A write given up is applied.
    Late,
    /// It never is.
    LostForGood,
}

/// The model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Its bounds.
    pub bounds: Bounds,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

/// I4.
pub const MEET: &str = "I4: each set that the record lets win has every acknowledged row";
/// I3.
pub const LOST: &str = "I3: whoever opens has every acknowledged row";

fn voting((set, quorum): Of) -> Voting {
    Voting { voters: names(set), quorum: usize::from(quorum) }
}

fn list((set, needed): Of) -> List {
    List { names: names(set), needed: usize::from(needed) }
}

fn of_voting(voting: &Voting) -> Option<Of> {
    Some((bits(&voting.voters), u8::try_from(voting.quorum).ok()?))
}

fn of_list(list: &List) -> Option<Of> {
    Some((bits(&list.names), u8::try_from(list.needed).ok()?))
}

impl Quorum {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn nodes(&self) -> std::ops::Range<u8> {
        0..self.bounds.nodes
    }

    fn policy(&self, s: &State) -> Policy {
        Policy {
            me: node(s.leader),
            synchronous_mode: true,
            synchronous_node_count: usize::from(self.bounds.count),
            synchronous_quorum: s.by_quorum,
            ..policy()
        }
    }

    /// The product's next step, from what there is to be seen now.
    fn decide(&self, s: &mut State) -> Option<Decided> {
        let policy = self.policy(s);
        let text = list(s.list).text(s.by_quorum);
        let since = if self.is(Mutant::EvidenceOfBeforeTheList) { Some(0) } else { s.since };
        let mut memory = Memory {
            list_since: since.map(|end| (text.clone(), Lsn::new(u64::from(end)))),
            ..Memory::default()
        };
        if !self.is(Mutant::UnknownWriteForgotten) {
            memory.sync_sent = sent(s);
        }
        let status = self.status(s, text);
        let action = synchronous::next(&policy, &mut memory, &site(s, self.nodes()), &status);
        let sent = memory.sync_sent.take().and_then(|(_, sent)| of_voting(&sent));
        s.may_come = sent.unwrap_or_default();
        s.since = memory.list_since.and_then(|(_, end)| u8::try_from(end.get()).ok());
        let decided = match action? {
            Action::WriteSync { standbys, quorum, .. } => {
                Decided::Record(of_voting(&Voting { voters: standbys, quorum })?, true)
            }
            Action::SetSynchronousNames(text) => Decided::List(of_list(&List::parse(&text)?)?),
            _ => return None,
        };
        Some(match decided {
            Decided::Record((set, quorum), _)
                if self.is(Mutant::ListBeforeTheRecord)
                    && s.record.0 != 0
                    && quorum > s.record.1 =>
            {
                Decided::List((set, s.list.1))
            }
            Decided::Record((set, quorum), fresh) if self.is(Mutant::OneVoteTooFew) => {
                Decided::Record((set, quorum.saturating_sub(1)), fresh)
            }
            Decided::Record((0, _), _)
                if self.is(Mutant::EmptyListBeforeTheStoreWrite) && s.record.0 != 0 =>
            {
                Decided::List((0, 0))
            }
            Decided::List(_) | Decided::Record(..) => decided,
        })
    }

    fn status(&self, s: &State, text: String) -> Status {
        let streaming = self.nodes().filter(|index| s.streams & bit(*index) != 0);
        let senders: BTreeMap<String, Sender> = streaming
            .map(|index| {
                let flushed = u64::from(s.flushed[usize::from(index)]);
                let flushed = if self.is(Mutant::PublishBeforeEvidence) { 99 } else { flushed };
                let sender = Sender {
                    streaming: true,
                    synchronous: s.list.0 & bit(index) != 0,
                    flushed: Lsn::new(flushed),
                };
                (NAMES[usize::from(index)].to_owned(), sender)
            })
            .collect();
        let end = Lsn::new(u64::from(s.flushed[usize::from(s.leader)]));
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
            synchronous_standby_names: text,
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
        let mut memory = Memory { sync_sent: sent(s), ..Memory::default() };
        if self.is(Mutant::UnknownWriteForgottenAtTheStart) {
            memory.sync_sent = None;
        }
        let site = site(s, self.nodes());
        let text = synchronous::list_at_start(&self.policy(s), &mut memory, &site);
        s.set_list(of_list(&List::parse(&text)?)?);
        (s.open, s.crashed, s.streams) = (true, false, 0);
        Some(())
    }

    fn act(&self, s: &mut State) -> Option<()> {
        match s.decided.take()? {
            Decided::Record(record, fresh) => {
                if fresh || self.is(Mutant::RecordWithoutCompare) {
                    (s.led, s.record) = (s.leader, record);
                    s.settled();
                }
            }
            Decided::List(list) => s.set_list(list),
        }
        Some(())
    }

    /// Whether this node takes the leader key when these answer it.
    fn wins(&self, s: &State, index: u8, answering: u8) -> bool {
        let of_record = |other: u8| s.led == other || s.record.0 & bit(other) != 0;
        let flushed = |other: u8| s.flushed[usize::from(other)];
        let others =
            || self.nodes().filter(move |other| *other != index && answering & bit(*other) != 0);
        let answers = others()
            .map(|other| {
                let answer = PeerAnswer {
                    without_data: false,
                    primary: false,
                    // Zero is no position.
                    position: Lsn::new(u64::from(flushed(other)) + 1),
                    timeline: Some(TimelineId(1)),
                    nofailover: false,
                    failover_priority: 1,
                    age: Some(Duration::ZERO),
                    ancestry: None,
                };
                (node(other), answer)
            })
            .collect();
        let peers = PeersView { age: Duration::ZERO, answers };
        let history = first_history();
        let mine = (&history, Lsn::new(u64::from(flushed(index)) + 1));
        let record = site(s, self.nodes()).sync;
        let gone = Duration::ZERO;
        let (has, needs) = quorum::votes(&record, &node(index), mine, Some(&peers), None, gone);
        let behind = others().any(|other| of_record(other) && flushed(other) > flushed(index));
        of_record(index) && !behind && (has >= needs || self.is(Mutant::OwnVoteIsEnough))
    }

    fn lead(&self, s: &mut State, index: u8, answering: u8) -> Option<()> {
        if s.flushed[usize::from(index)] < s.acknowledged {
            s.lost = true;
        }
        let comes_back = index == s.led;
        if !comes_back {
            let old = site(s, self.nodes()).sync;
            let runs = |other: &NodeName| names(answering).contains(other);
            let by_quorum = s.by_quorum || s.record.1 > 0;
            let kept = quorum::kept(&old, &node(index), runs).filter(|_| by_quorum);
            s.record = of_voting(&kept.unwrap_or_default())?;
            s.led = index;
        }
        s.set_list(of_list(&voting(s.record).list(false))?);
        let forgets = if comes_back {
            self.is(Mutant::EmptyListAfterACrash)
        } else {
            self.is(Mutant::KeptWithoutTheList)
        };
        if forgets {
            s.list = (0, 0);
        }
        // Who leads has the leader key anew, and every write of the record compares its revision.
        s.settled();
        (s.leader, s.open, s.streams) = (index, true, 0);
        let end = s.flushed[usize::from(index)];
        for flushed in &mut s.flushed {
            *flushed = (*flushed).min(end);
        }
        Some(())
    }
}

impl State {
    fn set_list(&mut self, list: Of) {
        (self.list, self.since) = (list, None);
    }

    /// The record has another revision: what was in flight is dead, and known to be.
    fn settled(&mut self) {
        self.late = self.late.map(|(leader, record, _)| (leader, record, false));
        self.may_come = (0, 0);
    }

    /// Each set of voters that may win, and the record's leader, has what was acknowledged.
    fn meets(&self) -> bool {
        let has = |index: u8| self.flushed[usize::from(index)] >= self.acknowledged;
        let (voters, quorum) = self.record;
        let lacking = (0..4).filter(|index| voters & bit(*index) != 0 && !has(*index)).count();
        lacking <= usize::from(quorum) && has(self.led)
    }
}

fn sent(s: &State) -> Option<(Option<u64>, Voting)> {
    (s.may_come.0 != 0).then(|| (Some(1), voting(s.may_come)))
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
            sync_priority: 1,
            replicatefrom: None,
            clonefrom: false,
            nostream: false,
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
            leader: Some(node(s.led)),
            standbys: names(s.record.0),
            unreadable: false,
            quorum: usize::from(s.record.1),
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
        published: Default::default(),
        promotions: None,
        history: None,
    }
}

impl Model for Quorum {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            leader: 0,
            open: true,
            crashed: false,
            by_quorum: true,
            flushed: [0; NODES],
            streams: 0,
            acknowledged: 0,
            led: 0,
            record: (0, 0),
            list: (0, 0),
            since: None,
            may_come: (0, 0),
            decided: None,
            late: None,
            failovers: 0,
            modes: 0,
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
            for index in self.nodes() {
                let sets = 0..bit(self.bounds.nodes);
                let with_it = sets.filter(|answering| answering & bit(index) != 0);
                out.extend(with_it.map(|answering| Step::Lead(index, answering)));
            }
            return;
        }
        out.push(Step::Crash);
        if s.modes < self.bounds.modes {
            out.push(Step::Mode);
        }
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
                let named = self.nodes().filter(|index| s.list.0 & bit(*index) != 0);
                let mut flushed: Vec<u8> =
                    named.map(|index| s.flushed[usize::from(index)]).collect();
                flushed.sort_unstable_by(|a, b| b.cmp(a));
                let up_to = match usize::from(s.list.1) {
                    0 => end,
                    needed => flushed.get(needed - 1).copied().unwrap_or(0),
                };
                s.acknowledged = s.acknowledged.max(up_to.min(end));
            }
            Step::Connect(index) => s.streams |= bit(index),
            Step::Disconnect(index) => s.streams &= !bit(index),
            Step::Decide => s.decided = self.decide(&mut s),
            Step::Act => self.act(&mut s)?,
            Step::Mode => {
                s.by_quorum = !s.by_quorum;
                s.modes += 1;
            }
            Step::Die => {
                s.failovers += 1;
                if let Some(Decided::Record(record, fresh)) = s.decided {
                    s.late = Some((s.leader, record, fresh));
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
            Step::Lead(index, answering) => {
                if !self.wins(&s, index, answering) {
                    return None;
                }
                self.lead(&mut s, index, answering)?;
            }
            Step::Unknown => {
                let Some(Decided::Record(record, fresh)) = s.decided.take() else { return None };
                s.late = Some((s.leader, record, fresh));
            }
            Step::Late => {
                let (leader, record, fresh) = s.late.take()?;
                if fresh || self.is(Mutant::RecordWithoutCompare) {
                    (s.led, s.record) = (leader, record);
                    s.may_come = (0, 0);
                    s.decided = s.decided.map(|decided| match decided {
                        Decided::Record(record, _) => Decided::Record(record, false),
                        Decided::List(list) => Decided::List(list),
                    });
                }
            }
            Step::LostForGood => s.late = None,
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(MEET, |_: &Self, s: &State| s.meets()),
            Property::always(LOST, |_: &Self, s: &State| !s.lost),
            Property::sometimes("a voter won by votes, with rows", |_: &Self, s: &State| {
                s.leader != 0 && s.acknowledged > 0 && s.record.1 > 0
            }),
            Property::sometimes("everybody votes, any of them confirm", |m: &Self, s: &State| {
                let others = m.bounds.nodes - 1;
                s.record.0.count_ones() == u32::from(others)
                    && s.record.1 == others - m.bounds.count
                    && s.list == (s.record.0, m.bounds.count)
            }),
            Property::sometimes("on again", |m: &Self, s: &State| {
                m.bounds.modes == 0
                    || (!s.by_quorum && s.acknowledged > 0 && s.record.0 != 0 && s.record.1 == 0)
            }),
        ]
    }
}

/// Searches the model and its mutants.
#[must_use]
pub fn rows(size: Size) -> Rows {
    let small = Bounds { nodes: 3, rows: 2, failovers: 1, modes: 1, count: 1 };
    let mut bounds = vec![small];
    match size {
        Size::Short => {}
        Size::Long => bounds.extend([
            Bounds { failovers: 2, modes: 0, ..small },
            Bounds { nodes: 4, rows: 1, failovers: 1, modes: 0, count: 2 },
        ]),
    }
    let row = |bounds: Bounds, mutant: Option<Mutant>| {
        let model = Quorum { bounds, mutant };
        let wanted = mutant.map(|mutant| mutant.caught_by());
        Row {
            model: "quorum",
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
