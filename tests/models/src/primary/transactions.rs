//! What the product's transactions compare, and what they put ([`regent_proto::transactions`]).
//!
//! The records that a transaction puts are asked for where it is applied. What it compares does not
//! depend on what the records say, so each kind is asked once: from every state of `primary` that it
//! starts from, and what only some of those compare counts as not compared.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regent_proto::edges::NoEdge;
use regent_proto::keys::GlobalKey;
use regent_proto::name::{RequestId, SiteName};
use regent_proto::promotion::{AcceptedLoss, Loss};
use regent_proto::record::{Primary, PrimaryState};
use regent_proto::time::WallTime;
use regent_proto::transactions::{self, Read, Taker, Transaction};

use super::records::{self, HISTORIES, Histories, History, P, PState, Point};
use super::rules::{LOW, SPAN};
use super::{Kind, Mutant, Primacy, State};
use crate::asked::{Asked, once};
use crate::clock::ticks;
use crate::gate::name;

/// Every site is in the electorate.
const EVERYBODY: u8 = 0b111;

/// A transaction that puts `primary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edge {
    /// To this site.
    Handover(u8),
    /// Stopped at this point.
    Token(Point),
    /// By whom the token is for.
    Take,
    /// Back to open.
    RollBack,
    /// For this site.
    Fence(u8),
    /// Opened from this point.
    Promote(Point),
    /// Back to open.
    Unfence,
    /// This site enters the electorate.
    Add(u8),
    /// This site leaves the electorate.
    Remove(u8),
    /// `ttl_max` falls.
    Lower,
}

fn read(primary: &Primary) -> Read<'_> {
    Read { primary, primary_revision: 1, lease_revision: Some(1) }
}

fn ask(p: &P, histories: &Histories, edge: Edge) -> Result<Transaction, NoEdge> {
    let record = p.record(histories.point(p.floor));
    let read = read(&record);
    let tenure = || records::lease((p.holder, p.epoch), records::tenure(true), false);
    let taker = || Taker { site: tenure().site, node: records::node(), at: WallTime(0) };
    match edge {
        Edge::Handover(to) => {
            transactions::handover(&read, records::site(to).clone(), records::operation(), ticks(4))
        }
        Edge::Token(end) => transactions::token(&read, &tenure(), p.token(histories.point(end))),
        Edge::Take => transactions::take(&read, tenure(), taker()),
        Edge::RollBack => transactions::roll_back(&read),
        Edge::Fence(to) => {
            let (to, accepted) = (records::site(to).clone(), AcceptedLoss::default());
            transactions::fence(&read, to, records::operation(), accepted)
        }
        Edge::Promote(end) => {
            let nothing = Loss { at_most: None, at_least_bytes: Some(0) };
            transactions::promote(&read, (histories.point(end), nothing), tenure(), taker())
        }
        Edge::Unfence => transactions::unfence(&read),
        Edge::Add(site) => Ok(transactions::electorate_with(&read, records::site(site).clone())),
        Edge::Remove(site) => {
            let remaining = record.electorate.iter().filter(|name| *name != records::site(site));
            transactions::electorate_of(&read, &remaining.cloned().collect())
        }
        Edge::Lower => Ok(transactions::limits(&read, ticks(LOW), ticks(SPAN))),
    }
}

impl P {
    /// The record that a transaction puts; `None`: it does not start from here.
    pub fn after(&self, histories: &Histories, edge: Edge) -> Option<Self> {
        thread_local! {
            static KNOWN: Asked<(P, Histories, Edge), Option<P>> = Asked::default();
        }
        once(&KNOWN, (*self, *histories, edge), || self.put_by(histories, edge))
    }

    fn put_by(&self, histories: &Histories, edge: Edge) -> Option<Self> {
        let next = ask(self, histories, edge).ok()?.primary?;
        let end = match edge {
            Edge::Token(end) | Edge::Promote(end) => Some(end),
            Edge::Handover(_)
            | Edge::Take
            | Edge::RollBack
            | Edge::Fence(_)
            | Edge::Unfence
            | Edge::Add(_)
            | Edge::Remove(_)
            | Edge::Lower => None,
        };
        let floor = match (&next.floor, end) {
            (Some(floor), Some(end)) if *floor == histories.point(end) => end,
            (Some(_) | None, Some(_) | None) => self.floor,
        };
        let bits = |sites: &BTreeSet<SiteName>| {
            sites.iter().map(|site| 1 << records::index(site)).sum::<u8>()
        };
        Some(Self {
            holder: records::index(&next.holder),
            epoch: u8::try_from(next.epoch.get()).unwrap_or(u8::MAX),
            state: match &next.state {
                PrimaryState::Open => PState::Open,
                PrimaryState::Handover { to, .. } => PState::Handover(records::index(to)),
                PrimaryState::Token { to, .. } => PState::Token(records::index(to)),
                PrimaryState::Fenced { to, .. } => PState::Fenced(records::index(to)),
            },
            floor,
            electorate: bits(&next.electorate),
            ttl_max: u8::try_from(next.ttl_max.as_secs()).unwrap_or(u8::MAX),
        })
    }
}

