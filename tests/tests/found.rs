//! What an agent finds running that it did not start, or that nobody guards any more: it acknowledges
//! nothing until its right to write is known, whatever else keeps the agent from its work.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use regent_guardian::page::{Guard, Page};
use regent_guardian::processes::of_data_directory;
use regent_tests::bed::{Bed, HEALTHY, Roles, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::program::run;
use regent_tests::rest::ask;
use regent_tests::say;
use regent_tests::session::{restless, session, value};
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;
use regentctl::lab::process::postmaster;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

/// Longest wait for something that takes a few seconds at most.
const SOON: Duration = Duration::from_secs(30);

/// A few rounds of an agent's loop: the lab's `loop_wait` is 1 s.
const ROUNDS: Duration = Duration::from_secs(4);

fn leader(bed: &Bed, roles: &Roles) -> anyhow::Result<NodePlace> {
    let layout = bed.lab().layout();
    Ok(layout.node(roles.a_leader.as_str()).context("a node of the lab")?.clone())
}

fn page(bed: &Bed, place: &NodePlace) -> anyhow::Result<Page> {
    Ok(Page::open(bed.lab().layout().run_dir(place).join("guardian.page"))?)
}

fn living(bed: &Bed, place: &NodePlace) -> Result<Vec<i32>, String> {
    let found = of_data_directory(&bed.lab().layout().data_dir(place), None);
    found.map_err(|error| error.to_string())
}

async fn nothing_left(bed: &Bed, place: &NodePlace) -> anyhow::Result<()> {
    until("no process of the data directory", SOON, async || {
        let left = living(bed, place)?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    })
    .await
}

fn said(bed: &Bed, place: &NodePlace, what: &str) -> Result<(), String> {
    let log = std::fs::read_to_string(bed.lab().layout().log(&place.agent()));
    let log = log.map_err(|error| error.to_string())?;
    if log.contains(what) { Ok(()) } else { Err(format!("the log does not say {what:?}")) }
}

/// What keeps an agent from starting, as long as it is there.
enum Obstacle {
    /// Another program has its port.
    Port { _taken: TcpListener },
    /// Its configuration is refused.
    Configuration { file: PathBuf, good: String },
}

impl Obstacle {
    async fn port(place: &NodePlace) -> anyhow::Result<Self> {
        let taken = until("the agent's port is free", SOON, async || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, place.rest_port)).map_err(|e| e.to_string())
        });
        Ok(Self::Port { _taken: taken.await? })
    }

    fn configuration(bed: &Bed, place: &NodePlace) -> anyhow::Result<Self> {
        let file = bed.lab().layout().config(&place.agent());
        let good = std::fs::read_to_string(&file)?;
        let mut bad: Value = serde_saphyr::from_str(&good)?;
        let regent = bad["regent"].as_object_mut().context("the section regent")?;
        regent.insert("stop_buget".to_owned(), json!("5s"));
        // Written in place: it stays its owner's.
        std::fs::write(&file, serde_saphyr::to_string(&bad)?)?;
        Ok(Self::Configuration { file, good })
    }

    fn remove(self) -> anyhow::Result<()> {
        match self {
            Self::Port { .. } => Ok(()),
            Self::Configuration { file, good } => Ok(std::fs::write(file, good)?),
        }
    }
}

/// What agent and guardian left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Server,
    /// The postmaster is dead, too.
    Orphans,
}

/// Why the agent that comes back cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hindered {
    /// Another program has its port.
    ByPort,
    /// Its configuration is refused.
    ByConfiguration,
}

