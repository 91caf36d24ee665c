//! Salvage (I15): WAL of a server whose history left its upstream's is kept beside the data directory,
//! before anything in there is changed. What cannot be kept is not destroyed: the rewind or the copy
//! does not begin.
//!
//! `DATA_DIR.regent-salvage/NUMBER/`, the newest three: WAL segments and history files under `pg_wal`,
//! `global/pg_control`, and `salvage.json` for people. On disk, names included, before it counts.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use regent_proto::lsn::Lsn;
use serde_json::{Value, json};

use super::files::{Files, write_atomically};
use super::wal::{self, Layout};
use crate::decide::salvage::{Keep, Salvage};
use crate::observe::clock::wall_time;

/// How many are kept.
const KEPT: usize = 3;
/// What a copy leaves free: others write to that disk, perhaps the store that everybody's leases are in.
const LEFT_FREE: u64 = 256 << 20;
/// What is being written.
const PARTIAL: &str = ".partial";
/// Two must not number, and remove, beside each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Why nothing was kept; then nothing was touched either.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// A file could not be read or written.
    #[error(
        "its WAL could not be kept ({doing}: {source}): the data directory is as it was; make room, or \
         move it away yourself"
    )]
    Io {
        /// What was being done.
        doing: String,
        /// Why.
        source: std::io::Error,
    },
    /// More than may be kept.
    #[error(
        "its WAL since the histories parted is {bytes} bytes, more than regent.salvage_limit allows \
         ({limit}): the data directory is as it was; raise the limit, or move it away yourself"
    )]
    TooMuch {
        /// How much there is.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// No room for it.
    #[error(
        "its WAL since the histories parted is {bytes} bytes, and where it would be kept {free} are free: \
         the data directory is as it was; make room, set regent.salvage_dir, or move it away yourself"
    )]
    NoRoom {
        /// How much there is.
        bytes: u64,
        /// What is free.
        free: u64,
    },
}

/// How a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As another name of the same file, where the file systems allow: what is removed afterwards stays.
    Link,
    /// As a copy: what is changed in place afterwards stays as it was.
    Copy,
}

trait While<T> {
    fn while_doing(self, doing: impl FnOnce() -> String) -> Result<T, SalvageError>;
}

impl<T> While<T> for std::io::Result<T> {
    fn while_doing(self, doing: impl FnOnce() -> String) -> Result<T, SalvageError> {
        self.map_err(|source| SalvageError::Io { doing: doing(), source })
    }
}

/// Keeps what has to be kept; where. Blocks: it may copy much.
pub fn keep(
    files: &Files,
    salvage: &Salvage,
    how: How,
    limit: u64,
) -> Result<PathBuf, SalvageError> {
    // A copy that was cancelled may be keeping still: the next one waits for it.
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let place = files.salvage.clone();
    make(&place)?;
    let wal = files.data_dir.join("pg_wal");
    let found = found(&wal, wal::layout(&files.data_dir), salvage.keep)?;
    let bytes: u64 = found.iter().map(|file| file.bytes).sum();
    if bytes > limit {
        return Err(SalvageError::TooMuch { bytes, limit });
    }
    let note = note(salvage, &found, bytes);
    let earlier = numbers(&place)?;
    if let Some(newest) = earlier.last() {
        let newest = place.join(format!("{newest:08}"));
        if is_of(&newest, &note) {
            // A job that failed before it touched anything is tried again.
            return Ok(newest);
        }
    }
    let number = earlier.last().map_or(1, |newest| newest.saturating_add(1));
    let done = place.join(format!("{number:08}"));
    let partial = place.join(format!("{number:08}{PARTIAL}"));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .while_doing(|| format!("remove {}", partial.display()))?;
    }
    if how == How::Copy || !on_one_disk(&place, &wal) {
        room(free(&place), bytes)?;
    }
    if let Err(error) = fill(&partial, &files.data_dir, &found, &note, how) {
        // It is of no use, and a disk that it filled stays full: a server may have to start there.
        drop(std::fs::remove_dir_all(&partial));
        return Err(error);
    }
    std::fs::rename(&partial, &done).while_doing(|| format!("rename to {}", done.display()))?;
    sync(&place)?;
    tracing::warn!(
        place = %done.display(), bytes,
        "this server's WAL since its history left its upstream's is kept before it is changed"
    );
    // An older one that cannot be removed is no reason against what was asked for.
    if let Err(error) = prune(&place) {
        tracing::warn!(%error, "removing salvage of before");
    }
    Ok(done)
}

