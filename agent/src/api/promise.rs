//! `POST /regent/promise`: this site's leader promises the primary site's not to take primacy for a
//! span (protocol.md rule 11). On a listener of its own, since it speaks for the whole site.
//!
//! The order is the rule: judged, remembered, written to the site DCS under the leader key, and only
//! then answered. What was written and not answered binds as well.

use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use regent_proto::record::{Promise, Record as _, Unknown, VERSION};

use super::Shared;
use super::tls::{Peer, TlsListener, server_config};
use crate::act::failsafe::sites::{PATH, Promised};
use crate::act::publish::Picture;
use crate::act::site::Held;
use crate::config::Config;
use crate::decide::failsafe::quorum::{Refusal, may_promise};
use crate::decide::view::{TenureView, View};
use crate::observe::clock::boot_time;
use regent_proto::promise::PromiseRequest;
use regent_proto::time::BootTime;

/// The longest body that is read; a request has five short fields.
const LONGEST: usize = 4096;

/// Binds where the configuration asks for it, so that a mistake is an error of the start.
pub async fn bind(config: &Config) -> anyhow::Result<Option<Bound>> {
    let Some(federation) = &config.federation else { return Ok(None) };
    let Some(promise) = &federation.promise else { return Ok(None) };
    let address = promise.listen;
    let tls = promise.tls.as_ref().map(|tls| server_config(tls, &federation.site)).transpose()?;
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on federation.promise.listen {address}; choose a free port, or stop \
             whatever listens there"
        )
    })?;
    Ok(Some(match tls {
        Some(tls) => Bound::Tls(TlsListener::new(listener, tls)?),
        None => Bound::Plain(listener),
    }))
}

/// A bound listener.
pub enum Bound {
    /// Mutual TLS.
    Tls(TlsListener),
    /// Plain HTTP.
    Plain(tokio::net::TcpListener),
}

/// Serves for the life of the agent.
pub async fn serve(bound: Bound, shared: Shared) {
    let app = axum::Router::new()
        .route(PATH, axum::routing::post(answer))
        .layer(axum::extract::DefaultBodyLimit::max(LONGEST))
        .with_state(shared)
        .into_make_service_with_connect_info::<Peer>();
    let ended = match bound {
        Bound::Tls(listener) => axum::serve(listener, app).await,
        Bound::Plain(listener) => axum::serve(listener, app).await,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the listener for promises has ended");
    }
}

fn no(code: StatusCode, why: impl ToString) -> Response {
    (code, axum::Json(serde_json::json!({"refused": why.to_string()}))).into_response()
}

pub(super) async fn answer(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: axum::body::Bytes,
) -> Response {
    let request: PromiseRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return no(StatusCode::BAD_REQUEST, error),
    };
    if !peer.speaks_for(&request.site) {
        tracing::warn!(site = %request.site, "a promise was asked for with another's certificate");
        let why = format!("the certificate does not carry the site name {}", request.site);
        return no(StatusCode::FORBIDDEN, why);
    }
    let picture = shared.pictures.borrow().clone();
    let Some(picture) = picture else {
        return no(StatusCode::SERVICE_UNAVAILABLE, Refusal::NoPicture);
    };
    match promise(&shared, &picture, &request, boot_time()).await {
        Ok(promised) => {
            tracing::debug!(site = %request.site, "promised not to take primacy");
            axum::Json(promised).into_response()
        }
        Err((code, why)) => {
            tracing::warn!(site = %request.site, node = %request.node, why, "promise refused");
            no(code, why)
        }
    }
}

/// Judges, remembers, writes, and only then promises.
///
/// # Errors
/// With why not; what was written by then binds all the same.
pub async fn promise(
    shared: &Shared,
    picture: &Picture,
    request: &PromiseRequest,
    now: BootTime,
) -> Result<Promised, (StatusCode, String)> {
    let refused = |refusal: Refusal| (StatusCode::CONFLICT, refusal.to_string());
    let tenure = TenureView { site: shared.deadlines.site(), ..picture.view.tenure.clone() };
    let view = View { now, tenure, ..picture.view.clone() };
    may_promise(&view, &shared.config.name, request).map_err(refused)?;
    let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
    let held = Held::of(leader).ok_or_else(|| refused(Refusal::NotLeader))?;
    // A take and a promise are in each other's way through this lock: whichever is first stands.
    shared.failsafe.given.lock().give(request, now).map_err(refused)?;
    let own = view.federation.as_ref().map(|federation| federation.site.clone());
    let own = own.ok_or_else(|| refused(Refusal::PrimaryUnknown))?;
    let record = Promise {
        version: VERSION,
        site: request.site.clone(),
        node: request.node.clone(),
        tenure: request.tenure.clone(),
        epoch: request.epoch,
        span: request.span(),
        unknown: Unknown::new(),
    };
    let timeout: Duration = shared.config.site_timing(&picture.dynamic).call_timeout;
    match shared.site.write_promise(held, record.encode(), timeout).await {
        Ok(Some(_)) => Ok(Promised { site: own, span_ms: request.span_ms }),
        Ok(None) => Err(refused(Refusal::NotLeader)),
        // Whether it was written or not: it is not answered, so nobody goes on by it.
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}
