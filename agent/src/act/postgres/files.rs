//! The files of one server: configuration, signal files, password file, and the agent's own notes
//! in its run directory.
//!
//! As in Patroni the original postgresql.conf becomes postgresql.base.conf and is included; ours is
//! written whole, atomically, at every start and change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::dynamic::Dynamic;
use crate::config::{Config, User};
use crate::decide::view::Follow;

/// Parameters that the agent owns and passes on the command line (spec/patroni-compat.md 4.1), with
/// Patroni's defaults.
const OWNED: [(&str, &str); 9] = [
    ("wal_level", "replica"),
    ("hot_standby", "on"),
    ("max_connections", "100"),
    ("max_wal_senders", "10"),
    ("max_prepared_transactions", "0"),
    ("max_locks_per_transaction", "64"),
    ("max_worker_processes", "8"),
    ("max_replication_slots", "10"),
    ("wal_log_hints", "on"),
];

/// What is in force on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InForce {
    /// Whom the server follows in recovery.
    pub follow: Option<Follow>,
    /// `synchronous_standby_names`.
    pub synchronous: String,
}

/// Paths of one server.
#[derive(Debug, Clone)]
pub struct Files {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Run directory.
    pub run_dir: PathBuf,
    passfile: PathBuf,
}

impl Files {
    /// Paths under a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let run_dir = config.regent.run_dir.clone();
        let passfile = config.postgres.pgpass.clone().unwrap_or_else(|| run_dir.join("pgpass"));
        Self { data_dir: config.postgres.data_dir.clone(), run_dir, passfile }
    }

    /// Note that a copy or `initdb` has begun and not ended.
    #[must_use]
    pub fn incomplete(&self) -> PathBuf {
        self.run_dir.join("data-incomplete")
    }

    /// The server's own log.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.run_dir.join("postgresql.log")
    }

    /// Whether the signal file for standby mode is there.
    #[must_use]
    pub fn standby_signal(&self) -> bool {
        self.data_dir.join("standby.signal").exists()
    }

    /// Makes, or removes, the signal file.
    pub fn set_standby_signal(&self, on: bool) -> std::io::Result<()> {
        let file = self.data_dir.join("standby.signal");
        drop(std::fs::remove_file(self.data_dir.join("recovery.signal")));
        if on {
            write_atomically(&file, b"")
        } else {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        }
    }

    /// Writes the password file for replication, rewind and the agent itself.
    pub fn write_passfile(&self, config: &Config) -> std::io::Result<()> {
        let users = &config.postgres.authentication;
        let users = [Some(&users.superuser), Some(&users.replication), users.rewind.as_ref()];
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let mut text = String::new();
        for user in users.into_iter().flatten() {
            let password = escape(user.password.reveal());
            writeln!(text, "*:*:*:{}:{password}", escape(&user.username))
                .expect("writing to a String does not fail");
        }
        write_atomically(&self.passfile, text.as_bytes())
    }

    /// The command line for `postgres`.
    #[must_use]
    pub fn arguments(&self, config: &Config, dynamic: &Dynamic) -> Vec<String> {
        let (host, port) = config.postgres.listen_host_port();
        let mut arguments = vec!["-D".to_owned(), self.data_dir.to_string_lossy().into_owned()];
        let mut set = |name: &str, value: &str| {
            arguments.push("-c".to_owned());
            arguments.push(format!("{name}={value}"));
        };
        set("listen_addresses", host);
        set("port", &port.to_string());
        set("cluster_name", config.scope.as_str());
        for (name, default) in OWNED {
            set(name, dynamic.parameters.get(name).map_or(default, String::as_str));
        }
        arguments
    }

    /// Writes postgresql.conf and pg_hba.conf for this state.
    pub fn write_configuration(
        &self,
        config: &Config,
        dynamic: &Dynamic,
        in_force: &InForce,
    ) -> std::io::Result<()> {
        let main = self.data_dir.join("postgresql.conf");
        let base = self.data_dir.join("postgresql.base.conf");
        if !base.exists() {
            if main.exists() {
                std::fs::rename(&main, &base)?;
            } else {
                write_atomically(&base, b"")?;
            }
        }
        let mut parameters = dynamic.parameters.clone();
        if dynamic.slots.want_feedback(in_force.follow.as_ref()) {
            parameters.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        for (name, value) in &config.postgres.parameters {
            match value {
                Some(value) => parameters.insert(name.clone(), value.clone()),
                None => parameters.remove(name),
            };
        }
        for owned in ["listen_addresses", "port", "cluster_name", "synchronous_standby_names"] {
            parameters.remove(owned);
        }
        // The command line has these and wins; said here as well, or every reload would complain
        // about the other value in postgresql.base.conf.
        for (name, default) in OWNED {
            let value = dynamic.parameters.get(name).map_or(default, String::as_str);
            parameters.insert(name.to_owned(), value.to_owned());
        }
        if let Some(follow) = &in_force.follow {
            parameters.extend(self.recovery_parameters(config, follow));
            if !dynamic.slots.use_slots {
                parameters.insert("primary_slot_name".to_owned(), String::new());
            }
        }
        parameters.insert("synchronous_standby_names".to_owned(), in_force.synchronous.clone());
        write_atomically(&main, render(&parameters).as_bytes())?;
        let note = serde_json::to_vec(in_force).map_err(std::io::Error::other)?;
        write_atomically(&self.in_force(), &note)?;
        self.write_hba(config, dynamic)
    }

    fn in_force(&self) -> PathBuf {
        self.run_dir.join("in-force.json")
    }

    /// What an earlier life of this agent had written; nothing where the note is missing or not
    /// readable, and then it is written anew.
    #[must_use]
    pub fn read_in_force(&self) -> InForce {
        let note = std::fs::read(self.in_force()).ok();
        note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default()
    }

    fn write_hba(&self, config: &Config, dynamic: &Dynamic) -> std::io::Result<()> {
        if !config.postgres.pg_ident.is_empty() {
            let text = format!("{HEADER}{}\n", config.postgres.pg_ident.join("\n"));
            write_atomically(&self.data_dir.join("pg_ident.conf"), text.as_bytes())?;
        }
        let lines = [&config.postgres.pg_hba, &dynamic.pg_hba, &config.bootstrap.pg_hba];
        let Some(lines) = lines.into_iter().find(|lines| !lines.is_empty()) else { return Ok(()) };
        let text = format!("{HEADER}{}\n", lines.join("\n"));
        write_atomically(&self.data_dir.join("pg_hba.conf"), text.as_bytes())
    }

    fn recovery_parameters(&self, config: &Config, follow: &Follow) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::new();
        parameters.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
        let conninfo = match follow {
            Follow::Nobody => String::new(),
            Follow::Member { address, .. } => self.conninfo(
                &config.postgres.authentication.replication,
                std::slice::from_ref(address),
                config.name.as_str(),
            ),
            Follow::Site { addresses, .. } => self.conninfo(
                &config.postgres.authentication.replication,
                addresses,
                config.name.as_str(),
            ),
        };
        let slot = if conninfo.is_empty() { String::new() } else { config.name.slot() };
        parameters.insert("primary_conninfo".to_owned(), conninfo);
        parameters.insert("primary_slot_name".to_owned(), slot);
        parameters
    }

    /// A connection string without its password, which stands in the password file.
    #[must_use]
    pub fn conninfo(&self, user: &User, addresses: &[(String, u16)], application: &str) -> String {
        let hosts: Vec<&str> = addresses.iter().map(|(host, _)| host.as_str()).collect();
        let ports: Vec<String> = addresses.iter().map(|(_, port)| port.to_string()).collect();
        let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        format!(
            "user={} passfile={} host={} port={} application_name={} sslmode=prefer \
             connect_timeout=3 keepalives_idle=5 keepalives_interval=2 keepalives_count=3",
            quote(&user.username),
            quote(&self.passfile.to_string_lossy()),
            quote(&hosts.join(",")),
            quote(&ports.join(",")),
            quote(application),
        )
    }
}

const HEADER: &str = "# Written by the Regent agent; changes made here are lost.\n";

fn render(parameters: &BTreeMap<String, String>) -> String {
    let mut text = format!("{HEADER}include 'postgresql.base.conf'\n");
    for (name, value) in parameters {
        let value = value.replace('\'', "''");
        writeln!(text, "{name} = '{value}'").expect("writing to a String does not fail");
    }
    text
}

/// Writes a file of mode 0600 so that a crash leaves the old or the new one.
pub fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".regent-new");
    let temporary = PathBuf::from(temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
