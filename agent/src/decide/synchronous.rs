//! Who is synchronous: the `sync` record in the site DCS and `synchronous_standby_names`, moved
//! one at a time in the order that keeps every commit on a node that may lead (I4, I5).
//!
//! The rule (spec/patroni-compat.md 3.5.2): shrink the record first, then set the list, grow the
//! record last. A name enters the record only on evidence: it has flushed what the primary had
//! when the list came into force.

use std::collections::BTreeSet;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::Action;
use super::view::{Member, Memory, Policy, SiteView, Status};

/// A name that nobody may stream under: with it in the list commits wait (strict mode without a
/// standby). No member can have it, for a member name has no leading underscore.
const NOBODY: &str = "\"__regent_nobody__\"";

/// The text of `synchronous_standby_names` for these members. Always quoted: an unquoted name can
/// be a key word or be folded (hazards.md rows 32 and 33).
#[must_use]
pub fn list(policy: &Policy, standbys: &BTreeSet<NodeName>) -> String {
    if !policy.synchronous_mode {
        return String::new();
    }
    let names: Vec<String> = standbys.iter().map(|name| format!("\"{name}\"")).collect();
    match names.len() {
        0 if policy.synchronous_mode_strict => NOBODY.to_owned(),
        0 => String::new(),
        1 => names.concat(),
        many => format!("{many} ({})", names.join(",")),
    }
}

/// The next single step, or nothing when record and list are in step.
///
/// A write of the record whose outcome is unknown may still be applied, as long as the record is at
/// the revision that it compares. A list without the names that it may put there waits until the
/// record was written once more, which leaves nothing for the late write to be applied to.
pub fn next(
    policy: &Policy,
    memory: &mut Memory,
    site: &SiteView,
    status: &Status,
) -> Option<Action> {
    let revision = site.sync.revision;
    let may_come = may_come(memory, site);
    let mut step = step(policy, memory, site, status)?;
    let waits_for = |list: &str, name: &NodeName| list.contains(&format!("\"{name}\""));
    if let Action::SetSynchronousNames(list) = &step
        && policy.synchronous_mode
        && !may_come.iter().all(|name| waits_for(list, name))
    {
        step = Action::WriteSync { standbys: site.sync.standbys.clone(), revision };
    }
    if let Action::WriteSync { standbys, .. } = &step {
        sends(memory, revision, standbys);
    }
    Some(step)
}

/// The list of a server that starts writable, having crashed under this very leader key: whom the
/// record names, and whom a write of unknown outcome may still bring into it (I3, I4). Where the
/// record is not this node's, only the latter can be in it one day.
#[must_use]
pub fn list_at_start(policy: &Policy, memory: &mut Memory, site: &SiteView) -> String {
    let mut waited_for = may_come(memory, site);
    if site.sync.leader.as_ref() == Some(&policy.me) {
        waited_for.extend(site.sync.standbys.iter().cloned());
    }
    list(policy, &waited_for)
}

/// The write that makes these standbys the record before the server opens; nothing where they are,
/// and no earlier write can be applied any more.
pub fn record_at_opening(
    policy: &Policy,
    memory: &mut Memory,
    site: &SiteView,
    standbys: BTreeSet<NodeName>,
) -> Option<Action> {
    let revision = site.sync.revision;
    may_come(memory, site);
    let stands = site.sync.leader.as_ref() == Some(&policy.me) && site.sync.standbys == standbys;
    if !policy.synchronous_mode || (stands && memory.sync_sent.is_none()) {
        return None;
    }
    sends(memory, revision, &standbys);
    Some(Action::WriteSync { standbys, revision })
}

/// The write that empties the record.
pub fn clear(memory: &mut Memory, site: &SiteView) -> Option<Action> {
    let revision = site.sync.revision?;
    if site.sync.leader.is_none() && site.sync.standbys.is_empty() {
        return None;
    }
    may_come(memory, site);
    sends(memory, Some(revision), &BTreeSet::new());
    Some(Action::ClearSync { revision })
}

/// The names that writes of unknown outcome may still bring into the record. Once it has another
/// revision than the one that they compare, they are dead.
fn may_come(memory: &mut Memory, site: &SiteView) -> BTreeSet<NodeName> {
    memory.sync_sent.take_if(|(compared, _)| *compared != site.sync.revision);
    memory.sync_sent.as_ref().map(|(_, names)| names.clone()).unwrap_or_default()
}

/// Remembers a write until its outcome is known.
fn sends(memory: &mut Memory, revision: Option<u64>, standbys: &BTreeSet<NodeName>) {
    let (_, names) = memory.sync_sent.get_or_insert((revision, BTreeSet::new()));
    names.extend(standbys.iter().cloned());
}

