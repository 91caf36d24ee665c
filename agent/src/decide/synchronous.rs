//! Who is synchronous: the `sync` record in the site DCS and `synchronous_standby_names`, moved
//! one at a time in the order that keeps every commit on a node that may lead (I4, I5).
//!
//! The rule (spec/patroni-compat.md 3.5.2): shrink the record first, then set the list, grow the
//! record last. A name enters the record only on evidence: it has flushed what the primary had
//! when the list came into force. With `synchronous_mode: quorum`, and on the way back from it, the
//! steps are those of [`quorum`].

use std::collections::BTreeSet;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::quorum::{self, List, Situation, Step, Voting};
use super::view::{Member, Memory, Policy, SiteView, Status};
use super::{Action, upstream};

/// The text of `synchronous_standby_names` for these members, all of whom have what there is.
#[must_use]
pub fn list(policy: &Policy, standbys: &BTreeSet<NodeName>) -> String {
    list_of(policy, &voting(policy, standbys.clone()))
}

/// The text that goes with a record. While the mode is off nothing: the user's own list comes once
/// the server is open, for a value that PostgreSQL refuses would keep it from starting.
#[must_use]
pub fn list_of(policy: &Policy, record: &Voting) -> String {
    if !policy.synchronous_mode {
        return String::new();
    }
    record.list(policy.synchronous_mode_strict).text(policy.synchronous_quorum)
}

/// The record for these members, all of whom have what there is.
#[must_use]
pub fn voting(policy: &Policy, voters: BTreeSet<NodeName>) -> Voting {
    let needed = policy.synchronous_node_count.clamp(1, voters.len().max(1));
    let quorum = if policy.synchronous_quorum { voters.len().saturating_sub(needed) } else { 0 };
    Voting { voters, quorum }
}

/// The next single step, or nothing when record and list are in step.
///
/// A write of the record whose outcome is unknown may still be applied, as long as the record is at
/// the revision that it compares. A list that what it may put there does not cover waits until the
/// record was written once more, which leaves nothing for the late write to be applied to.
///
/// A clearing of unknown outcome would let anybody lead. Where the mode is on again the record is written
/// once more, as it is, before anything else.
///
/// A list that was set may come into force at any moment, and the record covers it when it is set. Until
/// then the record changes only in ways that cover whatever it did; if the list in force is right after
/// all, it is set anew.
pub fn next(
    policy: &Policy,
    memory: &mut Memory,
    site: &SiteView,
    status: &Status,
) -> Option<Action> {
    let revision = site.sync.revision;
    let may_come = may_come(memory, site);
    let in_force = &status.synchronous_standby_names;
    memory.list_asked.take_if(|asked| *asked == *in_force);
    memory.clear_sent.take_if(|compared| Some(*compared) != revision);
    if policy.synchronous_mode && memory.clear_sent.is_some() {
        let ours = site.sync.leader.as_ref() == Some(&policy.me);
        let again = if ours { site.sync.voting() } else { Voting::default() };
        sends(memory, revision, &again);
        return Some(write(site, again));
    }
    let step = step(policy, memory, site, status);
    let fits = |step: &Action| fits_any_list(site, step);
    let mut step = if memory.list_asked.is_none() || step.as_ref().is_some_and(fits) {
        step?
    } else {
        memory.list_since = None;
        Action::SetSynchronousNames(in_force.clone())
    };
    if let Action::SetSynchronousNames(list) = &step
        && policy.synchronous_mode
        && !List::parse(list).is_some_and(|list| may_come.covers(&list))
    {
        step = write(site, site.sync.voting());
    }
    if let Action::WriteSync { standbys, quorum, .. } = &step {
        let sent = Voting { voters: standbys.clone(), quorum: *quorum };
        sends(memory, revision, &sent);
    }
    if let Action::SetSynchronousNames(list) = &step {
        memory.list_asked = Some(list.clone());
    }
    Some(step)
}

/// Whether commits wait for others than the record says: none of the steps here leads to that.
fn changed_behind(policy: &Policy, site: &SiteView, status: &Status) -> bool {
    let list = List::parse(&status.synchronous_standby_names);
    policy.synchronous_mode
        && site.sync.leader.as_ref() == Some(&policy.me)
        && site.sync.voting().lets_others_lead()
        && !list.is_some_and(|list| site.sync.voting().covers(&list))
}

