//! Patroni's REST API: health checks and read endpoints, answered from the last view in memory;
//! `/history` and the dynamic configuration, read from the site DCS; what people ask for: to change the
//! configuration, to switch over, to restart, to reinitialize, to reload.
//!
//! No check touches PostgreSQL or a store (`/cluster` neither), so it can neither hang nor slow
//! anything. "Primary" is said only while the writing deadline lies ahead (I17).

#[cfg(test)]
mod asked;
mod body;
pub mod failsafe;
mod health;
mod metrics;
mod place;
pub mod promise;
pub mod requests;
mod switchover;
pub mod tls;
mod write;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use regent_proto::keys::SiteKey;
use regent_proto::record::ReportedFence;
use tokio::sync::{mpsc, watch};

use crate::act::fence_report::{self, RoundTrips};
use crate::act::publish::Picture;
use crate::act::site::SiteStore;
use crate::config::Config;
use crate::fence::Deadlines;
use crate::observe::clock::{boot_time, wall_time};
use health::Facts;
use place::Place;

/// What requests read.
#[derive(Clone)]
pub struct Shared {
    /// Configuration.
    pub config: Arc<Config>,
    /// The last picture; `None` before the first round.
    pub pictures: watch::Receiver<Option<Arc<Picture>>>,
    /// The deadlines, read at the instant of the answer.
    pub deadlines: Arc<Deadlines>,
    /// The site DCS, for the dynamic configuration.
    pub site: SiteStore,
    /// This member's word to its leader.
    pub failsafe: crate::act::failsafe::Shared,
    /// To ask the other members; `None`: nobody is asked, as in the simulator.
    pub http: Option<reqwest::Client>,
    /// Where the main loop hears of requests.
    pub requests: mpsc::Sender<requests::Asked>,
}

/// Bound listeners, so that a port in use is an error of the start and not of a request.
pub struct Listeners {
    rest: tokio::net::TcpListener,
    promises: Option<promise::Bound>,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let rest = bind(config.rest.listen).await?;
        Ok(Self { rest, promises: promise::bind(config).await? })
    }

    /// Every address that the configuration names.
    #[must_use]
    pub fn addresses(config: &Config) -> Vec<SocketAddr> {
        std::iter::once(config.rest.listen).chain(promise_listens(config)).collect()
    }

    /// Binds what the configuration names and lets go of it, but what is `held` by who will make room.
    pub async fn check(config: &Config, held: &[SocketAddr]) -> anyhow::Result<()> {
        let free = |address: &SocketAddr| !held.contains(address);
        if free(&config.rest.listen) {
            bind(config.rest.listen).await?;
        }
        // Each says its own key where it cannot be bound.
        if promise_listens(config).is_some_and(|address| free(&address)) {
            promise::bind(config).await?;
        }
        Ok(())
    }

    /// Serves for the life of the runtime.
    pub fn serve(self, shared: &Shared) {
        tokio::spawn(serve(self.rest, shared.clone()));
        if let Some(bound) = self.promises {
            tokio::spawn(promise::serve(bound, shared.clone()));
        }
    }
}

fn promise_listens(config: &Config) -> Option<SocketAddr> {
    Some(config.federation.as_ref()?.promise.as_ref()?.listen)
}

async fn bind(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on restapi.listen {address}: {error}; choose a free port, or stop \
             whatever listens there"
        )
    })
}

/// Serves until the listener is dropped with its task.
async fn serve(listener: tokio::net::TcpListener, shared: Shared) {
    let app = axum::Router::new().fallback(answer).with_state(shared);
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "the REST API has ended");
    }
}

type Parameters = std::collections::BTreeMap<String, String>;

