//! One run: from a seed to what came of it.

use crate::counters::Counters;
use crate::event::Event;
use crate::invariants::Violation;
use crate::scenario::{self, LENGTH, Plan};
use crate::tasks::Tasks;
use crate::world::Sim;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The trace's hash.
    pub hash: u64,
    /// What broke an invariant.
    pub violation: Option<Violation>,
    /// What happened how often.
    pub counters: Counters,
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Events.
    pub events: u64,
    /// Faults that the seed draws.
    pub faults: usize,
    /// The trace in words.
    pub lines: Vec<String>,
}

/// Runs a seed to its end, or to the first violation.
#[must_use]
pub fn run(plan: &Plan) -> Report {
    let sim = Sim::new(scenario::build(plan));
    let mut tasks = Tasks::default();
    let mut events = 0;
    loop {
        tasks.settle(&sim);
        let event = {
            let mut world = sim.world();
            if world.violation.is_some() || world.known.is_some() {
                break;
            }
            world.next(LENGTH)
        };
        let Some(event) = event else { break };
        events += 1;
        if plan.explain {
            let name: String =
                format!("{event:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
            let detail = if let Event::Postgres(_, _, stage) = &event {
                format!(" {stage:?}")
            } else {
                String::new()
            };
            sim.world().counters.count(&format!("event: {name}{detail}"));
        }
        handle(&sim, event);
    }
    let mut world = sim.world();
    match world.known {
        Some(known) => world.counters.count(&format!("known: {known}")),
        None => world.check_healed(),
    }
    let report = Report {
        seed: plan.seed,
        hash: world.trace.hash(),
        violation: world.violation.take(),
        counters: std::mem::take(&mut world.counters),
        acknowledged: world.history.acknowledged.len(),
        events,
        faults: world.plan.len(),
        lines: world.trace.lines().to_vec(),
    };
    // Whoever is asked in a world knows it, and it would outlive its run, with its pages.
    let doors: Vec<_> = world.nodes.iter_mut().map(|node| node.door.take()).collect();
    let handles: Vec<_> = world.coordinators.iter_mut().map(|c| c.handle.take()).collect();
    drop(world);
    drop(tasks);
    drop((doors, handles));
    report
}

fn handle(sim: &Sim, event: Event) {
    let mut world = sim.world();
    match event {
        Event::Wake(waker, _) => waker.wake(),
        Event::Arrive(id, store, host, request) => world.arrive(id, store, host, &request),
        Event::Reply(id, answer) => world.reply(id, *answer),
        Event::News(id) => world.news(id),
        Event::Leases(store) => world.leases(store),
        Event::Postgres(n, life, stage) => world.postgres(n, life, stage),
        Event::Ship(id) => world.ship(id),
        Event::Confirmed(id, end) => world.confirmed(id, end),
        Event::Job(n, number, job) => world.job(n, number, *job),
        Event::Guard(n) => world.guard(n),
        Event::Guardian(n) => world.guardian(n),
        Event::Pulse(n) => world.pulse(n),
        Event::Watchdog(n, number) => world.watchdog(n, number),
        Event::Reset(n) => world.reset(n),
        Event::Asked(n, question) => world.asked(sim, n, *question),
        Event::Answer(reply) => reply.arrives(),
        Event::Streams(n) => world.server_changed(n),
        Event::Peers(n, process, asked, members) => {
            if world.nodes[n].agent == Some(process) {
                world.peers(n, asked, &members);
            }
        }
        Event::Client(c, turn) => world.client(c, turn),
        Event::Write(n, life, client, write) => world.write_arrives(n, life, client, write),
        Event::Answered(client, write) => world.answered(client, write),
        Event::Gone(client, write, _) => world.gone(client, write),
        Event::Fault(index) => world.begin_fault(index),
        Event::Mend(fault) => world.mend(&fault),
        Event::StartAgent(n) => world.start_agent(sim, n),
        Event::StartCoordinator(c) => world.start_coordinator(sim, c),
        Event::Operator(verb) => world.operator(sim, verb),
        Event::AskInSite(site) => world.ask_in_site(site),
        Event::AskAgent(n, seed) => world.ask_agent(n, seed),
        Event::Heal => world.heal(),
    }
}
