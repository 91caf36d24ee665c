//! What the processes of a lab read: the agents' and coordinators' files, etcd's arguments.
//!
//! Pure: a layout, a topology and the run's secrets in, text out. The files are what a person
//! would write for production, so they serve as examples too.

use std::path::Path;

use regent_proto::topology::{Site, Topology};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::Failure;

use super::layout::{EtcdPlace, Layout, NodePlace, StorePlace};

/// The passwords of one run, the same on all nodes of the federation.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    /// PostgreSQL's superuser `postgres`.
    pub superuser: String,
    /// The role `replicator`.
    pub replication: String,
    /// The role `rewinder`.
    pub rewind: String,
    /// The role `app`, which the demo and the benchmark write as.
    pub app: String,
}

/// What is printed instead of a secret.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Random ones.
    pub fn random() -> Result<Self, Failure> {
        let word = || {
            let mut bytes = [0_u8; 16];
            getrandom::fill(&mut bytes)
                .map_err(|e| Failure::error(format!("draw a random password: {e}")))?;
            Ok::<String, Failure>(hex::encode(bytes))
        };
        Ok(Self { superuser: word()?, replication: word()?, rewind: word()?, app: word()? })
    }

    /// As a PostgreSQL password file, for psql and people.
    #[must_use]
    pub fn pgpass(&self) -> String {
        format!(
            "*:*:*:postgres:{}\n*:*:*:replicator:{}\n*:*:*:rewinder:{}\n*:*:*:app:{}\n",
            self.superuser, self.replication, self.rewind, self.app
        )
    }

    /// Where they are kept, mode 0600.
    #[must_use]
    pub fn file(dir: &Path) -> std::path::PathBuf {
        dir.join("secrets.json")
    }

    /// Reads the secrets of the lab in `dir`.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let file = Self::file(dir);
        let fail = |problem: String| Failure::error(format!("read {}: {problem}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|e| fail(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| fail(e.to_string()))
    }
}

fn store(place: &StorePlace) -> (&'static str, Value) {
    match place {
        StorePlace::Sqlite { path } => ("sqlite", json!({ "path": path })),
        StorePlace::Etcd3 { hosts } => ("etcd3", json!({ "hosts": hosts })),
    }
}

fn quorum(layout: &Layout) -> Value {
    let (kind, place) = store(&layout.quorum);
    json!({ kind: place })
}

fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|e| Failure::error(format!("write YAML: {e}")))
}

/// Server settings of every PostgreSQL of a lab, also of the benchmark's bare servers.
#[must_use]
pub fn server_settings() -> Value {
    json!({
        "max_connections": 60,
        "shared_buffers": "32MB",
        "wal_keep_size": "256MB",
        "max_wal_senders": 16,
        "max_replication_slots": 16,
        "wal_log_hints": "on",
        "hot_standby": "on",
        "wal_level": "replica",
        // In the data directory, so that a killed server leaves nothing in /dev/shm.
        "dynamic_shared_memory_type": "mmap",
        "max_worker_processes": 8,
        "wal_receiver_timeout": "5s",
        "wal_sender_timeout": "5s",
        "wal_retrieve_retry_interval": "200ms",
        "autovacuum_max_workers": 1,
    })
}

/// An agent's configuration file.
pub fn agent(
    layout: &Layout,
    topology: &Topology,
    node: &NodePlace,
    secrets: &Secrets,
) -> Result<String, Failure> {
    let site = topology.site(&node.site).ok_or_else(|| unknown(node))?;
    let (kind, place) =
        layout.site_stores.get(&node.site).map(store).ok_or_else(|| unknown(node))?;
    let run_dir = layout.run_dir(node);
    let rest = format!("127.0.0.1:{}", node.rest_port);
    let listen = format!("127.0.0.1:{}", node.postgres_port);
    let mut file = json!({
        "scope": node.site,
        "namespace": "/service",
        "name": node.name,
        "restapi": { "listen": rest, "connect_address": rest },
        kind: place,
        "federation": {
            "name": layout.federation, "site": node.site, "quorum": quorum(layout),
        },
        "regent": {
            "run_dir": run_dir, "stop_budget": "1500ms",
            "log": { "format": "json", "level": "info" },
        },
        // Several nodes share this machine, and none of them may reset it.
        "watchdog": { "mode": "off" },
        "bootstrap": bootstrap(topology, site),
        "postgresql": {
            "listen": listen,
            "connect_address": listen,
            "data_dir": layout.data_dir(node),
            "bin_dir": layout.postgres_bin,
            "pgpass": run_dir.join("pgpass"),
            "authentication": {
                "superuser": { "username": "postgres", "password": secrets.superuser },
                "replication": { "username": "replicator", "password": secrets.replication },
                "rewind": { "username": "rewinder", "password": secrets.rewind },
            },
            "parameters": { "unix_socket_directories": run_dir },
            "pg_hba": [
                "local all all scram-sha-256",
                "host replication replicator 127.0.0.1/32 scram-sha-256",
                "host all all 127.0.0.1/32 scram-sha-256",
            ],
        },
        "tags": {},
    });
    if let Some(port) = node.promise_port {
        file["federation"]["promise"] = json!({ "listen": format!("127.0.0.1:{port}") });
    }
    yaml(&file)
}

