//! What renewals, stops and kills took, for people.
//!
//! Written by the threads of the fence and by whoever stops the server, read by whoever tells; plain
//! atomics, so that measuring can never hold them up (I10). Nothing is decided on these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One duration that is measured again and again: its last and its worst value.
#[derive(Debug, Default)]
pub struct Span {
    last: AtomicU64,
    worst: AtomicU64,
}

impl Span {
    /// One more measurement.
    pub fn note(&self, span: Duration) {
        // Zero means: never measured.
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.last.store(nanos, Ordering::Relaxed);
        self.worst.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The last one, if any.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        read(&self.last)
    }

    /// The worst one, if any.
    #[must_use]
    pub fn worst(&self) -> Option<Duration> {
        read(&self.worst)
    }
}

fn read(span: &AtomicU64) -> Option<Duration> {
    match span.load(Ordering::Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

/// What this life of the agent measures.
#[derive(Debug, Default)]
pub struct Measured {
    /// From the sending of a renewal of the site's lease to its acknowledgement.
    pub site_round_trip: Span,
    /// The same for the primary lease.
    pub primary_round_trip: Span,
    /// From the first signal of a stop until nothing of the server is left, whoever asked for it.
    pub stop: Span,
    /// From the first signal of rung 1's kill until a scan finds nothing.
    pub kill: Span,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_worst_are_kept() {
        let span = Span::default();
        assert_eq!((span.last(), span.worst()), (None, None));
        for millis in [7, 30, 2] {
            span.note(Duration::from_millis(millis));
        }
        assert_eq!(span.last(), Some(Duration::from_millis(2)));
        assert_eq!(span.worst(), Some(Duration::from_millis(30)));
        span.note(Duration::ZERO);
        assert!(span.last().is_some(), "measured, however short");
    }
}
