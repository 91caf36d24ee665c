//! The arithmetic of one lease: until when its holder may write, when the fence begins, and which
//! settings cannot keep that promise.
//!
//! Pure numbers (hazards.md 3.2 to 3.4). A configuration that breaks an inequality is refused with
//! every number in the message (I21); what is left is safe for clocks that run apart by at most ρ,
//! and a healthy holder survives a lost answer of its store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BootTime, Deadline};

/// The bounds of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseTiming {
    /// Granted time to live.
    pub ttl: Duration,
    /// Δ: how often it is renewed, from sending to sending.
    pub renew_every: Duration,
    /// τ: longest wait for one answer of the store.
    pub call_timeout: Duration,
    /// G: the longest a stop may take before what is left is killed.
    pub stop_budget: Duration,
    /// κ: what is reserved for the kill itself.
    pub kill_budget: Duration,
}

/// ρ: clock rate error assumed between holder and store or taker, in parts per thousand. NTP slews
/// by at most 0.5 (hazards.md 3.2).
const DRIFT_PER_MILLE: u32 = 1;
/// g: granularity of timers and wake-ups.
const GRANULARITY: Duration = Duration::from_millis(40);
/// The least ε.
const EPSILON_FLOOR: Duration = Duration::from_millis(100);
/// n: answers that may be late or lost in a row before a healthy holder loses its lease: one that
/// is lost, the reading back of what came of it, and the retry.
const ANSWERS: u32 = 3;
/// What a guardian may oversleep at worst; its kill instant is κ before the deadline.
pub const WAKE_SLACK: Duration = Duration::from_millis(50);

/// Timings that cannot keep the promise, with the numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// A healthy holder would be demoted (hazards.md 3.3: Δ + n·τ + G + ε ≤ TTL).
    #[error(
        "{lease}: the longer of renew_every {renew_every:?} and call_timeout {call_timeout:?}, plus \
         {ANSWERS} x call_timeout {call_timeout:?}, plus stop_budget {stop_budget:?}, plus epsilon \
         {epsilon:?} = {sum:?} exceeds the TTL {ttl:?}: one lost answer of the store would stop a \
         healthy primary; raise the TTL or lower one of them"
    )]
    Spurious {
        /// Which lease.
        lease: &'static str,
        /// Δ.
        renew_every: Duration,
        /// τ.
        call_timeout: Duration,
        /// G.
        stop_budget: Duration,
        /// ε.
        epsilon: Duration,
        /// The left side.
        sum: Duration,
        /// The right side.
        ttl: Duration,
    },
    /// The kill would begin before the stop (κ < G).
    #[error(
        "{lease}: kill_budget {kill_budget:?} is not below stop_budget {stop_budget:?}: what is left \
         of PostgreSQL is killed kill_budget before the deadline, so a stop would have no time at \
         all; want stop_budget above kill_budget, the defaults are 5s and 250ms"
    )]
    NoTimeToStop {
        /// Which lease.
        lease: &'static str,
        /// κ.
        kill_budget: Duration,
        /// G.
        stop_budget: Duration,
    },
    /// The kill may end after the deadline (κ must hold a late wake-up and the kill).
    #[error(
        "{lease}: kill_budget {kill_budget:?} is below twice the wake-up slack {WAKE_SLACK:?}: a kill \
         that begins late would end after the deadline; want at least {least:?}, and at least twice \
         the worst kill time that `regentctl status --fence` shows"
    )]
    NoTimeToKill {
        /// Which lease.
        lease: &'static str,
        /// κ.
        kill_budget: Duration,
        /// The least κ.
        least: Duration,
    },
}

impl LeaseTiming {
    /// The share of `ttl` that clocks running apart may eat: 2ρ·TTL.
    fn drift(&self) -> Duration {
        self.ttl * 2 * DRIFT_PER_MILLE / 1000
    }

    /// ε = max(0.1 s, 2ρ·TTL + g).
    #[must_use]
    pub fn epsilon(&self) -> Duration {
        EPSILON_FLOOR.max(self.drift() + GRANULARITY)
    }

