//! The conformance suite against the stores that need no server.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use regent_dcs::clock::BootClock;
use regent_dcs::conformance::{self, Expectations, Failure, Harness};
use regent_dcs::memory::MemoryStore;
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{Store, StoreError};

const LOCAL: Expectations = Expectations {
    disturbed: false,
    timeout: Duration::from_secs(5),
    patience: Duration::from_secs(10),
    // Longer than a busy machine stalls. How prompt the store is, tests/sqlite.rs measures.
    ttl: Duration::from_secs(1),
    expiry_late_by: Duration::from_secs(2),
    wake_up: Duration::from_millis(25),
};

struct Sqlite {
    directory: tempfile::TempDir,
}

#[async_trait]
impl Harness for Sqlite {
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(SqliteStore::open(&self.directory.path().join("store.db"))?))
    }

    async fn compact(&self) -> Result<(), Failure> {
        let store = SqliteStore::open(&self.directory.path().join("store.db"))?;
        store.compact(0, LOCAL.timeout).await?;
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        LOCAL
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_conforms() {
    let harness = Sqlite { directory: tempfile::tempdir().unwrap() };
    let failures = conformance::run(&harness).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Agents renew leases on a thread with a runtime of its own, which has one thread only. All cases
/// at once also is what many processes on one file look like.
#[tokio::test(flavor = "current_thread")]
async fn sqlite_conforms_on_one_thread_with_all_cases_at_once() {
    /// Compaction would reach into the other cases.
    struct WithoutCompaction(Sqlite);

    #[async_trait]
    impl Harness for WithoutCompaction {
        async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
            self.0.open().await
        }

        async fn compact(&self) -> Result<(), Failure> {
            self.0.compact().await
        }

        fn expectations(&self) -> Expectations {
            Expectations {
                // 27 cases share two processors and one file.
                wake_up: Duration::from_millis(500),
                expiry_late_by: Duration::from_secs(5),
                ttl: Duration::from_secs(2),
                ..LOCAL
            }
        }
    }

    let harness = WithoutCompaction(Sqlite { directory: tempfile::tempdir().unwrap() });
    let cases = conformance::CASES.iter().filter(|case| case.name != "compaction_is_told");
    let runs = cases.map(|case| async { (case.name, case.run(&harness).await) });
    for (name, outcome) in futures::future::join_all(runs).await {
        assert_eq!(outcome, Ok(()), "{name}");
    }
}

struct Memory(MemoryStore);

#[async_trait]
impl Harness for Memory {
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.0.process("another")))
    }

    async fn compact(&self) -> Result<(), Failure> {
        self.0.compact(0);
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        LOCAL
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    let harness = Memory(MemoryStore::new(BootClock::kernel().unwrap()));
    let failures = conformance::run(&harness).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The store that the suite's own calls have to cope with: each process's every third call or so
/// goes wrong in one of the ways that the contract allows.
struct FaultyMemory(MemoryStore);

#[async_trait]
impl Harness for FaultyMemory {
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        use regent_dcs::memory::Fault;

        let process = self.0.process("faulty");
        let mut seed = getrandom::u64().unwrap();
        let faults = process.faults().clone();
        process.faults().otherwise(move |_| {
            // A linear congruential generator: any spread of faults will do.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (seed >> 40) % 15 {
                0 => Some(Fault::NotDone),
                1 => Some(Fault::UnknownNotApplied),
                2 => Some(Fault::UnknownApplied),
                3 => Some(Fault::UnknownAppliedLater(Duration::from_millis(30))),
                4 => Some(Fault::Delayed(Duration::from_millis(5))),
                5 => {
                    faults.cut_watches();
                    None
                }
                _ => None,
            }
        });
        Ok(Arc::new(process))
    }

    async fn compact(&self) -> Result<(), Failure> {
        self.0.compact(0);
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        Expectations { disturbed: true, ..LOCAL }
    }
}

/// What the suite does about lost answers is itself under test here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faulty_memory_conforms_as_far_as_it_must() {
    let harness = FaultyMemory(MemoryStore::new(BootClock::kernel().unwrap()));
    let failures = conformance::run_together(&harness).await;
    assert!(failures.is_empty(), "{failures:#?}");
}
