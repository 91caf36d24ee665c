//! Election of the coordinator: whatever the elected one writes is written under its own tenure.
//!
//! Coordinators with sessions in the quorum that expire, unnoticed or not; each decides by the whole
//! [`decide`] on a picture that may be old, and its transaction is applied late, or never. The work is
//! a running operation without a record, which the elected one clears. What a transaction compares and
//! puts is the product's [`Write`].
//!
//! Bounds: see [`Bounds`]; a picture is of any age, one transaction in flight for each coordinator.
//! Keeps protocol.md section 2 (what was read is compared; "leader tenure by revision, not by name")
//! and I28 (nobody is elected twice).
//!
//! Distinct states: `make models` prints them.

use std::fmt;
use std::sync::LazyLock;

use regent_coordinator::decide::apply::{self, File};
use regent_coordinator::decide::view::{Quorum, Revision, Seen, Session, Slot, StoreLease, View};
use regent_coordinator::decide::write::{Purpose, Put, Write};
use regent_coordinator::decide::{Memory, Policy, decide};
use regent_proto::keys::GlobalKey;
use regent_proto::name::{CoordinatorName, OperationId, Tenure};
use regent_proto::record::{
    CoordinatorLeader, CoordinatorMember, RunningOperation, Unknown, VERSION,
};
use stateright::{Model, Property};

use crate::clock::NOW;
use crate::gate::name;
use crate::run::{Row, Rows, Size, hunt, search};

const MOST: usize = 3;

/// How much happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Coordinators.
    pub coordinators: u8,
    /// Sessions that each may have, one after the other.
    pub sessions: u8,
    /// Operations.
    pub operations: u8,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { coordinators, sessions, operations } = self;
        write!(f, "{coordinators} coordinators, {sessions} sessions each, {operations} operations")
    }
}

/// One condition broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A write of the elected one does not compare `leader`.
    WriteWithoutItsLeadershipCompare,
    /// A candidate does not compare `leader`.
    CampaignWithoutCompare,
    /// It is elected when `leader` carries its name.
    ElectedByName,
    /// `leader` does not go with the session.
    LeaderOutlivesTheSession,
    /// A write compares nothing of what it is about.
    WorkNotCompared,
}

impl Mutant {
    /// All of them.
    pub const EACH: [Self; 5] = [
        Self::WriteWithoutItsLeadershipCompare,
        Self::CampaignWithoutCompare,
        Self::ElectedByName,
        Self::LeaderOutlivesTheSession,
        Self::WorkNotCompared,
    ];

    /// The property that catches it.
    #[must_use]
    pub fn caught_by(self) -> &'static str {
        match self {
            Self::WriteWithoutItsLeadershipCompare | Self::ElectedByName => LED,
            Self::CampaignWithoutCompare => ONE,
            Self::LeaderOutlivesTheSession => LIVES,
            Self::WorkNotCompared => MEANT,
        }
    }
}

/// A tenure: whose, and which of its sessions.
type Term = (u8, u8);

/// What a coordinator saw, and whether each record is still at that revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Picture {
    leader: (Option<Term>, bool),
    joined: (bool, bool),
    running: (u8, bool),
}

/// A transaction in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sent {
    purpose: Intent,
    term: Term,
    /// Everything that it compares is still as it was.
    fits: Fits,
}

/// What is compared, and still holds; true where it is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fits {
    leader: bool,
    joined: bool,
    running: bool,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Announces the coordinator.
    Join,
    /// Stands for `leader`.
    Campaign,
    /// Clears this operation.
    Clear(u8),
}

/// A coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Coordinator {
    session: u8,
    picture: Option<Picture>,
    sent: Option<Sent>,
}

/// What must never have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sin {
    /// Nothing did.
    None,
    /// Written without the lead.
    Unled,
    /// `leader` taken from a living tenure.
    Taken,
    /// Another operation than the one decided on was cleared.
    NotMeant,
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    leader: Option<Term>,
    /// The session under which each is announced.
    joined: [Option<u8>; MOST],
    /// Which of each one's sessions live in the store, one bit each.
    lives: [u8; MOST],
    running: u8,
    begun: u8,
    each: [Coordinator; MOST],
    led: u8,
    sin: Sin,
}

