//! WAL as a list of records, and the timelines that they are on.

use regent_agent::decide::view::ControlState;
use regent_proto::lsn::Lsn;
use regent_proto::name::PromotionId;
use regent_proto::timeline::{Ancestry, Switch, TimelineId};

/// Where the first record ends.
const FIRST: u64 = 0x0100_0000;
/// Bytes of a record. All alike, so that two histories can end at one position.
const BYTES: u64 = 128;

/// A record. Two of the same position and timeline are the same only when their ids are: the server
/// can't see ids, the checks can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it ends.
    pub end: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The write's number, or a number above [`MARKS`] for what is no write.
    pub id: u64,
}

/// Ids from here on are checkpoints and ends of recovery.
pub const MARKS: u64 = 1 << 62;

/// What a data directory holds.
#[derive(Debug, Clone)]
pub struct Wal {
    records: Vec<Record>,
    /// The present timeline.
    pub timeline: u32,
    /// Where earlier ones were left.
    pub switches: Vec<Switch>,
    /// Who began timelines: written into WAL, so known to whoever has it up to there.
    names: Vec<(u32, u64, PromotionId)>,
}

impl Wal {
    /// As `initdb` leaves it.
    #[must_use]
    pub fn new(id: u64) -> Self {
        let first = Record { end: FIRST, timeline: 1, id };
        Self { records: vec![first], timeline: 1, switches: Vec::new(), names: Vec::new() }
    }

    /// The end of the last record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.records.last().map_or(FIRST, |record| record.end)
    }

    /// The end as decisions see it.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn::new(self.end())
    }

    /// The history as decisions see it.
    #[must_use]
    pub fn ancestry(&self) -> Ancestry {
        let named =
            |left: &Switch| Switch { promotion: self.name_of(left.timeline.0), ..left.clone() };
        Ancestry {
            timeline: TimelineId(self.timeline),
            promotion: self.name_of(self.timeline),
            switches: self.switches.iter().map(named).collect(),
        }
    }

    fn name_of(&self, timeline: u32) -> Option<PromotionId> {
        let end = self.end();
        let found = self.names.iter().find(|(of, at, _)| *of == timeline && *at <= end);
        found.map(|(.., name)| name.clone())
    }

    /// Writes who began the present timeline.
    pub fn name(&mut self, mark: u64, name: PromotionId) {
        let end = self.append(mark);
        self.names.push((self.timeline, end, name));
    }

    /// Adds a record; its end.
    pub fn append(&mut self, id: u64) -> u64 {
        let end = self.end() + BYTES;
        self.records.push(Record { end, timeline: self.timeline, id });
        end
    }

    /// A promotion: the next number that this server knows of, which another may choose too.
    pub fn promote(&mut self, id: u64) {
        let left = Switch { timeline: TimelineId(self.timeline), end: self.lsn(), promotion: None };
        self.switches.push(left);
        self.timeline += 1;
        self.append(id);
    }

    /// All records.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Where the record that ends at or before `end` lies.
    fn upto(&self, end: u64) -> usize {
        self.records.partition_point(|record| record.end <= end)
    }

    /// Whether this begins with all of `other`.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        let length = other.records.len();
        // Records differ from where histories parted on, so the last one tells.
        self.records.get(length.wrapping_sub(1)) == other.records.last()
    }

    /// Whether `upstream` could stream to this one, by what servers compare: timelines and positions.
    #[must_use]
    pub fn can_stream_from(&self, upstream: &Self) -> bool {
        if upstream.timeline < self.timeline || upstream.end() < self.end() {
            return false;
        }
        if upstream.timeline == self.timeline {
            return true;
        }
        let left = upstream.switches.iter().find(|s| s.timeline.0 == self.timeline);
        left.is_some_and(|switch| self.end() <= switch.end.get())
    }

    /// Takes over what `upstream` has beyond this one's end. False where the records do not fit
    /// together: two histories that look alike.
    pub fn receive(&mut self, upstream: &Self) -> bool {
        let from = upstream.upto(self.end());
        let fits = upstream.records.get(from.wrapping_sub(1)) == self.records.last();
        self.records.extend_from_slice(upstream.records.get(from..).unwrap_or_default());
        // It turns to a timeline where the first record of that one is.
        self.timeline = self.records.last().map_or(upstream.timeline, |record| record.timeline);
        let left = |switch: &&Switch| switch.timeline.0 < self.timeline;
        self.switches = upstream.switches.iter().filter(left).cloned().collect();
        self.names.clone_from(&upstream.names);
        fits
    }

    /// Where the write is, looked for from the end.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.id == id)
    }

    /// Whether this very record is there.
    #[must_use]
    pub fn holds(&self, record: &Record) -> bool {
        self.records.get(self.upto(record.end).wrapping_sub(1)) == Some(record)
    }
}

/// What a stopped server's data directory says of how it was stopped.
#[must_use]
pub fn crashed(in_recovery: bool) -> ControlState {
    if in_recovery { ControlState::InRecovery } else { ControlState::InProduction }
}

impl Wal {
    /// The next part that a standby at `end` lacks, of so many records at most, with the one before it.
    #[must_use]
    pub fn part(&self, end: u64, most: usize) -> Self {
        let from = self.upto(end).saturating_sub(1);
        let records = self.records.get(from..).unwrap_or_default();
        Self {
            records: records.iter().take(most + 1).copied().collect(),
            timeline: self.timeline,
            switches: self.switches.clone(),
            names: self.names.clone(),
        }
    }
}
