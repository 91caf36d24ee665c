//! I18: a pause freezes actions, and keeps identity, lease rules and `sync` coherent; leaving it
//! verifies everything anew (hazards.md section 6; design.md section 3; ADR 18). In a federation it
//! never loosens the fence.

use regent_agent::decide::view::Stage;
use regent_agent::decide::{Action, Job};
use regent_guardian::page::Guard;

use crate::world::World;

/// Whoever acknowledges is guarded, unless a pause took its guard away, which no pause of a federation's
/// site does, and which ends with the pause.
pub(super) fn check(world: &mut World, n: usize) {
    let node = &world.nodes[n];
    if node.page.guard() != Guard::Off {
        return;
    }
    let name = &node.name;
    if world.federation.is_some() {
        let what = format!("{name} of a federation acknowledges without a guard");
        world.broken("I18", what);
    } else if !node.unfenced {
        let what = format!("{name} acknowledges without a guard, and no pause took it away");
        world.broken("I18", what);
    } else if node.paused == Some(false) {
        let what = format!("{name} knows that the pause is over, and acknowledges without a guard");
        world.broken("I18", what);
    }
}

/// An agent that knows of the pause starts, stops, copies, promotes and turns nothing; in a federation
/// it starts and copies nothing. What a person asks for goes on in a pause, and each stage of it is
/// allowed its own step alone.
pub(super) fn check_action(world: &mut World, n: usize, asked: Option<Stage>, action: &Action) {
    let frozen = match action {
        Action::Run(job) if asked.is_some_and(|stage| is_step_of(stage, job)) => false,
        Action::ClaimInitialize | Action::AskPeers | Action::AskCandidates(_) => true,
        Action::AbandonInitialize => true,
        Action::Run(Job::Initdb | Job::Clone(_) | Job::Rewind(_) | Job::CopySlots { .. }) => true,
        Action::Run(Job::StartStandby(_) | Job::StartPrimary { .. } | Job::StopToRestart) => true,
        Action::Run(Job::Stop | Job::Checkpoint | Job::CreateUsers | Job::PrePromote) => {
            world.federation.is_none()
        }
        Action::Promote | Action::Follow(_) => world.federation.is_none(),
        Action::RecordInitialize(_)
        | Action::AcquireLeader
        | Action::ReleaseLeader
        | Action::WriteSync { .. }
        | Action::WritePromotions { .. }
        | Action::ClearSync { .. }
        | Action::WriteMark { .. }
        | Action::EnterEpoch { .. }
        | Action::ClearFailover { .. }
        | Action::KeepEpoch(_)
        | Action::AcquirePrimary { .. }
        | Action::EndTenure
        | Action::PostToken { .. }
        | Action::Take { .. }
        | Action::PromoteSite { .. }
        | Action::RollBack { .. }
        | Action::RecordIdentity { .. }
        | Action::RecordPromotion { .. }
        | Action::SetSynchronousNames(_)
        | Action::NamePromotion
        | Action::Slots(_)
        | Action::Reload
        | Action::ArmWatchdog
        | Action::RenewNow
        | Action::Answer { .. }
        | Action::CancelJob
        | Action::Exit(_) => false,
    };
    if frozen {
        let what = format!("{} is paused, and does {action:?}", world.nodes[n].name);
        world.broken("I18", what);
    }
}

/// What a restart or a new copy does with the server at this stage.
fn is_step_of(stage: Stage, job: &Job) -> bool {
    match stage {
        Stage::Clearing | Stage::Withdrawing => false,
        Stage::Checkpointing => *job == Job::Checkpoint,
        Stage::Stopping => matches!(job, Job::Stop | Job::StopToRestart),
        Stage::Copying => matches!(job, Job::Clone(_)),
        Stage::Starting => matches!(job, Job::StartStandby(_) | Job::StartPrimary { .. }),
    }
}

/// The pause is over in the store, and this node has not heard of it: it goes on without a fence, as
/// everything has said since the pause began.
pub(super) fn outlived(world: &World, n: usize) -> bool {
    let node = &world.nodes[n];
    node.unfenced && node.page.guard() == Guard::Off && !world.paused_in_store(node.site)
}
