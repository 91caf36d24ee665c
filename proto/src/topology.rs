//! The topology file: sites, links, quorum, policy. The same file is applied to a federation,
//! started as a lab on one machine, and loaded by tests.
//!
//! Edited by people, so unknown keys are errors, and every error names the place, the value and
//! what is accepted. Things that are allowed but dangerous are named [`Warning`]s, which a lab
//! topology can silence by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{FederationName, NodeName, SiteName};

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

/// A duration that must be written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|problem| {
            format!("duration {text:?} is not valid ({problem}): want a number with its unit, as in 500ms, 30s, 5m")
        })
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        humantime::format_duration(span.0).to_string()
    }
}

/// A number of bytes that must be written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = UNITS.iter().find_map(|(unit, factor)| {
            let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
            number.checked_mul(*factor)
        });
        parsed.map(Self).ok_or_else(|| {
            format!("size {text:?} is not valid: want a whole number with one of PostgreSQL's units B, kB, MB, GB, TB, as in 16MB")
        })
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| size.0 >= *factor && size.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        format!("{}{unit}", size.0 / factor)
    }
}

/// Allowed, but dangerous outside a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// The global quorum is one file or one server.
    SingleStoreQuorum,
    /// Fewer than three sites vote.
    FewVoterSites,
    /// A data site with one node: no failover inside it.
    SingleNodeSite,
}

impl Warning {
    /// Name as written in `lab.accept`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleStoreQuorum => "single-store-quorum",
            Self::FewVoterSites => "few-voter-sites",
            Self::SingleNodeSite => "single-node-site",
        }
    }
}

/// What is wrong in a topology: the place, the value, what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Not YAML of this form.
    #[error("{0}")]
    Syntax(String),
    /// Two things have one name.
    #[error("{place}: the name {name:?} is used twice; names are unique in the federation")]
    Duplicate {
        /// Where.
        place: String,
        /// Which.
        name: String,
    },
    /// Two things listen on one port.
    #[error("{place}: port {port} is used twice in site {site}; every listener needs its own")]
    DuplicatePort {
        /// Where.
        place: String,
        /// Which.
        port: u16,
        /// Site.
        site: SiteName,
    },
    /// A name that no site has.
    #[error("{place}: there is no site {name}; sites are {known}")]
    UnknownSite {
        /// Where.
        place: String,
        /// The name seen.
        name: SiteName,
        /// The names there are.
        known: String,
    },
    /// Something a site must or must not have.
    #[error("{place}: {problem}")]
    Site {
        /// Where.
        place: String,
        /// What is seen and what is wanted.
        problem: String,
    },
    /// Timings that do not fit.
    #[error("{place}: {problem}")]
    Timing {
        /// Where.
        place: String,
        /// The numbers.
        problem: String,
    },
}

