//! A deadline passes, and nobody acknowledges after it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_guardian::launch::Server;
use regent_guardian::page::{Because, Phase};
use regent_proto::time::BootTime;
use regent_test_sys::boot::{now, until};
use regent_test_sys::process::{self, Stopped, lives};

use crate::bed::{Bed, KAPPA, LONG};
use crate::client::{Acknowledged, Client};

const INSERT: &str = "INSERT INTO t VALUES (1)";
const LOOP: &str = "DO $$ BEGIN LOOP INSERT INTO t VALUES (2); COMMIT; END LOOP; END $$";

/// A pipelining client and a DO block that commits in a loop, at work.
fn clients(bed: &Bed) -> (Acknowledged, Client) {
    assert!(bed.client().run("CREATE TABLE t (i int)"));
    let acknowledged = bed.client().pipeline(INSERT);
    let mut looping = bed.client();
    looping.send(LOOP);
    let busy = || (acknowledged.count() > 100).then_some(());
    until(LONG, busy).expect("the pipelining client is served");
    (acknowledged, looping)
}

fn killed_in_time(bed: &mut Bed, deadline: BootTime, before: &[Pid], code: i32) {
    assert_eq!(bed.ended(LONG), code, "{}", bed.logged());
    let page = &bed.page;
    assert_eq!(page.killed_because(), Because::Deadline);
    assert_eq!((page.kills(), page.phase()), (1, Phase::Ended));
    assert!(page.kill_began() >= deadline.minus(KAPPA), "nothing is killed early");
    assert!(page.kill_ended() > page.kill_began() && page.kill_ended() <= deadline);
    assert!(page.worst_kill() < KAPPA && page.worst_kill() > Duration::ZERO);
    assert_eq!(bed.servers(), []);
    let left: Vec<_> = before.iter().filter(|pid| lives(**pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    println!("killed in {:?}, {:?} before D", page.worst_kill(), deadline.since(page.kill_ended()));
}

#[test]
fn a_deadline_ends_everything_at_work() {
    let mut bed = Bed::new();
    bed.up();
    let (acknowledged, _looping) = clients(&bed);
    let before = process::family(bed.postmaster());
    assert!(before.len() > 5, "{before:?}");
    let deadline = bed.deadline_in(Duration::from_millis(1500));
    killed_in_time(&mut bed, deadline, &before, 128 + 9);
    assert!(acknowledged.last() < deadline, "acknowledged after D");
    assert!(acknowledged.last() > deadline.minus(KAPPA * 2), "served until the kill");
    assert_eq!(bed.page.wait_status(), Signal::SIGKILL as i32);
}

/// Backends have sessions of their own and notice a dead postmaster only when they wait.
#[test]
fn orphans_of_a_killed_postmaster_end_by_the_deadline() {
    let mut bed = Bed::new();
    bed.up();
    let (acknowledged, _looping) = clients(&bed);
    // One that notices nothing, whatever the others do. It has its title once its block has begun.
    let looping = || {
        let mut family = process::family(bed.postmaster()).into_iter();
        family.find(|pid| process::title(*pid).ends_with("DO"))
    };
    let looping = until(LONG, looping).expect("its block has begun");
    let before = process::family(bed.postmaster());
    let _stopped = Stopped::these([looping]).expect("stopped");
    let deadline = bed.deadline_in(Duration::from_millis(1500));
    kill(bed.postmaster(), Signal::SIGKILL).expect("killed");
    until(LONG, || (!lives(bed.postmaster())).then_some(())).expect("dead");
    // The others may notice and end by themselves, or wait for a lock that this one holds.
    assert!(lives(looping));
    assert!(now() < deadline.minus(KAPPA), "the test is too slow to show anything");
    killed_in_time(&mut bed, deadline, &before, 128 + 9);
    assert!(acknowledged.last() < deadline, "acknowledged after D");
}

/// The agent of an orphan may be the only one left to see: it works elsewhere, so only its parent
/// tells whose it is.
#[test]
fn a_child_of_an_orphan_ends_too_wherever_it_works() {
    let mut bed = Bed::new();
    bed.up();
    let mut client = bed.client();
    // The shell leaves the data directory and is no PostgreSQL.
    let line = "cd / && echo $$ > /tmp/rg-orphan-$PPID && exec sleep 600";
    client.send(&format!("COPY (SELECT 1) TO PROGRAM '{line}'"));
    let backends = process::family(bed.postmaster());
    let file = until(LONG, || {
        let names = backends.iter().map(|pid| format!("/tmp/rg-orphan-{pid}"));
        names
            .into_iter()
            .find(|name| std::fs::read_to_string(name).is_ok_and(|t| t.ends_with('\n')))
    })
    .expect("the program runs");
    let text = std::fs::read_to_string(&file).expect("its number");
    std::fs::remove_file(&file).expect("removed");
    let program = Pid::from_raw(text.trim().parse().expect("a number"));
    assert!(lives(program));
    let deadline = bed.deadline_in(Duration::from_millis(500));
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert!(!lives(program), "adopted by the guardian, and killed");
    assert!(bed.page.kill_ended() <= deadline);
}

#[test]
fn stopped_processes_die_too() {
    let mut bed = Bed::new();
    bed.up();
    let (acknowledged, _looping) = clients(&bed);
    let before = process::family(bed.postmaster());
    let deadline = bed.deadline_in(Duration::from_millis(1500));
    // The postmaster and one of its children: the last ones are the clients'.
    let stopped = Stopped::these([bed.postmaster(), before[before.len() - 1]]).expect("stopped");
    killed_in_time(&mut bed, deadline, &before, 128 + 9);
    assert!(acknowledged.last() < deadline);
    drop(stopped);
}

#[test]
fn a_guardian_that_was_frozen_over_its_deadline_kills_at_once() {
    let mut bed = Bed::new();
    let guardian = bed.up();
    let (_acknowledged, _looping) = clients(&bed);
    let deadline = bed.deadline_in(Duration::from_millis(600));
    let frozen = Stopped::these([guardian]).expect("stopped");
    until(LONG, || (now() > deadline.plus(Duration::from_millis(200))).then_some(()))
        .expect("late");
    assert!(!bed.servers().is_empty(), "nobody else kills here");
    let thawed = now();
    frozen.go_on();
    assert_eq!(bed.ended(LONG), 128 + 9);
    let page = &bed.page;
    assert!(page.kill_began().since(thawed) < Duration::from_millis(100));
    println!("killed {:?} after it went on", page.kill_ended().since(thawed));
    assert!(page.worst_wake() >= Duration::from_millis(200), "and it tells how late it was");
}

#[test]
fn a_renewed_deadline_kills_nobody() {
    let mut bed = Bed::new();
    bed.up();
    let mut client = bed.client();
    let until_then = now().plus(Duration::from_millis(1500));
    until(LONG, || {
        bed.deadline_in(KAPPA * 2);
        (now() > until_then).then_some(())
    })
    .expect("renewed");
    assert!(client.run("SELECT 1"));
    bed.deadline_in(LONG);
    assert_eq!(bed.page.kills(), 0);
}

#[test]
fn whoever_only_stands_in_the_data_directory_is_left_alone() {
    let mut bed = Bed::new();
    bed.up();
    let mut shell = bed.as_user("/bin/sleep".as_ref());
    let shell = shell.arg("600").current_dir(&bed.data).spawn().expect("a program");
    let mut shell = regent_test_sys::tools::Owned(shell);
    bed.deadline_in(KAPPA);
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert!(shell.0.try_wait().expect("asked").is_none(), "it was no server");
}

/// From now on the process can open nothing (EMFILE), as where the system has no descriptor left for
/// anybody but root (ENFILE): 0 to 2 are taken, and poll(2) still takes the three that it waits for.
fn no_descriptors(bed: &Bed, guardian: Pid, none: bool) {
    let soft = if none { "3:" } else { "1024:" };
    let done = bed
        .as_user("prlimit".as_ref())
        .args(["--pid", &guardian.to_string(), &format!("--nofile={soft}")])
        .status();
    assert!(done.expect("prlimit runs").success());
}

#[test]
fn a_guardian_without_descriptors_kills_everything_in_time() {
    let mut bed = Bed::new();
    let guardian = bed.up();
    let (acknowledged, _looping) = clients(&bed);
    no_descriptors(&bed, guardian, true);
    let deadline = bed.deadline_in(Duration::from_millis(1500));
    until(LONG, || bed.servers().is_empty().then_some(())).expect("all are killed");
    assert!(now() <= deadline, "{:?} after D", now().since(deadline));
    assert!(acknowledged.last() < deadline);
    // It kills first, and tells afterwards.
    until(LONG, || (bed.page.phase() == Phase::Killing).then_some(())).expect("it is told");
    assert!(bed.page.kill_ended() < bed.page.kill_began(), "it can't know that none is left");
    assert!(lives(guardian) && bed.page.phase() == Phase::Killing);
    no_descriptors(&bed, guardian, false);
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert!(bed.page.kill_ended() > deadline.minus(KAPPA));
}

/// Children that are no PostgreSQL in the data directory, a backend that went elsewhere among them, are
/// known by lists that have been open since the start.
#[test]
fn without_descriptors_children_elsewhere_are_killed_as_well() {
    let mut bed = Bed::new();
    let line = "cd / && sleep 1000 & sleep 1000 & exec sleep 1000";
    let guardian = bed.start(Server::Start(["sh", "-c", line].map(Into::into).to_vec()));
    let family = || {
        let server = bed.postmaster();
        let all = (server.as_raw() > 0).then(|| process::family(server))?;
        (all.len() == 3).then_some(all)
    };
    let all = until(LONG, family).expect("three sleep");
    no_descriptors(&bed, guardian, true);
    let deadline = bed.deadline_in(Duration::from_millis(700));
    let left = || all.iter().all(|pid| !lives(*pid)).then_some(());
    until(LONG, left).expect("all are killed");
    assert!(now() <= deadline, "{:?} after D", now().since(deadline));
    no_descriptors(&bed, guardian, false);
    assert_eq!(bed.ended(LONG), 128 + 9);
}
