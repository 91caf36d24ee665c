//! The primary lease in the global quorum: renewed by transactions that compare `primary`; the primary
//! deadline follows.
//!
//! An unknown outcome is read back and counts for the request whose id stands in the record (I9); what a
//! refusal means is judged in [`crate::decide::renewal`] (protocol.md rules 2 and 3). A quorum that does
//! not answer: [`super::promises`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{Revision, StoreError, TxnOutcome};
use regent_proto::name::{RequestId, SiteName};
use regent_proto::record::{Lease, Primary, Record as _};
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use regent_proto::transactions;
use tokio::sync::{mpsc, watch};

use super::Deadlines;
use super::renewal::{Adopted, GlobalSide, PrimaryCommand, Tenures, Woken};
use super::rounds::Rounds;
use crate::act::global;
use crate::decide::renewal::{AfterRefusal, Holder, after_refusal, hangs};
use crate::decide::view::PrimaryTenure;

/// How a record was found after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Absent,
    Unreadable,
    Read,
}

/// A held primary lease with its requests in flight.
pub(super) struct Held {
    pub(super) record: Lease,
    pub(super) lease_revision: Revision,
    pub(super) primary_revision: Revision,
    pub(super) deadline: Deadline,
    pub(super) timing: LeaseTiming,
    /// Requests whose outcome is unknown, by id, with the clock before their sending.
    pub(super) unknown: BTreeMap<RequestId, BootTime>,
    pub(super) ended: bool,
    /// `primary.electorate` and `primary.span_max` at the revision that renewals compare.
    pub(super) electorate: BTreeSet<SiteName>,
    pub(super) span_max: Duration,
    /// What acknowledged renewals alone give.
    pub(super) renewed: Deadline,
    /// A renewal was refused and none was acknowledged since: promises are void.
    pub(super) refused: bool,
    /// The quorum gave no answer to the last request.
    pub(super) silent: bool,
    /// Revisions of `primary` and `lease` whose unreadable content was told.
    pub(super) warned: Option<[Option<Revision>; 2]>,
}

pub(super) struct PrimaryLoop {
    pub(super) side: GlobalSide,
    pub(super) deadlines: Arc<Deadlines>,
    publish: watch::Sender<Tenures>,
    pub(super) held: Option<Held>,
    pub(super) rounds: Rounds<BTreeMap<SiteName, Option<Duration>>>,
}

impl PrimaryLoop {
    pub(super) fn new(
        side: GlobalSide,
        deadlines: Arc<Deadlines>,
        publish: watch::Sender<Tenures>,
    ) -> Self {
        Self { side, deadlines, publish, held: None, rounds: Rounds::new() }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<PrimaryCommand>) {
        let (mut sent, mut answered) = (self.side.clock.now(), true);
        loop {
            let due = match &self.held {
                Some(held) if !held.ended => sent.plus(held.timing.next_renewal(answered)),
                Some(_) | None => sent.plus(Duration::from_secs(3600)),
            };
            match self.wait(due, &mut commands).await {
                Woken::Command(PrimaryCommand::Adopt(adopted, done)) => {
                    self.adopt(*adopted);
                    done.send(()).ok();
                    continue;
                }
                Woken::Command(PrimaryCommand::End(done)) => {
                    done.send(self.end()).ok();
                    continue;
                }
                Woken::Gone => return,
                Woken::Due => {}
            }
            sent = self.side.clock.now();
            answered = self.renew().await;
        }
    }

    fn adopt(&mut self, adopted: Adopted) {
        self.rounds.void();
        let deadline = Deadline::granted(adopted.sent, &adopted.timing);
        self.held = Some(Held {
            record: adopted.record,
            lease_revision: adopted.lease_revision,
            primary_revision: adopted.primary_revision,
            deadline,
            timing: adopted.timing,
            unknown: BTreeMap::new(),
            ended: false,
            electorate: adopted.electorate,
            span_max: adopted.span_max,
            renewed: deadline,
            refused: false,
            silent: false,
            warned: None,
        });
        self.deadlines.set_primary(deadline);
        self.deadlines.lower_carried(deadline);
        self.deadlines.replace_carried(self.side.clock.now());
        self.deadlines.primary_acknowledged(adopted.sent);
        self.tell();
    }

    /// Commands are taken between requests, so none is in flight here; rounds are dropped.
    fn end(&mut self) -> Deadline {
        self.rounds.void();
        let before = self.deadlines.primary();
        if let Some(held) = &mut self.held {
            held.ended = true;
            held.deadline = Deadline::NEVER;
            held.unknown.clear();
        }
        self.deadlines.set_primary(Deadline::NEVER);
        self.deadlines.end_carried();
        self.tell();
        before
    }

    pub(super) fn tell(&self) {
        let primary = self.held.as_ref().map(|held| PrimaryTenure {
            tenure: held.record.tenure.clone(),
            epoch: held.record.epoch,
            deadline: held.deadline,
            lease_revision: held.lease_revision.0,
            by_promise: held.deadline > held.renewed,
        });
        self.publish.send_if_modified(|tenures| {
            let changed = tenures.primary != primary;
            tenures.primary = primary;
            changed
        });
    }

