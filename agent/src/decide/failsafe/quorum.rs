//! Failsafe between sites (protocol.md rule 11): the primary site's lease holder that lost the
//! quorum asks the leader of every other site of the electorate for a promise; a site that gave one
//! takes nothing before it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use regent_proto::epoch::Epoch;
use regent_proto::name::{NodeName, SiteName, Tenure};
use regent_proto::promise::PromiseRequest;
use regent_proto::record::{Primary, PrimaryState};
use regent_proto::time::BootTime;

use crate::decide::view::{DiskEpoch, PromiseRecord, View};

/// Why no promise is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The site DCS was not read yet.
    NoPicture,
    /// Another node of this site answers for it.
    NotLeader,
    /// The request says it comes from this very site.
    OwnSite,
    /// `primary` is not known here.
    PrimaryUnknown,
    /// A newer epoch than the asker's was seen.
    NewerEpoch(Epoch),
    /// Another site holds primacy in the asker's own epoch.
    OtherHolder(SiteName),
    /// `primary` is fenced, or a token stands: the asker has no tenure to go on with.
    State(&'static str),
    /// A take or promotion of this site's is not resolved.
    UnresolvedTake,
    /// An earlier promise, or the epoch of this site, cannot be read.
    Unreadable(&'static str),
    /// The span asked for exceeds `primary.span_max`.
    Span {
        /// Asked for.
        asked: Duration,
        /// At most.
        most: Duration,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPicture => f.write_str("the site DCS was not read yet"),
            Self::NotLeader => f.write_str("this node does not lead its site"),
            Self::OwnSite => f.write_str("a site does not promise anything to itself"),
            Self::PrimaryUnknown => f.write_str("`primary` is not known here"),
            Self::NewerEpoch(epoch) => write!(f, "epoch {epoch} was seen here"),
            Self::OtherHolder(site) => write!(f, "{site} holds primacy in that epoch"),
            Self::State(state) => write!(f, "`primary` is {state}"),
            Self::UnresolvedTake => f.write_str("a take of this site is not resolved"),
            Self::Unreadable(what) => write!(f, "`{what}` of this site cannot be read"),
            Self::Span { asked, most } => {
                write!(f, "the span {asked:?} exceeds primary.span_max {most:?}")
            }
        }
    }
}

/// Whether this site's leader may promise what is asked, as far as its records tell.
pub fn may_promise(view: &View, me: &NodeName, request: &PromiseRequest) -> Result<(), Refusal> {
    let site = view.site.as_ref().ok_or(Refusal::NoPicture)?;
    let federation = view.federation.as_ref().ok_or(Refusal::PrimaryUnknown)?;
    let leads = site.leader.as_ref().is_some_and(|l| l.name == *me && l.bound_to_my_lease);
    if !leads || !view.tenure.site.lies_ahead(view.now) {
        return Err(Refusal::NotLeader);
    }
    if request.site == federation.site {
        return Err(Refusal::OwnSite);
    }
    let primary = &federation.primary.as_ref().ok_or(Refusal::PrimaryUnknown)?.value;
    let seen = site.seen_epoch.as_ref().ok_or(Refusal::Unreadable("regent/epoch"))?.value.epoch;
    let on_disk = match &federation.disk_epoch {
        DiskEpoch::Absent => seen,
        DiskEpoch::Unreadable(_) => return Err(Refusal::Unreadable("epoch on disk")),
        DiskEpoch::Seen(on_disk) => on_disk.epoch,
    };
    let newest = primary.epoch.max(seen).max(on_disk);
    if newest > request.epoch {
        return Err(Refusal::NewerEpoch(newest));
    }
    if primary.epoch == request.epoch {
        if primary.holder != request.site {
            return Err(Refusal::OtherHolder(primary.holder.clone()));
        }
        match &primary.state {
            PrimaryState::Open | PrimaryState::Handover { .. } => {}
            PrimaryState::Token { .. } | PrimaryState::Fenced { .. } => {
                return Err(Refusal::State(primary.state.name()));
            }
        }
    }
    if matches!(site.promise, PromiseRecord::Unreadable { .. }) {
        return Err(Refusal::Unreadable("regent/promise"));
    }
    let (asked, most) = (request.span(), primary.span_max);
    if asked > most {
        return Err(Refusal::Span { asked, most });
    }
    Ok(())
}

/// What a round gives: the least span, when every member of the electorate but the asker's own site
/// promised. A site that is missing in the answers said nothing.
#[must_use]
pub fn complete(
    electorate: &BTreeSet<SiteName>,
    own: &SiteName,
    asked: Duration,
    answers: &BTreeMap<SiteName, Option<Duration>>,
) -> Option<Duration> {
    electorate.iter().filter(|site| *site != own).try_fold(asked, |least, site| {
        let span = answers.get(site).copied().flatten()?;
        Some(least.min(span))
    })
}