async fn answer(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let picture = shared.pictures.borrow().clone();
    let Some(picture) = picture else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let on_config = uri.path().trim_matches('/') == "config";
    let health_only = match method {
        Method::GET => false,
        Method::HEAD | Method::OPTIONS => true,
        Method::PATCH if on_config => {
            return change(&shared, &picture, &headers, write::How::Merge, &body).await;
        }
        Method::PUT if on_config => {
            return change(&shared, &picture, &headers, write::How::Replace, &body).await;
        }
        Method::POST if uri.path().trim_matches('/') == "failsafe" => {
            return match write::refused_leader(&shared.config.rest, &headers) {
                Some(refused) => refused,
                None => failsafe::post(&shared, &picture, &body).await,
            };
        }
        Method::POST if uri.path().trim_matches('/') == "switchover" => {
            return switch(&shared, &picture, switchover::Verb::Switchover, &headers, &body).await;
        }
        Method::POST if uri.path().trim_matches('/') == "failover" => {
            return switch(&shared, &picture, switchover::Verb::Failover, &headers, &body).await;
        }
        Method::DELETE if uri.path().trim_matches('/') == "switchover" => {
            return match write::refused(&shared.config.rest, &headers) {
                Some(refused) => refused,
                None => switchover::delete(&shared).await,
            };
        }
        Method::POST | Method::DELETE => {
            return match request(&shared, &picture, &method, &uri, &headers, &body).await {
                Some(answer) => answer,
                None => StatusCode::NOT_IMPLEMENTED.into_response(),
            };
        }
        _ => return StatusCode::NOT_IMPLEMENTED.into_response(),
    };
    let facts = Facts::new(&picture, &shared.config, &shared.deadlines);
    let path = uri.path().trim_start_matches('/');
    if let Some(place) = Place::of(path) {
        let code = place.code(&facts, &picture, &query);
        if health_only {
            return code.into_response();
        }
        return json(code, &place::body(&facts, &shared.config, &picture));
    }
    if !health_only {
        match path.split('/').next().unwrap_or("") {
            "patroni" => return json(StatusCode::OK, &body::patroni(&shared.config, &picture)),
            "cluster" => return json(StatusCode::OK, &body::cluster(&shared.config, &picture)),
            "config" => {
                let key = shared.site.keys.key(SiteKey::Config);
                return write::read(&*shared.site.store, &key).await;
            }
            "metrics" => return metrics_of(&shared, &picture),
            "failsafe" => return failsafe::get(&picture),
            "regent" if path.trim_end_matches('/') == "regent/fence" => {
                return fence_of(&shared, &picture);
            }
            "history" => {
                let key = shared.site.keys.key(SiteKey::History);
                let stored = write::stored_history(&*shared.site.store, &key).await;
                let history = stored.unwrap_or_else(|| body::history(&picture));
                return json(StatusCode::OK, &history);
            }
            "liveness" => return facts.liveness().into_response(),
            "readiness" => return facts.readiness(&query).into_response(),
            _ => {}
        }
    }
    let code = facts.health(path, &query);
    if health_only {
        return code.into_response();
    }
    json(code, &body::patroni(&shared.config, &picture))
}

/// What the main loop is asked for; `None` where nobody could ask for that.
async fn request(
    shared: &Shared,
    picture: &Picture,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Response> {
    let path = uri.path().trim_matches('/');
    let deletes = *method == Method::DELETE;
    if !matches!((path, deletes), ("restart", _) | ("reinitialize" | "reload", false)) {
        return None;
    }
    if let Some(refused) = write::refused(&shared.config.rest, headers) {
        return Some(refused);
    }
    let desk = &shared.requests;
    Some(match (path, deletes) {
        ("restart", true) => requests::unschedule(desk).await,
        ("restart", false) => {
            let clocks = requests::Clocks { wall: wall_time(), boot: boot_time() };
            requests::restart(desk, picture.dynamic.pause, body, clocks).await
        }
        ("reload", _) => requests::reload(),
        _ => requests::reinitialize(desk, body).await,
    })
}

fn metrics_of(shared: &Shared, picture: &Picture) -> Response {
    let fence = fence_now(shared, picture);
    let text = metrics::text(&shared.config, picture, &fence);
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

/// `GET /regent/fence`, ours: what the member's record has under `regent`, as of this instant.
fn fence_of(shared: &Shared, picture: &Picture) -> Response {
    match serde_json::to_value(fence_now(shared, picture)) {
        Ok(fence) => json(StatusCode::OK, &fence),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The fence at this instant, not at that of the picture.
fn fence_now(shared: &Shared, picture: &Picture) -> ReportedFence {
    let trips = RoundTrips::last(&shared.deadlines);
    let writing = shared.deadlines.writing();
    fence_report::fence(&shared.config, picture, writing, trips, boot_time())
}

async fn change(
    shared: &Shared,
    picture: &Picture,
    headers: &HeaderMap,
    how: write::How,
    body: &[u8],
) -> Response {
    if let Some(refused) = write::refused(&shared.config.rest, headers) {
        return refused;
    }
    let key = shared.site.keys.key(SiteKey::Config);
    let place = (&*shared.site.store, key.as_str());
    write::config(place, &shared.config, &picture.dynamic, how, body).await
}

async fn switch(
    shared: &Shared,
    picture: &Picture,
    verb: switchover::Verb,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    match write::refused(&shared.config.rest, headers) {
        Some(refused) => refused,
        None => switchover::post(shared, picture, verb, headers, body).await,
    }
}

fn json(code: StatusCode, value: &serde_json::Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
