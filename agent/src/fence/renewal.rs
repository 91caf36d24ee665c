//! The renewal thread: keeps the site's lease and the primary lease, and raises their deadlines.
//!
//! It has its own runtime and its own connections to the stores. A deadline is raised only by an
//! acknowledged renewal and counts from the clock read *before* that request was sent; an unknown
//! outcome is read back and counts for the request whose id stands in the record (I7, I9;
//! protocol.md rules 1 to 3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{Change, Compare, LeaseId, Renewal, Revision, Store, StoreError, Txn, TxnOutcome};
use regent_guardian::page::Guard;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, RequestId, SiteName};
use regent_proto::record::{Lease, Primary, Record as _};
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use regent_proto::transactions;
use tokio::sync::{mpsc, oneshot, watch};

use super::Deadlines;
use super::release::{FENCE_AGAIN, Release};
use super::rounds::{QuorumRounds, Rounds, SiteRounds};
use super::watchdog;
use crate::act::global;
use crate::act::random::Ids;
use crate::act::site::Held as HeldKey;
use crate::decide::failsafe::site::Answer;
use crate::decide::renewal::{AfterRefusal, Holder, after_refusal, hangs};
use crate::decide::view::PrimaryTenure;

/// What the thread holds, for the rest of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenures {
    /// The store lease of this process in the site DCS.
    pub lease: Option<LeaseId>,
    /// The primary lease, also after its end (its revision is what a token compares).
    pub primary: Option<PrimaryTenure>,
}

/// A primary lease that a transaction has just given.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// The record as written.
    pub record: Lease,
    /// Its revision.
    pub lease_revision: Revision,
    /// Revision of `primary` that the next renewal compares.
    pub primary_revision: Revision,
    /// The clock before the request was sent.
    pub sent: BootTime,
    /// Timing under `primary.ttl_max`.
    pub timing: LeaseTiming,
    /// `primary.electorate` at the revision above.
    pub electorate: BTreeSet<SiteName>,
    /// `primary.span_max` at that revision.
    pub span_max: Duration,
}

#[derive(Debug)]
pub(super) enum SiteCommand {
    /// Renew now, under this timing.
    Renew(LeaseTiming),
    /// Give the leader key of this revision back.
    Release(Revision, oneshot::Sender<Release>),
}

#[derive(Debug)]
pub(super) enum PrimaryCommand {
    Adopt(Box<Adopted>, oneshot::Sender<()>),
    End(oneshot::Sender<Deadline>),
}

/// The loops of the thread.
#[derive(Debug)]
pub struct Loops {
    deadlines: Arc<Deadlines>,
    publish: watch::Sender<Tenures>,
    site_commands: mpsc::Receiver<SiteCommand>,
    primary_commands: mpsc::Receiver<PrimaryCommand>,
}

impl Loops {
    /// Renews until the last handle is gone.
    pub async fn run(self, site: SiteSide, global: Option<GlobalSide>) {
        let Self { deadlines, publish, site_commands, primary_commands } = self;
        let site_loop = SiteLoop::new(site, Arc::clone(&deadlines), publish.clone(), site_commands);
        match global {
            None => site_loop.run().await,
            Some(side) => {
                let primary_loop = PrimaryLoop::new(side, deadlines, publish);
                tokio::join!(site_loop.run(), primary_loop.run(primary_commands));
            }
        }
    }
}

/// Handle of the thread.
#[derive(Debug, Clone)]
pub struct RenewalThread {
    site: mpsc::Sender<SiteCommand>,
    primary: Option<mpsc::Sender<PrimaryCommand>>,
    tenures: watch::Receiver<Tenures>,
    deadlines: Arc<Deadlines>,
}

/// The site's store and leader key.
pub struct SiteSide {
    /// The store; a handle of its own.
    pub store: Arc<dyn Store>,
    /// The leader key.
    pub leader_key: String,
    /// This member.
    pub me: NodeName,
    /// Timing to begin with.
    pub timing: LeaseTiming,
    /// The clock that deadlines count by.
    pub clock: BootClock,
    /// Failsafe inside the site.
    pub failsafe: Option<SiteRounds>,
}

/// The global quorum.
pub struct GlobalSide {
    /// The store; a handle of its own.
    pub store: Arc<dyn Store>,
    /// The federation's keys.
    pub keys: GlobalKeys,
    /// This site.
    pub site: SiteName,
    /// The clock that deadlines count by.
    pub clock: BootClock,
    /// Where requests get their names.
    pub ids: Ids,
    /// Failsafe of the quorum, where it is on.
    pub failsafe: Option<QuorumRounds>,
}

