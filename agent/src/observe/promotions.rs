//! Looks in this server's own WAL for the ids of promotions that are not noted yet.
//!
//! Beside the round, never in it: no decision waits for `pg_waldump`. Until an id is found it is
//! unknown, which stops a standby from turning to somebody new and nothing else. A look that did not
//! come to its end moves nothing on: what it has not read is read again. A writer looks as well, and
//! names its timeline only where all of its WAL was read without a find.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::time::BootTime;
use regent_proto::timeline::{Ancestry, TimelineId};
use tokio::task::JoinSet;

use crate::act::postgres::programs::Programs;
use crate::act::postgres::promotions::{self, Found, Place, WINDOW};

/// How soon WAL is looked through again; doubled each time.
const SOONEST: Duration = Duration::from_millis(250);
/// The longest pause between two looks.
const LATEST: Duration = Duration::from_secs(10);
/// How soon it is seen that a look has ended.
const ENDED_AGAIN: Duration = Duration::from_millis(100);
/// Cut short as often in a row, a look is told: the WAL cannot be read, or not where it should be.
const TOLD_AFTER: u32 = 5;

/// What was looked for, and how far.
#[derive(Debug, Clone, Copy)]
struct Look {
    again: BootTime,
    pause: Duration,
    /// Where the next one begins: everything before was read, or is gone.
    from: Lsn,
    /// Whether the last one came to its end, without a find.
    complete: bool,
    /// How often in a row it did not come to its end.
    cut_short: u32,
}

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It does not run.
    Stopped,
    /// It is in recovery.
    Recovers,
    /// It writes.
    Writes,
}

/// A look that has ended.
struct Ended {
    place: Place,
    found: Found,
}

/// The search; at most one program runs.
pub struct Search {
    programs: Programs,
    data_dir: PathBuf,
    running: JoinSet<Ended>,
    looks: BTreeMap<TimelineId, Look>,
    /// When to go on; `None`: there is nothing to look for.
    again: Option<BootTime>,
}

impl Search {
    /// In this data directory.
    #[must_use]
    pub fn new(programs: Programs, data_dir: &Path) -> Self {
        let (running, looks) = (JoinSet::new(), BTreeMap::new());
        Self { programs, data_dir: data_dir.to_owned(), running, looks, again: None }
    }

    /// When to go on, should nothing else come before: neither a look's end nor the time for the next one
    /// wakes anybody.
    #[must_use]
    pub fn looks_again(&self) -> Option<BootTime> {
        self.again
    }

    /// The data directory may be another one: what was looked through says nothing any more.
    pub fn forget(&mut self) {
        self.running = JoinSet::new();
        self.looks.clear();
        self.again = None;
    }

    /// A round begins, which may not come to go on.
    pub fn rest(&mut self) {
        self.again = None;
    }

    /// Adds what has been found, and begins to look for what is missing. `end`: of the WAL that is
    /// there. Whether the present timeline's id was looked for where it began, and is not there.
    pub fn go_on(
        &mut self,
        ancestry: &mut Ancestry,
        end: Lsn,
        server: Server,
        now: BootTime,
    ) -> bool {
        while let Some(ended) = self.running.try_join_next() {
            if let Ok(ended) = ended {
                self.note(ancestry, ended);
            }
        }
        if self.running.is_empty() {
            self.again = self.look(ancestry, end, server, now);
        }
        if !self.running.is_empty() {
            self.again = Some(now.plus(ENDED_AGAIN));
        }
        let present = self.looks.get(&ancestry.timeline);
        ancestry.promotion.is_none() && present.is_some_and(|look| look.complete)
    }

    fn note(&mut self, ancestry: &mut Ancestry, Ended { place, found }: Ended) {
        let timeline = place.timeline;
        let Some(look) = self.looks.get_mut(&timeline) else { return };
        match found {
            Found::Promotion(promotion) => {
                ancestry.name(timeline, &promotion);
                if let Err(error) = promotions::note(&self.data_dir, timeline, &promotion) {
                    tracing::warn!(%error, "noting a promotion");
                }
            }
            Found::Nothing { next, all } => {
                (look.from, look.complete, look.cut_short) = (next, all, 0);
            }
            Found::GoneUpTo(oldest) => look.from = oldest,
            Found::CutShort(why) => {
                look.cut_short = look.cut_short.saturating_add(1);
                let wanted = timeline == ancestry.timeline && place.end.is_some();
                if wanted && look.cut_short == TOLD_AFTER {
                    tracing::warn!(%timeline, from = %look.from, why, "looking for a promotion's id");
                }
            }
        }
    }

