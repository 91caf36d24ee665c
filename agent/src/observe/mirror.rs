//! A store prefix, kept in memory by a watch. Observes only: decisions compare revisions in their
//! transactions, so an old picture costs a conflict, never safety.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{Entry, Event, Revision, Snapshot, Store, WatchError};
use regent_proto::time::BootTime;
use tokio::sync::watch;

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
    pub fn start(
        store: Arc<dyn Store>,
        prefix: String,
        timeout: Duration,
        clock: BootClock,
    ) -> Self {
        let (publish, pictures) = watch::channel(Picture::default());
        let task = tokio::spawn(keep(store, prefix, timeout, clock, publish));
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

/// Mirrors for ever.
pub async fn keep(
    store: Arc<dyn Store>,
    prefix: String,
    timeout: Duration,
    clock: BootClock,
    publish: watch::Sender<Picture>,
) {
    loop {
        match store.range(&prefix, timeout).await {
            Ok(snapshot) => {
                let revision = snapshot.revision;
                publish.send_if_modified(|picture| replace(picture, snapshot, clock.now()));
                follow(store.as_ref(), &prefix, revision, timeout, (&clock, &publish)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "reading {prefix}");
                clock.sleep(PAUSE).await;
            }
        }
    }
}

/// True when keys changed; an unchanged answer only moves the clock.
fn replace(picture: &mut Picture, snapshot: Snapshot, now: BootTime) -> bool {
    let first = picture.answered.is_none();
    picture.answered = Some(now);
    if snapshot.revision < picture.revision {
        return false;
    }
    picture.revision = snapshot.revision;
    // Both are in the order of their keys.
    if picture.entries.values().eq(&snapshot.entries) {
        return first;
    }
    picture.entries =
        snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    true
}

/// Follows changes until the watch ends or it is time to read again.
async fn follow(
    store: &dyn Store,
    prefix: &str,
    after: Revision,
    timeout: Duration,
    (clock, publish): (&BootClock, &watch::Sender<Picture>),
) {
    let mut watch = match store.watch(prefix, after, timeout).await {
        Ok(watch) => watch,
        Err(error) => {
            tracing::debug!(%error, "watching {prefix}");
            return clock.sleep(PAUSE).await;
        }
    };
    let mut again = clock.now().plus(READ_AGAIN);
    loop {
        tokio::select! {
            // In this order: events without end must not put the reading off.
            biased;
            () = clock.reach(again) => match store.range(prefix, timeout).await {
                Ok(snapshot) => {
                    again = clock.now().plus(READ_AGAIN);
                    publish.send_if_modified(|picture| replace(picture, snapshot, clock.now()));
                }
                Err(error) => return tracing::debug!(%error, "reading {prefix} again"),
            },
            events = watch.next() => match events {
                Ok(events) => publish.send_modify(|picture| apply(picture, events, clock.now())),
                Err(WatchError::Compacted { .. }) => return,
                Err(WatchError::Failed(error)) => {
                    tracing::debug!(%error, "the watch of {prefix} ended");
                    return clock.sleep(PAUSE).await;
                }
            },
        }
    }
}

fn apply(picture: &mut Picture, events: Vec<Event>, now: BootTime) {
    picture.answered = Some(now);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str, modified: u64) -> Entry {
        let modified = Revision(modified);
        let value = value.to_owned().into();
        Entry { key: "/k".to_owned(), value, created: modified, modified, lease: None }
    }

    /// hazards.md rows 16 and 18: whoever answers late or from the past, the picture does not go back.
    #[test]
    fn no_reading_and_no_event_brings_an_older_state_back() {
        let now = BootTime::from_nanos(7);
        let reading = |value: &str, revision: u64| Snapshot {
            revision: Revision(revision),
            entries: vec![entry(value, revision)],
        };
        let mut picture = Picture::default();
        assert!(replace(&mut picture, reading("new", 9), now));
        assert!(!replace(&mut picture, reading("old", 5), now), "a change is told");
        assert!(!replace(&mut picture, Snapshot::default(), now), "nothing was there yet");
        let gone =
            |revision: u64| Event::Deleted { key: "/k".to_owned(), revision: Revision(revision) };
        apply(&mut picture, vec![Event::Put(entry("old", 5)), gone(6)], now);
        assert_eq!(picture.entries["/k"].value, b"new"[..]);
        assert_eq!((picture.revision, picture.answered), (Revision(9), Some(now)));
        apply(&mut picture, vec![gone(10)], now);
        assert!(picture.entries.is_empty(), "and what is newer counts");
    }
}
