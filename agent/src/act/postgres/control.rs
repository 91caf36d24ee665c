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
    })
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
