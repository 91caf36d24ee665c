//! Watching: reading the change log from where one left off, woken by the bell.

use std::time::Duration;

use async_trait::async_trait;
use regent_proto::time::BootTime;
use rusqlite::{Transaction, params};
use tokio::sync::watch;

use super::database::{Books, entry_of_row, key, revision, signed};
use super::{SqliteStore, bell};
use crate::limits::prefix_end;
use crate::{Event, Revision, StoreError, Watch, WatchError};

/// Looks even if the bell stayed silent: for a writer that died between COMMIT and the bell.
pub(super) const RECHECK: Duration = Duration::from_secs(1);
/// The same where no bell can be had (inotify's limits): still no news is lost, only later.
const RECHECK_WITHOUT_BELL: Duration = Duration::from_millis(20);
/// One look at the log. It only takes long when due leases can't be ended because others hold the
/// write lock.
const LOOK: Duration = Duration::from_secs(5);
/// Events of one answer; a revision is never split, so it may be a few more.
const BATCH: usize = 256;

/// The revision of an empty store: nothing happened up to here.
const FIRST: Revision = Revision(1);

/// A watch on the embedded store.
pub(super) struct SqliteWatch {
    store: SqliteStore,
    prefix: String,
    /// All up to here is delivered, or in `ready`.
    after: Revision,
    ready: Vec<Event>,
    rung: Option<watch::Receiver<()>>,
    /// When the log has to be looked at although nobody rang: leases end silently.
    next_expiry: Option<BootTime>,
    /// Whether the last look left something behind, or was dropped.
    more: bool,
}

impl SqliteWatch {
    pub(super) async fn open(
        store: SqliteStore,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Self, WatchError> {
        let rung = store.shared.subscribe();
        let mut watch = Self {
            store,
            prefix: prefix.to_owned(),
            after,
            ready: Vec::new(),
            rung,
            next_expiry: None,
            more: false,
        };
        watch.look(timeout).await?;
        Ok(watch)
    }

    /// Reads what is new.
    async fn look(&mut self, timeout: Duration) -> Result<(), WatchError> {
        // A look that is dropped half-way has to be made again.
        self.more = true;
        // Before reading: a ring from here on means another look.
        if let Some(rung) = &mut self.rung {
            rung.mark_unchanged();
        }
        let (prefix, after) = (self.prefix.clone(), self.after);
        let action = format!("watch {prefix} after {after}");
        let news = self
            .store
            .read(action, timeout, move |database, permit| {
                database.read_log(permit, |log, books| read_log(log, books, &prefix, after))
            })
            .await
            .map_err(|error: StoreError| WatchError::Failed(error))?;
        match news {
            News::Compacted { oldest } => Err(WatchError::Compacted { oldest }),
            News::Changes { events, upto, more, next_expiry } => {
                self.ready = events;
                self.after = upto;
                self.more = more;
                self.next_expiry = next_expiry;
                Ok(())
            }
        }
    }

    /// Waits until the bell has rung, and leaves it so.
    #[cfg(test)]
    pub(super) async fn has_rung(&mut self) {
        let rung = self.rung.as_mut().unwrap();
        rung.changed().await.unwrap();
        rung.mark_changed();
    }

    async fn wait_for_a_reason_to_look(&mut self) {
        if self.more {
            return;
        }
        let clock = self.store.shared.clock.clone();
        let next_expiry = self.next_expiry;
        let expiry = async move {
            match next_expiry {
                Some(at) => clock.reach(at).await,
                None => std::future::pending().await,
            }
        };
        let Some(rung) = &mut self.rung else {
            tokio::select! {
                () = expiry => {}
                () = tokio::time::sleep(RECHECK_WITHOUT_BELL) => {}
            }
            return;
        };
        let silenced = tokio::select! {
            changed = rung.changed() => changed.is_err(),
            () = expiry => false,
            () = tokio::time::sleep(RECHECK) => false,
        };
        if silenced {
            self.rung = None;
        }
    }
}

#[async_trait]
impl Watch for SqliteWatch {
    async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        while self.ready.is_empty() {
            self.wait_for_a_reason_to_look().await;
            self.look(LOOK).await?;
        }
        Ok(std::mem::take(&mut self.ready))
    }
}

impl super::Shared {
    /// Listens to the bell, from the first watch on.
    fn subscribe(&self) -> Option<watch::Receiver<()>> {
        let listen = || match bell::Bell::listen(&self.bell_path) {
            Ok(bell) => Some(bell),
            Err(error) => {
                tracing::warn!(
                    store = %self.name, %error,
                    "no inotify for the store's bell; watchers look every {RECHECK_WITHOUT_BELL:?}",
                );
                None
            }
        };
        self.bell.get_or_init(listen).as_ref().map(bell::Bell::subscribe)
    }
}

enum News {
    Compacted { oldest: Revision },
    Changes { events: Vec<Event>, upto: Revision, more: bool, next_expiry: Option<BootTime> },
}

fn read_log(
    log: &Transaction<'_>,
    books: &Books,
    prefix: &str,
    after: Revision,
) -> rusqlite::Result<News> {
    // Ahead of the store can only be who knew another one: what it knows is not of this store.
    let after = after.max(FIRST);
    if after < books.compacted || after > books.revision {
        return Ok(News::Compacted { oldest: books.compacted.min(books.revision) });
    }
    let mut statement = log.prepare_cached(
        "SELECT key, value, created, revision, lease FROM change
         WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, key",
    )?;
    let end = prefix_end(prefix);
    let mut rows = statement.query(params![signed(after.0), prefix.as_bytes(), end])?;
    let mut events = Vec::new();
    let mut upto = after;
    while let Some(row) = rows.next()? {
        let at = revision(row, 3)?;
        if events.len() >= BATCH && at != upto {
            return Ok(News::Changes { events, upto, more: true, next_expiry: books.next_expiry });
        }
        upto = at;
        let deleted = row.get_ref(1)?.data_type() == rusqlite::types::Type::Null;
        events.push(if deleted {
            Event::Deleted { key: key(row, 0)?, revision: at }
        } else {
            Event::Put(entry_of_row(row)?)
        });
    }
    // Up to the store's revision, not to the last event: a quiet prefix must not be overtaken by
    // compaction.
    let next_expiry = books.next_expiry;
    Ok(News::Changes { events, upto: books.revision, more: false, next_expiry })
}
