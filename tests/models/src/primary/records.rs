//! The model's bytes as the product's records, and back.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::name::{NodeName, OperationId, PromotionId, RequestId, SiteName, Tenure};
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{Lease, Primary, PrimaryState, Record as _, Token, Unknown, VERSION};
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, Containment, HistoryPoint, Switch, TimelineId};

use crate::asked::{Asked, once};
use crate::clock::ticks;
use crate::gate::{database, name};

/// Most sites.
pub const SITES: usize = 3;
/// Most histories: the first, and one for each opening.
pub const HISTORIES: usize = 6;

/// A state of `primary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PState {
    /// Open.
    Open,
    /// To this site.
    Handover(u8),
    /// To this site.
    Token(u8),
    /// To this site.
    Fenced(u8),
}

/// A point of a history, also what a server has: its history and the end of its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Point {
    /// The history.
    pub history: u8,
    /// The position.
    pub end: u8,
}

/// `primary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct P {
    /// The primary site.
    pub holder: u8,
    /// Its epoch.
    pub epoch: u8,
    /// What may happen next.
    pub state: PState,
    /// What must be contained.
    pub floor: Point,
    /// One bit a site.
    pub electorate: u8,
    /// The longest TTL in use.
    pub ttl_max: u8,
}

/// A history: where it left its parent, which is older. It is its promotion's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct History {
    /// The history before.
    pub parent: u8,
    /// Where it was left.
    pub at: u8,
    /// Which opening began it: site, node, epoch.
    pub by: (u8, u8, u8),
}

struct Names {
    sites: [SiteName; SITES],
    promotions: [PromotionId; HISTORIES],
    operation: OperationId,
    tenures: [Tenure; 2],
    node: NodeName,
    request: RequestId,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    sites: ["a", "b", "c"].map(name),
    promotions: ["p0", "p1", "p2", "p3", "p4", "p5"].map(name),
    operation: name("op-1"),
    tenures: ["tenure-1", "tenure-2"].map(name),
    node: name("n1"),
    request: name("request-1"),
});

/// A site's name.
pub fn site(index: u8) -> &'static SiteName {
    &NAMES.sites[usize::from(index)]
}

/// A site by its name.
pub(super) fn index(site: &SiteName) -> u8 {
    let found = NAMES.sites.iter().position(|name| name == site);
    found.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

/// The tenure of the process that is meant, or another one.
pub fn tenure(own: bool) -> &'static Tenure {
    &NAMES.tenures[usize::from(!own)]
}

/// The operation of every handover and promotion.
pub(super) fn operation() -> OperationId {
    NAMES.operation.clone()
}

/// Every leader.
pub(super) fn node() -> NodeName {
    NAMES.node.clone()
}

/// The histories of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Histories {
    /// How many there are.
    pub count: u8,
    /// Those.
    pub each: [History; HISTORIES],
}

impl Histories {
    /// The product's history of one of these.
    pub fn ancestry(&self, history: u8) -> Ancestry {
        let promotion =
            |history: u8| (history > 0).then(|| NAMES.promotions[usize::from(history)].clone());
        let mut switches = Vec::new();
        let mut way = vec![history];
        while let Some(last) = way.last().copied().filter(|last| *last > 0) {
            way.push(self.each[usize::from(last)].parent);
        }
        way.reverse();
        for (timeline, pair) in (1_u32..).zip(way.windows(2)) {
            let end = Lsn::new(u64::from(self.each[usize::from(pair[1])].at));
            let promotion = promotion(pair[0]);
            switches.push(Switch { timeline: TimelineId(timeline), end, promotion });
        }
        let timeline = TimelineId(u32::try_from(way.len()).unwrap_or(u32::MAX));
        Ancestry { timeline, promotion: promotion(history), switches }
    }

    /// How many timelines lead to it.
    pub fn timeline(&self, wal: Point) -> u8 {
        let mut count = 1;
        let mut at = wal.history;
        while at > 0 {
            at = self.each[usize::from(at)].parent;
            count += 1;
        }
        count
    }

