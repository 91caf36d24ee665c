//! The site's lease and leader key: renewed, bound, mended; the site deadline follows.
//!
//! A lease that lives proves nothing about the key, so both are asked at once (ADR 2). What else this
//! loop does stands beside: [`super::silence`] (a store that does not answer), [`super::ttl`] (a changed
//! TTL), [`super::release`] (giving the key back).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{Change, Compare, LeaseId, Renewal, Revision, StoreError, Txn, TxnOutcome};
use regent_guardian::page::Guard;
use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use tokio::sync::{mpsc, watch};

use super::Deadlines;
use super::release::{FENCE_AGAIN, Release};
use super::renewal::{SiteCommand, SiteSide, Tenures, Woken};
use super::rounds::Rounds;
use super::watchdog;
use crate::decide::failsafe::site::Answer;
use crate::decide::renewal::hangs;

/// Whether a leader key's value is a member's name.
fn is_name(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<NodeName>().is_ok())
}

pub(super) struct SiteLoop {
    pub(super) side: SiteSide,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) publish: watch::Sender<Tenures>,
    pub(super) commands: mpsc::Receiver<SiteCommand>,
    pub(super) lease: Option<(LeaseId, Duration)>,
    /// The TTL that `lease` was asked for.
    pub(super) asked: Duration,
    /// A lease of another TTL, to which the key is on its way.
    pub(super) pending: Option<(LeaseId, BootTime, Duration)>,
    /// Revision of an unreadable leader key that was told.
    warned: Option<Revision>,
    /// Revision of the leader key that was given back, until it is seen to be gone.
    pub(super) given_back: Option<Revision>,
    /// The store gave no answer to the last request: not a refusal, and not an acknowledgement.
    pub(super) silent: bool,
    told_hanging: bool,
    pub(super) rounds: Rounds<BTreeMap<NodeName, Answer>>,
}

impl SiteLoop {
    pub(super) fn new(
        side: SiteSide,
        deadlines: Arc<Deadlines>,
        publish: watch::Sender<Tenures>,
        commands: mpsc::Receiver<SiteCommand>,
    ) -> Self {
        let asked = side.timing.ttl;
        Self {
            side,
            deadlines,
            publish,
            commands,
            lease: None,
            asked,
            pending: None,
            warned: None,
            given_back: None,
            silent: false,
            told_hanging: false,
            rounds: Rounds::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let sent = self.side.clock.now();
            let answered = self.renew().await;
            let every = match self.lease {
                _ if self.given_back.is_some() => FENCE_AGAIN,
                Some(_) => self.side.timing.next_renewal(answered),
                None => Duration::from_millis(200),
            };
            // The timer only paces renewals: one that comes late raises nothing.
            let due = sent.plus(every);
            match self.wait(due).await {
                Woken::Due => {}
                Woken::Command(SiteCommand::Renew(timing)) => self.side.timing = timing,
                Woken::Command(SiteCommand::Release(revision, done)) => {
                    done.send(self.release(revision).await).ok();
                }
                Woken::Gone => return self.give_back().await,
            }
        }
    }

    /// The agent ends: what the lease holds should not wait for its expiry. A leader key that was
    /// not given back does: something may still write by it (I12).
    async fn give_back(&mut self) {
        if self.deadlines.site() == Deadline::NEVER
            && self.deadlines.page().guard() == Guard::Off
            && let Some((lease, _)) = self.lease.take()
        {
            drop(self.side.store.revoke(lease, self.side.timing.call_timeout).await);
        }
    }

    /// Whether nobody is there any more to use the right: a leader that does not decide would keep
    /// everybody else from leading for as long as its store answers.
    fn loop_hangs(&mut self) -> bool {
        let hangs = hangs(self.deadlines.came_round(), self.side.clock.now(), self.side.timing.ttl);
        if hangs && !self.told_hanging {
            tracing::error!("the main loop hangs: the leader key is not renewed until it goes on");
        }
        self.told_hanging = hangs;
        hangs
    }

