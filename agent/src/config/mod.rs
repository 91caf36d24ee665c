//! The agent's configuration file: Patroni's sections, and our own `sqlite`, `federation` and
//! `regent`.
//!
//! Read once, whole; nothing runs on a half-read file. Unknown keys in our sections are errors, in
//! Patroni's a warning each (a site taken over from Patroni must start). Timings that cannot keep
//! the lease are refused here with the numbers (I21).

mod checks;
pub mod dynamic;
mod dynamic_section;
mod known;
mod methods;
mod places;
mod postgres;
pub mod promise;
mod regent;
mod scripts;
mod sections;
mod slots;
pub mod standby_cluster;
pub mod tags;
pub mod watchdog;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_dcs::etcd::EtcdConfig;
use regent_proto::name::{FederationName, NodeName, Scope, SiteName};
use regent_proto::time::LeaseTiming;
use regent_proto::yaml;
use serde::Deserialize;

use crate::decide::view::Tags;

pub use methods::{BootstrapMethod, Maker, Methods, ReplicaMethod};
pub use places::Places;
pub use postgres::{Authentication, Bootstrap, PostgresConfig, User};
pub use regent::RegentConfig;
pub use scripts::{CallbacksSection, CommandLine};

use checks::Checks;
use dynamic::Dynamic;
use sections::File;
use watchdog::{TimingProblem, WatchdogConfig};

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML of this form.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        problem: String,
    },
    /// A value that cannot be.
    #[error("{path}: {place}: {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Path of the key.
        place: String,
        /// What is seen and what is wanted.
        problem: String,
    },
    /// Timings that do not fit.
    #[error("{path}: bootstrap.dcs / regent / watchdog: {numbers}")]
    Timing {
        /// The file.
        path: PathBuf,
        /// The numbers.
        numbers: Box<TimingProblem>,
    },
}

/// A secret: never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Patroni's scope.
    pub scope: Scope,
    /// Patroni's namespace.
    pub namespace: String,
    /// This member.
    pub name: NodeName,
    /// REST API.
    pub rest: Listener,
    /// The site's DCS.
    pub dcs: StoreConfig,
    /// The federation, if any.
    pub federation: Option<FederationConfig>,
    /// Our own settings.
    pub regent: RegentConfig,
    /// `bootstrap`.
    pub bootstrap: Bootstrap,
    /// `postgresql`.
    pub postgres: PostgresConfig,
    /// `tags`, as they are told to others.
    pub tags: BTreeMap<String, serde_json::Value>,
    /// What they mean.
    pub tagged: Tags,
    /// `watchdog`.
    pub watchdog: WatchdogConfig,
    /// What a person should know: unknown keys, insecure listeners.
    pub warnings: Vec<String>,
    /// Other ways to make a data directory.
    pub methods: Methods,
}

/// An address to listen on and the one to tell others.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What others use, `host:port`.
    pub connect_address: String,
    /// Who may change something; `None`: everybody who reaches it, as in Patroni.
    pub authentication: Option<User>,
    /// Restrictions that are configured and not built yet: nobody may change anything.
    pub closed: Vec<&'static str>,
}

/// Which store.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// The embedded store.
    Sqlite(PathBuf),
    /// etcd v3.
    Etcd(EtcdConfig),
}

/// The federation this cluster belongs to.
#[derive(Debug, Clone)]
pub struct FederationConfig {
    /// Its name.
    pub name: FederationName,
    /// This site.
    pub site: SiteName,
    /// The global quorum.
    pub quorum: StoreConfig,
    /// Failsafe of the quorum, where it is on.
    pub promise: Option<promise::PromiseConfig>,
}

