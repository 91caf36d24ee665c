//! `regentctl completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::{Ending, Exit};
use crate::render::Output;

/// Prints completions for a shell.
pub fn run(shell: Shell, output: &Output) -> Ending {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "regentctl", &mut script);
    output.raw(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}
