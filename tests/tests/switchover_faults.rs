//! A planned switchover under every fault at every step: for each variant of the step's enum, the
//! elected coordinator, all coordinators, A's leader agent and B's leader agent are killed, right
//! before the write of that step and right after it.
//!
//! "Before" is exact: a gate in the quorum's file refuses the write, and the fault comes once a
//! writer stands there. Whatever happens, the operation ends with B primary or A primary, an
//! outcome recorded, and no acknowledged row lost, duplicated or reordered. With all coordinators
//! dead from the handover on, primacy settles and rows flow before any coordinator is back.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{Operation, Outcome, PrimaryState, SwitchoverStep};
use regent_tests::bed::{Bed, Roles, TWO_SITES, explain};
use regent_tests::gate::Gate;
use regent_tests::report;
use regent_tests::wait::{seconds, until};
use regent_tests::{option, say};
use regentctl::clock::{self, millis};
use regentctl::coordinators::Coordinators;
use regentctl::report::Case as Line;

/// Longest wait for the state in which a fault is injected.
const TRIGGER: Duration = Duration::from_secs(30);
/// Longest wait for primacy to settle after a fault, and for the outcome.
const SETTLES: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    ElectedCoordinator,
    AllCoordinators,
    LeaderOfA,
    LeaderOfB,
}

impl Fault {
    const ALL: [Self; 4] =
        [Self::ElectedCoordinator, Self::AllCoordinators, Self::LeaderOfA, Self::LeaderOfB];

    fn name(self) -> &'static str {
        match self {
            Self::ElectedCoordinator => "elected coordinator",
            Self::AllCoordinators => "all coordinators",
            Self::LeaderOfA => "A's leader agent",
            Self::LeaderOfB => "B's leader agent",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    After,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    step: SwitchoverStep,
    fault: Fault,
    when: When,
}

impl Case {
    fn name(self) -> String {
        let when = match self.when {
            When::Before => "before",
            When::After => "after",
        };
        format!("{} killed {when} {}", self.fault.name(), self.step)
    }

    /// Whether `primary` already says handover, or went on from there, when the fault comes.
    fn past_handover(self) -> bool {
        match self.step {
            SwitchoverStep::Prepare => false,
            SwitchoverStep::Handover => self.when == When::After,
            SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::RollBack
            | SwitchoverStep::Done => true,
        }
    }

    /// What must come of it; where nothing is said both ends are right.
    fn wanted(self) -> Option<Wanted> {
        match (self.step, self.fault) {
            (SwitchoverStep::RollBack, _) => Some(Wanted::Stays),
            // B has taken already.
            (SwitchoverStep::Follow | SwitchoverStep::Verify | SwitchoverStep::Done, _) => {
                Some(Wanted::Moves)
            }
            // Coordinators are not needed, or another one goes on.
            (
                SwitchoverStep::Prepare | SwitchoverStep::Handover | SwitchoverStep::Take,
                Fault::ElectedCoordinator | Fault::AllCoordinators,
            ) => Some(Wanted::Moves),
            (SwitchoverStep::Take, Fault::LeaderOfA) => Some(Wanted::Moves),
            (
                SwitchoverStep::Prepare | SwitchoverStep::Handover | SwitchoverStep::Take,
                Fault::LeaderOfA | Fault::LeaderOfB,
            ) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Moves,
    Stays,
}

/// Two federations work at the same time, most of which is waiting for leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    UpToTake,
    FromFollow,
}

fn lane(step: SwitchoverStep) -> Lane {
    match step {
        SwitchoverStep::Prepare | SwitchoverStep::Handover | SwitchoverStep::Take => Lane::UpToTake,
        SwitchoverStep::Follow
        | SwitchoverStep::Verify
        | SwitchoverStep::RollBack
        | SwitchoverStep::Done => Lane::FromFollow,
    }
}

fn cases(of: Lane) -> Vec<Case> {
    let steps = SwitchoverStep::ALL.into_iter().filter(|step| lane(*step) == of);
    steps
        .flat_map(|step| {
            Fault::ALL.into_iter().flat_map(move |fault| {
                [When::Before, When::After].map(|when| Case { step, fault, when })
            })
        })
        .collect()
}

/// What came of a case.
#[derive(Debug)]
struct Seen {
    ended: String,
    outage: Duration,
    rate_before: usize,
    rate_after: usize,
    took: f64,
}

struct Matrix<'a> {
    bed: &'a Bed,
    roles: Roles,
    case: Case,
}

impl Matrix<'_> {
    async fn run(&self) -> anyhow::Result<Seen> {
        let (begun, from) = (clock::now(), self.bed.writer.now());
        let rate_before = self.bed.rate(from);
        let ended = match self.faulted().await? {
            Some(operation) => {
                self.alone().await?;
                self.restart_coordinators().await?;
                self.outcome(&operation).await?
            }
            None => {
                self.alone().await?;
                "not asked for".to_owned()
            }
        };
        self.bed.start_missing().await?;
        self.bed.healthy().await.context("afterwards")?;
        let to = self.bed.writer.now();
        Ok(Seen {
            ended,
            outage: self.bed.outage(from, to),
            rate_before,
            rate_after: self.bed.rate(to),
            took: seconds(begun),
        })
    }

