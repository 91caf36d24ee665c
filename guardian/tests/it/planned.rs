//! Planned stops: clients are gone by the bound, the shutdown itself may take its span.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_guardian::page::{Because, Guard};
use regent_proto::time::{BootTime, Deadline};
use regent_test_sys::boot::{now, pause, until};
use regent_test_sys::process::{self, Stopped};

use crate::bed::{Bed, KAPPA, LONG};

/// The tenure ends now; its old deadline lies so far ahead, the stop span this far.
fn plan(bed: &Bed, bound: Duration, span: Duration) -> (BootTime, BootTime) {
    bed.deadline_in(LONG);
    let (bound, end) = (now().plus(bound), now().plus(span));
    bed.page.plan_stop(Deadline::at(bound), Deadline::at(end));
    bed.page.set_site_deadline(Deadline::NEVER);
    (bound, end)
}

fn titled(bed: &Bed, wanted: &str) -> Pid {
    let title = |pid: &Pid| process::title(*pid).contains(wanted);
    let find = || bed.servers().into_iter().find(title);
    until(LONG, find).unwrap_or_else(|| panic!("no {wanted}"))
}

#[test]
fn a_client_that_lives_at_the_bound_ends_everything() {
    let mut bed = Bed::new();
    bed.up();
    assert!(bed.client().run("CREATE TABLE t (i int)"));
    let acknowledged = bed.client().pipeline("INSERT INTO t VALUES (1)");
    let (bound, _) = plan(&bed, Duration::from_millis(1200), LONG);
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert_eq!(bed.page.killed_because(), Because::BackendAtBound);
    assert!(bed.page.kill_began() >= bound.minus(KAPPA), "until then nothing is killed");
    assert!(bed.page.kill_ended() <= bound && acknowledged.last() < bound);
    assert!(acknowledged.last() > bound.minus(KAPPA * 2), "served until then");
}

/// Without clients: a checkpointer that takes longer than the bound, and a walsender that waits for
/// its receiver.
#[test]
fn a_shutdown_without_clients_may_take_its_span() {
    let mut bed = Bed::new();
    bed.up();
    let receiver = bed
        .as_user("/usr/bin/pg_receivewal".as_ref())
        .args(["--no-sync", "--username=postgres", "--host"])
        .args([bed.dir.path(), "--directory".as_ref(), bed.dir.path()])
        .spawn()
        .expect("pg_receivewal");
    let receiver = regent_test_sys::tools::Owned(receiver);
    let receives = Pid::from_raw(receiver.0.id().try_into().expect("a pid"));
    titled(&bed, "streaming");
    let slow = Stopped::these([titled(&bed, "checkpointer"), receives]).expect("stopped");
    let (bound, end) = plan(&bed, Duration::from_millis(600), LONG);
    kill(bed.postmaster(), Signal::SIGINT).expect("a fast shutdown");
    until(LONG, || (now() > bound.plus(Duration::from_millis(300))).then_some(())).expect("over");
    let left: Vec<String> = bed.servers().into_iter().map(process::title).collect();
    assert!(left.iter().any(|title| title.contains("checkpointer")), "{left:?}");
    assert!(left.iter().any(|title| title.contains("walsender")), "{left:?}");
    assert_eq!(bed.page.kills(), 0);
    slow.go_on();
    assert_eq!(bed.ended(LONG), 0, "it ended by itself: {}", bed.logged());
    assert_eq!(bed.page.kills(), 0);
    assert!(now() < end);
}

/// The shutdown checkpoint is what takes long with a real database, and it has a title of its own.
#[test]
fn a_shutdown_checkpoint_may_take_its_span() {
    let mut bed = Bed::new();
    bed.up();
    // Dirty pages: the checkpoint lasts long enough to be stopped in its middle.
    assert!(bed.client().run("CREATE TABLE t (i int)"));
    assert!(bed.client().run("INSERT INTO t SELECT generate_series(1, 2000000)"));
    let checkpointer = titled(&bed, "checkpointer");
    let (bound, end) = plan(&bed, Duration::from_millis(1500), LONG);
    kill(bed.postmaster(), Signal::SIGINT).expect("a fast shutdown");
    let performing = || process::title(checkpointer).contains("performing shutdown checkpoint");
    while !performing() {
        assert!(now() < bound.minus(KAPPA), "no checkpoint was seen: {}", bed.logged());
    }
    let slow = Stopped::these([checkpointer]).expect("stopped");
    assert!(performing(), "it ended before it was stopped: {}", bed.logged());
    until(LONG, || (now() > bound.plus(Duration::from_millis(300))).then_some(())).expect("over");
    assert_eq!((bed.page.kills(), bed.page.killed_because()), (0, Because::None));
    slow.go_on();
    assert_eq!(bed.ended(LONG), 0, "it ended by itself: {}", bed.logged());
    assert_eq!(bed.page.kills(), 0);
    assert!(now() < end);
}

#[test]
fn the_span_ends_what_is_left_of_a_shutdown() {
    let mut bed = Bed::new();
    bed.up();
    let _slow = Stopped::these([titled(&bed, "checkpointer")]).expect("stopped");
    let (bound, end) = plan(&bed, Duration::from_millis(600), Duration::from_millis(1500));
    kill(bed.postmaster(), Signal::SIGINT).expect("a fast shutdown");
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert_eq!(bed.page.killed_because(), Because::StopSpanOver);
    assert!(bed.page.kill_began() > bound && bed.page.kill_ended() <= end);
}

#[test]
fn while_nothing_writable_runs_no_deadline_counts() {
    let mut bed = Bed::new();
    bed.up();
    bed.page.set_site_deadline(Deadline::at(now()));
    assert_eq!(bed.page.guard(), Guard::Off);
    pause(Duration::from_millis(300));
    assert!(bed.client().run("SELECT 1"));
    assert_eq!(bed.page.kills(), 0);
    kill(bed.postmaster(), Signal::SIGINT).expect("a fast shutdown");
    assert_eq!(bed.ended(LONG), 0, "the postmaster's own code");
}
