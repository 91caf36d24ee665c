//! Rung 3: the guardian and a watchdog device, with a real PostgreSQL between them.
//!
//! The device is emulated (`regent_test_sys::watchdog`) and resets its node by killing guardian and
//! server. Every run's trace is judged: no ping after the deadline nor so late that the device
//! would fire after it, no disarming while a process lives, armed before the key is taken.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_guardian::launch::StartFailure;
use regent_guardian::page::{Because, Guard, WatchdogState, WatchdogStep, WatchdogWanted};
use regent_proto::time::{BootTime, Deadline};
use regent_test_sys::disk::{self, Disk};
use regent_test_sys::process::{Stopped, living_in, stat, title};
use regent_test_sys::tools::Owned;
use regent_test_sys::watchdog::{Event, Quirk, Trace};
use regent_test_sys::{boot, lacks};
use regent_tests::guarded::{EPSILON, Guarded, NEEDS, RESET, SOON, Start, TIMEOUT, TTL};
use regent_tests::say;

const REQUIRED: Start<'_> = Start { quirks: &[], wanted: WatchdogWanted::Required };
const W: Duration = Duration::from_secs(TIMEOUT as u64);

/// A server that leads, with its watchdog pinged.
fn leading(start: &Start<'_>) -> Guarded {
    let mut guarded = Guarded::prepare(start).expect("a guarded server");
    guarded.lead().expect("it leads");
    guarded
}

fn last_ping(trace: &Trace, before: BootTime) -> BootTime {
    let all = trace.all();
    let pings = all.iter().filter(|h| h.event == Event::Ping && h.at <= before);
    pings.map(|h| h.at).max().expect("it was pinged")
}

fn expired(event: &Event) -> bool {
    *event == Event::Expired
}

fn reset(event: &Event) -> bool {
    matches!(event, Event::Reset { killed: Ok(1..) })
}

fn disarmed(event: &Event) -> bool {
    matches!(event, Event::Closed { disarmed: true, .. })
}

/// The agent alone hangs. A ping that would let the device fire after D is not sent, so it fires
/// before the guardian's own kill: a hanging agent costs a reset, and it comes before D.
#[test]
fn an_agent_that_hangs_is_reset_before_the_lease_ends() {
    if lacks(NEEDS) {
        return;
    }
    let guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    let deadline = guarded.stop_agent().instant();
    let gone = trace.first(SOON, reset).expect("the node is reset");
    assert!(gone < deadline, "{:?} after D", gone.since(deadline));
    assert_eq!(living_in(&guarded.data).len(), 0);
    assert!(trace.first(Duration::ZERO, disarmed).is_none());
    assert_eq!(guarded.violations(), []);
}

/// The guardian is stopped, the agent renews on: the device resets the node within W + R.
#[test]
fn a_stopped_guardian_is_followed_by_a_reset() {
    if lacks(NEEDS) {
        return;
    }
    let guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    let stopped = Stopped::these([guarded.guardian().expect("it runs")]).expect("it stops");
    let at = boot::now();
    let gone = trace.first(SOON, reset).expect("the node is reset");
    let pinged = last_ping(&trace, gone);
    assert!(pinged <= at, "pinged while stopped");
    assert!(gone.since(pinged) <= W + RESET, "{:?} after the last ping", gone.since(pinged));
    assert_eq!(living_in(&guarded.data).len(), 0);
    assert_eq!(guarded.violations(), []);
    say(format!("reset {:?} after the last ping", gone.since(pinged)));
    drop(stopped);
}

/// Agent and guardian are both stopped at every phase of a ping's period: nothing of the node lives
/// when the lease, as its store counts, could be taken.
#[test]
fn agent_and_guardian_stopped_together_are_reset_before_the_lease_ends() {
    if lacks(NEEDS) {
        return;
    }
    for phase in [0, 170, 340] {
        let guarded = leading(&REQUIRED);
        let trace = guarded.device.trace();
        boot::pause(Duration::from_millis(phase));
        let stopped = Stopped::these([guarded.guardian().expect("it runs")]).expect("it stops");
        let deadline = guarded.stop_agent();
        let gone = trace.first(SOON, reset).expect("the node is reset");
        assert!(gone < deadline.instant(), "{:?} after D", gone.since(deadline.instant()));
        assert_eq!(living_in(&guarded.data).len(), 0);
        assert_eq!(guarded.violations(), []);
        say(format!("phase {phase} ms: reset {:?} before D", deadline.instant().since(gone)));
        drop(stopped);
    }
}

