//! Clusters for the fence. Either one site of three nodes, synchronous, TTL 5 s, no federation, on
//! three real etcd members, each agent with a way of its own to them; or a federation of two such
//! sites and a witness on the embedded store, so that the primary lease is on trial too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::Pid;
use regent_agent::observe::clock::wall_time;
use regent_proto::topology::StoreKind;
use regent_test_sys::pipe::Log;
use regentctl::lab::layout::StorePlace;
use regentctl::lab::{Lab, Options, Prepared, process, ready};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config, NoTls};

use crate::bed::TWO_SITES;
use crate::report::workspace;
use crate::rest::ask;
use crate::wait::until;

use super::checker::{Node, Row};
use super::clients::Place;
use super::ground::Ground;
use super::packets::Packets;
use super::proxy::Proxies;
use super::stores::Stores;
use super::wall::Wall;

/// Three nodes; the two witness sites exist for their voters only, which become the site's DCS.
const TOPOLOGY: &str = "\
federation: fence
primary: home
sites:
  - name: home
    kind: data
    dcs: etcd
    synchronous: true
    nodes: [{name: home-1}, {name: home-2}, {name: home-3}]
  - {name: w1, kind: witness}
  - {name: w2, kind: witness}
quorum:
  store: etcd
  voters: [home, w1, w2]
policy:
  site_ttl: 5s
  primary_ttl: 15s
";

/// The sites' TTL, as the topologies have it.
pub const TTL: Duration = Duration::from_secs(5);
/// Longest wait for the cluster to be whole. Nothing is judged by it: on a disk that five clusters share, the two
/// rewinds of a standby site, one after the other, took more than a minute.
const HEALTHY: Duration = Duration::from_secs(150);
/// Longest wait for an agent's next round after its clock was stepped.
const STEPS: Duration = Duration::from_secs(10);
/// An agent whose clock was stepped tells the time to this many seconds: the round before it may be
/// what it tells.
const STEPPED_WITHIN: f64 = 60.0;
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Lines of a log that a failed repetition shows.
const LAST_WORDS: usize = 8;
/// Longest wait for the table.
const TABLE: Duration = Duration::from_secs(30);

const MAKE: &str = "\
CREATE SCHEMA fence;
CREATE TABLE fence.rows (client integer, n bigint, PRIMARY KEY (client, n));
GRANT USAGE ON SCHEMA fence TO app;
GRANT SELECT, INSERT ON fence.rows TO app;";

/// What is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// One site, no federation, etcd.
    Site,
    /// The same, every node with a watchdog that it requires.
    Watched,
    /// The same, every data directory on a file system that can stop answering.
    Hanging,
    /// Two sites and a witness, the embedded store.
    Federation,
}

/// The cluster. Dropping it removes it.
#[derive(Debug)]
pub struct Cluster {
    /// Its agents and servers. Before its stores: those end last.
    lab: Option<Lab>,
    /// The ways to the DCS.
    pub proxies: Proxies,
    /// The DCS.
    pub stores: Stores,
    /// What lies under each node.
    pub ground: Ground,
    /// The logs of each node, which are pipes: its agent's and its server's.
    logs: Vec<[Log; 2]>,
    /// The wall clock of each node.
    pub wall: Wall,
    /// What refuses the packets of nodes that were frozen once.
    packets: BTreeMap<Node, Packets>,
    /// Where clients write.
    pub places: Vec<Place>,
    /// What is on trial.
    pub setting: Setting,
    name: String,
    clients: u32,
}

