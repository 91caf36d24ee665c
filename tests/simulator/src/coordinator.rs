//! Coordinators: the product's own loop and session on a machine of their own; and the operator, who
//! asks one of them for things, also for wrong ones, also twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use regent_coordinator::act::{self, session};
use regent_coordinator::decide::request::{self, Asked};
use regent_coordinator::decide::write::Write;
use regent_coordinator::decide::{Federation, Policy, apply, fencing, plan, promotion};
use regent_coordinator::federation::{self, Handle};
use regent_proto::keys::GlobalKeys;
use regent_proto::name::CoordinatorName;
use regent_proto::promotion::AcceptedLoss;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::faults::{Fault, Kind, Way};
use crate::names;
use crate::network::HostId;
use crate::scenario::HARSH;
use crate::store::client::SimStore;
use crate::tasks::ProcessClock;
use crate::time::{MIN, MS, SEC};
use crate::world::{ProcessId, Sim, World};

/// One coordinator.
pub struct Coordinator {
    /// Its machine.
    pub host: HostId,
    /// Its site.
    pub site: usize,
    /// Its process.
    pub process: Option<ProcessId>,
    /// What it has seen.
    pub handle: Option<Handle>,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The federation is made.
    Create,
    /// A switchover to this site, which may be none that can take.
    Switchover(usize),
    /// A promotion of this site, which may be none that can take, with more or less accepted.
    Promote(usize),
    /// The running operation is given up.
    Cancel,
    /// The primary site, or by mistake another one, is to write no more.
    Fence,
    /// It may write again.
    Unfence,
}

/// What the coordinator of this number is called.
pub(crate) fn called(site: &str, c: usize) -> CoordinatorName {
    format!("{site}-c{c}").parse().expect("a label")
}

fn policy(site: &str, c: usize) -> Policy {
    Policy {
        me: called(site, c),
        site: site.parse().expect("a label"),
        address: format!("10.1.0.{}:7000", c + 1),
        insecure: true,
        software: "simulated".to_owned(),
        report_age_max: Policy::REPORT_AGE_MAX,
        settle: Policy::SETTLE,
    }
}

/// Counts why it decides as it does.
async fn counts(sim: &Sim, mut published: watch::Receiver<Arc<federation::Published>>) {
    while published.changed().await.is_ok() {
        let name = names::judged(&published.borrow_and_update().reason);
        sim.world().counters.count(name);
    }
}

impl World {
    /// A coordinator dies.
    pub(crate) fn kill_coordinator(&mut self, c: usize) {
        let Some(coordinator) = self.coordinators.get_mut(c) else { return };
        coordinator.handle = None;
        if let Some(process) = coordinator.process.take() {
            self.end_program(process);
        }
    }

    /// A coordinator stands still, or goes on where it stood.
    pub(crate) fn pause_coordinator(&mut self, c: usize, stop: bool) {
        let process = self.coordinators.get(c).and_then(|coordinator| coordinator.process);
        let Some(process) = process else { return };
        let Some(program) = self.programs.get_mut(process.0) else { return };
        if std::mem::replace(&mut program.paused, stop) && !stop {
            self.resumed.push(process);
        }
    }

    /// A coordinator starts.
    pub(crate) fn start_coordinator(&mut self, sim: &Sim, c: usize) {
        let Some(federation) = &self.federation else { return };
        let (name, store) = (federation.name.clone(), federation.store);
        let Some(coordinator) = self.coordinators.get(c) else { return };
        if coordinator.process.is_some() {
            return;
        }
        let host = coordinator.host;
        let site = self.sites[coordinator.site].name.clone();
        let process = self.new_program(host);
        self.coordinators[c].process = Some(process);
        let clock = ProcessClock::of(sim, process);
        let store = Arc::new(SimStore::new(sim, process, store));
        let (out, sessions) = watch::channel(None);
        let stop = CancellationToken::new();
        let ids = Arc::clone(&self.ids);
        let tenure = move || {
            let number = ids.fetch_add(1, Ordering::Relaxed);
            format!("tenure-{number}").parse().expect("an identifier")
        };
        let kept = session::keep(store.clone(), clock.clone(), out, stop.clone(), tenure);
        self.spawned.push((process, Box::pin(kept)));
        let sim = sim.clone();
        self.spawned.push((
            process,
            Box::pin(async move {
                let policy = policy(site.as_str(), c);
                let (state, handle) = federation::build(policy, name, store, clock, sessions);
                let published = handle.published.clone();
                sim.world().coordinators[c].handle = Some(handle);
                tokio::join!(state.run(stop), counts(&sim, published));
            }),
        ));
    }

