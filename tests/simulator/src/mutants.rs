//! Deliberate faults: each breaks one thing that keeps the world safe, and the invariants have to
//! notice. A run with one is void as a test of the product.

use regent_agent::decide::view::View;
use regent_proto::lsn::Lsn;
use regent_proto::time::Deadline;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Nothing.
    None,
    /// Rung 2 kills nobody.
    NoGuardian,
    /// The site's deadline counts from the answer.
    AnchorAtReceive,
    /// The leader key is released before the server has stopped.
    ReleaseBeforeStop,
    /// A node believes that it holds whatever carries its name.
    OpenUnread,
    /// Every standby counts as having confirmed everything.
    PublishUnproven,
    /// Commits wait for nobody.
    AcknowledgeAtOnce,
    /// Leases end before their time.
    EarlyRevoke,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NoGuardian,
        Self::AnchorAtReceive,
        Self::ReleaseBeforeStop,
        Self::OpenUnread,
        Self::PublishUnproven,
        Self::AcknowledgeAtOnce,
        Self::EarlyRevoke,
    ];

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
    }

    /// Bends what an agent sees.
    pub(crate) fn twist(self, view: &mut View) {
        match self {
            Self::OpenUnread => {
                let now = view.now;
                if let Some(leader) = view.site.as_mut().and_then(|site| site.leader.as_mut())
                    && view.postgres.follows.is_none()
                {
                    leader.bound_to_my_lease = true;
                    view.tenure.site = Deadline::at(now.plus(std::time::Duration::from_secs(5)));
                }
            }
            Self::PublishUnproven => {
                if let Some(status) = &mut view.postgres.status {
                    for sender in status.senders.values_mut() {
                        sender.flushed = Lsn::new(u64::MAX);
                        sender.synchronous = true;
                    }
                }
            }
            Self::None
            | Self::NoGuardian
            | Self::AnchorAtReceive
            | Self::ReleaseBeforeStop
            | Self::AcknowledgeAtOnce
            | Self::EarlyRevoke => {}
        }
    }
}
