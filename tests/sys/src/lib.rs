//! System calls that tests need: faults that are made in the kernel, and devices that are not here.
//!
//! * [`process`]: own children, orphans that come to us, stopped processes;
//! * [`cgroup`]: a node frozen or killed as a whole, starved of CPU, refused forks;
//! * [`pipe`]: a log that nobody reads any more;
//! * [`wall`]: the wall clock stepped, [`burn`]: CPU and memory under pressure;
//! * [`net`]: packets to a port dropped without a word, network namespaces;
//! * [`hanging`]: a file system that stops answering, [`disk`]: one whose writers can't be killed;
//! * [`watchdog`]: a watchdog device, its trace, and what a trace must never show.
//!
//! Invariant: whatever is changed in the kernel belongs to a value that undoes it when dropped.
//! What needs root, or a program that `scripts/install --fence` brings, says so in its error:
//! [`lacks`] tells it beforehand, for a test that then counts as skipped.
//!
//! `unsafe` may be used here, and each block says why it is sound.

pub mod boot;
pub mod burn;
pub mod cgroup;
pub mod disk;
pub mod hanging;
pub mod mounts;
pub mod net;
pub mod pipe;
pub mod process;
pub mod tools;
pub mod wall;
pub mod watchdog;

/// What this machine must have for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root: mounts, cgroups, clocks and other users' processes.
    Root,
    /// `/dev/fuse`, readable.
    Fuse,
    /// A cgroup v2 hierarchy, with `cgroup.freeze` and `cgroup.kill` (Linux 5.14).
    Cgroups,
    /// A cgroup v1 controller of this name.
    Controller(&'static str),
    /// A program that `scripts/install --fence` brings.
    Program(&'static str),
}

/// The first of these needs that is not met here, in words; `None` when all are.
#[must_use]
pub fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
        Need::Fuse => {
            let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
            opened.err().map(|error| format!("/dev/fuse can't be opened: {error}"))
        }
        Need::Cgroups => cgroup::unified().err().map(|error| error.to_string()),
        Need::Controller(name) => cgroup::controller(name).err().map(|error| error.to_string()),
        Need::Program(name) => tools::program(name).err().map(|error| error.to_string()),
    })
}

/// Whether a test can't run here; it says so, and why.
///
/// # Panics
/// When `REGENT_SKIPS_ARE_FAILURES` is `1`: where every test must run.
#[must_use]
#[expect(clippy::panic, reason = "where every test must run")]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub fn lacks(needs: &[Need]) -> bool {
    let Some(why) = missing(needs) else { return false };
    if std::env::var_os("REGENT_SKIPS_ARE_FAILURES").is_some_and(|value| value == "1") {
        panic!("SKIPPED: {why}, and REGENT_SKIPS_ARE_FAILURES=1");
    }
    println!("SKIPPED: {why}");
    true
}
