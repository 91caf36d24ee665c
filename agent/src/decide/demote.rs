//! Rung 1: when the agent's own guard thread stops the server, and when it kills what is left.

use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

/// What is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// Nothing writable runs.
    Nothing,
    /// A server that writes until a deadline.
    Until(Deadline),
    /// A planned stop: the tenure is over.
    Stop {
        /// By when the last client backend must be gone: the deadline of before.
        bound: Deadline,
        /// By when everything must be gone.
        until: Deadline,
    },
}

/// What the judgement sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoteView {
    /// The boot clock.
    pub now: BootTime,
    /// What is guarded.
    pub guarded: Guarded,
    /// G.
    pub stop_budget: Duration,
    /// κ.
    pub kill_budget: Duration,
    /// The stop for this deadline has been asked for.
    pub stopping: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demote {
    /// Nothing, until this instant at the latest.
    Rest(BootTime),
    /// The server has time again: an earlier stop is forgotten. Nothing until this instant.
    Clear(BootTime),
    /// Let no new client in, end the sessions, ask for a fast shutdown.
    Stop,
    /// Kill everything if a client backend lives.
    KillBackends,
    /// Kill everything.
    Kill,
}

/// Judges one instant.
#[must_use]
pub fn judge(view: &DemoteView) -> Demote {
    let kill_at = |deadline: Deadline| deadline.instant().minus(view.kill_budget);
    match view.guarded {
        Guarded::Nothing => Demote::Rest(view.now.plus(Duration::from_secs(1))),
        Guarded::Until(deadline) => {
            let stop_at = deadline.instant().minus(view.stop_budget);
            if view.now >= kill_at(deadline) {
                Demote::Kill
            } else if view.now < stop_at {
                Demote::Clear(stop_at)
            } else if view.stopping {
                Demote::Rest(kill_at(deadline))
            } else {
                Demote::Stop
            }
        }
        Guarded::Stop { bound, until } => {
            if view.now >= kill_at(until.raised(bound)) {
                Demote::Kill
            } else if view.now >= kill_at(bound) {
                Demote::KillBackends
            } else {
                Demote::Rest(kill_at(bound))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    const fn deadline(millis: u64) -> Deadline {
        Deadline::at(at(millis))
    }

    fn view(now: u64, guarded: Guarded, stopping: bool) -> DemoteView {
        DemoteView {
            now: at(now),
            guarded,
            stop_budget: Duration::from_secs(2),
            kill_budget: Duration::from_millis(250),
            stopping,
        }
    }

    #[test]
    fn the_stop_begins_g_before_the_deadline_and_the_kill_at_k() {
        let until = Guarded::Until(deadline(10_000));
        for (now, stopping, wanted) in [
            (7_999, false, Demote::Clear(at(8_000))),
            (7_999, true, Demote::Clear(at(8_000))),
            (8_000, false, Demote::Stop),
            (8_000, true, Demote::Rest(at(9_750))),
            (9_749, true, Demote::Rest(at(9_750))),
            (9_750, true, Demote::Kill),
            (9_750, false, Demote::Kill),
            (20_000, true, Demote::Kill),
        ] {
            assert_eq!(judge(&view(now, until, stopping)), wanted, "{now} {stopping}");
        }
        let never = Guarded::Until(Deadline::NEVER);
        assert_eq!(judge(&view(1, never, false)), Demote::Kill, "no right at all");
    }

    #[test]
    fn a_planned_stop_ends_clients_at_the_bound_and_the_rest_at_its_span() {
        let stop = |until| Guarded::Stop { bound: deadline(10_000), until: deadline(until) };
        for (now, until, wanted) in [
            (9_749, 30_000, Demote::Rest(at(9_750))),
            (9_750, 30_000, Demote::KillBackends),
            (29_749, 30_000, Demote::KillBackends),
            (29_750, 30_000, Demote::Kill),
            (9_750, 0, Demote::Kill),
            (9_750, 10_000, Demote::Kill),
        ] {
            assert_eq!(judge(&view(now, stop(until), true)), wanted, "{now} {until}");
        }
    }

    #[test]
    fn what_does_not_write_is_left_alone() {
        assert_eq!(judge(&view(5_000, Guarded::Nothing, false)), Demote::Rest(at(6_000)));
    }
}
