//! Rung 1 on processes that stand for a server.

use std::process::{Child, Command, Stdio};

use regent_proto::record::ReportedFence;

use super::*;
use crate::decide::margins;
use crate::fence::processes::{stopped, until};

const LONG: Duration = Duration::from_secs(20);

fn settings(data_dir: &Path, stop_budget: Duration) -> GuardSettings {
    GuardSettings {
        data_dir: data_dir.to_owned(),
        stop_budget,
        kill_budget: Duration::from_millis(250),
        pause_threshold: LONG,
        epsilon: LONG,
    }
}

/// A guard without a server; its directory never answers where `hangs`.
fn guard(hangs: bool) -> (Guard, tempfile::TempDir) {
    guard_of(hangs, Duration::from_secs(2))
}

fn guard_of(hangs: bool, stop_budget: Duration) -> (Guard, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path(), stop_budget);
    let deadlines = Arc::new(Deadlines::new(Page::create().expect("a page"), false));
    let (events, _) = mpsc::channel(8);
    let mut guard = Guard::start(settings, deadlines, events).expect("a thread");
    if hangs {
        guard.resolve = |_| loop {
            std::thread::park();
        };
    }
    (guard, dir)
}

fn sleeper() -> (Child, i32) {
    child("exec sleep 60")
}

fn deaf_sleeper() -> (Child, i32) {
    // Ignored signals stay ignored. Its output ends once it is.
    let (mut child, pid) = child("trap '' INT TERM; exec 1>&-; exec sleep 60");
    let mut out = child.stdout.take().expect("piped");
    io::Read::read_to_end(&mut out, &mut Vec::new()).expect("read");
    (child, pid)
}

#[expect(clippy::disallowed_methods, reason = "a process to signal")]
fn child(line: &str) -> (Child, i32) {
    let mut command = Command::new("sh");
    let child = command.args(["-c", line]).stdout(Stdio::piped()).spawn().expect("sh");
    let pid = i32::try_from(child.id()).expect("small");
    (child, pid)
}

/// A postmaster that does not get done ends no session: they are told by rung 1 itself.
#[test]
fn sessions_are_told_to_end_long_before_the_kill() {
    let (guard, _dir) = guard_of(false, LONG);
    let (mut child, pid) = child(
        "trap : INT; sleep 60 & echo; while kill -0 $!; do wait $!; done 2>&-; echo over; \
         exec sleep 60",
    );
    let mut out = io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = || {
        let mut line = String::new();
        io::BufRead::read_line(&mut out, &mut line).expect("read");
        line
    };
    assert_eq!(line(), "\n");
    guard.page().set_site_deadline(Deadline::at(boot_time().plus(LONG)));
    guard.arm(Some(pid));
    assert_eq!(line(), "over\n");
    child.kill().expect("ours");
    child.wait().expect("it ends");
    guard.end();
}

/// Where the word says that nothing is frozen, nothing is: an agent that is killed in between leaves
/// nobody behind whom its successor does not look for.
#[test]
fn the_word_falls_when_everybody_goes_on() {
    let (guard, _dir) = guard(false);
    let (mut child, pid) = sleeper();
    for _ in 0..20 {
        guard.adopt(pid, LONG);
        assert!(stopped(pid) && guard.page().frozen());
        let sent = boot_time();
        guard.page().set_site_deadline(Deadline::at(sent.plus(LONG * 2)));
        guard.deadlines.site_acknowledged(sent);
        // Without a pause: what is between the word and the processes is short.
        while guard.page().frozen() {
            assert!(boot_time() < sent.plus(LONG), "never thawed");
        }
        assert!(!stopped(pid));
    }
    child.kill().expect("ours");
    child.wait().expect("it ends");
    guard.end();
}

/// Whoever arms waits for the disk, rung 1 does not: it kills what it guards.
#[test]
fn a_disk_that_hangs_does_not_hold_the_thread_up() {
    let (guard, _dir) = guard(false);
    let (mut child, pid) = sleeper();
    guard.page().set_site_deadline(Deadline::at(boot_time().plus(LONG * 2)));
    guard.arm(Some(pid));
    let hanging = Guard {
        resolve: |_| loop {
            std::thread::park();
        },
        ..guard.clone()
    };
    let armed = std::thread::spawn(move || hanging.arm(Some(pid)));
    let before = guard.page().agent_heartbeat();
    until("it wakes", || guard.page().agent_heartbeat() > before.plus(SLICE * 2));
    guard.page().set_site_deadline(Deadline::at(boot_time()));
    child.wait().expect("killed");
    assert!(!armed.is_finished());
    guard.end();
}

