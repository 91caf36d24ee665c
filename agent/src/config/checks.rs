//! What the sections may say: each check names the place, the value and what is accepted.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs as _;
use std::path::Path;

use super::postgres::PostgresConfig;
use super::sections::{EtcdSection, FederationSection, RestSection, SqliteSection};
use super::{ConfigError, FederationConfig, Listener, StoreConfig, split, tags};
use crate::decide::view::Tags;

pub(super) struct Checks<'a> {
    pub(super) path: &'a Path,
}

impl Checks<'_> {
    pub(super) fn error(
        &self,
        place: impl Into<String>,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            place: place.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn listener(
        &self,
        section: &RestSection,
        insecure: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Listener, ConfigError> {
        let place = "restapi.listen";
        let want = "want HOST:PORT, as in 127.0.0.1:8008";
        let mut found = section
            .listen
            .to_socket_addrs()
            .map_err(|e| self.error(place, format!("{:?}: {e}; {want}", section.listen)))?;
        let listen = found.next().ok_or_else(|| {
            self.error(place, format!("{:?} has no address; {want}", section.listen))
        })?;
        if section.certfile.is_some() {
            return Err(self.error(
                "restapi.certfile",
                "TLS of the REST API is not built yet; remove the key and listen on loopback",
            ));
        }
        if !listen.ip().is_loopback() {
            if !insecure {
                return Err(self.error(
                    place,
                    format!(
                        "{listen} is not a loopback address and has no TLS; listen on 127.0.0.1, \
                         or say `regent: {{insecure: true}}`"
                    ),
                ));
            }
            warnings.push(format!("insecure: the REST API on {listen} has no TLS"));
        }
        let connect_address =
            section.connect_address.clone().unwrap_or_else(|| section.listen.clone());
        if split(&connect_address).is_none() {
            return Err(
                self.error("restapi.connect_address", format!("{connect_address:?}; {want}"))
            );
        }
        // A restriction that is not understood must not be taken for none.
        let closed = [
            ("restapi.allowlist", &section.allowlist),
            ("restapi.allowlist_include_members", &section.allowlist_include_members),
            ("restapi.verify_client", &section.verify_client),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|_| name))
        .collect();
        let authentication = section.authentication.clone();
        Ok(Listener { listen, connect_address, authentication, closed })
    }

    pub(super) fn store(
        &self,
        place: &str,
        sqlite: Option<SqliteSection>,
        etcd: Option<EtcdSection>,
    ) -> Result<StoreConfig, ConfigError> {
        match (sqlite, etcd) {
            (Some(sqlite), None) => Ok(StoreConfig::Sqlite(sqlite.path)),
            (None, Some(etcd)) => {
                let config = etcd.config();
                config.map(StoreConfig::Etcd).map_err(|unfit| {
                    self.error(place, format!("etcd3.{}: {}", unfit.key, unfit.problem))
                })
            }
            (Some(_), Some(_)) => {
                Err(self.error(place, "both sqlite and etcd3 are given; want exactly one"))
            }
            (None, None) => Err(self.error(
                place,
                "no store is given; want `sqlite: {path: FILE}` or `etcd3: {hosts: [HOST:PORT]}`",
            )),
        }
    }

    pub(super) fn federation(
        &self,
        section: Option<FederationSection>,
        insecure: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Option<FederationConfig>, ConfigError> {
        let Some(section) = section else { return Ok(None) };
        let quorum =
            self.store("federation.quorum", section.quorum.sqlite, section.quorum.etcd3)?;
        let promise =
            section.promise.map(|promise| self.promise(promise, insecure, warnings)).transpose()?;
        Ok(Some(FederationConfig { name: section.name, site: section.site, quorum, promise }))
    }

    /// A tag that cannot be read could make this node lead, or keep it from it: the file is refused.
    pub(super) fn tags(
        &self,
        written: &BTreeMap<String, serde_json::Value>,
        warnings: &mut Vec<String>,
    ) -> Result<Tags, ConfigError> {
        let read = tags::read(written);
        if let Some(problem) = read.problems.first() {
            return Err(self.error("tags", problem.clone()));
        }
        warnings.extend(read.contradictions.iter().map(|said| format!("tags: {said}")));
        Ok(read.tags)
    }

    pub(super) fn postgres(
        &self,
        section: &PostgresConfig,
        rest: &Listener,
    ) -> Result<(), ConfigError> {
        let want = "want HOST:PORT, as in 127.0.0.1:5432";
        let Some((_, port)) = split(&section.listen) else {
            return Err(self.error("postgresql.listen", format!("{:?}; {want}", section.listen)));
        };
        if port == rest.listen.port() {
            let problem = format!("port {port} is restapi.listen's too; want a port for each");
            return Err(self.error("postgresql.listen", problem));
        }
        if let Some(address) = &section.connect_address
            && split(address).is_none()
        {
            return Err(self.error("postgresql.connect_address", format!("{address:?}; {want}")));
        }
        if !section.data_dir.is_absolute() {
            let problem = format!("{} is not absolute", section.data_dir.display());
            return Err(self.error("postgresql.data_dir", problem));
        }
        let users = &section.authentication;
        let names = [&users.superuser.username, &users.replication.username];
        if names[0] == names[1] {
            return Err(self.error(
                "postgresql.authentication",
                format!("superuser and replication are both {:?}; want two users", names[0]),
            ));
        }
        Ok(())
    }
}
