//! A world of records: a store of one process with a clock that stands still unless told.
//!
//! Decisions are made from it as in the product (snapshot → observe → decide) and applied to it as
//! in the product (act → transaction), without a runtime.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_coordinator::act;
use regent_coordinator::decide::view::{Quorum, Session, StoreLease, View};
use regent_coordinator::decide::write::Write;
use regent_coordinator::decide::{self, Decision, Federation, Memory, Policy, plan};
use regent_coordinator::observe::Records;
use regent_dcs::{Change, Compare, Entry, Revision, Snapshot, Txn};
use regent_proto::Epoch;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{
    Assignment, Lease, Operation, Primary, Record, Report, RunningOperation, VERSION,
};
use regent_proto::time::{BootTime, WallTime};
use regent_proto::topology::Topology;

use crate::agents;

pub(crate) const TWO_SITES: &str = "
federation: f
primary: eu
sites:
  - {name: eu, kind: data, dcs: embedded, synchronous: true, nodes: [{name: eu1}, {name: eu2}]}
  - {name: us, kind: data, dcs: embedded, synchronous: true, nodes: [{name: us1}, {name: us2}]}
  - {name: wit, kind: witness}
links: [{between: [eu, us]}]
quorum: {store: embedded, voters: [eu, us, wit]}
policy: {site_ttl: 5s, primary_ttl: 15s, handover_span: 10s, prepare_timeout: 60s, follow_timeout: 60s}
lab: {accept: [single-store-quorum]}
";

pub(crate) fn site(name: &str) -> SiteName {
    name.parse().expect("a label")
}

pub(crate) fn policy() -> Policy {
    Policy {
        me: "eu-c1".parse().expect("a name"),
        site: site("eu"),
        address: "127.0.0.1:7000".to_owned(),
        insecure: false,
        software: "test".to_owned(),
        report_age_max: Policy::REPORT_AGE_MAX,
        settle: Policy::SETTLE,
    }
}

pub(crate) struct World {
    pub(crate) now: BootTime,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) keys: GlobalKeys,
    pub(crate) memory: Memory,
    revision: u64,
    records: Records,
}

impl World {
    /// A federation that has just been created from `yaml`, nobody having reported.
    pub(crate) fn created(yaml: &str) -> Self {
        let mut world = Self::empty();
        let file = decide::apply::File::parse(yaml).expect("a good topology");
        let write = decide::apply::create(&world.view(), &file, uuid::Uuid::nil())
            .expect("nothing is there yet")
            .write
            .expect("something to write");
        world.perform(&write);
        world
    }

    /// A healthy federation at rest: assigned, reported, primary open under its lease.
    pub(crate) fn healthy(yaml: &str) -> Self {
        let mut world = Self::created(yaml);
        world.settle();
        world
    }

    /// Nothing at all; a coordinator with a session looks at it.
    pub(crate) fn empty() -> Self {
        let federation: regent_proto::name::FederationName = "f".parse().expect("a label");
        let keys = GlobalKeys::new(&federation);
        let mut world = Self {
            now: BootTime::from_nanos(1_000_000_000_000_000),
            entries: BTreeMap::new(),
            keys,
            memory: Memory::default(),
            revision: 0,
            records: Records::new(federation),
        };
        world.observe();
        world
    }

    fn observe(&mut self) {
        let entries = self.entries.values().cloned().collect();
        let snapshot = Snapshot { revision: Revision(self.revision), entries };
        self.records.replace(snapshot, self.now);
    }

    pub(crate) fn view(&self) -> View {
        let session = Session {
            lease: StoreLease(1),
            tenure: "tenure-of-eu-c1".parse().expect("an identifier"),
        };
        let wall = WallTime(self.now.nanos() / 1_000_000);
        self.records.view(self.now, wall, Quorum::Reachable, Some(session))
    }

    /// Another coordinator takes over: nothing is remembered, everything is seen for the first
    /// time.
    pub(crate) fn restart_coordinator(&mut self) {
        self.memory = Memory::default();
        self.records = Records::new("f".parse().expect("a label"));
        self.observe();
    }

    pub(crate) fn decide(&mut self) -> Decision {
        let decision = decide::decide(&policy(), &self.memory, &self.view());
        self.memory = decision.memory.clone();
        decision
    }

    /// Performs a write; false on a conflict.
    pub(crate) fn perform(&mut self, write: &Write) -> bool {
        for put in &write.puts {
            assert!(
                write.compares.iter().any(|expect| expect.record == put.record()),
                "{} puts {:?} without comparing it",
                write.purpose,
                put.record()
            );
        }
        self.txn(&act::transaction(&self.keys, write))
    }