    /// An operator asks some coordinator for something.
    pub(crate) fn operator(&mut self, sim: &Sim, verb: Verb) {
        let asked: Vec<usize> = (0..self.coordinators.len())
            .filter(|c| self.coordinators[*c].handle.is_some())
            .collect();
        let found = self.chance.pick(&asked).copied();
        let Some(c) = found else {
            if verb == Verb::Create {
                self.schedule(SEC, Event::Operator(verb));
            }
            return;
        };
        let verb = self.aimed(c, verb);
        let asks = self.failsafe && matches!(verb, Verb::Switchover(_));
        if asks && self.now + 3 * MIN < HARSH && self.chance.one_in(6) {
            return self.after_promises(verb);
        }
        if let Verb::Promote(_) = verb
            && !self.mutant.ends_leases()
            && self.goes_dark(verb)
        {
            return;
        }
        match self.judge(c, verb) {
            Ok(Some(write)) => {
                match verb {
                    Verb::Switchover(site) | Verb::Promote(site) => self.trouble(site),
                    // Long enough for a failover in between; looked at again until nothing is fenced.
                    Verb::Fence => {
                        self.has_fenced = true;
                        let span = self.chance.between(5 * SEC, 3 * MIN);
                        self.schedule(span, Event::Operator(Verb::Unfence));
                    }
                    Verb::Unfence => self.schedule(5 * SEC, Event::Operator(verb)),
                    Verb::Create | Verb::Cancel => {}
                }
                self.counters.count(&format!("operator: {}", write.purpose));
                let text = write.purpose.to_string();
                self.explain(usize::MAX, "operator", || format!("{verb:?}: {text}"));
                self.send_write(sim, c, write);
            }
            Ok(None) => {}
            Err(problem) => {
                self.counters.count("operator: refused");
                self.explain(usize::MAX, "operator", || format!("{verb:?} refused: {problem}"));
                match verb {
                    Verb::Create => self.schedule(SEC, Event::Operator(verb)),
                    // What is not ready now may be soon.
                    Verb::Switchover(_) | Verb::Promote(_)
                        if self.now < HARSH && !self.chance.one_in(4) =>
                    {
                        let span = self.chance.between(5 * SEC, 40 * SEC);
                        self.schedule(span, Event::Operator(verb));
                    }
                    Verb::Unfence => self.schedule(5 * SEC, Event::Operator(verb)),
                    Verb::Switchover(_) | Verb::Promote(_) | Verb::Cancel | Verb::Fence => {}
                }
            }
        }
    }

    /// A fence whose answer was lost may still come: whoever asked for one looks for it for two minutes.
    pub(crate) fn lift_fences(&mut self) {
        if self.has_fenced {
            for round in 0..24 {
                self.schedule(round * 5 * SEC, Event::Operator(Verb::Unfence));
            }
        }
    }

    /// What goes wrong just while a switchover is under way: it lasts seconds, and what is drawn for the
    /// hour would hardly ever meet it.
    fn trouble(&mut self, target: usize) {
        let at = self.now + self.chance.between(200 * MS, 12 * SEC);
        let span = self.chance.between(3 * SEC, MIN);
        let anybody = self.chance.index(self.nodes.len());
        let there = self.chance.pick(&self.sites[target].nodes).copied();
        let n = there.filter(|_| self.chance.one_in(2)).unwrap_or(anybody);
        let kind = match self.chance.below(16) {
            // A second thought, and a third.
            0..3 => {
                if self.chance.one_in(2) {
                    let again = at + self.chance.between(3 * SEC, 20 * SEC);
                    self.schedule_at(again, Event::Operator(Verb::Switchover(target)));
                }
                return self.schedule_at(at, Event::Operator(Verb::Cancel));
            }
            3 => Kind::KillNode(n),
            4 => Kind::KillAgent(n),
            5 => Kind::PauseAgent(n),
            6 => Kind::KillPostgres(n),
            7 => Kind::CutNode(n, Way::Both),
            8 => Kind::DiskSlow(n),
            of @ (9 | 14) => match &self.federation {
                Some(federation) if of == 9 => Kind::DeleteKey(federation.store),
                Some(federation) => Kind::StoreLate(federation.store),
                None => return,
            },
            10..14 => return self.forsaken(n),
            _ => Kind::PauseCoordinator(self.chance.index(self.coordinators.len())),
        };
        self.strikes_later(Fault { at, span, kind });
    }

