//! Replication slots: which a node should have, and the ordered plan that gets it there, each step with
//! its reason (spec/patroni-compat.md 3.16).
//!
//! A member's slot lies on every node that it could stream from next, and outlives it for
//! `member_slots_ttl`; permanent ones stay. A node that follows moves them to where the leader has
//! published them, never further. `readiness` judges copies of logical slots, `budget` what a slot keeps
//! of WAL, `keep` makes a plan of what a node sees.

mod budget;
mod keep;
pub mod readiness;
mod reason;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::upstream;
use super::view::{Member, Origin, Slot, Status};

pub use budget::kept;
pub use keep::{Told, told};
pub use reason::Why;
pub use rules::{ClusterType, Kind, Matcher, Permanent, Rules};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drop it, where nobody uses it.
    Drop {
        /// Which.
        name: String,
    },
    /// Make it.
    Create {
        /// Its name.
        name: String,
        /// Of which kind.
        kind: Kind,
    },
    /// Move it forward.
    Advance {
        /// Which.
        name: String,
        /// Of which kind.
        kind: Kind,
        /// Up to here.
        to: Lsn,
    },
    /// Copy it from the leader; the server stops for it.
    Copy {
        /// Which.
        name: String,
    },
    /// Note that a copy was found safe to use.
    Prove {
        /// Which.
        name: String,
    },
    /// Tell a person.
    Warn {
        /// Of which slot.
        name: String,
    },
}

impl Step {
    /// What is done on the running server, or noted; the rest is a job, or said.
    #[must_use]
    pub fn is_done_at_once(&self) -> bool {
        match self {
            Self::Drop { .. } | Self::Create { .. } | Self::Advance { .. } | Self::Prove { .. } => {
                true
            }
            Self::Copy { .. } | Self::Warn { .. } => false,
        }
    }

    /// The slot that it is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Drop { name }
            | Self::Create { name, .. }
            | Self::Advance { name, .. }
            | Self::Copy { name }
            | Self::Prove { name }
            | Self::Warn { name } => name,
        }
    }
}

/// A step, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub step: Step,
    /// Why.
    pub why: Why,
}

/// What a plan is made from.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a node")]
pub struct Given<'a> {
    /// The configuration.
    pub rules: &'a Rules,
    /// This member.
    pub me: &'a NodeName,
    /// It never leads, so it keeps slots only for those that stream from it.
    pub nofailover: bool,
    /// It leads its site.
    pub leads: bool,
    /// What its site is.
    pub cluster: ClusterType,
    /// Patroni's `pause`: nothing is dropped, and nothing stopped for a copy.
    pub paused: bool,
    /// Slots have not been moved for a while.
    pub due: bool,
    /// Who leads the site.
    pub leader: Option<&'a NodeName>,
    /// The site's members.
    pub members: &'a BTreeMap<NodeName, Arc<Member>>,
    /// Slots of nodes of other sites that stream, or will stream, from this one.
    pub downstream: BTreeSet<String>,
    /// Those of them whose site another node leads, from which they stream: how far they have come. Left
    /// to themselves their slots would keep all WAL from when they were made.
    pub idle: BTreeMap<String, Lsn>,
    /// Slots of members that were there within `member_slots_ttl`.
    pub retained: BTreeSet<String>,
    /// Names that were wanted here, or are of nodes: only these are known to be ours.
    pub managed: &'a BTreeSet<String>,
    /// How long nobody has wanted, or used, a slot that is here.
    pub unknown_for: BTreeMap<String, Duration>,
    /// Where the leader has published each slot.
    pub published: &'a BTreeMap<String, Lsn>,
    /// This server.
    pub status: &'a Status,
    /// Copies that are safe to use.
    pub ready: BTreeSet<String>,
}

/// A slot that should be here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Want {
    kind: Kind,
    why: Why,
    /// Somebody is to stream through it here: it is left to itself.
    used: bool,
    /// Otherwise it is moved up to here.
    position: Option<(Lsn, Why)>,
}

/// The steps of a plan, by kind: what is dropped makes room for what is made.
#[derive(Default)]
struct Steps {
    drops: Vec<Planned>,
    creates: Vec<Planned>,
    moves: Vec<Planned>,
    copies: Vec<Planned>,
    warnings: Vec<Planned>,
}

