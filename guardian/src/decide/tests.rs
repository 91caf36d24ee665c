use proptest::prelude::*;

use super::*;
use crate::page::Side;

const KAPPA: Duration = Duration::from_millis(250);

fn ms(millis: u64) -> BootTime {
    BootTime::from_nanos(millis * 1_000_000)
}

fn deadline(millis: u64) -> Deadline {
    Deadline::at(ms(millis))
}

/// D = 10 s, bound = 10 s, stop span until 20 s.
fn view(now: u64, guard: Guard, processes: Processes) -> View {
    View {
        now: ms(now),
        orders: Orders {
            guard,
            writing: deadline(10_000),
            bound: deadline(10_000),
            stop_until: deadline(20_000),
            kill_budget: KAPPA,
        },
        postmaster: true,
        processes,
        killing: None,
        watchdog: Watchdog {
            wanted: WatchdogWanted::Off,
            open: false,
            failed: None,
            left: false,
            last_ping: BootTime::default(),
            timeout: Duration::from_secs(2),
            longest: Duration::ZERO,
        },
    }
}

fn guards() -> Vec<Guard> {
    let mut all = Guard::KNOWN.to_vec();
    all.push(Guard::Unknown(99));
    all
}

/// Every guard, every class of process, before, at and after each instant: the whole table, written
/// down once more.
#[test]
fn every_guard_and_class_at_every_instant() {
    use Because::{BackendAtBound, Deadline as D, StopSpanOver};
    use Processes::{Client, Harmless, None as Nothing, Unknown};
    // now; by deadline; planned stop with: unknown, none, harmless, client.
    type Row = (u64, Option<Because>, [Option<Because>; 4]);
    let table: &[Row] = &[
        (0, None, [None; 4]),
        (9_749, None, [None; 4]),
        (9_750, Some(D), [Some(BackendAtBound), None, None, Some(BackendAtBound)]),
        (10_000, Some(D), [Some(BackendAtBound), None, None, Some(BackendAtBound)]),
        (19_749, Some(D), [Some(BackendAtBound), None, None, Some(BackendAtBound)]),
        (19_750, Some(D), [Some(StopSpanOver); 4]),
        (30_000, Some(D), [Some(StopSpanOver); 4]),
    ];
    for (now, by_deadline, planned) in table {
        for guard in guards() {
            for (index, class) in [Unknown, Nothing, Harmless, Client].into_iter().enumerate() {
                let wanted = match guard {
                    Guard::Off => None,
                    Guard::ByDeadline | Guard::Unknown(_) => *by_deadline,
                    Guard::PlannedStop => planned[index],
                };
                let seen = decide(&view(*now, guard, class));
                assert_eq!(seen.kill, wanted, "{guard:?} at {now} ms with {class:?}");
                assert!(!seen.end, "the postmaster lives");
                // A kill goes on, whatever was ordered since.
                let killing = View { killing: Some(D), ..view(*now, guard, class) };
                assert_eq!(decide(&killing).kill, Some(D), "{guard:?} at {now} ms goes on");
                // The same with a postmaster that has gone: the rest is killed, or nothing is left.
                let orphans = View { postmaster: false, ..view(*now, guard, class) };
                let seen = decide(&orphans);
                assert_eq!(seen.end, class == Nothing);
                assert_eq!(seen.kill, if class == Nothing { None } else { wanted });
            }
        }
    }
    assert_eq!(Processes::ALL.len(), 4);
}

/// W = 2 s, R = 1 s: the last ping that counts may be followed by another until D - 5 s.
#[test]
fn the_watchdog_is_pinged_only_where_it_still_fires_in_time() {
    let armed = |last_ping, now, guard, processes| {
        let mut view = view(now, guard, processes);
        view.watchdog.wanted = WatchdogWanted::Required;
        view.watchdog.open = true;
        view.watchdog.last_ping = ms(last_ping);
        decide(&view).watchdog
    };
    let ping = Some(WatchdogAct::Ping);
    for class in Processes::ALL {
        for guard in [Guard::ByDeadline, Guard::Unknown(7)] {
            assert_eq!(armed(5_000, 6_900, guard, *class), ping);
            assert_eq!(armed(5_001, 6_900, guard, *class), None);
            assert_eq!(armed(0, 9_999, guard, *class), ping, "late, but before D");
            assert_eq!(armed(0, 10_000, guard, *class), None, "never after D");
        }
        assert_eq!(armed(9_000, 10_000, Guard::Off, *class), ping);
        let harmless = matches!(class, Processes::None | Processes::Harmless);
        assert_eq!(armed(5_000, 6_900, Guard::PlannedStop, *class), ping);
        for (last, now) in [(5_001, 6_900), (10_000, 11_000), (15_000, 16_000)] {
            let seen = armed(last, now, Guard::PlannedStop, *class);
            assert_eq!(seen, ping.filter(|_| harmless), "{class:?} {last} {now}");
        }
        assert_eq!(armed(15_001, 16_000, Guard::PlannedStop, *class), None);
        assert_eq!(armed(0, 20_000, Guard::PlannedStop, *class), None);
    }
}

