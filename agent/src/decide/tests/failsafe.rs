//! Each refusal alone refuses, one silent voice raises nothing, and a promise binds its giver
//! (protocol.md rule 11, I19).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use regent_proto::epoch::Epoch;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{PrimaryState, Promise, Unknown, VERSION};
use regent_proto::time::{BootTime, Deadline, LeaseTiming};

use super::world::{NOW, World, name, point, sender};
use crate::decide::failsafe::quorum::{self, Given, Refusal, may_promise};
use crate::decide::failsafe::site::{
    Answer, Leader, MemberWord, Members, PromisedLeader, barred, wanted,
};
use crate::decide::renewal::PromiseUse;
use crate::decide::view::{At, DiskEpoch, FailsafeRecord, PromiseRecord};
use crate::decide::{Action, Reason, Unfit};
use regent_proto::promise::PromiseRequest;

const SPAN: Duration = Duration::from_secs(15);

fn at(seconds: u64) -> BootTime {
    BootTime::from_nanos(seconds * 1_000_000_000)
}

fn timing() -> LeaseTiming {
    LeaseTiming {
        ttl: Duration::from_secs(5),
        renew_every: Duration::from_secs(1),
        call_timeout: Duration::from_secs(1),
        stop_budget: Duration::from_secs(1),
        kill_budget: Duration::from_millis(250),
    }
}

fn members(names: &[&str]) -> Members {
    names.iter().map(|n| (name(n), format!("http://{n}/patroni"))).collect()
}

fn read(names: &[&str]) -> FailsafeRecord {
    FailsafeRecord::Read { members: members(names), revision: 5 }
}

/// A leader of `a1`, `a2`, `a3` whose last renewal gave D = 10 s.
fn leader() -> Leader {
    let mut leader = Leader::default();
    leader.allow(true);
    leader.written(members(&["a1", "a2", "a3"]));
    leader.renewed(Deadline::at(at(10)));
    leader
}

fn all_accept() -> BTreeMap<NodeName, Answer> {
    ["a2", "a3"].iter().map(|n| (name(n), Answer::Accepted { span: None })).collect()
}

#[test]
fn a_complete_round_counts_from_its_sending() {
    let mut leader = leader();
    let me: NodeName = name("a1");
    assert_eq!(leader.question(&me, at(7)), Some(members(&["a2", "a3"])));
    let given = leader.judge(&me, (at(7), at(9)), &timing(), &all_accept());
    assert_eq!(given, Some(Deadline::granted(at(7), &timing())));
    assert!(leader.stands(at(9)));
    // The least span that a member keeps its word for is what counts.
    let mut answers = all_accept();
    answers.insert(name("a3"), Answer::Accepted { span: Some(Duration::from_secs(2)) });
    let given = leader.judge(&me, (at(8), at(9)), &timing(), &answers);
    let shorter = LeaseTiming { ttl: Duration::from_secs(2), ..timing() };
    assert_eq!(given, Some(Deadline::granted(at(8), &shorter)));
}

#[test]
fn each_thing_that_is_missing_alone_raises_nothing() {
    type Bend = fn(&mut Leader, &mut BTreeMap<NodeName, Answer>);
    let cases: [(&str, Bend); 7] = [
        ("silent", |_, a| {
            a.insert(name("a3"), Answer::Silent(String::new()));
        }),
        ("refusing", |_, a| {
            a.insert(name("a3"), Answer::Refused(String::new()));
        }),
        ("not asked", |_, a| {
            a.remove(&name::<NodeName>("a3"));
        }),
        ("switched off, or not open", |l, _| l.allow(false)),
        ("added since it was asked", |l, _| {
            l.begin_write(&members(&["a1", "a2", "a3", "a4"]), at(8));
        }),
        ("not in its own record", |l, _| l.written(members(&["a2", "a3"]))),
        ("the key is another's", |l, _| l.ended()),
    ];
    for (what, bend) in cases {
        let (mut leader, mut answers) = (leader(), all_accept());
        bend(&mut leader, &mut answers);
        let given = leader.judge(&name("a1"), (at(7), at(9)), &timing(), &answers);
        assert_eq!(given, None, "{what}");
        assert!(!leader.stands(at(9)), "{what}");
    }
    let mut past = leader();
    let given = past.judge(&name("a1"), (at(7), at(10)), &timing(), &all_accept());
    assert_eq!(given, None, "the deadline is past: nothing is brought back");
}

