//! The plan for slots as a node sees itself: what it remembers for it, what it orders, and what it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::record::Report;

use super::readiness::{self, Seen};
use super::{ClusterType, Given, Kind, Planned, Step, Steps, Want, Why, budget, plan};
use crate::decide::remembered::has_data;
use crate::decide::view::{Due, Memory, Origin, Policy, SiteView, Status, View};
use crate::decide::{Action, Choice, Job, Judge, Reason, upstream};

/// How soon slots are copied again: the server stops for it, and whatever spoils each copy would keep it
/// stopping. Twice as long after each one that came to nothing.
const COPY_AGAIN: Duration = Duration::from_secs(300);

/// How often that doubles: to most of a day.
const COPY_DOUBLINGS: u32 = 8;

/// By how many periods of the loop one node lets the one before it go first: it sees by its record then
/// that the other has stopped.
const TURN_PERIODS: u32 = 3;

/// For so long a node waits for another one to stream again before it copies. One that never does must not
/// keep all others without their copies.
const TURN_PATIENCE: Duration = Duration::from_secs(300);

/// What a node tells of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// `slots` of the key `status`, told by whoever leads.
    pub positions: BTreeMap<String, Lsn>,
    /// `retain_slots` of it.
    pub retain: BTreeSet<String>,
    /// What a person should know, by slot; the words stay the same while it is so.
    pub warnings: BTreeSet<(String, String)>,
    /// Logical slots of `slots` that are here, and whether a consumer can go on from them.
    pub usable: BTreeMap<String, bool>,
    /// The budget of each slot that has one.
    pub budgets: BTreeMap<String, u64>,
}

/// What this node tells.
#[must_use]
pub fn told(policy: &Policy, memory: &Memory, view: &View) -> Told {
    let (Some(site), Some(status)) = (&view.site, &view.postgres.status) else {
        return Told::default();
    };
    let given = given(policy, memory, view, (site, status));
    let rules = &policy.slots;
    let mut said = plan(&given);
    said.extend(budget::warnings(rules, status));
    let warnings = said.into_iter().filter_map(|planned| match planned.step {
        Step::Warn { name } => Some((name, planned.why.to_string())),
        Step::Drop { .. }
        | Step::Create { .. }
        | Step::Advance { .. }
        | Step::Copy { .. }
        | Step::Prove { .. } => None,
    });
    let there = status.slots.keys();
    Told {
        positions: given.positions(),
        retain: retain(policy, memory, view, site),
        warnings: warnings.collect(),
        usable: usable(policy, memory, status),
        budgets: there
            .filter_map(|name| Some((name.clone(), budget::of(rules, status, name)?)))
            .collect(),
    }
}

/// Members' slots, of those that are there or were within `member_slots_ttl`.
fn retain(policy: &Policy, memory: &Memory, view: &View, site: &SiteView) -> BTreeSet<String> {
    let rules = &policy.slots;
    if !rules.use_slots || rules.member_ttl.is_zero() {
        return BTreeSet::new();
    }
    let there = site.members.iter().filter(|(_, member)| !member.nostream);
    let mut names: BTreeSet<String> = there.map(|(name, _)| name.slot()).collect();
    names.extend(seen_lately(policy, memory, view));
    names.retain(|name| !rules.permanent.contains_key(name));
    names
}

fn seen_lately(policy: &Policy, memory: &Memory, view: &View) -> BTreeSet<String> {
    let lately = |at| view.now.since(at) < policy.slots.member_ttl;
    let seen = memory.slots_seen.iter().filter(|(_, at)| lately(**at));
    seen.map(|(name, _)| name.clone()).collect()
}

