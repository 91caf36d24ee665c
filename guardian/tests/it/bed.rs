//! One PostgreSQL with a guardian, under an unprivileged user.

#![expect(clippy::disallowed_methods, reason = "the one place of these tests that starts programs")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use regent_guardian::launch::{Launch, Server};
use regent_guardian::page::{Guard, Page, Phase};
use regent_proto::time::{BootTime, Deadline};
use regent_test_sys::boot::{now, until};
use regent_test_sys::process;

use crate::client::Client;

/// κ of these tests.
pub(crate) const KAPPA: Duration = Duration::from_millis(250);
/// Nothing here takes so long.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What is started, and where.
pub(crate) struct Bed {
    pub(crate) page: Page,
    pub(crate) data: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) device: Option<PathBuf>,
    /// Programs before the guardian's own, which it is run by.
    pub(crate) wrapped: Vec<OsString>,
    user: Option<User>,
    children: Vec<Child>,
}

/// PostgreSQL's programs: Debian's place, or the path.
fn program(name: &str) -> PathBuf {
    let versions =
        ["18", "17", "16", "15"].map(|version| format!("/usr/lib/postgresql/{version}/bin"));
    let places = versions.iter().map(PathBuf::from).map(|place| place.join(name));
    places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

impl Bed {
    /// A data directory and a page with κ and no deadline.
    pub(crate) fn new() -> Self {
        process::adopt_orphans().expect("subreaper");
        // PostgreSQL does not run as root, and a socket's path is short.
        let root = nix::unistd::geteuid().is_root();
        let named = || User::from_name("postgres").ok()?.or(User::from_name("nobody").ok()?);
        let user = root.then(|| named().expect("user postgres or nobody"));
        let dir = tempfile::Builder::new().prefix("rg-").tempdir_in("/tmp").expect("a directory");
        // A target directory below a closed home can't be reached by that user.
        let copy = dir.path().join("regent-guardian");
        fs::copy(env!("CARGO_BIN_EXE_regent-guardian"), &copy).expect("copy");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        if let Some(user) = &user {
            chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        }
        let data = dir.path().join("data");
        let page = Page::create().expect("a page");
        page.set_kill_budget(KAPPA);
        let bed =
            Self { page, data, dir, device: None, wrapped: Vec::new(), user, children: Vec::new() };
        let initdb = bed
            .as_user(&program("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata"])
            .arg(&bed.data)
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        bed
    }

    /// A program as the user that owns the data.
    pub(crate) fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    pub(crate) fn postgres(&self) -> Vec<OsString> {
        let settings = ["listen_addresses=", "fsync=off", "autovacuum=off"];
        let mut command: Vec<OsString> = vec![program("postgres").into(), "-D".into()];
        command.push(self.data.clone().into());
        command.extend(["-k".into(), self.dir.path().into()]);
        command.extend(settings.iter().flat_map(|setting| ["-c".into(), (*setting).into()]));
        command
    }

    pub(crate) fn launch(&self, server: Server) -> Launch {
        Launch {
            page_fd: 0,
            data_dir: self.data.clone(),
            lock: self.dir.path().join("guardian.lock"),
            watchdog: self.device.clone(),
            server,
        }
    }

    /// The guardian's command line; its log goes to a file.
    pub(crate) fn guardian(&self, launch: &Launch) -> Command {
        let own: OsString = self.dir.path().join("regent-guardian").into();
        let line: Vec<OsString> = self.wrapped.iter().cloned().chain([own]).collect();
        let mut command = if self.wrapped.is_empty() {
            self.as_user(Path::new(&line[0]))
        } else {
            // It drops root itself.
            Command::new(&line[0])
        };
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("log");
        let page = self.page.fd().try_clone_to_owned().expect("dup");
        command.args(&line[1..]).args(launch.arguments()).current_dir("/").stdin(page);
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts a guardian; `start` again is another one.
    pub(crate) fn start(&mut self, server: Server) -> Pid {
        let launch = self.launch(server);
        let child = self.guardian(&launch).spawn().expect("the guardian starts");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        self.children.push(child);
        pid
    }

    /// Starts PostgreSQL under a guardian and waits until it answers.
    pub(crate) fn up(&mut self) -> Pid {
        let guardian = self.start(Server::Start(self.postgres()));
        self.client();
        assert_eq!(self.page.phase(), Phase::Guarding);
        assert_eq!(self.page.guardian_pid(), guardian.as_raw());
        guardian
    }

    /// Starts PostgreSQL without one; the postmaster.
    pub(crate) fn up_alone(&mut self) -> (Pid, u64) {
        let command = self.postgres();
        let mut postgres = self.as_user(Path::new(&command[0]));
        let child =
            postgres.args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("postgres starts");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        self.children.push(child);
        self.client();
        (pid, process::stat(pid).expect("it lives").started)
    }

    pub(crate) fn postmaster(&self) -> Pid {
        Pid::from_raw(self.page.postmaster_pid())
    }

    /// Every living process of the server.
    pub(crate) fn servers(&self) -> Vec<Pid> {
        process::living_in(&self.data).into_iter().collect()
    }

    pub(crate) fn client(&self) -> Client {
        let socket = self.dir.path().join(".s.PGSQL.5432");
        until(LONG, || Client::connect(&socket)).unwrap_or_else(|| panic!("{}", self.logged()))
    }

    /// From now on D lies so far ahead; D.
    pub(crate) fn deadline_in(&self, span: Duration) -> BootTime {
        let deadline = now().plus(span);
        self.page.set_site_deadline(Deadline::at(deadline));
        self.page.set_guard(Guard::ByDeadline);
        deadline
    }

    /// Exit code of the newest child, which ends within `limit`.
    pub(crate) fn ended(&mut self, limit: Duration) -> i32 {
        let child = self.children.last_mut().expect("started");
        let status: Option<ExitStatus> = until(limit, || child.try_wait().ok().flatten());
        let status = status.unwrap_or_else(|| panic!("alive after {limit:?}: {}", self.logged()));
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
        }
        // Independent of the code under test.
        for _ in 0..200 {
            let left = process::living_in(&self.data);
            if left.is_empty() {
                break;
            }
            for pid in &left {
                kill(*pid, Signal::SIGKILL).ok();
            }
            process::reap(left);
            regent_test_sys::boot::pause(Duration::from_millis(10));
        }
        for child in &mut self.children {
            child.wait().ok();
        }
    }
}
