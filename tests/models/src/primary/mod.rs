//! The `primary` record and the primary lease, with everything that protocol.md says of them but
//! what is named below: I2, I3, I25, I26, I27, I29.
//!
//! Two or three sites, each with one leader process and, in site A and B, a second node that may
//! follow it as leader with nothing in memory. Coordinators hand over, fence, unfence and roll back
//! at any instant, unelected and as many as there may be: a transaction that compares what it read is
//! the same as one that is decided where it is applied. A leader's requests are in flight, may be
//! applied late, lost, answered late or never, and outlive their sender.
//! The product's own: what each transaction compares and puts ([`regent_proto::transactions`]),
//! ancestry ([`regent_proto::timeline`]), `LeaseTiming` (deadline, wait), `after_refusal`, who may
//! promise and when a round is complete (`failsafe::quorum`), the gate of opening.
//!
//! Bounds, see [`Bounds`]: ticks of 1 s without end, TTL 2 (4 where it is lowered), promises of 4;
//! so many handovers, fences, failovers inside sites, acknowledged rows and requests in flight.
//! Stop, start and kill take no time; whatever is open at its deadline is killed (model `lease`).
//! An acknowledged row is on both nodes of its site (model `sync`); in bounds without rows all
//! histories are one. What nothing asks any more is forgotten (`forget`). Not in it: salvage
//! (rule 12), attach and detach, raising limits.
//!
//! Distinct states: `make models` prints them.

mod effects;
mod forget;
mod mutants;
pub mod records;
mod requests;
mod rules;
mod steps;
mod transactions;

use stateright::Property;

use self::records::{Histories, P, Point, SITES};
use crate::progress::progress;
use crate::run::{Found, Row, Rows, Size, hunt, search};

pub use mutants::{Bounds, Mutant};

/// A request's kind, with what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Takes `lease` for a new tenure.
    Acquire,
    /// Renews it, under this TTL.
    Renew(u8),
    /// Stopped, with WAL up to there.
    Token(u8, u8),
    /// Takes primacy.
    Take,
    /// Takes primacy after the wait, with WAL up to there.
    Promote(u8, u8),
    /// Adds a site to the electorate.
    Add(u8),
    /// Lowers `ttl_max`.
    Lower,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// On its way.
    Sent,
    /// Done; its answer is on its way.
    Applied,
    /// Refused; its answer is on its way.
    Refused,
}

/// A request in flight.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    site: u8,
    kind: Kind,
    stage: Stage,
    /// Since just before its sending.
    age: u8,
    /// The epoch that it gives.
    epoch: u8,
    /// The electorate and `ttl_max` of the `primary` that it compares, of one that gives a tenure.
    read: (u8, u8),
    /// `primary` is still at the revision it compares, or has put.
    p_fresh: bool,
    /// So is `lease`.
    l_fresh: bool,
    /// Its sender waits for the answer.
    heard: bool,
    /// Its sender lives.
    live: bool,
    /// Sent before the site was marked.
    void: bool,
}

/// `lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct L {
    /// The site whose present process has this tenure.
    of: Option<u8>,
    released: bool,
    /// The request in flight that wrote it.
    writer: Option<u8>,
}

/// What a leader process knows; gone with it.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// It holds a tenure, of this epoch.
    lease: bool,
    epoch: u8,
    /// Ticks until the writing deadline, and until the one by renewals alone.
    left: u8,
    acknowledged: u8,
    /// What renewals compare is the present revision.
    p_known: bool,
    l_known: bool,
    /// A renewal was refused and none acknowledged since.
    refused: bool,
    /// It has marked the site.
    marked: bool,
    /// Since the sending of a reading, and since the answers of those that showed the fenced
    /// revision of `primary` and the present one of `lease`.
    reading: Option<u8>,
    fenced_for: Option<u8>,
    lease_for: Option<u8>,
    /// A round of promises: since its sending, and who has promised.
    round: Option<(u8, u8)>,
    /// The electorate as it knows it.
    electorate: u8,
    /// Lowering the TTL: 1 renewing with the lower one, 2 renewed.
    lowering: u8,
}

/// A site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    /// Which node leads.
    leader: u8,
    wal: [Point; 2],
    memory: Memory,
    /// The server is writable.
    open: bool,
    /// The site is marked; whether `primary` is still at the mark's revision.
    mark: Option<bool>,
    /// Highest epoch seen.
    seen: u8,
    /// Since the promise in the site DCS was given, or read by its present leader.
    promise: Option<u8>,
}

/// What must never have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sin {
    /// Nothing did.
    None,
    /// Opened under an epoch that is not the highest.
    OlderEpoch,
    /// Opened, or acknowledged, without an acknowledged row.
    Lost,
    /// `primary` went back to an older epoch.
    EpochBack,
    /// A token took the floor away from a history that contained it.
    FloorFell,
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    p: P,
    l: L,
    sites: [Site; SITES],
    requests: [Option<Request>; 3],
    histories: Histories,
    /// The last acknowledged row that no accepted loss took.
    row: Point,
    /// The highest epoch there was.
    top: u8,
    handovers: u8,
    fences: u8,
    failovers: u8,
    rows: u8,
    /// A coordinator's put without compares, in flight.
    put: Option<P>,
    sin: Sin,
}

/// The model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Primacy {
    /// Its bounds.
    pub bounds: Bounds,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