#[test]
fn a_site_of_one_goes_on_alone() {
    let mut leader = leader();
    leader.written(members(&["a1"]));
    assert!(leader.judge(&name("a1"), (at(7), at(7)), &timing(), &BTreeMap::new()).is_some());
    leader.written(Members::new());
    assert_eq!(leader.judge(&name("a1"), (at(7), at(7)), &timing(), &BTreeMap::new()), None);
}

#[test]
fn nobody_is_added_while_the_deadline_rests_on_others_words() {
    let (mut leader, four) = (leader(), members(&["a1", "a2", "a3", "a4"]));
    leader.judge(&name("a1"), (at(9), at(9)), &timing(), &all_accept()).expect("given");
    assert!(!leader.begin_write(&four, at(9)), "a4 promised nothing");
    assert!(leader.begin_write(&members(&["a1", "a2"]), at(9)), "somebody may leave");
    leader.renewed(Deadline::granted(at(11), &timing()));
    assert!(leader.begin_write(&four, at(11)));
    // Sent, and not known to have been applied: asked all the same.
    assert!(leader.question(&name("a1"), at(11)).expect("asks").contains_key(&name("a4")));
    leader.written(members(&["a1", "a2"]));
    assert_eq!(leader.question(&name("a1"), at(11)), Some(members(&["a2"])));
}

#[test]
fn the_record_names_everybody_and_bars_the_rest() {
    let me: (NodeName, &str) = (name("a1"), "http://a1/patroni");
    let mut world = World::new();
    for (name, member) in &mut world.site().members {
        Arc::make_mut(member).api_url = format!("http://{name}/patroni");
    }
    let present = world.site().members.clone();
    let want = |on, record: &FailsafeRecord, away: &[(&str, u64)]| {
        let away = away.iter().map(|(n, s)| (name(n), Duration::from_secs(*s))).collect();
        wanted(on, record, &present, (&me.0, me.1), &away, Duration::from_secs(5))
    };
    assert_eq!(want(true, &FailsafeRecord::Absent, &[]), Some(members(&["a1", "a2"])));
    let three = read(&["a1", "a2", "a3"]);
    assert_eq!(want(true, &three, &[("a3", 4)]), Some(members(&["a1", "a2", "a3"])));
    assert_eq!(want(true, &three, &[("a3", 5)]), Some(members(&["a1", "a2"])));
    assert_eq!(want(false, &FailsafeRecord::Absent, &[]), None);
    assert_eq!(want(false, &read(&[]), &[]), None);
    assert_eq!(want(false, &three, &[]), Some(Members::new()), "off: it bars nobody any more");
    assert!(barred(&three, &name("a4")) && !barred(&three, &name("a3")));
    assert!(!barred(&read(&[]), &name("a4")) && !barred(&FailsafeRecord::Absent, &name("a4")));
    assert!(barred(&FailsafeRecord::Unreadable { revision: 1 }, &name("a1")));
}

#[test]
fn a_member_keeps_its_word_and_forgets_it_when_it_leads() {
    let (mut word, a1, a2): (_, NodeName, NodeName) =
        (MemberWord::default(), name("a1"), name("a2"));
    let span = Duration::from_secs(5);
    assert!(word.accept(&a1, at(1), span));
    assert_eq!(word.enter(at(5)).expect_err("promised").leader, a1);
    assert!(word.accept(&a2, at(2), Duration::from_secs(1)), "a later leader");
    assert!(word.enter(at(5)).is_err(), "the earlier promise is not shortened");
    word.enter(at(6)).expect("ended");
    assert!(!word.accept(&a1, at(6), span), "running as a leader");
    assert_eq!(word.standing(at(6)), None);
    word.leave();
    assert!(word.accept(&a1, at(7), span));
}

