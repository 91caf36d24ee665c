//! The gRPC service `regent.v1`: reads answer from the view that the federation's loop published,
//! writes are transactions on the records, so it does not matter which coordinator is asked.
//!
//! Nothing here judges: requests go through [`crate::decide`], answers through [`wire`].

pub(crate) mod health;
mod streams;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_dcs::{StoreError, TxnOutcome};
use regent_proto::name::{FederationName, OperationId};
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{Operation, Record as _};
use regent_proto::wire as pb;
use regent_proto::wire::regent_server::Regent;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::act::{self, CALL_TIMEOUT};
use crate::decide::apply::{self, File};
use crate::decide::fencing;
use crate::decide::promotion;
use crate::decide::request::{self, Asked, Refusal};
use crate::decide::view::View;
use crate::decide::write::{Put, Write};
use crate::decide::{Federation, Memory, Policy, plan};
use crate::federation::{Handle, Published};
use crate::observe::clock::wall_time;

/// Streams served at once; each holds one view.
const STREAMS_MAX: usize = 256;
/// How long an answer is held back until this coordinator sees what it has just written, or,
/// when it has just started, anything at all.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// How often a cancel is judged again when the operation's record changes meanwhile.
const CANCEL_ATTEMPTS: usize = 5;
/// Operations listed when no limit is given, and at most.
const LISTED: usize = 20;
const LISTED_MAX: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub struct Api {
    policy: Policy,
    clock: BootClock,
    federations: Arc<BTreeMap<FederationName, Handle>>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

/// One federation's state at the instant of a request.
struct Moment {
    handle: Handle,
    view: View,
    memory: Memory,
}

impl Api {
    /// Serves these federations until `stop`.
    #[must_use]
    pub fn new(
        policy: Policy,
        clock: BootClock,
        handles: Vec<Handle>,
        stop: CancellationToken,
    ) -> Self {
        let federations = handles.into_iter().map(|handle| (handle.name.clone(), handle)).collect();
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { policy, clock, federations: Arc::new(federations), streams, stop }
    }

    /// What the loops publish, for the health service.
    pub(crate) fn published(&self) -> Vec<watch::Receiver<Arc<Published>>> {
        self.federations.values().map(|handle| handle.published.clone()).collect()
    }

    fn handle(&self, name: &str) -> Result<&Handle, Status> {
        let known = || {
            let names: Vec<&str> = self.federations.keys().map(FederationName::as_str).collect();
            names.join(", ")
        };
        if name.is_empty() {
            let mut all = self.federations.values();
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                (None | Some(_), _) => Err(Status::invalid_argument(format!(
                    "this coordinator serves several federations, name one of {}",
                    known()
                ))),
            };
        }
        self.federations.values().find(|handle| handle.name.as_str() == name).ok_or_else(|| {
            Status::not_found(format!(
                "this coordinator does not serve federation {name:?}; it serves {}",
                known()
            ))
        })
    }

    async fn moment(&self, name: &str) -> Result<Moment, Status> {
        let handle = self.handle(name)?.clone();
        let published = handle.seen(SEEN_WITHIN).await;
        let mut view = published.view.clone();
        view.now = self.clock.now();
        view.wall = wall_time();
        Ok(Moment { handle, view, memory: published.memory.clone() })
    }

    fn federation<'a>(&'a self, moment: &'a Moment) -> Result<Federation<'a>, Status> {
        let (topology, primary) =
            plan::deciding(&moment.view).map_err(Refusal::from).map_err(refused)?;
        let (view, memory) = (&moment.view, &moment.memory);
        Ok(Federation { policy: &self.policy, memory, view, topology, primary })
    }

    /// Performs a request's write; an unknown outcome is read back.
    async fn write(&self, handle: &Handle, write: &Write) -> Result<(), Status> {
        let revision = match act::perform(&*handle.store, &handle.keys, write).await {
            Ok(TxnOutcome::Applied { revision }) => revision,
            Ok(TxnOutcome::Conflict { .. }) => {
                return Err(Status::aborted(format!(
                    "could not {}: the situation has just changed; look again and repeat",
                    write.purpose
                )));
            }
            Err(error @ StoreError::Unknown { .. }) => {
                return match act::read_back(&*handle.store, &handle.keys, write).await {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => Err(Status::unknown(format!(
                        "could not learn whether it was possible to {}: {error}; look at the \
                         state before asking again",
                        write.purpose
                    ))),
                };
            }
            Err(error) => return Err(unavailable(&error)),
        };
        let mut published = handle.published.clone();
        let seen = published.wait_for(|seen| seen.view.revision.0 >= revision.0);
        // Not seeing it in time only means that the next question may be answered from before it.
        drop(tokio::time::timeout(SEEN_WITHIN, seen).await);
        Ok(())
    }

    /// An operation from the view, or, when it is too new for that, from the quorum.
    async fn operation(&self, moment: &Moment, id: &str) -> Result<Operation, Status> {
        let id = if id.is_empty() {
            let running = moment.view.running.read().and_then(|seen| seen.value.id.clone());
            running.ok_or_else(|| Status::not_found("no operation runs; name one by its id"))?
        } else {
            parse::<OperationId>("id", id)?
        };
        let missing = match request::find(&moment.view, &id) {
            Ok(operation) => return Ok(operation.value.clone()),
            Err(missing) => missing,
        };
        let key = moment.handle.keys.operation(&id);
        let found = moment.handle.store.get(&key, CALL_TIMEOUT).await;
        match found.map_err(|error| unavailable(&error))? {
            Some(entry) => Operation::decode(&key, &entry.value)
                .map_err(|error| Status::failed_precondition(error.to_string())),
            None => Err(refused(missing)),
        }
    }

    async fn apply(
        &self,
        asked: pb::ApplyTopologyRequest,
    ) -> Result<pb::ApplyTopologyResponse, Status> {
        let file = File::parse(&asked.yaml).map_err(refused)?;
        let moment = self.moment(file.topology.federation.as_str()).await?;
        let applied = if asked.create {
            apply::create(&moment.view, &file, uuid::Uuid::new_v4())
        } else {
            apply::apply(&moment.view, &file)
        };
        let applied = applied.map_err(refused)?;
        let mut response = pb::ApplyTopologyResponse {
            changes: applied.changes,
            warnings: file.findings.iter().map(ToString::to_string).collect(),
            applied: false,
        };
        if let Some(write) = applied.write.filter(|_| !asked.dry_run) {
            self.write(&moment.handle, &write).await?;
            tracing::info!(
                by = asked.requested_by,
                "{}: {}",
                write.purpose,
                response.changes.join("; ")
            );
            response.applied = true;
        }
        Ok(response)
    }

    async fn execute(&self, asked: pb::ExecuteSwitchoverRequest) -> Result<Operation, Status> {
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        let id = draw_id("switchover", &federation)?;
        let asked = Asked {
            id: id.clone(),
            request: plan::Request {
                to: parse("to", &asked.to)?,
                accept_unprotected: asked.accept_unprotected,
            },
            plan_hash: agreed_to(asked.plan_hash)?,
            by: asked.requested_by,
            reason: asked.reason,
        };
        let write = request::execute(&federation, &asked).map_err(refused)?;
        self.write(&moment.handle, &write).await?;
        tracing::info!(by = asked.by, "began {id} to {}", asked.request.to);
        written(write)
    }

    async fn execute_fencing(&self, asked: pb::ExecuteFenceRequest) -> Result<Operation, Status> {
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        let asked = fencing::Asked {
            id: draw_id(if asked.lift { "unfence" } else { "fence" }, &federation)?,
            verb: fencing_verb(asked.lift),
            site: parse("site", &asked.site)?,
            plan_hash: agreed_to(asked.plan_hash)?,
            by: asked.requested_by,
            reason: asked.reason,
        };
        let write = fencing::execute(&federation, &asked).map_err(refused)?;
        self.write(&moment.handle, &write).await?;
        tracing::info!(by = asked.by, operation = %asked.id, "{}: {}", write.purpose, asked.site);
        written(write)
    }

    async fn execute_promoting(
        &self,
        asked: pb::ExecutePromotionRequest,
    ) -> Result<Operation, Status> {
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        let asked = promotion::Asked {
            id: draw_id("promotion", &federation)?,
            request: promoting(&asked.to, asked.accept_loss, asked.end_lease)?,
            plan_hash: agreed_to(asked.plan_hash)?,
            by: asked.requested_by,
            reason: asked.reason,
        };
        let write = promotion::execute(&federation, &asked).map_err(refused)?;
        self.write(&moment.handle, &write).await?;
        let (by, to) = (asked.by, asked.request.to);
        tracing::warn!(by, operation = %asked.id, reason = asked.reason, "promotes {to}");
        written(write)
    }

    /// The record is rewritten now and then while it prepares, so a request that comes between is
    /// judged again, not sent again.
    async fn cancel(&self, asked: pb::CancelOperationRequest) -> Result<Operation, Status> {
        let mut attempts = CANCEL_ATTEMPTS;
        loop {
            attempts -= 1;
            let moment = self.moment(&asked.federation).await?;
            match self.cancel_once(&asked, &moment).await {
                Err(status) if status.code() == Code::Aborted && attempts > 0 => {
                    // The same picture would lose again: only a later one is worth an attempt.
                    let judged = moment.view.revision.0;
                    let mut published = moment.handle.published;
                    let later = published.wait_for(|seen| seen.view.revision.0 > judged);
                    drop(tokio::time::timeout(SEEN_WITHIN, later).await);
                }
                answer => return answer,
            }
        }
    }

    async fn cancel_once(
        &self,
        asked: &pb::CancelOperationRequest,
        moment: &Moment,
    ) -> Result<Operation, Status> {
        let federation = self.federation(moment)?;
        let id = parse("id", &asked.id)?;
        match request::cancel(&federation, &id, &asked.requested_by).map_err(refused)? {
            Some(write) => {
                self.write(&moment.handle, &write).await?;
                written(write)
            }
            None => self.operation(moment, &asked.id).await,
        }
    }
}