/// A step. Coordinators by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A coordinator sees the records as they are.
    Look(usize),
    /// It decides and sends.
    Decide(usize),
    /// The quorum gets it.
    Apply(usize),
    /// It never does, or the answer is lost before.
    Lose(usize),
    /// The store lets go of a session.
    Expire(usize, u8),
    /// A coordinator begins a new session, also after a restart.
    Renew(usize),
    /// An operation begins.
    Begin,
}

/// The model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Election {
    /// Its bounds.
    pub bounds: Bounds,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

/// protocol.md section 2.
pub const LED: &str = "section 2: what the elected one writes is applied under its own tenure only";
/// I28.
pub const ONE: &str = "I28: nobody is elected beside a living tenure";
/// I20.
pub const LIVES: &str = "I20: `leader` goes with its session";
/// protocol.md section 2.
pub const MEANT: &str = "section 2: only the operation that was decided on is cleared";

const TOPOLOGY: &str = include_str!("../../../topologies/two-sites-and-witness.yaml");

/// A federation that was just created.
static CREATED: LazyLock<View> = LazyLock::new(|| {
    let mut view = View::empty(name("f"), NOW);
    view.quorum = Quorum::Reachable;
    let file = File::parse(TOPOLOGY).expect("a topology of the repository");
    let created = apply::create(&view, &file, uuid::Uuid::nil()).expect("nothing is there yet");
    for put in created.write.into_iter().flat_map(|write| write.puts) {
        match put {
            Put::Topology(record) => view.topology = read(*record, 1),
            Put::Primary(record) => view.primary = read(*record, 1),
            Put::Running(_)
            | Put::Assignment(..)
            | Put::Operation(_)
            | Put::Leader(..)
            | Put::Coordinator(..) => {}
        }
    }
    view
});

fn read<T>(value: T, revision: u64) -> Slot<T> {
    let revision = Revision(revision);
    Slot::Read(Seen { value, revision, lease: None, since: NOW, witnessed: true })
}

fn coordinator(at: u8) -> CoordinatorName {
    name(["c0", "c1", "c2"][usize::from(at)])
}

fn tenure((at, session): Term) -> Tenure {
    name(&format!("tenure-{at}-{session}"))
}

fn operation(id: u8) -> OperationId {
    name(&format!("op-{id}"))
}

impl Election {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// What the product does on this picture.
    fn decide(&self, at: u8, session: u8, picture: &Picture) -> Option<Write> {
        let mut view = CREATED.clone();
        let me = coordinator(at);
        let term = (at, session);
        view.session =
            Some(Session { lease: StoreLease(i64::from(session) + 1), tenure: tenure(term) });
        let policy = Policy {
            me: me.clone(),
            site: name("eu"),
            address: "127.0.0.1:1".to_owned(),
            insecure: false,
            software: String::new(),
            report_age_max: Policy::REPORT_AGE_MAX,
            settle: Policy::SETTLE,
        };
        if let Some(leads) = picture.leader.0 {
            let own = self.is(Mutant::ElectedByName) && leads.0 == at;
            let leader = CoordinatorLeader {
                version: VERSION,
                name: coordinator(leads.0),
                tenure: tenure(if own { term } else { leads }),
                unknown: Unknown::new(),
            };
            view.leader = read(leader, 2);
        }
        if picture.joined.0 {
            let member = CoordinatorMember {
                version: VERSION,
                name: me.clone(),
                site: name("eu"),
                address: String::new(),
                software: String::new(),
                insecure: false,
                unknown: Unknown::new(),
            };
            view.coordinators.insert(me, read(member, 2));
        }
        let id = (picture.running.0 > 0).then(|| operation(picture.running.0));
        view.running = read(RunningOperation { version: VERSION, id, unknown: Unknown::new() }, 2);
        decide(&policy, &Memory::default(), &view).actions.into_iter().next()
    }

