//! Slots: `rows` says what a node plans in named situations, `judged` what a whole node decides and tells,
//! `properties` what holds of every plan, `readiness` of every copy.

mod judged;
mod properties;
mod readiness;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::TimelineId;

use super::world::{World, name, status};
use crate::decide::slots::readiness::Horizon;
use crate::decide::slots::{ClusterType, Given, Kind, Permanent, Planned, Rules, Step, plan};
use crate::decide::view::{Member, Origin, Receiver, Slot, Status, WalStatus};

/// A node of `a1`, `a2` and `a3`, and what it knows.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a node")]
struct Node {
    rules: Rules,
    me: NodeName,
    nofailover: bool,
    leads: bool,
    cluster: ClusterType,
    paused: bool,
    due: bool,
    leader: NodeName,
    members: BTreeMap<NodeName, Arc<Member>>,
    downstream: BTreeSet<String>,
    idle: BTreeMap<String, Lsn>,
    retained: BTreeSet<String>,
    managed: BTreeSet<String>,
    unknown_for: BTreeMap<String, Duration>,
    published: BTreeMap<String, Lsn>,
    status: Status,
    ready: BTreeSet<String>,
}

fn lsn(at: u64) -> Lsn {
    Lsn::new(at)
}

fn logical() -> Kind {
    Kind::Logical { database: "app".to_owned(), plugin: "pgoutput".to_owned() }
}

fn permanent(kind: Kind) -> Permanent {
    Permanent { kind, only: None, wal_budget: None }
}

impl Node {
    /// `a1` leads, `a2` and `a3` are members; everything that is wanted is there.
    fn leader() -> Self {
        let world = World::new();
        let mut a2 =
            world.view.site.as_ref().expect("a site").members[&name::<NodeName>("a2")].clone();
        Arc::make_mut(&mut a2).horizon = Some(Horizon { at: lsn(900), xmins: BTreeMap::new() });
        let members = ["a1", "a2", "a3"].map(|who| (name::<NodeName>(who), a2.clone()));
        let mut status = status(false, 3, 1000);
        status.wal_logical = true;
        for slot in ["a2", "a3"] {
            status.slots.insert(slot.to_owned(), at(Slot::physical(true), 900));
        }
        Self {
            rules: Rules::default(),
            me: name("a1"),
            nofailover: false,
            leads: true,
            cluster: ClusterType::Primary,
            paused: false,
            due: true,
            leader: name("a1"),
            members: members.into(),
            downstream: BTreeSet::new(),
            idle: BTreeMap::new(),
            retained: BTreeSet::new(),
            managed: BTreeSet::new(),
            unknown_for: BTreeMap::new(),
            published: BTreeMap::new(),
            status,
            ready: BTreeSet::new(),
        }
    }

    /// `a1` follows `a2`; it has a slot for each of the others.
    fn follower() -> Self {
        let mut node = Self { leads: false, leader: name("a2"), ..Self::leader() };
        node.status.in_recovery = true;
        node.status.receiver =
            Some(Receiver { host: "h".to_owned(), port: 1, timeline: TimelineId(3) });
        for slot in ["a2", "a3"] {
            node.status.slots.insert(slot.to_owned(), at(Slot::physical(false), 500));
        }
        node
    }

    fn member(&mut self, who: &str) -> &mut Member {
        Arc::make_mut(self.members.get_mut(&name::<NodeName>(who)).expect("a member"))
    }

    fn slot(&mut self, slot: &str) -> &mut Slot {
        self.status.slots.get_mut(slot).expect("a slot")
    }

    /// `slots` names a logical one.
    fn with_logical(mut self) -> Self {
        self.rules.permanent.insert("cdc".to_owned(), permanent(logical()));
        self
    }

    fn given(&self) -> Given<'_> {
        Given {
            rules: &self.rules,
            me: &self.me,
            nofailover: self.nofailover,
            leads: self.leads,
            cluster: self.cluster,
            paused: self.paused,
            due: self.due,
            leader: Some(&self.leader),
            members: &self.members,
            downstream: self.downstream.clone(),
            idle: self.idle.clone(),
            retained: self.retained.clone(),
            managed: &self.managed,
            unknown_for: self.unknown_for.clone(),
            published: &self.published,
            status: &self.status,
            ready: self.ready.clone(),
        }
    }

    fn plan(&self) -> Vec<Planned> {
        plan(&self.given())
    }

    /// As short words, for tables.
    fn words(&self) -> Vec<String> {
        let word = |Planned { step, why }: Planned| match step {
            Step::Drop { name } => format!("drop {name}: {why:?}"),
            Step::Create { name, .. } => format!("create {name}: {why:?}"),
            Step::Advance { name, to, .. } => format!("advance {name} to {}: {why:?}", to.get()),
            Step::Copy { name } => format!("copy {name}: {why:?}"),
            Step::Prove { name } => format!("prove {name}: {why:?}"),
            Step::Warn { name } => format!("warn {name}: {why:?}"),
        };
        self.plan().into_iter().map(word).collect()
    }

    /// What the server is like once all was done.
    fn done(&mut self, planned: &[Planned]) {
        let limit = if self.status.in_recovery { self.status.replayed } else { self.status.end };
        for Planned { step, .. } in planned {
            match step {
                Step::Drop { name } => drop(self.status.slots.remove(name)),
                Step::Create { name, kind } => {
                    self.status.slots.insert(name.clone(), made(kind, limit, Origin::Own));
                }
                Step::Advance { name, to, kind } => {
                    let slot = self.status.slots.get_mut(name).expect("what is moved is there");
                    match kind {
                        Kind::Physical => slot.restart = Some(*to),
                        Kind::Logical { .. } => slot.confirmed = Some(*to),
                    }
                }
                Step::Copy { name } => {
                    let kind = self.rules.permanent[name].kind.clone();
                    let slot = made(&kind, self.published[name].min(limit), Origin::Copied);
                    self.ready.remove(name);
                    self.status.slots.insert(name.clone(), slot);
                }
                Step::Prove { name } => {
                    self.status.slots.get_mut(name).expect("there").origin = Origin::Proven;
                }
                Step::Warn { .. } => {}
            }
        }
    }
}

fn at(slot: Slot, restart: u64) -> Slot {
    Slot { restart: Some(lsn(restart)), wal: WalStatus::Reserved, ..slot }
}

fn made(kind: &Kind, position: Lsn, origin: Origin) -> Slot {
    let slot = Slot { restart: Some(position), wal: WalStatus::Reserved, ..Slot::default() };
    match kind {
        Kind::Physical => Slot { physical: true, ..slot },
        Kind::Logical { database, plugin } => Slot {
            database: Some(database.clone()),
            plugin: Some(plugin.clone()),
            confirmed: Some(position),
            origin,
            ..slot
        },
    }
}

fn copy(confirmed: u64, origin: Origin) -> Slot {
    made(&logical(), lsn(confirmed), origin)
}
