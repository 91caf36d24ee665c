//! Who began each timeline of this data directory's history (I14; hazards.md row 71).
//!
//! Two promotions that do not know of each other choose the same timeline number. But whoever
//! promotes writes its instant, to the microsecond, into one of the first records of its timeline
//! (xl_end_of_recovery, access/xlog_internal.h), and that is its id: also of a server that somebody
//! promoted by hand. Every server reads it from its own WAL while that is still there: nobody
//! else's word proves what this server's WAL is. Where that record is not there any more the leader
//! writes a random id (a logical message of prefix `regent`, PostgreSQL manual, "Replication
//! Management Functions"). What was read is kept in a file *inside* the data directory: a base
//! backup and `pg_rewind` copy it with the history that it describes. An id that is in none of them
//! is unknown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::PromotionId;
use regent_proto::timeline::{Ancestry, TimelineId};
use serde::{Deserialize, Serialize};

use super::files::write_atomically;
use super::programs::{Printed, Programs};
use super::wal;

/// How much WAL one look goes through.
pub const WINDOW: u64 = 64 << 20;
/// No record is longer that matters here: what a look began to read, the next one reads whole.
const OVERLAP: u64 = 1 << 20;
/// The longest a look may take.
const BOUND: Duration = Duration::from_secs(5);
/// The most records that one look reads.
const RECORDS: usize = 1000;
/// How far behind a timeline's begin its promotion has written its instant: only what concerns full
/// page images and an unfinished record comes before.
const BEGINNING: u64 = 64 << 10;
/// Why a look ended before its end.
const NO_DUMP: &str = "pg_waldump did not start, or not end in time";
/// The message's prefix, as it stands in WAL.
const PREFIX: &[u8] = b"regent\0";
/// The message's first word; the id follows.
const WORD: &str = "promotion";

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Promotions {
    /// Ids by timeline.
    #[serde(default)]
    pub known: BTreeMap<u32, PromotionId>,
    /// The id that is about to be written into WAL: who is interrupted writes the same one again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// A timeline that is being named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number.
    pub timeline: u32,
    /// Its id.
    pub promotion: PromotionId,
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("regent.promotions")
}

impl Promotions {
    /// What is noted; nothing where the file is missing or unreadable, and then the ids are unknown.
    #[must_use]
    pub fn read(data_dir: &Path) -> Self {
        let bytes = match std::fs::read(file(data_dir)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, "regent.promotions cannot be read");
                return Self::default();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "regent.promotions cannot be read");
            Self::default()
        })
    }

    fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        write_atomically(&file(data_dir), &bytes)
    }
}

/// The id for a timeline that has none: the one that was about to be written, else `fresh`, which is
/// noted, durably, before anybody can read it in WAL.
pub fn pending(
    data_dir: &Path,
    timeline: TimelineId,
    fresh: PromotionId,
) -> std::io::Result<PromotionId> {
    let mut promotions = Promotions::read(data_dir);
    if let Some(pending) = &promotions.pending
        && pending.timeline == timeline.0
    {
        return Ok(pending.promotion.clone());
    }
    promotions.pending = Some(Pending { timeline: timeline.0, promotion: fresh.clone() });
    promotions.write(data_dir).map(|()| fresh)
}

/// Notes, durably, who began a timeline.
pub fn note(data_dir: &Path, timeline: TimelineId, promotion: &PromotionId) -> std::io::Result<()> {
    let mut promotions = Promotions::read(data_dir);
    promotions.known.insert(timeline.0, promotion.clone());
    promotions.pending = promotions.pending.filter(|pending| pending.timeline != timeline.0);
    promotions.write(data_dir)
}

/// Adds what is noted to a history.
pub fn fill(data_dir: &Path, ancestry: &mut Ancestry) {
    let unnamed = ancestry.unnamed();
    if unnamed.is_empty() {
        return;
    }
    let promotions = Promotions::read(data_dir);
    for timeline in unnamed {
        if let Some(promotion) = promotions.known.get(&timeline.0) {
            ancestry.name(timeline, promotion);
        }
    }
}

