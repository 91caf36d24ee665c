//! `regentctl fence SITE` and `regentctl unfence SITE`: plan, ask, do exactly that plan.

use regent_proto::wire::{ExecuteFenceRequest, Operation, Plan, PlanFenceRequest};

use crate::cli::{Fencing, Global};
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::json;
use crate::render::Output;
use crate::verbs::operation::{Consent, finish, requested_by, settle};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The site is to write no more.
    Fence,
    /// It may write again.
    Unfence,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Unfence => "unfence",
        }
    }

    fn lifts(self) -> bool {
        match self {
            Self::Fence => false,
            Self::Unfence => true,
        }
    }
}

/// Runs the verb.
pub async fn run(verb: Verb, arguments: &Fencing, global: &Global, output: &Output) -> Ending {
    let (site, name) = (&arguments.site, verb.name());
    if verb == Verb::Fence && arguments.reason.is_empty() && !arguments.dry_run {
        return Err(Failure::usage(
            "--reason is empty: want why, for whoever finds the site fenced (status shows it)",
        ));
    }
    let coordinators = Coordinators::from_options(global)?;
    let agreed = make_plan(&coordinators, verb, site).await?;
    let question = match verb {
        Verb::Fence => format!("Stop all writes of the federation, at {site}?"),
        Verb::Unfence => format!("Let {site} write again?"),
    };
    let consent = Consent { dry_run: arguments.dry_run, yes: arguments.yes };
    if let Some(ended) = settle(&format!("{name} {site}"), &agreed, &question, consent, output)? {
        return Ok(ended);
    }
    let operation = execute(&coordinators, verb, &agreed, &arguments.reason).await?;
    output.json(&json::operation(&operation));
    output.say(format!("operation {}", operation.id));
    let ending = finish(&operation, output);
    output.say("next: regentctl status --watch, until it says what you want");
    ending
}

async fn make_plan(coordinators: &Coordinators, verb: Verb, site: &str) -> Result<Plan, Failure> {
    let request = PlanFenceRequest {
        federation: coordinators.name(),
        site: site.to_owned(),
        lift: verb.lifts(),
    };
    coordinators
        .read("plan the fence", |mut client: Client| {
            let request = request.clone();
            async move { client.plan_fence(request).await }
        })
        .await
}

async fn execute(
    coordinators: &Coordinators,
    verb: Verb,
    agreed: &Plan,
    reason: &str,
) -> Result<Operation, Failure> {
    let request = ExecuteFenceRequest {
        federation: coordinators.name(),
        site: agreed.from.clone(),
        lift: verb.lifts(),
        plan_hash: agreed.hash.clone(),
        requested_by: requested_by(),
        reason: reason.to_owned(),
    };
    let done = coordinators
        .write("change the fence", |mut client: Client| {
            let request = request.clone();
            async move { client.execute_fence(request).await }
        })
        .await;
    done.map_err(|problem| match problem.exit {
        Exit::Unknown => problem.next("regentctl operation list: it may have been done"),
        _ => problem,
    })
}
