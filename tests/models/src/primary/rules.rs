//! What the product's rules say of a state.

use regent_agent::decide::failsafe::quorum::{self, Given};
use regent_agent::decide::preconditions::Precondition;
use regent_agent::decide::renewal::{AfterRefusal, Holder, PromiseUse, after_refusal};
use regent_proto::epoch::Epoch;
use regent_proto::lsn::Lsn;
use regent_proto::promise::PromiseRequest;
use regent_proto::time::{Deadline, LeaseTiming};

use super::records::{self, Histories, P, PState, Point};
use super::{Memory, Mutant, Primacy, State};
use crate::asked::{Asked, once};
use crate::clock::{NOW, ago, ticks};
use crate::gate::{self, Facts, Quorum};

/// The TTL, and the one before it is lowered.
pub(super) const LOW: u8 = 2;
/// The higher one.
pub(super) const HIGH: u8 = 4;
/// The span of a promise.
pub(super) const SPAN: u8 = 4;

pub(super) fn timing(ttl: u8) -> LeaseTiming {
    LeaseTiming {
        ttl: ticks(ttl),
        renew_every: ticks(1) / 4,
        call_timeout: ticks(1) / 4,
        stop_budget: ticks(1) / 2,
        kill_budget: ticks(1) / 4,
    }
}

/// Ticks until the deadline that a request sent `age` ago gives; 0: it does not lie ahead.
pub(super) fn granted(age: u8, ttl: u8) -> u8 {
    let deadline = Deadline::granted(ago(age), &timing(ttl));
    let ahead = (0..=ttl).take_while(|later| deadline.lies_ahead(NOW.plus(ticks(*later))));
    u8::try_from(ahead.count()).unwrap_or(0)
}

/// Whether a wait that began so long ago is over.
pub(super) fn waited(age: u8, ttl_max: u8) -> bool {
    NOW.since(ago(age)) >= timing(ttl_max).wait()
}

/// Rule 3, for the leader of a site whose renewal was refused.
pub(super) fn after_refused(s: &State, at: usize) -> AfterRefusal {
    thread_local! {
        static KNOWN: Asked<(P, Histories, [u8; 2], [bool; 3]), AfterRefusal> = Asked::default();
    }
    let site = u8::try_from(at).unwrap_or(u8::MAX);
    let epoch = s.sites[at].memory.epoch;
    let marked = s.sites[at].mark.is_some() || s.sites[at].memory.marked;
    let (own, released) = (s.l.of == Some(site), s.l.released);
    once(&KNOWN, (s.p, s.histories, [site, epoch], [marked, own, released]), || {
        let holder = Holder {
            site: records::site(site),
            epoch: Epoch::new(u64::from(epoch)),
            tenure: records::tenure(true),
            marked,
        };
        let primary = s.p.record(s.histories.point(s.p.floor));
        let tenure = records::tenure(own);
        let lease = records::lease((s.p.holder, s.p.epoch), tenure, released);
        after_refusal(&holder, Some(&primary), Some(&lease))
    })
}

/// Whether the site's leader may ask for promises, and live by them (rule 11).
pub(super) fn may_use_promises(s: &State, at: usize) -> bool {
    let site = &s.sites[at];
    let using = PromiseUse {
        ended: site.mark.is_some() || site.memory.marked || !site.memory.lease,
        refused: site.memory.refused,
        open: site.open,
        ahead: site.memory.left > 0,
    };
    using.allowed()
}

/// Whether a site's leader may promise what another site's asks for: as far as it knows that one
/// holds an open primacy, or has read that it is fenced for itself (rule 11).
pub(super) fn may_promise(s: &State, at: usize, asker: usize) -> bool {
    thread_local! {
        static KNOWN: Asked<(P, Histories, [u8; 2]), bool> = Asked::default();
    }
    let [own, to] = [at, asker].map(|site| u8::try_from(site).unwrap_or(u8::MAX));
    let (seen, epoch) = (s.sites[at].seen, s.sites[asker].memory.epoch);
    let fenced = s.sites[at].memory.fenced_for.is_some();
    let state = if fenced { PState::Fenced(own) } else { PState::Open };
    let known = P { holder: to, epoch, state, ..s.p };
    once(&KNOWN, (known, s.histories, [own, seen]), || {
        let seen = Some((Epoch::new(u64::from(seen)), records::site(own).clone()));
        let facts = Facts {
            leader_key: true,
            site: Deadline::at(NOW.plus(ticks(1))),
            guardian: true,
            watchdog: None,
            in_recovery: true,
            history: (gate::first_history(), Lsn::new(0)),
            federation: Some(Quorum {
                site: records::site(own).clone(),
                primary: Some(known.record(s.histories.point(known.floor))),
                marked: false,
                lease: None,
                on_disk: seen.clone(),
                in_site: seen,
            }),
        };
        gate::may_promise(&facts, &promise_request(to, epoch))
    })
}