fn bootstrap(topology: &Topology, site: &Site) -> Value {
    json!({
        "dcs": {
            "ttl": topology.policy.site_ttl.0.as_secs(),
            "loop_wait": 1,
            "retry_timeout": 1,
            "failsafe_mode": topology.policy.failsafe.in_site(),
            "synchronous_mode": site.synchronous,
            "maximum_lag_on_failover": 16_777_216,
            "postgresql": {
                "use_pg_rewind": true,
                // Nobody sits beside a lab to rebuild its nodes.
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
                "parameters": server_settings(),
            },
        },
        "initdb": [{ "encoding": "UTF8" }, { "locale": "C" }, "data-checksums"],
    })
}

fn unknown(node: &NodePlace) -> Failure {
    Failure::error(format!("write configuration of {}: no site {}", node.name, node.site))
}

/// A coordinator's configuration file.
pub fn coordinator(
    layout: &Layout,
    place: &super::layout::CoordinatorPlace,
) -> Result<String, Failure> {
    yaml(&json!({
        "name": place.name,
        "site": place.site,
        "listen": format!("127.0.0.1:{}", place.port),
        "federations": [{ "name": layout.federation, "quorum": quorum(layout) }],
        "log": { "format": "json", "level": "info" },
    }))
}

/// An etcd member's arguments, after the program's name.
#[must_use]
pub fn etcd(layout: &Layout, place: &EtcdPlace) -> Vec<String> {
    let peers: Vec<String> = layout
        .etcds
        .iter()
        .filter(|other| other.cluster == place.cluster)
        .map(|other| format!("{}=http://127.0.0.1:{}", other.name, other.peer_port))
        .collect();
    let client = format!("http://127.0.0.1:{}", place.client_port);
    let peer = format!("http://127.0.0.1:{}", place.peer_port);
    let data = layout.dir.join("stores").join(&place.name).display().to_string();
    let token = format!("{}-{}", layout.federation, place.cluster);
    [
        ("--name", place.name.clone()),
        ("--data-dir", data),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", peers.join(",")),
        ("--initial-cluster-state", "new".to_owned()),
        ("--initial-cluster-token", token),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::layout::tests::example;
    use regent_proto::topology::StoreKind;

    fn secrets() -> Secrets {
        let word = |word: &str| word.to_owned();
        Secrets {
            superuser: word("s1"),
            replication: word("r2"),
            rewind: word("w3"),
            app: word("a4"),
        }
    }

    fn topology() -> Topology {
        let text = include_str!("../../../topologies/two-sites-and-witness.yaml");
        Topology::parse(text).expect("the shipped topology is valid").0
    }

    #[test]
    fn an_agents_file_reads_back_as_what_the_agent_expects() {
        let layout = example(None, "/tmp/lab").expect("a layout");
        let text = agent(&layout, &topology(), &layout.nodes[0], &secrets()).expect("a file");
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read["scope"], "eu");
        assert_eq!(read["name"], "eu-1");
        assert_eq!(read["sqlite"]["path"], "/tmp/lab/stores/site-eu.db");
        assert_eq!(read["federation"]["quorum"]["sqlite"]["path"], "/tmp/lab/stores/quorum.db");
        assert_eq!(read["bootstrap"]["dcs"]["ttl"], 5);
        assert_eq!(read["bootstrap"]["dcs"]["synchronous_mode"], true);
        assert_eq!(read["bootstrap"]["initdb"][2], "data-checksums");
        assert_eq!(read["postgresql"]["authentication"]["superuser"]["password"], "s1");
        assert!(text.contains("scram-sha-256") && !text.contains("trust"), "{text}");
    }

    #[test]
    fn a_coordinators_file_names_its_quorum() {
        let layout = example(Some(StoreKind::Etcd), "/tmp/lab").expect("a layout");
        let text = coordinator(&layout, &layout.coordinators[0]).expect("a file");
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read["federations"][0]["name"], "two-sites");
        let hosts = read["federations"][0]["quorum"]["etcd3"]["hosts"].as_array().map(Vec::len);
        assert_eq!(hosts, Some(3));
    }

    #[test]
    fn etcd_members_know_the_peers_of_their_own_cluster_only() {
        let layout = example(Some(StoreKind::Etcd), "/tmp/lab").expect("a layout");
        let argv = etcd(&layout, &layout.etcds[0]).join(" ");
        assert!(argv.contains("quorum-us=http://127.0.0.1:"), "{argv}");
        assert!(!argv.contains("etcd-us="), "{argv}");
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", secrets()), "Secrets(…)");
        assert!(secrets().pgpass().starts_with("*:*:*:postgres:s1\n"));
    }
}
