//! Two PostgreSQL servers and nothing else, and the fastest clean hand-over between them that
//! PostgreSQL itself allows: what a planned switchover is measured against.
//!
//! Checkpoint both; SIGINT to the primary's postmaster; its exit noticed through a pidfd; the
//! standby has the shutdown checkpoint; promote. The servers live in the lab's directory, run as
//! its user with its settings, and go with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_proto::Lsn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio_postgres::{Client, Config, NoTls};

use crate::clock;
use crate::exit::Failure;
use crate::lab::layout::PortWish;
use crate::lab::owner::Owner;
use crate::lab::ports::Ports;
use crate::lab::{Lab, config, process};
use crate::load::table::explain;

/// Longest wait for any one thing.
const LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One of the two servers.
#[derive(Debug)]
struct Server {
    dir: PathBuf,
    port: u16,
}

impl Server {
    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// The pair.
#[derive(Debug)]
pub struct Bare {
    servers: [Server; 2],
    /// Which one is primary.
    primary: usize,
    bin: PathBuf,
    lab_dir: PathBuf,
    owner: Owner,
    superuser_password: String,
    /// Keeps the ports claimed.
    _ports: Ports,
}

impl Bare {
    /// Makes and starts a primary and its standby.
    pub async fn start(lab: &Lab) -> Result<Self, Failure> {
        let layout = lab.layout();
        let owner = Owner::choose()?;
        let mut ports = Ports::new(u16::try_from(std::process::id() % 65_536).unwrap_or(0));
        let any = PortWish { port: None, place: String::new() };
        let top = layout.dir.join("bare");
        let mut server = |name: &str| {
            Ok::<Server, Failure>(Server { dir: top.join(name), port: ports.take(&any)? })
        };
        let servers = [server("a")?, server("b")?];
        owner.make_dir(&top)?;
        for server in &servers {
            owner.make_dir(&server.dir)?;
        }
        owner.write(&top.join("password"), &format!("{}\n", lab.secrets().superuser))?;
        owner.hand_over(&top)?;
        let bare = Self {
            servers,
            primary: 0,
            bin: layout.postgres_bin.clone(),
            lab_dir: layout.dir.clone(),
            owner,
            superuser_password: lab.secrets().superuser.clone(),
            _ports: ports,
        };
        bare.make_primary(&top.join("password"))?;
        bare.launch(0)?;
        bare.connect_when_up(0).await?;
        bare.make_standby()?;
        bare.launch(1)?;
        bare.wait_for_streaming().await?;
        Ok(bare)
    }

    /// Both servers' ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.port).collect()
    }

    /// How to connect to whichever is primary, as superuser.
    #[must_use]
    pub fn superuser(&self) -> Config {
        self.config(self.primary)
    }

