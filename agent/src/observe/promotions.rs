//! Looks in this server's own WAL for the ids of promotions that are not noted yet.
//!
//! Beside the round, never in it: no decision waits for `pg_waldump`. Until an id is found it is
//! unknown, which stops a standby from turning to somebody new and nothing else. A writer that has
//! not just been promoted by this process looks too, so that it gives no timeline a second name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::time::BootTime;
use regent_proto::timeline::{Ancestry, TimelineId};
use tokio::task::JoinSet;

use crate::act::postgres::programs::Programs;
use crate::act::postgres::promotions::{self, Found, WINDOW};

/// How soon WAL is looked through again; doubled each time.
const SOONEST: Duration = Duration::from_millis(250);
/// The longest pause between two looks.
const LATEST: Duration = Duration::from_secs(10);
/// A look begins this far before the end of the WAL that the look before saw: a record may have
/// arrived in part.
const OVERLAP: u64 = 1 << 20;

/// What was looked for, and how far.
#[derive(Debug, Clone, Copy)]
struct Look {
    again: BootTime,
    pause: Duration,
    /// Where the next one begins.
    from: Lsn,
    /// Whether the last one came to its end, without a find.
    complete: bool,
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
    timeline: TimelineId,
    found: Found,
    /// Where the next one begins.
    next: Lsn,
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

    fn note(&mut self, ancestry: &mut Ancestry, Ended { timeline, found, next }: Ended) {
        match found {
            Found::Promotion(promotion) => {
                ancestry.name(timeline, &promotion);
                if let Err(error) = promotions::note(&self.data_dir, timeline, &promotion) {
                    tracing::warn!(%error, "noting a promotion");
                }
            }
            Found::Nothing => {
                if let Some(look) = self.looks.get_mut(&timeline) {
                    (look.from, look.complete) = (next, true);
                }
            }
            Found::CutShort => {}
        }
    }

    fn look(&mut self, ancestry: &Ancestry, end: Lsn, server: Server, now: BootTime) {
        let present = ancestry.timeline;
        if server != Server::Stopped && !self.looks.contains_key(&present) {
            // A promotion has most likely just happened, and its name is being written.
            let (again, from) = (now.plus(SOONEST), ancestry.begin(present).unwrap_or_default());
            self.looks.insert(present, Look { again, pause: SOONEST, from, complete: false });
        }
        let due = ancestry.unnamed().into_iter().find_map(|timeline| {
            let begin = ancestry.begin(timeline)?;
            let Some(look) = self.looks.get(&timeline) else {
                return Some((timeline, begin, begin, SOONEST));
            };
            // A leader that came from elsewhere names its timeline late: the message comes with the
            // WAL that this server still receives.
            let wanted = !look.complete || (timeline == present && server != Server::Writes);
            let pause = (look.pause * 2).min(LATEST);
            (wanted && look.again <= now).then_some((timeline, begin, look.from, pause))
        });
        let Some((timeline, begin, from, pause)) = due else { return };
        let reaches = end.get().min(from.get() + WINDOW);
        let next = Lsn::new(reaches.saturating_sub(OVERLAP)).max(begin);
        // Behind by more than one look: the next one comes soon.
        let pause = if reaches < end.get() { SOONEST } else { pause };
        self.looks.insert(timeline, Look { again: now.plus(pause), pause, from, complete: false });
        let (programs, data_dir) = (self.programs.clone(), self.data_dir.clone());
        self.running.spawn(async move {
            let found = promotions::find(&programs, &data_dir, timeline, from).await;
            Ended { timeline, found, next }
        });
    }
}