fn agreed_to(plan_hash: String) -> Result<String, Status> {
    if plan_hash.is_empty() {
        let problem = "plan_hash is empty: ask for the plan first and name its hash";
        return Err(Status::invalid_argument(problem));
    }
    Ok(plan_hash)
}

fn fencing_verb(lift: bool) -> fencing::Verb {
    if lift { fencing::Verb::Unfence } else { fencing::Verb::Fence }
}

fn promoting(
    to: &str,
    accept_loss: Option<pb::AcceptLoss>,
    end_lease: bool,
) -> Result<promotion::Request, Status> {
    let accepted = accept_loss.map(accepted).transpose()?;
    Ok(promotion::Request { to: parse("to", to)?, accepted, end_lease })
}

fn accepted(accept: pb::AcceptLoss) -> Result<AcceptedLoss, Status> {
    let without = accept.without.iter().map(|site| parse("without", site));
    Ok(AcceptedLoss {
        max_age_ms: (!accept.any_age).then_some(accept.max_age_ms),
        max_bytes: accept.max_bytes,
        without: without.collect::<Result<_, _>>()?,
    })
}

/// A new operation's id: its verb, its epoch, and what nobody else draws.
fn draw_id(verb: &str, federation: &Federation<'_>) -> Result<OperationId, Status> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    parse("id", &format!("{verb}-{}-{}", federation.primary.value.epoch, &random[..6]))
}

