//! Agent and guardian as processes: what dies alone, what is replaced, and what a session that was
//! open before notices of it. The full matrix of faults is `make fence-report`; here is what must
//! hold for every change of the agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regent_guardian::clock::boot_time;
use regent_guardian::page::Page;
use regent_guardian::processes::of_data_directory;
use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline};
use regent_test_sys::process::Stopped;
use regent_tests::bed::{Bed, HEALTHY, TWO_SITES, explain};
use regent_tests::program::{Finished, ours, run};
use regent_tests::rest::ask;
use regent_tests::say;
use regent_tests::session::{restless, session};
use regent_tests::wait::until;

/// Longest wait for something that takes milliseconds.
const SOON: Duration = Duration::from_secs(15);

/// One node as these tests look at it.
struct Node {
    name: NodeName,
    run_dir: PathBuf,
    data_dir: PathBuf,
}

impl Node {
    fn leader(bed: &Bed, name: &NodeName) -> anyhow::Result<Self> {
        let layout = bed.lab().layout();
        let place = layout.node(name.as_str()).context("a node of the lab")?;
        Ok(Self {
            name: name.clone(),
            run_dir: layout.run_dir(place),
            data_dir: layout.data_dir(place),
        })
    }

    fn page(&self) -> anyhow::Result<Page> {
        Ok(Page::open(self.run_dir.join("guardian.page"))?)
    }

