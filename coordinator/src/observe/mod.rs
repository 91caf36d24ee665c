//! What the global quorum holds of one federation, kept up to date from a watch.
//!
//! Gathers and never judges: every record is decoded and checked for being the one its key says,
//! and gets the instant at which this process first saw it. What can't be decoded is kept as
//! unreadable.

pub mod clock;

use std::collections::BTreeMap;

use regent_dcs::{Entry, Event, Snapshot};
use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::name::{FederationName, NodeName};
use regent_proto::record::{
    Assignment, CoordinatorLeader, CoordinatorMember, EpochHistory, Lease, Operation, Primary,
    Record, Report, RunningOperation, TopologyRecord,
};
use regent_proto::time::{BootTime, WallTime};

use crate::decide::view::{Quorum, Revision, Seen, Session, Slot, StoreLease, Unreadable, View};

/// All keys of one federation.
#[derive(Debug)]
pub struct Records {
    federation: FederationName,
    keys: GlobalKeys,
    entries: BTreeMap<String, Observed>,
    /// Every key decoded, once for each of its revisions.
    decoded: View,
    revision: regent_dcs::Revision,
    /// A first snapshot was taken: from now on what is new was seen coming.
    looked: bool,
}

#[derive(Debug)]
struct Observed {
    entry: Entry,
    since: BootTime,
    witnessed: bool,
}

impl Records {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(federation: FederationName) -> Self {
        let keys = GlobalKeys::new(&federation);
        let decoded = View::empty(federation.clone(), BootTime::default());
        let revision = regent_dcs::Revision::default();
        Self { federation, keys, entries: BTreeMap::new(), decoded, revision, looked: false }
    }

    /// The store revision up to which the records are known.
    #[must_use]
    pub fn revision(&self) -> regent_dcs::Revision {
        self.revision
    }

    /// Takes over a whole snapshot that was read just now.
    pub fn replace(&mut self, snapshot: Snapshot, now: BootTime) {
        // A store that was restored from a backup may go back; then everything is new.
        let mut before = std::mem::take(&mut self.entries);
        for entry in snapshot.entries {
            let old = before.remove(&entry.key);
            self.insert(entry, old, now);
        }
        for gone in before.into_keys() {
            self.forget(&gone);
        }
        self.revision = snapshot.revision;
        self.looked = true;
    }

    /// Takes over changes that a watch delivered just now; those that a snapshot had already are
    /// left out.
    pub fn apply(&mut self, events: Vec<Event>, now: BootTime) {
        let known = self.revision;
        for event in events {
            match event {
                Event::Put(entry) if entry.modified > known => {
                    self.revision = self.revision.max(entry.modified);
                    let old = self.entries.remove(&entry.key);
                    self.insert(entry, old, now);
                }
                Event::Deleted { key, revision } if revision > known => {
                    self.revision = self.revision.max(revision);
                    self.entries.remove(&key);
                    self.forget(&key);
                }
                Event::Put(_) | Event::Deleted { .. } => {}
            }
        }
    }

    fn insert(&mut self, entry: Entry, old: Option<Observed>, now: BootTime) {
        let key = entry.key.clone();
        let observed = match old {
            // Decoded already.
            Some(old) if old.entry.modified == entry.modified => old,
            Some(old) => {
                let before = self.report_said(&key);
                let observed = self.place(Observed { entry, since: now, witnessed: self.looked });
                // A report that says nothing newer is as old as it was.
                if before.is_some() && before == self.report_said(&key) {
                    self.place(Observed { entry: observed.entry, ..old })
                } else {
                    observed
                }
            }
            None => self.place(Observed { entry, since: now, witnessed: self.looked }),
        };
        self.entries.insert(key, observed);
    }

    /// Whose word the report under this key is, and the how manieth.
    fn report_said(&self, key: &str) -> Option<(NodeName, u64)> {
        let GlobalKey::Report(site) = self.keys.classify(key) else { return None };
        let report = &self.decoded.reports.get(&site)?.read()?.value;
        Some((report.node.clone(), report.sequence))
    }

    /// The records as a view.
    #[must_use]
    pub fn view(
        &self,
        now: BootTime,
        wall: WallTime,
        quorum: Quorum,
        session: Option<Session>,
    ) -> View {
        View {
            now,
            wall,
            quorum,
            session,
            revision: Revision(self.revision.0),
            ..self.decoded.clone()
        }
    }

    /// Decodes what a key holds now.
    fn place(&mut self, observed: Observed) -> Observed {
        let (view, federation) = (&mut self.decoded, &self.federation);
        match self.keys.classify(&observed.entry.key) {
            GlobalKey::Topology => {
                view.topology = observed.slot(|record: &TopologyRecord| {
                    same("federation", &record.topology.federation, federation)
                });
            }
            GlobalKey::Primary => view.primary = observed.slot(|_: &Primary| Ok(())),
            GlobalKey::Lease => view.lease = observed.slot(|_: &Lease| Ok(())),
            GlobalKey::RunningOperation => {
                view.running = observed.slot(|_: &RunningOperation| Ok(()));
            }
            GlobalKey::Leader => view.leader = observed.slot(|_: &CoordinatorLeader| Ok(())),
            GlobalKey::Assignment(site) => {
                view.assignments.insert(site, observed.slot(|_: &Assignment| Ok(())));
            }
            GlobalKey::Report(site) => {
                let slot = observed.slot(|report: &Report| same("site", &report.site, &site));
                view.reports.insert(site, slot);
            }
            GlobalKey::Operation(id) => {
                let slot = observed.slot(|record: &Operation| same("id", &record.id, &id));
                view.operations.insert(id, slot);
            }
            GlobalKey::Coordinator(name) => {
                let slot =
                    observed.slot(|record: &CoordinatorMember| same("name", &record.name, &name));
                view.coordinators.insert(name, slot);
            }
            GlobalKey::History(epoch) => {
                let slot =
                    observed.slot(|record: &EpochHistory| same("epoch", &record.epoch, &epoch));
                view.history.insert(epoch, slot);
            }
            GlobalKey::Foreign => {}
        }
        observed
    }