/// Logical slots of `slots` that are here, and whether they can be used: the primary's own can.
fn usable(policy: &Policy, memory: &Memory, status: &Status) -> BTreeMap<String, bool> {
    let logical = status.slots.iter().filter(|(name, slot)| {
        let permanent = policy.slots.permanent.get(*name);
        !slot.physical && permanent.is_some_and(|permanent| permanent.kind != Kind::Physical)
    });
    let judged = logical.map(|(name, slot)| {
        let proven = match (memory.slots_readiness.get(name), slot.origin) {
            (Some(known), _) => known.ready,
            // Nobody else has written since this node did, or it was found safe in an earlier life.
            (None, Origin::Own | Origin::Proven) => true,
            (None, Origin::Copied) => !status.in_recovery,
            (None, Origin::Unsafe) => false,
        };
        (name.clone(), proven && !slot.is_lost())
    });
    judged.collect()
}

fn cluster(view: &View) -> ClusterType {
    if upstream::is_standby_site(view) { ClusterType::Standby } else { ClusterType::Primary }
}

/// What the sites tell that stream, or will stream, from this one.
fn downstream_reports(view: &View) -> impl Iterator<Item = &Report> {
    let federation = view.federation.as_ref();
    let assigned = federation.and_then(|f| Some((f, f.assignment.as_ref()?)));
    assigned.into_iter().flat_map(|(federation, assignment)| {
        let told = assignment.downstream.iter();
        told.filter_map(move |site| federation.reports.get(site).map(|report| &**report))
    })
}

fn downstream(view: &View) -> BTreeSet<String> {
    let nodes = downstream_reports(view).flat_map(|report| &report.nodes);
    nodes.map(|node| node.name.slot()).collect()
}

/// Whoever reports leads its site, and is to stream from here; the others stream from it.
fn idle(view: &View) -> BTreeMap<String, Lsn> {
    let others = downstream_reports(view)
        .flat_map(|report| report.nodes.iter().filter(move |node| node.name != report.node));
    others.filter_map(|node| Some((node.name.slot(), node.position?))).collect()
}

fn given<'a>(
    policy: &'a Policy,
    memory: &'a Memory,
    view: &'a View,
    (site, status): (&'a SiteView, &'a Status),
) -> Given<'a> {
    let leader = site.leader.as_ref().map(|leader| &leader.name);
    let tried = memory.slots_tried.as_ref();
    let unknown = memory.slots_unknown_since.iter();
    let usable = usable(policy, memory, status);
    Given {
        rules: &policy.slots,
        me: &policy.me,
        nofailover: policy.nofailover,
        leads: leader == Some(&policy.me),
        cluster: cluster(view),
        paused: policy.paused,
        due: tried.is_none_or(|(_, at)| view.now.since(*at) >= policy.loop_wait),
        leader,
        members: &site.members,
        downstream: downstream(view),
        idle: idle(view),
        retained: seen_lately(policy, memory, view),
        managed: &memory.slots_managed,
        unknown_for: unknown.map(|(name, at)| (name.clone(), view.now.since(*at))).collect(),
        published: &site.published.slots,
        status,
        ready: usable.into_iter().filter(|(_, usable)| *usable).map(|(name, _)| name).collect(),
    }
}

