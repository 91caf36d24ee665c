//! What wakes the loop, and how long it sleeps otherwise; jobs that ended and what the guard did are
//! taken in here.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::name::NodeName;
use regent_proto::time::BootTime;
use tokio::sync::watch;

use super::Agent;
use crate::act::postgres::server::{Beside, Postmaster};
use crate::decide::Action;
use crate::decide::view::{PeerAnswer, Process, View};
use crate::fence::renewal::Tenures;
use crate::observe::clock::boot_time;
use crate::observe::mirror::{Mirror, Picture};
use crate::observe::postgres::ASK_AGAIN;

/// The same actions for the same reason in a row, after which the loop waits a moment: an effect
/// that does not show must not spin.
const SAME_MOST: u32 = 5;

/// Everything that wakes the loop.
pub(super) struct Wakes {
    site: watch::Receiver<Picture>,
    global: Option<watch::Receiver<Picture>>,
    server: watch::Receiver<Option<Postmaster>>,
    beside: watch::Receiver<Beside>,
    tenures: watch::Receiver<Tenures>,
    peers: watch::Receiver<Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>>,
}

impl Wakes {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            site: agent.site_mirror.pictures(),
            global: agent.global_mirror.as_ref().map(Mirror::pictures),
            server: agent.actor.server.watch(),
            beside: agent.actor.server.beside(),
            tenures: agent.actor.renewal.tenures(),
            peers: agent.peer_answers.subscribe(),
        }
    }

    /// A closed channel never wakes: its task is gone and the loop goes on by time alone.
    async fn changed(&mut self) {
        async fn change<T>(receiver: &mut watch::Receiver<T>) {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let global = async {
            match &mut self.global {
                Some(global) => change(global).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = change(&mut self.site) => {}
            () = global => {}
            () = change(&mut self.server) => {}
            () = change(&mut self.beside) => {}
            () = change(&mut self.tenures) => {}
            () = change(&mut self.peers) => {}
        }
    }
}

impl Agent {
    /// True when rounds without a sleep between them have to end.
    pub(super) fn spinning(&mut self, actions: &[Action]) -> bool {
        self.repeated = if actions.is_empty() { 0 } else { self.repeated + 1 };
        self.repeated >= SAME_MOST
    }

    /// How long the loop sleeps if nothing wakes it: until the decision's own instant, or less where
    /// what was decided did not come about yet.
    pub(super) fn sleeps_at_most(&self, wake_at: BootTime, undone: bool, view: &View) -> Duration {
        let mut most = wake_at.since(boot_time());
        if self.repeated >= SAME_MOST {
            most = most.min(Duration::from_millis(200));
        }
        if undone {
            most = most.min(Duration::from_millis(250));
        }
        if view.postgres.process == Process::Starting {
            most = most.min(ASK_AGAIN);
        }
        most
    }

    /// Sleeps, and takes in what woke it.
    pub(super) async fn wait(&mut self, wakes: &mut Wakes, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            Some(()) = self.upgrade.asked.recv() => self.upgrade_asked = true,
            () = tokio::time::sleep(wait) => {}
            finished = self.finished_jobs.recv() => {
                if let Some(finished) = finished {
                    self.actor.jobs.ended(&finished.job);
                    self.postgres.forget();
                    self.finished = Some(finished);
                    self.repeated = 0;
                }
            }
            fenced = self.fenced.recv() => {
                if let Some(fenced) = fenced {
                    self.say_fenced(fenced);
                }
            }
            () = self.requests.arrive() => self.repeated = 0,
            () = wakes.changed() => {}
        }
    }
}