/// The list of the record, where somebody changed the one in force: it is put back beside the step that
/// takes the record back, for it needs no store. Once: if it does not come into force, the record has
/// to go first.
pub fn put_back(
    policy: &Policy,
    memory: &mut Memory,
    site: &SiteView,
    status: &Status,
) -> Option<Action> {
    if !changed_behind(policy, site, status) {
        return None;
    }
    let list = list_at_start(policy, memory, site);
    if memory.list_asked.as_ref() == Some(&list) {
        return None;
    }
    memory.list_asked = Some(list.clone());
    Some(Action::SetSynchronousNames(list))
}

/// Whether a step is right under any list that the record covers.
fn fits_any_list(site: &SiteView, step: &Action) -> bool {
    if let Action::WriteSync { standbys, quorum, .. } = step {
        let written = Voting { voters: standbys.clone(), quorum: *quorum };
        return written.restricts(&site.sync.voting());
    }
    true
}

/// The write that makes this the record.
fn write(site: &SiteView, Voting { voters, quorum }: Voting) -> Action {
    Action::WriteSync { standbys: voters, revision: site.sync.revision, quorum }
}

/// The list of a server that starts writable, having crashed under this very leader key: whom the
/// record names, and whom a write of unknown outcome may still bring into it (I3, I4). Where the
/// record is not this node's, only the latter can be in it one day. Also where the mode has just been
/// switched off: it waits until the record is empty.
#[must_use]
pub fn list_at_start(policy: &Policy, memory: &mut Memory, site: &SiteView) -> String {
    let mut waited_for = may_come(memory, site);
    if site.sync.leader.as_ref() == Some(&policy.me) {
        waited_for = waited_for.or(&site.sync.voting());
    }
    if waited_for.voters.is_empty() {
        return list_of(policy, &waited_for);
    }
    waited_for.list(policy.synchronous_mode_strict).text(policy.synchronous_quorum)
}

/// The write that makes this the record before the server opens; nothing where it is, and no
/// earlier write can be applied any more.
pub fn record_at_opening(
    policy: &Policy,
    memory: &mut Memory,
    site: &SiteView,
    voting: Voting,
) -> Option<Action> {
    let revision = site.sync.revision;
    may_come(memory, site);
    let stands = site.sync.leader.as_ref() == Some(&policy.me) && site.sync.voting() == voting;
    if !policy.synchronous_mode || (stands && memory.sync_sent.is_none()) {
        return None;
    }
    sends(memory, revision, &voting);
    Some(write(site, voting))
}

/// The write that empties the record.
pub fn clear(memory: &mut Memory, site: &SiteView) -> Option<Action> {
    let revision = site.sync.revision?;
    if site.sync.leader.is_none() && site.sync.standbys.is_empty() {
        return None;
    }
    may_come(memory, site);
    sends(memory, Some(revision), &Voting::default());
    memory.clear_sent = Some(revision);
    Some(Action::ClearSync { revision })
}

/// What stands for each write of unknown outcome that may still be applied. Once the record has
/// another revision than the one that they compare, they are dead.
fn may_come(memory: &mut Memory, site: &SiteView) -> Voting {
    memory.sync_sent.take_if(|(compared, _)| *compared != site.sync.revision);
    memory.sync_sent.as_ref().map(|(_, sent)| sent.clone()).unwrap_or_default()
}

/// Remembers a write until its outcome is known.
fn sends(memory: &mut Memory, revision: Option<u64>, voting: &Voting) {
    let (_, sent) = memory.sync_sent.get_or_insert((revision, Voting::default()));
    *sent = sent.or(voting);
}

