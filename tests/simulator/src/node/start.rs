//! Starts an agent, on whatever a former life of it left: what it is made of, and the tasks beside its
//! main loop.

use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::failsafe::record::Keeper;
use regent_agent::act::failsafe::word::Word;
use regent_agent::act::failsafe::{self, SharedGiven};
use regent_agent::act::global::GlobalStore;
use regent_agent::act::publish::{Picture as Told, Publisher};
use regent_agent::act::random::Ids;
use regent_agent::act::site::SiteStore;
use regent_agent::api;
use regent_agent::decide::view::Memory;
use regent_agent::fence::Deadlines;
use regent_agent::fence::renewal::{GlobalSide, RenewalThread, SiteSide};
use regent_agent::fence::rounds::{QuorumRounds, SharedLeader, SiteRounds, Targets};
use regent_agent::observe::failsafe::FailsafeObserver;
use regent_agent::observe::global::GlobalObserver;
use regent_agent::observe::mirror::{self, Picture};
use regent_agent::observe::site::SiteObserver;
use regent_guardian::page::Page;
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::time::{BootTime, WallTime};
use tokio::sync::{Notify, watch};

use super::agent::Agent;
use super::failsafe as questions;
use crate::mutants::Mutant;
use crate::postgres;
use crate::store::client::SimStore;
use crate::tasks::ProcessClock;
use crate::world::{ProcessId, Sim, World};

impl World {
    /// Starts the agent of node `n`, on whatever a former life left.
    pub(crate) fn start_agent(&mut self, sim: &Sim, n: usize) {
        if self.nodes[n].agent.is_some() || self.nodes[n].off {
            return;
        }
        let process = self.new_process(n);
        let wake = Arc::new(Notify::new());
        let federated = self.federation.is_some();
        let node = &mut self.nodes[n];
        node.agent = Some(process);
        node.wake = Arc::clone(&wake);
        node.mail = super::Mailbox::default();
        node.job = None;
        node.checkpoint = None;
        node.guard = super::GuardState::default();
        node.paused_at = None;
        node.paused = None;
        if node.guardian.alive {
            // As `fence::successor`: what was granted stays, and counts as carried.
            node.page.carry();
            if node.page.frozen() {
                let now = node.clock.boot(self.now);
                let until = now.plus(node.config.regent.stop_budget.0);
                let frozen = regent_agent::decide::freeze::Frozen { since: now, until };
                node.guard.frozen = Some(frozen);
            }
        } else if let Ok(page) = Page::create() {
            page.set_kill_budget(node.config.regent.kill_budget.0);
            node.page = page;
        }
        let deadlines = Arc::new(Deadlines::new(node.page.clone(), federated));
        node.deadlines = Some(Arc::clone(&deadlines));
        self.adopt_what_runs(n);
        let agent = self.build_agent(sim, n, process, (deadlines, wake));
        self.spawned.push((process, Box::pin(agent.run())));
        self.explain(n, "agent", || "starts".to_owned());
        self.wake_guard(n);
    }

    /// A server that nobody guards is frozen until its rights are known.
    fn adopt_what_runs(&mut self, n: usize) {
        let server = &self.nodes[n].server;
        if server.process == postgres::Process::Stopped || self.nodes[n].guardian.alive {
            return;
        }
        let bound = self.nodes[n].config.regent.stop_budget.0;
        if !self.nodes[n].server.standby_signal {
            self.adopt_server(n, bound);
        }
        // Its device may be refused: what runs is not ended for that.
        self.begin_guardian(n, false);
    }

