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
}

impl Search {
    /// In this data directory.
    #[must_use]
    pub fn new(programs: Programs, data_dir: &Path) -> Self {
        let (running, looks) = (JoinSet::new(), BTreeMap::new());
        Self { programs, data_dir: data_dir.to_owned(), running, looks }
    }

    /// The data directory may be another one: what was looked through says nothing any more.
    pub fn forget(&mut self) {
        self.running = JoinSet::new();
        self.looks.clear();
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
            self.look(ancestry, end, server, now);
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

    fn look(&mut self, ancestry: &Ancestry, end: Lsn, server: Server, now: BootTime) {
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
        let due = ancestry.unnamed().into_iter().find_map(|timeline| {
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
            (wanted && there && look.again <= now).then(|| (look, place(end)))
        });
        let Some((look, place)) = due else { return };
        // Behind by more than one look: the next one comes soon.
        let all = place.end.is_none_or(|end| end.get() <= look.from.get() + WINDOW);
        let pause = if all { (look.pause * 2).min(LATEST) } else { SOONEST };
        let look = Look { again: now.plus(pause), pause, complete: false, ..look };
        self.looks.insert(place.timeline, look);
        let (programs, data_dir) = (self.programs.clone(), self.data_dir.clone());
        self.running.spawn(async move {
            Ended { place, found: promotions::find(&programs, &data_dir, place).await }
        });
    }
}