/// Stores are opened inside the thread, so that their tasks live on its runtime.
pub type OpenSides = Box<
    dyn FnOnce() -> futures::future::BoxFuture<
            'static,
            anyhow::Result<(SiteSide, Option<GlobalSide>)>,
        > + Send,
>;

impl RenewalThread {
    /// A handle, and the loops that it commands, to be run by whoever has a runtime for them.
    #[must_use]
    pub fn wire(deadlines: Arc<Deadlines>, federated: bool) -> (Self, Loops) {
        let (site, site_commands) = mpsc::channel(8);
        let (primary, primary_commands) = mpsc::channel(8);
        let (publish, tenures) = watch::channel(Tenures::default());
        let shared = Arc::clone(&deadlines);
        let loops = Loops { deadlines: shared, publish, site_commands, primary_commands };
        (Self { site, primary: federated.then_some(primary), tenures, deadlines }, loops)
    }

    /// Starts the thread.
    pub fn start(
        open: OpenSides,
        deadlines: Arc<Deadlines>,
        federated: bool,
    ) -> anyhow::Result<Self> {
        let (handle, loops) = Self::wire(deadlines, federated);
        let (started, opened) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("renewal".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(anyhow::Error::from(error)))),
            };
            runtime.block_on(async move {
                let (site_side, global_side) = match open().await {
                    Ok(sides) => sides,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                loops.run(site_side, global_side).await;
            });
        })?;
        opened.recv()??;
        Ok(handle)
    }

    /// What it holds; changes wake.
    #[must_use]
    pub fn tenures(&self) -> watch::Receiver<Tenures> {
        self.tenures.clone()
    }

    /// The deadlines it raises.
    #[must_use]
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Renew the site's lease now, under this timing: the leader key was just acquired, or the
    /// dynamic configuration changed.
    pub async fn renew_site(&self, timing: LeaseTiming) {
        // A closed channel means the thread is gone; the deadlines then run out, which is the fence.
        drop(self.site.send(SiteCommand::Renew(timing)).await);
    }

    /// Gives the leader key back: the only way to it. From here on this process holds no right by
    /// that key, whatever comes of the request ([`super::release`]).
    pub async fn release(&self, held: HeldKey) -> Release {
        self.end_tenure().await;
        let (done, wait) = oneshot::channel();
        drop(self.site.send(SiteCommand::Release(held.revision(), done)).await);
        // A closed channel means the thread is gone; the deadline then runs out, which is the fence.
        wait.await.unwrap_or_else(|_| Release::Kept("the renewal thread has ended".to_owned()))
    }

    /// From now on renew this primary lease.
    pub async fn adopt(&self, adopted: Adopted) {
        let Some(primary) = &self.primary else { return };
        let (done, wait) = oneshot::channel();
        if primary.send(PrimaryCommand::Adopt(Box::new(adopted), done)).await.is_ok() {
            drop(wait.await);
        }
    }

    /// Ends the tenure: when this returns the primary deadline is 0 and no answer to an earlier
    /// request raises it again. Returns the deadline of before.
    pub async fn end_tenure(&self) -> Deadline {
        let Some(primary) = &self.primary else {
            self.deadlines.end_carried();
            return self.deadlines.site();
        };
        let (done, wait) = oneshot::channel();
        if primary.send(PrimaryCommand::End(done)).await.is_err() {
            return Deadline::NEVER;
        }
        wait.await.unwrap_or(Deadline::NEVER).earlier(self.deadlines.site())
    }
}

/// What ended the wait between two renewals.
pub(super) enum Woken<C> {
    /// It is time for the next one, or somebody is in a hurry for it.
    Due,
    Command(C),
    /// Nobody sends commands any more: the agent ends.
    Gone,
}

/// Whether a leader key's value is a member's name.
fn is_name(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<NodeName>().is_ok())
}

pub(super) struct SiteLoop {
    pub(super) side: SiteSide,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) publish: watch::Sender<Tenures>,
    pub(super) commands: mpsc::Receiver<SiteCommand>,
    pub(super) lease: Option<(LeaseId, Duration)>,
    /// The TTL that `lease` was asked for.
    pub(super) asked: Duration,
    /// A lease of another TTL, to which the key is on its way.
    pub(super) pending: Option<(LeaseId, BootTime, Duration)>,
    /// Revision of an unreadable leader key that was told.
    warned: Option<Revision>,
    /// Revision of the leader key that was given back, until it is seen to be gone.
    pub(super) given_back: Option<Revision>,
    /// The store gave no answer to the last request: not a refusal, and not an acknowledgement.
    pub(super) silent: bool,
    told_hanging: bool,
    pub(super) rounds: Rounds<BTreeMap<NodeName, Answer>>,
}

