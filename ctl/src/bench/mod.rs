//! bench
use crate::cli::Dcs;
use crate::exit::{Ending, Failure};
use crate::render::Output;
/// Runs it.
#[expect(clippy::unused_async, reason = "stub")]
pub async fn run(_: u32, _: Dcs, _: &std::path::Path, _: &Output) -> Ending {
    Err(Failure::error("not yet"))
}