/// A named warning with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub warning: Warning,
    /// In words, with the place.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.warning.name(), self.text)
    }
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

    fn check(&self) -> Result<(), TopologyError> {
        self.check_names()?;
        self.check_ports()?;
        self.check_sites()?;
        self.check_references()?;
        self.check_timing()
    }

    fn check_names(&self) -> Result<(), TopologyError> {
        let mut sites = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for (i, site) in self.sites.iter().enumerate() {
            if !sites.insert(&site.name) {
                let place = format!("sites[{i}].name");
                return Err(TopologyError::Duplicate { place, name: site.name.to_string() });
            }
            for (j, node) in site.nodes.iter().enumerate() {
                // PostgreSQL matches application_name without regard to case.
                if !nodes.insert(node.name.as_str().to_lowercase()) {
                    let place = format!("sites[{i}].nodes[{j}].name");
                    return Err(TopologyError::Duplicate { place, name: node.name.to_string() });
                }
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), TopologyError> {
        // On one machine all sites share their ports, elsewhere only the nodes of one host would;
        // since the file is also a lab's, a port is used once.
        let mut ports = BTreeSet::new();
        for (i, site) in self.sites.iter().enumerate() {
            for (j, node) in site.nodes.iter().enumerate() {
                let named = [("postgres_port", node.postgres_port), ("rest_port", node.rest_port)];
                for (field, port) in named {
                    let Some(port) = port else { continue };
                    if !ports.insert(port) {
                        let place = format!("sites[{i}].nodes[{j}].{field}");
                        let site = site.name.clone();
                        return Err(TopologyError::DuplicatePort { place, port, site });
                    }
                }
            }
        }
        Ok(())
    }

    fn check_sites(&self) -> Result<(), TopologyError> {
        for (i, site) in self.sites.iter().enumerate() {
            let problem = match site.kind {
                SiteKind::Data if site.nodes.is_empty() => Some((
                    "nodes",
                    format!("data site {} has no nodes; it needs at least one", site.name),
                )),
                SiteKind::Data if site.dcs.is_none() => Some((
                    "dcs",
                    format!(
                        "data site {} has no DCS; want `dcs: embedded` or `dcs: etcd`",
                        site.name
                    ),
                )),
                SiteKind::Witness if !site.nodes.is_empty() => Some((
                    "nodes",
                    format!(
                        "witness site {} has nodes; a witness holds no database (kind: data does)",
                        site.name
                    ),
                )),
                SiteKind::Data | SiteKind::Witness => None,
            };
            if let Some((field, problem)) = problem {
                return Err(TopologyError::Site { place: format!("sites[{i}].{field}"), problem });
            }
        }
        Ok(())
    }

    fn check_references(&self) -> Result<(), TopologyError> {
        self.known("primary", &self.primary, true)?;
        for (i, link) in self.links.iter().enumerate() {
            for name in &link.between {
                self.known(&format!("links[{i}].between"), name, true)?;
            }
            if link.between[0] == link.between[1] {
                let problem = format!("site {} cannot be linked to itself", link.between[0]);
                return Err(TopologyError::Site { place: format!("links[{i}].between"), problem });
            }
        }
        let mut voters = BTreeSet::new();
        for (i, name) in self.quorum.voters.iter().enumerate() {
            let place = format!("quorum.voters[{i}]");
            self.known(&place, name, false)?;
            if !voters.insert(name) {
                return Err(TopologyError::Duplicate { place, name: name.to_string() });
            }
        }
        self.check_reachability()
    }

    fn known(&self, place: &str, name: &SiteName, data: bool) -> Result<(), TopologyError> {
        let place = place.to_owned();
        match self.site(name) {
            None => {
                let known =
                    self.sites.iter().map(|s| s.name.to_string()).collect::<Vec<_>>().join(", ");
                Err(TopologyError::UnknownSite { place, name: name.clone(), known })
            }
            Some(site) if data && site.kind == SiteKind::Witness => {
                let problem = format!("site {name} is a witness and holds no database");
                Err(TopologyError::Site { place, problem })
            }
            Some(_) => Ok(()),
        }
    }

    /// Every data site can be reached from the primary over links, or it could never follow.
    fn check_reachability(&self) -> Result<(), TopologyError> {
        let mut reached = BTreeMap::from([(&self.primary, ())]);
        loop {
            let next = self.links.iter().find_map(|link| {
                let [a, b] = &link.between;
                match (reached.contains_key(a), reached.contains_key(b)) {
                    (true, false) => Some(b),
                    (false, true) => Some(a),
                    (true, true) | (false, false) => None,
                }
            });
            match next {
                Some(site) => reached.insert(site, ()),
                None => break,
            };
        }
        match self.data_sites().find(|site| !reached.contains_key(&site.name)) {
            None => Ok(()),
            Some(site) => Err(TopologyError::Site {
                place: "links".to_owned(),
                problem: format!(
                    "site {} cannot be reached from the primary site {} over any link; add one",
                    site.name, self.primary
                ),
            }),
        }
    }

    fn check_timing(&self) -> Result<(), TopologyError> {
        let (site, primary) = (self.policy.site_ttl.0, self.policy.primary_ttl.0);
        if site < Duration::from_secs(3) {
            return Err(TopologyError::Timing {
                place: "policy.site_ttl".to_owned(),
                problem: format!("{site:?} is too short; want at least 3s"),
            });
        }
        if primary < site * 3 {
            return Err(TopologyError::Timing {
                place: "policy.primary_ttl".to_owned(),
                problem: format!(
                    "{primary:?} is less than three times site_ttl ({site:?}); a failover inside \
                     a site must not cost it the primary lease: want at least {:?}",
                    site * 3
                ),
            });
        }
        Ok(())
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let federated = self.data_sites().count() > 1;
        if federated && self.quorum.store == StoreKind::Embedded {
            findings.push(Finding {
                warning: Warning::SingleStoreQuorum,
                text: "quorum.store is the embedded store, one file on one machine: when that \
                       machine is gone the quorum is gone; use etcd over three sites"
                    .to_owned(),
            });
        }
        if federated && self.quorum.voters.len() < 3 {
            findings.push(Finding {
                warning: Warning::FewVoterSites,
                text: format!(
                    "quorum.voters names {} site(s): the loss of one site can take the quorum \
                     with it; want at least three, one of them may be a witness",
                    self.quorum.voters.len()
                ),
            });
        }
        for (i, site) in self.sites.iter().enumerate() {
            if site.kind == SiteKind::Data && site.nodes.len() == 1 {
                findings.push(Finding {
                    warning: Warning::SingleNodeSite,
                    text: format!("sites[{i}].nodes: site {} has no second node", site.name),
                });
            }
        }
        findings.retain(|finding| !self.lab.accept.contains(&finding.warning));
        findings
    }
}
