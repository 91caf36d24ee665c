//! An emulated watchdog device: a file that takes the ioctls of the kernel's watchdog API
//! (Documentation/watchdog/watchdog-api.rst) and resets a node when it is not pinged.
//!
//! [`Device`] is the fixture, [`Quirk`] what real devices do wrong, [`Trace`] what happened to it,
//! and [`check`](check::violations) what must never be in a trace.
//!
//! It differs from a real device in that it is a regular file, not a character device, and that
//! its reset kills what the test says instead of the machine.

pub mod check;
mod device;
mod file;
mod reset;
mod trace;

pub use device::{Device, NEEDS};
pub use reset::Reset;
pub use trace::{Event, Happened, Trace};

use nix::errno::Errno;

/// What a device does differently from a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// open(2) fails.
    Open(Errno),
    /// It is no watchdog at all: GETSUPPORT is not known (ENOTTY), and opening it starts nothing.
    NoSupport,
    /// SETTIMEOUT fails and GETSUPPORT says so: the timeout is fixed.
    FixedTimeout,
    /// SETTIMEOUT fails though GETSUPPORT promises it.
    SetTimeout(Errno),
    /// SETTIMEOUT succeeds and grants this many seconds, whatever was asked.
    Grants(u32),
    /// A ping fails, by ioctl or write; it does not count.
    Ping(Errno),
    /// WDIOF_MAGICCLOSE is missing: any close disarms it, also that of a process that was killed.
    NoMagicClose,
    /// It promises magic close and goes on after it (`nowayout`).
    NoWayOut,
}

impl Quirk {
    /// One of each kind: a test that goes through them misses none, because adding a kind breaks
    /// [`Quirk::name`].
    pub const EACH: [Self; 8] = [
        Self::Open(Errno::EIO),
        Self::NoSupport,
        Self::FixedTimeout,
        Self::SetTimeout(Errno::EIO),
        Self::Grants(60),
        Self::Ping(Errno::EIO),
        Self::NoMagicClose,
        Self::NoWayOut,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open(_) => "open fails",
            Self::NoSupport => "no watchdog at all",
            Self::FixedTimeout => "fixed timeout",
            Self::SetTimeout(_) => "setting the timeout fails",
            Self::Grants(_) => "grants another timeout",
            Self::Ping(_) => "ping fails",
            Self::NoMagicClose => "no magic close",
            Self::NoWayOut => "no way out",
        }
    }
}
