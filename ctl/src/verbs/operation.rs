//! `regentctl operation list|show|watch|cancel`, and following an operation to its end.

use std::time::Duration;

use regent_proto::wire::{CancelOperationRequest, GetOperationRequest, Operation, Plan};
use serde_json::Value;

use crate::cli::{Global, OperationVerb};
use crate::clock;
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::render::Output;
use crate::{environment, json, plan, signals};

/// How long to look for a coordinator again when the one that was asked has gone.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// Runs a verb of `operation`.
pub async fn run(verb: OperationVerb, global: &Global, output: &Output) -> Ending {
    let coordinators = Coordinators::from_options(global)?;
    match verb {
        OperationVerb::List { limit } => list(&coordinators, limit, output).await,
        OperationVerb::Show { id } => {
            let operation = named(&coordinators, id).await?;
            output.json(&json::operation(&operation));
            output.lines(&plan::operation(&operation, output.size().1));
            Ok(Exit::Done)
        }
        OperationVerb::Watch { id } => {
            let operation = named(&coordinators, id).await?;
            let mut show = show_steps(output);
            tokio::select! {
                ended = follow(&coordinators, &operation.id, &mut show) => finish(&ended?, output),
                () = signals::interrupted() => Ok(Exit::Interrupted),
            }
        }
        OperationVerb::Cancel { id } => cancel(&coordinators, id, output).await,
    }
}

async fn list(coordinators: &Coordinators, limit: u32, output: &Output) -> Ending {
    let list = coordinators.operations(limit).await?;
    output.json(&Value::Array(list.iter().map(json::operation).collect()));
    output.lines(&plan::operations(&list));
    Ok(Exit::Done)
}

/// The operation of this id, or the newest.
async fn named(coordinators: &Coordinators, id: Option<String>) -> Result<Operation, Failure> {
    if let Some(id) = id {
        return coordinators.operation(&id).await;
    }
    let newest = coordinators.operations(1).await?.into_iter().next();
    newest.ok_or_else(|| {
        Failure::new(Exit::Refused, "there is no operation yet")
            .next("regentctl switchover --to SITE --dry-run")
    })
}

async fn cancel(coordinators: &Coordinators, id: Option<String>, output: &Output) -> Ending {
    let id = match id {
        Some(id) => id,
        None => running(coordinators).await?,
    };
    let request = CancelOperationRequest {
        federation: coordinators.name(),
        id,
        requested_by: requested_by(),
    };
    let operation = coordinators
        .write("cancel the operation", |mut client: Client| {
            let request = request.clone();
            async move { client.cancel_operation(request).await }
        })
        .await?;
    output.json(&json::operation(&operation));
    output.say(plan::summary(&operation));
    if !plan::is_over(&operation) {
        output.say(format!(
            "cancelled, and not over yet; watch it end: regentctl operation watch {}",
            operation.id
        ));
    }
    Ok(Exit::Done)
}

async fn running(coordinators: &Coordinators) -> Result<String, Failure> {
    let federation = coordinators.federation().await?;
    federation.operation.map(|operation| operation.id).ok_or_else(|| {
        Failure::new(Exit::Refused, "no operation runs, so there is nothing to cancel")
            .next("regentctl operation list")
    })
}

/// Who asks, for the audit.
#[must_use]
pub fn requested_by() -> String {
    format!("{}@{}", environment::person(), environment::machine())
}

/// Asks whether to go on with a plan that was shown; an error where there is no terminal to ask on.
fn agree(question: &str, output: &Output) -> Result<bool, Failure> {
    output.ask(question).ok_or_else(|| {
        Failure::usage("there is no terminal to ask on: want --yes, or --dry-run to see the plan")
    })
}

/// What the person has said before being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consent {
    /// Only to see the plan.
    pub dry_run: bool,
    /// To do what the plan says.
    pub yes: bool,
}

