//! The loop of one federation: observe → decide → act, woken by the watch, by the session, and by
//! the instant that the last decision named.
//!
//! One task owns the records and the memory; everybody else sees what it publishes. After every
//! transaction, whatever came of it, the records are read again before the next decision: an
//! unknown outcome is never acted on.

use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{Event, Store, StoreError, TxnOutcome, Watch, WatchError};
use regent_proto::keys::GlobalKeys;
use regent_proto::name::FederationName;
use regent_proto::time::BootTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::act::{self, CALL_TIMEOUT};
use crate::decide::view::{Quorum, Session, View};
use crate::decide::write::Write;
use crate::decide::{self, Decision, Memory, Policy, Reason};
use crate::observe::clock::wall_time;
use crate::observe::{Records, Reported};

/// Without an event for this long the records are read again: a watch that hangs is not noticed
/// otherwise, and reports come at least twice as often.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// The first and the longest pause after the quorum failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Pauses after a transaction that was not applied, so that nothing goes round at full speed.
const PAUSE_CONFLICT: Duration = Duration::from_millis(10);
const PAUSE_NO_RESULT: Duration = Duration::from_millis(500);
/// Transactions in a row before events are looked at again.
const ROUNDS_MAX: usize = 32;

/// What the loop publishes after every look.
#[derive(Debug, Clone)]
pub struct Published {
    /// Whether the quorum has been asked at all.
    pub looked: bool,
    /// The records.
    pub view: View,
    /// The ages.
    pub memory: Memory,
    /// Why the last decision was what it was.
    pub reason: Reason,
}

/// One federation as the API sees it.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Its name.
    pub name: FederationName,
    /// Its keys.
    pub keys: GlobalKeys,
    /// Its quorum.
    pub store: Arc<dyn Store>,
    /// What the loop saw last.
    pub published: watch::Receiver<Arc<Published>>,
}

impl Handle {
    /// What the loop saw last; just after the start, what it sees first, at most `within`.
    pub async fn seen(&self, within: Duration) -> Arc<Published> {
        let mut published = self.published.clone();
        let first = published.wait_for(|published| published.looked);
        drop(tokio::time::timeout(within, first).await);
        self.published.borrow().clone()
    }
}

/// The loop's own state.
pub struct Loop {
    policy: Policy,
    clock: BootClock,
    keys: GlobalKeys,
    store: Arc<dyn Store>,
    sessions: watch::Receiver<Option<Session>>,
    records: Records,
    memory: Memory,
    quorum: Quorum,
    reason: Option<String>,
    reported: Reported,
    out: watch::Sender<Arc<Published>>,
}

/// How a transaction ended, as far as the loop cares: it reads the records again in any case.
enum Acted {
    Applied,
    Conflict,
    NoResult,
}

/// Why following the records ended.
enum Ended {
    Stopped,
    Failed(String),
}

/// A loop for one federation, and how to see what it sees.
#[must_use]
pub fn build(
    policy: Policy,
    name: FederationName,
    store: Arc<dyn Store>,
    clock: BootClock,
    sessions: watch::Receiver<Option<Session>>,
) -> (Loop, Handle) {
    let now = clock.now();
    let view = View::empty(name.clone(), now);
    let problem = "not read yet".to_owned();
    let first = Published {
        looked: false,
        reason: Reason::QuorumUnreachable { problem },
        memory: Memory::default(),
        view: view.clone(),
    };
    let (out, published) = watch::channel(Arc::new(first));
    let keys = GlobalKeys::new(&name);
    let handle = Handle { name: name.clone(), keys: keys.clone(), store: store.clone(), published };
    let records = Records::new(name);
    let quorum = view.quorum;
    let memory = Memory::default();
    let reported = Reported::default();
    let reason = None;
    let state = Loop {
        policy,
        clock,
        keys,
        store,
        sessions,
        records,
        memory,
        quorum,
        reason,
        reported,
        out,
    };
    (state, handle)
}