    /// What a promotion is for: the writer's site is lost, or cut off, for longer than the wait and what
    /// follows. Then somebody decides.
    fn goes_dark(&mut self, verb: Verb) -> bool {
        let Some((n, _)) = self.checks.acknowledger else { return false };
        if self.now + 5 * MIN > HARSH || self.chance.one_in(2) {
            return false;
        }
        let site = self.nodes[n].site;
        let kind = match self.chance.below(3) {
            0 => Kind::CutSite(site, Way::Both),
            _ => Kind::KillSite(site),
        };
        let at = self.now + MS;
        let span = self.chance.between(2 * MIN, 5 * MIN);
        self.strikes_later(Fault { at, span, kind });
        let again = at + self.chance.between(SEC, 2 * MIN);
        self.schedule_at(again, Event::Operator(verb));
        true
    }

    /// The quorum is lost, so that promises are given; then the writer's agent ends. Its next life has
    /// another tenure, and a token of that one ends no promise: whoever takes has to wait.
    fn after_promises(&mut self, verb: Verb) {
        let (Some(federation), Some((n, _))) = (&self.federation, self.checks.acknowledger) else {
            return;
        };
        let kind = Kind::StoreDown(federation.store);
        let (at, span) = (self.now + SEC, self.chance.between(15 * SEC, 40 * SEC));
        self.strikes_later(Fault { at, span, kind });
        let at = at + span + self.chance.between(SEC, 4 * SEC);
        self.strikes_later(Fault { at, span: SEC, kind: Kind::KillAgent(n) });
        let again = at + self.chance.between(8 * SEC, 25 * SEC);
        self.schedule_at(again, Event::Operator(verb));
    }

    /// A node does not learn what its site's leader learns, of the quorum or of the last rows; then the
    /// leader is gone.
    fn forsaken(&mut self, n: usize) {
        let site = &self.sites[self.nodes[n].site];
        let Some(other) = site.nodes.iter().copied().find(|other| *other != n) else { return };
        // An even span: from the quorum.
        let span = self.chance.between(30 * SEC, 2 * MIN) / 2 * 2;
        let kind = match self.chance.below(3) {
            0 => Kind::CutStore(n, Way::Both),
            _ => Kind::CutNodes(n, other),
        };
        self.strikes_later(Fault { at: self.now, span, kind });
        let at = self.now + self.chance.between(5 * SEC, 25 * SEC);
        self.strikes_later(Fault { at, span, kind: Kind::KillNode(other) });
    }

    pub(crate) fn strikes_later(&mut self, fault: Fault) {
        if fault.at < HARSH {
            self.schedule_at(fault.at, Event::Fault(self.plan.len()));
            self.plan.push(fault);
        }
    }

    /// Most switchovers are to a data site that is not primary yet; some are not, and are refused.
    fn aimed(&mut self, c: usize, verb: Verb) -> Verb {
        let again: fn(usize) -> Verb = match verb {
            Verb::Switchover(_) => Verb::Switchover,
            Verb::Promote(_) => Verb::Promote,
            Verb::Create | Verb::Cancel | Verb::Fence | Verb::Unfence => return verb,
        };
        let Some(handle) = &self.coordinators[c].handle else { return verb };
        let published = handle.published.borrow().clone();
        let holder = published.view.primary.read().map(|seen| seen.value.holder.clone());
        let others: Vec<usize> = (0..self.sites.len())
            .filter(|s| !self.sites[*s].nodes.is_empty())
            .filter(|s| Some(&self.sites[*s].name) != holder.as_ref())
            .collect();
        let wrong = self.chance.one_in(8);
        match self.chance.pick(&others) {
            Some(site) if !wrong => again(*site),
            Some(_) | None => verb,
        }
    }

