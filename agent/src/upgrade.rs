//! Upgrade in place: on SIGUSR2 the agent runs the program that now lies at its own path.
//!
//! The new program first says whether it takes the configuration and the guardian's page; a refusal
//! is logged and written to the run directory, and nothing else happens. Otherwise it takes this process over (execve(2)):
//! PostgreSQL and its guardian notice nothing, and the page goes along as an open descriptor. What
//! the new life finds is what any successor finds ([`crate::fence::successor`]): deadlines that go on
//! as carried, and rights that it must renew itself.

use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_guardian::page::Page;
use tokio::sync::mpsc;

use crate::act::postgres::programs::Programs;

/// How long the new program may take to check the configuration.
const CHECK_BOUND: Duration = Duration::from_secs(10);

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
    /// Becomes the new program. Returns only where it did not, with the reason.
    pub async fn perform(&self, page: &Page) -> String {
        let shown = self.program.display();
        // A copy that stays open over execve(2), for the check as for the new life, which closes it.
        let page = match rustix::io::dup(page.fd()) {
            Ok(page) => page,
            Err(error) => return format!("copying the page's descriptor: {error}"),
        };
        let mut check = Programs::plain(&self.program);
        check.arg("--check").arg("--inherit-page").arg(page.as_raw_fd().to_string());
        check.arg(&self.config);
        if let Err(error) = Programs::new(Path::new("")).output(check, CHECK_BOUND).await {
            let config = self.config.display();
            return format!("{shown} does not take {config} or the guardian's page: {error}");
        }
        let mut next = Programs::plain(&self.program).into_std();
        next.arg("--inherit-page").arg(page.as_raw_fd().to_string()).arg(&self.config);
        let error = next.exec();
        format!("{shown} cannot be run: {error}")
    }
}
