//! Rung 3 from end to end: an agent with `watchdog.mode: required` and a device, in a lab.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use regent_guardian::page::Page;
use regent_proto::name::NodeName;
use regent_proto::time::BootTime;
use regent_test_sys::boot;
use regent_test_sys::lacks;
use regent_test_sys::process::{Stopped, living_in};
use regent_test_sys::watchdog::{Device, Event, Happened, NEEDS, Quirk, Reset};
use regent_tests::records::{Records, open};
use regent_tests::say;
use regentctl::lab::layout::NodePlace;
use regentctl::lab::{Lab, Options, Prepared, ready};

/// One node: nobody else can lead in its place.
const TOPOLOGY: &str = "\
federation: watched
primary: home
sites:
  - {name: home, kind: data, dcs: embedded, synchronous: false, nodes: [{name: home-1}]}
quorum: {store: embedded, voters: [home]}
policy: {site_ttl: 10s, primary_ttl: 30s}
";
const SOON: Duration = Duration::from_secs(60);
/// Long enough for a node to lead several times over.
const NEVER: Duration = Duration::from_secs(12);
const LEADER: &str = "/service/home/leader";

struct Watched {
    lab: Lab,
    device: Device,
    node: NodePlace,
    data: PathBuf,
    site: Records,
    /// Holds the device, which outlives the lab.
    _dir: tempfile::TempDir,
}

impl Watched {
    /// Once it leads.
    async fn start(quirks: &[Quirk]) -> anyhow::Result<Self> {
        Self::begin(quirks, true).await
    }

    /// Once it leads, or says why it may not.
    async fn begin(quirks: &[Quirk], leads: bool) -> anyhow::Result<Self> {
        let options = Options { dir: None, dcs: None, bare: true };
        let prepared = Prepared::new(TOPOLOGY, &options, &mut |_| {})?;
        let layout = prepared.layout.clone();
        let node = layout.nodes.first().context("a node")?.clone();
        let dir = tempfile::tempdir()?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), all)?;
        let data = layout.data_dir(&node);
        let reset = Reset::living_in(vec![data.clone()], std::collections::BTreeSet::new());
        let path = dir.path().join("watchdog");
        let device = Device::with(&path, &data, reset, quirks.iter().copied())?;
        let file = layout.config(&node.agent());
        let text = std::fs::read_to_string(&file)?;
        let (head, tail) = text.split_once("watchdog:").context("the watchdog section")?;
        let (_, tail) = tail.split_once("mode: ").context("its mode")?;
        let (_, tail) = tail.split_once('\n').context("what follows")?;
        let section = format!("watchdog:\n  mode: required\n  device: {}\n", path.display());
        std::fs::write(&file, format!("{head}{section}{tail}"))?;
        let lab = prepared.start().await?;
        ready::create(&lab, TOPOLOGY, &mut |_| {}).await?;
        if leads {
            ready::wait(&lab, &mut |_| {}).await?;
        } else {
            refused(node.rest_port)?;
        }
        // Opened last: whoever opens the embedded store first owns its file.
        let store = open(layout.site_stores.get(&node.site).context("the site's store")?)?;
        let site = Records::follow(store, "/service/home/".to_owned()).await?;
        Ok(Self { lab, device, node, data, site, _dir: dir })
    }

    /// Waits for the leader key; when it was seen.
    async fn key(&self, there: bool) -> anyhow::Result<BootTime> {
        let what = if there { "the leader key" } else { "no leader key" };
        self.site
            .wait(what, SOON, |keys| (keys.contains_key(LEADER) == there).then(boot::now))
            .await
            .with_context(|| self.patroni())
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        get(self.node.rest_port, path)
    }

    fn patroni(&self) -> String {
        self.get("/patroni").unwrap_or_else(|error| error.to_string())
    }

    fn primary(&self) -> anyhow::Result<()> {
        let yes =
            || self.get("/primary").is_ok_and(|a| a.starts_with("HTTP/1.1 200")).then_some(());
        tokio::task::block_in_place(|| boot::until(SOON, yes))
            .with_context(|| format!("not the primary: {}", self.patroni()))
    }

    fn name(&self) -> NodeName {
        self.node.name.clone()
    }
}

fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until the node says that its watchdog keeps it from leading.
fn refused(port: u16) -> anyhow::Result<()> {
    let answer = || get(port, "/patroni").unwrap_or_else(|error| error.to_string());
    let told = || answer().contains("watchdog is required and cannot be armed").then_some(());
    tokio::task::block_in_place(|| boot::until(SOON, told))
        .with_context(|| format!("no reason: {}", answer()))
}

