//! The contract over etcd v3 (3.4 and newer).
//!
//! What etcd's client leaves open is closed here:
//! * **One client per member, sticky failover.** etcd-client with several endpoints balances every
//!   request and keeps a dead member in the rotation. Here all calls go to one member until it
//!   fails, then to the next (`members`).
//! * **Own deadlines on every call**, split so that a frozen member can't eat the whole budget.
//!   etcd-client has none by default, and HTTP/2 pings fast enough to notice a frozen member get
//!   the connection closed by the server.
//! * **A transaction is sent once.** Only one that certainly didn't reach a member's log goes to
//!   another member; when that is not certain the answer is [`StoreError::Unknown`].
//! * Reads are linearizable; the serializable kind, which a cut-off member would answer with old
//!   news, is not used.
//!
//! A store lives on the tokio runtime that first uses it (its connections are tasks there): a
//! renewal thread with a runtime of its own opens a store of its own.

mod classify;
mod convert;
mod members;
pub mod section;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::GetOptions;

use crate::{
    Entry, GrantedLease, LeaseId, Renewal, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome,
    Watch, WatchError, limits,
};
use members::{Effect, Members, kv};

/// Where etcd is and how to speak to it.
#[derive(Debug, Clone, Default)]
pub struct EtcdConfig {
    /// Members' client URLs (`http://host:port`, `https://…`), the nearest first: it is used as
    /// long as it answers.
    pub endpoints: Vec<String>,
    /// Name and password, where authentication is on.
    pub user: Option<EtcdUser>,
    /// For `https` endpoints. Without it the platform's roots would be needed, which are not used:
    /// an etcd that may decide who is primary has a CA of its own.
    pub tls: Option<EtcdTls>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// PEM files. They are read when the store is opened.
#[derive(Debug, Clone, Default)]
pub struct EtcdTls {
    /// The CA that signs the members' certificates.
    pub ca: PathBuf,
    /// Our certificate, where the members ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// An etcd cluster. Clones share the connections.
#[derive(Clone)]
pub struct EtcdStore {
    members: Arc<Members>,
    ttls: Arc<Ttls>,
}

/// The TTLs of leases that this store granted or has renewed. etcd never changes one, so a renewal need
/// not ask for it again: one round trip instead of two, where the DCS is slow.
#[derive(Debug, Default)]
struct Ttls(Mutex<BTreeMap<LeaseId, Duration>>);

impl Ttls {
    fn known(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, lease: LeaseId, renewal: Renewal) {
        match renewal {
            Renewal::Renewed { ttl } => self.known().insert(lease, ttl),
            Renewal::Lost => self.known().remove(&lease),
        };
    }
}

impl EtcdStore {
    /// Prepares the store; the first call connects.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a configuration that can't work: no or malformed endpoints,
    /// `https` without [`EtcdConfig::tls`], files that can't be read.
    pub fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        Ok(Self { members: Arc::new(Members::new(config)?), ttls: Arc::default() })
    }

    fn check(&self, action: &str, checked: Result<(), String>) -> Result<(), StoreError> {
        checked.map_err(|problem| self.members.refused(action, problem))
    }

    /// One exchange on a keep-alive stream, two where the TTL is not known yet: whether the lease lives.
    async fn keep_alive(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        let action = format!("renew lease {}", lease.0);
        let known = self.ttls.known().get(&lease).copied();
        let renewal = self
            .members
            .repeatable(&action, timeout, Effect::Some, |mut client| async move {
                let opened = client.lease_keep_alive(lease.0).await;
                let (mut keeper, mut answers) = match opened {
                    Err(error) if classify::is_lost_lease(&error) => return Ok(Renewal::Lost),
                    opened => opened?,
                };
                // Opening has renewed it already, but does not tell the TTL.
                if let Some(ttl) = known {
                    return Ok(Renewal::Renewed { ttl });
                }
                keeper.keep_alive().await?;
                let answer = answers.message().await?;
                let ttl = answer.map_or(0, |answer| answer.ttl());
                Ok(convert::seconds(ttl).map_or(Renewal::Lost, |ttl| Renewal::Renewed { ttl }))
            })
            .await?;
        self.ttls.note(lease, renewal);
        Ok(renewal)
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.members.name()).finish()
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn name(&self) -> String {
        self.members.name().to_owned()
    }

    async fn get(&self, key: &str, timeout: Duration) -> Result<Option<Entry>, StoreError> {
        let action = format!("get {key}");
        self.check(&action, limits::key(key))?;
        let answer = self
            .members
            .repeatable(&action, timeout, Effect::None, |client| async move {
                kv(&client).get(key, None).await
            })
            .await?;
        Ok(answer.kvs().first().and_then(convert::entry))
    }

    async fn range(&self, prefix: &str, timeout: Duration) -> Result<Snapshot, StoreError> {
        let action = format!("read all of {prefix}");
        let answer = self
            .members
            .repeatable(&action, timeout, Effect::None, |client| async move {
                kv(&client).get(prefix, Some(GetOptions::new().with_prefix())).await
            })
            .await?;
        let mut entries: Vec<_> = answer.kvs().iter().filter_map(convert::entry).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Snapshot { revision: convert::header_revision(answer.header()), entries })
    }

    async fn txn(&self, txn: Txn, timeout: Duration) -> Result<TxnOutcome, StoreError> {
        let action = limits::describe(&txn);
        self.check(&action, limits::txn(&txn))?;
        let request = convert::request(&txn);
        let answer = self
            .members
            .once(&action, timeout, |client| {
                let request = request.clone();
                async move { kv(&client).txn(request).await }
            })
            .await?;
        Ok(convert::outcome(&answer))
    }

    async fn grant(&self, ttl: Duration, timeout: Duration) -> Result<GrantedLease, StoreError> {
        let action = format!("grant a lease of {ttl:?}");
        self.check(&action, limits::ttl(ttl))?;
        let asked = convert::whole_seconds(ttl);
        // Repeating is harmless: a lease that nobody knows of holds no key and expires.
        let answer = self
            .members
            .repeatable(&action, timeout, Effect::Some, |mut client| async move {
                client.lease_grant(asked, None).await
            })
            .await?;
        let ttl = convert::seconds(answer.ttl())
            .ok_or_else(|| self.members.refused(&action, answer.error().to_owned()))?;
        let id = LeaseId(answer.id());
        self.ttls.note(id, Renewal::Renewed { ttl });
        Ok(GrantedLease { id, ttl })
    }

    async fn renew(&self, lease: LeaseId, timeout: Duration) -> Result<Renewal, StoreError> {
        let deadline = self.members.deadline(timeout);
        match self.keep_alive(lease, timeout).await {
            // Around an election a member may not have applied the grant yet. A linearizable read
            // brings the member up to date; who hears "lost" after that has lost it.
            Ok(Renewal::Lost) => {
                self.get("/regent", self.members.left(deadline)).await?;
                self.keep_alive(lease, self.members.left(deadline)).await
            }
            other => other,
        }
    }

    async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), StoreError> {
        let action = format!("revoke lease {}", lease.0);
        self.ttls.note(lease, Renewal::Lost);
        self.members
            .repeatable(&action, timeout, Effect::Some, |mut client| async move {
                match client.lease_revoke(lease.0).await {
                    Err(error) if classify::is_lost_lease(&error) => Ok(()),
                    answer => answer.map(drop),
                }
            })
            .await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Box<dyn Watch>, WatchError> {
        let watch = watch::EtcdWatch::open(&self.members, prefix, after, timeout).await?;
        Ok(Box::new(watch))
    }
}
