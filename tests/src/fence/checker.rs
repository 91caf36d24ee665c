//! Judges one observation: acknowledgements with their arrival on the boot clock, the deadlines
//! that were in force, and the rows found at the end. Pure; proved by planted violations below.
//!
//! * **late**: acknowledged by a node after the deadline in force there (I1, I7);
//! * **overlap**: two nodes whose spans of acknowledging share an instant (I25);
//! * **lost**: acknowledged and not there at the end (synchronous mode).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

/// A node, by its place in the cluster.
pub type Node = usize;

/// One node writing on one timeline. A node that leads again after another one has a new timeline,
/// so that its second span is not taken for the rest of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenure {
    /// Who.
    pub node: Node,
    /// On which timeline, as the server said when the session began.
    pub timeline: u32,
}

/// A row: which client, and its number there.
pub type Row = (u32, u64);

/// A commit that a client was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// When the message had arrived.
    pub at: BootTime,
    /// From whom.
    pub tenure: Tenure,
    /// Which row.
    pub row: Row,
}

/// A deadline as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: BootTime,
    /// What stood there.
    pub deadline: Deadline,
}

/// What was seen of one repetition.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Every acknowledgement.
    pub acks: Vec<Ack>,
    /// Each node's deadline, where it changed, in order.
    pub deadlines: BTreeMap<Node, Vec<Sample>>,
    /// The rows found at the end.
    pub found: BTreeSet<Row>,
}

/// Two nodes acknowledging at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Whose span began first.
    pub first: Tenure,
    /// The other.
    pub second: Tenure,
    /// For how long.
    pub span: Duration,
}

/// What is wrong with an observation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// How many acknowledgements were judged.
    pub acknowledged: usize,
    /// Those after the deadline, with by how much.
    pub late: Vec<(Ack, Duration)>,
    /// Nodes acknowledging at once.
    pub overlaps: Vec<Overlap>,
    /// Acknowledged rows that are gone.
    pub lost: BTreeSet<Row>,
}

impl Findings {
    /// Whether nothing is wrong. An observation without acknowledgements shows nothing.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.acknowledged > 0
            && self.late.is_empty()
            && self.overlaps.is_empty()
            && self.lost.is_empty()
    }

    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        let late = self.late.iter().map(|(_, by)| *by).max();
        let overlap = self.overlaps.iter().map(|overlap| overlap.span).max();
        format!(
            "{} acknowledged, {} after D (by at most {:?}), {} overlaps (at most {:?}), {} lost{}",
            self.acknowledged,
            self.late.len(),
            late.unwrap_or_default(),
            self.overlaps.len(),
            overlap.unwrap_or_default(),
            self.lost.len(),
            self.lost.iter().next().map(|row| format!(", such as {row:?}")).unwrap_or_default(),
        )
    }
}

/// Judges an observation.
#[must_use]
pub fn judge(observation: &Observation) -> Findings {
    let acks = &observation.acks;
    let late = acks.iter().filter_map(|ack| {
        let samples = observation.deadlines.get(&ack.tenure.node)?;
        let by = ack.at.since(in_force(samples, ack.at).instant());
        (by > Duration::ZERO).then_some((*ack, by))
    });
    let lost = acks.iter().map(|ack| ack.row).filter(|row| !observation.found.contains(row));
    Findings {
        acknowledged: acks.len(),
        late: late.collect(),
        overlaps: overlaps(&spans(acks)),
        lost: lost.collect(),
    }
}

/// A change of the deadline is seen at most this long after it was made.
const SEEN_WITHIN: Duration = Duration::from_millis(20);

/// The deadline in force at an instant: the highest that had been written by then, as far as
/// looking tells. A deadline that was taken back (the end of a tenure) leaves the one before as
/// the bound.
#[must_use]
pub fn in_force(samples: &[Sample], at: BootTime) -> Deadline {
    let until = samples.partition_point(|sample| sample.at <= at.plus(SEEN_WITHIN));
    let read = samples.iter().take(until).map(|sample| sample.deadline);
    read.max().unwrap_or(Deadline::NEVER)
}

/// By how much a deadline passed what its store acknowledged: the last acknowledgement was at
/// `renewed`, so that no deadline may lie further than `ttl` from there. Whatever is looked at
/// must have been seen before the store acknowledged anything again.
#[must_use]
pub fn raised_alone(samples: &[Sample], renewed: BootTime, ttl: Duration) -> Option<Duration> {
    let highest = samples.iter().map(|sample| sample.deadline).max()?;
    let by = highest.instant().since(renewed.plus(ttl));
    (by > Duration::ZERO).then_some(by)
}

/// First and last acknowledgement of each tenure.
#[must_use]
pub fn spans(acks: &[Ack]) -> BTreeMap<Tenure, (BootTime, BootTime)> {
    let mut spans: BTreeMap<Tenure, (BootTime, BootTime)> = BTreeMap::new();
    for ack in acks {
        let span = spans.entry(ack.tenure).or_insert((ack.at, ack.at));
        *span = (span.0.min(ack.at), span.1.max(ack.at));
    }
    spans
}

