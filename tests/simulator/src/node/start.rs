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
use regent_agent::run::Row;
use regent_dcs::Store;
use regent_dcs::clock::BootClock;
use regent_guardian::page::Page;
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::time::{BootTime, WallTime};
use tokio::sync::{Notify, mpsc, watch};

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

    /// What failsafe binds this life to: first of all what a former one has promised.
    fn open_failsafe(&self, n: usize, process: ProcessId) -> failsafe::Shared {
        let paper = self.nodes[n].word.clone();
        if self.mutant == Mutant::WordDiesWithItsAgent {
            paper.lose();
        }
        let word = Word::open(paper, self.boot(process)).expect("the model's paper can be read");
        failsafe::Shared {
            leader: SharedLeader::default(),
            word: Arc::new(word),
            given: SharedGiven::default(),
        }
    }

    /// What the renewal loops have: handles of their own, and whom they ask.
    fn sides(
        &self,
        sim: &Sim,
        n: usize,
        process: ProcessId,
        (leader, targets): (SharedLeader, watch::Receiver<Targets>),
    ) -> (SiteSide, Option<GlobalSide>) {
        let node = &self.nodes[n];
        let (config, site) = (&node.config, &self.sites[node.site]);
        let clock = ProcessClock::of(sim, process);
        let spawn = questions::beside(sim, process);
        let site_side = SiteSide {
            store: Arc::new(SimStore::new(sim, process, site.store)),
            leader_key: SiteKeys::new(&config.namespace, &config.scope).key(SiteKey::Leader),
            me: node.name.clone(),
            timing: config.site_timing(&config.first_dynamic()),
            clock: clock.clone(),
            failsafe: Some(SiteRounds {
                leader,
                ask: questions::members(sim, process, &config.name),
                spawn: Arc::clone(&spawn),
            }),
        };
        let promises = config.federation.as_ref().is_some_and(|f| f.promise.is_some());
        let global_side = self.federation.as_ref().map(|federation| GlobalSide {
            store: Arc::new(SimStore::new(sim, process, federation.store)),
            keys: GlobalKeys::new(&federation.name),
            site: site.name.clone(),
            clock,
            ids: Ids::Counted(Arc::clone(&self.ids)),
            failsafe: promises.then(|| QuorumRounds {
                targets,
                ask: questions::sites(sim, process),
                spawn,
            }),
        });
        (site_side, global_side)
    }

    fn global_store(&self, sim: &Sim, n: usize, process: ProcessId) -> Option<GlobalStore> {
        let node = &self.nodes[n];
        self.federation.as_ref().map(|federation| GlobalStore {
            store: Arc::new(SimStore::new(sim, process, federation.store)),
            keys: GlobalKeys::new(&federation.name),
            site: self.sites[node.site].name.clone(),
            me: node.name.clone(),
            clock: ProcessClock::of(sim, process),
            ids: Ids::Counted(Arc::clone(&self.ids)),
        })
    }

    /// A picture of what is below a prefix, kept by a task of the process.
    fn mirror(
        &mut self,
        process: ProcessId,
        store: Arc<dyn Store>,
        (prefix, timeout): (&str, Duration),
        clock: &BootClock,
    ) -> watch::Receiver<Picture> {
        let (publish, pictures) = watch::channel(Picture::default());
        let mirrored = mirror::keep(store, prefix.to_owned(), timeout, clock.clone(), publish);
        self.spawned.push((process, Box::pin(mirrored)));
        pictures
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
        let clock = ProcessClock::of(sim, process);
        let keys = SiteKeys::new(&config.namespace, &config.scope);
        let store = Arc::new(SimStore::new(sim, process, site_index));
        let site = SiteStore { store, keys: keys.clone(), me: me.clone() };
        let global = self.global_store(sim, n, process);
        let dynamic = config.first_dynamic();
        let timeout = config.site_timing(&dynamic).call_timeout;
        let (renewal, loops) =
            RenewalThread::wire(Arc::clone(&deadlines), self.federation.is_some());
        let failsafe = self.open_failsafe(n, process);
        let (targets, sought) = watch::channel(Targets::default());
        let (site_side, global_side) =
            self.sides(sim, n, process, (failsafe.leader.clone(), sought));
        self.spawned.push((process, Box::pin(loops.run(site_side, global_side))));
        let of_site = (keys.prefix(), timeout);
        let site_pictures = self.mirror(process, Arc::clone(&site.store), of_site, &clock);
        let global_pictures = global.as_ref().map(|global| {
            let of_quorum = (global.keys.prefix(), Duration::from_secs(2));
            self.mirror(process, Arc::clone(&global.store), of_quorum, &clock)
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
                http: None,
                requests: mpsc::channel(1).0,
            },
            clock: clock.clone(),
            tenures: tenures.clone(),
        });
        let failsafe_observer = FailsafeObserver::new(&config, failsafe.clone(), targets);
        let cluster = self.nodes[n].cluster.clone();
        let memory = Memory { cluster, ..Memory::of_a_new_process() };
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
            memory,
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
            row: Row::default(),
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
