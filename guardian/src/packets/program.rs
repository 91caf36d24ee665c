//! The program: reads the page, tells the kernel, and takes its table away when it is told to end.
//!
//! When it is killed its table stays and the port closes at the end of the right that it knew of;
//! the next one makes the table anew.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd as _;

use regent_proto::time::BootTime;

use super::{Gate, certain, change, gate, rules};
use crate::clock::boot_time;
use crate::page::Page;

/// How often the page is read: a raised deadline is at least a renewal's period old.
const TICK_MS: u16 = 50;
/// The longest that nft may take.
const NFT: Duration = Duration::from_secs(2);
const USAGE: &str =
    "usage: regent-packets --page RUN_DIR/guardian.page --port PORT [--nft PROGRAM]";

#[derive(Debug)]
struct Arguments {
    page: PathBuf,
    port: u16,
    nft: PathBuf,
}

fn arguments(given: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
    let (mut page, mut port, mut nft) = (None, None, PathBuf::from("nft"));
    let mut given = given.into_iter();
    while let Some(option) = given.next() {
        let name = option.to_string_lossy().into_owned();
        let value = given.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
        match name.as_str() {
            "--page" => page = Some(PathBuf::from(value)),
            "--port" => {
                let number = value.to_string_lossy().parse().ok().filter(|port| *port > 0);
                let wrong = || format!("--port {value:?}: wanted 1 to 65535");
                port = Some(number.ok_or_else(wrong)?);
            }
            "--nft" => nft = PathBuf::from(value),
            _ => return Err(format!("unknown argument {name:?}; {USAGE}")),
        }
    }
    let missing = |name: &str| format!("{name} is missing; {USAGE}");
    let page = page.ok_or_else(|| missing("--page"))?;
    Ok(Arguments { page, port: port.ok_or_else(|| missing("--port"))?, nft })
}

/// Runs until SIGTERM or SIGINT.
pub fn main(given: impl IntoIterator<Item = OsString>) -> ExitCode {
    let given: Vec<OsString> = given.into_iter().collect();
    if given.iter().any(|argument| argument == "--help" || argument == "-h") {
        writeln!(std::io::stdout(), "{USAGE}").ok();
        return ExitCode::SUCCESS;
    }
    let ended = arguments(given).and_then(|arguments| Packets::new(arguments)?.run());
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Nobody may be there to read it.
    writeln!(std::io::stderr(), "regent-packets: {line}").ok();
}

struct Packets {
    arguments: Arguments,
    signals: SignalFd,
    /// The page and what its path led to.
    page: Option<(Page, PathBuf)>,
    told: Option<Gate>,
    /// What went wrong last, so that it is said once.
    problem: Option<String>,
}

impl Packets {
    fn new(arguments: Arguments) -> Result<Self, String> {
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGTERM);
        ends.add(Signal::SIGINT);
        let signals = ends
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC))
            .map_err(|error| format!("signals: {error}"))?;
        nft(&arguments.nft, &rules::make(arguments.port))?;
        Ok(Self { arguments, signals, page: None, told: Some(Gate::Open), problem: None })
    }

    fn run(mut self) -> Result<(), String> {
        loop {
            let done = self.round();
            if done != self.problem {
                match &done {
                    Some(problem) => say(&format!("{problem}; trying again")),
                    None => say("in force again"),
                }
                self.problem = done;
            }
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(TICK_MS)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return nft(&self.arguments.nft, &rules::remove(self.arguments.port)),
                Err(error) => return Err(format!("poll: {error}")),
            }
        }
    }

    /// Tells the kernel what has changed. What is wrong, if something is.
    fn round(&mut self) -> Option<String> {
        let orders = match self.page() {
            Ok(page) => page.orders(),
            Err(problem) => return Some(problem),
        };
        let wanted = gate(&orders);
        let before = boot_time();
        let rule = change(self.told, wanted, before)?;
        self.told = None;
        if let Err(problem) = nft(&self.arguments.nft, &rules::put(self.arguments.port, rule)) {
            return Some(problem);
        }
        if certain(rule, before, boot_time(), orders.kill_budget) {
            self.told = Some(wanted);
            return None;
        }
        Some(format!("nft took longer than the kill budget of {:?}", orders.kill_budget))
    }

    /// The page, opened anew when its path leads elsewhere.
    ///
    /// # Errors
    /// When no guardian runs, or this user may not read its page; what was told stays.
    fn page(&mut self) -> Result<&Page, String> {
        let leads = std::fs::read_link(&self.arguments.page).unwrap_or_default();
        if self.page.as_ref().is_none_or(|(_, led)| *led != leads) {
            self.page = None;
            let shown = self.arguments.page.display();
            let page = Page::open(&self.arguments.page)
                .map_err(|error| format!("no guardian's page at {shown}: {error}"))?;
            self.page = Some((page, leads));
        }
        let page = self.page.as_ref().map(|(page, _)| page);
        page.ok_or_else(|| "no guardian's page".to_owned())
    }
}

/// Runs one batch.
#[expect(
    clippy::disallowed_methods,
    reason = "nftables' own program; this one has nothing to hurry for"
)]
fn nft(program: &Path, batch: &str) -> Result<(), String> {
    let shown = program.display();
    let child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("{shown}: {error}"))?;
    let written = match child.stdin.take() {
        // A batch fits into the pipe, and closing it is its end.
        Some(mut stdin) => stdin.write_all(batch.as_bytes()),
        None => Ok(()),
    };
    let status = ends(&mut child, boot_time().plus(NFT))
        .ok_or_else(|| format!("{shown} does not end: killed after {NFT:?}"))?;
    written.map_err(|error| format!("{shown}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut said).ok();
    }
    Err(format!("{shown}: {status}: {}", said.lines().next().unwrap_or("it said nothing")))
}

fn ends(child: &mut Child, limit: BootTime) -> Option<std::process::ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if boot_time() > limit {
            child.kill().and_then(|()| child.wait()).ok();
            return None;
        }
        let mut nothing = [];
        poll(&mut nothing, PollTimeout::from(1_u8)).ok();
    }
}