    /// Waits until no process of its data directory is left; when that was.
    async fn gone(&self) -> anyhow::Result<BootTime> {
        until("no process of the data directory", SOON, async || {
            match of_data_directory(&self.data_dir, None) {
                Ok(left) if left.is_empty() => Ok(boot_time()),
                Ok(left) => Err(format!("{left:?} live")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// How many lives of the agent have taken this server over.
    fn lives(&self, bed: &Bed) -> usize {
        let log = bed.lab().layout().log(&format!("agent-{}", self.name));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.matches("took a running PostgreSQL over").count()
    }

    /// Waits until one more life of the agent holds by itself: what the one before held counts no
    /// longer.
    async fn new_life_holds(&self, bed: &Bed, before: usize) -> anyhow::Result<()> {
        until("a new life of the agent holds", SOON, async || {
            let page = self.page().map_err(|error| error.to_string())?;
            let held = page.site_deadline().earlier(page.primary_deadline());
            let lives = self.lives(bed);
            if lives > before && held.lies_ahead(boot_time()) && page.carried() == Deadline::NEVER {
                Ok(())
            } else {
                let carried = page.carried();
                Err(format!("{lives} lives; held until {held:?}, carried until {carried:?}"))
            }
        })
        .await
    }
}

#[derive(Debug, Default)]
struct Log {
    acks: Vec<BootTime>,
    ended: Option<String>,
}

/// A session that was open before the fault and inserts one row after the other.
struct Held(Arc<Mutex<Log>>);

impl Held {
    async fn open(bed: &Bed, node: &NodeName) -> anyhow::Result<Self> {
        let client = session(bed.lab(), node).await?;
        client.batch_execute("CREATE TABLE IF NOT EXISTS held (at timestamptz)").await?;
        let log: Arc<Mutex<Log>> = Arc::default();
        let writes = Arc::clone(&log);
        tokio::spawn(async move {
            loop {
                let done = client.batch_execute("INSERT INTO held VALUES (now())").await;
                let mut log = writes.lock().unwrap_or_else(PoisonError::into_inner);
                match done {
                    Ok(()) => log.acks.push(boot_time()),
                    Err(error) => {
                        log.ended = Some(error.to_string());
                        break;
                    }
                }
            }
        });
        Ok(Self(log))
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> BootTime {
        self.log().acks.last().copied().unwrap_or_default()
    }

    /// The session goes on: rows are acknowledged from now on, too.
    async fn goes_on(&self, what: &str) -> anyhow::Result<()> {
        let before = self.log().acks.len();
        until(what, SOON, async || {
            let log = self.log();
            match &log.ended {
                Some(ended) => Err(format!("the session has ended: {ended}")),
                None if log.acks.len() > before + 20 => Ok(()),
                None => Err(format!("{} rows after {before}", log.acks.len())),
            }
        })
        .await
    }

    /// The longest time without an acknowledgement since then.
    fn gap(&self, from: BootTime) -> Duration {
        let log = self.log();
        let times = log.acks.iter().filter(|at| **at >= from);
        let mut before = from;
        let mut longest = Duration::ZERO;
        for at in times {
            longest = longest.max(at.since(before));
            before = *at;
        }
        longest
    }
}

/// Ends the bed; nothing that was acknowledged may be missing.
async fn finish(bed: Bed, name: &str) -> anyhow::Result<()> {
    let (history, judgement) = bed.finish().await?;
    let explained = explain(&judgement, &history);
    say(format!("{name}: {explained}"));
    ensure!(judgement.is_clean(), explained);
    Ok(())
}

/// Waits until the site's record names a standby. PostgreSQL waits for one a moment earlier; whoever
/// died in between would leave nobody who may lead (I4 errs on the safe side).
async fn somebody_may_follow(bed: &Bed, leader: &NodeName) -> anyhow::Result<()> {
    let place = bed.lab().layout().node(leader.as_str()).context("a node of the lab")?;
    let port = place.rest_port;
    until("a synchronous standby in the site's record", HEALTHY, async || {
        let cluster =
            ask(port, "GET", "/cluster", "").await.map_err(|error| format!("{error:#}"))?;
        if cluster.body.contains("sync_standby") { Ok(()) } else { Err(cluster.body) }
    })
    .await
}

/// An agent that is gone, or does not run, and does not come back: the guardian ends its server in
/// time, another node leads, and the node comes back as a standby.
async fn silent_agent(signal: Signal) -> anyhow::Result<()> {
    let name = format!("guardian-agent-{signal}");
    let bed = Bed::start(&name, TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let node = Node::leader(&bed, &roles.a_leader)?;
    let session = Held::open(&bed, &node.name).await?;
    session.goes_on("rows before the fault").await?;
    somebody_may_follow(&bed, &node.name).await?;
    let restless = restless(bed.lab(), &node.name).await?;
    let page = node.page()?;
    let stopped = match signal {
        Signal::SIGSTOP => Some(Stopped::these([Pid::from_raw(page.agent_pid())])?),
        _ => {
            bed.lab().kill_agent(&node.name, signal).await?;
            None
        }
    };
    let gone = node.gone().await?;
    let (deadline, last) = (page.writing(), session.last());
    say(format!(
        "{name}: last row {} ms, no process {} ms before the deadline; woke {} ms late at worst, \
         killed in {} ms; {} rows",
        deadline.left(last).as_millis(),
        deadline.left(gone).as_millis(),
        page.worst_wake().as_millis(),
        page.worst_kill().as_millis(),
        session.log().acks.len(),
    ));
    ensure!(deadline.lies_ahead(last), "a row was acknowledged after the deadline");
    ensure!(deadline.lies_ahead(gone), "a process lived at the deadline");
    restless.await?.err().context("who is killed gets no answer")?;
    // Counted after the signals were sent.
    until("the guardian has counted its kill", SOON, async || match page.kills() {
        1 => Ok(()),
        other => Err(format!("{other} kills")),
    })
    .await?;
    let next = bed.see("another node with the primary lease", HEALTHY, |global| {
        let lease = global.lease()?;
        (lease.node != roles.a_leader && !lease.released).then_some(lease)
    });
    next.await?;
    bed.progress().await?;
    match stopped {
        Some(stopped) => stopped.go_on(),
        None => bed.lab().start_agent(&node.name).await?,
    }
    bed.healthy().await?;
    finish(bed, &name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_no_writer_after_the_deadline() {
    silent_agent(Signal::SIGKILL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_leaves_no_writer_after_the_deadline() {
    silent_agent(Signal::SIGSTOP).await.unwrap();
}

fn upgrade(node: &Node) -> anyhow::Result<Finished> {
    let mut command = ours("regentctl")?;
    command.args(["agent", "upgrade", "--run-dir"]).arg(&node.run_dir);
    run(command, Duration::from_secs(30))
}

/// A program that is not there, and those that don't take the page or the configuration: the agent
/// says so and goes on, in the same life and with the same deadlines.
fn refused_upgrades(bed: &Bed, node: &Node) -> anyhow::Result<()> {
    let program = bed.lab().layout().dir.join("bin/regent-agent");
    let kept = program.with_file_name("regent-agent.kept");
    let lock = node.run_dir.join("agent.lock");
    let life = std::fs::read_to_string(&lock)?;
    std::fs::rename(&program, &kept)?;
    let no_page = "#!/bin/sh\nfor word; do [ $word != --inherit-page ] || { echo page of version 9 \
                   >&2; exit 3; }; done\n";
    let cases = [(None, "No such file"), (Some(no_page), "page of version 9")];
    for (text, wanted) in cases {
        if let Some(text) = text {
            std::fs::write(&program, text)?;
            std::fs::set_permissions(
                &program,
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?;
        }
        let done = upgrade(node)?;
        ensure!(done.code != Some(0), "{done:?}");
        ensure!(done.stderr.contains("goes on as it was"), "{done:?}");
        ensure!(done.stderr.contains(wanted), "want {wanted:?}: {done:?}");
        ensure!(std::fs::read_to_string(&lock)? == life, "another life");
    }
    std::fs::rename(&kept, &program)?;
    // Our own program, and a descriptor that is no page.
    let config = bed.lab().layout().config(&format!("agent-{}", node.name));
    let mut check = ours("regent-agent")?;
    check.args(["--check", "--inherit-page", "0"]).arg(config);
    let done = run(check, Duration::from_secs(10))?;
    ensure!(done.code != Some(0) && done.stderr.contains("the guardian's page"), "{done:?}");
    port_in_use(bed, node)?;
    ensure!(std::fs::read_to_string(&lock)? == life, "another life");
    Ok(())
}

/// A configuration that is good and with which no life can begin here.
fn port_in_use(bed: &Bed, node: &Node) -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let file = bed.lab().layout().config(&format!("agent-{}", node.name));
    let good = std::fs::read_to_string(&file)?;
    let mut config: serde_json::Value = serde_saphyr::from_str(&good)?;
    config["restapi"]["listen"] = taken.local_addr()?.to_string().into();
    std::fs::write(&file, config.to_string())?;
    let done = upgrade(node)?;
    std::fs::write(&file, good)?;
    ensure!(done.code != Some(0), "{done:?}");
    ensure!(done.stderr.contains("cannot listen on restapi.listen"), "{done:?}");
    Ok(())
}

/// A SIGTERM at whatever moment of an upgrade ends agent and server.
async fn ends_while_it_upgrades(bed: &Bed) -> anyhow::Result<()> {
    for after in [Duration::ZERO, Duration::from_millis(40), Duration::from_millis(90)] {
        let roles = bed.healthy().await?;
        let node = Node::leader(bed, &roles.a_leader)?;
        bed.lab().kill_agent(&node.name, Signal::SIGUSR2).await?;
        // The check of the new program takes some 50 ms.
        tokio::time::sleep(after).await;
        bed.lab().kill_agent(&node.name, Signal::SIGTERM).await?;
        until("the agent to end", SOON, async || {
            let agent = format!("agent-{}", node.name);
            match bed.lab().pid(&agent).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?} after {after:?}")),
            }
        })
        .await?;
        node.gone().await?;
        bed.lab().start_agent(&node.name).await?;
    }
    bed.healthy().await?;
    Ok(())
}

/// A guardian that lives and does not wake is ended and replaced, its server goes on, and whoever asks
/// is told.
async fn hung_guardian(bed: &Bed, node: &Node, session: &Held) -> anyhow::Result<()> {
    let hung = bed.lab().guardian_pid(&node.name)?.context("a guardian")?;
    // Not gone on with: it is killed as it is.
    bed.lab().signal_guardian(&node.name, Signal::SIGSTOP).await?;
    let stopped = boot_time();
    let replaced = until("another guardian beside the server", SOON, async || {
        let page = node.page().map_err(|error| error.to_string())?;
        let now = page.guardian_pid();
        if now != hung.as_raw() && page.heartbeat() > stopped {
            Ok(boot_time())
        } else {
            Err(format!("guardian {now}, last awake {:?}", page.heartbeat()))
        }
    })
    .await?;
    let took = replaced.since(stopped);
    say(format!("guardian-hung: replaced after {} ms", took.as_millis()));
    session.goes_on("rows after the guardian was replaced").await?;
    ensure!(nix::sys::signal::kill(hung, None).is_err(), "the one that hung still lives");
    let port = bed.lab().layout().node(node.name.as_str()).context("a node")?.rest_port;
    until("the metrics tell", SOON, async || {
        let text = ask(port, "GET", "/metrics", "").await.map_err(|e| e.to_string())?.body;
        let told = |what: &str, value: &str| {
            text.lines().any(|line| line.starts_with(what) && line.ends_with(value))
        };
        let all = told("regent_guardian_hung{", " 1") && told("regent_guardian_alive{", " 1");
        if all { Ok(()) } else { Err(text) }
    })
    .await?;
    until("the status warns", SOON, async || {
        let federation = bed.federation().await.map_err(|e| e.to_string())?;
        let mut nodes = federation.sites.iter().flat_map(|site| &site.nodes);
        let fence = nodes.find(|n| n.name == node.name.as_str()).and_then(|n| n.fence.clone());
        let fence = fence.ok_or("no fence")?;
        let said = fence.thin.iter().any(|text| text.contains("hung and was replaced"));
        if said && fence.guardian { Ok(()) } else { Err(format!("{fence:?}")) }
    })
    .await?;
    ensure!(took > Duration::from_millis(1500), "replaced before it can have been known to hang");
    Ok(())
}

/// What the promise rests on is shown for every node, by its own `/metrics` and by `status --fence`:
/// deadline, round trips, the budgets of stop and kill, worst wake-up, guardian, watchdog.
async fn fences_are_shown(bed: &Bed, leader: &Node) -> anyhow::Result<()> {
    let layout = bed.lab().layout();
    for place in &layout.nodes {
        until("every figure of the fence in the metrics", SOON, async || {
            let answer = ask(place.rest_port, "GET", "/metrics", "").await;
            let text = answer.map_err(|error| error.to_string())?.body;
            let value = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
                line.rsplit_once(' ')?.1.parse::<f64>().ok()
            };
            let leads = place.name == leader.name;
            let writes = |name: &str| value(name).is_some_and(|left| (left > 0.0) == leads);
            let positive = |name: &str| value(name).is_some_and(|span| span > 0.0);
            let missing: Vec<&str> = [
                ("regent_deadline_seconds", writes("regent_deadline_seconds")),
                ("regent_site_round_trip_seconds", positive("regent_site_round_trip_seconds")),
                (
                    "regent_primary_round_trip_seconds",
                    value("regent_primary_round_trip_seconds").is_some() || !leads,
                ),
                ("regent_stop_budget_seconds", positive("regent_stop_budget_seconds")),
                ("regent_kill_budget_seconds", positive("regent_kill_budget_seconds")),
                (
                    "regent_guardian_wake_worst_seconds",
                    value("regent_guardian_wake_worst_seconds").is_some(),
                ),
                ("regent_guardian_alive", value("regent_guardian_alive") == Some(1.0)),
                ("regent_guardian_hung", value("regent_guardian_hung") == Some(0.0)),
                ("regent_watchdog_armed", value("regent_watchdog_armed") == Some(0.0)),
                ("regent_watchdog_failed", value("regent_watchdog_failed").is_some()),
                ("regent_thin_margins", value("regent_thin_margins").is_some()),
            ]
            .into_iter()
            .filter_map(|(name, good)| (!good).then_some(name))
            .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("{}: {missing:?} in\n{text}", place.name))
            }
        })
        .await?;
    }
    until("every node's fence in the status", SOON, async || {
        let mut command = ours("regentctl").map_err(|error| error.to_string())?;
        command.arg("--lab").arg(&layout.dir).args(["status", "--fence"]);
        let done = run(command, Duration::from_secs(10)).map_err(|error| error.to_string())?;
        let row = |name: &str| done.stdout.lines().find(|line| line.starts_with(name));
        let told = layout.nodes.iter().all(|place| {
            row(place.name.as_str()).is_some_and(|row| {
                let figures = row.matches(" ms").count() + row.matches(" s ").count();
                row.contains("alive") && row.contains("off") && figures >= 4
            })
        });
        if told { Ok(()) } else { Err(done.stdout) }
    })
    .await
}

/// The number of a field of a log's line.
fn number_of(line: &str, field: &str) -> Option<u64> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get(field)?.as_str()?.parse().ok()
}

/// What is replaced in time interrupts nobody: agent, guardian, the agent's program.
async fn replaced() -> anyhow::Result<()> {
    let bed = Bed::start("guardian-replaced", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let node = Node::leader(&bed, &roles.a_leader)?;
    let session = Held::open(&bed, &node.name).await?;
    session.goes_on("rows before the faults").await?;
    fences_are_shown(&bed, &node).await?;
    let postmaster = node.page()?.postmaster_pid();
    let begun = boot_time();

    let lives = node.lives(&bed);
    bed.lab().kill_agent(&node.name, Signal::SIGKILL).await?;
    until("the killed agent is reaped", SOON, async || {
        bed.lab().start_agent(&node.name).await.map_err(|error| error.to_string())
    })
    .await?;
    node.new_life_holds(&bed, lives).await?;
    session.goes_on("rows after the agent's death").await?;

    let guardian = bed.lab().guardian_pid(&node.name)?.context("a guardian")?;
    bed.lab().signal_guardian(&node.name, Signal::SIGKILL).await?;
    until("another guardian", SOON, async || match bed.lab().guardian_pid(&node.name) {
        Ok(Some(now)) if now != guardian => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    session.goes_on("rows after the guardian's death").await?;

    // The next life finds the one that is being started, not a lock that nobody gives back.
    let lives = node.lives(&bed);
    bed.lab().signal_guardian(&node.name, Signal::SIGKILL).await?;
    let done = upgrade(&node)?;
    ensure!(done.code == Some(0), "{done:?}");
    node.new_life_holds(&bed, lives).await?;
    session.goes_on("rows after the upgrade beside a guardian's death").await?;

    hung_guardian(&bed, &node, &session).await?;

    refused_upgrades(&bed, &node)?;
    session.goes_on("rows after the refused upgrades").await?;

    let (agent, lives) = (node.page()?.agent_pid(), node.lives(&bed));
    let done = upgrade(&node)?;
    ensure!(done.code == Some(0), "{done:?}");
    node.new_life_holds(&bed, lives).await?;
    ensure!(node.page()?.agent_pid() == agent, "the upgrade is in place");
    session.goes_on("rows after the upgrade").await?;

    // As `systemctl reload` and Patroni's operators ask.
    let lives = node.lives(&bed);
    bed.lab().kill_agent(&node.name, Signal::SIGHUP).await?;
    node.new_life_holds(&bed, lives).await?;
    ensure!(node.page()?.agent_pid() == agent, "the reload is in place");
    session.goes_on("rows after the reload").await?;

    // Long enough to be noticed, not long enough to lose a right.
    let log = bed.lab().layout().log(&format!("agent-{}", node.name));
    let before = std::fs::read_to_string(&log)?.len();
    let agent = Pid::from_raw(node.page()?.agent_pid());
    // The pause is counted from when it stands still: a signal is no state before a processor was free.
    let paused = Stopped::these([agent])?;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    paused.go_on();
    let said = until("freeze and thaw in the log", SOON, async || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let since = text.get(before..).unwrap_or_default();
        let said = since.contains("this node did not run") && since.contains("PostgreSQL goes on");
        let frozen = since.lines().find(|line| line.contains("PostgreSQL goes on"));
        let frozen = frozen.and_then(|line| number_of(line, "milliseconds"));
        if said { frozen.ok_or_else(|| since.to_owned()) } else { Err(since.to_owned()) }
    })
    .await;
    if said.is_err() {
        bed.keep_logs();
    }
    let frozen = said?;
    ensure!(frozen < 1000, "frozen for {frozen} ms");
    say(format!("guardian-replaced: frozen for {frozen} ms after the agent's pause"));
    session.goes_on("rows after the pause").await?;

    let page = node.page()?;
    say(format!("guardian-replaced: longest gap {} ms", session.gap(begun).as_millis()));
    ensure!(page.postmaster_pid() == postmaster, "PostgreSQL is the same one");
    ensure!(!page.frozen() && page.kills() == 0, "nothing was killed");
    let after = bed.healthy().await?;
    ensure!(after.a_leader == roles.a_leader, "{} leads", after.a_leader);
    drop(session);
    ends_while_it_upgrades(&bed).await?;
    finish(bed, "guardian-replaced").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replaced_in_time_interrupts_nobody() {
    replaced().await.unwrap();
}

/// Agent and guardian died; a server whose rights nobody knows acknowledges nothing once an agent is
/// back, whatever it did meanwhile.
async fn unguarded() -> anyhow::Result<()> {
    let bed = Bed::start("guardian-unguarded", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let node = Node::leader(&bed, &roles.a_leader)?;
    let session = Held::open(&bed, &node.name).await?;
    session.goes_on("rows before the fault").await?;
    somebody_may_follow(&bed, &node.name).await?;
    bed.lab().kill_agent(&node.name, Signal::SIGKILL).await?;
    bed.lab().signal_guardian(&node.name, Signal::SIGKILL).await?;
    let next = bed.see("another node with the primary lease", HEALTHY, |global| {
        let lease = global.lease()?;
        (lease.node != roles.a_leader && !lease.released).then_some(lease)
    });
    next.await?;
    ensure!(!of_data_directory(&node.data_dir, None)?.is_empty(), "nobody was left to kill it");
    bed.lab().start_agent(&node.name).await?;
    node.gone().await?;
    bed.healthy().await?;
    finish(bed, "guardian-unguarded").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_guards_is_not_let_go_on() {
    unguarded().await.unwrap();
}

/// Agent and guardian died, and an agent is back while nobody else leads: it renews the rights that the
/// server was open under, and its sessions wait as long.
async fn found_in_time() -> anyhow::Result<()> {
    let bed = Bed::start("guardian-found-in-time", TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let node = Node::leader(&bed, &roles.a_leader)?;
    let session = Held::open(&bed, &node.name).await?;
    session.goes_on("rows before the fault").await?;
    let (postmaster, guardian) = (node.page()?.postmaster_pid(), node.page()?.guardian_pid());
    bed.lab().kill_agent(&node.name, Signal::SIGKILL).await?;
    bed.lab().signal_guardian(&node.name, Signal::SIGKILL).await?;
    until("the killed agent is reaped", SOON, async || {
        bed.lab().start_agent(&node.name).await.map_err(|error| error.to_string())
    })
    .await?;
    until("another guardian, and both rights", SOON, async || {
        let page = node.page().map_err(|error| error.to_string())?;
        let held = page.site_deadline().earlier(page.primary_deadline());
        let another = page.guardian_pid() != guardian && held.lies_ahead(boot_time());
        if another && !page.frozen() { Ok(()) } else { Err(format!("held until {held:?}")) }
    })
    .await?;
    session.goes_on("rows after both died").await?;
    ensure!(node.page()?.postmaster_pid() == postmaster, "it goes on as it was");
    bed.healthy().await?;
    finish(bed, "guardian-found-in-time").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_guarded_goes_on_by_rights_renewed_in_time() {
    found_in_time().await.unwrap();
}
