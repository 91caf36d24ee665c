//! What became of the rows that clients were told of. Pure; proved by planted faults below.
//!
//! A *stream* is what one session sends: rows 0, 1, 2, … in this order, each a transaction of its own,
//! none ever sent again. A client has one stream after the other: the next one begins when it has
//! given the last one up. So whatever the servers did, this must hold in the end:
//!
//! * **lost**: no acknowledged row is missing;
//! * **duplicated**: no row is there twice; the table has no key that could hide it;
//! * **reordered**: by the server's own order, no row comes after a higher one of its stream, and no
//!   acknowledged one after a row that its client sent in a later stream;
//! * **foreign**: nothing is there that was never sent.
//!
//! A row that was sent and never acknowledged may be there or not.

use std::collections::{BTreeMap, BTreeSet};

/// Which stream.
pub type StreamId = u32;
/// A row: its stream and its number there.
pub type Row = (StreamId, u64);

/// What a client knows of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Whose.
    pub client: usize,
    /// Rows below this number were sent.
    pub sent: u64,
    /// Rows below this number were acknowledged.
    pub acknowledged: u64,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// How many rows were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged and gone.
    pub lost: BTreeSet<Row>,
    /// There more than once.
    pub duplicated: BTreeSet<Row>,
    /// There after what was sent later.
    pub reordered: BTreeSet<Row>,
    /// Never sent.
    pub foreign: BTreeSet<Row>,
}

impl Findings {
    /// Whether nothing is wrong. A run without acknowledgements shows nothing.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.acknowledged > 0
            && self.lost.is_empty()
            && self.duplicated.is_empty()
            && self.reordered.is_empty()
            && self.foreign.is_empty()
    }

    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        let show = |rows: &BTreeSet<Row>| match rows.iter().next() {
            Some(first) => format!("{} (such as {first:?})", rows.len()),
            None => "0".to_owned(),
        };
        format!(
            "of {} acknowledged rows lost {}, duplicated {}, reordered {}, foreign {}",
            self.acknowledged,
            show(&self.lost),
            show(&self.duplicated),
            show(&self.reordered),
            show(&self.foreign),
        )
    }
}

/// Compares all streams, in the order in which they began, with the rows in the server's order.
#[must_use]
pub fn judge(streams: &[Stream], found: &[Row]) -> Findings {
    let ids = || (0..).zip(streams);
    let known: BTreeMap<StreamId, Stream> = ids().map(|(id, stream)| (id, *stream)).collect();
    let mut findings = Findings {
        acknowledged: streams.iter().map(|stream| stream.acknowledged).sum(),
        ..Findings::default()
    };
    let mut there = BTreeSet::new();
    let mut highest: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut latest: BTreeMap<usize, StreamId> = BTreeMap::new();
    for row in found {
        let (id, number) = *row;
        let Some(stream) = known.get(&id).filter(|stream| number < stream.sent) else {
            findings.foreign.insert(*row);
            continue;
        };
        if !there.insert(*row) {
            findings.duplicated.insert(*row);
        }
        let highest = highest.entry(id).or_insert(number);
        let latest = latest.entry(stream.client).or_insert(id);
        if number < *highest || id < *latest && number < stream.acknowledged {
            findings.reordered.insert(*row);
        }
        *highest = number.max(*highest);
        *latest = id.max(*latest);
    }
    for (id, stream) in ids() {
        let told = (0..stream.acknowledged).map(|number| (id, number));
        findings.lost.extend(told.filter(|row| !there.contains(row)));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two streams of client 0 with one of client 1 between them; of each the last two rows were not
    /// acknowledged.
    const STREAMS: [Stream; 3] = [
        Stream { client: 0, sent: 6, acknowledged: 4 },
        Stream { client: 1, sent: 5, acknowledged: 3 },
        Stream { client: 0, sent: 4, acknowledged: 2 },
    ];

    /// What is there when everything went well: all that was acknowledged, and some that was not.
    fn good() -> Vec<Row> {
        [(0, 0..5), (1, 0..3), (2, 0..2)]
            .into_iter()
            .flat_map(|(id, numbers)| numbers.map(move |number| (id, number)))
            .collect()
    }

    /// A fault planted into that; only what it plants is found.
    fn planted(change: impl FnOnce(&mut Vec<Row>), wanted: Findings) {
        let mut found = good();
        change(&mut found);
        assert_eq!(judge(&STREAMS, &found), Findings { acknowledged: 9, ..wanted });
        assert!(!judge(&STREAMS, &found).clean());
    }

    fn only(row: Row) -> BTreeSet<Row> {
        BTreeSet::from([row])
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_or_not() {
        let mut found = good();
        assert!(judge(&STREAMS, &found).clean(), "{}", judge(&STREAMS, &found).text());
        found.retain(|row| *row != (0, 4));
        assert!(judge(&STREAMS, &found).clean());
        // What a client gave up on may come late, beside its next stream.
        found.push((0, 5));
        assert!(judge(&STREAMS, &found).clean());
        // Two clients' rows are in no order.
        found.sort_by_key(|(id, number)| (*number, *id == 2, *id));
        found.retain(|(id, _)| *id != 2);
        let first = judge(&STREAMS[..2], &found);
        assert!(first.clean(), "{}", first.text());
    }

    #[test]
    fn nothing_acknowledged_shows_nothing() {
        assert!(!judge(&[], &[]).clean());
        assert!(!judge(&[Stream { client: 0, sent: 3, acknowledged: 0 }], &[]).clean());
    }

    #[test]
    fn a_planted_loss_is_found_alone() {
        for row in [(0, 0), (0, 3), (1, 1), (2, 1)] {
            let wanted = Findings { lost: only(row), ..Findings::default() };
            planted(|found| found.retain(|there| *there != row), wanted);
        }
        assert_eq!(judge(&STREAMS, &[]).lost.len(), 9);
    }

    #[test]
    fn a_planted_duplicate_is_found_alone() {
        for row in [(0, 3), (2, 1)] {
            let wanted = Findings { duplicated: only(row), ..Findings::default() };
            let twice = |found: &mut Vec<Row>| {
                let at = found.iter().position(|there| *there == row).expect("it is there");
                found.insert(at, row);
            };
            planted(twice, wanted);
        }
    }

    #[test]
    fn a_planted_reordering_is_found_alone() {
        let wanted = Findings { reordered: only((0, 1)), ..Findings::default() };
        planted(|found| found.swap(1, 2), wanted);
        // Acknowledged before the client's next stream began, and applied in the middle of it.
        let wanted = Findings { reordered: only((0, 3)), ..Findings::default() };
        let late = |found: &mut Vec<Row>| {
            found.retain(|row| *row != (0, 3) && *row != (0, 4));
            let last = found.len() - 1;
            found.insert(last, (0, 3));
        };
        planted(late, wanted);
    }

    #[test]
    fn a_planted_foreign_row_is_found_alone() {
        for row in [(0, 6), (3, 0), (2, 4)] {
            let wanted = Findings { foreign: only(row), ..Findings::default() };
            planted(|found| found.push(row), wanted);
        }
    }
}
