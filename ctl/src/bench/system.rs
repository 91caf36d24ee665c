//! Three nodes of one site, under Regent's agents or under Patroni: made from nothing, asked over REST,
//! broken, and brought back, both in the same way.
//!
//! Both read the same configuration, but for the section that is Regent's own and for ports and places,
//! keep their cluster in the same etcd, and run as processes of the lab, which ends them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::config::TargetSessionAttrs;

use crate::clock;
use crate::exit::Failure;
use crate::lab::layout::PortWish;
use crate::lab::ports::Ports;
use crate::lab::{Lab, Prepared, process};
use crate::load::table::explain;
use crate::site::{Cluster, Member};
use crate::verbs::site::{client, reason};

/// Longest wait for a cluster that is whole, or for processes that end: Patroni's key lives 20 s.
const LIMIT: Duration = Duration::from_secs(180);
/// Longest wait for one answer; a switchover answers when it is done.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest wait for a server.
const SQL: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

const STREAMING: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";

/// The shortest timings that Patroni takes, for both.
const TUNED: [(&str, u64); 3] = [("ttl", 20), ("loop_wait", 1), ("retry_timeout", 3)];

/// One node.
#[derive(Debug)]
pub struct Node {
    name: String,
    postgres_port: u16,
    rest_port: u16,
    /// Where its data directory and what is put beside it lie.
    dir: PathBuf,
    /// Where Regent's guardian is known by.
    run_dir: PathBuf,
    config_file: PathBuf,
    config: Value,
    /// What its manager says.
    log: PathBuf,
}

impl Node {
    /// Its manager, as the lab knows it.
    fn process(&self) -> String {
        process_of(&self.name)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// By its first word the lab gives a process time to stop its PostgreSQL at the end.
fn process_of(node: &str) -> String {
    format!("agent-{node}")
}

/// The nodes under one manager.
#[derive(Debug)]
pub struct System {
    /// `regent` or `patroni`.
    pub name: &'static str,
    /// What runs a node, before its configuration file.
    program: PathBuf,
    nodes: Vec<Node>,
    superuser_password: String,
    client: Client,
    /// How often it was made from nothing.
    made: u32,
    /// Keeps the ports claimed that are not the lab's.
    _ports: Option<Ports>,
}

/// Who is who where every node has its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who leads.
    pub leader: String,
    /// Whom commits wait for.
    pub synchronous: String,
}

impl System {
    /// The lab's nodes under our agents, without a federation.
    pub fn regent(prepared: &Prepared) -> Result<Self, Failure> {
        let layout = &prepared.layout;
        let mut nodes = Vec::new();
        for place in &layout.nodes {
            let config_file = layout.config(&place.agent());
            nodes.push(Node {
                name: place.name.to_string(),
                postgres_port: place.postgres_port,
                rest_port: place.rest_port,
                dir: layout.dir.join("nodes").join(place.name.as_str()),
                run_dir: layout.run_dir(place),
                config: ours(&config_file)?,
                config_file,
                log: layout.log(&place.agent()),
            });
        }
        Ok(Self {
            name: "regent",
            program: layout.dir.join("bin/regent-agent"),
            nodes,
            superuser_password: prepared.secrets().superuser.clone(),
            client: client()?,
            made: 0,
            _ports: None,
        })
    }

    /// As many nodes more under this Patroni.
    pub fn patroni(prepared: &Prepared, program: PathBuf) -> Result<Self, Failure> {
        let (layout, owner) = (&prepared.layout, prepared.owner());
        let mut ports = Ports::new(u16::try_from(std::process::id() % 65_536).unwrap_or(0));
        let any = PortWish { port: None, place: String::new() };
        let top = layout.dir.join("patroni");
        owner.make_dir(&top)?;
        let mut nodes = Vec::new();
        for (number, place) in (1..).zip(&layout.nodes) {
            let name = format!("patroni-{number}");
            let dir = top.join(&name);
            let run_dir = dir.join("run");
            owner.make_dir(&dir)?;
            owner.make_dir(&run_dir)?;
            let config_file = layout.config(&name);
            owner.write(&config_file, "")?;
            let mut node = Node {
                postgres_port: ports.take(&any)?,
                rest_port: ports.take(&any)?,
                config: ours(&layout.config(&place.agent()))?,
                log: layout.log(&process_of(&name)),
                name,
                dir,
                run_dir,
                config_file,
            };
            theirs(&mut node)?;
            nodes.push(node);
        }
        owner.hand_over(&top)?;
        owner.hand_over(&layout.dir.join("config"))?;
        Ok(Self {
            name: "patroni",
            program,
            nodes,
            superuser_password: prepared.secrets().superuser.clone(),
            client: client()?,
            made: 0,
            _ports: Some(ports),
        })
    }