impl Judge<'_> {
    /// Brings the slots of this node where they should be.
    pub(in crate::decide) fn keep_slots(
        &mut self,
        site: &SiteView,
        status: &Status,
    ) -> Option<Choice> {
        let (wanted, said) = self.note_slots(site, status);
        let given = given(self.policy, &self.memory, self.view, (site, status));
        let due = given.due;
        let (leads, writes) = (given.leads, !status.in_recovery);
        let plan = given.steps_to(&wanted, said);
        let (now, later): (Vec<Planned>, Vec<Planned>) =
            plan.into_iter().partition(|planned| planned.step.is_done_at_once());
        // What was tried and is still wanted has failed, or goes on beside this: not at once again.
        let tried = self.memory.slots_tried.as_ref().is_some_and(|(steps, _)| *steps == now);
        if !now.is_empty() && (due || !tried) {
            self.memory.slots_tried = Some((now.clone(), self.view.now));
            let moves = now.iter().all(|planned| matches!(planned.step, Step::Advance { .. }));
            let reason = match (moves, leads, writes) {
                // Of every round: not worth a line each.
                (true, true, true) => Reason::Leading,
                (true, true, false) => Reason::LeadingStandby,
                (true, false, _) => Reason::Following,
                (false, _, _) => Reason::Slots,
            };
            return Some(Choice::act(reason, vec![Action::Slots(now)]));
        }
        let now = self.view.now;
        if self.memory.slots_copy_after.is_some_and(|after| now < after) {
            return None;
        }
        let from = site.leader.as_ref().and_then(|leader| site.members.get(&leader.name));
        let from = from.filter(|leader| leader.state == "running")?;
        let slots: BTreeSet<String> = later
            .into_iter()
            .filter(|planned| matches!(planned.step, Step::Copy { .. }))
            .map(|planned| planned.step.name().to_owned())
            .collect();
        if slots.is_empty() {
            self.memory.slots_copy_wanted = None;
            return None;
        }
        if self.is_switched_soon(site) || !self.has_turn_to_copy(site) {
            return None;
        }
        self.memory.slots_copy_wanted = None;
        let in_vain = self.memory.slots_copies.min(COPY_DOUBLINGS);
        let pause = COPY_AGAIN.saturating_mul(2u32.saturating_pow(in_vain));
        self.memory.slots_copies = self.memory.slots_copies.saturating_add(1);
        self.memory.slots_copy_after = Some(now.plus(pause));
        let from = (from.host.clone(), from.port);
        Some(Choice::act(Reason::CopyingSlots, vec![Action::Run(Job::CopySlots { from, slots })]))
    }

    /// Once every `loop_wait`, whatever else has woken the loop meanwhile.
    pub(in crate::decide) fn slots_due_in(&self) -> Duration {
        let tried = self.memory.slots_tried.as_ref();
        let left =
            tried.map(|(_, at)| self.policy.loop_wait.saturating_sub(self.view.now.since(*at)));
        left.filter(|left| !left.is_zero()).unwrap_or(Duration::MAX)
    }

    /// A person asks for another leader, or is about to: its candidate has to stream, and so do those that
    /// commits wait for.
    fn is_switched_soon(&self, site: &SiteView) -> bool {
        let asked = site.failover.as_ref().map(|request| &request.value);
        asked.is_some_and(|request| match request.scheduled.as_ref().map(|schedule| schedule.due) {
            None => true,
            Some(Due::BeforeBoot) => false,
            Some(Due::At(due)) => due.since(self.view.now) <= COPY_AGAIN,
        })
    }

    /// One after the other by name, and none while another one does not stream: each stops its server for
    /// it, and all of them at once would leave commits without a standby, and the leader without a
    /// successor.
    fn has_turn_to_copy(&mut self, site: &SiteView) -> bool {
        let now = self.view.now;
        let waited = now.since(*self.memory.slots_copy_wanted.get_or_insert(now));
        let me = &self.policy.me;
        let leader = site.leader.as_ref().map(|leader| &leader.name);
        let others = || {
            let all = site.members.iter().filter(move |(name, member)| {
                *name != me && Some(*name) != leader && !member.nostream && has_data(member)
            });
            all.map(|(name, member)| (name, member.state == "running" && member.streaming))
        };
        let before = others().filter(|(name, _)| *name < me).count();
        let periods = TURN_PERIODS.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX));
        let turn = self.policy.loop_wait.saturating_mul(periods);
        let all_stream = others().all(|(_, streams)| streams);
        waited >= turn && (all_stream || waited >= TURN_PATIENCE.saturating_add(turn))
    }

    /// Permanent logical slots of a node in recovery that were not found safe to use: they go before it
    /// opens, for what they would give might lack something.
    pub(in crate::decide) fn unsafe_slots(&self, status: &Status) -> Vec<Planned> {
        usable(self.policy, &self.memory, status)
            .into_iter()
            .filter(|(name, usable)| {
                let slot = status.slots.get(name);
                let ignored = slot.is_some_and(|slot| self.policy.slots.leaves_alone(name, slot));
                !usable && !ignored
            })
            .map(|(name, _)| Planned { step: Step::Drop { name }, why: Why::Unsafe })
            .collect()
    }

    /// Which slots are wanted, with what is to be said of them: by whom it has seen, and not by what it
    /// notes of slots.
    fn note_slots(&mut self, site: &SiteView, status: &Status) -> (BTreeMap<String, Want>, Steps) {
        self.note_members(site, status);
        let now = self.view.now;
        let given = given(self.policy, &self.memory, self.view, (site, status));
        let mut said = Steps::default();
        let wanted = given.wanted(&mut said);
        let unknown: BTreeSet<String> = status
            .slots
            .iter()
            .filter(|(name, slot)| {
                let want = wanted.get(*name);
                let needed = want.is_some_and(|want| given.useless(slot, want).is_none());
                !slot.active && !needed && !given.rules.leaves_alone(name, slot)
            })
            .map(|(name, _)| name.clone())
            .collect();
        self.memory.slots_managed.extend(wanted.keys().cloned());
        // Who comes for a moment now and then is seldom seen, but what it took is.
        let positions =
            status.slots.iter().map(|(name, slot)| (name.clone(), (slot.restart, slot.confirmed)));
        let before = std::mem::replace(&mut self.memory.slots_positions, positions.collect());
        let stands = |name: &String| before.get(name) == self.memory.slots_positions.get(name);
        let since = &mut self.memory.slots_unknown_since;
        since.retain(|name, _| unknown.contains(name) && stands(name));
        for name in unknown {
            since.entry(name).or_insert(now);
        }
        self.note_readiness(site, status);
        (wanted, said)
    }

    /// Who was there, and when: also on a node that follows, which may have to keep their slots next.
    fn note_members(&mut self, site: &SiteView, status: &Status) {
        let now = self.view.now;
        let retain = &site.published.retain;
        let there = site.members.iter().filter(|(_, member)| !member.nostream);
        let there: BTreeSet<String> = there.map(|(name, _)| name.slot()).collect();
        let ttl = self.policy.slots.member_ttl;
        let seen = &mut self.memory.slots_seen;
        seen.retain(|name, at| {
            retain.contains(name) || status.slots.contains_key(name) || now.since(*at) < ttl
        });
        for name in retain {
            seen.entry(name.clone()).or_insert(now);
        }
        // A site that streams no longer from here may do so again soon: a switchover can be rolled back.
        let downstream = downstream(self.view);
        seen.extend(there.into_iter().chain(downstream).map(|name| (name, now)));
        let members = site.members.keys().map(NodeName::slot);
        self.memory.slots_managed.extend(members.chain(retain.iter().cloned()));
    }

    fn note_readiness(&mut self, site: &SiteView, status: &Status) {
        let known = std::mem::take(&mut self.memory.slots_readiness);
        let leader = site.leader.as_ref().filter(|leader| leader.name != self.policy.me);
        let copies = status.in_recovery && cluster(self.view) == ClusterType::Primary;
        let leader = leader.filter(|_| copies);
        let Some(leader) = leader.map(|leader| &leader.name) else { return };
        let Some(told) = site.members.get(leader) else {
            // Its record is away for the moment: nothing is known anew.
            self.memory.slots_readiness = known;
            return;
        };
        let own = self.policy.me.slot();
        for (name, permanent) in &self.policy.slots.permanent {
            let slot = status.slots.get(name).filter(|slot| !slot.physical);
            let Some(slot) = slot.filter(|_| permanent.kind != Kind::Physical) else { continue };
            let published = site.published.slots.get(name).copied();
            let seen = Seen { leader, told, own: &own, name, slot, status, published };
            let found = readiness::look(known.get(name).cloned(), &seen);
            if found.ready {
                self.memory.slots_copies = 0;
            }
            self.memory.slots_readiness.insert(name.clone(), found);
        }
    }
}