#[test]
fn the_watchdog_is_pinged_four_times_in_its_timeout() {
    let mut view = view(1_499, Guard::ByDeadline, Processes::Unknown);
    view.watchdog.open = true;
    view.watchdog.last_ping = ms(1_000);
    assert_eq!(decide(&view).watchdog, None);
    assert_eq!(decide(&view).wake_at, ms(1_500));
    view.now = ms(1_500);
    assert_eq!(decide(&view).watchdog, Some(WatchdogAct::Ping));
}

#[test]
fn the_watchdog_is_disarmed_only_when_nothing_is_left() {
    for guard in guards() {
        for class in Processes::ALL {
            for postmaster in [true, false] {
                let mut view = view(5_000, guard, *class);
                view.postmaster = postmaster;
                view.watchdog.open = true;
                let disarmed = decide(&view).watchdog == Some(WatchdogAct::Disarm);
                let wanted = !postmaster && *class == Processes::None;
                assert_eq!(disarmed, wanted, "{guard:?} {class:?} postmaster: {postmaster}");
                assert_eq!(decide(&view).end, wanted);
            }
        }
    }
}

#[test]
fn the_watchdog_is_armed_when_wanted() {
    let arms = |wanted, failed, now, guard| {
        let mut view = view(now, guard, Processes::Unknown);
        view.watchdog.wanted = wanted;
        view.watchdog.failed = failed;
        decide(&view).watchdog
    };
    let just = Some(TRY_AGAIN - Duration::from_millis(1));
    for wanted in WatchdogWanted::KNOWN {
        let is_wanted = *wanted != WatchdogWanted::Off;
        let arm = is_wanted.then_some(WatchdogAct::Arm);
        assert_eq!(arms(*wanted, None, 0, Guard::Off), arm);
        let forget = (!is_wanted).then_some(WatchdogAct::Forget);
        assert_eq!(arms(*wanted, just, 0, Guard::Off), forget);
        assert_eq!(arms(*wanted, None, 5_000, Guard::ByDeadline), arm);
        assert_eq!(arms(*wanted, None, 5_001, Guard::ByDeadline), None, "opening is a ping");
        let again = arms(*wanted, Some(TRY_AGAIN), 5_000, Guard::ByDeadline);
        let required = *wanted == WatchdogWanted::Required;
        assert_eq!(again, if required { arm } else { forget }, "a required one is tried again");
        let late = arms(*wanted, Some(TRY_AGAIN), 5_001, Guard::ByDeadline);
        assert_eq!(late, forget, "that is opening, too");
    }
}

/// W = 2 s, the leases bear 1 s by now: the next ping that may be sent sets that instead. Never longer.
#[test]
fn an_armed_watchdog_is_lowered_where_it_may_be_pinged_and_never_raised() {
    let act = |longest, wanted, last_ping, now| {
        let mut view = view(now, Guard::ByDeadline, Processes::Unknown);
        view.watchdog.wanted = wanted;
        view.watchdog.open = true;
        view.watchdog.last_ping = ms(last_ping);
        view.watchdog.longest = Duration::from_secs(longest);
        decide(&view).watchdog
    };
    let (ping, lower) = (Some(WatchdogAct::Ping), Some(WatchdogAct::Lower));
    for wanted in [WatchdogWanted::Required, WatchdogWanted::Automatic, WatchdogWanted::Unknown(9)]
    {
        assert_eq!(act(1, wanted, 5_000, 5_500), lower, "{wanted:?}");
        assert_eq!(act(1, wanted, 5_000, 5_499), None, "with the next ping");
        assert_eq!(act(1, wanted, 5_001, 6_900), None, "by the rule of a ping with 2 s");
        assert_eq!(act(1, wanted, 0, 10_000), None, "nor after D");
        for longest in [0, 2, 3] {
            assert_eq!(act(longest, wanted, 5_000, 5_500), ping, "{longest}");
        }
    }
    assert_eq!(act(1, WatchdogWanted::Off, 5_000, 5_500), ping, "nobody orders anything");
}