impl Primacy {
    /// The record that a transaction puts, or one that does not look at the electorate.
    pub(super) fn next(&self, s: &State, edge: Edge) -> Option<P> {
        let fences = !self.is(Mutant::FencedForWhoIsNoMember);
        let looks = match edge {
            Edge::Fence(_) => fences,
            Edge::Promote(_) => {
                // Which is the second line of whoever is fenced for, and of whom failsafe asks.
                fences
                    && !self.is(Mutant::PromotedThoughNoMember)
                    && !self.is(Mutant::AsksThePresentElectorate)
            }
            Edge::Take => !self.is(Mutant::TakenByNoMember),
            Edge::Remove(_) => !self.is(Mutant::TheHolderLeaves),
            Edge::Handover(_)
            | Edge::Token(_)
            | Edge::RollBack
            | Edge::Unfence
            | Edge::Add(_)
            | Edge::Lower => true,
        };
        if looks {
            return s.p.after(&s.histories, edge);
        }
        if let Edge::Remove(site) = edge {
            return Some(P { electorate: s.p.electorate & !(1 << site), ..s.p });
        }
        let next = P { electorate: EVERYBODY, ..s.p }.after(&s.histories, edge)?;
        Some(P { electorate: s.p.electorate, ..next })
    }
}

/// What a kind of transaction compares and puts, of what the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// It compares `primary`.
    pub primary: bool,
    /// It compares `lease`.
    pub lease: bool,
    /// It puts `lease`, released or not.
    pub puts: Option<bool>,
}

impl Shape {
    fn of(asked: &[Transaction]) -> Self {
        Self {
            primary: asked.iter().all(|t| t.compares(&GlobalKey::Primary)),
            lease: asked.iter().all(|t| t.compares(&GlobalKey::Lease)),
            puts: asked.first().and_then(|t| t.lease.as_ref()).map(|lease| lease.released),
        }
    }
}

struct Shapes {
    acquire: Shape,
    renew: Shape,
    token: Shape,
    take: Shape,
    promote: Shape,
    add: Shape,
    remove: Shape,
    lower: Shape,
    handover: Shape,
    roll_back: Shape,
    fence: Shape,
    unfence: Shape,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let start = Point { history: 0, end: 0 };
    let nothing = History { parent: 0, at: 0, by: (0, 0, 0) };
    let histories = Histories { count: 1, each: [nothing; HISTORIES] };
    let states = [PState::Open, PState::Handover(1), PState::Token(1), PState::Fenced(1)]
        .map(|state| P { holder: 0, epoch: 1, state, floor: start, electorate: 3, ttl_max: 3 });
    let edge = |edge: Edge| {
        let asked = states.iter().filter_map(|p| ask(p, &histories, edge).ok());
        Shape::of(&asked.collect::<Vec<_>>())
    };
    let tenure = records::lease((0, 1), records::tenure(true), false);
    let request: RequestId = name("request-2");
    let acquired = states.iter().map(|p| {
        let record = p.record(histories.point(start));
        transactions::acquire(&read(&record), tenure.clone())
    });
    Shapes {
        acquire: Shape::of(&acquired.collect::<Vec<_>>()),
        renew: Shape::of(&[transactions::renew((1, 1), &tenure, request)]),
        token: edge(Edge::Token(start)),
        take: edge(Edge::Take),
        promote: edge(Edge::Promote(start)),
        add: edge(Edge::Add(2)),
        remove: edge(Edge::Remove(2)),
        lower: edge(Edge::Lower),
        handover: edge(Edge::Handover(1)),
        roll_back: edge(Edge::RollBack),
        fence: edge(Edge::Fence(1)),
        unfence: edge(Edge::Unfence),
    }
});

impl Kind {
    /// What a leader's request compares and puts.
    pub fn shape(self) -> Shape {
        match self {
            Self::Acquire => SHAPES.acquire,
            Self::Renew(_) => SHAPES.renew,
            Self::Token(..) => SHAPES.token,
            Self::Take => SHAPES.take,
            Self::Promote(..) => SHAPES.promote,
            Self::Add(_) => SHAPES.add,
            Self::Lower => SHAPES.lower,
        }
    }
}

impl Edge {
    /// Whether the transaction compares `primary`.
    pub fn compares_primary(self) -> bool {
        let shape = match self {
            Self::Handover(_) => SHAPES.handover,
            Self::RollBack => SHAPES.roll_back,
            Self::Fence(_) => SHAPES.fence,
            Self::Unfence => SHAPES.unfence,
            Self::Token(_) => SHAPES.token,
            Self::Take => SHAPES.take,
            Self::Promote(_) => SHAPES.promote,
            Self::Add(_) => SHAPES.add,
            Self::Remove(_) => SHAPES.remove,
            Self::Lower => SHAPES.lower,
        };
        shape.primary
    }
}
