//! The two streams. Each is driven by its reader: nothing runs, and nothing is queued, for a
//! client that has gone or does not read. Their number is bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use regent_proto::record::Operation;
use regent_proto::wire as pb;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Api, wire};
use crate::federation::{Handle, Published};
use crate::observe::clock::wall_time;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A picture comes at least this often: its ages, also those in its sentences, are as of its making.
const PICTURE_EVERY: Duration = Duration::from_secs(2);

struct Follower {
    published: watch::Receiver<Arc<Published>>,
    stop: CancellationToken,
    first: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits for the next published view, at most `at_most`; `false` when this coordinator stops.
    async fn next(&mut self, at_most: Duration) -> bool {
        if std::mem::take(&mut self.first) {
            self.published.mark_unchanged();
            return !self.stop.is_cancelled();
        }
        tokio::select! {
            () = self.stop.cancelled() => false,
            changed = self.published.changed() => changed.is_ok(),
            () = tokio::time::sleep(at_most) => true,
        }
    }
}

impl Api {
    fn follower(&self, handle: &Handle) -> Result<Follower, Status> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{} streams are open already; close some or ask another coordinator",
                super::STREAMS_MAX
            ))
        })?;
        let (published, stop) = (handle.published.clone(), self.stop.clone());
        Ok(Follower { published, stop, first: true, _permit: permit })
    }

    pub(super) fn watch_view(&self, handle: &Handle) -> Result<Answers<pb::Federation>, Status> {
        let (api, follower) = (self.clone(), self.follower(handle)?);
        Ok(Box::pin(stream::unfold(follower, move |mut follower| {
            let api = api.clone();
            async move {
                if !follower.next(PICTURE_EVERY).await {
                    return None;
                }
                let mut view = follower.published.borrow().view.clone();
                view.now = api.clock.now();
                view.wall = wall_time();
                Some((Ok(wire::federation(&api.policy, &view)), follower))
            }
        })))
    }

    /// The operation at every change, until it has an outcome.
    pub(super) fn watch_one(
        &self,
        handle: &Handle,
        operation: Operation,
    ) -> Result<Answers<pb::Operation>, Status> {
        let follower = self.follower(handle)?;
        let id = operation.id.clone();
        let state = Some((follower, None::<Operation>, operation));
        Ok(Box::pin(stream::unfold(state, move |state| {
            let id = id.clone();
            async move {
                let (mut follower, mut sent, fallback) = state?;
                loop {
                    if !follower.next(PICTURE_EVERY).await {
                        return None;
                    }
                    // The view of a coordinator that is behind does not have it yet.
                    let seen = follower.published.borrow().view.operation(&id).cloned();
                    let now = seen.map_or_else(|| fallback.clone(), |seen| seen.value);
                    if sent.as_ref() == Some(&now) {
                        continue;
                    }
                    let answer = Ok(wire::operation(&now));
                    let ended = now.outcome.is_some();
                    sent = Some(now);
                    let next = if ended { None } else { Some((follower, sent, fallback)) };
                    return Some((answer, next));
                }
            }
        })))
    }
}