    fn send(&self, s: &State, at: usize) -> Option<Sent> {
        let own = s.each[at];
        let index = u8::try_from(at).ok()?;
        let picture = own.picture?;
        let write = self.decide(index, own.session, &picture)?;
        let purpose = match write.purpose {
            Purpose::Join => Intent::Join,
            Purpose::Campaign => Intent::Campaign,
            Purpose::ClearOperation => Intent::Clear(picture.running.0),
            // Assignments: not of this model.
            _ => return None,
        };
        let ignored = match purpose {
            Intent::Join => None,
            Intent::Campaign => {
                self.is(Mutant::CampaignWithoutCompare).then_some(GlobalKey::Leader)
            }
            Intent::Clear(_) if self.is(Mutant::WorkNotCompared) => {
                Some(GlobalKey::RunningOperation)
            }
            Intent::Clear(_) => {
                self.is(Mutant::WriteWithoutItsLeadershipCompare).then_some(GlobalKey::Leader)
            }
        };
        let compares = |key: GlobalKey| {
            ignored.as_ref() != Some(&key) && write.compares.iter().any(|e| e.record == key)
        };
        let fits = Fits {
            leader: picture.leader.1 || !compares(GlobalKey::Leader),
            joined: picture.joined.1 || !compares(GlobalKey::Coordinator(coordinator(index))),
            running: picture.running.1 || !compares(GlobalKey::RunningOperation),
        };
        Some(Sent { purpose, term: (index, own.session), fits })
    }

    /// Which compares a transaction in flight makes: those of the product, but the broken one.
    fn touched(&self, s: &mut State, key: &GlobalKey) {
        for (at, coordinator) in s.each.iter_mut().enumerate() {
            let own = |key: &GlobalKey| match key {
                GlobalKey::Coordinator(name) => {
                    u8::try_from(at).is_ok_and(|at| *name == self::coordinator(at))
                }
                _ => true,
            };
            if !own(key) {
                continue;
            }
            if let Some(picture) = &mut coordinator.picture {
                match key {
                    GlobalKey::Leader => picture.leader.1 = false,
                    GlobalKey::RunningOperation => picture.running.1 = false,
                    _ => picture.joined.1 = false,
                }
            }
            if let Some(sent) = &mut coordinator.sent {
                let ignores_leader = match sent.purpose {
                    Intent::Join => true,
                    Intent::Campaign => self.is(Mutant::CampaignWithoutCompare),
                    Intent::Clear(_) => self.is(Mutant::WriteWithoutItsLeadershipCompare),
                };
                match (key, sent.purpose) {
                    (GlobalKey::Leader, _) => sent.fits.leader &= ignores_leader,
                    (GlobalKey::RunningOperation, Intent::Clear(_)) => {
                        sent.fits.running &= self.is(Mutant::WorkNotCompared);
                    }
                    (GlobalKey::Coordinator(_), Intent::Join) => sent.fits.joined = false,
                    _ => {}
                }
            }
        }
    }

    fn apply(&self, s: &mut State, at: usize) -> Option<()> {
        let sent = s.each[at].sent.take()?;
        let (index, session) = sent.term;
        // A put that is bound to a session that is gone is refused by the store.
        let bound = s.lives[at] & (1 << session) != 0;
        if !(sent.fits.leader && sent.fits.joined && sent.fits.running) {
            return Some(());
        }
        match sent.purpose {
            Intent::Join if bound => {
                s.joined[at] = Some(session);
                self.touched(s, &GlobalKey::Coordinator(coordinator(index)));
            }
            Intent::Campaign if bound || self.is(Mutant::LeaderOutlivesTheSession) => {
                if s.leader.is_some() {
                    s.sin = Sin::Taken;
                }
                s.leader = Some(sent.term);
                s.led |= 1 << index;
                self.touched(s, &GlobalKey::Leader);
            }
            Intent::Join | Intent::Campaign => {}
            Intent::Clear(id) => {
                if s.leader != Some(sent.term) {
                    s.sin = Sin::Unled;
                } else if s.running != id {
                    s.sin = Sin::NotMeant;
                }
                s.running = 0;
                self.touched(s, &GlobalKey::RunningOperation);
            }
        }
        Some(())
    }

