//! Quorum commit by brute force: from every state that can be reached with up to seven nodes, whatever is
//! wanted next and whatever was confirmed, each step keeps every set of nodes that may win in touch
//! with every commit that may have been acknowledged; and the steps come to what is wanted.

use std::collections::{BTreeSet, VecDeque};

use regent_proto::name::NodeName;

use super::world::name;
use crate::decide::quorum::{List, Situation, Step, Voting, kept, step};
use crate::decide::view::SyncView;

const NAMES: [&str; 6] = ["b1", "b2", "b3", "b4", "b5", "b6"];

/// Record and list; sets are bits of the standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    voters: u8,
    quorum: u32,
    names: u8,
    needed: u32,
}

/// What is wanted, and how many of the list have confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    active: u8,
    wanted: u32,
    strict: bool,
    confirmed: u32,
}

fn bit(i: usize) -> u8 {
    1 << i
}

fn set(bits: u8) -> BTreeSet<NodeName> {
    (0..6).filter(|i| bits & bit(*i) != 0).map(|i| name(NAMES[i])).collect()
}

fn bits(set: &BTreeSet<NodeName>) -> u8 {
    (0..6).filter(|i| set.contains(&name::<NodeName>(NAMES[*i]))).map(bit).sum()
}

/// The subsets of so many members.
fn subsets(of: u8, size: u32) -> impl Iterator<Item = u8> + Clone {
    (0..64u8).filter(move |part| part & !of == 0 && part.count_ones() == size)
}

fn meets_all(group: u8, names: u8, needed: u32) -> bool {
    subsets(names, needed).all(|acknowledging| group & acknowledging != 0)
}

impl State {
    /// The smallest sets without the leader that may win.
    fn groups(self) -> impl Iterator<Item = u8> + Clone {
        subsets(self.voters, self.quorum + 1)
    }

    /// Whatever the list in force lets be acknowledged is with each of them.
    fn is_safe(self) -> bool {
        self.groups().all(|group| meets_all(group, self.names, self.needed))
    }

    fn next(self, want: Want) -> Option<Self> {
        let count = |number: u32| usize::try_from(number).expect("small");
        let number = |count: usize| u32::try_from(count).expect("small");
        let taken = step(&Situation {
            record: Voting { voters: set(self.voters), quorum: count(self.quorum) },
            list: Some(List { names: set(self.names), needed: count(self.needed) }),
            confirmed: count(want.confirmed),
            active: set(want.active),
            wanted: count(want.wanted),
            strict: want.strict,
        })?;
        Some(match taken {
            Step::Record(record) => {
                Self { voters: bits(&record.voters), quorum: number(record.quorum), ..self }
            }
            Step::List(list) => {
                Self { names: bits(&list.names), needed: number(list.needed), ..self }
            }
        })
    }

    /// Everything acknowledged until now is with each set that the next record lets win: because the
    /// set holds one that the present record lets win, or because it meets both whoever has confirmed,
    /// who hold all that is older than the list, and whoever the list lets acknowledge.
    fn may_become(self, next: Self, confirmed: u32) -> bool {
        let same_list = (self.names, self.needed) == (next.names, next.needed);
        let same_record = (self.voters, self.quorum) == (next.voters, next.quorum);
        let held = || {
            next.groups().all(|group| {
                (group & self.voters).count_ones() > self.quorum
                    || (meets_all(group, self.names, confirmed)
                        && meets_all(group, self.names, self.needed))
            })
        };
        next.is_safe() && (same_record || (same_list && held()))
    }

    /// The same but for the standbys' names: those in both first, then voters, then listed ones.
    fn canonical(self) -> Self {
        let (mut voters, mut names) = (0, 0);
        let mut at = 0u32;
        for (votes, listed) in [(true, true), (true, false), (false, true)] {
            for i in 0..6 {
                let here = (self.voters & bit(i) != 0, self.names & bit(i) != 0);
                if here == (votes, listed) {
                    voters |= u8::from(votes) << at;
                    names |= u8::from(listed) << at;
                    at += 1;
                }
            }
        }
        Self { voters, names, ..self }
    }