/// Promises that this site has given, as this process knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    standing: Vec<Standing>,
    /// Revision of the record that was counted, and when it was first read.
    counted: Option<(u64, BootTime)>,
    /// The site DCS did not know its epoch when it was first read so.
    lost_since: Option<BootTime>,
    /// A take compares this revision of `primary`, and its outcome is not known.
    taking: Option<u64>,
}

/// One promise that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose it is; `None` where nobody can tell.
    pub to: Option<(Tenure, Epoch)>,
    /// Until when, on this node's clock.
    pub until: BootTime,
}

impl Given {
    /// A promise is given: counted from now, before it is written. Refused while a take of our own
    /// is unresolved.
    pub fn give(&mut self, request: &PromiseRequest, now: BootTime) -> Result<(), Refusal> {
        if self.taking.is_some() {
            return Err(Refusal::UnresolvedTake);
        }
        let to = Some((request.tenure.clone(), request.epoch));
        self.stand(Standing { to, until: now.plus(request.span()) });
        Ok(())
    }

    fn stand(&mut self, standing: Standing) {
        match self.standing.iter_mut().find(|known| known.to == standing.to) {
            Some(known) => known.until = known.until.max(standing.until),
            None => self.standing.push(standing),
        }
    }

    /// Counts what stands in the site DCS as given at the moment it is read. A store that does not
    /// know its epoch has lost what it knew, so a whole span is waited; likewise for a promise that
    /// nobody can read.
    pub fn read(
        &mut self,
        record: &PromiseRecord,
        knows_epoch: bool,
        span_max: Duration,
        now: BootTime,
    ) {
        if knows_epoch {
            self.lost_since = None;
        } else if self.lost_since.is_none() {
            self.lost_since = Some(now);
            self.stand(Standing { to: None, until: now.plus(span_max) });
        }
        let (revision, to, span) = match record {
            PromiseRecord::Absent => return,
            PromiseRecord::Unreadable { revision } => (*revision, None, span_max),
            PromiseRecord::Read(at) => {
                let promise = &at.value;
                (at.revision, Some((promise.tenure.clone(), promise.epoch)), promise.span)
            }
        };
        if self.counted.is_none_or(|(counted, _)| counted != revision) {
            self.counted = Some((revision, now));
            self.stand(Standing { to, until: now.plus(span) });
        }
    }

    /// Until when a take or promotion must wait; `None`: nothing stands in its way. A token of the
    /// promised tenure ends the promise, and so does primacy having moved on since.
    #[must_use]
    pub fn until(
        &self,
        now: BootTime,
        token_of: Option<&Tenure>,
        primary_epoch: Epoch,
    ) -> Option<BootTime> {
        self.standing
            .iter()
            .filter(|standing| match &standing.to {
                None => true,
                Some((tenure, epoch)) => *epoch >= primary_epoch && Some(tenure) != token_of,
            })
            .map(|standing| standing.until)
            .filter(|until| now < *until)
            .max()
    }

    /// When the last promise under `primary`'s epoch, or one that nobody knows, ends or ended: until then
    /// its holder may have acknowledged by it. `None`: none was given.
    #[must_use]
    pub fn last_end(&self, primary_epoch: Epoch) -> Option<BootTime> {
        let of_now = self.standing.iter().filter(|standing| match &standing.to {
            None => true,
            Some((_, epoch)) => *epoch >= primary_epoch,
        });
        of_now.map(|standing| standing.until).max()
    }

    /// Lets go of what has ended and was given under an earlier epoch.
    pub fn forget_before(&mut self, primary_epoch: Epoch, now: BootTime) {
        self.standing.retain(|standing| {
            let of_before = match &standing.to {
                None => false,
                Some((_, epoch)) => *epoch < primary_epoch,
            };
            now < standing.until || !of_before
        });
    }

    /// A take, or promotion, that compares this revision of `primary` is about to be sent.
    pub fn begin_take(
        &mut self,
        revision: u64,
        now: BootTime,
        token_of: Option<&Tenure>,
        primary: &Primary,
    ) -> Result<(), BootTime> {
        match self.until(now, token_of, primary.epoch) {
            Some(until) => Err(until),
            None => {
                self.taking = Some(revision);
                Ok(())
            }
        }
    }

    /// Its outcome is known.
    pub fn end_take(&mut self) {
        self.taking = None;
    }

    /// `primary` was read at this revision: a take that compares another one is dead or done.
    pub fn saw_primary(&mut self, revision: u64) {
        if self.taking.is_some_and(|compared| compared != revision) {
            self.taking = None;
        }
    }

    /// Whether promises stand, for people.
    #[must_use]
    pub fn standing(&self, now: BootTime) -> Option<BootTime> {
        self.standing.iter().map(|standing| standing.until).filter(|until| now < *until).max()
    }
}
