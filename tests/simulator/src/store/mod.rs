//! Models of the stores: the contract of `regent_dcs`, with the quirks of etcd and of Consul that
//! the contract allows (hazards.md 3.3 to 3.5, 7.3). [`client`] is how a process reaches one.
//!
//! One linearizable state each. What differs is how late a lease may end, what an election does to
//! leases, and whether a key rests after its session ended.

pub mod client;
pub mod live;
mod traffic;

use std::collections::BTreeMap;

use regent_dcs::{
    Change, Entry, Event, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Txn, TxnOutcome,
    limits,
};

use crate::chance::Chance;
use crate::network::HostId;
use crate::time::{MS, Nanos, SEC, nanos};

/// Whose quirks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Leases end up to a second late, and count from their full TTL after an election.
    Etcd,
    /// Sessions end up to twice their TTL after the last renewal, and their keys rest for the
    /// lock-delay.
    Consul,
}

/// Consul's default.
const LOCK_DELAY: Nanos = 15 * SEC;
/// Changes that a watch can still be given.
const KEPT: usize = 4000;

#[derive(Debug, Clone)]
struct Lease {
    ttl: Nanos,
    expires: Nanos,
}

/// A question.
#[derive(Debug, Clone)]
pub enum Request {
    /// One key.
    Get(String),
    /// A prefix.
    Range(String),
    /// A transaction.
    Txn(Txn),
    /// A new lease of this TTL.
    Grant(std::time::Duration),
    /// A renewal.
    Renew(LeaseId),
    /// The end of a lease.
    Revoke(LeaseId),
    /// A watch of a prefix after a revision.
    Watch(String, Revision),
}

impl Request {
    /// Why every store refuses it before it is asked.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        match self {
            Self::Get(key) => limits::key(key).err(),
            Self::Txn(txn) => limits::txn(txn).err(),
            Self::Grant(ttl) => limits::ttl(*ttl).err(),
            Self::Range(_) | Self::Renew(_) | Self::Revoke(_) | Self::Watch(..) => None,
        }
    }
}

/// Its answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Of a get.
    Entry(Option<Entry>),
    /// Of a range.
    Snapshot(Snapshot),
    /// Of a transaction.
    Txn(TxnOutcome),
    /// Of a grant.
    Granted(GrantedLease),
    /// Of a renewal.
    Renewal(Renewal),
    /// Of a revocation.
    Revoked,
    /// Of a watch: its number.
    Watching(u64),
    /// A watch from before the oldest kept change.
    Compacted(Revision),
    /// The store says no.
    Refused(String),
    /// The store says that it did nothing.
    NotDone(String),
}

/// One store.
#[derive(Debug)]
pub struct StoreModel {
    /// Its quirks.
    pub kind: Kind,
    /// For traces.
    pub name: String,
    /// Where it answers: a majority of these must reach each other.
    pub voters: Vec<HostId>,
    /// Nobody is answered.
    pub down: bool,
    /// Answers take up to so much longer.
    pub slow: Nanos,
    /// Writes are refused (no space).
    pub read_only: bool,
    /// One request in three lies somewhere on its way for up to so long, and takes effect all the same.
    pub late: Nanos,
    /// When leases are looked at next.
    pub timer: Nanos,
    revision: u64,
    compacted: u64,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
    log: Vec<Event>,
    /// Keys that went because nobody renewed their lease, with what they carried.
    pub lapsed: Vec<(String, Vec<u8>)>,
    /// Keys that went by a person's hand.
    pub by_hand: Vec<String>,
    /// What they said.
    pub removed: BTreeMap<String, Vec<u8>>,
    resting: BTreeMap<String, Nanos>,
}

