//! The watchdog over its real ioctls, on the emulated device.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_guardian::launch::{Server, StartFailure};
use regent_guardian::page::{Phase, WatchdogState, WatchdogStep, WatchdogWanted};
use regent_proto::time::Deadline;
use regent_test_sys::boot::until;
use regent_test_sys::process::{Stopped, lives};
use regent_test_sys::watchdog::{Device, Event, Happened, NEEDS, Quirk, Reset};
use regent_test_sys::{Need, boot, cgroup, lacks};

use crate::bed::{Bed, LONG};

/// A bed with a device of W = 1 s, wanted.
fn bed(wanted: WatchdogWanted, quirks: &[Quirk]) -> (Bed, Device) {
    let mut bed = Bed::new();
    let path = bed.dir.path().join("watchdog");
    let device = Device::with(&path, &bed.data, Reset::nothing(), quirks.iter().copied());
    bed.device = Some(path);
    bed.page.set_watchdog_timeout_s(1);
    bed.page.set_watchdog_wanted(wanted);
    (bed, device.expect("a device"))
}

/// Its last event; the device hears of a close only after close(2) has returned.
fn closed(device: &Device) -> Happened {
    let last = |events: &[Happened]| {
        events.last().filter(|last| matches!(last.event, Event::Closed { .. })).cloned()
    };
    device.trace().wait(LONG, last).expect("it is closed")
}

#[test]
fn it_is_armed_before_the_server_runs_pinged_and_disarmed_after_it() {
    if lacks(NEEDS) {
        return;
    }
    let (mut bed, device) = bed(WatchdogWanted::Required, &[]);
    bed.up();
    assert_eq!(bed.page.watchdog_state(), WatchdogState::Armed);
    assert_eq!(bed.page.watchdog_granted_s(), 1);
    let deadline = bed.deadline_in(Duration::from_secs(5));
    assert_eq!(bed.ended(LONG), 128 + 9);
    assert_eq!(bed.page.watchdog_state(), WatchdogState::Disarmed);
    closed(&device);
    let trace = device.trace().all();
    assert!(matches!(trace[0].event, Event::Opened { .. }), "{trace:?}");
    assert!(matches!(trace[1].event, Event::SetTimeout { asked: 1, granted: 1 }), "{trace:?}");
    let last = trace.last().expect("events");
    assert_eq!(last.event, Event::Closed { disarmed: true, processes: vec![] });
    assert!(last.at < deadline, "and soon");
    // Everything but the `V`: W = 1 s, R = 1 s, so two pings fit before D - 3 s, and the last of them
    // leaves the device to fire before D.
    let pings: Vec<_> = trace.iter().filter(|h| h.event == Event::Ping).map(|h| h.at).collect();
    let (_v, pings) = pings.split_last().expect("pings");
    assert!(pings.len() > 6, "four a second: {trace:?}");
    let latest = deadline.minus(Duration::from_secs(2));
    assert!(pings.iter().all(|at| *at <= latest), "a ping that lets it fire after D");
    // The node was not reset while it was healthy; the last seconds before D are the device's.
    let fired = trace.iter().find(|h| h.event == Event::Expired).map(|h| h.at);
    assert!(fired.is_none_or(|at| at > deadline.minus(Duration::from_secs(3))), "{trace:?}");
}

