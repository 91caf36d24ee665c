//! I6: what must hold at the instant of opening, as one list. The steps of `lead` bring it about one
//! by one; this is the gate behind them, so that no step that is skipped, reordered or mistaken
//! opens a server. A precondition that has nothing to compare with is met: what is missing is one of
//! its own.

use std::fmt;

use regent_proto::record::{Primary, PrimaryState};
use regent_proto::time::WatchdogTiming;
use regent_proto::timeline::Containment;

use super::paused::{self, Fence};
use super::synchronous;
use super::view::{
    DataDirectory, DiskEpoch, FederationView, Initialize, LeaderKey, Policy, Process, SiteView,
    Status, View, WatchdogState,
};

/// One of them, in the order of protocol.md rule 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precondition {
    /// No pause has taken the fence away: nothing opens unfenced.
    NotPaused,
    /// The site DCS was read.
    SiteRead,
    /// The leader key is bound to this process's own lease.
    LeaderKey,
    /// Its deadline lies ahead.
    SiteDeadline,
    /// That deadline rests on an acknowledged renewal: the members' word lets a server go on, and
    /// opens none.
    SiteRenewed,
    /// This node has promised the leader key to nobody.
    Unpromised,
    /// This process has read `primary` in the quorum.
    QuorumRead,
    /// `standby_cluster` makes it follow nobody.
    FollowsNobody,
    /// `primary` is open for this site.
    HolderOpen,
    /// No person has fenced writes.
    WritesNotFenced,
    /// The site is not marked for a handover.
    NoMark,
    /// The data are the cluster's and the federation's.
    Identity,
    /// The server's WAL contains the floor.
    Floor,
    /// This process's own primary lease, acknowledged in this epoch, its deadline ahead.
    PrimaryLease,
    /// Its deadline rests on an acknowledged renewal, not on the other sites' promises.
    PrimaryRenewed,
    /// Just this epoch stands on this node's disk.
    EpochOnDisk,
    /// Just this epoch stands in the site DCS.
    EpochInSite,
    /// A guardian of this server lives (rung 2).
    Guardian,
    /// The watchdog runs and, pinged as it was, fires before the deadline; or none is wanted, or it
    /// may be missing (rung 3).
    Watchdog,
    /// `sync` is this leader's.
    SynchronousRecord,
    /// The server waits for whom `sync` names.
    SynchronousList,
    /// The node may lead.
    MayLead,
    /// The server runs in recovery.
    InRecovery,
    /// No job owns server or data directory.
    NoJob,
}

