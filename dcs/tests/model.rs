//! Property test: the embedded store does what the plain store in memory does, step by step.

#![cfg(test)]

use std::time::Duration;

use proptest::prelude::*;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::MemoryStore;
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{
    Change, Compare, Entry, Event, LeaseId, Renewal, Revision, Store, Txn, TxnOutcome, Watch,
};
use regent_proto::time::BootTime;

const T: Duration = Duration::from_secs(5);

/// One step. Leases are named by the order of their grants, revisions by how far back they are.
#[derive(Debug, Clone)]
enum Step {
    Txn { compares: Vec<(u8, Cmp)>, changes: Vec<(u8, Chg)> },
    Grant { millis: u64 },
    Renew { lease: usize },
    Revoke { lease: usize },
    Advance { millis: u64 },
    Compact { keep: u64 },
}

#[derive(Debug, Clone)]
enum Cmp {
    Absent,
    Value(u8),
    /// The revision the key has now, or a wrong one.
    Modified {
        right: bool,
    },
}

#[derive(Debug, Clone)]
enum Chg {
    Put { value: u8, lease: Option<usize> },
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..5_u8;
    let cmp = prop_oneof![
        Just(Cmp::Absent),
        (0..3_u8).prop_map(Cmp::Value),
        any::<bool>().prop_map(|right| Cmp::Modified { right }),
    ];
    let chg = prop_oneof![
        3 => (0..3_u8, proptest::option::of(0..4_usize))
            .prop_map(|(value, lease)| Chg::Put { value, lease }),
        1 => Just(Chg::Delete),
    ];
    let compares = proptest::collection::vec((key.clone(), cmp), 0..2);
    let changes = proptest::collection::btree_map(key, chg, 0..4);
    prop_oneof![
        6 => (compares, changes).prop_map(|(compares, changes)| Step::Txn {
            compares,
            changes: changes.into_iter().collect(),
        }),
        2 => (1..500_u64).prop_map(|millis| Step::Grant { millis }),
        1 => (0..4_usize).prop_map(|lease| Step::Renew { lease }),
        1 => (0..4_usize).prop_map(|lease| Step::Revoke { lease }),
        2 => (1..300_u64).prop_map(|millis| Step::Advance { millis }),
        1 => (0..10_u64).prop_map(|keep| Step::Compact { keep }),
    ]
}

/// One of the two stores, with its own names for the leases.
struct Side<'a> {
    store: &'a dyn Store,
    leases: Vec<LeaseId>,
}

