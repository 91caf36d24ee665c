//! `regentctl switchover --to SITE`: plan, ask, execute exactly that plan, show its steps.

use regent_proto::wire::{ExecuteSwitchoverRequest, Operation, Plan, PlanSwitchoverRequest};

use crate::cli::{Global, Switchover};
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::plan;
use crate::render::Output;
use crate::verbs::operation::{Consent, follow, requested_by, see_through, settle};

/// Runs the verb.
pub async fn run(arguments: &Switchover, global: &Global, output: &Output) -> Ending {
    let coordinators = Coordinators::from_options(global)?;
    let agreed = make_plan(&coordinators, &arguments.to, arguments.accept_unprotected).await?;
    let question = format!("Move the primary from {} to {}?", agreed.from, agreed.to);
    let consent = Consent { dry_run: arguments.dry_run, yes: arguments.yes };
    let verb = format!("switchover to {}", arguments.to);
    if let Some(ended) = settle(&verb, &agreed, &question, consent, output)? {
        return Ok(ended);
    }
    let operation = execute(&coordinators, &agreed, arguments).await?;
    see_through(&coordinators, &operation, output).await
}

/// Asks a coordinator what a switchover would do. Changes nothing.
pub async fn make_plan(
    coordinators: &Coordinators,
    to: &str,
    accept_unprotected: bool,
) -> Result<Plan, Failure> {
    let request = PlanSwitchoverRequest {
        federation: coordinators.name(),
        to: to.to_owned(),
        accept_unprotected,
    };
    coordinators
        .read("plan the switchover", |mut client: Client| {
            let request = request.clone();
            async move { client.plan_switchover(request).await }
        })
        .await
}

/// Executes exactly the plan that was shown.
pub async fn execute(
    coordinators: &Coordinators,
    agreed: &Plan,
    arguments: &Switchover,
) -> Result<Operation, Failure> {
    let request = ExecuteSwitchoverRequest {
        federation: coordinators.name(),
        to: agreed.to.clone(),
        plan_hash: agreed.hash.clone(),
        accept_unprotected: arguments.accept_unprotected,
        requested_by: requested_by(),
        reason: arguments.reason.clone(),
    };
    let started = coordinators
        .write("execute the switchover", |mut client: Client| {
            let request = request.clone();
            async move { client.execute_switchover(request).await }
        })
        .await;
    started.map_err(|problem| match problem.exit {
        Exit::Unknown => problem.next("regentctl operation list: it may have begun"),
        _ => problem,
    })
}

/// Plans, executes and follows a switchover to its end, for programs that do not ask. Anything
/// but success is an error.
pub async fn carry_out(
    coordinators: &Coordinators,
    to: &str,
    reason: &str,
    shown: impl FnOnce(&Plan),
    mut step: impl FnMut(&Operation),
) -> Result<Operation, Failure> {
    let agreed = make_plan(coordinators, to, false).await?;
    shown(&agreed);
    if agreed.blocked {
        return Err(Failure::new(Exit::Refused, plan::blockers(&agreed)));
    }
    let arguments = Switchover {
        to: to.to_owned(),
        dry_run: false,
        yes: true,
        accept_unprotected: false,
        reason: reason.to_owned(),
    };
    let begun = execute(coordinators, &agreed, &arguments).await?;
    let ended = follow(coordinators, &begun.id, &mut step).await?;
    match plan::exit(&ended) {
        Exit::Done => Ok(ended),
        _ => Err(Failure::error(format!("switchover to {to}: {}", plan::outcome(&ended)))),
    }
}