    /// What may be wanted, each but for the standbys' names, with this many standbys.
    fn wants(self, standbys: u32) -> Vec<Want> {
        let everybody = (1u8 << standbys) - 1;
        let classes = [
            self.voters & self.names,
            self.voters & !self.names,
            self.names & !self.voters,
            everybody & !self.voters & !self.names,
        ];
        // Of a class the first ones stand for any others.
        let first = |part: u8, class: u8| {
            let low = if class == 0 { 0 } else { part >> class.trailing_zeros() };
            low & (low + 1) == 0
        };
        let actives = (0..=everybody).filter(|a| classes.iter().all(|c| first(a & c, *c)));
        let mut wants = Vec::new();
        for active in actives {
            let most = active.count_ones().max(1);
            for wanted in (1..=most).filter(|wanted| *wanted <= 3 || *wanted == most) {
                for confirmed in 0..=self.names.count_ones() {
                    let want = Want { active, wanted, strict: false, confirmed };
                    wants.push(want);
                    if active == 0 {
                        wants.push(Want { strict: true, ..want });
                    }
                }
            }
        }
        wants
    }
}

/// Every state that can be reached with this many standbys: from nothing, and from what a leader opens or
/// starts again with.
fn reachable(standbys: u32) -> BTreeSet<State> {
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::new();
    for all in 0..=standbys {
        let voters = (1u8 << all) - 1;
        for quorum in 0..all.max(1) {
            open.push_back(State { voters, quorum, names: voters, needed: all - quorum });
        }
    }
    seen.extend(open.iter().copied());
    while let Some(state) = open.pop_front() {
        assert!(state.is_safe(), "{state:?}");
        for want in state.wants(standbys) {
            let Some(next) = state.next(want) else { continue };
            assert!(next != state, "{state:?} and {want:?} stand still");
            assert!(state.may_become(next, want.confirmed), "{state:?} by {want:?} to {next:?}");
            let next = next.canonical();
            if seen.insert(next) {
                open.push_back(next);
            }
        }
    }
    seen
}

#[test]
fn each_step_from_everywhere_keeps_what_was_acknowledged() {
    for nodes in 2..=7 {
        let states = reachable(nodes - 1);
        assert!(states.len() > usize::try_from(nodes).expect("small"), "{nodes} nodes");
    }
}

#[test]
fn from_everywhere_the_steps_come_to_what_is_wanted() {
    for nodes in 2..=6 {
        for state in reachable(nodes - 1) {
            let wants = state.wants(nodes - 1);
            for want in wants.into_iter().filter(|want| want.confirmed == 0) {
                let mut at = state;
                let mut steps = 0;
                // Whoever is there confirms.
                let confirmed = |at: State| (at.names & want.active).count_ones();
                while let Some(next) = at.next(Want { confirmed: confirmed(at), ..want }) {
                    at = next;
                    steps += 1;
                    assert!(steps < 12, "{state:?} by {want:?} is at {at:?}");
                }
                let Want { active, wanted, strict, .. } = want;
                let all = active.count_ones();
                let goal = match (active, strict) {
                    (0, false) => State { voters: 0, quorum: 0, names: 0, needed: 0 },
                    // It goes on waiting for whom it waited for, or for nobody there is.
                    (0, true) => {
                        assert!(at.needed > 0, "{state:?} by {want:?} to {at:?}");
                        continue;
                    }
                    _ => {
                        let needed = wanted.min(all);
                        State { voters: active, quorum: all - needed, names: active, needed }
                    }
                };
                assert_eq!(at, goal, "{state:?} by {want:?}");
            }
        }
    }
}

/// I20: nobody is barred on the way while members only come, or another number of them is wanted.
#[test]
fn while_nobody_goes_somebody_who_is_there_may_lead() {
    for before in 1..=5u32 {
        for after in before..=6 {
            for (had, wanted) in (1..=before).flat_map(|h| (1..=after).map(move |w| (h, w))) {
                let voters = (1u8 << before) - 1;
                let active = (1u8 << after) - 1;
                let mut at = State { voters, quorum: before - had, names: voters, needed: had };
                // Whoever is new has confirmed nothing when it is asked first.
                for round in 0..40 {
                    let confirmed = if round % 2 == 1 { at.needed } else { 0 };
                    let want = Want { active, wanted, strict: false, confirmed };
                    at = at.next(want).unwrap_or(at);
                    let votes = (at.voters & active).count_ones();
                    assert!(votes > at.quorum, "{before} of {had} to {after} of {wanted}: {at:?}");
                }
            }
        }
    }
}

