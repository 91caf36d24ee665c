//! How a life of this process ends: a planned stop, or the next life in its place.

use std::sync::Arc;
use std::time::Duration;

use regent_proto::time::{BootTime, Deadline};

use regent_guardian::processes::of_data_directory;

use super::Agent;
use crate::act::jobs::BEFORE_STOP;
use crate::act::postgres::files::write_atomically;
use crate::act::postgres::server::Server;
use crate::act::scripts;
use crate::act::site::Held;
use crate::decide::view::{JobKind, Memory, View};
use crate::fence::release::Release;
use crate::observe::clock::boot_time;
use crate::upgrade;

/// How long an agent that ends waits for its leader key's end.
const LETS_GO: Duration = Duration::from_secs(5);
/// How long what lives is waited for: the part of an `initdb` that was just ended, for instance.
const LOOKS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long an upgrade waits for a leader key on its way: one that never arrives holds up none.
const KEY_MOVES_WITHIN: Duration = Duration::from_secs(30);
/// How long an upgrade waits for a guardian: one that cannot be had may be what the upgrade mends.
const GUARDED_WITHIN: Duration = Duration::from_secs(15);
/// How often the loop says that it lives while `before_stop` runs.
const LIVES_EVERY: Duration = Duration::from_millis(200);

/// Whether an upgrade waits until the key is another's, or the server open again. The next life knows
/// neither that a server was stopped for a switchover, and would promote it instead of opening it where
/// it stopped, nor that this node leaves a free key to others.
fn moves_the_key(memory: &Memory, asked: BootTime, now: BootTime) -> bool {
    let stands_back = memory.stands_back_until.is_some_and(|until| now < until);
    (memory.switching.is_some() || stands_back) && now.since(asked) < KEY_MOVES_WITHIN
}

/// Whether an upgrade waits for the guardian that is about to stand beside the server: whoever is being
/// started would belong to nobody, and its lock would keep the next life's out.
fn lacks_a_guardian(server: &Server, asked: BootTime, now: BootTime) -> bool {
    let beside = server.beside().borrow().pid.is_some();
    server.postmaster().is_some() && !beside && now.since(asked) < GUARDED_WITHIN
}

impl Agent {
    /// Starts the next program in this process, once no job runs: a job's child belongs to this life,
    /// and the next one would not know of it.
    pub(super) async fn upgrade_when_idle(&mut self, view: &View) {
        let idle = view.job.is_none()
            && self.actor.jobs.running().is_none()
            && !self.actor.jobs.checkpoint_runs()
            // Nor does it know who waits for an answer, and that what stands still may open again.
            && self.memory.request.is_none()
            && self.callbacks.are_idle();
        let Some(asked) = self.upgrade_asked else { return };
        let now = boot_time();
        let unguarded = lacks_a_guardian(&self.actor.server, asked, now);
        if !idle || unguarded || moves_the_key(&self.memory, asked, now) {
            return;
        }
        self.upgrade_asked = None;
        let refusal = upgrade::refusal(&self.config.regent.run_dir);
        drop(std::fs::remove_file(&refusal));
        tracing::info!(node = %self.config.name, "upgrading in place");
        let held = self.listens_on();
        let problem = self.upgrade.perform(self.deadlines.page(), &held, &self.stop).await;
        tracing::error!(node = %self.config.name, problem, "not upgraded: this program goes on");
        if let Err(error) = write_atomically(&refusal, problem.as_bytes()) {
            tracing::warn!(%error, "telling the refusal in the run directory");
        }
    }

