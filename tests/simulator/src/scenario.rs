//! What a seed makes: the sites with their nodes and stores, the clients, the faults.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use regent_agent::config::Config;
use regent_agent::decide::view::DiskEpoch;
use regent_guardian::page::Page;

use crate::chance::Chance;
use crate::clients::Client;
use crate::coordinator::{Coordinator, Verb};
use crate::event::Event;
use crate::faults::Extent;
use crate::mutants::Mutant;
use crate::node::device::Model;
use crate::node::failsafe::Paper;
use crate::node::observe::address;
use crate::node::{GuardState, GuardianState, Mailbox, Node};
use crate::postgres::Server;
use crate::store::{Kind, StoreModel};
use crate::time::{Clock, MIN, MS, Nanos, SEC};
use crate::trace::Trace;
use crate::world::{Federation, Site, World};

/// How a run is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The trace in words.
    pub explain: bool,
    /// What is broken on purpose.
    pub mutant: Mutant,
    /// Only these faults of the seed's, by index; `None`: all.
    pub only: Option<Vec<usize>>,
}

/// The length of the harsh phase.
pub const HARSH: Nanos = 50 * MIN;
/// The whole run: within ten minutes of healing everything must be whole again (I20).
pub const LENGTH: Nanos = 60 * MIN;
/// Faults of a run.
const FAULTS: usize = 60;

/// A node's configuration file.
fn config(
    n: usize,
    name: &str,
    site: &str,
    (synchronous, federated, failsafe): (bool, bool, bool),
    quorum: bool,
    watchdog: &str,
) -> String {
    let (host, port) = address(n);
    let mode = if synchronous && quorum { "quorum" } else { "on" };
    let mode = if synchronous { mode } else { "off" };
    // Small enough to be reached by the few rows of an hour, where it may bar anybody.
    let lag: u64 = if synchronous { 16 << 20 } else { 2 << 10 };
    let promise =
        if failsafe { format!(", promise: {{listen: '{host}:8010'}}") } else { String::new() };
    let federation = if federated {
        format!(
            "federation: {{name: f, site: {site}, \
             quorum: {{etcd3: {{hosts: ['127.0.0.1:2379']}}}}{promise}}}"
        )
    } else {
        String::new()
    };
    format!(
        "scope: {site}
namespace: /service
name: {name}
restapi: {{listen: '127.0.0.1:8000', connect_address: '{host}:8008'}}
etcd3: {{hosts: ['127.0.0.1:2379']}}
regent: {{run_dir: /run/{name}, stop_budget: 5s, insecure: true}}
watchdog: {{{watchdog}}}
{federation}
bootstrap:
  dcs: {{ttl: 30, loop_wait: 10, retry_timeout: 10, synchronous_mode: '{mode}', \
         failsafe_mode: {failsafe}, maximum_lag_on_failover: {lag}, postgresql: {{use_pg_rewind: true, \
         remove_data_directory_on_rewind_failure: true, \
         remove_data_directory_on_diverged_timelines: true}}}}
postgresql:
  listen: '{host}:{port}'
  connect_address: '{host}:{port}'
  data_dir: /data/{name}
  bin_dir: /bin
  pgpass: /run/{name}/pgpass
  authentication:
    superuser: {{username: postgres, password: x}}
    replication: {{username: replicator, password: x}}
    rewind: {{username: rewinder, password: x}}
"
    )
}

/// Few files serve all seeds, and are read once each.
fn parsed(text: String) -> Arc<Config> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Config>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = known.get(&text) {
        return Arc::clone(config);
    }
    let config = Config::parse(Path::new("simulated.yml"), &text)
        .unwrap_or_else(|error| unreachable!("the simulator's own configuration: {error}"));
    let config = Arc::new(config);
    known.insert(text, Arc::clone(&config));
    config
}

