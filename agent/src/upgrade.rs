//! Upgrade in place: on SIGUSR2 the agent runs the program that now lies at its own path.
//!
//! The new program first says whether it takes the configuration and the guardian's page; a refusal
//! is logged and written to the run directory, and nothing else happens. Otherwise it takes this process over (execve(2)):
//! PostgreSQL and its guardian notice nothing, and the page goes along as an open descriptor. What
//! the new life finds is what any successor finds ([`crate::fence::successor`]): deadlines that go on
//! as carried, and rights that it must renew itself.

use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execv;
use regent_guardian::page::Page;
use regent_guardian::signals::Ignored;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::act::postgres::programs::Programs;

/// How long the new program may take to check the configuration.
const CHECK_BOUND: Duration = Duration::from_secs(10);

/// Tells the program that is checked which addresses this one listens on. In the environment: a program of
/// an older version, too, has to take what it is asked with.
pub const HELD: &str = "REGENT_HELD";

/// What an upgrade needs.
#[derive(Debug)]
pub struct Upgrade {
    /// This agent's own program, as it was started.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Somebody asks for it.
    pub asked: mpsc::Receiver<()>,
}

/// Where a refusal is told.
#[must_use]
pub fn refusal(run_dir: &Path) -> PathBuf {
    run_dir.join("upgrade-refused")
}

impl Upgrade {
    /// Becomes the new program. Returns only where it did not, with the reason. `held` are the addresses
    /// that this life listens on; `stop` says that it is to end instead.
    ///
    /// A SIGTERM that comes between the last look at `stop` and execve(2), some microseconds, is lost;
    /// one that comes later waits until the new life listens ([`unblock`]).
    pub async fn perform(
        &self,
        page: &Page,
        held: &[SocketAddr],
        stop: &CancellationToken,
    ) -> String {
        let shown = self.program.display();
        let copying = |error: std::io::Error| format!("copying the page's descriptor: {error}");
        // As its standard input: a copy that stays open over execve(2) would go to every program that
        // is started while it checks.
        let input = match page.fd().try_clone_to_owned() {
            Ok(input) => input,
            Err(error) => return copying(error),
        };
        let mut check = Programs::plain(&self.program);
        check.args(["--check", "--inherit-page", "0"]).arg(&self.config).stdin(Stdio::from(input));
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        check.env(HELD, held.join(","));
        if let Err(error) = Programs::new(Path::new("")).output(check, CHECK_BOUND).await {
            let config = self.config.display();
            return format!("{shown} does not take {config} or the guardian's page: {error}");
        }
        // Whoever asks again before the new life listens must not end it. Both can be ignored.
        let ignored = Ignored::these(&[Signal::SIGUSR2, Signal::SIGHUP]);
        // The new life closes it.
        let page = match rustix::io::dup(page.fd()) {
            Ok(page) => page,
            Err(error) => return copying(error.into()),
        };
        let arguments = [
            self.program.as_os_str().as_bytes(),
            b"--inherit-page",
            page.as_raw_fd().to_string().as_bytes(),
            self.config.as_os_str().as_bytes(),
        ]
        .map(CString::new);
        let [Ok(program), Ok(flag), Ok(descriptor), Ok(config)] = arguments else {
            return format!("{shown}, or its configuration's path, has a byte 0 in it");
        };
        if let Err(error) = ends().thread_block() {
            return format!("blocking SIGTERM for the change of programs: {error}");
        }
        let problem = if stop.is_cancelled() {
            "this agent is asked to end: it does that instead".to_owned()
        } else {
            // Not std's: that would unblock what the new life is not ready for yet.
            let Err(error) = execv(&program, &[&program, &flag, &descriptor, &config]);
            format!("{shown} cannot be run: {error}")
        };
        drop(ignored);
        match unblock() {
            Ok(()) => problem,
            Err(error) => format!("{problem}; and SIGTERM stays blocked: {error}"),
        }
    }
}

/// The signals that end an agent.
fn ends() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Lets the signals through that the life before this one kept for it; once it listens to them.
///
/// # Errors
/// Where the kernel refuses.
pub fn unblock() -> nix::Result<()> {
    ends().thread_unblock()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that refuses, and tells what its parent would hand to others meanwhile.
    const REFUSES: &str = "\
#!/bin/sh
echo \"$@\" $REGENT_HELD $(readlink /proc/$$/fd/0) >&2
for fd in /proc/$PPID/fd/*; do
  case $(readlink $fd) in
    *regent-guardian-page*) grep flags: /proc/$PPID/fdinfo/${fd##*/} >&2 ;;
  esac
done
exit 1
";

    /// By another process: what this one has open for writing while another test starts a program
    /// can't be run (ETXTBSY).
    #[expect(clippy::disallowed_methods, reason = "a process that ends at once")]
    fn write(program: &Path) {
        let mut shell = std::process::Command::new("sh");
        let line = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let written = shell.args(["-c", line]).arg(program).arg(REFUSES).status();
        assert!(written.expect("sh").success());
    }

    #[tokio::test]
    async fn only_the_program_that_is_checked_gets_the_page() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("next");
        write(&program);
        let (_ask, asked) = mpsc::channel(1);
        let upgrade = Upgrade { program, config: "agent.yml".into(), asked };
        let page = Page::create().expect("a page");
        let held = ["127.0.0.1:8008".parse().expect("an address")];
        let refused = upgrade.perform(&page, &held, &CancellationToken::new()).await;
        let gets = "--check --inherit-page 0 agent.yml 127.0.0.1:8008 /memfd:regent-guardian-page";
        assert!(refused.contains(gets), "{refused}");
        let mut flags = refused.split_whitespace().skip_while(|word| *word != "flags:").peekable();
        assert!(flags.peek().is_some(), "{refused}");
        for flags in flags.filter(|word| *word != "flags:") {
            let bits = u32::from_str_radix(flags, 8).expect("octal");
            assert_ne!(bits & 0o2_000_000, 0, "inherited by whatever is started: {refused}");
        }
    }
}
