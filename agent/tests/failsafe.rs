//! The renewal thread without an answer from a store, and what others say meanwhile: what raises a
//! deadline then, and what never does, also when it comes late (I19; protocol.md rule 11).

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use regent_agent::act::random::Ids;
use regent_agent::decide::failsafe::site::{Answer, Members};
use regent_agent::fence::Deadlines;
use regent_agent::fence::renewal::{Adopted, GlobalSide, RenewalThread, SiteSide};
use regent_agent::fence::rounds::{
    QuorumRounds, SharedLeader, SiteRounds, Targets, on_this_runtime,
};
use regent_agent::observe::clock::boot_time;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::{Call, Fault, MemoryStore};
use regent_dcs::{Change, LeaseId, Revision, Store as _, Txn};
use regent_guardian::page::Page;
use regent_proto::epoch::Epoch;
use regent_proto::keys::GlobalKeys;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{Lease, Primary, PrimaryState, Record as _, Unknown, VERSION};
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use tokio::sync::watch;

const LEADER: &str = "/service/a/leader";
const CALL: Duration = Duration::from_secs(1);
/// Longer than the TTL, so that what a promise gives is seen at once.
const SPAN: Duration = Duration::from_secs(90);

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("names in tests are well formed")
}

fn timing() -> LeaseTiming {
    LeaseTiming {
        ttl: Duration::from_secs(60),
        renew_every: Duration::from_millis(20),
        call_timeout: Duration::from_millis(500),
        stop_budget: Duration::from_secs(1),
        kill_budget: Duration::from_millis(250),
    }
}

fn promised(sent: BootTime) -> Deadline {
    Deadline::granted(sent, &LeaseTiming { ttl: SPAN, ..timing() })
}

fn primary(state: PrimaryState) -> Primary {
    Primary {
        version: VERSION,
        federation: uuid::Uuid::nil(),
        system_identifier: None,
        holder: name("a"),
        epoch: Epoch::new(3),
        state,
        floor: None,
        electorate: ["a", "b", "c"].iter().map(|s| name(s)).collect(),
        ttl_max: Duration::from_secs(60),
        span_max: SPAN,
        writes_fenced: None,
        unknown: Unknown::new(),
    }
}

fn lease() -> Lease {
    Lease {
        version: VERSION,
        site: name("a"),
        node: name("a1"),
        tenure: name("t1"),
        epoch: Epoch::new(3),
        counter: 0,
        request: name("first"),
        ttl: Duration::from_secs(60),
        released: false,
        unknown: Unknown::new(),
    }
}

/// Others that answer as told, and not before they are let.
#[derive(Clone)]
struct Others {
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    /// Rounds that began.
    rounds: Arc<AtomicU64>,
    /// Rounds that began after this many get a no.
    last: Arc<AtomicU64>,
    no: Arc<Mutex<Option<&'static str>>>,
    /// How long each round with the members may take.
    bounds: Arc<Mutex<Vec<Duration>>>,
    let_answer: watch::Sender<bool>,
}

impl Others {
    fn new() -> Self {
        Self {
            asked: Arc::default(),
            answered: Arc::default(),
            rounds: Arc::default(),
            last: Arc::new(AtomicU64::new(u64::MAX)),
            no: Arc::default(),
            bounds: Arc::default(),
            let_answer: watch::Sender::new(true),
        }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn begins(&self) -> u64 {
        self.rounds.fetch_add(1, Ordering::SeqCst)
    }

    /// Lets those answer who were asked until now; everybody later gets a no.
    fn answer_what_was_asked(&self) -> BootTime {
        self.last.store(self.rounds.load(Ordering::SeqCst), Ordering::SeqCst);
        let after = boot_time();
        self.let_answer.send_replace(true);
        after
    }

    async fn says_yes(self, who: &str, round: u64) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.let_answer.subscribe();
        gate.wait_for(|open| *open).await.expect("the test lives");
        self.answered.fetch_add(1, Ordering::SeqCst);
        round < self.last.load(Ordering::SeqCst)
            && *self.no.lock().expect("no panic") != Some(leak(who))
    }
}

/// Names of tests are few.
fn leak(who: &str) -> &'static str {
    ["a2", "a3", "b", "c"].into_iter().find(|known| *known == who).unwrap_or("?")
}

struct Bed {
    site: MemoryStore,
    quorum: MemoryStore,
    thread_site: MemoryStore,
    thread_quorum: MemoryStore,
    keys: GlobalKeys,
    deadlines: Arc<Deadlines>,
    thread: RenewalThread,
    leader: SharedLeader,
    targets: watch::Sender<Targets>,
    others: Others,
}