/// The message for WAL.
#[must_use]
pub fn message(promotion: &PromotionId) -> String {
    format!("{WORD} {promotion}")
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The id.
    Promotion(PromotionId),
    /// It is not in what was read.
    Nothing {
        /// Everything that begins before was read.
        next: Lsn,
        /// Whether everything was read that is known to be there.
        all: bool,
    },
    /// The WAL in between is not there any more; what is there of this timeline begins here.
    GoneUpTo(Lsn),
    /// What there is could not be read to the wanted end, which proves nothing. For people.
    CutShort(String),
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it began.
    pub begin: Lsn,
    /// From where on, at `begin` or behind it.
    pub from: Lsn,
    /// How far the WAL is known to be there; without it a look proves its find only, except where
    /// WAL goes on behind what it reads.
    pub end: Option<Lsn>,
}

/// Looks in this server's own WAL for the id of a timeline: at its begin for what its promotion
/// wrote, otherwise for the first message that names it.
pub async fn find(programs: &Programs, data_dir: &Path, place: Place) -> Found {
    let Place { timeline, begin, from, end } = place;
    let Some(layout) = wal::layout(data_dir) else {
        return Found::CutShort("pg_wal has no segment that was written to".to_owned());
    };
    let segment = wal::segment_name(timeline, from.get(), layout);
    if !data_dir.join("pg_wal").join(&segment).exists() {
        return match wal::oldest_segment(data_dir, timeline, layout).filter(|at| *at > from) {
            Some(oldest) => Found::GoneUpTo(oldest),
            None => Found::CutShort(format!("{segment} is not there")),
        };
    }
    let wal = Wal { programs, data_dir, timeline, layout };
    if from == begin {
        let window = Lsn::new(begin.get().saturating_add(BEGINNING));
        let stop = end.map_or(window, |end| end.min(window));
        let Some((read, _)) = wal.dump("XLOG", begin, stop).await else {
            return Found::CutShort(NO_DUMP.to_owned());
        };
        let lines = read.output.lines().filter(|line| line.contains("END_OF_RECOVERY"));
        let born = wal.first(lines.filter_map(position), |record| born(record, timeline));
        match born {
            Some(promotion) => return Found::Promotion(promotion),
            None if !read.success => return Found::CutShort(read.errors),
            None => {}
        }
    }
    let window = Lsn::new(from.get().saturating_add(WINDOW));
    let stop = end.map_or(window, |end| end.min(window));
    let Some((read, stop)) = wal.dump("LogicalMessage", from, stop).await else {
        return Found::CutShort(NO_DUMP.to_owned());
    };
    // Where WAL ends before `stop` it ends with an error; what it printed before counts.
    let messages: Vec<Lsn> = read.output.lines().filter_map(position).collect();
    match (wal.first(messages.iter().copied(), named_by), messages.last()) {
        (Some(promotion), _) => Found::Promotion(promotion),
        // It stopped at its limit, at messages of somebody else's.
        (None, Some(last)) if messages.len() >= RECORDS => {
            Found::Nothing { next: Lsn::new(last.get() + 1), all: false }
        }
        // The last record may be there in part.
        (None, _) if read.success => Found::Nothing {
            next: Lsn::new(stop.get().saturating_sub(OVERLAP)).max(from),
            all: end == Some(stop),
        },
        (None, _) => Found::CutShort(read.errors),
    }
}

/// WAL of one timeline in a data directory.
#[derive(Clone, Copy)]
struct Wal<'a> {
    programs: &'a Programs,
    data_dir: &'a Path,
    timeline: TimelineId,
    layout: wal::Layout,
}

