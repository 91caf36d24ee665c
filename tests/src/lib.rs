//! What the system tests share: a federation on this machine with a client that keeps writing
//! ([`bed`]), its records as they change ([`records`]), writes held off in the store ([`gate`]),
//! and programs run as a person runs them ([`program`]).
//!
//! Nothing depends on this crate. Whatever it starts belongs to a value that ends it when dropped,
//! also in a panic.

pub mod bed;
pub mod gate;
pub mod program;
pub mod records;
pub mod report;
pub mod wait;

/// A test that can't run here says so; where every test must run, that is a failure.
///
/// # Panics
/// When `REGENT_SKIPS_ARE_FAILURES` is `1`.
#[expect(
    clippy::print_stdout,
    clippy::panic,
    reason = "this is how a test says that it is skipped"
)]
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads it")]
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
    if std::env::var("REGENT_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1") {
        panic!("SKIPPED: {why}, and REGENT_SKIPS_ARE_FAILURES=1");
    }
}
