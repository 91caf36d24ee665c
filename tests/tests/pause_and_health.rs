//! One site of no federation, two nodes: Patroni's pause with a real server under a writing client
//! (I18), and the health check through a lost lease, polled at 50 Hz (I17).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_agent::observe::clock::boot_time;
use regent_dcs::{Change, Txn};
use regent_guardian::page::{Guard, Page};
use regent_guardian::processes::of_data_directory;
use regent_proto::time::BootTime;
use regent_test_sys::process::Stopped;
use regent_tests::alone::topology;
use regent_tests::rest::{ask, code};
use regent_tests::wait::until;
use regent_tests::{program, records, say};
use regentctl::lab::layout::{NodePlace, StorePlace};
use regentctl::lab::{Lab, Options};
use regentctl::load::{self, Target, Writer, table};

const TTL: Duration = Duration::from_secs(5);
/// ε of that TTL, and G of a lab's agents.
const EPSILON: Duration = Duration::from_millis(100);
const STOP_BUDGET: Duration = Duration::from_millis(1500);
const READY: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);

/// A lab whose agents belong to no federation, and a client that keeps writing.
struct Alone {
    lab: Lab,
    nodes: Vec<NodePlace>,
    store: std::path::PathBuf,
    writer: Writer,
}

impl Alone {
    async fn start() -> anyhow::Result<Self> {
        let options = Options { dir: None, dcs: None, bare: true };
        let lab = Lab::up(&topology(true), &options, &mut |_| {}).await?;
        let nodes = lab.layout().nodes.clone();
        let place = lab.layout().site_stores.values().next().context("a site store")?.clone();
        let StorePlace::Sqlite { path: store } = place else { anyhow::bail!("want SQLite") };
        for node in &nodes {
            lab.kill_agent(&node.name, Signal::SIGKILL).await?;
            let file = lab.layout().config(&node.agent());
            let text = std::fs::read_to_string(&file)?;
            let mut config: serde_json::Value = serde_saphyr::from_str(&text)?;
            config.as_object_mut().context("a mapping")?.remove("federation");
            std::fs::write(&file, config.to_string())?;
        }
        for node in &nodes {
            lab.start_agent(&node.name).await?;
        }
        let ports: Vec<u16> = nodes.iter().map(|node| node.rest_port).collect();
        until("a primary and a replica", READY, async || {
            let codes = (code(ports[0], "/primary").await, code(ports[1], "/replica").await);
            let other = (code(ports[1], "/primary").await, code(ports[0], "/replica").await);
            let ready = codes == (200, 200) || other == (200, 200);
            ready.then_some(()).ok_or_else(|| format!("{codes:?} {other:?}"))
        })
        .await?;
        let superuser = lab.client_config(&lab.data_sites())?;
        table::make(&superuser, &lab.secrets().app).await?;
        let ports = nodes.iter().map(|node| node.postgres_port).collect();
        let writer = Writer::start(Target { ports, password: lab.secrets().app.clone() });
        writer.wait_for(20, writer.now(), READY).await?;
        Ok(Self { lab, nodes, store, writer })
    }

    /// The node that says it is primary, and the other.
    async fn roles(&self) -> anyhow::Result<(&NodePlace, &NodePlace)> {
        until("one primary", READY, async || {
            let codes = [
                code(self.nodes[0].rest_port, "/primary").await,
                code(self.nodes[1].rest_port, "/primary").await,
            ];
            match codes {
                [200, 200] => Err("two primaries".to_owned()),
                [200, _] => Ok((&self.nodes[0], &self.nodes[1])),
                [_, 200] => Ok((&self.nodes[1], &self.nodes[0])),
                [_, _] => Err(format!("{codes:?}")),
            }
        })
        .await
    }

