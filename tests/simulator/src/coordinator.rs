//! Coordinators: the product's own loop and session on a machine of their own; and the operator, who
//! asks one of them for things, also for wrong ones, also twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use regent_coordinator::act::{self, session};
use regent_coordinator::decide::request::{self, Asked};
use regent_coordinator::decide::write::Write;
use regent_coordinator::decide::{Federation, Policy, apply, plan};
use regent_coordinator::federation::{self, Handle};
use regent_proto::keys::GlobalKeys;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::names;
use crate::network::HostId;
use crate::store::client::SimStore;
use crate::tasks::ProcessClock;
use crate::time::SEC;
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
    /// The running operation is given up.
    Cancel,
}

fn policy(site: &str, c: usize) -> Policy {
    Policy {
        me: format!("{site}-c{c}").parse().expect("a label"),
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
        match self.judge(c, verb) {
            Ok(Some(write)) => {
                self.counters.count(&format!("operator: {}", write.purpose));
                let text = write.purpose.to_string();
                self.explain(usize::MAX, "operator", || format!("{verb:?}: {text}"));
                self.send_write(sim, c, write);
            }
            Ok(None) => {}
            Err(problem) => {
                self.counters.count("operator: refused");
                self.explain(usize::MAX, "operator", || format!("{verb:?} refused: {problem}"));
                if verb == Verb::Create {
                    self.schedule(SEC, Event::Operator(verb));
                }
            }
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
            Verb::Cancel => {
                let running = view.running.read().and_then(|running| running.value.id.clone());
                let Some(id) = running else { return Err("nothing runs".to_owned()) };
                request::cancel(&federation, &id, "operator").map_err(|e| e.to_string())
            }
        }
    }
}