impl Cluster {
    /// Starts it and waits until it is whole.
    ///
    /// # Errors
    /// When it does not become whole.
    pub async fn start(name: &str, setting: Setting) -> anyhow::Result<Self> {
        let (topology, dcs) = match setting {
            Setting::Site | Setting::Watched | Setting::Hanging => {
                (TOPOLOGY, Some(StoreKind::Etcd))
            }
            Setting::Federation => (TWO_SITES, None),
        };
        let options = Options { dir: None, dcs, bare: true };
        let mut prepared = Prepared::new(topology, &options, &mut |_| {})?;
        let stores = Stores::start(&prepared.layout)?;
        let nodes = prepared.layout.nodes.clone();
        let federated = setting == Setting::Federation;
        let ways = if federated { 0 } else { nodes.len() };
        let to: Vec<_> = (0..ways).map(|node| stores.of_node(node)).collect();
        let proxies = Proxies::start(&to)?;
        if !federated {
            prepared.layout.coordinators.clear();
            prepared.layout.etcds.clear();
        }
        let ground = Ground::make(setting, &prepared)?;
        for (node, proxy) in proxies.of_node.iter().enumerate() {
            let file = prepared.layout.config(&nodes[node].agent());
            let text = std::fs::read_to_string(&file)?;
            let mut config: Value = serde_saphyr::from_str(&text)?;
            let sections = config.as_object_mut().context("an agent's configuration")?;
            sections.remove("federation");
            sections
                .insert("etcd3".into(), json!({"hosts": [format!("127.0.0.1:{}", proxy.port)]}));
            ground.configure(node, sections);
            // Written in place: it stays its owner's.
            std::fs::write(&file, serde_saphyr::to_string(&config)?)?;
        }
        let layout = &prepared.layout;
        let owner = prepared.owner();
        let user = owner.dropped.then_some((owner.uid, owner.gid));
        let logs = nodes.iter().map(|node| {
            let names = [layout.log(&node.agent()), layout.run_dir(node).join("postgresql.log")];
            Ok([Log::at(&names[0], user)?, Log::at(&names[1], user)?])
        });
        let logs = logs.collect::<anyhow::Result<Vec<[Log; 2]>>>()?;
        let wall = Wall::prepare(layout)?;
        let places = nodes.iter().enumerate();
        let places =
            places.map(|(node, place)| Place { node, port: place.postgres_port }).collect();
        let lab = prepared.start().await?;
        let cluster = Self {
            lab: Some(lab),
            proxies,
            stores,
            ground,
            logs,
            wall,
            packets: BTreeMap::new(),
            places,
            setting,
            name: name.to_owned(),
            clients: 0,
        };
        if setting == Setting::Federation {
            ready::create(cluster.lab(), topology, &mut |_| {}).await?;
            ready::wait(cluster.lab(), &mut |_| {}).await?;
        }
        let old = cluster.healthy().await?;
        cluster.make_table(old).await?;
        Ok(cluster)
    }