impl Bed {
    fn new() -> Self {
        let site = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let quorum = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let (thread_site, thread_quorum) = (site.process("thread"), quorum.process("thread"));
        let keys = GlobalKeys::new(&name("f"));
        let deadlines = Arc::new(Deadlines::new(Page::create().expect("a page"), true));
        let (others, leader) = (Others::new(), SharedLeader::default());
        let targets = watch::Sender::new(Targets::default());
        let members = others.clone();
        let ask_members: regent_agent::fence::rounds::AskMembers =
            Arc::new(move |asked: Members, bound| {
                let (others, round) = (members.clone(), members.begins());
                others.bounds.lock().expect("no panic").push(bound);
                async move {
                    let mut answers = BTreeMap::new();
                    for member in asked.into_keys() {
                        let yes = others.clone().says_yes(member.as_str(), round).await;
                        let answer = match yes {
                            true => Answer::Accepted { span: Some(SPAN) },
                            false => Answer::Silent("told so".to_owned()),
                        };
                        answers.insert(member, answer);
                    }
                    answers
                }
                .boxed()
            });
        let sites = others.clone();
        let ask_sites: regent_agent::fence::rounds::AskSites = Arc::new(move |request, urls, _| {
            let (others, round) = (sites.clone(), sites.begins());
            async move {
                assert_eq!(request.span(), SPAN, "what `primary` allows");
                let mut answers = BTreeMap::new();
                for site in urls.into_keys() {
                    let yes = others.clone().says_yes(site.as_str(), round).await;
                    answers.insert(site, yes.then_some(SPAN));
                }
                answers
            }
            .boxed()
        });
        let sides = (
            SiteSide {
                store: Arc::new(thread_site.clone()),
                leader_key: LEADER.to_owned(),
                me: name("a1"),
                timing: timing(),
                clock: BootClock::kernel().expect("a boot id"),
                failsafe: Some(SiteRounds {
                    leader: leader.clone(),
                    ask: ask_members,
                    spawn: on_this_runtime(),
                }),
            },
            Some(GlobalSide {
                store: Arc::new(thread_quorum.clone()),
                keys: keys.clone(),
                site: name("a"),
                clock: BootClock::kernel().expect("a boot id"),
                ids: Ids::Kernel,
                failsafe: Some(QuorumRounds {
                    targets: targets.subscribe(),
                    ask: ask_sites,
                    spawn: on_this_runtime(),
                }),
            }),
        );
        let open = Box::new(move || {
            let ready: futures::future::BoxFuture<'static, _> = Box::pin(async move { Ok(sides) });
            ready
        });
        let thread =
            RenewalThread::start(open, Arc::clone(&deadlines), true).expect("the thread starts");
        Self {
            site,
            quorum,
            thread_site,
            thread_quorum,
            keys,
            deadlines,
            thread,
            leader,
            targets,
            others,
        }
    }

    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let wait = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect(what);
    }

    async fn store_lease(&self, not: Option<LeaseId>) -> LeaseId {
        let mut tenures = self.thread.tenures();
        let found = tenures.wait_for(|t| t.lease.is_some() && t.lease != not);
        let found = tokio::time::timeout(CALL * 5, found).await;
        found.expect("a lease is granted in time").expect("the thread lives").lease.expect("some")
    }

    /// Leads the site `a1`, `a2`, `a3` with PostgreSQL open.
    async fn lead(&self) -> LeaseId {
        let lease = self.store_lease(None).await;
        let put = Change::put_leased(LEADER, "a1", lease);
        self.site.txn(Txn::new().then(put), CALL).await.expect("the store is well");
        self.thread.renew_site(timing()).await;
        self.until("the site deadline lies ahead", || {
            self.deadlines.site().lies_ahead(boot_time())
        })
        .await;
        let mut leader = self.leader.lock();
        leader.allow(true);
        let url = |n: &&str| (name(n), format!("http://{n}/patroni"));
        leader.written(["a1", "a2", "a3"].iter().map(url).collect());
        lease
    }

    async fn put(&self, record: &Primary) -> Revision {
        let txn = Txn::new().then(Change::put(self.keys.primary(), record.encode()));
        let outcome = self.quorum.txn(txn, CALL).await.expect("the store is well");
        outcome.applied().expect("unconditional")
    }

    /// Holds the primary lease, and PostgreSQL is open under it.
    async fn hold(&self) {
        self.hold_by(timing()).await;
    }

    async fn hold_by(&self, timing: LeaseTiming) {
        self.targets.send_replace(Targets {
            open: Some(name("t1")),
            urls: ["b", "c"].iter().map(|s| (name(s), Default::default())).collect(),
        });
        let open = primary(PrimaryState::Open);
        let primary_revision = self.put(&open).await;
        let record = lease();
        let put = Txn::new().then(Change::put(self.keys.lease(), record.encode()));
        let outcome = self.quorum.txn(put, CALL).await.expect("the store is well");
        let adopted = Adopted {
            record,
            lease_revision: outcome.applied().expect("unconditional"),
            primary_revision,
            sent: boot_time(),
            timing,
            electorate: open.electorate,
            span_max: open.span_max,
        };
        self.thread.adopt(adopted).await;
    }

    fn cut(store: &MemoryStore, fault: Fault) {
        store.faults().otherwise(move |_| Some(fault.clone()));
    }

    fn well(store: &MemoryStore) {
        store.faults().otherwise(|_| None);
    }

    /// The thread, one runtime for both loops, goes round several times, the site's store answering
    /// so: what could still come of answers that are there has come.
    async fn goes_round(&self, fault: Option<Fault>) {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        self.thread_site.faults().otherwise(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            fault.clone()
        });
        self.until("several rounds", || calls.load(Ordering::SeqCst) >= 12).await;
    }

    /// Further rounds end.
    async fn answers(&self) {
        let answered = self.others.answered();
        self.until("more answers", || self.others.answered() >= answered + 4).await;
    }

    /// Further rounds end and raise nothing.
    async fn nothing_more(&self, which: impl Fn(&Deadlines) -> Deadline, what: &str) {
        let before = which(&self.deadlines);
        self.answers().await;
        assert_eq!(which(&self.deadlines), before, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_store_and_every_member_agreeing_raise_the_site_deadline() {
    let bed = Bed::new();
    bed.lead().await;
    let renewed = bed.deadlines.site();
    assert_eq!(bed.others.asked(), 0, "a store that answers is not replaced");
    Bed::cut(&bed.thread_site, Fault::NotDone);
    bed.until("a round raises", || bed.deadlines.site() > renewed).await;
    let raised = bed.deadlines.site();
    // Never more than the lease's own TTL, though the members would keep their word for longer.
    assert!(raised <= Deadline::granted(boot_time(), &timing()));
    assert!(bed.leader.lock().stands(boot_time()));
    bed.until("and again", || bed.deadlines.site() > raised).await;
    Bed::well(&bed.thread_site);
    bed.until("renewals are enough again", || !bed.leader.lock().stands(boot_time())).await;
    assert!(bed.deadlines.site().lies_ahead(boot_time()));
}

/// The store falls silent while the leader key moves to a lease of another TTL.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_under_a_changed_ttl_is_a_silent_one() {
    for ttl in [120, 5].map(Duration::from_secs) {
        let bed = Bed::new();
        bed.lead().await;
        let mut cut = false;
        bed.thread_site.faults().otherwise(move |call| {
            if cut {
                return Some(Fault::NotDone);
            }
            cut = call == Call::Grant;
            None
        });
        bed.thread.renew_site(LeaseTiming { ttl, ..timing() }).await;
        bed.until("members are asked", || bed.others.answered() >= 2).await;
        let before = bed.deadlines.site();
        if ttl > timing().ttl {
            bed.until("raised", || bed.deadlines.site() > before).await;
        } else {
            bed.nothing_more(Deadlines::site, "the key may hang on the shorter lease").await;
        }
    }
}

/// What comes back late gives no more than what was asked early.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_counts_from_its_first_question_and_not_from_its_answers() {
    let bed = Bed::new();
    bed.lead().await;
    let renewed = bed.deadlines.site();
    bed.others.let_answer.send_replace(false);
    Bed::cut(&bed.thread_site, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 2).await;
    let after = bed.others.answer_what_was_asked();
    bed.until("a round raises", || bed.deadlines.site() > renewed).await;
    bed.answers().await;
    assert!(bed.deadlines.site() <= Deadline::granted(after, &timing()));

    let bed = Bed::new();
    bed.lead().await;
    let began = boot_time();
    bed.hold().await;
    bed.others.let_answer.send_replace(false);
    Bed::cut(&bed.thread_quorum, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 2).await;
    let after = bed.others.answer_what_was_asked();
    bed.until("a round raises", || bed.deadlines.primary() >= promised(began)).await;
    bed.answers().await;
    assert!(bed.deadlines.primary() <= promised(after));
}

