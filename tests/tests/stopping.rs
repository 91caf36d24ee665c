//! An agent that is told to end while PostgreSQL is being started: the leader key is not given back
//! before it is known what was started and that it has ended (I12).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use regent_guardian::processes::of_data_directory;
use regent_proto::keys::{SiteKey, SiteKeys};
use regent_tests::bed::{Bed, TWO_SITES, explain};
use regent_tests::records::{CALL, open};
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::lab::layout::NodePlace;

const SOON: Duration = Duration::from_secs(40);
/// An agent that gives its key back too early does so within this, and a guardian has longer.
const EARLY: Duration = Duration::from_secs(2);

/// A guardian that begins only once it is let: what a slow start looks like.
struct SlowGuardian {
    program: PathBuf,
    real: PathBuf,
    waits: PathBuf,
    gate: PathBuf,
}

impl SlowGuardian {
    /// In place of the lab's.
    fn install(bed: &Bed) -> anyhow::Result<Self> {
        let dir = &bed.lab().layout().dir;
        let program = dir.join("bin/regent-guardian");
        let real = program.with_file_name("regent-guardian.real");
        let (waits, gate) = (dir.join("guardian-waits"), dir.join("guardian-gate"));
        std::fs::rename(&program, &real)?;
        nix::unistd::mkfifo(&gate, Mode::from_bits_truncate(0o666))?;
        set_mode(&gate, 0o666)?;
        let text = format!(
            "#!/bin/sh\n: > {}.$$\nread go < {}\nexec {} \"$@\"\n",
            waits.display(),
            gate.display(),
            real.display()
        );
        std::fs::write(&program, text)?;
        set_mode(&program, 0o755)?;
        Ok(Self { program, real, waits, gate })
    }

    /// Whether one waits.
    fn waits(&self) -> Result<(), String> {
        let name = self.waits.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let listed = std::fs::read_dir(self.waits.parent().unwrap_or(&self.waits));
        let there = listed.map_err(|e| e.to_string())?.flatten();
        let mut there = there.map(|entry| entry.file_name().to_string_lossy().into_owned());
        there.any(|file| file.starts_with(&name)).then_some(()).ok_or("none waits".to_owned())
    }

    /// Lets it begin, and puts the real one back.
    fn let_go(&self) -> anyhow::Result<()> {
        std::fs::rename(&self.real, &self.program).ok();
        // The script that waits has its program's path from before.
        std::fs::hard_link(&self.program, &self.real)?;
        std::fs::write(&self.gate, "go\n").context("the gate")
    }
}

fn set_mode(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

fn living(bed: &Bed, place: &NodePlace) -> anyhow::Result<Vec<i32>> {
    Ok(of_data_directory(&bed.lab().layout().data_dir(place), None)?)
}

async fn told_to_end_while_starting() -> anyhow::Result<()> {
    let name = "stopping";
    let bed = Bed::start(name, TWO_SITES, None).await?;
    let roles = bed.healthy().await?;
    let layout = bed.lab().layout();
    let place = layout.node(roles.a_leader.as_str()).context("a node of the lab")?.clone();
    let store = open(layout.site_stores.get(&roles.a).context("a site store")?)?;
    let key = SiteKeys::new("service", &roles.a.as_str().parse()?).key(SiteKey::Leader);
    let holds = async || -> anyhow::Result<bool> {
        let entry = store.get(&key, CALL).await?;
        Ok(entry.is_some_and(|entry| entry.value == place.name.as_str().as_bytes()))
    };

    let slow = SlowGuardian::install(&bed)?;
    bed.lab().kill_postgres(&place.name).await?;
    until("a start under way", SOON, async || slow.waits()).await?;
    ensure!(holds().await?, "it leads, and starts its server again");
    bed.lab().kill_agent(&place.name, Signal::SIGTERM).await?;
    // Long enough for an agent that does not wait for its start.
    let early = until("the key is given back", EARLY, async || match holds().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let early = early.await.is_ok();
    slow.let_go()?;
    until("the agent has ended", SOON, async || match bed.lab().pid(&place.agent()).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let begun = bed.writer.now();
    let lives = until("a server without a key", EARLY, async || {
        let found = living(&bed, &place).map_err(|error| error.to_string())?;
        if found.is_empty() { Err(format!("none after {:?}", begun)) } else { Ok(found) }
    });
    let lives = lives.await.ok();
    ensure!(lives.is_none() || holds().await?, "{lives:?} live, and the key was given back");
    ensure!(!early, "the key was given back while a server was being started");
    bed.lab().start_agent(&place.name).await?;
    bed.healthy().await?;
    let (history, judgement) = bed.finish().await?;
    let explained = explain(&judgement, &history);
    say(format!("{name}: {explained}"));
    ensure!(judgement.is_clean(), explained);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_while_postgresql_starts_leaves_no_writer_without_a_key() {
    told_to_end_while_starting().await.unwrap();
}
