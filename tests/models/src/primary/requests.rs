//! What becomes of requests: sent, applied, answered, given up, read back.

use regent_agent::decide::renewal::AfterRefusal;

use super::records::Point;
use super::rules::{self, HIGH};
use super::transactions::Edge;
use super::{Kind, L, Memory, Mutant, Primacy, Request, Sin, Stage, State};

fn index(at: usize) -> u8 {
    u8::try_from(at).unwrap_or(u8::MAX)
}

impl Primacy {
    /// Forgets what can have no effect any more, and orders what is in flight.
    pub(super) fn settle(&self, s: &mut State) {
        let carried = self.is(Mutant::OpeningBeforeTheReading);
        for site in &mut s.sites {
            let memory = &mut site.memory;
            if memory.left == 0 {
                site.open = false;
            }
            if !site.open {
                memory.round = None;
            }
            if !memory.lease && !carried {
                let Memory { marked, reading, fenced_for, lease_for, .. } = *memory;
                *memory = Memory { marked, reading, fenced_for, lease_for, ..Memory::default() };
            }
        }
        // Only who holds a tenure reads back.
        let holds = s.sites.map(|site| site.memory.lease);
        let written_by = s.l.writer.map(usize::from);
        let mut writer = None;
        for (at, slot) in s.requests.iter_mut().enumerate() {
            let Some(request) = slot else { continue };
            if request.stage == Stage::Sent && !self.fits(request) {
                request.stage = Stage::Refused;
            }
            let read_back = request.live
                && holds[usize::from(request.site)]
                && matches!(request.kind, Kind::Renew(_));
            let counts = (request.heard || read_back)
                && !matches!(request.kind, Kind::Token(..) | Kind::Add(_) | Kind::Lower)
                && request.stage != Stage::Refused;
            let latest = read_back && self.is(Mutant::ReadBackWithTheLatestSend);
            if !counts && !latest {
                // Nobody will count from its sending, nor hold a tenure by it.
                (request.age, request.read) = (self.bounds.longest(), (0, 0));
            }
            if request.stage == Stage::Refused {
                (request.p_fresh, request.l_fresh, request.void) = (false, false, false);
                (request.epoch, request.read) = (0, (0, 0));
            }
            let over = match request.stage {
                Stage::Sent => false,
                Stage::Refused => !request.heard,
                Stage::Applied => {
                    let read_back = read_back && Some(at) == written_by;
                    !request.heard && !read_back
                }
            };
            if over {
                *slot = None;
            } else if Some(at) == written_by {
                writer = Some(*request);
            }
        }
        s.requests.sort_unstable_by_key(|slot| (slot.is_none(), *slot));
        let place = writer.and_then(|w| s.requests.iter().position(|slot| *slot == Some(w)));
        s.l.writer = place.map(index);
        self.forget(s);
    }

    /// Whether what it compares is as it was.
    fn fits(&self, request: &Request) -> bool {
        let shape = request.kind.shape();
        let (primary, lease) = match request.kind {
            Kind::Acquire => (!self.is(Mutant::AcquireComparesNoPrimary), true),
            Kind::Renew(_) => (!self.is(Mutant::RenewalComparesNoPrimary), true),
            Kind::Token(..) => {
                let either = self.is(Mutant::TokenComparesNoLeaseAndTheMarkDoesNotBar)
                    || self.is(Mutant::MarkFallsInAnyStateAndTokenComparesNoLease);
                (true, !either)
            }
            Kind::Lower => (true, !self.is(Mutant::LoweringComparesNoLease)),
            Kind::Take | Kind::Promote(..) | Kind::Add(_) => (true, true),
        };
        (request.p_fresh || !(shape.primary && primary))
            && (request.l_fresh || !(shape.lease && lease))
    }

