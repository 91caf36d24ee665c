//! What the guardian takes of the machine, and what the machine does to it.

use std::time::Duration;

use nix::unistd::Pid;
use regent_guardian::page::Flags;
use regent_test_sys::boot::{now, pause, until};
use regent_test_sys::burn::{Cpu, Pages};
use regent_test_sys::cgroup::{NoForks, Short};
use regent_test_sys::{Need, lacks, process};

use crate::bed::{Bed, LONG};

fn resident_kib(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

fn descriptors_of(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count()
}

#[test]
fn it_is_small_and_does_not_grow() {
    let mut bed = Bed::new();
    let guardian = bed.up();
    until(LONG, || (bed.page.wakes() > 5).then_some(())).expect("it loops");
    let first = resident_kib(guardian);
    let open = descriptors_of(guardian);
    println!("resident: {first} KiB; {open} descriptors; {:?}", bed.page.flags());
    assert!(first < 3 * 1024, "{first} KiB");
    bed.deadline_in(LONG);
    let wakes = bed.page.wakes();
    // Scans of all of /proc among them: a planned stop past its bound looks at every wake.
    let (bound, end) = (now().plus(Duration::from_secs(60)), now().plus(Duration::from_secs(120)));
    let at = regent_proto::time::Deadline::at;
    bed.page.plan_stop(at(bound), at(end));
    until(LONG, || (bed.page.wakes() > wakes + 100).then_some(())).expect("it loops");
    assert_eq!(resident_kib(guardian), first, "grown");
    assert!(bed.page.flags().has(Flags::MEMORY_LOCKED.with(Flags::SUBREAPER)));
    // Two of them are the lists of children, for where no other can be had.
    let descriptors = descriptors_of(guardian);
    assert!(descriptors <= 12, "{descriptors}");
    assert_eq!(descriptors, open, "grown");
}

#[test]
fn it_kills_where_no_process_can_be_made() {
    if lacks(&[Need::Root, Need::Controller("pids")]) {
        return;
    }
    let mut bed = Bed::new();
    let guardian = bed.up();
    let everyone = process::family(guardian);
    let forks = NoForks::of(everyone).expect("a group");
    let refused = until(LONG, || {
        // Whether the limit holds: PostgreSQL can't make a backend.
        std::os::unix::net::UnixStream::connect(bed.dir.path().join(".s.PGSQL.5432")).ok()?;
        (forks.refused() > 0).then_some(())
    });
    refused.expect("forks fail");
    let deadline = bed.deadline_in(Duration::from_millis(600));
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert!(bed.page.kill_ended() <= deadline && bed.servers().is_empty());
}

/// What guardian, PostgreSQL and those that press on them may hold together.
const LIMIT: u64 = 64 << 20;
/// How late it may wake (the brief's aim; proto's `time::lease` counts with it).
const WAKES_WITHIN: Duration = Duration::from_millis(50);

/// How late it wakes where every CPU has four times too much to do, and memory is short: guardian,
/// server and writers of far more pages than all of them may hold are in one limited group.
#[test]
fn it_wakes_in_time_on_a_busy_machine_that_is_short_of_memory() {
    if lacks(&[Need::Root, Need::Controller("memory")]) {
        return;
    }
    let mut bed = Bed::new();
    let short = Short::of(LIMIT).expect("a group");
    // As a service manager grants it: before root is dropped.
    let line = "echo $$ > $0/cgroup.procs && exec chrt --fifo 50 setpriv --reuid=postgres \
                --regid=postgres --clear-groups \"$@\"";
    bed.wrapped =
        vec!["sh".into(), "-c".into(), line.into(), short.group().dir().as_os_str().to_owned()];
    let guardian = bed.up();
    bed.deadline_in(LONG * 2);
    assert!(short.group().members().contains(&guardian), "its memory counts");
    assert!(bed.page.flags().has(Flags::REALTIME.with(Flags::MEMORY_LOCKED)));
    let cpu = Cpu::overload(4).expect("burners");
    let pages = Pages::written(2, 256, bed.dir.path(), short.group().dir()).expect("writers");
    until(LONG, || (short.reclaims() > 0).then_some(())).expect("memory gets short");
    let (reclaims, wakes) = (short.reclaims(), bed.page.wakes());
    bed.page.set_worst_wake(Duration::ZERO);
    pause(Duration::from_secs(10));
    let (worst, wakes) = (bed.page.worst_wake(), bed.page.wakes() - wakes);
    let reclaims = short.reclaims() - reclaims;
    println!(
        "worst wake-up {worst:?} in {wakes} wakes beside {} CPU burners and {} writers; the limit \
         of memory was met {reclaims} times",
        cpu.burners(),
        pages.writers()
    );
    assert!(reclaims > 100, "no pressure: {reclaims}");
    let postmaster = std::fs::read_to_string(format!("/proc/{}/stat", bed.postmaster()));
    let policy = postmaster.expect("it lives");
    let policy = policy
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(38))
        .map(str::to_owned);
    assert_eq!(policy.as_deref(), Some("0"), "PostgreSQL itself runs as everybody");
    assert!(worst > Duration::ZERO && worst <= WAKES_WITHIN, "{worst:?}");
    let deadline = bed.deadline_in(Duration::from_millis(500));
    assert_eq!(bed.ended(LONG), 128 + 9);
    println!("killed in {:?}", bed.page.worst_kill());
    assert!(bed.page.kill_ended() <= deadline, "{:?}", bed.page.worst_kill());
}
