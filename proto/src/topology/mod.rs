//! The topology file: sites, links, quorum, policy. The same file is applied to a federation,
//! started as a lab on one machine, and loaded by tests.
//!
//! Edited by people, so unknown keys are errors, and every error names the place, the value and
//! what is accepted. Things that are allowed but dangerous are named [`Warning`]s, which a lab
//! topology can silence by name.

mod automatic;
mod check;
mod units;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{FederationName, NodeName, SiteName};

pub use automatic::{Automatic, AutomaticPromotion};
pub use check::{Finding, TopologyError, Warning};
pub use units::{Size, Span};

/// A topology file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The federation's name.
    pub federation: FederationName,
    /// The primary site of a *new* federation; afterwards the `primary` record decides.
    pub primary: SiteName,
    /// All sites.
    pub sites: Vec<Site>,
    /// Which sites may stream from which, in both directions.
    #[serde(default)]
    pub links: Vec<Link>,
    /// The global quorum.
    pub quorum: Quorum,
    /// Limits and timings.
    #[serde(default)]
    pub policy: Policy,
    /// Only for labs on one machine.
    #[serde(default)]
    pub lab: Lab,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Name.
    pub name: SiteName,
    /// Data or witness.
    pub kind: SiteKind,
    /// The site's own store; data sites need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dcs: Option<StoreKind>,
    /// Commits wait for a synchronous standby of the same site while it is primary.
    #[serde(default)]
    pub synchronous: bool,
    /// The nodes; none in a witness site.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// What a site holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// A PostgreSQL cluster.
    Data,
    /// No database: a voter only.
    Witness,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// The SQLite file: everything that uses it is on one machine.
    Embedded,
    /// etcd v3.
    Etcd,
}

/// One node of a data site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Name, unique in the whole federation (I22).
    pub name: NodeName,
    /// PostgreSQL's port; a lab chooses a free one when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_port: Option<u16>,
    /// The REST API's port; a lab chooses a free one when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_port: Option<u16>,
}

/// A way that WAL can take, in either direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The two sites.
    pub between: [SiteName; 2],
    /// The tree prefers cheap ways.
    #[serde(default = "one")]
    pub cost: u32,
}

fn one() -> u32 {
    1
}

/// The global quorum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// Which store.
    pub store: StoreKind,
    /// The sites that vote in it.
    pub voters: Vec<SiteName>,
}

/// Limits and timings of a federation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// TTL of the site's leader key.
    pub site_ttl: Span,
    /// TTL of the primary lease; at least three times `site_ttl`.
    pub primary_ttl: Span,
    /// A switchover waits in *prepare* until the target lags less than this.
    pub switchover_max_lag: Size,
    /// The longest a switchover stays in *prepare*.
    pub prepare_timeout: Span,
    /// How long a handover may take before it is rolled back.
    pub handover_span: Span,
    /// How long the other sites may take to follow before the operation ends with a warning.
    pub follow_timeout: Span,
    /// Whether a primary goes on without a DCS while everybody else agrees. A lab configures its
    /// agents by it; elsewhere it is `failsafe_mode` and `federation.promise` of each site.
    #[serde(skip_serializing_if = "Failsafe::is_off")]
    pub failsafe: Failsafe,
    /// Whether a region that went dark is replaced without a person.
    #[serde(skip_serializing_if = "AutomaticPromotion::is_default")]
    pub automatic_promotion: AutomaticPromotion,
}

/// Which levels of failsafe are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failsafe {
    /// None: whoever loses a DCS steps down at its deadline.
    #[default]
    Off,
    /// Inside a site, as Patroni's `failsafe_mode`.
    Site,
    /// Between sites, by promises (protocol.md rule 11).
    Quorum,
    /// Both.
    Both,
}

impl Failsafe {
    /// The level inside a site is on.
    #[must_use]
    pub fn in_site(self) -> bool {
        matches!(self, Self::Site | Self::Both)
    }

    /// The level between sites is on.
    #[must_use]
    pub fn in_quorum(self) -> bool {
        matches!(self, Self::Quorum | Self::Both)
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// As written in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Site => "site",
            Self::Quorum => "quorum",
            Self::Both => "both",
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            site_ttl: Span(Duration::from_secs(30)),
            primary_ttl: Span(Duration::from_secs(90)),
            switchover_max_lag: Size(16 << 20),
            prepare_timeout: Span(Duration::from_secs(120)),
            handover_span: Span(Duration::from_secs(30)),
            follow_timeout: Span(Duration::from_secs(120)),
            failsafe: Failsafe::Off,
            automatic_promotion: AutomaticPromotion::default(),
        }
    }
}

/// Settings that only a lab on one machine reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lab {
    /// Warnings that are no news here, by name.
    pub accept: BTreeSet<Warning>,
}

impl Topology {
    /// Reads and checks a topology file; warnings that the file accepts are left out.
    pub fn parse(text: &str) -> Result<(Self, Vec<Finding>), TopologyError> {
        let topology: Self = crate::yaml::read(text).map_err(TopologyError::Syntax)?;
        topology.check()?;
        let findings = topology.findings();
        Ok((topology, findings))
    }

    /// The site of this name.
    #[must_use]
    pub fn site(&self, name: &SiteName) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == *name)
    }

    /// Names of the data sites, in file order.
    pub fn data_sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(|site| site.kind == SiteKind::Data)
    }
}
