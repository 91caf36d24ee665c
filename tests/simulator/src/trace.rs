//! What happened: always as a hash, and in words where somebody wants to read it.

use crate::time::{MS, Nanos};

/// FNV-1a's prime.
const PRIME: u64 = 0x0100_0000_01b3;

/// A run's trace.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// In words too, if `wanted`.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: wanted.then(Vec::new) }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(PRIME).rotate_left(5);
    }

    /// Something happened.
    pub fn note(&mut self, now: Nanos, what: u64, how: u64) {
        self.mix(now);
        self.mix(what);
        self.mix(how);
    }

    /// In these words.
    pub fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.mix(u64::from(byte));
        }
    }

    /// Two runs of one seed have the same.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether words are wanted.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.lines.is_some()
    }

    /// A line for a person.
    pub fn say(&mut self, now: Nanos, place: &str, who: &str, what: &str) {
        if let Some(lines) = &mut self.lines {
            let (seconds, millis) = (now / (1000 * MS), now / MS % 1000);
            lines.push(format!("{seconds:>5}.{millis:03} {place:<6} {who:<10} {what}"));
        }
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
