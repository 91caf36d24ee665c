//! The guardian as decisions and readers see it: what stands in its page, with ages; and what of
//! it stands before a leader key and before an opening (protocol.md rule 8).

use std::time::Duration;

use regent_proto::time::BootTime;

use super::view::SiteView;
use super::{Action, Choice, Judge, Reason, Unfit};

/// How soon the page is looked at again for an answer of the guardian, which wakes nobody.
const PAGE_AGAIN: Duration = Duration::from_millis(20);

/// The guardian of this node's server, from its page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuardianView {
    /// A guardian of this node's server lives. There is none while no server runs: each server is
    /// started by, and together with, a guardian of its own.
    pub alive: bool,
    /// Why the last one could not be started, or replaced; empty while nothing is wrong.
    pub problem: String,
    /// Time since it last woke.
    pub heartbeat_age: Duration,
    /// The latest it ever woke after the instant it wanted to.
    pub worst_wake: Duration,
    /// How often it killed what was left.
    pub kills: u64,
    /// The longest from the first signal of a kill to a scan that found nothing.
    pub worst_kill: Duration,
    /// What it was permitted.
    pub rights: GuardianRights,
    /// The watchdog.
    pub watchdog: WatchdogView,
    /// The instance is frozen until a renewal is acknowledged (clock discipline).
    pub frozen: bool,
    /// What is left until the deadline at which it kills; zero without any.
    pub deadline_left: Duration,
    /// The longest stop of the server that this process has seen.
    pub worst_stop: Duration,
    /// How many guardians hung, and were replaced, in this life of the agent.
    pub hung: u64,
}

/// Whether a guardian still wakes, from its heartbeat in the page, looked at ten times a second; it
/// wakes as often even while nothing is guarded.
///
/// Looks are counted, not time: an agent that did not run either, because the machine or its group
/// stood still, has not looked, and accuses nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    seen: Option<BootTime>,
    unchanged: u32,
}

/// Forty times the latest wake-up that is aimed at, and well below any stop budget: rung 1 stands
/// alone for so long.
const SILENT_LOOKS: u32 = 20;

impl Pulse {
    /// One look; whether the guardian hangs.
    #[must_use]
    pub fn hangs(&mut self, heartbeat: BootTime) -> bool {
        if self.seen.replace(heartbeat) == Some(heartbeat) {
            self.unchanged += 1;
        } else {
            self.unchanged = 0;
        }
        self.unchanged >= SILENT_LOOKS
    }
}

/// What the kernel let the guardian have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardianRights {
    /// Its memory is locked.
    pub memory_locked: bool,
    /// It runs with real-time priority.
    pub realtime: bool,
    /// The kernel does not choose it when memory is short.
    pub oom_protected: bool,
}

impl GuardianRights {
    /// What is missing, in words; each costs the fence a certainty, none of them the fence itself.
    #[must_use]
    pub fn lacking(&self) -> Vec<String> {
        let rights = [
            (self.memory_locked, "locked memory"),
            (self.realtime, "real-time priority"),
            (self.oom_protected, "protection from the out-of-memory killer"),
        ];
        let missing = rights.into_iter().filter(|(permitted, _)| !permitted);
        missing.map(|(_, name)| name.to_owned()).collect()
    }
}

/// The watchdog, rung 3.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchdogView {
    /// `watchdog.mode` is `required`.
    pub required: bool,
    /// A watchdog is wanted: `required` or `automatic`.
    pub wanted: bool,
    /// How it stands.
    pub state: WatchdogState,
    /// What was being done when it failed, and the system's words; empty where nothing failed.
    pub problem: String,
    /// The timeout that the device granted.
    pub granted: Duration,
    /// Time since the last ping; `None` before the first.
    pub ping_age: Option<Duration>,
    /// It counts longer than the configured leases bear: the site's keeps its former TTL meanwhile.
    pub too_long: bool,
}

/// How the watchdog stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum WatchdogState {
    /// Not opened.
    #[default]
    Off,
    /// Running: without pings it resets this machine.
    Armed,
    /// It could not be opened or set, or no longer answers.
    Failed,
    /// Stopped in order.
    Disarmed,
}

impl Judge<'_> {
    /// What is missing before this node may take a leader key or open: a guardian that lives, and
    /// the watchdog running where one is wanted. `None` when nothing is.
    pub(super) fn unguarded(&self) -> Option<Choice> {
        let guardian = &self.view.guardian;
        if !guardian.alive {
            return Some(Choice::wait(Reason::NotCandidate(Unfit::NoGuardian)));
        }
        let watchdog = &guardian.watchdog;
        match watchdog.state {
            WatchdogState::Armed => None,
            WatchdogState::Off | WatchdogState::Disarmed if watchdog.wanted => Some(Choice {
                actions: vec![Action::ArmWatchdog],
                reason: Reason::ArmingWatchdog,
                wake_in: Some(PAGE_AGAIN),
            }),
            WatchdogState::Failed if watchdog.required => {
                Some(Choice::wait(Reason::NotCandidate(Unfit::WatchdogFailed)))
            }
            // `automatic` goes on without; the status warns.
            WatchdogState::Off | WatchdogState::Disarmed | WatchdogState::Failed => None,
        }
    }

    /// The same for the holder of the leader key: it lets another member have it.
    pub(super) fn unguarded_leader(&self, site: &SiteView) -> Option<Choice> {
        let mut choice = self.unguarded()?;
        if choice.actions.is_empty() && self.other_running_member(site) {
            choice.actions.push(Action::ReleaseLeader);
        }
        Some(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guardian_hangs_when_look_after_look_shows_the_same_heartbeat() {
        let at = |n: u64| BootTime::from_nanos(n);
        let mut pulse = Pulse::default();
        assert!((0..500).all(|n| !pulse.hangs(at(n / 10))), "slow, but it wakes");
        let mut pulse = Pulse::default();
        let told = (0..=SILENT_LOOKS).map(|_| pulse.hangs(at(7))).collect::<Vec<_>>();
        assert_eq!(told.iter().position(|hangs| *hangs), Some(20), "the first look has no before");
        assert!(!pulse.hangs(at(8)), "it wakes again");
        assert!(!pulse.hangs(at(8)));
    }
}
