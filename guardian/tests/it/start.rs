//! Starting, adopting, refusing.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use regent_guardian::launch::{Server, StartFailure};
use regent_guardian::page::{Because, Flags, Guard, LENGTH, Page, Phase, VERSION};
use regent_test_sys::boot::{now, until};
use regent_test_sys::process::lives;
use regent_test_sys::{Need, cgroup, lacks};

use crate::bed::{Bed, LONG};

fn refused(bed: &mut Bed, server: Server, failure: StartFailure) {
    bed.start(server);
    assert_eq!(StartFailure::of_code(bed.ended(LONG)), Some(failure), "{}", bed.logged());
}

#[test]
fn a_server_of_somebody_else_is_adopted() {
    let mut bed = Bed::new();
    let (pid, start) = bed.up_alone();
    let client = bed.client();
    bed.start(Server::Adopt { pid: pid.as_raw(), start });
    until(LONG, || (bed.page.phase() == Phase::Guarding).then_some(())).expect("guards");
    assert!(bed.page.flags().has(Flags::ADOPTED));
    assert_eq!(bed.page.postmaster_start(), start);
    let deadline = bed.deadline_in(Duration::from_millis(800));
    assert_eq!(bed.ended(LONG), 0);
    assert_eq!(bed.page.killed_because(), Because::Deadline);
    assert!(bed.page.kill_ended() <= deadline && bed.servers().is_empty());
    assert!(!bed.page.wait_valid(), "it was no child");
    drop(client);
}

#[test]
fn a_number_that_became_anothers_is_not_adopted() {
    let mut bed = Bed::new();
    let (pid, start) = bed.up_alone();
    refused(&mut bed, Server::Adopt { pid: pid.as_raw(), start: start + 1 }, StartFailure::Adopt);
    assert!(bed.logged().contains("another process of the same number"), "{}", bed.logged());
    assert!(lives(pid));
    refused(&mut bed, Server::Adopt { pid: i32::MAX - 1, start }, StartFailure::Adopt);
}

#[test]
fn one_guardian_a_run_directory() {
    let mut bed = Bed::new();
    bed.up();
    let (pid, start) = (bed.page.postmaster_pid(), bed.page.postmaster_start());
    let first = std::mem::replace(&mut bed.page, Page::create().expect("a page"));
    refused(&mut bed, Server::Adopt { pid, start }, StartFailure::Lock);
    // Once it has gone, another may: at once, and PostgreSQL never noticed.
    let mut client = bed.client();
    let guardian = nix::unistd::Pid::from_raw(first.guardian_pid());
    kill(guardian, Signal::SIGKILL).expect("killed");
    until(LONG, || (!lives(guardian)).then_some(())).expect("dead");
    bed.start(Server::Adopt { pid, start });
    until(LONG, || (bed.page.phase() == Phase::Guarding).then_some(())).expect("guards");
    assert!(client.run("SELECT 1"));
    bed.deadline_in(Duration::from_millis(500));
    assert_eq!(bed.ended(LONG), 0);
    assert!(bed.servers().is_empty());
}

#[test]
fn what_does_not_start_says_why() {
    let mut bed = Bed::new();
    let program = Server::Start(vec!["/nowhere/postgres".into()]);
    refused(&mut bed, program, StartFailure::Exec);
    assert!(bed.logged().contains("ENOENT"), "{}", bed.logged());
    // PostgreSQL's own refusal is its own exit code.
    let mut command = bed.postgres();
    command.extend(["-c".into(), "no_such_setting=1".into()]);
    bed.start(Server::Start(command));
    assert_eq!(bed.ended(LONG), 1);
    let started = Server::Start(bed.postgres());
    bed.data = bed.dir.path().join("nothing");
    refused(&mut bed, started.clone(), StartFailure::Open);
    let lost = bed.launch(started);
    let mut command = bed.guardian(&lost);
    let status = command.stdin(std::process::Stdio::null()).status().expect("it runs");
    assert_eq!(status.code(), Some(i32::from(StartFailure::Page.code())));
    let mut command = bed.guardian(&lost);
    let status = command.arg("more").args(["--adopt", "x"]).status().expect("it runs");
    assert_eq!(
        status.code(),
        Some(i32::from(StartFailure::Open.code())),
        "after -- all is postgres"
    );
}