fn opened(device: &Device) -> Option<BootTime> {
    let all = device.trace().all();
    all.iter().rfind(|h| matches!(h.event, Event::Opened { .. })).map(|h| h.at)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_armed_before_a_key_is_taken_and_resets_what_hangs() -> anyhow::Result<()> {
    if lacks(NEEDS) {
        return Ok(());
    }
    let watched = Watched::start(&[]).await?;
    watched.primary()?;
    ensure!(watched.device.armed(), "it leads without its watchdog: {}", watched.patroni());

    // The agent hangs: nothing lives when its lease ends. Then it goes on, and leads again.
    watched.lab.kill_agent(&watched.name(), Signal::SIGSTOP).await?;
    let first = opened(&watched.device).context("it was opened")?;
    watched.key(false).await?;
    ensure!(living_in(&watched.data).is_empty(), "the lease has ended and PostgreSQL lives");
    watched.lab.kill_agent(&watched.name(), Signal::SIGCONT).await?;
    let key = watched.key(true).await?;
    let armed = opened(&watched.device).context("it was opened")?;
    ensure!(first < armed && armed < key, "armed {:?} after the key", armed.since(key));
    watched.primary()?;
    // Agent and guardian hang: the device resets the node before the right to write ends.
    let page = Page::open(watched.lab.layout().run_dir(&watched.node).join("guardian.page"))?;
    let guardian = nix::unistd::Pid::from_raw(page.guardian_pid());
    let agent = watched.lab.agent_pid(&watched.name()).await?.context("the agent runs")?;
    let stop = boot::now();
    let stopped = Stopped::these([guardian, agent])?;
    let deadline = page.writing().instant();
    // The hanging agent before may have cost a reset, too.
    let later = |events: &[Happened]| {
        let mut later = events.iter().filter(|h| h.at > stop);
        later.find(|h| matches!(h.event, Event::Reset { .. })).map(|h| h.at)
    };
    let gone = tokio::task::block_in_place(|| watched.device.trace().wait(SOON, later));
    let gone = gone.context("no reset")?;
    say(format!("reset {:?} before the deadline", deadline.since(gone)));
    ensure!(gone < deadline, "reset {:?} after the deadline", gone.since(deadline));
    ensure!(living_in(&watched.data).is_empty(), "PostgreSQL lives");
    drop(stopped);
    watched.lab.down().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_bad_device_that_is_required_a_node_never_leads_and_says_why() -> anyhow::Result<()>
{
    if lacks(NEEDS) {
        return Ok(());
    }
    let watched = Watched::start(&[]).await?;
    watched.primary()?;
    watched.device.behave([Quirk::Open(Errno::EIO)]);
    watched.lab.kill_agent(&watched.name(), Signal::SIGSTOP).await?;
    watched.key(false).await?;
    watched.lab.kill_agent(&watched.name(), Signal::SIGCONT).await?;
    refused(watched.node.rest_port)?;
    let led = watched.site.wait("", NEVER, |keys| keys.contains_key(LEADER).then_some(())).await;
    ensure!(led.is_err(), "it took the leader key: {}", watched.patroni());
    ensure!(watched.patroni().contains("\"watchdog_failed\":true"), "{}", watched.patroni());
    ensure!(!watched.get("/primary")?.starts_with("HTTP/1.1 200"));
    let member = format!("/members/{}", watched.name());
    let why = "\"watchdog\":\"failed: ";
    let told = watched.site.wait("the reason in the member's record", NEVER, |keys| {
        let record = keys.iter().find(|(key, _)| key.ends_with(&member))?.1;
        String::from_utf8_lossy(&record.value).contains(why).then_some(())
    });
    told.await?;
    watched.lab.down().await?;
    Ok(())
}

/// The first leader key of a cluster, too, is taken only beside the watchdog that is required.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_not_led_without_the_watchdog_that_is_required() -> anyhow::Result<()> {
    if lacks(NEEDS) {
        return Ok(());
    }
    let watched = Watched::begin(&[Quirk::Open(Errno::EIO)], false).await?;
    let led = watched.site.wait("", NEVER, |keys| keys.contains_key(LEADER).then_some(())).await;
    ensure!(led.is_err(), "it took the leader key: {}", watched.patroni());
    ensure!(!watched.get("/primary")?.starts_with("HTTP/1.1 200"));
    watched.lab.down().await?;
    Ok(())
}
