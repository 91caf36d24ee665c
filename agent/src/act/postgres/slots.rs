//! Replication slots of the local server: made, dropped and moved as was planned; logical ones copied
//! from the leader as files, and a note of which of them are copies.
//!
//! Decoding takes its time, so what makes or moves a logical slot goes on beside the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::timeline::TimelineId;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::files::{Files, write_atomically};
use super::sql::{self, SqlError, literal};
use super::wal;
use crate::config::{Config, User};
use crate::decide::slots::{Kind, Planned, Step, Why};

/// The longest that one logical slot is worked on: a new one waits for every transaction that runs.
const DECODES_WITHIN: Duration = Duration::from_secs(60);

/// The longest that all steps together hold up the loop, or a promotion: what is left is planned again.
const ROUND_BOUND: Duration = Duration::from_secs(2);

/// Performs steps in order. One that fails keeps none of the others from being done.
pub async fn perform(
    client: &Client,
    (config, files): (&Arc<Config>, &Files),
    steps: &[Planned],
    work: &Work,
) -> Result<(), SqlError> {
    let is_unsafe = |planned: &&Planned| planned.why == Why::Unsafe;
    let opening = steps.iter().any(|planned| planned.why == Why::Unsafe);
    if opening {
        // Whichever of them is still there after the promotion is known by this.
        note(files, |known| {
            let names = steps.iter().filter(is_unsafe).map(|planned| planned.step.name());
            known.extend(names.map(|name| (name.to_owned(), Noted::Unsafe)));
        });
    }
    let done = match tokio::time::timeout(ROUND_BOUND, at_once(client, files, steps)).await {
        Ok(done) => done,
        Err(_elapsed) => {
            Err(SqlError::TooLong { doing: "keeping slots".to_owned(), bound: ROUND_BOUND })
        }
    };
    // After what makes room for it.
    let beside = steps.iter().map(|planned| &planned.step).filter(|step| decodes(step));
    work.begin(config, beside.cloned().collect());
    match done {
        // The promotion that follows waits for nothing.
        Err(error) if opening => {
            tracing::warn!(%error, "an unsafe logical slot may have stayed");
            Ok(())
        }
        done => done,
    }
}

/// What takes its time goes on beside the loop.
fn decodes(step: &Step) -> bool {
    match step {
        Step::Create { kind: Kind::Logical { .. }, .. }
        | Step::Advance { kind: Kind::Logical { .. }, .. } => true,
        Step::Create { kind: Kind::Physical, .. }
        | Step::Advance { kind: Kind::Physical, .. }
        | Step::Drop { .. }
        | Step::Copy { .. }
        | Step::Prove { .. }
        | Step::Warn { .. } => false,
    }
}