    /// PATCH /config, and until every node says so.
    async fn pause(&self, on: bool) -> anyhow::Result<()> {
        let body = if on { r#"{"pause": true}"# } else { r#"{"pause": null}"# };
        let answer = ask(self.nodes[1].rest_port, "PATCH", "/config", body).await?;
        ensure!(answer.code == 200, "PATCH /config: {answer:?}");
        for node in &self.nodes {
            until("the pause is seen", Duration::from_secs(10), async || {
                let answer = ask(node.rest_port, "GET", "/patroni", "").await;
                let body = answer.map_err(|e| e.to_string())?.json();
                let fence = &body["regent"]["fence"];
                let said = (body["pause"] == true, fence == "NOT FENCED: PAUSED");
                (said == (on, on)).then_some(()).ok_or_else(|| format!("{}: {said:?}", node.name))
            })
            .await?;
        }
        Ok(())
    }

    /// What a person sees of this site, which has no coordinators, asked of one of its agents.
    async fn status(&self, asked: &NodePlace) -> anyhow::Result<String> {
        let mut command = program::ours("regentctl")?;
        command.args(["status", "--fence", "--agent"]);
        command.arg(format!("127.0.0.1:{}", asked.rest_port));
        let shown = tokio::task::spawn_blocking(move || program::run(command, CALL)).await??;
        ensure!(shown.code == Some(0), "{shown:?}");
        Ok(shown.stdout)
    }

    /// Writes or deletes the leader key by hand.
    async fn leader_key(&self, value: Option<&str>) -> anyhow::Result<()> {
        let store = records::open(&StorePlace::Sqlite { path: self.store.clone() })?;
        let key = "/service/home/leader";
        let change = match value {
            Some(value) => Change::put(key, value),
            None => Change::delete(key),
        };
        store.txn(Txn::new().then(change), CALL).await?;
        Ok(())
    }

    async fn progress(&self, rows: usize) -> anyhow::Result<()> {
        Ok(self.writer.wait_for(rows, self.writer.now(), READY).await?)
    }

    async fn end(self, what: &str) -> anyhow::Result<()> {
        let history = self.writer.finish().await;
        let config = self.lab.client_config(&self.lab.data_sites())?;
        let contents = table::read(&config).await?;
        let judgement = load::judge(&history, &contents);
        say(format!("{what}: {} rows acknowledged", history.acks.len()));
        self.lab.down().await?;
        ensure!(judgement.is_clean(), "{judgement:?}");
        Ok(())
    }
}

async fn pause() -> anyhow::Result<()> {
    let bed = Alone::start().await?;
    let (primary, replica) = bed.roles().await?;
    bed.pause(true).await?;
    let cluster = ask(replica.rest_port, "GET", "/cluster", "").await?.json();
    ensure!(cluster["pause"] == true, "{cluster}");
    let shown = bed.status(replica).await?;
    ensure!(shown.contains("FENCED     NOT FENCED: PAUSED ("), "{shown}");
    ensure!(shown.contains("which writes without a deadline"), "{shown}");

    // Another's name in the leader key: without a pause the primary is killed at once. Now it goes
    // on for longer than any deadline.
    bed.leader_key(Some("home-9")).await?;
    until("the primary has noticed", READY, async || {
        let answer = ask(primary.rest_port, "GET", "/patroni", "").await;
        let reason = answer.map_err(|e| e.to_string())?.json()["regent"]["reason"].clone();
        let text = reason.as_str().unwrap_or_default().to_owned();
        text.contains("another member has the lock").then_some(()).ok_or(text)
    })
    .await?;
    let begun = bed.writer.now();
    while bed.writer.now() < begun + TTL * 2 {
        bed.progress(10).await?;
    }
    ensure!(code(primary.rest_port, "/primary").await == 503, "no key, no primary");
    // Free again: the running primary takes it.
    bed.leader_key(None).await?;
    until("the primary leads again", READY, async || {
        let code = code(primary.rest_port, "/primary").await;
        (code == 200).then_some(()).ok_or_else(|| code.to_string())
    })
    .await?;

    // A dead server is left alone, its key given up, and nobody takes it.
    bed.lab.kill_postgres(&primary.name).await?;
    let died = boot_time();
    let mut down = 0;
    until("nothing is done for two leases", READY, async || {
        for node in [primary, replica] {
            let seen = code(node.rest_port, "/primary").await;
            if seen == 200 {
                return Err(format!("{} is primary", node.name));
            }
        }
        if bed.lab.postmaster_pid(&primary.name).is_ok_and(|pid| pid.is_some()) {
            return Err("the server was started".to_owned());
        }
        down += 1;
        let over = boot_time().since(died) > TTL * 2;
        over.then_some(()).ok_or_else(|| "not over yet".to_owned())
    })
    .await?;
    say(format!("pause: {down} looks at a dead primary, nobody took over"));
    ensure!(code(replica.rest_port, "/replica").await == 200, "the replica serves reads");

    bed.pause(false).await?;
    let (primary, _) = bed.roles().await?;
    bed.progress(20).await?;
    let shown = bed.status(primary).await?;
    ensure!(shown.contains("FENCED     yes\n") && shown.contains("may write for"), "{shown}");
    // And the fence stands: now the same slip of the hand ends the writer at once.
    let postmaster = bed.lab.postmaster_pid(&primary.name)?.context("a server runs")?;
    bed.leader_key(Some("home-9")).await?;
    until("the writer is stopped", TTL, async || {
        let now = bed.lab.postmaster_pid(&primary.name).map_err(|e| e.to_string())?;
        (now != Some(postmaster)).then_some(()).ok_or_else(|| format!("{now:?} runs"))
    })
    .await?;
    bed.leader_key(None).await?;
    bed.roles().await?;
    bed.progress(20).await?;
    bed.end("pause").await
}

/// Polls `/primary` at 50 Hz until told to end: what was answered, stamped before its sending.
fn poll(port: u16, mut end: tokio::sync::oneshot::Receiver<()>) -> Poll {
    tokio::spawn(async move {
        let mut answers = Vec::new();
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = &mut end => return answers,
                _ = every.tick() => {
                    if let Ok(answer) = ask(port, "GET", "/primary", "").await {
                        answers.push((answer.asked, answer.code));
                    }
                }
            }
        }
    })
}

