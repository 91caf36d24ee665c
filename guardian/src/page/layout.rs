//! Every word of the page: where it stands, whose it is, what it means.
//!
//! Words are appended, never moved and never given another meaning. The macro makes a getter and a
//! setter of each line and the table [`WORDS`], which the documentation is checked against.

use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

use super::Page;
use super::word::{
    Because, Flags, Guard, Phase, WatchdogState, WatchdogStep, WatchdogWanted, Word,
};

/// Bytes of the page.
pub const SIZE: usize = 4096;
/// "RGNTPAGE", read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RGNTPAGE");
/// Version of the layout that this code knows.
pub const VERSION: u64 = 1;

/// Whose word it is: only that side writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent's.
    Agent,
    /// The guardian's.
    Guardian,
}

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its name, which is its getter's.
    pub name: &'static str,
    /// Byte offset.
    pub offset: usize,
    /// Who writes it.
    pub side: Side,
}

// The head, the same in every version: magic, then what each side knows.
pub(super) const MAGIC_AT: usize = 0;
pub(super) const AGENT_VERSION_AT: usize = 8;
pub(super) const AGENT_LENGTH_AT: usize = 16;
pub(super) const GUARDIAN_VERSION_AT: usize = 24;
pub(super) const GUARDIAN_LENGTH_AT: usize = 32;
/// Bytes of the head: the least a length can be.
pub(super) const HEAD: usize = 64;

/// Offset of [`Page::carried`], which several threads of the agent lower.
pub(super) const CARRIED_AT: usize = 104;

macro_rules! words {
    ($($(#[$doc:meta])* $side:ident $offset:literal $get:ident $set:ident: $type:ty;)+) => {
        /// All words after the head.
        pub const WORDS: &[Place] = &[
            $(Place { name: stringify!($get), offset: $offset, side: Side::$side },)+
        ];

        impl Page {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $get(&self) -> $type {
                    <$type as Word>::from_word(self.word(Side::$side, $offset))
                }

                #[doc = concat!("Sets [`Self::", stringify!($get), "`].")]
                pub fn $set(&self, value: $type) {
                    self.store($offset, Word::into_word(value));
                }
            )+
        }
    };
}

words! {
    // The agent's.
    /// Process number of the agent.
    Agent 64 agent_pid set_agent_pid: i32;
    /// Its start time in clock ticks since boot (proc(5)): with the number it identifies it.
    Agent 72 agent_start set_agent_start: u64;
    /// Deadline of the site's leader key.
    Agent 80 site_deadline set_site_deadline: Deadline;
    /// Deadline of the primary lease.
    Agent 88 primary_deadline set_primary_deadline: Deadline;
    /// Whether the primary lease counts.
    Agent 96 federated set_federated: bool;
    /// Deadline that a previous life of the agent left.
    Agent 104 carried set_carried: Deadline;
    /// κ: the kill begins so long before a deadline.
    Agent 112 kill_budget set_kill_budget: Duration;
    /// What is watched.
    Agent 120 guard set_guard: Guard;
    /// Planned stop: by when the last client backend must be gone.
    Agent 128 bound set_bound: Deadline;
    /// Planned stop: the end of the operation's stop span; [`Deadline::NEVER`] means the bound.
    Agent 136 stop_until set_stop_until: Deadline;
    /// Whether a watchdog is wanted.
    Agent 144 watchdog_wanted set_watchdog_wanted: WatchdogWanted;
    /// W, seconds: what the watchdog is set to.
    Agent 152 watchdog_timeout_s set_watchdog_timeout_s: u64;
    /// Seconds: a device that grants more is refused; 0 means W.
    Agent 160 watchdog_longest_s set_watchdog_longest_s: u64;
    /// Whether the agent has stopped the instance's processes (SIGSTOP).
    Agent 168 frozen set_frozen: bool;
    /// When the agent last said that it lives.
    Agent 176 agent_heartbeat set_agent_heartbeat: BootTime;

    // The guardian's.
    /// Process number of the guardian.
    Guardian 512 guardian_pid set_guardian_pid: i32;
    /// Its start time in clock ticks since boot.
    Guardian 520 guardian_start set_guardian_start: u64;
    /// What it does.
    Guardian 528 phase set_phase: Phase;
    /// Process number of the postmaster; 0 before it is started.
    Guardian 536 postmaster_pid set_postmaster_pid: i32;
    /// Its start time in clock ticks since boot.
    Guardian 544 postmaster_start set_postmaster_start: u64;
    /// When the guardian last woke.
    Guardian 552 heartbeat set_heartbeat: BootTime;
    /// How late it woke at worst since its start.
    Guardian 560 worst_wake set_worst_wake: Duration;
    /// How often it woke.
    Guardian 568 wakes set_wakes: u64;
    /// What the system permitted it.
    Guardian 576 flags set_flags: Flags;
    /// How often it began to kill.
    Guardian 584 kills set_kills: u64;
    /// When the last kill began.
    Guardian 592 kill_began set_kill_began: BootTime;
    /// When a scan first found nothing after it; before [`Self::kill_began`] while it goes on.
    Guardian 600 kill_ended set_kill_ended: BootTime;
    /// The longest kill so far.
    Guardian 608 worst_kill set_worst_kill: Duration;
    /// Why it killed, last.
    Guardian 616 killed_because set_killed_because: Because;
    /// Raw status of the postmaster from waitpid(2), once [`Self::wait_valid`].
    Guardian 624 wait_status set_wait_status: i32;
    /// Whether the postmaster has ended as the guardian's child and its status is known.
    Guardian 632 wait_valid set_wait_valid: bool;
    /// The watchdog.
    Guardian 640 watchdog_state set_watchdog_state: WatchdogState;
    /// errno of the step that failed; 0 when none was set.
    Guardian 648 watchdog_errno set_watchdog_errno: i32;
    /// The step that failed last.
    Guardian 656 watchdog_step set_watchdog_step: WatchdogStep;
    /// Seconds that the device granted.
    Guardian 664 watchdog_granted_s set_watchdog_granted_s: u64;
    /// When it was last pinged.
    Guardian 672 watchdog_last_ping set_watchdog_last_ping: BootTime;
}

/// Bytes that this version knows: the end of the last word.
pub const LENGTH: usize = {
    let mut end = HEAD;
    let mut at = 0;
    while at < WORDS.len() {
        if WORDS[at].offset + 8 > end {
            end = WORDS[at].offset + 8;
        }
        at += 1;
    }
    end
};
