//! The configuration file as it is written, section by section, before anything is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regent_dcs::etcd::EtcdConfig;
use regent_dcs::etcd::section::{self, Unfit};
use regent_proto::name::{FederationName, NodeName, Scope, SiteName};
use serde::Deserialize;

use super::postgres::{Bootstrap, PostgresConfig, User};
use super::regent::RegentConfig;
use super::watchdog::WatchdogConfig;
use super::{Secret, promise};

#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) scope: Scope,
    #[serde(default = "default_namespace")]
    pub(super) namespace: String,
    pub(super) name: NodeName,
    pub(super) restapi: RestSection,
    #[serde(default)]
    pub(super) sqlite: Option<SqliteSection>,
    #[serde(default)]
    pub(super) etcd3: Option<EtcdSection>,
    #[serde(default)]
    pub(super) federation: Option<FederationSection>,
    #[serde(default)]
    pub(super) regent: RegentConfig,
    #[serde(default)]
    pub(super) bootstrap: Bootstrap,
    pub(super) postgresql: PostgresConfig,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub(super) watchdog: WatchdogConfig,
}

fn default_namespace() -> String {
    "/service".to_owned()
}

#[derive(Debug, Deserialize)]
pub(super) struct RestSection {
    pub(super) listen: String,
    #[serde(default)]
    pub(super) connect_address: Option<String>,
    #[serde(default)]
    pub(super) certfile: Option<PathBuf>,
    #[serde(default)]
    pub(super) authentication: Option<User>,
    #[serde(default)]
    pub(super) allowlist: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) allowlist_include_members: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) verify_client: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqliteSection {
    pub(super) path: PathBuf,
}

/// Patroni's `etcd3` section, as far as it is used; it may have more.
#[derive(Debug, Deserialize)]
pub(super) struct EtcdSection {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    cacert: Option<PathBuf>,
    #[serde(default)]
    cert: Option<PathBuf>,
    #[serde(default)]
    key: Option<PathBuf>,
}

impl EtcdSection {
    pub(super) fn config(self) -> Result<EtcdConfig, Unfit> {
        let Self { hosts, host, protocol, username, password, cacert, cert, key } = self;
        let hosts = hosts.into_iter().chain(host).collect();
        let password = password.map(|password| password.reveal().to_owned());
        section::EtcdSection { hosts, protocol, username, password, cacert, cert, key }.config()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FederationSection {
    pub(super) name: FederationName,
    pub(super) site: SiteName,
    pub(super) quorum: QuorumSection,
    #[serde(default)]
    pub(super) promise: Option<promise::Section>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuorumSection {
    #[serde(default)]
    pub(super) sqlite: Option<SqliteSection>,
    #[serde(default)]
    pub(super) etcd3: Option<EtcdSection>,
}
