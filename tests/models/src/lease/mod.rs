//! The site's lease, its fence and the take-over: I1, I7, I8, I9, I12.
//!
//! One node A with a server, an agent (renewal thread and rung 1), a guardian (rung 2), a watchdog
//! (rung 3) and a store lease; a node B that opens at the instant at which the leader key is free.
//! An agent gives the key back when it ends, after its server; or goes on without it, where its server does
//! not write: then its right ends first, and the fence with what it guards (`agent/src/fence/release.rs`).
//! The product's own: [`LeaseTiming`], [`Deadline::granted`], `guardian::decide`, `decide::demote`,
//! the gate of opening, [`WatchdogTiming`].
//!
//! Bounds: ticks of 1 s without end (ages up to 16 are told apart), TTL 6, G 2, κ 1, W 2, R 1; the
//! store lets go at any tick from TTL on, never before; one request in flight and one given up that
//! may still be applied; answers late or lost at will; one kind of client; the server stops, opens
//! and starts again without end. Three sets of faults, each without a limit in number or length:
//! agent paused or killed; guardian paused or killed; both, beside a required watchdog.
//! Not in it: clocks that run apart (proptests of `proto::time`), paused machines, frozen servers.
//!
//! Distinct states: `make models` prints them.

mod fence;
mod steps;

use regent_proto::time::{Deadline, LeaseTiming, WatchdogTiming};
use stateright::Property;

use crate::clock::{NOW, ago, ticks};
use crate::run::{Row, Rows, Size, hunt, search};

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// The agent is paused and killed.
    Agent,
    /// The guardian is paused and killed.
    Guardian,
    /// Both are, and a watchdog is required.
    BothBesideAWatchdog,
}

impl Faults {
    /// All sets.
    pub const EACH: [Self; 3] = [Self::Agent, Self::Guardian, Self::BothBesideAWatchdog];
}

/// One condition broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The deadline counts from the answer.
    DeadlineAnchoredAtReceive,
    /// A request whose outcome is unknown raises the deadline.
    UnknownExtends,
    /// The leader key is given back while the server stops.
    LeaseDroppedBeforeTheStop,
    /// The leader key is given back by an agent that goes on, while the fence still ends what it guards.
    GivenBackBesideTheFence,
    /// An agent that gives the leader key back and goes on keeps its deadline.
    GivenBackWithTheDeadline,
    /// It opens without a guardian.
    GuardianMissing,
    /// It opens without the watchdog that is required.
    WatchdogMissing,
    /// The kill ends with the postmaster.
    KillMissesSomeProcesses,
    /// The watchdog is disarmed when the postmaster is gone.
    DisarmWithALiveProcess,
    /// The watchdog is pinged whenever a ping is due.
    PingAfterTheDeadline,
    /// The watchdog is pinged as long as the deadline lies ahead.
    PingWithoutTheFactorTwo,
    /// The device is set to TTL − 1 s.
    WatchdogLongerThanHalfTheLease,
    /// It opens although the watchdog, pinged freely until then, would fire too late.
    FreePingBeforeOpening,
    /// It opens on a deadline that has passed.
    OpeningPastTheDeadline,
}

impl Mutant {
    /// All of them.
    pub const EACH: [Self; 14] = [
        Self::DeadlineAnchoredAtReceive,
        Self::UnknownExtends,
        Self::LeaseDroppedBeforeTheStop,
        Self::GivenBackBesideTheFence,
        Self::GivenBackWithTheDeadline,
        Self::GuardianMissing,
        Self::WatchdogMissing,
        Self::KillMissesSomeProcesses,
        Self::DisarmWithALiveProcess,
        Self::PingAfterTheDeadline,
        Self::PingWithoutTheFactorTwo,
        Self::WatchdogLongerThanHalfTheLease,
        Self::FreePingBeforeOpening,
        Self::OpeningPastTheDeadline,
    ];

    /// The faults under which it shows, and the property that catches it.
    #[must_use]
    pub fn caught_by(self) -> (Faults, &'static str) {
        match self {
            Self::DeadlineAnchoredAtReceive | Self::UnknownExtends | Self::GuardianMissing => {
                (Faults::Agent, DEADLINE)
            }
            Self::LeaseDroppedBeforeTheStop => (Faults::Agent, RELEASE),
            Self::GivenBackBesideTheFence => (Faults::Agent, ONE),
            Self::GivenBackWithTheDeadline => (Faults::Agent, RIGHT),
            Self::KillMissesSomeProcesses => (Faults::Agent, DEADLINE),
            Self::OpeningPastTheDeadline => (Faults::Guardian, DEADLINE),
            Self::DisarmWithALiveProcess => (Faults::BothBesideAWatchdog, DISARM),
            Self::PingAfterTheDeadline => (Faults::BothBesideAWatchdog, PING),
            Self::WatchdogMissing
            | Self::FreePingBeforeOpening
            | Self::PingWithoutTheFactorTwo
            | Self::WatchdogLongerThanHalfTheLease => (Faults::BothBesideAWatchdog, DEADLINE),
        }
    }
}

/// Who has the leader key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// Nobody.
    Free,
    /// A.
    A,
    /// B, which is open.
    B,
}

/// What a request of A does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Creates the key.
    Acquire,
    /// Renews its lease.
    Renew,
}

/// A's request in flight; the age counts from just before its sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// None.
    None,
    /// On its way to the store.
    Sent(Kind, u8),
    /// Done; the answer is on its way.
    Applied(u8),
    /// Refused; the answer is on its way.
    Refused,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    /// It runs.
    Up,
    /// Stopped, for as long as it takes.
    Paused,
    /// Gone.
    Dead,
}

/// The postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    /// None.
    Down,
    /// In recovery.
    Recovery,
    /// Writable.
    Open,
}

