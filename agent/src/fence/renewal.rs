//! The renewal thread: keeps the site's lease and the primary lease, and raises their deadlines.
//!
//! It has its own runtime and its own connections to the stores. Here is what the rest of the agent
//! knows of it; the loops are `super::site_lease` and `super::primary_lease`. A deadline is raised
//! only by an acknowledged renewal and counts from the clock read *before* that request was sent (I7;
//! protocol.md rules 1 to 3).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{LeaseId, Revision, Store};
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::Lease;
use regent_proto::time::{BootTime, Deadline, LeaseTiming};
use tokio::sync::{mpsc, oneshot, watch};

use super::Deadlines;
use super::primary_lease::PrimaryLoop;
use super::release::Release;
use super::rounds::{QuorumRounds, SiteRounds};
use super::site_lease::SiteLoop;
use crate::act::random::Ids;
use crate::act::site::Held as HeldKey;
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
