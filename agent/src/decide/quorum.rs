//! Quorum commit: which list commits wait for, which voters may lead with how many votes, and the next
//! single step from what is to what is wanted, with everything acknowledged safe at each of them.
//!
//! The record `sync` holds a leader L, voters V and a number q ([`Voting`]); the server waits for
//! any n of the names S ([`List`], `ANY n (S)`; a list of all of its names, `n (S)`, is one with
//! n = |S|). Acknowledged is a commit that L and some n of S have flushed. A race is won by L, or by a
//! voter that sees q + 1 of V and L, itself among them, not ahead of it ([`votes`]); such a set is
//! called a group.
//!
//! **Invariant** (I4): each group has a member with every acknowledged commit. The winner is not behind
//! any member of its group, so it has them as well (I3).
//!
//! **Proof.** L flushed each commit before anybody acknowledged it; a group with L is done. Any
//! other is a part of V with more than q members, and there is one only while |V| > q. It meets every
//! n of S if (q + 1) + n > |V ∪ S|, by the pigeonhole; so what is acknowledged under a list is safe
//! while
//!
//! ```text
//! |V ∪ S| ≤ q + n      or      |V| ≤ q      or      n > |S|                    (covers)
//! ```
//!
//! the last for a list under which nothing can be acknowledged. A step changes one side:
//!
//! * *A list* comes only where the record covers it. What was acknowledged before stays safe, for
//!   the record is as it was.
//! * *A record* (V', q') comes only in one of two ways. It **restricts** the old one: |V'| ≤ q', or
//!   q' ≥ q + |V' ∖ V|. Then each of its groups holds more than q of V, which is a group of the old one,
//!   and so has everything. Or there is **evidence**: k ≤ n of S have flushed what the primary had when
//!   the list was seen in force (`Memory::list_since`). Whatever was acknowledged before that lies
//!   on these k, whoever acknowledged it, and all that came later on n of S; so |V' ∪ S| ≤ q' + k is
//!   enough. Both keep *covers* for the list in force.
//!
//! So the process may die between any two steps. A write of the record that may still be applied covers
//! each list that is set, and while a list that was set is not in force yet the record only restricts
//! (`synchronous::next`). At a change of leaders X writes
//! itself as L with V' = V ∪ {L} ∖ {X} and the same q ([`kept`]): groups of the new record are groups of the
//! old one, or have X, which won and so has everything.
//!
//! Sources: hazards.md section 4, facts 10 to 13, and spec/patroni-compat.md 3.5.3 to 3.5.6 and 3.4, row
//! e, which count L on both sides: |V ∪ S ∪ {L}| ≤ q + n + 1 is the same. What is wanted, in which order,
//! follows from *covers*: who joins comes to the voters first, with one vote more needed, then to the list;
//! who goes leaves the list first and the voters on evidence, or, where fewer would be left than n, the
//! voters first.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::Ancestry;

use super::standing::Last;
use super::view::{PeerAnswer, PeersView, SyncView};

/// A name that nobody may stream under: with it in the list commits wait (strict mode without a
/// standby). No member can have it, for a member name has no leading underscore.
const NOBODY: &str = "\"__regent_nobody__\"";

/// Who may lead beside the record's leader.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Voting {
    /// Who may lead, and whose votes count beside the leader's.
    pub voters: BTreeSet<NodeName>,
    /// How many votes a voter needs beside its own.
    pub quorum: usize,
}

impl Voting {
    /// Whether anybody but the leader can have enough votes without it.
    #[must_use]
    pub fn lets_others_lead(&self) -> bool {
        self.voters.len() > self.quorum
    }

    /// Each of its groups holds a group of the other.
    #[must_use]
    pub fn restricts(&self, other: &Self) -> bool {
        let joined = self.voters.difference(&other.voters).count();
        !self.lets_others_lead() || self.quorum >= other.quorum + joined
    }

    /// What stands for either of the two: it has the groups of both.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        match (self.voters.is_empty(), other.voters.is_empty()) {
            (true, _) => other.clone(),
            (false, true) => self.clone(),
            (false, false) => Self {
                voters: self.voters.union(&other.voters).cloned().collect(),
                quorum: self.quorum.min(other.quorum),
            },
        }
    }

    /// What is acknowledged under this list lies on a member of each group.
    #[must_use]
    pub fn covers(&self, list: &List) -> bool {
        list.acknowledges_nothing() || self.meets(&list.names, list.needed)
    }

    /// Each group meets any so many of these.
    fn meets(&self, names: &BTreeSet<NodeName>, held: usize) -> bool {
        !self.lets_others_lead() || union(&self.voters, names) <= self.quorum + held
    }

    /// The list that such a record asks for where nothing else is wanted: all of its voters.
    #[must_use]
    pub fn list(&self, strict: bool) -> List {
        if self.voters.is_empty() {
            return List::of_nobody(strict);
        }
        let needed = self.voters.len().saturating_sub(self.quorum).max(1);
        List { names: self.voters.clone(), needed }
    }
}