fn overlaps(spans: &BTreeMap<Tenure, (BootTime, BootTime)>) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut sorted: Vec<_> = spans.iter().collect();
    sorted.sort_by_key(|(_, span)| span.0);
    for (i, (first, a)) in sorted.iter().enumerate() {
        for (second, b) in &sorted[i + 1..] {
            if first.node != second.node && b.0 <= a.1 {
                let span = a.1.min(b.1).since(b.0);
                found.push(Overlap { first: **first, second: **second, span });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Tenure = Tenure { node: 0, timeline: 1 };
    const NEW: Tenure = Tenure { node: 1, timeline: 2 };

    fn ms(ms: u64) -> BootTime {
        BootTime::from_nanos(ms * 1_000_000)
    }

    fn ack(tenure: Tenure, at: u64) -> Ack {
        Ack { at: ms(at), tenure, row: (0, at) }
    }

    /// The old primary writes until 4.9 s under a deadline of 5 s, the new one from 6 s on.
    fn good() -> Observation {
        let mut acks: Vec<Ack> = (1..50).map(|n| ack(OLD, n * 100)).collect();
        acks.extend((60..90).map(|n| ack(NEW, n * 100)));
        let sample = |at, deadline| Sample { at: ms(at), deadline: Deadline::at(ms(deadline)) };
        let deadlines = BTreeMap::from([
            (0, vec![sample(0, 3000), sample(1000, 5000), sample(5000, 0)]),
            (1, vec![sample(0, 0), sample(5900, 11_000)]),
        ]);
        Observation { found: acks.iter().map(|ack| ack.row).collect(), acks, deadlines }
    }

    #[test]
    fn a_clean_failover_is_clean() {
        let findings = judge(&good());
        assert!(findings.clean(), "{}", findings.text());
        assert_eq!(findings.acknowledged, 79);
    }

    #[test]
    fn nothing_acknowledged_shows_nothing() {
        assert!(!judge(&Observation::default()).clean());
    }

    #[test]
    fn a_planted_late_acknowledgement_is_found_alone() {
        let mut planted = good();
        let late = ack(OLD, 5001);
        planted.found.insert(late.row);
        planted.acks.push(late);
        let findings = judge(&planted);
        assert_eq!(findings.late, [(late, Duration::from_millis(1))]);
        assert!(findings.overlaps.is_empty() && findings.lost.is_empty());
        assert!(!findings.clean());
    }

    #[test]
    fn a_deadline_that_was_raised_afterwards_excuses_nothing() {
        // Acknowledged at 5.5 s, renewed at 8 s: the deadline at 5.5 s was 5 s.
        let mut planted = good();
        planted.acks.retain(|ack| ack.tenure == OLD);
        planted.acks.push(ack(OLD, 5500));
        planted.found.insert((0, 5500));
        let samples = planted.deadlines.get_mut(&0).expect("the old primary's");
        samples.push(Sample { at: ms(8000), deadline: Deadline::at(ms(13_000)) });
        assert_eq!(judge(&planted).late.len(), 1);
    }

    #[test]
    fn a_node_that_never_had_a_deadline_may_acknowledge_nothing() {
        let mut planted = good();
        planted.deadlines.insert(1, vec![Sample { at: ms(0), deadline: Deadline::NEVER }]);
        assert_eq!(judge(&planted).late.len(), 30);
    }

    #[test]
    fn a_planted_overlap_is_found_alone() {
        let mut planted = good();
        // The deadline was generous enough; still both acknowledge.
        let samples = planted.deadlines.get_mut(&0).expect("the old primary's");
        samples.insert(2, Sample { at: ms(2000), deadline: Deadline::at(ms(20_000)) });
        planted.acks.push(ack(OLD, 6050));
        planted.found.insert((0, 6050));
        let findings = judge(&planted);
        let span = Duration::from_millis(50);
        assert_eq!(findings.overlaps, [Overlap { first: OLD, second: NEW, span }]);
        assert!(findings.late.is_empty() && findings.lost.is_empty());
        assert!(!findings.clean());
    }

    #[test]
    fn a_deadline_beyond_the_last_acknowledgement_is_one_raised_alone() {
        let sample = |at, deadline| Sample { at: ms(at), deadline: Deadline::at(ms(deadline)) };
        let samples = [sample(1000, 5900), sample(2000, 6900), sample(6950, 0)];
        let ttl = Duration::from_secs(5);
        assert_eq!(raised_alone(&samples, ms(2000), ttl), None);
        assert_eq!(raised_alone(&samples, ms(1000), ttl), Some(Duration::from_millis(900)));
        assert_eq!(raised_alone(&[], ms(1000), ttl), None);
    }

    #[test]
    fn a_node_that_leads_again_on_a_new_timeline_is_no_overlap() {
        let mut again = good();
        let third = Tenure { node: 0, timeline: 3 };
        again.acks.push(ack(third, 9000));
        again.found.insert((0, 9000));
        let samples = again.deadlines.get_mut(&0).expect("the old primary's");
        samples.push(Sample { at: ms(8950), deadline: Deadline::at(ms(14_000)) });
        assert!(judge(&again).clean(), "{}", judge(&again).text());
        // On its old timeline it is one.
        again.acks.push(ack(OLD, 9100));
        again.found.insert((0, 9100));
        assert_eq!(judge(&again).overlaps.len(), 1);
    }

    #[test]
    fn a_planted_loss_is_found_alone() {
        let mut planted = good();
        planted.found.remove(&(0, 4900));
        let findings = judge(&planted);
        assert_eq!(findings.lost, BTreeSet::from([(0, 4900)]));
        assert!(findings.late.is_empty() && findings.overlaps.is_empty());
        assert!(!findings.clean());
    }
}
