//! Where a WAL record ends.
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
    let segments_per_id = 0x1_0000_0000 / layout.segment;
    let number = start.get() / layout.segment;
    let name = format!(
        "{:08X}{:08X}{:08X}",
        timeline.0,
        number / segments_per_id,
        number % segments_per_id
    );
    let path = data_dir.join("pg_wal").join(&name);
    let mut length = [0u8; 4];
    std::fs::File::open(&path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(start.get() % layout.segment))?;
            file.read_exact(&mut length)
        })
        .map_err(|e| format!("cannot read the checkpoint record at {start} in {name}: {e}"))?;
    let length = u64::from(u32::from_le_bytes(length));
    if !(24..=1 << 20).contains(&length) {
        return Err(format!("the record at {start} in {name} has a length of {length} bytes"));
    }
    Ok(advance(start, length, layout))
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
}
