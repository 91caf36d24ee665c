//! A topology laid out on one machine: which process listens where and keeps its files where.
//!
//! Pure: ports come from the caller. Written as `lab.json` into the lab's directory, where every
//! other verb finds it. Holds no secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regent_proto::name::{CoordinatorName, FederationName, NodeName, SiteName};
use regent_proto::topology::{StoreKind, Topology};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Longest path of a Unix socket that the kernel takes, less PostgreSQL's file name in it.
const LONGEST_SOCKET_DIRECTORY: usize = 107 - "/.s.PGSQL.65535.lock".len();

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The federation.
    pub federation: FederationName,
    /// Everything the lab makes lies in here.
    pub dir: PathBuf,
    /// PostgreSQL's programs.
    pub postgres_bin: PathBuf,
    /// PostgreSQL's major version.
    pub postgres_major: u32,
    /// Blocks of ports that the lab's owner keeps claimed (see [`super::ports`]).
    pub port_blocks: Vec<u16>,
    /// The data nodes, in topology order.
    pub nodes: Vec<NodePlace>,
    /// The coordinators, one a site.
    pub coordinators: Vec<CoordinatorPlace>,
    /// etcd members, if any.
    pub etcds: Vec<EtcdPlace>,
    /// Each data site's store.
    pub site_stores: BTreeMap<SiteName, StorePlace>,
    /// The global quorum.
    pub quorum: StorePlace,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlace {
    /// Its name.
    pub name: NodeName,
    /// Its site.
    pub site: SiteName,
    /// PostgreSQL's port.
    pub postgres_port: u16,
    /// The REST API's port.
    pub rest_port: u16,
    /// Where it promises for its site, with failsafe of the quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise_port: Option<u16>,
}

/// One coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorPlace {
    /// Its name.
    pub name: CoordinatorName,
    /// Its site.
    pub site: SiteName,
    /// The gRPC port.
    pub port: u16,
}

/// One etcd member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdPlace {
    /// Its process name, `etcd-SITE` for a site's store, `quorum-SITE` for a voter.
    pub name: String,
    /// Which members form one cluster: a site's name, or `quorum`.
    pub cluster: String,
    /// For clients.
    pub client_port: u16,
    /// For its peers.
    pub peer_port: u16,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorePlace {
    /// A file.
    Sqlite {
        /// Its path.
        path: PathBuf,
    },
    /// Client addresses of the members.
    Etcd3 {
        /// `host:port`.
        hosts: Vec<String>,
    },
}

/// What a layout needs beside the topology.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The lab's directory.
    pub dir: PathBuf,
    /// PostgreSQL's programs.
    pub postgres_bin: PathBuf,
    /// PostgreSQL's major version.
    pub postgres_major: u32,
    /// Use this store everywhere.
    pub dcs: Option<StoreKind>,
}

/// Where a named port stands in the topology file, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortWish {
    /// The port, when the topology names one.
    pub port: Option<u16>,
    /// The place in the file.
    pub place: String,
}

impl Layout {
    /// Lays out `topology`; `take` gives the port wished for, or any.
    pub fn new(
        topology: &Topology,
        ground: &Ground,
        mut take: impl FnMut(&PortWish) -> Result<u16, Failure>,
    ) -> Result<Self, Failure> {
        let mut layout = Self {
            federation: topology.federation.clone(),
            dir: ground.dir.clone(),
            postgres_bin: ground.postgres_bin.clone(),
            postgres_major: ground.postgres_major,
            port_blocks: Vec::new(),
            nodes: Vec::new(),
            coordinators: Vec::new(),
            etcds: Vec::new(),
            site_stores: BTreeMap::new(),
            quorum: StorePlace::Sqlite { path: ground.dir.join("stores/quorum.db") },
        };
        let mut any = || take(&PortWish { port: None, place: String::new() });
        let mut etcds = Vec::new();
        let mut member = |name: String, cluster: &str, etcds: &mut Vec<EtcdPlace>| {
            let place = EtcdPlace {
                name,
                cluster: cluster.to_owned(),
                client_port: any()?,
                peer_port: any()?,
            };
            let host = format!("127.0.0.1:{}", place.client_port);
            etcds.push(place);
            Ok::<String, Failure>(host)
        };
        if ground.dcs.unwrap_or(topology.quorum.store) == StoreKind::Etcd {
            let mut hosts = Vec::new();
            for site in &topology.quorum.voters {
                hosts.push(member(format!("quorum-{site}"), "quorum", &mut etcds)?);
            }
            layout.quorum = StorePlace::Etcd3 { hosts };
        }
        for site in topology.data_sites() {
            let kind = ground.dcs.or(site.dcs).unwrap_or(StoreKind::Embedded);
            let store = match kind {
                StoreKind::Embedded => StorePlace::Sqlite {
                    path: ground.dir.join(format!("stores/site-{}.db", site.name)),
                },
                StoreKind::Etcd => {
                    // `quorum` can't be a cluster of a site: sites' clusters have a prefix.
                    let cluster = format!("site-{}", site.name);
                    let host = member(format!("etcd-{}", site.name), &cluster, &mut etcds)?;
                    StorePlace::Etcd3 { hosts: vec![host] }
                }
            };
            layout.site_stores.insert(site.name.clone(), store);
        }
        layout.etcds = etcds;
        layout.place_nodes(topology, &mut take)?;
        layout.check_paths()?;
        Ok(layout)
    }