type Poll = tokio::task::JoinHandle<Vec<(BootTime, u16)>>;

async fn truthful_health() -> anyhow::Result<()> {
    let bed = Alone::start().await?;
    let (primary, replica) = bed.roles().await?;
    let (end, ended) = tokio::sync::oneshot::channel();
    let (end_other, ended_other) = tokio::sync::oneshot::channel();
    let polled = poll(primary.rest_port, ended);
    let other = poll(replica.rest_port, ended_other);
    bed.progress(50).await?;
    // The store answers no write any more: every renewal from here on fails.
    let hold = rusqlite::Connection::open(&bed.store)?;
    hold.busy_timeout(CALL)?;
    hold.execute_batch("BEGIN EXCLUSIVE")?;
    let lost = boot_time();
    let latest = lost.plus(TTL - EPSILON);
    until("past every deadline", READY, async || {
        let over = boot_time() > latest.plus(Duration::from_secs(3));
        over.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await?;
    hold.execute_batch("ROLLBACK")?;
    let back = boot_time();
    bed.roles().await?;
    bed.progress(20).await?;
    end.send(()).ok();
    end_other.send(()).ok();
    let mut answers = polled.await?;
    answers.extend(other.await?);
    let yes = |from: BootTime, to: BootTime| {
        answers.iter().filter(|(at, code)| *code == 200 && *at >= from && *at < to).count()
    };
    let before = yes(BootTime::default(), lost);
    let held = yes(lost, latest.minus(STOP_BUDGET));
    let fencing = yes(latest.minus(STOP_BUDGET), latest);
    let after = yes(latest, back);
    let again = yes(back, boot_time());
    say(format!(
        "health: {} answers; 200: {before} before, {held} until the fence, {fencing} while fencing, \
         {after} after the deadline, {again} with the store back",
        answers.len()
    ));
    ensure!(before > 0 && held > 0 && again > 0, "the endpoint was not asked while it was true");
    ensure!(fencing == 0 && after == 0, "200 without the right to write");
    bed.end("health").await
}

/// From the first moment of a stop on nobody is told to write here, however long it takes: a
/// checkpointer that does not run holds it up.
async fn stopping_is_no_primary() -> anyhow::Result<()> {
    let bed = Alone::start().await?;
    let (primary, _) = bed.roles().await?;
    let primary = primary.clone();
    bed.progress(20).await?;
    let layout = bed.lab.layout();
    let page = Page::open(layout.run_dir(&primary).join("guardian.page"))?;
    let server = of_data_directory(&layout.data_dir(&primary), None)?.into_iter();
    let checkpointer = server.filter(|pid| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&title).contains("checkpointer")
    });
    let stopped = Stopped::these(checkpointer.map(Pid::from_raw))?;
    ensure!(code(primary.rest_port, "/primary").await == 200, "it was primary before");
    bed.lab.kill_agent(&primary.name, Signal::SIGTERM).await?;
    let mut answers = Vec::new();
    until("the agent has ended", READY, async || {
        let stops = page.guard() == Guard::PlannedStop;
        match ask(primary.rest_port, "GET", "/primary", "").await {
            Ok(answer) if stops => answers.push(answer.code),
            Ok(_) => {}
            Err(_) if answers.is_empty() => {}
            Err(_) => return Ok(()),
        }
        Err(format!("{} answers", answers.len()))
    })
    .await?;
    drop(stopped);
    say(format!("stopping: {} answers while PostgreSQL was being stopped", answers.len()));
    ensure!(answers.len() > 3, "the stop was too short to ask");
    ensure!(answers.iter().all(|code| *code == 503), "200 while it was being stopped: {answers:?}");
    bed.lab.start_agent(&primary.name).await?;
    bed.roles().await?;
    bed.progress(20).await?;
    bed.end("stopping").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_being_stopped_is_no_primary() {
    stopping_is_no_primary().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_freezes_what_is_done_and_its_end_puts_the_fence_back() {
    pause().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_health_check_says_primary_after_the_deadline() {
    truthful_health().await.unwrap();
}