#[test]
fn no_process_for_postgresql_is_said_so() {
    if lacks(&[Need::Root, Need::Controller("pids")]) {
        return;
    }
    let mut bed = Bed::new();
    let group = Pids::of_one();
    // The shell is the one process; the programs that it becomes are the same one.
    let line = "echo $$ > $0/cgroup.procs && exec setpriv --reuid=postgres --regid=postgres \
                --clear-groups \"$@\"";
    bed.wrapped = vec!["sh".into(), "-c".into(), line.into(), group.0.clone().into()];
    let server = Server::Start(bed.postgres());
    refused(&mut bed, server, StartFailure::Fork);
}

/// A group of cgroup v1 that holds one process at most.
struct Pids(std::path::PathBuf);

impl Pids {
    fn of_one() -> Self {
        let root = cgroup::controller("pids").expect("mounted");
        let dir = root.join(format!("regent-guardian-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a group");
        std::fs::write(dir.join("pids.max"), "1").expect("a limit");
        Self(dir)
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let removed = until(LONG, || std::fs::remove_dir(&self.0).ok());
        debug_assert!(removed.is_some(), "an empty group can be removed");
    }
}

/// Only SIGKILL ends a guardian; PostgreSQL gets every signal as usual.
#[test]
fn signals_do_not_end_it() {
    let mut bed = Bed::new();
    let guardian = bed.up();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2] {
        kill(guardian, signal).expect("sent");
    }
    let wakes = bed.page.wakes();
    until(LONG, || (bed.page.wakes() > wakes + 2).then_some(())).expect("it goes on");
    assert!(lives(guardian));
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.postmaster()));
    let status = status.expect("it lives");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigBlk:"), 0);
    // PostgreSQL ignores some itself; SIGTERM (15) and SIGCHLD (17) it handles.
    assert_eq!(mask("SigIgn:") & (1 << 14 | 1 << 16), 0);
    assert_eq!(
        std::fs::read_link(format!("/proc/{}/fd/0", bed.postmaster())).expect("open").to_str(),
        Some("/dev/null"),
        "the page is not PostgreSQL's"
    );
}

/// A successor finds the page through the guardian, and takes it over.
#[test]
fn a_successor_finds_the_page_and_carries_the_deadline_over() {
    let mut bed = Bed::new();
    let guardian = bed.up();
    let deadline = bed.deadline_in(Duration::from_millis(1500));
    let found = Page::open(format!("/proc/{guardian}/fd/0")).expect("the page");
    assert_eq!(found.guardian_pid(), guardian.as_raw());
    found.carry();
    drop(found);
    bed.ended(LONG);
    assert!(bed.page.kill_ended() <= deadline);
    assert!(bed.page.kill_began() > deadline.minus(Duration::from_millis(400)), "not before");
    assert!(now() > bed.page.kill_ended());
}

/// An agent of the version before, one of the version after, and one with orders from there.
#[test]
fn pages_of_neighbouring_versions_are_kept() {
    use std::os::unix::fs::FileExt;
    let last = u64::try_from(LENGTH).expect("small");
    for (version, length, guard) in
        [(VERSION - 1, 168, 1), (VERSION + 1, last + 64, 1), (VERSION + 1, last + 64, 99)]
    {
        let mut bed = Bed::new();
        let raw = std::fs::File::options();
        let path = format!("/proc/self/fd/{}", bed.page.fd().as_raw_fd());
        let raw = raw.clone().write(true).open(path).expect("the page's bytes");
        let put = |at, value: u64| raw.write_all_at(&value.to_le_bytes(), at).expect("written");
        put(8, version);
        put(16, length);
        bed.up();
        let deadline = bed.deadline_in(Duration::from_millis(800));
        put(120, guard);
        assert_eq!(bed.page.guard() == Guard::Unknown(99), guard == 99);
        assert_eq!(bed.ended(LONG), 128 + 9);
        assert!(bed.page.kill_ended() <= deadline, "version {version}, guard {guard}");
    }
}
