//! Patroni's `/failsafe` (spec/patroni-compat.md 2.5): a leader without its DCS asks, this member
//! answers, and keeps its word.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use regent_proto::name::NodeName;
use serde::Deserialize;

use super::{Shared, json};
use crate::act::failsafe::members::SPAN_HEADER;
use crate::act::failsafe::word::NoWord;
use crate::act::publish::Picture;
use crate::decide::view::{FailsafeRecord, Process};
use crate::observe::clock::boot_time;

/// What is read of the body; `conn_url`, `api_url` and `slots` are for Patroni's members.
#[derive(Debug, Deserialize)]
struct Asked {
    name: NodeName,
}

fn text(code: StatusCode, text: impl Into<String>) -> Response {
    (code, [(header::CONTENT_TYPE, "text/html")], text.into()).into_response()
}

/// `GET /failsafe`: the record.
pub(super) fn get(picture: &Picture) -> Response {
    let record = picture.view.site.as_ref().map(|site| &site.failsafe);
    match record {
        Some(FailsafeRecord::Read { members, .. }) if picture.dynamic.failsafe_mode => {
            json(StatusCode::OK, &serde_json::json!(members))
        }
        Some(
            FailsafeRecord::Read { .. }
            | FailsafeRecord::Absent
            | FailsafeRecord::Unreadable { .. },
        )
        | None => text(StatusCode::BAD_GATEWAY, "failsafe_mode is off, or has no members yet"),
    }
}

/// `POST /failsafe`.
pub(super) async fn post(shared: &Shared, picture: &Picture, body: &[u8]) -> Response {
    let asked: Asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("Bad Request: {error}")),
    };
    let span = match may_agree(&shared.config.name, picture, &asked.name) {
        Ok(span) => span,
        Err((code, why)) => return text(code, why),
    };
    let (word, leader) = (Arc::clone(&shared.failsafe.word), asked.name.clone());
    // A new leader's name goes to disk first.
    let kept = tokio::task::spawn_blocking(move || word.accept(&leader, boot_time(), span)).await;
    match kept {
        Ok(Ok(())) => accepted(picture, span),
        Ok(Err(problem)) => {
            tracing::warn!(leader = %asked.name, %problem, "failsafe refused");
            text(StatusCode::INTERNAL_SERVER_ERROR, problem.to_string())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// For how long this member may agree to the asker's going on, as far as its picture tells; what it
/// has said before is its word's ([`crate::act::failsafe::word::Word`]).
///
/// # Errors
/// With the answer that is no yes.
pub fn may_agree(
    me: &NodeName,
    picture: &Picture,
    asked: &NodeName,
) -> Result<Duration, (StatusCode, String)> {
    if !picture.dynamic.failsafe_mode || picture.view.site.is_none() {
        return Err((StatusCode::BAD_GATEWAY, "failsafe_mode is off".to_owned()));
    }
    if asked == me || may_write(picture) {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, NoWord::Leader.to_string()));
    }
    Ok(picture.dynamic.ttl)
}

fn accepted(picture: &Picture, span: Duration) -> Response {
    let status = picture.view.postgres.status.as_ref();
    let lsn = status.map_or(0, |status| status.end.get());
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/html".to_owned()),
        ("lsn", lsn.to_string()),
        (SPAN_HEADER, span.as_millis().to_string()),
    ];
    (StatusCode::OK, headers, "Accepted").into_response()
}

/// This node's PostgreSQL is, or may become, writable.
fn may_write(picture: &Picture) -> bool {
    let postgres = &picture.view.postgres;
    match (&postgres.status, postgres.process) {
        (_, Process::Stopped) => false,
        (Some(status), Process::Starting | Process::Running) => !status.in_recovery,
        (None, Process::Starting | Process::Running) => !postgres.standby_signal,
    }
}