async fn at_once(client: &Client, files: &Files, steps: &[Planned]) -> Result<(), SqlError> {
    let mut first: Result<(), SqlError> = Ok(());
    for Planned { step, why } in steps {
        let query = match step {
            Step::Drop { name } => {
                if *why == Why::Unsafe {
                    // This agent's own, which moves the slot; the drop succeeds now, or once it is gone.
                    let ended = sql::text(client, &end_own_decoder(name)).await;
                    first = first.and(ended.map(drop));
                }
                drop_slot(name)
            }
            Step::Create { name, kind: Kind::Physical } => create_physical(name),
            Step::Advance { name, kind: Kind::Physical, to } => advance(name, *to),
            Step::Prove { name } => {
                note(files, |known| {
                    known.insert(name.clone(), Noted::Proven);
                });
                continue;
            }
            // Beside the loop, a job, and a line for people.
            Step::Create { kind: Kind::Logical { .. }, .. }
            | Step::Advance { kind: Kind::Logical { .. }, .. }
            | Step::Copy { .. }
            | Step::Warn { .. } => continue,
        };
        match sql::text(client, &query).await {
            // Somebody uses it at the moment, or it is so already.
            Ok(count) if count == "0" => {}
            Ok(_) => {
                tell(step, why);
                if let Step::Drop { name } = step {
                    note(files, |known| {
                        known.remove(name);
                    });
                }
            }
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

fn tell(step: &Step, why: &Why) {
    let slot = step.name();
    match step {
        Step::Drop { .. } => tracing::info!(slot, %why, "a replication slot was dropped"),
        Step::Create { .. } => tracing::info!(slot, %why, "a replication slot was made"),
        Step::Advance { to, .. } => {
            tracing::debug!(slot, %to, %why, "a replication slot was moved");
        }
        Step::Copy { .. } | Step::Prove { .. } | Step::Warn { .. } => {}
    }
}

fn drop_slot(name: &str) -> String {
    format!(
        "SELECT count(pg_drop_replication_slot(slot_name))::text FROM pg_replication_slots \
         WHERE NOT active AND slot_name = {}",
        literal(name)
    )
}

fn end_own_decoder(name: &str) -> String {
    format!(
        "SELECT count(pg_terminate_backend(a.pid))::text FROM pg_replication_slots s \
         JOIN pg_stat_activity a ON a.pid = s.active_pid \
         WHERE a.application_name = 'Regent' AND s.slot_name = {}",
        literal(name)
    )
}

fn create_physical(name: &str) -> String {
    let name = literal(name);
    format!(
        "SELECT count(pg_create_physical_replication_slot({name}, true))::text WHERE NOT EXISTS \
         (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
    )
}

fn create_logical(name: &str, plugin: &str) -> String {
    let (name, plugin) = (literal(name), literal(plugin));
    format!(
        "SELECT count(pg_create_logical_replication_slot({name}, {plugin}))::text WHERE NOT EXISTS \
         (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
    )
}

/// Only forward: what has come further in the meantime stays where it is.
fn advance(name: &str, to: Lsn) -> String {
    format!(
        "SELECT count(pg_replication_slot_advance(slot_name, '{to}'))::text \
         FROM pg_replication_slots WHERE NOT active AND slot_name = {} \
         AND coalesce(confirmed_flush_lsn, restart_lsn) < '{to}'",
        literal(name)
    )
}

/// Work on logical slots, one task at a time. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Work {
    running: Arc<AtomicBool>,
    /// What was last said of each slot.
    said: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Ends with its task, however that ends.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Work {
    /// Begins, unless something goes on: then it is planned again.
    fn begin(&self, config: &Arc<Config>, steps: Vec<Step>) {
        if steps.is_empty() || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(Arc::clone(&self.running));
        let (config, said) = (Arc::clone(config), Arc::clone(&self.said));
        tokio::spawn(async move {
            for step in &steps {
                let problem = decode(&config, step).await.err().map(|error| error.to_string());
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let known = said.get(step.name());
                match problem {
                    None => drop(said.remove(step.name())),
                    Some(problem) if known == Some(&problem) => {}
                    Some(problem) => {
                        tracing::warn!(slot = step.name(), problem, "a logical replication slot");
                        said.insert(step.name().to_owned(), problem);
                    }
                }
            }
            drop(running);
        });
    }
}

/// In the slot's own database: only there it can be decoded.
async fn decode(config: &Config, step: &Step) -> Result<(), SqlError> {
    let (database, query) = match step {
        Step::Create { name, kind: Kind::Logical { database, plugin } } => {
            (database, create_logical(name, plugin))
        }
        Step::Advance { name, kind: Kind::Logical { database, .. }, to } => {
            (database, advance(name, *to))
        }
        Step::Create { kind: Kind::Physical, .. }
        | Step::Advance { kind: Kind::Physical, .. }
        | Step::Drop { .. }
        | Step::Copy { .. }
        | Step::Prove { .. }
        | Step::Warn { .. } => return Ok(()),
    };
    let client = sql::connect_database(config, database).await?;
    let timeout = format!("SET statement_timeout = '{}s'", DECODES_WITHIN.as_secs());
    sql::execute(&client, &timeout, sql::ANSWER_BOUND).await?;
    sql::text_within(&client, &query, DECODES_WITHIN).await.map(drop)
}

/// A logical slot of the leader, as its server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What it decodes.
    pub kind: Kind,
    /// WAL is needed from here on.
    pub restart: Lsn,
    state: Vec<u8>,
}

/// Why slots were not copied; nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing to copy.
    #[error("the leader has none of the logical slots {0:?} as they are wanted, and usable")]
    Absent(BTreeSet<String>),
    /// This server is none.
    #[error("only a standby copies slots")]
    NotStandby,
    /// The server would not start again.
    #[error("wal_level is no longer `logical` in the dynamic configuration")]
    WalLevel,
    /// The leader's file is not of the form that is known.
    #[error("the leader's file of the logical slot {0:?} is not one of PostgreSQL 13 to 18")]
    Form(String),
    /// WAL that the slot needs is not here any more.
    #[error(
        "the logical slot {name:?} needs WAL from {restart} on, which this server has not: it is \
         copied once its consumer has confirmed more"
    )]
    NoWal {
        /// Which.
        name: String,
        /// From where.
        restart: Lsn,
    },
}

