//! A changed TTL: the leader key moves to a lease of the new length, and its holder goes on writing.
//!
//! The deadline is lowered to what the new lease gives *before* the key may hang on it: a shorter
//! lease ends earlier than the old one would have (I7). An answer that was lost leaves the new lease
//! pending, and the next attempt sees where the key is. Where it hangs on neither lease, it was deleted
//! or is another's: the lease is changed all the same, and the renewal judges the key by the new one.
//!
//! A watchdog that is armed for longer than the new TTL bears is lowered first ([`super::watchdog`]).

use std::time::Duration;

use regent_dcs::{Change, Compare, Txn, TxnOutcome};
use regent_proto::time::{Deadline, LeaseTiming};

use super::site_lease::SiteLoop;
use super::watchdog;

impl SiteLoop {
    /// Whether the watchdog allows the TTL that is asked for.
    pub(super) fn borne(&self) -> bool {
        watchdog::bears(self.deadlines.page(), &self.side.timing)
    }

    /// Nothing lasts longer than a lease on which the key may hang from now on.
    fn bound_by(&self, granted: Deadline) {
        self.deadlines.set_site(self.deadlines.site().earlier(granted));
        self.deadlines.lower_carried(granted);
    }

    /// Moves to a lease of the configured TTL, or leaves everything as it is until the next attempt.
    /// A move that has begun is finished first, whatever TTL is configured by then: the key may hang
    /// on that lease already.
    pub(super) async fn change_ttl(&mut self, timeout: Duration) {
        let Some((old, _)) = self.lease else { return };
        if self.pending.is_none() {
            if !self.borne() {
                return;
            }
            let (sent, ttl) = (self.side.clock.now(), self.side.timing.ttl);
            match self.side.store.grant(ttl, timeout).await {
                Ok(granted) => self.pending = Some((granted.id, sent, ttl)),
                Err(error) => return tracing::debug!(%error, "no lease of the new TTL yet"),
            }
        }
        let Some((new, mut sent, asked)) = self.pending else { return };
        // Since the grant time may have passed: the deadline counts from a renewal.
        let renewing = self.side.clock.now();
        match self.side.store.renew(new, timeout).await {
            Ok(regent_dcs::Renewal::Renewed { .. }) => sent = renewing,
            Ok(regent_dcs::Renewal::Lost) => {
                self.pending = None;
                return;
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "renewal of the lease of the new TTL");
            }
        }
        let timing = LeaseTiming { ttl: asked, ..self.side.timing.clone() };
        let granted = Deadline::granted(sent, &timing);
        let moved = match self.side.store.get(&self.side.leader_key, timeout).await {
            Ok(Some(entry)) if entry.lease == Some(new) => true,
            Ok(Some(entry)) if entry.lease == Some(old) => {
                self.bound_by(granted);
                let key = entry.key.clone();
                let txn = Txn::new()
                    .when(Compare::as_read(key.clone(), Some(&entry)))
                    .then(Change::put_leased(key, self.side.me.as_str(), new));
                match self.side.store.txn(txn, timeout).await {
                    Ok(TxnOutcome::Applied { .. }) => true,
                    Ok(TxnOutcome::Conflict { .. }) => false,
                    Err(error) => {
                        self.note(&error);
                        tracing::debug!(%error, "moving the leader key to the new lease");
                        false
                    }
                }
            }
            // Only the member record hangs on the old lease, and is written anew. A key that is made
            // again hangs on the new one, so the deadline counts by that from here on.
            Ok(Some(_) | None) => {
                self.bound_by(granted);
                true
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "reading the leader key for its new lease");
                false
            }
        };
        if moved {
            tracing::info!(ttl = ?asked, "the lease has the new TTL");
            // The old lease runs out by itself: revoking it would take the member record along.
            (self.pending, self.asked) = (None, asked);
            self.set_lease(Some((new, asked)));
        }
    }
}