/// A process that can't be killed: not pinged after D, not disarmed.
#[test]
fn it_fires_where_a_process_can_not_be_killed() {
    if lacks(NEEDS) || lacks(&[Need::Controller("freezer")]) {
        return;
    }
    let (mut bed, device) = bed(WatchdogWanted::Required, &[]);
    bed.up();
    let client = bed.client();
    let stuck = *bed.servers().last().expect("a backend");
    // The freezer of cgroup v1 holds back even SIGKILL, as a disk that hangs does.
    let freezer = Freezer::of(stuck);
    // Three seconds or less: not one ping is allowed, so the device fires although Off allowed some.
    let deadline = bed.deadline_in(Duration::from_secs(4));
    let fired = device.trace().first(LONG, |event| *event == Event::Expired).expect("it fires");
    assert!(fired <= deadline, "{:?} after D", fired.since(deadline));
    until(LONG, || (boot::now() > deadline.plus(Duration::from_secs(1))).then_some(()))
        .expect("later");
    assert!(lives(stuck) && bed.page.kills() == 1);
    let is_closed = |h: &Happened| matches!(h.event, Event::Closed { .. });
    assert!(!device.trace().all().iter().any(is_closed), "disarmed with a process");
    let pings = device.trace().all().iter().filter(|h| h.event == Event::Ping).map(|h| h.at).max();
    assert!(pings.is_some_and(|last| last < deadline), "pinged after D");
    freezer.thaw();
    assert_eq!(bed.ended(LONG), 128 + 9);
    let last = closed(&device);
    assert_eq!(last.event, Event::Closed { disarmed: true, processes: vec![] });
    drop(client);
}

/// While nothing writable runs it is pinged for as long as the guardian lives; when that hangs, the
/// device fires.
#[test]
fn a_guardian_that_hangs_lets_it_fire() {
    if lacks(NEEDS) {
        return;
    }
    let (mut bed, device) = bed(WatchdogWanted::Automatic, &[]);
    let guardian = bed.up();
    until(LONG, || (device.trace().pings() > 8).then_some(())).expect("pinged");
    let expired = |event: &Event| *event == Event::Expired;
    assert!(!device.trace().all().iter().any(|h| expired(&h.event)));
    let stopped = Stopped::these([guardian]).expect("stopped");
    device.trace().first(LONG, expired).expect("it fires");
    drop(stopped);
}

/// A guardian that replaces another one where no ping is allowed any more leaves the device to fire.
#[test]
fn a_guardian_that_takes_over_too_late_does_not_ping() {
    if lacks(NEEDS) {
        return;
    }
    let (mut bed, device) = bed(WatchdogWanted::Required, &[]);
    bed.page.set_watchdog_timeout_s(5);
    let first = bed.up();
    let (postmaster, start) = (bed.postmaster(), bed.page.postmaster_start());
    bed.deadline_in(Duration::from_secs(60));
    kill(first, Signal::SIGKILL).expect("killed");
    closed(&device);
    // W = 5 s, R = 1 s: another ping needs eleven.
    let deadline = bed.page.watchdog_last_ping().plus(Duration::from_secs(8));
    bed.page.set_site_deadline(Deadline::at(deadline));
    let second = bed.start(Server::Adopt { pid: postmaster.as_raw(), start });
    let guards = || {
        let it = bed.page.guardian_pid() == second.as_raw();
        (it && bed.page.phase() == Phase::Guarding).then_some(())
    };
    until(LONG, guards).expect("it guards");
    assert_eq!(bed.page.watchdog_state(), WatchdogState::Armed, "it counts");
    let fired = device.trace().first(LONG, |event| *event == Event::Expired).expect("it fires");
    assert!(fired < deadline, "{:?} after D", fired.since(deadline));
    assert_eq!(bed.ended(LONG), 0);
    let is_opened = |h: &&Happened| matches!(h.event, Event::Opened { .. });
    assert_eq!(device.trace().all().iter().filter(is_opened).count(), 1, "opening is a ping");
}

