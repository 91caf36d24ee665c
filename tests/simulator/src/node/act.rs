//! Performing decisions: the product's transactions on the simulated stores, and effects on the
//! model of PostgreSQL. As `regent_agent::act`: in the given order, without choices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regent_agent::act::global::{GlobalError, Stopped};
use regent_agent::act::random::Ids;
use regent_agent::act::site::{Held, Written};
use regent_agent::decide::view::{DiskEpoch, PeerAnswer};
use regent_agent::decide::view::{LeaderKey, View};
use regent_agent::decide::{Action, Job};
use regent_agent::fence::release::Release;
use regent_agent::fence::renewal::Adopted;
use regent_agent::fence::watchdog;
use regent_dcs::{Change, Revision, Txn};
use regent_proto::keys::SiteKey;
use regent_proto::name::NodeName;
use regent_proto::time::Deadline;

use super::agent::Agent;
use crate::event::Event;
use crate::mutants::Mutant;
use crate::postgres::{Data, Process, life::Stage};
use crate::time::{MS, nanos};
use crate::world::{ProcessId, World};

/// What came of an action.
pub(crate) enum Came {
    /// Done.
    About(Touched),
    /// Not done, or not known.
    ToNothing(String),
    /// The agent has to end.
    ToAnEnd,
}

/// Which store it wrote to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Touched {
    Nothing,
    Site(Revision),
    Global(Revision),
}

fn leader_key(view: &View) -> Option<&LeaderKey> {
    view.site.as_ref().and_then(|site| site.leader.as_ref())
}

impl Agent {
    fn timeout(&self) -> Duration {
        self.config.site_timing(&self.dynamic).call_timeout
    }

    pub(crate) async fn perform(&mut self, action: &Action, view: &View) -> Came {
        match action {
            Action::Exit(_) => Came::ToAnEnd,
            Action::Run(job) => self.run_job(job, view),
            Action::ArmWatchdog => self.arm_watchdog(view),
            // An initdb never fails here; answers are given before.
            Action::AskPeers
            | Action::AskCandidates(_)
            | Action::Answer { .. }
            | Action::AbandonInitialize => Came::About(Touched::Nothing),
            Action::CancelJob => {
                self.sim.world().cancel_job(self.n);
                Came::About(Touched::Nothing)
            }
            Action::RenewNow => {
                self.sim.world().hurry(self.n);
                Came::About(Touched::Nothing)
            }
            Action::KeepEpoch(seen) => self.keep_epoch(seen),
            Action::EndTenure => {
                self.marked_at = self.sim.world().wall(self.n);
                self.sim.world().plan_stop(self.n, World::stop_until(view));
                if self.sim.world().mutant != Mutant::MarkKeepsTheDeadline {
                    self.renewal.end_tenure().await;
                }
                Came::About(Touched::Nothing)
            }
            Action::ClaimInitialize
            | Action::RecordInitialize(_)
            | Action::AcquireLeader
            | Action::ReleaseLeader
            | Action::WriteSync { .. }
            | Action::WritePromotions { .. }
            | Action::ClearSync { .. }
            | Action::WriteMark { .. }
            | Action::EnterEpoch { .. }
            | Action::ClearFailover { .. } => self.on_site(action, view).await,
            Action::AcquirePrimary { .. }
            | Action::PostToken { .. }
            | Action::Take { .. }
            | Action::PromoteSite { .. }
            | Action::RollBack { .. }
            | Action::RecordIdentity { .. }
            | Action::RecordPromotion { .. } => self.on_quorum(action, view).await,
            Action::Follow(_)
            | Action::SetSynchronousNames(_)
            | Action::Promote
            | Action::NamePromotion
            | Action::Slots(_)
            | Action::Reload => self.on_server(action),
        }
    }

    /// From here on this node promises the leader key to nobody.
    fn enter(&self) -> Result<(), String> {
        match self.failsafe.enter(self.clock.now()) {
            Err(_) if self.sim.world().mutant == Mutant::WordNotKept => Ok(()),
            entered => entered,
        }
    }

    fn arm_watchdog(&self, view: &View) -> Came {
        let shortest = watchdog::shortest_lease(&self.config, &self.dynamic, view);
        match watchdog::want(self.deadlines.page(), &self.config, &shortest) {
            Ok(()) => Came::About(Touched::Nothing),
            Err(refused) => Came::ToNothing(format!("arming the watchdog: {refused}")),
        }
    }