    fn build_agent(
        &mut self,
        sim: &Sim,
        n: usize,
        process: ProcessId,
        (deadlines, wake): (Arc<Deadlines>, Arc<Notify>),
    ) -> Agent {
        let node = &self.nodes[n];
        let (config, me) = (Arc::clone(&node.config), node.name.clone());
        let site_index = self.sites[node.site].store;
        let site_known = self.sites[node.site].known.clone();
        let global_known = self.federation.as_ref().map(|f| f.known.clone()).unwrap_or_default();
        let site_name = self.sites[node.site].name.clone();
        let clock = ProcessClock::of(sim, process);
        let keys = SiteKeys::new(&config.namespace, &config.scope);
        let store = |index| Arc::new(SimStore::new(sim, process, index));
        let site = SiteStore { store: store(site_index), keys: keys.clone(), me: me.clone() };
        let dynamic = config.first_dynamic();
        let timing = config.site_timing(&dynamic);
        let (renewal, loops) =
            RenewalThread::wire(Arc::clone(&deadlines), self.federation.is_some());
        if self.mutant == Mutant::WordDiesWithItsAgent {
            node.word.lose();
        }
        let word = Word::open(node.word.clone(), self.boot(process))
            .expect("the model's paper can be read");
        let failsafe = failsafe::Shared {
            leader: SharedLeader::default(),
            word: Arc::new(word),
            given: SharedGiven::default(),
        };
        let promises = config.federation.as_ref().is_some_and(|f| f.promise.is_some());
        let (targets, sought) = watch::channel(Targets::default());
        let spawn = questions::beside(sim, process);
        let site_side = SiteSide {
            store: store(site_index),
            leader_key: keys.key(SiteKey::Leader),
            me: me.clone(),
            timing: timing.clone(),
            clock: clock.clone(),
            failsafe: Some(SiteRounds {
                leader: failsafe.leader.clone(),
                ask: questions::members(sim, process, &config.name),
                spawn: Arc::clone(&spawn),
            }),
        };
        let ids = Ids::Counted(Arc::clone(&self.ids));
        let global = self.federation.as_ref().map(|federation| {
            let keys = GlobalKeys::new(&federation.name);
            let side = GlobalSide {
                store: store(federation.store),
                keys: keys.clone(),
                site: site_name.clone(),
                clock: clock.clone(),
                ids: ids.clone(),
                failsafe: promises.then(|| QuorumRounds {
                    targets: sought.clone(),
                    ask: questions::sites(sim, process),
                    spawn: Arc::clone(&spawn),
                }),
            };
            let store = GlobalStore {
                store: store(federation.store),
                keys,
                site: site_name.clone(),
                me: me.clone(),
                clock: clock.clone(),
                ids: ids.clone(),
            };
            (side, store)
        });
        let (global_side, global) = global.unzip();
        let (publish, site_pictures) = watch::channel(Picture::default());
        let prefix = keys.prefix().to_owned();
        let mirrored =
            mirror::keep(site.store.clone(), prefix, timing.call_timeout, clock.clone(), publish);
        self.spawned.push((process, Box::pin(loops.run(site_side, global_side))));
        self.spawned.push((process, Box::pin(mirrored)));
        let global_pictures = global.as_ref().map(|global: &GlobalStore| {
            let (publish, pictures) = watch::channel(Picture::default());
            let prefix = global.keys.prefix().to_owned();
            let patience = Duration::from_secs(2);
            let mirrored =
                mirror::keep(global.store.clone(), prefix, patience, clock.clone(), publish);
            self.spawned.push((process, Box::pin(mirrored)));
            pictures
        });
        let (told, pictures) = watch::channel(None);
        let publisher = Publisher::new(
            Arc::clone(&config),
            (site.clone(), global.clone()),
            Keeper::new(failsafe.leader.clone(), clock.clone()),
        );
        self.spawned.push((process, Box::pin(publishes(publisher, pictures))));
        let tenures = renewal.tenures();
        let (pictures, shown) = watch::channel(None);
        self.nodes[n].door = Some(questions::Door {
            shared: api::Shared {
                config: Arc::clone(&config),
                pictures: shown,
                deadlines: Arc::clone(&deadlines),
                site: site.clone(),
                failsafe: failsafe.clone(),
            },
            clock: clock.clone(),
            tenures: tenures.clone(),
        });
        let failsafe_observer = FailsafeObserver::new(&config, failsafe.clone(), targets);
        Agent {
            sim: sim.clone(),
            n,
            process,
            clock,
            config,
            deadlines,
            renewal,
            site,
            dynamic,
            marked_at: WallTime::default(),
            primary_read: None,
            site_pictures,
            global_pictures,
            site_observer: SiteObserver::sharing(keys, me, site_known),
            global_observer: global
                .as_ref()
                .map(|g| GlobalObserver::sharing(g.keys.clone(), g.site.clone(), global_known)),
            global,
            site_seen: None,
            global_seen: None,
            memory: Memory::default(),
            finished: None,
            wake,
            tenures,
            told,
            pictures,
            failsafe_observer,
            failsafe,
            told_last: (None, BootTime::default()),
            opened: None,
            suspended: false,
            repeated: 0,
        }
    }
}

async fn publishes(mut publisher: Publisher, mut pictures: watch::Receiver<Option<Arc<Told>>>) {
    while pictures.changed().await.is_ok() {
        let picture = pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            publisher.publish(&picture).await;
        }
    }
}
