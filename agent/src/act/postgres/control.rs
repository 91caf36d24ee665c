//! pg_control, as `pg_controldata` prints it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::timeline::{Ancestry, TimelineId};

use super::programs::Programs;
use super::{promotions, wal};
use crate::decide::view::{Control, ControlState};

/// Reads pg_control; the text says what is wrong.
pub async fn read(programs: &Programs, data_dir: &Path) -> Result<Control, String> {
    let mut command = programs.command("pg_controldata");
    command.arg("-D").arg(data_dir);
    let output = programs
        .output(command, Duration::from_secs(10))
        .await
        .map_err(|e| format!("cannot read pg_control of {}: {e}", data_dir.display()))?;
    let fields = Fields::parse(&output);
    interpret(&fields, data_dir).map_err(|problem| {
        format!("pg_control of {} cannot be understood: {problem}", data_dir.display())
    })
}

/// What the WAL was written with, by the names of the parameters that recovery checks against it; the
/// text says what is wrong.
pub async fn settings(
    programs: &Programs,
    data_dir: &Path,
    bound: Duration,
) -> Result<BTreeMap<String, u64>, String> {
    let mut command = programs.command("pg_controldata");
    command.arg("-D").arg(data_dir);
    let output = programs
        .output(command, bound)
        .await
        .map_err(|e| format!("cannot read pg_control of {}: {e}", data_dir.display()))?;
    Ok(settings_in(&Fields::parse(&output)))
}

/// pg_controldata abbreviates some names.
fn settings_in(fields: &Fields) -> BTreeMap<String, u64> {
    let lines = [
        ("max_connections", "max_connections setting"),
        ("max_worker_processes", "max_worker_processes setting"),
        ("max_wal_senders", "max_wal_senders setting"),
        ("max_prepared_transactions", "max_prepared_xacts setting"),
        ("max_locks_per_transaction", "max_locks_per_xact setting"),
    ];
    let found = lines
        .iter()
        .filter_map(|(name, line)| Some(((*name).to_owned(), fields.get::<u64>(line).ok()?)));
    found.collect()
}

struct Fields(BTreeMap<String, String>);

impl Fields {
    fn parse(output: &str) -> Self {
        let pairs = output.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Self(pairs.collect())
    }

    fn get<T: std::str::FromStr>(&self, name: &str) -> Result<T, String> {
        let value = self.0.get(name).ok_or_else(|| format!("no line {name:?}"))?;
        value.parse().map_err(|_| format!("{name}: {value:?} is not of the expected form"))
    }
}

fn interpret(fields: &Fields, data_dir: &Path) -> Result<Control, String> {
    let text: String = fields.get("Database cluster state")?;
    let state = match text.as_str() {
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "in archive recovery" => ControlState::InRecovery,
        "in production" | "in crash recovery" | "shutting down" => ControlState::InProduction,
        "starting up" => ControlState::ShutDown,
        other => return Err(format!("cluster state {other:?} is not known")),
    };
    let checkpoint: Lsn = fields.get("Latest checkpoint location")?;
    let checkpoint_timeline: u32 = fields.get("Latest checkpoint's TimeLineID")?;
    let recovery_end: Lsn = fields.get("Minimum recovery ending location")?;
    let recovery_timeline: u32 = fields.get("Min recovery ending loc's timeline")?;
    let (timeline, end) = match state {
        ControlState::ShutDown => {
            let layout = wal::Layout {
                page: fields.get("WAL block size")?,
                segment: fields.get("Bytes per WAL segment")?,
            };
            let end =
                wal::record_end(data_dir, TimelineId(checkpoint_timeline), checkpoint, layout)?;
            (checkpoint_timeline, end)
        }
        // Right after a promotion pg_control is still on the timeline before; what it wrote tells.
        ControlState::InProduction => {
            (checkpoint_timeline.max(newest_segment(data_dir)), checkpoint)
        }
        ControlState::ShutDownInRecovery | ControlState::InRecovery => {
            (checkpoint_timeline.max(recovery_timeline), checkpoint.max(recovery_end))
        }
    };
    Ok(Control {
        system_identifier: fields.get("Database system identifier")?,
        state,
        ancestry: ancestry(data_dir, TimelineId(timeline)),
        end,
        rewindable: rewindable(fields),
    })
}

/// What `pg_rewind` asks of its target (hazards.md section 4, fact 25): full pages in WAL, and changes
/// of hints as well, which checksums bring along.
fn rewindable(fields: &Fields) -> bool {
    let says = |name: &str, word: &str| fields.0.get(name).is_some_and(|value| value == word);
    let checksums =
        fields.get::<u32>("Data page checksum version").is_ok_and(|version| version > 0);
    says("Latest checkpoint's full_page_writes", "on")
        && (checksums || says("wal_log_hints setting", "on"))
}

/// The highest timeline that this server has WAL of.
#[must_use]
pub fn newest_segment(data_dir: &Path) -> u32 {
    let entries = std::fs::read_dir(data_dir.join("pg_wal")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            segment.then(|| u32::from_str_radix(&name[..8], 16).ok()).flatten()
        })
        .max()
        .unwrap_or(0)
}

/// History of a timeline from pg_wal, with what is noted of its promotions. A missing or unreadable file leaves the switches empty, which
/// `decide` reads as "not known" for any timeline above 1.
#[must_use]
pub fn ancestry(data_dir: &Path, timeline: TimelineId) -> Ancestry {
    let unknown = Ancestry { timeline, promotion: None, switches: Vec::new() };
    if timeline.0 <= 1 {
        return unknown;
    }
    let file = data_dir.join("pg_wal").join(format!("{:08X}.history", timeline.0));
    let mut ancestry =
        match std::fs::read_to_string(&file).map(|text| Ancestry::parse(timeline, &text)) {
            Ok(Ok(ancestry)) => ancestry,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a history file cannot be read");
                unknown
            }
            Err(_) => unknown,
        };
    promotions::fill(data_dir, &mut ancestry);
    ancestry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::parameters::RAISED_ON_STANDBYS;

    #[test]
    fn a_rewind_needs_full_pages_and_hints_or_checksums() {
        for (pages, hints, checksums, wanted) in [
            ("on", "on", 0, true),
            ("on", "off", 1, true),
            ("on", "off", 0, false),
            ("off", "on", 1, false),
        ] {
            let printed = format!(
                "Latest checkpoint's full_page_writes: {pages}
wal_log_hints setting:                {hints}
Data page checksum version:           {checksums}
"
            );
            assert_eq!(rewindable(&Fields::parse(&printed)), wanted, "{printed}");
        }
        assert!(!rewindable(&Fields::parse("")));
    }

    #[test]
    fn every_setting_that_recovery_checks_is_read() {
        let printed = "max_connections setting:              200
max_worker_processes setting:         9
max_wal_senders setting:              11
max_prepared_xacts setting:           1
max_locks_per_xact setting:           65
track_commit_timestamp setting:       off
";
        let settings = settings_in(&Fields::parse(printed));
        let read: Vec<Option<u64>> =
            RAISED_ON_STANDBYS.iter().map(|name| settings.get(*name).copied()).collect();
        assert_eq!(read, [Some(200), Some(1), Some(65), Some(9), Some(11)]);
    }
}
