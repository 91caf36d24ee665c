//! Joins the rooms: observe, decide, act, and again when something happens or it is time.
//!
//! Here is the round itself and what it carries along; each of its steps has a file: `gather` makes
//! the view, `fence` puts the guard as it must stand, `tell` says what was seen and decided,
//! `perform` performs, `wakes` waits. `start` builds an agent, with `preflight` and `adoption`, and
//! `end` ends it.

mod adoption;
mod end;
mod fence;
mod gather;
mod perform;
mod preflight;
mod remote;
mod requests;
mod start;
mod tell;
mod wakes;

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::{Opened, Reach};
use regent_proto::time::BootTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::act::Actor;
use crate::act::callbacks::Callbacks;
use crate::act::own_leases::OwnLeases;
use crate::act::publish::Picture;
use crate::config::Config;
use crate::decide::remembered::Remembered;
use crate::decide::view::{FinishedJob, Memory, PeerAnswer, Policy};
use crate::decide::{callbacks, decide, slots};
use crate::fence::Deadlines;
use crate::fence::guard::Fenced;
use crate::observe::clock::boot_time;
use crate::observe::failsafe::FailsafeObserver;
use crate::observe::global::GlobalObserver;
use crate::observe::mirror::Mirror;
use crate::observe::postgres::PostgresObserver;
use crate::observe::remote::RemoteAnswer;
use crate::observe::site::SiteObserver;
use crate::upgrade::Upgrade;
use requests::Requests;
use wakes::{Wakes, waited_for};

pub use wakes::Row;

/// A running agent.
pub struct Agent {
    config: Arc<Config>,
    actor: Actor,
    deadlines: Arc<Deadlines>,
    site_mirror: Mirror,
    global_mirror: Option<Mirror>,
    site_observer: SiteObserver,
    own_leases: OwnLeases,
    global_observer: Option<GlobalObserver>,
    failsafe: FailsafeObserver,
    postgres: PostgresObserver,
    memory: Memory,
    /// What is remembered of the cluster, for whoever writes it down.
    cluster: watch::Sender<Option<Remembered>>,
    finished: Option<FinishedJob>,
    finished_jobs: mpsc::Receiver<FinishedJob>,
    fenced: mpsc::Receiver<Fenced>,
    peers: Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>,
    peer_answers: watch::Sender<Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>>,
    http: reqwest::Client,
    reaches: watch::Sender<BTreeMap<SiteName, Reach>>,
    /// What the cluster that `standby_cluster` names has told of itself.
    remote: watch::Sender<Option<RemoteAnswer>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    opened: Option<Opened>,
    last_reason: String,
    last_problem: String,
    /// A pause has taken the fence away.
    suspended: bool,
    /// Why the timings of the dynamic configuration in the DCS are not in force.
    refused_dynamic: Option<String>,
    /// What is told of slots.
    slots: slots::Told,
    row: Row,
    stop: CancellationToken,
    upgrade: Upgrade,
    upgrade_asked: Option<BootTime>,
    /// Why the last long act failed.
    job_problem: Option<String>,
    requests: Requests,
    callbacks: Callbacks,
    told: callbacks::Told,
    /// Held for the life of the process.
    _lock: std::fs::File,
}

impl Agent {
    /// Runs until stopped. As Patroni does on SIGTERM: stops PostgreSQL, then gives the key up.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut wakes = Wakes::new(&self);
        loop {
            self.deadlines.comes_round(boot_time());
            let (view, extra) = self.observe().await;
            let policy = self.policy();
            let decision = decide(&policy, &self.memory, &view);
            self.say(&view, &decision.reason);
            self.say_what_is_over(&decision.memory);
            self.note_opening(&view);
            self.keep_fence(&policy, &view);
            self.look_at_slots(&policy, &view);
            self.tell(&view, extra, &decision);
            self.call_back(&view);
            self.finished = None;
            let again = self.act(&decision.actions, &view).await?;
            self.memory = decision.memory;
            self.keep_cluster();
            if self.stop.is_cancelled() {
                let ended = self.shut_down(&view).await;
                self.callbacks.end().await;
                return ended;
            }
            self.upgrade_when_idle(&view).await;
            if self.row.goes_on(again) {
                continue;
            }
            let undone = !again && !decision.actions.is_empty();
            let most = self.sleeps_at_most(decision.wake_at, undone, &view);
            self.wait(&mut wakes, most, waited_for(&policy, &view)).await;
        }
    }

    /// Another set of members is written down, beside this loop.
    fn keep_cluster(&self) {
        self.cluster.send_if_modified(|kept| {
            let changes = *kept != self.memory.cluster;
            if changes {
                kept.clone_from(&self.memory.cluster);
            }
            changes
        });
    }

    fn policy(&self) -> Policy {
        self.actor.dynamic.policy(&self.config, self.site_observer.config())
    }
}
