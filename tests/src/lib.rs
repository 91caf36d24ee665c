//! What the system tests share: a federation on this machine with a client that keeps writing
//! ([`bed`]), one site of no federation ([`alone`]), its records as they change ([`records`]), writes held off in the store ([`gate`]),
//! a PostgreSQL under a guardian alone ([`guarded`]), programs run as a person runs them
//! ([`program`]), the agents' REST API ([`rest`]), sessions at one server ([`session`]), a site
//! under events in a row ([`soak`]), a virtual machine with a watchdog ([`vm`]), and what the machine's
//! disk does meanwhile ([`stalls`]).
//!
//! Nothing depends on this crate. Whatever it starts belongs to a value that ends it when dropped,
//! also in a panic.

pub mod alone;
pub mod bed;
pub mod fence;
pub mod gate;
pub mod guarded;
pub mod program;
pub mod records;
pub mod report;
pub mod rest;
pub mod server;
pub mod session;
pub mod soak;
pub mod stalls;
pub mod vm;
pub mod wait;

/// A test that can't run here says so; where every test must run, that is a failure.
///
/// # Panics
/// When `REGENT_SKIPS_ARE_FAILURES` is `1`.
#[expect(clippy::panic, reason = "where every test must run")]
pub fn skip(why: &str) {
    say(format!("SKIPPED: {why}"));
    if option("REGENT_SKIPS_ARE_FAILURES").is_some_and(|value| value == "1") {
        panic!("SKIPPED: {why}, and REGENT_SKIPS_ARE_FAILURES=1");
    }
}

/// A line of a test's output.
#[expect(clippy::print_stdout, reason = "the one place where tests say what they saw")]
pub fn say(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

/// A choice of whoever runs the tests, in the environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads it")]
pub fn option(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