    /// The product's point.
    pub fn point(&self, point: Point) -> HistoryPoint {
        let ancestry = self.ancestry(point.history);
        HistoryPoint {
            timeline: ancestry.timeline,
            position: Lsn::new(u64::from(point.end)),
            promotion: ancestry.promotion,
        }
    }

    /// Whether WAL that ends at `wal` contains `point`, as the product judges it.
    pub fn contains(&self, wal: Point, point: Point) -> bool {
        thread_local! {
            static KNOWN: Asked<(Histories, Point, Point), bool> = Asked::default();
        }
        once(&KNOWN, (*self, wal, point), || {
            let end = Lsn::new(u64::from(wal.end));
            self.ancestry(wal.history).contains(end, &self.point(point)) == Containment::Contained
        })
    }

    /// The same by the histories themselves: what is true.
    pub fn truly_contains(&self, wal: Point, point: Point) -> bool {
        let mut at = wal;
        while at.history != point.history {
            if at.history == 0 {
                return point.end == 0;
            }
            let own = self.each[usize::from(at.history)];
            at = Point { history: own.parent, end: own.at.min(at.end) };
        }
        at.end >= point.end
    }

    /// A server with this WAL opens: a history of its own begins, unless it only goes on with what
    /// it began in this epoch.
    pub fn begin(&mut self, wal: Point, by: (u8, u8, u8)) -> Option<Point> {
        if wal.history > 0 && self.each[usize::from(wal.history)].by == by {
            return Some(wal);
        }
        let place = self.each.get_mut(usize::from(self.count))?;
        *place = History { parent: wal.history, at: wal.end, by };
        self.count += 1;
        Some(Point { history: self.count - 1, end: wal.end })
    }
}

impl P {
    /// The record. Its floor is of no use here: it goes through the edges as it is.
    pub fn record(&self, floor: HistoryPoint) -> Primary {
        let operation = NAMES.operation.clone();
        let span = ticks(4);
        let state = match self.state {
            PState::Open => PrimaryState::Open,
            PState::Handover(to) => {
                PrimaryState::Handover { to: site(to).clone(), operation, span }
            }
            PState::Token(to) => PrimaryState::Token {
                to: site(to).clone(),
                operation,
                span,
                token: self.token(floor.clone()),
            },
            PState::Fenced(to) => {
                let accepted = AcceptedLoss::default();
                PrimaryState::Fenced { to: site(to).clone(), operation, accepted }
            }
        };
        let electorate: BTreeSet<SiteName> = (0..3)
            .filter(|at| self.electorate & (1 << at) != 0)
            .map(|at| site(at).clone())
            .collect();
        Primary {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            system_identifier: Some(database()),
            holder: site(self.holder).clone(),
            epoch: Epoch::new(u64::from(self.epoch)),
            state,
            floor: Some(floor),
            electorate,
            ttl_max: ticks(self.ttl_max),
            span_max: ticks(4),
            writes_fenced: None,
            unknown: Unknown::new(),
        }
    }

    /// Whether the product reads such a record.
    pub fn is_readable(&self) -> bool {
        thread_local! {
            static KNOWN: Asked<P, bool> = Asked::default();
        }
        once(&KNOWN, *self, || {
            let (timeline, position) = (TimelineId(1), Lsn::new(0));
            self.record(HistoryPoint { timeline, position, promotion: None }).check().is_ok()
        })
    }

    /// A token of this state, for a server that stopped there.
    pub(super) fn token(&self, end: HistoryPoint) -> Token {
        Token {
            from: site(self.holder).clone(),
            epoch: Epoch::new(u64::from(self.epoch)),
            system_identifier: database(),
            end,
            tenure: tenure(true).clone(),
            stopping_at: WallTime(0),
        }
    }
}

/// `lease` as a process of the holder reads it.
pub fn lease((holder, epoch): (u8, u8), own: &Tenure, released: bool) -> Lease {
    Lease {
        version: VERSION,
        site: site(holder).clone(),
        node: NAMES.node.clone(),
        tenure: own.clone(),
        epoch: Epoch::new(u64::from(epoch)),
        counter: 0,
        request: NAMES.request.clone(),
        ttl: ticks(2),
        released,
        unknown: Unknown::new(),
    }
}