    /// Stops PostgreSQL, then gives the leader key up.
    pub(super) async fn shut_down(&mut self, view: &View) -> anyhow::Result<()> {
        if self.suspended {
            // As in Patroni: the server goes on, and so does whoever looks after it by hand.
            tracing::warn!(node = %self.config.name, "stopping; PAUSE: PostgreSQL is left running");
            self.actor.guard.end();
            return Ok(());
        }
        tracing::info!(node = %self.config.name, "stopping");
        self.actor.server.close();
        let known = self.actor.jobs.end().await;
        self.before_stop().await;
        // No round follows that would tell: from here on nobody is a primary (I17).
        self.pictures.send_modify(|picture| {
            if let Some(picture) = picture {
                Arc::make_mut(picture).view.job = Some(JobKind::Stop);
            }
        });
        self.actor.guard.plan_stop(Deadline::NEVER);
        self.actor.renewal.end_tenure().await;
        let budget = self.config.regent.stop_budget.0;
        if self.actor.server.postmaster().is_some() {
            self.actor.server.stop(&self.actor.files.data_dir, budget, budget).await;
        }
        if self.actor.server.postmaster().is_some() {
            // The guard goes on until its bound; the key is left to expire (I12).
            anyhow::bail!(
                "PostgreSQL could not be stopped; the leader key is left to expire, and what lives is killed \
                 at its deadline; where a disk hangs, see the runbook an-agent-hangs"
            );
        }
        anyhow::ensure!(known, "a start has not ended; the leader key is left to expire");
        if let Err(problem) = self.nothing_lives().await {
            anyhow::bail!("{problem}; the leader key is left to expire");
        }
        self.actor.guard.disarm();
        self.actor.guard.end();
        if let Some((callback, role)) = self.told.stopped() {
            self.callbacks.call(callback, role);
        }
        let leads = view.site.as_ref().and_then(|site| site.leader.as_ref());
        if let Some(held) = Held::of(leads) {
            // Released only after the stop (I12); the lease would end it a little later anyway.
            let released = self.actor.renewal.release(held);
            match tokio::time::timeout(LETS_GO, released).await {
                Ok(Release::Gone(_)) => {}
                Ok(Release::Kept(problem)) => {
                    tracing::warn!(problem, "the leader key is left to expire");
                }
                Err(_) => tracing::warn!("no answer in time: the leader key is left to expire"),
            }
        }
        Ok(())
    }

    /// The operator's program before a stop in order. The right to write goes on meanwhile, and so do
    /// this loop's signs of life, without which nothing is renewed (ADR 28).
    async fn before_stop(&self) {
        let Some(command) = &self.config.postgres.before_stop else { return };
        if self.actor.server.postmaster().is_none() {
            return;
        }
        let call = scripts::Call::new("before_stop", command);
        let mut script = std::pin::pin!(scripts::run(call, BEFORE_STOP));
        let ended = loop {
            tokio::select! {
                ended = &mut script => break ended,
                () = tokio::time::sleep(LIVES_EVERY) => self.deadlines.comes_round(boot_time()),
            }
        };
        if let Err(error) = ended {
            tracing::warn!("{error:#}: PostgreSQL is stopped all the same");
        }
    }

    /// Sees for itself that no process of the data directory lives: the right to write is given back
    /// for this only, whoever started what (I12).
    async fn nothing_lives(&self) -> Result<(), String> {
        let begun = boot_time();
        loop {
            let data_dir = self.actor.files.data_dir.clone();
            let looked = tokio::task::spawn_blocking(move || of_data_directory(&data_dir, None));
            let problem = match tokio::time::timeout(LOOKS, looked).await {
                Ok(Ok(Ok(found))) if found.is_empty() => return Ok(()),
                Ok(Ok(Ok(found))) => format!("processes of the data directory live: {found:?}"),
                Ok(Ok(Err(error))) => format!("looking for processes in /proc: {error}"),
                Ok(Err(error)) => format!("looking for processes: {error}"),
                Err(_) => format!("the data directory's disk has not answered within {LOOKS:?}"),
            };
            if boot_time().since(begun) > LOOKS {
                return Err(problem);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::decide::manual::{Switching, SwitchingStep};
    use crate::decide::tests::world::NOW;

    #[test]
    fn an_upgrade_waits_for_a_key_on_its_way_but_not_for_ever() {
        let second = Duration::from_secs(1);
        assert!(!moves_the_key(&Memory::default(), NOW, NOW));
        let switching = Switching {
            revision: 1,
            leader_revision: 1,
            streamed: BTreeSet::new(),
            step: SwitchingStep::Stopped { since: NOW },
        };
        let switching = Memory { switching: Some(switching), ..Memory::default() };
        assert!(moves_the_key(&switching, NOW, NOW.plus(second)));
        assert!(!moves_the_key(&switching, NOW, NOW.plus(KEY_MOVES_WITHIN)));
        let until = Some(NOW.plus(second * 5));
        let stands_back = Memory { stands_back_until: until, ..Memory::default() };
        assert!(moves_the_key(&stands_back, NOW, NOW.plus(second * 4)));
        assert!(!moves_the_key(&stands_back, NOW, NOW.plus(second * 5)));
    }
}
