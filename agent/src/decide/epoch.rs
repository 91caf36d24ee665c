//! Rung 4: how the epoch that `primary` shows stands to what this node and its site have seen
//! (I2, I27; protocol.md rule 8). An older one opens nothing; what cannot be known opens nothing
//! either. Only a cluster that is just being made, or the process that has led it without a break,
//! may put a missing epoch there.

use std::fmt;

use regent_proto::record::{Primary, SeenEpoch, Unknown, VERSION};

use super::view::{At, DiskEpoch, FederationView, Initialize, Memory, SiteView};
use super::{Action, Choice, Job, Judge, Reason};

/// How the epoch of `primary` stands to what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is on disk and in the site DCS.
    Entered,
    /// It is to be written; every writing compares this revision of the site's record.
    Enter {
        /// Revision of `regent/epoch` that was read, `None` where it does not exist.
        revision: Option<u64>,
    },
    /// Something newer was seen, or another federation, or another holder of the same epoch: the
    /// quorum is restored from an older state, or foreign.
    Older,
    /// What was seen is not known.
    Unknown(EpochUnknown),
}

/// Why what was seen is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochUnknown {
    /// This node's file cannot be read.
    DiskUnreadable(String),
    /// The site DCS has no `regent/epoch`, though its cluster is not new.
    SiteMissing,
    /// The site's `regent/epoch` cannot be read.
    SiteUnreadable,
}

impl fmt::Display for EpochUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskUnreadable(problem) => {
                write!(f, "the epoch on its disk cannot be read: {problem}")?
            }
            Self::SiteMissing => f.write_str("the site DCS has lost regent/epoch")?,
            Self::SiteUnreadable => f.write_str("regent/epoch in the site DCS cannot be read")?,
        }
        f.write_str("; look with `regent-agent CONFIG --show-epoch`, runbook the-epoch-is-unknown")
    }
}

/// Judges `primary` by what was seen.
#[must_use]
pub fn standing(
    memory: &Memory,
    site: &SiteView,
    federation: &FederationView,
    primary: &Primary,
) -> Standing {
    let led = memory.entered.as_ref().filter(|led| is_no_newer(led, primary));
    let on_disk = match &federation.disk_epoch {
        DiskEpoch::Absent => false,
        // This process has read or written it: it was overwritten since, and is mended.
        DiskEpoch::Unreadable(_) if led.is_some() => false,
        DiskEpoch::Unreadable(problem) => {
            return Standing::Unknown(EpochUnknown::DiskUnreadable(problem.clone()));
        }
        DiskEpoch::Seen(seen) if !is_no_newer(seen, primary) => return Standing::Older,
        DiskEpoch::Seen(seen) => seen.epoch == primary.epoch,
    };
    let revision = match (&site.seen_epoch, site.unreadable_epoch) {
        (Some(seen), _) if !is_no_newer(&seen.value, primary) => return Standing::Older,
        (Some(seen), _) if on_disk && seen.value.epoch == primary.epoch => {
            return Standing::Entered;
        }
        (Some(seen), _) => Some(seen.revision),
        (None, revision) if led.is_some() => revision,
        (None, Some(_)) => return Standing::Unknown(EpochUnknown::SiteUnreadable),
        (None, None) if is_new(site, federation, primary) => None,
        (None, None) => return Standing::Unknown(EpochUnknown::SiteMissing),
    };
    Standing::Enter { revision }
}

/// Whether something seen allows the epoch of `primary`: of the same federation, and older or the
/// same. An epoch has one holder.
fn is_no_newer(seen: &SeenEpoch, primary: &Primary) -> bool {
    seen.federation == primary.federation
        && (seen.epoch < primary.epoch
            || (seen.epoch == primary.epoch && seen.holder == primary.holder))
}

/// A cluster that is just being made has seen nothing: `initialize` says that nobody has finished
/// making it, this node has seen no epoch but possibly just this one (its writing was cut short),
/// and in the primary site the quorum knows of no database yet.
fn is_new(site: &SiteView, federation: &FederationView, primary: &Primary) -> bool {
    let nothing_else_on_disk = match &federation.disk_epoch {
        DiskEpoch::Absent => true,
        DiskEpoch::Seen(seen) => seen.epoch == primary.epoch,
        DiskEpoch::Unreadable(_) => false,
    };
    let no_database = primary.holder != federation.site || primary.system_identifier.is_none();
    site.initialize == Initialize::Running && nothing_else_on_disk && no_database
}

