//! Boots the virtual machine and judges what it told: it lived while the guardian pinged, and it was
//! reset within W + R of the last ping, before the deadline of the lease.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_test_sys::boot;
use regent_test_sys::tools::{Owned, command};
use regentctl::report::Case;

use super::{Driver, Fault, RESET, TIMEOUT, image};
use crate::say;

/// Longest life of a machine, boot and all. Its instructions are emulated.
const LIFE: Duration = Duration::from_secs(300);

/// One line of the machine: milliseconds of its boot clock, but for the count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    word: String,
    now: u64,
    pinged: u64,
    deadline: u64,
    acknowledged: u64,
}

fn told(line: &str) -> Option<Told> {
    let mut words = line.trim().strip_prefix("VM ")?.split(' ');
    let word = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some(Told {
        word,
        now: number()?,
        pinged: number()?,
        deadline: number()?,
        acknowledged: number()?,
    })
}

/// Boots a machine and lets the fault happen.
///
/// # Errors
/// When the machine can't be made or says what it should not.
pub fn trial(tools: &Path, work: &Path, driver: Driver, fault: Fault) -> anyhow::Result<Case> {
    let disk = work.join("image");
    image::pack(tools, &work.join("root"), driver, fault, &disk)?;
    let mut qemu = command("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-action", "watchdog=reset"])
        .arg("-kernel")
        .arg(tools.join("vm/vmlinuz"))
        .arg("-initrd")
        .arg(&disk)
        .args(["-append", "console=ttyS0 panic=-1 quiet"]);
    match driver {
        Driver::Softdog => {}
        Driver::I6300esb => drop(qemu.args(["-device", "i6300esb"])),
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Owned(qemu.spawn().context("start qemu-system-x86_64")?);
    let console = machine.0.stdout.take().context("its console")?;
    let reader = std::thread::spawn(move || {
        BufReader::new(console).split(b'\n').map_while(Result::ok).collect::<Vec<_>>()
    });
    let ended = boot::until(LIFE, || machine.0.try_wait().ok().flatten());
    drop(machine);
    let lines = reader.join().unwrap_or_default();
    let lines: Vec<String> =
        lines.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let tail = || lines[lines.len().saturating_sub(15)..].join("\n");
    ensure!(ended.is_some(), "the machine lives after {LIFE:?}:\n{}", tail());
    let all: Vec<Told> = lines.iter().filter_map(|line| told(line)).collect();
    let name = format!("{}: {fault}", driver.name());
    let last = all.last().with_context(|| format!("{name}: it told nothing:\n{}", tail()))?;
    let first = all.iter().find(|told| told.word == "leads").context("it never led")?;
    let healthy = all.iter().filter(|told| told.word == "healthy");
    let silent = healthy.map(|told| told.now.saturating_sub(told.pinged)).max().unwrap_or(u64::MAX);
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let ended_itself = lines.iter().any(|line| line.trim().starts_with("VM ended"));
    let case = Case::new(&name)
        .require(silent < millis(TIMEOUT), || format!("healthy, and {silent} ms without a ping"))
        .require(last.acknowledged > first.acknowledged, || {
            "the client made no progress".to_owned()
        });
    Ok(match fault {
        Fault::Nothing => case.require(ended_itself && last.word == "healthy", || {
            format!("a healthy machine was reset:\n{}", tail())
        }),
        Fault::GuardianStopped | Fault::GuardianKilled => {
            let lived = last.now.saturating_sub(last.pinged);
            let left = i128::from(last.deadline) - i128::from(last.now);
            say(format!("{name}: reset {lived} ms after the last ping, {left} ms before D"));
            case.figure("life after the last ping", last.now.abs_diff(last.pinged) as f64, "ms")
                .require(!ended_itself, || format!("nothing reset it:\n{}", tail()))
                .require(left > 0, || format!("it lived {} ms after D", -left))
                .require(lived <= millis(TIMEOUT + RESET), || {
                    format!("it lived for {lived} ms after the last ping")
                })
        }
    })
}