impl Precondition {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::NotPaused,
        Self::SiteRead,
        Self::LeaderKey,
        Self::SiteDeadline,
        Self::SiteRenewed,
        Self::Unpromised,
        Self::QuorumRead,
        Self::FollowsNobody,
        Self::HolderOpen,
        Self::WritesNotFenced,
        Self::NoMark,
        Self::Identity,
        Self::Floor,
        Self::PrimaryLease,
        Self::PrimaryRenewed,
        Self::EpochOnDisk,
        Self::EpochInSite,
        Self::Guardian,
        Self::Watchdog,
        Self::SynchronousRecord,
        Self::SynchronousList,
        Self::MayLead,
        Self::InRecovery,
        Self::NoJob,
    ];

    /// Nobody tells when it comes true: a span ends, or a renewal was acknowledged a moment ago.
    #[must_use]
    pub fn comes_unannounced(self) -> bool {
        match self {
            Self::Unpromised | Self::Watchdog => true,
            Self::NotPaused
            | Self::SiteRead
            | Self::LeaderKey
            | Self::SiteDeadline
            | Self::SiteRenewed
            | Self::QuorumRead
            | Self::HolderOpen
            | Self::WritesNotFenced
            | Self::NoMark
            | Self::Identity
            | Self::Floor
            | Self::PrimaryLease
            | Self::PrimaryRenewed
            | Self::EpochOnDisk
            | Self::EpochInSite
            | Self::Guardian
            | Self::SynchronousRecord
            | Self::SynchronousList
            | Self::MayLead
            | Self::InRecovery
            | Self::NoJob
            | Self::FollowsNobody => false,
        }
    }

    /// Whether it is asked for in this way of opening: a server that starts writable has nobody to
    /// ask yet, gets guardian, watchdog and list before its first commit, led before, and what it
    /// contains was tested by the epoch under which it wrote.
    #[must_use]
    pub fn concerns(self, opening: Opening) -> bool {
        match self {
            Self::Floor
            | Self::Guardian
            | Self::Watchdog
            | Self::MayLead
            | Self::InRecovery
            | Self::SynchronousRecord
            | Self::SynchronousList => match opening {
                Opening::Promotion => true,
                Opening::Start | Opening::StartInPause => false,
            },
            Self::NotPaused => match opening {
                Opening::Promotion | Opening::Start => true,
                Opening::StartInPause => false,
            },
            Self::SiteRead
            | Self::LeaderKey
            | Self::SiteDeadline
            | Self::SiteRenewed
            | Self::Unpromised
            | Self::QuorumRead
            | Self::FollowsNobody
            | Self::HolderOpen
            | Self::WritesNotFenced
            | Self::NoMark
            | Self::Identity
            | Self::PrimaryLease
            | Self::PrimaryRenewed
            | Self::EpochOnDisk
            | Self::EpochInSite
            | Self::NoJob => true,
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPaused => "the cluster is paused, and its fence with it",
            Self::SiteRead => "the site DCS was not read yet",
            Self::LeaderKey => "the leader key is not bound to its own lease",
            Self::SiteDeadline => "the leader key's deadline does not lie ahead",
            Self::SiteRenewed => "the leader key's deadline rests on the members' word",
            Self::Unpromised => "it has promised the leader key to another member",
            Self::QuorumRead => "`primary` was not read by this process",
            Self::FollowsNobody => "`standby_cluster` makes it follow another cluster",
            Self::HolderOpen => "`primary` is not open for this site",
            Self::WritesNotFenced => "writes are fenced",
            Self::NoMark => "the site is marked for a handover",
            Self::Identity => "the data are of another database",
            Self::Floor => "its WAL does not contain the floor",
            Self::PrimaryLease => "it does not hold the primary lease in this epoch",
            Self::PrimaryRenewed => "the primary lease rests on the other sites' promises",
            Self::EpochOnDisk => "this epoch is not on its disk",
            Self::EpochInSite => "this epoch is not in the site DCS",
            Self::Guardian => "no guardian of its server lives",
            Self::Watchdog => "the watchdog does not run, or would fire after the deadline",
            Self::SynchronousRecord => "`sync` is not its own",
            Self::SynchronousList => "it does not wait for whom `sync` names",
            Self::MayLead => "tag nofailover, or failover_priority 0",
            Self::InRecovery => "PostgreSQL does not run in recovery",
            Self::NoJob => "a job owns the server",
        })
    }
}

/// A way of opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opening {
    /// A running standby is promoted.
    Promotion,
    /// A stopped server is started writable: a new one, or one that crashed under this epoch.
    Start,
    /// The same in a pause, by a person's order: the fence is off because a person wants it so.
    StartInPause,
}

/// What stands against opening; empty: it may open.
#[must_use]
pub fn unmet(policy: &Policy, view: &View, opening: Opening) -> Vec<Precondition> {
    Precondition::ALL
        .into_iter()
        .filter(|precondition| precondition.concerns(opening))
        .filter(|precondition| !Evidence::of(policy, view).meets(*precondition))
        .collect()
}

struct Evidence<'a> {
    policy: &'a Policy,
    view: &'a View,
    site: Option<&'a SiteView>,
    leader: Option<&'a LeaderKey>,
    federation: Option<&'a FederationView>,
    primary: Option<&'a Primary>,
    status: Option<&'a Status>,
}

impl<'a> Evidence<'a> {
    fn of(policy: &'a Policy, view: &'a View) -> Self {
        let site = view.site.as_ref();
        let federation = view.federation.as_ref();
        Self {
            policy,
            view,
            site,
            leader: site.and_then(|site| site.leader.as_ref()),
            federation,
            primary: federation.and_then(|f| f.primary.as_ref()).map(|at| &at.value),
            status: view.postgres.status.as_ref(),
        }
    }