/// The record of the epoch that `primary` shows.
#[must_use]
pub fn record(primary: &Primary) -> SeenEpoch {
    SeenEpoch {
        version: VERSION,
        federation: primary.federation,
        epoch: primary.epoch,
        holder: primary.holder.clone(),
        unknown: Unknown::new(),
    }
}

impl Judge<'_> {
    /// What this process knows for certain: it leads, and disk and site DCS have it. A lead that was
    /// broken ends that, because another one may have written in between.
    pub(super) fn remember_epoch(&mut self) {
        let Some(site) = &self.view.site else { return };
        let another = site.leader.as_ref().is_some_and(|leader| leader.name != self.policy.me);
        if another || !self.view.tenure.site.lies_ahead(self.view.now) {
            self.memory.entered = None;
            return;
        }
        let Some(federation) = &self.view.federation else { return };
        let Some(primary) = &federation.primary else { return };
        let leads = site.leader.as_ref().is_some_and(|leader| leader.bound_to_my_lease);
        if leads && standing(&self.memory, site, federation, &primary.value) == Standing::Entered {
            self.memory.entered = Some(record(&primary.value));
        }
    }

    /// How `primary` stands to what was seen here.
    pub(super) fn standing(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &Primary,
    ) -> Standing {
        standing(&self.memory, site, federation, primary)
    }

    /// Rung 4: never under an epoch older than any this site or this node has seen.
    pub(super) fn has_seen_more(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &Primary,
    ) -> bool {
        self.standing(site, federation, primary) == Standing::Older
    }

    /// Why nothing may open under this `primary`, whoever holds it.
    pub(super) fn epoch_bars(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &Primary,
    ) -> Option<Reason> {
        match self.standing(site, federation, primary) {
            Standing::Entered | Standing::Enter { .. } => None,
            Standing::Older => Some(Reason::EpochOlder),
            Standing::Unknown(why) => Some(Reason::EpochUnknown(why)),
        }
    }

    /// Fenced by its epoch: a writer stops, whatever lease it still renews.
    pub(super) fn fenced_by_epoch(&self, reason: Reason) -> Choice {
        if self.writable() {
            return Choice::act(reason, vec![Action::EndTenure, Action::Run(Job::Stop)]);
        }
        self.stay_fenced(reason)
    }

    /// Writes the epoch where it is not yet, before anything opens under it.
    pub(super) fn own_epoch(
        &self,
        site: &SiteView,
        global: Option<(&FederationView, &At<Primary>)>,
    ) -> Option<Choice> {
        let (federation, primary) = global?;
        match self.standing(site, federation, &primary.value) {
            Standing::Entered => None,
            Standing::Enter { revision } => Some(Choice::act(
                Reason::EnteringEpoch,
                vec![Action::EnterEpoch {
                    seen: record(&primary.value),
                    revision,
                    clear_mark: None,
                }],
            )),
            Standing::Older => Some(Choice::wait(Reason::EpochOlder)),
            Standing::Unknown(why) => Some(Choice::wait(Reason::EpochUnknown(why))),
        }
    }

    /// Removes an outlived mark, together with entering the epoch that ended it.
    pub(super) fn clear_mark(
        &self,
        site: &SiteView,
        federation: &FederationView,
        primary: &Primary,
        mark: u64,
    ) -> Result<Action, Reason> {
        let revision = match self.standing(site, federation, primary) {
            Standing::Entered => site.seen_epoch.as_ref().map(|seen| seen.revision),
            Standing::Enter { revision } => revision,
            Standing::Older => return Err(Reason::EpochOlder),
            Standing::Unknown(why) => return Err(Reason::EpochUnknown(why)),
        };
        Ok(Action::EnterEpoch { seen: record(primary), revision, clear_mark: Some(mark) })
    }

    /// A member keeps on its own disk what its site has seen: the site DCS may be lost later.
    pub(super) fn keep_epoch(&self, site: &SiteView) -> Option<Choice> {
        let federation = self.view.federation.as_ref()?;
        let seen = &site.seen_epoch.as_ref()?.value;
        let newer = match &federation.disk_epoch {
            DiskEpoch::Absent => true,
            DiskEpoch::Seen(own) => own.federation == seen.federation && own.epoch < seen.epoch,
            DiskEpoch::Unreadable(_) => false,
        };
        newer.then(|| Choice::act(Reason::EnteringEpoch, vec![Action::KeepEpoch(seen.clone())]))
    }
}