    /// Begins the switchover and injects the fault. `None` when it was never asked for.
    async fn faulted(&self) -> anyhow::Result<Option<OperationId>> {
        let file = self.bed.quorum_file()?;
        // For the roll-back B's take is held off until the span is over.
        let no_take = match self.case.step {
            SwitchoverStep::RollBack => Some(Gate::close(&file, SwitchoverStep::Take)?),
            SwitchoverStep::Prepare
            | SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::Follow
            | SwitchoverStep::Verify
            | SwitchoverStep::Done => None,
        };
        let operation = match self.case.when {
            When::Before => {
                let gate = Gate::close(&file, self.case.step)?;
                self.before(gate).await?
            }
            When::After => {
                let operation = self.ask().await?;
                self.written(&operation).await?;
                self.inject().await?;
                Some(operation)
            }
        };
        if no_take.is_some() {
            self.bed
                .see("the roll-back", SETTLES, |global| {
                    (global.primary()?.state == PrimaryState::Open).then_some(())
                })
                .await?;
        }
        drop(no_take);
        Ok(operation)
    }

    async fn before(&self, gate: Gate) -> anyhow::Result<Option<OperationId>> {
        let offsets = self.log_lengths();
        if self.case.step == SwitchoverStep::Prepare {
            // The request itself is what is refused.
            self.ask_in_vain(&gate.words()).await?;
            self.inject().await?;
            drop(gate);
            return match self.case.fault {
                Fault::AllCoordinators => Ok(None),
                Fault::ElectedCoordinator | Fault::LeaderOfA | Fault::LeaderOfB => {
                    Ok(self.bed.ask(&self.whom()?, &self.roles.b).await.ok())
                }
            };
        }
        let operation = self.ask().await?;
        let words = gate.words();
        until("a writer at the gate", TRIGGER, async || {
            if self.said_since(&offsets, &words) { Ok(()) } else { Err(self.bed.state()) }
        })
        .await
        .with_context(|| self.story(&operation))?;
        self.inject().await?;
        drop(gate);
        Ok(Some(operation))
    }

    /// A coordinator that stays alive, where one does.
    fn whom(&self) -> anyhow::Result<Coordinators> {
        let sites = self.bed.lab().layout().coordinators.iter().map(|place| &place.site);
        let other = sites.into_iter().find(|site| **site != self.roles.elected);
        self.bed.coordinator(other.context("a second coordinator")?)
    }

    /// Asks as soon as nothing blocks: a node that came back a moment ago may not have tried every
    /// other site yet.
    async fn ask(&self) -> anyhow::Result<OperationId> {
        let whom = self.whom()?;
        until("a switchover that nothing blocks", TRIGGER, async || {
            self.bed.ask(&whom, &self.roles.b).await.map_err(|e| format!("{e:#}"))
        })
        .await
    }

    /// Asks while the gate refuses the request itself.
    async fn ask_in_vain(&self, words: &str) -> anyhow::Result<()> {
        let whom = self.whom()?;
        until("the gate to refuse the request", TRIGGER, async || {
            match self.bed.ask(&whom, &self.roles.b).await {
                Err(problem) if format!("{problem:#}").contains(words) => Ok(()),
                Err(problem) => Err(format!("{problem:#}")),
                Ok(id) => Err(format!("{id} has begun")),
            }
        })
        .await
    }

