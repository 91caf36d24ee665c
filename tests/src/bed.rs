//! A federation on this machine under a client that keeps writing, and what tests do to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use regent_dcs::Store;
use regent_proto::keys::GlobalKeys;
use regent_proto::name::{NodeName, OperationId, SiteName};
use regent_proto::record::PrimaryState;
use regent_proto::topology::StoreKind;
use regent_proto::wire;
use regentctl::cli::Switchover;
use regentctl::clock::millis;
use regentctl::coordinators::Coordinators;
use regentctl::lab::layout::StorePlace;
use regentctl::lab::ready::missing;
use regentctl::lab::{Lab, Options};
use regentctl::load::{self, History, Judgement, Target, Writer, table};
use regentctl::report::{Case, passed};
use regentctl::verbs::switchover;

use crate::records::{Global, Records};
use crate::report::workspace;
use crate::say;
use crate::wait::until;

/// The topology that most tests use.
pub const TWO_SITES: &str = include_str!("../../topologies/two-sites-and-witness.yaml");

/// Longest wait for a federation to be as its topology wants it.
pub const HEALTHY: Duration = Duration::from_secs(60);
/// Time between two rows of a bed's writer: 200 a second, with what they cost at every standby, leave the
/// processors of two beds to what is tested.
const PACE: Duration = Duration::from_millis(5);
/// How many of each log's last lines a failure shows.
const LAST_LINES: usize = 8;
/// Longest wait for a process that was killed.
const DIES: Duration = Duration::from_secs(5);

/// The federation, its records and its client.
#[derive(Debug)]
pub struct Bed {
    /// Its processes. `None` once it was ended.
    lab: Option<Lab>,
    /// Its client.
    pub writer: Writer,
    /// What its clients before this one did.
    earlier: History,
    /// Its global records.
    pub records: Records,
    /// Their keys.
    pub keys: GlobalKeys,
    name: String,
}

/// Who is who before something is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// The primary site.
    pub a: SiteName,
    /// Its leader.
    pub a_leader: NodeName,
    /// The other data site.
    pub b: SiteName,
    /// Its leader.
    pub b_leader: NodeName,
    /// The elected coordinator's site.
    pub elected: SiteName,
}

