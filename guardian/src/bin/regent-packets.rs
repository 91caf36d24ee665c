//! `regent-packets`: the kernel drops what PostgreSQL sends after its right to write; see
//! `regent_guardian::packets`.

use std::process::ExitCode;

fn main() -> ExitCode {
    regent_guardian::packets::program::main(std::env::args_os().skip(1))
}
