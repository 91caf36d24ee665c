//! The processes of one PostgreSQL, as its data directory and their titles tell them.

use std::path::Path;

use nix::unistd::Pid;
use regent_guardian::processes::of_data_directory;
use regent_test_sys::process::{Stopped, title};

/// Stops those whose title has this word, until what is returned is dropped.
///
/// # Errors
/// When /proc can't be read, or one can't be stopped.
pub fn stop_titled(data_dir: &Path, word: &str) -> anyhow::Result<Stopped> {
    let all = of_data_directory(data_dir, None)?.into_iter().map(Pid::from_raw);
    Stopped::these(all.filter(|pid| title(*pid).contains(word)))
}