impl SiteLoop {
    fn new(
        side: SiteSide,
        deadlines: Arc<Deadlines>,
        publish: watch::Sender<Tenures>,
        commands: mpsc::Receiver<SiteCommand>,
    ) -> Self {
        let asked = side.timing.ttl;
        Self {
            side,
            deadlines,
            publish,
            commands,
            lease: None,
            asked,
            pending: None,
            warned: None,
            given_back: None,
            silent: false,
            told_hanging: false,
            rounds: Rounds::new(),
        }
    }

    async fn run(mut self) {
        loop {
            let sent = self.side.clock.now();
            let answered = self.renew().await;
            let every = match self.lease {
                _ if self.given_back.is_some() => FENCE_AGAIN,
                Some(_) => self.side.timing.next_renewal(answered),
                None => Duration::from_millis(200),
            };
            // The timer only paces renewals: one that comes late raises nothing.
            let due = sent.plus(every);
            match self.wait(due).await {
                Woken::Due => {}
                Woken::Command(SiteCommand::Renew(timing)) => self.side.timing = timing,
                Woken::Command(SiteCommand::Release(revision, done)) => {
                    done.send(self.release(revision).await).ok();
                }
                Woken::Gone => return self.give_back().await,
            }
        }
    }

    /// The agent ends: what the lease holds should not wait for its expiry. A leader key that was
    /// not given back does: something may still write by it (I12).
    async fn give_back(&mut self) {
        if self.deadlines.site() == Deadline::NEVER
            && self.deadlines.page().guard() == Guard::Off
            && let Some((lease, _)) = self.lease.take()
        {
            drop(self.side.store.revoke(lease, self.side.timing.call_timeout).await);
        }
    }

    /// Whether nobody is there any more to use the right: a leader that does not decide would keep
    /// everybody else from leading for as long as its store answers.
    fn loop_hangs(&mut self) -> bool {
        let hangs = hangs(self.deadlines.came_round(), self.side.clock.now(), self.side.timing.ttl);
        if hangs && !self.told_hanging {
            tracing::error!("the main loop hangs: the leader key is not renewed until it goes on");
        }
        self.told_hanging = hangs;
        hangs
    }