/// Both stopped first the agent, and the guardian as late as the rule for pings lets it ping.
#[test]
fn a_guardian_stopped_long_after_its_agent_is_still_reset_before_the_lease_ends() {
    if lacks(NEEDS) {
        return;
    }
    let guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    let deadline = guarded.stop_agent();
    let latest = deadline.instant().minus(W + RESET);
    boot::pause(latest.since(boot::now()));
    let stopped = Stopped::these([guarded.guardian().expect("it runs")]).expect("it stops");
    let gone = trace.first(SOON, reset).expect("the node is reset");
    assert!(gone < deadline.instant(), "{:?} after D", gone.since(deadline.instant()));
    assert_eq!(guarded.violations(), []);
    drop(stopped);
}

/// A stopped backend keeps a planned stop, and the watchdog armed, until it is killed at the bound.
#[test]
fn a_stopped_backend_keeps_the_watchdog_armed_until_it_is_killed() {
    if lacks(NEEDS) {
        return;
    }
    let mut guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    let client = Owned(guarded.sql("SELECT pg_sleep(600)").spawn().expect("psql starts"));
    let backend = boot::until(SOON, || {
        living_in(&guarded.data).into_iter().find(|pid| title(*pid).contains(" SELECT"))
    });
    let stopped = Stopped::these([backend.expect("a backend")]).expect("it stops");
    let deadline = guarded.stop_agent();
    let bound = boot::now().plus(Duration::from_secs(2)).min(deadline.instant());
    guarded.page.plan_stop(Deadline::at(bound), deadline);
    guarded.signal_postmaster(Signal::SIGINT).expect("a fast shutdown begins");
    guarded.end(SOON).expect("the guardian ends");
    let closed = trace.first(SOON, disarmed).expect("it is disarmed");
    assert_eq!(guarded.page.killed_because(), Because::BackendAtBound);
    assert!(guarded.page.kill_began() < closed && closed < deadline.instant());
    assert_eq!(guarded.violations(), []);
    drop((stopped, client));
}

/// A clean stop: nothing is killed, and the watchdog is disarmed after the last process.
#[test]
fn a_clean_stop_disarms_the_watchdog() {
    if lacks(NEEDS) {
        return;
    }
    let mut guarded = leading(&REQUIRED);
    guarded.signal_postmaster(Signal::SIGINT).expect("a fast shutdown begins");
    assert!(guarded.end(SOON).expect("the guardian ends").success());
    guarded.device.trace().first(SOON, disarmed).expect("it is disarmed");
    assert_eq!(guarded.page.kills(), 0);
    assert_eq!(guarded.violations(), []);
}

/// A backend that waits for a dead disk can't be killed: SIGKILL stays pending. It counts as alive,
/// so the watchdog stays armed, is pinged no more, and fires before D.
#[test]
fn a_process_that_cannot_be_killed_is_left_to_the_watchdog() {
    if lacks(&[NEEDS, disk::NEEDS].concat()) {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mounted = place.path().canonicalize().expect("its path").join("disk");
    std::fs::create_dir(&mounted).expect("a directory");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), all).expect("it can be entered");
    let mut disk = Disk::at(&mounted, 512 << 20).expect("a disk");
    let mut guarded = Guarded::prepare_on(&REQUIRED, disk.place()).expect("a guarded server");
    guarded.lead().expect("it leads");
    let trace = guarded.device.trace();
    disk.freeze().expect("it freezes");
    let client = Owned(guarded.sql("INSERT INTO t VALUES (1)").spawn().expect("psql starts"));
    let hangs = |pid: &Pid| stat(*pid).is_some_and(|stat| stat.state == 'D');
    boot::until(SOON, || living_in(&guarded.data).into_iter().find(hangs))
        .expect("a hanging backend");
    let deadline = guarded.stop_agent();
    let fired = trace.first(SOON, expired).expect("it expires");
    assert!(fired.plus(RESET) <= deadline.instant());
    assert!(trace.first(Duration::ZERO, disarmed).is_none(), "the reset alone closes it");
    assert!(living_in(&guarded.data).iter().any(hangs), "it can't be killed");
    assert_eq!(guarded.violations(), []);
    disk.thaw().expect("it thaws");
    boot::until(SOON, || living_in(&guarded.data).is_empty().then_some(())).expect("all are gone");
    drop((client, guarded, disk));
}

