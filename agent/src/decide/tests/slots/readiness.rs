//! A copy of a logical slot that counts as ready, against a model of what vacuum removes: a leader whose
//! slot moves on, feedback that comes late, records that are read late, in any order.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

use super::super::world::{World, name, status};
use crate::decide::slots::readiness::{Horizon, Readiness, Seen, Xid, look};
use crate::decide::view::{Member, Origin, Slot, Status};

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The consumer confirms: the leader's slot moves on.
    Confirm(u32),
    /// The leader writes something.
    Write,
    /// It vacuums what nobody holds back.
    Vacuum,
    /// An older copy of this node moves on, and this node's feedback with it.
    OlderMoves(u32),
    /// The leader's slot is read.
    Read,
    /// The server has the copy.
    Load,
    /// It streams.
    Connect,
    /// Its feedback arrives.
    Feedback,
    /// The leader reads its slots, and writes its record.
    Tell,
    /// A record arrives.
    Deliver,
    /// The copy is moved towards the leader's.
    Move(u32),
    /// A decoder here has found its footing, and the copy decodes from a snapshot of this server.
    Restart,
    /// This node looks.
    Look,
}

fn some_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u32..4).prop_map(Event::Confirm),
        Just(Event::Write),
        Just(Event::Vacuum),
        (1_u32..4).prop_map(Event::OlderMoves),
        Just(Event::Read),
        Just(Event::Load),
        Just(Event::Connect),
        Just(Event::Feedback),
        Just(Event::Tell),
        Just(Event::Deliver),
        (1_u32..4).prop_map(Event::Move),
        Just(Event::Restart),
        Just(Event::Look),
    ]
}

/// What is so. Transactions count from somewhere near the end of 32 bits, so that they come round; here
/// they are spans from there.
struct Model {
    /// The leader's slot holds the catalog back from here on.
    leaders: u32,
    /// The physical slot that this node streams through does.
    feedback: Option<u32>,
    /// Everything before this was removed.
    removed: u32,
    position: u64,
    older: Option<u32>,
    read: Option<u32>,
    copy: Option<u32>,
    /// It decodes from a snapshot that lies here.
    footing: bool,
    upstream_end: Option<u64>,
    records: VecDeque<Horizon>,
    told: Arc<Member>,
    known: Option<Readiness>,
    status: Status,
}

const FIRST: u32 = u32::MAX - 20;

fn xid(span: u32) -> Xid {
    Xid(FIRST.wrapping_add(span))
}

impl Model {
    fn new(older: bool) -> Self {
        let world = World::new();
        let site = world.view.site.expect("a site");
        Self {
            leaders: 5,
            feedback: None,
            removed: 0,
            position: 100,
            older: older.then_some(3),
            read: None,
            copy: None,
            footing: false,
            upstream_end: None,
            records: VecDeque::new(),
            told: Arc::clone(&site.members[&name::<NodeName>("a2")]),
            known: None,
            status: status(true, 3, 100),
        }
    }

    fn hear(&mut self, catalog: u32) {
        // It only ever moves forward (PhysicalReplicationSlotNewXmin, replication/walsender.c).
        self.feedback = Some(self.feedback.map_or(catalog, |has| has.max(catalog)));
    }

    fn horizon(&self) -> Horizon {
        let own = self.feedback.map(|span| ("a1".to_owned(), xid(span)));
        let cdc = ("cdc".to_owned(), xid(self.leaders));
        Horizon { at: Lsn::new(self.position), xmins: own.into_iter().chain([cdc]).collect() }
    }

    /// Whether the copy counts as ready after this.
    fn happens(&mut self, event: Event) -> bool {
        match event {
            Event::Confirm(span) => self.leaders += span,
            Event::Write => self.position += 1,
            Event::Vacuum => {
                let horizon = self.feedback.map_or(self.leaders, |has| has.min(self.leaders));
                if horizon > self.removed {
                    (self.removed, self.position) = (horizon, self.position + 1);
                }
            }
            // Once the copy is here all feedback counts it.
            Event::OlderMoves(span) => {
                if let Some(older) = self.older.filter(|_| self.copy.is_none()) {
                    let older = (older + span).min(self.leaders);
                    self.older = Some(older);
                    self.hear(older);
                }
            }
            Event::Read => self.read = self.read.or(Some(self.leaders)),
            Event::Load => self.copy = self.copy.or(self.read),
            Event::Connect => {
                if self.copy.is_some() && self.upstream_end.is_none() {
                    self.upstream_end = Some(self.position);
                }
            }
            Event::Feedback => {
                if let (Some(copy), Some(_)) = (self.copy, self.upstream_end) {
                    self.hear(self.older.map_or(copy, |older| older.min(copy)));
                }
            }
            Event::Tell => {
                let horizon = self.horizon();
                self.records.push_back(horizon);
            }
            Event::Deliver => {
                if let Some(horizon) = self.records.pop_front() {
                    Arc::make_mut(&mut self.told).horizon = Some(horizon);
                }
            }
            Event::Move(span) => {
                self.copy = self.copy.map(|copy| (copy + span).min(self.leaders));
            }
            Event::Restart => self.footing |= self.copy.is_some(),
            Event::Look => return self.look(),
        }
        false
    }

    fn look(&mut self) -> bool {
        let Some(copy) = self.copy else { return false };
        let at = Some(Lsn::new(2));
        let slot = Slot {
            restart: Some(Lsn::new(if self.footing { 2 } else { 1 })),
            confirmed: at,
            catalog_xmin: Some(xid(copy)),
            origin: Origin::Copied,
            ..Slot::default()
        };
        self.status.upstream_end = self.upstream_end.map(Lsn::new);
        let (leader, told) = (name::<NodeName>("a2"), Arc::clone(&self.told));
        let seen = Seen {
            leader: &leader,
            told: &told,
            own: "a1",
            name: "cdc",
            slot: &slot,
            status: &self.status,
            published: at,
        };
        let found = look(self.known.take(), &seen);
        let ready = found.ready;
        self.known = Some(found);
        ready
    }
}

#[test]
fn a_copy_does_become_ready() {
    use Event::{
        Confirm, Connect, Deliver, Feedback, Load, Look, Move, Read, Restart, Tell, Write,
    };
    for older in [false, true] {
        let mut model = Model::new(older);
        let events = [
            Read,
            Load,
            Connect,
            Look,
            Confirm(1),
            Feedback,
            Write,
            Tell,
            Deliver,
            Look,
            Move(2),
            Look,
            Restart,
        ];
        for event in events {
            assert!(!model.happens(event), "{event:?}");
        }
        assert!(model.happens(Look), "{:?}", model.known);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Nothing that a ready copy decodes with was removed, or ever is while it is held.
    #[test]
    fn what_a_ready_copy_needs_was_not_removed(
        older in any::<bool>(),
        events in prop::collection::vec(some_event(), 0..80),
    ) {
        let mut model = Model::new(older);
        let mut ready = false;
        for event in events {
            ready |= model.happens(event);
            let copy = model.copy.unwrap_or_default();
            prop_assert!(!ready || model.removed <= copy, "{event:?}: {} > {copy}", model.removed);
            prop_assert!(!ready || model.footing, "{event:?}: decoding begins without footing");
        }
    }

    /// Transactions come round, and the later one is told all the same.
    #[test]
    fn of_two_transactions_the_later_one_reaches_the_other(
        first in any::<u32>(),
        span in 1_u32..1 << 31,
    ) {
        let (early, late) = (Xid(first), Xid(first.wrapping_add(span)));
        prop_assert!(late.reaches(early) && early.reaches(early) && !early.reaches(late));
    }
}