/// `synchronous_standby_names`, as far as it is ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct List {
    /// Whose confirmations count.
    pub names: BTreeSet<NodeName>,
    /// How many of them a commit waits for.
    pub needed: usize,
}

impl List {
    /// Without a name: commits wait for nobody, or, in strict mode, for ever.
    #[must_use]
    pub fn of_nobody(strict: bool) -> Self {
        Self { names: BTreeSet::new(), needed: usize::from(strict) }
    }

    fn acknowledges_nothing(&self) -> bool {
        self.needed > self.names.len()
    }

    /// The text. Names are always quoted: an unquoted one can be a key word or be folded
    /// (hazards.md rows 32 and 33). `any`: with `ANY` also where it makes no difference.
    #[must_use]
    pub fn text(&self, any: bool) -> String {
        let quoted: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        let needed = self.needed;
        match quoted.len() {
            0 if needed > 0 => NOBODY.to_owned(),
            0 => String::new(),
            _ if needed == 0 => String::new(),
            all if any || needed != all => format!("ANY {needed} ({})", quoted.join(",")),
            1 => quoted.concat(),
            all => format!("{all} ({})", quoted.join(",")),
        }
    }

    /// Reads a text that [`text`](Self::text) made; `None` for any other, which says nothing about
    /// whom commits wait for.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == NOBODY {
            return Some(Self::of_nobody(true));
        }
        let names = text.split('"').skip(1).step_by(2).map(|name| name.parse::<NodeName>());
        let names = names.collect::<Result<BTreeSet<_>, _>>().ok()?;
        let needed = match text.split_once('(') {
            Some((number, _)) => number.trim_start_matches("ANY").trim().parse().ok()?,
            None => names.len(),
        };
        let list = Self { names, needed };
        [true, false].into_iter().any(|any| list.text(any) == text).then_some(list)
    }
}

/// What the next step depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The record, which is this leader's.
    pub record: Voting,
    /// The list in force; `None` where it is not ours.
    pub list: Option<List>,
    /// How many of its names have flushed what there was when it was seen in force.
    pub confirmed: usize,
    /// Whom commits may wait for: members that stream, and have flushed what there was when the list
    /// in force was seen, or are in list or record already.
    pub active: BTreeSet<NodeName>,
    /// How many of them a commit should wait for.
    pub wanted: usize,
    /// Commits wait also when there is none.
    pub strict: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the record.
    Record(Voting),
    /// Set the list.
    List(List),
}

/// The next step, or nothing where everything is as wanted, or has to be confirmed first.
#[must_use]
pub fn step(now: &Situation) -> Option<Step> {
    let Some(list) = now.list.as_ref().filter(|list| now.record.covers(list)) else {
        // Somebody changed it behind our back: commits may be anywhere (hazards.md row 37).
        return Some(if now.record.lets_others_lead() {
            Step::Record(Voting::default())
        } else {
            Step::List(goal(now))
        });
    };
    let goal = goal(now);
    if *list != goal && !waits_on(now, list) {
        let target = target(now, list, goal);
        return Some(if now.record.covers(&target) {
            Step::List(target)
        } else {
            Step::Record(making_room(now, list, &target))
        });
    }
    on_evidence(now, list).map(Step::Record)
}

/// Everybody who is there, and as many as are wanted.
fn goal(now: &Situation) -> List {
    if now.active.is_empty() {
        return List::of_nobody(now.strict);
    }
    List { names: now.active.clone(), needed: now.wanted.clamp(1, now.active.len()) }
}

/// In strict mode a list that nobody is left of goes on waiting for them: they keep the right to
/// lead, for nothing is acknowledged without them.
fn waits_on(now: &Situation, list: &List) -> bool {
    now.strict && now.active.is_empty() && list.needed > 0
}

/// The list to come next: the goal where the record covers it already. Otherwise those who went leave
/// before anybody joins: commits may wait for them.
fn target(now: &Situation, list: &List, goal: List) -> List {
    let staying: BTreeSet<NodeName> = list.names.intersection(&now.active).cloned().collect();
    if now.record.covers(&goal) || staying.is_empty() || staying == list.names {
        return goal;
    }
    let needed = list.needed.min(staying.len());
    List { names: staying, needed }
}

