//! The thread on two faulty stores, and what the tests do to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regent_agent::act::random::Ids;
use regent_agent::act::site::Held;
use regent_agent::decide::view::LeaderKey;
use regent_agent::fence::Deadlines;
use regent_agent::fence::renewal::{Adopted, GlobalSide, RenewalThread, SiteSide};
use regent_agent::observe::clock::boot_time;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::{Call, Fault, MemoryStore};
use regent_dcs::{Change, LeaseId, Revision, Store as _, Txn};
use regent_guardian::page::Page;
use regent_proto::epoch::Epoch;
use regent_proto::keys::GlobalKeys;
use regent_proto::record::{Lease, Primary, PrimaryState, Record as _, Unknown, VERSION};
use regent_proto::time::{BootTime, Deadline, LeaseTiming};

pub(crate) const LEADER: &str = "/service/a/leader";
pub(crate) const CALL: Duration = Duration::from_secs(1);

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("names in tests are well formed")
}

pub(crate) fn timing() -> LeaseTiming {
    LeaseTiming {
        ttl: Duration::from_secs(60),
        renew_every: Duration::from_millis(20),
        call_timeout: Duration::from_millis(500),
        stop_budget: Duration::from_secs(1),
        kill_budget: Duration::from_millis(250),
    }
}

pub(crate) fn primary(state: PrimaryState) -> Primary {
    Primary {
        version: VERSION,
        federation: uuid::Uuid::nil(),
        system_identifier: None,
        holder: name("a"),
        epoch: Epoch::new(3),
        state,
        floor: None,
        electorate: ["a", "b"].iter().map(|s| name(s)).collect(),
        ttl_max: Duration::from_secs(60),
        span_max: Duration::from_secs(60),
        writes_fenced: None,
        unknown: Unknown::new(),
    }
}

pub(crate) fn lease(tenure: &str) -> Lease {
    Lease {
        version: VERSION,
        site: name("a"),
        node: name("a1"),
        tenure: name(tenure),
        epoch: Epoch::new(3),
        counter: 0,
        request: name("first"),
        ttl: Duration::from_secs(60),
        released: false,
        unknown: Unknown::new(),
    }
}

/// Counts a handle's calls, and disturbs each of them.
pub(crate) struct Calls(Arc<AtomicU64>);

