//! Where each record lives: the global quorum's keys and the site DCS's (Patroni's) keys.
//!
//! Patroni's layout is spec/patroni-compat.md 1.1 and 1.2; ours lies beside it under
//! `{base}/regent/`, where no Patroni tool looks.

use crate::epoch::Epoch;
use crate::name::{CoordinatorName, FederationName, NodeName, OperationId, Scope, SiteName};

/// Keys of one federation in the global quorum, under `/regent/<federation>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalKeys {
    base: String,
}

impl GlobalKeys {
    /// The keys of `federation`.
    #[must_use]
    pub fn new(federation: &FederationName) -> Self {
        Self { base: format!("/regent/{federation}/") }
    }

    /// The prefix of all of them, ending in `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.base
    }

    /// The topology file as applied.
    #[must_use]
    pub fn topology(&self) -> String {
        format!("{}topology", self.base)
    }

    /// The record that decides.
    #[must_use]
    pub fn primary(&self) -> String {
        format!("{}primary", self.base)
    }

    /// The primary lease.
    #[must_use]
    pub fn lease(&self) -> String {
        format!("{}lease", self.base)
    }

    /// A site's assignment.
    #[must_use]
    pub fn assignment(&self, site: &SiteName) -> String {
        format!("{}sites/{site}/assignment", self.base)
    }

    /// A site's report.
    #[must_use]
    pub fn report(&self, site: &SiteName) -> String {
        format!("{}sites/{site}/report", self.base)
    }

    /// An operation.
    #[must_use]
    pub fn operation(&self, id: &OperationId) -> String {
        format!("{}operations/{id}", self.base)
    }

    /// The prefix of all operations.
    #[must_use]
    pub fn operations(&self) -> String {
        format!("{}operations/", self.base)
    }

    /// Which operation runs.
    #[must_use]
    pub fn running_operation(&self) -> String {
        format!("{}operation", self.base)
    }

    /// The elected coordinator.
    #[must_use]
    pub fn leader(&self) -> String {
        format!("{}leader", self.base)
    }

    /// A coordinator that lives.
    #[must_use]
    pub fn coordinator(&self, name: &CoordinatorName) -> String {
        format!("{}coordinators/{name}", self.base)
    }

    /// The prefix of all coordinators.
    #[must_use]
    pub fn coordinators(&self) -> String {
        format!("{}coordinators/", self.base)
    }

    /// How an epoch began.
    #[must_use]
    pub fn history(&self, epoch: Epoch) -> String {
        format!("{}history/{epoch}", self.base)
    }

    /// The prefix of what the sites have: assignments and reports.
    #[must_use]
    pub fn sites(&self) -> String {
        format!("{}sites/", self.base)
    }

    /// The prefix of the history.
    #[must_use]
    pub fn histories(&self) -> String {
        format!("{}history/", self.base)
    }

    /// The store key of a record.
    #[must_use]
    pub fn of(&self, record: &GlobalKey) -> String {
        match record {
            GlobalKey::Topology => self.topology(),
            GlobalKey::Primary => self.primary(),
            GlobalKey::Lease => self.lease(),
            GlobalKey::RunningOperation => self.running_operation(),
            GlobalKey::Leader => self.leader(),
            GlobalKey::Assignment(site) => self.assignment(site),
            GlobalKey::Report(site) => self.report(site),
            GlobalKey::Operation(id) => self.operation(id),
            GlobalKey::Coordinator(name) => self.coordinator(name),
            GlobalKey::History(epoch) => self.history(*epoch),
            // No decision names one: it would be a key that this version does not know.
            GlobalKey::Foreign => format!("{}foreign", self.base),
        }
    }

    /// What a key of this federation is, for reading a whole snapshot.
    #[must_use]
    pub fn classify(&self, key: &str) -> GlobalKey {
        let Some(rest) = key.strip_prefix(&self.base) else { return GlobalKey::Foreign };
        let mut parts = rest.split('/');
        let found = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("topology"), None, None, None) => Some(GlobalKey::Topology),
            (Some("primary"), None, None, None) => Some(GlobalKey::Primary),
            (Some("lease"), None, None, None) => Some(GlobalKey::Lease),
            (Some("operation"), None, None, None) => Some(GlobalKey::RunningOperation),
            (Some("leader"), None, None, None) => Some(GlobalKey::Leader),
            (Some("sites"), Some(site), Some("assignment"), None) => {
                site.parse().ok().map(GlobalKey::Assignment)
            }
            (Some("sites"), Some(site), Some("report"), None) => {
                site.parse().ok().map(GlobalKey::Report)
            }
            (Some("operations"), Some(id), None, None) => id.parse().ok().map(GlobalKey::Operation),
            (Some("coordinators"), Some(name), None, None) => {
                name.parse().ok().map(GlobalKey::Coordinator)
            }
            (Some("history"), Some(epoch), None, None) => {
                epoch.parse().ok().map(|n| GlobalKey::History(Epoch::new(n)))
            }
            _ => None,
        };
        found.unwrap_or(GlobalKey::Foreign)
    }
}