    fn run_job(&self, job: &Job, view: &View) -> Came {
        match job {
            Job::StartPrimary { .. } => {
                let shortest = watchdog::shortest_lease(&self.config, &self.dynamic, view);
                let lead = watchdog::lead_at_start(&self.config, &shortest);
                if self.deadlines.writing().left(self.clock.now()) <= lead {
                    let problem =
                        "the deadline is too near: what starts now would be stopped at once";
                    return Came::ToNothing(problem.to_owned());
                }
                if let Err(problem) = self.enter() {
                    return Came::ToNothing(problem);
                }
                self.sim.world().arm(self.n);
                if let refused @ Came::ToNothing(_) = self.arm_watchdog(view) {
                    return refused;
                }
            }
            Job::StartStandby(_) => watchdog::unwant(self.deadlines.page()),
            Job::Initdb
            | Job::Clone(_)
            | Job::Stop
            | Job::StopToRestart
            | Job::Rewind(_)
            | Job::Checkpoint
            | Job::CreateUsers
            | Job::PrePromote
            | Job::CopySlots { .. } => {}
        }
        let mut world = self.sim.world();
        world.begin_job(self.n, job.clone());
        Came::About(Touched::Nothing)
    }

    fn keep_epoch(&self, seen: &regent_proto::record::SeenEpoch) -> Came {
        let mut world = self.sim.world();
        if world.nodes[self.n].server.full {
            return Came::ToNothing("writing the epoch to disk: no space".to_owned());
        }
        world.nodes[self.n].epoch = DiskEpoch::Seen(seen.clone());
        Came::About(Touched::Nothing)
    }

    async fn on_site(&self, action: &Action, view: &View) -> Came {
        let timeout = self.timeout();
        let site = &self.site;
        let written: Written = match (action, Held::of(leader_key(view))) {
            (Action::ClaimInitialize, _) => site.claim_initialize(timeout).await,
            (Action::AcquireLeader, _) => {
                if let Err(problem) = self.enter() {
                    return Came::ToNothing(problem);
                }
                self.acquire_leader(view).await
            }
            (_, None) => return Came::ToNothing("the leader key is not ours".to_owned()),
            (Action::RecordInitialize(id), Some(held)) => {
                site.record_initialize(held, *id, timeout).await
            }
            (Action::ReleaseLeader, Some(held)) => {
                return match self.renewal.release(held).await {
                    Release::Gone(revision) => Came::About(Touched::Site(revision)),
                    Release::Kept(problem) => Came::ToNothing(problem),
                };
            }
            (Action::WriteSync { standbys, revision, quorum }, Some(held)) => {
                self.empty_the_list_early();
                site.write_sync(held, (standbys, *quorum), *revision, timeout).await
            }
            (Action::ClearSync { revision }, Some(held)) => {
                site.clear_sync(held, *revision, timeout).await
            }
            (Action::WritePromotions { ancestry, end }, Some(held)) => {
                site.write_promotions(held, ancestry, *end, timeout).await
            }
            (Action::WriteMark { operation, primary_revision }, Some(held)) => {
                site.write_mark(held, operation, *primary_revision, timeout).await
            }
            (Action::EnterEpoch { seen, revision, clear_mark }, Some(held)) => {
                if let refused @ Came::ToNothing(_) = self.keep_epoch(seen) {
                    return refused;
                }
                site.enter_epoch(held, seen, *revision, *clear_mark, timeout).await
            }
            (Action::ClearFailover { revision }, Some(held)) => {
                site.clear_failover(held, *revision, timeout).await
            }
            (other, Some(_)) => return Came::ToNothing(format!("{other:?} is not of the site")),
        };
        match written {
            Ok(Some(revision)) => Came::About(Touched::Site(revision)),
            Ok(None) => Came::ToNothing("somebody else was faster".to_owned()),
            Err(error) => Came::ToNothing(error.to_string()),
        }
    }

    /// A mutant's: what the product does in the other order.
    fn empty_the_list_early(&self) {
        let mut world = self.sim.world();
        if world.mutant == Mutant::EmptyListBeforeTheStoreWrite {
            world.server(self.n).synchronous.clear();
            world.release(self.n);
        }
    }

    async fn acquire_leader(&self, view: &View) -> Written {
        let lease = self.renewal.tenures().borrow().lease;
        let Some(lease) = lease else { return Ok(None) };
        let former = leader_key(view).filter(|l| l.name == self.config.name).map(|l| l.revision);
        let site = view.site.as_ref();
        let failsafe = site.and_then(|site| site.failsafe.revision());
        let read = (failsafe, site.and_then(|site| site.sync.revision));
        let written = self.site.acquire_leader(lease, former, read, self.timeout()).await;
        if matches!(written, Ok(Some(_))) {
            self.renewal.renew_site(self.config.site_timing(&self.dynamic)).await;
        }
        written
    }