impl Wal<'_> {
    /// The records of one resource manager, a line each, and where the last segment that is there
    /// lets the look stop.
    async fn dump(&self, manager: &str, from: Lsn, stop: Lsn) -> Option<(Printed, Lsn)> {
        let name = |number: u64| {
            wal::segment_name(self.timeline, number * self.layout.segment, self.layout)
        };
        let there = |number: u64| self.data_dir.join("pg_wal").join(name(number)).exists();
        let first = from.get() / self.layout.segment;
        let wanted = stop.get().saturating_sub(1) / self.layout.segment;
        let last = (first + 1..=wanted).take_while(|number| there(*number)).last();
        let last = last.unwrap_or(first);
        let stop = stop.min(Lsn::new((last + 1) * self.layout.segment));
        let mut command = self.programs.command("pg_waldump");
        command
            .arg("--path")
            .arg(self.data_dir.join("pg_wal"))
            .arg(format!("--timeline={}", self.timeline.0))
            .arg(format!("--start={from}"))
            .arg(format!("--end={stop}"))
            .arg(format!("--rmgr={manager}"))
            .arg(format!("--limit={RECORDS}"))
            // It takes the segment size from the first. Without a name it takes it from any file, and
            // fails where that is a segment that was made for later and is still full of zeros.
            .args([name(first), name(last)]);
        Some((self.programs.printed(command, BOUND).await?, stop))
    }

    /// The first of these records that tells an id.
    fn first(
        &self,
        mut positions: impl Iterator<Item = Lsn>,
        told: impl Fn(&[u8]) -> Option<PromotionId>,
    ) -> Option<PromotionId> {
        positions
            .find_map(|at| told(&wal::record(self.data_dir, self.timeline, at, self.layout).ok()?))
    }
}

/// Where a record begins, by its line of `pg_waldump`. What the message is, the line does not tell
/// in PostgreSQL 13.
fn position(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once(", lsn: ")?;
    rest.split_once(',')?.0.parse().ok()
}

/// A record's data (XLogRecord, access/xlogrecord.h: 24 bytes, then what heads its data).
fn data(record: &[u8]) -> Option<&[u8]> {
    let mut headers = record.get(24..)?.iter().copied();
    let length = loop {
        match headers.next()? {
            // Its data, of a length in one byte or in four.
            255 => break usize::from(headers.next()?),
            254 => {
                let bytes = [headers.next()?, headers.next()?, headers.next()?, headers.next()?];
                break usize::try_from(u32::from_le_bytes(bytes)).ok()?;
            }
            // A replication origin; a top-level transaction.
            253 => headers.nth(1).map(|_| ())?,
            252 => headers.nth(3).map(|_| ())?,
            _ => return None,
        }
    };
    record.get(record.len().checked_sub(length)?..)
}

/// The id in what a promotion wrote (xl_end_of_recovery, access/xlog_internal.h: its instant in
/// microseconds, its timeline, the one before).
fn born(record: &[u8], timeline: TimelineId) -> Option<PromotionId> {
    let data = data(record)?;
    let instant = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let of = u32::from_le_bytes(data.get(8..12)?.try_into().ok()?);
    (of == timeline.0).then(|| format!("{instant:016x}").parse().ok()).flatten()
}

