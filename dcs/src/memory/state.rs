//! What a store is, as plainly as it can be said: the model that the others are tested against.
//!
//! No clock and no waiting here: every method is told the time, and first does what is due by it.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::time::BootTime;

use crate::{
    Change, Entry, Event, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Txn, TxnOutcome,
};

/// The revision of an empty store.
const FIRST: Revision = Revision(1);

#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    /// Changes up to here are forgotten.
    compacted: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
    log: Vec<(Revision, Event)>,
    /// Transactions on their way, whose senders have given up already.
    late: Vec<(BootTime, Txn)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: BootTime,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            revision: FIRST,
            compacted: FIRST,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            log: Vec::new(),
            late: Vec::new(),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// When something happens by itself: a lease ends, a late transaction arrives.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        let leases = self.leases.values().map(|lease| lease.expires);
        leases.chain(self.late.iter().map(|(due, _)| *due)).min()
    }

    /// Does what is due by `now`, in the order of time.
    pub(super) fn bring_up_to_date(&mut self, now: BootTime) {
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            if let Some(index) = self.late.iter().position(|(at, _)| *at == due) {
                let (_, txn) = self.late.remove(index);
                // Nobody waits for the outcome any more.
                drop(self.apply(&txn));
                continue;
            }
            let ended = self.leases.iter().find(|(_, lease)| lease.expires == due);
            if let Some(id) = ended.map(|(id, _)| *id) {
                self.end_lease(id);
            }
        }
    }

    /// Lets a transaction take effect at `due`.
    pub(super) fn send_late(&mut self, due: BootTime, txn: Txn) {
        self.late.push((due, txn));
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    pub(super) fn range(&self, prefix: &str) -> Snapshot {
        let from = self.entries.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix));
        Snapshot {
            revision: self.revision,
            entries: entries.map(|(_, entry)| entry.clone()).collect(),
        }
    }

    /// The outcome, or why the transaction is refused.
    pub(super) fn apply(&mut self, txn: &Txn) -> Result<TxnOutcome, String> {
        let found: Vec<_> =
            txn.compares.iter().map(|compare| self.entries.get(compare.key()).cloned()).collect();
        if !txn.compares.iter().zip(&found).all(|(compare, entry)| compare.holds(entry.as_ref())) {
            return Ok(TxnOutcome::Conflict { found });
        }
        for change in &txn.changes {
            if let Change::Put { key, lease: Some(lease), .. } = change
                && !self.leases.contains_key(lease)
            {
                return Err(format!("lease {} for {key} is lost", lease.0));
            }
        }
        let next = Revision(self.revision.0 + 1);
        for change in &txn.changes {
            match change {
                Change::Put { key, value, lease } => self.put(next, key, value, *lease),
                Change::Delete { key } => self.delete(next, key),
            }
        }
        Ok(TxnOutcome::Applied { revision: self.revision })
    }

    fn put(&mut self, at: Revision, key: &str, value: &[u8], lease: Option<LeaseId>) {
        let created = self.entries.get(key).map_or(at, |entry| entry.created);
        let entry = Entry {
            key: key.to_owned(),
            value: value.to_vec().into(),
            created,
            modified: at,
            lease,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        self.record(at, Event::Put(entry));
    }

    fn delete(&mut self, at: Revision, key: &str) {
        if self.entries.remove(key).is_some() {
            self.record(at, Event::Deleted { key: key.to_owned(), revision: at });
        }
    }

    /// Keeps the log in the order of revision, then key, as the stores do.
    fn record(&mut self, at: Revision, event: Event) {
        self.revision = at;
        let place = self.log.partition_point(|(revision, earlier)| {
            *revision < at || *revision == at && earlier.key() <= event.key()
        });
        self.log.insert(place, (at, event));
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: BootTime) -> GrantedLease {
        self.last_lease += 1;
        let id = LeaseId(self.last_lease);
        self.leases.insert(id, Lease { ttl, expires: now.plus(ttl) });
        GrantedLease { id, ttl }
    }

    pub(super) fn renew(&mut self, id: LeaseId, now: BootTime) -> Renewal {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.expires = now.plus(lease.ttl);
                Renewal::Renewed { ttl: lease.ttl }
            }
            None => Renewal::Lost,
        }
    }

    pub(super) fn end_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let bound = self.entries.values().filter(|entry| entry.lease == Some(id));
        let keys: Vec<_> = bound.map(|entry| entry.key.clone()).collect();
        let next = Revision(self.revision.0 + 1);
        for key in keys {
            self.delete(next, &key);
        }
    }

    /// The changes of a prefix after a revision, or the oldest revision to watch from.
    pub(super) fn changes(&self, prefix: &str, after: Revision) -> Result<Vec<Event>, Revision> {
        let after = after.max(FIRST);
        if after < self.compacted || after > self.revision {
            return Err(self.compacted);
        }
        let news = self
            .log
            .iter()
            .filter(|(revision, event)| *revision > after && event.key().starts_with(prefix));
        Ok(news.map(|(_, event)| event.clone()).collect())
    }

    pub(super) fn compact(&mut self, keep: u64) {
        let upto = Revision(self.revision.0.saturating_sub(keep)).max(self.compacted);
        self.compacted = upto;
        self.log.retain(|(revision, _)| *revision > upto);
    }
}
