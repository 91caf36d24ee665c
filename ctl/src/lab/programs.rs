//! Finding the programs of a lab: PostgreSQL's, etcd, and our own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment;
use crate::exit::Failure;

use super::owner::Owner;
use super::process;

/// The oldest PostgreSQL that works with Regent.
pub const OLDEST: u32 = 13;
/// The newest one it was tested with.
pub const NEWEST: u32 = 18;

const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"];
const LOOK: Duration = Duration::from_secs(10);

/// PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Their directory.
    pub bin: PathBuf,
    /// Their major version.
    pub major: u32,
}

/// A directory that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub bin: PathBuf,
    /// Its major version, or what is wrong with it.
    pub found: Result<u32, String>,
}

/// Finds PostgreSQL: $REGENT_PG_BIN, else `pg_config --bindir`, the distribution's directories,
/// PATH; of the major version in $REGENT_PG_MAJOR where that is set, then also where scripts/install
/// puts others.
pub fn postgres(owner: &Owner) -> Result<Postgres, Failure> {
    let wanted = environment::postgres_major().map(|text| parse_major(&text)).transpose()?;
    if let Some(bin) = environment::postgres_bin() {
        let seen = look(&bin, owner);
        return choose(&[seen], Some("REGENT_PG_BIN"), wanted);
    }
    let mut bins = usual_directories();
    if let (Some(_), Some(tools)) = (wanted, tools()) {
        let others = (OLDEST..=NEWEST).map(|n| tools.join(format!("pg{n}/bin")).canonicalize());
        bins.extend(others.filter_map(Result::ok));
    }
    let mut seen: Vec<Candidate> = Vec::new();
    for bin in bins {
        if !seen.iter().any(|candidate| candidate.bin == bin) {
            seen.push(look(&bin, owner));
        }
    }
    choose(&seen, None, wanted)
}

/// What REGENT_PG_MAJOR says.
fn parse_major(text: &str) -> Result<u32, Failure> {
    let major = text.parse().ok().filter(|major| (OLDEST..=NEWEST).contains(major));
    major.ok_or_else(|| {
        Failure::error(format!(
            "REGENT_PG_MAJOR is {text:?}; want a major version from {OLDEST} to {NEWEST}"
        ))
        .next("REGENT_PG_MAJOR=17, or REGENT_PG_BIN=DIRECTORY to name any")
    })
}

fn usual_directories() -> Vec<PathBuf> {
    let mut bins = Vec::new();
    let config = environment::path().into_iter().map(|d| d.join("pg_config")).find(|f| f.exists());
    if let Some(config) = config
        && let Ok(done) = process::run(&config, &["--bindir"], Path::new("/"), None, LOOK)
    {
        bins.push(PathBuf::from(done.stdout.trim()));
    }
    let mut numbered: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .filter(|(major, _)| *major <= NEWEST)
        .collect();
    numbered.sort();
    bins.extend(numbered.into_iter().rev().map(|(_, bin)| bin));
    bins.extend((OLDEST..=NEWEST).rev().map(|n| PathBuf::from(format!("/usr/pgsql-{n}/bin"))));
    bins.extend(environment::path());
    bins.retain(|bin| bin.join("postgres").exists() || bin.join("initdb").exists());
    bins
}

fn look(bin: &Path, owner: &Owner) -> Candidate {
    let missing: Vec<&str> =
        PROGRAMS.into_iter().filter(|program| !bin.join(program).exists()).collect();
    let found = if missing.is_empty() {
        version(&bin.join("postgres"), owner)
    } else {
        Err(format!("lacks {}", missing.join(", ")))
    };
    Candidate { bin: bin.to_owned(), found }
}