/// Agent and guardian are dead; the agent that comes back cannot start.
async fn cannot_start(name: &str, behind: Behind, hindered: Hindered) -> anyhow::Result<()> {
    let bed = Bed::start(name, TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let place = leader(&bed, &roles)?;
    let restless = restless(bed.lab(), &place.name).await?;
    bed.progress().await?;
    bed.lab().kill_agent(&place.name, Signal::SIGKILL).await?;
    bed.lab().signal_guardian(&place.name, Signal::SIGKILL).await?;
    if behind == Behind::Orphans {
        let pid = bed.lab().postmaster_pid(&place.name)?.context("a postmaster")?;
        kill(pid, Signal::SIGKILL)?;
        until("the postmaster is gone", SOON, async || {
            let lives = living(&bed, &place)?.contains(&pid.as_raw());
            if lives { Err("it lives".to_owned()) } else { Ok(()) }
        })
        .await?;
    }
    let obstacle = match hindered {
        Hindered::ByConfiguration => Obstacle::configuration(&bed, &place)?,
        Hindered::ByPort => Obstacle::port(&place).await?,
    };
    ensure!(!living(&bed, &place).map_err(anyhow::Error::msg)?.is_empty(), "nothing is left");
    ensure!(!restless.is_finished(), "the session has ended by itself");
    bed.lab().start_agent(&place.name).await?;
    nothing_left(&bed, &place).await?;
    let what = match behind {
        Behind::Orphans => "backends without a postmaster",
        Behind::Server => "frozen, is killed",
    };
    until("why it was killed", SOON, async || said(&bed, &place, what)).await?;
    // The port is free again only for the next one: orphans end before the agent comes to it.
    until("the agent that cannot start has ended", SOON, async || {
        match bed.lab().pid(&place.agent()).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    obstacle.remove()?;
    until("the agent starts", SOON, async || {
        bed.lab().start_agent(&place.name).await.map_err(|error| error.to_string())
    })
    .await?;
    bed.healthy().await?;
    finish(bed, name).await
}

async fn finish(bed: Bed, name: &str) -> anyhow::Result<()> {
    let (history, judgement) = bed.finish().await?;
    let explained = explain(&judgement, &history);
    say(format!("{name}: {explained}"));
    ensure!(judgement.is_clean(), explained);
    Ok(())
}

/// Every node of the leader's site has seen the pause, or its end.
async fn pause(bed: &Bed, place: &NodePlace, on: bool) -> anyhow::Result<()> {
    let body = if on { r#"{"pause": true}"# } else { r#"{"pause": null}"# };
    let answer = ask(place.rest_port, "PATCH", "/config", body).await?;
    ensure!(answer.code == 200, "PATCH /config: {answer:?}");
    for node in bed.lab().layout().nodes.iter().filter(|node| node.site == place.site) {
        until("the pause is seen", HEALTHY, async || {
            let answer = ask(node.rest_port, "GET", "/patroni", "").await;
            let paused = answer.map_err(|e| e.to_string())?.json()["pause"] == true;
            if paused == on { Ok(()) } else { Err(format!("{}: {paused}", node.name)) }
        })
        .await?;
    }
    Ok(())
}

/// As an operator or a unit of the distribution does, behind the agent's back.
fn start_by_hand(bed: &Bed, place: &NodePlace) -> anyhow::Result<()> {
    let layout = bed.lab().layout();
    let data_dir = layout.data_dir(place);
    let owner = std::fs::metadata(&data_dir)?;
    let mut by_hand = command_of(layout.postgres_bin.join("pg_ctl"));
    by_hand.current_dir("/").uid(owner.uid()).gid(owner.gid());
    by_hand.arg("-D").arg(&data_dir).args(["-W", "-l", "/dev/null", "-o"]);
    by_hand.arg(format!("-c listen_addresses=127.0.0.1 -c port={}", place.postgres_port));
    by_hand.arg("start");
    let done = run(by_hand, SOON)?;
    ensure!(done.code == Some(0), "{done:?}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "what an operator runs, with a time limit by `run`")]
fn command_of(program: PathBuf) -> std::process::Command {
    std::process::Command::new(program)
}

/// A PostgreSQL that somebody else started, while its agent has the right to write and when it has
/// lost it. A pause keeps the agent from starting one itself.
async fn started_by_hand() -> anyhow::Result<()> {
    let bed = Bed::start("found-by-hand", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let place = leader(&bed, &roles)?;
    let data_dir = bed.lab().layout().data_dir(&place);
    pause(&bed, &place, true).await?;

    bed.lab().kill_postgres(&place.name).await?;
    nothing_left(&bed, &place).await?;
    start_by_hand(&bed, &place)?;
    until("a guardian beside it, by the agent's deadline", SOON, async || {
        let page = page(&bed, &place).map_err(|error| error.to_string())?;
        let pid = postmaster(&data_dir).ok_or("no postmaster")?;
        let guards = page.postmaster_pid() == pid.as_raw() && page.guard() == Guard::ByDeadline;
        let told = (guards, page.frozen());
        if told == (true, false) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await?;
    said(&bed, &place, "adopted a running PostgreSQL").map_err(anyhow::Error::msg)?;
    bed.progress().await?;

    let gate = Gate::close_lease(&bed.quorum_file()?)?;
    until("the right has ended", Duration::from_secs(60), async || {
        let left = living(&bed, &place)?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    })
    .await?;
    start_by_hand(&bed, &place)?;
    until("it is seen", SOON, async || {
        let log = std::fs::read_to_string(bed.lab().layout().log(&place.agent()));
        let log = log.map_err(|error| error.to_string())?;
        let times = log.matches("adopted a running PostgreSQL").count();
        if times == 2 { Ok(()) } else { Err(format!("adopted {times} times")) }
    })
    .await?;
    nothing_left(&bed, &place).await?;
    drop(gate);
    pause(&bed, &place, false).await?;
    bed.healthy().await?;
    finish(bed, "found-by-hand").await
}

/// A standby that somebody promotes behind its agent's back, whose agent knows no right of it.
async fn promoted_by_hand() -> anyhow::Result<()> {
    let mut bed = Bed::start("found-promoted", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let nodes = bed.lab().layout().nodes.clone();
    let mate = nodes.iter().find(|n| n.site == roles.a && n.name != roles.a_leader);
    let mate = mate.context("a standby beside the primary")?;
    // The client would find it, and write there what nobody keeps.
    bed.keep_away_from(&mate.name).await;
    bed.progress().await?;
    let client = session(bed.lab(), &roles.a_leader).await?;
    client.batch_execute("CREATE TABLE phantom (at timestamptz)").await?;
    until("the table there", SOON, async || {
        match value(bed.lab(), &mate.name, "SELECT to_regclass('public.phantom') IS NOT NULL").await
        {
            Ok(there) if there == "t" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    // A session from before, as applications hold them.
    let client = session(bed.lab(), &mate.name).await?;
    client.batch_execute("SELECT pg_promote(false)").await?;
    let promoted = bed.writer.now();
    let (mut rows, mut last) = (0, Duration::ZERO);
    let ended = loop {
        match timeout(SOON, client.batch_execute("INSERT INTO phantom VALUES (now())")).await {
            Ok(Ok(())) => (rows, last) = (rows + 1, bed.writer.now() - promoted),
            // Not yet promoted.
            Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {}
            Ok(Err(error)) => break error,
            Err(_) => bail!("a session of it neither writes nor ends"),
        }
    };
    say(format!("promoted by hand: {rows} rows, the last after {last:?}; {ended}"));
    said(&bed, mate, "may write without a right to").map_err(anyhow::Error::msg)?;
    ensure!(last < ROUNDS, "it wrote for {last:?}");
    bed.healthy().await?;
    let kept = value(bed.lab(), &mate.name, "SELECT count(*) FROM phantom").await?;
    ensure!(kept == "0", "{kept} rows of another history are kept");
    finish(bed, "found-promoted").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_promoted_by_hand_stops_writing_and_follows_again() {
    promoted_by_hand().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_though_its_agent_cannot_start() {
    cannot_start("found-no-start", Behind::Server, Hindered::ByPort).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_though_its_agents_configuration_is_refused() {
    cannot_start("found-refused", Behind::Server, Hindered::ByConfiguration).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_end_though_their_agent_cannot_start() {
    cannot_start("found-orphans", Behind::Orphans, Hindered::ByPort).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_started_is_guarded_and_fenced() {
    started_by_hand().await.unwrap();
}
