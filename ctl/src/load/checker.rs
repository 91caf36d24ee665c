//! What became of the acknowledged rows. Pure: a history and a table's contents in, a judgement
//! out; proved by planted losses, duplicates and reorderings below.
//!
//! * **lost**: acknowledged, but missing from the table or from its journal;
//! * **duplicated**: applied more than once: more than one line in the journal, which has no key
//!   that could hide it (see [`super::table`] for why a row that is sent again is not one);
//! * **reordered**: applied, by the server's own order, after a row with a higher number. The
//!   writer has one row outstanding, so the server saw them in the order of their numbers;
//! * **foreign**: in the table though it was never sent. Nobody else writes there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::Contents;
use super::writer::{Ack, History};

/// Numbers of the rows that are not as they must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Rows acknowledged.
    pub acknowledged: usize,
    /// Acknowledged and gone.
    pub lost: BTreeSet<u64>,
    /// Applied more than once.
    pub duplicated: BTreeSet<u64>,
    /// Applied after a higher number.
    pub reordered: BTreeSet<u64>,
    /// Never sent.
    pub foreign: BTreeSet<u64>,
}

impl Judgement {
    /// Whether every acknowledged row is there, once, in order, and nothing else is.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.duplicated.is_empty()
            && self.reordered.is_empty()
            && self.foreign.is_empty()
    }
}

/// Compares what was acknowledged with what is there.
#[must_use]
pub fn judge(history: &History, contents: &Contents) -> Judgement {
    let rows: BTreeSet<u64> = contents.rows.iter().copied().collect();
    let mut applied: BTreeMap<u64, usize> = BTreeMap::new();
    let mut judgement = Judgement { acknowledged: history.acks.len(), ..Judgement::default() };
    let mut highest = None;
    for number in &contents.journal {
        *applied.entry(*number).or_default() += 1;
        if highest.is_some_and(|highest| *number < highest) {
            judgement.reordered.insert(*number);
        }
        highest = highest.max(Some(*number));
    }
    for ack in &history.acks {
        if !rows.contains(&ack.number) || !applied.contains_key(&ack.number) {
            judgement.lost.insert(ack.number);
        }
    }
    judgement.duplicated = applied.iter().filter(|(_, n)| **n > 1).map(|(n, _)| *n).collect();
    // A key that let two rows in is as bad as a second line in the journal.
    let mut seen = BTreeSet::new();
    judgement.duplicated.extend(contents.rows.iter().filter(|number| !seen.insert(**number)));
    judgement.foreign = rows
        .iter()
        .chain(applied.keys())
        .filter(|number| **number >= history.sent)
        .copied()
        .collect();
    judgement
}

/// The longest time without an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outage {
    /// How long.
    pub length: Duration,
    /// Since when, from the writer's start.
    pub began: Duration,
}