/// Builds the world of a seed.
///
/// # Panics
/// When a configuration of its own making is refused.
#[must_use]
pub fn build(plan: &Plan) -> World {
    let mut world = World::new(plan.seed, Trace::new(plan.explain), plan.mutant);
    let federated;
    (world.synchronous, federated) = kind(&mut world.chance);
    world.failsafe = world.chance.one_in(2);
    world.quorum = by_quorum(plan.seed);
    if federated {
        federate(&mut world, automatic(plan.seed));
    } else {
        let nodes = nodes_of_a_site(&mut world);
        add_site(&mut world, "eu", nodes, false);
    }
    let clients = 2 + world.chance.index(3);
    for c in 0..clients {
        let pause = world.chance.between(SEC, 6 * SEC);
        let stubborn = world.chance.one_in(3);
        world.clients.push(Client::new(pause, stubborn));
        world.schedule(SEC, Event::Client(c, 0));
    }
    for n in 0..world.nodes.len() {
        let at = world.chance.between(0, 2 * SEC);
        world.schedule_at(at, Event::StartAgent(n));
    }
    let extent = Extent {
        nodes: world.nodes.len(),
        sites: world.sites.len(),
        stores: world.stores.len(),
        coordinators: world.coordinators.len(),
    };
    let faults = world.draw_faults(extent, FAULTS, HARSH);
    world.plan = faults;
    for index in 0..world.plan.len() {
        if plan.only.as_ref().is_none_or(|only| only.contains(&index)) {
            let at = world.plan[index].at;
            world.schedule_at(at, Event::Fault(index));
        }
    }
    world.draw_requests(plan.seed);
    world.draw_asks(plan.seed);
    world.schedule_at(HARSH, Event::Heal);
    world
}

/// Whether commits wait inside the sites, and whether there are several.
fn kind(chance: &mut Chance) -> (bool, bool) {
    (!chance.one_in(4), chance.one_in(5))
}

/// Whether commits of a synchronous seed wait for a quorum. By its number: another draw would make all
/// seeds run other histories.
fn by_quorum(seed: u64) -> bool {
    matches!(seed % 8, 5 | 7)
}

/// What the topology says of dark regions: most leave them to a person.
fn automatic(seed: u64) -> &'static str {
    match seed % 5 {
        1 => {
            ", automatic_promotion: {mode: 'on', after: 100s, accept_loss_age: 2m, cool_down: 3m, per_day: 3}"
        }
        3 => ", automatic_promotion: {mode: observe-only, after: 90s, accept_loss_age: 10m}",
        _ => "",
    }
}

/// Whether a seed makes a federation.
#[must_use]
pub fn federated(seed: u64) -> bool {
    kind(&mut Chance::new(seed)).1
}

/// A node's watchdog; half of the nodes have none.
fn watchdog(chance: &mut Chance) -> &'static str {
    const MODES: &[&str] = &[
        "mode: 'off'",
        "mode: 'off'",
        "mode: 'off'",
        "mode: automatic",
        "mode: automatic, safety_margin: 5",
        "mode: required, safety_margin: -1",
    ];
    chance.pick(MODES).copied().unwrap_or_default()
}

fn nodes_of_a_site(world: &mut World) -> usize {
    let nodes = 1 + world.chance.index(3);
    if nodes == 1 && !world.chance.one_in(4) { 3 } else { nodes }
}

/// Data sites, a witness, coordinators, and an operator.
fn federate(world: &mut World, automatic: &str) {
    let names = ["eu", "us", "ap"];
    let data = 2 + usize::from(world.chance.one_in(4));
    for name in names.iter().take(data) {
        let nodes = 1 + world.chance.index(2);
        add_site(world, name, nodes, true);
    }
    // The witness has no nodes; its store serves nobody.
    add_site(world, "wit", 0, true);
    let mut voters = Vec::new();
    for site in 0..world.sites.len() {
        voters.push(world.net.host(site));
    }
    if voters.len() == 4 {
        voters.pop();
    }
    let kind = if world.chance.one_in(2) { Kind::Etcd } else { Kind::Consul };
    let votes = voters.len();
    world.stores.push(StoreModel::new(kind, "quorum", voters));
    let store = world.stores.len() - 1;
    world.federation =
        Some(Federation { name: "f".parse().expect("a label"), store, known: Default::default() });
    world.topology = topology(world, votes, automatic);
    for site in 0..world.sites.len() {
        for _ in 0..usize::from(world.chance.one_in(2)) {
            let host = world.net.host(site);
            let coordinator = Coordinator { host, site, process: None, handle: None };
            world.coordinators.push(coordinator);
        }
    }
    if world.coordinators.is_empty() {
        let host = world.net.host(0);
        world.coordinators.push(Coordinator { host, site: 0, process: None, handle: None });
    }
    for c in 0..world.coordinators.len() {
        world.schedule(SEC, Event::StartCoordinator(c));
    }
    world.schedule(3 * SEC, Event::Operator(Verb::Create));
    for _ in 0..(2 + world.chance.index(8)) {
        let at = world.chance.between(2 * MIN, HARSH);
        let site = world.chance.index(world.sites.len());
        let verb = match world.chance.below(10) {
            0..2 => Verb::Cancel,
            2 => Verb::Fence,
            3..5 => Verb::Promote(site),
            _ if world.mutant.ends_leases() => Verb::Promote(site),
            _ => Verb::Switchover(site),
        };
        world.schedule_at(at, Event::Operator(verb));
        if world.chance.one_in(4) {
            let again = at + world.chance.below(SEC);
            world.schedule_at(again, Event::Operator(verb));
        }
    }
}