/// D = 10 s, W = 2 s, R = 1 s. Before a server is started the device need only fire before D; beside
/// one that runs opening it is a ping like any other.
#[test]
fn a_guardian_that_begins_arms_only_what_still_fires_in_time() {
    let arms = |now, guard, postmaster| {
        let mut view = view(now, guard, Processes::Unknown);
        view.watchdog.wanted = WatchdogWanted::Required;
        view.postmaster = postmaster;
        may_arm_first(&view)
    };
    for guard in [Guard::ByDeadline, Guard::Unknown(7), Guard::PlannedStop] {
        for (now, starts, runs) in [
            (5_000, true, true),
            (5_001, true, false),
            (7_000, true, false),
            (7_001, false, false),
            (10_000, false, false),
            (60_000, false, false),
        ] {
            assert_eq!(arms(now, guard, false), starts, "{guard:?} starts at {now}");
            assert_eq!(arms(now, guard, true), runs, "{guard:?} runs at {now}");
        }
    }
    assert!(arms(60_000, Guard::Off, false) && arms(60_000, Guard::Off, true));
}

/// A store that answers slowly, and a guardian that died between: its ping bounds the next, so the
/// device that counts is pinged in time.
#[test]
fn what_the_guardian_before_left_counting_is_pinged_by_its_last_ping() {
    let mut view = view(6_900, Guard::ByDeadline, Processes::Unknown);
    view.watchdog.wanted = WatchdogWanted::Required;
    assert_eq!(decide(&view).watchdog, None, "opening is a ping of now");
    (view.watchdog.left, view.watchdog.last_ping) = (true, ms(5_000));
    assert_eq!(decide(&view).watchdog, Some(WatchdogAct::Arm));
    assert!(may_arm_first(&view));
    view.watchdog.last_ping = ms(5_001);
    assert_eq!(decide(&view).watchdog, None);
    assert!(!may_arm_first(&view));
}

#[test]
fn a_device_counts_on_until_it_was_stopped_or_should_have_fired() {
    let page = Page::create().expect("a page");
    page.enter(Side::Guardian);
    assert!(!still_counts(&page, ms(0)), "none");
    page.set_watchdog_granted_s(2);
    page.set_watchdog_last_ping(ms(5_000));
    for state in WatchdogState::KNOWN {
        page.set_watchdog_state(*state);
        for step in WatchdogStep::KNOWN {
            page.set_watchdog_step(*step);
            let counts = *state == WatchdogState::Armed && *step != WatchdogStep::NoMagicClose;
            assert_eq!(still_counts(&page, ms(6_999)), counts, "{state:?} {step:?}");
            assert!(!still_counts(&page, ms(7_000)), "it would have fired");
        }
    }
}

#[test]
fn it_wakes_for_the_kill_not_after_the_tick() {
    assert_eq!(decide(&view(9_740, Guard::ByDeadline, Processes::Unknown)).wake_at, ms(9_750));
    assert_eq!(decide(&view(9_745, Guard::PlannedStop, Processes::Unknown)).wake_at, ms(9_750));
    assert_eq!(decide(&view(19_745, Guard::PlannedStop, Processes::Harmless)).wake_at, ms(19_750));
    assert_eq!(decide(&view(0, Guard::ByDeadline, Processes::Unknown)).wake_at, ms(20));
    assert_eq!(decide(&view(0, Guard::Off, Processes::Unknown)).wake_at, ms(100));
    assert_eq!(decide(&view(9_800, Guard::ByDeadline, Processes::Client)).wake_at, ms(9_805));
}

