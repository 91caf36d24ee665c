//! The agents of all sites, played on a running store.

use std::sync::Arc;
use std::time::Duration;

use regent_coordinator::decide::view::{Quorum, View};
use regent_coordinator::observe::Records;
use regent_coordinator::observe::clock::wall_time;
use regent_dcs::clock::BootClock;
use regent_dcs::{Change, Revision, Store, Txn};
use regent_proto::keys::GlobalKeys;
use regent_proto::record::{Lease, Record as _, Report};
use tokio::task::JoinHandle;

use crate::agents::{self, Conduct};

const CALL: Duration = Duration::from_secs(3);

/// Plays the agents of all sites on the store.
pub(crate) struct Play {
    store: Arc<dyn Store>,
    keys: GlobalKeys,
    records: Records,
    clock: BootClock,
    conduct: Conduct,
}

impl Play {
    /// Plays until the task is aborted.
    pub(crate) fn begin(
        store: Arc<dyn Store>,
        clock: BootClock,
        conduct: Conduct,
    ) -> JoinHandle<()> {
        let federation: regent_proto::name::FederationName = "f".parse().expect("a label");
        let keys = GlobalKeys::new(&federation);
        let records = Records::new(federation);
        let mut play = Self { store, keys, records, clock, conduct };
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            for tick in 0u64.. {
                ticks.tick().await;
                play.act(tick).await;
            }
        })
    }

    async fn view(&mut self) -> View {
        let snapshot = self.store.range(self.keys.prefix(), CALL).await.expect("records");
        let now = self.clock.now();
        self.records.replace(snapshot, now);
        self.records.view(now, wall_time(), Quorum::Reachable, None)
    }

    async fn act(&mut self, tick: u64) {
        let conduct = self.conduct;
        while let Some(txn) = {
            let view = self.view().await;
            agents::deed(&view, &conduct)
        } {
            self.store.txn(txn, CALL).await.expect("an outcome");
        }
        if tick.is_multiple_of(5) {
            self.renew().await;
        }
    }

    /// Every living site reports anew, and the holder renews its lease.
    async fn renew(&mut self) {
        let view = self.view().await;
        for (site, slot) in &view.reports {
            if let Some(seen) = slot.read()
                && !self.conduct.dead.contains(&site.as_str())
            {
                let report = Report { sequence: seen.value.sequence + 1, ..seen.value.clone() };
                self.put(self.keys.report(site), report.encode(), seen.revision.0).await;
            }
        }
        if let Some(seen) = view.lease.read().filter(|seen| !seen.value.released) {
            let lease = Lease { counter: seen.value.counter + 1, ..seen.value.clone() };
            self.put(self.keys.lease(), lease.encode(), seen.revision.0).await;
        }
    }

    async fn put(&self, key: String, value: Vec<u8>, revision: u64) {
        let revision = Revision(revision);
        let txn = Txn::new()
            .when(regent_dcs::Compare::Modified { key: key.clone(), revision })
            .then(Change::put(key, value));
        self.store.txn(txn, CALL).await.expect("an outcome");
    }
}