/// The id in a record of a logical message (xl_logical_message, replication/message.h).
fn named_by(record: &[u8]) -> Option<PromotionId> {
    let data = data(record)?;
    let size = |at: usize| {
        let bytes = data.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let text = data.get(24..)?;
    let (prefix, message) = text.split_at_checked(size(8)?)?;
    let message = message.get(..size(16)?)?;
    if prefix != PREFIX {
        return None;
    }
    std::str::from_utf8(message).ok()?.strip_prefix(WORD)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use regent_proto::timeline::Switch;

    fn id(text: &str) -> PromotionId {
        text.parse().expect("an identifier")
    }

    /// A record as PostgreSQL makes it; `head` stands before what heads its data.
    fn record(head: &[u8], prefix: &str, message: &str) -> Vec<u8> {
        let mut data = vec![5, 0, 0, 0, 0, 0, 0, 0];
        data.extend((prefix.len() as u64 + 1).to_le_bytes());
        data.extend((message.len() as u64).to_le_bytes());
        data.extend(format!("{prefix}\0{message}").bytes());
        let mut record = vec![0; 24];
        record.extend(head);
        match u8::try_from(data.len()) {
            Ok(length) => record.extend([255, length]),
            Err(_) => {
                record.push(254);
                record.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
            }
        }
        record.extend(data);
        record
    }

    #[test]
    fn a_message_is_read_from_its_record() {
        let named = message(&id("0a1b"));
        for head in [&[][..], &[253, 1, 0], &[252, 9, 9, 9, 9], &[253, 1, 0, 252, 9, 9, 9, 9]] {
            assert_eq!(named_by(&record(head, "regent", &named)), Some(id("0a1b")), "{head:?}");
        }
        let spaces = " ".repeat(300);
        assert_eq!(named_by(&record(&[], "regent", &(named.clone() + &spaces))), Some(id("0a1b")));
        assert_eq!(named_by(&record(&[], "regents", &named)), None);
        assert_eq!(named_by(&record(&[], "other", &format!("regent\0{named}"))), None);
        assert_eq!(named_by(&record(&[], "regent", "promoted 0a1b")), None);
        assert_eq!(named_by(&record(&[7], "regent", &named)), None);
        let whole = record(&[], "regent", &named);
        for cut in 0..whole.len() {
            assert_eq!(named_by(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn the_instant_of_a_promotion_is_its_id() {
        let mut whole = vec![0; 24];
        whole.extend([255, 16]);
        whole.extend(0x0002_9a1b_2c3d_4e5fu64.to_le_bytes());
        whole.extend([2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(born(&whole, TimelineId(2)), Some(id("00029a1b2c3d4e5f")));
        assert_eq!(born(&whole, TimelineId(3)), None, "of another timeline");
        for cut in 0..whole.len() {
            assert_eq!(born(&whole[..cut], TimelineId(2)), None, "{cut}");
        }
    }

    #[test]
    fn the_position_is_read_from_every_version_s_line() {
        let line = "rmgr: LogicalMessage len (rec/tot):     74/    74, tx:          0, lsn: \
                    0/03000110, prev 0/030000D8, desc: MESSAGE non-transactional";
        for rest in [" message size 34 bytes", ", prefix \"regent\"; payload (34 bytes): 70 72"] {
            let line = format!("{line}{rest}");
            assert_eq!(position(&line), Some(Lsn::new(0x300_0110)));
        }
        assert_eq!(position("pg_waldump: error: invalid record length"), None);
    }

    #[test]
    fn what_is_noted_names_the_timelines() {
        let directory = tempfile::tempdir().expect("a directory");
        let switches =
            vec![Switch { timeline: TimelineId(1), end: Lsn::new(100), promotion: None }];
        let unnamed = Ancestry { timeline: TimelineId(2), promotion: None, switches };
        let mut ancestry = unnamed.clone();
        fill(directory.path(), &mut ancestry);
        assert_eq!(ancestry, unnamed);
        let pending = |fresh| pending(directory.path(), TimelineId(2), id(fresh)).expect("written");
        assert_eq!(pending("aa"), id("aa"));
        assert_eq!(pending("bb"), id("aa"), "who is interrupted goes on with the same id");
        fill(directory.path(), &mut ancestry);
        assert_eq!(ancestry, unnamed, "it is no name until it stands in WAL");
        note(directory.path(), TimelineId(2), &id("aa")).expect("written");
        fill(directory.path(), &mut ancestry);
        assert_eq!(ancestry.promotion, Some(id("aa")));
        std::fs::write(file(directory.path()), b"garbage").expect("written");
        let mut forgotten = unnamed.clone();
        fill(directory.path(), &mut forgotten);
        assert_eq!(forgotten, unnamed, "unreadable is unknown");
    }
}
