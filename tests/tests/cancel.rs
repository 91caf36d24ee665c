//! A cancel at each step of a switchover: in *prepare* it leaves A primary and a recorded outcome;
//! at every other step it is refused with the reason, and the operation ends as it would have.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use regent_proto::name::OperationId;
use regent_proto::record::{Outcome, PrimaryState, SwitchoverStep};
use regent_proto::wire::CancelOperationRequest;
use regent_tests::bed::{Bed, Roles, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::say;
use regent_tests::wait::until;
use regentctl::coordinators::Client;
use regentctl::exit::{Exit, Failure};

const LIMIT: Duration = Duration::from_secs(30);

/// What holds an operation at a step, until it is dropped.
struct Held {
    next: Option<Gate>,
    take: Option<Gate>,
}

fn hold(bed: &Bed, step: SwitchoverStep) -> anyhow::Result<Held> {
    let file = bed.quorum_file()?;
    let before = |step| Gate::close(&file, step).map(Some);
    let (next, take) = match step {
        SwitchoverStep::Prepare => (before(SwitchoverStep::Handover)?, None),
        SwitchoverStep::Handover => (Some(Gate::close_token(&file)?), None),
        SwitchoverStep::Take => (before(SwitchoverStep::Take)?, None),
        SwitchoverStep::Follow => (before(SwitchoverStep::Verify)?, None),
        SwitchoverStep::Verify => (before(SwitchoverStep::Done)?, None),
        SwitchoverStep::RollBack => (before(SwitchoverStep::Done)?, before(SwitchoverStep::Take)?),
        SwitchoverStep::Done => (None, None),
    };
    Ok(Held { next, take })
}

async fn cancel(bed: &Bed, id: &OperationId) -> Result<(), Failure> {
    let coordinators = bed.lab().coordinators();
    let request = CancelOperationRequest {
        federation: coordinators.name(),
        id: id.to_string(),
        requested_by: "test".to_owned(),
    };
    let answer = coordinators.write("cancel", |mut client: Client| {
        let request = request.clone();
        async move { client.cancel_operation(request).await }
    });
    answer.await.map(drop)
}

async fn case(bed: &Bed, roles: &Roles, step: SwitchoverStep) -> anyhow::Result<String> {
    let held = hold(bed, step)?;
    let whom = bed.lab().coordinators();
    let id = bed.begin(&whom, &roles.b).await?;
    bed.see("the step", LIMIT, |global| {
        let operation = global.operation(&id)?;
        (operation.steps.last()?.step == step).then_some(())
    })
    .await?;
    // Whoever is asked has seen it too: otherwise the answer is only "look again".
    until("the coordinator to see the step", LIMIT, async || {
        let seen = whom.operation(id.as_str()).await.map_err(|e| e.to_string())?;
        let last = seen.steps.last().map(|step| step.name.clone()).unwrap_or_default();
        if last == step.name() { Ok(()) } else { Err(last) }
    })
    .await?;
    let answer = cancel(bed, &id).await;
    let Held { next, take } = held;
    drop(next);
    let outcome = bed.see("the outcome", LIMIT * 2, |global| global.operation(&id)?.outcome);
    let outcome = outcome.await?;
    drop(take);
    let holder = bed.open(LIMIT).await?;
    let refused = || -> anyhow::Result<String> {
        let refusal = answer.as_ref().err().context("the cancel was accepted")?;
        ensure!(refusal.exit == Exit::Refused, "{refusal:?}");
        let named = [id.as_str(), step.name()].iter().all(|word| refusal.message.contains(word));
        let ended = step == SwitchoverStep::Done && refusal.message.contains("has ended already");
        ensure!(named || ended, "{refusal}");
        Ok(refusal.message.clone())
    };
    match step {
        SwitchoverStep::Prepare => {
            ensure!(answer.is_ok(), "{answer:?}");
            ensure!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
            ensure!(holder == roles.a, "{holder} is primary");
            Ok(format!("{outcome:?}"))
        }
        SwitchoverStep::Handover
        | SwitchoverStep::Take
        | SwitchoverStep::Follow
        | SwitchoverStep::Verify
        | SwitchoverStep::Done => {
            ensure!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
            ensure!(holder == roles.b, "{holder} is primary");
            refused()
        }
        SwitchoverStep::RollBack => {
            ensure!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
            ensure!(holder == roles.a, "{holder} is primary");
            refused()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_carried_out_in_prepare_and_refused_with_the_reason_elsewhere() {
    let topology = TWO_SITES.replace("handover_span: 15s", "handover_span: 6s");
    let bed = Bed::start("cancel", &topology, None).await.unwrap();
    let mut problems = Vec::new();
    for step in SwitchoverStep::ALL {
        let roles = bed.healthy().await.unwrap();
        assert_eq!(bed.look(|global| global.primary().unwrap().state), PrimaryState::Open);
        match case(&bed, &roles, step).await {
            Ok(answer) => say(format!("cancel in {step}: {answer}")),
            Err(problem) => {
                bed.keep_logs();
                say(format!("cancel in {step}: FAILED: {problem:#}"));
                problems.push(format!("{step}: {problem:#}"));
            }
        }
    }
    bed.healthy().await.unwrap();
    let (history, judgement) = bed.finish().await.unwrap();
    say(explain(&judgement, &history));
    assert!(judgement.is_clean(), "{}", explain(&judgement, &history));
    assert!(problems.is_empty(), "{problems:#?}");
}
