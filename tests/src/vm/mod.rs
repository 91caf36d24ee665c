//! Rung 3 with a watchdog that is one: a small virtual machine whose kernel's driver (softdog, or
//! i6300esb as QEMU emulates it) resets it once the guardian pings no more.
//!
//! [`image`] packs guardian, PostgreSQL and this crate's `fence-vm` into an initial RAM disk; the
//! machine's `/init` runs [`inside`], which leads, lets a fault happen and tells on the console what
//! it sees, stamped with its own boot clock; [`machine`] boots it and judges what was told.

pub mod image;
pub mod inside;
pub mod machine;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// W: the device's timeout.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// TTL of the leader key that is pretended to be held; W ≤ (TTL − R − ε)/2.
pub const TTL: Duration = Duration::from_secs(12);
/// R: how long a reset may take.
pub const RESET: Duration = Duration::from_secs(1);
/// ε of that TTL.
pub const EPSILON: Duration = Duration::from_millis(100);
/// How long a healthy holder is watched before the fault: several timeouts, none of which may fire.
pub const HEALTHY: Duration = Duration::from_secs(TIMEOUT.as_secs() * 3);

/// What happens to the guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGSTOP.
    GuardianStopped,
    /// SIGKILL.
    GuardianKilled,
    /// Nothing: the machine has to live on, and to power off by itself.
    Nothing,
}

impl Fault {
    /// Every one.
    pub const EACH: [Self; 3] = [Self::GuardianStopped, Self::GuardianKilled, Self::Nothing];

    fn name(self) -> &'static str {
        match self {
            Self::GuardianStopped => "guardian-stopped",
            Self::GuardianKilled => "guardian-killed",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::EACH.into_iter().find(|fault| fault.name() == text);
        let names = Self::EACH.map(Self::name);
        found.ok_or_else(|| format!("fault {text:?}: accepted are {}", names.join(", ")))
    }
}

/// The kernel's drivers that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A timer of the kernel itself, which reboots.
    Softdog,
    /// A PCI card, which QEMU emulates.
    I6300esb,
}

impl Driver {
    /// Every one.
    pub const EACH: &[Self] = &[Self::Softdog, Self::I6300esb];

    /// The module's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Softdog => "softdog",
            Self::I6300esb => "i6300esb",
        }
    }
}