    /// One attempt; whether every question was answered.
    async fn renew(&mut self) -> bool {
        if self.loop_hangs() {
            return false;
        }
        if self.silent {
            // Beside the next try, not after it: its timeout would be taken from the round's time.
            self.begin_round();
        }
        let timeout = self.side.timing.call_timeout;
        let changes = self.pending.is_some() || self.asked != self.side.timing.ttl;
        if self.lease.is_some() && changes && self.given_back.is_none() {
            self.change_ttl(timeout).await;
            if self.pending.is_some() {
                // The key may hang on either lease: the old one's renewals raise nothing any more.
                return false;
            }
        }
        let sent = self.side.clock.now();
        let Some((id, _)) = self.lease else { return self.grant(sent, timeout).await };
        // Both at once: the key was bound to the lease, and the lease lived, at instants after
        // `sent`, in whichever order (ADR 2). So a renewal takes one round trip.
        let key = self.side.leader_key.clone();
        let (renewed, found) =
            tokio::join!(self.side.store.renew(id, timeout), self.side.store.get(&key, timeout));
        match renewed {
            Ok(Renewal::Renewed { ttl }) => {
                self.deadlines.measured().site_round_trip.note(self.side.clock.now().since(sent));
                self.raise((sent, ttl), found, timeout).await
            }
            Ok(Renewal::Lost) => {
                tracing::warn!("the site DCS no longer knows this node's lease");
                if !self.stands() {
                    self.lose();
                }
                self.set_lease(None);
                true
            }
            // Nothing is raised, nothing is lowered: the deadline decides (I9).
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "renewal of the site lease");
                false
            }
        }
    }

    async fn grant(&mut self, sent: BootTime, timeout: Duration) -> bool {
        // A new life begins with the TTL of its file, and a device may be armed for longer leases.
        let borne = watchdog::borne_ttl(self.deadlines.page(), &self.side.timing);
        self.asked = if self.borne() { borne } else { self.asked.max(borne) };
        match self.side.store.grant(self.asked, timeout).await {
            Ok(granted) => {
                // Before anybody can bind the key to it.
                let timing = LeaseTiming { ttl: granted.ttl, ..self.side.timing.clone() };
                self.deadlines.lower_carried(Deadline::granted(sent, &timing));
                self.set_lease(Some((granted.id, granted.ttl)));
                let found = self.side.store.get(&self.side.leader_key, timeout).await;
                self.raise((sent, granted.ttl), found, timeout).await
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "no lease in the site DCS yet");
                false
            }
        }
    }

    /// A lease that lives proves nothing about the key, which may have been deleted: the deadline is
    /// raised only when a reading sent no earlier than the renewal shows the key bound to it.
    async fn raise(
        &mut self,
        (sent, ttl): (BootTime, Duration),
        found: Result<Option<regent_dcs::Entry>, StoreError>,
        timeout: Duration,
    ) -> bool {
        let Some((id, _)) = self.lease else { return true };
        if let Ok(entry) = &found
            && self.is_given_back(entry.as_ref())
        {
            return matches!(self.let_go().await, Release::Gone(_));
        }
        match found {
            Ok(Some(entry)) if entry.lease == Some(id) => {
                if entry.value != self.side.me.as_str().as_bytes() {
                    self.mend(&entry, id, timeout).await;
                }
                let timing = LeaseTiming { ttl, ..self.side.timing.clone() };
                let before = self.deadlines.site();
                self.renewed(sent, Deadline::granted(sent, &timing));
                if before == Deadline::NEVER {
                    self.publish.send_modify(|_| {});
                }
            }
            // The key is ours, under the lease of before the outage: nobody else could take it yet.
            Ok(Some(entry)) if self.stands() && entry.value == self.side.me.as_str().as_bytes() => {
                self.mend(&entry, id, timeout).await;
            }
            // Not a member's name: nobody can take it over, so nobody opens. Not raised; D decides.
            Ok(Some(entry)) if !is_name(&entry.value) => {
                if self.warned != Some(entry.modified) {
                    self.warned = Some(entry.modified);
                    tracing::warn!(key = %entry.key, "the leader key was overwritten");
                }
            }
            Ok(None) if self.deadlines.site().lies_ahead(self.side.clock.now()) => {
                self.create_again(sent, ttl, id, timeout).await;
            }
            // Ours, under a lease of a former life, whose right lasts as long as that life knew.
            Ok(Some(entry)) if entry.value == self.side.me.as_str().as_bytes() => self.lose(),
            Ok(Some(_) | None) => {
                // Anybody may lead by now: it was deleted.
                self.deadlines.lower_carried(Deadline::NEVER);
                self.lose();
            }
            Err(error) => {
                self.note(&error);
                tracing::debug!(%error, "reading the leader key beside its renewal");
                return false;
            }
        }
        true
    }

    /// The key is bound to our lease but carries something else: written by hand. Ours to mend.
    async fn mend(&self, found: &regent_dcs::Entry, id: LeaseId, timeout: Duration) {
        tracing::warn!(key = %found.key, "the leader key did not carry this node's name; mended");
        let as_read = Compare::as_read(found.key.clone(), Some(found));
        let put = Change::put_leased(found.key.clone(), self.side.me.as_str(), id);
        if let Err(error) = self.side.store.txn(Txn::new().when(as_read).then(put), timeout).await {
            tracing::debug!(%error, "mending the leader key");
        }
    }

    /// The key was deleted under a living lease, by hand or by accident. Creating it again succeeds
    /// only while nobody else has it, as in Patroni's refresh.
    async fn create_again(
        &mut self,
        sent: BootTime,
        ttl: Duration,
        id: LeaseId,
        timeout: Duration,
    ) {
        let key = self.side.leader_key.clone();
        let put = Change::put_leased(key.clone(), self.side.me.as_str(), id);
        let txn = Txn::new().when(Compare::Absent { key }).then(put);
        match self.side.store.txn(txn, timeout).await {
            Ok(TxnOutcome::Applied { .. }) => {
                tracing::warn!("the leader key had been deleted; it was created again");
                let timing = LeaseTiming { ttl, ..self.side.timing.clone() };
                self.renewed(sent, Deadline::granted(sent, &timing));
            }
            Ok(TxnOutcome::Conflict { .. }) => self.lose(),
            Err(error) => tracing::debug!(%error, "creating the leader key again"),
        }
    }

    pub(super) fn set_lease(&mut self, lease: Option<(LeaseId, Duration)>) {
        self.lease = lease;
        self.publish.send_modify(|tenures| tenures.lease = lease.map(|(id, _)| id));
    }
}

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
    fn new(side: GlobalSide, deadlines: Arc<Deadlines>, publish: watch::Sender<Tenures>) -> Self {
        Self { side, deadlines, publish, held: None, rounds: Rounds::new() }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<PrimaryCommand>) {
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
        held.refused = true;
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