/// The operation that a request has just written.
fn written(write: Write) -> Result<Operation, Status> {
    let operation = write.puts.into_iter().find_map(|put| match put {
        Put::Operation(operation) => Some(*operation),
        Put::Topology(_)
        | Put::Primary(_)
        | Put::Assignment(..)
        | Put::Running(_)
        | Put::Leader(..)
        | Put::Coordinator(..) => None,
    });
    operation.ok_or_else(|| Status::internal("the request wrote no operation"))
}

fn parse<T: std::str::FromStr<Err = regent_proto::name::NameError>>(
    field: &str,
    text: &str,
) -> Result<T, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(message) => Status::invalid_argument(message),
        Refusal::NotFound(message) => Status::not_found(message),
        Refusal::Blocked(message) => Status::failed_precondition(message),
        Refusal::Stale(message) => Status::aborted(message),
        Refusal::Unreachable(message) => Status::unavailable(message),
    }
}

fn unavailable(error: &StoreError) -> Status {
    match error {
        StoreError::Refused { .. } => Status::failed_precondition(error.to_string()),
        StoreError::NotDone { .. } => Status::unavailable(error.to_string()),
        StoreError::Unknown { .. } => Status::unknown(error.to_string()),
    }
}

#[tonic::async_trait]
impl Regent for Api {
    type WatchFederationStream = streams::Answers<pb::Federation>;
    type WatchOperationStream = streams::Answers<pb::Operation>;

    async fn list_federations(
        &self,
        _request: Request<pb::ListFederationsRequest>,
    ) -> Result<Response<pb::ListFederationsResponse>, Status> {
        let names = self.federations.keys().map(ToString::to_string).collect();
        Ok(Response::new(pb::ListFederationsResponse { names }))
    }