/// The federation's file.
fn topology(world: &World, votes: usize, automatic: &str) -> String {
    let mut text = "federation: f\nprimary: eu\nsites:\n".to_owned();
    let mut names = Vec::new();
    for site in &world.sites {
        let name = site.name.as_str();
        if site.nodes.is_empty() {
            text.push_str(&format!("  - {{name: {name}, kind: witness}}\n"));
            continue;
        }
        names.push(name);
        let nodes: Vec<String> =
            site.nodes.iter().map(|n| format!("{{name: {}}}", world.nodes[*n].name)).collect();
        text.push_str(&format!(
            "  - {{name: {name}, kind: data, dcs: embedded, synchronous: {}, nodes: [{}]}}\n",
            world.synchronous,
            nodes.join(", ")
        ));
    }
    text.push_str("links:\n");
    for (i, a) in names.iter().enumerate() {
        for b in names.iter().skip(i + 1) {
            text.push_str(&format!("  - {{between: [{a}, {b}]}}\n"));
        }
    }
    let voters: Vec<&str> = world.sites.iter().map(|site| site.name.as_str()).take(votes).collect();
    text.push_str(&format!(
        "quorum: {{store: embedded, voters: [{}]}}\n\
         policy: {{site_ttl: 30s, primary_ttl: 90s, handover_span: 30s{automatic}}}\n\
         lab: {{accept: [single-store-quorum]}}\n",
        voters.join(", ")
    ));
    text
}

fn add_site(world: &mut World, name: &str, nodes: usize, federated: bool) {
    let site = world.sites.len();
    let kind = if world.chance.one_in(2) { Kind::Etcd } else { Kind::Consul };
    let host = world.net.host(site);
    world.stores.push(StoreModel::new(kind, name, vec![host]));
    let store = world.stores.len() - 1;
    let mut members = Vec::new();
    for i in 0..nodes {
        let n = world.nodes.len();
        let node_name = format!("{name}{}", i + 1);
        let watchdog = watchdog(&mut world.chance);
        let kind = (world.synchronous, federated, world.failsafe);
        let text = config(n, &node_name, name, kind, world.quorum, watchdog);
        let config = parsed(text);
        let host = world.net.host(site);
        let ppm = i64::try_from(world.chance.below(1000)).unwrap_or(0) - 500;
        let boot = world.chance.between(500 * SEC, 90_000 * SEC);
        let page = Page::create().expect("the kernel gives a page");
        world.nodes.push(Node {
            name: node_name.parse().expect("a label"),
            site,
            host,
            clock: Clock::new(boot, ppm),
            config,
            server: Server::new(),
            page,
            deadlines: None,
            guard: GuardState::default(),
            guardian: GuardianState::default(),
            device: Model::default(),
            agent: None,
            door: None,
            word: Paper::default(),
            wake: Arc::default(),
            hears_no_news: false,
            mail: Mailbox::default(),
            job: None,
            checkpoint: None,
            epoch: DiskEpoch::Absent,
            cluster: None,
            decided: None,
            reason: String::new(),
            guard_due: 0,
            guardian_due: 0,
            orders_seen: 0,
            paused_at: None,
            unfenced: false,
            refenced: None,
            paused: None,
            off: false,
            suspended: None,
        });
        members.push(n);
    }
    let name = name.parse().expect("a label");
    world.sites.push(Site { name, store, nodes: members, known: Default::default() });
}

/// How long the first server may take.
pub const FIRST_OPENING: Nanos = 30 * SEC + MS;
