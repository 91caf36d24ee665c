//! What a site's leader sends to the quorum compares and puts what its transaction says
//! (protocol.md section 2): each record touched since it was read refuses the rows that compare it.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::global::{GlobalError, GlobalStore, Stopped};
use regent_agent::act::random::Ids;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::MemoryStore;
use regent_dcs::{Change, Entry, Revision, Txn};
use regent_proto::epoch::Epoch;
use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::lsn::Lsn;
use regent_proto::record::{
    EpochHistory, Lease, Primary, PrimaryState, Record as _, Token, Unknown, VERSION,
};
use regent_proto::time::{LeaseTiming, WallTime};
use regent_proto::timeline::{HistoryPoint, TimelineId};

const T: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(60);
const E: Epoch = Epoch::new(3);

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("names in tests are well formed")
}

fn point(position: u64) -> HistoryPoint {
    HistoryPoint { timeline: TimelineId(1), position: Lsn::new(position), promotion: None }
}

fn timing() -> LeaseTiming {
    LeaseTiming {
        ttl: TTL,
        renew_every: Duration::from_secs(5),
        call_timeout: T,
        stop_budget: T,
        kill_budget: Duration::from_millis(250),
    }
}

fn handover() -> PrimaryState {
    PrimaryState::Handover { to: name("b"), operation: name("op-1"), span: TTL }
}

fn token() -> PrimaryState {
    let token = Token {
        from: name("a"),
        epoch: E,
        system_identifier: name("7000000000000000001"),
        end: point(7),
        tenure: name("t1"),
        stopping_at: WallTime(5),
    };
    PrimaryState::Token { to: name("b"), operation: name("op-1"), span: TTL, token }
}

fn primary(state: PrimaryState) -> Primary {
    Primary {
        version: VERSION,
        federation: uuid::Uuid::nil(),
        system_identifier: None,
        holder: name("a"),
        epoch: E,
        state,
        floor: Some(point(3)),
        electorate: [name("a"), name("b")].into(),
        ttl_max: TTL,
        span_max: TTL,
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
        epoch: E,
        counter: 4,
        request: name("first"),
        ttl: TTL,
        released: false,
        unknown: Unknown::new(),
    }
}

fn history(epoch: Epoch) -> EpochHistory {
    EpochHistory {
        version: VERSION,
        epoch,
        site: name("a"),
        node: name("a1"),
        from: None,
        operation: None,
        floor: None,
        at: WallTime(1),
        stopping_at: None,
        lost_bytes: 0,
        lost_at_most_ms: None,
        promotions: Vec::new(),
        unknown: Unknown::new(),
    }
}

/// A quorum in which `primary` is in this state, as its records were read.
struct Bed {
    global: GlobalStore,
    primary: Primary,
    /// Of `primary`, `lease`, and the history of the present epoch.
    revisions: [u64; 3],
}

impl Bed {
    async fn new(state: PrimaryState) -> Self {
        let clock = BootClock::kernel().expect("a boot id");
        let global = GlobalStore {
            store: Arc::new(MemoryStore::new(clock.clone())),
            keys: GlobalKeys::new(&name("f")),
            site: name("b"),
            me: name("b1"),
            clock,
            ids: Ids::Kernel,
        };
        let mut bed = Self { global, primary: primary(state), revisions: [0; 3] };
        let records = [bed.primary.encode(), lease().encode(), history(E).encode()];
        for (at, value) in records.into_iter().enumerate() {
            let record = [GlobalKey::Primary, GlobalKey::Lease, GlobalKey::History(E)];
            bed.revisions[at] = bed.put(&record[at], value).await.0;
        }
        bed
    }

    async fn put(&self, record: &GlobalKey, value: Vec<u8>) -> Revision {
        let put = Txn::new().then(Change::put(self.global.keys.of(record), value));
        let outcome = self.global.store.txn(put, T).await.expect("the store is well");
        outcome.applied().expect("unconditional")
    }

    /// The record gets another revision with the same content.
    async fn touch(&self, record: &GlobalKey) {
        let value = match record {
            GlobalKey::Primary => self.primary.encode(),
            GlobalKey::Lease => lease().encode(),
            GlobalKey::History(epoch) => history(*epoch).encode(),
            other => unreachable!("{other:?} is not of these transactions"),
        };
        self.put(record, value).await;
    }

    async fn records(&self) -> Vec<Entry> {
        let keys = &self.global.keys;
        self.global.store.range(keys.prefix(), T).await.expect("the store is well").entries
    }

    async fn read<R: regent_proto::record::Record>(&self, key: String) -> R {
        let entry = self.global.store.get(&key, T).await.expect("the store is well");
        R::decode(&key, &entry.expect("it is there").value).expect("readable")
    }