/// What a key in the global quorum is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobalKey {
    /// The topology.
    Topology,
    /// The record that decides.
    Primary,
    /// The primary lease.
    Lease,
    /// Which operation runs.
    RunningOperation,
    /// The elected coordinator.
    Leader,
    /// A site's assignment.
    Assignment(SiteName),
    /// A site's report.
    Report(SiteName),
    /// An operation.
    Operation(OperationId),
    /// A coordinator.
    Coordinator(CoordinatorName),
    /// How an epoch began.
    History(Epoch),
    /// Not one of ours.
    Foreign,
}

/// Keys of one cluster in its site DCS: Patroni's, and ours under `regent/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteKeys {
    base: String,
}

impl SiteKeys {
    /// `/{namespace}/{scope}/` with repeated slashes collapsed.
    #[must_use]
    pub fn new(namespace: &str, scope: &Scope) -> Self {
        let parts: Vec<&str> =
            namespace.split('/').filter(|p| !p.is_empty()).chain([scope.as_str()]).collect();
        Self { base: format!("/{}/", parts.join("/")) }
    }

    /// The prefix of all of them, ending in `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.base
    }

    /// One of Patroni's single keys.
    #[must_use]
    pub fn key(&self, key: SiteKey) -> String {
        format!("{}{}", self.base, key.name())
    }

    /// A member's key.
    #[must_use]
    pub fn member(&self, name: &NodeName) -> String {
        format!("{}members/{name}", self.base)
    }

    /// The prefix of all members.
    #[must_use]
    pub fn members(&self) -> String {
        format!("{}members/", self.base)
    }
}

/// Patroni's single keys, and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SiteKey {
    /// System identifier, or empty while a bootstrap runs.
    Initialize,
    /// Dynamic configuration.
    Config,
    /// The leader's name, bound to its lease.
    Leader,
    /// A switchover or failover request.
    Failover,
    /// Who is synchronous.
    Sync,
    /// The leader's position and slots.
    Status,
    /// Timelines.
    History,
    /// Members for failsafe.
    Failsafe,
    /// Ours: the mark of a handover.
    Mark,
    /// Ours: highest epoch seen.
    Epoch,
    /// Ours: what this site has promised to the primary site.
    Promise,
    /// Ours: who began each timeline.
    Promotions,
}

impl SiteKey {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Initialize,
        Self::Config,
        Self::Leader,
        Self::Failover,
        Self::Sync,
        Self::Status,
        Self::History,
        Self::Failsafe,
        Self::Mark,
        Self::Epoch,
        Self::Promise,
        Self::Promotions,
    ];

    /// The key below the base path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Config => "config",
            Self::Leader => "leader",
            Self::Failover => "failover",
            Self::Sync => "sync",
            Self::Status => "status",
            Self::History => "history",
            Self::Failsafe => "failsafe",
            Self::Mark => "regent/mark",
            Self::Epoch => "regent/epoch",
            Self::Promise => "regent/promise",
            Self::Promotions => "regent/promotions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_slashes_collapse_as_in_patroni() {
        let scope: Scope = "eu".parse().expect("a scope");
        for namespace in ["service", "/service", "/service/", "//service"] {
            assert_eq!(SiteKeys::new(namespace, &scope).prefix(), "/service/eu/");
        }
    }

    #[test]
    fn every_global_key_is_recognised() {
        let federation: FederationName = "f".parse().expect("a label");
        let keys = GlobalKeys::new(&federation);
        let eu: SiteName = "eu".parse().expect("a label");
        assert_eq!(keys.classify(&keys.primary()), GlobalKey::Primary);
        assert_eq!(keys.classify(&keys.report(&eu)), GlobalKey::Report(eu));
        assert_eq!(keys.classify("/regent/f/sites/EU/report"), GlobalKey::Foreign);
        assert_eq!(keys.classify("/regent/g/primary"), GlobalKey::Foreign);
        assert_eq!(keys.classify(&keys.history(Epoch::new(4))), GlobalKey::History(Epoch::new(4)));
    }
}
