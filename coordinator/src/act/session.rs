//! This coordinator's lease in the store: its member key and, when elected, `leader` go with it.
//!
//! Renewed by a task of its own, so that a long transaction elsewhere does not cost it. A lost
//! lease is replaced by a new one with a new tenure. Nothing rests on it being alive: every write
//! compares `leader`.

use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{GrantedLease, LeaseId, Renewal, Store};
use regent_proto::name::Tenure;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::CALL_TIMEOUT;
use crate::decide::view::{Session, StoreLease};

/// How long an elected coordinator that died is waited for.
pub const TTL: Duration = Duration::from_secs(5);
/// Renewals come three times in a TTL, so that one may be lost.
const RENEW_EVERY: Duration = Duration::from_millis(1600);
/// Pause after an error.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait for the end of the lease when this process stops.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps a lease until `stop`, then ends it, and with it its keys.
pub async fn keep(
    store: Arc<dyn Store>,
    clock: BootClock,
    sessions: watch::Sender<Option<Session>>,
    stop: CancellationToken,
    mut tenure: impl FnMut() -> Tenure,
) {
    while !stop.is_cancelled() {
        let granted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            granted = store.grant(TTL, CALL_TIMEOUT) => granted,
        };
        match granted {
            Ok(granted) => {
                let session = Session { lease: StoreLease(granted.id.0), tenure: tenure() };
                sessions.send_replace(Some(session));
                keep_one(&*store, &clock, granted, &stop).await;
                sessions.send_replace(None);
                if stop.is_cancelled() {
                    end(&*store, granted.id).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no lease in the global quorum");
                pause(&clock, PAUSE, &stop).await;
            }
        }
    }
}

/// Renews until the lease is lost or `stop`.
async fn keep_one(
    store: &dyn Store,
    clock: &BootClock,
    granted: GrantedLease,
    stop: &CancellationToken,
) {
    let every = RENEW_EVERY.min(granted.ttl / 3);
    let mut renewed_at = clock.now();
    loop {
        pause(clock, every, stop).await;
        if stop.is_cancelled() {
            return;
        }
        let sent = clock.now();
        match store.renew(granted.id, every).await {
            Ok(Renewal::Renewed { .. }) => renewed_at = sent,
            Ok(Renewal::Lost) => {
                tracing::info!("the lease in the global quorum was lost");
                return;
            }
            // Long unanswered: it has expired, whatever the store may say later.
            Err(error) if clock.now().since(renewed_at) > granted.ttl * 2 => {
                tracing::info!(%error, "the lease in the global quorum was not renewed in time");
                return;
            }
            Err(error) => tracing::debug!(%error, "a renewal failed"),
        }
    }
}

async fn end(store: &dyn Store, lease: LeaseId) {
    if let Err(error) = store.revoke(lease, REVOKE_TIMEOUT).await {
        tracing::info!(%error, "the lease was left to expire");
    }
}

async fn pause(clock: &BootClock, span: Duration, stop: &CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = clock.sleep(span) => {}
    }
}

/// A tenure that nobody else has.
#[must_use]
pub fn random_tenure() -> Tenure {
    uuid::Uuid::new_v4().to_string().parse().expect("a UUID is made of digits, letters and '-'")
}
