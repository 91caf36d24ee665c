//! The configuration file of a coordinator.
//!
//! Edited by people, so an unknown key is an error, and every message names the place, the value
//! and what is accepted. Reading it has no effect; nothing is opened or bound here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use regent_dcs::etcd::{EtcdConfig, section};
use regent_proto::name::{CoordinatorName, FederationName, SiteName};
use regent_proto::yaml;
use serde::Deserialize;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration {}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML of this form.
    #[error("configuration {}: {problem}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// The parser's words, with line, column and what is accepted.
        problem: String,
    },
    /// A value that does not fit.
    #[error("configuration {}: {place}: {problem}", path.display())]
    Value {
        /// Which.
        path: PathBuf,
        /// The key.
        place: String,
        /// What was seen and what is accepted.
        problem: String,
    },
}

/// A coordinator's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, unique among all coordinators of its federations.
    pub name: CoordinatorName,
    /// Its site.
    pub site: SiteName,
    /// Where the gRPC API listens.
    pub listen: SocketAddr,
    /// The API's address as others reach it.
    pub advertise: String,
    /// Off loopback without TLS: allowed, and shown in `status`.
    pub insecure: bool,
    /// TLS.
    pub tls: Option<Tls>,
    /// The federations it serves.
    pub federations: Vec<FederationConfig>,
    /// Logging.
    pub log: Log,
}

/// PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA whose clients are let in; without it any client is.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// One federation.
#[derive(Debug, Clone)]
pub struct FederationConfig {
    /// Its name.
    pub name: FederationName,
    /// Its global quorum.
    pub quorum: QuorumConfig,
}

/// Where a global quorum is.
#[derive(Debug, Clone)]
pub enum QuorumConfig {
    /// The embedded store.
    Sqlite(PathBuf),
    /// etcd v3.
    Etcd(EtcdConfig),
}

/// Logging.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what somebody must act on.
    Error,
    /// What somebody should look at.
    Warn,
    /// Every change of mind.
    #[default]
    Info,
    /// Every transaction.
    Debug,
}

