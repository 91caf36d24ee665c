//! Opening the stores that the configuration names.

use std::sync::Arc;

use regent_dcs::etcd::{EtcdConfig, EtcdStore, EtcdTls, EtcdUser};
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{Store, StoreError};

use crate::config::{EtcdSection, StoreConfig};

/// A new handle. Its tasks live on the runtime that first uses it.
pub fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        StoreConfig::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path)?)),
        StoreConfig::Etcd(section) => Ok(Arc::new(EtcdStore::connect(etcd(section))?)),
    }
}

fn etcd(section: &EtcdSection) -> EtcdConfig {
    let scheme = match (&section.protocol, &section.cacert) {
        (Some(protocol), _) => protocol.clone(),
        (None, Some(_)) => "https".to_owned(),
        (None, None) => "http".to_owned(),
    };
    let url = |host: &String| {
        if host.contains("://") { host.clone() } else { format!("{scheme}://{host}") }
    };
    EtcdConfig {
        endpoints: section.hosts.iter().map(url).collect(),
        user: section.username.as_ref().map(|name| EtcdUser {
            name: name.clone(),
            password: section.password.clone().unwrap_or_default().reveal().to_owned(),
        }),
        tls: section.cacert.as_ref().map(|ca| EtcdTls {
            ca: ca.clone(),
            certificate: section.cert.clone(),
            key: section.key.clone(),
        }),
    }
}