#[derive(Deserialize)]
struct Row {
    name: String,
    database: String,
    plugin: String,
    state: String,
}

/// Reads slots of the leader. Ones that are lost there would be lost here.
pub async fn read(
    (host, port): &(String, u16),
    user: &User,
    names: &BTreeSet<String>,
) -> anyhow::Result<Vec<Found>> {
    let client = sql::connect(host, *port, user).await?;
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let query = format!(
        "SELECT coalesce(json_agg(json_build_object('name', slot_name, 'database', database, \
         'plugin', plugin, 'state', encode(pg_read_binary_file('pg_replslot/' || slot_name \
         || '/state'), 'hex'))), '[]')::text \
         FROM pg_replication_slots s WHERE NOT pg_is_in_recovery() AND slot_type = 'logical' \
         AND NOT temporary AND database IS NOT NULL AND wal_status IS DISTINCT FROM 'lost' \
         AND to_jsonb(s)->>'invalidation_reason' IS NULL \
         AND slot_name::text = ANY(ARRAY[{}]::text[])",
        names.join(",")
    );
    let rows: Vec<Row> = serde_json::from_str(&sql::text(&client, &query).await?)?;
    rows.into_iter()
        .map(|row| -> anyhow::Result<Found> {
            let form = || CopyError::Form(row.name.clone());
            let state = hex::decode(&row.state).map_err(|_| form())?;
            let restart = restart_of(&row.name, &state).ok_or_else(form)?;
            let Row { name, database, plugin, state: _ } = row;
            Ok(Found { name, kind: Kind::Logical { database, plugin }, restart, state })
        })
        .collect()
}

/// `ReplicationSlotOnDisk` (replication/slot.c): magic, checksum, version and length, then name,
/// database, persistency, xmin, catalog_xmin, and restart_lsn at byte 96.
fn restart_of(name: &str, state: &[u8]) -> Option<Lsn> {
    const MAGIC: u32 = 0x0105_1CA1;
    let magic = u32::from_le_bytes(state.get(..4)?.try_into().ok()?);
    let field = state.get(16..80)?;
    let text = field.split(|byte| *byte == 0).next()?;
    let restart = u64::from_le_bytes(state.get(96..104)?.try_into().ok()?);
    (magic == MAGIC && text == name.as_bytes() && restart > 0).then(|| Lsn::new(restart))
}

