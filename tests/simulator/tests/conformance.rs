//! The models of the stores keep the contract that the real ones keep: the same suite.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use regent_dcs::clock::BootClock;
use regent_dcs::conformance::{self, Expectations, Failure, Harness};
use regent_dcs::{Store, StoreError};
use regent_simulator::store::Kind;
use regent_simulator::store::live::Live;

struct Bench(Live, Kind);

#[async_trait]
impl Harness for Bench {
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.0.clone()))
    }

    async fn compact(&self) -> Result<(), Failure> {
        self.0.compact();
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        let ttl = Duration::from_secs(2);
        Expectations {
            disturbed: false,
            timeout: Duration::from_secs(5),
            patience: Duration::from_secs(20),
            ttl,
            expiry_late_by: match self.1 {
                Kind::Etcd => Duration::from_secs(2),
                Kind::Consul => ttl + Duration::from_secs(1),
            },
            wake_up: Duration::from_secs(1),
        }
    }
}

async fn conforms(kind: Kind) {
    let clock = BootClock::kernel().expect("a boot id");
    // One after the other: a case that compacts would take the log from under the others.
    let failures = conformance::run(&Bench(Live::new(kind, clock), kind)).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn the_model_of_etcd_conforms() {
    conforms(Kind::Etcd).await;
}

#[tokio::test]
async fn the_model_of_consul_conforms() {
    conforms(Kind::Consul).await;
}
