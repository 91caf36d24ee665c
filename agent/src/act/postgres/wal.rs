//! Where a WAL record ends, and what is in it.
//!
//! pg_control has the *start* of the shutdown checkpoint record; a token needs its end, which is
//! what a standby that has it all reports. The record's own length stands in its first four bytes
//! (`XLogRecord.xl_tot_len`, PostgreSQL's access/xlogrecord.h, unchanged since 9.5); page headers on
//! the way are added (XLogPageHeaderData, access/xlog_internal.h: 24 bytes, 40 on the first page of
//! a segment).

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use regent_proto::lsn::Lsn;
use regent_proto::timeline::TimelineId;

/// Sizes that `initdb` fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes in a WAL page.
    pub page: u64,
    /// Bytes in a segment.
    pub segment: u64,
}

const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
const ALIGNMENT: u64 = 8;

/// End of the record that starts at `start`, read from pg_wal.
pub fn record_end(
    data_dir: &Path,
    timeline: TimelineId,
    start: Lsn,
    layout: Layout,
) -> Result<Lsn, String> {
    if layout.page == 0 || layout.segment == 0 || !layout.segment.is_multiple_of(layout.page) {
        return Err(format!("WAL pages of {} bytes, segments of {}", layout.page, layout.segment));
    }
    let length = length(data_dir, timeline, start, layout)
        .map_err(|e| format!("cannot read the checkpoint record at {start}: {e}"))?;
    Ok(advance(start, length, layout))
}

/// The record that starts at `start`, without the page headers on its way. The error is for people.
pub fn record(
    data_dir: &Path,
    timeline: TimelineId,
    start: Lsn,
    layout: Layout,
) -> Result<Vec<u8>, String> {
    let mut left = length(data_dir, timeline, start, layout)?;
    let mut at = start.get();
    let mut bytes = Vec::new();
    while left > 0 {
        let take = left.min(layout.page - at % layout.page);
        bytes.extend(read(data_dir, timeline, at, take, layout)?);
        at += take;
        left -= take;
        at += if at.is_multiple_of(layout.segment) { LONG_HEADER } else { SHORT_HEADER };
    }
    Ok(bytes)
}

/// The sizes, from the header of any segment (XLogLongPageHeaderData: segment size at byte 32, page
/// size at byte 36). `None` where there is none that was written to.
#[must_use]
pub fn layout(data_dir: &Path) -> Option<Layout> {
    let entries = std::fs::read_dir(data_dir.join("pg_wal")).ok()?.flatten();
    entries.filter(|entry| entry.file_name().len() == 24).find_map(|entry| {
        let mut header = [0u8; 40];
        std::fs::File::open(entry.path()).ok()?.read_exact(&mut header).ok()?;
        let size = |at: usize| {
            let bytes = header.get(at..at + 4)?;
            Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
        };
        let layout = Layout { segment: size(32)?, page: size(36)? };
        let sane = layout.page.is_power_of_two()
            && layout.segment.is_power_of_two()
            && (1 << 20..=1 << 30).contains(&layout.segment)
            && (1 << 10..=1 << 16).contains(&layout.page);
        sane.then_some(layout)
    })
}

/// The name of the segment that holds a byte (XLogFileName, access/xlog_internal.h).
#[must_use]
pub fn segment_name(timeline: TimelineId, at: u64, layout: Layout) -> String {
    let segments_per_id = 0x1_0000_0000 / layout.segment;
    let number = at / layout.segment;
    format!("{:08X}{:08X}{:08X}", timeline.0, number / segments_per_id, number % segments_per_id)
}

/// Where the oldest WAL begins that is there of a timeline.
#[must_use]
pub fn oldest_segment(data_dir: &Path, timeline: TimelineId, layout: Layout) -> Option<Lsn> {
    let entries = std::fs::read_dir(data_dir.join("pg_wal")).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
            let (of, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
            let here = name.len() == 24 && of == u64::from(timeline.0);
            here.then_some(Lsn::new((high << 32) + low.checked_mul(layout.segment)?))
        })
        .min()
}

