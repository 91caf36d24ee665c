//! Rung 3: a watchdog device with its quirks, and the machine that it resets. What opens, pings and
//! closes it is the guardian's own `tend`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_guardian::page::WatchdogStep;
use regent_guardian::tend::{Device, Failure, Terms};
use regent_proto::time::WatchdogTiming;

use crate::event::Event;
use crate::faults::{Fault, Kind};
use crate::invariants::i08_watchdog;
use crate::mutants::Mutant;
use crate::time::{Nanos, SEC, nanos};
use crate::world::World;

/// What is odd about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Quirk {
    /// Nothing.
    #[default]
    None,
    /// It cannot be opened.
    Refused,
    /// It grants a longer timeout than it was asked for.
    Longer,
    /// It grants a shorter one.
    Shorter,
    /// It stops when its process dies.
    NoMagicClose,
    /// It answers no ping: EIO.
    Broken,
}

impl Quirk {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Refused, Self::Longer, Self::Shorter, Self::NoMagicClose, Self::Broken];

    /// What it grants, in whole seconds, when it is asked for this.
    fn grants(self, asked: Duration) -> Duration {
        let granted = match self {
            Self::Longer => asked + Duration::from_secs(30),
            Self::Shorter => (asked / 2).max(Duration::from_secs(1)),
            Self::None | Self::Refused | Self::NoMagicClose | Self::Broken => asked,
        };
        Duration::from_secs(granted.as_secs())
    }
}

/// errno of a device that answers nothing.
const EIO: i32 = 5;
/// errno of a device that another has.
const EBUSY: i32 = 16;

/// What is done to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Opened {
        granted: Duration,
        magic: bool,
    },
    Pinged,
    /// Another timeout, which pings it.
    Set(Duration),
    /// By magic close.
    Stopped,
    /// As above, since what it granted will not do.
    Declined,
}

/// The way to the device: what is done on it happens when the guardian has done its round.
#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<Vec<Touch>>>);

impl Wire {
    fn touch(&self, touch: Touch) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(touch);
    }

    fn taken(&self) -> Vec<Touch> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device as its guardian has it open.
#[derive(Debug)]
pub struct Handle {
    wire: Wire,
    granted: Duration,
    magic: bool,
    quirk: Quirk,
    broken: Arc<Mutex<bool>>,
}

impl Device for Handle {
    fn granted(&self) -> Duration {
        self.granted
    }

    fn magic_close(&self) -> bool {
        self.magic
    }

    fn set(&mut self, timeout: Duration) -> Result<(), Failure> {
        if *self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure(WatchdogStep::SetTimeout, EIO));
        }
        self.granted = self.quirk.grants(timeout);
        self.wire.touch(Touch::Set(self.granted));
        Ok(())
    }

    fn ping(&self) -> Result<(), Failure> {
        if *self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure(WatchdogStep::Ping, EIO));
        }
        self.wire.touch(Touch::Pinged);
        Ok(())
    }

    fn disarm(self) -> Result<(), Failure> {
        self.wire.touch(Touch::Stopped);
        Ok(())
    }
}

fn failure(step: WatchdogStep, errno: i32) -> Failure {
    Failure { step, errno, granted: Duration::ZERO }
}

/// A device that counts.
#[derive(Debug)]
pub struct Counting {
    /// How long it waits.
    pub timeout: Nanos,
    /// It goes on when its process dies.
    pub magic: bool,
    /// When it was pinged last.
    pub pinged: Nanos,
    /// How long the machine has stood still since, and its device with it.
    pub stood: Nanos,
    number: u64,
}

/// A machine's device.
#[derive(Debug, Default)]
pub struct Model {
    /// What is odd about it now.
    pub quirk: Quirk,
    /// It counts.
    pub counting: Option<Counting>,
    wire: Wire,
    broken: Arc<Mutex<bool>>,
    opened: u64,
}

/// What opens a device.
pub struct Opener {
    quirk: Quirk,
    wire: Wire,
    broken: Arc<Mutex<bool>>,
}

impl Opener {
    /// As the kernel's: opened it counts, and what is refused is stopped again.
    pub fn open(self, terms: &Terms) -> Result<Handle, Failure> {
        let Self { quirk, wire, broken } = self;
        if quirk == Quirk::Refused {
            return Err(failure(WatchdogStep::Open, EBUSY));
        }
        let granted = quirk.grants(terms.timeout);
        let magic = quirk != Quirk::NoMagicClose;
        wire.touch(Touch::Opened { granted, magic });
        let handle = Handle { wire, granted, magic, quirk, broken };
        match terms.accept(granted, magic).and_then(|()| handle.ping()) {
            Ok(()) => Ok(handle),
            Err(refused) => {
                handle.wire.touch(Touch::Declined);
                Err(refused)
            }
        }
    }
}

