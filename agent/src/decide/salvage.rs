//! What of a data directory has to outlive its rewind, or the copy that takes its place (I15; hazards.md
//! section 4, fact 24): WAL that its upstream may never have had. It may be all that is left of rows
//! that clients were promised.

use regent_proto::lsn::Lsn;
use regent_proto::timeline::{Ancestry, Following, TimelineId};

use super::Job;
use super::rejoin::{self, Told};
use super::upstream::{self, Upstream};
use super::view::{Control, ControlState, DataDirectory, Follow, View};

/// What has to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All WAL from the last point on that both histories go through.
    Since {
        /// The timeline that it lies on.
        timeline: TimelineId,
        /// Where.
        position: Lsn,
    },
    /// All WAL that is there: it is not known where the histories part.
    Everything,
}

/// What is kept, and of which server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// What.
    pub keep: Keep,
    /// Its pg_control, for people.
    pub control: Control,
}

/// What a job must not begin without. `None`: there is nothing that its upstream would not have, as
/// after every planned move (hazards.md row 73).
#[must_use]
pub fn before(job: &Job, view: &View) -> Option<Salvage> {
    let source = match job {
        Job::Clone(source) | Job::Rewind(source) => source,
        Job::Initdb
        | Job::StartStandby(_)
        | Job::StartPrimary { .. }
        | Job::Stop
        | Job::StopToRestart
        | Job::PrePromote
        | Job::CopySlots { .. }
        | Job::Checkpoint
        | Job::CreateUsers => return None,
    };
    let DataDirectory::Cluster(control) = &view.postgres.data else { return None };
    let upstream = match source {
        Follow::Nobody => None,
        Follow::Member { .. } => {
            let unnamed = matches!(upstream::of(view), Upstream::Remote(_));
            let told = view.site.as_ref().and_then(|site| site.ancestry.as_ref());
            told.map(|told| Told { unnamed, ..Told::recorded(told) })
        }
        Follow::Site { site, .. } => {
            let federation = view.federation.as_ref();
            let told = federation.and_then(|federation| rejoin::site_history(federation, site));
            told.map(Told::recorded)
        }
        Follow::Remote { .. } => {
            let found = view.remote.as_ref().and_then(|remote| remote.found.as_ref());
            found.map(|found| Told { unnamed: true, ..Told::recorded(&found.ancestry) })
        }
    };
    // A server that runs knows better where its WAL ends.
    let runs = view.postgres.status.as_ref().map(|status| (&status.ancestry, status.end));
    let keep = keep(control, runs, upstream)?;
    Some(Salvage { keep, control: control.clone() })
}

fn keep(
    control: &Control,
    runs: Option<(&Ancestry, Lsn)>,
    upstream: Option<Told<'_>>,
) -> Option<Keep> {
    let Some(upstream) = upstream else { return Some(Keep::Everything) };
    // Elsewhere pg_control does not tell where WAL really ends.
    let exact = runs.or_else(|| {
        (control.state == ControlState::ShutDown).then_some((&control.ancestry, control.end))
    });
    let wrote = runs.is_none();
    let streams = |(mine, end)| upstream.followed_by(mine, end, wrote) == Following::Streams;
    if exact.is_some_and(streams) {
        return None;
    }
    let mine = runs.map_or(&control.ancestry, |(mine, _)| mine);
    Some(match upstream.parting_from(mine) {
        Some((timeline, Some(position))) => Keep::Since { timeline, position },
        // Both are on it still: what it wrote up to there is part of both.
        Some((timeline, None)) => Keep::Since { timeline, position: control.end },
        None => Keep::Everything,
    })
}