impl Steps {
    fn drop(&mut self, name: &str, why: Why) {
        self.drops.push(Planned { step: Step::Drop { name: name.to_owned() }, why });
    }

    fn create(&mut self, name: &str, want: &Want) {
        let step = Step::Create { name: name.to_owned(), kind: want.kind.clone() };
        self.creates.push(Planned { step, why: want.why.clone() });
    }

    fn advance(&mut self, name: &str, kind: &Kind, to: Lsn, why: Why) {
        let step = Step::Advance { name: name.to_owned(), kind: kind.clone(), to };
        self.moves.push(Planned { step, why });
    }

    fn copy(&mut self, name: &str, why: Why) {
        self.copies.push(Planned { step: Step::Copy { name: name.to_owned() }, why });
    }

    fn prove(&mut self, name: &str) {
        let step = Step::Prove { name: name.to_owned() };
        self.moves.push(Planned { step, why: Why::Proven });
    }

    fn warn(&mut self, name: &str, why: Why) {
        self.warnings.push(Planned { step: Step::Warn { name: name.to_owned() }, why });
    }
}

/// What to do, in this order. Whoever does it all, and plans again, has nothing left but what is said.
#[must_use]
pub fn plan(given: &Given<'_>) -> Vec<Planned> {
    let mut steps = Steps::default();
    let wanted = given.wanted(&mut steps);
    given.steps_to(&wanted, steps)
}