    async fn on_quorum(&self, action: &Action, view: &View) -> Came {
        let federation = view.federation.as_ref();
        let (Some(global), Some(federation)) = (&self.global, federation) else {
            return Came::ToNothing("this cluster belongs to no federation".to_owned());
        };
        let read = federation.primary.as_ref().map(|at| &at.value);
        let Some(primary) = self.primary_read.as_ref().or(read) else {
            return Came::ToNothing("no `primary` was read".to_owned());
        };
        let timing = self.config.primary_timing(primary.ttl_max);
        let timeout = timing.call_timeout;
        let wall = self.sim.world().wall(self.n);
        let result: Result<Revision, GlobalError> = match action {
            Action::AcquirePrimary { primary_revision, lease_revision, epoch } => {
                if *epoch != primary.epoch {
                    return Came::ToNothing("`primary` has another epoch".to_owned());
                }
                match global.acquire(primary, (*primary_revision, *lease_revision), timing).await {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::Take { primary_revision } => {
                let begun = self.failsafe.begin_take(primary, *primary_revision, self.clock.now());
                if let Err(problem) = begun {
                    return Came::ToNothing(problem);
                }
                let taken = global.take(primary, *primary_revision, wall, timing).await;
                match self.failsafe.end_take(taken) {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::PromoteSite { primary_revision, end, loss } => {
                let begun = self.failsafe.begin_take(primary, *primary_revision, self.clock.now());
                if let Err(problem) = begun {
                    return Came::ToNothing(problem);
                }
                let given_up = (end.clone(), *loss);
                let taken =
                    global.promote(primary, *primary_revision, given_up, wall, timing).await;
                match self.failsafe.end_take(taken) {
                    Ok(adopted) => Ok(self.adopt(adopted).await),
                    Err(error) => Err(error),
                }
            }
            Action::PostToken { primary_revision, lease_revision, end, system_identifier } => {
                let Some(lease) = federation.lease.as_ref().map(|at| &at.value) else {
                    return Came::ToNothing("no `lease` was read".to_owned());
                };
                let stopped = Stopped {
                    end: end.clone(),
                    system_identifier: *system_identifier,
                    at: self.marked_at,
                };
                let revisions = (*primary_revision, *lease_revision);
                global.post_token(primary, revisions, lease, stopped, timeout).await
            }
            Action::RollBack { primary_revision } => {
                global.roll_back(primary, *primary_revision, timeout).await
            }
            Action::RecordIdentity { primary_revision, lease_revision, system_identifier } => {
                let revisions = (*primary_revision, *lease_revision);
                global.record_identity(primary, revisions, *system_identifier, timeout).await
            }
            Action::RecordPromotion { history_revision, lease_revision, promotion } => {
                let Some(history) = federation.history.as_ref().map(|at| &at.value) else {
                    return Came::ToNothing("no `history` was read".to_owned());
                };
                let revisions = (*history_revision, *lease_revision);
                global.record_promotion(history, revisions, promotion.clone(), timeout).await
            }
            other => return Came::ToNothing(format!("{other:?} is not of the quorum")),
        };
        match result {
            Ok(revision) => Came::About(Touched::Global(revision)),
            Err(error) => Came::ToNothing(error.to_string()),
        }
    }

    async fn adopt(&self, adopted: Adopted) -> Revision {
        let revision = adopted.lease_revision;
        self.renewal.adopt(adopted).await;
        let mut world = self.sim.world();
        if world.nodes[self.n].server.process != Process::Stopped {
            world.arm(self.n);
        }
        revision
    }

    fn on_server(&self, action: &Action) -> Came {
        let n = self.n;
        if !self.sim.world().nodes[n].server.answers() {
            return Came::ToNothing("PostgreSQL does not answer".to_owned());
        }
        if *action == Action::Promote
            && let Err(problem) = self.enter()
        {
            return Came::ToNothing(problem);
        }
        let mut world = self.sim.world();
        match action {
            Action::Follow(follow) => {
                world.server(n).follow = Some(follow.clone());
                world.reconnect(n);
            }
            Action::SetSynchronousNames(list) => {
                world.server(n).synchronous.clone_from(list);
                world.release(n);
            }
            Action::Promote => {
                world.arm(n);
                if !watchdog::fires_in_time(self.deadlines.page()) {
                    let problem = "the watchdog, as last pinged, would fire after the deadline";
                    return Came::ToNothing(problem.to_owned());
                }
                world.promote_server(n);
            }
            Action::NamePromotion => {
                let name = Ids::Counted(Arc::clone(&world.ids)).promotion_id();
                let mark = world.mark();
                if let Some(name) = name {
                    world.server(n).wal.name(mark, name);
                    world.wal_grew(n);
                }
            }
            Action::Slots(steps) => {
                for planned in steps {
                    world.server(n).take_slot_step(&planned.step);
                }
            }
            other => return Came::ToNothing(format!("{other:?} is not of the server")),
        }
        Came::About(Touched::Nothing)
    }

    /// SIGTERM: the server is stopped, then the key is given up.
    pub(crate) async fn shut_down(&mut self, view: &View) {
        if self.suspended {
            {
                let mut world = self.sim.world();
                world.counters.count("pause: stopped agent leaves its server");
                world.agent_exits(self.n);
            }
            return std::future::pending::<()>().await;
        }
        let early = self.sim.world().mutant == Mutant::LeaseDroppedBeforeTheStop;
        if early {
            // The product has no such call: only the renewal thread gives the key back.
            let gone = Txn::new().then(Change::delete(self.site.keys.key(SiteKey::Leader)));
            drop(self.site.store.txn(gone, Duration::from_secs(2)).await);
        }
        self.sim.world().plan_stop(self.n, Deadline::NEVER);
        if !early {
            self.renewal.end_tenure().await;
        }
        let budget = self.config.regent.stop_budget.0;
        {
            let mut world = self.sim.world();
            world.stop_server(self.n);
            world.later(self.n, nanos(budget), Stage::Budget);
            world.later(self.n, nanos(budget * 2), Stage::Patience);
        }
        while self.sim.world().nodes[self.n].server.process != Process::Stopped {
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        self.sim.world().disarm(self.n);
        if let Some(held) = Held::of(leader_key(view)) {
            drop(self.renewal.release(held).await);
        }
        self.sim.world().agent_exits(self.n);
        std::future::pending::<()>().await;
    }
}

impl World {
    /// The other members, or those that are named, are asked for their state.
    pub(crate) fn ask_peers(
        &mut self,
        n: usize,
        process: ProcessId,
        view: &View,
        names: Option<&BTreeSet<NodeName>>,
    ) {
        let members = view.site.as_ref().map(|site| &site.members);
        let members: Vec<usize> = (0..self.nodes.len())
            .filter(|m| *m != n && members.is_some_and(|k| k.contains_key(&self.nodes[*m].name)))
            .filter(|m| names.is_none_or(|names| names.contains(&self.nodes[*m].name)))
            .collect();
        let all = members.iter().all(|m| self.agent_answers(n, *m));
        // Those that do not answer are waited for.
        let span = if all { self.chance.between(2 * MS, 30 * MS) } else { 1000 * MS };
        self.schedule(span, Event::Peers(n, process, view.now, members));
    }

    fn agent_answers(&self, n: usize, m: usize) -> bool {
        let runs = self.nodes[m].agent.is_some_and(|process| self.runs(process));
        runs && self.net.both(self.nodes[n].host, self.nodes[m].host)
    }

    /// Their answers arrive.
    pub(crate) fn peers(
        &mut self,
        n: usize,
        asked: regent_proto::time::BootTime,
        members: &[usize],
    ) {
        let answers = members
            .iter()
            .filter(|m| self.agent_answers(n, **m))
            .map(|m| {
                let server = &self.nodes[*m].server;
                let answers = server.answers();
                let answer = PeerAnswer {
                    primary: answers && !server.in_recovery,
                    position: if answers { server.wal.lsn() } else { regent_proto::Lsn::new(0) },
                    timeline: answers
                        .then_some(regent_proto::timeline::TimelineId(server.wal.timeline)),
                    nofailover: false,
                    failover_priority: 1,
                    // Read as it is asked.
                    age: answers.then_some(Duration::ZERO),
                    ancestry: answers.then(|| server.wal.ancestry()),
                    without_data: server.data != Data::Cluster,
                };
                (self.nodes[*m].name.clone(), answer)
            })
            .collect();
        self.nodes[n].mail.peers = Some((asked, answers));
        self.nodes[n].wake.notify_one();
    }
}
