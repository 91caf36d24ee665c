//! Who began each timeline of this data directory's history (I14; hazards.md row 71).
//!
//! Two promotions that do not know of each other choose the same timeline number. So whoever
//! promotes writes a random id into WAL (a logical message of prefix `regent`, PostgreSQL manual,
//! "Replication Management Functions"), and every server reads it back from its own WAL while that
//! is still there: nobody else's word proves what this server's WAL is. What was read is kept in a
//! file *inside* the data directory: a base backup and `pg_rewind` copy it with the history that it
//! describes. An id that is in neither is unknown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::PromotionId;
use regent_proto::timeline::{Ancestry, TimelineId};
use serde::{Deserialize, Serialize};

use super::files::write_atomically;
use super::programs::Programs;
use super::wal;

/// How much WAL one look goes through.
pub const WINDOW: u64 = 64 << 20;
/// The longest a look may take.
const BOUND: Duration = Duration::from_secs(5);
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
    /// It is not there, not yet, or not any more.
    Nothing,
    /// `pg_waldump` did not come to its end: that proves nothing.
    CutShort,
}

/// Looks in this server's own WAL, from `from` on, for the id of a timeline; the first message is
/// its name.
pub async fn find(programs: &Programs, data_dir: &Path, timeline: TimelineId, from: Lsn) -> Found {
    let mut command = programs.command("pg_waldump");
    command
        .arg("--path")
        .arg(data_dir.join("pg_wal"))
        .arg(format!("--timeline={}", timeline.0))
        .arg(format!("--start={from}"))
        .arg(format!("--end={}", Lsn::new(from.get() + WINDOW)))
        .args(["--rmgr=LogicalMessage", "--limit=1000"]);
    // It ends with an error where WAL ends; what it printed before counts.
    let Some(output) = programs.printed(command, BOUND).await else { return Found::CutShort };
    let Some(layout) = wal::layout(data_dir) else { return Found::Nothing };
    output
        .lines()
        .filter_map(position)
        .filter_map(|at| wal::record(data_dir, timeline, at, layout).ok())
        .find_map(|record| named_by(&record))
        .map_or(Found::Nothing, Found::Promotion)
}

/// Where a record begins, by its line of `pg_waldump`. What the message is, the line does not tell
/// in PostgreSQL 13.
fn position(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once(", lsn: ")?;
    rest.split_once(',')?.0.parse().ok()
}

/// The id in a record of a logical message (XLogRecord, access/xlogrecord.h: 24 bytes, then what
/// heads its data; xl_logical_message, replication/message.h).
fn named_by(record: &[u8]) -> Option<PromotionId> {
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
    let data = record.get(record.len().checked_sub(length)?..)?;
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