/// The largest gap between two acknowledgements that touches `from..to`; `to` itself ends a gap
/// that nothing else did.
#[must_use]
pub fn outage(acks: &[Ack], from: Duration, to: Duration) -> Outage {
    let last_before = acks.partition_point(|ack| ack.at <= from).checked_sub(1);
    let mut previous = last_before.map_or(from, |i| acks[i].at);
    let mut largest = Outage::default();
    let mut consider = |began: Duration, ended: Duration| {
        let length = ended.saturating_sub(began);
        if length > largest.length {
            largest = Outage { length, began };
        }
    };
    for ack in acks.iter().skip(last_before.map_or(0, |i| i + 1)) {
        consider(previous, ack.at);
        previous = ack.at;
        if ack.at >= to {
            return largest;
        }
    }
    consider(previous, to);
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(number: u64) -> Ack {
        Ack { number, at: Duration::from_millis(number * 2), attempts: 1 }
    }

    fn history(acknowledged: impl IntoIterator<Item = u64>, sent: u64) -> History {
        History { acks: acknowledged.into_iter().map(ack).collect(), sent, ..History::default() }
    }

    fn contents(journal: &[u64]) -> Contents {
        let mut rows = journal.to_vec();
        rows.sort_unstable();
        rows.dedup();
        Contents { rows, journal: journal.to_vec() }
    }

    fn set(numbers: &[u64]) -> BTreeSet<u64> {
        numbers.iter().copied().collect()
    }

    #[test]
    fn a_complete_table_is_clean() {
        let judged = judge(&history(0..5, 5), &contents(&[0, 1, 2, 3, 4]));
        assert!(judged.is_clean(), "{judged:?}");
        assert_eq!(judged.acknowledged, 5);
    }

    #[test]
    fn a_row_of_unknown_outcome_may_be_there_or_not() {
        // 5 was sent and never acknowledged.
        assert!(judge(&history(0..5, 6), &contents(&[0, 1, 2, 3, 4])).is_clean());
        assert!(judge(&history(0..5, 6), &contents(&[0, 1, 2, 3, 4, 5])).is_clean());
    }

    #[test]
    fn planted_losses_are_found() {
        let judged = judge(&history(0..6, 6), &contents(&[0, 1, 3, 4]));
        assert_eq!(judged.lost, set(&[2, 5]));
        assert!(!judged.is_clean());
        // Lost from one of the two only: the table without its journal, and the other way round.
        let mut torn = contents(&[0, 1, 2]);
        torn.rows.retain(|n| *n != 1);
        assert_eq!(judge(&history(0..3, 3), &torn).lost, set(&[1]));
        let mut torn = contents(&[0, 1, 2]);
        torn.journal.retain(|n| *n != 2);
        assert_eq!(judge(&history(0..3, 3), &torn).lost, set(&[2]));
        // An empty table has lost everything.
        assert_eq!(judge(&history(0..3, 3), &Contents::default()).lost.len(), 3);
    }

    #[test]
    fn planted_duplicates_are_found() {
        let judged = judge(&history(0..4, 4), &contents(&[0, 1, 1, 2, 3]));
        assert_eq!(judged.duplicated, set(&[1]));
        assert!(judged.reordered.is_empty());
        let mut twice = contents(&[0, 1]);
        twice.rows.push(1);
        assert_eq!(judge(&history(0..2, 2), &twice).duplicated, set(&[1]));
    }

    #[test]
    fn planted_reorderings_are_found() {
        let judged = judge(&history(0..5, 5), &contents(&[0, 2, 1, 3, 4]));
        assert_eq!(judged.reordered, set(&[1]));
        assert!(judged.duplicated.is_empty() && judged.lost.is_empty());
        // A late duplicate is both.
        let judged = judge(&history(0..3, 3), &contents(&[0, 1, 2, 0]));
        assert_eq!((judged.reordered, judged.duplicated), (set(&[0]), set(&[0])));
    }

    #[test]
    fn planted_foreign_rows_are_found() {
        assert_eq!(judge(&history(0..2, 2), &contents(&[0, 1, 9])).foreign, set(&[9]));
    }

    #[test]
    fn an_outage_is_the_largest_gap_around_the_event() {
        let at = |ms| Ack { number: 0, at: Duration::from_millis(ms), attempts: 1 };
        let ms = Duration::from_millis;
        let acks: Vec<Ack> = [10, 12, 14, 80, 82, 200].map(at).into();
        // The gap began before the event and ended after it was over.
        assert_eq!(outage(&acks, ms(13), ms(81)), Outage { length: ms(66), began: ms(14) });
        assert_eq!(outage(&acks, ms(20), ms(30)), Outage { length: ms(66), began: ms(14) });
        // Other events' gaps are not its own.
        assert_eq!(outage(&acks, ms(10), ms(13)).length, ms(2));
        // Writes that never came back count up to the end.
        assert_eq!(outage(&acks, ms(190), ms(900)), Outage { length: ms(700), began: ms(200) });
        assert_eq!(outage(&[], ms(5), ms(9)).length, ms(4));
    }
}
