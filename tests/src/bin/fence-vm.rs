//! `make fence-vm`: a virtual machine with a real watchdog is reset when its guardian pings no more,
//! and is not while it does. Inside the machine the same program leads (`--inside BIN DEVICE FAULT`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use regent_tests::report::{file, workspace};
use regent_tests::vm::{Driver, Fault, inside, machine};
use regent_tests::{option, say};
use regentctl::report::{Case, passed, write};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--inside", bin, device, fault] => {
            let fault: Fault = fault.parse().map_err(anyhow::Error::msg)?;
            inside::run(Path::new(bin), Path::new(device), fault)
        }
        [] => boot_each(),
        _ => anyhow::bail!("accepted: no arguments, or --inside BIN DEVICE FAULT"),
    }
}

fn boot_each() -> anyhow::Result<()> {
    let tools = option("REGENT_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from);
    let work = tempfile::Builder::new().prefix("fence-vm").tempdir().context("a directory")?;
    let mut cases: Vec<Case> = Vec::new();
    for driver in Driver::EACH {
        for fault in Fault::EACH {
            let case = machine::trial(&tools, work.path(), *driver, fault)?;
            say(format!(
                "{}: {}",
                case.name,
                if case.reason.is_empty() { "ok" } else { &case.reason }
            ));
            cases.push(case);
        }
    }
    write(&file("fence-vm"), &cases)?;
    ensure!(passed(&cases), "the watchdog did not do what it should");
    Ok(())
}
