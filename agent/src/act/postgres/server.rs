//! The server process and the guardian beside it: starting, stopping, adopting, and noticing the end
//! of either at once.
//!
//! A postmaster is started by a guardian of its own. When that dies alone, another one adopts the
//! postmaster before anything else happens; when none can be had, what may write is killed. One that
//! lives and does not wake any more is ended first: the lock that each holds, and the wait for the end
//! of the one before, are why no two of them ever act on one page.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use regent_guardian::page::{self, Because};
use tokio::sync::watch;

use super::found;
use super::guardian::{Ended, Guardian, GuardianError, Launcher};
use super::programs::Programs;
use crate::decide::guardian::Pulse;
use crate::fence::guard::Guard;
use crate::fence::processes;
use crate::observe::clock::boot_time;
use crate::observe::guardian as observe;

/// How long a guardian may outlive everything that it guarded.
const GUARDIAN_ENDS: Duration = Duration::from_secs(2);
/// How soon another guardian is tried after one could not be had.
const GUARDIAN_AGAIN: Duration = Duration::from_secs(1);
/// How often its heartbeat is looked at; [`Pulse`] counts the looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How soon processes that were killed are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why a guardian killed, for people.
fn reason(because: Because) -> &'static str {
    match because {
        Because::None => "it does not say why",
        Because::Deadline => "its right to write ended before it was renewed",
        Because::BackendAtBound => "a client's session lived at the bound of a planned stop",
        Because::StopSpanOver => "a planned stop took longer than its time",
        Because::Unknown(_) => "for a reason that this version does not know",
    }
}

/// A postmaster, identified by number and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (/proc/PID/stat, field 22).
    pub started: u64,
}

impl Postmaster {
    /// Whether it still runs.
    #[must_use]
    pub fn lives(self) -> bool {
        processes::alive(self.pid) && processes::start_time(self.pid) == Some(self.started)
    }
}

/// The guardian as this agent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beside {
    /// Its process number, while it lives.
    pub pid: Option<i32>,
    /// Why there is none, where there should be one.
    pub problem: String,
    /// How many hung, and were ended, in this life of the agent.
    pub hung: u64,
    /// The latest wake-up of those before it: each begins a page anew.
    pub worst_wake: Duration,
    /// The longest kill of those before it, and of rung 1.
    pub worst_kill: Duration,
}

/// Owns the knowledge of whether a postmaster runs, and who guards it.
#[derive(Debug)]
pub struct Server {
    state: watch::Sender<Option<Postmaster>>,
    beside: watch::Sender<Beside>,
    launcher: Launcher,
    guard: Guard,
    stopped: OnceLock<()>,
    closed: OnceLock<()>,
}

impl Server {
    /// No server yet. `guard` is rung 1, which is told when a postmaster has ended.
    #[must_use]
    pub fn new(launcher: Launcher, guard: Guard) -> Self {
        Self {
            state: watch::Sender::new(None),
            beside: watch::Sender::new(Beside::default()),
            launcher,
            guard,
            stopped: OnceLock::new(),
            closed: OnceLock::new(),
        }
    }