#[test]
fn a_node_that_promised_or_is_not_named_does_not_race() {
    let mut world = World::new();
    world.leader(None);
    world.standby(3, 500);
    world.view.tenure.primary = None;
    world.site().sync.standbys.insert(name("a1"));
    world.site().members.remove(&name::<NodeName>("a2"));
    assert_eq!(world.decide().actions, vec![Action::AcquireLeader]);
    let mut promised = world.clone();
    promised.view.failsafe.promised =
        Some(PromisedLeader { leader: name("a2"), until: NOW.plus(SPAN) });
    let decision = promised.decide();
    assert_eq!(decision.reason, Reason::NotCandidate(Unfit::Promised(name("a2"))));
    assert_eq!(decision.actions, vec![]);
    world.site().failsafe = read(&["a2", "a3"]);
    assert_eq!(world.decide().reason, Reason::NotCandidate(Unfit::NotInFailsafe));
}

#[test]
fn a_promise_keeps_a_server_closed_whose_key_came_late() {
    let mut world = World::new();
    world.standby(3, 500);
    world.status().synchronous_standby_names = "\"a2\"".to_owned();
    world.status().senders.insert("a2".to_owned(), sender(500));
    assert_eq!(world.decide().actions, vec![Action::Promote]);
    world.view.failsafe.promised =
        Some(PromisedLeader { leader: name("a2"), until: NOW.plus(SPAN) });
    assert_eq!(world.decide().actions, vec![]);
}

#[test]
fn a_writer_whose_key_the_store_forgot_goes_on_by_its_members_word_only() {
    let mut world = World::new();
    let ahead = world.view.tenure.site;
    world.leader(None);
    world.view.tenure.site = ahead;
    assert_eq!(world.decide().reason, Reason::LeaderDeleted);
    world.view.failsafe.stands = true;
    let decision = world.decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::Failsafe));
    world.view.tenure.site = Deadline::NEVER;
    assert_eq!(world.decide().reason, Reason::StoppingWriter);
}

/// The renewal thread has its acknowledgement, and the picture shows no key yet.
#[test]
fn a_key_made_anew_is_waited_for_and_a_free_one_is_not() {
    let mut world = World::new();
    let ahead = world.view.tenure.site;
    world.leader(None);
    world.view.tenure.site = ahead;
    let mut by_word = world.clone();
    by_word.view.failsafe.stands = true;
    by_word.memory = by_word.decide().memory;
    by_word.view.failsafe.stands = false;
    let waits = by_word.decide();
    assert_eq!((waits.actions, waits.reason), (vec![], Reason::Failsafe));
    by_word.memory = waits.memory;
    // The key is there again: from now on a free one is as bad as ever.
    let mut ours = by_word.clone();
    ours.leader(Some("a1"));
    assert!(!ours.decide().memory.by_word);
    let mut others = by_word.clone();
    others.leader(Some("a2"));
    assert!(!others.decide().memory.by_word);
    let mut past = by_word.clone();
    past.view.tenure.site = Deadline::NEVER;
    let decision = past.decide();
    assert_eq!(decision.reason, Reason::StoppingWriter);
    assert!(!decision.memory.by_word);
}

// --- The quorum ------------------------------------------------------------------------------

/// `a1` leads standby site `a`; site `b` writes under epoch 3 and asks.
fn asked() -> (World, PromiseRequest) {
    let mut world = World::new();
    world.standby(3, 500);
    world.held_by_b();
    let request = PromiseRequest {
        site: name("b"),
        node: name("b1"),
        tenure: name("t7"),
        epoch: Epoch::new(3),
        span_ms: 15_000,
    };
    (world, request)
}

