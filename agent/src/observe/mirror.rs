//! A store prefix, kept in memory by a watch. Observes only: decisions compare revisions in their
//! transactions, so an old picture costs a conflict, never safety.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::{Entry, Event, Revision, Snapshot, Store, WatchError};
use regent_proto::time::BootTime;
use tokio::sync::watch;

use super::clock::boot_time;

/// What is known of the prefix.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// The keys.
    pub entries: BTreeMap<String, Entry>,
    /// The store's revision they are of.
    pub revision: Revision,
    /// When the store last answered; `None` before its first answer.
    pub answered: Option<BootTime>,
}

/// A running mirror. Dropping it ends its task.
#[derive(Debug)]
pub struct Mirror {
    pictures: watch::Receiver<Picture>,
    task: tokio::task::JoinHandle<()>,
}

/// How often the whole prefix is read again: proves that the store answers, and repairs a watch
/// that went silent.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Pause after the store did not answer.
const PAUSE: Duration = Duration::from_millis(250);

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mirror {
    /// Starts mirroring.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, prefix: String, timeout: Duration) -> Self {
        let (publish, pictures) = watch::channel(Picture::default());
        let task = tokio::spawn(async move {
            loop {
                match store.range(&prefix, timeout).await {
                    Ok(snapshot) => {
                        let revision = snapshot.revision;
                        publish.send_if_modified(|picture| replace(picture, snapshot));
                        follow(store.as_ref(), &prefix, revision, timeout, &publish).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "reading {prefix}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        Self { pictures, task }
    }

    /// The newest picture; changes wake.
    #[must_use]
    pub fn pictures(&self) -> watch::Receiver<Picture> {
        self.pictures.clone()
    }

    /// Waits, for a bounded time, until a write of our own is in the picture.
    pub async fn reach(&self, revision: Revision) {
        let mut pictures = self.pictures.clone();
        let reached = pictures.wait_for(|picture| picture.revision >= revision);
        drop(tokio::time::timeout(Duration::from_millis(250), reached).await);
    }
}

/// True when keys changed; an unchanged answer only moves the clock.
fn replace(picture: &mut Picture, snapshot: Snapshot) -> bool {
    let entries: BTreeMap<String, Entry> =
        snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let first = picture.answered.is_none();
    picture.answered = Some(boot_time());
    if snapshot.revision < picture.revision {
        return false;
    }
    let changed = entries != picture.entries;
    picture.entries = entries;
    picture.revision = snapshot.revision;
    changed || first
}

/// Follows changes until the watch ends or it is time to read again.
async fn follow(
    store: &dyn Store,
    prefix: &str,
    after: Revision,
    timeout: Duration,
    publish: &watch::Sender<Picture>,
) {
    let mut watch = match store.watch(prefix, after, timeout).await {
        Ok(watch) => watch,
        Err(error) => {
            tracing::debug!(%error, "watching {prefix}");
            return tokio::time::sleep(PAUSE).await;
        }
    };
    let mut again = tokio::time::interval(READ_AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once, and the prefix was just read.
    again.tick().await;
    loop {
        tokio::select! {
            _ = again.tick() => match store.range(prefix, timeout).await {
                Ok(snapshot) => {
                    publish.send_if_modified(|picture| replace(picture, snapshot));
                }
                Err(error) => return tracing::debug!(%error, "reading {prefix} again"),
            },
            events = watch.next() => match events {
                Ok(events) => publish.send_modify(|picture| apply(picture, events)),
                Err(WatchError::Compacted { .. }) => return,
                Err(WatchError::Failed(error)) => {
                    tracing::debug!(%error, "the watch of {prefix} ended");
                    return tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

fn apply(picture: &mut Picture, events: Vec<Event>) {
    picture.answered = Some(boot_time());
    for event in events {
        match event {
            Event::Put(entry) => {
                // A reading in between may already be newer than this event.
                let newer = picture
                    .entries
                    .get(&entry.key)
                    .is_none_or(|known| known.modified <= entry.modified);
                picture.revision = picture.revision.max(entry.modified);
                if newer {
                    picture.entries.insert(entry.key.clone(), entry);
                }
            }
            Event::Deleted { key, revision } => {
                picture.revision = picture.revision.max(revision);
                if picture.entries.get(&key).is_some_and(|known| known.modified <= revision) {
                    picture.entries.remove(&key);
                }
            }
        }
    }
}