fn any_view() -> impl Strategy<Value = View> {
    let instant = || (0_u64..9_000).prop_map(ms);
    let until = || (0_u64..9_000).prop_map(deadline);
    let orders = (prop::sample::select(guards()), until(), until(), until(), 0_u64..300).prop_map(
        |(guard, writing, bound, stop_until, kappa)| Orders {
            guard,
            writing,
            bound,
            stop_until: stop_until.raised(bound),
            kill_budget: Duration::from_millis(kappa),
        },
    );
    let watchdog = (
        prop::sample::select(WatchdogWanted::KNOWN),
        any::<bool>(),
        prop::option::of((0_u64..20).prop_map(Duration::from_secs)),
        any::<bool>(),
        instant(),
        1_u64..4,
        0_u64..4,
    )
        .prop_map(|(wanted, open, failed, left, last_ping, timeout, longest)| Watchdog {
            wanted,
            open,
            failed,
            left: left && !open,
            last_ping,
            timeout: Duration::from_secs(timeout),
            longest: Duration::from_secs(longest),
        });
    let killing = prop::option::of(prop::sample::select(&Because::KNOWN[1..]));
    let class = prop::sample::select(Processes::ALL);
    (instant(), orders, any::<bool>(), class, killing, watchdog).prop_map(
        |(now, orders, postmaster, processes, killing, watchdog)| View {
            now,
            orders,
            postmaster,
            processes,
            killing,
            watchdog,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whoever_may_acknowledge_is_killed_before_the_deadline(view in any_view()) {
        let seen = decide(&view);
        let orders = view.orders;
        let end = match orders.guard {
            Guard::Off => None,
            Guard::ByDeadline | Guard::Unknown(_) => Some(orders.writing),
            Guard::PlannedStop => Some(orders.bound),
        };
        let lives = view.postmaster || view.processes != Processes::None;
        let acknowledges = matches!(view.processes, Processes::Client | Processes::Unknown);
        if let Some(end) = end {
            let at = end.instant().minus(orders.kill_budget);
            if view.now >= at && lives && (acknowledges || orders.guard != Guard::PlannedStop) {
                prop_assert!(seen.kill.is_some());
            }
            // And it is awake in time for it.
            prop_assert!(view.now >= at || seen.wake_at <= at || seen.kill.is_some());
        } else {
            prop_assert_eq!(seen.kill, view.killing.filter(|_| !seen.end));
        }
    }

    #[test]
    fn nothing_is_killed_early(view in any_view()) {
        let seen = decide(&view);
        let orders = view.orders;
        let first = orders.writing.earlier(orders.bound).instant().minus(orders.kill_budget);
        if view.now < first && view.killing.is_none() {
            prop_assert_eq!(seen.kill, None);
        }
        if orders.guard == Guard::PlannedStop
            && matches!(view.processes, Processes::None | Processes::Harmless)
            && view.now < orders.stop_until.instant().minus(orders.kill_budget)
            && view.killing.is_none()
        {
            prop_assert_eq!(seen.kill, None, "a shutdown's own processes go on");
        }
    }

    #[test]
    fn no_ping_after_the_deadline_and_no_disarm_with_a_process(view in any_view()) {
        let act = decide(&view).watchdog;
        let orders = view.orders;
        let last = match orders.guard {
            Guard::Off => None,
            Guard::ByDeadline | Guard::Unknown(_) => Some(orders.writing),
            Guard::PlannedStop => Some(orders.stop_until),
        };
        if last.is_some_and(|last| view.now >= last.instant()) {
            let pings = matches!(act, Some(WatchdogAct::Ping | WatchdogAct::Lower | WatchdogAct::Arm));
            prop_assert!(!pings);
        }
        if let (Some(WatchdogAct::Ping | WatchdogAct::Lower), Some(last)) = (act, last) {
            let watchdog = view.watchdog;
            let fires = watchdog.last_ping.plus(watchdog.timeout * 2 + WatchdogTiming::RESET);
            prop_assert!(fires <= last.instant());
        }
        if act == Some(WatchdogAct::Disarm) {
            prop_assert!(!view.postmaster && view.processes == Processes::None);
        }
    }

    #[test]
    fn it_always_wakes_again_soon(view in any_view()) {
        let seen = decide(&view);
        prop_assert!(seen.wake_at > view.now);
        prop_assert!(seen.wake_at <= view.now.plus(IDLE_TICK));
        prop_assert!(view.orders.guard == Guard::Off || seen.wake_at <= view.now.plus(TICK));
    }

    /// A kill that waits for titles could wait for a disk.
    #[test]
    fn a_deadline_kills_unseen(view in any_view()) {
        let seen = decide(&View { processes: Processes::Client, ..view });
        if matches!(seen.kill, Some(Because::Deadline | Because::StopSpanOver)) {
            prop_assert_eq!(look(&view), Look::Presence);
            let unseen = View { processes: Processes::Unknown, ..view };
            prop_assert!(decide(&unseen).kill.is_some());
        }
    }

    #[test]
    fn what_is_not_looked_at_does_not_matter(view in any_view()) {
        if look(&view) == Look::No {
            for class in Processes::ALL {
                prop_assert_eq!(decide(&View { processes: *class, ..view }), decide(&view));
            }
        }
    }
}