impl Calls {
    pub(crate) fn count(store: &MemoryStore, fault: Option<Fault>) -> Self {
        let made = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&made);
        store.faults().otherwise(move |call| {
            matches!(call, Call::Txn | Call::Get | Call::Renew).then(|| {
                counter.fetch_add(1, Ordering::SeqCst);
            })?;
            fault.clone()
        });
        Self(made)
    }

    pub(crate) fn made(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The two stores, the thread on them, and handles whose calls are not disturbed.
pub(crate) struct Bed {
    pub(crate) site: MemoryStore,
    pub(crate) quorum: MemoryStore,
    /// The thread's handles, for faults.
    pub(crate) thread_site: MemoryStore,
    pub(crate) thread_quorum: MemoryStore,
    pub(crate) keys: GlobalKeys,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) thread: RenewalThread,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::on(Self::page(), Self::store())
    }

    /// An empty site DCS.
    pub(crate) fn store() -> MemoryStore {
        MemoryStore::new(BootClock::kernel().expect("a boot id"))
    }

    /// Deadlines in a page of their own.
    pub(crate) fn page() -> Arc<Deadlines> {
        Arc::new(Deadlines::new(Page::create().expect("a page"), true))
    }

    /// The thread, on these deadlines and this site DCS.
    pub(crate) fn on(deadlines: Arc<Deadlines>, site: MemoryStore) -> Self {
        let quorum = Self::store();
        let (thread_site, thread_quorum) = (site.process("thread"), quorum.process("thread"));
        let keys = GlobalKeys::new(&name("f"));
        let sides = (
            SiteSide {
                store: Arc::new(thread_site.clone()),
                leader_key: LEADER.to_owned(),
                me: name("a1"),
                timing: timing(),
                clock: BootClock::kernel().expect("a boot id"),
                failsafe: None,
            },
            Some(GlobalSide {
                store: Arc::new(thread_quorum.clone()),
                keys: keys.clone(),
                site: name("a"),
                clock: BootClock::kernel().expect("a boot id"),
                ids: Ids::Kernel,
                failsafe: None,
            }),
        );
        let open = Box::new(move || {
            let ready: futures::future::BoxFuture<'static, _> = Box::pin(async move { Ok(sides) });
            ready
        });
        let thread =
            RenewalThread::start(open, Arc::clone(&deadlines), true).expect("the thread starts");
        Self { site, quorum, thread_site, thread_quorum, keys, deadlines, thread }
    }

    pub(crate) async fn store_lease(&self) -> LeaseId {
        let mut tenures = self.thread.tenures();
        let found = tokio::time::timeout(CALL, tenures.wait_for(|t| t.lease.is_some())).await;
        found.expect("a lease is granted in time").expect("the thread lives").lease.expect("some")
    }

    /// The store lease as it is now.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.thread.tenures().borrow().lease
    }

    /// Takes the leader key, as the main loop does.
    pub(crate) async fn lead(&self) {
        let lease = self.store_lease().await;
        let put = Change::put_leased(LEADER, "a1", lease);
        self.site.txn(Txn::new().then(put), CALL).await.expect("the store is well");
        self.thread.renew_site(timing()).await;
        self.until("the site deadline lies ahead", || {
            self.deadlines.site().lies_ahead(boot_time())
        })
        .await;
    }

    /// The leader key as a former life left it, with what its last renewal granted.
    pub(crate) async fn of_a_former_life(&self, left: Duration) -> Deadline {
        let granted = Deadline::at(boot_time().plus(left));
        let lease = self.site.grant(left * 2, CALL).await.expect("the store is well").id;
        let put = Change::put_leased(LEADER, "a1", lease);
        self.site.txn(Txn::new().then(put), CALL).await.expect("the store is well");
        self.deadlines.page().set_carried(granted);
        granted
    }

    pub(crate) async fn put(&self, key: String, value: Vec<u8>) -> Revision {
        let txn = Txn::new().then(Change::put(key, value));
        let outcome = self.quorum.txn(txn, CALL).await.expect("the store is well");
        outcome.applied().expect("unconditional")
    }

    /// Writes both records and hands the lease to the thread.
    pub(crate) async fn hold(&self, sent: BootTime) {
        let open = primary(PrimaryState::Open);
        let primary_revision = self.put(self.keys.primary(), open.encode()).await;
        let record = lease("t1");
        let lease_revision = self.put(self.keys.lease(), record.encode()).await;
        let adopted = Adopted {
            record,
            lease_revision,
            primary_revision,
            sent,
            timing: timing(),
            electorate: open.electorate,
            span_max: open.span_max,
        };
        self.thread.adopt(adopted).await;
    }

    /// The leader key as the main loop sees it held.
    pub(crate) async fn held(&self) -> Held {
        let revision = self.leader_key().await.expect("there").0;
        let seen = LeaderKey {
            name: name("a1"),
            unreadable: false,
            bound_to_my_lease: true,
            twin: false,
            revision,
        };
        Held::of(Some(&seen)).expect("bound")
    }

    /// Its revision, where it is there.
    pub(crate) async fn leader_key(&self) -> Option<Revision> {
        self.site.get(LEADER, CALL).await.expect("well").map(|entry| entry.modified)
    }

    pub(crate) async fn until_gone(&self) {
        let gone = async {
            while self.leader_key().await.is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the key goes");
    }

    pub(crate) async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let wait = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect(what);
    }

    /// The lease record as it stands.
    pub(crate) async fn lease_now(&self) -> Lease {
        let entry = self.quorum.get(&self.keys.lease(), CALL).await.expect("well").expect("there");
        Lease::decode(&entry.key, &entry.value).expect("readable")
    }
}