    pub(crate) fn txn(&mut self, txn: &Txn) -> bool {
        let holds = txn.compares.iter().all(|compare| match compare {
            Compare::Modified { key, revision } => {
                self.entries.get(key).is_some_and(|entry| entry.modified == *revision)
            }
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::Value { key, value } => {
                self.entries.get(key).is_some_and(|entry| entry.value == *value)
            }
        });
        if !holds {
            return false;
        }
        self.revision += 1;
        let modified = Revision(self.revision);
        for change in &txn.changes {
            match change {
                Change::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(modified, |entry| entry.created);
                    let (key, value, lease) = (key.clone(), value.clone().into(), *lease);
                    let entry = Entry { key: key.clone(), value, created, modified, lease };
                    self.entries.insert(key, entry);
                }
                Change::Delete { key } => {
                    self.entries.remove(key);
                }
            }
        }
        self.observe();
        true
    }

    pub(crate) fn put_bytes(&mut self, key: &str, value: &[u8]) {
        assert!(self.txn(&Txn::new().then(Change::put(key, value))));
    }

    pub(crate) fn put<R: Record>(&mut self, key: &str, record: &R) {
        self.put_bytes(key, &record.encode());
    }

    pub(crate) fn get<R: Record>(&self, key: &str) -> R {
        let entry = self.entries.get(key).unwrap_or_else(|| panic!("no {key}"));
        R::decode(key, &entry.value).expect("a good record")
    }

    pub(crate) fn edit<R: Record>(&mut self, key: &str, change: impl FnOnce(&mut R)) {
        let mut record: R = self.get(key);
        change(&mut record);
        self.put(key, &record);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        assert!(self.txn(&Txn::new().then(Change::delete(key))));
    }

    pub(crate) fn primary(&self) -> Primary {
        self.get(&self.keys.primary())
    }

    pub(crate) fn assignment(&self, name: &str) -> Assignment {
        self.get(&self.keys.assignment(&site(name)))
    }

    pub(crate) fn edit_primary(&mut self, change: impl FnOnce(&mut Primary)) {
        let key = self.keys.primary();
        self.edit(&key, change);
    }

    pub(crate) fn edit_lease(&mut self, change: impl FnOnce(&mut Lease)) {
        let key = self.keys.lease();
        self.edit(&key, change);
    }

    /// Changes a report and sends it as a new one.
    pub(crate) fn edit_report(&mut self, name: &str, change: impl FnOnce(&mut Report)) {
        let key = self.keys.report(&site(name));
        self.edit(&key, |report: &mut Report| {
            report.sequence += 1;
            change(report);
        });
    }

    pub(crate) fn edit_topology(&mut self, from: &str, to: &str) {
        let key = self.keys.topology();
        self.edit(&key, |record: &mut regent_proto::record::TopologyRecord| {
            assert!(record.yaml.contains(from), "the topology does not say {from}");
            record.yaml = record.yaml.replace(from, to);
            record.topology = Topology::parse(&record.yaml).expect("a good topology").0;
        });
    }

    pub(crate) fn operation(&self, id: &OperationId) -> Operation {
        self.get(&self.keys.operation(id))
    }

    pub(crate) fn running(&self) -> Option<OperationId> {
        self.get::<RunningOperation>(&self.keys.running_operation()).id
    }

    /// Lets time pass, with every site of `living` reporting all the while.
    pub(crate) fn pass(&mut self, span: Duration, living: &[&str]) {
        let mut left = span;
        while !left.is_zero() {
            let step = left.min(Duration::from_secs(2));
            self.now = self.now.plus(step);
            left -= step;
            for name in living {
                if self.entries.contains_key(&self.keys.report(&site(name))) {
                    self.edit_report(name, |_| {});
                }
            }
            if self.entries.contains_key(&self.keys.lease()) {
                let holder = self.primary().holder;
                if living.contains(&holder.as_str()) {
                    self.edit_lease(|lease| lease.counter += u64::from(!lease.released));
                }
            }
        }
    }

    /// The coordinator and all agents act until nobody has anything to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200 {
            let decision = self.decide();
            if let Some(write) = decision.actions.first() {
                assert!(self.perform(write), "{} conflicts", write.purpose);
            } else if let Some(txn) = agents::deed(&self.view(), &agents::ALL_LIVE) {
                assert!(self.txn(&txn), "an agent's transaction conflicts");
            } else {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Judges this world's deciding records.
    pub(crate) fn judged<T>(&self, judge: impl FnOnce(&Federation<'_>) -> T) -> T {
        let (view, policy) = (self.view(), policy());
        let (topology, primary) = plan::deciding(&view).expect("a federation");
        let memory = &self.memory;
        judge(&Federation { policy: &policy, memory, view: &view, topology, primary })
    }

    pub(crate) fn plan(&self, to: &str) -> plan::Planned {
        let request = plan::Request { to: site(to), accept_unprotected: false };
        self.judged(|federation| plan::plan(federation, &request))
    }

    /// Asks for a switchover and returns its operation.
    pub(crate) fn begin(&mut self, to: &str) -> OperationId {
        let planned = self.plan(to);
        let asked = decide::request::Asked {
            id: "op-1".parse().expect("an identifier"),
            request: plan::Request { to: site(to), accept_unprotected: false },
            plan_hash: planned.hash,
            by: "tester".to_owned(),
            reason: "a test".to_owned(),
        };
        let write = self
            .judged(|federation| decide::request::execute(federation, &asked))
            .unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(self.perform(&write));
        asked.id
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.primary().epoch
    }
}

/// A running operation of this id, as a record.
pub(crate) fn running(id: Option<&OperationId>) -> RunningOperation {
    let unknown = regent_proto::record::Unknown::new();
    RunningOperation { version: VERSION, id: id.cloned(), unknown }
}