/// The oracle can refuse.
#[test]
fn what_is_not_safe_is_seen() {
    let any_of_two = State { voters: 0b11, quorum: 1, names: 0b11, needed: 1 };
    assert!(any_of_two.is_safe());
    for unsafe_one in [
        State { quorum: 0, ..any_of_two },
        State { voters: 0b111, ..any_of_two },
        State { names: 0b111, ..any_of_two },
        State { needed: 0, ..any_of_two },
    ] {
        assert!(!unsafe_one.is_safe(), "{unsafe_one:?}");
        assert!(!any_of_two.may_become(unsafe_one, 1));
    }
    let all_of_two = State { quorum: 0, needed: 2, ..any_of_two };
    let raised = State { needed: 2, ..any_of_two };
    assert!(raised.may_become(all_of_two, 2) && !raised.may_become(all_of_two, 1));
}

/// A server that crashed starts with the list of what stands for record and late write; either may be
/// the record when its commits are acknowledged.
#[test]
fn the_list_of_either_of_two_records_is_safe_with_both() {
    let all: Vec<State> = (0..16u8)
        .flat_map(|voters| (0..=voters.count_ones()).map(move |quorum| (voters, quorum)))
        .map(|(voters, quorum)| State { voters, quorum, names: 0, needed: 0 })
        .collect();
    let voting = |record: &State| {
        let quorum = usize::try_from(record.quorum).expect("small");
        Voting { voters: set(record.voters), quorum }
    };
    for one in &all {
        for other in &all {
            let list = voting(one).or(&voting(other)).list(false);
            let (names, needed) = (bits(&list.names), u32::try_from(list.needed).expect("small"));
            for record in [one, other] {
                let started = State { names, needed, ..*record };
                assert!(started.is_safe(), "{one:?} or {other:?}: {started:?}");
            }
        }
    }
}

#[test]
fn a_list_is_read_as_it_was_written() {
    let list = |names: u8, needed| List { names: set(names), needed };
    for (list, any, text) in [
        (list(0, 0), true, ""),
        (list(0, 1), true, "\"__regent_nobody__\""),
        (list(0b1, 1), false, "\"b1\""),
        (list(0b1, 1), true, "ANY 1 (\"b1\")"),
        (list(0b11, 2), false, "2 (\"b1\",\"b2\")"),
        (list(0b11, 2), true, "ANY 2 (\"b1\",\"b2\")"),
        (list(0b111, 2), false, "ANY 2 (\"b1\",\"b2\",\"b3\")"),
    ] {
        assert_eq!(list.text(any), text);
        assert_eq!(List::parse(text), Some(list), "{text}");
    }
    for text in [
        "*",
        "a",
        "\"a\",\"b\"",
        "FIRST 1 (\"a\")",
        "1 (\"a\",\"b\")",
        "ANY x (\"a\")",
        "ANY 1 (a)",
    ] {
        assert_eq!(List::parse(text), None, "{text}");
    }
}

/// The new record's winners are the old one's, or have the new leader: for any record and winner.
#[test]
fn the_record_that_is_kept_lets_nobody_else_win() {
    // Bit 0 is the leader of before.
    for (voters, quorum) in (0..64u8).map(|v| v & !1).flat_map(|v| (0..5).map(move |q| (v, q))) {
        let record = SyncView {
            leader: Some(name(NAMES[0])),
            standbys: set(voters),
            quorum,
            ..SyncView::default()
        };
        for winner in (1..6).filter(|i| voters & bit(*i) != 0) {
            let Some(new) = kept(&record, &name(NAMES[winner]), |_| true) else { continue };
            assert_eq!(bits(&new.voters), (voters | 1) & !bit(winner));
            assert_eq!(new.quorum, quorum);
            let needed = u32::try_from(new.list(false).needed).expect("small");
            let quorum = u32::try_from(quorum).expect("small");
            let old = State { voters, quorum, names: 0, needed: 0 };
            let voters = bits(&new.voters);
            let next = State { voters, quorum, names: voters, needed };
            assert!(next.is_safe(), "{next:?}");
            for group in next.groups() {
                let with_the_former = group & 1 != 0;
                assert!(with_the_former || (group & old.voters).count_ones() > quorum);
            }
        }
        let stopped = kept(&record, &name(NAMES[1]), |_| false);
        assert_eq!(stopped, None);
    }
}