    /// Waits for the write of the step.
    async fn written(&self, id: &OperationId) -> anyhow::Result<()> {
        let step = self.case.step;
        let seen = self
            .bed
            .see(&format!("the write of {step}"), TRIGGER, |global| {
                let (primary, operation) = (global.primary()?, global.operation(id)?);
                let entered = || operation.steps.iter().any(|entry| entry.step == step);
                let written = match step {
                    SwitchoverStep::Prepare | SwitchoverStep::Follow | SwitchoverStep::Verify => {
                        entered()
                    }
                    SwitchoverStep::Handover => primary.state.operation() == Some(id),
                    SwitchoverStep::Take => primary.holder == self.roles.b,
                    SwitchoverStep::RollBack => {
                        let handed_over =
                            operation.steps.iter().any(|s| s.step == SwitchoverStep::Handover);
                        handed_over && primary.state == PrimaryState::Open
                    }
                    SwitchoverStep::Done => operation.outcome.is_some(),
                };
                written.then_some(())
            })
            .await;
        seen.with_context(|| self.story(id))
    }

    /// What the operation's record says, for messages.
    fn story(&self, id: &OperationId) -> String {
        self.bed.look(|global| match global.operation(id) {
            None => format!("{id} has no record"),
            Some(operation) => {
                let steps = operation.steps.iter().map(|s| format!("{}: {}", s.step, s.note));
                let steps: Vec<String> = steps.collect();
                format!("{id}: {}; outcome {:?}", steps.join(" | "), operation.outcome)
            }
        })
    }

    async fn inject(&self) -> anyhow::Result<()> {
        let agent = |node: &regent_proto::name::NodeName| vec![format!("agent-{node}")];
        let processes = match self.case.fault {
            Fault::ElectedCoordinator => vec![format!("coordinator-{}", self.roles.elected)],
            Fault::AllCoordinators => self.bed.coordinators(),
            Fault::LeaderOfA => agent(&self.roles.a_leader),
            Fault::LeaderOfB => agent(&self.roles.b_leader),
        };
        self.bed.kill(&processes).await
    }

    /// With all coordinators dead the federation settles by itself, and writes.
    async fn alone(&self) -> anyhow::Result<()> {
        if self.case.fault != Fault::AllCoordinators {
            return Ok(());
        }
        let holder = self.bed.open(SETTLES).await.context("without any coordinator")?;
        let running = self.bed.lab().processes().await?;
        let coordinators = self.bed.coordinators();
        let alive = running.iter().find(|p| p.pid.is_some() && coordinators.contains(&p.name));
        ensure!(alive.is_none(), "a coordinator runs: {alive:?}");
        ensure!(holder == self.roles.a || holder == self.roles.b, "{holder} is primary");
        if !self.case.past_handover() {
            ensure!(holder == self.roles.a, "{holder} took without a handover");
        }
        Ok(())
    }

    async fn restart_coordinators(&self) -> anyhow::Result<()> {
        for process in self.bed.coordinators() {
            if self.bed.lab().pid(&process).await?.is_none() {
                self.bed.lab().start(&process).await?;
            }
        }
        Ok(())
    }

    /// Waits for the recorded outcome, and compares it with who is primary.
    async fn outcome(&self, id: &OperationId) -> anyhow::Result<String> {
        let ended = self.bed.see("the outcome", SETTLES * 2, |global| {
            let operation = global.operation(id)?;
            operation.outcome.is_some().then_some(operation)
        });
        let operation: Operation = ended.await?;
        let holder = self.bed.open(SETTLES).await?;
        let expected: &SiteName = match &operation.outcome {
            Some(Outcome::Succeeded { .. }) => &self.roles.b,
            Some(Outcome::RolledBack { .. } | Outcome::Cancelled { .. }) => &self.roles.a,
            Some(Outcome::Superseded { .. }) | None => bail!("{:?}", operation.outcome),
        };
        ensure!(holder == *expected, "{holder} is primary; {}", self.story(id));
        let wanted = match self.case.wanted() {
            Some(Wanted::Moves) => Some(&self.roles.b),
            Some(Wanted::Stays) => Some(&self.roles.a),
            None => None,
        };
        ensure!(wanted.is_none_or(|wanted| *wanted == holder), "{}", self.story(id));
        let outcome = match operation.outcome {
            Some(Outcome::Succeeded { .. }) => "succeeded".to_owned(),
            Some(Outcome::RolledBack { reason, .. }) => format!("rolled back: {reason}"),
            Some(Outcome::Cancelled { reason, .. }) => format!("cancelled: {reason}"),
            Some(Outcome::Superseded { by, .. }) => format!("superseded by {by}"),
            None => "no outcome".to_owned(),
        };
        Ok(outcome)
    }