/// What is adopted may be writing: it is frozen before its disk is asked anything.
#[test]
fn an_adopted_server_is_frozen_while_its_disk_hangs() {
    let (guard, _dir) = guard(true);
    let (mut child, pid) = sleeper();
    let adopting = guard.clone();
    std::thread::spawn(move || adopting.adopt(pid, LONG));
    until("frozen and watched", || {
        stopped(pid) && guard.page().frozen() && guard.watched() == Watched::ByDeadline
    });
    child.kill().expect("ours");
    child.wait().expect("it ends");
    guard.end();
}

/// That nothing lives yet does not end the watch over what is about to be started.
#[test]
fn a_start_under_way_stays_guarded_though_its_deadline_passes() {
    let (guard, _dir) = guard(false);
    guard.page().set_site_deadline(Deadline::at(boot_time()));
    guard.arm_for_start();
    let before = guard.page().agent_heartbeat();
    until("rung 1 looks", || guard.page().agent_heartbeat() > before.plus(SLICE));
    assert!(guard.watched() == Watched::ByDeadline && !guard.may_write());
    let (mut child, pid) = sleeper();
    guard.arm(Some(pid));
    child.wait().expect("killed");
    until("nothing is left", || guard.watched() == Watched::Nothing);

    guard.arm_for_start();
    guard.not_started();
    until("nothing was started", || guard.watched() == Watched::Nothing);
    guard.end();
}

/// Nobody granted what a freeze carries: it ends with the kill.
#[test]
fn what_an_adoption_carries_does_not_outlive_its_kill() {
    for before in [false, true] {
        let (guard, _dir) = guard(false);
        let (mut child, pid) = sleeper();
        if before {
            // A life that ended while it was frozen.
            guard.adopt(pid, LONG);
            guard.end();
            let page = guard.page().clone();
            assert!(page.carried() > Deadline::at(boot_time()));
            // As its guardian, which died too, had written.
            page.enter(page::Side::Guardian);
            page.set_postmaster_pid(pid);
            let settings = settings(&guard.data_dir, Duration::ZERO);
            let deadlines = Arc::new(Deadlines::new(page, false));
            let (events, _) = mpsc::channel(8);
            let next = Guard::start(settings, deadlines, events).expect("a thread");
            child.wait().expect("killed");
            until("it is over", || next.watched() == Watched::Nothing);
            assert_eq!(next.page().carried(), Deadline::NEVER);
            next.end();
        } else {
            guard.adopt(pid, Duration::ZERO);
            child.wait().expect("killed");
            until("it is over", || guard.watched() == Watched::Nothing);
            assert_eq!(guard.page().carried(), Deadline::NEVER);
            guard.end();
        }
    }
}

/// What G bounds is rung 1's own stop, what κ bounds its own kill: near their budgets they warn.
#[test]
fn rung_1_measures_its_stop_and_its_kill_and_thin_margins_follow() {
    let (guard, _dir) = guard(false);
    // Hears no SIGINT and no SIGTERM, as a server that does not get done.
    let (mut child, pid) = deaf_sleeper();
    let deadline = boot_time().plus(Duration::from_secs(4));
    guard.page().set_site_deadline(Deadline::at(deadline));
    guard.arm(Some(pid));
    assert!(child.wait().is_ok() && boot_time() < deadline);
    let measured = guard.measured();
    until("its kill is measured", || measured.kill.worst().is_some());
    guard.forget_postmaster();
    assert_eq!(measured.stop.worst(), None, "it is over once nothing is left");
    guard.server_ended();
    let (stop, kill) = (measured.stop.worst(), measured.kill.worst());
    let stop = stop.expect("measured");
    assert!(stop >= Duration::from_millis(1700) && kill < Some(Duration::from_secs(2)));
    let millis = |span: Duration| u64::try_from(span.as_millis()).expect("short");
    let fence = ReportedFence {
        worst_stop_ms: Some(millis(stop)),
        stop_budget_ms: 2000,
        worst_kill_ms: kill.map(millis),
        kill_budget_ms: 250,
        guardian: true,
        ..ReportedFence::default()
    };
    let calls = margins::CallBounds { site_ms: 1000, primary_ms: None };
    assert!(
        margins::thin(&fence, calls, true, 0).iter().any(|text| text.starts_with("a stop took"))
    );
    guard.server_ended();
    assert_eq!(measured.stop.last(), Some(stop), "counted once");
    guard.end();
}