#[test]
fn each_refusal_of_a_promise_alone_refuses() {
    let (world, request) = asked();
    let me: NodeName = name("a1");
    assert_eq!(may_promise(&world.view, &me, &request), Ok(()));
    type Bend = fn(&mut World, &mut PromiseRequest);
    let cases: [(Refusal, Bend); 14] = [
        (Refusal::NoPicture, |w, _| w.view.site = None),
        (Refusal::NotLeader, |w, _| {
            let deadline = w.view.tenure.site;
            w.leader(Some("a2"));
            w.view.tenure.site = deadline;
        }),
        (Refusal::NotLeader, |w, _| {
            w.site().leader.as_mut().expect("a leader").bound_to_my_lease = false;
        }),
        (Refusal::NotLeader, |w, _| w.view.tenure.site = Deadline::at(NOW)),
        (Refusal::OwnSite, |w, r| {
            r.site = name("a");
            w.primary().holder = name("a");
        }),
        (Refusal::PrimaryUnknown, |w, _| w.federation().primary = None),
        (Refusal::PrimaryUnknown, |w, _| w.view.federation = None),
        (Refusal::NewerEpoch(Epoch::new(4)), |w, _| w.primary().epoch = Epoch::new(4)),
        (Refusal::NewerEpoch(Epoch::new(4)), |w, _| {
            w.site().seen_epoch.as_mut().expect("seen").value.epoch = Epoch::new(4);
        }),
        (Refusal::NewerEpoch(Epoch::new(4)), |w, _| {
            w.federation().disk_epoch = DiskEpoch::Seen(super::world::seen(4));
        }),
        (Refusal::OtherHolder(name("c")), |w, _| w.primary().holder = name("c")),
        (Refusal::State("fenced"), |w, _| {
            w.state(PrimaryState::Fenced {
                to: name("a"),
                operation: name("op-2"),
                accepted: AcceptedLoss::default(),
            });
        }),
        (Refusal::State("token"), |w, _| w.token("a", point(3, 500))),
        (Refusal::Span { asked: Duration::from_secs(16), most: SPAN }, |_, r| r.span_ms = 16_000),
    ];
    for (refusal, bend) in cases {
        let (mut world, mut request) = asked();
        bend(&mut world, &mut request);
        assert_eq!(may_promise(&world.view, &me, &request), Err(refusal));
    }
    let (mut world, request) = asked();
    world.site().seen_epoch = None;
    let refused = may_promise(&world.view, &me, &request);
    assert_eq!(refused, Err(Refusal::Unreadable("regent/epoch")));
    let (mut world, request) = asked();
    world.site().promise = PromiseRecord::Unreadable { revision: 3 };
    let refused = may_promise(&world.view, &me, &request);
    assert_eq!(refused, Err(Refusal::Unreadable("regent/promise")));
}

#[test]
fn an_asker_with_a_newer_epoch_and_one_under_an_unmarked_handover_is_answered() {
    let (mut world, mut request) = asked();
    request.epoch = Epoch::new(4);
    world.state(PrimaryState::Fenced {
        to: name("a"),
        operation: name("op-2"),
        accepted: AcceptedLoss::default(),
    });
    assert_eq!(may_promise(&world.view, &name("a1"), &request), Ok(()), "that record is older");
    let (mut world, request) = asked();
    world.handover("a");
    assert_eq!(may_promise(&world.view, &name("a1"), &request), Ok(()));
}

#[test]
fn each_thing_that_voids_a_promise_alone_voids_it() {
    let good = PromiseUse { ended: false, refused: false, open: true, ahead: true };
    assert!(good.allowed());
    for bad in [
        PromiseUse { ended: true, ..good },
        PromiseUse { refused: true, ..good },
        PromiseUse { open: false, ..good },
        PromiseUse { ahead: false, ..good },
    ] {
        assert!(!bad.allowed(), "{bad:?}");
    }
}

