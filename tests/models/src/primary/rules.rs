//! What the product's rules say of a state.

use regent_agent::decide::failsafe::quorum::Given;
use regent_agent::decide::preconditions::Precondition;
use regent_agent::decide::renewal::{AfterRefusal, Holder, PromiseUse, after_refusal};
use regent_proto::epoch::Epoch;
use regent_proto::promise::PromiseRequest;
use regent_proto::time::{Deadline, LeaseTiming};

use super::records::{self, P, PState};
use super::{Mutant, Primacy, State};
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
    let site = u8::try_from(at).unwrap_or(u8::MAX);
    let memory = &s.sites[at].memory;
    let holder = Holder {
        site: records::site(site),
        epoch: Epoch::new(u64::from(memory.epoch)),
        tenure: records::tenure(true),
        marked: s.sites[at].mark.is_some() || memory.marked,
    };
    let primary = s.p.record(s.histories.point(s.p.floor));
    let lease = records::lease(
        (s.p.holder, s.p.epoch),
        records::tenure(s.l.of == Some(site)),
        s.l.released,
    );
    after_refusal(&holder, Some(&primary), Some(&lease))
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

/// Whether a promise given, or read, so long ago forbids a promotion.
pub(super) fn promise_stands(s: &State, age: u8) -> bool {
    let request = PromiseRequest {
        site: records::site(s.p.holder).clone(),
        node: records::lease((s.p.holder, s.p.epoch), records::tenure(true), false).node,
        tenure: records::tenure(true).clone(),
        epoch: Epoch::new(u64::from(s.p.epoch)),
        span_ms: u64::from(SPAN) * 1000,
    };
    let mut given = Given::default();
    let stands = given.give(&request, ago(age)).is_ok();
    stands && given.until(NOW, None, request.epoch).is_some()
}

/// Whether a site's leader has what `primary` demands.
pub(super) fn contains_floor(s: &State, at: usize) -> bool {
    let site = &s.sites[at];
    s.histories.contains(site.wal[usize::from(site.leader)], s.p.floor)
}

/// Whether the gate lets it open. Its knowledge of `primary` is that of its own acknowledged
/// transaction; the floor it tests is the present one.
pub(super) fn may_open(model: &Primacy, s: &State, at: usize) -> bool {
    let site = &s.sites[at];
    let own = u8::try_from(at).unwrap_or(u8::MAX);
    let memory = &site.memory;
    let wal = site.wal[usize::from(site.leader)];
    let known = P { holder: own, epoch: memory.epoch, state: PState::Open, ..s.p };
    let deadline = |left: u8| match left {
        0 => Deadline::NEVER,
        left => Deadline::at(NOW.plus(ticks(left))),
    };
    let epoch = |epoch: u8| Some((Epoch::new(u64::from(epoch)), records::site(own).clone()));
    let facts = Facts {
        leader_key: true,
        site: deadline(1),
        guardian: true,
        watchdog: None,
        in_recovery: !site.open,
        history: (
            s.histories.ancestry(wal.history),
            regent_proto::lsn::Lsn::new(u64::from(wal.end)),
        ),
        federation: Some(Quorum {
            site: records::site(own).clone(),
            primary: memory.lease.then(|| known.record(s.histories.point(known.floor))),
            marked: site.mark.is_some(),
            lease: memory
                .lease
                .then(|| (Epoch::new(u64::from(memory.epoch)), deadline(memory.left))),
            on_disk: epoch(site.seen),
            in_site: epoch(site.seen),
        }),
    };
    gate::unmet(&facts).into_iter().all(|unmet| match unmet {
        Precondition::EpochOnDisk | Precondition::EpochInSite => {
            model.is(Mutant::EpochNotPersisted)
        }
        Precondition::Floor => {
            model.is(Mutant::OpeningWithoutTheFloor) || model.is(Mutant::TakeWithoutWalAndFloor)
        }
        Precondition::NoMark => model.is(Mutant::TokenComparesNoLeaseAndTheMarkDoesNotBar),
        Precondition::QuorumRead | Precondition::PrimaryLease => {
            model.is(Mutant::OpeningBeforeTheReading)
        }
        _ => false,
    })
}