/// Whether another name for a file is enough.
fn on_one_disk(one: &Path, other: &Path) -> bool {
    let disk = |path: &Path| std::fs::metadata(path).map(|looks| looks.dev()).ok();
    disk(one).is_some_and(|disk_of_one| disk(other) == Some(disk_of_one))
}

/// What is free for this user; `None` where that cannot be told.
fn free(place: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(place).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Nothing is begun that would fill the disk.
fn room(free: Option<u64>, bytes: u64) -> Result<(), SalvageError> {
    match free {
        Some(free) if free < bytes.saturating_add(LEFT_FREE) => {
            Err(SalvageError::NoRoom { bytes, free })
        }
        Some(_) | None => Ok(()),
    }
}

/// Writes one, on disk but for its name.
fn fill(
    partial: &Path,
    data_dir: &Path,
    found: &[WalFile],
    note: &Value,
    how: How,
) -> Result<(), SalvageError> {
    let inside = [partial.to_owned(), partial.join("pg_wal"), partial.join("global")];
    for directory in &inside {
        make(directory)?;
    }
    for WalFile { name, .. } in found {
        put(&data_dir.join("pg_wal").join(name), &partial.join("pg_wal").join(name), how)?;
    }
    let control = Path::new("global/pg_control");
    put(&data_dir.join(control), &partial.join(control), How::Copy)?;
    let text = dated(note).to_string();
    let told = partial.join("salvage.json");
    write_atomically(&told, text.as_bytes()).while_doing(|| format!("write {}", told.display()))?;
    for directory in &inside {
        sync(directory)?;
    }
    Ok(())
}

fn make(directory: &Path) -> Result<(), SalvageError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .while_doing(|| format!("make {}", directory.display()))?;
    match directory.parent() {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), SalvageError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .while_doing(|| format!("sync {}", path.display()))
}

/// A file of pg_wal that has to be kept.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WalFile {
    name: String,
    bytes: u64,
    /// When it was last written, in nanoseconds: all segments are of one size.
    written: i128,
}

/// The files of pg_wal that have to be kept, in order.
fn found(wal: &Path, layout: Option<Layout>, keep: Keep) -> Result<Vec<WalFile>, SalvageError> {
    let mut found = Vec::new();
    let reading = || format!("read {}", wal.display());
    for entry in std::fs::read_dir(wal).while_doing(reading)? {
        let entry = entry.while_doing(reading)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let wanted = match segment(&name, layout) {
            Some(segment) => segment.has(keep) && segment.is_written(&entry.path()),
            None => name.ends_with(".history"),
        };
        if wanted {
            let looks = entry.metadata().while_doing(|| format!("look at {name}"))?;
            let seconds = i128::from(looks.mtime());
            let written = seconds * 1_000_000_000 + i128::from(looks.mtime_nsec());
            found.push(WalFile { name, bytes: looks.len(), written });
        }
    }
    found.sort();
    Ok(found)
}

/// A WAL segment, by its name.
struct Segment {
    timeline: u32,
    begin: u64,
    end: u64,
    /// Whether sizes are known, and with them positions.
    placed: bool,
}