/// Whether the WAL that the slots need is here.
pub fn check(files: &Files, slots: &[Found]) -> Result<(), CopyError> {
    let layout = wal::layout(&files.data_dir);
    let there: BTreeSet<String> = std::fs::read_dir(files.data_dir.join("pg_wal"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.len() == 24)
        .filter_map(|name| Some(name.get(8..)?.to_owned()))
        .collect();
    for slot in slots {
        let name = |layout| wal::segment_name(TimelineId(0), slot.restart.get(), layout);
        let segment = layout.map(name);
        let is_there = segment.is_some_and(|name| name.get(8..).is_some_and(|n| there.contains(n)));
        if !is_there {
            return Err(CopyError::NoWal { name: slot.name.clone(), restart: slot.restart });
        }
    }
    Ok(())
}

/// Puts slots into the data directory of a stopped server. A directory by another name first: one without
/// its file would keep the server from starting, and of such names the server clears up itself.
pub fn put(files: &Files, slots: &[Found]) -> std::io::Result<()> {
    let all = files.data_dir.join("pg_replslot");
    // Before the files: whatever of this a crash leaves must not look like a primary's own.
    let copies = slots.iter().map(|slot| (slot.name.clone(), Noted::Copied));
    change_note(files, |known| known.extend(copies))?;
    for slot in slots {
        let place = all.join(&slot.name);
        if place.is_dir() {
            write_atomically(&place.join("state"), &slot.state)?;
            continue;
        }
        let beside = all.join(format!("{}.tmp", slot.name));
        if beside.exists() {
            std::fs::remove_dir_all(&beside)?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(&beside)?;
        write_atomically(&beside.join("state"), &slot.state)?;
        std::fs::rename(&beside, &place)?;
        std::fs::File::open(&all)?.sync_all()?;
    }
    Ok(())
}

/// What is noted of a logical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Noted {
    /// It is a copy.
    Copied,
    /// A copy that was found safe to use.
    Proven,
    /// A copy that was not, and could not be dropped before this server opened.
    Unsafe,
}

/// Among the slots themselves: it outlives a reboot as they do, and base backups and `pg_rewind`, which leave
/// that directory out or clear it, do so with both. The server passes over what is no directory there
/// (StartupReplicationSlots, replication/slot.c).
fn note_file(files: &Files) -> PathBuf {
    files.data_dir.join("pg_replslot/regent-copies.json")
}

/// Which logical slots are copies. None where the note cannot be read: then they are copied again.
#[must_use]
pub fn noted(files: &Files) -> BTreeMap<String, Noted> {
    let note = std::fs::read(note_file(files)).ok();
    note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default()
}

fn change_note(
    files: &Files,
    change: impl FnOnce(&mut BTreeMap<String, Noted>),
) -> std::io::Result<()> {
    let before = noted(files);
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok(());
    }
    let text = serde_json::to_vec(&after).map_err(std::io::Error::other)?;
    write_atomically(&note_file(files), &text)
}

fn note(files: &Files, change: impl FnOnce(&mut BTreeMap<String, Noted>)) {
    if let Err(error) = change_note(files, change) {
        tracing::warn!(%error, "noting which logical slots are copies");
    }
}

/// From here on this server writes itself: its slots are its own, but for those that should be gone.
pub fn open(files: &Files) {
    note(files, |known| known.retain(|_, noted| *noted == Noted::Unsafe));
}

/// From here on no slot of this server is a copy: its files are replaced.
pub fn forget(files: &Files) {
    if let Err(error) = std::fs::remove_file(note_file(files))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "forgetting which logical slots are copies");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, restart: u64) -> Vec<u8> {
        let mut state = vec![0; 200];
        state[..4].copy_from_slice(&0x0105_1CA1_u32.to_le_bytes());
        state[16..16 + name.len()].copy_from_slice(name.as_bytes());
        state[96..104].copy_from_slice(&restart.to_le_bytes());
        state
    }

    #[test]
    fn a_slots_file_tells_from_where_it_needs_wal_and_nothing_else_is_taken_for_one() {
        let good = state("cdc", 0x1_0000_0028);
        assert_eq!(restart_of("cdc", &good), Some(Lsn::new(0x1_0000_0028)));
        assert_eq!(restart_of("cd", &good), None, "another slot's");
        assert_eq!(restart_of("cdc", &good[..100]), None, "cut off");
        assert_eq!(restart_of("cdc", &state("cdc", 0)), None, "keeps nothing");
        let mut other = good;
        other[0] ^= 1;
        assert_eq!(restart_of("cdc", &other), None, "another file");
    }

    #[test]
    fn statements_quote_what_they_are_given_and_move_only_forward() {
        assert!(drop_slot("a'b").ends_with("NOT active AND slot_name = 'a''b'"));
        let text = advance("cdc", Lsn::new(0x1_0000_0028));
        assert!(text.contains("< '1/28'") && text.contains("advance(slot_name, '1/28')"), "{text}");
        assert!(create_logical("cdc", "pgoutput").contains("('cdc', 'pgoutput')"));
    }
}