    fn log_files(&self) -> Vec<std::path::PathBuf> {
        let layout = self.bed.lab().layout();
        let agents = layout.nodes.iter().map(|node| node.agent());
        agents.chain(self.bed.coordinators()).map(|process| layout.log(&process)).collect()
    }

    fn log_lengths(&self) -> Vec<usize> {
        let length = |file| std::fs::metadata(file).map_or(0, |meta| meta.len());
        self.log_files().iter().map(|f| usize::try_from(length(f)).unwrap_or(0)).collect()
    }

    fn said_since(&self, offsets: &[usize], words: &str) -> bool {
        self.log_files().iter().zip(offsets).any(|(file, offset)| {
            let bytes = std::fs::read(file).unwrap_or_default();
            String::from_utf8_lossy(bytes.get(*offset..).unwrap_or_default()).contains(words)
        })
    }
}

/// Runs the cases of one lane on one federation; after a failed case it goes on when the
/// federation recovers.
async fn run(lane: Lane, only: Option<&str>) -> anyhow::Result<Vec<Line>> {
    let topology = match lane {
        // B without its synchronous standby is given up sooner.
        Lane::UpToTake => TWO_SITES.replace("prepare_timeout: 60s", "prepare_timeout: 8s"),
        // The roll-back waits for the span.
        Lane::FromFollow => TWO_SITES.replace("handover_span: 15s", "handover_span: 6s"),
    };
    let bed = Bed::start(&format!("switchover-faults-{lane:?}"), &topology, None).await?;
    let mut lines = Vec::new();
    for case in cases(lane) {
        if only.is_some_and(|only| !case.name().contains(only)) {
            continue;
        }
        let roles = bed.healthy().await.with_context(|| format!("before {}", case.name()))?;
        let line = Line::new(case.name());
        let line = match (Matrix { bed: &bed, roles, case }).run().await {
            Ok(seen) => {
                say(format!(
                    "{:<46} {:<12} outage {:>5} ms, {} rows/s before and {} after, {:.1} s",
                    case.name(),
                    seen.ended,
                    millis(seen.outage),
                    seen.rate_before,
                    seen.rate_after,
                    seen.took
                ));
                line.figure("outage", seen.outage.as_secs_f64() * 1e3, "ms")
                    .figure("took", seen.took, "s")
            }
            Err(problem) => {
                say(format!("{:<46} FAILED: {problem:#}", case.name()));
                bed.keep_logs();
                line.require(false, || format!("{problem:#}"))
            }
        };
        lines.push(line);
        if let Err(problem) = recovered(&bed).await {
            lines.push(Line::new("recovery").require(false, || format!("{problem:#}")));
            break;
        }
    }
    let acknowledged = bed.writer.look(|history| history.acks.len());
    match bed.finish().await {
        Ok((history, judgement)) => {
            let line = Line::new(format!("rows of lane {lane:?}")).figure(
                "acknowledged",
                f64::from(u32::try_from(acknowledged)?),
                "rows",
            );
            say(explain(&judgement, &history));
            lines.push(line.require(judgement.is_clean(), || explain(&judgement, &history)));
        }
        Err(problem) => {
            lines.push(Line::new("end").require(false, || format!("{problem:#}")));
        }
    }
    Ok(lines)
}

async fn recovered(bed: &Bed) -> anyhow::Result<()> {
    bed.start_missing().await?;
    bed.healthy().await.context("not healthy again").map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step_ends_with_one_primary_and_nothing_lost() {
    // For whoever looks at one case.
    let only = option("REGENT_CASE");
    let begun = clock::now();
    let lanes =
        tokio::join!(run(Lane::UpToTake, only.as_deref()), run(Lane::FromFollow, only.as_deref()));
    let mut lines = lanes.0.unwrap();
    lines.extend(lanes.1.unwrap());
    say(format!("{} cases in {:.0} s", lines.len(), seconds(begun)));
    regentctl::report::write(&report::file("faults"), &lines).unwrap();
    let failed: Vec<&Line> = lines.iter().filter(|line| !line.reason.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    if only.is_none() {
        let count = SwitchoverStep::ALL.len() * Fault::ALL.len() * 2;
        assert!(lines.len() >= count, "{} of {count} cases", lines.len());
    }
}