/// A guardian killed with SIGKILL leaves the device armed; nobody pings it.
#[test]
fn a_killed_guardian_leaves_the_watchdog_armed() {
    if lacks(NEEDS) {
        return;
    }
    let mut guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    nix::sys::signal::kill(guarded.guardian().expect("it runs"), Signal::SIGKILL).expect("killed");
    guarded.end(SOON).expect("it ends");
    let closed = trace.first(SOON, |e| matches!(e, Event::Closed { .. })).expect("closed");
    assert!(trace.first(Duration::ZERO, disarmed).is_none());
    let gone = trace.first(SOON, reset).expect("the node is reset");
    assert!(gone.since(closed) <= W + RESET);
    assert_eq!(living_in(&guarded.data).len(), 0);
    assert_eq!(guarded.violations(), []);
}

/// The device begins to fail while it is used: the page says so, and it fires.
#[test]
fn a_device_that_fails_later_is_told_and_fires() {
    if lacks(NEEDS) {
        return;
    }
    let guarded = leading(&REQUIRED);
    guarded.device.behave([Quirk::Ping(Errno::EIO)]);
    let failed = || (guarded.page.watchdog_state() == WatchdogState::Failed).then_some(());
    boot::until(SOON, failed).expect("the page says so");
    assert_eq!(guarded.page.watchdog_step(), WatchdogStep::Ping);
    assert_eq!(guarded.page.watchdog_errno(), Errno::EIO as i32);
    let gone = guarded.device.trace().first(SOON, reset).expect("the node is reset");
    let pinged = last_ping(&guarded.device.trace(), gone);
    assert!(gone.since(pinged) <= W + RESET);
}

/// The leases became shorter: the armed device is set to what they bear while the server goes on. One
/// that does not take it is pinged on, and told.
#[test]
fn an_armed_watchdog_is_lowered_while_the_server_goes_on() {
    if lacks(NEEDS) {
        return;
    }
    let guarded = leading(&REQUIRED);
    let trace = guarded.device.trace();
    let order = |seconds| {
        guarded.page.set_watchdog_timeout_s(seconds);
        guarded.page.set_watchdog_longest_s(seconds);
    };
    guarded.device.behave([Quirk::SetTimeout(Errno::EIO)]);
    order(1);
    let told = || (guarded.page.watchdog_step() == WatchdogStep::SetTimeout).then_some(());
    boot::until(SOON, told).expect("the page says so");
    assert_eq!(guarded.page.watchdog_state(), WatchdogState::Armed);
    assert_eq!(guarded.page.watchdog_granted_s(), u64::from(TIMEOUT));
    let pings = trace.pings();
    boot::until(SOON, || (trace.pings() > pings + 4).then_some(())).expect("pinged on");
    guarded.device.behave([]);
    let lowered = || (guarded.page.watchdog_granted_s() == 1).then_some(());
    boot::until(SOON, lowered).expect("the device is lowered");
    let set = |event: &Event| matches!(event, Event::SetTimeout { asked: 1, granted: 1 });
    trace.first(Duration::ZERO, set).expect("by its ioctl");
    order(TIMEOUT.into());
    let pings = trace.pings();
    boot::until(SOON, || (trace.pings() > pings + 8).then_some(())).expect("pinged on");
    assert_eq!(guarded.page.watchdog_granted_s(), 1, "never raised");
    assert!(trace.first(Duration::ZERO, expired).is_none());
    assert_eq!(guarded.page.watchdog_step(), WatchdogStep::None);
    assert_eq!(guarded.violations(), []);
}