    /// Begins the next look that is due; when one that is not due yet will be.
    fn look(
        &mut self,
        ancestry: &Ancestry,
        end: Lsn,
        server: Server,
        now: BootTime,
    ) -> Option<BootTime> {
        let present = ancestry.timeline;
        let first = Look {
            again: now,
            pause: SOONEST,
            from: Lsn::default(),
            complete: false,
            cut_short: 0,
        };
        if server != Server::Stopped && !self.looks.contains_key(&present) {
            // A promotion has most likely just happened, and its name is being written.
            self.looks.insert(present, Look { again: now.plus(SOONEST), ..first });
        }
        // What pg_control says of a stopped server's end may be long ago.
        let known_end = (server != Server::Stopped).then_some(end);
        let wanted = ancestry.unnamed().into_iter().filter_map(|timeline| {
            let begin = ancestry.begin(timeline)?;
            let look = self.looks.get(&timeline).copied().unwrap_or(first);
            let look = Look { from: look.from.max(begin), ..look };
            let place = |end| Place { timeline, begin, from: look.from, end };
            // A timeline that was left ends there, and what is behind is not its own.
            let end = ancestry.left(timeline).flatten().map_or(known_end, Some);
            let there = end.is_none_or(|end| look.from < end);
            // A leader that came from elsewhere names its timeline late: the message comes with the
            // WAL that this server still receives.
            let wanted = !look.complete || (timeline == present && server != Server::Writes);
            (wanted && there).then(|| (look, place(end)))
        });
        let mut wanted: Vec<(Look, Place)> = wanted.collect();
        let Some(due) = wanted.iter().position(|(look, _)| look.again <= now) else {
            return wanted.iter().map(|(look, _)| look.again).min();
        };
        let (look, place) = wanted.swap_remove(due);
        // Behind by more than one look: the next one comes soon.
        let all = place.end.is_none_or(|end| end.get() <= look.from.get() + WINDOW);
        let pause = if all { (look.pause * 2).min(LATEST) } else { SOONEST };
        let look = Look { again: now.plus(pause), pause, complete: false, ..look };
        self.looks.insert(place.timeline, look);
        let (programs, data_dir) = (self.programs.clone(), self.data_dir.clone());
        self.running.spawn(async move {
            Ended { place, found: promotions::find(&programs, &data_dir, place).await }
        });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::world::history;

    #[tokio::test]
    async fn a_missing_id_is_looked_for_again_though_nothing_wakes_the_loop() {
        let at = |millis: u64| BootTime::from_nanos(millis * 1_000_000);
        let dir = tempfile::tempdir().expect("a directory");
        let mut search = Search::new(Programs::new(dir.path()), dir.path());
        let end = Lsn::new(500);
        let mut named = history(3);
        assert!(!search.go_on(&mut named, end, Server::Writes, at(1_000)));
        assert_eq!(search.looks_again(), None, "there is nothing to look for");
        let mut unnamed = Ancestry { promotion: None, ..history(4) };
        search.go_on(&mut unnamed, end, Server::Writes, at(2_000));
        assert_eq!(search.looks_again(), Some(at(2_250)), "it is being written");
        search.go_on(&mut unnamed, end, Server::Writes, at(2_250));
        assert_eq!(search.looks_again(), Some(at(2_350)), "a look runs");
        // A round that does not come to it expects nothing of it: it would not sleep at all.
        search.rest();
        assert_eq!(search.looks_again(), None);
        search.running.join_next().await.expect("a look").expect("no panic");
        search.go_on(&mut unnamed, end, Server::Writes, at(2_300));
        assert_eq!(search.looks_again(), Some(at(2_750)), "twice as long after it began");
        search.forget();
        assert_eq!(search.looks_again(), None);
    }
}