    /// The postmaster, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Postmaster>> {
        self.state.subscribe()
    }

    /// The postmaster now.
    #[must_use]
    pub fn postmaster(&self) -> Option<Postmaster> {
        *self.state.borrow()
    }

    /// The guardian, as it changes.
    #[must_use]
    pub fn beside(&self) -> watch::Receiver<Beside> {
        self.beside.subscribe()
    }

    /// The longest stop so far.
    #[must_use]
    pub fn worst_stop(&self) -> Duration {
        self.guard.measured().stop.worst().unwrap_or_default()
    }

    /// The agent ends: whatever happens to the guardian from now on is not answered.
    pub fn leave(&self) {
        self.stopped.get_or_init(|| ());
    }

    /// The agent ends: from now on nothing is started. A start that has begun goes on, and whoever
    /// waits for its job knows how it ended.
    pub fn close(&self) {
        self.closed.get_or_init(|| ());
    }

    /// The postmaster of a page that was taken over, with its guardian.
    pub fn take_over(self: &Arc<Self>) -> Option<Postmaster> {
        let page = &self.launcher.page;
        if page.guardian_pid() <= 0 {
            return None;
        }
        let postmaster =
            Postmaster { pid: page.postmaster_pid(), started: page.postmaster_start() };
        let guardian = self.launcher.found();
        let both = guardian.and_then(|guardian| Ok((guardian, Ended::of(postmaster.pid)?)));
        let Ok((guardian, ended)) = both else {
            // The life before may not have seen its end.
            self.say_kill(postmaster);
            return None;
        };
        // The life before may have ended between a guardian's start and this.
        if let Err(error) = self.launcher.point_to(guardian.pid()) {
            tracing::warn!(%error, "linking the guardian's page in the run directory");
        }
        self.follow(postmaster, ended, Some(guardian));
        Some(postmaster)
    }

    /// Adopts a postmaster that nobody guards, under a guardian of its own.
    pub async fn adopt(self: &Arc<Self>, postmaster: Postmaster) -> std::io::Result<()> {
        let ended = Ended::of(postmaster.pid)?;
        self.remember();
        let guardian = match self.launcher.adopt(postmaster).await {
            Ok(guardian) => Some(guardian),
            Err(error) => {
                self.no_guardian(&error);
                None
            }
        };
        self.follow(postmaster, ended, guardian);
        Ok(())
    }

    /// Starts a postmaster under a new guardian; returns once the process exists.
    pub async fn start(
        self: &Arc<Self>,
        programs: &Programs,
        arguments: &[String],
    ) -> Result<Postmaster, GuardianError> {
        if self.closed.get().is_some() {
            return Err(GuardianError::Closed);
        }
        self.remember();
        let started = self.launcher.start(&programs.path("postgres"), arguments).await;
        let (guardian, postmaster) = started.inspect_err(|error| self.no_guardian(error))?;
        match Ended::of(postmaster.pid) {
            Ok(ended) => self.follow(postmaster, ended, Some(guardian)),
            Err(error) => {
                // Found again in the next round, and guarded by one that can be followed.
                guardian.kill().await;
                return Err(error.into());
            }
        }
        Ok(postmaster)
    }

    fn no_guardian(&self, error: &GuardianError) {
        tracing::error!(%error, "PostgreSQL has no guardian");
        self.is_beside(None, error.to_string());
    }

    /// What the kernel did not let the guardian have: it guards without, with less certainty.
    fn say_rights(&self, pid: i32) {
        let lacks = observe::rights(&self.launcher.page).lacking();
        if !lacks.is_empty() {
            tracing::warn!(pid, lacks = lacks.join(", "), "the guardian lacks rights");
        }
    }

    /// Keeps what the next guardian forgets as it enters the page, and what rung 1 measured.
    fn remember(&self) {
        let page = &self.launcher.page;
        let own = self.guard.measured().kill.worst().unwrap_or_default();
        self.beside.send_modify(|beside| {
            beside.worst_wake = beside.worst_wake.max(page.worst_wake());
            beside.worst_kill = beside.worst_kill.max(page.worst_kill()).max(own);
        });
    }

    fn is_beside(&self, pid: Option<i32>, problem: String) {
        self.beside.send_modify(|beside| {
            (beside.pid, beside.problem) = (pid, problem);
        });
    }

    fn follow(self: &Arc<Self>, postmaster: Postmaster, ended: Ended, guardian: Option<Guardian>) {
        self.state.send_replace(Some(postmaster));
        if let Err(error) = found::mark(&self.launcher.run_dir, postmaster) {
            tracing::warn!(%error, "marking PostgreSQL as this agent's in the run directory");
        }
        if let Some(guardian) = &guardian {
            self.is_beside(Some(guardian.pid()), String::new());
            self.say_rights(guardian.pid());
        }
        tokio::spawn(Arc::clone(self).until_the_end(postmaster, ended, guardian));
    }

    async fn until_the_end(
        self: Arc<Self>,
        postmaster: Postmaster,
        ended: Ended,
        mut guardian: Option<Guardian>,
    ) {
        loop {
            let guardian_ends = async {
                match &guardian {
                    Some(guardian) => guardian.wait().await,
                    None => tokio::time::sleep(GUARDIAN_AGAIN).await,
                }
            };
            tokio::select! {
                () = ended.wait() => break,
                () = guardian_ends => {
                    // Its end after the postmaster's is in order.
                    if !postmaster.lives() || self.stopped.get().is_some() {
                        break;
                    }
                    guardian = self.guard_anew(postmaster).await;
                }
                () = self.until_it_hangs(), if guardian.is_some() => {
                    if let Some(guardian) = &guardian && self.stopped.get().is_none() {
                        self.end_hung(guardian, postmaster).await;
                    }
                }
            }
        }
        self.guard.forget_postmaster();
        // Whatever outlived the postmaster belongs to nobody and would keep the next one from
        // starting; a backend goes on acknowledging until it notices.
        while !processes::kill_all(&self.launcher.data_dir, None) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.guard.server_ended();
        if let Some(guardian) = guardian
            && tokio::time::timeout(GUARDIAN_ENDS, guardian.wait()).await.is_err()
        {
            tracing::warn!("the guardian hangs after PostgreSQL's end: killing it");
            if tokio::time::timeout(GUARDIAN_ENDS, guardian.kill()).await.is_err() {
                // Its lock keeps the next one out; that the server has ended is true all the same.
                tracing::error!(pid = guardian.pid(), "the guardian that hangs cannot be ended");
            }
        }
        self.remember();
        self.say_end(postmaster);
        self.is_beside(None, String::new());
        self.state.send_replace(None);
    }

    /// Who killed it, where the guardian did: its page is all that tells, and the next one clears it.
    fn say_kill(&self, postmaster: Postmaster) {
        let page = &self.launcher.page;
        if page.kills() == 0 || page.postmaster_pid() != postmaster.pid {
            return;
        }
        let ago = boot_time().since(page.kill_began()).as_millis();
        tracing::warn!(
            pid = postmaster.pid,
            milliseconds_ago = ago,
            "the guardian killed PostgreSQL: {}",
            reason(page.killed_because())
        );
    }

    fn say_end(&self, postmaster: Postmaster) {
        self.say_kill(postmaster);
        let page = &self.launcher.page;
        if page.postmaster_pid() == postmaster.pid && page.wait_valid() {
            let status = nix::sys::wait::WaitStatus::from_raw(
                nix::unistd::Pid::from_raw(postmaster.pid),
                page.wait_status(),
            );
            match status {
                Ok(status) => tracing::info!(?status, "PostgreSQL has ended"),
                Err(_) => tracing::info!("PostgreSQL has ended"),
            }
        } else {
            tracing::info!("PostgreSQL has ended");
        }
    }

    /// Waits until the guardian beside the server has not woken for long.
    async fn until_it_hangs(&self) {
        let mut pulse = Pulse::default();
        while !pulse.hangs(self.launcher.page.heartbeat()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends a guardian that lives and does not wake. Its end is what brings another one; where it
    /// can't be ended, nobody may guard beside it, and what may write ends.
    async fn end_hung(&self, guardian: &Guardian, postmaster: Postmaster) {
        let silent = boot_time().since(self.launcher.page.heartbeat()).as_millis();
        tracing::error!(pid = guardian.pid(), "the guardian hangs: it last woke {silent} ms ago");
        self.is_beside(None, format!("it hangs: it last woke {silent} ms ago"));
        self.beside.send_modify(|beside| beside.hung += 1);
        if tokio::time::timeout(GUARDIAN_ENDS, guardian.kill()).await.is_err() {
            tracing::error!(pid = guardian.pid(), "the guardian that hangs cannot be ended");
            if self.launcher.page.guard() != page::Guard::Off {
                kill_all(&self.launcher.data_dir, Some(postmaster.pid)).await;
            }
        }
    }

    /// The guardian died alone: another one, before anything else; or what may write ends.
    async fn guard_anew(&self, postmaster: Postmaster) -> Option<Guardian> {
        self.is_beside(None, "it died".to_owned());
        self.remember();
        match self.launcher.adopt(postmaster).await {
            Ok(guardian) => {
                tracing::warn!(pid = guardian.pid(), "the guardian has died: another one guards");
                self.is_beside(Some(guardian.pid()), String::new());
                self.say_rights(guardian.pid());
                Some(guardian)
            }
            Err(error) => {
                self.no_guardian(&error);
                if self.launcher.page.guard() != page::Guard::Off {
                    kill_all(&self.launcher.data_dir, Some(postmaster.pid)).await;
                }
                None
            }
        }
    }

    /// Fast shutdown; after `budget` the walsenders that hold it up are ended, after `patience` more
    /// everything is killed. Returns once no process of the data directory is left; `true` when
    /// nothing had to be killed.
    pub async fn stop(&self, data_dir: &Path, budget: Duration, patience: Duration) -> bool {
        let Some(postmaster) = self.postmaster() else {
            return self.kill(data_dir, None).await;
        };
        let begun = boot_time();
        let clean = self.stop_in_order(postmaster, data_dir, budget, patience).await;
        self.guard.measured().stop.note(boot_time().since(begun));
        clean
    }

    async fn stop_in_order(
        &self,
        postmaster: Postmaster,
        data_dir: &Path,
        budget: Duration,
        patience: Duration,
    ) -> bool {
        processes::signal(postmaster.pid, Signal::SIGINT);
        if self.ended_within(budget).await {
            return self.kill(data_dir, None).await;
        }
        tracing::warn!(
            "PostgreSQL has not stopped within {budget:?}: ending the walsenders that hold it up"
        );
        for pid in processes::of_data_directory(data_dir, Some(postmaster.pid)).unwrap_or_default()
        {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains("walsender") {
                processes::signal(pid, Signal::SIGTERM);
            }
        }
        if self.ended_within(patience).await {
            return self.kill(data_dir, None).await;
        }
        tracing::warn!("PostgreSQL has not stopped: killing it");
        let nothing_left = self.kill(data_dir, Some(postmaster.pid)).await;
        tracing::debug!(nothing_left, "after the kill");
        false
    }

    async fn ended_within(&self, span: Duration) -> bool {
        let mut state = self.watch();
        let ended = state.wait_for(Option::is_none);
        tokio::time::timeout(span, ended).await.is_ok()
    }

    /// Kills, and waits until that is known: not for [`Self::until_the_end`], which makes it known.
    /// `true` when there was nothing.
    async fn kill(&self, data_dir: &Path, postmaster: Option<i32>) -> bool {
        let clean = kill_all(data_dir, postmaster).await;
        self.ended_within(GUARDIAN_ENDS * 2).await && clean
    }
}

/// Kills until a scan finds nothing, for at most a few seconds; `true` when there was nothing.
async fn kill_all(data_dir: &Path, postmaster: Option<i32>) -> bool {
    let mut clean = true;
    for _ in 0..400 {
        if processes::kill_all(data_dir, postmaster) {
            break;
        }
        clean = false;
        // The kernel tells nobody when the last of several processes is gone.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use regent_guardian::page::{Flags, Page, Side};
    use regent_proto::time::Deadline;
    use tokio::sync::mpsc;

    use super::*;
    use crate::fence::Deadlines;
    use crate::fence::guard::GuardSettings;

    /// A server whose guardians end at once.
    fn server(page: &Page, dir: &Path) -> Arc<Server> {
        let settings = GuardSettings {
            data_dir: dir.to_owned(),
            stop_budget: Duration::from_secs(5),
            kill_budget: Duration::from_millis(250),
            pause_threshold: Duration::from_secs(60),
            epsilon: Duration::from_secs(60),
        };
        let deadlines = Arc::new(Deadlines::new(page.clone(), false));
        let guard = Guard::start(settings, deadlines, mpsc::channel(8).0).expect("a thread");
        let launcher = Launcher {
            program: "/bin/true".into(),
            data_dir: dir.to_owned(),
            run_dir: dir.to_owned(),
            log: dir.join("log"),
            page: page.clone(),
            watchdog: None,
        };
        Arc::new(Server::new(launcher, guard))
    }

    #[tokio::test]
    async fn what_was_worst_outlives_the_guardian_that_showed_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let server = server(&page, dir.path());
        let millis = Duration::from_millis;
        let worst = || {
            let beside = server.beside().borrow().clone();
            let view = observe::view(&page, &beside, server.worst_stop(), boot_time());
            (view.worst_wake, view.worst_kill, view.worst_stop)
        };
        page.set_worst_wake(millis(60));
        page.set_worst_kill(millis(200));
        assert_eq!(worst(), (millis(60), millis(200), Duration::ZERO));
        // Whatever comes of it, the next guardian has begun the page anew.
        let own = i32::try_from(std::process::id()).expect("small");
        let started = processes::start_time(own).expect("it lives");
        server.adopt(Postmaster { pid: own, started }).await.expect("followed, without a guardian");
        page.forget(Side::Guardian);
        assert_eq!(worst(), (millis(60), millis(200), Duration::ZERO));
        // A worse one counts at once, a better one never.
        page.set_worst_wake(millis(70));
        page.set_worst_kill(millis(10));
        // Rung 1's are of the same life.
        server.guard.measured().kill.note(millis(300));
        server.guard.measured().stop.note(millis(4500));
        server.remember();
        assert_eq!(worst(), (millis(70), millis(300), millis(4500)));
        server.leave();
        server.guard.end();
    }

    #[expect(clippy::disallowed_methods, reason = "a process to kill")]
    fn working_in(dir: &Path) -> std::process::Child {
        let mut command = std::process::Command::new("sleep");
        command.arg("60").current_dir(dir).spawn().expect("sleep runs")
    }

    /// Whoever follows the server to its end is who says that it has ended, and must not wait for it.
    #[tokio::test]
    async fn what_no_guardian_can_be_had_for_is_killed_without_a_wait_for_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let server = server(&page, dir.path());
        page.set_site_deadline(Deadline::at(boot_time().plus(Duration::from_secs(60))));
        page.set_guard(page::Guard::ByDeadline);
        let mut child = working_in(dir.path());
        let pid = i32::try_from(child.id()).expect("small");
        let started = processes::start_time(pid).expect("it lives");
        let begun = boot_time();
        let another = server.guard_anew(Postmaster { pid, started }).await;
        assert!(another.is_none() && !processes::alive(pid));
        assert!(boot_time().since(begun) < GUARDIAN_ENDS * 2);
        child.wait().expect("it was killed");
        server.guard.end();
    }

    #[test]
    fn a_guardian_without_a_right_is_said_once_with_what_it_lacks() {
        let dir = tempfile::tempdir().expect("a directory");
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let server = server(&page, dir.path());
        let said = |flags| {
            page.set_flags(flags);
            logged(|| server.say_rights(77))
        };
        let all = Flags::MEMORY_LOCKED.with(Flags::REALTIME).with(Flags::OOM_PROTECTED);
        assert_eq!(said(all), "");
        let lacking = said(Flags::MEMORY_LOCKED);
        let fields =
            "pid=77 lacks=\"real-time priority, protection from the out-of-memory killer\"";
        assert!(lacking.contains(fields) && lacking.lines().count() == 1, "{lacking}");
        server.guard.end();
    }

    #[test]
    fn a_kill_by_the_guardian_is_said_with_its_reason_and_only_of_its_own_server() {
        let dir = tempfile::tempdir().expect("a directory");
        let page = Page::create().expect("a page");
        page.enter(Side::Guardian);
        let server = server(&page, dir.path());
        let ended = |pid| logged(|| server.say_end(Postmaster { pid, started: 1 }));
        page.set_postmaster_pid(77);
        assert!(!ended(77).contains("guardian"), "it killed nothing");
        page.set_kills(1);
        for because in Because::KNOWN {
            page.set_killed_because(*because);
            let said = ended(77);
            assert!(said.contains("the guardian killed PostgreSQL"), "{said}");
            assert!(said.contains(reason(*because)) && said.contains("pid=77"), "{said}");
            assert!(said.contains("PostgreSQL has ended"), "{said}");
        }
        assert!(!ended(78).contains("guardian"), "another server's");
        // Both are gone by now, as the life after this one finds them.
        page.set_guardian_pid(i32::MAX);
        page.set_postmaster_pid(i32::MAX);
        let found = logged(|| assert_eq!(server.take_over(), None));
        assert!(found.contains("the guardian killed PostgreSQL"), "{found}");
        server.guard.end();
    }

    /// What is logged meanwhile, by this thread.
    fn logged(does: impl FnOnce()) -> String {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&text);
        let writer = move || Writer(Arc::clone(&writer));
        let log = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        tracing::subscriber::with_default(log, does);
        let text = text.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        String::from_utf8(text).expect("text")
    }

    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Writer {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(text)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