/// Also of one that a promotion left unfinished (`NAME.partial`).
fn segment(name: &str, layout: Option<Layout>) -> Option<Segment> {
    let digits = name.strip_suffix(".partial").unwrap_or(name);
    if digits.len() != 24 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range| u64::from_str_radix(digits.get(range)?, 16).ok();
    let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let size = layout.map_or(0, |layout| layout.segment);
    let begin = (high << 32).saturating_add(low.saturating_mul(size));
    Some(Segment {
        timeline: u32::try_from(timeline).ok()?,
        begin,
        end: begin.saturating_add(size),
        placed: layout.is_some(),
    })
}

impl Segment {
    fn has(&self, keep: Keep) -> bool {
        match keep {
            Keep::Everything => true,
            Keep::Since { .. } if !self.placed => true,
            Keep::Since { timeline, position } => {
                self.timeline > timeline.0
                    || (self.timeline == timeline.0 && self.end > position.get())
            }
        }
    }

    /// A segment that was made for later, or is used again, begins with another address, or none
    /// (XLogPageHeaderData, access/xlog_internal.h: the page's address at byte 8). Where that cannot
    /// be told it is kept.
    fn is_written(&self, path: &Path) -> bool {
        let mut header = [0_u8; 16];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
        let address: Option<[u8; 8]> = header[8..].try_into().ok();
        match (read, address) {
            (Ok(()), Some(address)) if self.placed => {
                Lsn::new(u64::from_le_bytes(address)) == Lsn::new(self.begin)
            }
            (Ok(()) | Err(_), _) => true,
        }
    }
}