/// hazards.md row 14: members behind a slow way have until the fence begins, not a constant of seconds.
#[tokio::test(flavor = "multi_thread")]
async fn members_have_all_the_time_that_is_left_before_the_fence() {
    let bed = Bed::new();
    bed.lead().await;
    Bed::cut(&bed.thread_site, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 2).await;
    let bounds = bed.others.bounds.lock().expect("no panic").clone();
    let first = *bounds.first().expect("a round");
    // The last renewal was a moment ago.
    let most = timing().ttl - timing().stop_budget;
    assert!(first <= most && first > most - Duration::from_secs(10), "{first:?} of {most:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_does_not_agree_and_nothing_is_raised() {
    for silent in ["a2", "a3"] {
        let bed = Bed::new();
        bed.lead().await;
        *bed.others.no.lock().expect("no panic") = Some(silent);
        Bed::cut(&bed.thread_site, Fault::UnknownNotApplied);
        bed.until("asked", || bed.others.asked() >= 4).await;
        bed.nothing_more(Deadlines::site, silent).await;
        assert!(bed.deadlines.site().lies_ahead(boot_time()), "nor is it lowered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_is_no_silent_one() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold().await;
    let refusals = Arc::new(AtomicU64::new(0));
    for store in [&bed.thread_site, &bed.thread_quorum] {
        let count = Arc::clone(&refusals);
        store.faults().otherwise(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Some(Fault::Refused)
        });
    }
    bed.until("refused often", || refusals.load(Ordering::SeqCst) >= 12).await;
    assert_eq!(bed.others.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_yes_does_not_bring_a_lost_key_back() {
    let bed = Bed::new();
    bed.lead().await;
    bed.others.let_answer.send_replace(false);
    Bed::cut(&bed.thread_site, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 2).await;
    let other = bed.site.grant(CALL * 60, CALL).await.expect("well").id;
    let put = Change::put_leased(LEADER, "a2", other);
    bed.site.txn(Txn::new().then(put), CALL).await.expect("well");
    Bed::well(&bed.thread_site);
    bed.until("fenced", || bed.deadlines.site() == Deadline::NEVER).await;
    bed.others.let_answer.send_replace(true);
    bed.goes_round(Some(Fault::NotDone)).await;
    assert_eq!(bed.deadlines.site(), Deadline::NEVER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_store_forgot_in_its_outage_is_made_anew() {
    let bed = Bed::new();
    let lease = bed.lead().await;
    Bed::cut(&bed.thread_site, Fault::NotDone);
    bed.until("by the members' word", || bed.leader.lock().stands(boot_time())).await;
    bed.site.expire_early(lease);
    assert!(bed.site.get(LEADER, CALL).await.expect("well").is_none(), "the store forgot it");
    Bed::well(&bed.thread_site);
    let anew = bed.store_lease(Some(lease)).await;
    bed.until("renewals are enough again", || !bed.leader.lock().stands(boot_time())).await;
    let entry = bed.site.get(LEADER, CALL).await.expect("well").expect("there again");
    assert_eq!((&entry.value[..], entry.lease), (&b"a1"[..], Some(anew)));
    assert!(bed.deadlines.site().lies_ahead(boot_time()), "without a gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_quorum_and_every_site_promising_raise_the_primary_deadline() {
    let bed = Bed::new();
    bed.lead().await;
    let began = boot_time();
    bed.hold().await;
    Bed::cut(&bed.thread_quorum, Fault::UnknownNotApplied);
    bed.until("raised beyond a renewal's", || bed.deadlines.primary() >= promised(began)).await;
    assert!(bed.deadlines.primary() <= promised(boot_time()), "from before it was asked");
    let by =
        |bed: &Bed| bed.thread.tenures().borrow().primary.as_ref().is_some_and(|p| p.by_promise);
    assert!(by(&bed));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_site_that_does_not_promise_and_nothing_is_raised() {
    for silent in ["b", "c"] {
        let bed = Bed::new();
        bed.lead().await;
        *bed.others.no.lock().expect("no panic") = Some(silent);
        bed.hold().await;
        Bed::cut(&bed.thread_quorum, Fault::NotDone);
        bed.until("asked", || bed.others.asked() >= 4).await;
        bed.nothing_more(Deadlines::primary, silent).await;
    }
    // Nor when nobody knows where one of them answers.
    let bed = Bed::new();
    bed.lead().await;
    bed.hold().await;
    bed.targets.send_modify(|targets| drop(targets.urls.remove(&name("c"))));
    Bed::cut(&bed.thread_quorum, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 2).await;
    bed.nothing_more(Deadlines::primary, "an unknown address").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_open_server_of_this_tenure_nobody_is_asked() {
    for open in [None, Some(name("t0"))] {
        let bed = Bed::new();
        bed.lead().await;
        bed.hold().await;
        bed.targets.send_modify(|targets| targets.open.clone_from(&open));
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        bed.thread_quorum.faults().otherwise(move |call| {
            if call == Call::Txn {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Some(Fault::NotDone)
        });
        bed.until("several renewals failed", || calls.load(Ordering::SeqCst) >= 6).await;
        assert_eq!(bed.others.asked(), 0, "{open:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_promise_is_void_after_a_mark_and_after_a_refusal() {
    // The mark: the tenure is ended while the others think it over.
    let bed = Bed::new();
    bed.lead().await;
    bed.hold().await;
    bed.others.let_answer.send_replace(false);
    Bed::cut(&bed.thread_quorum, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 1).await;
    bed.thread.end_tenure().await;
    bed.others.let_answer.send_replace(true);
    bed.goes_round(None).await;
    assert_eq!(bed.deadlines.primary(), Deadline::NEVER);

    // A refusal that ends it: fenced meanwhile.
    let bed = Bed::new();
    bed.lead().await;
    bed.hold().await;
    bed.others.let_answer.send_replace(false);
    Bed::cut(&bed.thread_quorum, Fault::NotDone);
    bed.until("asked", || bed.others.asked() >= 1).await;
    let fenced = PrimaryState::Fenced {
        to: name("b"),
        operation: name("op-1"),
        accepted: AcceptedLoss::default(),
    };
    bed.put(&primary(fenced)).await;
    Bed::well(&bed.thread_quorum);
    bed.until("fenced", || bed.deadlines.primary() == Deadline::NEVER).await;
    bed.others.let_answer.send_replace(true);
    bed.goes_round(None).await;
    assert_eq!(bed.deadlines.primary(), Deadline::NEVER);
}

/// Until the next acknowledgement no promise counts, so a record that somebody changed must not leave
/// the holder without failsafe for a whole interval.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_refused_by_a_record_that_lets_hold_is_sent_anew_at_once() {
    let bed = Bed::new();
    bed.lead().await;
    let timing = LeaseTiming { renew_every: Duration::from_secs(2), ..timing() };
    bed.hold_by(timing.clone()).await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&sent);
    bed.thread_quorum.faults().otherwise(move |call| {
        if call == Call::Txn {
            times.lock().expect("nobody panicked").push(boot_time());
        }
        None
    });
    let span_max = SPAN * 2;
    bed.put(&Primary { span_max, ..primary(PrimaryState::Open) }).await;
    let many = || sent.lock().expect("nobody panicked").len() >= 2;
    bed.until("refused, and sent anew", many).await;
    let sent = sent.lock().expect("nobody panicked").clone();
    let apart = sent[1].since(sent[0]);
    assert!(apart < timing.renew_every / 2, "{apart:?} apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refusal_promises_count_only_from_the_next_acknowledgement_on() {
    let bed = Bed::new();
    bed.lead().await;
    bed.hold().await;
    let began = boot_time();
    // The next renewal is refused by a handover that lets this site hold, and then all is silent.
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    let handover = PrimaryState::Handover { to: name("b"), operation: name("op-1"), span: SPAN };
    let refused = Arc::new(AtomicU64::new(0));
    let let_through = Arc::clone(&refused);
    Bed::cut(&bed.thread_quorum, Fault::NotDone);
    let asked = bed.others.asked();
    bed.until("asked before", || bed.others.asked() > asked).await;
    bed.put(&primary(handover)).await;
    bed.thread_quorum.faults().otherwise(move |call| {
        counter.fetch_add(1, Ordering::SeqCst);
        let first = call == Call::Txn && let_through.fetch_add(1, Ordering::SeqCst) == 0;
        (!first).then_some(Fault::NotDone)
    });
    bed.until("refused once", || refused.load(Ordering::SeqCst) >= 2).await;
    let (asked, deadline) = (bed.others.asked(), bed.deadlines.primary());
    let calls = seen.load(Ordering::SeqCst);
    bed.until("and silent since", || seen.load(Ordering::SeqCst) >= calls + 6).await;
    assert_eq!((bed.others.asked(), bed.deadlines.primary()), (asked, deadline));
    assert!(deadline != Deadline::NEVER && deadline <= promised(boot_time()));
    // An acknowledged renewal makes it a tenure like before.
    Bed::well(&bed.thread_quorum);
    bed.until("renewed under the handover", || {
        bed.thread.tenures().borrow().primary.as_ref().is_some_and(|held| held.lease_revision > 0)
            && bed.deadlines.primary() > Deadline::granted(began, &timing())
    })
    .await;
}