impl Given<'_> {
    /// What is left to do where these slots are wanted, beside what was said of them.
    fn steps_to(&self, wanted: &BTreeMap<String, Want>, mut steps: Steps) -> Vec<Planned> {
        for (name, slot) in &self.status.slots {
            if self.rules.leaves_alone(name, slot) {
                continue;
            }
            match wanted.get(name) {
                None => self.unwanted(name, slot, &mut steps),
                Some(want) => self.wanted_and_there(name, slot, want, &mut steps),
            }
        }
        for (name, want) in wanted {
            if !self.status.slots.contains_key(name) {
                self.missing(name, want, &mut steps);
            }
        }
        let Steps { drops, creates, moves, copies, warnings } = steps;
        [drops, creates, moves, copies, warnings].into_iter().flatten().collect()
    }

    /// Up to where slots can be moved here.
    fn limit(&self) -> Lsn {
        if self.status.in_recovery { self.status.replayed } else { self.status.end }
    }

    /// Where the leader has published it, as far as this node has come.
    fn published(&self, name: &str) -> Option<(Lsn, Why)> {
        let at = self.published.get(name).filter(|_| !self.leads)?;
        Some(((*at).min(self.limit()), Why::Published))
    }

    fn want(&self, name: &str, why: Why, used: bool) -> Want {
        Want { kind: Kind::Physical, why, used, position: self.published(name) }
    }

    /// Every node that could lead keeps a slot for everybody; one that could not for those that stream
    /// from it. Names that mean two things are said.
    fn wanted(&self, steps: &mut Steps) -> BTreeMap<String, Want> {
        let mut wanted = BTreeMap::new();
        let mut owners: BTreeMap<String, Vec<NodeName>> = BTreeMap::new();
        for name in self.members.keys() {
            owners.entry(name.slot()).or_default().push(name.clone());
        }
        if !self.rules.use_slots {
            return wanted;
        }
        let own = self.me.slot();
        let lasting = self.rules.member_ttl > Duration::ZERO;
        let keeps = lasting && !self.nofailover;
        for (name, member) in self.members {
            if name == self.me || member.nostream {
                continue;
            }
            let used = self.streams_here(name, member);
            if keeps || used {
                let mut want = self.want(&name.slot(), Why::Member, used);
                if self.leads && !used {
                    // It streams from another member, which tells how far it has come.
                    want.position = member.position.map(|at| (at.min(self.limit()), Why::Told));
                }
                wanted.entry(name.slot()).or_insert(want);
            }
        }
        let mut add = |names: &BTreeSet<String>, why: &Why| {
            for name in names.iter().filter(|name| **name != own) {
                let told = self.idle.get(name).filter(|_| self.leads && *why == Why::Downstream);
                let mut want = self.want(name, why.clone(), self.leads && told.is_none());
                if let Some(at) = told {
                    want.position = Some(((*at).min(self.limit()), Why::Told));
                }
                wanted.entry(name.clone()).or_insert(want);
            }
        };
        if keeps || self.leads {
            add(&self.downstream, &Why::Downstream);
        }
        if keeps || (self.leads && lasting) {
            add(&self.retained, &Why::Retained);
        }
        for (slot, names) in &owners {
            if names.len() > 1 {
                steps.warn(slot, Why::SharedName(names.clone()));
            }
        }
        if self.leads || !self.nofailover {
            self.add_permanent(&mut wanted, &owners, &own, steps);
        }
        wanted
    }

    fn add_permanent(
        &self,
        wanted: &mut BTreeMap<String, Want>,
        owners: &BTreeMap<String, Vec<NodeName>>,
        own: &str,
        steps: &mut Steps,
    ) {
        for (name, permanent) in &self.rules.permanent {
            if permanent.only.is_some_and(|only| only != self.cluster) {
                continue;
            }
            match &permanent.kind {
                // A node has no slot for itself.
                Kind::Physical if name == own => {}
                Kind::Physical => {
                    let want = self.want(name, Why::Permanent, self.leads);
                    wanted.entry(name.clone()).or_insert(want);
                }
                // What a standby site decodes, it decodes for nobody: the primary site's slot counts.
                Kind::Logical { .. } if self.cluster == ClusterType::Standby => {}
                Kind::Logical { .. } if owners.contains_key(name) || wanted.contains_key(name) => {
                    steps.warn(name, Why::NodesName);
                }
                Kind::Logical { .. } => {
                    let kind = permanent.kind.clone();
                    let want = Want { kind, ..self.want(name, Why::Permanent, true) };
                    wanted.insert(name.clone(), want);
                }
            }
        }
    }

    /// Whether a member is to stream from this node.
    fn streams_here(&self, name: &NodeName, member: &Member) -> bool {
        let tag = member.replicatefrom.as_ref();
        match self.leader {
            None => tag == Some(self.me),
            Some(leader) => {
                name != leader && upstream::of_member(self.members, leader, (name, tag)) == self.me
            }
        }
    }

    fn unwanted(&self, name: &str, slot: &Slot, steps: &mut Steps) {
        if slot.active || self.paused {
            return;
        }
        if self.managed.contains(name) {
            steps.drop(name, Why::Unneeded);
        } else if !self.rules.use_slots {
            // Regent makes no slots here: whatever there is, is somebody else's.
        } else if self.unknown_for.get(name).is_some_and(|age| *age >= self.rules.member_ttl) {
            steps.drop(name, Why::Unknown);
        } else {
            steps.warn(name, Why::Stranger);
        }
    }

    fn wanted_and_there(&self, name: &str, slot: &Slot, want: &Want, steps: &mut Steps) {
        match (&want.kind, slot.physical) {
            (Kind::Physical, true) => self.physical(name, slot, want, steps),
            (Kind::Logical { .. }, false) => {
                if self.status.in_recovery {
                    self.copied(name, slot, want, steps);
                } else if slot.origin == Origin::Unsafe {
                    self.left_over(name, slot, want, steps);
                } else if !want.kind.is_of(slot) {
                    steps.warn(name, Why::OtherKind);
                } else if slot.is_lost() {
                    steps.warn(name, Why::LostForGood);
                }
            }
            (Kind::Physical, false) | (Kind::Logical { .. }, true) => {
                steps.warn(name, Why::OtherKind);
            }
        }
    }

    fn physical(&self, name: &str, slot: &Slot, want: &Want, steps: &mut Steps) {
        if slot.active {
            return;
        }
        let wrong = if slot.is_lost() {
            Some(Why::Lost)
        } else if (slot.holds_xmin || slot.catalog_xmin.is_some()) && !want.used {
            Some(Why::HoldsXmin)
        } else {
            None
        };
        if let Some(why) = wrong {
            if !self.paused {
                steps.drop(name, why);
                steps.create(name, want);
            }
            return;
        }
        if let (false, true, Some(at), Some((to, why))) =
            (want.used, self.due, slot.restart, &want.position)
            && *to > at
        {
            steps.advance(name, &want.kind, *to, why.clone());
        }
    }

    /// Why a logical slot that is wanted is of no use as it is: on a node in recovery it counts only as a
    /// copy of the leader's.
    fn useless(&self, slot: &Slot, want: &Want) -> Option<Why> {
        if slot.physical || want.kind == Kind::Physical || !self.status.in_recovery {
            None
        } else if !slot.origin.is_copy() {
            Some(Why::NotCopied)
        } else if !want.kind.is_of(slot) {
            Some(Why::Changed)
        } else if slot.is_lost() {
            Some(Why::Lost)
        } else {
            None
        }
    }

    /// An unsafe copy on a node that has opened: its consumer is better told than served.
    fn left_over(&self, name: &str, slot: &Slot, want: &Want, steps: &mut Steps) {
        if slot.active || self.paused {
            steps.warn(name, Why::Unsafe);
            return;
        }
        steps.drop(name, Why::Unsafe);
        self.missing(name, want, steps);
    }

    fn copied(&self, name: &str, slot: &Slot, want: &Want, steps: &mut Steps) {
        if slot.active {
            return;
        }
        if let Some(why) = self.useless(slot, want) {
            // Nothing moves it: it would keep WAL, and by this node's feedback the leader's catalog.
            let kept = self.unknown_for.get(name);
            if !self.paused && kept.is_some_and(|age| *age >= self.rules.member_ttl) {
                steps.drop(name, why.clone());
            }
            if self.may_copy(name) {
                steps.copy(name, why);
            }
            return;
        }
        if let (true, Some(at), Some((to, why))) = (self.due, slot.confirmed, &want.position)
            && *to > at
        {
            steps.advance(name, &want.kind, *to, why.clone());
        }
        if slot.origin == Origin::Copied && self.ready.contains(name) {
            steps.prove(name);
        }
    }

    /// The leader has it and tells what a copy is judged by, this node streams, and nobody has forbidden
    /// a stop. Patroni tells nothing: a copy of its slot would never be used.
    fn may_copy(&self, name: &str) -> bool {
        let leader = self.leader.and_then(|leader| self.members.get(leader));
        !self.leads
            && !self.paused
            && leader.is_some_and(|leader| leader.horizon.is_some())
            && self.status.receiver.is_some()
            && self.status.wal_logical
            && self.published.contains_key(name)
    }

    fn missing(&self, name: &str, want: &Want, steps: &mut Steps) {
        match &want.kind {
            Kind::Physical => steps.create(name, want),
            Kind::Logical { .. } if !self.status.wal_logical => steps.warn(name, Why::WalLevel),
            Kind::Logical { .. } if self.status.in_recovery => {
                if self.may_copy(name) {
                    steps.copy(name, Why::Missing);
                }
            }
            Kind::Logical { .. } => match self.published.get(name) {
                // Made anew it would begin here, and its consumer would miss what lies between.
                Some(at) => steps.warn(name, Why::Gap(*at)),
                None => steps.create(name, want),
            },
        }
    }

    /// What the leader tells of the slots that it keeps: where each is, and where it is itself. Of a
    /// permanent logical slot that is not here any more it tells what was known last.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<String, Lsn> {
        let wanted = self.wanted(&mut Steps::default());
        let mut positions: BTreeMap<String, Lsn> = BTreeMap::new();
        for (name, want) in &wanted {
            let at = match (self.status.slots.get(name), &want.kind) {
                (Some(slot), Kind::Physical) if slot.physical => slot.restart,
                (Some(slot), Kind::Logical { .. }) if !slot.physical => slot.confirmed,
                (None, Kind::Logical { .. }) => self.published.get(name).copied(),
                (Some(_), Kind::Physical | Kind::Logical { .. }) | (None, Kind::Physical) => None,
            };
            positions.extend(at.map(|at| (name.clone(), at)));
        }
        if self.rules.use_slots {
            positions.insert(self.me.slot(), self.limit());
        }
        if self.rules.member_ttl.is_zero() {
            positions.retain(|name, _| self.rules.permanent.contains_key(name));
        }
        positions
    }
}
