//! demo
use crate::cli::Demo;
use crate::exit::{Ending, Failure};
use crate::render::Output;
/// Runs it.
#[expect(clippy::unused_async, reason = "stub")]
pub async fn run(_: &Demo, _: &Output) -> Ending {
    Err(Failure::error("not yet"))
}