    /// One attempt; whether it was answered.
    async fn renew(&mut self) -> bool {
        // Whoever hurries may ask before there is a tenure: then there is none to end either, and what
        // a former life left stays the bound. Or after the end: a request of an ended tenure would be
        // applied while its mark stands, and raise what the mark has taken (rule 5).
        let Some(held) = self.held.as_ref().filter(|held| !held.ended) else { return true };
        if hangs(self.deadlines.came_round(), self.side.clock.now(), held.timing.ttl) {
            // The site's loop says so in the log.
            return false;
        }
        if self.deadlines.site() == Deadline::NEVER {
            // Losing the site key ends renewal (rule 2).
            self.end();
            return true;
        }
        if self.held.as_ref().is_some_and(|held| held.silent) {
            self.ask_for_promises();
        }
        let Some(held) = &mut self.held else { return true };
        let Some(request) = self.side.ids.request_id() else { return true };
        let revisions = (held.primary_revision.0, held.lease_revision.0);
        let transaction = transactions::renew(revisions, &held.record, request.clone());
        let txn = global::txn(&self.side.keys, &transaction);
        let sent = self.side.clock.now();
        match self.side.store.txn(txn, held.timing.call_timeout).await {
            Ok(TxnOutcome::Applied { revision }) => {
                if let Some(record) = transaction.lease {
                    held.record = record;
                }
                let took = self.side.clock.now().since(sent);
                self.deadlines.measured().primary_round_trip.note(took);
                self.raise(sent, revision);
            }
            Ok(TxnOutcome::Conflict { found }) => self.refused(&found),
            Err(error) => {
                tracing::debug!(%error, "renewal of the primary lease");
                let silent = !matches!(error, StoreError::Refused { .. });
                let first = silent && !held.silent;
                held.silent = silent;
                if first {
                    self.ask_for_promises();
                }
                let Some(held) = &mut self.held else { return false };
                if error.may_have_happened() {
                    held.unknown.insert(request, sent);
                    self.read_back().await;
                }
                return false;
            }
        }
        true
    }

    fn raise(&mut self, sent: BootTime, revision: Revision) {
        // Nobody need promise any more: whoever still did would bind its site for nothing.
        self.rounds.void();
        let Some(held) = &mut self.held else { return };
        held.lease_revision = revision;
        held.unknown.clear();
        held.refused = false;
        held.silent = false;
        held.renewed = held.renewed.raised(Deadline::granted(sent, &held.timing));
        held.deadline = held.deadline.raised(held.renewed);
        self.deadlines.set_primary(held.deadline);
        self.deadlines.replace_carried(self.side.clock.now());
        self.deadlines.primary_acknowledged(sent);
        self.tell();
    }

    /// Rule 3, from the records that the refused transaction read.
    fn refused(&mut self, found: &[Option<regent_dcs::Entry>]) {
        // Whatever was promised before is void (rule 11); what it has given so far stays the bound.
        self.rounds.void();
        let Some(held) = &mut self.held else { return };
        let first = !std::mem::replace(&mut held.refused, true);
        held.silent = false;
        let (primary_key, lease_key) = (self.side.keys.primary(), self.side.keys.lease());
        let primary = found.first().and_then(Option::as_ref);
        let lease = found.get(1).and_then(Option::as_ref);
        let primary_record = primary.and_then(|e| Primary::decode(&primary_key, &e.value).ok());
        let lease_record = lease.and_then(|e| Lease::decode(&lease_key, &e.value).ok());
        let holder = Holder {
            site: &self.side.site,
            epoch: held.record.epoch,
            tenure: &held.record.tenure,
            marked: held.ended,
        };
        let seen = |entry: Option<&regent_dcs::Entry>, readable: bool| match (entry, readable) {
            (None, _) => Found::Absent,
            (Some(_), false) => Found::Unreadable,
            (Some(_), true) => Found::Read,
        };
        let found = [seen(primary, primary_record.is_some()), seen(lease, lease_record.is_some())];
        if found.contains(&Found::Unreadable) && !found.contains(&Found::Absent) {
            // Nobody can decide on what nobody can read; nothing is raised, and D ends it (I9).
            let revisions = [primary, lease].map(|entry| entry.map(|entry| entry.modified));
            if held.warned != Some(revisions) {
                held.warned = Some(revisions);
                tracing::warn!(
                    primary = %primary_key, lease = %lease_key,
                    "the primary lease cannot be renewed: a record is unreadable"
                );
            }
            return;
        }
        match after_refusal(&holder, primary_record.as_ref(), lease_record.as_ref()) {
            AfterRefusal::Renew => {
                if let Some(record) = primary_record {
                    held.electorate = record.electorate;
                    held.span_max = record.span_max;
                }
                if first {
                    // Nobody's promise counts before the next acknowledgement: a whole interval without
                    // it would be one in which a silent quorum costs the lease. Not again and again.
                    self.deadlines.primary_hurry.notify_one();
                }
                if let (Some(primary), Some(lease), Some(record)) = (primary, lease, lease_record) {
                    held.primary_revision = primary.modified;
                    held.lease_revision = lease.modified;
                    let applied = held.unknown.get(&record.request).copied();
                    held.record.counter = record.counter;
                    if let Some(sent) = applied {
                        self.raise(sent, lease.modified);
                    }
                }
            }
            AfterRefusal::Fence => {
                tracing::warn!("the primary lease was refused: fencing");
                self.end();
            }
        }
    }

    async fn read_back(&mut self) {
        let Some(held) = &self.held else { return };
        let key = self.side.keys.lease();
        let Ok(Some(entry)) = self.side.store.get(&key, held.timing.call_timeout).await else {
            return;
        };
        let Ok(record) = Lease::decode(&key, &entry.value) else { return };
        if record.tenure != held.record.tenure {
            return;
        }
        if let Some(sent) = held.unknown.get(&record.request).copied() {
            if let Some(held) = &mut self.held {
                held.record = record;
            }
            self.raise(sent, entry.modified);
        }
    }
}
