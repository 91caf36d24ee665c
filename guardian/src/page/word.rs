//! What the 64 bits of a word can mean. A value that this version does not know is kept apart, never
//! taken for a known one.

use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

/// A value that fits a word of the page. Zero is what an absent word reads as.
pub trait Word: Copy {
    /// From the page.
    fn from_word(word: u64) -> Self;
    /// Into the page.
    fn into_word(self) -> u64;
}

impl Word for u64 {
    fn from_word(word: u64) -> Self {
        word
    }
    fn into_word(self) -> u64 {
        self
    }
}

impl Word for bool {
    fn from_word(word: u64) -> Self {
        word != 0
    }
    fn into_word(self) -> u64 {
        u64::from(self)
    }
}

/// Process numbers, errno, wait status. What is no `i32` reads as -1, which is none of them.
impl Word for i32 {
    fn from_word(word: u64) -> Self {
        u32::try_from(word).map_or(-1, u32::cast_signed)
    }
    fn into_word(self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

impl Word for BootTime {
    fn from_word(word: u64) -> Self {
        Self::from_nanos(word)
    }
    fn into_word(self) -> u64 {
        self.nanos()
    }
}

impl Word for Deadline {
    fn from_word(word: u64) -> Self {
        Self::at(BootTime::from_nanos(word))
    }
    fn into_word(self) -> u64 {
        self.instant().nanos()
    }
}

/// Nanoseconds.
impl Word for Duration {
    fn from_word(word: u64) -> Self {
        Self::from_nanos(word)
    }
    fn into_word(self) -> u64 {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }
}

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// A value of a version that this one does not know.
            Unknown(u64),
        }

        impl $name {
            /// Every value that this version knows.
            pub const KNOWN: &[Self] = &[$(Self::$variant),+];
        }

        impl Word for $name {
            fn from_word(word: u64) -> Self {
                match word {
                    $($value => Self::$variant,)+
                    other => Self::Unknown(other),
                }
            }
            fn into_word(self) -> u64 {
                match self {
                    $(Self::$variant => $value,)+
                    Self::Unknown(other) => other,
                }
            }
        }
    };
}

choices! {
    /// What the agent wants watched.
    Guard {
        /// Nothing writable runs: no deadline counts.
        Off = 0,
        /// Everything is killed κ before the deadline.
        ByDeadline = 1,
        /// A planned stop: the tenure is over, its old deadline bounds what can still acknowledge
        /// (protocol.md rule 5).
        PlannedStop = 2,
    }
}

choices! {
    /// What the guardian does.
    Phase {
        /// No guardian has been here.
        None = 0,
        /// It sets itself up; PostgreSQL does not run yet.
        Starting = 1,
        /// It watches.
        Guarding = 2,
        /// It kills, again and again, until nothing is left.
        Killing = 3,
        /// The postmaster has ended and no process of the data directory is left.
        Ended = 4,
    }
}

choices! {
    /// Why the guardian killed, last.
    Because {
        /// It has not.
        None = 0,
        /// The deadline came.
        Deadline = 1,
        /// A client backend lived at the bound of a planned stop.
        BackendAtBound = 2,
        /// The planned stop's span was over.
        StopSpanOver = 3,
    }
}

choices! {
    /// Whether the agent wants a watchdog armed.
    WatchdogWanted {
        /// No.
        Off = 0,
        /// Where there is one.
        Automatic = 1,
        /// Without one PostgreSQL is not started, and a device that a dead guardian's closing would
        /// stop is none.
        Required = 2,
    }
}

choices! {
    /// The watchdog, as the guardian last saw it.
    WatchdogState {
        /// Not opened.
        Off = 0,
        /// Counting; pinged by the guardian.
        Armed = 1,
        /// Not usable, or its last ping failed: see step and errno.
        Failed = 2,
        /// Stopped by magic close.
        Disarmed = 3,
    }
}

choices! {
    /// What was done with the watchdog when it failed.
    WatchdogStep {
        /// Nothing failed.
        None = 0,
        /// open(2): from then on it counts.
        Open = 1,
        /// WDIOC_GETSUPPORT.
        Support = 2,
        /// WDIOC_SETTIMEOUT or WDIOC_GETTIMEOUT.
        SetTimeout = 3,
        /// WDIOC_KEEPALIVE.
        Ping = 4,
        /// Writing `V`, or close(2).
        Close = 5,
        /// The device granted more than the agent allows.
        TooLong = 6,
        /// The device has no magic close: it stops when the guardian dies.
        NoMagicClose = 7,
        /// A watchdog is wanted, and the guardian was given no device.
        NoDevice = 8,
    }
}

impl WatchdogStep {
    /// What failed, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::None => "nothing failed",
            Self::Open => "the device cannot be opened",
            Self::Support => "the device does not say what it can do",
            Self::SetTimeout => "its timeout cannot be set",
            Self::Ping => "it refuses pings",
            Self::Close => "it cannot be disarmed",
            Self::TooLong => "it grants a longer timeout than is safe",
            Self::NoMagicClose => "it has no magic close: it would stop counting with the guardian",
            Self::NoDevice => "the guardian was given no device",
            Self::Unknown(_) => "for a reason that this version does not know",
        }
    }
}

/// What the system permitted, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

impl Flags {
    /// Its memory is locked: no page of it waits for a disk.
    pub const MEMORY_LOCKED: Self = Self(1);
    /// It runs under SCHED_FIFO.
    pub const REALTIME: Self = Self(2);
    /// The out-of-memory killer leaves it alone (oom_score_adj -1000).
    pub const OOM_PROTECTED: Self = Self(4);
    /// Orphans of PostgreSQL become its children.
    pub const SUBREAPER: Self = Self(8);
    /// It has a session of its own.
    pub const OWN_SESSION: Self = Self(16);
    /// It did not start PostgreSQL but adopted it.
    pub const ADOPTED: Self = Self(32);

    /// With another one.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Word for Flags {
    fn from_word(word: u64) -> Self {
        Self(word)
    }
    fn into_word(self) -> u64 {
        self.0
    }
}
