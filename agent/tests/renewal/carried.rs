//! What a former life of the agent left: its right holds until this life knows better, and never
//! longer than the lease on which the leader key hangs by then (I7).

use std::time::Duration;

use regent_agent::observe::clock::boot_time;
use regent_dcs::{Change, Store as _, Txn};
use regent_guardian::page::{Side, WatchdogState};
use regent_proto::time::{Deadline, LeaseTiming, WatchdogTiming};

use crate::bed::{Bed, CALL, Calls, LEADER, timing};

/// Longer than a lease of this life would grant.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_first_rights_of_this_life() {
    let bed = Bed::new();
    bed.of_a_former_life(Duration::from_secs(30)).await;
    bed.lead().await;
    bed.until("it is bound by the new lease", || {
        bed.deadlines.page().carried() <= bed.deadlines.site()
    })
    .await;
    assert!(bed.deadlines.page().carried() > Deadline::NEVER, "the primary lease is not renewed");
    bed.hold(boot_time()).await;
    assert_eq!(bed.deadlines.page().carried(), Deadline::NEVER);
    assert!(bed.deadlines.writing() <= bed.deadlines.site());
    assert!(bed.deadlines.writing() <= bed.deadlines.primary());
}

/// The TTL was lowered while nobody ran: the key is about to hang on a shorter lease.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_never_longer_than_the_first_lease_of_this_life() {
    let (deadlines, site) = (Bed::page(), Bed::store());
    let lease = site.grant(LONG * 2, CALL).await.expect("well").id;
    site.txn(Txn::new().then(Change::put_leased(LEADER, "a1", lease)), CALL).await.expect("well");
    deadlines.page().set_carried(Deadline::at(boot_time().plus(LONG)));
    let bed = Bed::on(deadlines, site);
    bed.store_lease().await;
    assert!(bed.deadlines.writing().lies_ahead(boot_time()));
    assert!(bed.deadlines.page().carried() <= Deadline::granted(boot_time(), &timing()));
}

/// The TTL was raised, and only the store knows: a watchdog is armed for more than the file's TTL bears.
#[tokio::test(flavor = "multi_thread")]
async fn an_armed_watchdog_gets_a_lease_that_it_bears() {
    let (deadlines, site) = (Bed::page(), Bed::store());
    let lease = site.grant(LONG * 2, CALL).await.expect("well").id;
    site.txn(Txn::new().then(Change::put_leased(LEADER, "a1", lease)), CALL).await.expect("well");
    let page = deadlines.page();
    page.enter(Side::Guardian);
    page.set_watchdog_granted_s(40);
    page.set_watchdog_state(WatchdogState::Armed);
    page.set_carried(Deadline::at(boot_time().plus(LONG)));
    let bed = Bed::on(deadlines, site);
    bed.store_lease().await;
    let carried = bed.deadlines.page().carried();
    assert!(carried < Deadline::at(boot_time().plus(LONG / 2)), "by this life's lease");
    let granted = Duration::from_secs(40);
    assert!(WatchdogTiming::may_ping(granted, boot_time(), carried), "the device is pinged on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_ttl_lowers_it() {
    let bed = Bed::new();
    bed.of_a_former_life(Duration::from_secs(50)).await;
    bed.lead().await;
    let short = LeaseTiming { ttl: Duration::from_secs(20), ..timing() };
    bed.thread.renew_site(short.clone()).await;
    bed.until("it is lowered", || {
        bed.deadlines.page().carried() <= Deadline::granted(boot_time(), &short)
    })
    .await;
    assert!(bed.deadlines.writing() <= Deadline::granted(boot_time(), &short));
}

/// Deleted, or another's: somebody else may open by now.
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_key() {
    for deleted in [true, false] {
        let bed = Bed::new();
        bed.of_a_former_life(Duration::from_secs(30)).await;
        let change = if deleted {
            Change::delete(LEADER)
        } else {
            let other = bed.site.grant(Duration::from_secs(60), CALL).await.expect("well").id;
            Change::put_leased(LEADER, "a2", other)
        };
        bed.site.txn(Txn::new().then(change), CALL).await.expect("well");
        bed.until("it ends", || bed.deadlines.writing() == Deadline::NEVER).await;
    }
}

/// A frozen server acknowledges nothing: it has its time until it is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_keeps_its_time() {
    let bed = Bed::new();
    bed.deadlines.page().set_frozen(true);
    let until = bed.of_a_former_life(LONG).await;
    bed.site.txn(Txn::new().then(Change::delete(LEADER)), CALL).await.expect("well");
    bed.store_lease().await;
    let calls = Calls::count(&bed.thread_site, None);
    bed.until("the site lease is renewed", || calls.made() >= 10).await;
    assert_eq!(bed.deadlines.writing(), until);
}