    /// How long a taker waits for a silent holder: TTL·(1+2ρ) + ε (protocol.md rule 4).
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.ttl + self.drift() + self.epsilon()
    }

    /// The same for a lease of this TTL, the only one of the bounds that it depends on.
    #[must_use]
    pub fn wait_for(ttl: Duration) -> Duration {
        let zero = Duration::ZERO;
        let (renew_every, call_timeout, stop_budget, kill_budget) = (zero, zero, zero, zero);
        Self { ttl, renew_every, call_timeout, stop_budget, kill_budget }.wait()
    }

    /// When to begin the fence for a deadline.
    #[must_use]
    pub fn fence_at(&self, deadline: Deadline) -> BootTime {
        deadline.instant().minus(self.stop_budget)
    }

    /// K: when what is left must be killed.
    #[must_use]
    pub fn kill_at(&self, deadline: Deadline) -> BootTime {
        deadline.instant().minus(self.kill_budget)
    }

    /// The longest that a deadline goes unraised while the store answers all but one request in
    /// time: max(Δ, τ) + n·τ. That rests on [`Self::next_renewal`].
    #[must_use]
    pub fn slowest_renewal(&self) -> Duration {
        self.renew_every.max(self.call_timeout) + self.call_timeout * ANSWERS
    }

    /// How long after its sending the next renewal is sent, at the earliest when it has ended: Δ
    /// after one that was answered, and no later than τ after one that was not.
    #[must_use]
    pub fn next_renewal(&self, answered: bool) -> Duration {
        if answered { self.renew_every } else { self.renew_every.min(self.call_timeout) }
    }

    /// Checks that the fence ends in time, and that a lost answer does not cost a healthy holder
    /// its lease. `lease` names it in the message.
    pub fn check(&self, lease: &'static str) -> Result<(), TimingError> {
        let (stop_budget, kill_budget) = (self.stop_budget, self.kill_budget);
        let least = WAKE_SLACK * 2;
        if kill_budget < least {
            return Err(TimingError::NoTimeToKill { lease, kill_budget, least });
        }
        if kill_budget >= stop_budget {
            return Err(TimingError::NoTimeToStop { lease, kill_budget, stop_budget });
        }
        let epsilon = self.epsilon();
        let sum = self.slowest_renewal() + stop_budget + epsilon;
        if sum > self.ttl {
            return Err(TimingError::Spurious {
                lease,
                renew_every: self.renew_every,
                call_timeout: self.call_timeout,
                stop_budget,
                epsilon,
                sum,
                ttl: self.ttl,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// TTL 5 s: 1 + 3·0.6 + 2 + 0.1 = 4.9.
    fn timing() -> LeaseTiming {
        LeaseTiming {
            ttl: MS(5000),
            renew_every: MS(1000),
            call_timeout: MS(600),
            stop_budget: MS(2000),
            kill_budget: MS(250),
        }
    }

    #[test]
    fn epsilon_grows_with_the_ttl_above_its_floor() {
        for (ttl, epsilon) in [(5, 100), (30, 100), (31, 102), (60, 160), (90, 220)] {
            let timing = LeaseTiming { ttl: Duration::from_secs(ttl), ..timing() };
            assert_eq!(timing.epsilon(), MS(epsilon), "TTL {ttl} s");
        }
    }

    #[test]
    fn each_inequality_alone_refuses_with_its_numbers() {
        assert_eq!(timing().check("site lease"), Ok(()));
        let edge = LeaseTiming { ttl: MS(4900), ..timing() };
        assert_eq!(edge.check("site lease"), Ok(()), "equal is enough");
        for (wrong, words) in [
            (LeaseTiming { ttl: MS(4899), ..timing() }, ["= 4.9s exceeds the TTL 4.899s", "site"]),
            (LeaseTiming { renew_every: MS(1101), ..timing() }, ["5.001s", "exceeds"]),
            (LeaseTiming { call_timeout: MS(634), ..timing() }, ["5.002s", "634ms"]),
            (LeaseTiming { stop_budget: MS(2101), ..timing() }, ["5.001s", "2.101s"]),
            (LeaseTiming { stop_budget: MS(250), ..timing() }, ["250ms is not below", "250ms:"]),
            (LeaseTiming { kill_budget: MS(2000), ..timing() }, ["2s is not below", "2s:"]),
            (LeaseTiming { kill_budget: MS(99), ..timing() }, ["99ms", "100ms"]),
        ] {
            let error = wrong.check("site lease").expect_err("does not fit").to_string();
            for word in words {
                assert!(error.contains(word), "{word:?} in {error}");
            }
        }
    }

    /// What a clock that runs `rate` parts per million fast or slow shows of a true span.
    fn shown(span: Duration, rate: i64) -> Duration {
        let nanos =
            i128::try_from(span.as_nanos()).expect("small") * (1_000_000 + i128::from(rate));
        Duration::from_nanos(u64::try_from(nanos / 1_000_000).expect("positive and small"))
    }

    proptest! {
        /// hazards.md 3.3: by the time the store lets go of the key, the holder's own clock is past
        /// its deadline, however the two clocks run apart within ρ.
        #[test]
        fn a_holder_ends_before_its_store_lets_go(
            ttl in 1_000u64..120_000,
            held in 0u64..5_000,
            holder in -500i64..=500,
            store in -500i64..=500,
        ) {
            let timing = LeaseTiming { ttl: MS(ttl), ..timing() };
            let sent = BootTime::from_nanos(1_000_000_000_000);
            let deadline = Deadline::granted(sent, &timing);
            // The store applies it `held` after the sending and lets go a TTL of its clock later:
            // in true time at least TTL / (1 + rate).
            let lets_go = MS(held) + shown(MS(ttl), -store.abs());
            let on_holders_clock = sent.plus(shown(lets_go, -holder.abs()));
            prop_assert!(
                !deadline.lies_ahead(on_holders_clock),
                "{:?} left", deadline.left(on_holders_clock)
            );
            let fast = sent.plus(shown(lets_go, holder.abs()));
            prop_assert!(!deadline.lies_ahead(fast));
        }

        /// protocol.md rule 4: a taker that saw the lease change no earlier than it was sent, and
        /// waits on its own clock, opens after the holder's deadline.
        #[test]
        fn a_holder_ends_before_a_taker_has_waited(
            ttl in 1_000u64..120_000,
            seen in 0u64..5_000,
            holder in -500i64..=500,
            taker in -500i64..=500,
        ) {
            let timing = LeaseTiming { ttl: MS(ttl), ..timing() };
            let sent = BootTime::from_nanos(1_000_000_000_000);
            // True time until the taker's clock shows the whole wait, at worst a fast one.
            let opens = MS(seen) + shown(timing.wait(), -taker.abs());
            let on_holders_clock = sent.plus(shown(opens, -holder.abs()));
            prop_assert!(!Deadline::granted(sent, &timing).lies_ahead(on_holders_clock));
        }

        /// Settings that pass lose no lease to one lost answer: simulated request by request, each
        /// as slow as allowed.
        #[test]
        fn settings_that_pass_survive_one_lost_answer(
            ttl in 1_000u64..60_000,
            renew_every in 50u64..10_000,
            call_timeout in 50u64..10_000,
            stop_budget in 100u64..10_000,
            lost in 1usize..8,
        ) {
            let timing = LeaseTiming {
                ttl: MS(ttl),
                renew_every: MS(renew_every),
                call_timeout: MS(call_timeout),
                stop_budget: MS(stop_budget),
                kill_budget: MS(100),
            };
            prop_assume!(timing.check("site lease").is_ok());
            let mut now = BootTime::from_nanos(0);
            let mut deadline = Deadline::granted(now, &timing);
            for attempt in 0..10 {
                let sent = now;
                // Lost: not answered, and its reading back does not find it.
                let calls = if attempt == lost { 2 } else { 1 };
                let ended = sent.plus(timing.call_timeout * calls);
                prop_assert!(
                    ended <= timing.fence_at(deadline),
                    "attempt {attempt}: the fence began {:?} before",
                    ended.since(timing.fence_at(deadline))
                );
                if attempt != lost {
                    deadline = deadline.raised(Deadline::granted(sent, &timing));
                }
                now = ended.max(sent.plus(timing.next_renewal(attempt != lost)));
            }
        }

        /// A renewal never lowers, and one anchored later is never earlier.
        #[test]
        fn deadlines_only_rise(a in 0u64..1 << 60, b in 0u64..1 << 60) {
            let [first, second] =
                [a, b].map(|at| Deadline::granted(BootTime::from_nanos(at), &timing()));
            prop_assert!(first.raised(second) >= first);
            prop_assert_eq!(a <= b, first <= second || a == b);
        }
    }
}
