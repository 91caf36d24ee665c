//! A changed TTL: the leader key moves to a lease of the new length, and its holder goes on writing.
//!
//! The deadline is lowered to what the new lease gives *before* the key may hang on it: a shorter
//! lease ends earlier than the old one would have (I7). An answer that was lost leaves the new lease
//! pending, and the next attempt sees where the key is.
//!
//! A watchdog that is armed for longer than the new TTL bears is lowered first ([`super::watchdog`]).

use std::time::Duration;

use regent_dcs::{Change, Compare, Txn, TxnOutcome};
use regent_proto::time::{Deadline, LeaseTiming};

use super::renewal::SiteLoop;
use super::watchdog;

impl SiteLoop {
    /// Whether the watchdog allows the TTL that is asked for.
    pub(super) fn borne(&self) -> bool {
        watchdog::bears(self.deadlines.page(), &self.side.timing)
    }

    /// Moves to a lease of the configured TTL, or leaves everything as it is until the next attempt.
    pub(super) async fn change_ttl(&mut self, timeout: Duration) {
        let Some((old, _)) = self.lease else { return };
        let asked = self.side.timing.ttl;
        if self.pending.is_none() && !self.borne() {
            return;
        }
        if self.pending.is_none_or(|(_, _, ttl)| ttl != asked) {
            let sent = self.side.clock.now();
            match self.side.store.grant(asked, timeout).await {
                Ok(granted) => self.pending = Some((granted.id, sent, asked)),
                Err(error) => return tracing::debug!(%error, "no lease of the new TTL yet"),
            }
        }
        let Some((new, mut sent, _)) = self.pending else { return };
        // Since the grant time may have passed: the deadline counts from a renewal.
        let renewing = self.side.clock.now();
        match self.side.store.renew(new, timeout).await {
            Ok(regent_dcs::Renewal::Renewed { .. }) => sent = renewing,
            Ok(regent_dcs::Renewal::Lost) => {
                self.pending = None;
                return;
            }
            Err(error) => tracing::debug!(%error, "renewal of the lease of the new TTL"),
        }
        let timing = LeaseTiming { ttl: asked, ..self.side.timing.clone() };
        let granted = Deadline::granted(sent, &timing);
        let moved = match self.side.store.get(&self.side.leader_key, timeout).await {
            Ok(Some(entry)) if entry.lease == Some(new) => true,
            Ok(Some(entry)) if entry.lease == Some(old) => {
                self.deadlines.set_site(self.deadlines.site().earlier(granted));
                let key = entry.key.clone();
                let txn = Txn::new()
                    .when(Compare::as_read(key.clone(), Some(&entry)))
                    .then(Change::put_leased(key, self.side.me.as_str(), new));
                match self.side.store.txn(txn, timeout).await {
                    Ok(TxnOutcome::Applied { .. }) => true,
                    Ok(TxnOutcome::Conflict { .. }) => false,
                    Err(error) => {
                        tracing::debug!(%error, "moving the leader key to the new lease");
                        false
                    }
                }
            }
            // Not the leader: only the member record hangs on the lease, and is written anew.
            Ok(Some(_) | None) => self.deadlines.site() == Deadline::NEVER,
            Err(error) => {
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