fn record(tenure: &str, epoch: u64, revision: u64) -> PromiseRecord {
    PromiseRecord::Read(At {
        value: Promise {
            version: VERSION,
            site: name("b"),
            node: name("b1"),
            tenure: name(tenure),
            epoch: Epoch::new(epoch),
            span: SPAN,
            unknown: Unknown::new(),
        },
        revision,
    })
}

#[test]
fn a_new_leader_counts_a_promise_from_the_moment_it_reads_it() {
    let mut given = Given::default();
    let epoch = Epoch::new(3);
    given.read(&record("t7", 3, 40), true, SPAN, at(100));
    given.read(&record("t7", 3, 40), true, SPAN, at(110));
    assert_eq!(given.until(at(110), None, epoch), Some(at(115)), "counted once a revision");
    given.read(&record("t7", 3, 41), true, SPAN, at(112));
    assert_eq!(given.until(at(112), None, epoch), Some(at(127)));
    assert_eq!(given.until(at(112), Some(&name("t7")), epoch), None, "a token of that tenure");
    assert_eq!(given.until(at(112), Some(&name("t8")), epoch), Some(at(127)), "and no other");
    assert_eq!(given.until(at(112), None, Epoch::new(4)), None, "primacy has moved on");
    assert_eq!(given.until(at(127), None, epoch), None);
}

#[test]
fn a_promise_of_a_later_tenure_does_not_hide_an_earlier_one() {
    let mut given = Given::default();
    given.read(&record("t7", 3, 40), true, SPAN, at(100));
    given.read(&record("t8", 3, 41), true, SPAN, at(101));
    assert_eq!(given.until(at(102), Some(&name("t8")), Epoch::new(3)), Some(at(115)));
}

#[test]
fn what_cannot_be_known_is_waited_for_a_whole_span() {
    let epoch = Epoch::new(3);
    let mut lost = Given::default();
    lost.read(&PromiseRecord::Absent, false, SPAN, at(100));
    lost.read(&PromiseRecord::Absent, false, SPAN, at(110));
    assert_eq!(lost.until(at(110), None, epoch), Some(at(115)), "a DCS that was lost");
    assert_eq!(lost.until(at(110), Some(&name("t7")), epoch), Some(at(115)));
    let mut unreadable = Given::default();
    unreadable.read(&PromiseRecord::Unreadable { revision: 4 }, true, SPAN, at(100));
    assert_eq!(unreadable.until(at(110), Some(&name("t7")), epoch), Some(at(115)));
    let mut none = Given::default();
    none.read(&PromiseRecord::Absent, true, SPAN, at(100));
    assert_eq!(none.until(at(100), None, epoch), None);
}

#[test]
fn a_take_and_a_promise_are_in_each_others_way() {
    let (mut world, request) = asked();
    let primary = world.primary().clone();
    let (t7, t8) = (name("t7"), name("t8"));
    let mut given = Given::default();
    given.give(&request, at(100)).expect("given");
    assert_eq!(given.begin_take(70, at(114), Some(&t8), &primary), Err(at(115)));
    assert_eq!(given.begin_take(70, at(114), Some(&t7), &primary), Ok(()), "its own token");
    assert_eq!(given.give(&request, at(114)), Err(Refusal::UnresolvedTake));
    given.saw_primary(70);
    assert_eq!(given.give(&request, at(114)), Err(Refusal::UnresolvedTake), "nothing was resolved");
    given.saw_primary(71);
    assert_eq!(given.give(&request, at(114)), Ok(()));
    given.begin_take(71, at(200), None, &primary).expect("ended");
    given.end_take();
    assert_eq!(given.give(&request, at(200)), Ok(()));
}

