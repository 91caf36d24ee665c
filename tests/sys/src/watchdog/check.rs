//! What must never be seen in the trace of a watchdog (hazards.md 3.5): pure.
//!
//! A device is safe when it fires, whatever pauses, before the right to write ends, and goes on
//! until nothing can write. So a trace is judged beside two things that the device doesn't know:
//! how long the right to write was at each moment, and when the leader key was taken.

use std::fmt;
use std::time::Duration;

use nix::unistd::Pid;
use regent_proto::time::{BootTime, Deadline};

use super::{Event, Happened};

/// Until when the guarded server might acknowledge, as the test saw it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing writable runs: pings are free.
    None,
    /// Until this deadline.
    Until(Deadline),
}

/// What else is known of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knowledge {
    /// The right to write, seen at these moments in their order, often enough: of two
    /// neighbouring ones the more generous holds between them.
    pub rights: Vec<(BootTime, Right)>,
    /// When the leader key appeared, if it did.
    pub leader_key: Option<BootTime>,
    /// TTL of the leader key.
    pub ttl: Duration,
    /// R: from a device's expiry to nothing running.
    pub reset: Duration,
    /// ε of the TTL.
    pub epsilon: Duration,
}

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A ping when the right to write had ended.
    PingAfterDeadline {
        /// When.
        at: BootTime,
        /// The latest deadline that held then.
        deadline: BootTime,
    },
    /// A ping after which the device, should no other follow, would fire only after the deadline.
    FiresTooLate {
        /// When it was pinged.
        at: BootTime,
        /// How much too late it would fire.
        by: Duration,
    },
    /// Disarmed while processes of the data directory lived.
    DisarmedAlive {
        /// When.
        at: BootTime,
        /// They.
        processes: Vec<Pid>,
    },
    /// The leader key was there before the device was armed.
    KeyBeforeArmed {
        /// When the key appeared.
        key: BootTime,
        /// When the device was first opened, if ever.
        armed: Option<BootTime>,
    },
    /// The leader key was there while the timeout was longer than half of what the TTL leaves.
    TimeoutTooLong {
        /// Seconds.
        timeout: u32,
        /// The longest that is safe.
        longest: Duration,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PingAfterDeadline { at, deadline } => {
                write!(f, "pinged {:?} after the deadline", at.since(*deadline))
            }
            Self::FiresTooLate { by, .. } => {
                write!(f, "pinged so late that it would fire {by:?} after the deadline")
            }
            Self::DisarmedAlive { processes, .. } => {
                write!(f, "disarmed while {processes:?} lived")
            }
            Self::KeyBeforeArmed { armed: None, .. } => {
                f.write_str("the leader key was taken and the device never armed")
            }
            Self::KeyBeforeArmed { key, armed: Some(armed) } => {
                write!(
                    f,
                    "the leader key was taken {:?} before the device was armed",
                    armed.since(*key)
                )
            }
            Self::TimeoutTooLong { timeout, longest } => {
                write!(f, "a timeout of {timeout} s where {longest:?} is the longest that is safe")
            }
        }
    }
}

/// Everything wrong in a trace, in its order.
#[must_use]
pub fn violations(trace: &[Happened], knowledge: &Knowledge) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut timeout = 0;
    for Happened { at, event } in trace {
        match event {
            Event::Opened { timeout: has, .. } => timeout = *has,
            // As far as the clock goes, setting the timeout is a ping.
            Event::SetTimeout { granted, .. } => {
                timeout = *granted;
                found.extend(judge_ping(*at, timeout, knowledge));
            }
            Event::Ping => found.extend(judge_ping(*at, timeout, knowledge)),
            Event::Closed { disarmed: true, processes } if !processes.is_empty() => {
                found.push(Violation::DisarmedAlive { at: *at, processes: processes.clone() });
            }
            Event::Closed { .. } | Event::Refused { .. } | Event::Expired | Event::Reset { .. } => {
            }
        }
    }
    found.extend(judge_key(trace, knowledge));
    found
}

fn judge_ping(at: BootTime, timeout: u32, knowledge: &Knowledge) -> Option<Violation> {
    let Right::Until(deadline) = right(at, &knowledge.rights)? else { return None };
    let deadline = deadline.instant();
    if at >= deadline {
        return Some(Violation::PingAfterDeadline { at, deadline });
    }
    let fires = at.plus(Duration::from_secs(timeout.into())).plus(knowledge.reset);
    (fires > deadline).then(|| Violation::FiresTooLate { at, by: fires.since(deadline) })
}

/// The most generous right among the last one seen before `at` and the first one after.
fn right(at: BootTime, rights: &[(BootTime, Right)]) -> Option<Right> {
    let after = rights.partition_point(|(seen, _)| *seen < at);
    let near = [after.checked_sub(1), Some(after)];
    let near = near.into_iter().flatten().filter_map(|index| rights.get(index));
    near.map(|(_, right)| *right).max_by_key(|right| match right {
        Right::None => BootTime::from_nanos(u64::MAX),
        Right::Until(deadline) => deadline.instant(),
    })
}