    /// Makes its processes known to the lab.
    pub async fn join(&self, lab: &Lab) -> Result<(), Failure> {
        for node in &self.nodes {
            let argv = [&self.program, &node.config_file];
            let argv = argv.map(|path| path.display().to_string()).to_vec();
            lab.add(&node.process(), argv).await?;
        }
        Ok(())
    }

    /// PostgreSQL's ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.postgres_port).collect()
    }

    /// How to connect to whoever leads, as superuser.
    #[must_use]
    pub fn superuser(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        for port in self.ports() {
            config.host("127.0.0.1").port(port);
        }
        config
            .user("postgres")
            .password(&self.superuser_password)
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(1))
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        config
    }

    /// The processes of every node that are the manager's and not PostgreSQL's.
    pub async fn managers(&self, lab: &Lab) -> Result<Vec<nix::unistd::Pid>, Failure> {
        let mut pids = Vec::new();
        for node in &self.nodes {
            let pid = lab.pid(&node.process()).await?;
            pids.push(pid.ok_or_else(|| Failure::error(format!("{} does not run", node.name)))?);
            pids.extend(process::guardian(&node.run_dir));
        }
        Ok(pids)
    }

    /// Makes the cluster from nothing; the time from the managers' start until each node has its part.
    pub async fn bootstrap(&mut self, lab: &Lab) -> Result<Duration, Failure> {
        self.stop(lab).await?;
        self.made += 1;
        for node in &self.nodes {
            empty(&node.dir)?;
            let mut config = node.config.clone();
            config["scope"] = json!(format!("{}-{}", self.name, self.made));
            fs::write(&node.config_file, config.to_string()).map_err(|e| {
                Failure::error(format!("write {}: {e}", node.config_file.display()))
            })?;
        }
        let begun = clock::now();
        for node in &self.nodes {
            lab.start(&node.process()).await?;
        }
        self.whole().await?;
        Ok(begun.elapsed())
    }

    /// Ends the managers, and with them their servers.
    pub async fn stop(&self, lab: &Lab) -> Result<(), Failure> {
        for node in &self.nodes {
            if lab.pid(&node.process()).await?.is_some() {
                lab.signal(&node.process(), Signal::SIGTERM).await?;
            }
        }
        let begun = clock::now();
        for node in &self.nodes {
            while lab.pid(&node.process()).await?.is_some()
                || process::postmaster(&node.data()).is_some()
            {
                if begun.elapsed() > LIMIT {
                    return Err(Failure::error(format!("{} does not stop", node.name)));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Starts every manager that does not run.
    pub async fn revive(&self, lab: &Lab) -> Result<(), Failure> {
        for node in &self.nodes {
            if lab.pid(&node.process()).await?.is_none() {
                lab.start(&node.process()).await?;
            }
        }
        Ok(())
    }

    /// Waits until every node has its part, and the leader's server has all others streaming: a record of
    /// a node outlives it. Who is who then.
    pub async fn whole(&self) -> Result<Standing, Failure> {
        let begun = clock::now();
        loop {
            let mut seen = Vec::new();
            for node in &self.nodes {
                let told = self.send(node, Method::GET, "/cluster", &Value::Null).await;
                let cluster: Option<Cluster> =
                    told.as_ref().ok().and_then(|text| serde_json::from_str(text).ok());
                let standing = cluster.and_then(|cluster| standing(&cluster, self.nodes.len()));
                seen.push(told.unwrap_or_else(|failure| failure.message));
                if let Some(standing) = standing {
                    match self.streaming().await {
                        Ok(count) if count + 1 == self.nodes.len() => return Ok(standing),
                        Ok(count) => seen.push(format!("{count} stream from {}", standing.leader)),
                        Err(problem) => seen.push(problem),
                    }
                }
            }
            if begun.elapsed() > LIMIT {
                let logs: Vec<String> =
                    self.nodes.iter().map(|node| process::tail(&node.log, 3)).collect();
                return Err(Failure::error(format!(
                    "{} is not whole after {LIMIT:?}: {}\n{}",
                    self.name,
                    seen.join("; "),
                    logs.join("\n")
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many servers stream from the leader's.
    async fn streaming(&self) -> Result<usize, String> {
        let config = self.superuser();
        let asked = async {
            let (client, connection) = config.connect(NoTls).await?;
            let connection = tokio::spawn(connection);
            let row = client.query_one(STREAMING, &[]).await;
            connection.abort();
            row?.try_get::<_, i64>(0)
        };
        match tokio::time::timeout(SQL, asked).await {
            Ok(Ok(count)) => usize::try_from(count).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(format!("no server's answer within {SQL:?}")),
        }
    }

    fn node(&self, name: &str) -> Result<&Node, Failure> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| Failure::error(format!("{} has no node {name}", self.name)))
    }

    /// A switchover to the node that commits wait for.
    pub async fn switch(&self, now: &Standing) -> Result<String, Failure> {
        let body = json!({ "leader": now.leader, "candidate": now.synchronous });
        let leader = self.node(&now.leader)?;
        self.send(leader, Method::POST, "/switchover", &body).await?;
        Ok(format!("{} to {}", now.leader, now.synchronous))
    }

    /// Kills the leader's postmaster alone.
    pub fn kill_postmaster(&self, now: &Standing) -> Result<String, Failure> {
        let node = self.node(&now.leader)?;
        let pid = process::postmaster(&node.data())
            .ok_or_else(|| Failure::error(format!("no postmaster of {} runs", node.name)))?;
        kill(pid, Signal::SIGKILL)
            .map_err(|e| Failure::error(format!("kill the postmaster of {}: {e}", node.name)))?;
        Ok(format!("the postmaster of {}", node.name))
    }

    /// Kills everything of a node at once: the manager first, or it would restart what it misses.
    pub async fn crash(&self, lab: &Lab, name: &str) -> Result<String, Failure> {
        let node = self.node(name)?;
        lab.signal(&node.process(), Signal::SIGKILL).await?;
        if let Some(guardian) = process::guardian(&node.run_dir) {
            // Gone in between is what was wanted.
            kill(guardian, Signal::SIGKILL).ok();
        }
        let begun = clock::now();
        while process::signal_all(&node.dir, Signal::SIGKILL) > 0 {
            if begun.elapsed() > ANSWER {
                return Err(Failure::error(format!("{name} does not end on SIGKILL")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(format!("all of {name}"))
    }

    /// Changes the dynamic configuration.
    pub async fn patch(&self, body: &Value) -> Result<(), Failure> {
        let leader = self.whole().await?.leader;
        self.send(self.node(&leader)?, Method::PATCH, "/config", body).await.map(drop)
    }

    /// One request to a node's manager; what it answered.
    async fn send(
        &self,
        node: &Node,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<String, Failure> {
        let shown = format!("{method} {path} at {}", node.name);
        let mut request =
            self.client.request(method, format!("http://127.0.0.1:{}{path}", node.rest_port));
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let asked = async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok((status, text))) if status.is_success() => Ok(text),
            Ok(Ok((status, text))) => {
                Err(Failure::error(format!("{shown}: {status}: {}", text.trim())))
            }
            Ok(Err(error)) => Err(Failure::error(format!("{shown}: {}", reason(&error)))),
            Err(_) => Err(Failure::error(format!("{shown}: no answer within {ANSWER:?}"))),
        }
    }
}

/// An agent's configuration as the lab wrote it, of no federation and with the timings of both.
fn ours(file: &Path) -> Result<Value, Failure> {
    let fail = |problem: String| Failure::error(format!("read {}: {problem}", file.display()));
    let text = fs::read_to_string(file).map_err(|e| fail(e.to_string()))?;
    let mut config: Value = serde_saphyr::from_str(&text).map_err(|e| fail(e.to_string()))?;
    without(&mut config, "federation");
    for (key, value) in TUNED {
        config["bootstrap"]["dcs"][key] = json!(value);
    }
    Ok(config)
}

/// The same configuration as Patroni's, with this node's places and ports.
fn theirs(node: &mut Node) -> Result<(), Failure> {
    let config = &mut node.config;
    without(config, "regent");
    if config.get("etcd3").is_none() {
        return Err(Failure::error("the nodes' store is not etcd, which Patroni needs"));
    }
    let listen = format!("127.0.0.1:{}", node.postgres_port);
    let rest = format!("127.0.0.1:{}", node.rest_port);
    config["name"] = json!(node.name);
    config["restapi"] = json!({ "listen": rest, "connect_address": rest });
    let postgresql = &mut config["postgresql"];
    postgresql["listen"] = json!(listen);
    postgresql["connect_address"] = json!(listen);
    postgresql["data_dir"] = json!(node.dir.join("data"));
    postgresql["pgpass"] = json!(node.run_dir.join("pgpass"));
    postgresql["parameters"]["unix_socket_directories"] = json!(node.run_dir);
    Ok(())
}

fn without(config: &mut Value, key: &str) {
    if let Some(map) = config.as_object_mut() {
        map.retain(|name, _| name != key);
    }
}

/// Removes a node's data directory and what was put beside it.
fn empty(dir: &Path) -> Result<(), Failure> {
    let fail =
        |path: &Path, e: std::io::Error| Failure::error(format!("remove {}: {e}", path.display()));
    for entry in fs::read_dir(dir).map_err(|e| fail(dir, e))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("data") {
            fs::remove_dir_all(entry.path()).map_err(|e| fail(&entry.path(), e))?;
        }
    }
    Ok(())
}

/// Who is who, if of so many nodes one leads, commits wait for another, and all others follow.
fn standing(cluster: &Cluster, nodes: usize) -> Option<Standing> {
    let is = |role: &str, state: &str| {
        let of = |member: &&Member| member.role == role && member.state == state;
        cluster.members.iter().filter(of).collect::<Vec<_>>()
    };
    let [leader] = is("leader", "running")[..] else { return None };
    let [synchronous] = is("sync_standby", "streaming")[..] else { return None };
    let followers = is("replica", "streaming").len() + 1;
    let one_timeline = cluster.members.iter().all(|member| member.timeline == leader.timeline);
    (cluster.members.len() == nodes && followers + 1 == nodes && one_timeline)
        .then(|| Standing { leader: leader.name.clone(), synchronous: synchronous.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(members: &[(&str, &str, &str, u32)]) -> Cluster {
        let members: Vec<Value> = members
            .iter()
            .map(|(name, role, state, timeline)| {
                json!({"name": name, "role": role, "state": state, "timeline": timeline,
                       "api_url": "http://127.0.0.1:1/patroni", "lag": 0})
            })
            .collect();
        let text = json!({ "scope": "x", "members": members }).to_string();
        serde_json::from_str(&text).expect("a cluster")
    }

    #[test]
    fn a_cluster_is_whole_when_each_of_its_nodes_has_its_part() {
        let leads = ("a", "leader", "running", 2);
        let synchronous = ("b", "sync_standby", "streaming", 2);
        let follows = ("c", "replica", "streaming", 2);
        let whole = cluster(&[leads, synchronous, follows]);
        let expected = Standing { leader: "a".into(), synchronous: "b".into() };
        assert_eq!(standing(&whole, 3), Some(expected));
        for (why, members) in [
            ("one is missing", vec![leads, synchronous]),
            ("nobody leads", vec![("a", "replica", "streaming", 2), synchronous, follows]),
            ("one starts", vec![leads, synchronous, ("c", "replica", "starting", 2)]),
            ("nobody is synchronous", vec![leads, ("b", "replica", "streaming", 2), follows]),
            ("one is behind", vec![leads, synchronous, ("c", "replica", "streaming", 1)]),
        ] {
            assert_eq!(standing(&cluster(&members), 3), None, "{why}");
        }
    }
}
