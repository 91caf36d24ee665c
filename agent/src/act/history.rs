//! Patroni's history of timelines (spec/patroni-compat.md 1.3): where each was left, why, when, and
//! under whom the next one began. PostgreSQL's own file says the first two; the rest is known only to
//! whoever promoted, so what the DCS has of an older line is kept.

use std::path::Path;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::time::WallTime;
use regent_proto::timeline::{Ancestry, TimelineId};
use serde_json::{Value, json};

/// Why a timeline was left, where nobody says: what PostgreSQL writes at an ordinary promotion.
const ORDINARY: &str = "no recovery target specified";

/// What the file of a timeline says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline that it leads to.
    pub timeline: TimelineId,
    /// Those before it, the oldest first.
    pub lines: Vec<Left>,
    /// When the file was written, for people.
    pub written: Option<WallTime>,
}

/// A timeline that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub timeline: u32,
    /// Where.
    pub end: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

impl TimelineHistory {
    /// Reads `pg_wal/NNNNNNNN.history`; nothing where there is none, or it cannot be read.
    #[must_use]
    pub fn read(data_dir: &Path, timeline: TimelineId) -> Option<Self> {
        let file = data_dir.join("pg_wal").join(format!("{:08X}.history", timeline.0));
        let text = std::fs::read_to_string(&file).ok()?;
        let written = std::fs::metadata(&file).and_then(|file| file.modified()).ok();
        let written = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let written = written.and_then(|at| u64::try_from(at.as_millis()).ok()).map(WallTime);
        Some(Self { timeline, lines: text.lines().filter_map(left).collect(), written })
    }

    /// What the server says of itself, where the file says nothing.
    #[must_use]
    pub fn of(ancestry: &Ancestry) -> Self {
        let lines = ancestry.switches.iter().map(|switch| Left {
            timeline: switch.timeline.0,
            end: switch.end,
            reason: ORDINARY.to_owned(),
        });
        Self { timeline: ancestry.timeline, lines: lines.collect(), written: None }
    }
}

/// `PARENT <tab> LSN <tab> REASON`.
fn left(line: &str) -> Option<Left> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(3, '\t');
    let timeline = fields.next()?.trim().parse().ok()?;
    let end = fields.next()?.trim().parse().ok()?;
    let reason = fields.next().map_or(ORDINARY, str::trim).to_owned();
    Some(Left { timeline, end, reason })
}

/// The value of the key. `promoted_by` began the present timeline: nobody, where a standby tells. `most`
/// are kept, all where it is zero.
#[must_use]
pub fn lines(
    found: &TimelineHistory,
    promoted_by: Option<&NodeName>,
    stored: &[Value],
    most: usize,
) -> Vec<Value> {
    if found.lines.last().is_some_and(|last| is_complete(stored.last(), last)) {
        // Whoever wrote it knew better when and by whom: a restored file is of another time.
        return stored.to_vec();
    }
    let skipped = if most == 0 { 0 } else { found.lines.len().saturating_sub(most) };
    let parent = found.timeline.0.checked_sub(1);
    let kept = found.lines.iter().skip(skipped);
    kept.map(|line| {
        let mut value = vec![json!(line.timeline), json!(line.end.get()), json!(line.reason)];
        let known = stored.iter().find(|stored| is_of(stored, line));
        match (known, promoted_by, found.written) {
            (_, Some(me), Some(written)) if Some(line.timeline) == parent => {
                value.extend([json!(iso(written)), json!(me.as_str())]);
            }
            (Some(known), _, _) => {
                value.extend(known.as_array().into_iter().flatten().skip(3).cloned());
            }
            (None, _, _) => {}
        }
        Value::Array(value)
    })
    .collect()
}

/// The same timeline, left at the same place.
fn is_of(stored: &Value, line: &Left) -> bool {
    stored[0] == json!(line.timeline) && stored[1] == json!(line.end.get())
}

fn is_complete(stored: Option<&Value>, line: &Left) -> bool {
    stored.is_some_and(|stored| {
        is_of(stored, line) && stored.as_array().is_some_and(|fields| fields.len() == 5)
    })
}

