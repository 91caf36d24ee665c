//! The keys of one store prefix as they change, so that a test can act on a write when it happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use regent_dcs::etcd::{EtcdConfig, EtcdStore};
use regent_dcs::sqlite::SqliteStore;
use regent_dcs::{Entry, Event, Store};
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{
    CoordinatorLeader, Lease, Operation, Primary, Record, Report, RunningOperation,
};
use regentctl::lab::layout::StorePlace;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Longest wait for a store call.
pub const CALL: Duration = Duration::from_secs(10);

/// Opens a lab's store.
///
/// # Errors
/// When it can't be opened.
pub fn open(place: &StorePlace) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match place {
        StorePlace::Sqlite { path } => open_file(path)?,
        StorePlace::Etcd3 { hosts } => Arc::new(EtcdStore::connect(EtcdConfig {
            endpoints: hosts.iter().map(|host| format!("http://{host}")).collect(),
            ..EtcdConfig::default()
        })?),
    })
}

fn open_file(path: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(Arc::new(store))
}

/// All keys of the prefix, at one revision.
pub type Keys = BTreeMap<String, Entry>;

/// The keys of a prefix, kept by a watch. Dropping it ends that.
#[derive(Debug)]
pub struct Records {
    /// The store.
    pub store: Arc<dyn Store>,
    pictures: watch::Receiver<Keys>,
    task: AbortHandle,
}

impl Drop for Records {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Records {
    /// Reads the prefix and watches it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn follow(store: Arc<dyn Store>, prefix: String) -> anyhow::Result<Self> {
        let snapshot = store.range(&prefix, CALL).await?;
        let keys = snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let mut changes = store.watch(&prefix, snapshot.revision, CALL).await?;
        let (publish, pictures) = watch::channel(keys);
        let task = tokio::spawn(async move {
            // The tests' stores neither fail nor compact that fast; should they, every wait on
            // this says what it saw last.
            while let Ok(events) = changes.next().await {
                publish.send_modify(|keys| events.into_iter().for_each(|event| apply(keys, event)));
            }
        });
        Ok(Self { store, pictures, task: task.abort_handle() })
    }

    /// The keys now.
    #[must_use]
    pub fn now(&self) -> Keys {
        self.pictures.borrow().clone()
    }

    /// Waits for a state of the keys; every change is looked at.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Keys) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut pictures = self.pictures.clone();
        let waiting = async {
            loop {
                if let Some(found) = look(&pictures.borrow_and_update()) {
                    return Ok(found);
                }
                pictures.changed().await.context("the watch of the store has ended")?;
            }
        };
        tokio::time::timeout(limit, waiting)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("waited {limit:?} for {what}")))
    }
}

fn apply(keys: &mut Keys, event: Event) {
    match event {
        Event::Put(entry) => {
            keys.insert(entry.key.clone(), entry);
        }
        Event::Deleted { key, .. } => {
            keys.remove(&key);
        }
    }
}

/// The global records in a picture, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Global<'a> {
    /// The federation's keys.
    pub keys: &'a GlobalKeys,
    /// What is there.
    pub found: &'a Keys,
}

impl Global<'_> {
    fn read<R: Record>(&self, key: &str) -> Option<R> {
        R::decode(key, &self.found.get(key)?.value).ok()
    }

    /// `primary`.
    #[must_use]
    pub fn primary(&self) -> Option<Primary> {
        self.read(&self.keys.primary())
    }

    /// `lease`.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.read(&self.keys.lease())
    }

    /// A site's report.
    #[must_use]
    pub fn report(&self, site: &SiteName) -> Option<Report> {
        self.read(&self.keys.report(site))
    }

    /// An operation.
    #[must_use]
    pub fn operation(&self, id: &OperationId) -> Option<Operation> {
        self.read(&self.keys.operation(id))
    }

    /// The running operation's name.
    #[must_use]
    pub fn running(&self) -> Option<OperationId> {
        self.read::<RunningOperation>(&self.keys.running_operation())?.id
    }

    /// The elected coordinator.
    #[must_use]
    pub fn elected(&self) -> Option<CoordinatorLeader> {
        self.read(&self.keys.leader())
    }
}
