//! Removing what a lab leaves: shared memory, its directory, and, where its owner process was
//! killed, the processes too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clock;
use crate::exit::Failure;

use super::process;

/// How long killed processes may take to go.
const KILLED_GO: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// Removes one System V shared memory segment. There is no safe call for it, but every Linux has
/// the program.
pub fn remove_segment(id: u32) {
    let ipcrm = ["/usr/bin/ipcrm", "/bin/ipcrm"].into_iter().map(Path::new).find(|p| p.exists());
    if let Some(ipcrm) = ipcrm {
        let id = id.to_string();
        // Gone already is as good; the kernel refuses what is not ours.
        process::run(ipcrm, &["-m", &id], Path::new("/"), None, Duration::from_secs(5)).ok();
    }
}

/// Removes a lab's directory; files may still come and go for a moment.
pub fn remove_dir(dir: &Path) {
    for _ in 0..5 {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            return;
        }
        process::pause(STEP);
    }
}

/// Ends a lab whose owner process does not answer any more. Blocks; bounded.
pub fn sweep(dir: &Path) -> Result<usize, Failure> {
    let made: Vec<u32> = {
        let living = process::living_in(dir);
        let segments = process::segments().into_iter();
        segments.filter(|(_, maker)| living.contains(maker)).map(|(id, _)| id).collect()
    };
    let recorded = recorded_segments(dir);
    let begun = clock::now();
    let mut killed = 0;
    loop {
        let left = process::signal_all(dir, Signal::SIGKILL);
        killed = killed.max(left);
        if left == 0 {
            break;
        }
        if begun.elapsed() > KILLED_GO {
            return Err(Failure::error(format!(
                "{left} processes of the lab in {} do not end on SIGKILL",
                dir.display()
            ))
            .next("ps -eo pid,stat,wchan:20,args"));
        }
        process::pause(STEP);
    }
    for id in made.into_iter().chain(recorded) {
        remove_segment(id);
    }
    remove_dir(dir);
    if dir.exists() {
        return Err(Failure::error(format!("{} could not be removed", dir.display()))
            .next(format!("rm -r {}", dir.display())));
    }
    Ok(killed)
}

/// Segments that PostgreSQL's pid files name and whose maker, the postmaster of that file, is the
/// one that the kernel knows.
fn recorded_segments(dir: &Path) -> Vec<u32> {
    let segments = process::segments();
    let files = fs::read_dir(dir.join("nodes")).into_iter().flatten().flatten();
    let pid_files = files.map(|node| node.path().join("data/postmaster.pid"));
    pid_files.filter_map(|file| recorded(&file, &segments)).collect()
}

fn recorded(file: &PathBuf, segments: &[(u32, nix::unistd::Pid)]) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    let postmaster: i32 = lines.next()?.trim().parse().ok()?;
    let id: u32 = lines.nth(5)?.split_whitespace().nth(1)?.parse().ok()?;
    segments.iter().any(|(known, maker)| *known == id && maker.as_raw() == postmaster).then_some(id)
}