    /// Its agents and servers.
    ///
    /// # Panics
    /// After its end.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the cluster was not ended yet")
    }

    async fn make_table(&self, primary: Node) -> anyhow::Result<()> {
        let client = self.superuser(primary).await?;
        let verifier =
            postgres_protocol::password::scram_sha_256(self.lab().secrets().app.as_bytes());
        let made = format!("CREATE ROLE app LOGIN PASSWORD '{verifier}';\n{MAKE}");
        Ok(client.batch_execute(&made).await?)
    }

    /// A session as superuser, which ends with the value.
    ///
    /// # Errors
    /// When the server does not take it in time.
    pub async fn superuser(&self, node: Node) -> anyhow::Result<Client> {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.places[node].port)
            .user("postgres")
            .password(&self.lab().secrets().superuser)
            .dbname("postgres");
        let (client, connection) =
            tokio::time::timeout(ANSWER, config.connect(NoTls)).await.context("connect")??;
        tokio::spawn(async move {
            // Its error comes back from the statement that meets it.
            connection.await.ok();
        });
        Ok(client)
    }

    /// Waits until one node leads with a synchronous standby and every other one streams; who
    /// leads.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn healthy(&self) -> anyhow::Result<Node> {
        until("a whole cluster", HEALTHY, async || {
            let mut primaries = Vec::new();
            for place in &self.places {
                let role = tokio::time::timeout(ANSWER, self.role(place.node)).await;
                let role = role.map_err(|_| format!("node {} does not answer", place.node))?;
                match role.map_err(|e| format!("node {}: {e:#}", place.node))? {
                    Role::Standby { streams: true } => {}
                    Role::Standby { streams: false } => {
                        return Err(format!("node {} does not stream", place.node));
                    }
                    Role::Primary { synchronous } => primaries.push((place.node, synchronous)),
                }
            }
            match primaries[..] {
                [(node, 1..)] => match self.candidates(node).await {
                    Ok(1..) => Ok(node),
                    seen => Err(format!("synchronous standbys in the DCS: {seen:?}")),
                },
                _ => Err(format!("primaries, with their synchronous standbys: {primaries:?}")),
            }
        })
        .await
        .with_context(|| self.stores.tail())
    }

    /// How many standbys may take over, as the DCS says to this node. PostgreSQL waits for them
    /// before that is written.
    async fn candidates(&self, node: Node) -> anyhow::Result<usize> {
        let asking = async {
            let port = self.lab().layout().nodes[node].rest_port;
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            let request = "GET /cluster HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let body = answer.split_once("\r\n\r\n").context("an answer without a body")?.1;
            let cluster: Value = serde_json::from_str(body)?;
            let members = cluster["members"].as_array().context("members")?;
            Ok(members.iter().filter(|member| member["role"] == "sync_standby").count())
        };
        tokio::time::timeout(ANSWER, asking).await.context("ask for the cluster")?
    }

    async fn role(&self, node: Node) -> anyhow::Result<Role> {
        let client = self.superuser(node).await?;
        let row = client
            .query_one(
                "SELECT pg_is_in_recovery(), \
                 EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
                 (SELECT count(*) FROM pg_stat_replication \
                  WHERE sync_state = 'sync' AND state = 'streaming')",
                &[],
            )
            .await?;
        if row.try_get::<_, bool>(0)? {
            return Ok(Role::Standby { streams: row.try_get(1)? });
        }
        Ok(Role::Primary { synchronous: row.try_get::<_, i64>(2)?.try_into()? })
    }

    /// Numbers for the clients of one repetition.
    pub fn take_clients(&mut self) -> u32 {
        let first = self.clients;
        self.clients += 100;
        first
    }

    /// The rows there; empties the table for the next repetition.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn take_rows(&self, primary: Node) -> anyhow::Result<BTreeSet<Row>> {
        let reading = async {
            let client = self.superuser(primary).await?;
            let rows = client.query("SELECT client, n FROM fence.rows", &[]).await?;
            let rows = rows.iter().map(|row| {
                let (client, number): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
                Ok((u32::try_from(client)?, u64::try_from(number)?))
            });
            let rows: anyhow::Result<BTreeSet<Row>> = rows.collect();
            client.batch_execute("TRUNCATE fence.rows").await?;
            rows
        };
        tokio::time::timeout(TABLE, reading).await.context("read the table")?
    }

    /// A node's directories: where its page is, and its data.
    #[must_use]
    pub fn directories(&self, node: Node) -> (PathBuf, PathBuf) {
        let layout = self.lab().layout();
        let place = &layout.nodes[node];
        let data_dir = self.ground.data_dir(node).unwrap_or_else(|| layout.data_dir(place));
        (layout.run_dir(place), data_dir)
    }

    /// Lets the kernel refuse what a node sends after its right to write; the process that tells it.
    ///
    /// # Errors
    /// When that can't be.
    pub fn refuse_packets(&mut self, node: Node) -> anyhow::Result<Pid> {
        if let Some(packets) = self.packets.get(&node) {
            return packets.pid();
        }
        let place = self.places.iter().find(|place| place.node == node).context("a node")?;
        let packets = Packets::beside(&self.directories(node).0, place.port)?;
        let pid = packets.pid()?;
        self.packets.insert(node, packets);
        Ok(pid)
    }

    /// From now on nobody reads a node's logs and their pipes are full, or the opposite.
    ///
    /// # Errors
    /// When they can't be filled.
    pub fn block_logs(&self, node: Node, block: bool) -> anyhow::Result<()> {
        for log in &self.logs[node] {
            if block {
                log.block()?;
            } else {
                log.go_on();
            }
        }
        Ok(())
    }

    /// Steps the wall clock of a node's agent to this many seconds from the machine's, and waits until
    /// the agent tells the time by it: a library that the loader ignores would step nothing.
    ///
    /// # Errors
    /// When the agent does not.
    pub async fn step_wall(&self, node: Node, seconds: i64) -> anyhow::Result<()> {
        self.wall.step(node, seconds)?;
        let port = self.lab().layout().nodes[node].rest_port;
        until("the agent to tell the stepped time", STEPS, async || {
            let answer = ask(port, "GET", "/metrics", "").await.map_err(|e| e.to_string())?;
            let told = answer.body.lines().find(|line| line.starts_with("patroni_dcs_last_seen{"));
            let told = told.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            let told = told.ok_or("no patroni_dcs_last_seen")?;
            let here = Duration::from_millis(wall_time().0).as_secs_f64();
            let apart = told
                - here
                - Duration::from_secs(seconds.unsigned_abs()).as_secs_f64()
                    * if seconds < 0 { -1.0 } else { 1.0 };
            if apart.abs() < STEPPED_WITHIN { Ok(()) } else { Err(format!("{apart} s apart")) }
        })
        .await
    }

    /// The file of the global quorum, where it is one.
    ///
    /// # Errors
    /// Where there is none.
    pub fn quorum_file(&self) -> anyhow::Result<PathBuf> {
        match (&self.lab().layout().quorum, self.setting) {
            (StorePlace::Sqlite { path }, Setting::Federation) => Ok(path.clone()),
            (place, setting) => bail!("{setting:?} has no quorum in a file: {place:?}"),
        }
    }

    /// The name of a node's agent process.
    #[must_use]
    pub fn agent(&self, node: Node) -> String {
        self.lab().layout().nodes[node].agent()
    }

    /// A node's agent.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn agent_pid(&self, node: Node) -> anyhow::Result<Pid> {
        let pid = self.lab().pid(&self.agent(node)).await?;
        pid.with_context(|| format!("{} does not run", self.agent(node)))
    }

    /// A node's postmaster.
    ///
    /// # Errors
    /// When it does not run.
    pub fn postmaster(&self, node: Node) -> anyhow::Result<Pid> {
        process::postmaster(&self.directories(node).1).context("no postmaster runs")
    }

    /// A node's guardians.
    #[must_use]
    pub fn guardians(&self, node: Node) -> Vec<Pid> {
        let data_dir = self.directories(node).1.display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_guardian = |pid: &i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"regent-guardian"))
                && words.any(|word| word == data_dir.as_bytes())
        };
        pids.filter(is_guardian).map(Pid::from_raw).collect()
    }

    /// Starts every agent and store member that does not run.
    ///
    /// # Errors
    /// When one can't be started.
    pub async fn start_missing(&mut self) -> anyhow::Result<()> {
        self.stores.start_missing()?;
        for process in self.lab().processes().await? {
            if process.pid.is_none() {
                self.lab().start(&process.name).await?;
            }
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something is left behind.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        match self.lab.take() {
            Some(lab) => Ok(lab.down().await?),
            None => bail!("ended already"),
        }
    }

    /// Copies the logs to where they outlive the cluster; where that is.
    ///
    /// # Errors
    /// When they can't be copied.
    pub fn keep_logs(&self, of: &str) -> anyhow::Result<PathBuf> {
        let target = workspace().join("target/test-logs").join(&self.name).join(of);
        std::fs::create_dir_all(&target)?;
        for (place, logs) in self.lab().layout().nodes.iter().zip(&self.logs) {
            std::fs::write(target.join(format!("{}.log", place.agent())), logs[0].text())?;
            let server = target.join(format!("postgresql-{}.log", place.name));
            std::fs::write(server, logs[1].text())?;
        }
        Ok(target)
    }

    /// The last lines of each agent's log, for a report that outlives the files.
    #[must_use]
    pub fn last_words(&self) -> String {
        let nodes = self.lab().layout().nodes.iter().zip(&self.logs);
        let words = nodes.map(|(place, logs)| {
            let text = logs[0].text();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.get(lines.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
            format!("{}:\n  {}\n", place.agent(), last.join("\n  "))
        });
        words.collect()
    }
}

enum Role {
    Standby { streams: bool },
    Primary { synchronous: usize },
}