impl Side<'_> {
    /// A lease that was never granted is one that nobody knows.
    fn lease(&self, index: usize) -> LeaseId {
        self.leases.get(index).copied().unwrap_or(LeaseId(i64::MAX))
    }

    fn named(&self, entry: Option<Entry>) -> Option<Entry> {
        entry.map(|mut entry| {
            let index = entry.lease.and_then(|id| self.leases.iter().position(|l| *l == id));
            entry.lease = index.map(|index| LeaseId(i64::try_from(index).unwrap()));
            entry
        })
    }

    async fn txn(&self, compares: &[(u8, Cmp)], changes: &[(u8, Chg)]) -> Txn {
        let key = |key: u8| format!("/{key}");
        let mut txn = Txn::new();
        for (number, compare) in compares {
            let key = key(*number);
            txn = txn.when(match compare {
                Cmp::Absent => Compare::Absent { key },
                Cmp::Value(value) => Compare::Value { key, value: vec![*value] },
                Cmp::Modified { right } => {
                    let entry = self.store.get(&key, T).await.unwrap();
                    let now = entry.map_or(0, |entry| entry.modified.0);
                    let wrong = u64::from(!right);
                    Compare::Modified { key, revision: Revision(now + wrong) }
                }
            });
        }
        for (number, change) in changes {
            let key = key(*number);
            txn = txn.then(match change {
                Chg::Put { value, lease } => {
                    let lease = lease.map(|index| self.lease(index));
                    Change::Put { key, value: vec![*value], lease }
                }
                Chg::Delete => Change::Delete { key },
            });
        }
        txn
    }

    /// What the step answers, in words that don't depend on the side.
    async fn take(&mut self, step: &Step) -> String {
        match step {
            Step::Txn { compares, changes } => {
                let txn = self.txn(compares, changes).await;
                match self.store.txn(txn, T).await {
                    Ok(TxnOutcome::Applied { revision }) => format!("applied {revision}"),
                    Ok(TxnOutcome::Conflict { found }) => {
                        let found: Vec<_> = found.into_iter().map(|e| self.named(e)).collect();
                        format!("conflict {found:?}")
                    }
                    Err(_) => "refused".to_owned(),
                }
            }
            Step::Grant { millis } => {
                let lease = self.store.grant(Duration::from_millis(*millis), T).await.unwrap();
                self.leases.push(lease.id);
                format!("granted {:?}", lease.ttl)
            }
            Step::Renew { lease } => match self.store.renew(self.lease(*lease), T).await.unwrap() {
                Renewal::Renewed { ttl } => format!("renewed {ttl:?}"),
                Renewal::Lost => "lost".to_owned(),
            },
            Step::Revoke { lease } => {
                self.store.revoke(self.lease(*lease), T).await.unwrap();
                "revoked".to_owned()
            }
            Step::Advance { .. } | Step::Compact { .. } => String::new(),
        }
    }

    async fn everything(&self) -> (Revision, Vec<Option<Entry>>) {
        let snapshot = self.store.range("/", T).await.unwrap();
        let entries = snapshot.entries.into_iter().map(|entry| self.named(Some(entry)));
        (snapshot.revision, entries.collect())
    }

    /// All that can still be watched after a revision.
    async fn history(&self, after: Revision) -> Result<Vec<Event>, String> {
        let upto = self.everything().await.0;
        // Revision 1 is the empty store; every later one made at least one event.
        let after = after.max(Revision(1));
        let watch = self.store.watch("/", after, T).await;
        let mut watch: Box<dyn Watch> = watch.map_err(|error| error.to_string())?;
        let mut events = Vec::new();
        while after < upto && events.last().is_none_or(|e: &Event| e.revision() < upto) {
            let news = tokio::time::timeout(T, watch.next()).await.expect("the events are there");
            for event in news.map_err(|error| error.to_string())? {
                events.push(match event {
                    Event::Put(entry) => Event::Put(self.named(Some(entry)).unwrap()),
                    deleted @ Event::Deleted { .. } => deleted,
                });
            }
        }
        Ok(events)
    }
}

async fn compare_stores(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let start = BootTime::from_nanos(1_000_000);
    let (clock_a, clock_b) = (BootClock::manual("boot", start), BootClock::manual("boot", start));
    let path = directory.path().join("store.db");
    let sqlite = SqliteStore::open_with_clock(&path, clock_a.clone()).unwrap();
    let memory = MemoryStore::new(clock_b.clone());
    let mut a = Side { store: &sqlite, leases: Vec::new() };
    let mut b = Side { store: &memory, leases: Vec::new() };
    for step in &steps {
        match step {
            Step::Advance { millis } => {
                clock_a.advance(Duration::from_millis(*millis));
                clock_b.advance(Duration::from_millis(*millis));
            }
            Step::Compact { keep } => {
                sqlite.compact(*keep, T).await.unwrap();
                memory.compact(*keep);
            }
            _ => prop_assert_eq!(a.take(step).await, b.take(step).await, "{:?}", step),
        }
        prop_assert_eq!(a.everything().await, b.everything().await, "after {:?}", step);
    }
    let last = a.everything().await.0;
    for after in 0..=last.0 {
        let (found, expected) =
            (a.history(Revision(after)).await, b.history(Revision(after)).await);
        prop_assert_eq!(found, expected, "watched after {}", after);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare_stores(steps))?;
    }
}
