//! The only randomness of a run: one generator, from the run's seed.

use rand_core::{Rng as _, SeedableRng as _};
use rand_xorshift::XorShiftRng;

use crate::time::Nanos;

/// The generator.
#[derive(Debug)]
pub struct Chance(XorShiftRng);

impl Chance {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(XorShiftRng::seed_from_u64(seed))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// One of 0..n; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.any() % n }
    }

    /// One of 0..n, as an index.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    /// `from` to `to`, the end left out.
    pub fn between(&mut self, from: Nanos, to: Nanos) -> Nanos {
        from + self.below(to.saturating_sub(from))
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.index(from.len()))
    }
}