impl World {
    /// The way to open a machine's device.
    pub(crate) fn opener(&self, n: usize) -> Opener {
        let device = &self.nodes[n].device;
        let (wire, broken) = (device.wire.clone(), Arc::clone(&device.broken));
        Opener { quirk: device.quirk, wire, broken }
    }

    /// Another quirk from now on.
    pub(crate) fn set_quirk(&mut self, n: usize, quirk: Quirk) {
        let device = &mut self.nodes[n].device;
        device.quirk = quirk;
        *device.broken.lock().unwrap_or_else(PoisonError::into_inner) = quirk == Quirk::Broken;
    }

    /// What a guardian has done to its device happens.
    pub(crate) fn touched(&mut self, n: usize) {
        for touch in self.nodes[n].device.wire.taken() {
            match touch {
                Touch::Opened { granted, magic } => self.counts(n, granted, magic),
                Touch::Pinged => {
                    let now = self.now;
                    if let Some(counting) = &mut self.nodes[n].device.counting {
                        (counting.pinged, counting.stood) = (now, 0);
                    }
                    self.counters.count("watchdog: ping");
                    i08_watchdog::check_ping(self, n);
                }
                Touch::Set(granted) => self.set_to(n, granted),
                Touch::Declined => {
                    self.counters.count("watchdog: declined");
                    self.nodes[n].device.counting = None;
                }
                Touch::Stopped => {
                    self.counters.count("watchdog: disarmed");
                    self.nodes[n].device.counting = None;
                    i08_watchdog::check_disarm(self, n);
                }
            }
        }
    }

    fn counts(&mut self, n: usize, granted: Duration, magic: bool) {
        let timeout = if self.mutant == Mutant::WatchdogLongerThanHalfTheLease {
            // Patroni's default, whatever it says.
            25 * SEC
        } else {
            nanos(granted)
        };
        self.counters.count("watchdog: armed");
        self.explain(n, "watchdog", || format!("counts, {granted:?}"));
        let pinged = self.now;
        let device = &mut self.nodes[n].device;
        device.opened += 1;
        let number = device.opened;
        device.counting = Some(Counting { timeout, magic, pinged, stood: 0, number });
        self.schedule(timeout, Event::Watchdog(n, number));
    }

    fn set_to(&mut self, n: usize, granted: Duration) {
        let (now, timeout) = (self.now, nanos(granted));
        let patient = self.mutant == Mutant::WatchdogLongerThanHalfTheLease;
        let Some(counting) = &mut self.nodes[n].device.counting else { return };
        (counting.pinged, counting.stood) = (now, 0);
        if !patient {
            counting.timeout = timeout;
            let number = counting.number;
            self.schedule(timeout, Event::Watchdog(n, number));
        }
        self.counters.count("watchdog: lowered");
        i08_watchdog::check_ping(self, n);
    }

    /// A mutant's: pinged past everything that keeps a ping back.
    pub(crate) fn ping_anyway(&mut self, n: usize) {
        self.nodes[n].device.wire.touch(Touch::Pinged);
        let now = self.nodes[n].clock.boot(self.now);
        self.nodes[n].page.set_watchdog_last_ping(now);
        self.touched(n);
    }

    /// A device may have waited for long enough.
    pub(crate) fn watchdog(&mut self, n: usize, number: u64) {
        let Some(counting) = &self.nodes[n].device.counting else { return };
        if counting.number != number {
            return;
        }
        if self.nodes[n].suspended.is_some() {
            // The machine stands still, and so does what counts in it.
            self.schedule(SEC, Event::Watchdog(n, number));
            return;
        }
        let due = counting.pinged + counting.stood + counting.timeout;
        if due > self.now {
            self.schedule_at(due, Event::Watchdog(n, number));
            return;
        }
        self.nodes[n].device.counting = None;
        let tick = self.chance.below(nanos(WatchdogTiming::RESET));
        self.schedule(tick, Event::Reset(n));
    }

    /// The machine resets: everything on it ends at once, and it boots.
    pub(crate) fn reset(&mut self, n: usize) {
        if self.nodes[n].off {
            return;
        }
        self.counters.count("watchdog: reset");
        self.explain(n, "watchdog", || "resets the machine".to_owned());
        self.power_off(n);
        let boots = self.chance.between(15 * SEC, 60 * SEC);
        let boot = Fault { at: 0, span: 0, kind: Kind::KillNode(n) };
        self.schedule(boots, Event::Mend(Box::new(boot)));
    }

    /// The guardian's process is gone, and its device with it where a death stops it.
    pub(crate) fn guardian_dies(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.guardian = super::GuardianState::default();
        if node.device.counting.as_ref().is_some_and(|counting| !counting.magic) {
            node.device.counting = None;
        }
        // What it was about to do is not done.
        drop(node.device.wire.taken());
    }
}
