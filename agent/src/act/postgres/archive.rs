//! WAL that a stopped server has not archived yet: a rewind would remove it, and an archive with a hole
//! restores nothing behind it (hazards.md row 76; spec/patroni-compat.md 3.7).
//!
//! As the server itself would do it: its own `archive_command`, in the data directory, oldest first; what
//! is done is noted where the server looks.

use std::path::Path;
use std::time::Duration;

use super::configuration::setting;
use super::files::Files;
use super::programs::Programs;
use crate::observe::clock::boot_time;

/// The longest that one file may take.
const BOUND: Duration = Duration::from_secs(60);
/// No file begins later than this: a node that archives neither leads nor follows, and whoever was to be
/// its source may have been replaced.
const BEGINS_WITHIN: Duration = Duration::from_secs(300);

/// Archives what waits for it; how many files. The error is for people: what was not archived is in
/// the salvage.
pub async fn ready(programs: &Programs, files: &Files) -> Result<usize, String> {
    let mode = setting(programs, files, "archive_mode").await.unwrap_or_default();
    if !matches!(mode.as_str(), "on" | "always") {
        return Ok(0);
    }
    let command = setting(programs, files, "archive_command").await.unwrap_or_default();
    if command.is_empty() || command == "(disabled)" {
        return Ok(0);
    }
    let status = files.data_dir.join("pg_wal/archive_status");
    let waiting = waiting(&status).map_err(|e| format!("reading {}: {e}", status.display()))?;
    let (begun, all) = (boot_time(), waiting.len());
    let mut done = 0;
    for name in waiting {
        if boot_time().since(begun) > BEGINS_WITHIN {
            return Err(format!("{done} of {all} files took {BEGINS_WITHIN:?}: the rest stays"));
        }
        let line = expand(&command, &name);
        let mut shell = Programs::plain(Path::new("/bin/sh"));
        shell.arg("-c").arg(&line).current_dir(&files.data_dir);
        programs.output(shell, BOUND).await.map_err(|e| format!("archive_command: {e}"))?;
        std::fs::rename(status.join(format!("{name}.ready")), status.join(format!("{name}.done")))
            .map_err(|e| format!("noting that {name} is archived: {e}"))?;
        done += 1;
    }
    Ok(done)
}

/// Names of what waits, oldest first; history files before segments, as the server has it.
fn waiting(status: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(status) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|n| n.strip_suffix(".ready")).map(str::to_owned));
    }
    names.sort_by_key(|name| (!name.ends_with(".history"), name.clone()));
    Ok(names)
}

/// `%p` the path from the data directory, `%f` the name, `%%` a percent sign (PostgreSQL's manual,
/// `archive_command`).
fn expand(command: &str, name: &str) -> String {
    let mut line = String::new();
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            line.push(letter);
            continue;
        }
        match letters.next() {
            Some('p') => line.push_str(&format!("pg_wal/{name}")),
            Some('f') => line.push_str(name),
            Some('%') => line.push('%'),
            Some(other) => line.extend(['%', other]),
            None => line.push('%'),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_filled_in_as_the_server_does() {
        let segment = "000000010000000000000003";
        for (command, wanted) in [
            ("cp %p /a/%f", format!("cp pg_wal/{segment} /a/{segment}")),
            ("date +%%s; test ! -f /a/%f", format!("date +%s; test ! -f /a/{segment}")),
            ("x %q 100%", "x %q 100%".to_owned()),
        ] {
            assert_eq!(expand(command, segment), wanted);
        }
    }

    #[test]
    fn histories_go_first_and_then_the_oldest_segment() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["000000020000000000000004.ready", "000000010000000000000003.ready"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        for name in ["00000002.history.ready", "000000010000000000000002.done"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let wanted = ["00000002.history", "000000010000000000000003", "000000020000000000000004"];
        assert_eq!(waiting(dir.path()).expect("readable"), wanted);
        assert!(waiting(&dir.path().join("none")).expect("nothing").is_empty());
    }
}