fn version(postgres: &Path, owner: &Owner) -> Result<u32, String> {
    let done = process::run(postgres, &["--version"], Path::new("/"), Some(owner), LOOK)
        .map_err(|e| format!("{e:#} (as user {})", owner.name))?;
    parse_version(&done.stdout)
        .ok_or_else(|| format!("`postgres --version` says {:?}", done.stdout.trim()))
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)`, also of a beta.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL)")?.1.trim();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The first good one, of the major version that is wanted, or one message about all that were seen.
fn choose(
    seen: &[Candidate],
    named_by: Option<&str>,
    wanted: Option<u32>,
) -> Result<Postgres, Failure> {
    let good = seen.iter().find_map(|candidate| match candidate.found {
        Ok(major) if major >= OLDEST && wanted.is_none_or(|wanted| wanted == major) => {
            Some(Postgres { bin: candidate.bin.clone(), major })
        }
        Ok(_) | Err(_) => None,
    });
    if let Some(good) = good {
        return Ok(good);
    }
    let list: Vec<String> = seen
        .iter()
        .map(|candidate| match &candidate.found {
            Ok(major) => format!("{} is PostgreSQL {major}", candidate.bin.display()),
            Err(problem) => format!("{} {problem}", candidate.bin.display()),
        })
        .collect();
    let saw = match (named_by, list.is_empty()) {
        (Some(variable), _) => format!("{variable} names {}", list.join("; ")),
        (None, true) => "none found by pg_config, in /usr/lib/postgresql or on PATH".to_owned(),
        (None, false) => list.join("; "),
    };
    let (which, next) = match wanted {
        None => (
            format!("{OLDEST} or newer"),
            "scripts/install, or REGENT_PG_BIN=DIRECTORY to name another one",
        ),
        Some(major) => (
            format!("{major}, which REGENT_PG_MAJOR asks for,"),
            "scripts/install --versions, or another REGENT_PG_MAJOR",
        ),
    };
    let programs = PROGRAMS.join(", ");
    Err(Failure::error(format!("a lab needs PostgreSQL {which} with {programs}: {saw}")).next(next))
}

/// Finds etcd: $REGENT_ETCD, else PATH, else where scripts/install puts it.
pub fn etcd() -> Result<PathBuf, Failure> {
    let missing = |saw: String| {
        Failure::error(format!("this lab's stores are etcd, and {saw}"))
            .next("scripts/install --etcd, or REGENT_ETCD=FILE to name one")
    };
    if let Some(named) = environment::etcd() {
        // Resolved here: behind a link may be a directory that only we can pass.
        return named
            .canonicalize()
            .map_err(|e| missing(format!("REGENT_ETCD names {}: {e}", named.display())));
    }
    environment::path()
        .into_iter()
        .chain(tools().map(|tools| tools.join("bin")))
        .find_map(|directory| directory.join("etcd").canonicalize().ok())
        .ok_or_else(|| missing("none is on PATH, in $REGENT_TOOLS/bin or in .tools/bin".to_owned()))
}

/// Patroni, where scripts/install puts it.
#[must_use]
pub fn patroni() -> Option<PathBuf> {
    tools().and_then(|tools| tools.join("patroni/bin/patroni").canonicalize().ok())
}

/// Where scripts/install puts what is not the system's.
fn tools() -> Option<PathBuf> {
    environment::tools().or_else(|| {
        // The clone this program was built in: CLONE/target/debug/regentctl.
        let own = std::env::current_exe().ok()?;
        own.ancestors().skip(1).map(|above| above.join(".tools")).find(|tools| tools.exists())
    })
}

/// One of our own programs, built beside this one.
pub fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let directories = process::own_directories()?;
    directories.iter().map(|directory| directory.join(name)).find(|file| file.exists()).ok_or_else(
        || {
            let looked: Vec<String> = directories.iter().map(|d| d.display().to_string()).collect();
            Failure::error(format!("{name} was not found in {}", looked.join(" or ")))
                .next("cargo build --workspace --bins")
        },
    )
}

/// Puts a program into the lab, where its user can run it, and where a rebuild does not change it
/// under a running lab: a hard link where that is enough, else a copy.
pub fn place(program: &Path, into: &Path, owner: &Owner) -> Result<PathBuf, Failure> {
    let fail = |e: std::io::Error| {
        Failure::error(format!("put {} into {}: {e}", program.display(), into.display()))
    };
    let name = program.file_name().ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
    let target = into.join(name);
    let meta = fs::metadata(program).map_err(fail)?;
    // Only what its own owner alone can write may be shared by a link.
    let runnable = owner.may(&meta, 0o5) && meta.mode() & 0o022 == 0;
    if !(runnable && fs::hard_link(program, &target).is_ok()) {
        fs::copy(program, &target).map_err(fail)?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(bin: &str, found: Result<u32, &str>) -> Candidate {
        Candidate { bin: bin.into(), found: found.map_err(str::to_owned) }
    }

    #[test]
    fn versions_are_read_as_the_server_says_them() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_version("postgres (EvilDB) 9"), None);
    }

    #[test]
    fn an_old_postgresql_is_one_clear_message() {
        let seen = [
            candidate("/usr/lib/postgresql/12/bin", Ok(12)),
            candidate("/opt/x", Err("lacks initdb")),
        ];
        let failure = choose(&seen, None, None).expect_err("too old");
        for part in ["13 or newer", "/usr/lib/postgresql/12/bin is PostgreSQL 12", "lacks initdb"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(failure.next.is_some_and(|next| next.contains("scripts/install")));
        let named = choose(&seen[..1], Some("REGENT_PG_BIN"), None).expect_err("too old");
        assert!(named.message.contains("REGENT_PG_BIN names"), "{named}");
        assert!(choose(&[], None, None).expect_err("none").message.contains("none found"));
    }

    #[test]
    fn the_first_good_one_is_taken() {
        let seen = [candidate("/a", Ok(12)), candidate("/b", Ok(15)), candidate("/c", Ok(14))];
        assert_eq!(choose(&seen, None, None).map(|p| p.major), Ok(15));
    }

    #[test]
    fn the_major_version_asked_for_is_taken_or_those_found_are_listed() {
        let seen = [candidate("/a", Ok(15)), candidate("/b", Ok(17)), candidate("/c", Ok(17))];
        assert_eq!(choose(&seen, None, Some(17)).map(|p| p.bin), Ok("/b".into()));
        let failure = choose(&seen, None, Some(18)).expect_err("none of 18");
        for part in
            ["PostgreSQL 18", "REGENT_PG_MAJOR", "/a is PostgreSQL 15", "/b is PostgreSQL 17"]
        {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(failure.next.is_some_and(|next| next.contains("scripts/install --versions")));
        let both = choose(&seen[..1], Some("REGENT_PG_BIN"), Some(17)).expect_err("another one");
        assert!(both.message.contains("REGENT_PG_BIN names /a is PostgreSQL 15"), "{both}");
    }

    #[test]
    fn a_major_version_is_one_that_regent_was_written_for() {
        assert_eq!(parse_major("17"), Ok(17));
        for wrong in ["12", "19", "17.2", "seventeen", "-17"] {
            let failure = parse_major(wrong).expect_err(wrong);
            assert!(failure.message.contains("from 13 to 18"), "{failure}");
        }
    }
}
