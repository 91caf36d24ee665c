//! The boot clock that the stores of this machine judge leases by.
//!
//! `CLOCK_BOOTTIME` counts suspend and is never stepped, so it is one time line for every process
//! of one boot; the boot id says which boot. Tests turn a clock of their own by hand.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nix::time::{ClockId, clock_gettime};
use regent_proto::time::BootTime;
use tokio::sync::watch;

/// Where the kernel tells which boot this is.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// A clock whose time somebody else makes: the simulator's, one a process.
pub trait Timepiece: Send + Sync {
    /// The time now.
    fn now(&self) -> BootTime;

    /// Returns once it shows `at` or more.
    fn reach(&self, at: BootTime) -> BoxFuture<'static, ()>;
}

/// A boot clock and the identity of its boot. Clones are the same clock.
#[derive(Clone)]
pub struct BootClock {
    boot: Arc<str>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Kernel,
    Simulated(Arc<dyn Timepiece>),
    /// The watch channel wakes whoever sleeps when the time is moved.
    Manual(Arc<watch::Sender<BootTime>>),
}

impl BootClock {
    /// The kernel's clock.
    ///
    /// # Errors
    /// When the boot id can't be read (no `/proc`): then the lease times that another boot left in
    /// a store can't be told from those of this one.
    pub fn kernel() -> io::Result<Self> {
        let boot = std::fs::read_to_string(BOOT_ID_FILE)?;
        Ok(Self { boot: boot.trim().into(), source: Source::Kernel })
    }

    /// A clock that stands at `now` until [`Self::advance`] moves it, of the boot `boot`.
    #[must_use]
    pub fn manual(boot: &str, now: BootTime) -> Self {
        Self { boot: boot.into(), source: Source::Manual(Arc::new(watch::Sender::new(now))) }
    }

    /// A clock whose time somebody else makes, of the boot `boot`.
    #[must_use]
    pub fn simulated(boot: &str, timepiece: Arc<dyn Timepiece>) -> Self {
        Self { boot: boot.into(), source: Source::Simulated(timepiece) }
    }

    /// Which boot.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> BootTime {
        match &self.source {
            Source::Kernel => {
                let read = clock_gettime(ClockId::CLOCK_BOOTTIME)
                    .expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
                BootTime::from_nanos(
                    u64::try_from(Duration::from(read).as_nanos()).unwrap_or(u64::MAX),
                )
            }
            Source::Manual(now) => *now.borrow(),
            Source::Simulated(timepiece) => timepiece.now(),
        }
    }

    /// Moves a manual clock on and wakes whoever waits for it; the kernel's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.source {
            now.send_modify(|now| *now = now.plus(by));
        }
    }

    /// Waits this long by this clock.
    pub async fn sleep(&self, span: Duration) {
        self.reach(self.now().plus(span)).await;
    }

    /// Returns once the clock shows `at` or more.
    ///
    /// On the kernel's clock it may return late after a suspend, never early.
    pub async fn reach(&self, at: BootTime) {
        match &self.source {
            Source::Kernel => loop {
                let left = at.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            },
            Source::Manual(now) => {
                let mut moved = now.subscribe();
                let waited = moved.wait_for(|now| *now >= at).await;
                drop(waited.expect("the sender lives as long as this clock"));
            }
            Source::Simulated(timepiece) => timepiece.reach(at).await,
        }
    }
}

impl fmt::Debug for BootClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Kernel => "kernel",
            Source::Manual(_) => "manual",
            Source::Simulated(_) => "simulated",
        };
        write!(f, "BootClock({kind}, boot {})", self.boot)
    }
}
