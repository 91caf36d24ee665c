//! HAProxy in front of a site, with the health checks that Patroni's users have (spec/patroni-compat.md 7):
//! a client that knows the proxy alone writes through a switchover and through the death of the primary,
//! its sessions end with the role of the server behind them, and readers reach the replicas and nobody
//! else. Nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::name::NodeName;
use regent_tests::bed::{Bed, HEALTHY};
use regent_tests::program::{Running, haproxy};
use regent_tests::rest::{ask, ask_within};
use regent_tests::wait::until;
use regent_tests::{say, skip};
use regentctl::report::Case;
use serde_json::json;
use tokio_postgres::{Client, Config, NoTls};

const SINGLE_SITE: &str = include_str!("../../topologies/single-site.yaml");
const NAME: &str = "haproxy";
/// A check, and as many that must fail or pass before it counts.
const CHECK: Duration = Duration::from_millis(250);
const FALL: u32 = 2;
/// What the proxy may add to the outage of what happens behind it: the checks of the old server and
/// of the new one, and a busy machine.
const PROXY: Duration = Duration::from_secs(2);

/// The proxy, and where it listens.
struct Proxy {
    _program: Running,
    _config: tempfile::NamedTempFile,
    primary: u16,
    replicas: u16,
}

/// Ports that were free a moment ago.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let (one, two) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([one.local_addr()?.port(), two.local_addr()?.port()])
}

impl Proxy {
    fn start(bed: &Bed) -> anyhow::Result<Self> {
        let [primary, replicas] = free_ports()?;
        let mut text =
            "defaults\n mode tcp\n timeout connect 1s\n timeout client 1h\n timeout server 1h\n \
                        timeout check 1s\n"
                .to_owned();
        for (section, port, check) in
            [("primary", primary, "OPTIONS /primary"), ("replicas", replicas, "OPTIONS /replica")]
        {
            write!(
                text,
                "listen {section}\n bind 127.0.0.1:{port}\n balance roundrobin\n option httpchk {check}\n \
                 http-check expect status 200\n default-server inter {}ms fall {FALL} rise 1 \
                 on-marked-down shutdown-sessions\n",
                CHECK.as_millis()
            )?;
            for node in &bed.lab().layout().nodes {
                let (name, server, rest) = (&node.name, node.postgres_port, node.rest_port);
                writeln!(text, " server {name} 127.0.0.1:{server} check port {rest}")?;
            }
        }
        let mut config = tempfile::NamedTempFile::new()?;
        config.write_all(text.as_bytes())?;
        let mut command = haproxy().map_err(anyhow::Error::msg)?;
        command.arg("-db").arg("-f").arg(config.path());
        let mut program = Running::start(command)?;
        ensure!(program.runs()?, "haproxy ended at once, with\n{text}");
        Ok(Self { _program: program, _config: config, primary, replicas })
    }
}

/// A session through the proxy.
async fn session(bed: &Bed, port: u16) -> Result<Client, String> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    config.password(&bed.lab().secrets().superuser).connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

/// The port and the role of the server that a session reaches.
async fn reached(client: &Client) -> Result<(u16, bool), String> {
    let asked = client.query_one("SELECT inet_server_port(), pg_is_in_recovery()", &[]).await;
    let row = asked.map_err(|error| error.to_string())?;
    let port: i32 = row.get(0);
    Ok((u16::try_from(port).map_err(|error| error.to_string())?, row.get(1)))
}

/// Until the proxy leads writers to the leader and readers to both others.
async fn leads_aright(bed: &Bed, proxy: &Proxy) -> anyhow::Result<NodeName> {
    let leader = bed.see("a node with the primary lease", HEALTHY, |global| {
        let lease = global.lease()?;
        (!lease.released).then_some(lease.node)
    });
    let leader = leader.await?;
    let nodes = &bed.lab().layout().nodes;
    let ports = |leads: bool| {
        let those = nodes.iter().filter(|node| (node.name == leader) == leads);
        those.map(|node| node.postgres_port).collect::<BTreeSet<u16>>()
    };
    until("the proxy to lead to everybody by role", HEALTHY, async || {
        let writes = reached(&session(bed, proxy.primary).await?).await?;
        if !ports(true).contains(&writes.0) || writes.1 {
            return Err(format!("writers reach {writes:?}, {leader} leads"));
        }
        let mut readers = BTreeSet::new();
        for _ in 0..2 * nodes.len() {
            let (port, standby) = reached(&session(bed, proxy.replicas).await?).await?;
            if !standby {
                return Err(format!("a reader reached the primary at {port}"));
            }
            readers.insert(port);
        }
        if readers == ports(false) { Ok(()) } else { Err(format!("readers reach {readers:?}")) }
    })
    .await?;
    bed.progress().await?;
    Ok(leader)
}

/// What happened behind the proxy, with the outage that the client saw.
fn told(bed: &Bed, what: &str, from: Duration, most: Duration) -> Case {
    let outage = bed.outage(from, bed.writer.now());
    let rate = bed.rate(from);
    say(format!("{NAME}: {what}: outage {} ms, {rate} rows/s before", outage.as_millis()));
    Case::new(format!("{NAME} {what}"))
        .figure("outage", outage.as_secs_f64() * 1e3, "ms")
        .require(outage <= most, || format!("outage {outage:?}, limit {most:?}"))
}

async fn all() -> anyhow::Result<()> {
    let mut bed = Bed::start(NAME, SINGLE_SITE, None).await?;
    let proxy = Proxy::start(&bed)?;
    let ttl = bed.lab().topology().policy.site_ttl.0;
    bed.go_through(proxy.primary).await;
    let mut cases = Vec::new();

    let leader = leads_aright(&bed, &proxy).await?;
    let old = session(&bed, proxy.primary).await.map_err(anyhow::Error::msg)?;
    let (from, place) = (bed.writer.now(), bed.lab().layout().node(leader.as_str()));
    let rest = place.context("a node")?.rest_port;
    let sync = ask(rest, "GET", "/cluster", "").await?.json();
    let members = sync["members"].as_array().context("members")?.iter();
    let to = members.filter(|member| member["role"] == "sync_standby");
    let to = to.filter_map(|member| member["name"].as_str()).next().context("a synchronous one")?;
    let body = json!({"leader": leader, "candidate": to}).to_string();
    let answer = ask_within(HEALTHY, rest, "POST", "/switchover", &body).await?;
    ensure!(answer.code == 200, "{answer:?}");
    bed.progress().await?;
    cases.push(told(&bed, "switchover", from, PROXY + Duration::from_secs(2)));
    let next = leads_aright(&bed, &proxy).await?;
    ensure!(next.as_str() == to, "{next} leads, not {to}");
    ensure!(reached(&old).await.is_err(), "a session at the former primary goes on");

    let from = bed.writer.now();
    bed.lab().kill_node(&next).await?;
    bed.see("another node with the primary lease", HEALTHY, |global| {
        let lease = global.lease()?;
        (lease.node != next && !lease.released).then_some(())
    })
    .await?;
    bed.progress().await?;
    cases.push(told(&bed, "death of the primary", from, ttl + Duration::from_secs(2) + PROXY));
    bed.lab().start_agent(&next).await?;
    leads_aright(&bed, &proxy).await?;

    bed.report(cases).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_haproxy_writes_through_a_switchover_and_a_death() {
    match haproxy() {
        Err(missing) => skip(&missing),
        Ok(_) => all().await.unwrap(),
    }
}