impl StoreModel {
    /// An empty one.
    #[must_use]
    pub fn new(kind: Kind, name: &str, voters: Vec<HostId>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            voters,
            down: false,
            slow: 0,
            read_only: false,
            late: 0,
            timer: 0,
            revision: 1,
            compacted: 1,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            log: Vec::new(),
            lapsed: Vec::new(),
            by_hand: Vec::new(),
            removed: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// The revision now.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// A key, for checks.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All keys, for faults.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    /// When the next lease ends by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<Nanos> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    /// Ends the leases that are due.
    pub fn tick(&mut self, now: Nanos) {
        let due: Vec<i64> =
            self.leases.iter().filter(|(_, l)| l.expires <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.lapse(id, now);
        }
    }

    /// A lease ends, and nobody asked for it.
    fn lapse(&mut self, id: i64, now: Nanos) {
        let bound = self.entries.values().filter(|entry| entry.lease == Some(LeaseId(id)));
        self.lapsed.extend(bound.map(|entry| (entry.key.clone(), entry.value.to_vec())));
        self.end_lease(id, now);
    }

    /// How long after its TTL a lease ends (hazards.md 3.3: etcd scans twice a second; Consul
    /// promises no more than twice the TTL).
    fn late(&self, ttl: Nanos, chance: &mut Chance) -> Nanos {
        match self.kind {
            Kind::Etcd => chance.below(SEC),
            Kind::Consul => chance.below(ttl),
        }
    }

    /// Another leader: etcd's counts every lease from its full TTL anew.
    pub fn elect(&mut self, now: Nanos, chance: &mut Chance) {
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            let late = self.leases.get(&id).map_or(0, |l| self.late(l.ttl, chance));
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.expires = now + lease.ttl + late;
            }
        }
        // Lock-delays live in the leader's memory only (hazards.md 3.5).
        self.resting.clear();
    }

    /// Forgets all changes but the last.
    pub fn compact(&mut self, keep: usize) {
        let forget = self.log.len().saturating_sub(keep);
        if let Some(event) = forget.checked_sub(1).and_then(|last| self.log.get(last)) {
            self.compacted = event.revision().0;
            self.log.drain(..forget);
        }
    }

    /// A key goes, by a person's hand.
    pub fn delete(&mut self, key: &str) {
        if let Some(entry) = self.entries.get(key) {
            self.removed.insert(key.to_owned(), entry.value.to_vec());
            self.revision += 1;
            self.by_hand.push(key.to_owned());
            self.remove(key);
        }
    }

    /// A key is written, by a person's hand: what it hung on it hangs on no more.
    pub fn put(&mut self, key: &str, value: Vec<u8>) {
        self.revision += 1;
        let modified = Revision(self.revision);
        let created = self.entries.get(key).map_or(modified, |entry| entry.created);
        let (key, value) = (key.to_owned(), value.into());
        let entry = Entry { key: key.clone(), value, created, modified, lease: None };
        self.log.push(Event::Put(entry.clone()));
        self.entries.insert(key, entry);
    }

    /// A lease ends before its time: no store may.
    pub fn expire_early(&mut self, now: Nanos, chance: &mut Chance) {
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        if let Some(id) = chance.pick(&ids).copied() {
            self.lapse(id, now);
        }
    }

    fn remove(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            let revision = Revision(self.revision);
            self.log.push(Event::Deleted { key: key.to_owned(), revision });
        }
    }

    fn end_lease(&mut self, id: i64, now: Nanos) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        let keys: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.lease == Some(LeaseId(id)))
            .map(|entry| entry.key.clone())
            .collect();
        if keys.is_empty() {
            return;
        }
        self.revision += 1;
        for key in keys {
            if self.kind == Kind::Consul {
                self.resting.insert(key.clone(), now + LOCK_DELAY);
            }
            self.remove(&key);
        }
    }

    /// Answers, at the instant at which it takes effect.
    pub fn answer(&mut self, request: &Request, now: Nanos, chance: &mut Chance) -> Answer {
        self.tick(now);
        match request {
            Request::Get(key) => Answer::Entry(self.entries.get(key).cloned()),
            Request::Range(prefix) => Answer::Snapshot(self.range(prefix)),
            Request::Txn(_) | Request::Grant(_) if self.read_only => {
                Answer::NotDone("no space".to_owned())
            }
            Request::Txn(txn) => self.apply(txn, now),
            Request::Grant(ttl) => {
                self.last_lease += 1;
                // etcd grants whole seconds, Consul no less than it is asked for.
                let granted = nanos(*ttl).max(SEC).next_multiple_of(SEC);
                let late = self.late(granted, chance);
                let lease = Lease { ttl: granted, expires: now + granted + late };
                self.leases.insert(self.last_lease, lease);
                let ttl = std::time::Duration::from_nanos(granted);
                Answer::Granted(GrantedLease { id: LeaseId(self.last_lease), ttl })
            }
            Request::Renew(id) => {
                let ttl = self.leases.get(&id.0).map(|lease| lease.ttl);
                let Some(ttl) = ttl else { return Answer::Renewal(Renewal::Lost) };
                let late = self.late(ttl, chance);
                if let Some(lease) = self.leases.get_mut(&id.0) {
                    lease.expires = now + ttl + late;
                }
                let ttl = std::time::Duration::from_nanos(ttl);
                Answer::Renewal(Renewal::Renewed { ttl })
            }
            Request::Revoke(id) => {
                self.end_lease(id.0, now);
                Answer::Revoked
            }
            Request::Watch(prefix, after) => match self.changes(prefix, *after) {
                Ok(_) => Answer::Watching(0),
                Err(oldest) => Answer::Compacted(oldest),
            },
        }
    }

    fn range(&self, prefix: &str) -> Snapshot {
        let entries = self
            .entries
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect();
        Snapshot { revision: Revision(self.revision), entries }
    }

    fn apply(&mut self, txn: &Txn, now: Nanos) -> Answer {
        let found: Vec<Option<Entry>> =
            txn.compares.iter().map(|c| self.entries.get(c.key()).cloned()).collect();
        if !txn.compares.iter().zip(&found).all(|(compare, entry)| compare.holds(entry.as_ref())) {
            return Answer::Txn(TxnOutcome::Conflict { found });
        }
        for change in &txn.changes {
            let Change::Put { key, lease: Some(lease), .. } = change else { continue };
            if !self.leases.contains_key(&lease.0) {
                return Answer::Refused(format!("lease {} is not known", lease.0));
            }
            if self.resting.get(key).is_some_and(|until| now < *until) {
                return Answer::NotDone(format!("{key} rests for the lock-delay"));
            }
        }
        if txn.changes.is_empty() {
            return Answer::Txn(TxnOutcome::Applied { revision: Revision(self.revision) });
        }
        self.revision += 1;
        let modified = Revision(self.revision);
        for change in &txn.changes {
            match change {
                Change::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(modified, |entry| entry.created);
                    let (value, lease) = (value.clone().into(), *lease);
                    let entry = Entry { key: key.clone(), value, created, modified, lease };
                    self.log.push(Event::Put(entry.clone()));
                    self.entries.insert(key.clone(), entry);
                }
                Change::Delete { key } => self.remove(key),
            }
        }
        if self.log.len() > 2 * KEPT {
            self.compact(KEPT);
        }
        Answer::Txn(TxnOutcome::Applied { revision: modified })
    }

    /// What a watch is told, or the oldest revision that it could be told from.
    pub fn changes(&self, prefix: &str, after: Revision) -> Result<Vec<Event>, Revision> {
        if after.0 < self.compacted {
            return Err(Revision(self.compacted));
        }
        let from = self.log.partition_point(|event| event.revision() <= after);
        let new = self.log.get(from..).unwrap_or_default();
        Ok(new.iter().filter(|event| event.key().starts_with(prefix)).cloned().collect())
    }

    /// How long an answer takes to be made.
    pub fn work(&self, chance: &mut Chance) -> Nanos {
        chance.between(MS / 2, 3 * MS) + if self.slow > 0 { chance.below(self.slow) } else { 0 }
    }
}