fn judge_key(trace: &[Happened], knowledge: &Knowledge) -> Option<Violation> {
    let key = knowledge.leader_key?;
    let armed = trace.iter().find(|happened| matches!(happened.event, Event::Opened { .. }));
    let armed = armed.map(|happened| happened.at);
    if armed.is_none_or(|armed| armed >= key) {
        return Some(Violation::KeyBeforeArmed { key, armed });
    }
    let timeouts = trace.iter().rev().filter(|happened| happened.at < key);
    let mut timeouts = timeouts.filter_map(|happened| match &happened.event {
        Event::Opened { timeout, .. } => Some(*timeout),
        Event::SetTimeout { granted, .. } => Some(*granted),
        Event::Refused { .. }
        | Event::Ping
        | Event::Closed { .. }
        | Event::Expired
        | Event::Reset { .. } => None,
    });
    let timeout = timeouts.next()?;
    let longest = knowledge.ttl.saturating_sub(knowledge.reset + knowledge.epsilon) / 2;
    (Duration::from_secs(timeout.into()) > longest)
        .then_some(Violation::TimeoutTooLong { timeout, longest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * MS)
    }

    fn until(millis: u64) -> Right {
        Right::Until(Deadline::at(at(millis)))
    }

    fn happened(millis: u64, event: Event) -> Happened {
        Happened { at: at(millis), event }
    }

    fn opened() -> Event {
        Event::Opened { by: Pid::from_raw(1), timeout: 60 }
    }

    fn granted(seconds: u32) -> Event {
        Event::SetTimeout { asked: seconds, granted: seconds }
    }

    fn closed(processes: &[i32]) -> Event {
        let processes = processes.iter().copied().map(Pid::from_raw).collect();
        Event::Closed { disarmed: true, processes }
    }

    /// Armed, led from 1.5 s on with a deadline renewed twice, stopped, disarmed.
    fn good() -> (Vec<Happened>, Knowledge) {
        let trace = vec![
            happened(1000, opened()),
            happened(1001, granted(4)),
            happened(1200, Event::Ping),
            happened(2000, Event::Ping),
            happened(4000, Event::Ping),
            happened(8000, closed(&[])),
        ];
        let rights = vec![
            (at(900), Right::None),
            (at(1490), until(11_500)),
            (at(2500), until(12_500)),
            (at(3500), until(13_500)),
            (at(7900), Right::None),
        ];
        let knowledge = Knowledge {
            rights,
            leader_key: Some(at(1500)),
            ttl: Duration::from_secs(10),
            reset: Duration::from_secs(1),
            epsilon: Duration::from_millis(100),
        };
        (trace, knowledge)
    }

    /// One planted violation: what is found, and nothing else.
    fn plant(change: impl FnOnce(&mut Vec<Happened>, &mut Knowledge)) -> Violation {
        let (mut trace, mut knowledge) = good();
        change(&mut trace, &mut knowledge);
        let mut found = violations(&trace, &knowledge);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_good_run_has_no_violation() {
        let (trace, knowledge) = good();
        assert_eq!(violations(&trace, &knowledge), []);
    }

    #[test]
    fn a_ping_after_the_deadline_is_found() {
        let found = plant(|trace, knowledge| {
            knowledge.rights[4] = (at(14_000), until(13_500));
            trace[5] = happened(13_500, Event::Ping);
        });
        let wanted = Violation::PingAfterDeadline { at: at(13_500), deadline: at(13_500) };
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_ping_that_lets_the_device_fire_after_the_deadline_is_found() {
        // 4 s and 1 s: 8.5 s is the last instant for a deadline of 13.5 s.
        let ping = |millis| {
            move |trace: &mut Vec<Happened>, knowledge: &mut Knowledge| {
                knowledge.rights[4] = (at(14_000), until(13_500));
                trace[5] = happened(millis, Event::Ping);
            }
        };
        let wanted = Violation::FiresTooLate { at: at(8501), by: Duration::from_millis(1) };
        assert_eq!(plant(ping(8501)), wanted);
        let (mut trace, mut knowledge) = good();
        ping(8500)(&mut trace, &mut knowledge);
        assert_eq!(violations(&trace, &knowledge), []);
    }

    #[test]
    fn setting_the_timeout_counts_as_a_ping() {
        let found = plant(|trace, knowledge| {
            knowledge.rights[4] = (at(14_000), until(13_500));
            trace[5] = happened(13_600, granted(4));
        });
        let wanted = Violation::PingAfterDeadline { at: at(13_600), deadline: at(13_500) };
        assert_eq!(found, wanted);
    }

    #[test]
    fn disarming_with_a_living_process_is_found_and_closing_without_is_not() {
        let found = plant(|trace, _| trace[5] = happened(8000, closed(&[7])));
        let wanted = Violation::DisarmedAlive { at: at(8000), processes: vec![Pid::from_raw(7)] };
        assert_eq!(found, wanted);
        let (mut trace, knowledge) = good();
        let processes = vec![Pid::from_raw(7)];
        trace[5] = happened(8000, Event::Closed { disarmed: false, processes });
        assert_eq!(violations(&trace, &knowledge), []);
    }

    #[test]
    fn a_leader_key_before_the_device_is_armed_is_found() {
        let found = plant(|_, knowledge| knowledge.leader_key = Some(at(1000)));
        assert_eq!(found, Violation::KeyBeforeArmed { key: at(1000), armed: Some(at(1000)) });
        let found = plant(|trace, _| trace.clear());
        assert_eq!(found, Violation::KeyBeforeArmed { key: at(1500), armed: None });
    }

    #[test]
    fn a_timeout_longer_than_half_of_what_the_ttl_leaves_is_found() {
        let longest = Duration::from_millis(4450);
        let found = plant(|trace, _| {
            trace[1] = happened(1001, granted(5));
            trace.retain(|h| h.event != Event::Ping);
        });
        assert_eq!(found, Violation::TimeoutTooLong { timeout: 5, longest });
        // Never set: what the device had.
        let found = plant(|trace, _| {
            trace.retain(|h| !matches!(h.event, Event::SetTimeout { .. } | Event::Ping));
        });
        assert_eq!(found, Violation::TimeoutTooLong { timeout: 60, longest });
    }
}