    fn config(&self, which: usize) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.servers[which].port)
            .user("postgres")
            .password(&self.superuser_password)
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(1));
        config
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let program_path = self.bin.join(program);
        let done = process::run(&program_path, arguments, &self.lab_dir, Some(&self.owner), LIMIT)?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        Err(Failure::error(format!("{program} failed ({}): {}", done.status, done.stderr.trim())))
    }

    fn make_primary(&self, password_file: &Path) -> Result<(), Failure> {
        let data = self.servers[0].data().display().to_string();
        let password = format!("--pwfile={}", password_file.display());
        let arguments = [
            "-D",
            &data,
            "-U",
            "postgres",
            &password,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
        ];
        self.run("initdb", &arguments)?;
        self.configure(0)
    }

    fn make_standby(&self) -> Result<(), Failure> {
        let data = self.servers[1].data().display().to_string();
        let source = self.conninfo(0);
        self.run(
            "pg_basebackup",
            &["-d", &source, "-D", &data, "-X", "stream", "-c", "fast", "--no-sync"],
        )?;
        self.configure(1)?;
        self.signal_file(1)
    }

    fn conninfo(&self, which: usize) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres passfile={}/pgpass",
            self.servers[which].port,
            self.lab_dir.display()
        )
    }

    /// The lab's settings, and the other server as upstream for when this one is the standby.
    fn configure(&self, which: usize) -> Result<(), Failure> {
        let server = &self.servers[which];
        let mut text = String::new();
        if let Some(settings) = config::server_settings().as_object() {
            for (name, value) in settings {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.push_str(&format!("{name} = '{value}'\n"));
            }
        }
        text.push_str(&format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             primary_conninfo = '{}'\n",
            server.port,
            server.dir.display(),
            self.conninfo(1 - which)
        ));
        self.write(&server.data().join("postgresql.auto.conf"), &text)
    }

    fn signal_file(&self, which: usize) -> Result<(), Failure> {
        self.write(&self.servers[which].data().join("standby.signal"), "")
    }

    /// Writes a file of the data directory, as the servers' user.
    fn write(&self, file: &Path, text: &str) -> Result<(), Failure> {
        let fail = |e| Failure::error(format!("write {}: {e}", file.display()));
        fs::write(file, text).map_err(fail)?;
        if self.owner.dropped {
            let (uid, gid) = (self.owner.uid.as_raw(), self.owner.gid.as_raw());
            std::os::unix::fs::chown(file, Some(uid), Some(gid)).map_err(fail)?;
        }
        Ok(())
    }

    /// Starts a server, with pg_ctl, which leaves the postmaster on its own; the lab's owner finds
    /// it by its directory.
    fn launch(&self, which: usize) -> Result<(), Failure> {
        let server = &self.servers[which];
        let data = server.data().display().to_string();
        let log = server.dir.join("log").display().to_string();
        self.run("pg_ctl", &["start", "-D", &data, "-l", &log, "-W", "-s"]).map(drop)
    }

    async fn connect_when_up(&self, which: usize) -> Result<Client, Failure> {
        let begun = clock::now();
        loop {
            let connected =
                tokio::time::timeout(Duration::from_secs(1), self.config(which).connect(NoTls))
                    .await;
            let problem = match connected {
                Ok(Ok((client, connection))) => {
                    tokio::spawn(async move {
                        // Its error comes back from the statement that meets it.
                        connection.await.ok();
                    });
                    return Ok(client);
                }
                Ok(Err(e)) => explain(&e),
                Err(_) => "no answer".to_owned(),
            };
            if begun.elapsed() > LIMIT {
                return Err(Failure::error(format!("connect to a bare server: {problem}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_for_streaming(&self) -> Result<(), Failure> {
        let primary = self.connect_when_up(self.primary).await?;
        let begun = clock::now();
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' \
                     AND replay_lsn >= pg_current_wal_lsn() - 1048576";
        loop {
            let row = query_one(&primary, query).await?;
            let count: i64 = row.try_get(0).map_err(|e| Failure::error(explain(&e)))?;
            if count > 0 {
                return Ok(());
            }
            if begun.elapsed() > LIMIT {
                return Err(Failure::error(format!(
                    "the bare standby does not stream after {LIMIT:?}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Hands over to the other server. Returns once that one was told to promote, with what that
    /// took, in words.
    pub async fn hand_over(&mut self) -> Result<String, Failure> {
        let (old, new) = (self.primary, 1 - self.primary);
        let from = self.connect_when_up(old).await?;
        let to = self.connect_when_up(new).await?;
        for client in [&from, &to] {
            let done = tokio::time::timeout(LIMIT, client.batch_execute("CHECKPOINT")).await;
            done.map_err(|_| Failure::error("checkpoint: no answer"))?
                .map_err(|e| Failure::error(format!("checkpoint: {}", explain(&e))))?;
        }
        drop(from);
        let begun = clock::now();
        self.stop(old).await?;
        let stopped = clock::millis(begun.elapsed());
        let end = self.shutdown_checkpoint(old)?;
        let waiting = clock::now();
        loop {
            let row = query_one(&to, "SELECT pg_last_wal_receive_lsn()::text").await?;
            let text: String = row.try_get(0).map_err(|e| Failure::error(explain(&e)))?;
            let received: Lsn = text.parse().map_err(|e| Failure::error(format!("{e}")))?;
            if received > end {
                break;
            }
            if waiting.elapsed() > LIMIT {
                return Err(Failure::error(format!("the standby has {received}, wanted {end}")));
            }
            tokio::task::yield_now().await;
        }
        let received = clock::millis(begun.elapsed());
        query_one(&to, "SELECT pg_promote(false)").await?;
        self.primary = new;
        Ok(format!("stopped after {stopped} ms, received after {received} ms"))
    }

    /// Brings the former primary back as a standby, for the next hand-over.
    pub async fn rejoin(&self) -> Result<(), Failure> {
        let old = 1 - self.primary;
        self.signal_file(old)?;
        self.launch(old)?;
        self.wait_for_streaming().await
    }

    async fn stop(&self, which: usize) -> Result<(), Failure> {
        let data = self.servers[which].data();
        let pid = process::postmaster(&data)
            .ok_or_else(|| Failure::error(format!("no postmaster in {}", data.display())))?;
        let stopped = tokio::task::spawn_blocking(move || stop_and_notice(pid)).await;
        stopped.map_err(|e| Failure::error(format!("stop the bare primary: {e}")))??;
        Ok(())
    }

    fn shutdown_checkpoint(&self, which: usize) -> Result<Lsn, Failure> {
        let data = self.servers[which].data().display().to_string();
        let text = self.run("pg_controldata", &["-D", &data])?;
        let wrong = |what: &str| Failure::error(format!("pg_controldata of {data}: {what}"));
        if !text
            .lines()
            .any(|l| l.starts_with("Database cluster state:") && l.ends_with(" shut down"))
        {
            return Err(wrong("the state is not \"shut down\""));
        }
        let line = text.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:"));
        line.ok_or_else(|| wrong("no checkpoint location"))?
            .trim()
            .parse()
            .map_err(|e| wrong(&format!("{e}")))
    }
}

async fn query_one(client: &Client, query: &str) -> Result<tokio_postgres::Row, Failure> {
    let answer = tokio::time::timeout(LIMIT, client.query_one(query, &[])).await;
    answer
        .map_err(|_| Failure::error(format!("{query}: no answer within {LIMIT:?}")))?
        .map_err(|e| Failure::error(format!("{query}: {}", explain(&e))))
}

/// SIGINT, PostgreSQL's fast shutdown, and its exit without polling.
fn stop_and_notice(pid: Pid) -> anyhow::Result<()> {
    let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("read process id")?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).context("open pidfd of the postmaster")?;
    kill(pid, Signal::SIGINT).context("send SIGINT to the postmaster")?;
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut waiting = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = poll(&mut waiting, Some(&limit)).context("wait for the postmaster's exit")?;
    anyhow::ensure!(ready == 1, "the postmaster did not stop within 30 s of SIGINT");
    Ok(())
}