fn step(policy: &Policy, memory: &mut Memory, site: &SiteView, status: &Status) -> Option<Action> {
    remember_list(memory, status);
    let record =
        |standbys: BTreeSet<NodeName>| Action::WriteSync { standbys, revision: site.sync.revision };
    if !policy.synchronous_mode {
        if !site.sync.standbys.is_empty() {
            return Some(record(BTreeSet::new()));
        }
        return (!status.synchronous_standby_names.is_empty())
            .then(|| Action::SetSynchronousNames(String::new()));
    }
    if site.sync.leader.as_ref() != Some(&policy.me) {
        return Some(record(BTreeSet::new()));
    }
    let picked = pick(policy, site, status);
    let confirmed = confirmed(memory, &picked, status);
    let kept: BTreeSet<NodeName> = site.sync.standbys.intersection(&picked).cloned().collect();
    if kept != site.sync.standbys {
        return Some(record(kept));
    }
    let wanted = list(policy, &picked);
    if status.synchronous_standby_names != wanted {
        return Some(Action::SetSynchronousNames(wanted));
    }
    if !confirmed.is_subset(&site.sync.standbys) {
        return Some(record(site.sync.standbys.union(&confirmed).cloned().collect()));
    }
    None
}

/// Remembers at which WAL end the present list was first seen in force.
fn remember_list(memory: &mut Memory, status: &Status) {
    let same = memory
        .list_since
        .as_ref()
        .is_some_and(|(text, _)| *text == status.synchronous_standby_names);
    if !same {
        memory.list_since = Some((status.synchronous_standby_names.clone(), status.end));
    }
}

/// A member that commits may wait for.
struct Candidate<'a> {
    name: &'a NodeName,
    priority: i64,
    named: bool,
    flushed: Lsn,
}

/// Whom commits should wait for: by priority, those already in the record first, then the furthest.
/// Whoever has to make room for another stays until that one is in the record: until then only it
/// is known to have what was acknowledged.
fn pick(policy: &Policy, site: &SiteView, status: &Status) -> BTreeSet<NodeName> {
    let mut candidates = candidates(policy, site, status);
    candidates.sort_by(|a, b| {
        (b.priority, b.named, b.flushed)
            .cmp(&(a.priority, a.named, a.flushed))
            .then(a.name.cmp(b.name))
    });
    let wanted = policy.synchronous_node_count.min(candidates.len());
    let (first, rest) = candidates.split_at(wanted);
    let complete = first.iter().all(|candidate| candidate.named);
    let staying = rest.iter().filter(|candidate| candidate.named && !complete);
    first.iter().chain(staying).map(|candidate| candidate.name.clone()).collect()
}

/// Members that stream, may lead, and are not too far behind (spec/patroni-compat.md 3.5.1).
fn candidates<'a>(policy: &Policy, site: &'a SiteView, status: &Status) -> Vec<Candidate<'a>> {
    let candidates: Vec<Candidate<'_>> = site
        .members
        .iter()
        .filter(|(name, member)| may_be_waited_for(policy, site, name, member))
        .filter_map(|(name, member)| {
            let sender = status.senders.get(name.as_str()).filter(|s| s.streaming)?;
            let named = site.sync.standbys.contains(name);
            let priority = member.sync_priority;
            Some(Candidate { name, priority, named, flushed: sender.flushed })
        })
        .collect();
    let Some(limit) = policy.maximum_lag_on_syncnode else { return candidates };
    // A single one has only the leader to be measured by.
    let furthest = match &candidates[..] {
        [] | [_] => status.end,
        several => several.iter().map(|candidate| candidate.flushed).max().unwrap_or(status.end),
    };
    let near = |candidate: &Candidate<'_>| furthest.bytes_since(candidate.flushed) <= limit;
    candidates.into_iter().filter(near).collect()
}

/// A member whose tags let commits wait for it: one that may lead, and is to stream from the leader.
pub(super) fn may_be_waited_for(
    policy: &Policy,
    site: &SiteView,
    name: &NodeName,
    member: &Member,
) -> bool {
    *name != policy.me && !member.nosync && !member.nofailover && !cascades(policy, site, member)
}

/// It streams from another standby, or turns to it any moment: the leader would wait for nobody.
fn cascades(policy: &Policy, site: &SiteView, member: &Member) -> bool {
    member.replicatefrom.as_ref().is_some_and(|upstream| {
        *upstream != policy.me && site.members.get(upstream).is_some_and(|m| m.state == "running")
    })
}

fn confirmed(memory: &Memory, picked: &BTreeSet<NodeName>, status: &Status) -> BTreeSet<NodeName> {
    let Some((_, since)) = &memory.list_since else { return BTreeSet::new() };
    picked
        .iter()
        .filter(|name| {
            status
                .senders
                .get(name.as_str())
                .is_some_and(|sender| sender.synchronous && sender.flushed >= *since)
        })
        .cloned()
        .collect()
}
