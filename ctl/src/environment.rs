//! The environment variables this program knows, read in one place.

use std::path::PathBuf;

#[expect(clippy::disallowed_methods, reason = "the environment is read here and nowhere else")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A person asked for no colours (no-color.org), or the terminal can't show them.
#[must_use]
pub fn no_colour() -> bool {
    variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term == "dumb")
}

/// `REGENT_PG_BIN`: the directory of PostgreSQL's programs.
#[must_use]
pub fn postgres_bin() -> Option<PathBuf> {
    variable("REGENT_PG_BIN").map(PathBuf::from)
}

/// `REGENT_PG_MAJOR`: the major version of PostgreSQL to use, as it was given.
#[must_use]
pub fn postgres_major() -> Option<String> {
    variable("REGENT_PG_MAJOR")
}

/// `REGENT_ETCD`: the etcd to use.
#[must_use]
pub fn etcd() -> Option<PathBuf> {
    variable("REGENT_ETCD").map(PathBuf::from)
}

/// `REGENT_TOOLS`: where scripts/install puts tools.
#[must_use]
pub fn tools() -> Option<PathBuf> {
    variable("REGENT_TOOLS").map(PathBuf::from)
}

/// `PATH`, as directories.
#[must_use]
pub fn path() -> Vec<PathBuf> {
    variable("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The name of the person at the keyboard, also behind sudo; for audit, not for rights.
#[must_use]
pub fn person() -> String {
    let uid = nix::unistd::geteuid();
    variable("SUDO_USER")
        .or_else(|| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name))
        .unwrap_or_else(|| format!("uid {uid}"))
}

/// This machine's name, for audit.
#[must_use]
pub fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// This program as it was called, for commands to type next.
#[must_use]
pub fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "regentctl".to_owned())
}