    fn expire(&self, s: &mut State, at: usize, session: u8) -> Option<()> {
        let index = u8::try_from(at).ok()?;
        s.lives[at] &= !(1 << session);
        if s.joined[at] == Some(session) {
            s.joined[at] = None;
            self.touched(s, &GlobalKey::Coordinator(coordinator(index)));
        }
        let leads = s.leader == Some((index, session));
        if leads && !self.is(Mutant::LeaderOutlivesTheSession) {
            s.leader = None;
            self.touched(s, &GlobalKey::Leader);
        }
        Some(())
    }
}

impl Model for Election {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            leader: None,
            joined: [None; MOST],
            lives: [1; MOST],
            running: 0,
            begun: 0,
            each: [Coordinator { session: 0, picture: None, sent: None }; MOST],
            led: 0,
            sin: Sin::None,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Step>) {
        for at in 0..usize::from(self.bounds.coordinators) {
            let own = &s.each[at];
            out.push(Step::Look(at));
            match own.sent {
                Some(_) => out.extend([Step::Apply(at), Step::Lose(at)]),
                None if own.picture.is_some() => out.push(Step::Decide(at)),
                None => {}
            }
            let living = (0..self.bounds.sessions).filter(|n| s.lives[at] & (1 << n) != 0);
            out.extend(living.map(|session| Step::Expire(at, session)));
            // A restart begins a new session while the old one may still live.
            if own.session + 1 < self.bounds.sessions {
                out.push(Step::Renew(at));
            }
        }
        if s.running == 0 && s.begun < self.bounds.operations {
            out.push(Step::Begin);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = *before;
        match step {
            Step::Look(at) => {
                s.each[at].picture = Some(Picture {
                    leader: (s.leader, true),
                    joined: (s.joined[at].is_some(), true),
                    running: (s.running, true),
                });
            }
            Step::Decide(at) => s.each[at].sent = self.send(&s, at),
            Step::Apply(at) => self.apply(&mut s, at)?,
            Step::Lose(at) => s.each[at].sent = None,
            Step::Expire(at, session) => self.expire(&mut s, at, session)?,
            Step::Renew(at) => {
                s.each[at].session += 1;
                s.each[at].picture = None;
                s.lives[at] |= 1 << s.each[at].session;
            }
            Step::Begin => {
                s.begun += 1;
                s.running = s.begun;
                self.touched(&mut s, &GlobalKey::RunningOperation);
            }
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LED, |_: &Self, s: &State| s.sin != Sin::Unled),
            Property::always(ONE, |_: &Self, s: &State| s.sin != Sin::Taken),
            Property::always(MEANT, |_: &Self, s: &State| s.sin != Sin::NotMeant),
            Property::always(LIVES, |_: &Self, s: &State| {
                s.leader.is_none_or(|(at, session)| s.lives[usize::from(at)] & (1 << session) != 0)
            }),
            Property::sometimes("two have led", |_: &Self, s: &State| s.led.count_ones() > 1),
            Property::sometimes("all operations were cleared", |model: &Self, s: &State| {
                s.begun == model.bounds.operations && s.running == 0
            }),
        ]
    }
}

/// Searches the model and its mutants.
#[must_use]
pub fn rows(size: Size) -> Rows {
    let small = Bounds { coordinators: 2, sessions: 2, operations: 1 };
    let twice = Bounds { operations: 2, ..small };
    let bounds = match size {
        Size::Short => vec![small],
        Size::Long => vec![twice],
    };
    let row = |bounds: Bounds, mutant: Option<Mutant>| {
        let model = Election { bounds, mutant };
        let wanted = mutant.map(|mutant| mutant.caught_by());
        Row {
            model: "election",
            bounds: bounds.to_string(),
            mutant: mutant.zip(wanted).map(|(mutant, wanted)| (format!("{mutant:?}"), wanted)),
            counted: true,
            found: wanted.map_or_else(|| search(model), |wanted| hunt(model, wanted)),
        }
    };
    let models = bounds.into_iter().map(move |bounds| row(bounds, None));
    let mutants = Mutant::EACH.into_iter().map(move |mutant| row(twice, Some(mutant)));
    Box::new(models.chain(mutants))
}
