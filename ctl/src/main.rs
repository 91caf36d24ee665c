//! The program: parses the command line, runs the verb, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use regentctl::cli::Cli;
use regentctl::render::Output;

fn main() -> ExitCode {
    // clap ends the process itself on --help and on a usage error, with 0 and 2.
    let cli = Cli::parse();
    let output = Output::new(cli.global.output);
    let exit = match regentctl::run(cli, &output) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    };
    ExitCode::from(exit.code())
}