/// I25.
pub const TWO: &str = "I25: at most one site is writable";
/// I2.
pub const OLDER: &str = "I2: nobody opens under an older epoch";
/// I2.
pub const BACK: &str = "I2: the epoch of `primary` never goes back";
/// I3, I29.
pub const LOST: &str =
    "I3: whoever opens or acknowledges has every acknowledged row that no promotion gave up";
/// I26.
pub const FLOOR: &str = "I26: a token's floor contains the floor it replaces";
/// Section 1, I20.
pub const READABLE: &str = "I20: `primary` can be read: its holder is in the electorate";
/// I20, I29.
pub const BACK_TO_ONE: &str =
    "I20: whatever happened, one site comes to be writable without operator";
/// The bounds.
const ROOM: &str = "the bounds have room for every history";
/// I27.
pub const PERSISTED: &str = "I27: an open server's epoch stands in its site";

fn properties(bounds: &Bounds) -> Vec<Property<Primacy>> {
    let mut all = vec![
        Property::always(TWO, |_: &Primacy, s: &State| {
            s.sites.iter().filter(|site| site.open).count() < 2
        }),
        Property::always(OLDER, |_: &Primacy, s: &State| s.sin != Sin::OlderEpoch),
        Property::always(BACK, |_: &Primacy, s: &State| s.sin != Sin::EpochBack),
        Property::always(LOST, |_: &Primacy, s: &State| s.sin != Sin::Lost),
        Property::always(FLOOR, |_: &Primacy, s: &State| s.sin != Sin::FloorFell),
        Property::always(PERSISTED, |_: &Primacy, s: &State| {
            s.sites.iter().all(|site| !site.open || site.seen >= site.memory.epoch)
        }),
        Property::always(READABLE, |_: &Primacy, s: &State| s.p.is_readable()),
        Property::always(ROOM, |_: &Primacy, s: &State| {
            usize::from(s.histories.count) < records::HISTORIES
        }),
        Property::sometimes("A is open", |_: &Primacy, s: &State| s.sites[0].open),
    ];
    if bounds.handovers > 0 || bounds.promotes(1) {
        all.push(Property::sometimes("B is open", |_: &Primacy, s: &State| s.sites[1].open));
    }
    if bounds.handovers > 1 {
        all.push(Property::sometimes("A is open again", |_: &Primacy, s: &State| {
            s.sites[0].open && s.p.epoch == 3
        }));
    }
    if bounds.promises {
        all.push(Property::sometimes("A lives by promises", |_: &Primacy, s: &State| {
            // No renewal gives as much.
            s.sites[0].open && s.sites[0].memory.left > rules::LOW
        }));
    }
    if bounds.removes && bounds.promises {
        all.push(Property::sometimes("A lives by promises without C", |_: &Primacy, s: &State| {
            let memory = &s.sites[0].memory;
            memory.electorate == 0b011 && memory.left > memory.acknowledged
        }));
    }
    if bounds.adds || bounds.removes {
        all.push(Property::sometimes("C is open", |_: &Primacy, s: &State| s.sites[2].open));
    }
    if bounds.lowers {
        all.push(Property::sometimes("the TTL is lower", |_: &Primacy, s: &State| {
            s.p.ttl_max < rules::HIGH
        }));
    }
    all
}

/// Whether the holder alone is writable, under the epoch of an open `primary`.
fn one_writes(s: &State) -> bool {
    let holder = &s.sites[usize::from(s.p.holder)];
    let open = s.sites.iter().filter(|site| site.open).count();
    open == 1
        && holder.open
        && holder.memory.epoch == s.p.epoch
        && s.p.state == records::PState::Open
}

fn comes_back(model: &Primacy) -> Found {
    progress(model, BACK_TO_ONE, |step: &steps::Step| step.is_free(), one_writes)
}

/// One search: of the model, or of a mutant for the property that catches it.
fn row(bounds: Bounds, mutant: Option<Mutant>) -> Row {
    let model = Primacy { bounds, mutant };
    let wanted = mutant.map(|mutant| mutant.caught_by().1);
    Row {
        model: "primary",
        bounds: bounds.to_string(),
        mutant: mutant.zip(wanted).map(|(mutant, wanted)| (format!("{mutant:?}"), wanted)),
        counted: true,
        found: match wanted {
            None => search(model),
            Some(BACK_TO_ONE) => comes_back(&model),
            Some(wanted) => hunt(model, wanted),
        },
    }
}

/// Searches the model.
#[must_use]
pub fn searched(size: Size) -> Rows {
    let models = Bounds::of(size).into_iter().map(|bounds| row(bounds, None));
    let back = Bounds::of_progress(size).into_iter().map(|bounds| Row {
        model: "primary",
        bounds: format!("{bounds}: {BACK_TO_ONE}"),
        mutant: None,
        counted: false,
        found: comes_back(&Primacy { bounds, mutant: None }),
    });
    Box::new(models.chain(back))
}

/// Searches its mutants.
#[must_use]
pub fn mutants() -> Rows {
    Box::new(Mutant::EACH.into_iter().map(|mutant| row(mutant.caught_by().0, Some(mutant))))
}

/// Searches the model and its mutants.
#[must_use]
pub fn rows(size: Size) -> Rows {
    Box::new(searched(size).chain(mutants()))
}