    /// One attempt; whether every question was answered.
    async fn renew(&mut self) -> bool {
        if self.loop_hangs() {
            return false;
        }
        if self.silent {
            // Beside the next try, not after it: its timeout would be taken from the round's time.
            self.begin_round();
        }
        let timeout = self.side.timing.call_timeout;
        let changes = self.pending.is_some() || self.asked != self.side.timing.ttl;
        if self.lease.is_some() && changes && self.given_back.is_none() {
            self.change_ttl(timeout).await;
            if self.pending.is_some() {
                // The key may hang on either lease: the old one's renewals raise nothing any more.
                return false;
            }
        }
        let sent = self.side.clock.now();
        let Some((id, _)) = self.lease else { return self.grant(sent, timeout).await };
        // Both at once: the key was bound to the lease, and the lease lived, at instants after
        // `sent`, in whichever order (ADR 2). So a renewal takes one round trip.
        let key = self.side.leader_key.clone();
        let (renewed, found) =
            tokio::join!(self.side.store.renew(id, timeout), self.side.store.get(&key, timeout));
        match renewed {
            Ok(Renewal::Renewed { ttl }) => {
                self.deadlines.measured().site_round_trip.note(self.side.clock.now().since(sent));
                self.raise((sent, ttl), found, timeout).await
            }
            Ok(Renewal::Lost) => {
                tracing::warn!("the site DCS no longer knows this node's lease");
                if !self.stands() {
                    self.lose();
                }
                self.set_lease(None);
                true
            }
            // Nothing is raised, nothing is lowered: the deadline decides (I9).
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "renewal of the site lease");
                false
            }
        }
    }

    async fn grant(&mut self, sent: BootTime, timeout: Duration) -> bool {
        // A new life begins with the TTL of its file, and a device may be armed for longer leases.
        let borne = watchdog::borne_ttl(self.deadlines.page(), &self.side.timing);
        self.asked = if self.borne() { borne } else { self.asked.max(borne) };
        match self.side.store.grant(self.asked, timeout).await {
            Ok(granted) => {
                // Before anybody can bind the key to it.
                let timing = LeaseTiming { ttl: granted.ttl, ..self.side.timing.clone() };
                self.deadlines.lower_carried(Deadline::granted(sent, &timing));
                self.set_lease(Some((granted.id, granted.ttl)));
                let found = self.side.store.get(&self.side.leader_key, timeout).await;
                self.raise((sent, granted.ttl), found, timeout).await
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "no lease in the site DCS yet");
                false
            }
        }
    }

    /// A lease that lives proves nothing about the key, which may have been deleted: the deadline is
    /// raised only when a reading sent no earlier than the renewal shows the key bound to it.
    async fn raise(
        &mut self,
        (sent, ttl): (BootTime, Duration),
        found: Result<Option<regent_dcs::Entry>, StoreError>,
        timeout: Duration,
    ) -> bool {
        let Some((id, _)) = self.lease else { return true };
        if let Ok(entry) = &found
            && self.is_given_back(entry.as_ref())
        {
            return matches!(self.let_go().await, Release::Gone(_));
        }
        match found {
            Ok(Some(entry)) if entry.lease == Some(id) => {
                if entry.value != self.side.me.as_str().as_bytes() {
                    self.mend(&entry, id, timeout).await;
                }
                let timing = LeaseTiming { ttl, ..self.side.timing.clone() };
                self.renewed(sent, Deadline::granted(sent, &timing));
            }
            // The key is ours, under the lease of before the outage: nobody else could take it yet.
            Ok(Some(entry)) if self.stands() && entry.value == self.side.me.as_str().as_bytes() => {
                self.mend(&entry, id, timeout).await;
            }
            // Not a member's name: nobody can take it over, so nobody opens. Not raised; D decides.
            Ok(Some(entry)) if !is_name(&entry.value) => {
                if self.warned != Some(entry.modified) {
                    self.warned = Some(entry.modified);
                    tracing::warn!(key = %entry.key, "the leader key was overwritten");
                }
            }
            Ok(None) if self.deadlines.site().lies_ahead(self.side.clock.now()) => {
                self.create_again(sent, ttl, id, timeout).await;
            }
            // Ours, under a lease of a former life, whose right lasts as long as that life knew.
            Ok(Some(entry)) if entry.value == self.side.me.as_str().as_bytes() => self.lose(),
            Ok(Some(_) | None) => {
                // Anybody may lead by now: it was deleted.
                self.deadlines.lower_carried(Deadline::NEVER);
                self.lose();
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "reading the leader key beside its renewal");
                return false;
            }
        }
        true
    }

    /// The key is bound to our lease but carries something else: written by hand. Ours to mend.
    async fn mend(&self, found: &regent_dcs::Entry, id: LeaseId, timeout: Duration) {
        tracing::warn!(key = %found.key, "the leader key did not carry this node's name; mended");
        let as_read = Compare::as_read(found.key.clone(), Some(found));
        let put = Change::put_leased(found.key.clone(), self.side.me.as_str(), id);
        if let Err(error) = self.side.store.txn(Txn::new().when(as_read).then(put), timeout).await {
            tracing::debug!(%error, "mending the leader key");
        }
    }

    /// The key was deleted under a living lease, by hand or by accident. Creating it again succeeds
    /// only while nobody else has it, as in Patroni's refresh.
    async fn create_again(
        &mut self,
        sent: BootTime,
        ttl: Duration,
        id: LeaseId,
        timeout: Duration,
    ) {
        let key = self.side.leader_key.clone();
        let put = Change::put_leased(key.clone(), self.side.me.as_str(), id);
        let txn = Txn::new().when(Compare::Absent { key }).then(put);
        match self.side.store.txn(txn, timeout).await {
            Ok(TxnOutcome::Applied { .. }) => {
                tracing::warn!("the leader key had been deleted; it was created again");
                let timing = LeaseTiming { ttl, ..self.side.timing.clone() };
                self.renewed(sent, Deadline::granted(sent, &timing));
            }
            Ok(TxnOutcome::Conflict { .. }) => self.lose(),
            Err(error) => tracing::debug!(%error, "creating the leader key again"),
        }
    }

    pub(super) fn set_lease(&mut self, lease: Option<(LeaseId, Duration)>) {
        self.lease = lease;
        self.publish.send_modify(|tenures| tenures.lease = lease.map(|(id, _)| id));
    }
}