    async fn get_federation(
        &self,
        request: Request<pb::GetFederationRequest>,
    ) -> Result<Response<pb::Federation>, Status> {
        let moment = self.moment(&request.get_ref().federation).await?;
        Ok(Response::new(wire::federation(&self.policy, &moment.view)))
    }

    async fn watch_federation(
        &self,
        request: Request<pb::GetFederationRequest>,
    ) -> Result<Response<Self::WatchFederationStream>, Status> {
        let moment = self.moment(&request.get_ref().federation).await?;
        Ok(Response::new(self.watch_view(&moment.handle)?))
    }

    async fn plan_switchover(
        &self,
        request: Request<pb::PlanSwitchoverRequest>,
    ) -> Result<Response<pb::Plan>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        request::reachable(&moment.view).map_err(refused)?;
        let to = parse("to", &asked.to)?;
        let wanted = plan::Request { to, accept_unprotected: asked.accept_unprotected };
        let planned = plan::plan(&federation, &wanted);
        Ok(Response::new(wire::plan(&planned.plan, &planned.hash)))
    }

    async fn execute_switchover(
        &self,
        request: Request<pb::ExecuteSwitchoverRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let operation = self.execute(request.into_inner()).await?;
        Ok(Response::new(wire::operation(&operation)))
    }

    async fn plan_fence(
        &self,
        request: Request<pb::PlanFenceRequest>,
    ) -> Result<Response<pb::Plan>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        request::reachable(&moment.view).map_err(refused)?;
        let site = parse("site", &asked.site)?;
        let planned = fencing::plan(&federation, fencing_verb(asked.lift), &site);
        Ok(Response::new(wire::plan(&planned.plan, &planned.hash)))
    }

    async fn execute_fence(
        &self,
        request: Request<pb::ExecuteFenceRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let operation = self.execute_fencing(request.into_inner()).await?;
        Ok(Response::new(wire::operation(&operation)))
    }

    async fn plan_promotion(
        &self,
        request: Request<pb::PlanPromotionRequest>,
    ) -> Result<Response<pb::Plan>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let federation = self.federation(&moment)?;
        request::reachable(&moment.view).map_err(refused)?;
        let wanted = promoting(&asked.to, asked.accept_loss, asked.end_lease)?;
        let planned = promotion::plan(&federation, &wanted);
        Ok(Response::new(wire::plan(&planned.plan, &planned.hash)))
    }

    async fn execute_promotion(
        &self,
        request: Request<pb::ExecutePromotionRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let operation = self.execute_promoting(request.into_inner()).await?;
        Ok(Response::new(wire::operation(&operation)))
    }

    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let operation = self.operation(&moment, &asked.id).await?;
        Ok(Response::new(wire::operation(&operation)))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Result<Response<pb::ListOperationsResponse>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let limit = match usize::try_from(asked.limit) {
            Ok(0) => LISTED,
            Ok(limit) => limit.min(LISTED_MAX),
            Err(_) => LISTED_MAX,
        };
        let mut operations: Vec<&Operation> = moment
            .view
            .operations
            .values()
            .filter_map(|slot| slot.read().map(|seen| &seen.value))
            .collect();
        operations.sort_by(|a, b| (b.requested_at, &b.id).cmp(&(a.requested_at, &a.id)));
        let operations = operations.into_iter().take(limit).map(wire::operation).collect();
        Ok(Response::new(pb::ListOperationsResponse { operations }))
    }

    async fn watch_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let asked = request.into_inner();
        let moment = self.moment(&asked.federation).await?;
        let operation = self.operation(&moment, &asked.id).await?;
        Ok(Response::new(self.watch_one(&moment.handle, operation)?))
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> Result<Response<pb::Operation>, Status> {
        let operation = self.cancel(request.into_inner()).await?;
        Ok(Response::new(wire::operation(&operation)))
    }

    async fn apply_topology(
        &self,
        request: Request<pb::ApplyTopologyRequest>,
    ) -> Result<Response<pb::ApplyTopologyResponse>, Status> {
        Ok(Response::new(self.apply(request.into_inner()).await?))
    }

    async fn get_topology(
        &self,
        request: Request<pb::GetFederationRequest>,
    ) -> Result<Response<pb::Topology>, Status> {
        let moment = self.moment(&request.get_ref().federation).await?;
        let federation = self.federation(&moment)?;
        Ok(Response::new(pb::Topology {
            yaml: federation.topology.value.yaml.clone(),
            revision: federation.topology.revision.0,
        }))
    }
}
