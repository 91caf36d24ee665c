//! The renewal thread against the faulty store: what raises a deadline, and what never does
//! (I7, I9; protocol.md rules 1 to 3). [`carried`]: what a former life left; [`bed`]: the thread and
//! its stores.

#![cfg(test)]

mod bed;
mod carried;

use std::sync::Arc;
use std::time::Duration;

use regent_agent::fence::release::Release;
use regent_agent::fence::renewal::RenewalThread;
use regent_agent::observe::clock::boot_time;
use regent_dcs::memory::{Call, Fault};
use regent_dcs::{Change, Renewal, Store as _, Txn};
use regent_guardian::page::{Guard, Side, WatchdogState};
use regent_proto::epoch::Epoch;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{PrimaryState, Record as _};
use regent_proto::time::{Deadline, LeaseTiming};

use crate::bed::{Bed, CALL, Calls, LEADER, lease, name, primary, timing};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_renewal_raises_and_counts_from_its_sending() {
    let bed = Bed::new();
    bed.lead().await;
    let sent = boot_time();
    bed.hold(sent).await;
    let first = bed.deadlines.primary();
    assert_eq!(first, Deadline::granted(sent, &timing()));
    bed.until("a renewal raises", || bed.deadlines.primary() > first).await;
    let raised = bed.deadlines.primary();
    assert!(raised <= Deadline::granted(boot_time(), &timing()), "never beyond its sending");
    assert_eq!(bed.deadlines.writing(), raised.earlier(bed.deadlines.site()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_renewal_counts_from_its_sending() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    let way = Duration::from_millis(200);
    let calls = Calls::count(&bed.thread_quorum, Some(Fault::Delayed(way)));
    // The renewal in flight may have been quick; from the second one on each takes its time.
    bed.until("slow", || calls.made() >= 2).await;
    let before = bed.deadlines.primary();
    bed.until("a slow renewal raises", || bed.deadlines.primary() > before).await;
    let raised = bed.deadlines.primary();
    assert!(raised <= Deadline::granted(boot_time().minus(way), &timing()), "the way is granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_an_acknowledgement_raises() {
    for fault in [Fault::Refused, Fault::NotDone, Fault::UnknownNotApplied] {
        let bed = Bed::new();
        bed.lead().await;
        bed.hold(boot_time()).await;
        let label = format!("{fault:?}");
        let calls = Calls::count(&bed.thread_quorum, Some(fault));
        // The renewal in flight may still succeed; from the second one on nothing may.
        bed.until("disturbed", || calls.made() >= 2).await;
        let before = bed.deadlines.primary();
        bed.until("disturbed again and again", || calls.made() >= 8).await;
        assert_eq!(bed.deadlines.primary(), before, "{label}");
        assert!(before.lies_ahead(boot_time()), "{label}: nor is it lowered");
    }
}

/// hazards.md rows 7, 29 and 30: whatever the site DCS answers but a renewal, also for longer than one
/// call, the right neither grows nor ends.
#[tokio::test(flavor = "multi_thread")]
async fn no_error_of_the_site_dcs_raises_or_ends_the_right() {
    for fault in [Fault::Refused, Fault::NotDone, Fault::UnknownNotApplied, Fault::UnknownApplied] {
        let bed = Bed::new();
        bed.lead().await;
        let label = format!("{fault:?}");
        let calls = Calls::count(&bed.thread_site, Some(fault));
        // The renewal in flight, two calls at once, may still succeed.
        bed.until("disturbed", || calls.made() >= 4).await;
        let before = bed.deadlines.site();
        bed.until("disturbed again and again", || calls.made() >= 16).await;
        assert_eq!(bed.deadlines.site(), before, "{label}");
        assert!(before.lies_ahead(boot_time()), "{label}: nor is it lowered");
        drop(Calls::count(&bed.thread_site, None));
        bed.until("renewed", || bed.deadlines.site() > before).await;
    }
}

/// What the loop may do again it does at once; and what it may do all along wakes nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_after_a_silence_wakes_the_loop_and_one_after_another_does_not() {
    let bed = Bed::new();
    bed.lead().await;
    let mut tenures = bed.thread.tenures();
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("what the first one woke for is over", || calls.made() >= 4).await;
    tenures.mark_unchanged();
    bed.until("renewed again and again", || calls.made() >= 12).await;
    assert!(!tenures.has_changed().expect("the thread lives"));
    let calls = Calls::count(&bed.thread_site, Some(Fault::NotDone));
    bed.until("silent", || calls.made() >= 4).await;
    tenures.mark_unchanged();
    drop(Calls::count(&bed.thread_site, None));
    let woken = tokio::time::timeout(CALL, tenures.changed()).await;
    woken.expect("in time").expect("the thread lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_read_back_and_counts_for_the_request_that_was_applied() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    bed.thread_quorum.faults().order(Some(Call::Txn), Fault::UnknownApplied);
    let before = bed.deadlines.primary();
    bed.until("the read-back raises", || bed.deadlines.primary() > before).await;
    // And renewal goes on from the revision that the lost request made.
    let raised = bed.deadlines.primary();
    bed.until("the next renewal raises", || bed.deadlines.primary() > raised).await;
    assert!(bed.lease_now().await.counter >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_else_holds_the_lease_ends_the_tenure_at_once() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    bed.put(bed.keys.lease(), lease("t2").encode()).await;
    bed.until("fenced", || bed.deadlines.primary() == Deadline::NEVER).await;
    assert_eq!(bed.lease_now().await.tenure, name("t2"), "and never writes over it");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_primary_that_ends_the_tenure_ends_it() {
    let operation = || name("op-1");
    let fenced = PrimaryState::Fenced {
        to: name("b"),
        operation: operation(),
        accepted: AcceptedLoss::default(),
    };
    let mut moved = primary(PrimaryState::Open);
    moved.holder = name("b");
    moved.epoch = Epoch::new(4);
    let mut by_hand = primary(PrimaryState::Open);
    by_hand.writes_fenced = Some(regent_proto::record::WritesFenced {
        by: "dba".to_owned(),
        reason: "test".to_owned(),
    });
    for record in [primary(fenced), moved, by_hand] {
        let bed = Bed::new();
        bed.lead().await;
        bed.hold(boot_time()).await;
        bed.put(bed.keys.primary(), record.encode()).await;
        bed.until("fenced", || bed.deadlines.primary() == Deadline::NEVER).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_without_a_mark_is_no_end_and_unreadable_is_not_either() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    let state = PrimaryState::Handover {
        to: name("b"),
        operation: name("op-1"),
        span: Duration::from_secs(9),
    };
    bed.put(bed.keys.primary(), primary(state).encode()).await;
    let before = bed.deadlines.primary();
    bed.until("renewed under the handover", || bed.deadlines.primary() > before).await;
    bed.put(bed.keys.primary(), b"garbage".to_vec()).await;
    let calls = Calls::count(&bed.thread_quorum, None);
    bed.until("refused", || calls.made() >= 2).await;
    let kept = bed.deadlines.primary();
    bed.until("refused again and again", || calls.made() >= 6).await;
    assert_eq!(bed.deadlines.primary(), kept, "not raised");
    assert_ne!(kept, Deadline::NEVER, "not ended either: the deadline decides");
    bed.put(bed.keys.primary(), primary(PrimaryState::Open).encode()).await;
    bed.until("renewed after the repair", || bed.deadlines.primary() > kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_end_no_answer_raises_again() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    bed.thread.end_tenure().await;
    assert_eq!(bed.deadlines.primary(), Deadline::NEVER);
    let counter = bed.lease_now().await.counter;
    // Somebody hurried before the end, and the thread comes to it only afterwards.
    bed.deadlines.hurry();
    // The site's renewals show that the thread lives and that time passes.
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("the site lease is renewed", || calls.made() >= 10).await;
    assert_eq!(bed.deadlines.primary(), Deadline::NEVER);
    assert_eq!(bed.lease_now().await.counter, counter, "and none is sent");
}

/// As after a pause of the machine, noticed right after a restart: there is no tenure to end yet, and
/// what the former life was granted holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_hurry_before_the_first_tenure_ends_nothing() {
    let bed = Bed::new();
    let granted = bed.of_a_former_life(Duration::from_secs(30)).await;
    bed.store_lease().await;
    bed.deadlines.hurry();
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("the site lease is renewed", || calls.made() >= 10).await;
    assert_eq!(bed.deadlines.writing(), granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_site_key_ends_both() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    let other = bed.site.grant(Duration::from_secs(60), CALL).await.expect("well").id;
    let put = Change::put_leased(LEADER, "a2", other);
    bed.site.txn(Txn::new().then(put), CALL).await.expect("well");
    bed.until("the site deadline falls", || bed.deadlines.site() == Deadline::NEVER).await;
    bed.until("renewal ends", || bed.deadlines.primary() == Deadline::NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_leader_key_is_created_again_by_its_holder() {
    let bed = Bed::new();
    bed.lead().await;
    let before = bed.deadlines.site();
    bed.site.txn(Txn::new().then(Change::delete(LEADER)), CALL).await.expect("well");
    bed.until("raised again", || bed.deadlines.site() > before).await;
    let entry = bed.site.get(LEADER, CALL).await.expect("well").expect("there again");
    assert_eq!(entry.value, b"a1"[..]);
}

/// What a process that gives the leader key back must never have again by it: a deadline, or the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_that_was_given_back_is_not_made_again() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    let given = bed.thread.release(bed.held().await).await;
    assert!(matches!(given, Release::Gone(_)), "{given:?}");
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("the site lease is renewed", || calls.made() >= 10).await;
    assert_eq!(bed.leader_key().await, None);
    assert_eq!(bed.deadlines.writing(), Deadline::NEVER, "and the page says so");
    assert_eq!((bed.deadlines.site(), bed.deadlines.primary()), (Deadline::NEVER, Deadline::NEVER));
    // Acquired anew it counts like any other.
    bed.lead().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_is_given_back_only_when_nothing_writable_is_guarded() {
    for guard in [Guard::ByDeadline, Guard::PlannedStop] {
        let bed = Bed::new();
        bed.lead().await;
        bed.hold(boot_time()).await;
        bed.deadlines.page().set_guard(guard);
        let given = bed.thread.release(bed.held().await).await;
        assert!(matches!(given, Release::Kept(_)), "{guard:?}: {given:?}");
        // The fence acts on just this.
        assert_eq!(bed.deadlines.writing(), Deadline::NEVER, "{guard:?}");
        let calls = Calls::count(&bed.thread_site, None);
        bed.until("the site lease is renewed", || calls.made() >= 10).await;
        assert!(bed.leader_key().await.is_some(), "{guard:?}: something may still write by it");
        assert_eq!(bed.deadlines.site(), Deadline::NEVER, "{guard:?}: a renewal raised it");
        bed.deadlines.page().set_guard(Guard::Off);
        bed.until_gone().await;
    }
}

/// Whatever becomes of the request: no right by that key, and in the end no key.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_that_is_given_back_goes_though_an_answer_is_lost() {
    let later = Fault::UnknownAppliedLater(Duration::from_millis(50));
    for fault in [Fault::NotDone, Fault::UnknownNotApplied, Fault::UnknownApplied, later] {
        let bed = Bed::new();
        bed.lead().await;
        let held = bed.held().await;
        bed.thread_site.faults().order(Some(Call::Txn), fault.clone());
        let given = bed.thread.release(held).await;
        assert!(matches!(given, Release::Kept(_)), "{fault:?}: {given:?}");
        assert_eq!(bed.deadlines.site(), Deadline::NEVER, "{fault:?}");
        bed.until_gone().await;
        assert_eq!(bed.deadlines.site(), Deadline::NEVER, "{fault:?}");
        // A late one compares a revision that is past.
        bed.lead().await;
        let calls = Calls::count(&bed.thread_site, None);
        bed.until("renewed again and again", || calls.made() >= 10).await;
        assert!(bed.leader_key().await.is_some(), "{fault:?}");
        assert!(bed.deadlines.site().lies_ahead(boot_time()), "{fault:?}");
    }
}

/// A new key that this process took after it had asked for the old one's end is not what it gave back.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_taken_anew_is_not_the_one_that_was_given_back() {
    let bed = Bed::new();
    bed.lead().await;
    bed.deadlines.page().set_guard(Guard::ByDeadline);
    let given = bed.thread.release(bed.held().await).await;
    assert!(matches!(given, Release::Kept(_)), "{given:?}");
    bed.lead().await;
    bed.deadlines.page().set_guard(Guard::Off);
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("renewed again and again", || calls.made() >= 10).await;
    assert!(bed.leader_key().await.is_some());
    assert!(bed.deadlines.site().lies_ahead(boot_time()));
}

/// A shorter lease is no new key: its move would bring the old one's right back.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_ttl_does_not_bring_back_what_was_given_back() {
    let bed = Bed::new();
    bed.lead().await;
    let held = bed.held().await;
    bed.deadlines.page().set_guard(Guard::ByDeadline);
    drop(bed.thread.release(held).await);
    bed.thread.renew_site(LeaseTiming { ttl: Duration::from_secs(120), ..timing() }).await;
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("the site lease is renewed", || calls.made() >= 10).await;
    assert_eq!(bed.leader_key().await, Some(held.revision()), "as it was");
    assert_eq!(bed.deadlines.site(), Deadline::NEVER);
}

/// I12: an agent that ends while something may still write leaves the key to expire.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_lets_go_at_once_only_of_what_it_gave_back() {
    // Given back, but the fence still ends what it guards: the key stands.
    for (asked, guard) in [(false, Guard::Off), (true, Guard::ByDeadline), (true, Guard::Off)] {
        let mut bed = Bed::new();
        bed.lead().await;
        let lease = bed.store_lease().await;
        bed.deadlines.page().set_guard(guard);
        if asked {
            drop(bed.thread.release(bed.held().await).await);
        }
        let given_back = asked && guard == Guard::Off;
        let deadlines = Arc::clone(&bed.deadlines);
        let (idle, loops) = RenewalThread::wire(Arc::clone(&bed.deadlines), false);
        drop(loops);
        drop(std::mem::replace(&mut bed.thread, idle));
        // The thread's share of them goes with it.
        bed.until("the thread has ended", || Arc::strong_count(&deadlines) == 3).await;
        let lives = bed.site.renew(lease, CALL).await.expect("well");
        assert_eq!(matches!(lives, Renewal::Renewed { .. }), !given_back);
        assert_eq!(bed.leader_key().await.is_some(), !given_back);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_the_site_store_forgot_ends_the_right_at_once() {
    let bed = Bed::new();
    bed.lead().await;
    let lease = bed.store_lease().await;
    bed.thread_site.expire_early(lease);
    bed.until("fenced", || bed.deadlines.site() == Deadline::NEVER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_overwritten_under_its_lease_is_mended() {
    let bed = Bed::new();
    bed.lead().await;
    let lease = bed.store_lease().await;
    let put = Change::put_leased(LEADER, "{\"version\": 494}", lease);
    bed.site.txn(Txn::new().then(put), CALL).await.expect("well");
    let before = bed.deadlines.site();
    bed.until("raised", || bed.deadlines.site() > before).await;
    let entry = bed.site.get(LEADER, CALL).await.expect("well").expect("there");
    assert_eq!(entry.value, b"a1"[..]);
}

/// A watchdog that is armed for longer than the new TTL bears would end a healthy primary: the lease
/// stays as long as it was, also where the store forgets it, until the device is lowered.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_ttl_waits_until_an_armed_watchdog_is_lowered() {
    for forgotten in [false, true] {
        let bed = Bed::new();
        bed.lead().await;
        let page = bed.deadlines.page();
        page.enter(Side::Guardian);
        page.set_watchdog_granted_s(29);
        page.set_watchdog_state(WatchdogState::Armed);
        let first = bed.store_lease().await;
        bed.thread.renew_site(LeaseTiming { ttl: Duration::from_secs(20), ..timing() }).await;
        let mut stays = first;
        if forgotten {
            bed.thread_site.expire_early(first);
            bed.until("a new lease", || bed.lease().is_some_and(|lease| lease != first)).await;
            stays = bed.store_lease().await;
            let put = Change::put_leased(LEADER, "a1", stays);
            bed.site.txn(Txn::new().then(put), CALL).await.expect("the store is well");
        }
        let calls = Calls::count(&bed.thread_site, None);
        bed.until("renewed again and again", || calls.made() >= 10).await;
        let long = |deadline: Deadline| deadline.left(boot_time()) > Duration::from_secs(30);
        bed.until("by the long lease", || long(bed.deadlines.site())).await;
        assert_eq!(bed.lease(), Some(stays));
        page.set_watchdog_granted_s(9);
        bed.until("the lease has moved", || bed.lease() != Some(stays)).await;
        bed.until("by the short lease", || {
            let deadline = bed.deadlines.site();
            deadline.lies_ahead(boot_time()) && !long(deadline)
        })
        .await;
    }
}

/// The key moves to a lease of the new TTL; the holder is never without a right, and while the key
/// may hang on a shorter lease the deadline counts by that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_ttl_moves_the_key_and_fences_nobody() {
    let later = Fault::UnknownAppliedLater(Duration::from_millis(50));
    for ttl in [5, 120].map(Duration::from_secs) {
        for (call, fault) in [
            (Call::Txn, None),
            (Call::Txn, Some(Fault::UnknownNotApplied)),
            (Call::Txn, Some(Fault::UnknownApplied)),
            (Call::Txn, Some(later.clone())),
            (Call::Grant, Some(Fault::NotDone)),
            (Call::Grant, Some(Fault::UnknownApplied)),
            (Call::Get, Some(Fault::NotDone)),
        ] {
            let bed = Bed::new();
            bed.lead().await;
            bed.hold(boot_time()).await;
            let label = format!("{ttl:?} {call:?} {fault:?}");
            let first = bed.store_lease().await;
            if let Some(fault) = fault {
                bed.thread_site.faults().order(Some(call), fault);
            }
            bed.thread.renew_site(LeaseTiming { ttl, ..timing() }).await;
            let moved = async {
                loop {
                    let entry = bed.site.get(LEADER, CALL).await.expect("well").expect("there");
                    let deadline = bed.deadlines.site();
                    assert!(deadline.lies_ahead(boot_time()), "{label}: fenced on the way");
                    let on_new = entry.lease != Some(first);
                    if on_new {
                        assert!(deadline.left(boot_time()) <= ttl, "{label}: beyond its lease");
                    }
                    if on_new && entry.lease == Some(bed.store_lease().await) {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), moved).await.expect(&label);
            let before = bed.deadlines.site();
            bed.until("the new lease is renewed", || bed.deadlines.site() > before).await;
            assert_ne!(bed.deadlines.primary(), Deadline::NEVER, "{label}: the tenure lives");
            assert!(bed.deadlines.site().left(boot_time()) <= ttl, "{label}");
        }
    }
}

/// The key is another's, or gone, by the time that the lease of the new TTL is there: whoever led goes
/// on under a lease that lives, and without a right.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_ttl_ends_though_the_key_was_lost_meanwhile() {
    for (others, past) in [(true, true), (true, false), (false, true)] {
        let bed = Bed::new();
        bed.lead().await;
        let first = bed.store_lease().await;
        let calls = Calls::count(&bed.thread_site, Some(Fault::NotDone));
        bed.until("cut off", || calls.made() >= 2).await;
        if past {
            bed.deadlines.page().set_site_deadline(Deadline::at(boot_time()));
        }
        let theirs = bed.site.grant(Duration::from_secs(60), CALL).await.expect("well").id;
        let change = match others {
            true => Change::put_leased(LEADER, "a2", theirs),
            false => Change::delete(LEADER),
        };
        bed.site.txn(Txn::new().then(change), CALL).await.expect("well");
        bed.thread.renew_site(LeaseTiming { ttl: Duration::from_secs(120), ..timing() }).await;
        bed.thread_site.faults().otherwise(|_| None);
        let label = format!("another's: {others}, past: {past}");
        let mut tenures = bed.thread.tenures();
        let moved = tenures.wait_for(|t| t.lease.is_some_and(|lease| lease != first));
        drop(tokio::time::timeout(Duration::from_secs(5), moved).await.expect(&label));
        bed.until(&label, || bed.deadlines.site() == Deadline::NEVER).await;
        let lives = bed.site.renew(bed.store_lease().await, CALL).await.expect("well");
        assert!(matches!(lives, Renewal::Renewed { .. }), "{label}");
        assert_eq!(bed.leader_key().await.is_some(), others, "{label}: it is left alone");
    }
}

/// Deleted while its holder moves it: made again on the new lease, by whose length it counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_deleted_under_a_changed_ttl_is_created_again() {
    for ttl in [5, 120].map(Duration::from_secs) {
        let bed = Bed::new();
        bed.lead().await;
        let first = bed.store_lease().await;
        let calls = Calls::count(&bed.thread_site, Some(Fault::NotDone));
        bed.until("cut off", || calls.made() >= 2).await;
        bed.site.txn(Txn::new().then(Change::delete(LEADER)), CALL).await.expect("well");
        bed.thread.renew_site(LeaseTiming { ttl, ..timing() }).await;
        bed.thread_site.faults().otherwise(|_| None);
        let again = async {
            loop {
                assert!(bed.deadlines.site().lies_ahead(boot_time()), "{ttl:?}: fenced");
                if let Some(entry) = bed.site.get(LEADER, CALL).await.expect("well") {
                    return entry;
                }
                tokio::task::yield_now().await;
            }
        };
        let again = tokio::time::timeout(Duration::from_secs(5), again).await;
        let entry = again.expect("the key is there again");
        assert!(bed.deadlines.site().left(boot_time()) <= ttl, "{ttl:?}: beyond its lease");
        assert_eq!(entry.value, b"a1"[..]);
        assert!(entry.lease != Some(first) && entry.lease == Some(bed.store_lease().await));
        let before = bed.deadlines.site();
        bed.until("the new lease is renewed", || bed.deadlines.site() > before).await;
    }
}

/// The TTL is set back while nobody knows which lease the key hangs on.
#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_changed_twice_fences_nobody() {
    let bed = Bed::new();
    bed.lead().await;
    let first = bed.store_lease().await;
    let mut cut = false;
    bed.thread_site.faults().otherwise(move |call| {
        if cut {
            return Some(Fault::NotDone);
        }
        cut = call == Call::Txn;
        cut.then_some(Fault::UnknownApplied)
    });
    bed.thread.renew_site(LeaseTiming { ttl: Duration::from_secs(5), ..timing() }).await;
    let moved = async {
        let there = || async { bed.site.get(LEADER, CALL).await.expect("well").expect("there") };
        while there().await.lease == Some(first) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), moved).await.expect("the key moves");
    bed.thread.renew_site(timing()).await;
    bed.thread_site.faults().otherwise(|_| None);
    let long = Duration::from_secs(30);
    bed.until("the first TTL again", || bed.deadlines.site().left(boot_time()) > long).await;
    let entry = bed.site.get(LEADER, CALL).await.expect("well").expect("there");
    assert_eq!(entry.lease, Some(bed.store_lease().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_are_measured() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold(boot_time()).await;
    let measured = bed.deadlines.measured();
    bed.until("both are there", || {
        measured.site_round_trip.last().is_some() && measured.primary_round_trip.last().is_some()
    })
    .await;
    assert!(measured.site_round_trip.worst() >= measured.site_round_trip.last());
}