    /// A key is gone.
    fn forget(&mut self, key: &str) {
        let view = &mut self.decoded;
        match self.keys.classify(key) {
            GlobalKey::Topology => view.topology = Slot::Absent,
            GlobalKey::Primary => view.primary = Slot::Absent,
            GlobalKey::Lease => view.lease = Slot::Absent,
            GlobalKey::RunningOperation => view.running = Slot::Absent,
            GlobalKey::Leader => view.leader = Slot::Absent,
            GlobalKey::Assignment(site) => drop(view.assignments.remove(&site)),
            GlobalKey::Report(site) => drop(view.reports.remove(&site)),
            GlobalKey::Operation(id) => drop(view.operations.remove(&id)),
            GlobalKey::Coordinator(name) => drop(view.coordinators.remove(&name)),
            GlobalKey::History(epoch) => drop(view.history.remove(&epoch)),
            GlobalKey::Foreign => {}
        }
    }
}

/// A record says itself what it is about; that must be what its key says.
fn same<T: PartialEq + std::fmt::Display>(what: &str, said: &T, key: &T) -> Result<(), String> {
    if said == key { Ok(()) } else { Err(format!("{what} {said} in the record of {key}")) }
}

impl Observed {
    fn slot<T: Record>(&self, check: impl Fn(&T) -> Result<(), String>) -> Slot<T> {
        let (key, revision) = (&self.entry.key, Revision(self.entry.modified.0));
        let decoded =
            T::decode(key, &self.entry.value).and_then(|record| {
                check(&record).map(|()| record).map_err(|problem| {
                    regent_proto::record::RecordError { key: key.clone(), kind: T::KIND, problem }
                })
            });
        match decoded {
            Ok(value) => Slot::Read(Seen {
                value,
                revision,
                lease: self.entry.lease.map(|lease| StoreLease(lease.0)),
                since: self.since,
                witnessed: self.witnessed,
            }),
            Err(error) => Slot::Unreadable(Unreadable {
                key: key.clone(),
                problem: error.to_string(),
                revision,
            }),
        }
    }
}

/// Which unreadable records were told already.
#[derive(Debug, Default)]
pub struct Reported(BTreeMap<String, Revision>);

impl Reported {
    /// The unreadable records that were not told yet: each once for each of its revisions.
    pub fn news<'a>(&mut self, view: &'a View) -> Vec<&'a Unreadable> {
        let unreadable = view.unreadable();
        self.0.retain(|key, _| unreadable.iter().any(|bad| bad.key == *key));
        unreadable
            .into_iter()
            .filter(|bad| self.0.insert(bad.key.clone(), bad.revision) != Some(bad.revision))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_key_held_is_gone_with_it() {
        let keys = GlobalKeys::new(&"f".parse().expect("a name"));
        let site = "a".parse().expect("a name");
        let all = [
            keys.topology(),
            keys.primary(),
            keys.lease(),
            keys.running_operation(),
            keys.leader(),
            keys.assignment(&site),
            keys.report(&site),
            keys.operation(&"o1".parse().expect("an id")),
            keys.coordinator(&"c1".parse().expect("a name")),
            keys.history(regent_proto::Epoch::new(3)),
        ];
        let now = BootTime::default();
        let mut records = Records::new("f".parse().expect("a name"));
        let held = |records: &Records| {
            let view = records.view(now, WallTime::default(), Quorum::Reachable, None);
            view.unreadable().len()
        };
        let entry = |key: &String, revision| Entry {
            key: key.clone(),
            value: b"no record".to_vec().into(),
            created: regent_dcs::Revision(revision),
            modified: regent_dcs::Revision(revision),
            lease: None,
        };
        for (revision, key) in (1..).zip(&all) {
            records.apply(vec![Event::Put(entry(key, revision))], now);
            assert_eq!(held(&records), usize::try_from(revision).expect("few"), "{key}");
        }
        for (gone, key) in (1..).zip(&all) {
            let revision = regent_dcs::Revision(100 + gone);
            records.apply(vec![Event::Deleted { key: key.clone(), revision }], now);
            assert_eq!(held(&records), all.len() - usize::try_from(gone).expect("few"), "{key}");
        }
        // And by a snapshot that no longer has it.
        let snapshot = |entries, revision| Snapshot { revision, entries };
        let two = vec![entry(&all[0], 201), entry(&all[5], 202)];
        records.replace(snapshot(two, regent_dcs::Revision(202)), now);
        assert_eq!(held(&records), 2);
        let one = vec![entry(&all[5], 202)];
        records.replace(snapshot(one, regent_dcs::Revision(203)), now);
        assert_eq!(held(&records), 1);
    }
}