/// ISO 8601 with an offset, as Patroni writes it.
fn iso(at: WallTime) -> String {
    let text = at.to_string();
    text.strip_suffix('Z').map(|time| format!("{time}+00:00")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn found(timeline: u32) -> TimelineHistory {
        let lines = (1..timeline).map(|timeline| Left {
            timeline,
            end: Lsn::new(u64::from(timeline) * 100),
            reason: ORDINARY.to_owned(),
        });
        let written = Some(WallTime(1_796_040_000_250));
        TimelineHistory { timeline: TimelineId(timeline), lines: lines.collect(), written }
    }

    const AT: &str = "2026-11-30T12:00:00.250+00:00";

    #[test]
    fn the_last_line_has_its_time_and_its_leader_and_older_ones_keep_theirs() {
        let a1 = name("a1");
        let first = lines(&found(2), Some(&a1), &[], 0);
        assert_eq!(first, [json!([1, 100, ORDINARY, AT, "a1"])]);
        let a2 = name("a2");
        let second = lines(&found(3), Some(&a2), &first, 0);
        let wanted = [first[0].clone(), json!([2, 200, ORDINARY, AT, "a2"])];
        assert_eq!(second, wanted);
        // Written already: whoever leads next on the same timeline changes nothing.
        assert_eq!(lines(&found(3), Some(&a1), &second, 0), wanted);
    }

    #[test]
    fn a_line_of_another_place_is_not_merged() {
        let stored = [json!([1, 99, "another", "then", "a9"]), json!([2, 200, "x", "then", "a9"])];
        let merged = lines(&found(4), Some(&name("a1")), &stored, 0);
        assert_eq!(merged[0], json!([1, 100, ORDINARY]));
        assert_eq!(merged[1], json!([2, 200, ORDINARY, "then", "a9"]));
        assert_eq!(merged[2], json!([3, 300, ORDINARY, AT, "a1"]));
        let forked = [json!([1, 99, ORDINARY, "then", "a9"])];
        let mended = lines(&found(2), Some(&name("a1")), &forked, 0);
        assert_eq!(mended, [json!([1, 100, ORDINARY, AT, "a1"])], "complete, but of a fork");
    }

    #[test]
    fn as_many_are_kept_as_are_wanted_and_none_on_the_first_timeline() {
        let me = name("a1");
        for (most, wanted) in [(0, 4), (1, 1), (3, 3), (9, 4)] {
            let kept = lines(&found(5), Some(&me), &[], most);
            assert_eq!(kept.len(), wanted, "{most}");
            assert_eq!(kept.last().map(|line| &line[0]), Some(&json!(4)));
        }
        let old = [json!([1, 100, ORDINARY, AT, "a1"])];
        assert_eq!(lines(&found(1), Some(&me), &old, 0), Vec::<Value>::new());
    }

    #[test]
    fn garbage_in_the_store_and_a_standby_add_nothing() {
        let garbage = [json!(3), json!([]), json!({"a": 1}), json!([1, 100])];
        assert_eq!(lines(&found(2), None, &garbage, 0), [json!([1, 100, ORDINARY])]);
    }

    #[test]
    fn the_file_is_read_with_its_reasons() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("pg_wal")).expect("made");
        let file = dir.path().join("pg_wal/00000003.history");
        let text = "1\t0/3000148\tno recovery target specified\n\n# a comment\n\
                    2\t0/5000000\tbefore 2000-01-01 00:00:00+00\n";
        std::fs::write(&file, text).expect("written");
        let read = TimelineHistory::read(dir.path(), TimelineId(3)).expect("there");
        let reasons: Vec<&str> = read.lines.iter().map(|line| line.reason.as_str()).collect();
        assert_eq!(reasons, [ORDINARY, "before 2000-01-01 00:00:00+00"]);
        assert_eq!(read.lines[0].end.get(), 0x0300_0148);
        assert!(read.written.is_some());
        assert!(TimelineHistory::read(dir.path(), TimelineId(4)).is_none());
    }
}