/// Splits `host:port`.
#[must_use]
pub fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks a file's text; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let syntax = |problem| ConfigError::Syntax { path: path.to_owned(), problem };
        let file: File = yaml::read(text).map_err(syntax)?;
        let raw: serde_json::Value = yaml::read(text).map_err(syntax)?;
        let mut warnings = known::unknown_keys(&raw);
        let checks = Checks { path };
        let rest = checks.listener(&file.restapi, file.regent.insecure, &mut warnings)?;
        let dcs = checks.store("sqlite / etcd3", file.sqlite, file.etcd3)?;
        let federation = checks.federation(file.federation, file.regent.insecure, &mut warnings)?;
        checks.postgres(&file.postgresql, &rest)?;
        let tagged = checks.tags(&file.tags, &mut warnings)?;
        let methods = checks.methods(&raw)?;
        let config = Self {
            scope: file.scope,
            namespace: file.namespace,
            name: file.name,
            rest,
            dcs,
            federation,
            regent: file.regent,
            bootstrap: file.bootstrap,
            postgres: file.postgresql,
            tags: tags::told(&file.tags),
            tagged,
            watchdog: file.watchdog,
            warnings,
            methods,
        };
        if config.federation.is_some() && config.first_dynamic().standby_cluster.is_some() {
            return Err(checks.error(
                format!("bootstrap.dcs.{}", standby_cluster::KEY),
                "in a federation its records say whom a site follows; take the section away, and use \
                 `regentctl switchover`",
            ));
        }
        if let Some(problem) = config.first_dynamic().problems.first() {
            return Err(checks.error("bootstrap.dcs", problem.clone()));
        }
        config.check_timing(&config.first_dynamic()).map_err(|numbers| ConfigError::Timing {
            path: path.to_owned(),
            numbers: Box::new(numbers),
        })?;
        Ok(config)
    }

    /// The dynamic configuration before the DCS has one.
    #[must_use]
    pub fn first_dynamic(&self) -> Dynamic {
        let given = self.bootstrap.dcs.clone().unwrap_or_else(|| serde_json::json!({}));
        Dynamic::read(&given, &Dynamic::default())
    }

    /// Timing of the site's leader key under a dynamic configuration.
    #[must_use]
    pub fn site_timing(&self, dynamic: &Dynamic) -> LeaseTiming {
        LeaseTiming {
            ttl: dynamic.ttl,
            // A lost answer and its retry before the fence begins (proto's `time::lease`); Patroni's
            // loop_wait and retry_timeout where they are shorter.
            renew_every: dynamic.loop_wait.min(dynamic.ttl / 6),
            call_timeout: dynamic.retry_timeout.min(dynamic.ttl / 7),
            stop_budget: self.regent.stop_budget.0,
            kill_budget: self.regent.kill_budget.0,
        }
    }

    /// Timing of the primary lease with the TTL bound that `primary` states.
    #[must_use]
    pub fn primary_timing(&self, ttl: Duration) -> LeaseTiming {
        LeaseTiming {
            ttl,
            renew_every: (ttl / 12).max(Duration::from_millis(250)),
            call_timeout: (ttl / 8).max(Duration::from_millis(250)),
            stop_budget: self.regent.stop_budget.0,
            kill_budget: self.regent.kill_budget.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::site::ConfigKey;

    const GOOD: &str = "
scope: eu
name: eu-1
restapi: {listen: '127.0.0.1:8008'}
sqlite: {path: /tmp/eu.db}
regent: {run_dir: /tmp/run, stop_budget: 1500ms}
bootstrap: {dcs: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: /tmp/data
  parameters: {shared_buffers: 32MB, fsync: on, max_connections: 010}
  authentication:
    superuser: {username: postgres, password: s3cret}
    replication: {username: replicator, password: s3cret}
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("agent.yml"), text)
    }

    #[test]
    fn a_patroni_file_is_read_and_scalars_stay_as_written() {
        let config = parse(GOOD).expect("good");
        let parameter = |name: &str| config.postgres.parameters.get(name).cloned().flatten();
        assert_eq!(parameter("fsync").as_deref(), Some("on"));
        assert_eq!(parameter("max_connections").as_deref(), Some("010"));
        assert_eq!(config.first_dynamic().ttl, Duration::from_secs(5));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn bad_input_names_place_value_and_what_is_accepted() {
        for (from, to, want) in [
            ("sqlite: {path: /tmp/eu.db}", "sqlite: {path: /tmp/eu.db, mode: x}", "unknown field"),
            ("sqlite: {path: /tmp/eu.db}", "", "no store is given"),
            ("stop_budget: 1500ms", "stop_budget: 1500", "with its unit"),
            ("stop_budget: 1500ms", "stopbudget: 1s", "unknown field"),
            ("127.0.0.1:8008", "0.0.0.0:8008", "insecure: true"),
            ("listen: 127.0.0.1:5501", "listen: here", "want HOST:PORT"),
            ("data_dir: /tmp/data", "data_dir: data", "not absolute"),
            ("username: replicator", "username: postgres", "want two users"),
            (
                "data_dir: /tmp/data",
                "data_dir: /tmp/data\n  callbacks: {on_stop: /none/here}",
                "postgresql.callbacks.on_stop: /none/here is not there",
            ),
            (
                "data_dir: /tmp/data",
                "data_dir: /tmp/data\n  pre_promote: \"a 'b\"",
                "a quote without its end",
            ),
            ("name: eu-1", "name: 'eu 1'", "node name"),
            ("ttl: 5", "ttl: soon", "seconds as a number"),
            ("ttl: 5", "ttl: 1", "exceeds the TTL"),
            ("stop_budget: 1500ms", "stop_budget: 200ms", "is not below stop_budget 200ms"),
            ("stop_budget: 1500ms", "stop_budget: 2s, kill_budget: 99ms", "at least 100ms"),
            ("scope: eu", "scope: eu\nwatchdog: {mode: maybe}", "off, automatic or required"),
            ("scope: eu", "scope: eu\ntags: {failover_priority: high}", "want a whole number"),
            ("scope: eu", "scope: eu\ntags: {nosync: perhaps}", "want true or false"),
            (
                "stop_budget: 1500ms}\nbootstrap: {dcs: {ttl: 5,",
                "stop_budget: 500ms}\nwatchdog: {mode: required}\nbootstrap: {dcs: {ttl: 3,",
                "required, but watchdog: (TTL 3s",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = parse(&GOOD.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
    }

    /// Its records say whom a site follows, and nothing else does.
    #[test]
    fn standby_cluster_is_read_without_a_federation_and_refused_in_one() {
        let section = "synchronous_mode: true, standby_cluster: {host: eu, port: 5433}";
        let alone = GOOD.replace("synchronous_mode: true", section);
        let read = parse(&alone).expect("good").first_dynamic().standby_cluster.expect("there");
        assert_eq!(read.addresses, [("eu".to_owned(), 5433)]);
        let federation = "scope: eu\nfederation: {name: f, site: eu, \
                          quorum: {sqlite: {path: /tmp/q.db}}}";
        assert!(parse(&GOOD.replace("scope: eu", federation)).is_ok());
        let error = parse(&alone.replace("scope: eu", federation)).expect_err("both").to_string();
        assert!(error.contains("bootstrap.dcs.standby_cluster: in a federation"), "{error}");
        assert!(error.contains("regentctl switchover"), "{error}");
        let wrong = alone.replace("port: 5433", "port: none");
        let error = parse(&wrong).expect_err("no port").to_string();
        assert!(error.contains("bootstrap.dcs: standby_cluster.port: \"none\""), "{error}");
    }

    #[test]
    fn timings_that_this_node_cannot_keep_take_nothing_else_with_them() {
        let config = parse(GOOD).expect("good");
        let in_force = config.first_dynamic();
        let given = serde_json::json!({"ttl": 1, "loop_wait": 1, "retry_timeout": 1,
            "synchronous_mode": "quorum", "pause": true, "theirs": 1});
        let given = Dynamic::read(&given, &in_force);
        let (taken, refused) = config.fitted(given.clone(), &in_force);
        assert!(refused.is_some(), "it is said");
        assert!(taken.synchronous_quorum && taken.pause, "{taken:?}");
        assert_eq!(config.site_timing(&taken), config.site_timing(&in_force));
        assert_eq!(taken.document["theirs"], 1);
        let kept = Dynamic::read(&taken.document, &Dynamic::default());
        assert_eq!(kept, taken, "what is kept on disk reads as what is in force");
        assert_eq!(config.fitted(given, &taken).0, taken, "the next round sees nothing new");
        let longer = Dynamic { ttl: Duration::from_secs(30), ..taken.clone() };
        assert_eq!(config.fitted(longer.clone(), &taken), (longer, None));
    }

    #[test]
    fn a_margin_that_leaves_the_hole_is_said_and_the_safe_timeout_used() {
        let with = |section: &str| {
            let text = GOOD.replace("scope: eu\n", &format!("scope: eu\nwatchdog: {section}\n"));
            let config = parse(&text).expect(section);
            let said = config.check_timing(&config.first_dynamic()).expect(section);
            let longer = Dynamic { ttl: Duration::from_secs(30), ..config.first_dynamic() };
            let long = config.check_timing(&longer).expect(section);
            (config, said, long)
        };
        let (config, said, _) = with("{mode: required, safety_margin: 1}");
        assert!(said[0].contains("timeout of 4 s"), "{said:?}");
        assert!(said[1].contains("2.75s before its deadline"), "{said:?}");
        assert!(said[0].contains("1 s is used"), "{said:?}");
        let longer = Dynamic { ttl: Duration::from_secs(30), ..config.first_dynamic() };
        let timing = config.watchdog_timing(&config.site_timing(&longer)).expect("long enough");
        assert_eq!(timing.timeout_s, 14);
        for silent in ["{mode: required}", "{}", "{mode: off, safety_margin: 1}"] {
            assert_eq!(with(silent).2, Vec::<String>::new(), "{silent}");
        }
    }

    #[test]
    fn the_dynamic_keys_of_candidates_reach_decisions() {
        let with = |keys: &str| {
            let text = GOOD.replace("dcs: {ttl: 5,", &format!("dcs: {{{keys}ttl: 5,"));
            assert_eq!(keys.is_empty(), text == GOOD);
            let config = parse(&text).expect(keys);
            let policy = config.first_dynamic().policy(&config, ConfigKey::Read);
            assert_eq!(policy.ttl, Duration::from_secs(5));
            (policy.check_timeline, policy.primary_start_timeout, policy.maximum_lag_on_syncnode)
        };
        assert_eq!(with(""), (false, Duration::from_secs(300), None));
        let keys = "check_timeline: true, primary_start_timeout: 0, maximum_lag_on_syncnode: 64, ";
        assert_eq!(with(keys), (true, Duration::ZERO, Some(64)));
    }

    #[test]
    fn only_what_config_says_is_the_sites_mode() {
        let config = parse(GOOD).expect("good");
        let says = |document: serde_json::Value, read| {
            let read_from_it = Dynamic::read(&document, &Dynamic::default());
            read_from_it.policy(&config, read).mode_is_the_sites
        };
        let off = serde_json::json!({"synchronous_mode": false, "synchronous_mode_strict": 7});
        assert!(says(off.clone(), ConfigKey::Read));
        assert!(!says(off.clone(), ConfigKey::Absent));
        assert!(!says(off, ConfigKey::Unreadable { revision: 7 }));
        let slip = serde_json::json!({"synchronous_mode": "perhaps"});
        assert!(!says(slip, ConfigKey::Read), "it stays as it was kept");
    }

    #[test]
    fn the_own_tags_reach_decisions() {
        let with = |tags: &str| {
            let text = GOOD.replace("scope: eu\n", &format!("scope: eu\ntags: {tags}\n"));
            let config = parse(&text).expect(tags);
            (config.first_dynamic().policy(&config, ConfigKey::Read), config.warnings.len())
        };
        for (tags, nofailover, priority, warnings) in [
            ("{}", false, 1, 0),
            ("{failover_priority: 0}", true, 0, 0),
            ("{failover_priority: 3, zone: b}", false, 3, 0),
            ("{nofailover: true}", true, 1, 0),
            ("{nofailover: true, failover_priority: 3}", true, 3, 1),
            ("{nofailover: false, failover_priority: 0}", false, 0, 1),
        ] {
            let (policy, said) = with(tags);
            let found = (policy.nofailover, policy.failover_priority, said);
            assert_eq!(found, (nofailover, priority, warnings), "{tags}");
        }
    }

    #[test]
    fn unknown_keys_of_patroni_are_a_warning_each() {
        let text = GOOD.replace("listen: 127.0.0.1:5501", "listen: 127.0.0.1:5501\n  comet: 1");
        let config = parse(&text).expect("still good");
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(config.warnings[0].contains("postgresql.comet"));
    }
}