/// What the page says is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watch {
    /// Nothing.
    Off,
    /// The deadline.
    ByDeadline,
    /// A planned stop, with what is left of its span.
    PlannedStop(u8),
}

/// What must never have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sin {
    /// Nothing did.
    None,
    /// A ping after the deadline beside a process that may write.
    LatePing,
    /// A disarming beside a living process.
    LiveDisarm,
    /// The key given back beside a living process.
    LiveRelease,
    /// The key given back, and the deadline kept.
    RightKept,
}

/// A state.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    key: Key,
    /// Since the store applied A's last request; up to the TTL.
    key_age: u8,
    request: Request,
    /// Given up, and may still be applied.
    stray: Option<Kind>,
    agent: Life,
    guardian: Life,
    watch: Watch,
    /// Age of the sending behind the page's deadline.
    granted: Option<u8>,
    /// The same, for the bound of a planned stop.
    bound: Option<u8>,
    /// Age of the sending of the last request that was acknowledged: what is true.
    truth: Option<u8>,
    server: Server,
    /// A backend that acknowledges.
    client: bool,
    /// A process of the data directory that acknowledges nothing.
    other: bool,
    promoting: bool,
    /// The agent, which goes on, has given up its right and lets the key go as soon as it may.
    giving_back: bool,
    stopping: bool,
    killing: bool,
    /// Age of the watchdog's last ping, while it is open.
    device: Option<u8>,
    ping_decided: bool,
    sin: Sin,
}

/// The model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Which faults there are.
    pub faults: Faults,
    /// What is broken.
    pub mutant: Option<Mutant>,
}

/// I1.
pub const ONE: &str = "I1: B is not open while a backend of A acknowledges";
/// I7.
pub const DEADLINE: &str = "I7: nothing is acknowledged after the last acknowledged renewal's D";
/// I8.
pub const PING: &str = "I8: no ping after D beside a server that may write";
/// I8.
pub const DISARM: &str = "I8: disarmed only when no process is left";
/// I12.
pub const RELEASE: &str = "I12: the key is given back only when no process is left";

/// I12.
pub const RIGHT: &str = "I12: no right is left to whoever gives the key back and goes on";

/// The timing in use.
#[must_use]
pub fn timing() -> LeaseTiming {
    LeaseTiming {
        ttl: ticks(TTL),
        renew_every: ticks(1),
        call_timeout: ticks(1) / 2,
        stop_budget: ticks(2),
        kill_budget: ticks(1),
    }
}

const TTL: u8 = 6;

impl Lease {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn watchdog(&self) -> bool {
        self.faults == Faults::BothBesideAWatchdog
    }

    /// W, as the device has it.
    fn device_timeout(&self) -> u8 {
        if self.is(Mutant::WatchdogLongerThanHalfTheLease) { TTL - 1 } else { allowed_timeout() }
    }
}

/// The longest W that is allowed.
fn allowed_timeout() -> u8 {
    let timing = WatchdogTiming::of(&timing(), Some(WatchdogTiming::STRICT));
    timing.map_or(0, |timing| u8::try_from(timing.timeout_s).unwrap_or(u8::MAX))
}

/// The deadline of a request sent so long ago.
fn deadline(sent: Option<u8>) -> Deadline {
    sent.map_or(Deadline::NEVER, |age| Deadline::granted(ago(age), &timing()))
}

fn properties() -> Vec<Property<Lease>> {
    vec![
        Property::always(ONE, |_: &Lease, s: &State| !(s.client && s.key == Key::B)),
        Property::always(DEADLINE, |_: &Lease, s: &State| {
            !s.client || deadline(s.truth).lies_ahead(NOW)
        }),
        Property::always(PING, |_: &Lease, s: &State| s.sin != Sin::LatePing),
        Property::always(DISARM, |_: &Lease, s: &State| s.sin != Sin::LiveDisarm),
        Property::always(RELEASE, |_: &Lease, s: &State| s.sin != Sin::LiveRelease),
        Property::always(RIGHT, |_: &Lease, s: &State| s.sin != Sin::RightKept),
        Property::sometimes("A writes", |_: &Lease, s: &State| s.client),
        Property::sometimes("B is open and A has stopped", |_: &Lease, s: &State| {
            s.key == Key::B && s.truth.is_some() && s.server == Server::Down
        }),
        Property::sometimes(
            "a server whose agent or guardian hangs was ended",
            |_: &Lease, s: &State| {
                let hangs = s.agent != Life::Up || s.guardian == Life::Paused;
                hangs && s.truth.is_some() && s.server == Server::Down
            },
        ),
    ]
}

/// Searches the model and its mutants. The set of both faults is searched to its end in the long form
/// only.
#[must_use]
pub fn rows(size: Size) -> Rows {
    let row = |faults: Faults, mutant: Option<Mutant>| {
        let model = Lease { faults, mutant };
        let wanted = mutant.map(|mutant| mutant.caught_by().1);
        Row {
            model: "lease",
            bounds: format!("TTL 6, G 2, κ 1, W 2, R 1; faults: {faults:?}"),
            mutant: mutant.zip(wanted).map(|(mutant, wanted)| (format!("{mutant:?}"), wanted)),
            counted: true,
            found: wanted.map_or_else(|| search(model), |wanted| hunt(model, wanted)),
        }
    };
    let faults = match size {
        Size::Short => &Faults::EACH[..2],
        Size::Long => &Faults::EACH[..],
    };
    let models = faults.iter().map(move |faults| row(*faults, None));
    let mutants =
        Mutant::EACH.into_iter().map(move |mutant| row(mutant.caught_by().0, Some(mutant)));
    Box::new(models.chain(mutants))
}