impl Loop {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE_MIN;
        while !stop.is_cancelled() {
            match self.follow(&stop, &mut pause).await {
                Ended::Stopped => return,
                Ended::Failed(problem) => self.lost(problem),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The quorum failed: say so, once.
    fn lost(&mut self, problem: String) {
        self.quorum = match &self.quorum {
            Quorum::Unreachable { since, .. } => Quorum::Unreachable { since: *since, problem },
            Quorum::Reachable => Quorum::Unreachable { since: self.clock.now(), problem },
        };
        let decision = self.look();
        self.memory = decision.memory;
    }

    /// Reads everything, then follows the watch until something fails.
    async fn follow(&mut self, stop: &CancellationToken, pause: &mut Duration) -> Ended {
        if let Err(error) = self.read().await {
            return Ended::Failed(error.to_string());
        }
        let opened =
            self.store.watch(self.keys.prefix(), self.records.revision(), CALL_TIMEOUT).await;
        let mut watch = match opened {
            Ok(watch) => watch,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        *pause = PAUSE_MIN;
        loop {
            let wake_at = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                wake = self.rounds() => match wake {
                    Ok(wake_at) => wake_at,
                    Err(error) => return Ended::Failed(error.to_string()),
                },
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                next = self.next(&mut *watch, wake_at) => if let Err(problem) = next {
                    return Ended::Failed(problem);
                },
            }
        }
    }

    /// Waits for something new, at most until `wake_at`.
    async fn next(
        &mut self,
        watch: &mut dyn Watch,
        wake_at: Option<BootTime>,
    ) -> Result<(), String> {
        let clock = self.clock.clone();
        let due = async {
            match wake_at {
                Some(at) => clock.reach(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.sessions.changed() => {
                changed.map_err(|_| "the session's task has ended".to_owned())?;
            }
            events = watch.next() => match events {
                Ok(events) => self.take(events),
                Err(error @ (WatchError::Compacted { .. } | WatchError::Failed(_))) => {
                    return Err(error.to_string());
                }
            },
            () = due => {}
            () = clock.sleep(QUIET_MAX) => {
                self.read().await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn take(&mut self, events: Vec<Event>) {
        self.records.apply(events, self.clock.now());
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let snapshot = self.store.range(self.keys.prefix(), CALL_TIMEOUT).await?;
        self.records.replace(snapshot, self.clock.now());
        self.quorum = Quorum::Reachable;
        Ok(())
    }

    /// Decides and acts until nothing is due.
    async fn rounds(&mut self) -> Result<Option<BootTime>, StoreError> {
        for _ in 0..ROUNDS_MAX {
            let decision = self.look();
            self.memory = decision.memory;
            let Some(write) = decision.actions.first() else { return Ok(decision.wake_at) };
            let acted = self.act(write).await;
            self.read().await?;
            match acted {
                Acted::Applied => {}
                // Somebody else was faster: what they wrote is read by now.
                Acted::Conflict => self.clock.sleep(PAUSE_CONFLICT).await,
                Acted::NoResult => return Ok(Some(self.clock.now().plus(PAUSE_NO_RESULT))),
            }
        }
        Ok(Some(self.clock.now().plus(PAUSE_NO_RESULT)))
    }

    async fn act(&self, write: &Write) -> Acted {
        let purpose = write.purpose;
        match act::perform(&*self.store, &self.keys, write).await {
            Ok(TxnOutcome::Applied { revision }) => {
                tracing::debug!(%purpose, %revision, "done");
                Acted::Applied
            }
            Ok(TxnOutcome::Conflict { .. }) => {
                tracing::debug!(%purpose, "the records have changed: reading them again");
                Acted::Conflict
            }
            Err(error) => {
                tracing::warn!(%purpose, %error, "the transaction gave no result");
                Acted::NoResult
            }
        }
    }

    /// One look: the view, the decision, what is said about it.
    fn look(&mut self) -> Decision {
        let session = self.sessions.borrow_and_update().clone();
        let view = self.records.view(self.clock.now(), wall_time(), self.quorum.clone(), session);
        let decision = decide::decide(&self.policy, &self.memory, &view);
        self.report_unreadable(&view);
        let reason = decision.reason.to_string();
        if self.reason.as_ref() != Some(&reason) {
            tracing::info!(federation = %view.federation, "{reason}");
            self.reason = Some(reason);
        }
        let (memory, reason) = (decision.memory.clone(), decision.reason.clone());
        self.out.send_replace(Arc::new(Published { looked: true, view, memory, reason }));
        decision
    }

    fn report_unreadable(&mut self, view: &View) {
        for bad in self.reported.news(view) {
            tracing::warn!(federation = %view.federation, key = bad.key, "{}", bad.problem);
        }
    }
}