    fn send_write(&mut self, sim: &Sim, c: usize, write: Write) {
        let coordinator = &self.coordinators[c];
        let (Some(process), Some(federation)) = (coordinator.process, &self.federation) else {
            return;
        };
        let store = SimStore::new(sim, process, federation.store);
        let keys = GlobalKeys::new(&federation.name);
        self.spawned.push((
            process,
            Box::pin(async move {
                // The operator looks again for what came of it.
                drop(act::perform(&store, &keys, &write).await);
            }),
        ));
    }

    fn judge(&mut self, c: usize, verb: Verb) -> Result<Option<Write>, String> {
        let Some(handle) = &self.coordinators[c].handle else { return Ok(None) };
        let published = handle.published.borrow().clone();
        let view = &published.view;
        if verb == Verb::Create {
            if published.looked && view.primary.read().is_some() {
                return Ok(None);
            }
            let file = apply::File::parse(&self.topology).map_err(|e| e.to_string())?;
            let identity = uuid::Uuid::from_u128(u128::from(self.chance.any()) | 1);
            let applied = apply::create(view, &file, identity).map_err(|e| e.to_string())?;
            self.schedule(2 * SEC, Event::Operator(Verb::Create));
            return Ok(applied.write);
        }
        let (topology, primary) = plan::deciding(view).map_err(|e| e.to_string())?;
        let policy = policy(self.sites[self.coordinators[c].site].name.as_str(), c);
        let memory = &published.memory;
        let federation = Federation { policy: &policy, memory, view, topology, primary };
        match verb {
            Verb::Create => Ok(None),
            Verb::Switchover(site) => {
                let to = self.sites[site].name.clone();
                let request = plan::Request { to, accept_unprotected: self.chance.one_in(2) };
                let planned = plan::plan(&federation, &request);
                self.last_operation += 1;
                let asked = Asked {
                    id: format!("switchover-{}", self.last_operation)
                        .parse()
                        .expect("an identifier"),
                    request,
                    plan_hash: planned.hash,
                    by: "operator".to_owned(),
                    reason: "the simulation asks".to_owned(),
                };
                request::execute(&federation, &asked).map(Some).map_err(|e| e.to_string())
            }
            Verb::Promote(site) => {
                let to = self.sites[site].name.clone();
                let ages = [Some(0), Some(5_000), Some(100_000), Some(300_000), None];
                let accepted = self.chance.pick(&ages).map(|age| AcceptedLoss {
                    max_age_ms: *age,
                    max_bytes: None,
                    without: Default::default(),
                });
                let end_lease = self.chance.one_in(2) || self.mutant.ends_leases();
                let request = promotion::Request { to, accepted, end_lease };
                self.last_operation += 1;
                let asked = promotion::Asked {
                    id: format!("promotion-{}", self.last_operation)
                        .parse()
                        .expect("an identifier"),
                    plan_hash: promotion::plan(&federation, &request).hash,
                    request,
                    by: "operator".to_owned(),
                    reason: "the simulation asks".to_owned(),
                };
                promotion::execute(&federation, &asked).map(Some).map_err(|e| e.to_string())
            }
            Verb::Cancel => {
                let running = view.running.read().and_then(|running| running.value.id.clone());
                let Some(id) = running else { return Err("nothing runs".to_owned()) };
                request::cancel(&federation, &id, "operator").map_err(|e| e.to_string())
            }
            Verb::Unfence if primary.value.writes_fenced.is_none() => Ok(None),
            Verb::Fence | Verb::Unfence => {
                let lifts = verb == Verb::Unfence;
                let verb = if lifts { fencing::Verb::Unfence } else { fencing::Verb::Fence };
                let holder = &primary.value.holder;
                let wrong = !lifts && self.chance.one_in(8);
                let site = if wrong { "nowhere".parse().expect("a label") } else { holder.clone() };
                self.last_operation += 1;
                let asked = fencing::Asked {
                    id: format!("fence-{}", self.last_operation).parse().expect("an identifier"),
                    verb,
                    plan_hash: fencing::plan(&federation, verb, &site).hash,
                    site,
                    by: "operator".to_owned(),
                    reason: "the simulation asks".to_owned(),
                };
                fencing::execute(&federation, &asked).map(Some).map_err(|e| e.to_string())
            }
        }
    }
}