/// Keeps one file, on disk.
fn put(from: &Path, to: &Path, how: How) -> Result<(), SalvageError> {
    let linked = how == How::Link && std::fs::hard_link(from, to).is_ok();
    if !linked {
        std::fs::copy(from, to)
            .while_doing(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    sync(to)
}

/// What people read of it, without when.
fn note(salvage: &Salvage, found: &[WalFile], bytes: u64) -> Value {
    let names: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
    let written = found.iter().map(|file| file.written).max().unwrap_or_default();
    let since = match salvage.keep {
        Keep::Everything => Value::Null,
        Keep::Since { timeline, position } => {
            json!({"timeline": timeline.0, "position": position.to_string()})
        }
    };
    let control = &salvage.control;
    json!({
        "version": 1,
        "system_identifier": control.system_identifier.to_string(),
        "state": format!("{:?}", control.state),
        "timeline": control.ancestry.timeline.0,
        "end": control.end.to_string(),
        "since": since,
        "files": names,
        "bytes": bytes,
        "written": written.to_string(),
    })
}

fn dated(note: &Value) -> Value {
    let mut note = note.clone();
    note["kept_at_ms"] = json!(wall_time().0);
    note
}

/// Whether this is salvage of just that.
fn is_of(place: &Path, note: &Value) -> bool {
    let read = std::fs::read(place.join("salvage.json")).ok();
    let mut read: Value =
        read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    if let Some(read) = read.as_object_mut() {
        read.shift_remove("kept_at_ms");
    }
    read == *note
}

/// The finished ones, oldest first.
fn numbers(place: &Path) -> Result<Vec<u64>, SalvageError> {
    let reading = || format!("read {}", place.display());
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(place).while_doing(reading)? {
        let name = entry.while_doing(reading)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn prune(place: &Path) -> Result<(), SalvageError> {
    let numbers = numbers(place)?;
    for number in &numbers[..numbers.len().saturating_sub(KEPT)] {
        let old = place.join(format!("{number:08}"));
        std::fs::remove_dir_all(&old).while_doing(|| format!("remove {}", old.display()))?;
        tracing::info!(place = %old.display(), "salvage of before was removed: the newest three stay");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use regent_proto::timeline::TimelineId;

    use super::*;
    use crate::decide::tests::world;
    use crate::decide::view::ControlState;

    const SIZE: u64 = 16 << 20;
    const MUCH: u64 = 1 << 40;

    /// A directory with some WAL of timeline 2 and a control file, and paths to it.
    pub(crate) struct Place {
        pub(crate) dir: tempfile::TempDir,
        pub(crate) files: Files,
    }

    /// The agent's file for a data directory in there.
    pub(crate) fn config(dir: &Path) -> crate::config::Config {
        let text = format!(
            "
scope: a
name: a1
restapi: {{listen: '127.0.0.1:8008'}}
sqlite: {{path: /tmp/a.db}}
regent: {{run_dir: {run}, stop_budget: 1500ms}}
bootstrap: {{dcs: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}}}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: {data}
  authentication:
    superuser: {{username: postgres, password: s3cret}}
    replication: {{username: replicator, password: s3cret}}
",
            run = dir.join("run").display(),
            data = dir.join("data").display(),
        );
        crate::config::Config::parse(Path::new("agent.yml"), &text).expect("good")
    }

    impl Place {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let files = Files::new(&config(dir.path()));
            for made in ["run", "data/pg_wal/archive_status", "data/global"] {
                std::fs::create_dir_all(dir.path().join(made)).expect("made");
            }
            std::fs::write(files.data_dir.join("PG_VERSION"), "15\n").expect("written");
            std::fs::write(files.data_dir.join("global/pg_control"), "control").expect("written");
            Self { dir, files }
        }

        fn wal(&self, name: &str) -> PathBuf {
            self.files.data_dir.join("pg_wal").join(name)
        }

        /// The beginning of a segment, as far as it tells its place and the sizes.
        pub(crate) fn segment(&self, timeline: u32, number: u64, begins: u64) -> String {
            let name = format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256);
            let mut page = vec![0_u8; 40];
            page[8..16].copy_from_slice(&begins.to_le_bytes());
            page[32..36].copy_from_slice(&u32::try_from(SIZE).expect("small").to_le_bytes());
            page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
            page.extend(name.as_bytes());
            std::fs::write(self.wal(&name), page).expect("written");
            name
        }

        fn kept(&self) -> Vec<PathBuf> {
            let mut kept: Vec<PathBuf> = std::fs::read_dir(&self.files.salvage)
                .map(|entries| entries.map(|entry| entry.expect("readable").path()).collect())
                .unwrap_or_default();
            kept.sort();
            kept
        }
    }

    pub(crate) fn salvage(keep: Keep) -> Salvage {
        Salvage { keep, control: world::control(ControlState::InProduction, 2, 5 * SIZE) }
    }

    fn since(timeline: u32, position: u64) -> Salvage {
        salvage(Keep::Since { timeline: TimelineId(timeline), position: Lsn::new(position) })
    }

    fn names(place: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(place.join("pg_wal")).expect("kept");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("readable").file_name().into_string().expect("a name")
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn wal_since_the_histories_parted_is_kept_with_its_histories_and_control_file() {
        for how in [How::Copy, How::Link] {
            let place = Place::new();
            let before = place.segment(2, 3, 3 * SIZE);
            let parts = place.segment(2, 4, 4 * SIZE);
            let after = place.segment(2, 5, 5 * SIZE);
            let older = place.segment(1, 9, 9 * SIZE);
            // Made for later: it has the address of the segment that it was.
            let later = place.segment(2, 6, SIZE);
            std::fs::write(place.wal("00000002.history"), "1\t0/3000000\tx\n").expect("written");
            let kept = keep(&place.files, &since(2, 4 * SIZE + 100), how, MUCH).expect("kept");
            let wanted = ["00000002.history".to_owned(), parts.clone(), after.clone()];
            assert_eq!(names(&kept), wanted, "{how:?}");
            assert!(![&before, &older, &later].iter().any(|name| names(&kept).contains(name)));
            let control = std::fs::read(kept.join("global/pg_control")).expect("kept");
            assert_eq!(control, b"control");
            let note = std::fs::read(kept.join("salvage.json")).expect("kept");
            let note: Value = serde_json::from_slice(&note).expect("JSON");
            assert_eq!((&note["timeline"], &note["since"]["timeline"]), (&json!(2), &json!(2)));
            // What happens to the directory afterwards does not reach what was kept.
            match how {
                How::Copy => {
                    std::fs::write(place.wal(&after), "changed in place").expect("written")
                }
                How::Link => std::fs::remove_file(place.wal(&after)).expect("removed"),
            }
            let bytes = std::fs::read(kept.join("pg_wal").join(&after)).expect("kept");
            assert!(bytes.ends_with(after.as_bytes()), "{how:?}");
        }
    }

    #[test]
    fn without_a_common_point_all_of_it_is_kept() {
        let place = Place::new();
        let all = [place.segment(1, 9, 9 * SIZE), place.segment(2, 3, 3 * SIZE)];
        let kept = keep(&place.files, &salvage(Keep::Everything), How::Copy, MUCH).expect("kept");
        assert_eq!(names(&kept), all);
    }

    #[test]
    fn the_newest_three_stay_and_the_same_is_kept_once() {
        let place = Place::new();
        let segment = place.segment(2, 4, 4 * SIZE);
        let first = keep(&place.files, &since(2, 1), How::Copy, MUCH).expect("kept");
        let again = keep(&place.files, &since(2, 1), How::Copy, MUCH).expect("kept");
        assert_eq!(first, again);
        for number in 5..8 {
            place.segment(2, number, number * SIZE);
            keep(&place.files, &since(2, 1), How::Copy, MUCH).expect("kept");
        }
        // A segment is as long before as after more was written into it.
        let file = File::options().append(true).open(place.wal(&segment)).expect("there");
        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 32);
        file.set_modified(later).expect("as if it had been written");
        keep(&place.files, &since(2, 1), How::Copy, MUCH).expect("kept");
        let numbers: Vec<String> = place
            .kept()
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        assert_eq!(numbers, ["00000003", "00000004", "00000005"]);
        assert_eq!(names(&place.kept()[2]).len(), 4);
    }

    #[test]
    fn what_cannot_be_kept_leaves_nothing_half_done_that_counts() {
        let place = Place::new();
        place.segment(2, 4, 4 * SIZE);
        let much = keep(&place.files, &since(2, 1), How::Copy, 10).expect_err("too much");
        assert!(matches!(much, SalvageError::TooMuch { limit: 10, .. }), "{much}");
        assert!(much.to_string().contains("regent.salvage_limit"), "{much}");
        assert_eq!(place.kept(), Vec::<PathBuf>::new());
        std::fs::remove_file(place.files.data_dir.join("global/pg_control")).expect("removed");
        let io = keep(&place.files, &since(2, 1), How::Copy, MUCH).expect_err("no control file");
        assert!(io.to_string().contains("the data directory is as it was"), "{io}");
        assert_eq!(place.kept(), Vec::<PathBuf>::new(), "a disk that was filled has room again");
        // An agent that died meanwhile leaves it.
        let left = place.files.salvage.join(format!("00000001{PARTIAL}"));
        std::fs::create_dir_all(left.join("pg_wal")).expect("made");
        std::fs::write(place.files.data_dir.join("global/pg_control"), "back").expect("written");
        keep(&place.files, &since(2, 1), How::Copy, MUCH).expect("kept");
        assert_eq!(place.kept().len(), 1, "what was half done is gone");
    }

    #[test]
    fn no_copy_begins_that_would_fill_the_disk() {
        let place = Place::new();
        let bytes = 5 * SIZE;
        for (free, fits) in [
            (None, true),
            (Some(bytes + LEFT_FREE), true),
            (Some(bytes + LEFT_FREE - 1), false),
            (Some(0), false),
        ] {
            assert_eq!(room(free, bytes).is_ok(), fits, "{free:?}");
        }
        assert!(free(place.dir.path()).is_some_and(|free| free > 0));
        assert_eq!(free(&place.wal("not/there")), None);
        assert!(on_one_disk(place.dir.path(), &place.files.data_dir));
        assert!(!on_one_disk(place.dir.path(), Path::new("/proc")));
    }
}
