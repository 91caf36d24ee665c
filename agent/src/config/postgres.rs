//! Patroni's sections `bootstrap` and `postgresql`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::scripts::{CallbacksSection, CommandLine};
use super::{Secret, split};

/// Patroni's `bootstrap` section.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Bootstrap {
    /// First dynamic configuration.
    pub dcs: Option<serde_json::Value>,
    /// `initdb` options: names, or one-entry maps.
    pub initdb: Vec<serde_json::Value>,
    /// Lines of pg_hba.conf where `postgresql.pg_hba` has none.
    pub pg_hba: Vec<String>,
}

/// Patroni's `postgresql` section.
#[derive(Debug, Clone, Deserialize)]
pub struct PostgresConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// `host:port` for others.
    #[serde(default)]
    pub connect_address: Option<String>,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Where PostgreSQL's programs are.
    #[serde(default)]
    pub bin_dir: PathBuf,
    /// Password file that the agent writes.
    #[serde(default)]
    pub pgpass: Option<PathBuf>,
    /// Local parameters, above the dynamic ones.
    #[serde(default)]
    pub parameters: BTreeMap<String, Option<String>>,
    /// Lines of pg_hba.conf.
    #[serde(default)]
    pub pg_hba: Vec<String>,
    /// Lines of pg_ident.conf.
    #[serde(default)]
    pub pg_ident: Vec<String>,
    /// Users.
    pub authentication: Authentication,
    /// Settings of recovery, above the dynamic ones.
    #[serde(default)]
    pub recovery_conf: BTreeMap<String, Option<String>>,
    /// What is told of the server's life.
    #[serde(default)]
    pub callbacks: CallbacksSection,
    /// Runs before a promotion, and can refuse it.
    #[serde(default)]
    pub pre_promote: Option<CommandLine>,
    /// Runs before a stop that waits for it.
    #[serde(default)]
    pub before_stop: Option<CommandLine>,
}

/// Users.
#[derive(Debug, Clone, Deserialize)]
pub struct Authentication {
    /// The agent's own.
    pub superuser: User,
    /// For streaming and base backups.
    pub replication: User,
    /// For `pg_rewind`; the superuser's where it is not given.
    #[serde(default)]
    pub rewind: Option<User>,
}

/// One user.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    /// Name.
    pub username: String,
    /// Password.
    #[serde(default)]
    pub password: Secret,
}

impl PostgresConfig {
    /// Host and port to listen on.
    #[must_use]
    pub fn listen_host_port(&self) -> (&str, u16) {
        split(&self.listen).unwrap_or(("localhost", 5432))
    }

    /// Host and port for others.
    #[must_use]
    pub fn connect_host_port(&self) -> (&str, u16) {
        self.connect_address.as_deref().and_then(split).unwrap_or_else(|| self.listen_host_port())
    }
}
