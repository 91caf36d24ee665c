//! Failsafe rounds: questions to others that run beside the renewals, never in their way.
//!
//! A round counts from the clock read before any of its questions was sent. Voiding drops every
//! round that runs: nothing that was asked before raises anything afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use regent_proto::name::{NodeName, SiteName, Tenure};
use regent_proto::time::BootTime;
use tokio::sync::{oneshot, watch};

use crate::decide::failsafe::site::{Answer, Leader, Members};
use regent_proto::promise::PromiseRequest;

/// Rounds that run at most: a lost packet of one must not end them all, and no answer must not
/// pile them up.
const MOST: usize = 6;

/// Lets a question run beside the renewals: a task of the thread's runtime, or of a simulated process.
pub type Spawn = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// On the runtime of whoever calls.
#[must_use]
pub fn on_this_runtime() -> Spawn {
    Arc::new(|question| drop(tokio::spawn(question)))
}

/// Asks these members and waits no longer than the span.
pub type AskMembers =
    Arc<dyn Fn(Members, Duration) -> BoxFuture<'static, BTreeMap<NodeName, Answer>> + Send + Sync>;

/// Asks the leaders of these sites, by the addresses of their nodes, and waits no longer than the
/// span. `None`: no promise.
pub type AskSites = Arc<
    dyn Fn(
            PromiseRequest,
            BTreeMap<SiteName, BTreeSet<String>>,
            Duration,
        ) -> BoxFuture<'static, BTreeMap<SiteName, Option<Duration>>>
        + Send
        + Sync,
>;

/// Failsafe inside the site, as the renewal thread needs it.
#[derive(Clone)]
pub struct SiteRounds {
    /// What is known of it, shared with whoever writes the `failsafe` record.
    pub leader: SharedLeader,
    /// How members are asked.
    pub ask: AskMembers,
    /// Beside the renewals.
    pub spawn: Spawn,
}

/// Failsafe of the quorum, as the renewal thread needs it.
#[derive(Clone)]
pub struct QuorumRounds {
    /// Whom to ask where.
    pub targets: watch::Receiver<Targets>,
    /// How they are asked.
    pub ask: AskSites,
    /// Beside the renewals.
    pub spawn: Spawn,
}

/// Where the other sites answer, as their reports last said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    /// The tenure under which this node's PostgreSQL was seen open; a promise opens nothing.
    pub open: Option<Tenure>,
    /// Addresses of each site's nodes.
    pub urls: BTreeMap<SiteName, BTreeSet<String>>,
}

/// [`Leader`] between the threads. Held for an instant, never across a wait.
#[derive(Debug, Clone, Default)]
pub struct SharedLeader(Arc<Mutex<Leader>>);

impl SharedLeader {
    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, Leader> {
        // Plain data: a panic elsewhere leaves it as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round that ended.
pub(super) struct Finished<A> {
    /// The clock before its first question was sent.
    pub(super) sent: BootTime,
    /// What came back.
    pub(super) answers: A,
}

/// The rounds that run.
pub(super) struct Rounds<A> {
    running: FuturesUnordered<oneshot::Receiver<Finished<A>>>,
}

impl<A: Send + 'static> Rounds<A> {
    pub(super) fn new() -> Self {
        Self { running: FuturesUnordered::new() }
    }

    /// Begins one, unless too many run; the clock was read before.
    pub(super) fn begin(
        &mut self,
        sent: BootTime,
        spawn: &Spawn,
        ask: impl FnOnce() -> BoxFuture<'static, A>,
    ) {
        if self.running.len() >= MOST {
            return;
        }
        let asked = ask();
        let (mut done, ended) = oneshot::channel();
        self.running.push(ended);
        spawn(Box::pin(async move {
            tokio::select! {
                biased;
                () = done.closed() => {}
                answers = asked => drop(done.send(Finished { sent, answers })),
            }
        }));
    }

    /// Drops all of them, also those that have ended and were not looked at.
    pub(super) fn void(&mut self) {
        self.running = FuturesUnordered::new();
    }

    /// The next one that ends; never, while none runs.
    pub(super) async fn next(&mut self) -> Finished<A> {
        loop {
            match self.running.next().await {
                Some(Ok(finished)) => return finished,
                // A question that panicked is an answer that is missing.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