fn step(policy: &Policy, memory: &mut Memory, site: &SiteView, status: &Status) -> Option<Action> {
    remember_list(memory, status);
    let record = |voters: BTreeSet<NodeName>| write(site, Voting { voters, quorum: 0 });
    if !policy.synchronous_mode {
        // First nobody rests on the record any more, then nobody waits (spec 3.5.5).
        let own = &policy.own_standby_names;
        return clear(memory, site).or_else(|| {
            (status.synchronous_standby_names != *own)
                .then(|| Action::SetSynchronousNames(own.clone()))
        });
    }
    if site.sync.leader.as_ref() != Some(&policy.me) {
        return Some(record(BTreeSet::new()));
    }
    if in_quorum(policy, site, status) {
        return match quorum::step(&situation(policy, memory, site, status))? {
            Step::Record(voting) => Some(write(site, voting)),
            Step::List(list) => {
                Some(Action::SetSynchronousNames(list.text(policy.synchronous_quorum)))
            }
        };
    }
    let picked = pick(policy, site, status);
    let confirmed = confirmed(memory, &picked, status);
    let mut kept: BTreeSet<NodeName> = site.sync.standbys.intersection(&picked).cloned().collect();
    if changed_behind(policy, site, status) {
        // Commits may be anywhere, but with whom they are waited for all the same (hazards.md row 37).
        let list = List::parse(&status.synchronous_standby_names).unwrap_or_default();
        kept.retain(|name| list.names.contains(name));
    }
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
    // One that streams from another standby, or turns to it any moment, confirms nothing here.
    let tag = member.replicatefrom.as_ref();
    *name != policy.me
        && !member.nosync
        && !member.nofailover
        && !member.nostream
        && *upstream::of_member(&site.members, &policy.me, (name, tag)) == policy.me
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

/// Somebody streams that commits may come to wait for, and has not confirmed yet what there was when the list
/// in force was seen, or is too far behind to count. Nobody tells when it has.
pub(super) fn awaits_confirmation(
    policy: &Policy,
    memory: &Memory,
    site: &SiteView,
    status: &Status,
) -> bool {
    let Some((_, since)) = memory.list_since.as_ref().filter(|_| policy.synchronous_mode) else {
        return false;
    };
    let lags = |flushed: Lsn| {
        let most = policy.maximum_lag_on_syncnode;
        most.is_some_and(|most| status.end.bytes_since(flushed) > most)
    };
    site.members.iter().any(|(name, member)| {
        let sender = status.senders.get(name.as_str()).filter(|sender| sender.streaming);
        may_be_waited_for(policy, site, name, member)
            && sender.is_some_and(|sender| sender.flushed < *since || lags(sender.flushed))
    })
}

/// Whether the steps are those of quorum commit: by the mode, or by what is left of it.
fn in_quorum(policy: &Policy, site: &SiteView, status: &Status) -> bool {
    let list = List::parse(&status.synchronous_standby_names);
    policy.synchronous_quorum
        || site.sync.quorum > 0
        || list.is_some_and(|list| list.needed < list.names.len())
}

/// What the next step of quorum commit depends on.
fn situation(policy: &Policy, memory: &Memory, site: &SiteView, status: &Status) -> Situation {
    let list = List::parse(&status.synchronous_standby_names);
    let names = list.as_ref().map(|list| list.names.clone()).unwrap_or_default();
    let active = if policy.synchronous_quorum {
        every(policy, memory, site, status, &names)
    } else {
        pick(policy, site, status)
    };
    Situation {
        record: site.sync.voting(),
        confirmed: confirmed(memory, &names, status).len(),
        wanted: if policy.synchronous_quorum {
            policy.synchronous_node_count
        } else {
            active.len()
        },
        active,
        list,
        strict: policy.synchronous_mode_strict,
    }
}

/// Everybody that commits may wait for: streaming members that may lead. Whoever is in neither list nor
/// record yet has to have flushed what there was when the list in force was seen, so that nobody
/// who is far behind counts (I5).
fn every(
    policy: &Policy,
    memory: &Memory,
    site: &SiteView,
    status: &Status,
    names: &BTreeSet<NodeName>,
) -> BTreeSet<NodeName> {
    let one = Policy { synchronous_node_count: usize::MAX, ..policy.clone() };
    let since = memory.list_since.as_ref().map(|(_, since)| *since);
    let mut every = pick(&one, site, status);
    every.retain(|name| {
        let sender = status.senders.get(name.as_str());
        names.contains(name)
            || site.sync.standbys.contains(name)
            || since.is_some_and(|since| sender.is_some_and(|sender| sender.flushed >= since))
    });
    every
}