/// The length of the record that starts at `start`. A record begins aligned, so its first four bytes
/// lie on one page.
fn length(
    data_dir: &Path,
    timeline: TimelineId,
    start: Lsn,
    layout: Layout,
) -> Result<u64, String> {
    let bytes = read(data_dir, timeline, start.get(), 4, layout)?;
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| "not four bytes".to_owned())?;
    let length = u64::from(u32::from_le_bytes(bytes));
    if (24..=1 << 20).contains(&length) {
        Ok(length)
    } else {
        Err(format!("the record at {start} has a length of {length} bytes"))
    }
}

/// `count` bytes from `at`, all in one segment.
fn read(
    data_dir: &Path,
    timeline: TimelineId,
    at: u64,
    count: u64,
    layout: Layout,
) -> Result<Vec<u8>, String> {
    let name = segment_name(timeline, at, layout);
    let mut bytes = vec![0u8; usize::try_from(count).map_err(|e| e.to_string())?];
    std::fs::File::open(data_dir.join("pg_wal").join(&name))
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(at % layout.segment))?;
            file.read_exact(&mut bytes)
        })
        .map_err(|e| format!("{name}: {e}"))?;
    Ok(bytes)
}

/// Position after `length` bytes of record data from `start`, aligned as the next record would be.
fn advance(start: Lsn, length: u64, layout: Layout) -> Lsn {
    let mut at = start.get();
    let mut left = length;
    loop {
        let room = layout.page - at % layout.page;
        if left < room {
            at += left;
            break;
        }
        at += room;
        left -= room;
        if left == 0 {
            // The record fills its page: the next one begins behind that page's header, but the
            // end that PostgreSQL reports is the page boundary.
            return Lsn::new(at);
        }
        at += if at.is_multiple_of(layout.segment) { LONG_HEADER } else { SHORT_HEADER };
    }
    Lsn::new(at.next_multiple_of(ALIGNMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { page: 8192, segment: 16 << 20 };

    #[test]
    fn a_record_ends_aligned_and_behind_the_page_headers_it_crosses() {
        let end = |start, length| advance(Lsn::new(start), length, LAYOUT).get();
        assert_eq!(end(0x300_0028, 114), 0x300_00A0);
        // Crosses into a page inside the segment: 24 bytes of header.
        assert_eq!(end(0x300_1FC8, 114), 0x300_1FC8 + 114 + 24 + 6);
        // Crosses into the next segment: 40 bytes.
        assert_eq!(end(0x3FF_FFC8, 114), 0x400_0000 + 40 + 58 + 6);
        // Ends exactly with its page.
        assert_eq!(end(0x300_1F88, 120), 0x300_2000);
    }

    #[test]
    fn a_record_is_read_over_the_page_headers_and_the_segment_it_crosses() {
        let layout = Layout { page: 8192, segment: 1 << 20 };
        let directory = tempfile::tempdir().expect("a directory");
        let wal = directory.path().join("pg_wal");
        std::fs::create_dir(&wal).expect("made");
        let mut record: Vec<u8> = (0..200u8).collect();
        record[..4].copy_from_slice(&200u32.to_le_bytes());
        for start in [0x2F_0028u64, 0x2F_1FC0, 0x2F_FFC0] {
            let mut space = vec![0xEEu8; 2 << 20];
            let mut at = start;
            for byte in &record {
                if at % layout.page == 0 {
                    at += if at % layout.segment == 0 { LONG_HEADER } else { SHORT_HEADER };
                }
                space[usize::try_from(at - 0x20_0000).expect("small")] = *byte;
                at += 1;
            }
            for segment in 0..2usize {
                let part = &mut space[segment << 20..(segment + 1) << 20];
                part[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
                part[36..40].copy_from_slice(&8192u32.to_le_bytes());
                let name = format!("0000000200000000{:08X}", segment + 2);
                std::fs::write(wal.join(name), part).expect("written");
            }
            assert_eq!(super::layout(directory.path()), Some(layout));
            let found = super::record(directory.path(), TimelineId(2), Lsn::new(start), layout);
            assert_eq!(found, Ok(record.clone()), "{start:X}");
        }
        assert!(
            super::record(directory.path(), TimelineId(3), Lsn::new(0x2F_0028), layout).is_err()
        );
    }
}