impl Bed {
    /// Starts the topology with a client. `name` is for what a failure leaves to look at.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(name: &str, topology: &str, dcs: Option<StoreKind>) -> anyhow::Result<Self> {
        let options = Options { dir: None, dcs, bare: false };
        let lab = Lab::up(topology, &options, &mut |_| {}).await?;
        let store = crate::records::open(&lab.layout().quorum)?;
        let keys = GlobalKeys::new(&lab.layout().federation);
        let records = Records::follow(store, keys.prefix().to_owned()).await?;
        let superuser = lab.client_config(&lab.data_sites())?;
        table::make(&superuser, &lab.secrets().app).await?;
        let ports = lab.layout().nodes.iter().map(|node| node.postgres_port).collect();
        let target = Target { ports, password: lab.secrets().app.clone() };
        let writer = Writer::paced(target, 0, PACE);
        writer.wait_for(20, writer.now(), HEALTHY).await?;
        let earlier = History::default();
        Ok(Self { lab: Some(lab), writer, earlier, records, keys, name: name.to_owned() })
    }

    /// The client goes on, but never at this server: what a test does there by hand, behind Regent's
    /// back, it also answers for.
    pub async fn keep_away_from(&mut self, node: &NodeName) {
        let others = self.lab().layout().nodes.iter().filter(|place| place.name != *node);
        let ports = others.map(|place| place.postgres_port).collect();
        self.go_on_at(ports).await;
    }

    /// The client goes on through this port alone, which is a proxy's.
    pub async fn go_through(&mut self, port: u16) {
        self.go_on_at(vec![port]).await;
    }

    async fn go_on_at(&mut self, ports: Vec<u16>) {
        self.earlier.append(self.writer.finish().await);
        let target = Target { ports, password: self.lab().secrets().app.clone() };
        self.writer = Writer::paced(target, self.earlier.sent, PACE);
    }

    /// Its processes.
    ///
    /// # Panics
    /// After its end.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the bed was not ended yet")
    }

    /// The file of the global quorum, where it is the embedded store.
    ///
    /// # Errors
    /// Where it is not.
    pub fn quorum_file(&self) -> anyhow::Result<PathBuf> {
        match &self.lab().layout().quorum {
            StorePlace::Sqlite { path } => Ok(path.clone()),
            StorePlace::Etcd3 { .. } => bail!("the quorum of this lab is etcd, not a file"),
        }
    }

    /// The global quorum.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.records.store)
    }

    /// Looks at the records as they are now.
    pub fn look<T>(&self, at: impl FnOnce(Global<'_>) -> T) -> T {
        at(Global { keys: &self.keys, found: &self.records.now() })
    }

    /// Waits for a state of the records.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn see<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(Global<'_>) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.records
            .wait(what, limit, |found| look(Global { keys: &self.keys, found }))
            .await
            .with_context(|| self.state())
    }

    /// The deciding records in one line, for messages.
    #[must_use]
    pub fn state(&self) -> String {
        self.look(|global| {
            let primary = global.primary().map(|primary| {
                format!("{} of {} at {}", primary.state.name(), primary.holder, primary.epoch)
            });
            let lease = global.lease().map(|lease| {
                format!("{} at {} released {}", lease.node, lease.epoch, lease.released)
            });
            let running = global.running().and_then(|id| global.operation(&id));
            let running = running.and_then(|o| o.steps.last().cloned());
            format!("primary {primary:?}, lease {lease:?}, operation {running:?}")
        })
    }

    /// One picture from the coordinators.
    ///
    /// # Errors
    /// When none answers.
    pub async fn federation(&self) -> anyhow::Result<wire::Federation> {
        Ok(self.lab().coordinators().federation().await?)
    }

    /// Waits until the federation is as its topology wants it, a living coordinator is elected,
    /// and rows are acknowledged.
    ///
    /// # Errors
    /// After [`HEALTHY`], with what is missing.
    pub async fn healthy(&self) -> anyhow::Result<Roles> {
        let coordinators = self.lab().coordinators();
        let roles = until("a healthy federation", HEALTHY, async || {
            let federation = coordinators.federation().await.map_err(|e| e.to_string())?;
            let missing: Vec<String> =
                missing(self.lab().topology(), &federation).into_iter().map(|m| m.what).collect();
            if !missing.is_empty() {
                return Err(missing.join("; "));
            }
            if let Some(running) = &federation.operation {
                return Err(format!("operation {} runs", running.id));
            }
            self.roles(&federation).map_err(|e| e.to_string())
        })
        .await
        .with_context(|| self.state())?;
        self.progress().await?;
        Ok(roles)
    }

    fn roles(&self, federation: &wire::Federation) -> anyhow::Result<Roles> {
        let site = |name: &str| {
            let found = federation.sites.iter().find(|site| site.name == name);
            found.with_context(|| format!("site {name} is not there"))
        };
        let a: SiteName = federation.primary_site.parse()?;
        let sites = self.lab().data_sites();
        let b = sites.iter().find(|site| **site != a).context("no second data site")?.clone();
        let lease =
            federation.lease.as_ref().filter(|lease| lease.held).context("no lease held")?;
        let elected = federation.coordinators.iter().find(|coordinator| coordinator.elected);
        let elected = elected.context("no coordinator is elected")?;
        let all = self.lab().layout().coordinators.len();
        let there = federation.coordinators.len();
        ensure!(there == all, "{there} of {all} coordinators are there");
        Ok(Roles {
            a_leader: lease.node.parse()?,
            b_leader: site(b.as_str())?.leader.parse().context("the leader of the other site")?,
            elected: elected.site.parse()?,
            a,
            b,
        })
    }

    /// Waits until rows are acknowledged again, or still.
    ///
    /// # Errors
    /// When they are not.
    pub async fn progress(&self) -> anyhow::Result<()> {
        let goes_on = self.writer.wait_for(20, self.writer.now(), Duration::from_secs(45)).await;
        if goes_on.is_err() {
            self.keep_logs();
        }
        Ok(goes_on?)
    }

    /// Rows acknowledged in the second before `at`, on the writer's clock.
    #[must_use]
    pub fn rate(&self, at: Duration) -> usize {
        let from = at.saturating_sub(Duration::from_secs(1));
        self.writer.look(|history| {
            let before = history.acks.partition_point(|ack| ack.at < at);
            before - history.acks.partition_point(|ack| ack.at < from)
        })
    }

    /// The longest time without an acknowledgement that touches `from..to`.
    #[must_use]
    pub fn outage(&self, from: Duration, to: Duration) -> Duration {
        self.writer.look(|history| load::outage(&history.acks, from, to).length)
    }

    /// The coordinator of one site, to ask.
    ///
    /// # Errors
    /// When there is none.
    pub fn coordinator(&self, site: &SiteName) -> anyhow::Result<Coordinators> {
        let layout = self.lab().layout();
        let place = layout.coordinators.iter().find(|place| place.site == *site);
        let place = place.with_context(|| format!("no coordinator in {site}"))?;
        let endpoint = format!("127.0.0.1:{}", place.port);
        Ok(Coordinators::new(vec![endpoint], layout.federation.to_string()))
    }

    /// Waits until no check of the plan blocks a switchover, as this coordinator sees it.
    ///
    /// # Errors
    /// When one still does after [`HEALTHY`].
    pub async fn unblocked(&self, whom: &Coordinators, to: &SiteName) -> anyhow::Result<()> {
        until("a plan that nothing blocks", HEALTHY, async || {
            let agreed = switchover::make_plan(whom, to.as_str(), false).await;
            let agreed = agreed.map_err(|e| e.to_string())?;
            if agreed.blocked { Err(regentctl::plan::blockers(&agreed)) } else { Ok(()) }
        })
        .await
    }

    /// Plans a switchover and executes the plan.
    ///
    /// # Errors
    /// When it is blocked or refused.
    pub async fn ask(&self, whom: &Coordinators, to: &SiteName) -> anyhow::Result<OperationId> {
        let agreed = switchover::make_plan(whom, to.as_str(), false).await?;
        ensure!(!agreed.blocked, "blocked: {}", regentctl::plan::blockers(&agreed));
        let arguments = Switchover {
            to: to.to_string(),
            dry_run: false,
            yes: true,
            accept_unprotected: false,
            reason: "test".to_owned(),
        };
        Ok(switchover::execute(whom, &agreed, &arguments).await?.id.parse()?)
    }

    /// Plans and executes until nothing refuses either: a plan is overtaken by what the execution
    /// sees, as where a standby follows a promotion between the two and has not read its id yet.
    ///
    /// # Errors
    /// When it is still refused after [`HEALTHY`].
    pub async fn begin(&self, whom: &Coordinators, to: &SiteName) -> anyhow::Result<OperationId> {
        until("a switchover that nothing refuses", HEALTHY, async || {
            self.ask(whom, to).await.map_err(|e| format!("{e:#}"))
        })
        .await
    }

    /// Kills processes by their names, with SIGKILL; those that do not run are left out.
    ///
    /// # Errors
    /// When one does not die.
    pub async fn kill(&self, processes: &[String]) -> anyhow::Result<()> {
        for process in processes {
            // One that was killed before may be seen to have ended between the two questions.
            if self.lab().pid(process).await?.is_some()
                && let Err(failure) = self.lab().signal(process, Signal::SIGKILL).await
                && self.lab().pid(process).await?.is_some()
            {
                return Err(failure.into());
            }
        }
        until("the killed processes to be gone", DIES, async || {
            for process in processes {
                if self.lab().pid(process).await.map_err(|e| e.to_string())?.is_some() {
                    return Err(format!("{process} runs"));
                }
            }
            Ok(())
        })
        .await
    }

    /// Starts every process that does not run; which ones.
    ///
    /// # Errors
    /// When one can't be started.
    pub async fn start_missing(&self) -> anyhow::Result<Vec<String>> {
        let mut started = Vec::new();
        for process in self.lab().processes().await? {
            if process.pid.is_none() {
                self.lab().start(&process.name).await?;
                started.push(process.name);
            }
        }
        Ok(started)
    }

    /// Names of all coordinators' processes.
    #[must_use]
    pub fn coordinators(&self) -> Vec<String> {
        self.lab().layout().coordinators.iter().map(|place| place.process()).collect()
    }

    /// Waits until a site holds primacy, open, with a lease of the epoch, and rows are
    /// acknowledged; which site.
    ///
    /// # Errors
    /// After `limit`.
    pub async fn open(&self, limit: Duration) -> anyhow::Result<SiteName> {
        let holder = self.see("an open primary with its lease", limit, |global| {
            let (primary, lease) = (global.primary()?, global.lease()?);
            let open = primary.state == PrimaryState::Open
                && lease.site == primary.holder
                && lease.epoch == primary.epoch
                && !lease.released;
            open.then_some(primary.holder)
        });
        let holder = holder.await?;
        self.progress().await?;
        Ok(holder)
    }

    /// Ends the client, compares what it was told with what is there, ends the federation.
    ///
    /// # Errors
    /// When the table can't be read, or something is left behind.
    pub async fn finish(mut self) -> anyhow::Result<(History, Judgement)> {
        let mut history = std::mem::take(&mut self.earlier);
        history.append(self.writer.finish().await);
        let config = self.lab().client_config(&self.lab().data_sites())?;
        let contents = table::read(&config).await?;
        let judgement = load::judge(&history, &contents);
        if !judgement.is_clean() {
            self.keep_logs();
        }
        if let Some(lab) = self.lab.take() {
            lab.down().await?;
        }
        Ok((history, judgement))
    }

    /// Ends it, and writes these cases with one more, that no row was lost, into the report of its name.
    ///
    /// # Errors
    /// When one of them did not pass.
    pub async fn report(self, mut cases: Vec<Case>) -> anyhow::Result<()> {
        let name = self.name.clone();
        let (history, judgement) = self.finish().await?;
        say(format!("{name}: {}", explain(&judgement, &history)));
        let rows = Case::new(format!("{name} rows"));
        cases.push(rows.require(judgement.is_clean(), || explain(&judgement, &history)));
        regentctl::report::write(&crate::report::file(&name), &cases)?;
        ensure!(passed(&cases), "{cases:#?}");
        Ok(())
    }

    /// Copies the logs to where they outlive the lab, and prints their last lines for whoever sees
    /// the test's output only.
    pub fn keep_logs(&self) {
        let Some(lab) = &self.lab else { return };
        let target = workspace().join("target/test-logs").join(&self.name);
        std::fs::create_dir_all(&target).ok();
        let logs = std::fs::read_dir(lab.layout().dir.join("log")).into_iter().flatten().flatten();
        for log in logs {
            std::fs::copy(log.path(), target.join(log.file_name())).ok();
            let name = log.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                say(format!("  {name}: {line}"));
            }
        }
        for node in &lab.layout().nodes {
            let log = lab.layout().run_dir(node).join("postgresql.log");
            std::fs::copy(log, target.join(format!("postgresql-{}.log", node.name))).ok();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}

/// Which rows of a bad judgement were acknowledged when, for messages.
#[must_use]
pub fn explain(judgement: &Judgement, history: &History) -> String {
    let at = |numbers: &std::collections::BTreeSet<u64>| {
        let shown = numbers.iter().take(20).map(|number| {
            let ack = history.acks.iter().find(|ack| ack.number == *number);
            match ack {
                Some(ack) => format!("{number} at {} ms", millis(ack.at)),
                None => format!("{number} never acknowledged"),
            }
        });
        format!("{} ({})", numbers.len(), shown.collect::<Vec<_>>().join(", "))
    };
    format!(
        "of {} acknowledged rows lost {}, duplicated {}, reordered {}, foreign {}",
        judgement.acknowledged,
        at(&judgement.lost),
        at(&judgement.duplicated),
        at(&judgement.reordered),
        at(&judgement.foreign),
    )
}