impl LogLevel {
    /// As the log filter writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: CoordinatorName,
    site: SiteName,
    listen: String,
    #[serde(default)]
    advertise: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    tls: Option<Tls>,
    federations: Vec<FederationSection>,
    #[serde(default)]
    log: Log,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FederationSection {
    name: FederationName,
    quorum: QuorumSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuorumSection {
    #[serde(default)]
    sqlite: Option<SqliteSection>,
    #[serde(default)]
    etcd3: Option<EtcdSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqliteSection {
    path: PathBuf,
}

/// The names are Patroni's, as in an agent's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EtcdSection {
    hosts: Vec<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    cacert: Option<PathBuf>,
    #[serde(default)]
    cert: Option<PathBuf>,
    #[serde(default)]
    key: Option<PathBuf>,
}

impl From<EtcdSection> for section::EtcdSection {
    fn from(section: EtcdSection) -> Self {
        let EtcdSection { hosts, protocol, username, password, cacert, cert, key } = section;
        Self { hosts, protocol, username, password, cacert, cert, key }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks a configuration; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = yaml::read(text)
            .map_err(|problem| ConfigError::Syntax { path: path.to_owned(), problem })?;
        let checks = Checks { path };
        let listen = checks.listen(&file)?;
        let advertise = checks.advertise(file.advertise, listen)?;
        let federations = checks.federations(file.federations)?;
        Ok(Self {
            name: file.name,
            site: file.site,
            listen,
            advertise,
            insecure: file.insecure && file.tls.is_none(),
            tls: file.tls,
            federations,
            log: file.log,
        })
    }
}

struct Checks<'a> {
    path: &'a Path,
}

impl Checks<'_> {
    fn wrong(&self, place: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            place: place.into(),
            problem: problem.into(),
        }
    }

    fn listen(&self, file: &File) -> Result<SocketAddr, ConfigError> {
        let listen: SocketAddr = file.listen.parse().map_err(|_| {
            self.wrong(
                "listen",
                format!(
                    "{:?} is not an address: want IP:PORT, as in 127.0.0.1:7000 or [::1]:7000",
                    file.listen
                ),
            )
        })?;
        if !listen.ip().is_loopback() && file.tls.is_none() && !file.insecure {
            return Err(self.wrong(
                "listen",
                format!(
                    "{listen} is not loopback and there is no `tls:` section, so anybody who \
                     reaches it could switch primacy over; add `tls:`, or listen on loopback, or \
                     set `insecure: true` (which status then shows)"
                ),
            ));
        }
        Ok(listen)
    }

    fn advertise(
        &self,
        advertise: Option<String>,
        listen: SocketAddr,
    ) -> Result<String, ConfigError> {
        let Some(advertise) = advertise else {
            if listen.ip().is_unspecified() {
                let problem = format!(
                    "is needed because `listen` is {listen}, which nobody else can call: want \
                     HOST:PORT"
                );
                return Err(self.wrong("advertise", problem));
            }
            return Ok(listen.to_string());
        };
        let fits = advertise
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if fits {
            Ok(advertise)
        } else {
            let problem = format!("{advertise:?} is not an address: want HOST:PORT");
            Err(self.wrong("advertise", problem))
        }
    }

    fn federations(
        &self,
        sections: Vec<FederationSection>,
    ) -> Result<Vec<FederationConfig>, ConfigError> {
        if sections.is_empty() {
            let problem = "is empty: want at least one, each with `name:` and `quorum:`";
            return Err(self.wrong("federations", problem));
        }
        let mut federations: Vec<FederationConfig> = Vec::new();
        for (i, section) in sections.into_iter().enumerate() {
            if federations.iter().any(|known| known.name == section.name) {
                let problem = format!("{} is there twice; names are unique", section.name);
                return Err(self.wrong(format!("federations[{i}].name"), problem));
            }
            let quorum = self.quorum(&format!("federations[{i}].quorum"), section.quorum)?;
            federations.push(FederationConfig { name: section.name, quorum });
        }
        Ok(federations)
    }

    fn quorum(&self, place: &str, section: QuorumSection) -> Result<QuorumConfig, ConfigError> {
        match (section.sqlite, section.etcd3) {
            (Some(sqlite), None) => Ok(QuorumConfig::Sqlite(sqlite.path)),
            (None, Some(etcd)) => {
                let config = section::EtcdSection::from(etcd).config();
                config.map(QuorumConfig::Etcd).map_err(|unfit| {
                    self.wrong(format!("{place}.etcd3.{}", unfit.key), unfit.problem)
                })
            }
            (None, None) => Err(self.wrong(place, "is empty: want one of `sqlite:`, `etcd3:`")),
            (Some(_), Some(_)) => {
                Err(self.wrong(place, "has both `sqlite:` and `etcd3:`: want one of them"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: eu-c1\nsite: eu\nlisten: 127.0.0.1:7000\nfederations:\n  - name: \
                        two-sites\n    quorum: {sqlite: {path: /x/quorum.db}}\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("c.yml"), text)
    }

    #[test]
    fn a_minimal_file_is_enough() {
        let config = parse(GOOD).expect("good");
        assert_eq!(config.advertise, "127.0.0.1:7000");
        assert!(!config.insecure);
    }

    #[test]
    fn etcd_sections_are_patronis() {
        let text = GOOD.replace(
            "{sqlite: {path: /x/quorum.db}}",
            "{etcd3: {hosts: ['10.0.0.1:2379'], username: u, password: p}}",
        );
        let config = parse(&text).expect("good");
        let QuorumConfig::Etcd(etcd) = &config.federations[0].quorum else { panic!("not etcd") };
        assert_eq!(etcd.endpoints, ["http://10.0.0.1:2379"]);
    }

    #[test]
    fn mistakes_are_named_with_place_value_and_what_is_accepted() {
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        for (text, wanted) in [
            (with("site: eu", "site: eu\ncolour: red"), vec!["colour", "insecure"]),
            (with("site: eu", "site: EU"), vec!["EU", "lower-case"]),
            (with("site: eu\n", ""), vec!["site"]),
            (with("127.0.0.1:7000", "localhost"), vec!["listen", "localhost", "IP:PORT"]),
            (with("127.0.0.1:7000", "0.0.0.0:7000"), vec!["0.0.0.0:7000", "insecure: true"]),
            (
                with("127.0.0.1:7000", "0.0.0.0:7000\ninsecure: true"),
                vec!["advertise", "0.0.0.0:7000"],
            ),
            (with("site: eu", "site: eu\nadvertise: nowhere"), vec!["advertise", "HOST:PORT"]),
            (with("site: eu", "site: eu\ninsecure: maybe"), vec!["insecure"]),
            (with("{sqlite: {path: /x/quorum.db}}", "{}"), vec!["quorum", "etcd3"]),
            (with("{sqlite: {path: /x/quorum.db}}", "{etcd3: {hosts: []}}"), vec!["hosts"]),
            (
                with("{sqlite: {path: /x/quorum.db}}", "{etcd3: {hosts: [a], username: u}}"),
                vec!["password"],
            ),
            (
                format!("{GOOD}  - name: two-sites\n    quorum: {{sqlite: {{path: /y}}}}\n"),
                vec!["federations[1].name", "two-sites"],
            ),
        ] {
            let error = parse(&text).expect_err(&text).to_string();
            assert!(error.contains("c.yml"), "{error}");
            for word in wanted {
                assert!(error.contains(word), "{error:?} does not name {word:?}");
            }
        }
    }
}
