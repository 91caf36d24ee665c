//! Watching etcd: a task that pumps one stream and keeps asking whether its member still lives.
//!
//! A frozen member leaves its streams open and silent. So whenever nothing came for a while the
//! task asks the member something else; no answer, or one without a leader, ends the watch. The
//! caller then reads again and watches anew, on the next member.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Error, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::classify::explain;
use super::convert;
use super::members::{Effect, Members, probe, watches};
use crate::{Event, Revision, StoreError, Watch, WatchError};

/// A stream that was silent for this long has its member asked.
const SILENCE: Duration = Duration::from_secs(1);
/// And the member has this long to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers that may wait for a slow reader; beyond that etcd waits.
const QUEUE: usize = 16;

pub(super) struct EtcdWatch {
    batches: mpsc::Receiver<Result<Vec<Event>, WatchError>>,
    pump: JoinHandle<()>,
}

impl EtcdWatch {
    pub(super) async fn open(
        members: &Members,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Self, WatchError> {
        let action = format!("watch {prefix} after {after}");
        // From `after` on, not from the next revision: then etcd says "compacted" in every case in
        // which an event after it is gone. (Compacting at a revision drops a deletion made at just
        // that revision, and a watch that starts there would miss it silently.) What was delivered
        // before is filtered out. Revision 1 is the empty store; 0 would mean "from now on".
        let start = after.max(Revision(1));
        let (client, stream) = members
            .repeatable(&action, timeout, Effect::None, |client| async move {
                let options =
                    WatchOptions::new().with_prefix().with_start_revision(convert::signed(start));
                let mut stream = watches(&client).watch(prefix, Some(options)).await?;
                match stream.message().await? {
                    Some(created) if created.created() => Ok((client, (created, stream))),
                    _ => Err(Error::WatchError("the watch was not created".to_owned())),
                }
            })
            .await
            .map_err(WatchError::Failed)?;
        let (created, stream) = stream;
        let store = members.name().to_owned();
        let (sender, batches) = mpsc::channel(QUEUE);
        let mut pump = Pump { store, action, after, client, stream, sender };
        if created.canceled() {
            return Err(pump.canceled(&created));
        }
        let pump = tokio::spawn(async move { pump.run().await });
        Ok(Self { batches, pump })
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        match self.batches.recv().await {
            Some(batch) => batch,
            // The pump's last word was an error, and it has been told.
            None => Err(WatchError::Failed(StoreError::NotDone {
                store: "etcd".to_owned(),
                action: "watch".to_owned(),
                problem: "the watch has ended already".to_owned(),
            })),
        }
    }
}

struct Pump {
    store: String,
    action: String,
    after: Revision,
    client: Client,
    stream: WatchStream,
    sender: mpsc::Sender<Result<Vec<Event>, WatchError>>,
}

impl Pump {
    async fn run(&mut self) {
        loop {
            let batch = match self.message().await {
                Ok(message) if message.canceled() => Err(self.canceled(&message)),
                Ok(message) => Ok(self.events(&message)),
                Err(problem) => Err(self.failed(problem)),
            };
            let last = batch.is_err();
            if matches!(&batch, Ok(events) if events.is_empty()) {
                continue;
            }
            if self.sender.send(batch).await.is_err() || last {
                return;
            }
        }
    }

    /// The next message, or why there won't be one.
    async fn message(&mut self) -> Result<WatchResponse, String> {
        loop {
            let alive = async {
                tokio::time::sleep(SILENCE).await;
                match tokio::time::timeout(PROBE_TIMEOUT, probe(self.client.clone())).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(explain(&error)),
                    Err(_) => Err(format!("the member did not answer within {PROBE_TIMEOUT:?}")),
                }
            };
            tokio::select! {
                biased;
                message = self.stream.message() => return match message {
                    Ok(Some(message)) => Ok(message),
                    Ok(None) => Err("the member closed the stream".to_owned()),
                    Err(error) => Err(explain(&error)),
                },
                alive = alive => alive?,
            }
        }
    }

    fn events(&mut self, message: &WatchResponse) -> Vec<Event> {
        let after = self.after;
        let events = message.events().iter().filter_map(convert::event);
        let news: Vec<_> = events.filter(|(revision, _)| *revision > after).collect();
        if let Some((revision, _)) = news.last() {
            self.after = *revision;
        }
        news.into_iter().map(|(_, event)| event).collect()
    }

    fn canceled(&self, message: &WatchResponse) -> WatchError {
        match convert::revision(message.compact_revision()) {
            Revision(0) => self.failed(format!("canceled: {}", message.cancel_reason())),
            oldest => WatchError::Compacted { oldest },
        }
    }

    fn failed(&self, problem: String) -> WatchError {
        let (store, action) = (self.store.clone(), self.action.clone());
        WatchError::Failed(StoreError::NotDone { store, action, problem })
    }
}