/// Shows the plan of `verb`, and asks whether to do it where nobody has said so. `None`: it is agreed
/// to; otherwise the verb ends so.
///
/// # Errors
/// Where a check blocks, or nobody agrees.
pub fn settle(
    verb: &str,
    agreed: &Plan,
    question: &str,
    consent: Consent,
    output: &Output,
) -> Result<Option<Exit>, Failure> {
    if !plan::is_refusal(agreed) {
        output.lines(&plan::plan(agreed, output.size().1));
    }
    if consent.dry_run || agreed.blocked {
        output.json(&json::plan(agreed));
    }
    if agreed.blocked {
        let problem = format!("{verb} is blocked: {}", plan::blockers(agreed));
        return Err(Failure::new(Exit::Refused, problem));
    }
    if consent.dry_run {
        output.say("dry run: nothing was changed");
        return Ok(Some(Exit::Done));
    }
    if !consent.yes && !agree(question, output)? {
        return Err(Failure::new(Exit::Refused, "not agreed to: nothing was changed"));
    }
    Ok(None)
}

/// Shows the steps of an operation that was just begun, to its end or until the person has seen enough.
pub async fn see_through(
    coordinators: &Coordinators,
    operation: &Operation,
    output: &Output,
) -> Ending {
    output.say(format!("operation {}", operation.id));
    let mut show = show_steps(output);
    tokio::select! {
        ended = follow(coordinators, &operation.id, &mut show) => finish(&ended?, output),
        () = signals::interrupted() => {
            // The operation is in the quorum, not in this process.
            output.progress(format!(
                "no longer watching; the operation goes on\n\
                 next: regentctl operation watch {0}, or regentctl operation cancel {0}",
                operation.id
            ));
            Ok(Exit::Interrupted)
        }
    }
}

/// Prints each step as it is entered, and what a step waits for while that takes long.
pub fn show_steps(output: &Output) -> impl FnMut(&Operation) {
    const LONG: Duration = Duration::from_secs(1);
    let mut entered = 0;
    let mut note = String::new();
    let mut said = clock::now();
    move |operation: &Operation| {
        output.json(&json::operation(operation));
        let waits = operation.steps.last().map(|step| step.note.clone()).unwrap_or_default();
        if operation.steps.len() == entered && (waits == note || said.elapsed() < LONG) {
            return;
        }
        // The new ones, or the last one again when only its note is new.
        let first = entered.min(operation.steps.len().saturating_sub(1));
        let first = if operation.steps.len() > entered { entered } else { first };
        for step in operation.steps.iter().skip(first) {
            output.line(plan::step(operation, step));
        }
        entered = operation.steps.len();
        note = waits;
        said = clock::now();
    }
}

/// Follows an operation until it has an outcome, across coordinators that come and go.
pub async fn follow(
    coordinators: &Coordinators,
    id: &str,
    show: &mut impl FnMut(&Operation),
) -> Result<Operation, Failure> {
    let mut heard = clock::now();
    loop {
        let problem = match stream(coordinators, id, show, &mut heard).await {
            Ok(Some(operation)) => return Ok(operation),
            Ok(None) => None,
            Err(problem) if problem.exit == Exit::Unknown => Some(problem),
            Err(problem) => return Err(problem),
        };
        if heard.elapsed() > PATIENCE {
            let message = problem.map(|p| p.message).unwrap_or_else(|| "no news".to_owned());
            return Err(Failure::new(
                Exit::Unknown,
                format!("follow operation {id}: {message}; it goes on without being watched"),
            )
            .next(format!("regentctl operation watch {id}")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn stream(
    coordinators: &Coordinators,
    id: &str,
    show: &mut impl FnMut(&Operation),
    heard: &mut std::time::Instant,
) -> Result<Option<Operation>, Failure> {
    let request = GetOperationRequest { federation: coordinators.name(), id: id.to_owned() };
    let what = "watch the operation";
    let mut stream = coordinators
        .stream(what, |mut client: Client| {
            let request = request.clone();
            async move { client.watch_operation(request).await }
        })
        .await?;
    loop {
        let message = stream.message().await;
        let message = message.map_err(|status| crate::coordinators::refused(what, &status))?;
        let Some(operation) = message else { return Ok(None) };
        *heard = clock::now();
        show(&operation);
        if plan::is_over(&operation) {
            return Ok(Some(operation));
        }
    }
}

/// Prints how an operation ended and says so in the exit code.
pub fn finish(operation: &Operation, output: &Output) -> Ending {
    output.line(plan::ending(operation));
    Ok(plan::exit(operation))
}