#[test]
fn each_quirk_is_told_and_a_required_device_that_is_none_starts_nothing() {
    if lacks(NEEDS) {
        return;
    }
    for quirk in Quirk::EACH {
        let step = match quirk {
            Quirk::Open(_) => WatchdogStep::Open,
            Quirk::NoSupport => WatchdogStep::Support,
            // It grants its own 60 s.
            Quirk::FixedTimeout | Quirk::Grants(_) => WatchdogStep::TooLong,
            Quirk::SetTimeout(_) => WatchdogStep::SetTimeout,
            Quirk::Ping(_) => WatchdogStep::Ping,
            Quirk::NoMagicClose => WatchdogStep::NoMagicClose,
            // Promised and not kept: nobody can know.
            Quirk::NoWayOut => WatchdogStep::None,
        };
        let (mut bed, device) = bed(WatchdogWanted::Required, &[quirk]);
        if step == WatchdogStep::None {
            bed.up();
            assert_eq!(bed.page.watchdog_state(), WatchdogState::Armed);
            continue;
        }
        bed.start(Server::Start(bed.postgres()));
        let code = bed.ended(LONG);
        assert_eq!(StartFailure::of_code(code), Some(StartFailure::Watchdog), "{}", quirk.name());
        assert_eq!(bed.page.watchdog_state(), WatchdogState::Failed, "{}", quirk.name());
        assert_eq!(bed.page.watchdog_step(), step, "{}", quirk.name());
        let errno = matches!(quirk, Quirk::Open(_) | Quirk::SetTimeout(_) | Quirk::Ping(_));
        assert!(!errno || bed.page.watchdog_errno() == libc::EIO, "{}", quirk.name());
        assert!(bed.servers().is_empty());
        drop(device);
    }
}

#[test]
fn where_it_is_not_required_the_server_runs_without_it() {
    if lacks(NEEDS) {
        return;
    }
    let (mut bed, device) = bed(WatchdogWanted::Automatic, &[Quirk::Grants(60)]);
    bed.up();
    assert_eq!(bed.page.watchdog_state(), WatchdogState::Failed);
    assert_eq!(bed.page.watchdog_step(), WatchdogStep::TooLong);
    assert_eq!(bed.page.watchdog_granted_s(), 60);
    assert!(!device.armed(), "what is refused is stopped again");
    // Mended, and wanted again.
    device.behave([]);
    bed.page.set_watchdog_wanted(WatchdogWanted::Off);
    let is = |wanted| until(LONG, || (bed.page.watchdog_state() == wanted).then_some(()));
    is(WatchdogState::Off).expect("forgotten");
    bed.page.set_watchdog_wanted(WatchdogWanted::Required);
    is(WatchdogState::Armed).expect("armed");
    // A ping that fails is told, and told when it works again.
    device.behave([Quirk::Ping(nix::errno::Errno::EIO)]);
    is(WatchdogState::Failed).expect("told");
    assert_eq!(bed.page.watchdog_errno(), libc::EIO);
    device.behave([]);
    is(WatchdogState::Armed).expect("told");
}

#[test]
fn without_a_device_none_is_armed() {
    let mut bed = Bed::new();
    bed.page.set_watchdog_wanted(WatchdogWanted::Required);
    bed.start(Server::Start(bed.postgres()));
    assert_eq!(StartFailure::of_code(bed.ended(LONG)), Some(StartFailure::Watchdog));
    assert_eq!(bed.page.watchdog_step(), WatchdogStep::NoDevice);
}

/// One process in the freezer of cgroup v1.
struct Freezer(PathBuf);

impl Freezer {
    fn of(pid: Pid) -> Self {
        let root = cgroup::controller("freezer").expect("mounted");
        let dir = root.join(format!("regent-guardian-{}", std::process::id()));
        fs::create_dir(&dir).expect("a group");
        fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("moved");
        fs::write(dir.join("freezer.state"), "FROZEN").expect("frozen");
        let frozen = || {
            fs::read_to_string(dir.join("freezer.state")).ok()?.starts_with("FROZEN").then_some(())
        };
        until(LONG, frozen).expect("frozen");
        Self(dir)
    }

    fn thaw(self) {
        drop(self);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        fs::write(self.0.join("freezer.state"), "THAWED").ok();
        let removed = until(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
        debug_assert!(removed.is_some(), "an empty group can be removed");
    }
}