#[test]
fn a_take_waits_for_the_sites_own_promise() {
    let (mut world, _) = asked();
    world.token("a", point(3, 500));
    world.status().senders.insert("a2".to_owned(), sender(500));
    assert!(matches!(world.decide().actions[..], [Action::Take { .. }]));
    world.view.failsafe.takes_not_before = Some(NOW.plus(SPAN));
    let rounds = world.policy.loop_wait;
    assert_eq!(world.decide().wake_at, NOW.plus(rounds), "a waiting loop comes round all the same");
    world.policy.loop_wait = SPAN * 2;
    let decision = world.decide();
    assert_eq!((decision.actions, decision.reason), (vec![], Reason::AwaitingPromise));
    assert_eq!(decision.wake_at, NOW.plus(SPAN));
}

fn sites() -> impl Strategy<Value = BTreeSet<SiteName>> {
    prop::sample::subsequence(vec!["a", "b", "c", "d", "e"], 1..=5)
        .prop_map(|sites| sites.into_iter().map(name).collect())
}

proptest! {
    #[test]
    fn one_silent_site_and_nothing_is_raised(
        electorate in sites(),
        spans in prop::collection::btree_map(
            prop::sample::select(vec!["b", "c", "d", "e"]),
            prop::option::of(1u64..30),
            0..5,
        ),
    ) {
        let answers: BTreeMap<SiteName, Option<Duration>> =
            spans.iter().map(|(s, n)| (name(s), n.map(Duration::from_secs))).collect();
        let own: SiteName = name("a");
        let others = electorate.iter().filter(|site| **site != own);
        let silent = others.clone().any(|site| answers.get(site).copied().flatten().is_none());
        let given = quorum::complete(&electorate, &own, SPAN, &answers);
        prop_assert_eq!(given.is_none(), silent);
        if let Some(given) = given {
            prop_assert!(given <= SPAN);
            prop_assert!(others.filter_map(|s| answers.get(s).copied().flatten()).all(|s| given <= s));
        }
    }

    #[test]
    fn one_member_that_does_not_accept_and_nothing_is_raised(
        answers in prop::collection::vec(0u8..4, 2),
        end in any::<bool>(),
    ) {
        let (mut leader, mut said) = (leader(), BTreeMap::new());
        for (who, answer) in ["a2", "a3"].iter().zip(&answers) {
            match answer {
                0 => drop(said.insert(name(who), Answer::Accepted { span: None })),
                1 => drop(said.insert(name(who), Answer::Refused(String::new()))),
                2 => drop(said.insert(name(who), Answer::Silent(String::new()))),
                _ => {}
            }
        }
        if end {
            leader.ended();
        }
        let given = leader.judge(&name("a1"), (at(7), at(8)), &timing(), &said);
        prop_assert_eq!(given.is_some(), !end && answers.iter().all(|answer| *answer == 0));
    }

    /// A promise is given, read again by any number of leaders, and overwritten: whoever takes
    /// without a token of its tenure takes after the span that the asker counts from before it asked.
    #[test]
    fn no_take_falls_into_a_promised_span(
        delay in 0u64..5,
        readings in prop::collection::vec((0u64..20, 40u64..43), 0..6),
        take in 0u64..30,
        own_memory in any::<bool>(),
    ) {
        let (mut world, request) = asked();
        let primary = world.primary().clone();
        let mut given = Given::default();
        let sent = 100;
        let mut now = sent + delay;
        if own_memory {
            given.give(&request, at(now)).expect("no take yet");
        } else {
            given.read(&record("t7", 3, 39), true, SPAN, at(now));
        }
        for (later, revision) in readings {
            now += later;
            given.read(&record("t9", 3, revision), true, SPAN, at(now));
        }
        now += take;
        let begun = given.begin_take(70, at(now), Some(&name("t9")), &primary);
        prop_assert!(begun.is_err() || at(now) >= at(sent).plus(SPAN));
    }
}
