//! What a topology must be, and what it had better be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SiteKind, StoreKind, Topology};
use crate::name::SiteName;

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
    pub(super) fn check(&self) -> Result<(), TopologyError> {
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
        match self.policy.automatic_promotion.problem(self.policy.primary_ttl) {
            None => Ok(()),
            Some((place, problem)) => Err(TopologyError::Timing {
                place: format!("policy.automatic_promotion.{place}"),
                problem,
            }),
        }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
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
