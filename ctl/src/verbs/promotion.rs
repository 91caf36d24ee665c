//! `regentctl promote SITE`: plan, ask, begin exactly that plan, show its steps.

use regent_proto::wire::{
    AcceptLoss, ExecutePromotionRequest, Operation, Plan, PlanPromotionRequest,
};

use crate::cli::{AcceptedAge, Global, Promotion};
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::render::Output;
use crate::verbs::operation::{Consent, requested_by, see_through, settle};

/// Runs the verb.
pub async fn run(arguments: &Promotion, global: &Global, output: &Output) -> Ending {
    let site = &arguments.site;
    if arguments.reason.is_empty() && !arguments.dry_run {
        return Err(Failure::usage(
            "--reason is empty: want why, for whoever looks for what was lost",
        ));
    }
    let coordinators = Coordinators::from_options(global)?;
    let agreed = make_plan(&coordinators, arguments).await?;
    let question =
        format!("Fence {} and make {site} primary, with the loss shown above?", agreed.from);
    let consent = Consent { dry_run: arguments.dry_run, yes: arguments.yes };
    let verb = format!("promote {site}");
    if let Some(ended) = settle(&verb, &agreed, &question, consent, output)? {
        return Ok(ended);
    }
    let operation = execute(&coordinators, &agreed, arguments).await?;
    see_through(&coordinators, &operation, output).await
}

/// What the person accepts; `None`: nothing was said.
fn accepted(arguments: &Promotion) -> Option<AcceptLoss> {
    let Promotion { accept_loss_age, accept_loss_bytes, without, .. } = arguments;
    if accept_loss_age.is_none() && accept_loss_bytes.is_none() && without.is_empty() {
        return None;
    }
    let (max_age_ms, any_age) = match accept_loss_age {
        None => (0, false),
        Some(AcceptedAge::Any) => (0, true),
        Some(AcceptedAge::AtMost(age)) => {
            (u64::try_from(age.as_millis()).unwrap_or(u64::MAX), false)
        }
    };
    let max_bytes = accept_loss_bytes.as_ref().map(|size| size.0);
    Some(AcceptLoss { max_age_ms, any_age, max_bytes, without: without.clone() })
}

async fn make_plan(coordinators: &Coordinators, arguments: &Promotion) -> Result<Plan, Failure> {
    let request = PlanPromotionRequest {
        federation: coordinators.name(),
        to: arguments.site.clone(),
        accept_loss: accepted(arguments),
        end_lease: arguments.end_lease,
    };
    coordinators
        .read("plan the promotion", |mut client: Client| {
            let request = request.clone();
            async move { client.plan_promotion(request).await }
        })
        .await
}

async fn execute(
    coordinators: &Coordinators,
    agreed: &Plan,
    arguments: &Promotion,
) -> Result<Operation, Failure> {
    let request = ExecutePromotionRequest {
        federation: coordinators.name(),
        to: agreed.to.clone(),
        accept_loss: accepted(arguments),
        end_lease: arguments.end_lease,
        plan_hash: agreed.hash.clone(),
        requested_by: requested_by(),
        reason: arguments.reason.clone(),
    };
    let begun = coordinators
        .write("begin the promotion", |mut client: Client| {
            let request = request.clone();
            async move { client.execute_promotion(request).await }
        })
        .await;
    begun.map_err(|problem| match problem.exit {
        Exit::Unknown => problem.next("regentctl operation list: it may have begun"),
        _ => problem,
    })
}