/// The record that covers a list that the present one does not, reached in a safe way. Of several
/// the one that leaves most votes over to those who are there (I20).
fn making_room(now: &Situation, list: &List, target: &List) -> Voting {
    let voters = &now.record.voters;
    let ways: [BTreeSet<NodeName>; 3] = [
        voters.union(&target.names).cloned().collect(),
        voters.intersection(&target.names).cloned().collect(),
        target.names.clone(),
    ];
    let records = ways.map(|voters| {
        let joined = voters.difference(&now.record.voters).count();
        let restricting = now.record.quorum + joined;
        let by_evidence = union(&voters, &list.names).saturating_sub(held(now, list));
        let covering = union(&voters, &target.names).saturating_sub(target.needed);
        let record = Voting { voters, quorum: restricting.min(by_evidence).max(covering) };
        if record.lets_others_lead() { record } else { Voting::default() }
    });
    let [join, leave, exchange] = records;
    let spare = |record: &Voting| {
        let votes = record.voters.intersection(&now.active).count();
        Reverse(votes.checked_sub(record.quorum + 1))
    };
    let better = if spare(&leave) < spare(&join) { leave } else { join };
    if spare(&exchange) < spare(&better) { exchange } else { better }
}

/// The record that the list allows by what was confirmed under it, where that is better.
fn on_evidence(now: &Situation, list: &List) -> Option<Voting> {
    let held = held(now, list);
    let enough = held > 0 && (held == list.needed || !now.record.lets_others_lead());
    let better = Voting { voters: list.names.clone(), quorum: list.names.len().checked_sub(held)? };
    (enough && better != now.record).then_some(better)
}

/// On how many of the list everything lies that was acknowledged before it.
fn held(now: &Situation, list: &List) -> usize {
    list.needed.min(now.confirmed).min(list.names.len())
}

fn union(one: &BTreeSet<NodeName>, other: &BTreeSet<NodeName>) -> usize {
    one.union(other).count()
}

/// Votes in a race, as of the record: how many a node has, its own among them, and how many it needs.
/// What was the leader needs none but its own, for it has everything. A vote is a member of the
/// record that answered, is no primary, and has nothing acknowledged that this node does not have: neither
/// a higher timeline, nor one of this number that another promotion began, nor a higher position on it, nor,
/// on an older one, anything that this node's history left out (`left_nothing_out`). Its position is all
/// that it has, and was looked at once the leader was gone, which it has been for `leaderless`: what it flushed
/// later nobody acknowledged, and what it flushed between an older look and the leader's end may have been.
/// `last` is what the last leader left in the store.
#[must_use]
pub fn votes(
    record: &SyncView,
    me: &NodeName,
    (ancestry, end): (&Ancestry, Lsn),
    peers: Option<&PeersView>,
    last: Option<Last<'_>>,
    leaderless: Duration,
) -> (usize, usize) {
    let of_record =
        |name: &NodeName| record.standbys.contains(name) || record.leader.as_ref() == Some(name);
    // Asked so long ago, and it had looked so long before that at most.
    let asked = peers.map_or(Duration::ZERO, |peers| peers.age);
    let in_time = |age: Duration| age.saturating_add(asked) <= leaderless;
    let answers = peers.into_iter().flat_map(|peers| &peers.answers);
    let others = answers
        .filter(|(name, answer)| {
            *name != me
                && of_record(name)
                && !answer.primary
                && answer.age.is_some_and(in_time)
                && answer.position.get() > 0
                && answer.timeline.is_some_and(|theirs| match theirs.cmp(&ancestry.timeline) {
                    Ordering::Less => left_nothing_out(answer, (ancestry, end), last),
                    Ordering::Equal => answer.position <= end && !answer.is_foreign(ancestry),
                    Ordering::Greater => false,
                })
        })
        .count();
    let leader = record.leader.as_ref() == Some(me);
    (others + usize::from(of_record(me)), if leader { 1 } else { record.quorum + 1 })
}

/// All that the answering one has of an older timeline is in this node's WAL. Or a leader left that timeline
/// where this node's history did, at a point that it has: the leader had everything that was acknowledged,
/// and what the other has beyond it is not, however far that is. Of a promotion by hand nobody knows that:
/// the leader may have gone on there.
fn left_nothing_out(
    answer: &PeerAnswer,
    (ancestry, end): (&Ancestry, Lsn),
    last: Option<Last<'_>>,
) -> bool {
    ancestry.switches.iter().any(|switch| {
        let both = answer.promotion().zip(switch.promotion.as_ref());
        answer.timeline == Some(switch.timeline)
            && both.is_none_or(|(theirs, ours)| theirs == ours)
            && (answer.position <= switch.end.min(end)
                || switch.end <= end && last.is_some_and(|last| last.left_at(switch)))
    })
}

/// The record with which a voter that won follows the leader of before, where enough of the others
/// run to confirm its commits.
#[must_use]
pub fn kept(record: &SyncView, me: &NodeName, runs: impl Fn(&NodeName) -> bool) -> Option<Voting> {
    let mut voters = record.standbys.clone();
    if !voters.remove(me) {
        return None;
    }
    voters.extend(record.leader.iter().filter(|leader| *leader != me).cloned());
    let needed = voters.len().checked_sub(record.quorum).filter(|needed| *needed > 0)?;
    let running = voters.iter().filter(|name| runs(name)).count();
    (running >= needed).then_some(Voting { voters, quorum: record.quorum })
}