    fn place_nodes(
        &mut self,
        topology: &Topology,
        take: &mut impl FnMut(&PortWish) -> Result<u16, Failure>,
    ) -> Result<(), Failure> {
        for (i, site) in topology.sites.iter().enumerate() {
            for (j, node) in site.nodes.iter().enumerate() {
                let wish = |field: &str, port| PortWish {
                    port,
                    place: format!("sites[{i}].nodes[{j}].{field} of {}", node.name),
                };
                self.nodes.push(NodePlace {
                    name: node.name.clone(),
                    site: site.name.clone(),
                    postgres_port: take(&wish("postgres_port", node.postgres_port))?,
                    rest_port: take(&wish("rest_port", node.rest_port))?,
                    promise_port: match topology.policy.failsafe.in_quorum() {
                        true => Some(take(&wish("promise_port", None))?),
                        false => None,
                    },
                });
            }
            let name = format!("{}-c1", site.name);
            self.coordinators.push(CoordinatorPlace {
                name: name.parse().map_err(|e| Failure::usage(format!("name coordinator: {e}")))?,
                site: site.name.clone(),
                port: take(&PortWish { port: None, place: String::new() })?,
            });
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), Failure> {
        let longest =
            self.nodes.iter().map(|node| self.run_dir(node)).max_by_key(|p| p.as_os_str().len());
        match longest {
            Some(path) if path.as_os_str().len() > LONGEST_SOCKET_DIRECTORY => {
                Err(Failure::usage(format!(
                    "the socket directory {} has {} characters, more than the {} that a Unix \
                     socket's path leaves; give a shorter --dir",
                    path.display(),
                    path.as_os_str().len(),
                    LONGEST_SOCKET_DIRECTORY
                )))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodePlace> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }

    /// Names of all nodes, for messages.
    #[must_use]
    pub fn node_names(&self) -> String {
        self.nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// A node's directory for sockets and the like.
    #[must_use]
    pub fn run_dir(&self, node: &NodePlace) -> PathBuf {
        self.dir.join("run").join(node.name.as_str())
    }

    /// A node's data directory.
    #[must_use]
    pub fn data_dir(&self, node: &NodePlace) -> PathBuf {
        self.dir.join("nodes").join(node.name.as_str()).join("data")
    }

    /// The coordinators' addresses.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.coordinators.iter().map(|c| format!("127.0.0.1:{}", c.port)).collect()
    }

    /// Address and control socket of the lab's owner process.
    #[must_use]
    pub fn control_socket(dir: &Path) -> PathBuf {
        dir.join("control.sock")
    }

    /// Where this layout is kept.
    #[must_use]
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("lab.json")
    }

    /// A process's log.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("log").join(format!("{process}.log"))
    }

    /// A process's configuration.
    #[must_use]
    pub fn config(&self, process: &str) -> PathBuf {
        self.dir.join("config").join(format!("{process}.yml"))
    }

    /// Reads the layout of the lab in `dir`.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let file = Self::file(dir);
        let text = std::fs::read_to_string(&file).map_err(|e| {
            Failure::error(format!("no lab in {}: read {}: {e}", dir.display(), file.display()))
                .next("regentctl lab up TOPOLOGY.yaml")
        })?;
        serde_json::from_str(&text)
            .map_err(|e| Failure::error(format!("read {}: {e}", file.display())))
    }
}

impl NodePlace {
    /// The name of its agent's process.
    #[must_use]
    pub fn agent(&self) -> String {
        format!("agent-{}", self.name)
    }
}

impl CoordinatorPlace {
    /// The name of its process.
    #[must_use]
    pub fn process(&self) -> String {
        format!("coordinator-{}", self.site)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::lab) fn example(dcs: Option<StoreKind>, dir: &str) -> Result<Layout, Failure> {
        let text = include_str!("../../../topologies/two-sites-and-witness.yaml");
        let (topology, _) = Topology::parse(text).expect("the shipped topology is valid");
        let ground = Ground {
            dir: PathBuf::from(dir),
            postgres_bin: PathBuf::from("/usr/lib/postgresql/15/bin"),
            postgres_major: 15,
            dcs,
        };
        let mut next = 20_000;
        Layout::new(&topology, &ground, |wish| {
            next += 1;
            Ok(wish.port.unwrap_or(next))
        })
    }

    #[test]
    fn every_site_has_a_coordinator_and_a_store_of_its_own() {
        let layout = example(None, "/tmp/lab").expect("a layout");
        assert_eq!(layout.nodes.len(), 4);
        assert_eq!(layout.coordinators.len(), 3);
        assert_eq!(layout.site_stores.len(), 2);
        assert!(layout.etcds.is_empty());
        assert_eq!(layout.quorum, StorePlace::Sqlite { path: "/tmp/lab/stores/quorum.db".into() });
    }

    #[test]
    fn etcd_everywhere_is_one_member_a_site_and_one_a_voter() {
        let layout = example(Some(StoreKind::Etcd), "/tmp/lab").expect("a layout");
        let names: Vec<&str> = layout.etcds.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["quorum-eu", "quorum-us", "quorum-witness", "etcd-eu", "etcd-us"]);
        assert!(matches!(&layout.quorum, StorePlace::Etcd3 { hosts } if hosts.len() == 3));
    }

    #[test]
    fn a_directory_too_long_for_sockets_is_refused_with_the_numbers() {
        let failure = example(None, &format!("/tmp/{}", "x".repeat(90))).expect_err("too long");
        assert!(failure.message.contains("shorter --dir"), "{failure}");
    }
}