/// A server that would start so late that its watchdog fires only after D is not started.
#[test]
fn a_required_watchdog_that_would_be_armed_too_late_starts_nothing() {
    if lacks(NEEDS) {
        return;
    }
    let mut guarded = Guarded::prepare(&REQUIRED).expect("a guarded server");
    // W + R are 3 s.
    let deadline = boot::now().plus(W + RESET);
    guarded.page.set_site_deadline(Deadline::at(deadline));
    guarded.page.set_guard(Guard::ByDeadline);
    guarded.launch().expect("the guardian starts");
    let status = guarded.end(SOON).expect("it gives up");
    let code = i32::from(StartFailure::Watchdog.code());
    assert_eq!(status.code(), Some(code), "{}", guarded.log());
    assert!(guarded.log().contains("the deadline is too near"), "{}", guarded.log());
    assert_eq!(guarded.page.postmaster_pid(), 0);
    assert!(!guarded.device.armed());
    assert!(guarded.device.trace().all().is_empty(), "it was opened");
}

/// What the page says when the device can't be used, or `None` where it can, for a watchdog that is
/// required and for one that is not.
type Verdict = Option<(WatchdogStep, i32)>;

fn verdicts(quirk: Quirk) -> (Verdict, Verdict) {
    let both = |step, errno: i32| (Some((step, errno)), Some((step, errno)));
    match quirk {
        Quirk::Open(errno) => both(WatchdogStep::Open, errno as i32),
        Quirk::NoSupport => both(WatchdogStep::Support, Errno::ENOTTY as i32),
        // The 60 s that it has are longer than W.
        Quirk::FixedTimeout | Quirk::Grants(_) => both(WatchdogStep::TooLong, 0),
        Quirk::SetTimeout(errno) => both(WatchdogStep::SetTimeout, errno as i32),
        Quirk::Ping(errno) => both(WatchdogStep::Ping, errno as i32),
        Quirk::NoMagicClose => (Some((WatchdogStep::NoMagicClose, 0)), None),
        // Nothing tells it beforehand.
        Quirk::NoWayOut => (None, None),
    }
}

/// Each quirk alone: with `required` PostgreSQL is not started and the page says why; without, it
/// is, with or without the watchdog. A device that is refused is stopped again.
#[test]
fn every_quirk_is_told_and_a_required_watchdog_that_fails_starts_nothing() {
    if lacks(NEEDS) {
        return;
    }
    for quirk in Quirk::EACH {
        let (required, automatic) = verdicts(quirk);
        for (wanted, verdict) in
            [(WatchdogWanted::Required, required), (WatchdogWanted::Automatic, automatic)]
        {
            let shown = format!("{} with {wanted:?}", quirk.name());
            let start = Start { quirks: &[quirk], wanted };
            let mut guarded = Guarded::prepare(&start).expect("a guarded server");
            guarded.launch().expect("the guardian starts");
            let page = guarded.page.clone();
            let told = || (page.watchdog_state() != WatchdogState::Off).then_some(());
            boot::until(SOON, told).expect("the page says something");
            let seen = (page.watchdog_state(), page.watchdog_step(), page.watchdog_errno());
            match verdict {
                Some((step, errno)) => {
                    assert_eq!(seen, (WatchdogState::Failed, step, errno), "{shown}");
                    assert!(!guarded.device.armed(), "{shown}: it would reset a node for nothing");
                }
                None => assert_eq!(seen.0, WatchdogState::Armed, "{shown}"),
            }
            if verdict.is_some() && wanted == WatchdogWanted::Required {
                let status = guarded.end(SOON).expect("it gives up");
                let code = i32::from(StartFailure::Watchdog.code());
                assert_eq!(status.code(), Some(code), "{shown}: {}", guarded.log());
                assert_eq!(page.postmaster_pid(), 0, "{shown}");
                assert!(!guarded.data.join("postmaster.pid").exists(), "{shown}");
                assert!(guarded.log().contains("watchdog"), "{shown}: {}", guarded.log());
            } else {
                let runs = || guarded.sql("SELECT 1").status().is_ok_and(|s| s.success());
                boot::until(SOON, || runs().then_some(())).expect("PostgreSQL runs");
            }
        }
    }
}

/// The figures that these tests rest on are those that the arithmetic allows.
#[test]
fn the_timeout_is_the_longest_that_is_safe() {
    assert!(
        W <= (TTL - RESET - EPSILON) / 2
            && W + Duration::from_secs(1) > (TTL - RESET - EPSILON) / 2
    );
}