    pub(super) fn send(&self, s: &mut State, at: usize, kind: Kind) {
        let memory = s.sites[at].memory;
        // What is decided on a reading compares what was just read; the others compare what they
        // have known since their last answer.
        let (p_fresh, l_fresh, epoch) = match kind {
            Kind::Acquire => (true, true, s.p.epoch),
            Kind::Token(..) => (true, true, s.p.epoch),
            Kind::Take | Kind::Promote(..) => (true, true, s.p.epoch + 1),
            Kind::Renew(_) => (memory.p_known, memory.l_known, memory.epoch),
            Kind::Add(_) | Kind::Lower => (memory.p_known, memory.l_known, memory.epoch),
        };
        let read = match kind {
            Kind::Acquire | Kind::Take | Kind::Promote(..) => (s.p.electorate, s.p.ttl_max),
            Kind::Renew(_) | Kind::Token(..) | Kind::Add(_) | Kind::Lower => (0, 0),
        };
        if let Kind::Add(site) = kind
            && !self.is(Mutant::NewMemberAskedOnlyWhenKnown)
        {
            s.sites[at].memory.electorate |= 1 << site;
        }
        if let Some(free) = s.requests.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(Request {
                site: index(at),
                kind,
                stage: Stage::Sent,
                age: 0,
                epoch,
                read,
                p_fresh,
                l_fresh,
                heard: true,
                live: true,
                void: false,
            });
        }
    }

    pub(super) fn apply(&self, s: &mut State, slot: usize) -> Option<()> {
        let request = s.requests[slot]?;
        if !self.fits(&request) {
            s.requests[slot] = Some(Request { stage: Stage::Refused, ..request });
            return Some(());
        }
        let next = match request.kind {
            Kind::Acquire | Kind::Renew(_) => None,
            Kind::Token(history, end) => {
                let end = Point { history, end };
                if !s.histories.truly_contains(end, s.p.floor) {
                    s.sin = Sin::FloorFell;
                }
                Some(self.next(s, Edge::Token(end))?)
            }
            Kind::Take => Some(self.next(s, Edge::Take)?),
            Kind::Promote(history, end) => {
                let end = Point { history, end };
                if !s.histories.truly_contains(end, s.row) {
                    // A loss that was accepted.
                    s.row = end;
                }
                Some(self.next(s, Edge::Promote(end))?)
            }
            Kind::Add(site) => Some(self.next(s, Edge::Add(site))?),
            Kind::Lower => Some(self.next(s, Edge::Lower)?),
        };
        let puts_primary = next.is_some();
        if let Some(next) = next {
            s.set_primary(self, next);
        }
        let tenure = request.live.then_some(request.site);
        let writer = Some(index(slot));
        let put = request.kind.shape().puts.map(|released| match request.kind {
            Kind::Acquire | Kind::Take | Kind::Promote(..) => L { of: tenure, released, writer },
            Kind::Renew(_) | Kind::Token(..) | Kind::Add(_) | Kind::Lower => {
                L { released, writer, ..s.l }
            }
        });
        if let Some(lease) = put {
            s.set_lease(self, lease);
        }
        let p_fresh = if puts_primary { true } else { request.p_fresh };
        s.requests[slot] = Some(Request { stage: Stage::Applied, p_fresh, ..request });
        Some(())
    }

    pub(super) fn give_up(&self, s: &mut State, slot: usize) -> Option<()> {
        let request = s.requests[slot]?;
        s.requests[slot] = Some(Request { heard: false, ..request });
        if self.is(Mutant::TakeActedOnUnknown) && request.kind == Kind::Take {
            self.hold(s, &request, slot);
        }
        Some(())
    }

    fn anchor(&self, age: u8) -> u8 {
        if self.is(Mutant::DeadlineAnchoredAtReceive) { 0 } else { age }
    }

    /// A tenure begins.
    pub(super) fn hold(&self, s: &mut State, request: &Request, slot: usize) {
        let at = usize::from(request.site);
        let (electorate, ttl) = request.read;
        let present = self.is(Mutant::AsksThePresentElectorate);
        let electorate = if present { s.p.electorate } else { electorate };
        let left = rules::granted(self.anchor(request.age), ttl);
        let l_known = s.l.writer == Some(index(slot));
        let memory = &mut s.sites[at].memory;
        *memory = Memory {
            lease: true,
            epoch: request.epoch,
            left,
            acknowledged: left,
            p_known: request.p_fresh,
            l_known,
            electorate,
            ..Memory::default()
        };
    }

    pub(super) fn answer(&self, s: &mut State, slot: usize) -> Option<()> {
        let request = s.requests[slot]?;
        let at = usize::from(request.site);
        let may = !request.void || self.is(Mutant::MarkLetsEarlierRequestsRaise);
        match (request.stage, request.kind) {
            (Stage::Sent, _) => return None,
            (Stage::Refused, Kind::Renew(_)) => {
                s.sites[at].memory.refused = true;
                let after = match rules::after_refused(s, at) {
                    AfterRefusal::Fence if !self.is(Mutant::RenewsWhateverItReads) => {
                        AfterRefusal::Fence
                    }
                    AfterRefusal::Fence | AfterRefusal::Renew => AfterRefusal::Renew,
                };
                match after {
                    AfterRefusal::Renew => {
                        self.read_back(s, at);
                        let electorate = s.p.electorate;
                        let memory = &mut s.sites[at].memory;
                        (memory.p_known, memory.l_known) = (true, true);
                        memory.electorate = electorate;
                    }
                    AfterRefusal::Fence => s.end(at),
                }
            }
            (Stage::Refused, Kind::Add(site)) => {
                if s.p.electorate & (1 << site) == 0 {
                    s.sites[at].memory.electorate &= !(1 << site);
                }
            }
            (Stage::Refused, _) => {}
            (Stage::Applied, Kind::Acquire | Kind::Take | Kind::Promote(..)) => {
                if may {
                    self.hold(s, &request, slot);
                }
            }
            (Stage::Applied, Kind::Renew(ttl)) => {
                s.sites[at].memory.l_known = s.l.writer == Some(index(slot));
                if may {
                    s.sites[at].memory.epoch = request.epoch;
                    let left = rules::granted(self.anchor(request.age), ttl);
                    self.renewed(s, at, left, ttl);
                }
            }
            (Stage::Applied, Kind::Add(site)) => {
                let memory = &mut s.sites[at].memory;
                memory.electorate |= 1 << site;
                memory.p_known = request.p_fresh;
            }
            (Stage::Applied, Kind::Lower) => {
                let memory = &mut s.sites[at].memory;
                (memory.p_known, memory.lowering) = (request.p_fresh, 0);
            }
            (Stage::Applied, Kind::Token(..)) => {}
        }
        s.requests[slot] = s.requests[slot].map(|request| Request { heard: false, ..request });
        if s.l.writer == Some(index(slot)) {
            s.l.writer = None;
        }
        Some(())
    }

    /// A renewal counts.
    fn renewed(&self, s: &mut State, at: usize, left: u8, ttl: u8) {
        s.sites[at].memory.lease = true;
        s.raise(at, left);
        let memory = &mut s.sites[at].memory;
        if memory.lowering == 1 && ttl < HIGH {
            memory.lowering = 2;
            if !self.is(Mutant::LoweringKeepsTheDeadline) {
                (memory.left, memory.acknowledged) = (left, left);
            }
        }
    }

    pub(super) fn read_back(&self, s: &mut State, at: usize) {
        let Some(slot) = s.l.writer.map(usize::from) else { return };
        let Some(applied) = s.requests[slot] else { return };
        let Kind::Renew(ttl) = applied.kind else { return };
        let memory = &s.sites[at].memory;
        if usize::from(applied.site) != at || !applied.live || applied.heard || !memory.lease {
            return;
        }
        let own = s.requests.iter().flatten().filter(|r| usize::from(r.site) == at && r.live);
        let latest = own.filter(|r| matches!(r.kind, Kind::Renew(_))).map(|r| r.age).min();
        let age = match latest {
            Some(latest) if self.is(Mutant::ReadBackWithTheLatestSend) => latest,
            Some(_) | None => applied.age,
        };
        if !applied.void || self.is(Mutant::MarkLetsEarlierRequestsRaise) {
            self.renewed(s, at, rules::granted(age, ttl), ttl);
        }
        s.sites[at].memory.l_known = true;
        s.l.writer = None;
    }
}
