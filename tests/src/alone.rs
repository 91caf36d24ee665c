//! One site of no federation on this machine, two nodes: what its people do to it over REST, in its
//! DCS and at its servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use regent_dcs::{Change, Store, Txn};
use regentctl::lab::layout::{NodePlace, StorePlace};
use regentctl::lab::{Lab, Options};
use serde_json::Value;
use tokio_postgres::Client;

use crate::rest::{ask, code};
use crate::session;
use crate::wait::until;

/// Longest wait for a site that has what it needs.
pub const READY: Duration = Duration::from_secs(60);
/// Longest wait for a store call.
const CALL: Duration = Duration::from_secs(5);

/// A site of two nodes; whether commits wait for the other one by the file that the agents begin with.
#[must_use]
pub fn topology(synchronous: bool) -> String {
    format!(
        "
federation: alone
primary: home
sites:
  - name: home
    kind: data
    dcs: embedded
    synchronous: {synchronous}
    nodes:
      - name: home-1
      - name: home-2
quorum:
  store: embedded
  voters: [home]
policy:
  site_ttl: 5s
  primary_ttl: 15s
"
    )
}

/// The site, with its DCS. Ended by [`Alone::end`], or when dropped.
#[derive(Debug)]
pub struct Alone {
    lab: Lab,
    store: Arc<dyn Store>,
}

impl Alone {
    /// Starts it, with one node primary and the other streaming.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(synchronous: bool) -> anyhow::Result<Self> {
        let options = Options { dir: None, dcs: None, bare: true };
        let lab = Lab::up(&topology(synchronous), &options, &mut |_| {}).await?;
        let place = lab.layout().site_stores.values().next().context("a site store")?.clone();
        ensure!(matches!(place, StorePlace::Sqlite { .. }), "want the embedded store: {place:?}");
        for node in &lab.layout().nodes {
            lab.kill_agent(&node.name, Signal::SIGKILL).await?;
            let file = lab.layout().config(&node.agent());
            let text = std::fs::read_to_string(&file)?;
            let mut config: Value = serde_saphyr::from_str(&text)?;
            config.as_object_mut().context("a mapping")?.shift_remove("federation");
            std::fs::write(&file, config.to_string())?;
        }
        for node in &lab.layout().nodes {
            lab.start_agent(&node.name).await?;
        }
        whole(&lab.layout().nodes).await?;
        // Whoever opens it first owns it: that must be the agents.
        let store = crate::records::open(&place)?;
        Ok(Self { lab, store })
    }

    /// Its processes.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodePlace] {
        &self.lab.layout().nodes
    }

    /// The primary and the replica, once the second one streams from the first.
    ///
    /// # Errors
    /// When there is no such moment in time.
    pub async fn whole(&self) -> anyhow::Result<(NodePlace, NodePlace)> {
        whole(self.nodes()).await
    }

    /// `GET /patroni`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn patroni(&self, node: &NodePlace) -> anyhow::Result<Value> {
        patroni(node).await
    }

    /// `PATCH /config`, asked of the last node; the code.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn patch(&self, body: &Value) -> anyhow::Result<u16> {
        let node = self.nodes().last().context("a node")?;
        Ok(ask(node.rest_port, "PATCH", "/config", &body.to_string()).await?.code)
    }

    /// A key of the site's DCS.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn key(&self, name: &str) -> anyhow::Result<Option<String>> {
        let entry = self.store.get(&format!("/service/home/{name}"), CALL).await?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// Deletes a key of the site's DCS by hand.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let change = Change::delete(format!("/service/home/{name}"));
        self.store.txn(Txn::new().then(change), CALL).await?;
        Ok(())
    }

    /// Deletes all keys of the site's DCS at once.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete_all(&self) -> anyhow::Result<()> {
        let entries = self.store.range("/service/home/", CALL).await?.entries;
        let change = |txn: Txn, entry: regent_dcs::Entry| txn.then(Change::delete(entry.key));
        self.store.txn(entries.into_iter().fold(Txn::new(), change), CALL).await?;
        Ok(())
    }

    /// A superuser's session at one node.
    ///
    /// # Errors
    /// When the server does not let it in.
    pub async fn session(&self, node: &NodePlace) -> anyhow::Result<Client> {
        session::session(&self.lab, &node.name).await
    }

    /// The first value that a statement gives at one node.
    ///
    /// # Errors
    /// When the server does not let it in, or refuses the statement.
    pub async fn value(&self, node: &NodePlace, statement: &str) -> anyhow::Result<String> {
        session::value(&self.lab, &node.name, statement).await
    }

    /// Where a node's data lie.
    #[must_use]
    pub fn data_dir(&self, node: &NodePlace) -> PathBuf {
        self.lab.layout().data_dir(node)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something is left behind.
    pub async fn end(self) -> anyhow::Result<()> {
        Ok(self.lab.down().await?)
    }
}

async fn whole(nodes: &[NodePlace]) -> anyhow::Result<(NodePlace, NodePlace)> {
    let [a, b] = nodes else { anyhow::bail!("want two nodes") };
    until("a primary and a streaming replica", READY, async || {
        let is = [code(a.rest_port, "/primary").await, code(b.rest_port, "/primary").await];
        let (primary, replica) = match is {
            [200, 200] => return Err("two primaries".to_owned()),
            [200, _] => (a, b),
            [_, 200] => (b, a),
            [_, _] => return Err(format!("{is:?}")),
        };
        let state = patroni(replica).await.map_err(|e| e.to_string())?;
        let streams = state["replication_state"] == "streaming";
        streams.then(|| (primary.clone(), replica.clone())).ok_or_else(|| state.to_string())
    })
    .await
}

async fn patroni(node: &NodePlace) -> anyhow::Result<Value> {
    Ok(ask(node.rest_port, "GET", "/patroni", "").await?.json())
}