/// The span that a round gives, when these sites promised; `None`: somebody did not who must.
pub(super) fn complete(electorate: u8, asker: usize, who: u8) -> Option<u8> {
    thread_local! {
        static KNOWN: Asked<(u8, usize, u8), Option<u8>> = Asked::default();
    }
    once(&KNOWN, (electorate, asker, who), || {
        let sites = |bits: u8| (0..3_u8).filter(move |at| bits & (1 << at) != 0);
        let own = records::site(u8::try_from(asker).unwrap_or(u8::MAX));
        let electorate = sites(electorate).map(|at| records::site(at).clone()).collect();
        let answers = sites(who).map(|at| (records::site(at).clone(), Some(ticks(SPAN)))).collect();
        let span = quorum::complete(&electorate, own, ticks(SPAN), &answers)?;
        u8::try_from(span.as_secs()).ok()
    })
}

fn promise_request(holder: u8, epoch: u8) -> PromiseRequest {
    let tenure = records::tenure(true);
    PromiseRequest {
        site: records::site(holder).clone(),
        node: records::lease((holder, epoch), tenure, false).node,
        tenure: tenure.clone(),
        epoch: Epoch::new(u64::from(epoch)),
        span_ms: u64::from(SPAN) * 1000,
    }
}

/// Whether a promise given, or read, so long ago forbids a promotion.
pub(super) fn promise_stands(s: &State, age: u8) -> bool {
    thread_local! {
        static KNOWN: Asked<[u8; 3], bool> = Asked::default();
    }
    let P { holder, epoch, .. } = s.p;
    once(&KNOWN, [holder, epoch, age], || {
        let request = promise_request(holder, epoch);
        let mut given = Given::default();
        let stands = given.give(&request, ago(age)).is_ok();
        stands && given.until(NOW, None, request.epoch).is_some()
    })
}

/// Whether a site's leader has what `primary` demands.
pub(super) fn contains_floor(s: &State, at: usize) -> bool {
    let site = &s.sites[at];
    s.histories.contains(site.wal[usize::from(site.leader)], s.p.floor)
}

/// What the gate is asked with: `primary` as it is known, histories, WAL, and what else is a number
/// or a fact.
type Opening = (P, Histories, Point, [u8; 4], [bool; 3]);

/// Whether the gate lets it open. Its knowledge of `primary` is that of its own acknowledged
/// transaction; the floor it tests is the present one.
pub(super) fn may_open(model: &Primacy, s: &State, at: usize) -> bool {
    thread_local! {
        static KNOWN: Asked<Opening, Stands> = Asked::default();
    }
    let site = &s.sites[at];
    let own = u8::try_from(at).unwrap_or(u8::MAX);
    let Memory { epoch, left, lease, .. } = site.memory;
    let wal = site.wal[usize::from(site.leader)];
    let known = P { holder: own, epoch, state: PState::Open, ..s.p };
    let (seen, marked, open) = (site.seen, site.mark.is_some(), site.open);
    let question = (known, s.histories, wal, [own, epoch, left, seen], [lease, marked, open]);
    let stands = once(&KNOWN, question, || {
        let deadline = |left: u8| match left {
            0 => Deadline::NEVER,
            left => Deadline::at(NOW.plus(ticks(left))),
        };
        let seen = Some((Epoch::new(u64::from(seen)), records::site(own).clone()));
        let facts = Facts {
            leader_key: true,
            site: deadline(1),
            guardian: true,
            watchdog: None,
            in_recovery: !open,
            history: (s.histories.ancestry(wal.history), Lsn::new(u64::from(wal.end))),
            federation: Some(Quorum {
                site: records::site(own).clone(),
                primary: lease.then(|| known.record(s.histories.point(known.floor))),
                marked,
                lease: lease.then(|| (Epoch::new(u64::from(epoch)), deadline(left))),
                on_disk: seen.clone(),
                in_site: seen,
            }),
        };
        gate::unmet(&facts).into_iter().fold(Stands::default(), Stands::and)
    });
    stands.allowed(model)
}

/// What stands against opening, of what a mutant may leave out.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent condition")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stands {
    epoch: bool,
    floor: bool,
    mark: bool,
    reading: bool,
    anything_else: bool,
}

impl Stands {
    fn and(self, unmet: Precondition) -> Self {
        match unmet {
            Precondition::EpochOnDisk | Precondition::EpochInSite => Self { epoch: true, ..self },
            Precondition::Floor => Self { floor: true, ..self },
            Precondition::NoMark => Self { mark: true, ..self },
            Precondition::QuorumRead | Precondition::PrimaryLease => Self { reading: true, ..self },
            _ => Self { anything_else: true, ..self },
        }
    }

    fn allowed(self, model: &Primacy) -> bool {
        let left_out = |mutants: &[Mutant]| mutants.iter().any(|mutant| model.is(*mutant));
        let floor = [Mutant::OpeningWithoutTheFloor, Mutant::TakeWithoutWalAndFloor];
        (!self.epoch || left_out(&[Mutant::EpochNotPersisted]))
            && (!self.floor || left_out(&floor))
            && (!self.mark || left_out(&[Mutant::TokenComparesNoLeaseAndTheMarkDoesNotBar]))
            && (!self.reading || left_out(&[Mutant::OpeningBeforeTheReading]))
            && !self.anything_else
    }
}
