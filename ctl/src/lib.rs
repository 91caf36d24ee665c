//! `regentctl`, the person's tool: verbs over the coordinators' API, and whole federations on one
//! machine for learning, tests and measurements.
//!
//! Architecture invariant: talks to coordinators over gRPC, and to agents over their REST API, only,
//! never to a store; knows agents and coordinators as programs to start in a lab, not as code. Prints through [`render`] alone.

pub mod bench;
pub mod cli;
pub mod clock;
pub mod coordinators;
pub mod demo;
pub mod environment;
pub mod exit;
pub mod fence;
pub mod json;
pub mod lab;
pub mod load;
pub mod plan;
pub mod render;
pub mod report;
pub mod screen;
pub mod signals;
pub mod site;
pub mod status;
pub mod topology;
pub mod verbs;

use anyhow::Context;

use cli::{AgentVerb, BenchVerb, Cli, TopologyVerb, Verb};
use exit::Ending;
use render::Output;

/// Runs the verb.
pub fn run(cli: Cli, output: &Output) -> Ending {
    let global = &cli.global;
    match cli.verb {
        Verb::Status { fence, agent: Some(agent), watch: _ } => {
            block_on(verbs::site::run(&agent, fence, output))
        }
        Verb::Status { watch, fence, agent: None } => {
            let shown = match (watch, fence) {
                (true, _) => verbs::status::Shown::Followed,
                (false, true) => verbs::status::Shown::WithFences,
                (false, false) => verbs::status::Shown::Once,
            };
            block_on(verbs::status::run(shown, global, output))
        }
        Verb::Switchover(arguments) => block_on(verbs::switchover::run(&arguments, global, output)),
        Verb::Promote(arguments) => block_on(verbs::promotion::run(&arguments, global, output)),
        Verb::Fence(arguments) => {
            block_on(verbs::fencing::run(verbs::fencing::Verb::Fence, &arguments, global, output))
        }
        Verb::Unfence(arguments) => {
            block_on(verbs::fencing::run(verbs::fencing::Verb::Unfence, &arguments, global, output))
        }
        Verb::Operation(verb) => block_on(verbs::operation::run(verb, global, output)),
        Verb::Topology(TopologyVerb::Validate { file }) => verbs::topology::validate(&file, output),
        Verb::Topology(verb) => block_on(verbs::topology::run(verb, global, output)),
        Verb::Agent(AgentVerb::Upgrade(which)) => verbs::agent::upgrade(&which, output),
        Verb::Lab(verb) => lab::verbs::run(verb, global, output),
        Verb::Demo(arguments) => block_on(demo::run(&arguments, output)),
        Verb::Bench(BenchVerb::Switchover { pairs, dcs, report }) => {
            block_on(bench::run(pairs, dcs, &report, output))
        }
        Verb::Completions { shell } => verbs::completions::run(shell, output),
    }
}

/// Runs a verb that waits for others. The verbs that don't start no runtime.
pub(crate) fn block_on(verb: impl Future<Output = Ending>) -> Ending {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(verb)
}
