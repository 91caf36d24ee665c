//! `regent-guardian`: kills one PostgreSQL before its deadline, whatever its agent does.
//!
//! See `regent_guardian`; everything that it tells afterwards stands in the page.

use std::process::ExitCode;

fn main() -> ExitCode {
    regent_guardian::program::main(std::env::args_os().skip(1))
}
