//! Following a prefix the way every user of a watch has to: from a revision on, watching anew from
//! where one was when a watch fails, reading again when the changes in between are compacted.

use std::sync::Arc;

use super::context::Context;
use super::{Failure, ensure};
use crate::{Event, Revision, Store, Watch, WatchError};

pub(super) struct Follower<'a> {
    context: &'a Context<'a>,
    store: Arc<dyn Store>,
    prefix: String,
    watch: Option<Box<dyn Watch>>,
    /// Where to watch on from.
    after: Revision,
    /// What came, in order.
    pub(super) events: Vec<Event>,
    /// Whether changes were lost to compaction, which only a disturbance may do.
    pub(super) gap: bool,
}

impl<'a> Follower<'a> {
    pub(super) async fn open(
        context: &'a Context<'a>,
        store: Arc<dyn Store>,
        prefix: &str,
        after: Revision,
    ) -> Result<Self, Failure> {
        let mut follower = Self {
            context,
            store,
            prefix: prefix.to_owned(),
            watch: None,
            after,
            events: Vec::new(),
            gap: false,
        };
        follower.reopen().await?;
        Ok(follower)
    }

    async fn reopen(&mut self) -> Result<(), Failure> {
        let give_up = self.context.now().plus(self.context.expect().patience);
        loop {
            let timeout = self.context.expect().timeout;
            match self.store.watch(&self.prefix, self.after, timeout).await {
                Ok(watch) => {
                    self.watch = Some(watch);
                    return Ok(());
                }
                Err(error) => self.excuse(error).await?,
            }
            ensure(self.context.now() < give_up, || "no watch could be opened".to_owned())?;
        }
    }

    /// Accepts the end of a watch where disturbance explains it.
    async fn excuse(&mut self, error: WatchError) -> Result<(), Failure> {
        if !self.context.expect().disturbed {
            return Err(error.into());
        }
        if let WatchError::Compacted { .. } = error {
            let snapshot = self.context.range(self.store.as_ref(), &self.prefix).await?;
            // What was put before the gap is still to be seen; what was deleted is not.
            let missed = snapshot.entries.into_iter().filter(|e| e.modified > self.after);
            self.events.extend(missed.map(Event::Put));
            self.after = snapshot.revision;
            self.gap = true;
        }
        Ok(())
    }

    /// Takes in events until `enough` says so, or the context's patience is at its end.
    pub(super) async fn until(
        &mut self,
        what: &str,
        mut enough: impl FnMut(&[Event]) -> bool,
    ) -> Result<(), Failure> {
        let give_up = self.context.now().plus(self.context.expect().patience);
        while !enough(&self.events) {
            let left = give_up.since(self.context.now());
            let Ok(more) = tokio::time::timeout(left, self.take_in()).await else {
                return Err(Failure(format!("waiting for {what}, saw only {:?}", self.events)));
            };
            more?;
        }
        Ok(())
    }

    async fn take_in(&mut self) -> Result<(), Failure> {
        let Some(watch) = &mut self.watch else { return self.reopen().await };
        match watch.next().await {
            Ok(events) => {
                ensure(!events.is_empty(), || "a watch woke up without events".to_owned())?;
                for event in events {
                    self.check(&event)?;
                    self.after = event.revision();
                    self.events.push(event);
                }
                Ok(())
            }
            Err(error) => {
                self.watch = None;
                self.excuse(error).await
            }
        }
    }

    /// Order, and no repetition: every event is later than the one before, or of the same revision
    /// and another key.
    fn check(&self, event: &Event) -> Result<(), Failure> {
        let at = event.revision();
        ensure(event.key().starts_with(&self.prefix), || {
            format!("{event:?} in a watch of {}", self.prefix)
        })?;
        let earlier = self.events.iter().rev().take_while(|e| e.revision() >= at);
        let mut wrong = earlier.filter(|e| e.revision() > at || e.key() == event.key());
        // A snapshot is in the order of keys.
        match wrong.next() {
            Some(wrong) if !self.gap => Err(Failure(format!("{event:?} came after {wrong:?}"))),
            _ => Ok(()),
        }
    }
}