    fn meets(&self, precondition: Precondition) -> bool {
        let now = self.view.now;
        match precondition {
            Precondition::NotPaused => paused::fence(self.policy, self.view) == Fence::Stands,
            Precondition::SiteRead => self.site.is_some(),
            Precondition::LeaderKey => {
                self.site.is_none() || self.leader.is_some_and(|leader| leader.bound_to_my_lease)
            }
            Precondition::SiteDeadline => self.view.tenure.site.lies_ahead(now),
            Precondition::SiteRenewed => !self.view.failsafe.stands,
            Precondition::Unpromised => {
                self.view.failsafe.promised.as_ref().is_none_or(|promised| now >= promised.until)
            }
            Precondition::QuorumRead => {
                self.federation.is_none_or(|f| f.age.is_some() && f.primary.is_some())
            }
            Precondition::FollowsNobody => self.view.remote.is_none(),
            Precondition::HolderOpen => self.is_primary(|federation, primary| {
                primary.holder == federation.site && primary.state == PrimaryState::Open
            }),
            Precondition::WritesNotFenced => {
                self.primary.is_none_or(|primary| primary.writes_fenced.is_none())
            }
            Precondition::NoMark => {
                self.site.is_none_or(|s| s.mark.is_none() && s.unreadable_mark.is_none())
            }
            Precondition::Identity => self.identity(),
            Precondition::Floor => match (self.status, self.primary.and_then(|p| p.floor.as_ref()))
            {
                (Some(status), Some(floor)) => {
                    status.ancestry.contains(status.end, floor) == Containment::Contained
                }
                (Some(_) | None, Some(_) | None) => true,
            },
            Precondition::PrimaryLease => {
                self.federation.is_none()
                    || self.view.tenure.primary.as_ref().is_some_and(|held| {
                        held.deadline.lies_ahead(now)
                            && self.primary.is_none_or(|primary| held.epoch == primary.epoch)
                    })
            }
            Precondition::PrimaryRenewed => {
                self.view.tenure.primary.as_ref().is_none_or(|held| !held.by_promise)
            }
            Precondition::EpochOnDisk => self.is_primary(|federation, primary| {
                matches!(&federation.disk_epoch, DiskEpoch::Seen(seen)
                    if *seen == with_unknown(primary, seen))
            }),
            Precondition::EpochInSite => self.is_primary(|_, primary| {
                self.site.is_none_or(|site| {
                    site.seen_epoch
                        .as_ref()
                        .is_some_and(|seen| seen.value == with_unknown(primary, &seen.value))
                })
            }),
            Precondition::Guardian => self.view.guardian.alive,
            Precondition::Watchdog => {
                let watchdog = &self.view.guardian.watchdog;
                match watchdog.state {
                    WatchdogState::Armed => self.fires_in_time(),
                    WatchdogState::Off | WatchdogState::Disarmed => !watchdog.wanted,
                    WatchdogState::Failed => !watchdog.required,
                }
            }
            Precondition::SynchronousRecord => {
                !self.policy.synchronous_mode
                    || self.site.is_none_or(|site| {
                        site.sync.leader.as_ref() == Some(&self.policy.me) && !site.sync.unreadable
                    })
            }
            Precondition::SynchronousList => match (self.status, self.site) {
                (Some(status), Some(site)) => {
                    status.synchronous_standby_names
                        == synchronous::list_of(self.policy, &site.sync.voting())
                }
                (Some(_) | None, Some(_) | None) => true,
            },
            Precondition::MayLead => !self.policy.nofailover,
            Precondition::InRecovery => {
                self.view.postgres.process == Process::Running
                    && self.status.is_some_and(|status| status.in_recovery)
            }
            Precondition::NoJob => self.view.job.is_none(),
        }
    }

    /// Until now the watchdog was pinged freely. Should guardian and agent end right after opening,
    /// it must fire before the deadline that begins to count (hazards.md 3.5).
    fn fires_in_time(&self) -> bool {
        let watchdog = &self.view.guardian.watchdog;
        let tenure = &self.view.tenure;
        let deadline = match (&tenure.primary, self.federation) {
            (Some(held), Some(_)) => tenure.site.earlier(held.deadline),
            // Without a primary lease in a federation another precondition is unmet.
            (Some(_) | None, Some(_) | None) => tenure.site,
        };
        let last_ping = self.view.now.minus(watchdog.ping_age.unwrap_or_default());
        WatchdogTiming::may_ping(watchdog.granted, last_ping, deadline)
    }

    fn is_primary(&self, holds: impl FnOnce(&FederationView, &Primary) -> bool) -> bool {
        match (self.federation, self.primary) {
            (Some(federation), Some(primary)) => holds(federation, primary),
            (Some(_) | None, Some(_) | None) => true,
        }
    }

    fn identity(&self) -> bool {
        let DataDirectory::Cluster(control) = &self.view.postgres.data else { return false };
        let in_site = self.site.is_none_or(|site| match &site.initialize {
            Initialize::Done(wanted) => *wanted == control.system_identifier,
            Initialize::Absent | Initialize::Running | Initialize::Unreadable => true,
        });
        let in_quorum = self.primary.and_then(|primary| primary.system_identifier);
        in_site && in_quorum.is_none_or(|wanted| wanted == control.system_identifier)
    }
}

/// The record of this epoch, with what a newer version put beside it.
fn with_unknown(
    primary: &Primary,
    seen: &regent_proto::record::SeenEpoch,
) -> regent_proto::record::SeenEpoch {
    regent_proto::record::SeenEpoch {
        unknown: seen.unknown.clone(),
        ..super::epoch::record(primary)
    }
}
