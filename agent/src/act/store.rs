//! Opening the stores that the configuration names.

use std::sync::Arc;

use regent_dcs::etcd::EtcdStore;
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{Store, StoreError};

use crate::config::StoreConfig;

/// A new handle. Its tasks live on the runtime that first uses it.
pub fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        StoreConfig::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path)?)),
        StoreConfig::Etcd(etcd) => Ok(Arc::new(EtcdStore::connect(etcd.clone())?)),
    }
}