    async fn send(&self, row: Row) -> Result<Revision, GlobalError> {
        let (global, primary) = (&self.global, &self.primary);
        let [p, l, h] = self.revisions;
        match row {
            Row::Acquire => {
                let adopted = global.acquire(primary, (p, Some(l)), timing()).await?;
                assert_eq!(adopted.primary_revision, Revision(p), "it goes on under what it read");
                Ok(adopted.lease_revision)
            }
            Row::Token => {
                let system_identifier = name("7000000000000000001");
                let stopped = Stopped { end: point(9), system_identifier, at: WallTime(8) };
                global.post_token(primary, (p, l), &lease(), stopped, T).await
            }
            Row::Take => {
                let adopted = global.take(primary, p, WallTime(9), timing()).await?;
                assert_eq!(adopted.primary_revision, adopted.lease_revision, "both were put");
                assert_eq!(adopted.record.epoch, E.next());
                Ok(adopted.lease_revision)
            }
            Row::RollBack => global.roll_back(primary, p, T).await,
            Row::Identity => {
                let id = name("7000000000000000001");
                global.record_identity(primary, (p, l), id, T).await
            }
            Row::Promotion => global.record_promotion(&history(E), (h, l), point(8), T).await,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Row {
    Acquire,
    Token,
    Take,
    RollBack,
    Identity,
    Promotion,
}

#[tokio::test]
async fn what_was_touched_since_it_was_read_refuses_the_rows_that_compare_it() {
    let (p, l) = (GlobalKey::Primary, GlobalKey::Lease);
    let (now, next) = (GlobalKey::History(E), GlobalKey::History(E.next()));
    let open = PrimaryState::Open;
    for (row, state, compares) in [
        (Row::Acquire, &open, vec![&p, &l]),
        (Row::Token, &handover(), vec![&p, &l]),
        (Row::Take, &token(), vec![&p, &next]),
        (Row::RollBack, &handover(), vec![&p]),
        (Row::RollBack, &token(), vec![&p]),
        (Row::Identity, &open, vec![&p, &l]),
        (Row::Promotion, &open, vec![&now, &l]),
    ] {
        for touched in [None, Some(&p), Some(&l), Some(&now), Some(&next)] {
            let bed = Bed::new(state.clone()).await;
            if let Some(record) = touched {
                bed.touch(record).await;
            }
            let before = bed.records().await;
            let sent = bed.send(row).await;
            let label = format!("{row:?} when {touched:?} was touched: {sent:?}");
            if touched.is_some_and(|record| compares.contains(&record)) {
                assert!(matches!(sent, Err(GlobalError::Conflict { .. })), "{label}");
                assert_eq!(bed.records().await, before, "{label}");
            } else {
                assert!(sent.is_ok(), "{label}");
                assert_ne!(bed.records().await, before, "{label}");
            }
        }
    }
}

#[tokio::test]
async fn a_first_acquire_is_refused_where_a_lease_stands() {
    let bed = Bed::new(PrimaryState::Open).await;
    let sent = bed.global.acquire(&bed.primary, (bed.revisions[0], None), timing()).await;
    assert!(matches!(sent, Err(GlobalError::Conflict { .. })), "{sent:?}");
}

#[tokio::test]
async fn a_take_moves_primacy_and_writes_its_history() {
    let bed = Bed::new(token()).await;
    bed.send(Row::Take).await.expect("nothing was touched");
    let keys = &bed.global.keys;
    let primary: Primary = bed.read(keys.primary()).await;
    let lease: Lease = bed.read(keys.lease()).await;
    let history: EpochHistory = bed.read(keys.history(E.next())).await;
    assert_eq!((&primary.holder, primary.epoch), (&name("b"), E.next()));
    assert_eq!((&primary.state, &primary.floor), (&PrimaryState::Open, &Some(point(7))));
    assert_eq!((&lease.site, &lease.node, lease.epoch), (&name("b"), &name("b1"), E.next()));
    assert_eq!((&history.site, &history.from), (&name("b"), &Some(name("a"))));
    assert_eq!((history.at, history.stopping_at), (WallTime(9), Some(WallTime(5))));
}

#[tokio::test]
async fn a_token_ends_the_tenure() {
    let bed = Bed::new(handover()).await;
    bed.send(Row::Token).await.expect("nothing was touched");
    let keys = &bed.global.keys;
    let primary: Primary = bed.read(keys.primary()).await;
    let ended: Lease = bed.read(keys.lease()).await;
    assert_eq!(primary.floor, Some(point(9)));
    assert_eq!((&ended.tenure, ended.released, ended.counter), (&name("t1"), true, 5));
}
